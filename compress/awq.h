/* awq.h: activation-aware scaling folded into the weights (arXiv:2306.00978).
 *
 * y = W diag(s) diag(1/s) x: columns of the consumers are multiplied by s, and whatever produces x is
 * divided by it: a norm's weight, the rows of ffn_up, the rows of attn_v where every query head has its
 * own value head. The function of the model is unchanged; the file needs no runtime for it.
 *
 * s_j = h_j^(a/2), scaled to sqrt(max * min) = 1 and kept within [0.01, 100], with a in {0, 1/8, ..., 1}
 * chosen per group by the weighted error of the search on sampled rows. Only sqrt and products are
 * used, so the scales are the same on every machine.
 */
#ifndef AWQ_H
#define AWQ_H

#include "compress/plan.h"

struct awq;

/* Find the groups whose consumers all have an AWQ method in the plan and choose their scales.
 * Memory: the scales, 4 bytes per column of each group. Errors: ERR_MEMORY, and the engine's. */
NODISCARD enum err awq_open(const struct plan *plan, const struct gguf *base,
                            const struct profile *profile, struct engine *engine, struct awq **out);
void awq_close(struct awq *a); /* NULL is allowed */

/* What happens to tensor i of the plan: columns are multiplied by column[cols], rows divided by
 * row[rows]; NULL: untouched. */
void awq_scales(const struct awq *a, uint32_t i, const float **column, const float **row);

/* Apply to rows [row, row + rows) of a tensor in F32; both may be NULL. */
void awq_apply(float *x, uint32_t row, uint32_t rows, uint32_t cols, const float *column,
               const float *row_scale);

/* Weights of the scaled columns: h_j / s_j^2, in place. */
void awq_importance(float *h, uint32_t cols, const float *column);

/* The scales of exponent a = eighths / 8 for importance h[cols]. */
void awq_scale_of(const float *h, uint32_t cols, uint32_t eighths, float *s);

uint32_t awq_groups(const struct awq *a); /* that got scales other than 1 */

#endif
