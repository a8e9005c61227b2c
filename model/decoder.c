/* decoder.c: shapes and ends that the decoder families share. */
#include "model/decoder.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

uint64_t decoder_shape(struct forward *f, struct decoder *d, const char *eps_key)
{
    struct weights *w = &f->weights;
    struct model_info *info = &f->info;
    info->layers = weights_u32(w, "block_count");
    info->width = weights_u32(w, "embedding_length");
    info->heads = weights_heads(w, "attention.head_count", 0);
    info->kv_heads = weights_heads(w, "attention.head_count_kv", info->heads);
    info->context_trained = weights_u32(w, "context_length");
    d->ffn = weights_heads(w, "feed_forward_length", 0);
    d->eps = weights_f32_or(w, eps_key, 1e-5f);
    if (w->error)
        return 0;
    if (info->heads == 0 || info->kv_heads == 0 || info->heads % info->kv_heads ||
        (info->width % info->heads && !weights_u32_or(w, "attention.key_length", 0))) {
        weights_fail(w, ERR_FORMAT, "expected heads that divide the width, found %u of %u for %u", info->heads,
                     info->kv_heads, info->width);
        return 0;
    }
    d->head_dim = weights_u32_or(w, "attention.key_length", info->width / info->heads);
    d->value_dim = weights_u32_or(w, "attention.value_length", d->head_dim);
    d->rope_dims = weights_u32_or(w, "rope.dimension_count", d->head_dim);
    if (d->head_dim > 4096 || d->value_dim > 4096 || info->heads > 4096)
        weights_fail(w, ERR_FORMAT, "expected heads of at most 4096 values");
    const uint64_t heads = (uint64_t)info->heads + info->kv_heads;
    return 3ull * info->width + heads * d->head_dim + heads * d->value_dim + 2ull * d->ffn;
}

void decoder_activations(struct forward *f, struct decoder *d)
{
    const struct model_info *info = &f->info;
    forward_activation(f, &d->x, info->width);
    forward_activation(f, &d->h, info->width);
    forward_activation(f, &d->q, info->heads * d->head_dim);
    forward_activation(f, &d->k, info->kv_heads * d->head_dim);
    forward_activation(f, &d->v, info->kv_heads * d->value_dim);
    forward_activation(f, &d->a, info->heads * d->value_dim);
    forward_activation(f, &d->gate, d->ffn);
    forward_activation(f, &d->up, d->ffn);
}

void decoder_ends(struct forward *f, struct decoder *d)
{
    struct weights *w = &f->weights;
    const struct model_info *info = &f->info;
    if (weights_has(w, "output.weight")) {
        weights_table(w, &d->embedding, info->vocabulary, info->width, "token_embd");
        weights_linear(w, &d->head, info->vocabulary, info->width, "output");
    } else { /* tied: one matrix is the table and the head */
        weights_linear(w, &d->head, info->vocabulary, info->width, "token_embd");
        d->embedding = d->head.w;
    }
    weights_norm(w, &d->norm, info->width, "output_norm");
}

void decoder_open(struct forward *f, struct decoder *d)
{
    decoder_ends(f, d);
    decoder_activations(f, d);
}

void decoder_close(struct decoder *d)
{
    forward_rope_close(&d->rope);
}

void decoder_cache(struct forward *f, const struct decoder *d, uint32_t window)
{
    uint32_t group = 0;
    struct weights *w = &f->weights;
    if (w->error)
        return;
    weights_fail(w, cache_add_group(&f->cache, window, &group), "no memory for the cache");
    weights_fail(w, cache_add_layer(&f->cache, group, f->info.kv_heads, d->head_dim, d->value_dim),
                 "no room for the cache, or heads that are no whole blocks of its type");
}

void decoder_qkv(struct forward *f, const struct decoder *d, struct weights_linear *q, struct weights_linear *k,
                 struct weights_linear *v, const char *format, ...)
{
    char name[64];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    const uint32_t rows[3] = {f->info.heads * d->head_dim, f->info.kv_heads * d->head_dim,
                              f->info.kv_heads * d->value_dim};
    struct weights_linear *const parts[3] = {q, k, v};
    uint32_t first = 0;
    for (int i = 0; i < 3; first += rows[i++])
        weights_linear_part(&f->weights, parts[i], first, rows[i], f->info.width, "%s", name);
}

struct hal_attend decoder_geometry(const struct forward *f, const struct decoder *d)
{
    return (struct hal_attend){.heads = f->info.heads,
                               .kv_heads = f->info.kv_heads,
                               .key_dim = d->head_dim,
                               .value_dim = d->value_dim,
                               .scale = 1 / sqrtf((float)d->head_dim)};
}

void decoder_norm_heads(struct forward *f, const struct decoder *d, const struct hal_mat *m,
                        const struct hal_mat *w)
{
    struct hal_mat heads = *m; /* the same values as rows of one head each */
    heads.rows = m->rows * (m->cols / d->head_dim);
    heads.cols = d->head_dim;
    if (w->mem)
        forward_rmsnorm(f, &heads, &heads, w, d->eps);
}
