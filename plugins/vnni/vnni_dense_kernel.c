/* vnni_dense_kernel.c: weights of F32, F16 and BF16, and single rows of any type; compiled once per
 * instruction set. */
#include "plugins/vnni/vnni_kernel.h"
#include "plugins/vnni/vnni_unpack.h"

#include "hal/half.h"

enum { TOKENS = HALVES == 1 ? 16 : 4 };

INLINE void put_rows(struct vnni_output out, uint32_t token, int half, VF sum)
{
    const uint32_t start = (uint32_t)(half * VF_LANES);
    if (out.rows > start)
        vf_store_part(out.y + (size_t)token * out.stride + start, sum, out.rows - start);
}

/* ---- F32, F16 and BF16 weights ---- */

INLINE VF dense_load(uint32_t type, const uint8_t *panel, uint32_t column, int half)
{
    const size_t at = (size_t)column * VNNI_ROWS + (size_t)(half * VF_LANES);
    if (type == HAL_F32)
        return vf_load(panel + 4 * at);
    return type == HAL_F16 ? vf_from_f16(panel + 2 * at) : vf_from_bf16(panel + 2 * at);
}

/* `count` tokens; `chains` partial sums each, to hide the latency of the additions. */
INLINE void dense_tokens(uint32_t type, const uint8_t *panel, const float *x, uint32_t cols,
                         uint32_t token, uint32_t count, uint32_t chains, int half,
                         struct vnni_output out)
{
    VF sum[TOKENS];
    x += (size_t)token * cols;
    UNROLL for (uint32_t i = 0; i < count * chains; i++)
        sum[i] = vf_zero();
    const uint32_t bytes = (type == HAL_F32 ? 4u : 2u) * VNNI_ROWS * chains;
    uint32_t column = 0;
    for (; column + chains <= cols; column += chains) {
        for (uint32_t line = 0; count == 1 && half == 0 && line < bytes; line += 64)
            vi_prefetch(panel + (size_t)column / chains * bytes + line);
        UNROLL for (uint32_t c = 0; c < chains; c++)
        {
            const VF w = dense_load(type, panel, column + c, half);
            UNROLL for (uint32_t t = 0; t < count; t++)
                sum[t * chains + c] = vf_fma(w, vf_set(x[(size_t)t * cols + column + c]),
                                             sum[t * chains + c]);
        }
    }
    for (; column < cols; column++) {
        const VF w = dense_load(type, panel, column, half);
        UNROLL for (uint32_t t = 0; t < count; t++)
            sum[t * chains] = vf_fma(w, vf_set(x[(size_t)t * cols + column]), sum[t * chains]);
    }
    UNROLL for (uint32_t t = 0; t < count; t++)
    {
        for (uint32_t c = 1; c < chains; c++)
            sum[t * chains] = vf_add(sum[t * chains], sum[t * chains + c]);
        put_rows(out, token + t, half, sum[t * chains]);
    }
}

INLINE void dense_type(uint32_t type, const uint8_t *panel, const float *x, uint32_t cols,
                       uint32_t first, uint32_t last, struct vnni_output out)
{
    for (int half = 0; half < HALVES; half++) {
        uint32_t token = first;
        for (; token + TOKENS <= last; token += TOKENS)
            dense_tokens(type, panel, x, cols, token, TOKENS, 1, half, out);
        for (; token + 4 <= last; token += 4)
            dense_tokens(type, panel, x, cols, token, 4, TOKENS / 4, half, out);
        for (; token < last; token++)
            dense_tokens(type, panel, x, cols, token, 1, 4, half, out);
    }
}

void VNNI_KERNEL(dense)(uint32_t type, const uint8_t *panel, const float *x, uint32_t cols, uint32_t first,
                  uint32_t last, struct vnni_output out)
{
    if (type == HAL_F32)
        dense_type(HAL_F32, panel, x, cols, first, last, out);
    else if (type == HAL_F16)
        dense_type(HAL_F16, panel, x, cols, first, last, out);
    else
        dense_type(HAL_BF16, panel, x, cols, first, last, out);
}

#ifdef __AMX_BF16__
#include "plugins/vnni/vnni_dense_tiles.h"
#endif

/* ---- one row of a panel ---- */

INLINE void row_q3_scales(const uint8_t *panel, uint32_t g, int half, VF scale[2])
{
    VI pair, minimum;
    unpack_pair_scales(HAL_Q3_K, panel, g, half, &pair, &minimum);
    const VF d = vf_from_f16(unpack_factor(panel, 1728) + 16 * half);
    scale[0] = vf_mul(d, vf_from_32(vi_sar32(vi_shl32(pair, 16), 16)));
    scale[1] = vf_mul(d, vf_from_32(vi_sar32(pair, 16)));
}

/* The product of scale and code is exact or rounded once, as decode rounds it. */
INLINE void row_type(uint32_t type, const uint8_t *panel, uint32_t cols, uint32_t r, float *x)
{
    const uint32_t cell_groups = unpack_cell_groups(type), groups = cols / 32;
    const int half = (int)r / VF_LANES;
    const uint32_t lane = r % VF_LANES;
    const uint32_t scales = type == HAL_Q3_K ? 2 : unpack_scales_of(type), minimums = unpack_minimums_of(type);
    for (uint32_t first = 0; first < groups; first += cell_groups, panel += unpack_cell_bytes(type)) {
        UNROLL for (uint32_t g = 0; g < cell_groups; g++)
        {
            if (first + g >= groups)
                break;
            VI w[8];
            VF factor[2], least[2];
            int8_t codes[8][4 * VF_LANES];
            float scale[2][VF_LANES], minimum[2][VF_LANES];
            int8_t mine[32];
            if (type == HAL_Q3_K) { /* apart, because a product of 0 keeps the signs of both */
                unpack_pair_codes(type, panel, g, half, unpack_offset(type), w);
                row_q3_scales(panel, g, half, factor);
            } else {
                unpack_codes(type, panel, g, half, 0, w);
                unpack_scales(type, panel, g, half, factor, least);
            }
            UNROLL for (int j = 0; j < 8; j++)
            {
                vi_store(codes[j], w[j]);
                memcpy(mine + 4 * j, codes[j] + 4 * lane, 4);
            }
            for (uint32_t s = 0; s < scales; s++)
                vf_store(scale[s], factor[s]);
            for (uint32_t m = 0; m < minimums; m++)
                vf_store(minimum[m], least[m]);
            UNROLL for (uint32_t i = 0; i < 32; i += VF_LANES)
            {
                VF value = vf_mul(vf_from_8(mine + i), vf_set(scale[scales == 2 ? i / 16 : 0][lane]));
                if (minimums != 0)
                    value = vf_sub(value, vf_set(minimum[minimums == 2 ? i / 16 : 0][lane]));
                vf_store(x + 32 * (first + g) + i, value);
            }
        }
    }
}

static void row_dense(uint32_t type, const uint8_t *panel, uint32_t cols, uint32_t r, float *x)
{
    for (uint32_t c = 0; c < cols; c++) {
        const size_t at = (size_t)c * VNNI_ROWS + r;
        uint16_t bits;
        if (type == HAL_F32) {
            memcpy(&x[c], panel + 4 * at, 4);
            continue;
        }
        memcpy(&bits, panel + 2 * at, sizeof bits);
        x[c] = type == HAL_F16 ? _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)))
                               : half_bf16_to_f32(bits);
    }
}

void VNNI_KERNEL(row)(uint32_t type, const uint8_t *panel, uint32_t cols, uint32_t r, float *x)
{
#define ROW(t)                                                                                     \
    case t: row_type(t, panel, cols, r, x); break;
    switch (type) {
        UNPACK_FOR_EACH_TYPE(ROW)
    default: row_dense(type, panel, cols, r, x);
    }
}
