/* quantize.c: tare quantize: base and recipe in, variant and report out. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "cli/cli.h"
#include "cli/progress.h"
#include "compress/calibrate.h"
#include "compress/digest.h"
#include "compress/quantise.h"
#include "hal/block.h"
#include "hal/engine.h"
#include "model/gguf.h"

enum { SAMPLE_ROWS = 256 };

struct quantize_settings {
    const char *out;
    int mode;
    const char *type;
    double bpw;
    const char *plan;
    const char *method;
    const char *scheme;
    const char *profile;
    struct cli_list texts;
    int64_t tokens;
    int64_t memory;
    const char *report;
    bool dry_run, measure, export;
};

static const struct cli_option options[] = {
    {.letter = 'o', .name = "output", .kind = CLI_TEXT, .value = "OUT.gguf", .is_required = true,
     .offset = offsetof(struct quantize_settings, out), .help = "the variant to write"},
    {.name = "mode", .kind = CLI_CHOICE, .choices = "accuracy|balanced|compression",
     .offset = offsetof(struct quantize_settings, mode), .help = "types by the role of each tensor (default balanced)"},
    {.name = "type", .kind = CLI_TEXT, .value = "TYPE", .offset = offsetof(struct quantize_settings, type),
     .help = "one type for every weight: Q4_K, IQ4_NL, ..."},
    {.name = "bpw", .kind = CLI_REAL, .value = "X", .minimum = 0, .maximum = 32,
     .offset = offsetof(struct quantize_settings, bpw), .help = "bits per weight of the whole file, spent where they help most"},
    {.name = "plan", .kind = CLI_TEXT, .value = "RECIPE.yaml", .offset = offsetof(struct quantize_settings, plan),
     .help = "a recipe; the options above replace what it says"},
    {.name = "method", .kind = CLI_TEXT, .value = "METHOD", .offset = offsetof(struct quantize_settings, method),
     .help = "rtn, search, awq, gptq, gptq+awq or cascade (default search)"},
    {.name = "scheme", .kind = CLI_TEXT, .value = "\"WORDS\"", .offset = offsetof(struct quantize_settings, scheme),
     .help = "a plain grid for every weight, as below: \"4 affine 64\""},
    {.name = "export", .kind = CLI_FLAG, .offset = offsetof(struct quantize_settings, export),
     .help = "NF4, which only tare reads, becomes IQ4_NL; the rest stays"},
    {.name = "profile", .kind = CLI_TEXT, .value = "PROFILE.gguf",
     .offset = offsetof(struct quantize_settings, profile), .help = "activation statistics: ours or an imatrix"},
    {.name = "text", .kind = CLI_LIST, .value = "FILE", .is_greedy = true,
     .offset = offsetof(struct quantize_settings, texts), .help = "calibrate on these first (gptq needs them)"},
    {.name = "tokens", .kind = CLI_INT, .value = "N", .minimum = 0, .maximum = 1e9,
     .offset = offsetof(struct quantize_settings, tokens), .help = "calibration tokens at most"},
    {.name = "working-memory", .kind = CLI_BYTES, .value = "SIZE", .minimum = 1 << 20, .maximum = 1e15,
     .offset = offsetof(struct quantize_settings, memory),
     .help = "cap on working memory (default 64M; gptq 1G)"},
    {.name = "report", .kind = CLI_TEXT, .value = "FILE.json", .offset = offsetof(struct quantize_settings, report),
     .help = "also write the JSON report to this file"},
    {.name = "measure", .kind = CLI_FLAG, .offset = offsetof(struct quantize_settings, measure),
     .help = "measure the weighted error of every tensor"},
    {.name = "dry-run", .kind = CLI_FLAG, .offset = offsetof(struct quantize_settings, dry_run),
     .help = "print the plan and the exact size, write nothing"},
    {.name = NULL}};

/* Everything one run holds. */
struct job {
    struct cli_call *call;
    const struct quantize_settings *settings;
    struct recipe recipe;
    struct engine *engine;
    struct gguf *base;
    struct profile *profile;
    struct plan_errors *errors;
    struct plan *plan;
    char base_sha256[65];
    char profile_sha256[65];
    const char *text[RECIPE_TEXTS_MAX];
    struct calibrate_text calibrate[RECIPE_TEXTS_MAX];
    uint32_t texts;
    struct fault fault;
};

static int fail(struct job *j, enum err e)
{
    return cli_fail(j->call, (enum cli_status)cli_status_of(e), NULL, NULL, "%s",
                    j->fault.text[0] ? j->fault.text : cli_sentence(e));
}

static int take_recipe(struct job *j)
{
    const struct quantize_settings *s = j->settings;
    struct recipe *r = &j->recipe;
    recipe_default(r);
    if ((s->mode >= 0) + (s->type != NULL) + (s->bpw > 0) + (s->scheme != NULL) + s->export > 1)
        return cli_fail(j->call, CLI_USAGE, NULL, NULL,
                        "expected only one of --mode, --type, --bpw, --scheme and --export");
    if (s->plan) {
        const enum err e = recipe_load(s->plan, r, &j->fault);
        if (e)
            return fail(j, e);
    }
    if (s->mode >= 0)
        r->goal = RECIPE_ACCURACY + (uint32_t)s->mode;
    if (s->bpw > 0) {
        r->goal = RECIPE_BPW;
        r->bpw = s->bpw;
    }
    if (s->type) {
        const struct block_type *t = block_type_by_name(s->type);
        if (!t)
            return cli_fail(j->call, CLI_USAGE, NULL, "--type", "'%s' is no type: tare quantize --help names them", s->type);
        r->goal = RECIPE_TYPE;
        r->type = t->type;
    }
    if (s->export)
        r->goal = RECIPE_EXPORT;
    if (s->method && (r->method = recipe_method_parse(s->method)) >= RECIPE_SCHEME)
        return cli_fail(j->call, CLI_USAGE, NULL, "--method",
                        "'%s': expected rtn, search, awq, gptq, gptq+awq or cascade", s->method);
    if (s->scheme) {
        if (s->method || scheme_parse(s->scheme, &r->scheme, &j->fault))
            return cli_fail(j->call, CLI_USAGE, NULL, "--scheme", "%s",
                            j->fault.text[0] ? j->fault.text : "is a method: expected no --method beside it");
        r->method = RECIPE_SCHEME;
    }
    if (s->profile)
        snprintf(r->profile, sizeof r->profile, "%s", s->profile);
    if (s->texts.count > RECIPE_TEXTS_MAX)
        return cli_fail(j->call, CLI_USAGE, NULL, "--text", "expected at most %d files", RECIPE_TEXTS_MAX);
    for (size_t i = 0; i < s->texts.count; i++)
        j->calibrate[j->texts++] = (struct calibrate_text){.path = s->texts.items[i], .language = "text"};
    for (uint32_t i = 0; s->texts.count == 0 && i < r->texts; i++)
        j->calibrate[j->texts++] = (struct calibrate_text){
            .path = r->text[i].path, .language = r->text[i].language[0] ? r->text[i].language : "text"};
    for (uint32_t i = 0; i < j->texts; i++)
        j->text[i] = j->calibrate[i].path;
    return CLI_DONE;
}

static int show_tokens(void *context, const struct calibrate_progress *p)
{
    progress_update(context, (double)p->tokens, p->language);
    return 0;
}

static int show_tensors(void *context, uint64_t done, uint64_t total)
{
    (void)total;
    progress_update(context, (double)done, NULL);
    return 0;
}

static int show_bytes(void *context, const struct quantise_progress *p)
{
    progress_update(context, (double)p->bytes, p->name);
    return 0;
}

/* The profile that the recipe names, or one made of its texts. */
static int take_profile(struct job *j)
{
    enum err e = ERR_NONE;
    if (j->recipe.profile[0]) {
        e = profile_load(j->recipe.profile, &j->profile, &j->fault);
        if (!e)
            e = digest_file(j->recipe.profile, j->profile_sha256, NULL);
        return e ? fail(j, e) : CLI_DONE;
    }
    if (j->texts == 0 || j->recipe.method == RECIPE_RTN)
        return CLI_DONE;
    struct progress progress;
    progress_open(&progress, j->call, "calibrate", "tokens", 0);
    const struct calibrate_options o = {
        .base_path = j->call->operand[0],
        .engine = j->engine,
        .text = j->calibrate,
        .texts = j->texts,
        .tokens_per_language = j->settings->tokens ? (uint64_t)j->settings->tokens : j->recipe.tokens,
        .context = j->recipe.context,
        .progress = show_tokens,
        .progress_context = &progress};
    e = calibrate_run(&o, &j->profile, &j->fault);
    progress_close(&progress, e == ERR_NONE);
    return e ? fail(j, e) : CLI_DONE;
}

static int make_plan(struct job *j)
{
    const char *path = j->call->operand[0];
    const struct recipe *r = &j->recipe;
    const struct plan_device device = {.has_nf4 = j->engine->caps.types >> HAL_NF4 & 1};
    enum err e = ERR_NONE;
    if (r->goal == RECIPE_BPW) {
        struct progress progress;
        progress_open(&progress, j->call, "measure", "tensors", gguf_tensors(j->base));
        e = plan_errors_measure(j->base, j->profile, j->engine, r->method, SAMPLE_ROWS, show_tensors,
                                &progress, &j->errors, &j->fault);
        progress_close(&progress, e == ERR_NONE);
    }
    if (!e && (e = digest_file(path, j->base_sha256, NULL)))
        fault_set(&j->fault, e, "%s: cannot be read", path);
    if (!e)
        e = plan_make(r, j->base, j->base_sha256, gguf_bytes(j->base), j->profile,
                      j->profile_sha256[0] ? j->profile_sha256 : NULL, j->errors, &device, &j->plan, &j->fault);
    return e ? fail(j, e) : CLI_DONE;
}

static json_t *tensor_rows(const struct job *j, const struct quantise_result *r)
{
    json_t *rows = json_array();
    for (uint32_t i = 0; i < j->plan->tensors; i++) {
        const struct plan_tensor *t = &j->plan->tensor[i];
        json_t *row = json_pack("{s:s, s:s, s:s, s:s, s:b, s:I}", "name", t->name, "from",
                                block_type(t->from)->name, "type", block_type(t->type)->name, "method",
                                recipe_method_name(r ? r->tensor[i].method : t->method), "fallback",
                                t->is_fallback, "bytes", (json_int_t)plan_tensor_bytes(t));
        if (r && !isnan(r->tensor[i].error))
            json_object_set_new(row, "error", json_real(r->tensor[i].error));
        if (r && !isnan(r->tensor[i].output_error))
            json_object_set_new(row, "output_error", json_real(r->tensor[i].output_error));
        json_array_append_new(rows, row);
    }
    return rows;
}

static double parameters(const struct plan *p)
{
    double values = 0;
    for (uint32_t i = 0; i < p->tensors; i++)
        values += (double)p->tensor[i].rows * p->tensor[i].cols;
    return values;
}

/* What the scheme's own container would take: the weights it holds, and the rest as it is. */
static void answer_scheme(struct job *j, json_t *doc)
{
    char words[SCHEME_TEXT_MAX], size[32];
    double bytes = 0;
    uint32_t held = 0;
    if (j->plan->scheme.bits == 0)
        return;
    for (uint32_t i = 0; i < j->plan->tensors; i++) {
        const struct plan_tensor *t = &j->plan->tensor[i];
        const bool is_scheme = t->method == RECIPE_SCHEME;
        bytes += (double)(is_scheme ? scheme_bytes(&j->plan->scheme, t->rows, t->cols) : plan_tensor_bytes(t));
        held += is_scheme && block_type(t->type)->codes > 0;
    }
    scheme_print(&j->plan->scheme, words);
    json_object_set_new(doc, "scheme", json_string(words));
    json_object_set_new(doc, "scheme_tensor_bytes", json_real(bytes));
    json_object_set_new(doc, "scheme_bpw", json_real(8 * bytes / parameters(j->plan)));
    cli_print(j->call, "scheme %s: its own container would hold the tensors in %s, %.3f bits per weight%s\n", words,
              cli_bytes(bytes, size), 8 * bytes / parameters(j->plan),
              held ? "" : "; simulated: this file holds its values as floats");
}

static int answer(struct job *j, const struct quantise_result *r)
{
    char size[32], base_size[32];
    struct rusage usage;
    const double bpw = plan_bpw(j->plan);
    getrusage(RUSAGE_SELF, &usage);
    json_t *doc = json_pack("{s:s, s:s, s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:s}", "base", j->call->operand[0],
                            "base_sha256", j->base_sha256, "variant", j->settings->out, "predicted_bytes",
                            (json_int_t)j->plan->variant_bytes, "base_bytes", (json_int_t)j->plan->base_bytes,
                            "parameters", parameters(j->plan), "bpw", bpw, "ratio_fp32", 32 / bpw,
                            "ratio_fp16", 16 / bpw, "method", recipe_method_name(j->recipe.method));
    if (j->plan->profile_sha256[0])
        json_object_set_new(doc, "profile_sha256", json_string(j->plan->profile_sha256));
    if (r) {
        json_object_set_new(doc, "bytes", json_integer((json_int_t)r->bytes));
        json_object_set_new(doc, "sha256", json_string(r->sha256));
        json_object_set_new(doc, "seconds", json_real(r->seconds));
        json_object_set_new(doc, "tensors_resumed", json_integer(r->tensors_resumed));
        json_object_set_new(doc, "peak_rss_bytes", json_integer((json_int_t)usage.ru_maxrss * 1024));
        json_object_set_new(doc, "plugin", json_string(j->engine->ops.name));
    }
    json_object_set_new(doc, "tensors", tensor_rows(j, r));
    cli_print(j->call, "%s: %s of %s, %.3f bits per weight, %.2f x smaller than FP32, %.2f x than FP16\n",
              j->settings->out, cli_bytes((double)j->plan->variant_bytes, size),
              cli_bytes((double)j->plan->base_bytes, base_size), bpw, 32 / bpw, 16 / bpw);
    answer_scheme(j, doc);
    for (uint32_t i = 0; !r && i < j->plan->tensors; i++)
        cli_print(j->call, "  %-32s %-6s %s%s\n", j->plan->tensor[i].name, block_type(j->plan->tensor[i].type)->name,
                  recipe_method_name(j->plan->tensor[i].method), j->plan->tensor[i].is_fallback ? " (fallback)" : "");
    if (r)
        cli_print(j->call, "sha256 %s, %.2f s, peak %s\n", r->sha256, r->seconds,
                  cli_bytes((double)usage.ru_maxrss * 1024, size));
    int status = CLI_DONE;
    if (j->settings->report && json_dump_file(doc, j->settings->report, JSON_INDENT(2) | JSON_SORT_KEYS))
        status = cli_fail(j->call, CLI_ENVIRONMENT, j->settings->report, NULL, "cannot be written");
    cli_answer(j->call, doc);
    return status;
}

static int derive(struct job *j)
{
    struct quantise_result r;
    struct progress progress;
    double total = 0;
    for (uint32_t i = 0; i < gguf_tensors(j->base); i++)
        total += (double)gguf_tensor(j->base, i)->bytes;
    progress_open(&progress, j->call, "quantise", "bytes", total);
    const struct quantise_options o = {.base_path = j->call->operand[0],
                                       .out_path = j->settings->out,
                                       .plan = j->plan,
                                       .profile = j->profile,
                                       .engine = j->engine,
                                       .memory_bytes = (uint64_t)j->settings->memory,
                                       .is_measured = j->settings->measure,
                                       .text = j->text,
                                       .texts = j->texts,
                                       .text_tokens = (uint64_t)j->settings->tokens,
                                       .progress = show_bytes,
                                       .progress_context = &progress};
    const enum err e = quantise_run(&o, &r, &j->fault);
    progress_close(&progress, e == ERR_NONE);
    if (e)
        return fail(j, e);
    const int status = answer(j, &r);
    quantise_result_close(&r);
    return status;
}

static int quantize(struct cli_call *call)
{
    char reason[GGUF_REASON_BYTES] = "";
    struct job *j = calloc(1, sizeof *j);
    if (!j)
        return cli_fail(call, CLI_ENVIRONMENT, NULL, NULL, "no memory");
    j->call = call;
    j->settings = call->settings;
    int status = take_recipe(j);
    if (status != CLI_DONE)
        goto out;
    const enum err e = gguf_open(call->operand[0], &j->base, reason);
    if (e) {
        fault_set(&j->fault, e, "%s", reason);
        status = fail(j, e);
        goto out;
    }
    if ((status = cli_engine_open(call, &j->engine)) != CLI_DONE || (status = take_profile(j)) != CLI_DONE ||
        (status = make_plan(j)) != CLI_DONE)
        goto out;
    status = j->settings->dry_run ? answer(j, NULL) : derive(j);
out:
    plan_close(j->plan);
    plan_errors_close(j->errors);
    profile_close(j->profile);
    engine_close(j->engine);
    gguf_close(j->base);
    free(j);
    return status;
}

const struct cli_verb cli_quantize = {
    .name = "quantize",
    .operands = "BASE.gguf",
    .operands_min = 1,
    .operands_max = 1,
    .summary = "derive a variant of a base",
    .text = "Types: F16 BF16 Q8_0 Q6_K Q5_K Q5_1 Q5_0 Q4_K Q4_1 Q4_0 IQ4_NL IQ4_XS Q3_K Q2_K, and NF4, which only\n"
            "tare reads (--export). A run that was stopped continues where it was when it is started again with\n"
            "the same options.\n\n"
            "Method cascade searches on what Q8_0 keeps of the base: what comes of a base that is Q8_0 itself.\n\n"
            "A scheme is words in any order: bits 2 to 8; symmetric, power-of-two, asymmetric or affine; values\n"
            "per scale 16, 32, 64, 128, 256, channel or tensor; range minmax, percentile[=99.9], mse or entropy;\n"
            "auto, f16 or f32. auto stores it in a block type that holds it exactly (Q4_0 Q5_0 Q8_0 Q4_1 Q5_1),\n"
            "else as F32: then it is simulated, and the size that is printed for it is a prediction.",
    .options = options,
    .shared = CLI_ENGINE | CLI_OUTPUT,
    .settings_bytes = sizeof(struct quantize_settings),
    .run = quantize,
    .examples = (const struct cli_example[]){
        {"tare quantize base.gguf -o small.gguf", "balanced: about 5 bits per weight"},
        {"tare quantize base.gguf -o small.gguf --type Q4_K --profile profile.gguf", "every weight Q4_K, weighted"},
        {"tare quantize base.gguf -o small.gguf --bpw 4.5 --text notes.txt --method gptq",
         "the best file of 4.5 bits per weight"},
        {NULL, NULL}}};
