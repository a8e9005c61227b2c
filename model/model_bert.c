/* model_bert.c: the BERT encoder: every token sees the whole text, norms come after the sums.
 *
 *   x = layernorm(embed(tokens) + Wpos + Wtype[0])
 *   for each layer:
 *     x = layernorm(x + Wo attention(Wq x, Wk x, Wv x))
 *     x = layernorm(x + Wdown gelu(Wup x))
 *   hidden = x, for the caller to pool
 *
 * Source: arXiv:1810.04805; tensor and key names of GGUF. */
#include <stdlib.h>

#include "model/decoder.h"

struct bert_layer {
    struct weights_linear q, k, v, o;
    struct weights_linear up, down;
    struct weights_norm attn_norm, ffn_norm;
};

struct bert {
    struct decoder d; /* head and norm stay empty */
    struct hal_mat positions, types;
    struct weights_norm norm;
    struct bert_layer *layer;
    uint32_t *type; /* [batch] zeros: one segment */
};

static uint64_t bert_shape(struct forward *f, void *family)
{
    return decoder_shape(f, &((struct bert *)family)->d, "attention.layer_norm_epsilon");
}

static void open_layer(struct forward *f, const struct decoder *d, struct bert_layer *l, uint32_t i)
{
    struct weights *w = &f->weights;
    const uint32_t width = f->info.width, heads = f->info.heads * d->head_dim;
    weights_linear(w, &l->q, heads, width, "blk.%u.attn_q", i);
    weights_linear(w, &l->k, heads, width, "blk.%u.attn_k", i);
    weights_linear(w, &l->v, heads, width, "blk.%u.attn_v", i);
    weights_linear(w, &l->o, width, heads, "blk.%u.attn_output", i);
    weights_norm(w, &l->attn_norm, width, "blk.%u.attn_output_norm", i);
    weights_linear(w, &l->up, d->ffn, width, "blk.%u.ffn_up", i);
    weights_linear(w, &l->down, width, d->ffn, "blk.%u.ffn_down", i);
    weights_norm(w, &l->ffn_norm, width, "blk.%u.layer_output_norm", i);
}

static void bert_open(struct forward *f, void *family)
{
    struct bert *m = family;
    struct weights *w = &f->weights;
    struct model_info *info = &f->info;
    m->layer = calloc(info->layers, sizeof *m->layer);
    m->type = calloc(info->batch, sizeof *m->type);
    if (!m->layer || !m->type)
        weights_fail(w, ERR_MEMORY, "no memory for %u layers", info->layers);
    if (info->context > info->context_trained)
        weights_fail(w, ERR_ARGUMENT, "expected a context of at most %u: the positions are learnt",
                     info->context_trained);
    if (!f->is_part)
        weights_table(w, &m->d.embedding, info->vocabulary, info->width, "token_embd");
    weights_table(w, &m->positions, info->context_trained, info->width, "position_embd");
    weights_table(w, &m->types, 1, info->width, "token_types");
    weights_norm(w, &m->norm, info->width, "token_embd_norm");
    for (uint32_t i = f->first; i < f->last && !w->error; i++) {
        open_layer(f, &m->d, &m->layer[i], i);
        decoder_cache(f, &m->d, CACHE_WHOLE);
    }
    decoder_activations(f, &m->d);
    forward_activation(f, &m->d.gate, m->d.ffn);
}

static void bert_close(void *family)
{
    struct bert *m = family;
    free(m->layer);
    free(m->type);
}

static void bert_step(struct forward *f, void *family)
{
    struct bert *m = family;
    struct decoder *d = &m->d;
    const struct hal_attend geometry = decoder_geometry(f, d);
    if (forward_enter(f, &d->x, &d->embedding)) {
        forward_embed(f, &d->h, &m->positions, f->position);
        forward_add(f, &d->x, &d->h);
        forward_embed(f, &d->h, &m->types, m->type);
        forward_add(f, &d->x, &d->h);
        forward_layernorm(f, &d->x, &d->x, &m->norm, d->eps);
    }
    for (uint32_t i = f->first; i < f->last; i++) {
        const struct bert_layer *l = &m->layer[i];
        forward_linear3(f, &d->x, &d->q, &l->q, &d->k, &l->k, &d->v, &l->v);
        forward_attend(f, i, &d->a, &d->q, &d->k, &d->v, geometry);
        forward_linear(f, &d->h, &d->a, &l->o);
        forward_add(f, &d->x, &d->h);
        forward_layernorm(f, &d->x, &d->x, &l->attn_norm, d->eps);
        if (i + 1 == f->info.layers)
            forward_keep_outputs(f, &d->x, &d->h);
        forward_linear(f, &d->gate, &d->x, &l->up);
        forward_glu(f, &d->gate, &d->gate, NULL, HAL_GELU_ERF);
        forward_linear(f, &d->h, &d->gate, &l->down);
        forward_add(f, &d->x, &d->h);
        forward_layernorm(f, i + 1 == f->last ? &f->hidden : &d->x, &d->x, &l->ffn_norm, d->eps);
    }
}

static const struct weights_linear *bert_head(const void *family, float *softcap)
{
    (void)family;
    *softcap = 0;
    return NULL;
}

static const char *const architectures[] = {"bert", NULL};

const struct model_family model_bert = {
    .architectures = architectures,
    .bytes = sizeof(struct bert),
    .is_encoder = true,
    .shape = bert_shape,
    .open = bert_open,
    .close = bert_close,
    .step = bert_step,
    .head = bert_head,
};
