/* device_cpu.c: CPUID with XGETBV on x86, HWCAP on ARM. */
#include "hal/device_cpu.h"

#include <string.h>
#include <sys/auxv.h>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif

static void own_cpuid(void *context, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    (void)context;
    memset(out, 0, 4 * sizeof *out);
#if defined(__x86_64__) || defined(__i386__)
    if (leaf <= (uint32_t)__get_cpuid_max(leaf & 0x80000000u, NULL))
        __cpuid_count(leaf, subleaf, out[0], out[1], out[2], out[3]);
#else
    (void)leaf;
    (void)subleaf;
#endif
}

static uint64_t own_xgetbv(void *context)
{
    (void)context;
#if defined(__x86_64__) || defined(__i386__)
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
#else
    return 0;
#endif
}

static uint32_t bit_of(uint32_t word, int bit, uint32_t feature)
{
    return word >> bit & 1u ? feature : 0;
}

/* Registers that the operating system saves, XCR0. */
enum { XCR0_AVX = 0x6, XCR0_AVX512 = 0xe6, XCR0_AMX = 0x60000 };

static uint32_t x86_features(const struct device_source *source, char *brand)
{
    void (*cpuid)(void *, uint32_t, uint32_t, uint32_t *) =
        source->cpuid != NULL ? source->cpuid : own_cpuid;
    uint64_t (*xgetbv)(void *) = source->xgetbv != NULL ? source->xgetbv : own_xgetbv;
    uint32_t one[4], seven[4], seven1[4], last[4];
    cpuid(source->context, 0, 0, last);
    if (last[0] == 0)
        return 0;
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t part[4];
        cpuid(source->context, 0x80000002u + i, 0, part);
        memcpy(brand + 16 * i, part, 16);
    }
    brand[48] = '\0';
    cpuid(source->context, 1, 0, one);
    uint32_t features = bit_of(one[2], 20, DEVICE_SSE42);
    if (last[0] < 7 || !(one[2] >> 27 & 1u)) /* OSXSAVE */
        return features;
    const uint64_t saved = xgetbv(source->context);
    cpuid(source->context, 7, 0, seven);
    cpuid(source->context, 7, 1, seven1);
    const int has_fma = (one[2] >> 12 & 1u) && (one[2] >> 29 & 1u); /* and F16C */
    if ((saved & XCR0_AVX) != XCR0_AVX || !has_fma || !(seven[1] >> 5 & 1u))
        return features;
    features |= DEVICE_AVX2 | bit_of(seven1[0], 4, DEVICE_AVX_VNNI) |
                bit_of(seven1[3], 4, DEVICE_AVX_VNNI_INT8);
    const uint32_t f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    if ((saved & XCR0_AVX512) == XCR0_AVX512 && (seven[1] & f_dq_bw_vl) == f_dq_bw_vl)
        features |= DEVICE_AVX512 | bit_of(seven[2], 11, DEVICE_AVX512_VNNI) |
                    bit_of(seven[2], 1, DEVICE_AVX512_VBMI) |
                    bit_of(seven1[0], 5, DEVICE_AVX512_BF16) |
                    bit_of(seven[3], 23, DEVICE_AVX512_FP16);
    if ((saved & XCR0_AMX) == XCR0_AMX && (seven[3] >> 24 & 1u))
        features |= bit_of(seven[3], 25, DEVICE_AMX_INT8) | bit_of(seven[3], 22, DEVICE_AMX_BF16);
    return features;
}

/* Linux, arch/arm64/include/uapi/asm/hwcap.h */
static uint32_t arm64_features(const struct device_source *source)
{
    const uint64_t one = source->has_hwcap ? source->hwcap[0] : getauxval(AT_HWCAP);
    const uint64_t two = source->has_hwcap ? source->hwcap[1] : getauxval(AT_HWCAP2);
    uint32_t features = one >> 1 & 1u ? DEVICE_NEON : 0;
    features |= one >> 20 & 1u ? DEVICE_DOTPROD : 0;
    features |= one >> 10 & 1u ? DEVICE_FP16 : 0;
    features |= one >> 22 & 1u ? DEVICE_SVE : 0;
    features |= two >> 1 & 1u ? DEVICE_SVE2 : 0;
    features |= two >> 13 & 1u ? DEVICE_I8MM : 0;
    features |= two >> 14 & 1u ? DEVICE_BF16 : 0;
    return features;
}

uint32_t device_cpu_features(const struct device_source *source, const char *machine, char *brand)
{
    brand[0] = '\0';
    if (strcmp(machine, "x86_64") == 0)
        return x86_features(source, brand);
    return strcmp(machine, "aarch64") == 0 ? arm64_features(source) : 0;
}
