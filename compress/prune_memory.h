/* prune_memory.h: what pruning takes of the memory that --memory allows. */
#ifndef PRUNE_MEMORY_H
#define PRUNE_MEMORY_H

#include "compress/fault.h"
#include "compress/prune.h"

struct gguf;

struct prune_memory_use {
    bool is_tried;     /* layers go by what the model is without them: it and the base run whole */
    bool is_collected; /* parts go by output error */
    bool is_recovered;
};

/* Does it fit beside what is resident: some matrices in F32; and the greatest of these: the map of the base and two models
 * while layers are tried; one layer at a time of a model with the Hessians of both its inputs, or these with a solution;
 * the same of a recovery with one Hessian, which has the stream beside the input. memory 0: no limit.
 * Errors: ERR_ARGUMENT, the line says how much is needed. */
NODISCARD enum err prune_memory_fit(const struct gguf *base, const struct prune_shape *s,
                                    const struct prune_memory_use *use, uint64_t memory, struct fault *f);

#endif
