/* vnni_matmul_kernel.c: rounding and matrix products; compiled once per instruction set. */
#include "plugins/vnni/vnni_kernel.h"
#include "plugins/vnni/vnni_unpack.h"
#ifdef __AMX_INT8__
#include "plugins/vnni/vnni_tiles.h"
enum { UNPACKED_BIAS = 0 }; /* tiles multiply signed bytes */
#else
enum { UNPACKED_BIAS = CODE_BIAS };
#endif

enum { TOKENS = HALVES == 1 ? 16 : 4 };

/* ---- rounding of activations, by scalar.h ---- */

static float group_amax(const float *x)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i most = _mm256_setzero_si256();
    UNROLL for (int i = 0; i < 32; i += 8)
    {
        const __m256i bits = _mm256_castps_si256(_mm256_loadu_ps(x + i));
        most = _mm256_max_epi32(most, _mm256_and_si256(bits, magnitude));
    }
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
    return _mm_cvtss_f32(_mm_castsi128_ps(m));
}

static int32_t sum_lanes(__m128i v)
{
    v = _mm_add_epi32(v, _mm_shuffle_epi32(v, 0x4e));
    v = _mm_add_epi32(v, _mm_shuffle_epi32(v, 0xb1));
    return _mm_cvtsi128_si32(v);
}

/* Codes of 32 values; returns their scale and the sums of each 16. */
static float round_group(const float *x, int8_t *q, int32_t sum[2])
{
    const float amax = group_amax(x);
    const float scale = amax / 127.0f, inverse = 127.0f / amax;
    sum[0] = sum[1] = 0;
    if (!(amax <= 3.402823466e+38f) || !(inverse <= 3.402823466e+38f)) {
        _mm256_storeu_si256((__m256i *)q, _mm256_setzero_si256());
        return amax <= 3.402823466e+38f ? scale : __builtin_nanf("");
    }
    const __m256 by = _mm256_set1_ps(inverse);
    __m256i i[4];
    UNROLL for (int k = 0; k < 4; k++)
        i[k] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * k), by));
    const __m256i packed = _mm256_permutevar8x32_epi32(
        _mm256_packs_epi16(_mm256_packs_epi32(i[0], i[1]), _mm256_packs_epi32(i[2], i[3])),
        _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)q, packed);
    const __m256i fours = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), packed),
                                            _mm256_set1_epi16(1));
    sum[0] = sum_lanes(_mm256_castsi256_si128(fours));
    sum[1] = sum_lanes(_mm256_extracti128_si256(fours, 1));
    return scale;
}

static void put_bias(float *place, int32_t sum)
{
    const int32_t bias = -CODE_BIAS * sum;
    memcpy(place, &bias, sizeof bias);
}

void VNNI_KERNEL(round)(const struct vnni_input *in, const float *x, uint32_t first, uint32_t last)
{
    const uint32_t groups = in->cols / 32, width = in->width;
    for (uint32_t token = first; token < last; token++) {
        const size_t at = (size_t)(token / width) * groups * width + token % width;
        int8_t *q = in->q + at * 32;
        float *info = in->info + (size_t)(token / width) * groups * VNNI_INFO * width + token % width;
        for (uint32_t g = 0; g < groups; g++, q += 32 * (size_t)width, info += (size_t)VNNI_INFO * width) {
            int32_t sum[2] = {0, 0};
            float scale = 0;
            if (token < in->tokens)
                scale = round_group(x + (size_t)token * in->cols + 32 * g, q, sum);
            else
                memset(q, 0, 32);
            info[VNNI_SCALE * width] = scale;
            put_bias(info + VNNI_BIAS * width, sum[0] + sum[1]);
            put_bias(info + VNNI_BIAS_HALF * width, sum[0]);
            put_bias(info + (VNNI_BIAS_HALF + 1) * width, sum[1]);
            const int16_t pair[2] = {(int16_t)sum[0], (int16_t)sum[1]};
            memcpy(info + VNNI_PAIR * width, pair, sizeof pair);
            info[VNNI_SUM * width] = scale * (float)(sum[0] + sum[1]);
            info[VNNI_SUM_HALF * width] = scale * (float)sum[0];
            info[(VNNI_SUM_HALF + 1) * width] = scale * (float)sum[1];
        }
    }
}

/* ---- shared by the products ---- */

INLINE void store_rows(struct vnni_output out, uint32_t token, int half, VF sum)
{
    float *y = out.y + (size_t)token * out.stride + half * VF_LANES;
    const uint32_t start = (uint32_t)(half * VF_LANES);
    if (out.rows >= start + VF_LANES) {
        vf_store(y, sum);
        return;
    }
    float lanes[VF_LANES];
    vf_store(lanes, sum);
    for (uint32_t r = 0; start + r < out.rows; r++)
        y[r] = lanes[r];
}

INLINE VI bias_of(const float *p)
{
    int32_t bias;
    memcpy(&bias, p, sizeof bias);
    return CODE_BIAS == 0 ? vi_zero() : vi_set32(bias);
}

/* The codes of one group and their factors; counts as in struct vnni_shape. */
struct group {
    VI w[8];
    VF scale[2];
    VF minimum[2];
};

/* sum[t] += the group times token t < 4: q at [t][32], info with `stride` between its rows. Several
 * tokens keep independent additions in flight. */
INLINE void add_group(struct vnni_shape shape, const struct group *group, const int8_t *q,
                      const float *info, size_t stride, VF *sum)
{
    enum { count = 4 };
    const int is_split = shape.scales == 2;
    VI low[4], high[4];
    UNROLL for (uint32_t t = 0; t < count; t++)
    {
        low[t] = bias_of(info + (is_split ? VNNI_BIAS_HALF : VNNI_BIAS) * stride + t);
        high[t] = bias_of(info + (VNNI_BIAS_HALF + 1) * stride + t);
    }
    UNROLL for (int j = 0; j < 4; j++)
    {
        UNROLL for (uint32_t t = 0; t < count; t++)
        {
            low[t] = vi_dot(low[t], group->w[j], q + 32 * t + 4 * j);
            if (is_split)
                high[t] = vi_dot(high[t], group->w[j + 4], q + 32 * t + 16 + 4 * j);
        }
    }
    UNROLL for (int j = 4; j < 8 && !is_split; j++)
    {
        UNROLL for (uint32_t t = 0; t < count; t++)
            low[t] = vi_dot(low[t], group->w[j], q + 32 * t + 4 * j);
    }
    UNROLL for (uint32_t t = 0; t < count; t++)
    {
        const float *of = info + t;
        VF scaled = vf_mul(vf_from_32(low[t]), group->scale[0]);
        if (shape.scales == 2)
            scaled = vf_fma(vf_from_32(high[t]), group->scale[1], scaled);
        sum[t] = vf_fma(scaled, vf_set(of[VNNI_SCALE * stride]), sum[t]);
        if (shape.minimums == 1)
            sum[t] = vf_fnma(group->minimum[0], vf_set(of[VNNI_SUM * stride]), sum[t]);
        if (shape.minimums == 2) {
            sum[t] = vf_fnma(group->minimum[0], vf_set(of[VNNI_SUM_HALF * stride]), sum[t]);
            sum[t] = vf_fnma(group->minimum[1], vf_set(of[(VNNI_SUM_HALF + 1) * stride]), sum[t]);
        }
    }
}

INLINE struct vnni_shape shape_of(uint32_t type)
{
    return (struct vnni_shape){unpack_scales_of(type), unpack_minimums_of(type), type == HAL_NF4};
}

/* ---- one token: codes are used as they are unpacked ---- */

/* Where unsigned bytes are multiplied, codes keep the offset of their format and the sums begin at
 * -offset * (sum of activations), which is the bias of 128 shifted down. */
INLINE VI first_sum(uint32_t type, const float *bias)
{
    const int32_t offset = unpack_offset(type);
    if (CODE_BIAS == 0 || offset == 0)
        return vi_zero();
    return vi_sar32(bias_of(bias), 7 - __builtin_ctz((unsigned)offset));
}

/* The integer sums of columns 0..15 and 16..31. */
INLINE void dot_halves(uint32_t type, const VI w[8], const int8_t *q, const float *info, VI sum[2])
{
    sum[0] = first_sum(type, info + VNNI_BIAS_HALF);
    sum[1] = first_sum(type, info + VNNI_BIAS_HALF + 1);
    UNROLL for (int j = 0; j < 4; j++)
    {
        sum[0] = vi_dot(sum[0], w[j], q + 4 * j);
        sum[1] = vi_dot(sum[1], w[j + 4], q + 16 + 4 * j);
    }
}

/* y + one group of Q2_K or Q3_K: the sums of 16 fit int16, and so do their scales. */
INLINE VF add_pair(uint32_t type, const uint8_t *cell, uint32_t g, int half, const int8_t *q,
                   const float *info, VF y)
{
    VI w[8], sum[2], scale, minimum;
    unpack_pair_codes(type, cell, g, half, CODE_BIAS == 0 ? unpack_offset(type) : 0, w);
    unpack_pair_scales(type, cell, g, half, &scale, &minimum);
    dot_halves(type, w, q, info, sum);
    const VF total = vf_from_32(vi_dot16(vi_pair16(sum[0], sum[1]), scale));
    const VF x_scale = vf_set(info[VNNI_SCALE]);
    if (type == HAL_Q3_K)
        return vf_fma(vf_mul(total, vf_from_f16(unpack_factor(cell, 1728) + 16 * half)), x_scale, y);
    int32_t sums;
    memcpy(&sums, info + VNNI_PAIR, sizeof sums);
    const VF least = vf_from_32(vi_dot16(minimum, vi_set32(sums)));
    const VF d = vf_from_f16(cell + 1280 + 16 * half), dmin = vf_from_f16(cell + 1312 + 16 * half);
    return vf_fma(vf_fnma(least, dmin, vf_mul(total, d)), x_scale, y);
}

/* y + one group of another type. */
INLINE VF add_single(uint32_t type, const uint8_t *cell, uint32_t g, int half, const int8_t *q,
                     const float *info, VF y)
{
    VI w[8], sum[2];
    VF scale[2], minimum[2];
    unpack_codes(type, cell, g, half, CODE_BIAS == 0 ? 0 : unpack_offset(type), w);
    unpack_scales(type, cell, g, half, scale, minimum);
    dot_halves(type, w, q, info, sum);
    VF scaled;
    if (unpack_scales_of(type) == 1)
        scaled = vf_mul(vf_from_32(vi_add32(sum[0], sum[1])), scale[0]);
    else
        scaled = vf_fma(vf_from_32(sum[1]), scale[1], vf_mul(vf_from_32(sum[0]), scale[0]));
    y = vf_fma(scaled, vf_set(info[VNNI_SCALE]), y);
    if (unpack_minimums_of(type) == 1)
        y = vf_fnma(minimum[0], vf_set(info[VNNI_SUM]), y);
    return y;
}

enum { GROUP_LINES = 9 }; /* cache lines of a group, at most: Q8_0's */

INLINE void gemv_type(uint32_t type, const uint8_t *panel, const struct vnni_input *in,
                      struct vnni_output out)
{
    const uint32_t cell_groups = unpack_cell_groups(type), cell_bytes = unpack_cell_bytes(type);
    const uint32_t groups = in->cols / 32, lines = (cell_bytes + 63) / 64;
    VF sum[HALVES];
    for (int half = 0; half < HALVES; half++)
        sum[half] = vf_zero();
    for (uint32_t first = 0; first < groups; first += cell_groups, panel += cell_bytes) {
        UNROLL for (uint32_t g = 0; g < cell_groups; g++)
        {
            UNROLL for (uint32_t k = 0; k < GROUP_LINES; k++)
            {
                const uint32_t line = lines * g / cell_groups + k;
                if (line < lines * (g + 1) / cell_groups)
                    vi_prefetch(panel + 64 * line);
            }
            if (first + g >= groups) /* half a cell at the end of a row */
                break;
            const float *info = in->info + (size_t)(first + g) * VNNI_INFO;
            UNROLL for (int half = 0; half < HALVES; half++)
            {
                const int8_t *q = in->q + 32 * (first + g);
                sum[half] = unpack_is_paired(type)
                                ? add_pair(type, panel, g, half, q, info, sum[half])
                                : add_single(type, panel, g, half, q, info, sum[half]);
            }
        }
    }
    for (int half = 0; half < HALVES; half++)
        store_rows(out, 0, half, sum[half]);
}

/* ---- many tokens: panels are taken apart once ---- */

INLINE void unpack_type(uint32_t type, const uint8_t *panel, uint32_t cols, uint8_t *unpacked)
{
    const uint32_t cell_groups = unpack_cell_groups(type);
    const struct vnni_shape shape = shape_of(type);
    const uint32_t groups = cols / 32;
    for (uint32_t first = 0; first < groups; first += cell_groups) {
        UNROLL for (uint32_t g = 0; g < cell_groups; g++)
        {
            if (first + g >= groups)
                break;
            UNROLL for (int half = 0; half < HALVES; half++)
            {
                struct group group;
                uint8_t *to = unpacked + 32 * half;
                unpack_codes(type, panel, g, half, UNPACKED_BIAS, group.w);
                unpack_scales(type, panel, g, half, group.scale, group.minimum);
                UNROLL for (int j = 0; j < 8; j++)
                    vi_store(to + 64 * j, group.w[j]);
                for (uint32_t s = 0; s < shape.scales; s++)
                    vf_store(to + 512 + 64 * s, group.scale[s]);
                for (uint32_t m = 0; m < shape.minimums; m++)
                    vf_store(to + 512 + 64 * (shape.scales + m), group.minimum[m]);
            }
            unpacked += vnni_group_bytes(shape);
        }
        panel += unpack_cell_bytes(type);
    }
}

#ifdef __AMX_INT8__

INLINE void gemm_shape(struct vnni_shape shape, const uint8_t *unpacked, uint32_t panels,
                       const struct vnni_input *in, struct vnni_output out)
{
    tiles_gemm(shape, unpacked, panels, in, out);
}

#else

static inline void tiles_open(void)
{
}

static inline void tiles_close(void)
{
}

/* `count` tokens from `token` of a block times half a panel. */
INLINE void gemm_tokens(struct vnni_shape shape, const uint8_t *unpacked,
                        const struct vnni_input *in, uint32_t block, uint32_t token, uint32_t count,
                        int half, struct vnni_output out)
{
    const uint32_t groups = in->cols / 32;
    const size_t width = in->width;
    const int8_t *q = in->q + ((size_t)block * groups * width + token) * 32;
    const float *info = in->info + (size_t)block * groups * VNNI_INFO * width + token;
    unpacked += 32 * half;
    VF sum[TOKENS];
    UNROLL for (uint32_t t = 0; t < count; t++)
        sum[t] = vf_zero();
    for (uint32_t g = 0; g < groups; g++) {
        struct group group;
        UNROLL for (int j = 0; j < 8; j++)
            group.w[j] = vi_load(unpacked + 64 * j);
        for (uint32_t s = 0; s < shape.scales; s++)
            group.scale[s] = vf_load(unpacked + 512 + 64 * s);
        for (uint32_t m = 0; m < shape.minimums; m++)
            group.minimum[m] = vf_load(unpacked + 512 + 64 * (shape.scales + m));
        UNROLL for (uint32_t t = 0; t < count; t += 4)
            add_group(shape, &group, q + 32 * t, info + t, width, sum + t);
        q += 32 * width;
        info += VNNI_INFO * width;
        unpacked += vnni_group_bytes(shape);
    }
    UNROLL for (uint32_t t = 0; t < count; t++)
    {
        if (block * width + token + t < in->tokens)
            store_rows(out, (uint32_t)(block * width) + token + t, half, sum[t]);
    }
}

INLINE void gemm_block(struct vnni_shape shape, const uint8_t *unpacked, const struct vnni_input *in,
                       uint32_t block, struct vnni_output out)
{
    const uint32_t left = in->tokens - block * in->width;
    const uint32_t tokens = left < in->width ? left : in->width;
    for (int half = 0; half < HALVES; half++) {
        if (tokens > 8 && TOKENS == 16)
            gemm_tokens(shape, unpacked, in, block, 0, 16, half, out);
        else if (tokens > 4 && TOKENS == 16)
            gemm_tokens(shape, unpacked, in, block, 0, 8, half, out);
        else
            for (uint32_t token = 0; token < tokens; token += 4)
                gemm_tokens(shape, unpacked, in, block, token, 4, half, out);
    }
}

INLINE void gemm_shape(struct vnni_shape shape, const uint8_t *unpacked, uint32_t panels,
                       const struct vnni_input *in, struct vnni_output out)
{
    const uint32_t blocks = (in->tokens + in->width - 1) / in->width;
    const size_t panel_bytes = in->cols / 32 * vnni_group_bytes(shape);
    for (uint32_t block = 0; block < blocks; block++) {
        for (uint32_t p = 0; p < panels; p++)
            gemm_block(shape, unpacked + p * panel_bytes, in, block, vnni_output_panel(out, p));
    }
}

#endif

void VNNI_KERNEL(gemm)(struct vnni_shape shape, const uint8_t *unpacked, uint32_t panels,
                 const struct vnni_input *in, struct vnni_output out)
{
    tiles_open();
    if (shape.scales == 2)
        gemm_shape((struct vnni_shape){2, 0, 0}, unpacked, panels, in, out);
    else if (shape.is_long)
        gemm_shape((struct vnni_shape){1, 0, 1}, unpacked, panels, in, out);
    else if (shape.minimums == 0)
        gemm_shape((struct vnni_shape){1, 0, 0}, unpacked, panels, in, out);
    else if (shape.minimums == 1)
        gemm_shape((struct vnni_shape){1, 1, 0}, unpacked, panels, in, out);
    else
        gemm_shape((struct vnni_shape){1, 2, 0}, unpacked, panels, in, out);
    tiles_close();
}

/* ---- choosing the type ---- */

void VNNI_KERNEL(gemv)(uint32_t type, const uint8_t *panel, const struct vnni_input *in,
                 struct vnni_output out)
{
#define GEMV(t)                                                                                    \
    case t: gemv_type(t, panel, in, out); break;
    switch (type) { UNPACK_FOR_EACH_TYPE(GEMV) }
}

void VNNI_KERNEL(unpack)(uint32_t type, const uint8_t *panel, uint32_t cols, uint8_t *unpacked)
{
#define UNPACK(t)                                                                                  \
    case t: unpack_type(t, panel, cols, unpacked); break;
    switch (type) { UNPACK_FOR_EACH_TYPE(UNPACK) }
}
