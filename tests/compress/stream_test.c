#include "tests/harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compress/calibrate.h"
#include "compress/layer_stream.h"
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

int main(void)
{
    CU_TestInfo tests[] = {{"streamed_is_whole", streamed_is_whole}, {"errors_end_it", errors_end_it}, CU_TEST_INFO_NULL};
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
