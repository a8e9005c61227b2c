/* cbor_float.c: exact narrowing of floats. */
#include "protocol/cbor_float.h"

#include <float.h>
#include <string.h>

enum { F32_BIAS = 127, F16_BIAS = 15, MANTISSA_GAP = 23 - 10 };

bool cbor_float_half(float value, uint16_t *bits)
{
    uint32_t u;
    memcpy(&u, &value, sizeof u);
    uint32_t sign = u >> 31 << 15;
    uint32_t mantissa = u & 0x7fffff;
    int32_t exponent = (int32_t)(u >> 23 & 0xff) - F32_BIAS;
    if ((u & 0x7fffffff) == 0) {
        *bits = (uint16_t)sign;
        return true;
    }
    if (exponent > F16_BIAS || exponent < -24)
        return false;
    uint32_t low = MANTISSA_GAP; /* bits of the mantissa that binary16 has no room for */
    uint32_t biased = 0;
    if (exponent >= 1 - F16_BIAS) {
        biased = (uint32_t)(exponent + F16_BIAS);
    } else {
        low += (uint32_t)(1 - F16_BIAS - exponent);
        mantissa |= 0x800000;
    }
    if (mantissa & ((1u << low) - 1))
        return false;
    *bits = (uint16_t)(sign | biased << 10 | mantissa >> low);
    return true;
}

size_t cbor_float_bytes(double value)
{
    uint16_t bits;
    if (value > (double)FLT_MAX || value < -(double)FLT_MAX || (double)(float)value != value)
        return 8;
    return cbor_float_half((float)value, &bits) ? 2 : 4;
}
