/* worker_task.c: the tasks that need an engine: derive a variant, time it, compare it. */
#include "agent/worker_serve.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/log.h"
#include "agent/worker_speed.h"
#include "agent/worker_task.h"
#include "compress/judge.h"
#include "compress/plan.h"
#include "compress/quantise.h"
#include "protocol/hex.h"
#include "protocol/message.h"

enum { CONTEXT_LEAST = 64 };

enum err worker_open_model(const struct gguf *g, struct engine *e, const struct model_options *o, struct model **out,
                           char *why)
{
    struct model_options less = *o;
    enum err error = model_open(g, e, &less, out, why);
    while (error == ERR_MEMORY && less.context > 2 * CONTEXT_LEAST) {
        less.context /= 2;
        log_warning("worker: memory is short, less context: tokens=%u", less.context);
        error = model_open(g, e, &less, out, why);
    }
    return error;
}

void worker_task_close(struct worker_task_model *m)
{
    model_close(m->model);
    gguf_close(m->gguf);
    *m = (struct worker_task_model){0};
}

void worker_task_setting(const struct wire *m, struct model_options *o)
{
    const uint64_t cache = wire_u64(m, WIRE_K_CACHE, 0), bits = wire_u64(m, WIRE_K_ACTIVATIONS, 0);
    const bool is_cache = cache == HAL_F16 || cache == HAL_Q8_0 || cache == HAL_Q4_0;
    judge_model_options(is_cache ? (uint32_t)cache : 0, bits >= 2 && bits <= 16 ? (uint32_t)bits : 8, o);
}

static void on_load(void *context, uint64_t done, uint64_t total)
{
    worker_beat(context, done, total);
}

enum err worker_task_open(struct worker_self *w, const char *path, struct engine *e, uint32_t context,
                          const struct model_options *setting, struct worker_task_model *out, char why[WORKER_WHY])
{
    struct model_options o = setting ? *setting : (struct model_options){0};
    o.context = context;
    o.sequences = 1;
    o.progress = on_load;
    o.progress_context = w;
    enum err error = gguf_open(path, &out->gguf, why);
    if (!error) {
        o.context = worker_embed_context(out->gguf, context);
        error = model_open(out->gguf, e, &o, &out->model, why);
    }
    if (error)
        worker_task_close(out);
    return error;
}

static void hex_of(const uint8_t digest[32], char out[65])
{
    hex_encode(digest, 32, out);
}

/* ---- derive ---- */

static int on_quantise(void *context, const struct quantise_progress *p)
{
    worker_beat(context, p->bytes, p->bytes_total);
    return 0;
}

enum err worker_task_plan(const struct wire *m, struct plan **out, char why[WORKER_WHY])
{
    struct message_plan *message = calloc(1, sizeof *message);
    struct message_tensor *tensors = calloc(MESSAGE_TENSORS_MAX, sizeof *tensors);
    struct fault fault = {""};
    const void *payload;
    char hex[65];
    size_t bytes;
    enum err e = ERR_MEMORY;
    if (!message || !tensors)
        goto out;
    message->tensor = tensors;
    message->tensors_max = MESSAGE_TENSORS_MAX;
    e = wire_view(m, WIRE_K_PLAN, &payload, &bytes) ? message_plan_decode(payload, bytes, message) : ERR_ARGUMENT;
    if (!e)
        e = plan_decode(message->derivation.at, message->derivation.size, out, &fault);
    if (e) {
        snprintf(why, WORKER_WHY, "the plan's derivation: %.200s", fault.text[0] ? fault.text : err_name(e));
        goto out;
    }
    hex_of(message->base.digest, hex);
    if (strcmp(hex, (*out)->base_sha256) != 0) {
        snprintf(why, WORKER_WHY, "the plan's derivation is for another base");
        plan_close(*out);
        *out = NULL;
        e = ERR_MISMATCH;
    }
out:
    free(message);
    free(tensors);
    return e;
}

static void say_derived(struct worker_self *w, const struct quantise_result *r)
{
    uint8_t digest[32];
    struct wire m;
    enum err e = hex_decode(r->sha256, 64, digest, sizeof digest);
    if (e) {
        worker_fail(w, e, "the variant has no digest");
        return;
    }
    wire_init(&m, WIRE_DONE, w->id);
    wire_put_bytes(&m, WIRE_K_DIGEST, digest, sizeof digest);
    wire_put_u64(&m, WIRE_K_BYTES, r->bytes);
    wire_put_f64(&m, WIRE_K_SECONDS, r->seconds);
    worker_reply(w, &m);
}

void worker_derive(struct worker_self *w, const struct wire *m)
{
    char base[900], profile_path[900], out[900], why[WORKER_WHY] = "";
    struct quantise_result result = {0};
    struct profile *profile = NULL;
    struct engine *engine = NULL;
    struct fault fault = {""};
    struct plan *plan = NULL;
    const void *texts = NULL;
    size_t text_bytes = 0, at = 0;
    const char *text[1];
    enum err e = ERR_ARGUMENT;
    if (!wire_text(m, WIRE_K_BASE, base, sizeof base) || !wire_text(m, WIRE_K_PATH, out, sizeof out) ||
        !wire_text(m, WIRE_K_PROFILE, profile_path, sizeof profile_path))
        goto out;
    if ((e = worker_task_plan(m, &plan, why)))
        goto out;
    if (profile_path[0] && (e = profile_load(profile_path, &profile, &fault)))
        goto out;
    if ((e = worker_engine(w, NULL, 0, &engine, why)))
        goto out;
    wire_view(m, WIRE_K_TEXTS, &texts, &text_bytes);
    text[0] = texts ? wire_list_next(texts, text_bytes, &at) : NULL;
    struct quantise_options o = {.base_path = base,
                                 .out_path = out,
                                 .plan = plan,
                                 .profile = profile,
                                 .engine = engine,
                                 .text = text,
                                 .texts = text[0] ? 1 : 0,
                                 .progress = on_quantise,
                                 .progress_context = w};
    e = quantise_run(&o, &result, &fault);
    if (!e && result.tensors_resumed)
        log_info("derive: %u tensors were there already: file=%s", result.tensors_resumed, out);
out:
    if (e)
        worker_fail(w, e, why[0] ? why : fault.text[0] ? fault.text : err_name(e));
    else
        say_derived(w, &result);
    quantise_result_close(&result);
    engine_close(engine);
    profile_close(profile);
    plan_close(plan);
}

/* ---- benchmark ---- */

static void fill_row(struct message_row *row, const char *kind, uint32_t tokens, uint32_t repetitions,
                     const struct engine *engine, const struct worker_speed *speed)
{
    snprintf(row->test, sizeof row->test, "%s%u", kind, tokens);
    row->threads = engine->host.threads;
    snprintf(row->plugin, sizeof row->plugin, "%s", engine->ops.name);
    snprintf(row->path, sizeof row->path, "%s", engine->caps.path);
    row->repetitions = repetitions;
    row->tok_s = (float)speed->tok_s;
    row->tok_s_deviation = (float)speed->deviation;
    row->rss_bytes = worker_self_rss();
    row->energy_j = (float)speed->energy_j;
}

static enum err bench(struct worker_self *w, const struct wire *m, struct worker_task_model *o, struct engine *engine,
                      struct message_result *r, char why[WORKER_WHY])
{
    uint32_t prompt = (uint32_t)wire_u64(m, WIRE_K_PROMPT, 0), generate = (uint32_t)wire_u64(m, WIRE_K_GENERATE, 0);
    uint32_t times = (uint32_t)wire_u64(m, WIRE_K_REPEAT, 1);
    struct worker_speed speed;
    enum err e = ERR_NONE;
    if (prompt) {
        if ((e = worker_speed(w, o->model, prompt, 0, times, &speed, why)))
            return e;
        struct message_row *row = &r->row[r->rows++];
        row->prompt = prompt;
        fill_row(row, "pp", prompt, times, engine, &speed);
    }
    if (generate && !model_info(o->model)->is_encoder) {
        if ((e = worker_speed(w, o->model, 0, generate, times, &speed, why)))
            return e;
        struct message_row *row = &r->row[r->rows++];
        row->generate = generate;
        fill_row(row, "tg", generate, times, engine, &speed);
    }
    return e;
}

void worker_bench(struct worker_self *w, const struct wire *m)
{
    static struct message_result r;
    static uint8_t bytes[32 << 10];
    char path[900], plugin[WORKER_NAME], why[WORKER_WHY] = "";
    struct worker_task_model o = {0};
    struct engine *engine = NULL;
    uint64_t prompt = wire_u64(m, WIRE_K_PROMPT, 0), generate = wire_u64(m, WIRE_K_GENERATE, 0);
    uint32_t context = (uint32_t)(prompt > generate ? prompt : generate);
    size_t size;
    enum err e = ERR_ARGUMENT;
    if (!wire_text(m, WIRE_K_PATH, path, sizeof path) || !wire_text(m, WIRE_K_PLUGIN, plugin, sizeof plugin))
        goto out;
    if ((e = worker_engine(w, plugin, (uint32_t)wire_u64(m, WIRE_K_THREADS, 0), &engine, why)) ||
        (e = worker_task_open(w, path, engine, context < 64 ? 64 : context, NULL, &o, why)))
        goto out;
    const struct model_info *info = model_info(o.model);
    snprintf(r.model_text, sizeof r.model_text, "%.24s %.1fM", info->architecture, (double)info->parameters / 1e6);
    r.model_bytes = gguf_bytes(o.gguf);
    r.parameters = info->parameters;
    /* What is the agent's to say; a decoder wants these not to be zero. */
    r.epoch = r.seq = 1;
    memset(r.id, 1, sizeof r.id);
    memset(r.model, 1, sizeof r.model);
    if ((e = bench(w, m, &o, engine, &r, why)))
        goto out;
    if ((e = message_result_encode(&r, bytes, sizeof bytes, &size)))
        goto out;
    struct wire answer;
    wire_init(&answer, WIRE_DONE, w->id);
    wire_put_bytes(&answer, WIRE_K_RESULT, bytes, size);
    worker_reply(w, &answer);
out:
    if (e)
        worker_fail(w, e, why[0] ? why : err_name(e));
    worker_task_close(&o);
    engine_close(engine);
}

/* ---- shadow: one request again, on the base and on the variant ---- */

struct difference {
    double kld, kld_max;
    uint64_t same, count;
};

static void compare(const float *p, const float *q, uint32_t n, struct difference *d)
{
    double most_p = -INFINITY, most_q = -INFINITY, sum_p = 0, sum_q = 0, kld = 0;
    uint32_t best_p = 0, best_q = 0;
    for (uint32_t i = 0; i < n; i++) {
        if ((double)p[i] > most_p) {
            most_p = (double)p[i];
            best_p = i;
        }
        if ((double)q[i] > most_q) {
            most_q = (double)q[i];
            best_q = i;
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        sum_p += exp((double)p[i] - most_p);
        sum_q += exp((double)q[i] - most_q);
    }
    double log_p = most_p + log(sum_p), log_q = most_q + log(sum_q);
    for (uint32_t i = 0; i < n; i++) {
        double lp = (double)p[i] - log_p;
        kld += exp(lp) * (lp - ((double)q[i] - log_q));
    }
    if (kld < 0)
        kld = 0;
    d->kld += kld;
    d->kld_max = kld > d->kld_max ? kld : d->kld_max;
    d->same += best_p == best_q;
    d->count++;
}

/* Both walk the tokens in small steps; logits of the base wait in `kept` while the variant runs. */
static enum err run_shadow(struct worker_self *w, struct worker_task_model *base, struct worker_task_model *variant, const uint32_t *tokens,
                           uint32_t count, uint32_t prefix, struct difference *d)
{
    const uint32_t n = model_info(base->model)->vocabulary;
    uint32_t most = model_info(base->model)->head_rows, other = model_info(variant->model)->head_rows;
    if (model_info(variant->model)->vocabulary != n)
        return ERR_MISMATCH;
    if (other < most)
        most = other;
    float *kept = malloc((size_t)most * n * sizeof *kept);
    enum err e = kept ? ERR_NONE : ERR_MEMORY;
    for (uint32_t at = 0; !e && at + 1 < count;) {
        uint32_t run = count - 1 - at < most ? count - 1 - at : most;
        struct model_run r = {.outputs = run, .count = run, .tokens = tokens + at};
        const float *logits;
        if ((e = model_step(base->model, &r, 1)) || (e = model_logits(base->model, 0, run, &logits)))
            break;
        memcpy(kept, logits, (size_t)run * n * sizeof *kept);
        if ((e = model_step(variant->model, &r, 1)) || (e = model_logits(variant->model, 0, run, &logits)))
            break;
        for (uint32_t i = 0; i < run; i++)
            if (at + i + 1 >= prefix) /* only where it answered */
                compare(kept + (size_t)i * n, logits + (size_t)i * n, n, d);
        at += run;
        worker_beat(w, at, count);
    }
    free(kept);
    return e;
}

void worker_shadow(struct worker_self *w, const struct wire *m)
{
    char base_path[900], path[900], why[WORKER_WHY] = "";
    struct worker_task_model base = {0}, variant = {0};
    struct engine *engine = NULL;
    struct difference d = {0};
    struct model_options setting = {0}; /* as it serves */
    uint32_t *tokens = NULL;
    const void *view;
    size_t bytes;
    enum err e = ERR_ARGUMENT;
    if (!wire_text(m, WIRE_K_BASE, base_path, sizeof base_path) || !wire_text(m, WIRE_K_PATH, path, sizeof path) ||
        !wire_view(m, WIRE_K_TOKENS, &view, &bytes) || bytes < 8)
        goto out;
    worker_task_setting(m, &setting);
    uint32_t prefix = (uint32_t)wire_u64(m, WIRE_K_PREFIX, 1), count = (uint32_t)(bytes / 4);
    if (!(tokens = malloc(bytes))) {
        e = ERR_MEMORY;
        goto out;
    }
    memcpy(tokens, view, bytes);
    errno = 0;
    if (nice(19) == -1 && errno)
        log_debug("worker: a shadow run cannot be nice");
    if ((e = worker_engine(w, NULL, 0, &engine, why)) ||
        (e = worker_task_open(w, base_path, engine, count, NULL, &base, why)) ||
        (e = worker_task_open(w, path, engine, count, &setting, &variant, why)) ||
        (e = run_shadow(w, &base, &variant, tokens, count, prefix, &d)))
        goto out;
    struct wire answer;
    wire_init(&answer, WIRE_DONE, w->id);
    wire_put_f64(&answer, WIRE_K_KLD, d.kld);
    wire_put_f64(&answer, WIRE_K_KLD_MAX, d.kld_max);
    wire_put_u64(&answer, WIRE_K_TOP1, d.same);
    wire_put_u64(&answer, WIRE_K_COUNT, d.count);
    worker_reply(w, &answer);
out:
    if (e)
        worker_fail(w, e, why[0] ? why : err_name(e));
    free(tokens);
    worker_task_close(&variant);
    worker_task_close(&base);
    engine_close(engine);
}
