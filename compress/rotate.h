/* rotate.h: a base whose residual stream and values are rotated, with the same function (arXiv:2404.00456;
 * the folds R1 and R2 of arXiv:2405.16406).
 *
 * Q = (H of 2^k, times 2^(-k/2)) x (I - 2/m, for an odd m > 1) x random signs, of the width 2^k m, is orthogonal.
 * With the gains of the norms multiplied into the matrices behind them, the stream may be Q x instead of x: rows of
 * what reads it and of the embedding become Q w, what writes it gets Q W; values become R v by head, R of the length
 * of a head with signs of the layer. Nothing is left for run time. The head is no longer the embedding then: tied
 * ones become two tensors, the file has that many weights more.
 *
 * Everything rotated is F32. One order of sums in F64 and no libm: same base and seed, same bytes everywhere.
 */
#ifndef ROTATE_H
#define ROTATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "compress/fault.h"

struct engine;
struct gguf;

enum { ROTATE_TEXT = 160 };

struct rotate_options {
    const char *base_path;
    const char *base_sha256;
    const char *out_path; /* of the rotated base */
    uint64_t seed;
    struct engine *engine;
    int (*progress)(void *context, uint64_t tensors); /* after each; non-zero: ERR_CANCELLED */
    void *progress_context;
};

/* What became of it. */
struct rotate_result {
    bool is_untied;         /* output.weight was written beside token_embd.weight */
    uint64_t weights_added; /* by that */
};

/* Write out_path (llama, qwen2, qwen3 without experts); key tare.rotated says of what. result may be NULL. Errors: ERR_UNSUPPORTED (another architecture, a tensor that
 * the rotation does not know), ERR_FORMAT, ERR_IO, ERR_CANCELLED, ERR_MEMORY. */
NODISCARD enum err rotate_file_make(const struct rotate_options *options, struct rotate_result *result, struct fault *f);

/* "OUT.rotated": where a variant's rotated base lies while it is derived. */
void rotate_file_path(const char *out_path, char *path, size_t capacity);
void rotate_file_discard(const char *out_path);

/* Memory that it takes for this base, beside the map. */
uint64_t rotate_bytes(const struct gguf *base);

/* Q of vectors of one length. */
struct rotate {
    uint32_t length, power, odd; /* length = power * odd */
    double scale;
    double *sign; /* [length] 1 or -1 */
};

/* The seed's, for one use of it: 0 the stream, 1 + layer the values of a layer. Errors: ERR_MEMORY. */
NODISCARD enum err rotate_open(uint32_t length, uint64_t seed, uint32_t use, struct rotate *out);
void rotate_close(struct rotate *r); /* a zeroed one is allowed */
void rotate_apply(const struct rotate *r, double *x); /* x[length], in place */

#endif
