/* encode_test.c: what encode promises: bounds, search no worse than rounding, the same bytes
 * always. */
#include "tests/harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "hal/block.h"
#include "hal/engine.h"
#include "plugins/scalar/scalar.h"
#include "tests/plugins/encode_golden.h"

enum { ROWS = GOLDEN_ROWS, COLS = GOLDEN_COLS, VALUES = GOLDEN_VALUES };

static float x[VALUES], back[VALUES], importance[COLS];
static uint8_t bytes_of[VALUES * 4], again[VALUES * 4];

static struct engine *open_engine(uint32_t threads)
{
    struct engine *engine = NULL;
    const struct engine_options options = {.plugin = "scalar", .threads = threads};
    CU_ASSERT_EQUAL_FATAL(engine_open(&options, &engine, NULL), ERR_NONE);
    return engine;
}

static double error_of(const struct engine *e, uint32_t type, uint32_t method, const float *h)
{
    const size_t size = block_row_bytes(type, COLS) * ROWS;
    double sum = 0, all = 0;
    CU_ASSERT_EQUAL(e->ops.encode(e->dev, type, method, x, ROWS, COLS, h, bytes_of, size),
                    ERR_NONE);
    CU_ASSERT_EQUAL(e->ops.decode(e->dev, type, bytes_of, size, ROWS, COLS, back), ERR_NONE);
    for (int i = 0; i < VALUES; i++) {
        const double w = h != NULL ? (double)h[i % COLS] : 1;
        sum += w * ((double)x[i] - (double)back[i]) * ((double)x[i] - (double)back[i]);
        all += w * (double)x[i] * (double)x[i];
    }
    return sum / all;
}

/* Relative squared error that a format of so many bits must keep on Gaussian values, and the order:
 * search beats rounding, importance beats no importance where importance counts. */
static void test_quality(void)
{
    uint32_t count;
    const struct block_type *const *types = block_types(&count);
    struct engine *e = open_engine(2);
    golden_fill(x, importance);
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t type = types[i]->type;
        if (types[i]->codes == 0)
            continue;
        const double rtn = error_of(e, type, HAL_RTN, NULL);
        const double plain = error_of(e, type, HAL_SEARCH, NULL);
        const double rtn_weighted = error_of(e, type, HAL_RTN, importance);
        const double weighted = error_of(e, type, HAL_SEARCH, importance);
        const double bound = 2.0 * pow(0.25, log2(types[i]->codes));
        CU_ASSERT_TRUE(plain < rtn);
        CU_ASSERT_TRUE(weighted < rtn_weighted);
        CU_ASSERT_TRUE(plain < bound);
        if (plain >= rtn || plain >= bound || weighted >= rtn_weighted)
            printf("%s: rtn %g search %g weighted %g of %g bound %g\n", types[i]->name, rtn, plain,
                   weighted, rtn_weighted, bound);
    }
    engine_close(e);
}

static void test_bytes(void)
{
    struct engine *one = open_engine(1), *four = open_engine(4);
    golden_fill(x, importance);
    for (size_t i = 0; i < sizeof golden / sizeof golden[0]; i++) {
        const uint32_t type = golden[i].type;
        const size_t size = block_row_bytes(type, COLS) * ROWS;
        uint64_t got[3];
        for (uint32_t k = 0; k < 3; k++) {
            const float *h = k == 2 ? importance : NULL;
            const uint32_t method = k == 0 ? HAL_RTN : HAL_SEARCH;
            CU_ASSERT_EQUAL(
                one->ops.encode(one->dev, type, method, x, ROWS, COLS, h, bytes_of, size),
                ERR_NONE);
            CU_ASSERT_EQUAL(
                four->ops.encode(four->dev, type, method, x, ROWS, COLS, h, again, size), ERR_NONE);
            CU_ASSERT_EQUAL(memcmp(bytes_of, again, size), 0);
            got[k] = golden_hash(bytes_of, size);
        }
        CU_ASSERT_EQUAL(got[0], golden[i].rtn);
        CU_ASSERT_EQUAL(got[1], golden[i].search);
        CU_ASSERT_EQUAL(got[2], golden[i].weighted);
        if (got[0] != golden[i].rtn || got[1] != golden[i].search || got[2] != golden[i].weighted)
            printf(
                "    {%u, UINT64_C(0x%016llx), UINT64_C(0x%016llx),\n     UINT64_C(0x%016llx)},\n",
                type, (unsigned long long)got[0], (unsigned long long)got[1],
                (unsigned long long)got[2]);
    }
    engine_close(four);
    engine_close(one);
}

/* Zeros stay zeros, constants are met, what is already on a grid is found again. */
static void test_corners(void)
{
    uint32_t count;
    const struct block_type *const *types = block_types(&count);
    struct engine *e = open_engine(1);
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t type = types[i]->type;
        for (uint32_t method = 0; method < 2; method++) {
            memset(x, 0, sizeof x);
            const size_t size = block_row_bytes(type, COLS) * ROWS;
            CU_ASSERT_EQUAL(
                e->ops.encode(e->dev, type, method, x, ROWS, COLS, NULL, bytes_of, size), ERR_NONE);
            CU_ASSERT_EQUAL(e->ops.decode(e->dev, type, bytes_of, size, ROWS, COLS, back),
                            ERR_NONE);
            int wrong = 0;
            for (int k = 0; k < VALUES; k++)
                wrong += back[k] != 0.0f;
            CU_ASSERT_EQUAL(wrong, 0);
            for (int k = 0; k < VALUES; k++)
                x[k] = 0.75f;
            CU_ASSERT_TRUE(error_of(e, type, method, NULL) < 2e-4);
        }
    }
    for (int k = 0; k < VALUES; k++) /* multiples of 1/4 in -2..1.75: Q4_0's own grid */
        x[k] = (float)(k * 7 % 16 - 8) * 0.25f;
    CU_ASSERT_EQUAL(error_of(e, HAL_Q4_0, HAL_RTN, NULL), 0.0);
    CU_ASSERT_TRUE(error_of(e, HAL_Q4_0, HAL_SEARCH, NULL) < 1e-6);
    CU_ASSERT_TRUE(error_of(e, HAL_Q4_1, HAL_SEARCH, NULL) < 1e-6);
    x[3] = NAN; /* counts as 0 */
    x[40] = INFINITY;
    const size_t size = block_row_bytes(HAL_Q4_0, COLS) * ROWS;
    CU_ASSERT_EQUAL(
        e->ops.encode(e->dev, HAL_Q4_0, HAL_SEARCH, x, ROWS, COLS, NULL, bytes_of, size), ERR_NONE);
    CU_ASSERT_EQUAL(e->ops.decode(e->dev, HAL_Q4_0, bytes_of, size, ROWS, COLS, back), ERR_NONE);
    CU_ASSERT_EQUAL(back[3], 0.0f);
    CU_ASSERT_EQUAL(back[40], 0.0f);
    engine_close(e);
}

static void test_refusals(void)
{
    struct engine *e = open_engine(1);
    CU_ASSERT_EQUAL(e->ops.encode(e->dev, HAL_Q4_K, 0, x, 1, 128, NULL, bytes_of, 72),
                    ERR_ARGUMENT);
    CU_ASSERT_EQUAL(e->ops.encode(e->dev, 7777, 0, x, 1, 256, NULL, bytes_of, 144), ERR_ARGUMENT);
    CU_ASSERT_EQUAL(e->ops.encode(e->dev, HAL_Q4_K, 2, x, 1, 256, NULL, bytes_of, 144),
                    ERR_ARGUMENT);
    CU_ASSERT_EQUAL(e->ops.encode(e->dev, HAL_Q4_K, 0, x, 1, 256, NULL, bytes_of, 143),
                    ERR_ARGUMENT);
    CU_ASSERT_EQUAL(e->ops.decode(e->dev, HAL_Q4_K, bytes_of, 143, 1, 256, back), ERR_ARGUMENT);
    engine_close(e);
}

RUN_SUITE("encode", {"quality", test_quality}, {"bytes", test_bytes}, {"corners", test_corners},
          {"refusals", test_refusals})
