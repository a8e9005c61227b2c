/* link.c: see link.h. What comes down is in link_down.c. */
#include "agent/link_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/log.h"
#include "protocol/envelope.h"

enum {
    RESEND_MS = 20000,
    RESEND_MOST_MS = 300000,
    CONTACT_MS = 90000,
    ASK_LEAST_MS = 1000,
    ASK_AGAIN_MS = 2000,
    BATCH_BYTES = 64 << 10,
    BATCH_RECORDS = 256,
    UNACKED_MAX = 32, /* reports of one stream on their way without an acknowledgement */
    CLOCK_SET_S = 1700000000,
    SMALL = 1024
};

static void pump(struct link *l);
static void step(struct link *l);
static void on_poll(void *context);
static void on_resend(void *context);

enum err link_open(const struct link_options *options, struct link **out)
{
    struct store_txn *t;
    struct link *l = calloc(1, sizeof *l);
    if (!l)
        return ERR_MEMORY;
    l->options = *options;
    enum err e = store_begin(options->store, false, &t);
    if (!e) {
        e = store_get_u64(t, "time", &l->time_floor_ms);
        store_abort(t);
    }
    if (e) {
        free(l);
        return e;
    }
    *out = l;
    return ERR_NONE;
}

enum err link_will(const struct identity *identity, const char *fleet, uint64_t epoch, const char *reason, uint8_t *out,
                   size_t capacity, size_t *size)
{
    struct message_death death = {.epoch = epoch};
    uint8_t payload[SMALL];
    size_t bytes;
    snprintf(death.reason, sizeof death.reason, "%s", reason);
    enum err e = message_death_encode(&death, payload, sizeof payload, &bytes);
    return e ? e
             : envelope_sign(identity->key.secret_key, fleet, ENVELOPE_DEVICE, MESSAGE_DEATH, payload, bytes, out,
                             capacity, size);
}

/* ---- time and contact ---- */

uint64_t link_now_ms(const struct link *l)
{
    int64_t mono = loop_now_ms(l->options.loop), wall = loop_wall_s(l->options.loop);
    uint64_t now = 0;
    if (l->time_ms)
        now = l->time_ms + (uint64_t)(mono - l->time_at_ms);
    else if (wall > CLOCK_SET_S)
        now = (uint64_t)wall * 1000;
    return now > l->time_floor_ms ? now : l->time_floor_ms;
}

bool link_in_contact(const struct link *l)
{
    return l->is_connected && l->heard_ms && loop_now_ms(l->options.loop) - l->heard_ms < CONTACT_MS;
}

bool link_is_approved(const struct link *l)
{
    return l->standing == MESSAGE_APPROVED;
}

void link_take_time(struct link *l, uint64_t time_ms)
{
    struct store_txn *t;
    if (!time_ms)
        return;
    l->time_ms = time_ms;
    l->time_at_ms = loop_now_ms(l->options.loop);
    if (time_ms < l->time_floor_ms + 3600 * 1000) /* once an hour is enough wear */
        return;
    l->time_floor_ms = time_ms;
    if (store_begin(l->options.store, true, &t))
        return;
    if (store_put_u64(t, "time", time_ms))
        store_abort(t);
    else if (store_commit(t))
        log_warning("link: the time cannot be stored");
}

/* ---- sending ---- */

static bool publish(struct link *l, uint32_t kind, const uint8_t *bytes, size_t size, bool is_retained)
{
    char topic[TOPIC_MAX];
    uint32_t token;
    enum err e = topic_encode(l->options.settings->fleet, l->options.identity->id, kind, topic);
    if (!e)
        e = l->transport.publish(l->transport.state, topic, bytes, size, is_retained, &token);
    if (e == ERR_NONE)
        return true;
    if (e != ERR_FULL)
        log_error("link: not sent: %s: %s", topic_kind_name(kind), err_name(e));
    return e != ERR_FULL; /* what can never be sent must not be tried for ever */
}

static enum err sign(struct link *l, uint32_t type, const uint8_t *payload, size_t bytes, uint8_t *out, size_t capacity,
                     size_t *size)
{
    return envelope_sign(l->options.identity->key.secret_key, l->options.settings->fleet, ENVELOPE_DEVICE, type,
                         payload, bytes, out, capacity, size);
}

static bool send_birth(struct link *l)
{
    enum { BIRTH_BYTES = 32 << 10 };
    size_t bytes, size;
    uint8_t *buffer = malloc(2 * BIRTH_BYTES);
    struct message_birth *b = l->birth;
    bool sent = true;
    if (!buffer)
        return false;
    b->epoch = store_epoch(l->options.store);
    b->time_ms = link_now_ms(l);
    memcpy(b->public_key, l->options.identity->key.public_key, 32);
    if (!b->name[0] && gethostname(b->name, sizeof b->name - 1) != 0)
        snprintf(b->name, sizeof b->name, "device");
    b->probe.disk_free_bytes = slots_disk_free(l->options.settings->state);
    jobs_fill_birth(l->jobs, b);
    enum err e = message_birth_encode(b, buffer, BIRTH_BYTES, &bytes);
    if (!e)
        e = sign(l, MESSAGE_BIRTH, buffer, bytes, buffer + BIRTH_BYTES, BIRTH_BYTES, &size);
    if (e)
        log_error("link: the birth cannot be written: %s", err_name(e));
    else
        sent = publish(l, TOPIC_UP_BIRTH, buffer + BIRTH_BYTES, size, true);
    free(buffer);
    return sent;
}

static bool send_question(struct link *l)
{
    struct message_request r = {.ask = MESSAGE_ASK_PLAN,
                                .epoch = store_epoch(l->options.store),
                                .newest_plan = jobs_newest_plan(l->jobs)};
    uint8_t payload[SMALL], envelope[SMALL + ENVELOPE_OVERHEAD];
    size_t bytes, size;
    randombytes_buf(r.nonce, sizeof r.nonce);
    enum err e = message_request_encode(&r, payload, sizeof payload, &bytes);
    if (!e)
        e = sign(l, MESSAGE_REQUEST, payload, bytes, envelope, sizeof envelope, &size);
    if (e) {
        log_error("link: a question cannot be written: %s", err_name(e));
        return true;
    }
    memcpy(l->nonce, r.nonce, sizeof l->nonce);
    l->asked_ms = loop_now_ms(l->options.loop);
    return publish(l, TOPIC_UP_REQ, envelope, size, false);
}

static void note_sent(struct link *l, struct link_cursor *c, uint64_t epoch, uint64_t seq)
{
    c->epoch = epoch;
    c->seq = seq;
    c->unacked++;
    if (!c->waits_ms)
        c->waits_ms = loop_now_ms(l->options.loop);
}

/* The next job or benchmark report; false: none, or no room. */
static bool send_report(struct link *l, uint32_t stream, uint32_t kind)
{
    struct link_cursor *c = &l->cursor[stream];
    struct store_report r;
    struct store_txn *t;
    bool sent = false;
    if (c->unacked >= UNACKED_MAX || store_begin(l->options.store, false, &t))
        return false;
    if (store_next_report(t, stream, c->epoch, c->seq, &r) == ERR_NONE)
        sent = publish(l, kind, r.bytes, r.size, false);
    if (sent)
        note_sent(l, c, r.epoch, r.seq);
    store_abort(t);
    return sent;
}

/* The next records of the spool as one signed message: telemetry in batches, sums one by one. */
static bool send_spool(struct link *l, uint32_t stream)
{
    bool is_tel = stream == MESSAGE_STREAM_TEL;
    struct link_cursor *c = &l->cursor[stream];
    struct {
        struct spool_batch batch;
        struct message_blob blob[BATCH_RECORDS];
    } *b = NULL;
    uint8_t *buffer = NULL;
    size_t size = is_tel ? BATCH_BYTES : MESSAGE_MAX, bytes, total;
    bool sent = false;
    if (c->unacked >= UNACKED_MAX)
        return false;
    b = malloc(sizeof *b);
    buffer = malloc(3 * size + 2 * SMALL);
    if (!b || !buffer)
        goto out;
    b->batch.bytes = buffer;
    b->batch.capacity = size - SMALL;
    if (spool_read(l->options.spool, is_tel ? SPOOL_TEL : SPOOL_CAL, c->epoch, c->seq, is_tel ? BATCH_RECORDS : 1,
                   &b->batch))
        goto out;
    uint8_t *payload = buffer, *envelope = buffer + 2 * size;
    bytes = b->batch.offset[1];
    enum err e = ERR_NONE;
    if (is_tel) {
        struct message_batch m = {
            .epoch = b->batch.epoch, .first = b->batch.first, .record = b->blob, .records = b->batch.count};
        for (uint32_t i = 0; i < b->batch.count; i++)
            b->blob[i] = (struct message_blob){b->batch.bytes + b->batch.offset[i],
                                               b->batch.offset[i + 1] - b->batch.offset[i]};
        payload = buffer + size;
        e = message_batch_encode(&m, payload, size, &bytes);
    }
    if (!e && bytes) /* a tombstone of sums is empty: it is only passed over */
        e = sign(l, is_tel ? MESSAGE_BATCH : MESSAGE_SUMS, payload, bytes, envelope, size + SMALL, &total);
    if (e)
        log_error("link: a batch cannot be written, it is passed over: %s", err_name(e));
    sent = e || !bytes || publish(l, is_tel ? TOPIC_UP_TEL : TOPIC_UP_CAL, envelope, total, false);
    if (sent)
        note_sent(l, c, b->batch.epoch, b->batch.first + b->batch.count - 1);
out:
    free(b);
    free(buffer);
    return sent;
}

static void rewind_all(struct link *l)
{
    memset(l->cursor, 0, sizeof l->cursor);
}

static bool has_waiting(struct link *l)
{
    struct store_txn *t;
    uint64_t reports = 0;
    if (store_begin(l->options.store, false, &t) == ERR_NONE) {
        if (store_waiting(t, &reports))
            reports = 1;
        store_abort(t);
    }
    return reports || spool_records(l->options.spool, SPOOL_TEL) || spool_records(l->options.spool, SPOOL_CAL);
}

/* When what waits longest for its acknowledgement was sent; 0: all that was sent is acknowledged. */
static int64_t waits_since(const struct link *l)
{
    int64_t since = 0;
    for (uint32_t i = 0; i < MESSAGE_STREAMS; i++)
        if (l->cursor[i].waits_ms && (!since || l->cursor[i].waits_ms < since))
            since = l->cursor[i].waits_ms;
    return since;
}

/* What was lost comes again in time however much else gets through: the timer runs from the oldest. */
static void arm_resend(struct link *l)
{
    int64_t since = waits_since(l), now = loop_now_ms(l->options.loop);
    int64_t left = since ? since + l->resend_ms - now : l->resend_ms;
    loop_set_timer(l->options.loop, &l->resend, (left > 0 ? left : 0) + loop_jitter(1000), on_resend, l);
}

static void on_resend(void *context)
{
    struct link *l = context;
    int64_t since = waits_since(l);
    if (!l->is_connected || !has_waiting(l))
        return;
    /* nothing on its way and yet something left: the acknowledgement was of a later epoch */
    if (!since || since + l->resend_ms <= loop_now_ms(l->options.loop)) {
        log_debug("link: no acknowledgement, sending again");
        rewind_all(l);
        l->resend_ms = l->resend_ms * 2 < RESEND_MOST_MS ? l->resend_ms * 2 : RESEND_MOST_MS;
    }
    pump(l);
}

/* Everything that is due, as long as the window takes it. */
static void pump(struct link *l)
{
    if (!l->is_connected || !l->jobs)
        return;
    if (l->birth_due && send_birth(l))
        l->birth_due = false;
    if (!l->birth_due && l->question_due && send_question(l))
        l->question_due = false;
    if (l->birth_due || l->question_due || l->standing != MESSAGE_APPROVED)
        return;
    while (send_report(l, MESSAGE_STREAM_JOB, TOPIC_UP_JOB)) {}
    while (send_report(l, MESSAGE_STREAM_BENCH, TOPIC_UP_BENCH)) {}
    while (send_spool(l, MESSAGE_STREAM_TEL)) {}
    while (send_spool(l, MESSAGE_STREAM_CAL)) {}
    if (!l->resend.active && has_waiting(l))
        arm_resend(l);
}

void link_answered(struct link *l)
{
    int64_t ms = (int64_t)l->options.settings->poll_s * 1000;
    l->unanswered = 0;
    loop_set_timer(l->options.loop, &l->poll, ms - ms / 10 + loop_jitter((uint32_t)(ms / 5) + 1), on_poll, l);
}

void link_acked(struct link *l)
{
    l->resend_ms = RESEND_MS;
    pump(l);
}

void link_posted(struct link *l)
{
    pump(l);
}

void link_changed(struct link *l)
{
    l->birth_due = true;
    pump(l);
}

void link_ask(struct link *l)
{
    if (loop_now_ms(l->options.loop) - l->asked_ms < ASK_LEAST_MS && l->asked_ms)
        return;
    l->question_due = true;
    pump(l);
}

/* ---- the transport ---- */

/* By the timer; sooner while the last question has had no answer: the broker may have lost it. */
static void on_poll(void *context)
{
    struct link *l = context;
    int64_t ms = (int64_t)l->options.settings->poll_s * 1000;
    link_ask(l);
    l->unanswered++;
    if (l->unanswered < 8 && (int64_t)ASK_AGAIN_MS << (l->unanswered - 1) < ms)
        ms = (int64_t)ASK_AGAIN_MS << (l->unanswered - 1);
    loop_set_timer(l->options.loop, &l->poll, ms - ms / 10 + loop_jitter((uint32_t)(ms / 5) + 1), on_poll, l);
}

static void on_connected(struct link *l)
{
    char filter[TOPIC_MAX];
    log_info("link: connected");
    l->is_connected = true;
    l->birth_due = l->question_due = true;
    l->resend_ms = RESEND_MS;
    l->unanswered = 0;
    rewind_all(l);
    enum err e = topic_device_filter(l->options.settings->fleet, l->options.identity->id, filter);
    if (!e)
        e = l->transport.subscribe(l->transport.state, filter);
    if (e)
        log_error("link: cannot subscribe: %s", err_name(e));
    on_poll(l);
}

static void on_lost(struct link *l, const struct transport_event *v)
{
    if (l->is_connected || v->err)
        log_warning("link: not connected, next attempt in %.1f s: %s", v->retry_ms / 1e3,
                    v->text && *v->text ? v->text : err_name(v->err));
    l->is_connected = false;
    l->heard_ms = 0;
    loop_clear_timer(l->options.loop, &l->resend);
}

static void drain(struct link *l)
{
    struct transport_event v;
    while (l->transport.next(l->transport.state, &v) == ERR_NONE) {
        switch (v.kind) {
        case TRANSPORT_CONNECTED: on_connected(l); break;
        case TRANSPORT_LOST: on_lost(l, &v); break;
        case TRANSPORT_MESSAGE: link_message(l, v.topic, v.payload, v.payload_bytes); break;
        case TRANSPORT_SUBSCRIBED:
            if (v.err)
                log_error("link: the broker refuses the subscription: %s", err_name(v.err));
            break;
        case TRANSPORT_FAILED:
            log_debug("link: a message was not taken: %s", v.text && *v.text ? v.text : err_name(v.err));
            break; /* it stays where it is and is sent again */
        default: break;
        }
    }
    pump(l);
}

static void on_step(void *context)
{
    step(context);
}

static void step(struct link *l)
{
    int wait_ms = -1;
    if (l->transport.step(l->transport.state, &wait_ms))
        log_error("link: the transport failed");
    drain(l);
    if (wait_ms >= 0)
        loop_set_timer(l->options.loop, &l->wake, wait_ms, on_step, l);
    else
        loop_clear_timer(l->options.loop, &l->wake);
}

static void on_readable(void *context, uint32_t events)
{
    (void)events;
    step(context);
}

enum err link_start(struct link *l, const struct transport *transport, struct jobs *jobs, struct bench *bench,
                    struct telemetry *telemetry, struct message_birth *birth)
{
    l->transport = *transport;
    l->has_transport = true;
    l->jobs = jobs;
    l->bench = bench;
    l->telemetry = telemetry;
    l->birth = birth;
    enum err e = loop_add(l->options.loop, &l->watch, transport->fd, EPOLLIN, on_readable, l);
    if (!e)
        e = l->transport.connect(l->transport.state);
    if (!e)
        step(l);
    return e;
}

void link_close(struct link *l)
{
    uint8_t bytes[SMALL];
    size_t size;
    if (!l)
        return;
    loop_delete(l->options.loop, &l->watch);
    loop_clear_timer(l->options.loop, &l->poll);
    loop_clear_timer(l->options.loop, &l->resend);
    loop_clear_timer(l->options.loop, &l->wake);
    if (l->has_transport) {
        if (l->is_connected && link_will(l->options.identity, l->options.settings->fleet,
                                         store_epoch(l->options.store), "stopped", bytes, sizeof bytes, &size) == 0)
            publish(l, TOPIC_UP_DEATH, bytes, size, true);
        l->transport.close(l->transport.state);
    }
    free(l);
}
