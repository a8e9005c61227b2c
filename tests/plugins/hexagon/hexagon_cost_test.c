/* hexagon_cost_test.c: which side multiplies, by the costs that were measured at open. The DSP is a function that
 * multiplies with the host's twin and counts its calls, so that the costs can be given, and changed. */
#include "tests/harness.h"

#include <stdlib.h>
#include <string.h>

#include "hal/block.h"
#include "plugins/hexagon/hexagon.h"

enum { COLS = 256, TOKENS = 130, BUFFER_BYTES = 1 << 20 };

static struct hexagon_dev dev;
static uint32_t calls, most_tokens;
static int failure; /* what the DSP answers */

static int fake_invoke(uint64_t handle, uint32_t scalars, union hexagon_arg *args)
{
    const struct hexagon_shape *s = args[0].buffer.data;
    CU_ASSERT_EQUAL(handle, 7);
    CU_ASSERT_EQUAL(scalars, HEXAGON_SCALARS(HEXAGON_MATMUL, 4, 1, 0, 0));
    CU_ASSERT_EQUAL(args[4].buffer.bytes, (size_t)s->tokens * s->rows * sizeof(float));
    calls++;
    most_tokens = s->tokens > most_tokens ? s->tokens : most_tokens;
    if (failure == 0)
        hexagon_multiply_cpu(&dev, s, args[1].buffer.data, args[2].buffer.data, args[3].buffer.data,
                             args[4].buffer.data);
    return failure;
}

static void *host_alloc(size_t bytes)
{
    return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

static void host_release(void *p, size_t bytes)
{
    (void)bytes;
    free(p);
}

static void open_dev(double call_ns, double dsp_ns, double cpu_ns)
{
    const struct hal_host host = {.alloc = host_alloc, .release = host_release, .threads = 1};
    memset(&dev, 0, sizeof dev);
    CU_ASSERT_EQUAL_FATAL(scalar_open_into(&host, hexagon_cpu_scalar(&dev.cpu)), ERR_NONE);
    hexagon_cpu_open(&dev.cpu);
    dev.rpc.invoke = fake_invoke;
    dev.handle = 7;
    dev.is_alive = 1;
    dev.x = host_alloc(BUFFER_BYTES);
    dev.y = host_alloc(BUFFER_BYTES);
    dev.x_bytes = dev.y_bytes = BUFFER_BYTES;
    dev.call_ns = call_ns;
    dev.dsp_ns = dsp_ns;
    dev.cpu_ns = cpu_ns;
    failure = 0;
}

static void close_dev(void)
{
    free(dev.x);
    free(dev.y);
    scalar_close_from(hexagon_cpu_scalar(&dev.cpu));
}

/* One product of `type`; its results in y [tokens, rows], which the caller frees. Returns the calls of the DSP. */
static uint32_t multiply(uint32_t type, uint32_t tokens, uint32_t rows, float **y)
{
    struct hal_mat x = {.type = HAL_F32, .use = HAL_ACTIVATION, .rows = tokens, .cols = COLS}, out = x;
    struct hal_mat w = {.type = type, .use = HAL_WEIGHT, .rows = rows, .cols = COLS};
    const size_t row_bytes = block_row_bytes(type, COLS);
    const struct hal_mat *outs = &out, *weights = &w;
    uint8_t *blocks = malloc(row_bytes);
    float values[COLS];
    out.cols = rows;
    CU_ASSERT_EQUAL_FATAL(scalar_mat_new(&dev, &x), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(scalar_mat_new(&dev, &out), ERR_NONE);
    w.mem = calloc(1, hexagon_packed_bytes(type, rows, COLS));
    CU_ASSERT_FATAL(w.mem != NULL && blocks != NULL);
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t c = 0; c < COLS; c++)
            values[c] = (float)((r * 31 + c * 17) % 29) - 14.0f;
        CU_ASSERT_EQUAL(scalar_encode(&dev, type, HAL_RTN, values, 1, COLS, NULL, blocks, row_bytes), ERR_NONE);
        hexagon_pack_row(type, COLS, r, blocks, w.mem);
    }
    for (uint32_t i = 0; i < tokens * COLS; i++)
        ((float *)x.mem)[i] = (float)(i * 7 % 41) - 20.0f;
    calls = most_tokens = 0;
    CU_ASSERT_EQUAL(hexagon_matmul(&dev, &outs, &x, &weights, 1), ERR_NONE);
    *y = malloc((size_t)tokens * rows * sizeof **y);
    CU_ASSERT_PTR_NOT_NULL_FATAL(*y);
    memcpy(*y, out.mem, (size_t)tokens * rows * sizeof **y);
    scalar_mat_free(&dev, &x);
    scalar_mat_free(&dev, &out);
    free(w.mem);
    free(blocks);
    return calls;
}

static uint32_t calls_of(uint32_t type, uint32_t tokens, uint32_t rows)
{
    float *y;
    const uint32_t n = multiply(type, tokens, rows, &y);
    free(y);
    return n;
}

/* A call costs 40 us and the DSP is ten times as fast: it pays from 40000 / (1 - 0.1) multiply-adds on. */
static void dear_calls(void)
{
    open_dev(40000, 0.1, 1);
    CU_ASSERT_EQUAL(calls_of(HAL_Q8_0, 1, 32), 0);   /* 8,192 */
    CU_ASSERT_EQUAL(calls_of(HAL_Q8_0, 1, 160), 0);  /* 40,960 */
    CU_ASSERT_EQUAL(calls_of(HAL_Q8_0, 1, 192), 1);  /* 49,152 */
    CU_ASSERT_EQUAL(calls_of(HAL_Q4_0, 1, 192), 1);
    CU_ASSERT_EQUAL(calls_of(HAL_Q4_0, 6, 32), 1);   /* as many, by tokens */
    dev.call_ns = 1000; /* the same product, were calls cheap */
    CU_ASSERT_EQUAL(calls_of(HAL_Q8_0, 1, 32), 1);
    close_dev();
}

static void slow_dsp(void)
{
    open_dev(0, 2, 1);
    CU_ASSERT_EQUAL(calls_of(HAL_Q8_0, TOKENS, 64), 0);
    dev.is_forced = 1;
    CU_ASSERT_EQUAL(calls_of(HAL_Q8_0, TOKENS, 64), 3); /* 64, 64, 2 tokens */
    CU_ASSERT_EQUAL(most_tokens, HEXAGON_TOKENS_MAX);
    close_dev();
}

/* Small buffers make many calls, which the estimate counts. */
static void small_buffers(void)
{
    open_dev(100000, 0.1, 1);
    CU_ASSERT_EQUAL(calls_of(HAL_Q8_0, 64, 64), 1); /* 1,048,576 multiply-adds in one call */
    dev.y_bytes = 4 * 64 * sizeof(float);           /* 16 calls: 1.6 ms against 1.05 */
    CU_ASSERT_EQUAL(calls_of(HAL_Q8_0, 64, 64), 0);
    dev.is_forced = 1;
    CU_ASSERT_EQUAL(calls_of(HAL_Q8_0, 64, 64), 16);
    dev.x_bytes = 16; /* not one token */
    CU_ASSERT_EQUAL(calls_of(HAL_Q8_0, 64, 64), 0);
    close_dev();
}

/* The sides agree; and when the DSP dies in the middle the CPU answers, now and later. */
static void dies(void)
{
    float *by_cpu, *by_dsp, *after;
    open_dev(0, 2, 1);
    CU_ASSERT_EQUAL(multiply(HAL_Q4_0, TOKENS, 96, &by_cpu), 0);
    dev.is_forced = 1;
    CU_ASSERT_EQUAL(multiply(HAL_Q4_0, TOKENS, 96, &by_dsp), 3);
    failure = HEXAGON_RESET;
    CU_ASSERT_EQUAL(multiply(HAL_Q4_0, TOKENS, 96, &after), 1);
    CU_ASSERT_EQUAL(dev.is_alive, 0);
    CU_ASSERT_EQUAL(memcmp(by_cpu, by_dsp, TOKENS * 96 * sizeof(float)), 0);
    CU_ASSERT_EQUAL(memcmp(by_cpu, after, TOKENS * 96 * sizeof(float)), 0);
    failure = 0;
    CU_ASSERT_EQUAL(calls_of(HAL_Q4_0, TOKENS, 96), 0); /* gone is gone */
    free(by_cpu);
    free(by_dsp);
    free(after);
    close_dev();
}

RUN_SUITE("plugins/hexagon/cost", {"dear calls", dear_calls}, {"slow DSP", slow_dsp}, {"small buffers", small_buffers},
          {"dies", dies})
