/* serve.c: see serve.h. */
#include "agent/serve.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/log.h"
#include "agent/worker.h"

enum { CRASHES_MAX = 3, BACKOFF_MS = 200, BACKOFF_MOST_MS = 30000, DRAIN_MS = 600000 };

enum role { MAIN, TRIAL, OLD };

struct server {
    struct serve *s;
    struct server *next;
    enum role role;
    struct serve_model model;
    struct worker *worker;
    bool is_ready;
    uint32_t active;
    uint32_t crashes; /* in a row */
    struct loop_timer again;
    struct loop_timer drain;
};

struct serve_request {
    struct serve_request *next;
    struct server *server; /* NULL: waits */
    uint64_t id;
    struct serve_ask ask;
    void *copies[3];
    uint32_t *tokens; /* answered so far */
    uint32_t made, capacity;
    uint32_t crashes;
    bool is_sampled;
    uint64_t from_us, first_us, last_us;
};

struct serve {
    struct loop *loop;
    const struct settings *settings;
    struct serve_hooks hooks;
    struct server *servers;
    struct serve_request *requests; /* in order of arrival */
    uint64_t ids;
    double rate;
    bool is_draining;
};

static void start(struct server *v);
static void dispatch(struct serve *s);

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static struct server *find(const struct serve *s, enum role role)
{
    for (struct server *v = s->servers; v; v = v->next)
        if (v->role == role)
            return v;
    return NULL;
}

/* ---- requests ---- */

static void free_request(struct serve *s, struct serve_request *r)
{
    for (struct serve_request **p = &s->requests; *p; p = &(*p)->next)
        if (*p == r) {
            *p = r->next;
            break;
        }
    for (int i = 0; i < 3; i++)
        free(r->copies[i]);
    free(r->tokens);
    free(r);
}

static void leave_server(struct serve_request *r)
{
    struct server *v = r->server;
    if (!v)
        return;
    r->server = NULL;
    v->active--;
    if (v->active == 0 && v->worker)
        worker_expect(v->worker, 0);
}

static void finish(struct serve *s, struct serve_request *r, enum err error, const char *why, const struct wire *m)
{
    struct serve_cost cost = {.error = error, .total_us = now_us() - r->from_us};
    const void *tokens;
    size_t bytes;
    uint32_t *copy = NULL;
    if (r->server) {
        cost.is_trial = r->server->role == TRIAL;
        memcpy(cost.variant, r->server->model.variant, 32);
    }
    cost.ttft_us = r->first_us ? r->first_us - r->from_us : 0;
    cost.usage.made = r->made;
    uint32_t reason = 0;
    if (m) {
        cost.prefill_us = wire_u64(m, WIRE_K_PREFILL_US, 0);
        cost.decode_us = wire_u64(m, WIRE_K_DECODE_US, 0);
        cost.usage.prompt = (uint32_t)wire_u64(m, WIRE_K_PROMPT, 0);
        cost.usage.cached = (uint32_t)wire_u64(m, WIRE_K_CACHED, 0);
        reason = (uint32_t)wire_u64(m, WIRE_K_REASON, 0);
        if (r->is_sampled && wire_view(m, WIRE_K_TOKENS, &tokens, &bytes) && bytes >= 8 && (copy = malloc(bytes))) {
            memcpy(copy, tokens, bytes);
            cost.tokens = copy;
            cost.token_count = (uint32_t)(bytes / 4);
        }
    }
    struct serve_ask ask = r->ask;
    leave_server(r);
    free_request(s, r);
    s->hooks.finished(s->hooks.context, &cost);
    if (cost.is_trial && error != ERR_CANCELLED && error != ERR_ARGUMENT)
        s->hooks.trial_answered(s->hooks.context, error == ERR_NONE);
    free(copy);
    ask.end(ask.context, error, why, reason, &cost.usage);
}

static enum err send_request(struct server *v, struct serve_request *r)
{
    const struct serve_ask *a = &r->ask;
    struct wire m;
    wire_init(&m, WIRE_GENERATE, r->id);
    if (a->prompt)
        wire_put_bytes(&m, WIRE_K_PROMPT, a->prompt, a->prompt_bytes);
    else
        wire_put_bytes(&m, WIRE_K_CHAT, a->chat, a->chat_bytes);
    if (a->stop_bytes)
        wire_put_bytes(&m, WIRE_K_STOP, a->stop, a->stop_bytes);
    if (a->max_tokens)
        wire_put_u64(&m, WIRE_K_GENERATE, a->max_tokens);
    wire_put_f64(&m, WIRE_K_TEMPERATURE, a->temperature);
    wire_put_f64(&m, WIRE_K_TOP_P, a->top_p);
    wire_put_u64(&m, WIRE_K_TOP_K, a->top_k);
    wire_put_u64(&m, WIRE_K_SEED, a->seed);
    if (a->top != UINT32_MAX)
        wire_put_u64(&m, WIRE_K_TOP, a->top);
    if (r->made)
        wire_put_bytes(&m, WIRE_K_TOKENS, r->tokens, (size_t)r->made * 4);
    if (r->is_sampled)
        wire_put_u64(&m, WIRE_K_LAST, 1);
    return worker_send(v->worker, &m);
}

/* Where the next request goes: to the trial as soon as it is ready, else to main. */
static struct server *target(const struct serve *s)
{
    struct server *trial = find(s, TRIAL), *main = find(s, MAIN);
    if (trial && trial->is_ready)
        return trial;
    return main && main->is_ready ? main : NULL;
}

static void dispatch(struct serve *s)
{
    struct server *v = target(s);
    for (struct serve_request *r = s->requests, *next; r && v; r = next) {
        next = r->next;
        if (r->server)
            continue;
        if (v->active >= s->settings->sequences)
            return;
        enum err e = send_request(v, r);
        if (e == ERR_ARGUMENT || e == ERR_MEMORY) {
            finish(s, r, e, "the request is too large", NULL);
            dispatch(s); /* the list may have changed behind us */
            return;
        }
        if (e)
            return; /* the worker is on its way out; its end brings us back */
        r->server = v;
        if (v->active++ == 0)
            worker_expect(v->worker, (int64_t)s->settings->hang_s * 1000);
    }
}

static void *copy(const void *bytes, size_t size)
{
    void *p = malloc(size ? size : 1);
    if (p)
        memcpy(p, bytes, size);
    return p;
}

enum err serve_submit(struct serve *s, const struct serve_ask *ask, struct serve_request **out)
{
    uint32_t waiting = 0;
    if (s->is_draining || (!find(s, MAIN) && !find(s, TRIAL)))
        return ERR_NOT_FOUND;
    for (struct serve_request *r = s->requests; r; r = r->next)
        waiting += !r->server;
    struct server *v = target(s);
    bool has_place = v && v->active < s->settings->sequences && waiting == 0;
    if (!has_place && waiting >= s->settings->queue)
        return ERR_FULL;
    struct serve_request *r = calloc(1, sizeof *r);
    if (!r)
        return ERR_MEMORY;
    r->ask = *ask;
    r->copies[0] = ask->prompt ? copy(ask->prompt, ask->prompt_bytes) : copy(ask->chat, ask->chat_bytes);
    r->copies[1] = ask->stop_bytes ? copy(ask->stop, ask->stop_bytes) : NULL;
    if (!r->copies[0] || (ask->stop_bytes && !r->copies[1])) {
        free(r->copies[0]);
        free(r->copies[1]);
        free(r);
        return ERR_MEMORY;
    }
    if (ask->prompt)
        r->ask.prompt = r->copies[0];
    else
        r->ask.chat = r->copies[0];
    r->ask.stop = r->copies[1];
    r->id = ++s->ids;
    r->is_sampled = s->hooks.is_sampled(s->hooks.context);
    r->from_us = now_us();
    struct serve_request **p = &s->requests;
    while (*p)
        p = &(*p)->next;
    *p = r;
    *out = r;
    /* end() must not come before submit has returned: a request too large is refused here. */
    if (has_place) {
        enum err e = send_request(v, r);
        if (e == ERR_ARGUMENT || e == ERR_MEMORY) {
            free_request(s, r);
            return e;
        }
        if (!e) {
            r->server = v;
            if (v->active++ == 0)
                worker_expect(v->worker, (int64_t)s->settings->hang_s * 1000);
        }
    }
    return ERR_NONE;
}

void serve_cancel(struct serve *s, struct serve_request *r)
{
    struct wire m;
    wire_init(&m, WIRE_CANCEL, r->id);
    if (r->server && r->server->worker && worker_send(r->server->worker, &m))
        log_debug("serve: a worker that is going was told to cancel");
    leave_server(r);
    free_request(s, r);
    dispatch(s);
}

/* ---- servers ---- */

static void close_server(struct server *v)
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
    close_server(v);
    dispatch(s);
}

static void retire(struct server *v)
{
    if (!v)
        return;
    v->role = OLD;
    if (v->active == 0 || !v->worker) {
        close_server(v);
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
        uint64_t now = now_us();
        if (!r->first_us)
            r->first_us = now;
        else
            s->hooks.token(s->hooks.context, now - r->last_us);
        r->last_us = now;
    }
    wire_view(m, WIRE_K_TEXT, &text, &bytes);
    wire_view(m, WIRE_K_TOP, &top, &top_bytes);
    if (bytes || top_bytes)
        r->ask.token(r->ask.context, text, bytes, top, top_bytes);
}

static void on_message(void *context, struct worker *w, const struct wire *m)
{
    struct server *v = context;
    struct serve *s = v->s;
    char why[256];
    (void)w;
    if (m->kind == WIRE_READY) {
        v->is_ready = true;
        v->crashes = 0;
        worker_expect(v->worker, 0);
        log_info("serve: ready: file=%s%s", v->model.path, v->role == TRIAL ? " (on trial)" : "");
        bool on_trial = v->role == TRIAL;
        dispatch(s);
        if (on_trial)
            s->hooks.trial_ready(s->hooks.context);
        return;
    }
    if (m->kind == WIRE_STATS) {
        if (v->role == MAIN)
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
    } else if (m->kind == WIRE_END) {
        uint64_t error = wire_u64(m, WIRE_K_ERR, 0);
        if (!wire_text(m, WIRE_K_TEXT, why, sizeof why))
            why[0] = 0;
        finish(s, r, error <= ERR_CRASHED ? (enum err)error : ERR_FORMAT, why, m);
        if (v->role == OLD && v->active == 0)
            close_server(v);
        dispatch(s);
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
    s->hooks.crashed(s->hooks.context, text);
    /* What it was answering waits again, at its place in the order, or ends if it seems to be the cause. */
    for (struct serve_request *r = s->requests, *next; r; r = next) {
        next = r->next;
        if (r->server != v)
            continue;
        r->server = NULL;
        if (!by_force && ++r->crashes >= CRASHES_MAX) {
            finish(s, r, ERR_CRASHED, "the workers that tried it died", NULL);
            next = s->requests; /* its end may have taken others away */
        }
    }
    v->active = 0;
    enum role role = v->role;
    bool again = role == MAIN;
    if (role == TRIAL) {
        again = s->hooks.trial_crashed(s->hooks.context, by_force, text);
        if (find(s, TRIAL) != v) { /* untrial was called inside */
            dispatch(s);
            return;
        }
    }
    if (role == OLD || !again) {
        close_server(v);
    } else {
        int64_t wait = BACKOFF_MS << (v->crashes < 9 ? v->crashes - 1 : 8);
        if (wait > BACKOFF_MOST_MS)
            wait = BACKOFF_MOST_MS;
        loop_set_timer(s->loop, &v->again, v->crashes == 1 ? 0 : wait / 2 + loop_jitter((uint32_t)wait), on_again, v);
    }
    dispatch(s);
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
    struct server *was = find(s, MAIN);
    if (was && m && memcmp(was->model.variant, m->variant, 32) == 0)
        return;
    retire(was);
    if (m)
        add(s, MAIN, m);
    else
        for (struct serve_request *r = s->requests, *next; r; r = next) {
            next = r->next;
            if (!r->server && !find(s, TRIAL)) {
                finish(s, r, ERR_NOT_FOUND, "there is no model any more", NULL);
                next = s->requests;
            }
        }
}

void serve_trial(struct serve *s, const struct serve_model *m)
{
    retire(find(s, TRIAL));
    add(s, TRIAL, m);
}

void serve_untrial(struct serve *s)
{
    retire(find(s, TRIAL));
    if (!find(s, MAIN))
        serve_main(s, NULL);
    dispatch(s);
}

void serve_promote(struct serve *s)
{
    struct server *v = find(s, TRIAL);
    if (!v)
        return;
    retire(find(s, MAIN));
    v->role = MAIN;
    dispatch(s);
}

enum serve_state serve_state(const struct serve *s)
{
    if (target(s))
        return SERVE_READY;
    return find(s, MAIN) || find(s, TRIAL) ? SERVE_LOADING : SERVE_NOTHING;
}

bool serve_variant(const struct serve *s, uint8_t variant[32])
{
    const struct server *v = target(s);
    if (!v)
        v = find(s, MAIN);
    if (v)
        memcpy(variant, v->model.variant, 32);
    return v != NULL;
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
    const struct server *v = find(s, MAIN);
    return v && v->worker ? worker_pid(v->worker) : -1;
}

bool serve_is_idle(const struct serve *s)
{
    return s->requests == NULL;
}

void serve_drain(struct serve *s)
{
    s->is_draining = true;
}

enum err serve_collect(struct serve *s)
{
    struct server *v = find(s, MAIN);
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

enum err serve_open(struct loop *loop, const struct settings *settings, const struct serve_hooks *hooks,
                    struct serve **out)
{
    struct serve *s = calloc(1, sizeof *s);
    if (!s)
        return ERR_MEMORY;
    s->loop = loop;
    s->settings = settings;
    s->hooks = *hooks;
    s->rate = settings->moments_rate;
    *out = s;
    return ERR_NONE;
}

void serve_close(struct serve *s)
{
    if (!s)
        return;
    while (s->requests)
        finish(s, s->requests, ERR_CANCELLED, "the agent stops", NULL);
    while (s->servers)
        close_server(s->servers);
    free(s);
}
