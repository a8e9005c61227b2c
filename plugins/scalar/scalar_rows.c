/* scalar_rows.c: the operations that take rows one by one: embed, norms, rope, store, glu, add,
 * scale, scatter, copy. */
#include "plugins/scalar/scalar.h"

#include <math.h>
#include <string.h>

#include "hal/block.h"
#include "plugins/scalar/scalar_lanes.h"

static int is_activation(const struct hal_mat *m)
{
    return m->type == HAL_F32 && m->use == HAL_ACTIVATION && m->mem != NULL;
}

static int is_same_shape(const struct hal_mat *a, const struct hal_mat *b)
{
    return is_activation(a) && is_activation(b) && a->rows == b->rows && a->cols == b->cols;
}

/* A vector of one value per column. */
static int is_vector(const struct hal_mat *w, uint32_t cols)
{
    return is_activation(w) && w->rows == 1 && w->cols == cols;
}

enum err scalar_embed(void *dev, const struct hal_mat *y, const struct hal_mat *table,
                      const uint32_t *row)
{
    (void)dev;
    const size_t row_bytes = block_row_bytes(table->type, table->cols);
    if (!is_activation(y) || table->use == HAL_CACHE || table->mem == NULL || row_bytes == 0 ||
        table->cols != y->cols || table->mem == y->mem)
        return ERR_ARGUMENT;
    for (uint32_t r = 0; r < y->rows; r++)
        if (row[r] >= table->rows)
            return ERR_ARGUMENT;
    for (uint32_t r = 0; r < y->rows; r++) {
        const enum err e =
            block_decode_row(table->type, (const char *)table->mem + row[r] * row_bytes, y->cols,
                             (float *)y->mem + (size_t)r * y->cols);
        if (e != ERR_NONE)
            return e;
    }
    return ERR_NONE;
}

enum err scalar_rmsnorm(void *dev, const struct hal_mat *y, const struct hal_mat *x,
                        const struct hal_mat *w, float eps)
{
    (void)dev;
    if (!is_same_shape(y, x) || !is_vector(w, x->cols))
        return ERR_ARGUMENT;
    const uint32_t d = x->cols;
    const float *weight = w->mem;
    for (uint32_t r = 0; r < x->rows; r++) {
        const float *in = (const float *)x->mem + (size_t)r * d;
        float *out = (float *)y->mem + (size_t)r * d;
        const float mean = lanes_dot(in, in, d) / (float)d;
        const float factor = 1.0f / sqrtf(mean + eps);
        for (uint32_t i = 0; i < d; i++)
            out[i] = in[i] * factor * weight[i];
    }
    return ERR_NONE;
}

enum err scalar_layernorm(void *dev, const struct hal_mat *y, const struct hal_mat *x,
                          const struct hal_mat *w, const struct hal_mat *b, float eps)
{
    (void)dev;
    if (!is_same_shape(y, x) || !is_vector(w, x->cols) || (b != NULL && !is_vector(b, x->cols)))
        return ERR_ARGUMENT;
    const uint32_t d = x->cols;
    const float *weight = w->mem;
    const float *bias = b != NULL ? b->mem : NULL;
    for (uint32_t r = 0; r < x->rows; r++) {
        const float *in = (const float *)x->mem + (size_t)r * d;
        float *out = (float *)y->mem + (size_t)r * d;
        const float mean = lanes_sum_of(in, d) / (float)d;
        double squares = 0.0;
        for (uint32_t i = 0; i < d; i++)
            squares += (double)(in[i] - mean) * (double)(in[i] - mean);
        const float factor = 1.0f / sqrtf((float)(squares / d) + eps);
        for (uint32_t i = 0; i < d; i++)
            out[i] = (in[i] - mean) * factor * weight[i] + (bias != NULL ? bias[i] : 0.0f);
    }
    return ERR_NONE;
}

enum err scalar_rope(void *dev, const struct hal_mat *x, const struct hal_mat *cos_sin,
                     const struct hal_rope_shape *shape)
{
    (void)dev;
    const uint32_t half = shape->dims / 2;
    if (!is_activation(x) || !is_activation(cos_sin) || shape->head_dim == 0 ||
        x->cols % shape->head_dim != 0 || shape->dims % 2 != 0 || shape->dims == 0 ||
        shape->offset > shape->head_dim || shape->dims > shape->head_dim - shape->offset ||
        cos_sin->rows != x->rows || cos_sin->cols != shape->dims || shape->kind > HAL_ROPE_NEOX)
        return ERR_ARGUMENT;
    const uint32_t first_step = shape->kind == HAL_ROPE_NORM ? 2 : 1;
    const uint32_t second = shape->kind == HAL_ROPE_NORM ? 1 : half;
    for (uint32_t r = 0; r < x->rows; r++) {
        const float *cosine = (const float *)cos_sin->mem + (size_t)r * shape->dims;
        const float *sine = cosine + half;
        float *row = (float *)x->mem + (size_t)r * x->cols;
        for (uint32_t head = 0; head < x->cols; head += shape->head_dim)
            for (uint32_t p = 0; p < half; p++) {
                float *a = row + head + shape->offset + p * first_step;
                float *b = a + second;
                const float u = *a, v = *b;
                *a = u * cosine[p] - v * sine[p];
                *b = u * sine[p] + v * cosine[p];
            }
    }
    return ERR_NONE;
}

enum err scalar_store(void *dev, const struct hal_mat *cache, const struct hal_mat *x,
                      const uint32_t *slot)
{
    if (!is_activation(x) || cache->use != HAL_CACHE || cache->mem == NULL ||
        cache->cols != x->cols)
        return ERR_ARGUMENT;
    const size_t row_bytes = block_row_bytes(cache->type, cache->cols);
    for (uint32_t r = 0; r < x->rows; r++)
        if (slot[r] >= cache->rows)
            return ERR_ARGUMENT;
    for (uint32_t r = 0; r < x->rows; r++) {
        const float *row = (const float *)x->mem + (size_t)r * x->cols;
        const enum err e = scalar_encode(dev, cache->type, HAL_RTN, row, 1, x->cols, NULL,
                                         (char *)cache->mem + slot[r] * row_bytes, row_bytes);
        if (e != ERR_NONE)
            return e;
    }
    return ERR_NONE;
}

static float gate_of(uint32_t function, float x)
{
    switch (function) {
    case HAL_SILU: return x / (1.0f + expf(-x));
    /* without the cancellation of 1 + tanh and 1 + erf on the negative side */
    case HAL_GELU_TANH: return x / (1.0f + expf(-1.5957691216f * (x + 0.044715f * x * x * x)));
    case HAL_GELU_ERF: return 0.5f * x * erfcf(x * -0.7071067812f);
    default: return x > 0.0f || isnan(x) ? x : 0.0f;
    }
}

enum err scalar_glu(void *dev, const struct hal_mat *y, const struct hal_mat *gate,
                    const struct hal_mat *up, uint32_t function)
{
    (void)dev;
    if (!is_same_shape(y, gate) || (up != NULL && !is_same_shape(up, gate)) || function > HAL_RELU)
        return ERR_ARGUMENT;
    const size_t values = (size_t)y->rows * y->cols;
    const float *in = gate->mem;
    const float *factor = up != NULL ? up->mem : NULL;
    float *out = y->mem;
    for (size_t i = 0; i < values; i++) {
        const float g = gate_of(function, in[i]);
        out[i] = factor != NULL ? g * factor[i] : g;
    }
    return ERR_NONE;
}

enum err scalar_add(void *dev, const struct hal_mat *y, const struct hal_mat *x)
{
    (void)dev;
    if (!is_activation(y) || y->cols != x->cols || !(is_same_shape(y, x) || is_vector(x, y->cols)))
        return ERR_ARGUMENT;
    const float *in = x->mem;
    float *out = y->mem;
    for (uint32_t r = 0; r < y->rows; r++)
        for (uint32_t i = 0; i < y->cols; i++)
            out[(size_t)r * y->cols + i] += in[x->rows == 1 ? i : (size_t)r * y->cols + i];
    return ERR_NONE;
}

enum err scalar_scale(void *dev, const struct hal_mat *y, float factor)
{
    (void)dev;
    if (!is_activation(y))
        return ERR_ARGUMENT;
    float *out = y->mem;
    for (size_t i = 0; i < (size_t)y->rows * y->cols; i++)
        out[i] *= factor;
    return ERR_NONE;
}

enum err scalar_scatter(void *dev, const struct hal_mat *y, const struct hal_mat *x,
                        const uint32_t *row, const float *weight)
{
    (void)dev;
    if (!is_activation(y) || !is_activation(x) || y->cols != x->cols || y->mem == x->mem)
        return ERR_ARGUMENT;
    for (uint32_t r = 0; r < x->rows; r++)
        if (row[r] >= y->rows)
            return ERR_ARGUMENT;
    for (uint32_t r = 0; r < x->rows; r++) {
        const float *in = (const float *)x->mem + (size_t)r * x->cols;
        float *out = (float *)y->mem + (size_t)row[r] * y->cols;
        for (uint32_t i = 0; i < x->cols; i++)
            out[i] += weight[r] * in[i];
    }
    return ERR_NONE;
}

enum err scalar_copy(void *dev, const struct hal_mat *y, uint32_t y_col, const struct hal_mat *x,
                     uint32_t x_col, uint32_t cols)
{
    (void)dev;
    if (!is_activation(y) || !is_activation(x) || y->rows != x->rows || y->mem == x->mem ||
        y_col > y->cols || cols > y->cols - y_col || x_col > x->cols || cols > x->cols - x_col)
        return ERR_ARGUMENT;
    for (uint32_t r = 0; r < x->rows; r++)
        memcpy((float *)y->mem + (size_t)r * y->cols + y_col,
               (const float *)x->mem + (size_t)r * x->cols + x_col, cols * sizeof(float));
    return ERR_NONE;
}

/* Columns come in ascending order, so an equal value stays behind what is there. */
static void top_of_row(const float *x, uint32_t cols, uint32_t count, uint32_t *index, float *value)
{
    uint32_t got = 0;
    for (uint32_t i = 0; i < cols; i++) {
        const float v = x[i];
        if (isnan(v) || (got == count && !(v > value[count - 1])))
            continue;
        uint32_t at = got < count ? got++ : count - 1;
        for (; at > 0 && v > value[at - 1]; at--) {
            value[at] = value[at - 1];
            index[at] = index[at - 1];
        }
        value[at] = v;
        index[at] = i;
    }
    for (; got < count; got++) {
        index[got] = UINT32_MAX;
        value[got] = 0.0f;
    }
}

enum err scalar_top(void *dev, const struct hal_mat *x, uint32_t count, uint32_t *index, float *value)
{
    (void)dev;
    if (!is_activation(x) || count == 0 || count > HAL_TOP_MAX || index == NULL || value == NULL)
        return ERR_ARGUMENT;
    for (uint32_t r = 0; r < x->rows; r++)
        top_of_row((const float *)x->mem + (size_t)r * x->cols, x->cols, count,
                   index + (size_t)r * count, value + (size_t)r * count);
    return ERR_NONE;
}
