/* device_int8.c: multiply-adds of 8-bit integers in registers alone, with the best vector
 * instruction that the CPU has; what the fastest product could not exceed. AMX tiles are not
 * counted. */
#include "hal/device_int8.h"

/* Unrolled, or stores and loads of the sums are what is measured. Twelve sums hide a latency of five
 * cycles with two products in each. The volatile asm keeps products from being hoisted, and sums that
 * hold the same from being made one. */
#define UNROLL _Pragma("GCC unroll 12")
enum { SUMS = 12 };

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni"))) static int32_t
run_avx512_vnni(uint32_t rounds)
{
    __m512i sum[SUMS], x = _mm512_set1_epi8(3), y = _mm512_set1_epi8(5);
    UNROLL for (int i = 0; i < SUMS; i++)
        __asm__ volatile("vpxorq %0, %0, %0" : "=v"(sum[i]));
    for (uint32_t r = 0; r < rounds; r++) {
        __asm__ volatile("" : "+v"(x), "+v"(y));
        UNROLL for (int i = 0; i < SUMS; i++)
            sum[i] = _mm512_dpbusd_epi32(sum[i], x, y);
    }
    UNROLL for (int i = 1; i < SUMS; i++)
        sum[0] = _mm512_add_epi32(sum[0], sum[i]);
    return _mm512_reduce_add_epi32(sum[0]);
}

static int32_t lowest(__m128i v)
{
    return _mm_cvtsi128_si32(v);
}

__attribute__((target("avx2,avxvnni"))) static int32_t run_avx_vnni(uint32_t rounds)
{
    __m256i sum[SUMS], x = _mm256_set1_epi8(3), y = _mm256_set1_epi8(5);
    UNROLL for (int i = 0; i < SUMS; i++)
        __asm__ volatile("vpxor %0, %0, %0" : "=x"(sum[i]));
    for (uint32_t r = 0; r < rounds; r++) {
        __asm__ volatile("" : "+x"(x), "+x"(y));
        UNROLL for (int i = 0; i < SUMS; i++)
            sum[i] = _mm256_dpbusd_avx_epi32(sum[i], x, y);
    }
    UNROLL for (int i = 1; i < SUMS; i++)
        sum[0] = _mm256_add_epi32(sum[0], sum[i]);
    return lowest(_mm256_castsi256_si128(sum[0]));
}

__attribute__((target("avx2"))) static int32_t run_avx2(uint32_t rounds)
{
    __m256i sum[SUMS], x = _mm256_set1_epi8(3), y = _mm256_set1_epi8(5);
    const __m256i ones = _mm256_set1_epi16(1);
    UNROLL for (int i = 0; i < SUMS; i++)
        __asm__ volatile("vpxor %0, %0, %0" : "=x"(sum[i]));
    for (uint32_t r = 0; r < rounds; r++)
        UNROLL for (int i = 0; i < SUMS; i++)
        {
            __asm__ volatile("" : "+x"(x), "+x"(y));
            sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), ones));
        }
    UNROLL for (int i = 1; i < SUMS; i++)
        sum[0] = _mm256_add_epi32(sum[0], sum[i]);
    return lowest(_mm256_castsi256_si128(sum[0]));
}
#elif defined(__aarch64__)
#include <arm_neon.h>

__attribute__((target("arch=armv8.2-a+dotprod"))) static int32_t run_dotprod(uint32_t rounds)
{
    int32x4_t sum[SUMS];
    int8x16_t x = vdupq_n_s8(3), y = vdupq_n_s8(5);
    UNROLL for (int i = 0; i < SUMS; i++)
        __asm__ volatile("movi %0.16b, #0" : "=w"(sum[i]));
    for (uint32_t r = 0; r < rounds; r++) {
        __asm__ volatile("" : "+w"(x), "+w"(y));
        UNROLL for (int i = 0; i < SUMS; i++)
            sum[i] = vdotq_s32(sum[i], x, y);
    }
    UNROLL for (int i = 1; i < SUMS; i++)
        sum[0] = vaddq_s32(sum[0], sum[i]);
    return vaddvq_s32(sum[0]);
}
#endif

static int32_t run_plain(uint32_t rounds)
{
    int8_t x[128], y[128];
    int32_t sum = 0;
    for (int i = 0; i < 128; i++) {
        x[i] = 3;
        y[i] = 5;
    }
    for (uint32_t r = 0; r < rounds; r++) {
        __asm__ volatile("" : : "r"(x), "r"(y) : "memory");
        int32_t part = 0; /* or the whole would overflow */
        for (int i = 0; i < 128; i++)
            part += x[i] * y[i];
        sum = part + (sum & 0xffff);
    }
    return sum;
}

struct device_int8 device_int8_best(uint32_t features)
{
#if defined(__x86_64__)
    if (features & DEVICE_AVX512_VNNI)
        return (struct device_int8){run_avx512_vnni, SUMS * 64};
    if (features & DEVICE_AVX_VNNI)
        return (struct device_int8){run_avx_vnni, SUMS * 32};
    if (features & DEVICE_AVX2)
        return (struct device_int8){run_avx2, SUMS * 32};
#elif defined(__aarch64__)
    if (features & DEVICE_DOTPROD)
        return (struct device_int8){run_dotprod, SUMS * 16};
#endif
    (void)features;
    return (struct device_int8){run_plain, 128};
}
