/* model_phi3.c: Phi-3: q, k and v are one matrix, gate and up another; part of each head is rotated, with
 * long or short factors by the length of the context.
 *
 *   x = embed(tokens)
 *   for each layer:
 *     h = rmsnorm(x);  q, k, v = Wqkv h;  rotate q and k
 *     x += Wo attention(q, k, v)
 *     h = rmsnorm(x);  gate, up = Wup h
 *     x += Wdown(silu(gate) * up)
 *   logits = Whead rmsnorm(x)
 *
 * Source: arXiv:2404.14219, arXiv:2402.13753 (LongRoPE); tensor and key names of GGUF. */
#include <stdlib.h>

#include "model/decoder.h"

struct phi3_layer {
    struct hal_mat attn_norm, ffn_norm;
    struct weights_linear q, k, v, o;
    struct weights_linear gate, up, down;
};

struct phi3 {
    struct decoder d;
    uint32_t window;
    struct phi3_layer *layer;
};

static uint64_t phi3_shape(struct forward *f, void *family)
{
    struct phi3 *m = family;
    m->window = weights_u32_or(&f->weights, "attention.sliding_window", 0);
    return decoder_shape(f, &m->d, "attention.layer_norm_rms_epsilon");
}

static void open_layer(struct forward *f, const struct decoder *d, struct phi3_layer *l, uint32_t i)
{
    struct weights *w = &f->weights;
    const uint32_t width = f->info.width;
    weights_vector(w, &l->attn_norm, width, "blk.%u.attn_norm.weight", i);
    decoder_qkv(f, d, &l->q, &l->k, &l->v, "blk.%u.attn_qkv", i);
    weights_linear(w, &l->o, width, f->info.heads * d->value_dim, "blk.%u.attn_output", i);
    weights_vector(w, &l->ffn_norm, width, "blk.%u.ffn_norm.weight", i);
    weights_linear_part(w, &l->gate, 0, d->ffn, width, "blk.%u.ffn_up", i);
    weights_linear_part(w, &l->up, d->ffn, d->ffn, width, "blk.%u.ffn_up", i);
    weights_linear(w, &l->down, width, d->ffn, "blk.%u.ffn_down", i);
}

static void phi3_open(struct forward *f, void *family)
{
    struct phi3 *m = family;
    m->layer = calloc(f->info.layers, sizeof *m->layer);
    if (!m->layer) {
        weights_fail(&f->weights, ERR_MEMORY, "no memory for %u layers", f->info.layers);
        return;
    }
    decoder_open(f, &m->d);
    for (uint32_t i = f->first; i < f->last && !f->weights.error; i++) {
        open_layer(f, &m->d, &m->layer[i], i);
        decoder_cache(f, &m->d, m->window);
    }
    forward_rope_open(f, &m->d.rope,
                      (struct hal_rope_shape){m->d.head_dim, 0, m->d.rope_dims, HAL_ROPE_NEOX}, 0);
}

static void phi3_close(void *family)
{
    struct phi3 *m = family;
    decoder_close(&m->d);
    free(m->layer);
}

static void phi3_step(struct forward *f, void *family)
{
    struct phi3 *m = family;
    struct decoder *d = &m->d;
    const struct hal_attend geometry = decoder_geometry(f, d);
    (void)forward_enter(f, &d->x, &d->embedding);
    for (uint32_t i = f->first; i < f->last; i++) {
        const struct phi3_layer *l = &m->layer[i];
        forward_rmsnorm(f, &d->h, &d->x, &l->attn_norm, d->eps);
        forward_linear3(f, &d->h, &d->q, &l->q, &d->k, &l->k, &d->v, &l->v);
        forward_rotate(f, &d->q, &d->rope);
        forward_rotate(f, &d->k, &d->rope);
        forward_attend(f, i, &d->a, &d->q, &d->k, &d->v, geometry);
        forward_linear(f, &d->h, &d->a, &l->o);
        forward_add(f, &d->x, &d->h);
        if (i + 1 == f->info.layers)
            forward_keep_outputs(f, &d->x, &d->h);
        forward_rmsnorm(f, &d->h, &d->x, &l->ffn_norm, d->eps);
        decoder_feed(f, d, &(struct decoder_ffn){&l->gate, &l->up, &l->down, NULL, HAL_SILU});
    }
    if (!forward_leave(f, &d->x))
        forward_rmsnorm(f, &f->hidden, &d->x, &d->norm.w, d->eps);
}

static const struct weights_linear *phi3_head(const void *family, float *softcap)
{
    *softcap = 0;
    return &((const struct phi3 *)family)->d.head;
}

static const char *const architectures[] = {"phi3", NULL};

const struct model_family model_phi3 = {
    .architectures = architectures,
    .bytes = sizeof(struct phi3),
    .shape = phi3_shape,
    .open = phi3_open,
    .close = phi3_close,
    .step = phi3_step,
    .head = phi3_head,
};
