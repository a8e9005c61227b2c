/* vnni_attend_tiles.h: how keys, values, queries and weights lie in the tiles of vnni_attend_tiles.c.
 *
 * A BF16 has 8 bits of mantissa: an F32 query is the exact sum of three, a key or value of F16 or Q4_0 of two, a key
 * of Q8_0 of three. A weight, and a value of Q8_0, is the sum of two within 2^-18. Products of BF16 are exact in
 * F32; those below 2^-17 of the whole are left out. A pair of a tile holds the values l and l + 16 of 32, so
 * that whole vectors are paired without shuffling.
 */
#ifndef VNNI_ATTEND_TILES_H
#define VNNI_ATTEND_TILES_H

#include "plugins/vnni/vnni_simd.h"

#include "hal/half.h"
#include "plugins/vnni/vnni.h"

enum {
    ATTEND_TILE = 16 * 64,       /* bytes */
    ATTEND_PARTS = 2 * ATTEND_TILE,
    ATTEND_QUERY_PARTS = 3 * ATTEND_TILE,
    ATTEND_PAIRED = 32           /* values of a row of a tile */
};

static inline uint32_t attend_key_parts(uint32_t type)
{
    return type == HAL_Q8_0 ? 3 : 2;
}

INLINE __m512i attend_pair(__m512i a, __m512i b) /* the upper halves of both */
{
    return _mm512_ternarylogic_epi32(_mm512_srli_epi32(a, 16), b, _mm512_set1_epi32((int)0xffff0000), 0xd8);
}

INLINE __m512 attend_upper(__m512 a) /* as BF16, rounded to 0 */
{
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32((int)0xffff0000)));
}

INLINE __m512 attend_nearest(__m512 a) /* as BF16 with bits below, ties away from 0 */
{
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), _mm512_set1_epi32(0x8000)));
}

INLINE void attend_store(uint8_t *to, __m512 a, __m512 b)
{
    _mm512_storeu_si512(to, attend_pair(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}

/* The parts of a in the lower halves, of b in the upper ones, a tile apart: each what is left, rounded to 0. */
INLINE void attend_cut(__m512 a, __m512 b, uint32_t parts, uint8_t *to)
{
    for (uint32_t part = 0; part < parts; part++, to += ATTEND_TILE) {
        attend_store(to, a, b);
        a = _mm512_sub_ps(a, attend_upper(a));
        b = _mm512_sub_ps(b, attend_upper(b));
    }
}

/* Two parts, both the nearest; is_exact: they are the whole. */
INLINE void attend_split(__m512 a, __m512 b, int is_exact, uint8_t *to)
{
    const __m512 a1 = attend_nearest(a), b1 = attend_nearest(b);
    const __m512 a2 = _mm512_sub_ps(a, attend_upper(a1)), b2 = _mm512_sub_ps(b, attend_upper(b1));
    attend_store(to, a1, b1);
    attend_store(to + ATTEND_TILE, is_exact ? a2 : attend_nearest(a2), is_exact ? b2 : attend_nearest(b2));
}

INLINE float attend_half(const uint8_t *p)
{
    uint16_t half;
    memcpy(&half, p, sizeof half);
    return half_f16_to_f32(half);
}

/* Columns c .. c + 31 of a head at p; zeros beyond dim, of which nothing is read. */
INLINE void attend_load(uint32_t type, const uint8_t *p, uint32_t c, uint32_t dim, __m512 *a, __m512 *b)
{
    if (type == HAL_F16) {
        const uint32_t left = dim - c;
        p += 2 * (size_t)c;
        if (left >= ATTEND_PAIRED) {
            *a = vf_from_f16(p);
            *b = vf_from_f16(p + 32);
            return;
        }
        const uint32_t mask = (1u << left) - 1u;
        *a = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16((__mmask16)mask, p));
        *b = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16((__mmask16)(mask >> 16), p + 32));
        return;
    }
    p += c / 32 * (size_t)(type == HAL_Q8_0 ? 34 : 18);
    const __m512 scale = _mm512_set1_ps(attend_half(p));
    const __m128i codes = _mm_loadu_si128((const __m128i *)(const void *)(p + 2));
    __m128i first = codes, second;
    if (type == HAL_Q8_0) {
        second = _mm_loadu_si128((const __m128i *)(const void *)(p + 18));
    } else {
        const __m128i low = _mm_set1_epi8(15), eight = _mm_set1_epi8(8);
        first = _mm_sub_epi8(_mm_and_si128(codes, low), eight);
        second = _mm_sub_epi8(_mm_and_si128(_mm_srli_epi16(codes, 4), low), eight);
    }
    *a = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(first)), scale);
    *b = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(second)), scale);
}

/* One key to its row of tiles. */
INLINE void attend_key(uint32_t type, const uint8_t *p, uint32_t dim, uint8_t *to)
{
    const uint32_t parts = attend_key_parts(type);
    for (uint32_t c = 0; c < dim; c += ATTEND_PAIRED, to += parts * ATTEND_TILE) {
        __m512 a, b;
        attend_load(type, p, c, dim, &a, &b);
        attend_cut(a, b, parts, to);
    }
}

/* Two values, 16 slots apart, to their row of the tiles of 16 columns each; second NULL: zeros. */
INLINE void attend_values(uint32_t type, const uint8_t *first, const uint8_t *second, uint32_t dim, uint8_t *to)
{
    for (uint32_t c = 0; c < dim; c += ATTEND_PAIRED, to += 2 * ATTEND_PARTS) {
        __m512 a[2], b[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        attend_load(type, first, c, dim, &a[0], &a[1]);
        if (second != NULL)
            attend_load(type, second, c, dim, &b[0], &b[1]);
        attend_split(a[0], b[0], type != HAL_Q8_0, to);
        attend_split(a[1], b[1], type != HAL_Q8_0, to + ATTEND_PARTS);
    }
}

/* 16 queries (NULL: none) times `scale` to tiles of pairs x queries. */
static void attend_queries(const float *const q[16], uint32_t dim, float scale, uint8_t *to)
{
    for (uint32_t c = 0; c < dim; c += ATTEND_PAIRED, to += ATTEND_QUERY_PARTS) {
        __m512 half[2][16];
        for (uint32_t h = 0; h < 2; h++) {
            const uint32_t left = dim > c + 16 * h ? dim - c - 16 * h : 0;
            for (uint32_t i = 0; i < 16; i++)
                half[h][i] = q[i] != NULL && left != 0
                                 ? _mm512_mul_ps(vf_load_part(q[i] + c + 16 * h, left), _mm512_set1_ps(scale))
                                 : _mm512_setzero_ps();
            vf_transpose(half[h]);
        }
        for (uint32_t l = 0; l < 16; l++)
            attend_cut(half[0][l], half[1][l], 3, to + 64 * l);
    }
}

#endif
