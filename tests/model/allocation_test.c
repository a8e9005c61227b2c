/* allocation_test.c: a step of a model allocates nothing, on no plugin and in none of its threads: prompts, tokens,
 * logits, shared and cut texts, pages that go to a file, layers that take turns. */
#include "tests/harness.h"

#include "hal/engine.h"
#include "model/model.h"
#include "tests/allocations.h"
#include "tests/model/family_fixture.h"

enum { STEP = 32, PROMPT = 96, MORE = 24 };

static uint32_t token[PROMPT + MORE];

static enum err work(struct model *m)
{
    const float *row = NULL;
    uint32_t words = 0;
    enum err e = model_prefill(m, 0, token, PROMPT);
    words += model_share(m, 1, 0, PROMPT - 5);
    for (uint32_t i = 0; i < MORE && !e; i++) {
        const struct model_run runs[] = {{0, 1, 1, token + PROMPT + i}, {1, 1, 1, token + i}};
        e = model_step(m, runs, 2);
        if (!e)
            e = model_logits(m, 0, 2, &row);
    }
    for (uint32_t s = 2; s < 4 && !e; s++) /* in their turn; the others rest */
        e = model_prefill(m, s, token, PROMPT);
    if (!e)
        e = model_prefill(m, 0, token, STEP);
    words += model_truncate(m, 0, 40); /* into a page that 1 has too: to its start */
    for (uint32_t s = 0; s < 4; s++)
        model_truncate(m, s, 0);
    return words == PROMPT - 5 + 32 ? e : ERR_MISMATCH;
}

static void check(struct engine *e, const char *family, const struct model_options *options)
{
    char reason[GGUF_REASON_BYTES];
    struct model *m = NULL;
    struct gguf *g = family_import(family, IMPORT_KEEP);
    CU_ASSERT_PTR_NOT_NULL_FATAL(g);
    CU_ASSERT_EQUAL_FATAL(model_open(g, e, options, &m, reason), ERR_NONE);
    const unsigned long before = allocations();
    const uint64_t used = engine_memory_used();
    CU_ASSERT_EQUAL(work(m), ERR_NONE);
    CU_ASSERT_EQUAL(work(m), ERR_NONE);
    CU_ASSERT_EQUAL(allocations(), before);
    CU_ASSERT_EQUAL(engine_memory_used(), used);
    model_close(m);
    gguf_close(g);
}

static void check_engine(const char *plugin, const char *path)
{
    const struct engine_options how = {
        .plugin = plugin, .path = path, .folder = BUILD_DIR "/lib/tare/plugins", .threads = 3, .is_unchecked = 1};
    struct model_options o = {.context = 160, .batch = STEP, .sequences = 4, .head_rows = 2};
    struct engine *e = NULL;
    const enum err error = engine_open(&how, &e, NULL);
    if (error) {
        printf("\n    %s %s: not here (%s)", plugin, path ? path : "", err_name(error));
        return;
    }
    check(e, "llama3", &o);
    check(e, "deepseek3", &o);
    o.slots = 256;
    o.spill_folder = "/tmp";
    o.spill_bytes = 4 << 20;
    check(e, "qwen3", &o);
    o = (struct model_options){.context = 160, .batch = STEP, .sequences = 4, .head_rows = 2, .spill_folder = "/tmp"};
    o.cache_bytes = 256 << 10;
    check(e, "llama3", &o);
    engine_close(e);
}

static void test_steps(void)
{
    for (uint32_t i = 0; i < PROMPT + MORE; i++)
        token[i] = 5 + i * 2654435761u % 200;
    check_engine("scalar", NULL);
    check_engine("vnni", NULL);
    check_engine("vnni", "avx2");
    check_engine("neon", NULL);
    printf("\n  ");
}

int main(void)
{
    if (!allocations_are_seen()) {
        printf("skipped: a sanitizer counts allocations for itself\n");
        return HARNESS_SKIPPED;
    }
    CU_TestInfo tests[] = {{"steps", test_steps}, CU_TEST_INFO_NULL};
    return harness_run("allocation", tests);
}
