/* model_llama.c: the llama family: Llama 1 to 3, Mistral, SmolLM and their like.
 *
 *   x = embed(tokens)
 *   for each layer:
 *     h = rmsnorm(x);  q, k, v = Wq h, Wk h, Wv h;  rotate q and k
 *     x += Wo attention(q, k, v)
 *     h = rmsnorm(x)
 *     x += Wdown(silu(Wgate h) * Wup h)
 *   logits = Whead rmsnorm(x)
 *
 * Source: arXiv:2302.13971, arXiv:2307.09288; tensor and key names of GGUF. */
#include <math.h>
#include <stdlib.h>

#include "model/model_family.h"

struct llama_layer {
    struct hal_mat attn_norm, ffn_norm;
    struct weights_linear q, k, v, o;
    struct weights_linear gate, up, down;
};

struct llama {
    uint32_t head_dim, value_dim, rope_dims, ffn, window;
    float eps;
    struct hal_mat embedding, norm;
    struct weights_linear head;
    struct llama_layer *layer;
    struct forward_rope rope;
    struct hal_mat x, h, q, k, v, a, gate, up;
};

static uint64_t llama_shape(struct forward *f, void *family)
{
    struct llama *m = family;
    struct weights *w = &f->weights;
    struct model_info *info = &f->info;
    info->layers = weights_u32(w, "block_count");
    info->width = weights_u32(w, "embedding_length");
    info->heads = weights_heads(w, "attention.head_count", 0);
    info->kv_heads = weights_heads(w, "attention.head_count_kv", info->heads);
    info->context_trained = weights_u32(w, "context_length");
    m->ffn = weights_heads(w, "feed_forward_length", 0);
    m->eps = weights_f32_or(w, "attention.layer_norm_rms_epsilon", 1e-5f);
    m->window = weights_u32_or(w, "attention.sliding_window", 0);
    if (weights_u32_or(w, "expert_count", 0))
        weights_fail(w, ERR_UNSUPPORTED, "mixtures of experts of this architecture are not supported");
    if (w->error)
        return 0;
    if (info->heads == 0 || info->kv_heads == 0 || info->heads % info->kv_heads ||
        (info->width % info->heads && !weights_u32_or(w, "attention.key_length", 0))) {
        weights_fail(w, ERR_FORMAT, "expected heads that divide the width, found %u of %u for %u", info->heads,
                     info->kv_heads, info->width);
        return 0;
    }
    m->head_dim = weights_u32_or(w, "attention.key_length", info->width / info->heads);
    m->value_dim = weights_u32_or(w, "attention.value_length", m->head_dim);
    m->rope_dims = weights_u32_or(w, "rope.dimension_count", m->head_dim);
    if (m->head_dim > 4096 || m->value_dim > 4096 || info->heads > 4096)
        weights_fail(w, ERR_FORMAT, "expected heads of at most 4096 values");
    const uint64_t heads = (uint64_t)info->heads + info->kv_heads;
    return 3ull * info->width + heads * m->head_dim + heads * m->value_dim + 2ull * m->ffn;
}

static void open_layer(struct forward *f, const struct llama *m, struct llama_layer *l, uint32_t i)
{
    struct weights *w = &f->weights;
    const uint32_t width = f->info.width;
    weights_vector(w, &l->attn_norm, width, "blk.%u.attn_norm.weight", i);
    weights_linear(w, &l->q, f->info.heads * m->head_dim, width, "blk.%u.attn_q", i);
    weights_linear(w, &l->k, f->info.kv_heads * m->head_dim, width, "blk.%u.attn_k", i);
    weights_linear(w, &l->v, f->info.kv_heads * m->value_dim, width, "blk.%u.attn_v", i);
    weights_linear(w, &l->o, width, f->info.heads * m->value_dim, "blk.%u.attn_output", i);
    weights_vector(w, &l->ffn_norm, width, "blk.%u.ffn_norm.weight", i);
    weights_linear(w, &l->gate, m->ffn, width, "blk.%u.ffn_gate", i);
    weights_linear(w, &l->up, m->ffn, width, "blk.%u.ffn_up", i);
    weights_linear(w, &l->down, width, m->ffn, "blk.%u.ffn_down", i);
}

static void llama_open(struct forward *f, void *family)
{
    struct llama *m = family;
    struct weights *w = &f->weights;
    const struct model_info *info = &f->info;
    uint32_t group = 0;
    m->layer = calloc(info->layers, sizeof *m->layer);
    if (!m->layer) {
        weights_fail(w, ERR_MEMORY, "no memory for %u layers", info->layers);
        return;
    }
    weights_fail(w, cache_add_group(&f->cache, m->window, &group), "no memory for the cache");
    if (weights_has(w, "output.weight")) {
        weights_table(w, &m->embedding, info->vocabulary, info->width, "token_embd");
        weights_linear(w, &m->head, info->vocabulary, info->width, "output");
    } else { /* tied: one matrix is the table and the head */
        weights_linear(w, &m->head, info->vocabulary, info->width, "token_embd");
        m->embedding = m->head.w;
    }
    weights_vector(w, &m->norm, info->width, "output_norm.weight");
    for (uint32_t i = 0; i < info->layers && !w->error; i++) {
        open_layer(f, m, &m->layer[i], i);
        weights_fail(w, cache_add_layer(&f->cache, group, info->kv_heads, m->head_dim, m->value_dim),
                     "layer %u: no room for its cache, or heads that are no whole blocks of its type", i);
    }
    forward_rope_open(f, &m->rope,
                      (struct hal_rope_shape){m->head_dim, 0, m->rope_dims, HAL_ROPE_NORM}, 0);
    forward_activation(f, &m->x, info->width);
    forward_activation(f, &m->h, info->width);
    forward_activation(f, &m->q, info->heads * m->head_dim);
    forward_activation(f, &m->k, info->kv_heads * m->head_dim);
    forward_activation(f, &m->v, info->kv_heads * m->value_dim);
    forward_activation(f, &m->a, info->heads * m->value_dim);
    forward_activation(f, &m->gate, m->ffn);
    forward_activation(f, &m->up, m->ffn);
}

static void llama_close(void *family)
{
    struct llama *m = family;
    forward_rope_close(&m->rope);
    free(m->layer);
}

static void llama_step(struct forward *f, void *family)
{
    struct llama *m = family;
    const struct hal_attend geometry = {.heads = f->info.heads,
                                        .kv_heads = f->info.kv_heads,
                                        .key_dim = m->head_dim,
                                        .value_dim = m->value_dim,
                                        .scale = 1 / sqrtf((float)m->head_dim)};
    forward_embed(f, &m->x, &m->embedding, f->token);
    for (uint32_t i = 0; i < f->info.layers; i++) {
        const struct llama_layer *l = &m->layer[i];
        forward_rmsnorm(f, &m->h, &m->x, &l->attn_norm, m->eps);
        forward_linear3(f, &m->h, &m->q, &l->q, &m->k, &l->k, &m->v, &l->v);
        forward_rotate(f, &m->q, &m->rope);
        forward_rotate(f, &m->k, &m->rope);
        forward_attend(f, i, &m->a, &m->q, &m->k, &m->v, geometry);
        forward_linear(f, &m->h, &m->a, &l->o);
        forward_add(f, &m->x, &m->h);
        if (i + 1 == f->info.layers)
            forward_keep_outputs(f, &m->x, &m->h);
        forward_rmsnorm(f, &m->h, &m->x, &l->ffn_norm, m->eps);
        forward_linear2(f, &m->h, &m->gate, &l->gate, &m->up, &l->up);
        forward_glu(f, &m->gate, &m->gate, &m->up, HAL_SILU);
        forward_linear(f, &m->h, &m->gate, &l->down);
        forward_add(f, &m->x, &m->h);
    }
    forward_rmsnorm(f, &f->hidden, &m->x, &m->norm, m->eps);
}

static const struct weights_linear *llama_head(const void *family, float *softcap)
{
    *softcap = 0;
    return &((const struct llama *)family)->head;
}

static const char *const architectures[] = {"llama", NULL};

const struct model_family model_llama = {
    .architectures = architectures,
    .bytes = sizeof(struct llama),
    .shape = llama_shape,
    .open = llama_open,
    .close = llama_close,
    .step = llama_step,
    .head = llama_head,
};
