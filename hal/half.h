/* half.h: 16-bit floats without ISA flags or libm, exact in both directions.
 * Source: IEEE 754-2008 binary16; bfloat16 is the upper half of binary32. */
#ifndef HALF_H
#define HALF_H

#include <stdint.h>
#include <string.h>

static inline float half_from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint32_t half_to_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* binary16 to F32, exact; subnormals and NaN included. */
static inline float half_f16_to_f32(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    const uint32_t exponent = (h >> 10) & 0x1fu;
    const uint32_t fraction = h & 0x3ffu;
    if (exponent == 0x1fu)
        return half_from_bits(sign | 0x7f800000u | fraction << 13);
    if (exponent != 0)
        return half_from_bits(sign | (exponent + 112u) << 23 | fraction << 13);
    const float magnitude = (float)fraction * 0x1p-24f; /* exact: 10 bits */
    return half_from_bits(sign | half_to_bits(magnitude));
}

/* F32 to binary16, nearest even; overflow gives infinity, NaN stays a quiet NaN. */
static inline uint16_t half_f32_to_f16(float f)
{
    const uint32_t bits = half_to_bits(f);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
    if (magnitude >= 0x477ff000u) /* rounds to 2^16 or more */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) { /* subnormal or 0: the addition rounds at bit 2^-24 */
        const float shifted = half_from_bits(magnitude) + 0.5f;
        return (uint16_t)(sign | (half_to_bits(shifted) - 0x3f000000u));
    }
    const uint32_t odd = (magnitude >> 13) & 1u;
    return (uint16_t)(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

static inline float half_bf16_to_f32(uint16_t h)
{
    return half_from_bits((uint32_t)h << 16);
}

/* F32 to bfloat16, nearest even; NaN stays a quiet NaN. */
static inline uint16_t half_f32_to_bf16(float f)
{
    const uint32_t bits = half_to_bits(f);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

#endif
