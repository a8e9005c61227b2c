/* gptq.h: codes with error feedback inside GGUF blocks (arXiv:2210.17323), in the LDLQ form
 * (arXiv:2307.13304): scales stay those of the weighted search of the original weights, columns are
 * rounded in descending order of their energy without changing where they are stored, each step takes over
 * the rounding errors of those before it; then single codes are moved while that helps (coordinate
 * descent). The dampening is the one of {0.001, 0.003, 0.01, 0.03, 0.1} with the least output error on held-out
 * activations, and whatever is no better there than plain search is not taken.
 *
 * Not byte-identical across machines: Hessians are sums of F32 whose order depends on the plugin.
 */
#ifndef GPTQ_H
#define GPTQ_H

#include "compress/hessian.h"

struct engine;

/* A Hessian made ready: permuted to its order, with its factor. One per linear input; consumers share it. */
struct gptq_basis {
    uint32_t cols;
    uint32_t *order;   /* column of place k */
    float *importance; /* [cols] diag of the training sample, in storage order */
    float *train;      /* [cols, cols] permuted */
    float *held;       /* the same of the held-out sample, or NULL */
    float *factor;     /* T of the dampening below, right of the diagonal; made by the first tensor */
    double damp;       /* 0: not chosen yet */
};

/* Takes over h (finished) and releases it. Errors: ERR_MEMORY; h is released in any case. */
NODISCARD enum err gptq_basis_open(struct hessian *h, struct gptq_basis **out);
void gptq_basis_close(struct gptq_basis *b); /* NULL is allowed */

enum gptq_taken { GPTQ_SEARCH = 0, GPTQ_LDLQ = 1, GPTQ_POLISHED = 2 };

struct gptq_result {
    uint32_t taken;      /* enum gptq_taken: what was least on held-out activations */
    double damp;
    double error[3];     /* by enum gptq_taken: tr(dW H dW^T) / tr(W H W^T), held-out */
};

/* Encode w [rows, cols] to blocks of `type`. weights: importance for the scales, NULL: the basis' own.
 * Memory beside out: 2 bytes per weight, and 4 bytes * cols^2 for the basis' factor.
 * Errors: ERR_ARGUMENT (a type without codes, ragged rows), ERR_MEMORY, the engine's. */
NODISCARD enum err gptq_encode(struct engine *engine, uint32_t threads, uint32_t type, const float *w,
                               uint32_t rows, uint32_t cols, struct gptq_basis *b, const float *weights,
                               uint8_t *out, struct gptq_result *result);

#endif
