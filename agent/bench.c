/* bench.c: see bench.h. */
#include "agent/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/log.h"
#include "protocol/envelope.h"

enum { AGAIN_MS = 2000, PAYLOAD_MAX = 16 << 10 };

struct bench {
    struct bench_options options;
    bool is_asked;
    struct message_benchmark request;
    uint8_t model[32];
    struct loop_timer again;
};

enum err bench_open(const struct bench_options *options, struct bench **out)
{
    struct bench *b = calloc(1, sizeof *b);
    if (!b)
        return ERR_MEMORY;
    b->options = *options;
    *out = b;
    return ERR_NONE;
}

void bench_close(struct bench *b)
{
    if (!b)
        return;
    loop_clear_timer(b->options.loop, &b->again);
    task_cancel(b->options.task, TASK_BENCH);
    free(b);
}

static enum err post(struct bench *b, struct message_result *r)
{
    uint8_t payload[PAYLOAD_MAX], envelope[PAYLOAD_MAX + ENVELOPE_OVERHEAD];
    size_t size, total;
    struct store_txn *t;
    uint64_t done;
    enum err e = store_begin(b->options.store, true, &t);
    if (e)
        return e;
    r->epoch = store_epoch(b->options.store);
    r->time_ms = b->options.now_ms(b->options.context);
    memcpy(r->id, b->request.id, sizeof r->id);
    memcpy(r->model, b->model, sizeof r->model);
    e = store_next_seq(t, MESSAGE_STREAM_BENCH, &r->seq);
    if (!e)
        e = message_result_encode(r, payload, sizeof payload, &size);
    if (!e)
        e = envelope_sign(b->options.identity->key.secret_key, b->options.settings->fleet, ENVELOPE_DEVICE,
                          MESSAGE_RESULT, payload, size, envelope, sizeof envelope, &total);
    if (!e)
        e = store_post(t, MESSAGE_STREAM_BENCH, r->seq, envelope, total);
    if (!e)
        e = store_get_u64(t, "command", &done);
    if (!e && b->request.version > done)
        e = store_put_u64(t, "command", b->request.version);
    if (e) {
        store_abort(t);
        return e;
    }
    return store_commit(t);
}

static void finish(struct bench *b, struct message_result *r)
{
    enum err e = post(b, r);
    b->is_asked = false;
    if (e)
        log_error("bench: a result cannot be stored: %s", err_name(e));
    else
        b->options.posted(b->options.context);
}

static void on_failed(void *context, enum err error, const char *why);

static void on_done(void *context, const struct wire *m)
{
    struct bench *b = context;
    const void *bytes;
    size_t size;
    struct message_result *r = calloc(1, sizeof *r);
    if (!r || !wire_view(m, WIRE_K_RESULT, &bytes, &size) || message_result_decode(bytes, size, r))
        on_failed(b, ERR_FORMAT, "the worker's answer cannot be read");
    else
        finish(b, r);
    free(r);
}

static void start(void *context);

static void on_failed(void *context, enum err error, const char *why)
{
    struct bench *b = context;
    if (error == ERR_CANCELLED) {
        loop_set_timer(b->options.loop, &b->again, AGAIN_MS, start, b);
        return;
    }
    struct message_result *r = calloc(1, sizeof *r);
    if (!r) {
        b->is_asked = false;
        return;
    }
    r->err = (uint32_t)error;
    snprintf(r->reason, sizeof r->reason, "%s", why);
    finish(b, r);
    free(r);
}

/* The file of a digest: what serves, a slot's variant, or a blob. */
static bool find_model(struct bench *b, char path[SLOTS_PATH])
{
    static const uint8_t none[32];
    const char *folder = b->options.settings->state;
    bool any = memcmp(b->request.model, none, 32) == 0, found = false;
    struct store_txn *t;
    uint32_t active;
    if (store_begin(b->options.store, false, &t))
        return false;
    if (slots_active(t, &active) == ERR_NONE)
        for (uint32_t i = 0; i < 2 && !found; i++) {
            struct slot s;
            if (slots_get(t, i, &s) || !s.is_used || (any && i != active))
                continue;
            if (any || memcmp(s.variant, b->request.model, 32) == 0) {
                slots_variant_path(folder, s.variant, path);
                memcpy(b->model, s.variant, 32);
                found = true;
            } else if (memcmp(s.plan.base.digest, b->request.model, 32) == 0) {
                slots_blob_path(folder, s.plan.base.digest, path);
                memcpy(b->model, s.plan.base.digest, 32);
                found = slots_has_file(path, s.plan.base.bytes);
            }
        }
    store_abort(t);
    return found;
}

static void start(void *context)
{
    struct bench *b = context;
    struct task_options o = {.weight = TASK_BENCH, .context = b, .done = on_done, .failed = on_failed};
    char path[SLOTS_PATH];
    uint64_t now = b->options.now_ms(b->options.context);
    memcpy(b->model, b->request.model, 32);
    if (now && b->request.not_after_ms && now > b->request.not_after_ms) {
        on_failed(b, ERR_EXPIRED, "the request expired before it could run");
        return;
    }
    if (!find_model(b, path)) {
        memset(b->model, 0xff, 32);
        on_failed(b, ERR_NOT_FOUND, "the model is not on this device");
        return;
    }
    struct wire m;
    wire_init(&m, WIRE_BENCH, 1);
    wire_put_text(&m, WIRE_K_PATH, path);
    wire_put_text(&m, WIRE_K_PLUGIN, b->request.plugin);
    wire_put_u64(&m, WIRE_K_THREADS, b->request.threads);
    wire_put_u64(&m, WIRE_K_PROMPT, b->request.prompt);
    wire_put_u64(&m, WIRE_K_GENERATE, b->request.generate);
    wire_put_u64(&m, WIRE_K_REPEAT, b->request.repetitions ? b->request.repetitions : 1);
    enum err e = task_start(b->options.task, &o, &m);
    if (e == ERR_FULL)
        loop_set_timer(b->options.loop, &b->again, AGAIN_MS, start, b);
    else if (e)
        on_failed(b, e, "no worker could be started");
}

enum err bench_ask(struct bench *b, const struct message_benchmark *request)
{
    if (b->is_asked)
        return memcmp(request->id, b->request.id, sizeof request->id) == 0 ? ERR_NONE : ERR_FULL;
    b->is_asked = true;
    b->request = *request;
    start(b);
    return ERR_NONE;
}
