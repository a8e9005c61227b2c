#include "compress/report.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compress/resident.h"
#include "hal/block.h"
#include "hal/engine.h"

enum { PATH_BYTES = 4096 };

void report_stage_add(struct report *r, const char *name, double seconds)
{
    if (r->stages < REPORT_STAGES_MAX)
        r->stage[r->stages++] = (struct report_stage){name, seconds};
}

uint64_t report_peak_rss(void)
{
    return resident_peak();
}

/* JSON has no NaN: what was not measured is left out. */
static void put_real(json_t *to, const char *key, double value)
{
    if (isfinite(value))
        json_object_set_new(to, key, json_real(value));
}

static void put_int(json_t *to, const char *key, uint64_t value)
{
    json_object_set_new(to, key, json_integer((json_int_t)value));
}

static void put_text(json_t *to, const char *key, const char *value)
{
    if (value && value[0])
        json_object_set_new(to, key, json_string(value));
}

struct json_t *report_quality(const struct eval_result *r)
{
    json_t *to = json_object();
    put_int(to, "windows", r->windows);
    put_int(to, "tokens", r->tokens);
    put_int(to, "scored", r->scored);
    put_real(to, "ppl", r->perplexity.value);
    put_real(to, "ppl_se", r->perplexity.error);
    put_real(to, "nll_per_byte", r->nll_per_byte);
    if (!r->has_reference)
        return to;
    put_real(to, "ppl_base", r->perplexity_reference.value);
    put_real(to, "ppl_base_se", r->perplexity_reference.error);
    put_real(to, "dppl", r->perplexity_delta.value);
    put_real(to, "dppl_se", r->perplexity_delta.error);
    put_real(to, "dppl_percent", 100 * (r->perplexity_ratio.value - 1));
    put_real(to, "dppl_percent_se", 100 * r->perplexity_ratio.error);
    put_real(to, "dnll_per_byte", r->nll_per_byte_delta.value);
    put_real(to, "dnll_per_byte_se", r->nll_per_byte_delta.error);
    put_real(to, "kld_mean", r->kld.value);
    put_real(to, "kld_mean_se", r->kld.error);
    put_real(to, "kld_50", r->kld_median);
    put_real(to, "kld_90", r->kld_90);
    put_real(to, "kld_99", r->kld_99);
    put_real(to, "kld_999", r->kld_999);
    put_real(to, "kld_max", r->kld_max);
    put_real(to, "top1_percent", 100 * r->top1.value);
    put_real(to, "top1_percent_se", 100 * r->top1.error);
    return to;
}

struct json_t *report_languages(const struct judge *j)
{
    json_t *to = json_object();
    for (uint32_t i = 0; i < j->languages; i++)
        json_object_set_new(to, j->language[i].name, report_quality(&j->language[i].result));
    return to;
}

struct json_t *report_gates(const struct judge_verdicts *v)
{
    json_t *to = json_array();
    for (uint32_t i = 0; i < v->count; i++) {
        const struct judge_verdict *g = &v->verdict[i];
        json_t *row = json_pack("{s:s, s:f, s:b, s:b}", "gate", recipe_gate_name(g->gate), "limit", g->limit,
                                "is_measured", g->is_measured, "is_kept", g->is_kept);
        put_real(row, "value", g->value);
        put_text(row, "language", g->language);
        json_array_append_new(to, row);
    }
    return to;
}

static json_t *tensor_rows(const struct report *r)
{
    json_t *rows = json_array();
    for (uint32_t i = 0; i < r->plan->tensors; i++) {
        const struct plan_tensor *t = &r->plan->tensor[i];
        const struct quantise_tensor *did = r->result ? &r->result->tensor[i] : NULL;
        json_t *row = json_pack("{s:s, s:s, s:s, s:s, s:b}", "name", t->name, "from", block_type(t->from)->name, "type",
                                block_type(t->type)->name, "method", recipe_method_name(did ? did->method : t->method),
                                "fallback", t->is_fallback);
        put_int(row, "bytes", plan_tensor_bytes(t));
        put_real(row, "error", did ? did->error : NAN);
        put_real(row, "output_error", did ? did->output_error : NAN);
        json_array_append_new(rows, row);
    }
    return rows;
}

double report_scheme_bytes(const struct plan *p, bool *is_held)
{
    double bytes = 0;
    *is_held = false;
    for (uint32_t i = 0; i < p->tensors; i++) {
        const struct plan_tensor *t = &p->tensor[i];
        const bool is_scheme = t->method == RECIPE_SCHEME;
        bytes += (double)(is_scheme ? scheme_bytes(&p->scheme, t->rows, t->cols) : plan_tensor_bytes(t));
        *is_held = *is_held || (is_scheme && block_type(t->type)->codes > 0);
    }
    return bytes;
}

static void put_prune(json_t *to, const struct prune *p)
{
    char words[160];
    if (!p)
        return;
    prune_describe(p, words, sizeof words);
    put_text(to, "pruned", words);
}

static void put_scheme(json_t *to, const struct plan *p, double values)
{
    char words[SCHEME_TEXT_MAX];
    bool is_held;
    if (p->scheme.bits == 0)
        return;
    const double bytes = report_scheme_bytes(p, &is_held);
    scheme_print(&p->scheme, words);
    put_text(to, "scheme", words);
    put_real(to, "scheme_tensor_bytes", bytes);
    put_real(to, "scheme_bpw", 8 * bytes / values);
}

static double parameters(const struct plan *p)
{
    double values = 0;
    for (uint32_t i = 0; i < p->tensors; i++)
        values += (double)p->tensor[i].rows * p->tensor[i].cols;
    return values;
}

static void put_plan(json_t *to, const struct report *r)
{
    const struct plan *p = r->plan;
    const double bpw = plan_bpw(p);
    put_text(to, "base", r->base);
    if (r->rotated && r->rotated[0])
        put_text(to, "rotated", r->rotated);
    put_text(to, "base_sha256", p->base_sha256);
    put_int(to, "base_bytes", p->base_bytes);
    put_text(to, "profile", r->profile);
    put_text(to, "profile_sha256", p->profile_sha256);
    put_text(to, "variant", r->variant);
    put_int(to, "predicted_bytes", p->variant_bytes);
    put_real(to, "parameters", parameters(p));
    put_real(to, "bpw", bpw);
    put_real(to, "ratio_fp32", 32 / bpw);
    put_real(to, "ratio_fp16", 16 / bpw);
    put_text(to, "goal", r->goal);
    put_text(to, "method", r->method);
    put_text(to, "sensitivity", r->sensitivity);
    put_int(to, "seed", p->seed);
    const struct block_type *cache = block_type(p->cache_type);
    put_text(to, "cache", cache ? cache->name : "");
    put_int(to, "activation_bits", p->activation_bits);
    put_scheme(to, p, parameters(p));
    put_prune(to, p->prune);
}

static void put_run(json_t *to, const struct report *r)
{
    json_t *stages = json_object();
    for (uint32_t i = 0; i < r->stages; i++)
        put_real(stages, r->stage[i].name, r->stage[i].seconds);
    json_object_set_new(to, "stages", stages);
    put_int(to, "peak_rss_bytes", r->peak_rss_bytes);
    if (r->memory_bytes)
        put_int(to, "memory_bytes", r->memory_bytes);
    put_text(to, "version", r->version);
    put_text(to, "plugin", r->engine->ops.name);
    put_text(to, "plugin_version", r->engine->ops.version);
    put_text(to, "path", r->engine->caps.path);
    put_int(to, "threads", r->engine->host.threads);
    if (!r->result)
        return;
    put_text(to, "sha256", r->result->sha256);
    put_int(to, "bytes", r->result->bytes);
    json_object_set_new(to, "refused", json_boolean(r->is_refused));
    put_real(to, "seconds", r->result->seconds);
    put_int(to, "tensors_resumed", r->result->tensors_resumed);
}

struct json_t *report_json(const struct report *r)
{
    json_t *to = json_object();
    if (!to)
        return NULL;
    put_plan(to, r);
    put_run(to, r);
    if (r->judge) {
        json_object_set_new(to, "quality", report_quality(&r->judge->all));
        json_object_set_new(to, "languages", report_languages(r->judge));
        put_int(to, "context", r->judge->context);
    }
    if (r->verdicts)
        json_object_set_new(to, "gates", report_gates(r->verdicts));
    json_object_set_new(to, "tensors", tensor_rows(r));
    return to;
}

/* Through a file beside it, so that a name never stands for half a report. */
static enum err save(const char *path, const char *text, size_t bytes, struct fault *f)
{
    char part[PATH_BYTES];
    if (snprintf(part, sizeof part, "%s.part", path) >= PATH_BYTES)
        return fault_set(f, ERR_ARGUMENT, "%.80s...: the path is too long", path);
    FILE *to = fopen(part, "w");
    bool ok = to && fwrite(text, 1, bytes, to) == bytes && fflush(to) == 0 && fsync(fileno(to)) == 0;
    if (to)
        ok = fclose(to) == 0 && ok;
    if (ok && rename(part, path) == 0)
        return ERR_NONE;
    const int error = errno;
    unlink(part);
    return fault_set(f, ERR_IO, "%s: %s", path, strerror(error));
}

enum err report_text_path(const char *path, char *out, size_t capacity)
{
    const size_t bytes = strlen(path);
    const bool is_json = bytes > 5 && strcmp(path + bytes - 5, ".json") == 0;
    const int n = snprintf(out, capacity, "%.*s.md", (int)(is_json ? bytes - 5 : bytes), path);
    return n > 0 && (size_t)n < capacity ? ERR_NONE : ERR_ARGUMENT;
}

enum err report_save(const struct report *r, const char *path, struct fault *f)
{
    char text_path[PATH_BYTES], *json = NULL, *text = NULL;
    size_t text_bytes = 0;
    if (report_text_path(path, text_path, sizeof text_path))
        return fault_set(f, ERR_ARGUMENT, "%.80s...: the path is too long", path);
    json_t *document = report_json(r);
    FILE *to = open_memstream(&text, &text_bytes);
    enum err e = document && to && (json = json_dumps(document, JSON_INDENT(2) | JSON_SORT_KEYS)) ? ERR_NONE : ERR_MEMORY;
    if (to) {
        report_text(r, true, to);
        if (fclose(to) != 0)
            e = ERR_MEMORY;
    }
    if (!e)
        e = save(path, json, strlen(json), f);
    if (!e)
        e = save(text_path, text, text_bytes, f);
    json_decref(document);
    free(json);
    free(text);
    return e;
}
