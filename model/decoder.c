/* decoder.c: shapes and ends that the decoder families share. */
#include "model/decoder.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

enum { SLICE_BYTES = 8 << 20, SLICE_ROWS_MAX = 256 };

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
    return (3ull * info->width + heads * d->head_dim + heads * d->value_dim) * 3 / 2;
}

/* All but q and a. */
static void open_stream(struct forward *f, struct decoder *d)
{
    const struct model_info *info = &f->info;
    forward_activation(f, &d->x, info->width);
    forward_activation(f, &d->h, info->width);
    forward_activation(f, &d->k, info->kv_heads * d->head_dim);
    forward_activation(f, &d->v, info->kv_heads * d->value_dim);
}

void decoder_activations(struct forward *f, struct decoder *d)
{
    open_stream(f, d);
    forward_activation(f, &d->q, f->info.heads * d->head_dim);
    forward_activation(f, &d->a, f->info.heads * d->value_dim);
}

static uint32_t rows_to_hold(struct forward *f, uint64_t values, uint32_t cols, uint32_t least)
{
    const uint64_t rows = cols ? (values + cols - 1) / cols : 0;
    if (rows > UINT32_MAX)
        weights_fail(&f->weights, ERR_MEMORY, "no room for %u rows of attention and feed-forward", f->info.batch);
    return rows > least ? (uint32_t)rows : least;
}

/* Of two that share memory the one is made that is multiplied by weights: engines make room for that. */
static void open_slices(struct forward *f, struct decoder *d)
{
    const struct model_info *info = &f->info;
    const uint32_t q_cols = info->heads * d->head_dim, a_cols = info->heads * d->value_dim;
    const uint64_t fits = SLICE_BYTES / ((2ull * d->ffn + info->width) * sizeof(float)) / 16 * 16;
    struct hal_mat made;
    d->slice = fits < 32 ? 32 : (uint32_t)fits;
    d->slice = d->slice < SLICE_ROWS_MAX ? d->slice : SLICE_ROWS_MAX;
    if (d->slice > info->batch || f->is_part) /* observers of a part stop in between */
        d->slice = info->batch;
    const uint32_t gate_rows = rows_to_hold(f, (uint64_t)info->batch * q_cols, d->ffn, d->slice);
    const uint32_t a_rows = rows_to_hold(f, (uint64_t)d->slice * d->ffn, a_cols, info->batch);
    weights_make(&f->weights, &d->gate, HAL_ACTIVATION, HAL_F32, gate_rows, d->ffn);
    forward_view(f, &d->q, &d->gate, q_cols);
    weights_make(&f->weights, &made, HAL_ACTIVATION, HAL_F32, a_rows, a_cols);
    forward_view(f, &d->a, &made, a_cols);
    d->up = made;
    d->up.cols = d->ffn;
    weights_make(&f->weights, &d->part, HAL_ACTIVATION, HAL_F32, d->slice, info->width);
    f->info.arena_bytes += ((uint64_t)gate_rows * d->ffn + (uint64_t)a_rows * a_cols +
                            (uint64_t)d->slice * info->width) * sizeof(float);
}

/* in and out may be the same. */
static void feed_rows(struct forward *f, struct decoder *d, const struct decoder_ffn *ffn, const struct hal_mat *m)
{
    d->gate.rows = d->up.rows = m->rows;
    if (ffn->up)
        forward_linear2(f, m, &d->gate, ffn->gate, &d->up, ffn->up);
    else
        forward_linear(f, &d->gate, m, ffn->gate);
    forward_glu(f, &d->gate, &d->gate, ffn->up ? &d->up : NULL, ffn->function);
    forward_linear(f, m, &d->gate, ffn->down);
    if (ffn->post)
        forward_rmsnorm(f, m, m, ffn->post, d->eps);
}

void decoder_feed(struct forward *f, struct decoder *d, const struct decoder_ffn *ffn)
{
    const uint32_t rows = d->h.rows;
    if (rows <= d->slice) {
        feed_rows(f, d, ffn, &d->h);
        forward_add(f, &d->x, &d->h);
        return;
    }
    float ones[SLICE_ROWS_MAX];
    const uint32_t slices = (rows + d->slice - 1) / d->slice;
    const uint32_t each = (rows + slices - 1) / slices;
    for (uint32_t first = 0; first < rows && forward_runs(f); first += each) {
        d->part.rows = rows - first < each ? rows - first : each;
        for (uint32_t i = 0; i < d->part.rows; i++) {
            f->index[i] = first + i;
            ones[i] = 1;
        }
        forward_embed(f, &d->part, &d->h, f->index);
        feed_rows(f, d, ffn, &d->part);
        forward_scatter(f, &d->x, &d->part, f->index, ones);
    }
}

void decoder_ends(struct forward *f, struct decoder *d)
{
    struct weights *w = &f->weights;
    const struct model_info *info = &f->info;
    if (f->is_part)
        return;
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
    open_stream(f, d);
    open_slices(f, d);
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
