/* cache_test.c: what the cache does beside attention changes no logit: shared prefixes, pages in any order,
 * pages that went to a file and came back; windows keep only what they see; long texts stay in their budget. */
#include "tests/harness.h"

#include <malloc.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "hal/engine.h"
#include "model/cache_cost.h"
#include "model/model.h"
#include "tests/model/family_fixture.h"

#ifdef __SANITIZE_ADDRESS__ /* a hundred times slower: some of everything will do */
enum { LONG = 1024, EVERY = 5 };
#else
enum { LONG = 16384, EVERY = 1 };
#endif
enum { STEP = 32, PIECES = 9, LENGTH = STEP * PIECES, COLS_MAX = 512 };

static struct engine *scalar, *best;
static char reason[GGUF_REASON_BYTES];
static float plain[LENGTH * COLS_MAX], other[STEP * COLS_MAX];

static struct model *open_with(const struct gguf *g, struct engine *e, const struct model_options *options)
{
    struct model *m = NULL;
    if (model_open(g, e, options, &m, reason))
        printf("\n    %s\n", reason);
    return m;
}

/* The piece-th STEP tokens appended; their logits to out. */
static enum err step(struct model *m, uint32_t sequence, const uint32_t *token, uint32_t piece, float *out)
{
    const uint32_t words = model_info(m)->vocabulary;
    const struct model_run run = {sequence, STEP, STEP, token + piece * STEP};
    const float *row = NULL;
    enum err e = model_step(m, &run, 1);
    for (uint32_t i = 0; i < STEP && !e; i++) {
        e = model_logits(m, i, 1, &row);
        if (!e)
            memcpy(out + (size_t)i * words, row, words * sizeof *out);
    }
    return e;
}

static bool is_same(struct model *m, uint32_t piece)
{
    const size_t values = (size_t)STEP * model_info(m)->vocabulary;
    return memcmp(other, plain + piece * values, values * sizeof *other) == 0;
}

static int tight_families;

/* A budget that keeps layers outside the engine's memory; 0: one layer of each shape is all there is. */
static uint64_t tight_budget(const struct gguf *g, struct engine *e, const struct model_options *options)
{
    struct model_options o = *options;
    struct model *m = NULL;
    o.cache_bytes = o.spill_bytes = 0;
    o.spill_folder = NULL;
    m = open_with(g, e, &o);
    CU_ASSERT_PTR_NOT_NULL_FATAL(m);
    o.cache_bytes = model_info(m)->cache_bytes - 1;
    model_close(m);
    const enum err error = model_open(g, e, &o, &m, reason);
    CU_ASSERT(error == ERR_NONE || (error == ERR_FULL && strstr(reason, "budget")));
    if (!error)
        model_close(m);
    tight_families += !error;
    return error ? 0 : o.cache_bytes;
}

/* One sequence alone: what all else is held against. */
static void run_plain(const struct gguf *g, struct engine *e, uint32_t type, const uint32_t *token)
{
    const struct model_options options = {
        .context = FAMILY_CONTEXT, .batch = STEP, .head_rows = 1, .cache_k = type, .cache_v = type};
    struct model *m = open_with(g, e, &options);
    CU_ASSERT_PTR_NOT_NULL_FATAL(m);
    for (uint32_t p = 0; p < PIECES; p++)
        CU_ASSERT_EQUAL(step(m, 0, token, p, plain + (size_t)p * STEP * model_info(m)->vocabulary), ERR_NONE);
    model_close(m);
}

/* Four sequences in the memory of little more than one: each step sends another one's pages away. */
static void run_spilled(const struct gguf *g, struct engine *e, uint32_t type, const uint32_t *token, bool is_tight)
{
    uint64_t out = 0, back = 0;
    uint32_t reversed[LENGTH];
    struct model_options options = {.context = FAMILY_CONTEXT,
                                    .batch = STEP,
                                    .sequences = 4,
                                    .slots = FAMILY_CONTEXT + STEP,
                                    .head_rows = 1,
                                    .cache_k = type,
                                    .cache_v = type,
                                    .spill_folder = "/tmp",
                                    .spill_bytes = 16 << 20};
    if (is_tight && !(options.cache_bytes = tight_budget(g, e, &options)))
        return;
    struct model *m = open_with(g, e, &options);
    CU_ASSERT_PTR_NOT_NULL_FATAL(m);
    CU_ASSERT((model_info(m)->cache_outside_bytes > 0) == is_tight);
    for (uint32_t i = 0; i < LENGTH; i++)
        reversed[i] = token[LENGTH - 1 - i];
    for (uint32_t p = 0; p < PIECES; p++) {
        CU_ASSERT_EQUAL(step(m, 0, token, p, other), ERR_NONE);
        CU_ASSERT(is_same(m, p));
        CU_ASSERT_EQUAL(step(m, 1, reversed, p, other), ERR_NONE);
        if (p == 1) { /* two pages of sequence 0 that both hold from now on */
            CU_ASSERT_EQUAL(model_share(m, 2, 0, LENGTH), 2 * STEP);
        }
        if (p >= 1) /* behind them its own text, sequence 0's delayed */
            CU_ASSERT_EQUAL(step(m, 3, reversed, p - 1, other), ERR_NONE);
        if (p >= 3) {
            CU_ASSERT_EQUAL(step(m, 2, token, p - 1, other), ERR_NONE);
            CU_ASSERT(is_same(m, p - 1));
        }
    }
    model_spilled(m, &out, &back);
    CU_ASSERT(out > 0 && back > 0);
    model_close(m);
}

/* A sequence that begins with another's pages, and one that was cut and goes on. */
static void run_shared(const struct gguf *g, struct engine *e, uint32_t type, const uint32_t *token)
{
    const struct model_options options = {.context = FAMILY_CONTEXT, .batch = STEP, .sequences = 2, .head_rows = 1,
                                          .cache_k = type, .cache_v = type};
    struct model *m = open_with(g, e, &options);
    CU_ASSERT_PTR_NOT_NULL_FATAL(m);
    for (uint32_t p = 0; p < 3; p++)
        CU_ASSERT_EQUAL(step(m, 0, token, p, other), ERR_NONE);
    CU_ASSERT_EQUAL(model_share(m, 1, 0, 2 * STEP), 2 * STEP);
    for (uint32_t p = 2; p < PIECES; p++) {
        CU_ASSERT_EQUAL(step(m, 1, token, p, other), ERR_NONE);
        CU_ASSERT(is_same(m, p));
    }
    CU_ASSERT_EQUAL(model_truncate(m, 0, 2 * STEP), 2 * STEP);
    CU_ASSERT_EQUAL(step(m, 0, token, 2, other), ERR_NONE);
    CU_ASSERT(is_same(m, 2));
    model_close(m);
}

/* A sequence that begins in the middle of another's page: both go on, neither sees what the other wrote. */
static void run_tail(const struct gguf *g, struct engine *e, const uint32_t *token)
{
    enum { TAIL = 5, AT = 2 * STEP + TAIL };
    uint32_t strange[STEP];
    const struct model_options options = {.context = FAMILY_CONTEXT, .batch = STEP, .sequences = 3, .head_rows = 1};
    struct model *m = open_with(g, e, &options);
    CU_ASSERT_PTR_NOT_NULL_FATAL(m);
    const uint32_t words = model_info(m)->vocabulary;
    for (uint32_t p = 0; p < 3; p++)
        CU_ASSERT_EQUAL(step(m, 0, token, p, other), ERR_NONE);
    const uint32_t held = model_holds(m, 0, AT) ? AT : 0; /* a window has left it behind */
    CU_ASSERT_EQUAL(model_share(m, 2, 0, AT), held);
    for (uint32_t i = 0; i < STEP; i++)
        strange[i] = token[LENGTH - 1 - i];
    const struct model_run beside = {2, 1, STEP, strange};
    CU_ASSERT_EQUAL(model_step(m, &beside, 1), ERR_NONE);
    CU_ASSERT_EQUAL(model_share(m, 1, 0, AT), held);
    CU_ASSERT_EQUAL(model_length(m, 1), held);
    if (held) {
        const float *row = NULL;
        const struct model_run rest = {1, STEP - TAIL, STEP - TAIL, token + AT};
        CU_ASSERT_EQUAL(model_step(m, &rest, 1), ERR_NONE);
        for (uint32_t i = 0; i < STEP - TAIL; i++) {
            CU_ASSERT_EQUAL(model_logits(m, i, 1, &row), ERR_NONE);
            CU_ASSERT(row && memcmp(row, plain + (size_t)(AT + i) * words, words * sizeof *row) == 0);
        }
        CU_ASSERT_EQUAL(step(m, 1, token, 3, other), ERR_NONE);
        CU_ASSERT(is_same(m, 3));
    }
    CU_ASSERT_EQUAL(step(m, 0, token, 3, other), ERR_NONE);
    CU_ASSERT(is_same(m, 3));
    model_close(m);
}

/* Layers that take turns in memory while their sequence runs. */
static void run_turning(const struct gguf *g, struct engine *e, uint32_t type, const uint32_t *token, const char *folder)
{
    uint64_t out = 0, back = 0;
    struct model_options options = {.context = FAMILY_CONTEXT, .batch = STEP, .sequences = 2, .head_rows = 1,
                                    .cache_k = type, .cache_v = type, .spill_folder = folder};
    if (!(options.cache_bytes = tight_budget(g, e, &options)))
        return;
    struct model *m = open_with(g, e, &options);
    CU_ASSERT_PTR_NOT_NULL_FATAL(m);
    CU_ASSERT(model_info(m)->cache_bytes <= options.cache_bytes && model_info(m)->cache_outside_bytes > 0);
    for (uint32_t p = 0; p < PIECES; p++) {
        CU_ASSERT_EQUAL(step(m, 0, token, p, other), ERR_NONE);
        CU_ASSERT(is_same(m, p));
        if (p == 1) {
            CU_ASSERT_EQUAL(model_share(m, 1, 0, 2 * STEP), 2 * STEP);
        }
        if (p >= 2) {
            CU_ASSERT_EQUAL(step(m, 1, token, p, other), ERR_NONE);
            CU_ASSERT(is_same(m, p));
        }
    }
    model_turned(m, &out, &back);
    CU_ASSERT(out > 0 && back > out);
    model_close(m);
}

static void check_family(const char *name, struct engine *e, uint32_t type)
{
    struct family_reference r;
    struct gguf *g = family_import(name, IMPORT_KEEP);
    CU_ASSERT(family_read(name, &r));
    CU_ASSERT_PTR_NOT_NULL(g);
    if (g && r.tokens >= LENGTH) {
        run_plain(g, e, type, r.token);
        run_shared(g, e, type, r.token);
        run_spilled(g, e, type, r.token, false);
        run_spilled(g, e, type, r.token, true);
        static bool has_folder; /* a file and host memory in turn */
        has_folder = !has_folder;
        run_turning(g, e, type, r.token, has_folder ? "/tmp" : NULL);
        if (e == scalar && type == HAL_F16)
            run_tail(g, e, r.token);
    }
    family_close(&r);
    gguf_close(g);
}

static void test_same_logits(void)
{
    for (int i = 0; i < FAMILY_NAMES; i += EVERY)
        if (strcmp(family_names[i], "bert") != 0)
            check_family(family_names[i], scalar, HAL_F16);
    check_family("llama3", best, HAL_F16);
    check_family("mistral", best, MODEL_CACHE_F32);
    check_family("deepseek3", best, HAL_F16);
    CU_ASSERT(tight_families >= 12);
}

/* What the keys of the file say is what an opened model takes; windows keep a long context small. */
static void test_cost(void)
{
    printf("\n    bytes per token in F16         full     kept      at 32k tokens: full        kept   ratio");
    for (int i = 0; i < FAMILY_NAMES; i++) {
        struct cache_cost c;
        struct gguf *g = family_import(family_names[i], IMPORT_KEEP);
        CU_ASSERT_PTR_NOT_NULL_FATAL(g);
        CU_ASSERT_EQUAL_FATAL(cache_cost(g, HAL_F16, HAL_F16, &c), ERR_NONE);
        const uint64_t full = cache_cost_full(&c, 32768), kept = cache_cost_kept(&c, 32768);
        printf("\n    %-24s %10llu %8llu %23llu %11llu %7.1f", family_names[i], (unsigned long long)c.full_bytes,
               (unsigned long long)c.token_bytes, (unsigned long long)full, (unsigned long long)kept,
               (double)full / (double)kept);
        const bool is_learnt = strcmp(family_names[i], "gpt2") == 0 || strcmp(family_names[i], "bert") == 0;
        const struct model_options options = {.context = is_learnt ? 320 : 32768, .batch = STEP};
        struct model *m = open_with(g, scalar, &options);
        CU_ASSERT_PTR_NOT_NULL_FATAL(m);
        const struct model_info *info = model_info(m);
        const uint64_t pages = c.windowed_bytes * (STEP + 3 * 32u); /* of the step in progress, whole pages */
        const uint64_t expected = cache_cost_kept(&c, info->slots);
        CU_ASSERT_EQUAL(info->cache_token_bytes, c.token_bytes);
        CU_ASSERT(info->cache_bytes >= expected && info->cache_bytes <= expected + pages);
        model_close(m);
        gguf_close(g);
    }
    printf("\n  ");
}

static long resident_kib(void)
{
    char line[256];
    long kib = -1;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        (void)!sscanf(line, "VmRSS: %ld", &kib);
    if (f)
        fclose(f);
    return kib;
}

/* Long texts stay within what the model said it would take, and a margin for the process itself. share: of the
 * cache in memory, what is beyond takes turns. The last logits to out. */
static void run_long(const char *name, uint32_t length, double share, float *out)
{
    enum { MARGIN_KIB = 2048 };
    struct gguf *g = family_import(name, IMPORT_KEEP);
    CU_ASSERT_PTR_NOT_NULL_FATAL(g);
    struct model_options options = {.context = length, .batch = 256,
                                    .spill_folder = "/tmp", .spill_bytes = 1 << 20};
    struct model *m = open_with(g, best, &options);
    CU_ASSERT_PTR_NOT_NULL_FATAL(m);
    options.cache_bytes = share < 1 ? (uint64_t)(share * (double)model_info(m)->cache_bytes) : 0;
    model_close(m);
    malloc_trim(0);
    const long before = resident_kib();
    m = open_with(g, best, &options);
    CU_ASSERT_PTR_NOT_NULL_FATAL(m);
    const struct model_info *info = model_info(m);
    const uint64_t budget = info->weight_bytes + info->cache_bytes + info->arena_bytes;
    CU_ASSERT(options.cache_bytes == 0 || info->cache_bytes <= options.cache_bytes);
    uint32_t tokens[256];
    enum err e = ERR_NONE;
    for (uint32_t at = 0; at < length && !e; at += 256) {
        for (uint32_t i = 0; i < 256; i++)
            tokens[i] = 5 + (at + i) * 2654435761u % 256;
        e = model_prefill(m, 0, tokens, 256);
    }
    const float *row = NULL;
    CU_ASSERT_EQUAL(e, ERR_NONE);
    CU_ASSERT_EQUAL(model_length(m, 0), length);
    CU_ASSERT_EQUAL(model_logits(m, 0, 1, &row), ERR_NONE);
    CU_ASSERT(row && isfinite(row[0]));
    if (row)
        memcpy(out, row, info->vocabulary * sizeof *out);
    const struct model_run more = {0, 1, 1, tokens};
    CU_ASSERT_EQUAL(model_step(m, &more, 1), ERR_FULL);
    const long grown = resident_kib() - before;
    printf("\n    %-10s %u tokens: %ld KiB more resident; weights %llu, cache %llu and %llu outside, arena %llu KiB", name,
           length, grown, (unsigned long long)info->weight_bytes >> 10, (unsigned long long)info->cache_bytes >> 10,
           (unsigned long long)info->cache_outside_bytes >> 10, (unsigned long long)info->arena_bytes >> 10);
#ifndef __SANITIZE_ADDRESS__
    CU_ASSERT(grown <= (long)(budget >> 10) + MARGIN_KIB);
#endif
    (void)budget;
    model_close(m);
    gguf_close(g);
}

static void test_long(void)
{
    static float all[COLS_MAX], part[COLS_MAX];
    run_long("mistral", LONG, 1, all);
    run_long("gemma3", LONG, 1, all);
    run_long("llama3", LONG / 2, 1, all);
    run_long("llama3", LONG / 2, 0.5, part);
    CU_ASSERT(memcmp(all, part, sizeof all) == 0);
    run_long("deepseek3", LONG / 2, 1, all);
    run_long("deepseek3", LONG / 2, 0.5, part);
    CU_ASSERT(memcmp(all, part, sizeof all) == 0);
    printf("\n  ");
}

int main(void)
{
    CU_TestInfo tests[] = {{"same logits", test_same_logits}, {"cost", test_cost}, {"long texts", test_long}, CU_TEST_INFO_NULL};
    const struct engine_options plain_options = {.plugin = "scalar", .threads = 1};
    const struct engine_options best_options = {.folder = BUILD_DIR "/lib/tare/plugins", .threads = 1, .is_unchecked = 1};
    if (engine_open(&plain_options, &scalar, NULL) || engine_open(&best_options, &best, NULL))
        return 1;
    const int status = harness_run("cache", tests);
    engine_close(best);
    engine_close(scalar);
    return status;
}
