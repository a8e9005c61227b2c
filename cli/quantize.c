/* quantize.c: tare quantize: base and recipe in, variant and report out. */
#include <jansson.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "cli/leave_one_out.h"
#include "cli/quantize_check.h"
#include "cli/quantize_options.h"
#include "cli/rotated.h"
#include "cli/texts.h"
#include "compress/calibrate.h"
#include "compress/digest.h"
#include "compress/layer_stream.h"
#include "compress/prune_base.h"
#include "compress/report.h"
#include "compress/resident.h"
#include "compress/rotate.h"
#include "hal/block.h"
#include "hal/engine.h"
#include "model/gguf.h"

enum {
    SAMPLE_ROWS = 256,
    CONTEXT = 512,
    BYTES_PER_COLUMN = 16, /* of text: a token or more */
    WHOLE_BYTES = 256 << 20 /* of a base that gptq may load whole for its profile: no more than its Hessians take */
};

/* Everything one run holds. */
struct job {
    struct cli_call *call;
    const struct quantize_settings *settings;
    struct recipe recipe;
    struct engine *engine;
    const char *base_path; /* the operand, or what --rotate made of it */
    char rotated_path[ROTATED_PATH], rotated[ROTATE_TEXT];
    struct gguf *base;
    struct profile *profile;
    struct prune_base pruned; /* with --prune: what the plan is made for */
    struct plan_errors *errors;
    struct plan *plan;
    struct digest_task *digest; /* of the base */
    char base_sha256[65];
    char profile_sha256[65];
    struct texts texts, eval_texts;
    struct files files;
    struct judge judge;
    struct judge_verdicts verdicts;
    bool is_judged, is_finite;
    char refused[ROTATED_PATH]; /* "": the file has its name */
    struct report report;
    double stage_s; /* when the stage in work began */
    struct fault fault;
};

/* What does not go together, a profile and a base, is bad input. */
static int fail(struct job *j, enum err e)
{
    return cli_fail(j->call, e == ERR_MISMATCH ? CLI_INPUT : (enum cli_status)cli_status_of(e), NULL, NULL, "%s",
                    j->fault.text[0] ? j->fault.text : cli_sentence(e));
}

/* The command line's texts, else the recipe's; and the gates of both. */
static int take_texts(struct job *j)
{
    const struct quantize_settings *s = j->settings;
    const struct recipe *r = &j->recipe;
    struct texts *t = &j->texts;
    int status = texts_take(j->call, &s->texts, &s->languages, "--language", t);
    if (status == CLI_DONE)
        status = texts_take(j->call, &s->eval_texts, &s->eval_languages, "--eval-language", &j->eval_texts);
    const struct texts_gauge gauge = {.has_quality = j->eval_texts.count > 0,
                                      .is_dry = s->dry_run,
                                      .needs = "--eval-text or --eval-language",
                                      .recipe = s->plan};
    if (status == CLI_DONE)
        status = texts_gates(j->call, &s->gates, &gauge, &j->recipe.gates);
    for (uint32_t i = 0; t->count < TEXTS_MAX && s->texts.count + s->languages.count == 0 && i < r->texts; i++)
        texts_add(t, r->text[i].path, r->text[i].language[0] ? r->text[i].language : "text");
    if (t->count > RECIPE_TEXTS_MAX)
        return cli_fail(j->call, CLI_USAGE, NULL, "--text", "expected at most %d files", RECIPE_TEXTS_MAX);
    return status;
}

/* Of calibration, per language; 0: all. */
static uint64_t tokens_of(const struct job *j)
{
    return j->settings->tokens ? (uint64_t)j->settings->tokens : j->recipe.tokens;
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* What was done since the last call has this name. */
static void end_stage(struct job *j, const char *name)
{
    const double now = now_s();
    report_stage_add(&j->report, name, now - j->stage_s);
    j->stage_s = now;
}

static int show_tokens(void *context, const struct calibrate_progress *p)
{
    ((struct progress *)context)->total = (double)p->tokens_total;
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
    ((struct progress *)context)->total = (double)p->bytes_total;
    progress_update(context, (double)p->bytes, p->name);
    return 0;
}

/* Does gptq alone weigh every tensor by its own moments, from as much text as the widest input asks for? */
static bool needs_no_profile(const struct job *j)
{
    const struct recipe *r = &j->recipe;
    uint64_t widest = 1, bytes = 0;
    for (uint32_t i = 0; i < gguf_tensors(j->base); i++) {
        const struct gguf_tensor *t = gguf_tensor(j->base, i);
        if (t->dims > 2) /* experts have no moments but the profile's */
            return false;
        widest = t->shape[0] > widest ? t->shape[0] : widest;
    }
    for (uint32_t i = 0; i < j->texts.count; i++) {
        struct stat status;
        bytes += stat(j->texts.path[i], &status) ? 0 : (uint64_t)status.st_size;
    }
    return r->method == RECIPE_GPTQ && r->goal != RECIPE_BPW && r->rules == 0 && !r->is_left_out &&
           !recipe_prunes(&r->prune) && (tokens_of(j) == 0 || tokens_of(j) >= widest) &&
           bytes >= BYTES_PER_COLUMN * widest;
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
    if (j->texts.count == 0 || (j->recipe.method == RECIPE_RTN && !recipe_prunes(&j->recipe.prune)) ||
        needs_no_profile(j))
        return CLI_DONE;
    struct progress progress;
    const uint64_t memory = (uint64_t)j->call->common.memory_bytes;
    const uint64_t layer = layer_stream_bytes(j->base, j->recipe.context ? j->recipe.context : CONTEXT);
    const bool is_tight = memory < resident_now() + gguf_bytes(j->base) + QUANTIZE_MODEL_BYTES;
    const bool is_streamed = memory ? is_tight && layer < gguf_bytes(j->base)
                                    : (j->recipe.method == RECIPE_GPTQ || j->recipe.method == RECIPE_GPTQ_AWQ) &&
                                          gguf_bytes(j->base) > WHOLE_BYTES;
    if ((e = quantize_check_memory(j->call, "calibrate", is_streamed ? layer : gguf_bytes(j->base), &j->fault)))
        return fail(j, e);
    progress_open(&progress, j->call, "calibrate", "tokens", 0);
    const struct calibrate_options o = {
        .base_path = j->base_path,
        .engine = j->engine,
        .text = j->texts.text,
        .texts = j->texts.count,
        .tokens_per_language = tokens_of(j),
        .seed = j->recipe.seed,
        .context = j->recipe.context,
        .beside = is_streamed ? j->settings->out : NULL,
        .progress = show_tokens,
        .progress_context = &progress};
    e = calibrate_run(&o, &j->profile, &j->fault);
    progress_close(&progress, e == ERR_NONE);
    end_stage(j, "calibrate");
    return e ? fail(j, e) : CLI_DONE;
}

static int show_pruning(void *context)
{
    struct progress *p = context;
    progress_update(p, p->done + 1, NULL);
    return 0;
}

/* The pruned base takes the place of the base in everything that follows but the plan's name of it. */
static enum err prune(struct job *j)
{
    struct progress progress;
    progress_open(&progress, j->call, "prune", "steps", 0);
    const struct prune_base_options o = {.base_path = j->base_path,
                                         .base_sha256 = j->base_sha256,
                                         .out_path = j->settings->out,
                                         .want = &j->recipe.prune,
                                         .profile = j->profile,
                                         .engine = j->engine,
                                         .text = j->texts.text,
                                         .texts = j->texts.count,
                                         .tokens = tokens_of(j),
                                         .memory_bytes = (uint64_t)j->call->common.memory_bytes,
                                         .progress = show_pruning,
                                         .progress_context = &progress};
    const enum err e = prune_base_open(&o, &j->pruned, &j->fault);
    progress_close(&progress, e == ERR_NONE);
    if (e)
        return e;
    const struct prune_file_result *r = &j->pruned.result;
    if (r->linears > 0)
        cli_print(j->call, "recovered: %u of %u linears, output error %.4f -> %.4f on held-out text\n", r->recovered,
                  r->linears, r->before, r->after);
    end_stage(j, "prune");
    return ERR_NONE;
}

/* What the allocation of types goes by: a bpw target always, a mode where the sensitivity is measured. */
static enum err measure(struct job *j, const struct gguf *base, const struct profile *profile)
{
    const struct recipe *r = &j->recipe;
    struct progress progress;
    if (j->recipe.is_left_out && (j->texts.count == 0 || (r->goal != RECIPE_BPW && r->goal > RECIPE_COMPRESSION)))
        return fault_set(&j->fault, ERR_ARGUMENT,
                         "sensitivity leave-one-out: expected --bpw or --mode, and --text or --language");
    if (r->goal != RECIPE_BPW && !j->recipe.is_left_out)
        return ERR_NONE;
    progress_open(&progress, j->call, "measure", "tensors", gguf_tensors(base));
    enum err e = plan_errors_measure(base, profile, j->engine, r->method, SAMPLE_ROWS, show_tensors, &progress,
                                     &j->errors, &j->fault);
    progress_close(&progress, e == ERR_NONE);
    end_stage(j, "measure");
    if (e || !j->recipe.is_left_out ||
        (e = quantize_check_memory(j->call, "leave one out", 2 * gguf_bytes(base), &j->fault)))
        return e;
    const struct sensitivity_options o = {.base_path = gguf_path(base),
                                          .base_sha256 = j->base_sha256,
                                          .base = base,
                                          .profile = profile,
                                          .engine = j->engine,
                                          .text = j->texts.text,
                                          .texts = j->texts.count,
                                          .tokens = tokens_of(j),
                                          .method = r->method,
                                          .seed = r->seed};
    e = leave_one_out(j->call, &o, j->errors, &j->fault);
    j->report.sensitivity = "leave-one-out";
    end_stage(j, "sensitivity");
    return e;
}

/* The rotated base is the base of everything that follows but of what the result is measured against. */
static int rotate(struct job *j)
{
    char reason[GGUF_REASON_BYTES] = "";
    enum err e = quantize_check_memory(j->call, "rotate", rotate_bytes(j->base), &j->fault);
    if (e)
        return fail(j, e);
    const int status = rotated_make(j->call, j->engine, j->base, j->settings->out, &j->recipe, j->rotated_path);
    if (status != CLI_DONE)
        return status;
    gguf_close(j->base);
    j->base = NULL;
    j->base_path = j->rotated_path;
    end_stage(j, "rotate");
    struct gguf_text said = {"", 0};
    if (!(e = gguf_open(j->base_path, &j->base, reason)) && !(e = gguf_string(j->base, "tare.rotated", &said))) {
        snprintf(j->rotated, sizeof j->rotated, "%.*s", (int)said.bytes, said.text);
        return CLI_DONE;
    }
    fault_set(&j->fault, e, "%s", reason[0] ? reason : err_name(e));
    return fail(j, e);
}

static int make_plan(struct job *j)
{
    const char *path = j->base_path;
    const struct recipe *r = &j->recipe;
    const struct plan_device device = {.has_nf4 = j->engine->caps.types >> HAL_NF4 & 1};
    const struct gguf *base = j->base;
    const struct profile *profile = j->profile;
    const char *profile_sha256 = j->profile_sha256[0] ? j->profile_sha256 : NULL;
    const bool prunes = recipe_prunes(&r->prune);
    /* Nothing but the file's metadata wants the digest of a base that no profile and no recipe speaks of; a rotated one
     * is made anew by the run that continues, and known by it. */
    const bool is_late = !r->base_sha256[0] && !j->profile && j->texts.count == 0 && !j->settings->dry_run && !prunes &&
                         !j->settings->rotate;
    enum err e = ERR_NONE;
    memcpy(j->base_sha256, DIGEST_LATER, sizeof j->base_sha256);
    const bool is_early = prunes || j->recipe.is_left_out;
    if (is_early && (e = digest_task_wait(j->digest, j->base_sha256)))
        fault_set(&j->fault, e, "%s: cannot be read", path);
    if (!e && prunes && !(e = prune(j))) {
        base = j->pruned.gguf;
        profile = j->pruned.profile;
    }
    if (!e)
        e = measure(j, base, profile);
    if (!e && !is_late && !is_early && (e = digest_task_wait(j->digest, j->base_sha256)))
        fault_set(&j->fault, e, "%s: cannot be read", path);
    if (!e)
        e = plan_make(r, base, j->base_sha256, gguf_bytes(j->base), profile, profile_sha256, j->errors, &device,
                      &j->plan, &j->fault);
    if (!e && prunes)
        e = prune_base_attach(&j->pruned, profile_sha256, j->plan);
    end_stage(j, "plan");
    return e ? fail(j, e) : CLI_DONE;
}

/* The held-out texts and the gates, while the file has no name yet. */
static enum err judge_part(void *context, const char *path, uint64_t bytes, struct fault *f)
{
    struct job *j = context;
    enum err e = ERR_NONE;
    end_stage(j, "quantise");
    if (j->eval_texts.count) {
        struct progress bar;
        progress_open(&bar, j->call, "evaluate", "texts", 0);
        const struct judge_options o = {.text = j->eval_texts.text,
                                        .texts = j->eval_texts.count,
                                        .context_least = 64,
                                        .cache_type = j->plan->cache_type,
                                        .activation_bits = j->plan->activation_bits,
                                        .progress = texts_show,
                                        .progress_context = &bar};
        e = judge_files(path, j->call->operand[0], j->engine, &o, &j->judge, f);
        progress_close(&bar, e == ERR_NONE);
        j->is_judged = e == ERR_NONE;
        end_stage(j, "evaluate");
    }
    judge_gates(&j->recipe.gates, j->is_judged ? &j->judge : NULL, bytes, &j->verdicts);
    return e;
}

/* The report where it is wanted, and its short form on standard output. */
static int answer(struct job *j, const struct quantise_result *result)
{
    struct report *r = &j->report;
    char *text = NULL;
    size_t bytes = 0;
    r->version = TARE_VERSION;
    r->base = j->call->operand[0];
    r->rotated = j->rotated;
    r->variant = j->refused[0] ? j->refused : j->settings->out;
    r->is_refused = j->refused[0];
    r->profile = j->recipe.profile;
    r->plan = j->plan;
    r->result = result;
    r->engine = j->engine;
    r->goal = recipe_goal_name(j->recipe.goal);
    r->method = recipe_method_name(j->recipe.method);
    r->judge = j->is_judged ? &j->judge : NULL;
    r->verdicts = j->verdicts.count ? &j->verdicts : NULL;
    r->memory_bytes = (uint64_t)j->call->common.memory_bytes;
    r->peak_rss_bytes = report_peak_rss();
    FILE *to = open_memstream(&text, &bytes);
    if (to) {
        report_text(r, !result, to);
        if (fclose(to) == 0)
            cli_print(j->call, "%s", text);
        free(text);
    }
    cli_answer(j->call, report_json(r));
    if (j->settings->report && report_save(r, j->settings->report, &j->fault))
        return cli_fail(j->call, CLI_ENVIRONMENT, NULL, NULL, "%s", j->fault.text);
    return CLI_DONE;
}

/* A missed gate keeps the file from its name, but not the report from being written. */
static enum err judge_all(void *context, const char *path, uint64_t bytes, struct fault *f)
{
    struct job *j = context;
    const enum err e = judge_part(j, path, bytes, f);
    return e ? e : judge_check(&j->verdicts, f);
}

static int derive(struct job *j)
{
    const struct quantize_settings *s = j->settings;
    struct quantise_result r = {0};
    struct progress progress;
    if (j->eval_texts.count &&
        quantize_check_memory(j->call, "evaluate", gguf_bytes(j->base) + j->plan->variant_bytes, &j->fault))
        return fail(j, ERR_ARGUMENT);
    progress_open(&progress, j->call, "quantise", "bytes", 0);
    const struct quantise_options o = {.base_path = j->base_path,
                                       .out_path = s->out,
                                       .plan = j->plan,
                                       .base = strcmp(j->base_sha256, DIGEST_LATER) == 0 ? j->digest : NULL,
                                       .profile = j->profile,
                                       .engine = j->engine,
                                       .memory_bytes = (uint64_t)j->call->common.memory_bytes,
                                       .is_finite = j->is_finite,
                                       .is_measured = s->measure || s->report,
                                       .text = j->texts.path,
                                       .language = j->texts.name,
                                       .texts = j->texts.count,
                                       .text_tokens = tokens_of(j),
                                       .progress = show_bytes,
                                       .progress_context = &progress,
                                       .accept = judge_all,
                                       .accept_context = j,
                                       .is_claimed = true};
    const enum err e = quantise_run(&o, &r, &j->fault);
    progress_close(&progress, e == ERR_NONE);
    if (e && e != ERR_GATE)
        return fail(j, e);
    memcpy(j->plan->base_sha256, r.base_sha256, sizeof r.base_sha256);
    struct fault missed = j->fault;
    if (e) /* quantise.h */
        snprintf(j->refused, sizeof j->refused, "%s.refused", s->out);
    int status = answer(j, &r);
    if (status == CLI_DONE)
        status = e ? cli_fail(j->call, CLI_FAILED, NULL, NULL, "%.300s; the file is %s.refused", missed.text, s->out)
                   : texts_verdict(j->call, &j->verdicts);
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
    if (call->common.memory_bytes)
        (void)mallopt(M_MMAP_THRESHOLD, 1 << 18); /* what is freed goes back at once */
    j->settings = call->settings;
    j->stage_s = now_s();
    j->report.sensitivity = "names";
    int status = quantize_options_recipe(call, j->settings, &j->recipe);
    if (status != CLI_DONE || (status = take_texts(j)) != CLI_DONE ||
        (status = quantize_options_files(call, &j->recipe, &j->texts, &j->eval_texts, &j->files)) != CLI_DONE)
        goto out;
    j->base_path = call->operand[0];
    const enum err e = gguf_open(j->base_path, &j->base, reason);
    if (e) {
        fault_set(&j->fault, e, "%s", reason);
        status = fail(j, e);
        goto out;
    }
    if ((status = cli_engine_open(call, &j->engine)) != CLI_DONE || (status = quantize_check_start(call)) != CLI_DONE ||
        (status = texts_fit(call, &j->texts, tokens_of(j), j->recipe.seed)) != CLI_DONE ||
        (status = quantize_check_pruning(call, &j->recipe, j->base, j->texts.count > 0)) != CLI_DONE ||
        (status = quantize_check_base(call, &j->recipe, j->base, j->engine, j->texts.count > 0, &j->is_finite)) != CLI_DONE)
        goto out;
    if (j->settings->rotate && (status = rotate(j)) != CLI_DONE)
        goto out;
    /* After the check of plugins, which forks: a child inherits the locks of threads that it lacks. */
    if (digest_task_open(j->base_path, &j->digest)) {
        status = cli_fail(call, CLI_ENVIRONMENT, NULL, NULL, "no memory");
        goto out;
    }
    if ((status = take_profile(j)) != CLI_DONE ||
        (status = make_plan(j)) != CLI_DONE)
        goto out;
    status = j->settings->dry_run ? answer(j, NULL) : derive(j);
out:
    if (j->pruned.gguf && (j->settings->dry_run || (!j->plan && status != CLI_ENVIRONMENT)))
        prune_file_discard(j->settings->out);
    if (j->rotated_path[0])
        rotate_file_discard(j->settings->out);
    prune_base_close(&j->pruned);
    plan_close(j->plan);
    plan_errors_close(j->errors);
    profile_close(j->profile);
    engine_close(j->engine);
    gguf_close(j->base);
    digest_task_close(j->digest);
    files_close(&j->files);
    free(j);
    return status;
}

const struct cli_verb cli_quantize = {
    .name = "quantize",
    .operands = "BASE.gguf",
    .operands_min = 1,
    .operands_max = 1,
    .summary = "derive a variant of a base",
    .text = quantize_text,
    .options = quantize_options,
    .shared = CLI_ENGINE | CLI_OUTPUT,
    .settings_bytes = sizeof(struct quantize_settings),
    .run = quantize,
    .examples = quantize_examples};
