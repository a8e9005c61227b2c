/* plan_internal.h: what the files plan_*.c share. */
#ifndef PLAN_INTERNAL_H
#define PLAN_INTERNAL_H

#include "compress/plan.h"
#include "model/gguf.h"

/* Bits per weight of a type in 1/256ths, for ordering; 0 for an unknown type. */
uint32_t plan_type_bits(uint32_t type);

/* Bytes of the whole file when the plan's tensors have the types they have now: header, metadata with
 * the keys that quantise adds, tensors, padding. */
uint64_t plan_file_bytes(const struct plan *p, const struct gguf *base);

/* Choose type of every tensor that is_free[i] so that the sum of scaled errors is least while the file
 * stays within limit_bytes; a tensor that errors does not know keeps its type. Errors: ERR_UNSUPPORTED
 * when even the smallest levels do not fit. */
NODISCARD enum err plan_allocate(struct plan *p, const struct gguf *base,
                                 const struct plan_errors *errors, const bool *is_free,
                                 uint64_t types, uint64_t limit_bytes, struct fault *f);

/* Set every scale of errors: by role (plan_role_scale), and where the energies tell how much of the residual stream
 * each layer writes, by the tensor's part in that. energy[t]: of one token's output of tensor t, of the whole table
 * for token_embd.weight; 0 or NAN: not known. Deterministic: sums, products and quotients only. */
NODISCARD enum err plan_prior(const struct gguf *base, const double *energy, struct plan_errors *errors);

/* Method and weighting that follow from a tensor's type. */
void plan_settle(struct plan_tensor *t, uint32_t role, const struct profile *profile);

/* The keys that quantise writes beside the base's own, in this order; value NULL: not written. */
struct plan_key {
    const char *key;
    const char *text; /* a string, or NULL for a u32 */
    uint32_t number;
};
enum { PLAN_KEYS = 4 };
uint32_t plan_keys(const struct plan *p, struct plan_key out[PLAN_KEYS]);

#endif
