#include "compress/prune_recover.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compress/prune_layers.h"
#include "compress/prune_solve.h"
#include "hal/block.h"
#include "model/gguf.h"

enum { INPUTS = 2, BANDS = 8, TOKENS_LEAST = 4 };

struct recover {
    struct prune_source *source;
    const struct prune *p;
    uint32_t threads;
    struct prune_file_result *result;
    struct fault *fault;
};

struct input {
    const char *part;
    uint32_t axis;
};

static const struct input inputs[INPUTS] = {{"attn_output", PRUNE_OUT}, {"ffn_down", PRUNE_FFN}};

static bool is_float(uint32_t type)
{
    const struct block_type *t = block_type(type);
    return t && t->codes == 0;
}

/* One linear: its columns that go become 0, the others take over. h NULL or too few rows: only the first. */
static enum err recover_linear(struct recover *r, uint32_t layer, const struct input *in, struct hessian *h)
{
    char name[64];
    snprintf(name, sizeof name, "blk.%u.%s.weight", layer, in->part);
    const struct gguf_tensor *t = gguf_tensor_find(prune_source_gguf(r->source), name);
    const uint32_t cols = (uint32_t)t->shape[0];
    uint32_t *index = malloc(cols * sizeof *index);
    uint8_t *kept = calloc(1, cols);
    struct prune_recovery done = {0};
    float *w = NULL;
    enum err e = index && kept ? prune_source_get(r->source, name, &w) : ERR_MEMORY;
    const uint32_t stays = e ? 0 : prune_axis_kept(r->p, layer, in->axis, index);
    for (uint32_t i = 0; i < stays; i++)
        kept[index[i]] = 1;
    if (e || stays == cols)
        goto out;
    if (!is_float(t->type)) {
        e = fault_set(r->fault, ERR_UNSUPPORTED, "%s: is %s: recovery needs a base of F32, F16 or BF16", name,
                      block_type(t->type)->name);
        goto out;
    }
    const bool is_seen = h->rows[HESSIAN_TRAIN] >= (double)stays / TOKENS_LEAST;
    hessian_finish(h);
    if (is_seen && (e = prune_solve_recover(h, kept, w, (uint32_t)t->rows, r->threads, &done)))
        goto out;
    for (uint64_t i = 0; i < t->rows; i++)
        for (uint32_t c = 0; c < cols; c++)
            w[i * cols + c] = kept[c] ? w[i * cols + c] : 0;
    r->result->linears++;
    r->result->recovered += done.damp > 0;
    r->result->before += done.before;
    r->result->after += done.after;
    e = prune_source_put(r->source, name, w);
out:
    free(w);
    free(index);
    free(kept);
    return e;
}

static enum err recover_band(struct recover *r, uint32_t first, uint32_t last)
{
    char (*name)[64] = malloc((size_t)(last - first) * INPUTS * sizeof *name);
    struct hessian **h = calloc((size_t)(last - first) * INPUTS, sizeof(struct hessian *));
    uint32_t count = 0;
    enum err e = name && h ? ERR_NONE : ERR_MEMORY;
    for (uint32_t l = first; !e && l < last; l++)
        for (uint32_t i = 0; r->p->layer[l] && i < INPUTS; i++)
            snprintf(name[count++], sizeof *name, "blk.%u.%s.weight", l, inputs[i].part);
    if (!e && count > 0)
        e = prune_source_collect(r->source, name, count, h, r->fault);
    for (uint32_t l = first, at = 0; !e && l < last; l++)
        for (uint32_t i = 0; !e && r->p->layer[l] && i < INPUTS; i++, at++)
            e = recover_linear(r, l, &inputs[i], h[at]);
    for (uint32_t i = 0; h && i < count; i++)
        hessian_close(h[i]);
    free(h);
    free(name);
    return e;
}

enum err prune_recover(struct prune_source *source, const struct prune *p, uint64_t memory_bytes, uint32_t threads,
                       struct prune_file_result *result, struct fault *f)
{
    struct recover r = {.source = source, .p = p, .threads = threads, .result = result, .fault = f};
    const struct prune_shape *s = &p->shape;
    const uint64_t memory = memory_bytes ? memory_bytes : 1ull << 30;
    const uint64_t one = hessian_bytes(s->ffn) + hessian_bytes(s->heads * s->value_dim);
    uint32_t band = (s->layers + BANDS - 1) / BANDS;
    enum err e = ERR_NONE;
    while (band > 1 && band * one > memory / 2)
        band--;
    for (uint32_t l = 0; l < s->layers; l++)
        if (!p->layer[l])
            prune_layers_silence(source, l);
    for (uint32_t l = 0; !e && l < s->layers; l += band)
        e = recover_band(&r, l, l + band < s->layers ? l + band : s->layers);
    if (result->linears > 0) {
        result->before /= result->linears;
        result->after /= result->linears;
    }
    return e;
}
