/* stories_test.c: the small trained models of ../shared/data, imported, reach their reference perplexities over
 * the first stories: each story alone behind the token that begins a text. */
#include "tests/harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hal/engine.h"
#include "hal/hal.h"
#include "model/import.h"
#include "model/model.h"
#include "model/tokenizer.h"

#define DATA SOURCE_DIR "/../shared/data/"

enum { STORIES = 30, CONTEXT = 512 };

static struct engine *engine;
static char reason[GGUF_REASON_BYTES], text[1 << 16];

/* -log p(token) by a row of logits */
static double surprise(const float *row, uint32_t words, uint32_t token)
{
    double sum = 0, top = (double)row[0];
    for (uint32_t i = 1; i < words; i++)
        top = (double)row[i] > top ? (double)row[i] : top;
    for (uint32_t i = 0; i < words; i++)
        sum += exp((double)row[i] - top);
    return top + log(sum) - (double)row[token];
}

static bool score_story(struct model *m, const struct tokenizer *t, const char *story, size_t bytes, double *nll,
                        uint64_t *scored)
{
    static uint32_t tokens[3 * sizeof text + 8];
    size_t count = 0;
    if (tokenizer_encode(t, story, bytes, true, false, tokens, sizeof tokens / sizeof *tokens, &count))
        return false;
    count = count < CONTEXT ? count : CONTEXT;
    const struct model_run run = {0, (uint32_t)count, (uint32_t)count, tokens};
    (void)model_truncate(m, 0, 0);
    if (model_step(m, &run, 1))
        return false;
    for (uint32_t i = 0; i + 1 < count; i++, (*scored)++) {
        const float *row = NULL;
        if (model_logits(m, i, 1, &row))
            return false;
        *nll += surprise(row, model_info(m)->vocabulary, tokens[i + 1]);
    }
    return true;
}

/* Mean nats per token of the first stories of the text; infinite after an error. */
static double score(const char *path, uint64_t *scored)
{
    struct gguf *g = NULL;
    struct tokenizer *t = NULL;
    struct model *m = NULL;
    const struct model_options options = {
        .context = CONTEXT, .batch = CONTEXT, .cache_k = MODEL_CACHE_F32, .cache_v = MODEL_CACHE_F32};
    double nll = 0;
    bool is_good = !gguf_open(path, &g, reason) && !tokenizer_open(g, &t, reason) &&
                   !model_open(g, engine, &options, &m, reason);
    const char *at = text;
    *scored = 0;
    for (int i = 0; i < STORIES && is_good; i++) {
        const char *end = strstr(at, "<|endoftext|>");
        is_good = end != NULL;
        if (!is_good)
            break;
        const char *last = end;
        while (strchr(" \n", *at))
            at++;
        while (last > at && strchr(" \n", last[-1]))
            last--;
        is_good = score_story(m, t, at, (size_t)(last - at), &nll, scored);
        at = end + strlen("<|endoftext|>");
    }
    if (!is_good)
        printf("\n    %s: %s\n", path, reason);
    model_close(m);
    tokenizer_close(t);
    gguf_close(g);
    return is_good ? nll / (double)*scored : INFINITY;
}

static double imported(const char *input, const char *tokenizer, uint64_t *scored)
{
    char path[] = "/tmp/stories_test.XXXXXX";
    struct import_report report;
    const int fd = mkstemp(path);
    CU_ASSERT_FATAL(fd >= 0);
    close(fd);
    const struct import_options options = {
        .input = input, .tokenizer = tokenizer, .output = path, .type = IMPORT_KEEP};
    const enum err e = import_run(&options, &report, reason);
    CU_ASSERT_EQUAL(e, ERR_NONE);
    const double nll = e ? INFINITY : score(path, scored);
    unlink(path);
    return nll;
}

/* Reference: mean NLL 1.2515 nats over 9,321 tokens. */
static void test_stories260K(void)
{
    uint64_t scored = 0, scored_bin = 0;
    const double gguf = score(DATA "stories260K/stories260K.gguf", &scored);
    const double bin = imported(DATA "stories260K/stories260K.bin", DATA "stories260K/tok512.bin", &scored_bin);
    printf(" %.5f and %.5f nats over %llu tokens ", gguf, bin, (unsigned long long)scored);
    CU_ASSERT_EQUAL(scored, 9321);
    CU_ASSERT_EQUAL(scored_bin, 9321);
    CU_ASSERT(fabs(exp(gguf - 1.2515) - 1) <= 1e-3);
    CU_ASSERT(fabs(exp(bin - 1.2515) - 1) <= 1e-3);
}

/* Reference: 16.3; transformers gives 16.32197 over 4,263 tokens. */
static void test_tinystories656K(void)
{
    uint64_t scored = 0;
    const double nll = imported(DATA "tinystories656K", NULL, &scored);
    printf(" perplexity %.5f over %llu tokens ", exp(nll), (unsigned long long)scored);
    CU_ASSERT_EQUAL(scored, 4263);
    CU_ASSERT(fabs(exp(nll) / 16.32197 - 1) <= 1e-3);
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"stories260K", test_stories260K}, {"tinystories656K", test_tinystories656K}, CU_TEST_INFO_NULL};
    const struct engine_options options = {.folder = BUILD_DIR "/lib/tare/plugins", .is_unchecked = 1};
    FILE *f = fopen(DATA "tinystories-text/tinystories_train_first2MiB.txt", "rb");
    const size_t bytes = f ? fread(text, 1, sizeof text - 1, f) : 0;
    if (f)
        fclose(f);
#ifdef __SANITIZE_ADDRESS__
    printf("skipped: takes minutes under the sanitizers\n");
    return HARNESS_SKIPPED;
#endif
    if (bytes == 0) {
        printf("skipped: ../shared/data/tinystories-text is not there\n");
        return HARNESS_SKIPPED;
    }
    if (engine_open(&options, &engine, NULL))
        return 1;
    const int status = harness_run("stories", tests);
    engine_close(engine);
    return status;
}
