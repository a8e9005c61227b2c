/* device_int8.c: multiply-adds of 8-bit integers in registers alone, with the best vector
 * instruction that the CPU has; what the fastest product could not exceed. AMX tiles are not
 * counted. */
#include "hal/device_int8.h"

#if defined(__x86_64__)
#include <immintrin.h>

/* Eight independent sums hide the latency; the volatile asm keeps the products from being hoisted.
 */
__attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni"))) static int32_t
run_avx512_vnni(uint32_t rounds)
{
    __m512i sum[8], x = _mm512_set1_epi8(3), y = _mm512_set1_epi8(5);
    for (int i = 0; i < 8; i++)
        sum[i] = _mm512_setzero_si512();
    for (uint32_t r = 0; r < rounds; r++) {
        __asm__ volatile("" : "+v"(x), "+v"(y));
        for (int i = 0; i < 8; i++)
            sum[i] = _mm512_dpbusd_epi32(sum[i], x, y);
    }
    for (int i = 1; i < 8; i++)
        sum[0] = _mm512_add_epi32(sum[0], sum[i]);
    return _mm512_reduce_add_epi32(sum[0]);
}

static int32_t lowest(__m128i v)
{
    return _mm_cvtsi128_si32(v);
}

__attribute__((target("avx2,avxvnni"))) static int32_t run_avx_vnni(uint32_t rounds)
{
    __m256i sum[8], x = _mm256_set1_epi8(3), y = _mm256_set1_epi8(5);
    for (int i = 0; i < 8; i++)
        sum[i] = _mm256_setzero_si256();
    for (uint32_t r = 0; r < rounds; r++) {
        __asm__ volatile("" : "+x"(x), "+x"(y));
        for (int i = 0; i < 8; i++)
            sum[i] = _mm256_dpbusd_avx_epi32(sum[i], x, y);
    }
    for (int i = 1; i < 8; i++)
        sum[0] = _mm256_add_epi32(sum[0], sum[i]);
    return lowest(_mm256_castsi256_si128(sum[0]));
}

__attribute__((target("avx2"))) static int32_t run_avx2(uint32_t rounds)
{
    __m256i sum[8], x = _mm256_set1_epi8(3), y = _mm256_set1_epi8(5);
    const __m256i ones = _mm256_set1_epi16(1);
    for (int i = 0; i < 8; i++)
        sum[i] = _mm256_setzero_si256();
    for (uint32_t r = 0; r < rounds; r++)
        for (int i = 0; i < 8; i++) {
            __asm__ volatile("" : "+x"(x), "+x"(y));
            sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), ones));
        }
    for (int i = 1; i < 8; i++)
        sum[0] = _mm256_add_epi32(sum[0], sum[i]);
    return lowest(_mm256_castsi256_si128(sum[0]));
}
#elif defined(__aarch64__)
#include <arm_neon.h>

__attribute__((target("arch=armv8.2-a+dotprod"))) static int32_t run_dotprod(uint32_t rounds)
{
    int32x4_t sum[8];
    int8x16_t x = vdupq_n_s8(3), y = vdupq_n_s8(5);
    for (int i = 0; i < 8; i++)
        sum[i] = vdupq_n_s32(0);
    for (uint32_t r = 0; r < rounds; r++) {
        __asm__ volatile("" : "+w"(x), "+w"(y));
        for (int i = 0; i < 8; i++)
            sum[i] = vdotq_s32(sum[i], x, y);
    }
    for (int i = 1; i < 8; i++)
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
        return (struct device_int8){run_avx512_vnni, 8 * 64};
    if (features & DEVICE_AVX_VNNI)
        return (struct device_int8){run_avx_vnni, 8 * 32};
    if (features & DEVICE_AVX2)
        return (struct device_int8){run_avx2, 8 * 32};
#elif defined(__aarch64__)
    if (features & DEVICE_DOTPROD)
        return (struct device_int8){run_dotprod, 8 * 16};
#endif
    (void)features;
    return (struct device_int8){run_plain, 128};
}
