#include "compress/judge.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "compress/calibrate_windows.h"
#include "hal/engine.h"
#include "model/model.h"

enum { CONTEXT_DEFAULT = 512, HEAD_ROWS = 16 };

/* All texts of one language behind each other. */
struct stream {
    char *text;
    size_t bytes;
};

struct work {
    struct model *model, *reference;
    const struct tokenizer *tokenizer;
    const struct judge_options *options;
    struct judge *out;
    struct stream stream[JUDGE_LANGUAGES_MAX];
    struct eval_pool *pool;
    struct judge_progress progress;
    struct fault *fault;
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static enum err add_stream(struct work *w, const char *name, const char *text, size_t bytes)
{
    struct judge *j = w->out;
    uint32_t i = 0;
    while (i < j->languages && strcmp(j->language[i].name, name) != 0)
        i++;
    if (i == JUDGE_LANGUAGES_MAX || strlen(name) >= JUDGE_NAME_MAX)
        return fault_set(w->fault, ERR_ARGUMENT, "%s: expected at most %d languages of short names", name,
                         JUDGE_LANGUAGES_MAX);
    if (i == j->languages)
        strcpy(j->language[j->languages++].name, name);
    struct stream *s = &w->stream[i];
    char *longer = realloc(s->text, s->bytes + bytes + 1);
    if (!longer)
        return ERR_MEMORY;
    memcpy(longer + s->bytes, text, bytes);
    s->text = longer;
    s->bytes += bytes;
    return ERR_NONE;
}

/* "\fNAME\n" begins a language; text behind it, up to the next one, is that language's. */
static enum err add_sections(struct work *w, const char *path, const char *text, size_t bytes)
{
    enum err e = ERR_NONE;
    for (size_t at = 0, end; at < bytes && !e; at = end) {
        char name[JUDGE_NAME_MAX];
        const char *line = memchr(text + at, '\n', bytes - at);
        const size_t length = line ? (size_t)(line - (text + at)) - 1 : 0;
        if (length == 0 || length >= sizeof name)
            return fault_set(w->fault, ERR_ARGUMENT, "%s: expected a language of 1 to %d bytes behind a form feed", path,
                             JUDGE_NAME_MAX - 1);
        memcpy(name, text + at + 1, length);
        name[length] = 0;
        end = (size_t)(line - text) + 1;
        const size_t from = end;
        while (end < bytes && !(text[end] == '\f' && text[end - 1] == '\n'))
            end++;
        e = add_stream(w, name, text + from, end - from);
    }
    return e;
}

static enum err add_text(struct work *w, const struct calibrate_text *t)
{
    char *text = NULL;
    size_t bytes = 0;
    enum err e = calibrate_windows_read(t->path, CALIBRATE_TEXT_MAX, &text, &bytes, w->fault);
    if (!e && bytes > 0 && text[0] == '\f')
        e = add_sections(w, t->path, text, bytes);
    else if (!e)
        e = add_stream(w, t->language && t->language[0] ? t->language : "text", text, bytes);
    free(text);
    return e;
}

static bool pass_on(void *context, const struct eval_progress *p)
{
    struct work *w = context;
    w->progress.eval = *p;
    return !w->options->progress || w->options->progress(w->options->progress_context, &w->progress);
}

/* Every language with one context. */
static enum err measure(struct work *w, uint32_t context)
{
    struct judge *j = w->out;
    eval_pool_close(w->pool);
    w->pool = NULL;
    enum err e = eval_pool_open(&w->pool);
    for (uint32_t i = 0; !e && i < j->languages; i++) {
        char reason[GGUF_REASON_BYTES] = "";
        const struct eval_options o = {.context = context,
                                       .windows = w->options->windows,
                                       .progress = pass_on,
                                       .progress_context = w,
                                       .pool = w->pool};
        w->progress.done = i;
        w->progress.language = j->language[i].name;
        e = eval_text(w->model, w->reference, w->tokenizer, w->stream[i].text, w->stream[i].bytes, &o,
                      &j->language[i].result, reason);
        if (e)
            fault_set(w->fault, e, "%s: %s", j->language[i].name, reason[0] ? reason : err_name(e));
    }
    return e;
}

enum err judge_models(struct model *m, struct model *reference, const struct tokenizer *t,
                      const struct judge_options *options, struct judge *out, struct fault *f)
{
    struct judge *j = calloc(1, sizeof *j);
    struct work *w = calloc(1, sizeof *w);
    const double start = now_s();
    enum err e = j && w ? ERR_NONE : ERR_MEMORY;
    if (e)
        goto out;
    *w = (struct work){.model = m, .reference = reference, .tokenizer = t, .options = options, .out = j, .fault = f};
    if (options->texts == 0)
        e = fault_set(f, ERR_ARGUMENT, "expected at least one text");
    for (uint32_t i = 0; !e && i < options->texts; i++)
        e = add_text(w, &options->text[i]);
    w->progress.languages = j->languages;
    j->context = options->context ? options->context : CONTEXT_DEFAULT;
    if (options->context == 0 && model_info(m)->context < j->context)
        j->context = model_info(m)->context / 2 * 2;
    while (!e && (e = measure(w, j->context)) == ERR_ARGUMENT && options->context_least &&
           j->context / 4 * 2 >= options->context_least) {
        j->context = j->context / 4 * 2;
        e = ERR_NONE;
    }
    if (!e)
        eval_pool_result(w->pool, &j->all);
    j->seconds = now_s() - start;
    if (!e)
        *out = *j;
out:
    for (uint32_t i = 0; w && i < JUDGE_LANGUAGES_MAX; i++)
        free(w->stream[i].text);
    if (w)
        eval_pool_close(w->pool);
    free(w);
    free(j);
    return e;
}

void judge_model_options(uint32_t cache_type, uint32_t activation_bits, struct model_options *o)
{
    o->cache_k = o->cache_v = cache_type; /* 0: the model's F16 */
    o->rounding = (struct model_rounding){.bits = activation_bits == 8 ? 0 : activation_bits};
}

enum err judge_files(const char *path, const char *base_path, struct engine *engine,
                     const struct judge_options *options, struct judge *out, struct fault *f)
{
    struct model_options o[2] = {{.context = options->context ? options->context : CONTEXT_DEFAULT,
                                  .head_rows = HEAD_ROWS}};
    o[1] = o[0];
    judge_model_options(options->cache_type, options->activation_bits, &o[0]);
    const char *const paths[2] = {path, base_path};
    char reason[GGUF_REASON_BYTES] = "";
    struct gguf *file[2] = {NULL, NULL};
    struct model *model[2] = {NULL, NULL};
    struct tokenizer *t = NULL;
    enum err e = ERR_NONE;
    for (uint32_t i = 0; !e && i < 2; i++)
        if (!(e = gguf_open(paths[i], &file[i], reason)))
            e = model_open(file[i], engine, &o[i], &model[i], reason);
    if (!e)
        e = tokenizer_open(file[1], &t, reason);
    if (e)
        fault_set(f, e, "%s", reason[0] ? reason : err_name(e));
    else
        e = judge_models(model[0], model[1], t, options, out, f);
    tokenizer_close(t);
    for (uint32_t i = 0; i < 2; i++) {
        model_close(model[i]);
        gguf_close(file[i]);
    }
    return e;
}

static double dppl_percent(const struct eval_result *r)
{
    return 100 * (r->perplexity_ratio.value - 1);
}

/* Nothing is worse than NaN. */
static bool is_worse(double a, double b)
{
    return a > b || (isnan(a) && !isnan(b));
}

const struct judge_language *judge_worst_dppl(const struct judge *j)
{
    const struct judge_language *worst = NULL;
    for (uint32_t i = 0; j->all.has_reference && i < j->languages; i++)
        if (!worst || is_worse(dppl_percent(&j->language[i].result), dppl_percent(&worst->result)))
            worst = &j->language[i];
    return worst;
}

const struct judge_language *judge_worst_kld(const struct judge *j)
{
    const struct judge_language *worst = NULL;
    for (uint32_t i = 0; j->all.has_reference && i < j->languages; i++)
        if (!worst || is_worse(j->language[i].result.kld.value, worst->result.kld.value))
            worst = &j->language[i];
    return worst;
}

bool judge_gate_is_quality(uint32_t gate)
{
    return 1u << gate & (1u << RECIPE_DPPL_PERCENT | 1u << RECIPE_KLD_MEAN | 1u << RECIPE_KLD_P99 | 1u << RECIPE_TOP1 |
                         1u << RECIPE_WORST_DPPL_PERCENT | 1u << RECIPE_WORST_KLD_MEAN);
}

bool judge_gate_is_machine(uint32_t gate)
{
    return gate != RECIPE_FILE_MIB && !judge_gate_is_quality(gate);
}

static double measured(uint32_t gate, const struct judge *j, uint64_t file_bytes, const char **language)
{
    if (gate == RECIPE_FILE_MIB && file_bytes)
        return (double)file_bytes / 1048576;
    if (!j || !j->all.has_reference)
        return NAN;
    const struct judge_language *worst = NULL;
    switch (gate) {
    case RECIPE_DPPL_PERCENT:
        return dppl_percent(&j->all);
    case RECIPE_KLD_MEAN:
        return j->all.kld.value;
    case RECIPE_KLD_P99:
        return j->all.kld_99;
    case RECIPE_TOP1:
        return j->all.top1.value;
    case RECIPE_WORST_DPPL_PERCENT:
        worst = judge_worst_dppl(j);
        *language = worst->name;
        return dppl_percent(&worst->result);
    case RECIPE_WORST_KLD_MEAN:
        worst = judge_worst_kld(j);
        *language = worst->name;
        return worst->result.kld.value;
    default:
        return NAN;
    }
}

void judge_gates(const struct recipe_gates *gates, const struct judge *j, uint64_t file_bytes,
                 struct judge_verdicts *out)
{
    out->count = 0;
    for (uint32_t gate = 0; gate < RECIPE_GATES; gate++) {
        if (!(gates->present & 1u << gate))
            continue;
        struct judge_verdict *v = &out->verdict[out->count++];
        *v = (struct judge_verdict){.gate = gate, .limit = gates->limit[gate], .language = ""};
        v->value = measured(gate, j, file_bytes, &v->language);
        v->is_measured = gate == RECIPE_FILE_MIB ? file_bytes > 0 : judge_gate_is_quality(gate) && j && j->all.has_reference;
        v->is_kept = recipe_gate_passes(gates, gate, v->value);
    }
}

enum err judge_check(const struct judge_verdicts *v, struct fault *f)
{
    for (uint32_t i = 0; i < v->count; i++) {
        const struct judge_verdict *g = &v->verdict[i];
        if (!g->is_measured && !judge_gate_is_machine(g->gate))
            return fault_set(f, ERR_GATE, "gate %s: was not measured, the limit is %.6g", recipe_gate_name(g->gate), g->limit);
        if (g->is_measured && !g->is_kept)
            return fault_set(f, ERR_GATE, "gate %s: %s%s%.6g, the limit is %.6g", recipe_gate_name(g->gate),
                             g->language, g->language[0] ? " has " : "measured ", g->value, g->limit);
    }
    return ERR_NONE;
}
