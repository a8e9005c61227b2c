#include "tests/harness.h"

#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compress/digest.h"
#include "compress/sensitivity.h"
#include "hal/engine.h"
#include "model/gguf.h"

static const char base_path[] = SOURCE_DIR "/models/tare-tiny/tare-tiny-f16.gguf";
static char folder[] = "/tmp/tare-sensitivity-XXXXXX";
static char base_sha256[65];
static struct gguf *base;
static struct engine *engine;
static struct plan_errors *before;

static void set_up(void)
{
    char reason[GGUF_REASON_BYTES];
    const struct engine_options options = {.is_unchecked = 1, .threads = 2};
    struct fault f = {""};
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(folder));
    CU_ASSERT_EQUAL_FATAL(engine_open(&options, &engine, NULL), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(gguf_open(base_path, &base, reason), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(digest_file(base_path, base_sha256, NULL), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(plan_errors_measure(base, NULL, engine, RECIPE_RTN, 64, NULL, NULL, &before, &f), ERR_NONE);
}

struct watch {
    uint32_t stop_at, calls, cached, done;
};

static int look(void *context, const struct sensitivity_progress *p)
{
    struct watch *w = context;
    w->cached = p->cached;
    w->done = p->done;
    return ++w->calls == w->stop_at;
}

/* Measure into a copy of `before`. */
static enum err measure(struct watch *w, const char *cache, struct plan_errors **out)
{
    static const struct calibrate_text text[] = {
        {SOURCE_DIR "/tests/data/text/en/calibration.txt", "en"}, {SOURCE_DIR "/tests/data/text/fr/calibration.txt", "fr"}};
    struct fault f = {""};
    const struct sensitivity_options o = {.base_path = base_path, .base_sha256 = base_sha256, .base = base,
                                          .engine = engine, .text = text, .texts = 2, .tokens = 64,
                                          .method = RECIPE_RTN, .cache_folder = cache, .progress = look,
                                          .progress_context = w};
    CU_ASSERT_EQUAL_FATAL(plan_errors_measure(base, NULL, engine, RECIPE_RTN, 64, NULL, NULL, out, &f), ERR_NONE);
    enum err e = sensitivity_measure(&o, *out, &f);
    if (e && e != ERR_CANCELLED)
        fprintf(stderr, "%s\n", f.text);
    return e;
}

static double at(const struct plan_errors *e, const char *name, uint32_t type)
{
    for (uint32_t t = 0; t < e->tensors; t++)
        for (uint32_t l = 0; l < e->levels; l++)
            if (strcmp(e->name[t], name) == 0 && e->level[l] == type)
                return e->error[(size_t)t * e->levels + l] * e->scale[t];
    return NAN;
}

/* Stopped in between, the next run takes over what was measured and ends as one run does. */
static void stops_and_goes_on(void)
{
    struct watch whole = {0}, first = {.stop_at = 12}, rest = {0}, again = {0};
    struct plan_errors *a = NULL, *b = NULL, *c = NULL, *d = NULL;
    CU_ASSERT_EQUAL_FATAL(measure(&whole, NULL, &a), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(measure(&first, folder, &b), ERR_CANCELLED);
    CU_ASSERT_EQUAL_FATAL(measure(&rest, folder, &c), ERR_NONE);
    CU_ASSERT_TRUE(rest.cached >= 10 && rest.cached < rest.done);
    CU_ASSERT_EQUAL_FATAL(measure(&again, folder, &d), ERR_NONE);
    CU_ASSERT_EQUAL(again.cached, again.done);
    CU_ASSERT_EQUAL(again.calls, 1); /* nothing was run */
    for (uint32_t i = 0; i < a->tensors * a->levels; i++) {
        CU_ASSERT_TRUE(isnan(a->error[i]) ? isnan(c->error[i]) : a->error[i] == c->error[i]);
        CU_ASSERT_TRUE(isnan(c->error[i]) ? isnan(d->error[i]) : c->error[i] == d->error[i]);
    }
    /* more bits, less divergence; the tied head is what hurts most */
    CU_ASSERT_TRUE(at(a, "blk.1.ffn_up.weight", HAL_Q3_K) > at(a, "blk.1.ffn_up.weight", HAL_Q6_K));
    CU_ASSERT_TRUE(at(a, "token_embd.weight", HAL_Q3_K) > 3 * at(a, "blk.1.ffn_up.weight", HAL_Q3_K));
    plan_errors_close(a);
    plan_errors_close(b);
    plan_errors_close(c);
    plan_errors_close(d);
}

/* A plan by what was measured keeps to its size, in a bpw target and in every mode. */
static void plans_by_it(void)
{
    static const char *const recipes[] = {"bpw: 4.5", "mode: accuracy", "mode: balanced", "mode: compression"};
    struct watch w = {0};
    struct plan_errors *errors = NULL;
    CU_ASSERT_EQUAL_FATAL(measure(&w, folder, &errors), ERR_NONE);
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) {
        struct recipe r;
        struct plan *named = NULL, *plan = NULL;
        struct fault f = {""};
        CU_ASSERT_EQUAL_FATAL(recipe_parse("r", recipes[i], strlen(recipes[i]), &r, &f), ERR_NONE);
        CU_ASSERT_EQUAL_FATAL(plan_make(&r, base, base_sha256, gguf_bytes(base), NULL, NULL, errors, NULL, &plan, &f),
                              ERR_NONE);
        CU_ASSERT_EQUAL_FATAL(plan_make(&r, base, base_sha256, gguf_bytes(base), NULL, NULL, before, NULL, &named, &f),
                              ERR_NONE);
        CU_ASSERT_TRUE(plan->variant_bytes <= named->variant_bytes + named->variant_bytes / 50);
        if (i == 0)
            CU_ASSERT_TRUE(plan_bpw(plan) <= 4.5);
        plan_close(plan);
        plan_close(named);
    }
    plan_errors_close(errors);
}

static void tear_down(void)
{
    DIR *d = opendir(folder);
    CU_ASSERT_PTR_NOT_NULL_FATAL(d);
    for (const struct dirent *entry = readdir(d); entry; entry = readdir(d))
        if (entry->d_name[0] != '.')
            CU_ASSERT_EQUAL(unlinkat(dirfd(d), entry->d_name, 0), 0);
    closedir(d);
    CU_ASSERT_EQUAL(rmdir(folder), 0);
    plan_errors_close(before);
    gguf_close(base);
    engine_close(engine);
}

RUN_SUITE("sensitivity", {"set_up", set_up}, {"stops_and_goes_on", stops_and_goes_on}, {"plans_by_it", plans_by_it},
          {"tear_down", tear_down})
