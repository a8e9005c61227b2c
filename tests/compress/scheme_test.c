#include "tests/harness.h"

#include <stdlib.h>
#include <string.h>

#include "compress/scheme.h"
#include "hal/block.h"
#include "hal/half.h"

enum { ROWS = 16, COLS = 256, VALUES = ROWS * COLS };

static float x[VALUES], y[VALUES], z[VALUES], scratch[VALUES];
static uint8_t bytes[VALUES * sizeof(float)];

/* Bell-shaped, or all on one side of zero. */
static void fill(bool is_skewed)
{
    uint64_t seed = 3;
    for (int i = 0; i < VALUES; i++) {
        double sum = 0;
        for (int k = 0; k < 6; k++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            sum += (double)(seed >> 40) / (1 << 23) - 1.0;
        }
        x[i] = (float)(is_skewed ? sum * sum : sum);
    }
}

/* Values that a scheme gives; the sum of squared differences is returned. */
static double run(const char *words, float *out)
{
    struct scheme s;
    struct fault f = {""};
    double sum = 0;
    CU_ASSERT_EQUAL_FATAL(scheme_parse(words, &s, &f), ERR_NONE);
    const uint32_t type = scheme_type(&s, COLS);
    CU_ASSERT_EQUAL_FATAL(scheme_encode(&s, type, x, ROWS, COLS, scratch, bytes), ERR_NONE);
    const size_t row = block_row_bytes(type, COLS);
    for (uint32_t r = 0; r < ROWS; r++)
        CU_ASSERT_EQUAL(block_decode_row(type, bytes + r * row, COLS, out + r * COLS), ERR_NONE);
    for (int i = 0; i < VALUES; i++)
        sum += ((double)x[i] - (double)out[i]) * ((double)x[i] - (double)out[i]);
    return sum;
}

static void words(void)
{
    static const char *const bad[] = {"9", "17", "symmetrical", "percentile=101", "percentile=", "entropy", "4,mse,up"};
    static const char *const good[] = {"4",          "8 affine 64 percentile=99.5 f32", "channel,entropy,3",
                                       "tensor mse", "power-of-two 128 auto",           "asymmetric 16 f16"};
    char text[SCHEME_TEXT_MAX];
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct scheme a, b;
        CU_ASSERT_EQUAL_FATAL(scheme_parse(good[i], &a, NULL), ERR_NONE);
        CU_ASSERT_TRUE(scheme_is_valid(&a));
        scheme_print(&a, text);
        CU_ASSERT_EQUAL(scheme_parse(text, &b, NULL), ERR_NONE);
        CU_ASSERT_EQUAL(memcmp(&a, &b, sizeof a), 0);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct scheme a;
        struct fault f = {""};
        CU_ASSERT_EQUAL(scheme_parse(bad[i], &a, &f), ERR_FORMAT);
        CU_ASSERT_TRUE(f.text[0] != 0);
    }
}

/* Where auto takes a block type, it holds the very values that f32 would. */
static void blocks_hold_exactly(void)
{
    static const struct {
        const char *words;
        uint32_t type;
    } rows[] = {{"4 symmetric 32", HAL_Q4_0},       {"3 symmetric 64", HAL_Q4_0},
                {"4 symmetric 128 mse", HAL_Q4_0},  {"4 power-of-two 32", HAL_Q4_0},
                {"5 symmetric channel", HAL_Q5_0},  {"8 symmetric tensor", HAL_Q8_0},
                {"4 affine 64", HAL_Q4_1},          {"5 affine 256 percentile", HAL_Q5_1},
                {"8 power-of-two 128", HAL_Q8_0},   {"8 affine 32", HAL_F32},
                {"4 symmetric 16", HAL_F32},        {"4 asymmetric 32", HAL_F32}};
    char text[SCHEME_TEXT_MAX];
    for (int skewed = 0; skewed < 2; skewed++)
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            struct scheme s;
            fill(skewed);
            CU_ASSERT_EQUAL_FATAL(scheme_parse(rows[i].words, &s, NULL), ERR_NONE);
            CU_ASSERT_EQUAL(scheme_type(&s, COLS), rows[i].type);
            snprintf(text, sizeof text, "%s f32", rows[i].words);
            run(rows[i].words, y);
            run(text, z);
            CU_ASSERT_EQUAL(memcmp(y, z, sizeof y), 0);
        }
}

/* Error grows with the group, shrinks with bits; a free scale beats a power of two, two ends beat one on
 * skewed values. */
static void errors_are_in_order(void)
{
    static const char *const groups[] = {"4 f32 16",  "4 f32 32",      "4 f32 64",    "4 f32 128",
                                         "4 f32 256", "4 f32 channel", "4 f32 tensor"};
    double last = 0;
    fill(false);
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        const double e = run(groups[i], y);
        CU_ASSERT_TRUE(e >= last);
        last = e;
    }
    CU_ASSERT_TRUE(run("8 32", y) < run("5 32", y) && run("5 32", y) < run("4 32", y) && run("4 32", y) < run("2 32", y));
    CU_ASSERT_TRUE(run("4 64", y) < run("4 64 power-of-two", y));
    CU_ASSERT_TRUE(run("4 64 mse", y) < run("4 64", y));
    fill(true);
    CU_ASSERT_TRUE(run("4 64 affine", y) < run("4 64", y));
    CU_ASSERT_TRUE(run("4 64 asymmetric", y) < run("4 64", y));
}

static void scales_are_powers(void)
{
    fill(false);
    run("4 power-of-two 32", y);
    for (uint32_t i = 0; i < VALUES / 32; i++) {
        uint16_t d;
        memcpy(&d, bytes + i * 18, sizeof d);
        CU_ASSERT_EQUAL(d & 0x3ffu, 0);
    }
}

static void sizes(void)
{
    struct scheme s;
    CU_ASSERT_EQUAL(scheme_parse("4 symmetric 128", &s, NULL), ERR_NONE);
    CU_ASSERT_EQUAL(scheme_bytes(&s, 10, 256), (10 * 256 * 4 + 20 * 16) / 8); /* 4.125 bits */
    CU_ASSERT_EQUAL(scheme_parse("4 asymmetric 64", &s, NULL), ERR_NONE);
    CU_ASSERT_EQUAL(scheme_bytes(&s, 10, 256), (10 * 256 * 4 + 40 * 20) / 8);
    CU_ASSERT_EQUAL(scheme_parse("8 affine channel", &s, NULL), ERR_NONE);
    CU_ASSERT_EQUAL(scheme_bytes(&s, 10, 256), 10 * 256 + 40);
    CU_ASSERT_EQUAL(scheme_parse("8 power-of-two tensor", &s, NULL), ERR_NONE);
    CU_ASSERT_EQUAL(scheme_bytes(&s, 10, 256), 10 * 256 + 1);
}

/* Zeros, one value, values beyond binary16. */
static void extremes(void)
{
    static const char *const all[] = {"4", "4 power-of-two", "4 asymmetric f32", "4 affine", "8 mse", "4 channel entropy",
                                      "4 percentile"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        memset(x, 0, sizeof x);
        CU_ASSERT_EQUAL(run(all[i], y), 0);
        x[5] = 3e7f;
        const double e = run(all[i], y);
        CU_ASSERT_TRUE(e >= 0 && e <= 1e16);
    }
}

RUN_SUITE("scheme", {"words", words}, {"blocks_hold_exactly", blocks_hold_exactly},
          {"errors_are_in_order", errors_are_in_order}, {"scales_are_powers", scales_are_powers}, {"sizes", sizes},
          {"extremes", extremes})
