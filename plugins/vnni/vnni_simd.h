/* vnni_simd.h: the few vector operations that the kernels are written in, 256 or 512 bits wide.
 *
 * Included by kernel files only, which are compiled once per instruction set. A vector of VF_LANES 32-bit
 * lanes stands for VF_LANES rows of a panel, four columns each; a panel of 16 rows is HALVES vectors.
 * CODE_BIAS is added to every code: 128 where the multiplier wants unsigned bytes, else 0.
 */
#ifndef VNNI_SIMD_H
#define VNNI_SIMD_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define UNROLL _Pragma("GCC unroll 16")
#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)

#define VI __m512i
#define VF __m512
enum { VF_LANES = 16, HALVES = 1 };

INLINE VI vi_load(const void *p) { return _mm512_loadu_si512(p); }
INLINE void vi_store(void *p, VI a) { _mm512_storeu_si512(p, a); }
INLINE VI vi_zero(void) { return _mm512_setzero_si512(); }
INLINE VI vi_set8(int a) { return _mm512_set1_epi8((char)a); }
INLINE VI vi_set32(int32_t a) { return _mm512_set1_epi32(a); }
INLINE VI vi_and(VI a, VI b) { return _mm512_and_si512(a, b); }
INLINE VI vi_or(VI a, VI b) { return _mm512_or_si512(a, b); }
INLINE VI vi_xor(VI a, VI b) { return _mm512_xor_si512(a, b); }
INLINE VI vi_add8(VI a, VI b) { return _mm512_add_epi8(a, b); }
INLINE VI vi_sub8(VI a, VI b) { return _mm512_sub_epi8(a, b); }
INLINE VI vi_add32(VI a, VI b) { return _mm512_add_epi32(a, b); }
INLINE VI vi_mul32(VI a, VI b) { return _mm512_mullo_epi32(a, b); }
INLINE VI vi_sub32(VI a, VI b) { return _mm512_sub_epi32(a, b); }
INLINE VI vi_shuffle8(VI table, VI index) { return _mm512_shuffle_epi8(table, index); }
INLINE VI vi_table(__m128i a) { return _mm512_broadcast_i32x4(a); }
#define vi_shr16(a, n) _mm512_srli_epi16(a, n)
#define vi_shl16(a, n) _mm512_slli_epi16(a, n)
/* b where a bit of mask is set in a, else 0 */
INLINE VI vi_if_bits(VI a, VI mask, VI b)
{
    return _mm512_maskz_mov_epi8(_mm512_test_epi8_mask(a, mask), b);
}
INLINE VI vi_bytes_to_32(const uint8_t *p) /* one byte of each lane, unsigned */
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
}
INLINE VI vi_signed_bytes_to_32(const uint8_t *p)
{
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p));
}
INLINE VI vi_bytes_to_16(const uint8_t *p) /* two bytes of each lane, unsigned */
{
    return _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)p));
}
INLINE VI vi_sub16(VI a, VI b) { return _mm512_sub_epi16(a, b); }
INLINE VI vi_dot16(VI a, VI b) { return _mm512_madd_epi16(a, b); } /* pairs of int16 */
INLINE VI vi_add_dot16(VI sum, VI a, VI b)
{
#if defined(__AVX512VNNI__)
    return _mm512_dpwssd_epi32(sum, a, b);
#else
    return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
#endif
}
INLINE VI vi_set16(int a) { return _mm512_set1_epi16((short)a); }
INLINE VI vi_mul16(VI a, VI b) { return _mm512_mullo_epi16(a, b); }
INLINE VI vi_round16(VI a, VI b) { return _mm512_mulhrs_epi16(a, b); } /* (a b + 2^14) >> 15 */
INLINE VI vi_clamp16(VI a, VI low, VI high) { return _mm512_min_epi16(_mm512_max_epi16(a, low), high); }
INLINE VI vi_pair16(VI low, VI high) /* the low halves of each lane */
{
    return _mm512_mask_blend_epi16(0xaaaaaaaau, low, _mm512_slli_epi32(high, 16));
}
#define vi_shr32(a, n) _mm512_srli_epi32(a, (unsigned)(n))
#define vi_sar32(a, n) _mm512_srai_epi32(a, (unsigned)(n))
INLINE VF vf_load(const void *p) { return _mm512_loadu_ps(p); }
INLINE void vf_store(void *p, VF a) { _mm512_storeu_ps(p, a); }
INLINE VF vf_zero(void) { return _mm512_setzero_ps(); }
INLINE VF vf_set(float a) { return _mm512_set1_ps(a); }
INLINE VF vf_add(VF a, VF b) { return _mm512_add_ps(a, b); }
INLINE VF vf_mul(VF a, VF b) { return _mm512_mul_ps(a, b); }
INLINE VF vf_fma(VF a, VF b, VF c) { return _mm512_fmadd_ps(a, b, c); }
INLINE VF vf_fnma(VF a, VF b, VF c) { return _mm512_fnmadd_ps(a, b, c); }
INLINE VF vf_sub(VF a, VF b) { return _mm512_sub_ps(a, b); }
INLINE VF vf_div(VF a, VF b) { return _mm512_div_ps(a, b); }
/* b where either is NaN */
INLINE VF vf_max(VF a, VF b) { return _mm512_max_ps(a, b); }
INLINE VF vf_min(VF a, VF b) { return _mm512_min_ps(a, b); }
INLINE float vf_sum(VF a) { return _mm512_reduce_add_ps(a); }
/* The first n lanes of memory; the others are 0 and not written. */
INLINE VF vf_load_part(const float *p, uint32_t n)
{
    return n >= 16 ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
INLINE void vf_store_part(float *p, VF a, uint32_t n)
{
    _mm512_mask_storeu_ps(p, (__mmask16)(n >= 16 ? 0xffffu : (1u << n) - 1u), a);
}
/* a in the first n lanes, b in the others */
INLINE VF vf_first(uint32_t n, VF a, VF b)
{
    return _mm512_mask_blend_ps((__mmask16)(n >= 16 ? 0xffffu : (1u << n) - 1u), b, a);
}
INLINE VI vi_from_f(VF a) { return _mm512_cvtps_epi32(a); } /* nearest even */
INLINE VF vf_power_of_two(VI n) /* 2^n, -126 <= n <= 127 */
{
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
}
INLINE VF vf_from_8(const int8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
INLINE VF vf_from_32(VI a) { return _mm512_cvtepi32_ps(a); }
INLINE VF vf_from_f16(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
INLINE VF vf_from_bf16(const void *p)
{
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}

/* Masks of lanes, and what they choose. Comparisons with NaN are false. */
#define VM __mmask16
INLINE VM vf_greater(VF a, VF b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
INLINE VM vf_at_most(VF a, VF b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
INLINE VM vf_equal(VF a, VF b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
INLINE VM vm_and(VM a, VM b) { return (VM)(a & b); }
INLINE VF vf_select(VM m, VF yes, VF no) { return _mm512_mask_blend_ps(m, no, yes); }
INLINE VF vf_if(VM m, VF a) { return _mm512_maskz_mov_ps(m, a); } /* else +0 */
INLINE VF vf_and_not(VM m, VF a) { return _mm512_maskz_mov_ps((VM)~m, a); }
INLINE VI vi_if(VM m, VI a) { return _mm512_maskz_mov_epi32(m, a); }
INLINE VF vf_abs(VF a) { return _mm512_abs_ps(a); }
INLINE VF vf_negate(VF a) { return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f)); }
#define vi_shl32(a, n) _mm512_slli_epi32(a, (unsigned)(n))
/* Entry index (0..15) of a table of 16. */
INLINE VF vf_entry(const VF table[2], VI index) { return _mm512_permutexvar_ps(index, table[0]); }
INLINE void vf_transpose(VF a[16])
{
    VF t[16];
    UNROLL for (int i = 0; i < 16; i += 4)
    {
        const VF p = _mm512_unpacklo_ps(a[i], a[i + 1]), q = _mm512_unpackhi_ps(a[i], a[i + 1]);
        const VF r = _mm512_unpacklo_ps(a[i + 2], a[i + 3]);
        const VF s = _mm512_unpackhi_ps(a[i + 2], a[i + 3]);
        t[i] = _mm512_shuffle_ps(p, r, 0x44);
        t[i + 1] = _mm512_shuffle_ps(p, r, 0xee);
        t[i + 2] = _mm512_shuffle_ps(q, s, 0x44);
        t[i + 3] = _mm512_shuffle_ps(q, s, 0xee);
    }
    UNROLL for (int i = 0; i < 4; i++)
    {
        const VF p = _mm512_shuffle_f32x4(t[i], t[i + 4], 0x88);
        const VF q = _mm512_shuffle_f32x4(t[i], t[i + 4], 0xdd);
        const VF r = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0x88);
        const VF s = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0xdd);
        a[i] = _mm512_shuffle_f32x4(p, r, 0x88);
        a[i + 8] = _mm512_shuffle_f32x4(p, r, 0xdd);
        a[i + 4] = _mm512_shuffle_f32x4(q, s, 0x88);
        a[i + 12] = _mm512_shuffle_f32x4(q, s, 0xdd);
    }
}

#else

#define VI __m256i
#define VF __m256
enum { VF_LANES = 8, HALVES = 2 };

INLINE VI vi_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE void vi_store(void *p, VI a) { _mm256_storeu_si256((__m256i *)p, a); }
INLINE VI vi_zero(void) { return _mm256_setzero_si256(); }
INLINE VI vi_set8(int a) { return _mm256_set1_epi8((char)a); }
INLINE VI vi_set32(int32_t a) { return _mm256_set1_epi32(a); }
INLINE VI vi_and(VI a, VI b) { return _mm256_and_si256(a, b); }
INLINE VI vi_or(VI a, VI b) { return _mm256_or_si256(a, b); }
INLINE VI vi_xor(VI a, VI b) { return _mm256_xor_si256(a, b); }
INLINE VI vi_add8(VI a, VI b) { return _mm256_add_epi8(a, b); }
INLINE VI vi_sub8(VI a, VI b) { return _mm256_sub_epi8(a, b); }
INLINE VI vi_add32(VI a, VI b) { return _mm256_add_epi32(a, b); }
INLINE VI vi_mul32(VI a, VI b) { return _mm256_mullo_epi32(a, b); }
INLINE VI vi_sub32(VI a, VI b) { return _mm256_sub_epi32(a, b); }
INLINE VI vi_shuffle8(VI table, VI index) { return _mm256_shuffle_epi8(table, index); }
INLINE VI vi_table(__m128i a) { return _mm256_broadcastsi128_si256(a); }
#define vi_shr16(a, n) _mm256_srli_epi16(a, n)
#define vi_shl16(a, n) _mm256_slli_epi16(a, n)
INLINE VI vi_if_bits(VI a, VI mask, VI b)
{
    const VI clear = _mm256_cmpeq_epi8(_mm256_and_si256(a, mask), _mm256_setzero_si256());
    return _mm256_andnot_si256(clear, b);
}
INLINE VI vi_bytes_to_32(const uint8_t *p)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
}
INLINE VI vi_signed_bytes_to_32(const uint8_t *p)
{
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p));
}
INLINE VI vi_bytes_to_16(const uint8_t *p)
{
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p));
}
INLINE VI vi_sub16(VI a, VI b) { return _mm256_sub_epi16(a, b); }
INLINE VI vi_dot16(VI a, VI b) { return _mm256_madd_epi16(a, b); }
INLINE VI vi_add_dot16(VI sum, VI a, VI b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }
INLINE VI vi_set16(int a) { return _mm256_set1_epi16((short)a); }
INLINE VI vi_mul16(VI a, VI b) { return _mm256_mullo_epi16(a, b); }
INLINE VI vi_round16(VI a, VI b) { return _mm256_mulhrs_epi16(a, b); }
INLINE VI vi_clamp16(VI a, VI low, VI high) { return _mm256_min_epi16(_mm256_max_epi16(a, low), high); }
INLINE VI vi_pair16(VI low, VI high)
{
    return _mm256_blend_epi16(low, _mm256_slli_epi32(high, 16), 0xaa);
}
#define vi_shr32(a, n) _mm256_srli_epi32(a, (int)(n))
#define vi_sar32(a, n) _mm256_srai_epi32(a, (int)(n))
INLINE VF vf_load(const void *p) { return _mm256_loadu_ps(p); }
INLINE void vf_store(void *p, VF a) { _mm256_storeu_ps(p, a); }
INLINE VF vf_zero(void) { return _mm256_setzero_ps(); }
INLINE VF vf_set(float a) { return _mm256_set1_ps(a); }
INLINE VF vf_add(VF a, VF b) { return _mm256_add_ps(a, b); }
INLINE VF vf_mul(VF a, VF b) { return _mm256_mul_ps(a, b); }
INLINE VF vf_fma(VF a, VF b, VF c) { return _mm256_fmadd_ps(a, b, c); }
INLINE VF vf_fnma(VF a, VF b, VF c) { return _mm256_fnmadd_ps(a, b, c); }
INLINE VF vf_sub(VF a, VF b) { return _mm256_sub_ps(a, b); }
INLINE VF vf_div(VF a, VF b) { return _mm256_div_ps(a, b); }
INLINE VF vf_max(VF a, VF b) { return _mm256_max_ps(a, b); }
INLINE VF vf_min(VF a, VF b) { return _mm256_min_ps(a, b); }
INLINE float vf_sum(VF a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
INLINE __m256i vi_first_lanes(uint32_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n > 8 ? 8 : (int)n),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
/* Not maskload: emulators read all of its lanes. */
INLINE VF vf_load_part(const float *p, uint32_t n)
{
    if (n >= 8)
        return _mm256_loadu_ps(p);
    float part[8] = {0};
    memcpy(part, p, n * sizeof *part);
    return _mm256_loadu_ps(part);
}
INLINE void vf_store_part(float *p, VF a, uint32_t n)
{
    if (n >= 8) {
        _mm256_storeu_ps(p, a);
        return;
    }
    float part[8];
    _mm256_storeu_ps(part, a);
    memcpy(p, part, n * sizeof *part);
}
INLINE VF vf_first(uint32_t n, VF a, VF b)
{
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(vi_first_lanes(n)));
}
INLINE VI vi_from_f(VF a) { return _mm256_cvtps_epi32(a); }
INLINE VF vf_power_of_two(VI n)
{
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
INLINE VF vf_from_8(const int8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
INLINE VF vf_from_32(VI a) { return _mm256_cvtepi32_ps(a); }
INLINE VF vf_from_f16(const void *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
INLINE VF vf_from_bf16(const void *p)
{
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}

#define VM __m256
INLINE VM vf_greater(VF a, VF b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
INLINE VM vf_at_most(VF a, VF b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
INLINE VM vf_equal(VF a, VF b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
INLINE VM vm_and(VM a, VM b) { return _mm256_and_ps(a, b); }
INLINE VF vf_select(VM m, VF yes, VF no) { return _mm256_blendv_ps(no, yes, m); }
INLINE VF vf_if(VM m, VF a) { return _mm256_and_ps(m, a); }
INLINE VF vf_and_not(VM m, VF a) { return _mm256_andnot_ps(m, a); }
INLINE VI vi_if(VM m, VI a) { return _mm256_and_si256(_mm256_castps_si256(m), a); }
INLINE VF vf_abs(VF a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
INLINE VF vf_negate(VF a) { return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f)); }
#define vi_shl32(a, n) _mm256_slli_epi32(a, n)
INLINE VF vf_entry(const VF table[2], VI index)
{
    const VF low = _mm256_permutevar8x32_ps(table[0], index);
    const VF high = _mm256_permutevar8x32_ps(table[1], index);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}
INLINE void vf_transpose(VF a[8])
{
    VF t[8];
    UNROLL for (int i = 0; i < 8; i += 4)
    {
        const VF p = _mm256_unpacklo_ps(a[i], a[i + 1]), q = _mm256_unpackhi_ps(a[i], a[i + 1]);
        const VF r = _mm256_unpacklo_ps(a[i + 2], a[i + 3]);
        const VF s = _mm256_unpackhi_ps(a[i + 2], a[i + 3]);
        t[i] = _mm256_shuffle_ps(p, r, 0x44);
        t[i + 1] = _mm256_shuffle_ps(p, r, 0xee);
        t[i + 2] = _mm256_shuffle_ps(q, s, 0x44);
        t[i + 3] = _mm256_shuffle_ps(q, s, 0xee);
    }
    UNROLL for (int i = 0; i < 4; i++)
    {
        a[i] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x20);
        a[i + 4] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x31);
    }
}

#endif

/* What follows `line` in a stream of weights: far ahead into the second cache,
 * which has the most buffers for misses, and from there into the first. One line at a time between other
 * work: a burst takes every buffer that a miss needs. */
INLINE void vi_prefetch(const uint8_t *line)
{
    enum { FAR_BYTES = 8192, NEAR_BYTES = 1024 };
    _mm_prefetch((const char *)line + FAR_BYTES, _MM_HINT_T1);
    _mm_prefetch((const char *)line + NEAR_BYTES, _MM_HINT_T0);
}

/* e^x within 2 units of the last place between -87.3 and 88.3, clamped there; NaN stays NaN. Cody-Waite
 * reduction to |r| <= ln 2 / 2 and the Taylor polynomial of degree 7. */
INLINE VF vf_exp(VF x)
{
    x = vf_min(vf_set(88.3f), vf_max(vf_set(-87.3f), x));
    const VI n = vi_from_f(vf_mul(x, vf_set(1.44269504f)));
    const VF whole = vf_from_32(n);
    const VF r = vf_fnma(whole, vf_set(-2.12194440e-4f), vf_fnma(whole, vf_set(0.693359375f), x));
    VF p = vf_set(1.0f / 5040);
    p = vf_fma(p, r, vf_set(1.0f / 720));
    p = vf_fma(p, r, vf_set(1.0f / 120));
    p = vf_fma(p, r, vf_set(1.0f / 24));
    p = vf_fma(p, r, vf_set(1.0f / 6));
    p = vf_fma(p, r, vf_set(0.5f));
    p = vf_fma(p, r, vf_set(1.0f));
    p = vf_fma(p, r, vf_set(1.0f));
    return vf_mul(p, vf_power_of_two(n));
}

/* vi_dot: acc + in each lane the products of four codes and the four activations at p, exact. */
#if defined(__AVX512VNNI__)
enum { CODE_BIAS = 128 };
struct vi_four {
    int8_t columns[4];
};
INLINE VI vi_dot(VI acc, VI codes, const int8_t *p)
{
    /* gcc 12 does not broadcast from memory within the instruction by itself */
    __asm__("vpdpbusd %2%{1to16%}, %1, %0"
            : "+v"(acc)
            : "v"(codes), "m"(*(const struct vi_four *)(const void *)p));
    return acc;
}
#else
INLINE VI vi_columns(const int8_t *p)
{
    int32_t four;
    memcpy(&four, p, sizeof four);
    return vi_set32(four);
}
#if defined(__AVXVNNI__)
enum { CODE_BIAS = 128 };
INLINE VI vi_dot(VI acc, VI codes, const int8_t *p)
{
    return _mm256_dpbusd_epi32(acc, codes, vi_columns(p));
}
#else
enum { CODE_BIAS = 0 };
/* The pair sums of maddubs cannot saturate: |code| <= 128 and |x| <= 127 give at most 32512. */
INLINE VI vi_dot(VI acc, VI codes, const int8_t *p)
{
    const VI x = _mm256_sign_epi8(vi_columns(p), codes);
    const VI pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(codes), x);
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
#endif
#endif

#endif
