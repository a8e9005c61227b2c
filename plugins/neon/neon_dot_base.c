/* neon_dot_base.c: dot products by widening multiplies, which every AArch64 CPU has. */
#include <arm_neon.h>

/* |a b| <= 128 * 127 and two of them fit in 16 bits only after widening, hence vpadal per half. */
static inline int32x4_t base_dot16(int32x4_t acc, int8x16_t a, int8x16_t b)
{
    acc = vpadalq_s16(acc, vmull_s8(vget_low_s8(a), vget_low_s8(b)));
    return vpadalq_s16(acc, vmull_high_s8(a, b));
}

#define NEON_DOT16 base_dot16
#define NEON_DOT neon_dot_base
#include "plugins/neon/neon_dot.h"
