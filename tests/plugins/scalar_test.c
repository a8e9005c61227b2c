/* scalar_test.c: the reference against plain definitions in double. */
#include "tests/harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "hal/block.h"
#include "hal/half.h"
#include "hal/engine.h"
#include "plugins/scalar/scalar.h"

static struct engine *engine;
static uint32_t state = 1;

static float noise(void)
{
    state = state * 1664525u + 1013904223u;
    return (float)(int32_t)state * 0x1p-31f;
}

static void open_engine(uint32_t threads)
{
    const struct engine_options options = {.plugin = "scalar", .threads = threads};
    CU_ASSERT_EQUAL_FATAL(engine_open(&options, &engine, NULL), ERR_NONE);
}

static struct hal_mat make(uint32_t use, uint32_t type, uint32_t rows, uint32_t cols)
{
    struct hal_mat m = {.type = type, .use = use, .rows = rows, .cols = cols};
    CU_ASSERT_EQUAL_FATAL(scalar_plugin.mat_new(engine->dev, &m), ERR_NONE);
    if (type == HAL_F32)
        for (uint32_t i = 0; i < rows * cols; i++)
            ((float *)m.mem)[i] = noise();
    return m;
}

static void drop(struct hal_mat *m)
{
    scalar_plugin.mat_free(engine->dev, m);
}

/* The rounding of hal.h, by lrint in double, which rounds halves to even. */
static double rounded(const float *x, uint32_t i)
{
    double amax = 0;
    for (uint32_t k = i / 32 * 32; k < i / 32 * 32 + 32; k++)
        amax = fmax(amax, fabs((double)x[k]));
    if (amax == 0)
        return 0;
    const float inverse = 127.0f / (float)amax;
    return (double)lrint((double)(x[i] * inverse)) * amax / 127.0;
}

static void test_matmul(void)
{
    uint32_t count;
    const struct block_type *const *types = block_types(&count);
    open_engine(3);
    struct hal_mat x = make(HAL_ACTIVATION, HAL_F32, 3, 512);
    struct hal_mat y = make(HAL_ACTIVATION, HAL_F32, 3, 19);
    float dense[19 * 512];
    for (uint32_t i = 0; i < 19 * 512; i++)
        dense[i] = noise();
    for (uint32_t k = 0; k < count; k++) {
        const uint32_t type = types[k]->type;
        struct hal_mat w = make(HAL_WEIGHT, type, 19, 512);
        float decoded[19 * 512];
        const size_t bytes = block_row_bytes(type, 512) * 19;
        CU_ASSERT_EQUAL(
            scalar_encode(engine->dev, type, HAL_RTN, dense, 19, 512, NULL, w.mem, bytes),
            ERR_NONE);
        CU_ASSERT_EQUAL(scalar_decode(engine->dev, type, w.mem, bytes, 19, 512, decoded), ERR_NONE);
        const struct hal_mat *const py = &y, *const pw = &w;
        CU_ASSERT_EQUAL(scalar_matmul(engine->dev, &py, &x, &pw, 1), ERR_NONE);
        double worst = 0;
        for (uint32_t r = 0; r < 3; r++)
            for (uint32_t o = 0; o < 19; o++) {
                const float *row = (const float *)x.mem + r * 512;
                double sum = 0;
                for (uint32_t i = 0; i < 512; i++)
                    sum += (types[k]->codes != 0 ? rounded(row, i) : (double)row[i]) *
                           (double)decoded[o * 512 + i];
                worst = fmax(worst, fabs(sum - (double)((float *)y.mem)[r * 19 + o]));
            }
        CU_ASSERT_TRUE(worst < 2e-5);
        if (worst >= 2e-5)
            printf("%s: %g\n", types[k]->name, worst);
        drop(&w);
    }
    drop(&y);
    drop(&x);
    engine_close(engine);
}

static void test_rounding(void)
{
    float x[64], d[2];
    int8_t q[64];
    int32_t s[4];
    for (int i = 0; i < 64; i++)
        x[i] = (float)i + 0.5f;
    x[31] = 127.0f;
    x[32] = 0x1p-149f; /* a group of subnormals cannot be inverted */
    for (int i = 33; i < 64; i++)
        x[i] = 0.0f;
    scalar_round_row(x, 64, q, d, s);
    CU_ASSERT_EQUAL(d[0], 1.0f);
    CU_ASSERT_EQUAL(q[0], 0); /* 0.5 */
    CU_ASSERT_EQUAL(q[1], 2); /* 1.5 */
    CU_ASSERT_EQUAL(q[2], 2); /* 2.5 */
    CU_ASSERT_EQUAL(q[31], 127);
    CU_ASSERT_EQUAL(s[0], 0 + 2 + 2 + 4 + 4 + 6 + 6 + 8 + 8 + 10 + 10 + 12 + 12 + 14 + 14 + 16);
    CU_ASSERT_EQUAL(q[32], 0);
    CU_ASSERT_EQUAL(s[2] + s[3], 0);
    x[3] = NAN;
    scalar_round_row(x, 32, q, d, NULL);
    CU_ASSERT_TRUE(isnan(d[0]));
    CU_ASSERT_EQUAL(q[31], 0);
}

/* q k v as plain loops: two query heads to a key head, a window in two spans, softcap. */
static void test_attend(void)
{
    enum { HEADS = 4, KV = 2, DIM = 16, SLOTS = 12 };
    const struct hal_span spans[] = {{2, 3}, {8, 4}, {0, 12}};
    const uint32_t first[] = {0, 2, 2, 3};
    uint32_t slot[SLOTS];
    open_engine(2);
    struct hal_mat q = make(HAL_ACTIVATION, HAL_F32, 3, HEADS * DIM);
    struct hal_mat y = make(HAL_ACTIVATION, HAL_F32, 3, HEADS * DIM);
    struct hal_mat rows = make(HAL_ACTIVATION, HAL_F32, SLOTS, KV * DIM);
    struct hal_mat k = make(HAL_CACHE, HAL_F16, SLOTS, KV * DIM);
    struct hal_mat v = make(HAL_CACHE, HAL_F16, SLOTS, KV * DIM);
    for (uint32_t i = 0; i < SLOTS; i++)
        slot[i] = i;
    CU_ASSERT_EQUAL(scalar_store(engine->dev, &k, &rows, slot), ERR_NONE);
    for (uint32_t i = 0; i < SLOTS * KV * DIM; i++)
        ((float *)rows.mem)[i] = noise();
    CU_ASSERT_EQUAL(scalar_store(engine->dev, &v, &rows, slot), ERR_NONE);
    const struct hal_attend g = {HEADS, KV, DIM, DIM, 0.25f, 2.0f, spans, first};
    CU_ASSERT_EQUAL(scalar_attend(engine->dev, &y, &q, &k, &v, &g), ERR_NONE);
    double worst = 0;
    for (uint32_t r = 0; r < 3; r++)
        for (uint32_t h = 0; h < HEADS; h++) {
            double out[DIM] = {0}, total = 0;
            for (uint32_t s = 0; s < SLOTS; s++) {
                const int is_seen = r == 2 || (r == 0 && ((s >= 2 && s < 5) || s >= 8));
                const size_t at = s * KV * DIM + h / 2 * DIM;
                double score = 0;
                for (uint32_t i = 0; i < DIM; i++)
                    score += (double)((float *)q.mem)[r * HEADS * DIM + h * DIM + i] *
                             (double)half_f16_to_f32(((uint16_t *)k.mem)[at + i]);
                score = is_seen ? exp(2.0 * tanh(score * 0.25 / 2.0)) : 0;
                total += score;
                for (uint32_t i = 0; i < DIM; i++)
                    out[i] += score * (double)half_f16_to_f32(((uint16_t *)v.mem)[at + i]);
            }
            for (uint32_t i = 0; i < DIM; i++) {
                const double wanted = total > 0 ? out[i] / total : 0;
                const double got = (double)((float *)y.mem)[r * HEADS * DIM + h * DIM + i];
                worst = fmax(worst, fabs(wanted - got));
            }
        }
    CU_ASSERT_TRUE(worst < 1e-6);
    drop(&v);
    drop(&k);
    drop(&rows);
    drop(&y);
    drop(&q);
    engine_close(engine);
}

static void test_norms(void)
{
    open_engine(1);
    struct hal_mat x = make(HAL_ACTIVATION, HAL_F32, 2, 50),
                   y = make(HAL_ACTIVATION, HAL_F32, 2, 50);
    struct hal_mat w = make(HAL_ACTIVATION, HAL_F32, 1, 50),
                   b = make(HAL_ACTIVATION, HAL_F32, 1, 50);
    const float *in = x.mem, *out = y.mem, *weight = w.mem, *bias = b.mem;
    double worst = 0;
    CU_ASSERT_EQUAL(scalar_rmsnorm(engine->dev, &y, &x, &w, 1e-5f), ERR_NONE);
    for (uint32_t i = 0; i < 100; i++) {
        double mean = 0;
        for (uint32_t k = i / 50 * 50; k < i / 50 * 50 + 50; k++)
            mean += (double)in[k] * (double)in[k] / 50;
        worst = fmax(worst, fabs((double)in[i] / sqrt(mean + 1e-5) * (double)weight[i % 50] -
                                 (double)out[i]));
    }
    CU_ASSERT_TRUE(worst < 1e-6);
    CU_ASSERT_EQUAL(scalar_layernorm(engine->dev, &y, &x, &w, &b, 1e-5f), ERR_NONE);
    worst = 0;
    for (uint32_t i = 0; i < 100; i++) {
        double mean = 0, variance = 0;
        for (uint32_t k = i / 50 * 50; k < i / 50 * 50 + 50; k++)
            mean += (double)in[k] / 50;
        for (uint32_t k = i / 50 * 50; k < i / 50 * 50 + 50; k++)
            variance += ((double)in[k] - mean) * ((double)in[k] - mean) / 50;
        worst = fmax(worst,
                     fabs(((double)in[i] - mean) / sqrt(variance + 1e-5) * (double)weight[i % 50] +
                          (double)bias[i % 50] - (double)out[i]));
    }
    CU_ASSERT_TRUE(worst < 2e-6);
    drop(&b);
    drop(&w);
    drop(&y);
    drop(&x);
    engine_close(engine);
}

/* A quarter turn shows which elements are paired, and which way round. */
static void test_rope(void)
{
    open_engine(1);
    struct hal_mat x = make(HAL_ACTIVATION, HAL_F32, 1, 8),
                   turn = make(HAL_ACTIVATION, HAL_F32, 1, 4);
    float *v = x.mem, *t = turn.mem;
    t[0] = 0.0f; /* pair 0: cosine 0, sine 1; pair 1 stays */
    t[1] = 1.0f;
    t[2] = 1.0f;
    t[3] = 0.0f;
    for (int i = 0; i < 8; i++)
        v[i] = (float)(i + 1);
    const struct hal_rope_shape norm = {8, 2, 4, HAL_ROPE_NORM};
    CU_ASSERT_EQUAL(scalar_rope(engine->dev, &x, &turn, &norm), ERR_NONE);
    const float wanted[] = {1, 2, -4, 3, 5, 6, 7, 8};
    CU_ASSERT_EQUAL(memcmp(v, wanted, sizeof wanted), 0);
    for (int i = 0; i < 8; i++)
        v[i] = (float)(i + 1);
    const struct hal_rope_shape neox = {8, 2, 4, HAL_ROPE_NEOX};
    CU_ASSERT_EQUAL(scalar_rope(engine->dev, &x, &turn, &neox), ERR_NONE);
    const float other[] = {1, 2, -5, 4, 3, 6, 7, 8};
    CU_ASSERT_EQUAL(memcmp(v, other, sizeof other), 0);
    const struct hal_rope_shape wide = {8, 6, 4, HAL_ROPE_NEOX};
    CU_ASSERT_EQUAL(scalar_rope(engine->dev, &x, &turn, &wide), ERR_ARGUMENT);
    drop(&turn);
    drop(&x);
    engine_close(engine);
}

static void test_glu(void)
{
    open_engine(1);
    struct hal_mat gate = make(HAL_ACTIVATION, HAL_F32, 1, 200),
                   up = make(HAL_ACTIVATION, HAL_F32, 1, 200);
    struct hal_mat y = make(HAL_ACTIVATION, HAL_F32, 1, 200);
    for (uint32_t f = 0; f < 4; f++) {
        double worst = 0;
        CU_ASSERT_EQUAL(scalar_glu(engine->dev, &y, &gate, &up, f), ERR_NONE);
        for (int i = 0; i < 200; i++) {
            const double g = (double)((float *)gate.mem)[i], u = (double)((float *)up.mem)[i];
            const double wanted =
                f == HAL_SILU ? g / (1 + exp(-g))
                : f == HAL_GELU_TANH
                    ? 0.5 * g * (1 + tanh(sqrt(2 / M_PI) * (g + 0.044715 * g * g * g)))
                : f == HAL_GELU_ERF ? 0.5 * g * (1 + erf(g / sqrt(2)))
                                    : fmax(g, 0);
            worst = fmax(worst, fabs(wanted * u - (double)((float *)y.mem)[i]));
        }
        CU_ASSERT_TRUE(worst < 1e-6);
    }
    CU_ASSERT_EQUAL(scalar_glu(engine->dev, &y, &gate, &up, 4), ERR_ARGUMENT);
    drop(&y);
    drop(&up);
    drop(&gate);
    engine_close(engine);
}

/* Threads that rest and come back, again and again: nothing hangs, and the bits stay. */
static void test_limit(void)
{
    open_engine(4);
    struct hal_mat x = make(HAL_ACTIVATION, HAL_F32, 64, 256);
    struct hal_mat y = make(HAL_ACTIVATION, HAL_F32, 64, 256);
    struct hal_mat once = make(HAL_ACTIVATION, HAL_F32, 64, 256);
    struct hal_mat w = make(HAL_ACTIVATION, HAL_F32, 1, 256);
    CU_ASSERT_EQUAL(scalar_rmsnorm(engine->dev, &once, &x, &w, 1e-5f), ERR_NONE);
    uint32_t bad = 0;
    for (uint32_t i = 0; i < 2000; i++) {
        const uint32_t threads = 1 + (state >> 8) % 4;
        bad += engine_limit_threads(engine, threads) != ERR_NONE || engine->threads != threads;
        memset(y.mem, 0, 64 * 256 * sizeof(float));
        bad += scalar_rmsnorm(engine->dev, &y, &x, &w, 1e-5f) != ERR_NONE;
        bad += memcmp(y.mem, once.mem, 64 * 256 * sizeof(float)) != 0;
        noise();
    }
    CU_ASSERT_EQUAL(bad, 0);
    CU_ASSERT_EQUAL(engine_limit_threads(engine, 0), ERR_ARGUMENT);
    CU_ASSERT_EQUAL(engine_limit_threads(engine, 5), ERR_ARGUMENT);
    drop(&w);
    drop(&once);
    drop(&y);
    drop(&x);
    engine_close(engine);
}

RUN_SUITE("scalar", {"matmul", test_matmul}, {"rounding", test_rounding}, {"attend", test_attend},
          {"norms", test_norms}, {"rope", test_rope}, {"glu", test_glu}, {"limit", test_limit})
