/* model_deepseek2.c: DeepSeek V2 and V3: multi-head latent attention, whose cache holds one latent and one
 * rotated key for all heads, and mixtures of experts.
 *
 *   x = embed(tokens)
 *   for each layer:
 *     h = rmsnorm(x);  q = Wq h  or  Wqb rmsnorm(Wqa h);  c, k_r = Wkva h;  c = rmsnorm(c)
 *     for each head i:  q_i = [Wkb_i q_nope_i, rotate(q_rope_i)]      the key's matrix moved to the query
 *     l = attention(q, [c, rotate(k_r)], c)                          one key head, the value part of it
 *     x += Wo [Wvb_i l_i for each head i]
 *     x += mlp(rmsnorm(x)), dense in the first layers, then experts (model_experts.c)
 *   logits = Whead rmsnorm(x)
 *
 * Source: arXiv:2405.04434 (section 2.1 and appendix C), arXiv:2412.19437; names of GGUF. */
#include <math.h>
#include <stdlib.h>

#include "model/decoder.h"
#include "model/model_experts.h"

struct deepseek_layer {
    struct hal_mat attn_norm, ffn_norm, kv_norm, q_norm;
    struct weights_linear q_a, q_b; /* q_a.w.mem NULL: q_b is the whole query */
    struct weights_linear latent, rotary; /* the two parts of Wkva */
    struct weights_linear *key, *value;   /* [heads] Wkb_i [rank, nope], Wvb_i [value_dim, rank] */
    struct weights_linear o;
    struct weights_linear gate, up, down; /* dense layers */
    struct experts_layer experts;
};

struct deepseek {
    struct decoder d; /* q: all heads as projected; a: what Wo reads; k: [latent, rotated] */
    struct forward_rope key_rope;
    struct experts experts;
    uint32_t layers, rank, q_rank, nope, rope, dense_layers;
    float scale;
    struct hal_mat q_low;  /* q_rank */
    struct hal_mat c, r;   /* rank, rope */
    struct hal_mat wide;   /* heads * (rank + rope): the queries that meet the cache */
    struct hal_mat latent; /* heads * rank: what attention gives */
    struct hal_mat nope_i, rank_i, value_i; /* one head's */
    struct deepseek_layer *layer;
};

static float attention_scale(struct weights *w, uint32_t key_dim)
{
    /* YaRN raises the scores by the square of its magnitude where mscale_all_dim says so; the key is a tenth
     * of that number */
    const float log_multiplier = weights_f32_or(w, "rope.scaling.yarn_log_multiplier", 0);
    const float factor = weights_f32_or(w, "rope.scaling.factor", 1);
    const float magnitude = factor > 1 ? 1 + log_multiplier * logf(factor) : 1;
    return magnitude * magnitude / sqrtf((float)key_dim);
}

static uint64_t deepseek_shape(struct forward *f, void *family)
{
    struct deepseek *m = family;
    struct decoder *d = &m->d;
    struct weights *w = &f->weights;
    decoder_shape(f, d, "attention.layer_norm_rms_epsilon");
    m->rank = weights_u32(w, "attention.kv_lora_rank");
    m->q_rank = weights_u32_or(w, "attention.q_lora_rank", 0);
    m->rope = weights_u32(w, "rope.dimension_count");
    const uint32_t key_dim = weights_u32(w, "attention.key_length_mla");
    d->value_dim = weights_u32(w, "attention.value_length_mla");
    m->dense_layers = weights_u32_or(w, "leading_dense_block_count", f->info.layers);
    m->scale = attention_scale(w, key_dim);
    const uint64_t experts = experts_shape(f, &m->experts);
    if (w->error)
        return 0;
    if (key_dim <= m->rope || f->info.kv_heads != 1 || key_dim > 4096 || m->rank > 8192) {
        weights_fail(w, ERR_FORMAT, "expected one key head, and attention.key_length_mla above %u", m->rope);
        return 0;
    }
    m->nope = key_dim - m->rope;
    d->head_dim = key_dim;
    const uint64_t heads = f->info.heads;
    return 3ull * f->info.width + heads * (key_dim + d->value_dim + 2ull * m->rank + m->rope) + 3ull * m->rank +
           m->q_rank + 2ull * d->ffn + experts;
}

static void open_heads(struct forward *f, const struct deepseek *m, struct deepseek_layer *l, uint32_t i)
{
    struct weights *w = &f->weights;
    l->key = calloc(f->info.heads, sizeof *l->key);
    l->value = calloc(f->info.heads, sizeof *l->value);
    if (!l->key || !l->value) {
        weights_fail(w, ERR_MEMORY, "no memory for %u heads", f->info.heads);
        return;
    }
    for (uint32_t h = 0; h < f->info.heads && !w->error; h++) {
        weights_linear_part(w, &l->key[h], h * m->rank, m->rank, m->nope, "blk.%u.attn_k_b", i);
        weights_linear_part(w, &l->value[h], h * m->d.value_dim, m->d.value_dim, m->rank, "blk.%u.attn_v_b", i);
        l->key[h].part = l->value[h].part = h;
    }
}

static void open_layer(struct forward *f, struct deepseek *m, struct deepseek_layer *l, uint32_t i)
{
    struct weights *w = &f->weights;
    const uint32_t width = f->info.width, heads = f->info.heads, dim = m->d.head_dim;
    weights_vector(w, &l->attn_norm, width, "blk.%u.attn_norm.weight", i);
    if (m->q_rank) {
        weights_linear(w, &l->q_a, m->q_rank, width, "blk.%u.attn_q_a", i);
        weights_vector(w, &l->q_norm, m->q_rank, "blk.%u.attn_q_a_norm.weight", i);
        weights_linear(w, &l->q_b, heads * dim, m->q_rank, "blk.%u.attn_q_b", i);
    } else {
        weights_linear(w, &l->q_b, heads * dim, width, "blk.%u.attn_q", i);
    }
    weights_linear_part(w, &l->latent, 0, m->rank, width, "blk.%u.attn_kv_a_mqa", i);
    weights_linear_part(w, &l->rotary, m->rank, m->rope, width, "blk.%u.attn_kv_a_mqa", i);
    weights_vector(w, &l->kv_norm, m->rank, "blk.%u.attn_kv_a_norm.weight", i);
    open_heads(f, m, l, i);
    weights_linear(w, &l->o, width, heads * m->d.value_dim, "blk.%u.attn_output", i);
    weights_vector(w, &l->ffn_norm, width, "blk.%u.ffn_norm.weight", i);
    if (i >= m->dense_layers) {
        experts_open_layer(f, &m->experts, &l->experts, i);
        return;
    }
    weights_linear(w, &l->gate, m->d.ffn, width, "blk.%u.ffn_gate", i);
    weights_linear(w, &l->up, m->d.ffn, width, "blk.%u.ffn_up", i);
    weights_linear(w, &l->down, width, m->d.ffn, "blk.%u.ffn_down", i);
}

static void open_activations(struct forward *f, struct deepseek *m)
{
    const uint32_t heads = f->info.heads;
    struct decoder *d = &m->d;
    decoder_ends(f, d);
    forward_activation(f, &d->x, f->info.width);
    forward_activation(f, &d->h, f->info.width);
    forward_activation(f, &d->q, heads * d->head_dim);
    forward_activation(f, &d->k, m->rank + m->rope);
    forward_activation(f, &d->a, heads * d->value_dim);
    forward_activation(f, &d->gate, d->ffn);
    forward_activation(f, &d->up, d->ffn);
    if (m->q_rank)
        forward_activation(f, &m->q_low, m->q_rank);
    forward_activation(f, &m->c, m->rank);
    forward_activation(f, &m->r, m->rope);
    forward_activation(f, &m->wide, heads * (m->rank + m->rope));
    forward_activation(f, &m->latent, heads * m->rank);
    forward_activation(f, &m->nope_i, m->nope);
    forward_activation(f, &m->rank_i, m->rank);
    forward_activation(f, &m->value_i, d->value_dim);
}

static void deepseek_open(struct forward *f, void *family)
{
    struct deepseek *m = family;
    struct weights *w = &f->weights;
    uint32_t group = 0;
    m->layers = f->info.layers;
    m->layer = calloc(m->layers, sizeof *m->layer);
    if (!m->layer) {
        weights_fail(w, ERR_MEMORY, "no memory for %u layers", f->info.layers);
        return;
    }
    open_activations(f, m);
    experts_open(f, &m->experts);
    weights_fail(w, cache_add_group(&f->cache, 0, &group), "no memory for the cache");
    for (uint32_t i = f->first; i < f->last && !w->error; i++) {
        open_layer(f, m, &m->layer[i], i);
        weights_fail(w, cache_add_layer(&f->cache, group, 1, m->rank + m->rope, 0),
                     "no room for the cache, or latents that are no whole blocks of its type");
    }
    /* the same angles for queries, at the end of each wide head, and for the key */
    forward_rope_open(f, &m->d.rope,
                      (struct hal_rope_shape){m->rank + m->rope, m->rank, m->rope, HAL_ROPE_NORM}, 0);
    forward_rope_open(f, &m->key_rope, (struct hal_rope_shape){m->rope, 0, m->rope, HAL_ROPE_NORM}, 0);
}

static void deepseek_close(void *family)
{
    struct deepseek *m = family;
    decoder_close(&m->d);
    forward_rope_close(&m->key_rope);
    experts_close(&m->experts);
    for (uint32_t i = 0; m->layer && i < m->layers; i++) {
        free(m->layer[i].key);
        free(m->layer[i].value);
        experts_close_layer(&m->layer[i].experts);
    }
    free(m->layer);
}

static void attention(struct forward *f, struct deepseek *m, const struct deepseek_layer *l, uint32_t i)
{
    struct decoder *d = &m->d;
    const uint32_t heads = f->info.heads, row = m->rank + m->rope;
    const struct hal_attend geometry = {.heads = heads, .kv_heads = 1, .key_dim = row, .value_dim = m->rank, .scale = m->scale};
    if (l->q_a.w.mem) {
        forward_linear3(f, &d->h, &m->q_low, &l->q_a, &m->c, &l->latent, &m->r, &l->rotary);
        forward_rmsnorm(f, &m->q_low, &m->q_low, &l->q_norm, d->eps);
        forward_linear(f, &d->q, &m->q_low, &l->q_b);
    } else {
        forward_linear3(f, &d->h, &d->q, &l->q_b, &m->c, &l->latent, &m->r, &l->rotary);
    }
    forward_rmsnorm(f, &m->c, &m->c, &l->kv_norm, d->eps);
    forward_rotate(f, &m->r, &m->key_rope);
    forward_copy(f, &d->k, 0, &m->c, 0, m->rank);
    forward_copy(f, &d->k, m->rank, &m->r, 0, m->rope);
    for (uint32_t h = 0; h < heads; h++) {
        forward_copy(f, &m->nope_i, 0, &d->q, h * d->head_dim, m->nope);
        forward_linear(f, &m->rank_i, &m->nope_i, &l->key[h]);
        forward_copy(f, &m->wide, h * row, &m->rank_i, 0, m->rank);
        forward_copy(f, &m->wide, h * row + m->rank, &d->q, h * d->head_dim + m->nope, m->rope);
    }
    forward_rotate(f, &m->wide, &d->rope);
    forward_attend(f, i, &m->latent, &m->wide, &d->k, NULL, geometry);
    for (uint32_t h = 0; h < heads; h++) {
        forward_copy(f, &m->rank_i, 0, &m->latent, h * m->rank, m->rank);
        forward_linear(f, &m->value_i, &m->rank_i, &l->value[h]);
        forward_copy(f, &d->a, h * d->value_dim, &m->value_i, 0, d->value_dim);
    }
    forward_linear(f, &d->h, &d->a, &l->o);
    forward_add(f, &d->x, &d->h);
}

static void deepseek_step(struct forward *f, void *family)
{
    struct deepseek *m = family;
    struct decoder *d = &m->d;
    (void)forward_enter(f, &d->x, &d->embedding);
    for (uint32_t i = f->first; i < f->last; i++) {
        const struct deepseek_layer *l = &m->layer[i];
        forward_rmsnorm(f, &d->h, &d->x, &l->attn_norm, d->eps);
        attention(f, m, l, i);
        if (i + 1 == f->info.layers)
            forward_keep_outputs(f, &d->x, &d->h);
        forward_rmsnorm(f, &d->h, &d->x, &l->ffn_norm, d->eps);
        if (i >= m->dense_layers) {
            experts_add(f, &m->experts, &l->experts, &d->x, &d->h);
            continue;
        }
        forward_linear2(f, &d->h, &d->gate, &l->gate, &d->up, &l->up);
        forward_glu(f, &d->gate, &d->gate, &d->up, HAL_SILU);
        forward_linear(f, &d->h, &d->gate, &l->down);
        forward_add(f, &d->x, &d->h);
    }
    if (!forward_leave(f, &d->x))
        forward_rmsnorm(f, &f->hidden, &d->x, &d->norm.w, d->eps);
}

static const struct weights_linear *deepseek_head(const void *family, float *softcap)
{
    *softcap = 0;
    return &((const struct deepseek *)family)->d.head;
}

static const char *const architectures[] = {"deepseek2", NULL};

const struct model_family model_deepseek2 = {
    .architectures = architectures,
    .bytes = sizeof(struct deepseek),
    .shape = deepseek_shape,
    .open = deepseek_open,
    .close = deepseek_close,
    .step = deepseek_step,
    .head = deepseek_head,
};
