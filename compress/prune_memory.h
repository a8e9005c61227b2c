/* prune_memory.h: what pruning takes of the memory that --memory allows. */
#ifndef PRUNE_MEMORY_H
#define PRUNE_MEMORY_H

#include "compress/fault.h"
#include "compress/prune.h"

struct gguf;

/* Does it fit beside what is resident: some matrices in F32; with models > 0 the map of the base and so many models
 * that run on text, and the Hessians of a layer with their solution; with is_recovered one layer at a time of a model,
 * and one Hessian with its solution? *memory becomes what may be told to those who share it out among Hessians. *memory
 * 0: no limit. Errors: ERR_ARGUMENT, the line says how much is needed. */
NODISCARD enum err prune_memory_fit(const struct gguf *base, const struct prune_shape *s, uint32_t models,
                                    bool is_recovered, uint64_t *memory, struct fault *f);

#endif
