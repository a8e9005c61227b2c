/* telemetry.c: see telemetry.h. */
#include "agent/telemetry.h"

#include <malloc.h>
#include <math.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

#include "agent/log.h"
#include "hal/device.h"
#include "protocol/message.h"

enum {
    METRICS = 6,
    ERRORS_MAX = 8,
    EVENTS_MAX = 16,
    SHADOWS_MAX = 4,
    SHADOW_TOKENS_MAX = 2048,
    RECORDS_MAX = METRICS + 4 + ERRORS_MAX + EVENTS_MAX,
    RECORD_BYTES = 8192,
    SHADOW_AGAIN_MS = 1000,
    SHADOW_PATIENCE_MS = 5000 /* a device that is never idle is looked at too; the worker is nice */
};

struct shadow {
    int64_t from_ms;
    uint32_t *tokens;
    uint32_t count, prefix;
    uint8_t variant[32];
};

struct telemetry {
    struct telemetry_options options;
    bool has_slot;
    struct slot slot;
    struct sketch sketch[METRICS]; /* by enum message_metric - 1 */
    struct message_record error[ERRORS_MAX], event[EVENTS_MAX];
    uint32_t errors, events;
    struct message_record shadow; /* sums */
    struct shadow queue[SHADOWS_MAX];
    uint32_t queued;
    uint64_t tokens;              /* served since the last flush */
    uint64_t window_tokens;       /* served since the last collection */
    uint64_t window_from_ms, window;
    uint64_t wanted_tokens, command; /* of a calibrate command; 0: none */
    bool is_collecting;
    double energy_j;
    int64_t energy_ms;
    struct loop_timer batch, idle, calibration;
};

static void on_batch(void *context);
static void on_calibration(void *context);

static uint64_t now_ms(struct telemetry *t)
{
    return t->options.now_ms(t->options.context);
}

static int64_t batch_ms(const struct telemetry *t)
{
    uint32_t s = t->has_slot && t->slot.plan.watch.batch_s ? t->slot.plan.watch.batch_s : t->options.settings->telemetry_s;
    return (int64_t)s * 1000;
}

enum err telemetry_tombstone(enum spool_stream stream, uint64_t epoch, uint64_t from, uint64_t to, uint8_t *out,
                             size_t capacity, size_t *size)
{
    (void)epoch;
    if (stream == SPOOL_CAL) { /* nothing: the controller closes gaps of this stream by itself */
        *size = 0;
        return ERR_NONE;
    }
    struct message_record r = {.kind = MESSAGE_RECORD_LOST};
    r.of.lost.from = from;
    r.of.lost.to = to;
    return message_record_encode(&r, out, capacity, size);
}

enum err telemetry_open(const struct telemetry_options *options, struct telemetry **out)
{
    struct telemetry *t = calloc(1, sizeof *t);
    if (!t)
        return ERR_MEMORY;
    t->options = *options;
    t->energy_j = NAN;
    t->window_from_ms = now_ms(t);
    loop_set_timer(options->loop, &t->batch, batch_ms(t), on_batch, t);
    loop_set_timer(options->loop, &t->calibration, (int64_t)options->settings->calibration_s * 1000, on_calibration, t);
    *out = t;
    return ERR_NONE;
}

void telemetry_close(struct telemetry *t)
{
    if (!t)
        return;
    telemetry_flush(t);
    loop_clear_timer(t->options.loop, &t->batch);
    loop_clear_timer(t->options.loop, &t->idle);
    loop_clear_timer(t->options.loop, &t->calibration);
    task_cancel(t->options.task, TASK_SHADOW);
    for (uint32_t i = 0; i < t->queued; i++)
        free(t->queue[i].tokens);
    free(t);
}

/* ---- gathering ---- */

static void add(struct telemetry *t, uint32_t metric, uint64_t value)
{
    sketch_add(&t->sketch[metric - 1], value);
}

void telemetry_token(struct telemetry *t, uint64_t us)
{
    add(t, MESSAGE_TOKEN_US, us);
}

void telemetry_error(struct telemetry *t, enum err error, const char *text)
{
    for (uint32_t i = 0; i < t->errors; i++)
        if (t->error[i].of.error.err == (uint32_t)error && strcmp(t->error[i].of.error.text, text) == 0) {
            t->error[i].of.error.count++;
            return;
        }
    if (t->errors == ERRORS_MAX)
        return; /* the log has it */
    struct message_record *r = &t->error[t->errors++];
    *r = (struct message_record){.kind = MESSAGE_RECORD_ERROR, .time_ms = now_ms(t)};
    r->of.error.err = (uint32_t)error;
    r->of.error.count = 1;
    snprintf(r->of.error.text, sizeof r->of.error.text, "%s", text);
}

void telemetry_event(struct telemetry *t, const char *name, const char *text, uint64_t value)
{
    if (t->events == EVENTS_MAX)
        return;
    struct message_record *r = &t->event[t->events++];
    *r = (struct message_record){.kind = MESSAGE_RECORD_EVENT, .time_ms = now_ms(t)};
    snprintf(r->of.event.name, sizeof r->of.event.name, "%s", name);
    snprintf(r->of.event.text, sizeof r->of.event.text, "%s", text);
    r->of.event.value = value;
}

bool telemetry_is_sampled(struct telemetry *t)
{
    const struct message_watch *w = &t->slot.plan.watch;
    if (!t->has_slot || t->queued == SHADOWS_MAX)
        return false;
    if (w->shadow_every)
        return randombytes_uniform(w->shadow_every) == 0;
    return (double)randombytes_uniform(1u << 20) < t->options.settings->shadow_rate * (1 << 20);
}

static void collect(struct telemetry *t)
{
    if (!t->is_collecting && serve_collect(t->options.serve) == ERR_NONE)
        t->is_collecting = true;
}

/* By itself: once the window is long enough, or when its time is over. */
static void on_calibration(void *context)
{
    struct telemetry *t = context;
    if (!t->wanted_tokens && t->window_tokens)
        collect(t);
    loop_set_timer(t->options.loop, &t->calibration, (int64_t)t->options.settings->calibration_s * 1000, on_calibration,
                   t);
}

static void count_window(struct telemetry *t, uint64_t tokens)
{
    t->window_tokens += tokens;
    if (t->wanted_tokens) {
        if (t->window_tokens >= t->wanted_tokens)
            collect(t);
        return;
    }
    uint64_t limit = t->has_slot ? t->slot.plan.watch.calibrate_tokens : 0;
    if (limit && (double)t->window_tokens * t->options.settings->moments_rate >= (double)limit)
        collect(t);
}

void telemetry_calibrate(struct telemetry *t, uint64_t tokens, uint64_t command)
{
    t->wanted_tokens = tokens ? tokens : 1;
    t->command = command;
    t->window_tokens = 0;
    serve_set_rate(t->options.serve, 1);
}

static void on_idle(void *context);

static void keep_shadow(struct telemetry *t, const struct serve_cost *c)
{
    uint32_t count = c->token_count < SHADOW_TOKENS_MAX ? c->token_count : SHADOW_TOKENS_MAX;
    if (t->queued == SHADOWS_MAX || count <= c->usage.prompt || count < 2)
        return;
    struct shadow *s = &t->queue[t->queued];
    if (!(s->tokens = malloc((size_t)count * 4)))
        return;
    memcpy(s->tokens, c->tokens, (size_t)count * 4);
    s->from_ms = loop_now_ms(t->options.loop);
    s->count = count;
    s->prefix = c->usage.prompt;
    memcpy(s->variant, c->variant, 32);
    t->queued++;
    loop_set_timer(t->options.loop, &t->idle, SHADOW_AGAIN_MS, on_idle, t);
}

void telemetry_finished(struct telemetry *t, const struct serve_cost *c)
{
    if (c->error) {
        if (c->error != ERR_CANCELLED)
            telemetry_error(t, c->error, "a request failed");
        return;
    }
    add(t, MESSAGE_REQUEST_US, c->total_us);
    if (c->ttft_us)
        add(t, MESSAGE_TTFT_US, c->ttft_us);
    const struct serve_usage *u = &c->usage;
    if (c->prefill_us && u->prompt > u->cached)
        add(t, MESSAGE_PREFILL_MILLITOK_S, (uint64_t)((u->prompt - u->cached) * 1e9 / (double)c->prefill_us));
    if (c->decode_us && u->made > 1)
        add(t, MESSAGE_DECODE_MILLITOK_S, (uint64_t)((u->made - 1) * 1e9 / (double)c->decode_us));
    if (u->prompt)
        add(t, MESSAGE_CACHED_TOKENS, u->cached);
    uint64_t tokens = (uint64_t)u->prompt - u->cached + u->made; /* that the model ran */
    t->tokens += tokens;
    if (!c->is_trial)
        count_window(t, tokens);
    if (c->tokens)
        keep_shadow(t, c);
}

/* ---- shadow ---- */

static void drop_shadow(struct telemetry *t)
{
    free(t->queue[0].tokens);
    memmove(&t->queue[0], &t->queue[1], sizeof t->queue - sizeof t->queue[0]);
    t->queued--;
}

static void on_shadow_done(void *context, const struct wire *m)
{
    struct telemetry *t = context;
    struct message_record *r = &t->shadow;
    double kld = wire_f64(m, WIRE_K_KLD, 0), most = wire_f64(m, WIRE_K_KLD_MAX, 0);
    if (memcmp(t->queue[0].variant, t->slot.variant, 32) == 0 && wire_u64(m, WIRE_K_COUNT, 0)) {
        r->of.shadow.tokens += wire_u64(m, WIRE_K_COUNT, 0);
        r->of.shadow.kld_sum += kld;
        r->of.shadow.kld_most = most > r->of.shadow.kld_most ? most : r->of.shadow.kld_most;
        r->of.shadow.top1_same += wire_u64(m, WIRE_K_TOP1, 0);
        r->of.shadow.requests++;
    }
    drop_shadow(t);
    if (t->queued)
        loop_set_timer(t->options.loop, &t->idle, SHADOW_AGAIN_MS, on_idle, t);
}

static void on_shadow_failed(void *context, enum err error, const char *why)
{
    struct telemetry *t = context;
    if (error != ERR_CANCELLED) {
        log_warning("telemetry: a shadow run failed: %s", why);
        telemetry_error(t, error, "a shadow run failed");
        drop_shadow(t);
    }
    if (t->queued)
        loop_set_timer(t->options.loop, &t->idle, SHADOW_AGAIN_MS, on_idle, t);
}

static void on_idle(void *context)
{
    struct telemetry *t = context;
    const char *folder = t->options.settings->state;
    char base[SLOTS_PATH], path[SLOTS_PATH];
    struct task_options o = {
        .weight = TASK_SHADOW, .context = t, .done = on_shadow_done, .failed = on_shadow_failed};
    struct wire m;
    while (t->queued && (!t->has_slot || memcmp(t->queue[0].variant, t->slot.variant, 32) != 0))
        drop_shadow(t); /* it was answered by a variant that is gone */
    if (!t->queued)
        return;
    bool is_due = serve_is_idle(t->options.serve) ||
                  loop_now_ms(t->options.loop) - t->queue[0].from_ms > SHADOW_PATIENCE_MS;
    if (!is_due || task_is_busy(t->options.task)) {
        loop_set_timer(t->options.loop, &t->idle, SHADOW_AGAIN_MS, on_idle, t);
        return;
    }
    slots_blob_path(folder, t->slot.plan.base.digest, base);
    slots_variant_path(folder, t->slot.variant, path);
    wire_init(&m, WIRE_SHADOW, 1);
    wire_put_text(&m, WIRE_K_BASE, base);
    wire_put_text(&m, WIRE_K_PATH, path);
    wire_put_bytes(&m, WIRE_K_TOKENS, t->queue[0].tokens, (size_t)t->queue[0].count * 4);
    wire_put_u64(&m, WIRE_K_PREFIX, t->queue[0].prefix);
    wire_put_u64(&m, WIRE_K_CACHE, t->slot.setting.cache_type);
    wire_put_u64(&m, WIRE_K_ACTIVATIONS, t->slot.setting.activation_bits);
    if (task_start(t->options.task, &o, &m))
        loop_set_timer(t->options.loop, &t->idle, SHADOW_AGAIN_MS, on_idle, t);
}

/* ---- calibration sums ---- */

static void keep_sums(struct telemetry *t, const uint8_t *bytes, size_t size)
{
    struct message_sums *m = calloc(1, sizeof *m);
    uint8_t *out = malloc(size + 512);
    struct spool_record record = {.bytes = out};
    uint64_t first;
    enum err e = m && out ? message_sums_decode(bytes, size, m) : ERR_MEMORY;
    if (!e) {
        m->epoch = t->options.epoch;
        m->seq = spool_next_seq(t->options.spool, SPOOL_CAL);
        m->window = t->window + 1;
        m->command = t->command;
        m->from_ms = t->window_from_ms;
        m->to_ms = now_ms(t);
        memcpy(m->base, t->slot.plan.base.digest, 32);
        memcpy(m->variant, t->slot.variant, 32);
        e = message_sums_encode(m, out, size + 512, &record.size);
    }
    if (!e)
        e = spool_append(t->options.spool, SPOOL_CAL, &record, 1, &first);
    if (e)
        log_warning("telemetry: calibration sums are lost: %s", err_name(e));
    free(m);
    free(out);
}

void telemetry_stats(struct telemetry *t, const struct wire *frame)
{
    const void *bytes;
    size_t size;
    if (t->has_slot && wire_view(frame, WIRE_K_SUMS, &bytes, &size))
        keep_sums(t, bytes, size);
    if (!wire_u64(frame, WIRE_K_LAST, 0))
        return;
    t->is_collecting = false;
    t->window++;
    t->window_tokens = 0;
    t->window_from_ms = now_ms(t);
    if (t->wanted_tokens) {
        t->wanted_tokens = t->command = 0;
        serve_set_rate(t->options.serve, t->options.settings->moments_rate);
    }
    t->options.posted(t->options.context);
}

/* ---- a batch ---- */

struct writing {
    struct telemetry *t;
    uint8_t *bytes; /* [RECORDS_MAX, RECORD_BYTES] */
    struct spool_record record[RECORDS_MAX];
    uint32_t count;
};

static void write_record(struct writing *w, struct message_record *r)
{
    uint8_t *at = w->bytes + (size_t)w->count * RECORD_BYTES;
    size_t size;
    if (w->count == RECORDS_MAX)
        return;
    if (!r->time_ms)
        r->time_ms = now_ms(w->t);
    if (w->t->has_slot && r->kind != MESSAGE_RECORD_EVENT && r->kind != MESSAGE_RECORD_HEAT)
        memcpy(r->variant, w->t->slot.variant, 32);
    enum err e = message_record_encode(r, at, RECORD_BYTES, &size);
    if (e) {
        log_error("telemetry: a record cannot be written: kind=%u: %s", r->kind, err_name(e));
        return;
    }
    w->record[w->count++] = (struct spool_record){.bytes = at, .size = size};
}

static void write_machine(struct writing *w)
{
    struct telemetry *t = w->t;
    struct device_sensors s = {.temperature_c = NAN, .energy_j = NAN, .power_w = NAN};
    struct message_record r = {.kind = MESSAGE_RECORD_MEMORY};
    struct sysinfo info;
    int64_t now = loop_now_ms(t->options.loop);
    r.of.memory.rss_bytes = serve_rss(t->options.serve);
    if (sysinfo(&info) == 0)
        r.of.memory.available_bytes = (uint64_t)info.freeram * info.mem_unit;
    if (r.of.memory.rss_bytes)
        write_record(w, &r);
    if (device_read_sensors(NULL, &s))
        return;
    if (isfinite(s.temperature_c)) {
        struct message_record heat = {.kind = MESSAGE_RECORD_HEAT};
        heat.of.heat.millicelsius = (int64_t)(s.temperature_c * 1000);
        write_record(w, &heat);
    }
    if (isfinite(s.energy_j) && isfinite(t->energy_j) && s.energy_j >= t->energy_j) {
        struct message_record energy = {.kind = MESSAGE_RECORD_ENERGY};
        energy.of.energy.millijoules = (uint64_t)((s.energy_j - t->energy_j) * 1000);
        energy.of.energy.window_ms = (uint64_t)(now - t->energy_ms);
        energy.of.energy.tokens = t->tokens;
        write_record(w, &energy);
    }
    t->energy_j = s.energy_j;
    t->energy_ms = now;
}

void telemetry_flush(struct telemetry *t)
{
    struct writing w = {.t = t, .bytes = malloc((size_t)RECORDS_MAX * RECORD_BYTES)};
    uint64_t first;
    if (!w.bytes)
        return;
    for (uint32_t i = 0; i < METRICS; i++) {
        struct message_record r = {.kind = MESSAGE_RECORD_SKETCH};
        if (!t->sketch[i].count)
            continue;
        r.of.sketch.metric = i + 1;
        r.of.sketch.sketch = t->sketch[i];
        write_record(&w, &r);
    }
    if (t->shadow.of.shadow.requests) {
        struct message_record r = t->shadow;
        r.kind = MESSAGE_RECORD_SHADOW;
        write_record(&w, &r);
    }
    for (uint32_t i = 0; i < t->errors; i++)
        write_record(&w, &t->error[i]);
    for (uint32_t i = 0; i < t->events; i++)
        write_record(&w, &t->event[i]);
    write_machine(&w);
    enum err e = w.count ? spool_append(t->options.spool, SPOOL_TEL, w.record, w.count, &first) : ERR_NONE;
    free(w.bytes);
    if (e) { /* all of it merges into the next batch */
        log_warning("telemetry: a batch waits: %s", err_name(e));
        return;
    }
    memset(t->sketch, 0, sizeof t->sketch);
    memset(&t->shadow, 0, sizeof t->shadow);
    t->errors = t->events = 0;
    t->tokens = 0;
    t->options.posted(t->options.context);
}

static void on_batch(void *context)
{
    struct telemetry *t = context;
    telemetry_flush(t);
    malloc_trim(0); /* the agent's own memory is small, and stays so */
    loop_set_timer(t->options.loop, &t->batch, batch_ms(t), on_batch, t);
}

void telemetry_serving(struct telemetry *t, const struct slot *slot)
{
    bool is_same = t->has_slot == (slot != NULL) && (!slot || memcmp(slot->variant, t->slot.variant, 32) == 0);
    if (is_same)
        return;
    telemetry_flush(t); /* what was measured so far is about the other one */
    t->has_slot = slot != NULL;
    if (slot)
        t->slot = *slot;
    t->is_collecting = false;
    t->window_tokens = 0;
    t->window_from_ms = now_ms(t);
    loop_set_timer(t->options.loop, &t->batch, batch_ms(t), on_batch, t);
}
