/* forward.c: engine operations with a sticky error, watched inputs and rope tables. */
#include "model/forward.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "hal/block.h"

/* Its rows are those of the step. */
static void follow(struct forward *f, struct hal_mat *m)
{
    if (f->activations == FORWARD_ACTIVATIONS_MAX)
        weights_fail(&f->weights, ERR_FULL, "more activations than a step may have");
    else
        f->activation[f->activations++] = m;
}

void forward_activation(struct forward *f, struct hal_mat *m, uint32_t cols)
{
    weights_make(&f->weights, m, HAL_ACTIVATION, HAL_F32, f->info.batch, cols);
    f->info.arena_bytes += (uint64_t)f->info.batch * cols * sizeof(float);
    follow(f, m);
}

void forward_view(struct forward *f, struct hal_mat *m, const struct hal_mat *of, uint32_t cols)
{
    *m = *of;
    m->cols = cols;
    follow(f, m);
}

/* YaRN: slow pairs are stretched, fast ones stay, between them a ramp. Source: arXiv:2309.00071. */
static void yarn(struct forward *f, struct forward_rope *r, float base, float factor)
{
    struct weights *w = &f->weights;
    const double dims = r->shape.dims;
    const double original = weights_u32_or(w, "rope.scaling.original_context_length", f->info.context_trained);
    const double fast = (double)weights_f32_or(w, "rope.scaling.yarn_beta_fast", 32);
    const double slow = (double)weights_f32_or(w, "rope.scaling.yarn_beta_slow", 1);
    const double extrapolation = (double)weights_f32_or(w, "rope.scaling.yarn_ext_factor", 1);
    const double two_log = 2 * log((double)base);
    double low = floor(dims * log(original / (fast * 2 * M_PI)) / two_log);
    double high = ceil(dims * log(original / (slow * 2 * M_PI)) / two_log);
    low = low < 0 ? 0 : low;
    high = high > dims - 1 ? dims - 1 : high;
    for (uint32_t i = 0; i < r->shape.dims / 2; i++) {
        double ramp = (i - low) / (high - low > 0.001 ? high - low : 0.001);
        ramp = 1 - (ramp < 0 ? 0 : ramp > 1 ? 1 : ramp);
        ramp *= extrapolation;
        const double speed = (double)r->speed[i];
        r->speed[i] = (float)(speed / (double)factor * (1 - ramp) + speed * ramp);
    }
    /* A log multiplier says that the scores are scaled instead (DeepSeek), and by the same magnitude. */
    const bool is_elsewhere = weights_f32_or(w, "rope.scaling.yarn_log_multiplier", 0) > 0;
    r->magnitude = weights_f32_or(w, "rope.scaling.yarn_attn_factor", 1) *
                   weights_f32_or(w, "rope.scaling.attn_factor", 1) *
                   (is_elsewhere ? 1 : (float)(1 + 0.1 * log((double)factor)));
}

static bool is_word(struct gguf_text text, const char *word)
{
    return text.bytes == strlen(word) && memcmp(text.text, word, text.bytes) == 0;
}

void forward_rope_open(struct forward *f, struct forward_rope *r, struct hal_rope_shape shape, float base)
{
    struct weights *w = &f->weights;
    *r = (struct forward_rope){.shape = shape, .magnitude = 1};
    if (w->error)
        return;
    if (shape.dims == 0 || shape.dims % 2 || shape.offset + shape.dims > shape.head_dim ||
        f->ropes == FORWARD_ROPES_MAX) {
        weights_fail(w, ERR_FORMAT, "expected an even rope.dimension_count up to the head's %u, found %u",
                     shape.head_dim, shape.dims);
        return;
    }
    const bool is_global = base == 0;
    if (is_global)
        base = weights_f32_or(w, "rope.freq_base", 10000);
    const uint32_t pairs = shape.dims / 2;
    float *factor = calloc(pairs, sizeof *factor);
    r->speed = calloc(pairs, sizeof *r->speed);
    weights_make(w, &r->table, HAL_ACTIVATION, HAL_F32, f->info.batch, shape.dims);
    if (!factor || !r->speed || !(base > 1)) {
        weights_fail(w, base > 1 ? ERR_MEMORY : ERR_FORMAT, "rope.freq_base or memory for it");
        free(factor);
        return;
    }
    for (uint32_t i = 0; i < pairs; i++)
        factor[i] = 1;
    if (is_global && weights_has(w, "rope_freqs.weight"))
        weights_floats(w, "rope_freqs.weight", pairs, factor);
    if (is_global && weights_has(w, "rope_factors_long.weight")) {
        const uint32_t original = weights_u32_or(w, "rope.scaling.original_context_length", f->info.context_trained);
        weights_floats(w, f->info.context > original ? "rope_factors_long.weight" : "rope_factors_short.weight",
                       pairs, factor);
        r->magnitude = weights_f32_or(w, "rope.scaling.attn_factor", 1);
    }
    for (uint32_t i = 0; i < pairs; i++)
        r->speed[i] = (float)(pow((double)base, -2.0 * i / shape.dims) / (double)factor[i]);
    free(factor);
    f->rope[f->ropes++] = r;

    const struct gguf_text scaling = weights_text(w, "rope.scaling.type");
    float stretch = weights_f32_or(w, "rope.scaling.factor", 0);
    if (stretch == 0)
        stretch = weights_f32_or(w, "rope.scale_linear", 1);
    if (!is_global || is_word(scaling, "none") || !(stretch > 0) || stretch == 1)
        return;
    if (is_word(scaling, "yarn"))
        yarn(f, r, base, stretch);
    else if (scaling.bytes == 0 || is_word(scaling, "linear"))
        for (uint32_t i = 0; i < pairs; i++)
            r->speed[i] /= stretch;
    else
        weights_fail(w, ERR_UNSUPPORTED, "rope.scaling.type is unknown to this build");
}

void forward_rope_close(struct forward_rope *r)
{
    free(r->speed);
    r->speed = NULL;
}

static void set_rows(struct forward *f, uint32_t rows)
{
    for (uint32_t i = 0; i < f->activations; i++)
        f->activation[i]->rows = rows;
}

void forward_begin(struct forward *f)
{
    f->error = ERR_NONE;
    f->is_over = false;
    set_rows(f, f->rows);
    for (uint32_t i = 0; i < f->ropes && !f->error; i++) {
        struct forward_rope *r = f->rope[i];
        const uint32_t pairs = r->shape.dims / 2;
        for (uint32_t row = 0; row < f->rows; row++)
            for (uint32_t p = 0; p < pairs; p++) {
                const float angle = (float)f->position[row] * r->speed[p];
                f->angles[row * 2 * pairs + p] = cosf(angle) * r->magnitude;
                f->angles[row * 2 * pairs + pairs + p] = sinf(angle) * r->magnitude;
            }
        r->table.rows = f->rows;
        f->error = f->e->ops.mat_put(f->e->dev, &r->table, 0, f->rows, f->angles,
                                     (size_t)f->rows * r->shape.dims * sizeof(float));
    }
}

bool forward_enter(struct forward *f, struct hal_mat *x, const struct hal_mat *table)
{
    const size_t bytes = x->cols * sizeof(float);
    if (f->stream) {
        if (forward_runs(f))
            f->error = f->e->ops.mat_put(f->e->dev, x, 0, x->rows, f->stream, x->rows * bytes);
        return false;
    }
    if (!f->table)
        forward_embed(f, x, table, f->token);
    for (uint32_t i = 0; f->table && i < x->rows && forward_runs(f); i++) {
        f->error = block_decode_row(f->table->type, f->table->data + (size_t)f->token[i] * f->table->row_bytes, x->cols,
                                    f->table_row);
        if (!f->error)
            f->error = f->e->ops.mat_put(f->e->dev, x, i, 1, f->table_row, bytes);
    }
    return true;
}

bool forward_leave(struct forward *f, const struct hal_mat *x)
{
    if (f->is_part)
        forward_copy(f, &f->hidden, 0, x, 0, x->cols);
    return f->is_part;
}

bool forward_runs(const struct forward *f)
{
    return !f->error && !f->is_over;
}

void forward_embed(struct forward *f, const struct hal_mat *y, const struct hal_mat *table,
                   const uint32_t *row)
{
    if (forward_runs(f))
        f->error = f->e->ops.embed(f->e->dev, y, table, row);
}

void forward_rmsnorm(struct forward *f, const struct hal_mat *y, const struct hal_mat *x,
                     const struct hal_mat *w, float eps)
{
    if (forward_runs(f))
        f->error = f->e->ops.rmsnorm(f->e->dev, y, x, w, eps);
}

void forward_layernorm(struct forward *f, const struct hal_mat *y, const struct hal_mat *x,
                       const struct weights_norm *norm, float eps)
{
    if (forward_runs(f))
        f->error = f->e->ops.layernorm(f->e->dev, y, x, &norm->w, norm->b.mem ? &norm->b : NULL, eps);
}

static void linears(struct forward *f, const struct hal_mat *x, const struct hal_mat *const *y,
                    const struct weights_linear *const *w, uint32_t count)
{
    const struct hal_mat *weight[FORWARD_TOGETHER_MAX];
    for (uint32_t i = 0; i < count; i++)
        weight[i] = &w[i]->w;
    if (forward_runs(f) && f->seen)
        f->error = f->e->ops.mat_get(f->e->dev, x, 0, x->rows, f->seen,
                                     (size_t)x->rows * x->cols * sizeof(float));
    for (uint32_t i = 0; i < count && forward_runs(f) && f->seen; i++)
        if (w[i]->name[0])
            f->observer.linear(f->observer.context, w[i]->name, w[i]->part, f->seen, x->rows, x->cols);
    if (forward_runs(f) && f->seen && f->observer.is_enough)
        f->is_over = f->observer.is_enough(f->observer.context);
    const struct hal_mat *rounded = x;
    if (forward_runs(f) && f->rounding.e)
        f->error = rounding_apply(&f->rounding, w, count, &rounded);
    if (forward_runs(f))
        f->error = f->e->ops.matmul(f->e->dev, y, rounded, weight, count);
    for (uint32_t i = 0; i < count && forward_runs(f); i++)
        if (w[i]->bias.mem)
            f->error = f->e->ops.add(f->e->dev, y[i], &w[i]->bias);
}

void forward_show(struct forward *f, const struct hal_mat *x, const struct weights_linear *w)
{
    if (!forward_runs(f) || !f->seen || !f->observer.stream)
        return;
    f->error = f->e->ops.mat_get(f->e->dev, x, 0, x->rows, f->seen, (size_t)x->rows * x->cols * sizeof(float));
    if (!f->error)
        f->observer.stream(f->observer.context, w->name, f->seen, x->rows, x->cols);
    if (!f->error && f->observer.is_enough)
        f->is_over = f->observer.is_enough(f->observer.context);
}

void forward_linear(struct forward *f, const struct hal_mat *y, const struct hal_mat *x,
                    const struct weights_linear *w)
{
    linears(f, x, &y, &w, 1);
}

void forward_linear2(struct forward *f, const struct hal_mat *x, const struct hal_mat *y0,
                     const struct weights_linear *w0, const struct hal_mat *y1,
                     const struct weights_linear *w1)
{
    linears(f, x, (const struct hal_mat *[]){y0, y1}, (const struct weights_linear *[]){w0, w1}, 2);
}

void forward_linear3(struct forward *f, const struct hal_mat *x, const struct hal_mat *y0,
                     const struct weights_linear *w0, const struct hal_mat *y1,
                     const struct weights_linear *w1, const struct hal_mat *y2,
                     const struct weights_linear *w2)
{
    linears(f, x, (const struct hal_mat *[]){y0, y1, y2}, (const struct weights_linear *[]){w0, w1, w2}, 3);
}

void forward_rotate(struct forward *f, const struct hal_mat *x, const struct forward_rope *r)
{
    if (forward_runs(f))
        f->error = f->e->ops.rope(f->e->dev, x, &r->table, &r->shape);
}

void forward_attend(struct forward *f, uint32_t layer, const struct hal_mat *y, const struct hal_mat *q,
                    const struct hal_mat *k, const struct hal_mat *v, struct hal_attend geometry)
{
    const struct cache_layer *c = &f->cache.layer[layer - f->first];
    const struct cache_group *g = &f->cache.group[c->group];
    geometry.spans = g->spans;
    geometry.first = g->first;
    if (c->is_cold && forward_runs(f))
        f->error = cache_cold_enter(&f->cache, layer - f->first);
    if (forward_runs(f))
        f->error = f->e->ops.store(f->e->dev, &c->k, k, g->slot);
    if (v && forward_runs(f))
        f->error = f->e->ops.store(f->e->dev, &c->v, v, g->slot);
    if (forward_runs(f))
        f->error = f->e->ops.attend(f->e->dev, y, q, &c->k, c->shares ? &c->k : &c->v, &geometry);
    if (c->is_cold && forward_runs(f))
        f->error = cache_cold_leave(&f->cache, layer - f->first);
}

void forward_glu(struct forward *f, const struct hal_mat *y, const struct hal_mat *gate,
                 const struct hal_mat *up, uint32_t function)
{
    if (forward_runs(f))
        f->error = f->e->ops.glu(f->e->dev, y, gate, up, function);
}

void forward_add(struct forward *f, const struct hal_mat *y, const struct hal_mat *x)
{
    if (forward_runs(f))
        f->error = f->e->ops.add(f->e->dev, y, x);
}

void forward_scale(struct forward *f, const struct hal_mat *y, float factor)
{
    if (forward_runs(f))
        f->error = f->e->ops.scale(f->e->dev, y, factor);
}

void forward_copy(struct forward *f, const struct hal_mat *y, uint32_t y_col, const struct hal_mat *x,
                  uint32_t x_col, uint32_t cols)
{
    if (forward_runs(f))
        f->error = f->e->ops.copy(f->e->dev, y, y_col, x, x_col, cols);
}

void forward_scatter(struct forward *f, const struct hal_mat *y, const struct hal_mat *x, const uint32_t *row,
                     const float *weight)
{
    if (forward_runs(f))
        f->error = f->e->ops.scatter(f->e->dev, y, x, row, weight);
}

void forward_get(struct forward *f, const struct hal_mat *x, float *out)
{
    if (forward_runs(f))
        f->error = f->e->ops.mat_get(f->e->dev, x, 0, x->rows, out, (size_t)x->rows * x->cols * sizeof(float));
}

void forward_keep_outputs(struct forward *f, struct hal_mat *x, struct hal_mat *spare)
{
    if (f->outputs == f->rows)
        return;
    f->is_over = f->outputs == 0;
    if (f->is_over)
        return;
    set_rows(f, f->outputs);
    x->rows = f->rows;
    forward_embed(f, spare, x, f->output);
    void *mem = x->mem; /* both are as large: the spare becomes the stream */
    x->mem = spare->mem;
    spare->mem = mem;
    x->rows = f->outputs;
}
