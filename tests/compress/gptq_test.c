/* gptq_test.c: the factor, the feedback on correlated inputs, the guard. Inputs come from a fixed generator. */
#include "tests/harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compress/gptq.h"
#include "compress/tiles.h"
#include "hal/block.h"
#include "hal/engine.h"

enum { COLS = 256, ROWS = 64, TOKENS = 4096, SOURCES = 48 };

static uint64_t seed = 1;

static float noise(void)
{
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        sum += (float)(seed >> 40) / 16777216.0f - 0.5f;
    }
    return sum;
}

/* Activations that few sources make: correlated, with a decaying spectrum and some hot channels. */
static float *activations(void)
{
    float *x = malloc((size_t)TOKENS * COLS * sizeof *x), *mix = malloc(SOURCES * COLS * sizeof *mix);
    CU_ASSERT_FATAL(x && mix);
    for (int i = 0; i < SOURCES * COLS; i++)
        mix[i] = noise() / (float)(1 + i / COLS / 4);
    for (int t = 0; t < TOKENS; t++) {
        float s[SOURCES];
        for (int k = 0; k < SOURCES; k++)
            s[k] = noise();
        for (int c = 0; c < COLS; c++) {
            float v = 0.05f * noise();
            for (int k = 0; k < SOURCES; k++)
                v += s[k] * mix[k * COLS + c];
            x[t * COLS + c] = c % 61 == 0 ? 6 * v : v;
        }
    }
    free(mix);
    return x;
}

static struct hessian *sampled(const float *x, uint32_t threads)
{
    struct hessian *h = NULL;
    CU_ASSERT_EQUAL_FATAL(hessian_open(COLS, &h), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(hessian_add(h, HESSIAN_TRAIN, x, TOKENS * 3 / 4, threads), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(
        hessian_add(h, HESSIAN_HELD, x + (size_t)TOKENS * 3 / 4 * COLS, TOKENS / 4, threads), ERR_NONE);
    hessian_finish(h);
    return h;
}

static void sums_are_right(void)
{
    float *x = activations();
    struct hessian *a = sampled(x, 1), *b = sampled(x, 3);
    double worst = 0;
    CU_ASSERT_EQUAL(memcmp(a->sum[0], b->sum[0], COLS * COLS * sizeof(float)), 0);
    for (int i = 0; i < COLS; i += 17)
        for (int j = 0; j < COLS; j += 13) {
            double sum = 0;
            for (int t = 0; t < TOKENS * 3 / 4; t++)
                sum += (double)x[t * COLS + i] * (double)x[t * COLS + j];
            worst = fmax(worst, fabs(sum / (TOKENS * 3 / 4) - (double)a->sum[0][i * COLS + j]));
        }
    CU_ASSERT_TRUE(worst < 1e-4);
    hessian_close(a);
    hessian_close(b);
    free(x);
}

/* R R^T gives back the damped matrix: checked through T and the diagonal in work. */
static void factor_is_right(void)
{
    float *x = activations();
    struct hessian *h = sampled(x, 2);
    double *work = malloc(sizeof *work * COLS * COLS), mean = 0, worst = 0;
    float *t = malloc(sizeof *t * COLS * COLS);
    CU_ASSERT_FATAL(work && t);
    for (int i = 0; i < COLS; i++)
        mean += (double)h->sum[0][i * COLS + i] / COLS;
    CU_ASSERT_EQUAL_FATAL(hessian_factor(h->sum[0], COLS, 0.01, work, t, 2), ERR_NONE);
    for (int i = 0; i < COLS; i += 7)
        for (int j = i; j < COLS; j += 5) {
            double sum = 0;
            for (int k = j; k < COLS; k++)
                sum += work[i * COLS + k] * work[j * COLS + k];
            worst = fmax(worst, fabs(sum - (double)h->sum[0][i * COLS + j] - (i == j ? 0.01 * mean : 0)));
        }
    CU_ASSERT_TRUE(worst < 1e-9 * mean * COLS);
    CU_ASSERT_DOUBLE_EQUAL((double)t[3], work[3] / work[3 * COLS + 3], 1e-6);
    for (int i = 0; i < COLS; i++) /* negative energy: not definite */
        h->sum[0][i * COLS + i] *= -1;
    CU_ASSERT_EQUAL(hessian_factor(h->sum[0], COLS, 0.01, work, t, 2), ERR_ARGUMENT);
    free(work);
    free(t);
    free(x);
    hessian_close(h);
}

static void feedback_helps(void)
{
    static const uint32_t types[] = {HAL_Q2_K, HAL_Q3_K,   HAL_Q4_K,   HAL_Q5_K, HAL_Q6_K, HAL_Q4_0,
                                     HAL_Q4_1, HAL_IQ4_NL, HAL_IQ4_XS, HAL_Q5_0, HAL_Q8_0};
    struct engine *engine = NULL;
    const struct engine_options options = {.plugin = "scalar", .threads = 2};
    float *x = activations(), *w = malloc(sizeof *w * ROWS * COLS), *y = malloc(sizeof *y * ROWS * COLS);
    uint8_t *blocks = malloc(ROWS * COLS * 2), *again = malloc(ROWS * COLS * 2);
    CU_ASSERT_FATAL(w && y && blocks && again);
    CU_ASSERT_EQUAL_FATAL(engine_open(&options, &engine, NULL), ERR_NONE);
    for (int i = 0; i < ROWS * COLS; i++)
        w[i] = noise();
    for (size_t k = 0; k < sizeof types / sizeof *types; k++) {
        struct gptq_basis *b = NULL;
        struct gptq_result r, again_r;
        const size_t bytes = ROWS * block_row_bytes(types[k], COLS);
        CU_ASSERT_EQUAL_FATAL(gptq_basis_open(sampled(x, 1), &b), ERR_NONE);
        CU_ASSERT_EQUAL_FATAL(gptq_encode(engine, 1, types[k], w, ROWS, COLS, b, NULL, blocks, &r), ERR_NONE);
        CU_ASSERT_TRUE(r.error[r.taken] <= r.error[GPTQ_SEARCH]);
        if (types[k] != HAL_Q8_0)
            CU_ASSERT_TRUE(r.error[GPTQ_POLISHED] < 0.6 * r.error[GPTQ_SEARCH]);
        /* the file says what the codes said: the decoded error is the one reported */
        CU_ASSERT_EQUAL_FATAL(engine->ops.decode(engine->dev, types[k], blocks, bytes, ROWS, COLS, y), ERR_NONE);
        double error = 0, energy = 0;
        float row[COLS], scratch[COLS], plain[COLS];
        for (int i = 0; i < ROWS; i++) {
            for (int c = 0; c < COLS; c++) {
                plain[c] = w[i * COLS + (int)b->order[c]];
                row[c] = plain[c] - y[i * COLS + (int)b->order[c]];
            }
            error += hessian_norm(b->held, COLS, row, scratch);
            energy += hessian_norm(b->held, COLS, plain, scratch);
        }
        CU_ASSERT_DOUBLE_EQUAL(error / energy, r.error[r.taken], 1e-3 * r.error[r.taken] + 1e-12);
        gptq_basis_close(b);
        CU_ASSERT_EQUAL_FATAL(gptq_basis_open(sampled(x, 2), &b), ERR_NONE);
        CU_ASSERT_EQUAL_FATAL(gptq_encode(engine, 3, types[k], w, ROWS, COLS, b, NULL, again, &again_r), ERR_NONE);
        CU_ASSERT_EQUAL(memcmp(blocks, again, bytes), 0);
        gptq_basis_close(b);
    }
    free(x);
    free(w);
    free(y);
    free(blocks);
    free(again);
    engine_close(engine);
}

/* Tiles of every shape of edge, against plain loops. */
static void tiles_are_right(void)
{
    enum { ROWS_MAX = 41, WIDE_MAX = 467 };
    static const uint32_t shape[][2] = {{1, 1}, {3, 7}, {8, 16}, {9, 17}, {16, 48}, {33, 100}, {41, 131}, {40, 466}};
    static float x[ROWS_MAX * WIDE_MAX], panel[ROWS_MAX * (WIDE_MAX + 16)], sum[WIDE_MAX * WIDE_MAX], y[ROWS_MAX * WIDE_MAX];
    for (size_t i = 0; i < sizeof x / sizeof *x; i++)
        x[i] = noise();
    for (size_t k = 0; k < sizeof shape / sizeof *shape; k++) {
        const uint32_t rows = shape[k][0], cols = shape[k][1];
        double square = 0, product = 0;
        for (size_t i = 0; i < (size_t)cols * cols; i++)
            sum[i] = 1;
        tiles_pack(x, rows, cols, 0, (cols + TILES_PANEL - 1) / TILES_PANEL, panel);
        for (uint32_t i = 0; i < cols; i += 2 * TILES_ROWS)
            tiles_square(panel, rows, cols, i, i + 2 * TILES_ROWS, sum);
        for (uint32_t i = 0; i < cols; i++)
            for (uint32_t j = 0; j <= i; j++) {
                double want = 1;
                for (uint32_t t = 0; t < rows; t++)
                    want += (double)x[t * cols + i] * (double)x[t * cols + j];
                square = fmax(square, fabs(want - (double)sum[i * cols + j]));
            }
        CU_ASSERT(square < 1e-4);
        const uint32_t from = cols / 3, to = cols, count = cols - cols / 5; /* x [rows, cols] times sum */
        for (size_t i = 0; i < (size_t)rows * cols; i++)
            y[i] = 2;
        tiles_multiply(y, x, sum, rows, count, from, to, cols);
        for (uint32_t r = 0; r < rows; r++)
            for (uint32_t j = 0; j < cols; j++) {
                double want = 2;
                for (uint32_t t = 0; t < count && j >= from; t++)
                    want += (double)x[r * cols + t] * (double)sum[t * cols + j];
                product = fmax(product, fabs(want - (double)y[r * cols + j]));
            }
        CU_ASSERT(product < 1e-2);
    }
}

/* In half the memory the same factor, for sizes that are no whole panels. */
static void factor_fits_within(void)
{
    float *x = activations(), *m = malloc(sizeof *m * COLS * COLS), *t = malloc(sizeof *t * COLS * COLS);
    double *work = malloc(sizeof *work * COLS * COLS);
    struct hessian *h = sampled(x, 2);
    CU_ASSERT_FATAL(m && t && work);
    for (uint32_t n = 1; n <= COLS; n = n < 70 ? n + 1 : n + 31) {
        float *room = malloc(hessian_room(n));
        CU_ASSERT_FATAL(room != NULL);
        for (uint32_t i = 0; i < n; i++)
            memcpy(m + (size_t)i * n, h->sum[0] + (size_t)i * COLS, n * sizeof *m);
        CU_ASSERT_EQUAL(hessian_factor(m, n, 0.01, work, t, 2), ERR_NONE);
        CU_ASSERT_EQUAL(hessian_factor_within(m, n, 0.01, room, 1), ERR_NONE);
        uint32_t differ = 0;
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t j = i + 1; j < n; j++)
                differ += room[(size_t)i * n + j] != t[(size_t)i * n + j];
        CU_ASSERT_EQUAL(differ, 0);
        free(room);
    }
    hessian_close(h);
    free(work);
    free(t);
    free(m);
    free(x);
}

static void bad_shapes(void)
{
    float *x = activations(), w[COLS] = {0};
    uint8_t out[1024];
    struct gptq_basis *b = NULL;
    struct gptq_result r;
    struct engine *engine = NULL;
    const struct engine_options options = {.plugin = "scalar", .threads = 1};
    CU_ASSERT_EQUAL_FATAL(engine_open(&options, &engine, NULL), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(gptq_basis_open(sampled(x, 1), &b), ERR_NONE);
    CU_ASSERT_EQUAL(gptq_encode(engine, 1, HAL_F16, w, 1, COLS, b, NULL, out, &r), ERR_ARGUMENT);
    CU_ASSERT_EQUAL(gptq_encode(engine, 1, HAL_Q4_0, w, 1, 32, b, NULL, out, &r), ERR_ARGUMENT);
    gptq_basis_close(b);
    gptq_basis_close(NULL);
    engine_close(engine);
    free(x);
}

RUN_SUITE("gptq", {"sums_are_right", sums_are_right}, {"factor_is_right", factor_is_right},
          {"tiles_are_right", tiles_are_right}, {"factor_fits_within", factor_fits_within},
          {"feedback_helps", feedback_helps}, {"bad_shapes", bad_shapes})
