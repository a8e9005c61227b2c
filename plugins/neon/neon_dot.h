/* neon_dot.h: the body of neon_dot_base and neon_dot_dotprod, over a 16-value integer dot product that
 * the including file names NEON_DOT16(acc, a, b) and a function name NEON_DOT. One source, so that the
 * levels cannot drift apart. */
#include "plugins/neon/neon_tile.h"

#include <arm_neon.h>

/* acc += the tile's 32 values at v times x's, scaled; four rows share each load of x. */
static inline void dot_group(const struct neon_tile *tile, uint32_t v, int is_fine, const int8_t *q, float d,
                             float32x4_t acc[NEON_TILE_ROWS])
{
    const int8x16_t q0 = vld1q_s8(q), q1 = vld1q_s8(q + 16);
    const uint32_t g = v / 16;
    for (uint32_t r = 0; r < NEON_TILE_ROWS; r++) {
        const int32x4_t zero = vdupq_n_s32(0);
        const int32x4_t low = NEON_DOT16(zero, vld1q_s8(tile[r].level + v), q0);
        const int8x16_t w1 = vld1q_s8(tile[r].level + v + 16);
        if (is_fine) {
            const int32x4_t high = NEON_DOT16(zero, w1, q1);
            acc[r] = vfmaq_n_f32(acc[r], vcvtq_f32_s32(low), tile[r].scale[g] * d);
            acc[r] = vfmaq_n_f32(acc[r], vcvtq_f32_s32(high), tile[r].scale[g + 1] * d);
        } else {
            acc[r] = vfmaq_n_f32(acc[r], vcvtq_f32_s32(NEON_DOT16(low, w1, q1)), tile[r].scale[g] * d);
        }
    }
}

void NEON_DOT(const struct neon_tile *tile, const struct neon_format *format, uint32_t values,
              const struct neon_input *x, uint32_t col, float *acc)
{
    for (uint32_t t = 0; t < x->tokens; t++) {
        const int8_t *q = x->q + (size_t)t * x->cols + col;
        const float *d = x->d + (size_t)t * (x->cols / 32) + col / 32;
        const int32_t *sum = x->sum + (size_t)t * (x->cols / 16) + col / 16;
        float32x4_t part[NEON_TILE_ROWS];
        for (uint32_t r = 0; r < NEON_TILE_ROWS; r++)
            part[r] = vdupq_n_f32(0);
        for (uint32_t v = 0; v < values; v += 32)
            dot_group(tile, v, format->is_fine, q + v, d[v / 32], part);
        for (uint32_t r = 0; r < NEON_TILE_ROWS; r++) {
            float y = vaddvq_f32(part[r]);
            if (format->has_minimum)
                for (uint32_t g = 0; g < values / 16; g++)
                    y -= tile[r].minimum[g] * (d[g / 2] * (float)sum[g]);
            acc[(size_t)r * x->tokens + t] += y;
        }
    }
}
