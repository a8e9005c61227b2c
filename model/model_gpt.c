/* model_gpt.c: GPT-2 and GPT-NeoX: layer norms with biases, one matrix for q, k and v, an ungated MLP.
 *
 *   x = embed(tokens)  [+ Wpos, GPT-2]
 *   for each layer:
 *     a = Wo attention(q, k, v) of Wqkv layernorm1(x)   [q and k rotated, NeoX]
 *     GPT-2, serial:     x += a;  x += Wdown gelu(Wup layernorm2(x))
 *     NeoX, parallel:    x += a + Wdown gelu(Wup layernorm2(x))
 *   logits = Whead layernorm(x)
 *
 * Source: Radford et al. 2019; arXiv:2204.06745; tensor and key names of GGUF. */
#include <stdlib.h>
#include <string.h>

#include "model/decoder.h"

struct gpt_layer {
    struct weights_norm attn_norm, ffn_norm;
    struct weights_linear q, k, v, o;
    struct weights_linear up, down;
};

struct gpt {
    struct decoder d;
    struct hal_mat positions; /* GPT-2's table; mem NULL: rotary */
    bool is_parallel;
    uint32_t gelu;
    struct gpt_layer *layer;
};

static uint64_t gpt_shape(struct forward *f, void *family)
{
    struct gpt *m = family;
    struct weights *w = &f->weights;
    const bool is_neox = strcmp(f->info.architecture, "gptneox") == 0;
    char key[64] = "gptneox.use_parallel_residual";
    m->is_parallel = false;
    if (is_neox && gguf_bool(w->g, key, &m->is_parallel) != ERR_NONE)
        m->is_parallel = true;
    m->gelu = is_neox ? HAL_GELU_ERF : HAL_GELU_TANH; /* GPT-2's own code has the tanh form */
    return decoder_shape(f, &m->d, "attention.layer_norm_epsilon");
}

static void open_layer(struct forward *f, const struct decoder *d, struct gpt_layer *l, uint32_t i)
{
    struct weights *w = &f->weights;
    const uint32_t width = f->info.width;
    weights_norm(w, &l->attn_norm, width, "blk.%u.attn_norm", i);
    decoder_qkv(f, d, &l->q, &l->k, &l->v, "blk.%u.attn_qkv", i);
    weights_linear(w, &l->o, width, f->info.heads * d->value_dim, "blk.%u.attn_output", i);
    weights_norm(w, &l->ffn_norm, width, "blk.%u.ffn_norm", i);
    weights_linear(w, &l->up, d->ffn, width, "blk.%u.ffn_up", i);
    weights_linear(w, &l->down, width, d->ffn, "blk.%u.ffn_down", i);
}

static void gpt_open(struct forward *f, void *family)
{
    struct gpt *m = family;
    struct weights *w = &f->weights;
    m->layer = calloc(f->info.layers, sizeof *m->layer);
    if (!m->layer) {
        weights_fail(w, ERR_MEMORY, "no memory for %u layers", f->info.layers);
        return;
    }
    decoder_open(f, &m->d);
    for (uint32_t i = f->first; i < f->last && !w->error; i++) {
        open_layer(f, &m->d, &m->layer[i], i);
        decoder_cache(f, &m->d, 0);
    }
    if (weights_has(w, "position_embd.weight")) {
        if (f->info.context > f->info.context_trained)
            weights_fail(w, ERR_ARGUMENT, "expected a context of at most %u: the positions are learnt",
                         f->info.context_trained);
        weights_table(w, &m->positions, f->info.context_trained, f->info.width, "position_embd");
    } else {
        forward_rope_open(f, &m->d.rope,
                          (struct hal_rope_shape){m->d.head_dim, 0, m->d.rope_dims, HAL_ROPE_NEOX}, 0);
    }
}

static void gpt_close(void *family)
{
    struct gpt *m = family;
    decoder_close(&m->d);
    free(m->layer);
}

static void mlp(struct forward *f, struct gpt *m, const struct gpt_layer *l, const struct hal_mat *from)
{
    struct decoder *d = &m->d;
    forward_layernorm(f, &d->h, from, &l->ffn_norm, d->eps);
    decoder_feed(f, d, &(struct decoder_ffn){&l->up, NULL, &l->down, NULL, m->gelu});
}

static void gpt_step(struct forward *f, void *family)
{
    struct gpt *m = family;
    struct decoder *d = &m->d;
    const struct hal_attend geometry = decoder_geometry(f, d);
    if (forward_enter(f, &d->x, &d->embedding) && m->positions.mem) {
        forward_embed(f, &d->h, &m->positions, f->position);
        forward_add(f, &d->x, &d->h);
    }
    for (uint32_t i = f->first; i < f->last; i++) {
        const struct gpt_layer *l = &m->layer[i];
        forward_layernorm(f, &d->h, &d->x, &l->attn_norm, d->eps);
        forward_linear3(f, &d->h, &d->q, &l->q, &d->k, &l->k, &d->v, &l->v);
        if (!m->positions.mem) {
            forward_rotate(f, &d->q, &d->rope);
            forward_rotate(f, &d->k, &d->rope);
        }
        forward_attend(f, i, &d->a, &d->q, &d->k, &d->v, geometry);
        if (m->is_parallel) {
            mlp(f, m, l, &d->x); /* before a is added: both read the same x */
            forward_linear(f, &d->h, &d->a, &l->o);
            forward_add(f, &d->x, &d->h);
            if (i + 1 == f->info.layers)
                forward_keep_outputs(f, &d->x, &d->h);
        } else {
            forward_linear(f, &d->h, &d->a, &l->o);
            forward_add(f, &d->x, &d->h);
            if (i + 1 == f->info.layers)
                forward_keep_outputs(f, &d->x, &d->h);
            mlp(f, m, l, &d->x);
        }
    }
    if (!forward_leave(f, &d->x))
        forward_layernorm(f, &f->hidden, &d->x, &d->norm, d->eps);
}

static const struct weights_linear *gpt_head(const void *family, float *softcap)
{
    *softcap = 0;
    return &((const struct gpt *)family)->d.head;
}

static const char *const architectures[] = {"gpt2", "gptneox", NULL};

const struct model_family model_gpt = {
    .architectures = architectures,
    .bytes = sizeof(struct gpt),
    .shape = gpt_shape,
    .open = gpt_open,
    .close = gpt_close,
    .step = gpt_step,
    .head = gpt_head,
};
