#include "tests/harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compress/calibrate.h"
#include "compress/layer_stream.h"
#include "compress/quantise.h"
#include "hal/block.h"
#include "hal/engine.h"

static const char *const model_path = SOURCE_DIR "/models/tare-tiny/tare-tiny-f16.gguf";
static struct engine *engine;
static char beside[64];
static uint64_t last_tokens;

static int note_tokens(void *context, const struct calibrate_progress *p)
{
    (void)context;
    CU_ASSERT(p->tokens >= last_tokens && p->tokens <= p->tokens_total);
    last_tokens = p->tokens;
    return 0;
}

static int stop(void *context, const struct calibrate_progress *p)
{
    (void)context;
    return p->tokens > p->tokens_total / 2;
}

static struct profile *calibrated(const char *where, calibrate_progress_fn *progress, enum err *e)
{
    static const struct calibrate_text text[] = {{SOURCE_DIR "/tests/data/text/en/calibration.txt", "en"},
                                                 {SOURCE_DIR "/tests/data/text/fr/calibration.txt", "fr"}};
    struct profile *p = NULL;
    struct fault f = {""};
    const struct calibrate_options options = {.base_path = model_path, .engine = engine, .text = text, .texts = 2,
                                              .context = 64, .beside = where, .progress = progress};
    last_tokens = 0;
    *e = calibrate_run(&options, &p, &f);
    return p;
}

/* One layer at a time or all of them: the same statistics, and nothing is left in the folder. */
static void streamed_is_whole(void)
{
    enum err e;
    struct profile *whole = calibrated(NULL, note_tokens, &e);
    CU_ASSERT_EQUAL_FATAL(e, ERR_NONE);
    const uint64_t tokens = last_tokens;
    struct profile *streamed = calibrated(beside, note_tokens, &e);
    CU_ASSERT_EQUAL_FATAL(e, ERR_NONE);
    CU_ASSERT_EQUAL(last_tokens, tokens);
    CU_ASSERT_EQUAL(streamed->entries, whole->entries);
    CU_ASSERT_EQUAL(streamed->chunks, whole->chunks);
    CU_ASSERT(whole->entries > 20);
    double worst = 0;
    for (uint32_t i = 0; i < whole->entries; i++) {
        const struct profile_entry *a = &whole->entry[i], *b = profile_find(streamed, a->name);
        CU_ASSERT_PTR_NOT_NULL_FATAL(b);
        float *x = malloc(2 * a->cols * sizeof *x);
        CU_ASSERT_PTR_NOT_NULL_FATAL(x);
        profile_importance(a, 0, x);
        profile_importance(b, 0, x + a->cols);
        for (uint32_t c = 0; c < a->cols; c++)
            worst = fmax(worst, fabs((double)x[c] / (double)x[a->cols + c] - 1));
        free(x);
    }
    CU_ASSERT(worst < 1e-3);
    CU_ASSERT_NOT_EQUAL(access(beside, F_OK), 0);
    profile_close(whole);
    profile_close(streamed);
}

static void errors_end_it(void)
{
    enum err e;
    CU_ASSERT_PTR_NULL(calibrated(beside, stop, &e));
    CU_ASSERT_EQUAL(e, ERR_CANCELLED);
    CU_ASSERT_PTR_NULL(calibrated("/nonexistent/folder/x", NULL, &e));
    CU_ASSERT_EQUAL(e, ERR_IO);
    CU_ASSERT_EQUAL(layer_stream_layer("blk.12.attn_q.weight"), 12);
    CU_ASSERT_EQUAL(layer_stream_layer("blk.x"), UINT32_MAX);
    CU_ASSERT_EQUAL(layer_stream_layer("output.weight"), UINT32_MAX);
}

#if !defined(__SANITIZE_ADDRESS__)
/* The base again with the tensors of its layers in reverse. */
static void write_reversed(const char *path)
{
    char why[GGUF_REASON_BYTES];
    struct gguf *g = NULL;
    struct gguf_writer *w = NULL;
    uint32_t order[1024], count = 0;
    CU_ASSERT_EQUAL_FATAL(gguf_open(model_path, &g, why), ERR_NONE);
    CU_ASSERT_FATAL(gguf_tensors(g) <= 1024);
    for (uint32_t i = 0; i < gguf_tensors(g); i++)
        if (layer_stream_layer(gguf_tensor(g, i)->name) == UINT32_MAX)
            order[count++] = i;
    for (uint32_t i = gguf_tensors(g); i-- > 0;)
        if (layer_stream_layer(gguf_tensor(g, i)->name) != UINT32_MAX)
            order[count++] = i;
    CU_ASSERT_EQUAL_FATAL(gguf_writer_open(path, gguf_alignment(g), &w), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(gguf_writer_copy_all(w, g), ERR_NONE);
    for (uint32_t i = 0; i < count; i++) {
        const struct gguf_tensor *t = gguf_tensor(g, order[i]);
        CU_ASSERT_EQUAL_FATAL(gguf_writer_tensor(w, t->name, t->type, t->dims, t->shape), ERR_NONE);
    }
    CU_ASSERT_EQUAL_FATAL(gguf_writer_begin(w, 0), ERR_NONE);
    for (uint32_t i = 0; i < count; i++) {
        const struct gguf_tensor *t = gguf_tensor(g, order[i]);
        CU_ASSERT_EQUAL_FATAL(gguf_writer_append(w, t->data, t->bytes), ERR_NONE);
    }
    CU_ASSERT_EQUAL_FATAL(gguf_writer_commit(w), ERR_NONE);
    gguf_writer_close(w);
    gguf_close(g);
}

static int stop_at(void *context, const struct quantise_progress *p)
{
    const double *share = context;
    return (double)p->bytes > *share * (double)p->bytes_total;
}

static enum err quantised(const char *base_path, const char *out_path, double *share)
{
    static const char *const text[] = {SOURCE_DIR "/tests/data/text/en/calibration.txt",
                                       SOURCE_DIR "/tests/data/text/fr/calibration.txt"};
    static const char recipe_text[] = "{type: q3_k, method: gptq}";
    char why[GGUF_REASON_BYTES], sha[DIGEST_HEX];
    struct gguf *g = NULL;
    struct plan *p = NULL;
    struct recipe recipe;
    struct quantise_result r = {.bytes = 0};
    struct fault f = {""};
    CU_ASSERT_EQUAL_FATAL(gguf_open(base_path, &g, why), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(digest_file(base_path, sha, NULL), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(recipe_parse("r.yaml", recipe_text, strlen(recipe_text), &recipe, &f), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(plan_make(&recipe, g, sha, gguf_bytes(g), NULL, NULL, NULL, NULL, &p, &f), ERR_NONE);
    const struct quantise_options o = {.base_path = base_path, .out_path = out_path, .plan = p, .engine = engine,
                                       .text = text, .texts = 2, .progress = share ? stop_at : NULL,
                                       .progress_context = share};
    const enum err e = quantise_run(&o, &r, &f);
    if (e && e != ERR_CANCELLED)
        fprintf(stderr, "%s\n", f.text);
    for (uint32_t i = 0; i < r.tensors && !e; i++)
        CU_ASSERT(share || r.tensor[i].type != HAL_Q3_K || r.tensor[i].method >= RECIPE_SEARCH);
    quantise_result_close(&r);
    plan_close(p);
    gguf_close(g);
    return e;
}

/* Layers and linears are taken in the order in which they are computed, also by a run that goes on in the middle. */
static void order_of_the_file_is_nothing(void)
{
    char reversed[80], plain[80], other[80], why[GGUF_REASON_BYTES];
    struct gguf *a = NULL, *b = NULL;
    double share = 0.4;
    snprintf(reversed, sizeof reversed, "%s.reversed", beside);
    snprintf(plain, sizeof plain, "%s.plain", beside);
    snprintf(other, sizeof other, "%s.other", beside);
    write_reversed(reversed);
    CU_ASSERT_EQUAL_FATAL(quantised(model_path, plain, NULL), ERR_NONE);
    CU_ASSERT_EQUAL(quantised(reversed, other, &share), ERR_CANCELLED);
    CU_ASSERT_EQUAL_FATAL(quantised(reversed, other, NULL), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(gguf_open(plain, &a, why), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(gguf_open(other, &b, why), ERR_NONE);
    uint32_t quantised_tensors = 0;
    for (uint32_t i = 0; i < gguf_tensors(a); i++) {
        const struct gguf_tensor *t = gguf_tensor(a, i), *same = gguf_tensor_find(b, t->name);
        CU_ASSERT_PTR_NOT_NULL_FATAL(same);
        CU_ASSERT(same->bytes == t->bytes && memcmp(same->data, t->data, t->bytes) == 0);
        quantised_tensors += t->type == HAL_Q3_K;
    }
    CU_ASSERT(quantised_tensors >= 28);
    gguf_close(a);
    gguf_close(b);
    remove(reversed);
    remove(plain);
    remove(other);
    for (const char *const *suffix = (const char *const[]){".work", ".blocks", ".layers", ".part", ".state", NULL}; *suffix;
         suffix++) {
        snprintf(plain, sizeof plain, "%s.other%s", beside, *suffix);
        CU_ASSERT_NOT_EQUAL(access(plain, F_OK), 0);
    }
}

#endif

int main(void)
{
    CU_TestInfo tests[] = {{"streamed_is_whole", streamed_is_whole},
                           {"errors_end_it", errors_end_it},
#if !defined(__SANITIZE_ADDRESS__) /* minutes there; resume.sh goes the same ways */
                           {"order_of_the_file_is_nothing", order_of_the_file_is_nothing},
#endif
                           CU_TEST_INFO_NULL};
    const struct engine_options options = {
        .plugin = "vnni", .threads = 2, .folder = BUILD_DIR "/lib/tare/plugins", .is_unchecked = 1};
    const struct engine_options plain = {.plugin = "scalar", .threads = 2};
    if (engine_open(&options, &engine, NULL) && engine_open(&plain, &engine, NULL))
        return 1;
    snprintf(beside, sizeof beside, "/tmp/tare-stream-%d", (int)getpid());
    const int status = harness_run("stream", tests);
    engine_close(engine);
    return status;
}
