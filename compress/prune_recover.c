#include "compress/prune_recover.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compress/prune_layers.h"
#include "compress/prune_solve.h"
#include "hal/block.h"
#include "model/gguf.h"

enum { TOKENS_LEAST = 4 };

struct recover {
    struct prune_source *source;
    const struct prune *p;
    uint32_t threads;
    struct prune_file_result *result;
    struct fault *fault;
    bool is_behind; /* something was cut: the stream is no longer the base's */
};

static const uint32_t axes[PRUNE_SOURCE_INPUTS] = {PRUNE_OUT, PRUNE_FFN};

static bool is_float(uint32_t type)
{
    const struct block_type *t = block_type(type);
    return t && t->codes == 0;
}

/* One linear: its columns that go become 0, the others take over, and all make up for what the stream lacks. Too few
 * rows in h: only the first. */
static enum err recover_linear(struct recover *r, const char *name, uint32_t layer, uint32_t axis, struct hessian *h)
{
    const struct gguf_tensor *t = gguf_tensor_find(prune_source_gguf(r->source), name);
    const uint32_t cols = (uint32_t)t->shape[0];
    uint32_t *index = malloc(cols * sizeof *index);
    uint8_t *kept = calloc(1, cols);
    struct prune_recovery done = {0};
    float *w = NULL;
    enum err e = index && kept ? prune_source_get(r->source, name, &w) : ERR_MEMORY;
    const uint32_t stays = e ? 0 : prune_axis_kept(r->p, layer, axis, index);
    for (uint32_t i = 0; i < stays; i++)
        kept[index[i]] = 1;
    if (e)
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

/* The layer before some that go aims at what the base is behind them. */
static uint32_t next_kept(const struct prune *p, uint32_t layer)
{
    do
        layer++;
    while (layer < p->shape.layers && !p->layer[layer]);
    return layer;
}

/* On what the layers before it, as they are now, give: what was cut, and what stands behind something that was. */
static enum err recover_layer(struct recover *r, uint32_t layer)
{
    enum err e = ERR_NONE;
    for (uint32_t i = 0; !e && i < PRUNE_SOURCE_INPUTS; i++) {
        char name[64];
        struct hessian *h = NULL;
        snprintf(name, sizeof name, "blk.%u.%s.weight", layer, prune_source_input[i]);
        r->is_behind = r->is_behind || prune_axis_kept(r->p, layer, axes[i], NULL) < prune_axis_length(r->p, axes[i]) ||
                       (axes[i] == PRUNE_FFN && next_kept(r->p, layer) > layer + 1);
        if (!r->is_behind)
            continue;
        if (!(e = prune_source_look(r->source, i, &h, r->fault)))
            e = recover_linear(r, name, layer, axes[i], h);
        hessian_close(h);
    }
    return e;
}

enum err prune_recover(struct prune_source *source, const struct prune *p, uint32_t threads,
                       struct prune_file_result *result, struct fault *f)
{
    struct recover r = {.source = source, .p = p, .threads = threads, .result = result, .fault = f};
    enum err e = ERR_NONE;
    for (uint32_t l = 0; !e && l < p->shape.layers; l++) {
        const uint32_t next = next_kept(p, l);
        if (!p->layer[l])
            prune_layers_silence(source, l);
        else if (!(e = prune_source_aim(source, next, f)))
            e = recover_layer(&r, l);
        r.is_behind = r.is_behind || !p->layer[l];
        if (!e && l + 1 < p->shape.layers)
            e = prune_source_advance(source, f);
    }
    if (result->linears > 0) {
        result->before /= result->linears;
        result->after /= result->linears;
    }
    return e;
}
