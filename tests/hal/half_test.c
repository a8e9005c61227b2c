/* half_test.c: 16-bit floats against independent definitions, over all values. */
#include "tests/harness.h"

#include <math.h>

#include "hal/half.h"

static double value_of(uint16_t h)
{
    const int exponent = h >> 10 & 31, fraction = h & 1023;
    double v = exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25);
    if (exponent == 31)
        v = fraction != 0 ? NAN : INFINITY;
    return h & 0x8000 ? -v : v;
}

static void test_f16_all(void)
{
    int wrong = 0;
    for (uint32_t h = 0; h < 65536; h++) {
        const float f = half_f16_to_f32((uint16_t)h);
        const double v = value_of((uint16_t)h);
        if (isnan(v)) {
            wrong += !isnan(f) || !isnan(half_f16_to_f32(half_f32_to_f16(f)));
            continue;
        }
        wrong += (double)f != v || half_f32_to_f16(f) != h;
    }
    CU_ASSERT_EQUAL(wrong, 0);
}

/* Halfway between two neighbours goes to the even one, a hair beside it to the nearer. */
static void test_f16_ties(void)
{
    int wrong = 0;
    for (uint32_t h = 0; h < 0x7bff; h++) {
        const float low = half_f16_to_f32((uint16_t)h), high = half_f16_to_f32((uint16_t)(h + 1));
        const float middle = low + (high - low) * 0.5f;
        const uint16_t even = (uint16_t)(h % 2 == 0 ? h : h + 1);
        wrong += half_f32_to_f16(middle) != even;
        wrong += half_f32_to_f16(-middle) != (even | 0x8000);
        wrong += half_f32_to_f16(nextafterf(middle, 0.0f)) != h;
        wrong += half_f32_to_f16(nextafterf(middle, 1e9f)) != h + 1;
    }
    CU_ASSERT_EQUAL(wrong, 0);
    CU_ASSERT_EQUAL(half_f32_to_f16(65519.996f), 0x7bff);
    CU_ASSERT_EQUAL(half_f32_to_f16(65520.0f), 0x7c00);
    CU_ASSERT_EQUAL(half_f32_to_f16(-1e30f), 0xfc00);
}

static void test_bf16(void)
{
    int wrong = 0;
    for (uint32_t h = 0; h < 65536; h++) {
        const float f = half_bf16_to_f32((uint16_t)h);
        if (isnan(f))
            wrong += !isnan(half_bf16_to_f32(half_f32_to_bf16(f)));
        else
            wrong += half_f32_to_bf16(f) != h;
    }
    CU_ASSERT_EQUAL(wrong, 0);
    CU_ASSERT_EQUAL(half_f32_to_bf16(half_from_bits(0x3f808000u)), 0x3f80);
    CU_ASSERT_EQUAL(half_f32_to_bf16(half_from_bits(0x3f818000u)), 0x3f82);
    CU_ASSERT_EQUAL(half_f32_to_bf16(half_from_bits(0x3f808001u)), 0x3f81);
}

RUN_SUITE("half", {"f16 all values", test_f16_all}, {"f16 ties", test_f16_ties},
          {"bf16", test_bf16})
