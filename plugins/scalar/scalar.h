/* scalar.h: the reference plugin. It defines every operation of hal.h; a CPU plugin starts as a
 * copy of scalar_plugin and replaces what it does better.
 *
 * A dev of a plugin that borrows operations must begin with struct scalar_dev, opened and closed by
 * scalar_open and scalar_close. scalar keeps every matrix as plain rows in the host layout at mem.
 *
 * Which results are exact
 *   matmul    the rounding of activations and the integer sums, by hal.h; sums of F32 within
 * tolerance encode    every byte            decode, embed, add, scale, store   every bit others
 * within the tolerance table of hal/check.c
 *
 * Activation rounding (matmul, block types), per 32 values of a row; the last group of a row may
 * not be ragged, because every block is a multiple of 32: amax   the greatest of (bits of x) &
 * 0x7fffffff compared as integers, read back as F32 d      amax / 127 i      127 / amax; when amax
 * is 0 or i is infinite: all q are 0 (d stays amax / 127) q      nearest_even(x * i), in -127..127
 *   amax infinite or NaN: all q are 0 and d is NaN, so that y is NaN.
 *
 * encode is described in scalar_encode.h, whose constants and order of additions are the contract.
 */
#ifndef SCALAR_H
#define SCALAR_H

#include "hal/hal.h"

struct scalar_pool;

/* What scalar keeps per dev; first member of the dev of any plugin that borrows operations. */
struct scalar_dev {
    struct hal_host host;     /* a copy */
    struct scalar_pool *pool; /* threads, NULL: the caller alone */
    void *scratch;            /* room for the rounded activations of the largest matrix made */
    size_t scratch_bytes;
};

extern const struct hal_plugin scalar_plugin;

/* Open into memory of the caller (a larger dev), and release what it owns; not dev itself. */
NODISCARD enum err scalar_open_into(const struct hal_host *host, struct scalar_dev *dev);
void scalar_close_from(struct scalar_dev *dev);

/* Run work(context, first, last) over a partition of 0..count into ranges on the threads of dev;
 * the ranges are disjoint and start at multiples of grain, so results must not depend on them.
 * Returns when all are done. One caller at a time. */
void scalar_parallel(struct scalar_dev *dev, uint32_t count, uint32_t grain,
                     void (*work)(void *context, uint32_t first, uint32_t last), void *context);

/* hal.h's limit_threads for a dev that begins with struct scalar_dev and has no threads of its own. */
enum err scalar_limit_threads(void *dev, uint32_t threads);

/* Round one row of activations. cols a multiple of 32.
 *   q  [cols]       codes
 *   d  [cols / 32]  F32 scale of each group
 *   s  [cols / 16]  sums of the codes of each 16, for formats with a minimum; NULL: not wanted */
void scalar_round_row(const float *x, uint32_t cols, int8_t *q, float *d, int32_t *s);

/* The operations, by hal.h; dev is a struct scalar_dev. */
enum err scalar_mat_new(void *dev, struct hal_mat *m);
void scalar_mat_free(void *dev, struct hal_mat *m);
enum err scalar_mat_put(void *dev, struct hal_mat *m, uint32_t row, uint32_t rows, const void *host,
                        size_t bytes);
enum err scalar_mat_get(void *dev, const struct hal_mat *m, uint32_t row, uint32_t rows, void *host,
                        size_t bytes);
enum err scalar_matmul(void *dev, const struct hal_mat *const *y, const struct hal_mat *x,
                       const struct hal_mat *const *w, uint32_t count);
enum err scalar_embed(void *dev, const struct hal_mat *y, const struct hal_mat *table,
                      const uint32_t *row);
enum err scalar_rmsnorm(void *dev, const struct hal_mat *y, const struct hal_mat *x,
                        const struct hal_mat *w, float eps);
enum err scalar_layernorm(void *dev, const struct hal_mat *y, const struct hal_mat *x,
                          const struct hal_mat *w, const struct hal_mat *b, float eps);
enum err scalar_rope(void *dev, const struct hal_mat *x, const struct hal_mat *cos_sin,
                     const struct hal_rope_shape *shape);
enum err scalar_store(void *dev, const struct hal_mat *cache, const struct hal_mat *x,
                      const uint32_t *slot);
enum err scalar_attend(void *dev, const struct hal_mat *y, const struct hal_mat *q,
                       const struct hal_mat *k, const struct hal_mat *v,
                       const struct hal_attend *geometry);
enum err scalar_glu(void *dev, const struct hal_mat *y, const struct hal_mat *gate,
                    const struct hal_mat *up, uint32_t function);
enum err scalar_add(void *dev, const struct hal_mat *y, const struct hal_mat *x);
enum err scalar_scale(void *dev, const struct hal_mat *y, float factor);
enum err scalar_scatter(void *dev, const struct hal_mat *y, const struct hal_mat *x,
                        const uint32_t *row, const float *weight);
enum err scalar_encode(void *dev, uint32_t type, uint32_t method, const float *x, uint32_t rows,
                       uint32_t cols, const float *importance, void *out, size_t out_bytes);
enum err scalar_decode(void *dev, uint32_t type, const void *in, size_t in_bytes, uint32_t rows,
                       uint32_t cols, float *x);

enum err scalar_copy(void *dev, const struct hal_mat *y, uint32_t y_col, const struct hal_mat *x,
                     uint32_t x_col, uint32_t cols);
enum err scalar_top(void *dev, const struct hal_mat *x, uint32_t count, uint32_t *index, float *value);

/* The checks of arguments that every plugin shares: ERR_NONE or ERR_ARGUMENT. */
NODISCARD enum err scalar_check_matmul(const struct hal_mat *const *y, const struct hal_mat *x,
                                       const struct hal_mat *const *w, uint32_t count);
NODISCARD enum err scalar_check_attend(const struct hal_mat *y, const struct hal_mat *q,
                                       const struct hal_mat *k, const struct hal_mat *v,
                                       const struct hal_attend *geometry);

#endif
