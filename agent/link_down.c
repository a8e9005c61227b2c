/* link_down.c: what the controller says: answers, acknowledgements, plans, benchmark requests, commands. */
#include "agent/link_parts.h"

#include <stdio.h>
#include <string.h>

#include "agent/log.h"

static void take_answer(struct link *l, const uint8_t *payload, size_t size)
{
    struct message_answer m = {0};
    if (message_answer_decode(payload, size, &m) || memcmp(m.nonce, l->nonce, sizeof m.nonce) != 0)
        return; /* not of our last question */
    l->heard_ms = loop_now_ms(l->options.loop);
    link_take_time(l, m.time_ms);
    if (m.standing != l->standing) {
        static const char *const names[] = {"?", "waits for approval", "is approved", "is refused by the operator"};
        log_info("link: this device %s: id=%s", names[m.standing <= MESSAGE_FORBIDDEN ? m.standing : 0],
                 l->options.identity->id);
        l->standing = m.standing;
    }
    link_answered(l);
    jobs_contact(l->jobs);
    link_acked(l);
}

static void take_ack(struct link *l, const uint8_t *payload, size_t size)
{
    struct message_ack m = {0};
    struct store_txn *t;
    uint32_t jobs = 0, benches = 0;
    if (message_ack_decode(payload, size, &m))
        return;
    link_take_time(l, m.time_ms);
    if (store_begin(l->options.store, true, &t))
        return;
    enum err e = store_acknowledge(t, MESSAGE_STREAM_JOB, m.epoch, m.seq[MESSAGE_STREAM_JOB], &jobs);
    if (!e)
        e = store_acknowledge(t, MESSAGE_STREAM_BENCH, m.epoch, m.seq[MESSAGE_STREAM_BENCH], &benches);
    if (!e && jobs + benches)
        e = store_commit(t);
    else
        store_abort(t);
    if (!e && m.seq[MESSAGE_STREAM_TEL])
        e = spool_acknowledge(l->options.spool, SPOOL_TEL, m.epoch, m.seq[MESSAGE_STREAM_TEL]);
    if (!e && m.seq[MESSAGE_STREAM_CAL])
        e = spool_acknowledge(l->options.spool, SPOOL_CAL, m.epoch, m.seq[MESSAGE_STREAM_CAL]);
    if (e) { /* it comes again with what is sent again */
        log_warning("link: an acknowledgement cannot be applied: %s", err_name(e));
        return;
    }
    for (uint32_t i = 0; i < MESSAGE_STREAMS; i++) {
        struct link_cursor *c = &l->cursor[i];
        if (m.seq[i] && (c->acked_epoch < m.epoch || (c->acked_epoch == m.epoch && c->acked_seq < m.seq[i]))) {
            c->acked_epoch = m.epoch;
            c->acked_seq = m.seq[i];
            c->waits_ms = loop_now_ms(l->options.loop); /* for the rest */
        }
        if (c->epoch < m.epoch)
            continue; /* of what was sent before the last rewind: it says nothing of what was sent since */
        if (c->epoch == m.epoch && c->seq <= m.seq[i]) {
            c->unacked = 0; /* all that was sent is there */
            c->waits_ms = 0;
        } else if (c->epoch == m.epoch) {
            uint64_t left = c->seq - m.seq[i];
            c->unacked = left < c->unacked ? (uint32_t)left : c->unacked;
        } else {
            c->unacked /= 2; /* of an earlier epoch: how many it covered is not known */
        }
    }
    link_acked(l);
}

/* Is this director's order for this device, in time, and newer than the last one done? */
static bool is_due(struct link *l, const char *device, uint64_t version, uint64_t not_after_ms)
{
    struct store_txn *t;
    uint64_t done, now = link_now_ms(l);
    if (strcmp(device, l->options.identity->id) != 0) {
        log_warning("link: an order for another device was refused");
        return false;
    }
    if (now && not_after_ms && now > not_after_ms) {
        log_warning("link: an expired order was refused");
        return false;
    }
    if (store_begin(l->options.store, false, &t))
        return false;
    enum err e = store_get_u64(t, "command", &done);
    store_abort(t);
    return !e && version > done;
}

static void mark_done(struct link *l, uint64_t version)
{
    struct store_txn *t;
    if (store_begin(l->options.store, true, &t))
        return;
    if (store_put_u64(t, "command", version))
        store_abort(t);
    else if (store_commit(t))
        log_warning("link: an order is done, but this cannot be stored");
}

static void take_benchmark(struct link *l, const uint8_t *payload, size_t size)
{
    struct message_benchmark m = {0};
    if (message_benchmark_decode(payload, size, &m) || !is_due(l, m.device, m.version, m.not_after_ms))
        return;
    if (bench_ask(l->bench, &m))
        log_warning("link: a benchmark runs already, the request is left for later");
}

/* Cancel and revert may be done twice without harm, so they are marked as done afterwards. */
static void take_command(struct link *l, const uint8_t *payload, size_t size)
{
    struct message_command m = {0};
    enum err e = message_command_decode(payload, size, &m);
    if (e) {
        log_warning("link: an order was refused: %s", err_name(e));
        return;
    }
    if (!is_due(l, m.device, m.version, m.not_after_ms))
        return;
    log_info("link: order %u: %s", m.verb, m.reason);
    switch (m.verb) {
    case MESSAGE_CANCEL: e = jobs_cancel(l->jobs, m.plan_id); break;
    case MESSAGE_REVERT: e = jobs_revert(l->jobs, m.plan_id); break;
    case MESSAGE_CALIBRATE: telemetry_calibrate(l->telemetry, m.tokens, m.id); break;
    case MESSAGE_REPORT:
        telemetry_flush(l->telemetry);
        link_changed(l);
        break;
    default: e = ERR_UNSUPPORTED; break;
    }
    if (e == ERR_IO || e == ERR_MEMORY)
        return; /* it comes again */
    if (e)
        log_info("link: the order changes nothing here: %s", err_name(e));
    mark_done(l, m.version);
}

static uint32_t type_of(uint32_t kind)
{
    switch (kind) {
    case TOPIC_DN_ACK: return MESSAGE_ACK;
    case TOPIC_DN_RSP: return MESSAGE_ANSWER;
    case TOPIC_DN_BENCH: return MESSAGE_BENCHMARK;
    case TOPIC_DN_CMD: return MESSAGE_COMMAND;
    default: return 0;
    }
}

void link_message(struct link *l, const char *topic, const uint8_t *bytes, size_t size)
{
    struct topic t;
    const uint8_t *payload;
    size_t payload_bytes;
    if (topic_decode(topic, strlen(topic), &t) || topic_is_up(t.kind) ||
        strcmp(t.device, l->options.identity->id) != 0) {
        log_warning("link: a message on a topic that is not ours");
        return;
    }
    if (t.kind == TOPIC_DN_PLAN) {
        uint32_t code = jobs_offer(l->jobs, bytes, size);
        if (code && code < JOB_REJECT_STALE) /* whose plan it was cannot be told to anyone but so */
            telemetry_error(l->telemetry, code == JOB_REJECT_AUDIENCE ? ERR_AUDIENCE : ERR_SIGNATURE,
                            job_code_text(code));
        else if (code == JOB_REJECT_CRITICAL)
            telemetry_error(l->telemetry, ERR_UNSUPPORTED, job_code_text(code));
        return;
    }
    enum err e = accept_open(l->options.keys, l->options.settings->fleet, type_of(t.kind), bytes, size, &payload,
                             &payload_bytes);
    if (e) {
        log_warning("link: refused a message on %s: %s", topic_kind_name(t.kind), err_name(e));
        telemetry_error(l->telemetry, e, "a message from above was refused");
        return;
    }
    switch (t.kind) {
    case TOPIC_DN_RSP: take_answer(l, payload, payload_bytes); break;
    case TOPIC_DN_ACK: take_ack(l, payload, payload_bytes); break;
    case TOPIC_DN_BENCH: take_benchmark(l, payload, payload_bytes); break;
    default: take_command(l, payload, payload_bytes); break;
    }
}
