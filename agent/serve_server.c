/* serve_server.c: the workers that answer: one holds the committed variant, at times another one is on trial. */
#include "agent/serve_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/log.h"

enum { CRASHES_MAX = 3, BACKOFF_MS = 200, BACKOFF_MOST_MS = 30000, DRAIN_MS = 600000,
       VECTOR_BYTES = 1 << 20 };

static void start(struct server *v);

void serve_server_close(struct server *v)
{
    struct serve *s = v->s;
    for (struct server **p = &s->servers; *p; p = &(*p)->next)
        if (*p == v) {
            *p = v->next;
            break;
        }
    loop_clear_timer(s->loop, &v->again);
    loop_clear_timer(s->loop, &v->drain);
    worker_close(v->worker);
    for (struct serve_request *r = s->requests; r; r = r->next)
        if (r->server == v)
            r->server = NULL; /* it waits again */
    free(v);
}

static void on_drained_late(void *context)
{
    struct server *v = context;
    struct serve *s = v->s;
    log_warning("serve: a replaced worker did not finish in time, its requests move on");
    serve_server_close(v);
    serve_dispatch(s);
}

static void retire(struct server *v)
{
    if (!v)
        return;
    v->role = OLD;
    if (v->active == 0 || !v->worker) {
        serve_server_close(v);
        return;
    }
    loop_set_timer(v->s->loop, &v->drain, DRAIN_MS, on_drained_late, v);
}

static void on_token(struct serve *s, struct serve_request *r, const struct wire *m)
{
    const void *text = "", *top = NULL, *token;
    size_t bytes = 0, top_bytes = 0, size;
    if (wire_view(m, WIRE_K_TOKENS, &token, &size) && size == 4) {
        if (r->made == r->capacity) {
            uint32_t capacity = r->capacity ? r->capacity * 2 : 64;
            uint32_t *grown = realloc(r->tokens, (size_t)capacity * 4);
            if (!grown || r->made >= SERVE_TOKENS_MAX) {
                if (grown)
                    r->tokens = grown;
                serve_cancel(s, r);
                return;
            }
            r->tokens = grown;
            r->capacity = capacity;
        }
        memcpy(&r->tokens[r->made++], token, 4);
        uint64_t now = serve_now_us();
        if (!r->first_us)
            r->first_us = now;
        else if (s->hooks.token)
            s->hooks.token(s->hooks.context, now - r->last_us);
        r->last_us = now;
    }
    wire_view(m, WIRE_K_TEXT, &text, &bytes);
    wire_view(m, WIRE_K_TOP, &top, &top_bytes);
    if (bytes || top_bytes)
        r->ask.token(r->ask.context, text, bytes, top, top_bytes);
}

static void on_vector(struct serve_request *r, const struct wire *m)
{
    const void *values;
    size_t bytes;
    if (!r->ask.vector || !wire_view(m, WIRE_K_VECTOR, &values, &bytes) || bytes % 4 || bytes > VECTOR_BYTES)
        return;
    float *aligned = malloc(bytes ? bytes : 1);
    if (!aligned)
        return; /* the end has one vector less: the asker counts them */
    memcpy(aligned, values, bytes);
    r->made++;
    r->ask.vector(r->ask.context, aligned, bytes / 4);
    free(aligned);
}

static void on_message(void *context, struct worker *w, const struct wire *m)
{
    struct server *v = context;
    struct serve *s = v->s;
    char why[256];
    (void)w;
    if (m->kind == WIRE_READY) {
        v->is_ready = true;
        v->abilities.can = wire_u64(m, WIRE_K_CAN, WIRE_CAN_COMPLETE | WIRE_CAN_CHAT);
        v->abilities.context = (uint32_t)wire_u64(m, WIRE_K_CONTEXT, s->settings->context);
        v->abilities.width = (uint32_t)wire_u64(m, WIRE_K_WIDTH, 0);
        v->crashes = 0;
        worker_expect(v->worker, 0);
        char plugin[256];
        if (!wire_text(m, WIRE_K_PLUGIN, plugin, sizeof plugin))
            plugin[0] = 0;
        log_info("serve: ready: file=%s%s: by %s", v->model.path, v->role == TRIAL ? " (on trial)" : "", plugin);
        if (plugin[0] && s->hooks.served)
            s->hooks.served(s->hooks.context, plugin);
        bool on_trial = v->role == TRIAL;
        serve_dispatch(s);
        if (on_trial && s->hooks.trial_ready)
            s->hooks.trial_ready(s->hooks.context);
        return;
    }
    if (m->kind == WIRE_STATS) {
        if (v->role == MAIN && s->hooks.stats)
            s->hooks.stats(s->hooks.context, m);
        return;
    }
    if (m->kind == WIRE_FAILED) {
        if (!wire_text(m, WIRE_K_TEXT, why, sizeof why))
            why[0] = 0;
        log_error("serve: the worker cannot serve: file=%s: %s: %s", v->model.path,
                  err_name((enum err)wire_u64(m, WIRE_K_ERR, 0)), why);
        return; /* it exits */
    }
    struct serve_request *r = s->requests;
    while (r && (r->id != m->id || r->server != v))
        r = r->next;
    if (!r) /* cancelled meanwhile */
        return;
    if (m->kind == WIRE_TOKEN) {
        on_token(s, r, m);
    } else if (m->kind == WIRE_VECTOR) {
        on_vector(r, m);
    } else if (m->kind == WIRE_END) {
        uint64_t error = wire_u64(m, WIRE_K_ERR, 0);
        if (!wire_text(m, WIRE_K_TEXT, why, sizeof why))
            why[0] = 0;
        serve_finish(s, r, error <= ERR_CRASHED ? (enum err)error : ERR_FORMAT, why, m);
        if (v->role == OLD && v->active == 0)
            serve_server_close(v);
        serve_dispatch(s);
    }
}

static void on_again(void *context)
{
    start(context);
}

static void on_ended(void *context, struct worker *w, enum worker_end end, const char *why)
{
    struct server *v = context;
    struct serve *s = v->s;
    char text[160];
    bool by_force = end == WORKER_CRASHED && strcmp(why, "signal 9") == 0;
    snprintf(text, sizeof text, "the worker %s (%s)", worker_end_name(end), why);
    log_warning("serve: %s: file=%s", text, v->model.path);
    worker_close(w);
    v->worker = NULL;
    v->is_ready = false;
    v->crashes++;
    if (s->hooks.crashed)
        s->hooks.crashed(s->hooks.context, text);
    /* What it was answering waits again, at its place in the order, or ends if it seems to be the cause. */
    for (struct serve_request *r = s->requests, *next; r; r = next) {
        next = r->next;
        if (r->server != v)
            continue;
        r->server = NULL;
        if (!by_force && ++r->crashes >= CRASHES_MAX) {
            serve_finish(s, r, ERR_CRASHED, "the workers that tried it died", NULL);
            next = s->requests; /* its end may have taken others away */
        }
    }
    v->active = 0;
    enum role role = v->role;
    bool again = role == MAIN;
    if (role == TRIAL) {
        again = s->hooks.trial_crashed && s->hooks.trial_crashed(s->hooks.context, by_force, text);
        if (serve_find(s, TRIAL) != v) { /* untrial was called inside */
            serve_dispatch(s);
            return;
        }
    }
    if (role == OLD || !again) {
        serve_server_close(v);
    } else {
        int64_t wait = BACKOFF_MS << (v->crashes < 9 ? v->crashes - 1 : 8);
        if (wait > BACKOFF_MOST_MS)
            wait = BACKOFF_MOST_MS;
        loop_set_timer(s->loop, &v->again, v->crashes == 1 ? 0 : wait / 2 + loop_jitter((uint32_t)wait), on_again, v);
    }
    serve_dispatch(s);
}

static void start(struct server *v)
{
    struct serve *s = v->s;
    struct worker_options o = {.loop = s->loop,
                               .settings = s->settings,
                               .name = v->role == TRIAL ? "trial" : "serve",
                               .context = v,
                               .message = on_message,
                               .ended = on_ended};
    v->worker = NULL;
    v->is_ready = false;
    enum err e = worker_open(&o, &v->worker);
    if (!e) {
        struct wire m;
        wire_init(&m, WIRE_SERVE, 0);
        wire_put_text(&m, WIRE_K_PATH, v->model.path);
        wire_put_text(&m, WIRE_K_PLUGIN, v->model.plugin);
        wire_put_u64(&m, WIRE_K_CACHE, v->model.cache_type);
        wire_put_u64(&m, WIRE_K_ACTIVATIONS, v->model.activation_bits);
        wire_put_u64(&m, WIRE_K_SEQUENCES, s->settings->sequences);
        wire_put_u64(&m, WIRE_K_CONTEXT, s->settings->context);
        wire_put_u64(&m, WIRE_K_KEEP, s->settings->keep);
        wire_put_u64(&m, WIRE_K_CACHE_BYTES, s->settings->cache_bytes);
        wire_put_u64(&m, WIRE_K_SPILL_BYTES, s->settings->spill_bytes);
        wire_put_text(&m, WIRE_K_FOLDER, s->settings->state);
        wire_put_f64(&m, WIRE_K_RATE, s->rate);
        worker_expect(v->worker, (int64_t)s->settings->hang_s * 1000);
        if (worker_send(v->worker, &m))
            log_warning("serve: a worker died at once");
        return;
    }
    v->worker = NULL;
    log_error("serve: no worker can be started: %s", err_name(e));
    v->crashes++;
    loop_set_timer(s->loop, &v->again, BACKOFF_MOST_MS, on_again, v);
}

static struct server *add(struct serve *s, enum role role, const struct serve_model *m)
{
    struct server *v = calloc(1, sizeof *v);
    if (!v) {
        log_error("serve: no memory for a server");
        return NULL;
    }
    v->s = s;
    v->role = role;
    v->model = *m;
    v->next = s->servers;
    s->servers = v;
    start(v);
    return v;
}

void serve_main(struct serve *s, const struct serve_model *m)
{
    struct server *was = serve_find(s, MAIN);
    if (was && m && memcmp(was->model.variant, m->variant, 32) == 0)
        return;
    retire(was);
    if (m)
        add(s, MAIN, m);
    else
        for (struct serve_request *r = s->requests, *next; r; r = next) {
            next = r->next;
            if (!r->server && !serve_find(s, TRIAL)) {
                serve_finish(s, r, ERR_NOT_FOUND, "there is no model any more", NULL);
                next = s->requests;
            }
        }
}

void serve_trial(struct serve *s, const struct serve_model *m)
{
    retire(serve_find(s, TRIAL));
    add(s, TRIAL, m);
}

void serve_untrial(struct serve *s)
{
    retire(serve_find(s, TRIAL));
    if (!serve_find(s, MAIN))
        serve_main(s, NULL);
    serve_dispatch(s);
}

void serve_promote(struct serve *s)
{
    struct server *v = serve_find(s, TRIAL);
    if (!v)
        return;
    retire(serve_find(s, MAIN));
    v->role = MAIN;
    serve_dispatch(s);
}

uint64_t serve_rss(const struct serve *s)
{
    uint64_t sum = 0;
    for (struct server *v = s->servers; v; v = v->next)
        sum += v->worker ? worker_rss(v->worker) : 0;
    return sum;
}

pid_t serve_pid(const struct serve *s)
{
    const struct server *v = serve_find(s, MAIN);
    return v && v->worker ? worker_pid(v->worker) : -1;
}

enum err serve_collect(struct serve *s)
{
    struct server *v = serve_find(s, MAIN);
    struct wire m;
    if (!v || !v->is_ready)
        return ERR_NOT_FOUND;
    wire_init(&m, WIRE_COLLECT, 0);
    return worker_send(v->worker, &m);
}

void serve_set_rate(struct serve *s, double rate)
{
    struct wire m;
    s->rate = rate;
    for (struct server *v = s->servers; v; v = v->next) {
        if (!v->worker)
            continue;
        wire_init(&m, WIRE_WINDOW, 0);
        wire_put_f64(&m, WIRE_K_RATE, rate);
        if (worker_send(v->worker, &m))
            log_debug("serve: a worker that is going was told a rate");
    }
}
