#include "compress/prune_memory.h"

#include <string.h>

#include "compress/hessian.h"
#include "compress/larger.h"
#include "compress/layer_stream.h"
#include "compress/prune_source.h"
#include "compress/resident.h"
#include "model/gguf.h"

enum {
    MODEL_BYTES = 64 << 20, /* activations, cache and logits of a run */
    SLACK_BYTES = 16 << 20,
    MATRICES = 3, /* of a layer in F32 at once */
    SQUARES = 6,  /* of a choice, beside its Hessian */
    FACTORS = 3,  /* of a recovery */
    MODELS = 2    /* that run on text while layers are tried */
};

enum err prune_memory_fit(const struct gguf *base, const struct prune_shape *s, const struct prune_memory_use *use,
                          uint64_t memory, struct fault *f)
{
    const uint64_t out = (uint64_t)s->heads * s->value_dim, widest = larger(s->ffn, out);
    const uint64_t layer = hessian_bytes(s->ffn) + hessian_bytes((uint32_t)out);
    const uint64_t square = widest * widest * sizeof(float), run = layer_stream_bytes(base, PRUNE_SOURCE_CONTEXT);
    uint64_t largest = 0, width = 0, phase = 0;
    if (memory == 0)
        return ERR_NONE;
    for (uint32_t i = 0; i < gguf_tensors(base); i++) {
        const struct gguf_tensor *t = gguf_tensor(base, i);
        if (strncmp(t->name, "blk.", 4) == 0)
            largest = larger(largest, t->rows * t->shape[0]);
        if (strstr(t->name, ".ffn_down."))
            width = larger(width, t->rows);
    }
    if (use->is_tried)
        phase = gguf_bytes(base) + MODELS * (gguf_bytes(base) + MODEL_BYTES);
    if (use->is_collected)
        phase = larger(phase, layer + larger(run, SQUARES * square));
    if (use->is_recovered)
        phase = larger(phase, hessian_bytes((uint32_t)(widest + width)) +
                                  larger(run + (widest + 2 * width) * PRUNE_SOURCE_CONTEXT * sizeof(float), FACTORS * square));
    const uint64_t needed = resident_now() + SLACK_BYTES + MATRICES * largest * sizeof(float) + phase;
    if (needed > memory)
        return fault_set(f, ERR_ARGUMENT, "memory: %.0f MiB is too little to prune, at least %.0f MiB is needed",
                         (double)memory / 1048576, (double)needed / 1048576 + 1);
    return ERR_NONE;
}
