/* model_gemma.c: Gemma 2 and 3: local and global attention alternate, every part is normed before and
 * after, Gemma 2 caps its scores and logits, Gemma 3 norms the heads of q and k instead.
 *
 *   x = embed(tokens) * sqrt(width)
 *   for each layer:
 *     h = rmsnorm(x);  q, k, v = Wq h, Wk h, Wv h;  [norm the heads of q and k];  rotate q and k
 *     x += rmsnorm(Wo attention(q, k, v))           within a window, or, every pattern-th layer, over all
 *     h = rmsnorm(x)
 *     x += rmsnorm(Wdown(gelu(Wgate h) * Wup h))
 *   logits = cap(Whead rmsnorm(x))
 *
 * Source: arXiv:2408.00118, arXiv:2503.19786; tensor and key names of GGUF. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/decoder.h"

struct gemma_layer {
    struct hal_mat attn_norm, attn_post_norm, ffn_norm, ffn_post_norm;
    struct hal_mat q_norm, k_norm; /* Gemma 3 */
    struct weights_linear q, k, v, o;
    struct weights_linear gate, up, down;
};

struct gemma {
    struct decoder d; /* its rope is the global one */
    struct forward_rope local_rope;
    uint32_t window, pattern;
    float scale, score_cap, logit_cap;
    struct gemma_layer *layer;
};

static bool is_third(const struct forward *f)
{
    return strcmp(f->info.architecture, "gemma3") == 0;
}

static bool is_global(const struct gemma *m, uint32_t layer)
{
    return m->window == 0 || (layer + 1) % m->pattern == 0;
}

static uint64_t gemma_shape(struct forward *f, void *family)
{
    struct gemma *m = family;
    struct weights *w = &f->weights;
    const uint64_t floats = decoder_shape(f, &m->d, "attention.layer_norm_rms_epsilon");
    if (w->error)
        return 0;
    m->window = weights_u32_or(w, "attention.sliding_window", 0);
    m->pattern = weights_u32_or(w, "attention.sliding_window_pattern", is_third(f) ? 6 : 2);
    m->score_cap = weights_f32_or(w, "attn_logit_softcapping", 0);
    m->logit_cap = weights_f32_or(w, "final_logit_softcapping", 0);
    /* The models of 27 B scale by the share of a head in the width; files of others do not say. */
    const bool is_large = f->info.layers == (is_third(f) ? 62u : 46u);
    const float preset = (float)(is_large ? f->info.width / f->info.heads : m->d.head_dim);
    m->scale = 1 / sqrtf(weights_f32_or(w, "attention.query_pre_attn_scalar", preset));
    if (m->pattern == 0 || m->pattern > f->info.layers + 64)
        weights_fail(w, ERR_FORMAT, "expected attention.sliding_window_pattern of at least 1");
    return floats;
}

static void open_layer(struct forward *f, const struct decoder *d, struct gemma_layer *l, uint32_t i)
{
    struct weights *w = &f->weights;
    const uint32_t width = f->info.width;
    weights_vector(w, &l->attn_norm, width, "blk.%u.attn_norm.weight", i);
    weights_linear(w, &l->q, f->info.heads * d->head_dim, width, "blk.%u.attn_q", i);
    weights_linear(w, &l->k, f->info.kv_heads * d->head_dim, width, "blk.%u.attn_k", i);
    weights_linear(w, &l->v, f->info.kv_heads * d->value_dim, width, "blk.%u.attn_v", i);
    weights_linear(w, &l->o, width, f->info.heads * d->value_dim, "blk.%u.attn_output", i);
    if (is_third(f)) {
        weights_vector(w, &l->q_norm, d->head_dim, "blk.%u.attn_q_norm.weight", i);
        weights_vector(w, &l->k_norm, d->head_dim, "blk.%u.attn_k_norm.weight", i);
    }
    weights_vector(w, &l->attn_post_norm, width, "blk.%u.post_attention_norm.weight", i);
    weights_vector(w, &l->ffn_norm, width, "blk.%u.ffn_norm.weight", i);
    weights_linear(w, &l->gate, d->ffn, width, "blk.%u.ffn_gate", i);
    weights_linear(w, &l->up, d->ffn, width, "blk.%u.ffn_up", i);
    weights_linear(w, &l->down, width, d->ffn, "blk.%u.ffn_down", i);
    weights_vector(w, &l->ffn_post_norm, width, "blk.%u.post_ffw_norm.weight", i);
}

static void gemma_open(struct forward *f, void *family)
{
    struct gemma *m = family;
    const struct hal_rope_shape shape = {m->d.head_dim, 0, m->d.head_dim, HAL_ROPE_NEOX};
    m->layer = calloc(f->info.layers, sizeof *m->layer);
    if (!m->layer) {
        weights_fail(&f->weights, ERR_MEMORY, "no memory for %u layers", f->info.layers);
        return;
    }
    decoder_open(f, &m->d);
    for (uint32_t i = f->first; i < f->last && !f->weights.error; i++) {
        open_layer(f, &m->d, &m->layer[i], i);
        decoder_cache(f, &m->d, is_global(m, i) ? 0 : m->window);
    }
    forward_rope_open(f, &m->d.rope, shape, 0);
    const float base = weights_f32_or(&f->weights, "rope.freq_base_swa", is_third(f) ? 10000.0f : 0);
    forward_rope_open(f, &m->local_rope, shape, base);
}

static void gemma_close(void *family)
{
    struct gemma *m = family;
    decoder_close(&m->d);
    forward_rope_close(&m->local_rope);
    free(m->layer);
}

static void gemma_step(struct forward *f, void *family)
{
    struct gemma *m = family;
    struct decoder *d = &m->d;
    struct hal_attend geometry = decoder_geometry(f, d);
    geometry.scale = m->scale;
    geometry.softcap = m->score_cap;
    if (forward_enter(f, &d->x, &d->embedding))
        forward_scale(f, &d->x, sqrtf((float)f->info.width));
    for (uint32_t i = f->first; i < f->last; i++) {
        const struct gemma_layer *l = &m->layer[i];
        const struct forward_rope *rope = is_global(m, i) ? &d->rope : &m->local_rope;
        forward_rmsnorm(f, &d->h, &d->x, &l->attn_norm, d->eps);
        forward_linear3(f, &d->h, &d->q, &l->q, &d->k, &l->k, &d->v, &l->v);
        decoder_norm_heads(f, d, &d->q, &l->q_norm);
        decoder_norm_heads(f, d, &d->k, &l->k_norm);
        forward_rotate(f, &d->q, rope);
        forward_rotate(f, &d->k, rope);
        forward_attend(f, i, &d->a, &d->q, &d->k, &d->v, geometry);
        forward_linear(f, &d->h, &d->a, &l->o);
        forward_rmsnorm(f, &d->h, &d->h, &l->attn_post_norm, d->eps);
        forward_add(f, &d->x, &d->h);
        if (i + 1 == f->info.layers)
            forward_keep_outputs(f, &d->x, &d->h);
        forward_rmsnorm(f, &d->h, &d->x, &l->ffn_norm, d->eps);
        decoder_feed(f, d, &(struct decoder_ffn){&l->gate, &l->up, &l->down, &l->ffn_post_norm, HAL_GELU_TANH});
    }
    if (!forward_leave(f, &d->x))
        forward_rmsnorm(f, &f->hidden, &d->x, &d->norm.w, d->eps);
}

static const struct weights_linear *gemma_head(const void *family, float *softcap)
{
    const struct gemma *m = family;
    *softcap = m->logit_cap;
    return &m->d.head;
}

static const char *const architectures[] = {"gemma2", "gemma3", NULL};

const struct model_family model_gemma = {
    .architectures = architectures,
    .bytes = sizeof(struct gemma),
    .shape = gemma_shape,
    .open = gemma_open,
    .close = gemma_close,
    .step = gemma_step,
    .head = gemma_head,
};
