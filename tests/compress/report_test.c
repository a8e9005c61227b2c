#include "tests/harness.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compress/digest.h"
#include "compress/report.h"
#include "hal/engine.h"
#include "model/gguf.h"

#define TEXTS SOURCE_DIR "/tests/data/text/"

static const char base_path[] = SOURCE_DIR "/models/tare-tiny/tare-tiny-f16.gguf";
static char folder[] = "/tmp/tare-report-XXXXXX";
static char out_path[256];
static struct engine *engine;
static struct plan *plan;
static struct judge judged;

static void make_plan(void)
{
    static const char text[] = "{type: q4_0, method: rtn, seed: 7, tensors: [{match: '*attn_v*', type: q8_0}]}";
    char reason[GGUF_REASON_BYTES], sha256[65];
    struct gguf *base = NULL;
    struct recipe r;
    struct fault f = {""};
    CU_ASSERT_EQUAL_FATAL(gguf_open(base_path, &base, reason), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(digest_file(base_path, sha256, NULL), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(recipe_parse("r.yaml", text, strlen(text), &r, &f), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(plan_make(&r, base, sha256, gguf_bytes(base), NULL, NULL, NULL, NULL, &plan, &f), ERR_NONE);
    gguf_close(base);
}

static enum err judge_part(void *context, const char *path, uint64_t bytes, struct fault *f)
{
    static const struct calibrate_text text[] = {{TEXTS "en/heldout.txt", "en"}, {TEXTS "de/heldout.txt", "de"}};
    const struct judge_options o = {.text = text, .texts = 2, .context = 64, .windows = 8};
    const struct recipe_gates *gates = context;
    struct judge_verdicts v;
    enum err e = judge_files(path, base_path, engine, &o, &judged, f);
    if (e)
        return e;
    judge_gates(gates, &judged, bytes, &v);
    return judge_check(&v, f);
}

static enum err derive(const struct recipe_gates *gates, struct quantise_result *r, struct fault *f)
{
    struct quantise_options o = {.base_path = base_path,
                                 .out_path = out_path,
                                 .plan = plan,
                                 .engine = engine,
                                 .is_measured = true,
                                 .accept = judge_part};
    struct recipe_gates copy = *gates;
    o.accept_context = &copy;
    return quantise_run(&o, r, f);
}

/* A missed gate names itself, the language and both numbers; the file does not get its name. */
static void gates_fail_loudly(void)
{
    struct recipe_gates gates = {.present = 1u << RECIPE_WORST_KLD_MEAN};
    struct quantise_result r = {0};
    struct fault f = {""};
    char refused[300];
    gates.limit[RECIPE_WORST_KLD_MEAN] = 1e-6;
    CU_ASSERT_EQUAL(derive(&gates, &r, &f), ERR_GATE);
    CU_ASSERT_PTR_NOT_NULL(strstr(f.text, "gate worst_kld_mean: "));
    CU_ASSERT_PTR_NOT_NULL(strstr(f.text, judge_worst_kld(&judged)->name));
    CU_ASSERT_PTR_NOT_NULL(strstr(f.text, "the limit is 1e-06"));
    CU_ASSERT_NOT_EQUAL(access(out_path, F_OK), 0);
    snprintf(refused, sizeof refused, "%s.refused", out_path);
    CU_ASSERT_EQUAL(access(refused, F_OK), 0);
    quantise_result_close(&r);
    gates.limit[RECIPE_WORST_KLD_MEAN] = 5;
    CU_ASSERT_EQUAL_FATAL(derive(&gates, &r, &f), ERR_NONE);
    CU_ASSERT_EQUAL(access(out_path, F_OK), 0);
    quantise_result_close(&r);
}

/* "All" is what the languages are together. */
static void languages_pool(void)
{
    const struct eval_result *en = &judged.language[0].result, *de = &judged.language[1].result, *all = &judged.all;
    CU_ASSERT_EQUAL_FATAL(judged.languages, 2);
    CU_ASSERT_EQUAL(all->scored, en->scored + de->scored);
    const double n = (double)all->scored, a = (double)en->scored / n, b = (double)de->scored / n;
    CU_ASSERT_DOUBLE_EQUAL(all->kld.value, a * en->kld.value + b * de->kld.value, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(all->nll.value, a * en->nll.value + b * de->nll.value, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(all->kld_max, fmax(en->kld_max, de->kld_max), 0);
    CU_ASSERT_TRUE(all->kld.error < fmax(en->kld.error, de->kld.error));
    /* the paired error of a difference is far below that of either perplexity */
    CU_ASSERT_TRUE(en->nll_per_byte_delta.error < 0.2 * en->nll_per_byte);
    CU_ASSERT_TRUE(en->nll_per_byte_delta.value > -0.1 && en->nll_per_byte_delta.value < 0.3);
}

static double real(const json_t *j, const char *object, const char *key)
{
    return json_number_value(json_object_get(json_object_get(j, object), key));
}

static void report_says_all(void)
{
    const struct recipe_gates gates = {.present = 1u << RECIPE_TOP1 | 1u << RECIPE_DECODE_TOK_S,
                                       .limit[RECIPE_TOP1] = 0.01, .limit[RECIPE_DECODE_TOK_S] = 1};
    struct judge_verdicts v;
    struct quantise_result result = {0};
    struct fault f = {""};
    char path[300], text_path[300], line[200] = "";
    CU_ASSERT_EQUAL_FATAL(derive(&(struct recipe_gates){0}, &result, &f), ERR_NONE);
    judge_gates(&gates, &judged, result.bytes, &v);
    CU_ASSERT_EQUAL(v.count, 2);
    CU_ASSERT_EQUAL(judge_check(&v, &f), ERR_NONE); /* what is not measured here is not missed */
    struct report r = {.version = "9.9", .base = base_path, .variant = out_path, .profile = "", .plan = plan,
                       .result = &result, .engine = engine, .goal = "type", .method = "rtn", .sensitivity = "names",
                       .judge = &judged, .verdicts = &v, .peak_rss_bytes = report_peak_rss()};
    report_stage_add(&r, "quantise", 1.5);
    snprintf(path, sizeof path, "%s/r.json", folder);
    snprintf(text_path, sizeof text_path, "%s/r.md", folder);
    CU_ASSERT_EQUAL_FATAL(report_save(&r, path, &f), ERR_NONE);
    json_t *j = json_load_file(path, 0, NULL);
    CU_ASSERT_PTR_NOT_NULL_FATAL(j);
    CU_ASSERT_DOUBLE_EQUAL(real(j, "quality", "kld_mean"), judged.all.kld.value, 1e-12);
    CU_ASSERT_DOUBLE_EQUAL(real(j, "stages", "quantise"), 1.5, 0);
    CU_ASSERT_EQUAL(json_integer_value(json_object_get(j, "bytes")), (json_int_t)plan->variant_bytes);
    CU_ASSERT_EQUAL(json_integer_value(json_object_get(j, "seed")), 7);
    CU_ASSERT_TRUE(json_integer_value(json_object_get(j, "peak_rss_bytes")) > 1 << 20);
    CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(j, "sha256")), result.sha256);
    const json_t *tensors = json_object_get(j, "tensors"), *languages = json_object_get(j, "languages");
    CU_ASSERT_EQUAL(json_array_size(tensors), plan->tensors);
    CU_ASSERT_TRUE(json_is_real(json_object_get(json_array_get(tensors, 0), "error")));
    CU_ASSERT_DOUBLE_EQUAL(json_number_value(json_object_get(json_object_get(languages, "de"), "top1_percent")),
                           100 * judged.language[1].result.top1.value, 1e-9);
    json_decref(j);
    FILE *in = fopen(text_path, "r");
    CU_ASSERT_PTR_NOT_NULL_FATAL(in);
    CU_ASSERT_PTR_NOT_NULL(fgets(line, sizeof line, in));
    CU_ASSERT_EQUAL(line[0], '#');
    fclose(in);
    snprintf(path, sizeof path, "%s/absent/r.json", folder);
    CU_ASSERT_EQUAL(report_save(&r, path, &f), ERR_IO);
    quantise_result_close(&result);
}

static void set_up(void)
{
    const struct engine_options options = {.is_unchecked = 1, .threads = 2};
    CU_ASSERT_EQUAL_FATAL(engine_open(&options, &engine, NULL), ERR_NONE);
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(folder));
    snprintf(out_path, sizeof out_path, "%s/out.gguf", folder);
    make_plan();
}

static void tear_down(void)
{
    static const char *const names[] = {"out.gguf", "out.gguf.refused", "r.json", "r.md"};
    char path[300];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    CU_ASSERT_EQUAL(rmdir(folder), 0); /* nothing else was left */
    plan_close(plan);
    engine_close(engine);
}

RUN_SUITE("report", {"set_up", set_up}, {"gates_fail_loudly", gates_fail_loudly}, {"languages_pool", languages_pool},
          {"report_says_all", report_says_all}, {"tear_down", tear_down})
