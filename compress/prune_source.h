/* prune_source.h: a base that may be changed while it is examined, and what its linears see of a text.
 *
 * The changes are in memory (a private map) or in a copy beside the output; the base is never written.
 */
#ifndef PRUNE_SOURCE_H
#define PRUNE_SOURCE_H

#include "compress/calibrate.h"
#include "compress/hessian.h"

struct gguf;
struct prune_source;

enum { PRUNE_SOURCE_CONTEXT = 512 }; /* tokens of a window at most */

struct prune_source_options {
    const char *base_path;
    const char *beside;     /* a path: what the text leaves behind waits in its folder (layer_stream.h) */
    bool is_copied;         /* changes go into a copy of that name, else they stay in memory */
    struct engine *engine;
    const struct calibrate_text *text;
    uint32_t texts;         /* 0: the text is never run */
    uint64_t tokens;        /* of all texts together; 0: 16384 */
    uint32_t threads;
    int (*progress)(void *context); /* after every window; non-zero: ERR_CANCELLED */
    void *progress_context;
};

/* Errors: ERR_IO, ERR_FORMAT, ERR_ARGUMENT (a text shorter than a window), ERR_MEMORY. */
NODISCARD enum err prune_source_open(const struct prune_source_options *options, struct prune_source **out,
                                     struct fault *f);
void prune_source_close(struct prune_source *s); /* removes the copy; NULL is allowed */

/* The base as it is now. */
const struct gguf *prune_source_gguf(const struct prune_source *s);

/* Tensor `name` in F32: *out [rows, cols], the caller frees it. Errors: ERR_NOT_FOUND, ERR_MEMORY. */
NODISCARD enum err prune_source_get(struct prune_source *s, const char *name, float **out);
/* The reverse, rounded to the tensor's own type. */
NODISCARD enum err prune_source_put(struct prune_source *s, const char *name, const float *x);
/* All bytes 0, which is the value 0 in every type; a tensor that is absent is fine. */
void prune_source_zero(struct prune_source *s, const char *name);
/* As many bytes as the tensor has, taken from its data earlier. */
void prune_source_restore(struct prune_source *s, const char *name, const void *bytes);

/* The text goes through the base one layer at a time, what collect, look and advance say is of the layer at hand, 0 at
 * first; one window in eight goes to the held-out sample. Errors of all: ERR_NOT_FOUND, ERR_IO, ERR_CANCELLED,
 * ERR_MEMORY, the model's; after one the text is not run again. */

enum { PRUNE_SOURCE_INPUTS = 2 };
extern const char *const prune_source_input[PRUNE_SOURCE_INPUTS]; /* "attn_output", "ffn_down" */

/* On to the next layer, and what these two saw: the caller closes them; not finished. */
NODISCARD enum err prune_source_collect(struct prune_source *s, struct hessian *out[PRUNE_SOURCE_INPUTS],
                                        struct fault *f);
/* On to the next layer. */
NODISCARD enum err prune_source_advance(struct prune_source *s, struct fault *f);

/* For who changes a layer before the next one sees the text; only with a copy. aim: the base itself goes on through the
 * layers before `until`. look: what linear `input` of the layer sees, split (hessian_split) from what the stream behind
 * it lacks of the base's: behind the same linear, or for ffn_down behind the last layer that the base went through. */
NODISCARD enum err prune_source_aim(struct prune_source *s, uint32_t until, struct fault *f);
NODISCARD enum err prune_source_look(struct prune_source *s, uint32_t input, struct hessian **out, struct fault *f);

#endif
