/* hexagon_skel.c: the module that runs on the DSP. One source for the device (a shared object) and
 * for the emulator (linked into its program). Freestanding: no libc, no division.
 *
 * HVX has no float that every generation and the emulator share, so the vectors make the exact
 * integer sums and the scalar float unit, which all have, applies the scales.
 */
#include <hexagon_protos.h>
#include <hexagon_types.h>
#include <hvx_hexagon_protos.h>
#include <stddef.h>

#include "plugins/hexagon/hexagon_skel.h"

#define EXPORT __attribute__((visibility("default")))

static float half_to_float(uint32_t h)
{
    const uint32_t sign = (h & 0x8000u) << 16, exponent = h >> 10 & 31u, fraction = h & 0x3ffu;
    union {
        uint32_t bits;
        float value;
    } u;
    if (exponent == 0) { /* fraction * 2^-24 */
        u.bits = 0x33800000u;
        u.value *= (float)fraction;
        u.bits |= sign;
    } else {
        u.bits = sign | (exponent == 31 ? 255u : exponent + 112u) << 23 | fraction << 13;
    }
    return u.value;
}

/* Eight vectors of 32 rows by four values, from either format. */
static void load_group(uint32_t type, const uint8_t *group, HVX_Vector w[8])
{
    if (type == 8) {
        for (int j = 0; j < 8; j++)
            w[j] = *(const HVX_UVector *)(group + 128 * j);
        return;
    }
    const HVX_Vector nibble = Q6_V_vsplat_R(0x0f0f0f0f), eight = Q6_V_vsplat_R(0x08080808);
    for (int j = 0; j < 4; j++) {
        const HVX_Vector both = *(const HVX_UVector *)(group + 128 * j);
        const HVX_Vector high = Q6_V_vand_VV(Q6_Vuh_vlsr_VuhR(both, 4), nibble);
        w[j] = Q6_Vb_vsub_VbVb(Q6_V_vand_VV(both, nibble), eight);
        w[j + 4] = Q6_Vb_vsub_VbVb(high, eight);
    }
}

/* The products of one tile with all tokens; sums[token][row]. */
static void multiply_tile(const struct hexagon_shape *s, const int8_t *q, const float *d,
                          const uint8_t *tile, float (*sums)[HEXAGON_TILE_ROWS])
{
    const uint32_t groups = s->cols / HEXAGON_GROUP;
    const uint32_t bytes = s->type == 8 ? HEXAGON_Q8_GROUP_BYTES : HEXAGON_Q4_GROUP_BYTES;
    int32_t product[HEXAGON_TILE_ROWS] __attribute__((aligned(128)));
    for (uint32_t t = 0; t < s->tokens; t++)
        for (uint32_t r = 0; r < HEXAGON_TILE_ROWS; r++)
            sums[t][r] = 0;
    for (uint32_t g = 0; g < groups; g++, tile += bytes) {
        HVX_Vector w[8];
        float scale[HEXAGON_TILE_ROWS];
        const uint16_t *half = (const uint16_t *)(tile + bytes - 2 * HEXAGON_TILE_ROWS);
        load_group(s->type, tile, w);
        for (uint32_t r = 0; r < HEXAGON_TILE_ROWS; r++)
            scale[r] = half_to_float(half[r]);
        for (uint32_t t = 0; t < s->tokens; t++) {
            const int32_t *x = (const int32_t *)(q + (size_t)t * s->cols + g * HEXAGON_GROUP);
            HVX_Vector acc = Q6_V_vzero();
            for (int j = 0; j < 8; j++)
                acc = Q6_Vw_vrmpyacc_VwVbVb(acc, w[j], Q6_V_vsplat_R(x[j]));
            *(HVX_Vector *)product = acc;
            const float dx = d[(size_t)t * groups + g];
            for (uint32_t r = 0; r < HEXAGON_TILE_ROWS; r++)
                sums[t][r] += (float)product[r] * (dx * scale[r]);
        }
    }
}

/* Are the buffers as long as the shape wants? In 64 bits: a shape is the caller's. */
static int fits(const struct hexagon_shape *s, const union hexagon_arg *args)
{
    if ((s->type != 8 && s->type != 2) || s->tokens == 0 || s->tokens > HEXAGON_TOKENS_MAX ||
        s->rows == 0 || s->rows > HEXAGON_ROWS_MAX || s->cols == 0 || s->cols > HEXAGON_COLS_MAX ||
        s->cols % HEXAGON_GROUP)
        return 0;
    const uint64_t values = (uint64_t)s->tokens * s->cols;
    const uint64_t tiles = (s->rows + HEXAGON_TILE_ROWS - 1) >> 5;
    const uint64_t bytes = s->type == 8 ? HEXAGON_Q8_GROUP_BYTES : HEXAGON_Q4_GROUP_BYTES;
    return args[1].buffer.bytes >= values && args[2].buffer.bytes >= (values >> 5) * 4 &&
           args[3].buffer.bytes >= tiles * (s->cols >> 5) * bytes &&
           args[4].buffer.bytes >= (uint64_t)s->tokens * s->rows * 4;
}

static int matmul(const union hexagon_arg *args)
{
    static float sums[HEXAGON_TOKENS_MAX][HEXAGON_TILE_ROWS];
    if (args[0].buffer.bytes < sizeof(struct hexagon_shape))
        return HEXAGON_BAD_PARAMETER;
    const struct hexagon_shape s = *(const struct hexagon_shape *)args[0].buffer.data;
    if (!fits(&s, args))
        return HEXAGON_BAD_PARAMETER;
    const uint8_t *w = args[3].buffer.data;
    const uint32_t bytes = s.type == 8 ? HEXAGON_Q8_GROUP_BYTES : HEXAGON_Q4_GROUP_BYTES;
    float *y = args[4].buffer.data;
    for (uint32_t row = 0; row < s.rows; row += HEXAGON_TILE_ROWS) {
        const uint32_t rows = s.rows - row < HEXAGON_TILE_ROWS ? s.rows - row : HEXAGON_TILE_ROWS;
        multiply_tile(&s, args[1].buffer.data, args[2].buffer.data, w, sums);
        for (uint32_t t = 0; t < s.tokens; t++)
            for (uint32_t r = 0; r < rows; r++)
                y[(size_t)t * s.rows + row + r] = sums[t][r];
        w += (size_t)(s.cols >> 5) * bytes;
    }
    return 0;
}

EXPORT int tare_hexagon_skel_handle_invoke(uint64_t handle, uint32_t scalars,
                                           union hexagon_arg *args)
{
    (void)handle;
    switch (scalars) {
    case HEXAGON_SCALARS(HEXAGON_OPEN, 2, 0, 0, 1): args[2].handle = 1; return 0;
    case HEXAGON_SCALARS(HEXAGON_CLOSE, 0, 0, 1, 0): return 0;
    case HEXAGON_SCALARS(HEXAGON_INFO, 0, 1, 0, 0):
        if (args[0].buffer.bytes < sizeof(struct hexagon_info))
            return HEXAGON_BAD_PARAMETER;
        *(struct hexagon_info *)args[0].buffer.data =
            (struct hexagon_info){HEXAGON_VERSION, __HEXAGON_ARCH__, __HVX_LENGTH__};
        return 0;
    case HEXAGON_SCALARS(HEXAGON_MATMUL, 4, 1, 0, 0): return matmul(args);
    default: return HEXAGON_UNSUPPORTED;
    }
}
