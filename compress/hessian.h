/* hessian.h: H = sum of x x^T of one linear input, as two disjoint samples: one to quantise with, one to
 * judge by; and its factor for GPTQ.
 *
 * Storage is a full square of F32, [cols, cols], symmetric; products are summed in F32 over at most 256
 * rows and then added. One thread at a time per struct, but hessian_add uses several inside.
 */
#ifndef HESSIAN_H
#define HESSIAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"

enum { HESSIAN_TRAIN = 0, HESSIAN_HELD = 1 };

struct hessian {
    uint32_t cols;
    double rows[2];  /* of activations, per sample */
    float *sum[2];   /* [cols, cols] */
    float *panel;    /* room of hessian_add; NULL when there is none */
    /* behind hessian_split, per sample; else NULL */
    float *cross[2];  /* [tail, cols] within sum: mean of d x^T */
    float *square[2]; /* [tail]: mean of d d */
};

/* Bytes of one struct for cols, both samples. */
uint64_t hessian_bytes(uint32_t cols);

NODISCARD enum err hessian_open(uint32_t cols, struct hessian **out);
void hessian_close(struct hessian *h); /* NULL is allowed */

/* sum[sample] += X^T X of x [rows, cols]. Only the lower triangle is kept up until hessian_finish. */
NODISCARD enum err hessian_add(struct hessian *h, uint32_t sample, const float *x, uint32_t rows,
                               uint32_t threads);

/* Where [x d] was added in the place of x: d, what is behind the first `cols` columns, goes into cross and square, and H
 * is that of x. Before hessian_finish. Errors: ERR_MEMORY. */
NODISCARD enum err hessian_split(struct hessian *h, uint32_t cols);

/* Mirror the triangle and divide by the rows: means. Columns without energy (below 1e-8 of the mean) get
 * the mean on the diagonal and 0 elsewhere, so that they give no feedback. */
void hessian_finish(struct hessian *h);

/* Rows and columns in another order: out [cols, cols] = m[order[i]][order[j]]. */
void hessian_permute(const float *m, const uint32_t *order, uint32_t cols, float *out);

/* A = m + damp * mean(diag m) * I = R R^T with R upper triangular, factored from the last index on, in
 * double; then t[j][k] = R[j][k] / R[k][k] for j < k, the unit upper matrix of LDLQ.
 *   m, t [cols, cols] F32, t may be NULL; work [cols, cols] double, its upper triangle becomes R
 * Errors: ERR_ARGUMENT when A is not positive definite (t is then undefined). */
NODISCARD enum err hessian_factor(const float *m, uint32_t cols, double damp, double *work, float *t,
                                  uint32_t threads);

/* The same in half the memory: room of hessian_room(cols) bytes becomes t, [cols, cols] F32, of which only what is
 * right of the diagonal is meant. */
size_t hessian_room(uint32_t cols);
NODISCARD enum err hessian_factor_within(const float *m, uint32_t cols, double damp, void *room, uint32_t threads);

/* e H e^T of one row. */
double hessian_norm(const float *m, uint32_t cols, const float *e, float *scratch);

#endif
