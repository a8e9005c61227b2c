/* rotate_test.c: a rotated base computes what the base does; the same seed, the same bytes. */
#include "tests/harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compress/digest.h"
#include "compress/rotate.h"
#include "hal/engine.h"
#include "model/import.h"
#include "model/model.h"

static const char tiny[] = SOURCE_DIR "/models/tare-tiny/tare-tiny-f16.gguf";
static char folder[] = "/tmp/tare-rotate-XXXXXX";
static char base_path[256], out_path[256];
static struct engine *engine;

static void set_up(void)
{
    const struct engine_options options = {.plugin = "scalar", .threads = 2, .is_unchecked = 1};
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(folder));
    snprintf(base_path, sizeof base_path, "%s/base.gguf", folder);
    snprintf(out_path, sizeof out_path, "%s/out.gguf", folder);
    CU_ASSERT_EQUAL_FATAL(engine_open(&options, &engine, NULL), ERR_NONE);
}

static enum err turn(const char *base, uint64_t seed, struct rotate_result *result, struct fault *f)
{
    const struct rotate_options o = {
        .base_path = base, .base_sha256 = "0", .out_path = out_path, .seed = seed, .engine = engine};
    f->text[0] = 0;
    return rotate_file_make(&o, result, f);
}

/* Q x has the length of x, and no entry of it is large where x has one hot entry. */
static void rotations_are_orthogonal(void)
{
    static const uint32_t lengths[] = {1, 2, 3, 8, 12, 64, 96, 172, 256};
    for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
        const uint32_t n = lengths[k];
        static double q[256][256];
        struct rotate r = {0};
        CU_ASSERT_EQUAL_FATAL(rotate_open(n, 5, 0, &r), ERR_NONE);
        for (uint32_t i = 0; i < n; i++) {
            memset(q[i], 0, sizeof q[i]);
            q[i][i] = 1;
            rotate_apply(&r, q[i]);
        }
        double worst = 0;
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t j = 0; j < n; j++) {
                double sum = i == j ? -1 : 0;
                for (uint32_t c = 0; c < n; c++)
                    sum += q[i][c] * q[j][c];
                worst = fmax(worst, fabs(sum));
            }
        CU_ASSERT_TRUE(worst < 1e-12);
        CU_ASSERT_TRUE(n != 256 || fabs(q[17][40]) == 0.0625);
        rotate_close(&r);
    }
}

/* The last logits of eight tokens. */
static uint32_t logits_of(const char *path, float *out, uint32_t capacity)
{
    static const uint32_t tokens[] = {1, 30, 31, 32, 33, 24, 35, 36};
    char reason[GGUF_REASON_BYTES] = "";
    const struct model_options options = {.context = 64, .cache_k = MODEL_CACHE_F32, .cache_v = MODEL_CACHE_F32};
    const struct model_run run = {.outputs = 1, .count = 8, .tokens = tokens};
    const float *row = NULL;
    struct gguf *g = NULL;
    struct model *m = NULL;
    CU_ASSERT_EQUAL_FATAL(gguf_open(path, &g, reason), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(model_open(g, engine, &options, &m, reason), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(model_step(m, &run, 1), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(model_logits(m, 0, 1, &row), ERR_NONE);
    const uint32_t n = model_info(m)->vocabulary;
    CU_ASSERT_TRUE_FATAL(n <= capacity);
    memcpy(out, row, n * sizeof *out);
    model_close(m);
    gguf_close(g);
    return n;
}

static void same_function(const char *base, const char *name)
{
    enum { VOCABULARY = 4096 };
    static float a[VOCABULARY], b[VOCABULARY];
    struct rotate_result result = {0};
    struct fault f;
    unlink(out_path);
    const enum err e = turn(base, 3, &result, &f);
    if (e)
        printf("\n    %s: %s\n", name, f.text);
    CU_ASSERT_EQUAL_FATAL(e, ERR_NONE);
    const uint32_t n = logits_of(base, a, VOCABULARY);
    CU_ASSERT_EQUAL_FATAL(logits_of(out_path, b, VOCABULARY), n);
    double worst = 0;
    for (uint32_t i = 0; i < n; i++)
        worst = fmax(worst, fabs((double)a[i] - (double)b[i]));
    if (!(worst < 1e-4))
        printf("\n    %s: logits differ by %g\n", name, worst);
    CU_ASSERT_TRUE(worst < 1e-4);
}

static void function_is_preserved(void)
{
    static const char *const families[] = {"llama3", "llama_yarn", "mistral", "qwen2", "qwen3"};
    same_function(tiny, "tare-tiny");
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        char input[256], reason[GGUF_REASON_BYTES] = "";
        struct import_report report;
        snprintf(input, sizeof input, "%s/tests/model/family/%s", SOURCE_DIR, families[i]);
        const struct import_options options = {.input = input, .output = base_path, .type = HAL_F32};
        CU_ASSERT_EQUAL_FATAL(import_run(&options, &report, reason), ERR_NONE);
        same_function(base_path, families[i]);
    }
}

/* Tied: the head is written beside the embedding. The gains are gone, the rest is another file of the same seed. */
static void a_seed_makes_a_file(void)
{
    char sha[3][65], reason[GGUF_REASON_BYTES];
    static const uint64_t seeds[] = {9, 10, 9};
    struct rotate_result result = {0};
    struct fault f;
    struct gguf *g = NULL;
    for (uint32_t i = 0; i < 3; i++) {
        CU_ASSERT_EQUAL_FATAL(turn(tiny, seeds[i], &result, &f), ERR_NONE);
        CU_ASSERT_EQUAL_FATAL(digest_file(out_path, sha[i], NULL), ERR_NONE);
    }
    CU_ASSERT_STRING_EQUAL(sha[0], sha[2]);
    CU_ASSERT_STRING_NOT_EQUAL(sha[0], sha[1]);
    CU_ASSERT_STRING_EQUAL(sha[0], "98ce4347ff1b5490ae6f85c51ce80804ebf9c8894fa25b26f5325a570c3ec5db"); /* any machine's */
    CU_ASSERT_TRUE(result.is_untied && result.weights_added == 4096 * 256);
    CU_ASSERT_EQUAL_FATAL(gguf_open(out_path, &g, reason), ERR_NONE);
    const struct gguf_tensor *t = gguf_tensor_find(g, "output.weight"), *n = gguf_tensor_find(g, "blk.2.ffn_norm.weight");
    CU_ASSERT_PTR_NOT_NULL_FATAL(t);
    CU_ASSERT_TRUE(t->shape[0] == 256 && t->rows == 4096 && t->type == HAL_F32);
    CU_ASSERT_TRUE(((const float *)(const void *)n->data)[77] == 1);
    struct gguf_text said = {"", 0};
    CU_ASSERT_EQUAL(gguf_string(g, "tare.rotated", &said), ERR_NONE);
    CU_ASSERT_TRUE(said.bytes > 40 && memcmp(said.text, "stream 256 = 256 x 1, values 32, seed 9,", 40) == 0);
    gguf_close(g);
}

static void write_unknown(void)
{
    static const float x[4] = {1, 2, 3, 4};
    static const uint64_t shape[] = {4};
    struct gguf_writer *w = NULL;
    CU_ASSERT_EQUAL_FATAL(gguf_writer_open(base_path, 32, &w), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_string(w, "general.architecture", "llama", 5), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_tensor(w, "blk.0.ffn_gate_inp.weight", HAL_F32, 1, shape), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_begin(w, 0), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_append(w, x, sizeof x), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_commit(w), ERR_NONE);
    gguf_writer_close(w);
}

/* What is not known whole is refused in one line, and nothing is written. */
static void others_are_refused(void)
{
    char input[256], reason[GGUF_REASON_BYTES] = "";
    struct import_report report;
    struct fault f;
    unlink(out_path);
    snprintf(input, sizeof input, "%s/tests/model/family/gemma2", SOURCE_DIR);
    const struct import_options options = {.input = input, .output = base_path, .type = HAL_F32};
    CU_ASSERT_EQUAL_FATAL(import_run(&options, &report, reason), ERR_NONE);
    CU_ASSERT_EQUAL(turn(base_path, 1, NULL, &f), ERR_UNSUPPORTED);
    CU_ASSERT_PTR_NOT_NULL(strstr(f.text, "llama, qwen2 and qwen3 only"));
    write_unknown();
    CU_ASSERT_EQUAL(turn(base_path, 1, NULL, &f), ERR_UNSUPPORTED);
    CU_ASSERT_PTR_NOT_NULL(strstr(f.text, "blk.0.ffn_gate_inp.weight: rotation does not know"));
    CU_ASSERT_NOT_EQUAL(access(out_path, F_OK), 0);
}

static void tear_down(void)
{
    unlink(base_path);
    unlink(out_path);
    CU_ASSERT_EQUAL(rmdir(folder), 0);
    engine_close(engine);
}

RUN_SUITE("rotate", {"set_up", set_up}, {"rotations_are_orthogonal", rotations_are_orthogonal},
          {"function_is_preserved", function_is_preserved}, {"a_seed_makes_a_file", a_seed_makes_a_file},
          {"others_are_refused", others_are_refused}, {"tear_down", tear_down})
