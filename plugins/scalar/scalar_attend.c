/* scalar_attend.c: attention over cache slots, with a softmax that rescales as it goes. */
#include "plugins/scalar/scalar.h"

#include <math.h>

#include "hal/block.h"
#include "plugins/scalar/scalar_lanes.h"

static int is_cache(const struct hal_mat *m)
{
    return m->use == HAL_CACHE && m->mem != NULL && m->rows > 0;
}

enum err scalar_check_attend(const struct hal_mat *y, const struct hal_mat *q,
                             const struct hal_mat *k, const struct hal_mat *v,
                             const struct hal_attend *g)
{
    if (g->heads == 0 || g->kv_heads == 0 || g->heads % g->kv_heads != 0 || g->key_dim == 0 ||
        g->value_dim == 0)
        return ERR_ARGUMENT;
    if (q->type != HAL_F32 || q->use != HAL_ACTIVATION || q->mem == NULL || y->type != HAL_F32 ||
        y->use != HAL_ACTIVATION || y->mem == NULL || y->mem == q->mem || y->rows != q->rows ||
        q->cols != (uint64_t)g->heads * g->key_dim || y->cols != (uint64_t)g->heads * g->value_dim)
        return ERR_ARGUMENT;
    if (!is_cache(k) || !is_cache(v) || k->cols != (uint64_t)g->kv_heads * g->key_dim ||
        v->cols % g->kv_heads != 0 || v->cols / g->kv_heads < g->value_dim)
        return ERR_ARGUMENT;
    /* a head must be whole blocks */
    const struct block_type *key = block_type(k->type), *value = block_type(v->type);
    if (g->key_dim % key->values != 0 || v->cols / g->kv_heads % value->values != 0 ||
        g->value_dim % value->values != 0)
        return ERR_ARGUMENT;
    for (uint32_t r = 0; r < q->rows; r++) {
        if (g->first[r] > g->first[r + 1])
            return ERR_ARGUMENT;
        for (uint32_t s = g->first[r]; s < g->first[r + 1]; s++) {
            const uint32_t rows = k->rows < v->rows ? k->rows : v->rows;
            if (g->spans[s].slot > rows || g->spans[s].slots > rows - g->spans[s].slot)
                return ERR_ARGUMENT;
        }
    }
    return ERR_NONE;
}

struct attention {
    const struct hal_mat *y, *q, *k, *v;
    const struct hal_attend *g;
};

/* q . k of one head; block by block, so that no room is needed for a decoded row */
static float score_of(const float *q, uint32_t type, const char *key, uint32_t dim)
{
    float sum = 0.0f;
    for (uint32_t i = 0; i < dim; i += BLOCK_VALUES_MAX) {
        float part[BLOCK_VALUES_MAX];
        const uint32_t n = dim - i < BLOCK_VALUES_MAX ? dim - i : BLOCK_VALUES_MAX;
        if (block_decode_row(type, key + block_row_bytes(type, i), n, part) != ERR_NONE)
            return NAN;
        sum += lanes_dot(q + i, part, n);
    }
    return sum;
}

static void add_value(float *y, uint32_t type, const char *value, uint32_t dim, float weight,
                      float shrink)
{
    for (uint32_t i = 0; i < dim; i += BLOCK_VALUES_MAX) {
        float part[BLOCK_VALUES_MAX];
        const uint32_t n = dim - i < BLOCK_VALUES_MAX ? dim - i : BLOCK_VALUES_MAX;
        if (block_decode_row(type, value + block_row_bytes(type, i), n, part) != ERR_NONE)
            return;
        for (uint32_t j = 0; j < n; j++)
            y[i + j] = y[i + j] * shrink + weight * part[j];
    }
}

static void attend_head(const struct attention *a, uint32_t r, uint32_t h)
{
    const struct hal_attend *g = a->g;
    const uint32_t kv = h / (g->heads / g->kv_heads);
    const uint32_t value_stride = a->v->cols / g->kv_heads;
    const float *q = (const float *)a->q->mem + (size_t)r * a->q->cols + (size_t)h * g->key_dim;
    float *y = (float *)a->y->mem + (size_t)r * a->y->cols + (size_t)h * g->value_dim;
    const size_t key_row = block_row_bytes(a->k->type, a->k->cols);
    const size_t value_row = block_row_bytes(a->v->type, a->v->cols);
    const char *keys = (const char *)a->k->mem + block_row_bytes(a->k->type, kv * g->key_dim);
    const char *values = (const char *)a->v->mem + block_row_bytes(a->v->type, kv * value_stride);
    float top = -INFINITY, total = 0.0f;
    for (uint32_t i = 0; i < g->value_dim; i++)
        y[i] = 0.0f;
    for (uint32_t s = g->first[r]; s < g->first[r + 1]; s++)
        for (uint32_t j = 0; j < g->spans[s].slots; j++) {
            const size_t slot = g->spans[s].slot + j;
            float score = score_of(q, a->k->type, keys + slot * key_row, g->key_dim) * g->scale;
            if (g->softcap != 0.0f)
                score = g->softcap * tanhf(score / g->softcap);
            const float more = score > top || isnan(score) ? score : top;
            const float shrink = top == more ? 1.0f : expf(top - more);
            const float weight = expf(score - more);
            total = total * shrink + weight;
            top = more;
            add_value(y, a->v->type, values + slot * value_row, g->value_dim, weight, shrink);
        }
    if (total != 0.0f)
        for (uint32_t i = 0; i < g->value_dim; i++)
            y[i] /= total;
}

static void attend_heads(void *context, uint32_t first, uint32_t last)
{
    const struct attention *a = context;
    for (uint32_t i = first; i < last; i++)
        attend_head(a, i / a->g->heads, i % a->g->heads);
}

enum err scalar_attend(void *dev, const struct hal_mat *y, const struct hal_mat *q,
                       const struct hal_mat *k, const struct hal_mat *v,
                       const struct hal_attend *geometry)
{
    const enum err e = scalar_check_attend(y, q, k, v, geometry);
    if (e != ERR_NONE)
        return e;
    struct attention a = {y, q, k, v, geometry};
    scalar_parallel(dev, q->rows * geometry->heads, 1, attend_heads, &a);
    return ERR_NONE;
}
