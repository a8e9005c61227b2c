/* neon_dot_i8mm.c: smmla takes two rows by two tokens by eight values at once. Built with +i8mm; called
 * only where probe found it. A last odd token goes the sdot way. */
#include "plugins/neon/neon_tile.h"

#include <arm_neon.h>

/* Eight values of two rows side by side, as smmla wants them. */
static inline void interleave(const int8_t *a, const int8_t *b, int8x16_t out[2])
{
    const int64x2_t x = vreinterpretq_s64_s8(vld1q_s8(a)), y = vreinterpretq_s64_s8(vld1q_s8(b));
    out[0] = vreinterpretq_s8_s64(vzip1q_s64(x, y));
    out[1] = vreinterpretq_s8_s64(vzip2q_s64(x, y));
}

/* {row 0 token 0, row 0 token 1, row 1 token 0, row 1 token 1} of one scale pair and one d pair */
static inline float32x4_t outer(float s0, float s1, float32x2_t d)
{
    return vcombine_f32(vmul_n_f32(d, s0), vmul_n_f32(d, s1));
}

static inline float32x4_t pair_group(const struct neon_tile *tile, uint32_t v, int is_fine,
                                     const int8_t *q0, const int8_t *q1, float32x2_t d, float32x4_t acc)
{
    const uint32_t g = v / 16;
    int32x4_t sum = vdupq_n_s32(0);
    for (uint32_t half = 0; half < 2; half++) {
        int8x16_t w[2], x[2];
        interleave(tile[0].level + v + 16 * half, tile[1].level + v + 16 * half, w);
        interleave(q0 + 16 * half, q1 + 16 * half, x);
        sum = vmmlaq_s32(vmmlaq_s32(sum, w[0], x[0]), w[1], x[1]);
        if (is_fine || half) {
            const float32x4_t s = outer(tile[0].scale[g + half], tile[1].scale[g + half], d);
            acc = vfmaq_f32(acc, vcvtq_f32_s32(sum), s);
            sum = vdupq_n_s32(0);
        }
    }
    return acc;
}

static inline float32x4_t pair_minimum(const struct neon_tile *tile, uint32_t g, int32_t sum0, int32_t sum1,
                                       float32x2_t d, float32x4_t acc)
{
    const float s[2] = {(float)sum0, (float)sum1};
    return vsubq_f32(acc, outer(tile[0].minimum[g], tile[1].minimum[g], vmul_f32(d, vld1_f32(s))));
}

static void pair_tokens(const struct neon_tile *tile, const struct neon_format *format, uint32_t values,
                        const struct neon_input *x, uint32_t col, uint32_t t, float *acc)
{
    const size_t cols = x->cols;
    const int8_t *q = x->q + t * cols + col;
    const float *d = x->d + t * (cols / 32) + col / 32;
    const int32_t *sum = x->sum + t * (cols / 16) + col / 16;
    for (uint32_t r = 0; r < NEON_TILE_ROWS; r += 2) {
        float32x4_t part = vdupq_n_f32(0);
        for (uint32_t v = 0; v < values; v += 32) {
            const float both[2] = {d[v / 32], d[cols / 32 + v / 32]};
            const float32x2_t dd = vld1_f32(both);
            part = pair_group(tile + r, v, format->is_fine, q + v, q + cols + v, dd, part);
            for (uint32_t g = v / 16; format->has_minimum && g < v / 16 + 2; g++)
                part = pair_minimum(tile + r, g, sum[g], sum[cols / 16 + g], dd, part);
        }
        float y[4];
        vst1q_f32(y, part);
        for (uint32_t i = 0; i < 4; i++)
            acc[(size_t)(r + i / 2) * x->tokens + t + i % 2] += y[i];
    }
}

void neon_dot_i8mm(const struct neon_tile *tile, const struct neon_format *format, uint32_t values,
                   const struct neon_input *x, uint32_t col, float *acc)
{
    uint32_t t = 0;
    for (; t + 2 <= x->tokens; t += 2)
        pair_tokens(tile, format, values, x, col, t, acc);
    if (t == x->tokens)
        return;
    const struct neon_input last = {x->q + (size_t)t * x->cols, x->d + (size_t)t * (x->cols / 32),
                                    x->sum + (size_t)t * (x->cols / 16), 1, x->cols};
    float y[NEON_TILE_ROWS] = {0};
    neon_dot_dotprod(tile, format, values, &last, col, y);
    for (uint32_t r = 0; r < NEON_TILE_ROWS; r++)
        acc[(size_t)r * x->tokens + t] += y[r];
}
