/* neon_vector.c: norm, gate and attention in four lanes. What they do not take goes to scalar. */
#include "plugins/neon/neon_tile.h"

#include <arm_neon.h>
#include <math.h>
#include <string.h>

#include "hal/block.h"

enum { SLOTS = 32, VALUE_DIM_MAX = 1024 }; /* scores at a time; the longest head kept on the stack */

static int is_activation(const struct hal_mat *m)
{
    return m->type == HAL_F32 && m->use == HAL_ACTIVATION && m->mem != NULL;
}

/* e^x within 2 units in the last place; below -87 it is 0, above 88 the result is infinite.
 * Method: x = n ln 2 + r, |r| <= ln 2 / 2, and the degree-6 Taylor polynomial of e^r. */
static float32x4_t exp4(float32x4_t x)
{
    const float32x4_t bounded = vminq_f32(vmaxq_f32(x, vdupq_n_f32(-87.3f)), vdupq_n_f32(88.7f));
    const float32x4_t n = vrndnq_f32(vmulq_n_f32(bounded, 1.44269504f));
    float32x4_t r = vfmsq_n_f32(bounded, n, 0.693359375f);
    r = vfmsq_n_f32(r, n, -2.12194440e-4f);
    static const float c[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
    float32x4_t y = vdupq_n_f32(c[0]);
    for (uint32_t i = 1; i < sizeof c / sizeof c[0]; i++)
        y = vfmaq_f32(vdupq_n_f32(c[i]), y, r);
    /* 2^n in two halves, since n = 128 has no exponent of its own */
    const int32x4_t whole = vcvtq_s32_f32(n), half = vshrq_n_s32(whole, 1);
    const int32x4_t rest = vsubq_s32(whole, half), bias = vdupq_n_s32(127);
    y = vmulq_f32(y, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, bias), 23)));
    y = vmulq_f32(y, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(rest, bias), 23)));
    y = vbslq_f32(vcltq_f32(x, vdupq_n_f32(-87.3f)), vdupq_n_f32(0), y);
    y = vbslq_f32(vcgtq_f32(x, vdupq_n_f32(88.7f)), vdupq_n_f32(INFINITY), y);
    return vbslq_f32(vceqq_f32(x, x), y, x); /* NaN stays */
}

enum err neon_rmsnorm(void *dev, const struct hal_mat *y, const struct hal_mat *x,
                      const struct hal_mat *w, float eps)
{
    if (x->cols % 4 != 0 || !is_activation(x) || !is_activation(y) || y->rows != x->rows ||
        y->cols != x->cols || w->type != HAL_F32 || w->mem == NULL || w->use == HAL_CACHE ||
        w->rows != 1 || w->cols != x->cols)
        return scalar_rmsnorm(dev, y, x, w, eps);
    const uint32_t d = x->cols;
    const float *weight = w->mem;
    for (uint32_t r = 0; r < x->rows; r++) {
        const float *in = (const float *)x->mem + (size_t)r * d;
        float *out = (float *)y->mem + (size_t)r * d;
        float32x4_t squares = vdupq_n_f32(0);
        for (uint32_t i = 0; i < d; i += 4)
            squares = vfmaq_f32(squares, vld1q_f32(in + i), vld1q_f32(in + i));
        const float factor = 1.0f / sqrtf(vaddvq_f32(squares) / (float)d + eps);
        for (uint32_t i = 0; i < d; i += 4)
            vst1q_f32(out + i, vmulq_f32(vmulq_n_f32(vld1q_f32(in + i), factor), vld1q_f32(weight + i)));
    }
    return ERR_NONE;
}

struct gate {
    float *y;
    const float *gate, *up;
    uint32_t cols, function;
};

/* x / (1 + e^-z): SiLU with z = x; the tanh form of GELU with z = 2 sqrt(2 / pi) (x + 0.044715 x^3) */
static void gate_rows(void *context, uint32_t first, uint32_t last)
{
    const struct gate *g = context;
    for (size_t i = (size_t)first * g->cols; i < (size_t)last * g->cols; i += 4) {
        const float32x4_t x = vld1q_f32(g->gate + i);
        float32x4_t z = x;
        if (g->function == HAL_GELU_TANH) {
            const float32x4_t cube = vmulq_f32(vmulq_f32(x, x), x);
            z = vmulq_n_f32(vfmaq_n_f32(x, cube, 0.044715f), 1.5957691216f);
        }
        float32x4_t y = vdivq_f32(x, vaddq_f32(vdupq_n_f32(1), exp4(vnegq_f32(z))));
        if (g->up)
            y = vmulq_f32(y, vld1q_f32(g->up + i));
        vst1q_f32(g->y + i, y);
    }
}

enum err neon_glu(void *dev, const struct hal_mat *y, const struct hal_mat *gate,
                  const struct hal_mat *up, uint32_t function)
{
    const int is_ours = (function == HAL_SILU || function == HAL_GELU_TANH) && y->cols % 4 == 0;
    if (!is_ours || !is_activation(y) || !is_activation(gate) || gate->rows != y->rows ||
        gate->cols != y->cols ||
        (up && (!is_activation(up) || up->rows != y->rows || up->cols != y->cols)))
        return scalar_glu(dev, y, gate, up, function);
    struct gate g = {y->mem, gate->mem, up ? up->mem : NULL, y->cols, function};
    scalar_parallel(dev, y->rows, 1, gate_rows, &g);
    return ERR_NONE;
}

struct attention {
    const struct hal_mat *y, *q, *k, *v;
    const struct hal_attend *g;
};

static float32x4_t load_half4(const uint16_t *p)
{
    float16x4_t h;
    memcpy(&h, p, sizeof h);
    return vcvt_f32_f16(h);
}

static float score_of(const float *q, const uint16_t *key, uint32_t dim)
{
    float32x4_t sum = vdupq_n_f32(0);
    for (uint32_t i = 0; i < dim; i += 4)
        sum = vfmaq_f32(sum, vld1q_f32(q + i), load_half4(key + i));
    return vaddvq_f32(sum);
}

struct softmax {
    float top, total;
    float y[VALUE_DIM_MAX];
};

/* Take in `slots` scores and their values; what was gathered before shrinks to the new maximum. */
static void gather(struct softmax *s, float *score, uint32_t slots, const uint16_t *value, size_t stride,
                   uint32_t dim)
{
    float top = s->top;
    for (uint32_t j = 0; j < slots; j++)
        top = score[j] > top || isnan(score[j]) ? score[j] : top;
    if (s->top != top && s->total != 0) {
        const float shrink = expf(s->top - top);
        s->total *= shrink;
        for (uint32_t i = 0; i < dim; i += 4)
            vst1q_f32(s->y + i, vmulq_n_f32(vld1q_f32(s->y + i), shrink));
    }
    s->top = top;
    for (uint32_t j = slots; j < SLOTS; j++)
        score[j] = -INFINITY;
    for (uint32_t j = 0; j < slots; j += 4)
        vst1q_f32(score + j, exp4(vsubq_f32(vld1q_f32(score + j), vdupq_n_f32(top))));
    for (uint32_t j = 0; j < slots; j++) {
        s->total += score[j];
        for (uint32_t i = 0; i < dim; i += 4)
            vst1q_f32(s->y + i, vfmaq_n_f32(vld1q_f32(s->y + i), load_half4(value + j * stride + i),
                                            score[j]));
    }
}

static void attend_head(const struct attention *a, uint32_t r, uint32_t h)
{
    const struct hal_attend *g = a->g;
    const uint32_t kv = h / (g->heads / g->kv_heads);
    const float *q = (const float *)a->q->mem + (size_t)r * a->q->cols + (size_t)h * g->key_dim;
    float *y = (float *)a->y->mem + (size_t)r * a->y->cols + (size_t)h * g->value_dim;
    const uint16_t *keys = (const uint16_t *)a->k->mem + kv * g->key_dim;
    const uint16_t *values = (const uint16_t *)a->v->mem + kv * (a->v->cols / g->kv_heads);
    struct softmax s = {.top = -INFINITY};
    for (uint32_t span = g->first[r]; span < g->first[r + 1]; span++)
        for (uint32_t j = 0; j < g->spans[span].slots; j += SLOTS) {
            const uint32_t rest = g->spans[span].slots - j, n = rest < SLOTS ? rest : SLOTS;
            const size_t slot = g->spans[span].slot + j;
            float score[SLOTS];
            for (uint32_t i = 0; i < n; i++) {
                score[i] = score_of(q, keys + (slot + i) * a->k->cols, g->key_dim) * g->scale;
                if (g->softcap != 0)
                    score[i] = g->softcap * tanhf(score[i] / g->softcap);
            }
            gather(&s, score, n, values + slot * a->v->cols, a->v->cols, g->value_dim);
        }
    const float inverse = s.total != 0 ? 1.0f / s.total : 0;
    for (uint32_t i = 0; i < g->value_dim; i++)
        y[i] = s.y[i] * inverse;
}

static void attend_heads(void *context, uint32_t first, uint32_t last)
{
    const struct attention *a = context;
    for (uint32_t i = first; i < last; i++)
        attend_head(a, i / a->g->heads, i % a->g->heads);
}

enum err neon_attend(void *dev, const struct hal_mat *y, const struct hal_mat *q,
                     const struct hal_mat *k, const struct hal_mat *v,
                     const struct hal_attend *geometry)
{
    if (k->type != HAL_F16 || v->type != HAL_F16 || geometry->key_dim % 4 != 0 ||
        geometry->value_dim % 4 != 0 || geometry->value_dim > VALUE_DIM_MAX)
        return scalar_attend(dev, y, q, k, v, geometry);
    const enum err e = scalar_check_attend(y, q, k, v, geometry);
    if (e)
        return e;
    struct attention a = {y, q, k, v, geometry};
    scalar_parallel(dev, q->rows * geometry->heads, 1, attend_heads, &a);
    return ERR_NONE;
}
