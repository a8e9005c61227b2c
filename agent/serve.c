/* serve.c: requests: their queue, their way to a worker, their end. */
#include "agent/serve_parts.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/log.h"

uint64_t serve_now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

struct server *serve_find(const struct serve *s, enum role role)
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

void serve_finish(struct serve *s, struct serve_request *r, enum err error, const char *why, const struct wire *m)
{
    struct serve_cost cost = {.error = error, .total_us = serve_now_us() - r->from_us};
    const void *tokens;
    size_t bytes;
    uint32_t *copy = NULL;
    if (r->server) {
        cost.is_trial = r->server->role == TRIAL;
        memcpy(cost.variant, r->server->model.variant, 32);
    }
    cost.ttft_us = r->first_us ? r->first_us - r->from_us : 0;
    cost.usage.made = r->ask.form == SERVE_INPUTS ? 0 : r->made;
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
    if (s->hooks.finished)
        s->hooks.finished(s->hooks.context, &cost);
    if (s->hooks.trial_answered && cost.is_trial && error != ERR_CANCELLED && error != ERR_ARGUMENT)
        s->hooks.trial_answered(s->hooks.context, error == ERR_NONE);
    free(copy);
    ask.end(ask.context, error, why, reason, &cost.usage);
}

static enum err send_request(struct server *v, struct serve_request *r)
{
    const struct serve_ask *a = &r->ask;
    struct wire m;
    static const uint32_t keys[] = {WIRE_K_PROMPT, WIRE_K_PROMPT_IDS, WIRE_K_CHAT, WIRE_K_INPUTS};
    wire_init(&m, a->form == SERVE_INPUTS ? WIRE_EMBED : WIRE_GENERATE, r->id);
    wire_put_bytes(&m, keys[a->form], a->input, a->input_bytes);
    if (a->form == SERVE_INPUTS) {
        wire_put_u64(&m, WIRE_K_PREFIX, r->made);
        return worker_send(v->worker, &m);
    }
    if (a->variables_bytes)
        wire_put_bytes(&m, WIRE_K_VARIABLES, a->variables, a->variables_bytes);
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

struct server *serve_target(const struct serve *s)
{
    struct server *trial = serve_find(s, TRIAL), *main = serve_find(s, MAIN);
    if (trial && trial->is_ready)
        return trial;
    return main && main->is_ready ? main : NULL;
}

void serve_dispatch(struct serve *s)
{
    struct server *v = serve_target(s);
    for (struct serve_request *r = s->requests, *next; r && v; r = next) {
        next = r->next;
        if (r->server)
            continue;
        if (v->active >= s->settings->sequences)
            return;
        enum err e = send_request(v, r);
        if (e == ERR_ARGUMENT || e == ERR_MEMORY) {
            serve_finish(s, r, e, "the request is too large", NULL);
            serve_dispatch(s); /* the list may have changed behind us */
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
    if (s->is_draining || (!serve_find(s, MAIN) && !serve_find(s, TRIAL)))
        return ERR_NOT_FOUND;
    for (struct serve_request *r = s->requests; r; r = r->next)
        waiting += !r->server;
    struct server *v = serve_target(s);
    bool has_place = v && v->active < s->settings->sequences && waiting == 0;
    if (!has_place && waiting >= s->settings->queue)
        return ERR_FULL;
    struct serve_request *r = calloc(1, sizeof *r);
    if (!r)
        return ERR_MEMORY;
    r->ask = *ask;
    r->copies[0] = copy(ask->input, ask->input_bytes);
    r->copies[1] = ask->stop_bytes ? copy(ask->stop, ask->stop_bytes) : NULL;
    r->copies[2] = ask->variables_bytes ? copy(ask->variables, ask->variables_bytes) : NULL;
    if (!r->copies[0] || (ask->stop_bytes && !r->copies[1]) || (ask->variables_bytes && !r->copies[2])) {
        for (int i = 0; i < 3; i++)
            free(r->copies[i]);
        free(r);
        return ERR_MEMORY;
    }
    r->ask.input = r->copies[0];
    r->ask.stop = r->copies[1];
    r->ask.variables = r->copies[2];
    r->id = ++s->ids;
    r->is_sampled = ask->form != SERVE_INPUTS && s->hooks.is_sampled && s->hooks.is_sampled(s->hooks.context);
    r->from_us = serve_now_us();
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
    serve_dispatch(s);
}

enum serve_state serve_state(const struct serve *s)
{
    if (serve_target(s))
        return SERVE_READY;
    return serve_find(s, MAIN) || serve_find(s, TRIAL) ? SERVE_LOADING : SERVE_NOTHING;
}

bool serve_variant(const struct serve *s, uint8_t variant[32])
{
    const struct server *v = serve_target(s);
    if (!v)
        v = serve_find(s, MAIN);
    if (v)
        memcpy(variant, v->model.variant, 32);
    return v != NULL;
}

bool serve_abilities(const struct serve *s, struct serve_abilities *out)
{
    const struct server *v = serve_target(s);
    if (v)
        *out = v->abilities;
    return v != NULL;
}

bool serve_is_idle(const struct serve *s)
{
    return s->requests == NULL;
}

void serve_drain(struct serve *s)
{
    s->is_draining = true;
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
        serve_finish(s, s->requests, ERR_CANCELLED, "the agent stops", NULL);
    while (s->servers)
        serve_server_close(s->servers);
    free(s);
}
