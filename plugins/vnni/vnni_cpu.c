/* vnni_cpu.c: a CPUID bit alone does not say that the system saves the registers: XCR0 is asked too. */
#include "plugins/vnni/vnni_cpu.h"
#include "plugins/vnni/vnni.h"

#include <cpuid.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    ARCH_GET_XCOMP_SUPPORT = 0x1021,
    ARCH_REQUEST_XCOMP = 0x1023,
    XFEATURE_TILE_DATA = 18
};

static const uint64_t XCR0_YMM = 0x6, XCR0_ZMM = 0xe6, XCR0_TILES = 0x60000;

struct leaves {
    uint32_t l1_ecx;
    uint32_t l7_ebx, l7_ecx, l7_edx;
    uint32_t l71_eax;
    uint64_t xcr0;
};

static uint64_t read_xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static void read_leaves(struct leaves *out)
{
    uint32_t a, b, c, d;
    memset(out, 0, sizeof *out);
    if (!__get_cpuid(1, &a, &b, &c, &d))
        return;
    out->l1_ecx = c;
    if ((c >> 27 & 1) != 0) /* OSXSAVE */
        out->xcr0 = read_xcr0();
    uint32_t subleaves;
    if (!__get_cpuid_count(7, 0, &subleaves, &b, &c, &d))
        return;
    out->l7_ebx = b;
    out->l7_ecx = c;
    out->l7_edx = d;
    if (subleaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d))
        out->l71_eax = a;
}

static void read_device(char device[64])
{
    uint32_t words[13] = {0};
    uint32_t *w = words;
    strcpy(device, "x86");
    for (uint32_t leaf = 0x80000002u; leaf <= 0x80000004u; leaf++, w += 4) {
        if (!__get_cpuid(leaf, &w[0], &w[1], &w[2], &w[3]))
            return;
    }
    const char *brand = (const char *)words;
    brand += strspn(brand, " ");
    if (*brand != '\0')
        snprintf(device, 64, "%s", brand);
}

static int has_bit(uint32_t word, uint32_t bit)
{
    return (word >> bit & 1u) != 0;
}

static int has_tiles(const struct leaves *l)
{
    unsigned long supported = 0;
    if (!has_bit(l->l7_edx, 24) || !has_bit(l->l7_edx, 25) || !has_bit(l->l7_edx, 22) ||
        (l->xcr0 & XCR0_TILES) != XCR0_TILES)
        return 0;
    return syscall(SYS_arch_prctl, ARCH_GET_XCOMP_SUPPORT, &supported) == 0 &&
           (supported >> XFEATURE_TILE_DATA & 1ul) != 0;
}

void vnni_cpu_read(struct vnni_cpu *out)
{
    struct leaves l;
    memset(out, 0, sizeof *out);
    read_leaves(&l);
    read_device(out->device);
    /* FMA 12, F16C 29 of leaf 1; BMI1 3, AVX2 5, BMI2 8 of leaf 7 */
    if (!has_bit(l.l1_ecx, 12) || !has_bit(l.l1_ecx, 29) || !has_bit(l.l7_ebx, 5)) {
        strcpy(out->reason, "this processor has no AVX2 with FMA and F16C");
        return;
    }
    if ((l.xcr0 & XCR0_YMM) != XCR0_YMM) {
        strcpy(out->reason, "the system does not save the AVX registers");
        return;
    }
    out->paths = 1u << VNNI_AVX2;
    if (has_bit(l.l71_eax, 4))
        out->paths |= 1u << VNNI_AVXVNNI;
    /* F 16, DQ 17, BW 30, VL 31 of EBX; VNNI 11 of ECX */
    if (has_bit(l.l7_ebx, 16) && has_bit(l.l7_ebx, 17) && has_bit(l.l7_ebx, 30) &&
        has_bit(l.l7_ebx, 31) && has_bit(l.l7_ecx, 11) && (l.xcr0 & XCR0_ZMM) == XCR0_ZMM) {
        out->paths |= 1u << VNNI_AVX512;
        if (has_tiles(&l))
            out->paths |= 1u << VNNI_AMX;
    }
}

int vnni_cpu_request_tiles(void)
{
    return syscall(SYS_arch_prctl, ARCH_REQUEST_XCOMP, XFEATURE_TILE_DATA) == 0;
}
