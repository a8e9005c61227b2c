/* scalar_lanes.h: the order of additions, and rounding, that every plugin must reproduce to the
 * bit.
 *
 * A lane sum over n values (n a multiple of 16, or ragged: missing ones are +0): element i is added
 * to lane i % 16 in ascending i, starting from +0; then lane l += lane l + 8 for l < 8, += l + 4
 * for l < 4,
 * += l + 2 for l < 2, += l + 1 for l = 0. F32, round to nearest even, subnormals kept, no FMA.
 */
#ifndef SCALAR_LANES_H
#define SCALAR_LANES_H

#include <stdint.h>

enum { LANES = 16 };

struct lanes {
    float lane[LANES];
};

static inline float lanes_sum(struct lanes s)
{
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++)
            s.lane[l] += s.lane[l + half];
    return s.lane[0];
}

/* Sum of x[0..n) */
static inline float lanes_sum_of(const float *x, uint32_t n)
{
    struct lanes s = {{0}};
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            s.lane[l] += x[i + (uint32_t)l];
    for (int l = 0; l < LANES && i < n; i++, l++)
        s.lane[l] += x[i];
    return lanes_sum(s);
}

/* Sum of x[i] * y[i]; each product is rounded before it is added */
static inline float lanes_dot(const float *x, const float *y, uint32_t n)
{
    struct lanes s = {{0}};
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            s.lane[l] += x[i + (uint32_t)l] * y[i + (uint32_t)l];
    for (int l = 0; l < LANES && i < n; i++, l++)
        s.lane[l] += x[i] * y[i];
    return lanes_sum(s);
}

/* The nearest integer as F32, halves to even; |v| < 2^22. NaN stays NaN. */
static inline float lanes_nearest(float v)
{
    return (v + 12582912.0f) - 12582912.0f;
}

/* low when v < low or v is NaN (maxps(v, low)), then high when above (minps). */
static inline float lanes_clamp(float v, float low, float high)
{
    v = v > low ? v : low;
    return v < high ? v : high;
}

#endif
