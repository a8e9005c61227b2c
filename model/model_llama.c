/* model_llama.c: the llama family: Llama 1 to 3, Mistral, SmolLM, and Qwen 2 and 3, which rotate other
 * pairs; Qwen 3 norms each head of q and k.
 *
 *   x = embed(tokens)
 *   for each layer:
 *     h = rmsnorm(x);  q, k, v = Wq h, Wk h, Wv h;  rotate q and k
 *     x += Wo attention(q, k, v)
 *     h = rmsnorm(x)
 *     x += Wdown(silu(Wgate h) * Wup h)
 *   logits = Whead rmsnorm(x)
 *
 * Source: arXiv:2302.13971, arXiv:2307.09288, arXiv:2310.06825 (the window), arXiv:2407.10671 and
 * arXiv:2505.09388 (Qwen); tensor and key names of GGUF. */
#include <stdlib.h>
#include <string.h>

#include "model/decoder.h"

struct llama_layer {
    struct hal_mat attn_norm, ffn_norm;
    struct hal_mat q_norm, k_norm; /* mem NULL: none */
    struct weights_linear q, k, v, o;
    struct weights_linear gate, up, down;
};

struct llama {
    struct decoder d;
    uint32_t window;
    struct llama_layer *layer;
};

static uint64_t llama_shape(struct forward *f, void *family)
{
    struct llama *m = family;
    struct weights *w = &f->weights;
    m->window = weights_u32_or(w, "attention.sliding_window", 0);
    if (weights_u32_or(w, "expert_count", 0))
        weights_fail(w, ERR_UNSUPPORTED, "mixtures of experts of this architecture are not supported");
    return decoder_shape(f, &m->d, "attention.layer_norm_rms_epsilon");
}

static void open_layer(struct forward *f, const struct decoder *d, struct llama_layer *l, uint32_t i)
{
    struct weights *w = &f->weights;
    const uint32_t width = f->info.width;
    weights_vector(w, &l->attn_norm, width, "blk.%u.attn_norm.weight", i);
    weights_linear(w, &l->q, f->info.heads * d->head_dim, width, "blk.%u.attn_q", i);
    weights_linear(w, &l->k, f->info.kv_heads * d->head_dim, width, "blk.%u.attn_k", i);
    weights_linear(w, &l->v, f->info.kv_heads * d->value_dim, width, "blk.%u.attn_v", i);
    weights_linear(w, &l->o, width, f->info.heads * d->value_dim, "blk.%u.attn_output", i);
    if (weights_has(w, "blk.%u.attn_q_norm.weight", i)) {
        weights_vector(w, &l->q_norm, d->head_dim, "blk.%u.attn_q_norm.weight", i);
        weights_vector(w, &l->k_norm, d->head_dim, "blk.%u.attn_k_norm.weight", i);
    }
    weights_vector(w, &l->ffn_norm, width, "blk.%u.ffn_norm.weight", i);
    weights_linear(w, &l->gate, d->ffn, width, "blk.%u.ffn_gate", i);
    weights_linear(w, &l->up, d->ffn, width, "blk.%u.ffn_up", i);
    weights_linear(w, &l->down, width, d->ffn, "blk.%u.ffn_down", i);
}

static void llama_open(struct forward *f, void *family)
{
    struct llama *m = family;
    const uint32_t pairs = strcmp(f->info.architecture, "llama") == 0 ? HAL_ROPE_NORM : HAL_ROPE_NEOX;
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
    forward_rope_open(f, &m->d.rope, (struct hal_rope_shape){m->d.head_dim, 0, m->d.rope_dims, pairs}, 0);
}

static void llama_close(void *family)
{
    struct llama *m = family;
    decoder_close(&m->d);
    free(m->layer);
}

static void llama_step(struct forward *f, void *family)
{
    struct llama *m = family;
    struct decoder *d = &m->d;
    const struct hal_attend geometry = decoder_geometry(f, d);
    (void)forward_enter(f, &d->x, &d->embedding);
    for (uint32_t i = f->first; i < f->last; i++) {
        const struct llama_layer *l = &m->layer[i];
        forward_rmsnorm(f, &d->h, &d->x, &l->attn_norm, d->eps);
        forward_linear3(f, &d->h, &d->q, &l->q, &d->k, &l->k, &d->v, &l->v);
        decoder_norm_heads(f, d, &d->q, &l->q_norm);
        decoder_norm_heads(f, d, &d->k, &l->k_norm);
        forward_rotate(f, &d->q, &d->rope);
        forward_rotate(f, &d->k, &d->rope);
        forward_attend(f, i, &d->a, &d->q, &d->k, &d->v, geometry);
        forward_linear(f, &d->h, &d->a, &l->o);
        forward_add(f, &d->x, &d->h);
        forward_show(f, &d->x, &l->o);
        if (i + 1 == f->info.layers)
            forward_keep_outputs(f, &d->x, &d->h);
        forward_rmsnorm(f, &d->h, &d->x, &l->ffn_norm, d->eps);
        decoder_feed(f, d, &(struct decoder_ffn){&l->gate, &l->up, &l->down, NULL, HAL_SILU});
        forward_show(f, &d->x, &l->down);
    }
    if (!forward_leave(f, &d->x))
        forward_rmsnorm(f, &f->hidden, &d->x, &d->norm.w, d->eps);
}

static const struct weights_linear *llama_head(const void *family, float *softcap)
{
    *softcap = 0;
    return &((const struct llama *)family)->d.head;
}

static const char *const architectures[] = {"llama", "qwen2", "qwen3", NULL};

const struct model_family model_llama = {
    .architectures = architectures,
    .bytes = sizeof(struct llama),
    .shape = llama_shape,
    .open = llama_open,
    .close = llama_close,
    .step = llama_step,
    .head = llama_head,
};
