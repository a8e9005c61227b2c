/* rounding_test.c: activations of few bits, simulated and as the plugins round them. */
#include "tests/harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compress/digest.h"
#include "compress/quantise.h"
#include "hal/engine.h"
#include "model/model.h"

static const char base_path[] = SOURCE_DIR "/models/tare-tiny/tare-tiny-f16.gguf";
static char path[] = "/tmp/tare-rounding-XXXXXX";
static struct engine *engine;
static struct gguf *base, *blocks;

enum { TOKENS = 24 };

static float *logits; /* [vocabulary] of the last run */
static uint32_t vocabulary;

static void derive(void)
{
    static const char text[] = "{type: Q8_0, method: rtn}";
    char digest[65];
    struct recipe r;
    struct plan *p = NULL;
    struct quantise_result result;
    struct fault f = {""};
    CU_ASSERT_EQUAL_FATAL(digest_file(base_path, digest, NULL), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(recipe_parse("r.yaml", text, strlen(text), &r, &f), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(plan_make(&r, base, digest, gguf_bytes(base), NULL, NULL, NULL, NULL, &p, &f), ERR_NONE);
    const struct quantise_options o = {.base_path = base_path, .out_path = path, .plan = p, .engine = engine};
    CU_ASSERT_EQUAL_FATAL(quantise_run(&o, &result, &f), ERR_NONE);
    quantise_result_close(&result);
    plan_close(p);
}

static void set_up(void)
{
    char reason[GGUF_REASON_BYTES];
    const int fd = mkstemp(path);
    CU_ASSERT_TRUE_FATAL(fd >= 0);
    close(fd);
    CU_ASSERT_EQUAL_FATAL(engine_open(NULL, &engine, NULL), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(gguf_open(base_path, &base, reason), ERR_NONE);
    derive();
    CU_ASSERT_EQUAL_FATAL(gguf_open(path, &blocks, reason), ERR_NONE);
}

/* Logits behind a fixed run of tokens; the caller frees them. */
static float *run(const struct gguf *g, struct model_rounding rounding)
{
    char reason[GGUF_REASON_BYTES];
    const struct model_options o = {.context = 64, .cache_k = MODEL_CACHE_F32, .cache_v = MODEL_CACHE_F32, .rounding = rounding};
    struct model *m = NULL;
    const float *from;
    uint32_t tokens[TOKENS];
    CU_ASSERT_EQUAL_FATAL(model_open(g, engine, &o, &m, reason), ERR_NONE);
    vocabulary = model_info(m)->vocabulary;
    for (uint32_t i = 0; i < TOKENS; i++)
        tokens[i] = 300 + i * 37 % (vocabulary - 300);
    CU_ASSERT_EQUAL_FATAL(model_prefill(m, 0, tokens, TOKENS), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(model_logits(m, 0, 1, &from), ERR_NONE);
    float *to = malloc(vocabulary * sizeof *to);
    CU_ASSERT_TRUE_FATAL(to != NULL);
    memcpy(to, from, vocabulary * sizeof *to);
    model_close(m);
    return to;
}

/* Root mean square of the difference, by that of a; frees b. */
static double distance(const float *a, float *b)
{
    double sum = 0, energy = 0;
    for (uint32_t i = 0; i < vocabulary; i++) {
        sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        energy += (double)a[i] * (double)a[i];
    }
    free(b);
    return sqrt(sum / energy);
}

static float nowhere(void *context, const char *tensor)
{
    ++*(int *)context;
    CU_ASSERT_TRUE(tensor != NULL);
    return 0;
}

static float low(void *context, const char *tensor)
{
    (void)tensor;
    return *(const float *)context;
}

/* 8 bits are the plugin's own for blocks; the simulation of 8 bits on the same weights is that too. */
static void eight_bits_are_native(void)
{
    int asked = 0;
    logits = run(blocks, (struct model_rounding){.bits = 0});
    CU_ASSERT_EQUAL(distance(logits, run(blocks, (struct model_rounding){.bits = 8})), 0);
    const double simulated = distance(logits, run(blocks, (struct model_rounding){8, nowhere, &asked}));
    CU_ASSERT_TRUE(asked >= 16);
    CU_ASSERT_TRUE(simulated < 1e-2); /* a sum that differs in its last bit may round to another code */
    const double without = distance(logits, run(blocks, (struct model_rounding){.bits = 16}));
    CU_ASSERT_TRUE(without > 2 * simulated);
    free(logits);
}

static void fewer_bits_are_worse(void)
{
    float limit = 0.5f, wide = 1000;
    logits = run(base, (struct model_rounding){.bits = 0});
    const double d16 = distance(logits, run(base, (struct model_rounding){.bits = 16})),
                 d8 = distance(logits, run(base, (struct model_rounding){.bits = 8})),
                 d4 = distance(logits, run(base, (struct model_rounding){.bits = 4})),
                 clipped = distance(logits, run(base, (struct model_rounding){16, low, &limit})),
                 coarse = distance(logits, run(base, (struct model_rounding){16, low, &wide}));
    CU_ASSERT_TRUE(d16 > 0 && d16 < 1e-3);
    CU_ASSERT_TRUE(d8 > 3 * d16);
    CU_ASSERT_TRUE(d4 > 5 * d8);
    CU_ASSERT_TRUE(clipped > d8);
    CU_ASSERT_TRUE(coarse > d16);
    free(logits);
}

static void refusals(void)
{
    char reason[GGUF_REASON_BYTES];
    const struct model_options o = {.context = 64, .rounding = {.bits = 17}};
    struct model *m = NULL;
    CU_ASSERT_EQUAL(model_open(base, engine, &o, &m, reason), ERR_ARGUMENT);
    CU_ASSERT_PTR_NOT_NULL(strstr(reason, "17 bits"));
}

static void tear_down(void)
{
    gguf_close(base);
    gguf_close(blocks);
    engine_close(engine);
    unlink(path);
}

RUN_SUITE("rounding", {"set_up", set_up}, {"eight_bits_are_native", eight_bits_are_native},
          {"fewer_bits_are_worse", fewer_bits_are_worse}, {"refusals", refusals}, {"tear_down", tear_down})
