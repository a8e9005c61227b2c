/* family_test.c: small random models of every family, imported from Hugging Face folders: the logits are
 * those that transformers gave (make_family_fixtures.py), however the prompt is cut and cached. */
#include "tests/harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hal/engine.h"
#include "model/model.h"
#include "tests/model/family_fixture.h"

enum { CONTEXT = FAMILY_CONTEXT };

static char reason[GGUF_REASON_BYTES];
static struct engine *scalar, *vnni; /* vnni NULL: not built, or not for this machine */

/* The largest difference of output rows [first, first + count) of the last step, as a share of the range. */
static double compare(struct model *m, const struct family_reference *r, uint32_t first, uint32_t count)
{
    double worst = 0;
    static float hidden[CONTEXT * 512];
    const float *row = NULL;
    const bool is_encoder = strcmp(model_info(m)->architecture, "bert") == 0;
    if (is_encoder && model_hidden(m, hidden))
        return INFINITY;
    for (uint32_t i = 0; i < r->positions; i++) {
        if (r->position[i] < first || r->position[i] >= first + count)
            continue;
        if (!is_encoder && model_logits(m, r->position[i] - first, 1, &row))
            return INFINITY;
        if (is_encoder)
            row = hidden + (size_t)(r->position[i] - first) * r->cols;
        for (uint32_t c = 0; c < r->cols; c++) {
            const double d = fabs((double)row[c] - (double)r->row[(size_t)i * r->cols + c]);
            worst = d > worst || isnan(d) ? d : worst;
        }
    }
    return worst / (double)r->range;
}

/* The prompt in steps of `step` tokens. */
static double run(struct model *m, const struct family_reference *r, uint32_t step)
{
    double worst = 0;
    (void)model_truncate(m, 0, 0);
    for (uint32_t at = 0; at < r->tokens; at += step) {
        const uint32_t count = r->tokens - at < step ? r->tokens - at : step;
        const struct model_run one = {0, count, count, r->token + at};
        if (model_step(m, &one, 1))
            return INFINITY;
        const double d = compare(m, r, at, count);
        worst = d > worst || isnan(d) ? d : worst;
    }
    return worst;
}

static struct model *open_on(const struct gguf *g, struct engine *e, uint32_t cache)
{
    struct model *m = NULL;
    const struct model_options options = {
        .context = CONTEXT, .batch = CONTEXT, .head_rows = 1, .cache_k = cache, .cache_v = cache};
    if (model_open(g, e, &options, &m, reason))
        printf("\n    %s\n", reason);
    return m;
}

/* One go, pieces and single tokens, in F32 throughout; then with the F16 cache that is the default. */
static void check(const char *name, struct engine *e, const struct gguf *g, const struct family_reference *r)
{
    static const uint32_t steps[] = {CONTEXT, 37, 1};
    const bool is_encoder = strcmp(name, "bert") == 0;
    double worst = 0;
    struct model *m = open_on(g, e, MODEL_CACHE_F32);
    CU_ASSERT_PTR_NOT_NULL_FATAL(m);
    printf("\n    %-17s %-7s", name, e->ops.name);
    for (int i = 0; i < (is_encoder ? 1 : 3); i++) {
        const double d = run(m, r, steps[i]);
        printf(" %9.2e", d);
        worst = d > worst || isnan(d) ? d : worst;
    }
    model_close(m);
    CU_ASSERT(worst <= 1e-3);
    m = open_on(g, e, HAL_F16);
    CU_ASSERT_PTR_NOT_NULL_FATAL(m);
    const double half = run(m, r, CONTEXT);
    printf("  F16 cache %9.2e", half);
    CU_ASSERT(half <= (strncmp(name, "deepseek", 8) == 0 ? 5e-2 : 1e-2)); /* experts change places */
    model_close(m);
}

static void test_logits(void)
{
    printf("\n    largest difference as a share of the logits' range, F32 cache: one go, 37 at once, 1 at once");
    for (int i = 0; i < FAMILY_NAMES; i++) {
        struct family_reference r;
        struct gguf *g = family_import(family_names[i], IMPORT_KEEP);
        CU_ASSERT(family_read(family_names[i], &r));
        CU_ASSERT_PTR_NOT_NULL(g);
        if (g && r.tokens) {
            check(family_names[i], scalar, g, &r);
            if (vnni)
                check(family_names[i], vnni, g, &r);
        }
        family_close(&r);
        gguf_close(g);
    }
    printf("\n  ");
}

/* The inputs of the linears of the last layer: sums of each by name. */
struct seen {
    uint32_t layer, count;
    char name[64][64];
    double sum[64], size[64];
    uint32_t calls, enough; /* is_enough answers true from so many calls on; 0: never */
};

static void see(void *context, const char *tensor, uint32_t part, const float *x, uint32_t rows, uint32_t cols)
{
    struct seen *s = context;
    char prefix[32];
    uint32_t at = 0;
    snprintf(prefix, sizeof prefix, "blk.%u.", s->layer);
    s->calls++;
    if (part > 0 || strncmp(tensor, prefix, strlen(prefix)) != 0)
        return;
    while (at < s->count && strcmp(s->name[at], tensor) != 0)
        at++;
    if (at == 64)
        return;
    s->count = at == s->count ? at + 1 : s->count;
    snprintf(s->name[at], sizeof s->name[at], "%.63s", tensor);
    for (size_t i = 0; i < (size_t)rows * cols; i++) {
        s->sum[at] += (double)x[i] * (1 + (double)(i % cols) / cols);
        s->size[at] += fabs((double)x[i]);
    }
}

static bool is_enough(void *context)
{
    const struct seen *s = context;
    return s->enough && s->calls >= s->enough;
}

/* One layer after the other, each opened alone, gives the linears of the last one what the whole model gives. */
static void check_parts(const char *name, struct engine *e, const struct gguf *g, const struct family_reference *r)
{
    static struct seen whole, part;
    const struct model_run all = {0, r->tokens, r->tokens, r->token};
    struct model *m = open_on(g, e, MODEL_CACHE_F32);
    CU_ASSERT_PTR_NOT_NULL_FATAL(m);
    const uint32_t layers = model_info(m)->layers, width = model_info(m)->width;
    float *stream = calloc((size_t)r->tokens * width, sizeof *stream);
    whole = part = (struct seen){.layer = layers - 1};
    CU_ASSERT_EQUAL(model_observe(m, &(struct model_observer){.linear = see, .context = &whole}), ERR_NONE);
    CU_ASSERT_EQUAL(model_step(m, &all, 1), ERR_NONE);
    CU_ASSERT_EQUAL(model_step_stream(m, 0, r->tokens, stream), ERR_ARGUMENT); /* it is no part */
    model_close(m);
    for (uint32_t i = 0; i < layers; i++) {
        const struct model_options options = {.context = CONTEXT, .batch = CONTEXT, .head_rows = 1,
                                              .cache_k = MODEL_CACHE_F32, .cache_v = MODEL_CACHE_F32,
                                              .first_layer = i, .last_layer = i + 1};
        CU_ASSERT_EQUAL_FATAL(model_open(g, e, &options, &m, reason), ERR_NONE);
        const float *logits = NULL;
        part.calls = 0;
        CU_ASSERT_EQUAL(model_observe(m, &(struct model_observer){.linear = see, .context = &part}), ERR_NONE);
        CU_ASSERT_EQUAL(i ? model_step_stream(m, 0, r->tokens, stream) : model_step(m, &all, 1), ERR_NONE);
        CU_ASSERT_EQUAL(model_hidden(m, stream), ERR_NONE);
        CU_ASSERT_EQUAL(model_logits(m, 0, 1, &logits), ERR_ARGUMENT);
        struct seen first = {.layer = UINT32_MAX, .enough = 1}; /* the step ends before the second linear */
        (void)model_truncate(m, 0, 0);
        CU_ASSERT_EQUAL(
            model_observe(m, &(struct model_observer){.linear = see, .context = &first, .is_enough = is_enough}), ERR_NONE);
        CU_ASSERT_EQUAL(i ? model_step_stream(m, 0, r->tokens, stream) : model_step(m, &all, 1), ERR_NONE);
        CU_ASSERT(first.calls >= 1 && first.calls <= 3 && first.calls < part.calls); /* of one input together */
        model_close(m);
    }
    CU_ASSERT_EQUAL(part.count, whole.count);
    CU_ASSERT(whole.count >= 4);
    double worst = 0;
    for (uint32_t i = 0; i < whole.count && i < part.count; i++) {
        CU_ASSERT_STRING_EQUAL(part.name[i], whole.name[i]);
        worst = fmax(worst, fabs(part.sum[i] - whole.sum[i]) / whole.size[i]);
    }
    printf("\n    %-17s %-7s %9.2e", name, e->ops.name, worst);
    CU_ASSERT(worst <= 1e-5);
    free(stream);
}

static void test_parts(void)
{
    const struct model_options bad = {.context = CONTEXT, .first_layer = 1, .last_layer = 1};
    struct model *m = NULL;
    printf("\n    largest difference of the last layer's inputs, one layer at a time and the whole model");
    for (int i = 0; i < FAMILY_NAMES; i++) {
        struct family_reference r;
        struct gguf *g = family_import(family_names[i], IMPORT_KEEP);
        CU_ASSERT(family_read(family_names[i], &r));
        CU_ASSERT_PTR_NOT_NULL(g);
        if (g && r.tokens) {
            check_parts(family_names[i], vnni ? vnni : scalar, g, &r);
            CU_ASSERT_EQUAL(model_open(g, scalar, &bad, &m, reason), ERR_ARGUMENT);
        }
        family_close(&r);
        gguf_close(g);
    }
    printf("\n  ");
}

int main(void)
{
    CU_TestInfo tests[] = {{"logits", test_logits}, {"parts", test_parts}, CU_TEST_INFO_NULL};
    const struct engine_options plain = {.plugin = "scalar", .threads = 1};
    const struct engine_options fast = {
        .plugin = "vnni", .threads = 1, .folder = BUILD_DIR "/lib/tare/plugins", .is_unchecked = 1};
    if (engine_open(&plain, &scalar, NULL))
        return 1;
    if (engine_open(&fast, &vnni, NULL))
        vnni = NULL;
    const int status = harness_run("family", tests);
    engine_close(vnni);
    engine_close(scalar);
    return status;
}
