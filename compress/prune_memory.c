#include "compress/prune_memory.h"

#include <string.h>

#include "compress/hessian.h"
#include "compress/resident.h"
#include "model/gguf.h"

enum {
    MODEL_BYTES = 64 << 20, /* activations, cache and logits of a run */
    SLACK_BYTES = 16 << 20,
    MATRICES = 3,           /* of a layer in F32 at once */
    SQUARES = 6             /* of a solution, beside its Hessian */
};

enum err prune_memory_fit(const struct gguf *base, const struct prune_shape *s, uint32_t models, uint64_t *memory,
                          struct fault *f)
{
    const uint64_t out = (uint64_t)s->heads * s->value_dim, widest = s->ffn > out ? s->ffn : out;
    const uint64_t layer = hessian_bytes(s->ffn) + hessian_bytes((uint32_t)out);
    uint64_t largest = 0;
    if (*memory == 0)
        return ERR_NONE;
    for (uint32_t i = 0; i < gguf_tensors(base); i++) {
        const struct gguf_tensor *t = gguf_tensor(base, i);
        if (strncmp(t->name, "blk.", 4) == 0 && t->rows * t->shape[0] > largest)
            largest = t->rows * t->shape[0];
    }
    uint64_t needed = resident_now() + SLACK_BYTES + gguf_bytes(base) + MATRICES * largest * sizeof(float);
    if (models > 0)
        needed += models * (gguf_bytes(base) + MODEL_BYTES) + layer + SQUARES * widest * widest * sizeof(float);
    if (needed > *memory)
        return fault_set(f, ERR_ARGUMENT, "memory: %.0f MiB is too little to prune, at least %.0f MiB is needed",
                         (double)*memory / 1048576, (double)needed / 1048576 + 1);
    *memory = 2 * (*memory - needed + layer); /* Hessians take half of what they are given */
    return ERR_NONE;
}
