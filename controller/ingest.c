/* ingest.c: the batch, the envelope checks, the streams. What a message means is in ingest_apply.c. */
#include "controller/ingest_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller/controller_log.h"
#include "controller/doc.h"
#include "protocol/cbor.h"
#include "protocol/hex.h"

enum err ingest_begin(struct controller *c, struct ingest **out)
{
    struct ingest *i = calloc(1, sizeof *i);
    if (!i)
        return ERR_MEMORY;
    i->c = c;
    enum err e = posts_open(&i->posts);
    if (!e)
        e = registry_begin(c->registry, true, &i->t);
    if (e) {
        ingest_abort(i);
        return e;
    }
    *out = i;
    return ERR_NONE;
}

void ingest_abort(struct ingest *i)
{
    if (!i)
        return;
    registry_abort(i->t);
    posts_close(i->posts);
    free(i);
}

enum err ingest_last(const struct ingest *i)
{
    return i->last;
}

void ingest_seen_key(const char *device, uint64_t epoch, char out[INGEST_SEEN_KEY])
{
    snprintf(out, INGEST_SEEN_KEY, "%.32s/%016llx", device, (unsigned long long)epoch);
}

/* The device will be told what is durable, whether its message was new or not. */
static void touch(struct ingest *i, const char *device, uint64_t epoch)
{
    for (size_t k = 0; k < i->touched; k++)
        if (strcmp(i->touch[k].device, device) == 0 && i->touch[k].epoch == epoch)
            return;
    if (i->touched == INGEST_TOUCH_MAX)
        return; /* its next message is acknowledged then */
    snprintf(i->touch[i->touched].device, sizeof i->touch[0].device, "%s", device);
    i->touch[i->touched++].epoch = epoch;
}

enum err ingest_seen_load(struct ingest *i, const char *device, uint64_t epoch, uint32_t stream,
                          json_t **doc, struct seen *out)
{
    char key[INGEST_SEEN_KEY], name[8];
    ingest_seen_key(device, epoch, key);
    snprintf(name, sizeof name, "%u", stream);
    enum err e = registry_get_doc(i->t, REGISTRY_SEEN, key, doc);
    if (e == ERR_NOT_FOUND) {
        *doc = json_object();
        e = *doc ? ERR_NONE : ERR_MEMORY;
    }
    if (!e)
        seen_from_doc(json_object_get(*doc, name), out);
    return e;
}

enum err ingest_seen_store(struct ingest *i, const char *device, uint64_t epoch, uint32_t stream,
                           json_t *doc, const struct seen *s)
{
    char key[INGEST_SEEN_KEY], name[8];
    ingest_seen_key(device, epoch, key);
    snprintf(name, sizeof name, "%u", stream);
    doc_set(doc, name, seen_to_doc(s));
    return registry_put_doc(i->t, REGISTRY_SEEN, key, doc);
}

enum err ingest_stream(struct ingest *i, const char *device, uint64_t epoch, uint32_t stream,
                       uint64_t seq, bool *is_new)
{
    json_t *doc = NULL;
    struct seen seen;
    if (epoch > INT64_MAX || seq > INT64_MAX)
        return ERR_FORMAT;
    enum err e = ingest_seen_load(i, device, epoch, stream, &doc, &seen);
    if (e)
        goto out;
    touch(i, device, epoch);
    *is_new = !seen_has(&seen, seq);
    if (*is_new) {
        e = seen_add(&seen, seq, seq, i->now_ms / 1000);
        if (e == ERR_FULL)
            e = ERR_TIMEOUT; /* too many gaps: not applied, not acknowledged, it will come again */
    } else if (seq > seen.up_to) {
        uint64_t lost = seen_repeat(&seen, i->now_ms / 1000);
        if (lost)
            e = ingest_note_gap(i, device, stream, lost);
    }
    if (!e)
        e = ingest_seen_store(i, device, epoch, stream, doc, &seen);
out:
    json_decref(doc);
    return e;
}

enum err ingest_note_gap(struct ingest *i, const char *device, uint32_t stream, uint64_t lost)
{
    static const char *const names[MESSAGE_STREAMS] = {"telemetry", "job", "benchmark", "calibration"};
    struct trail entry = {.kind = "gap", .subject = device};
    snprintf(entry.seen, sizeof entry.seen, "%llu %s reports never came",
             (unsigned long long)lost, stream < MESSAGE_STREAMS ? names[stream] : "?");
    snprintf(entry.rule, sizeof entry.rule, "later ones came again and again for %d s", SEEN_GAP_S);
    snprintf(entry.sent, sizeof entry.sent, "an acknowledgement past the gap");
    snprintf(entry.changed, sizeof entry.changed, "the loss is known");
    return trail_add(i->t, i->now_ms / 1000, &entry);
}

void ingest_touch(struct ingest *i, const char *device, uint64_t epoch)
{
    touch(i, device, epoch);
}

/* The payload of a birth that is not verified yet: only to read the key that it claims, whose hash must
 * then be the device's id before anything else is believed. */
static enum err peek_payload(const uint8_t *bytes, size_t size, const uint8_t **payload,
                             size_t *payload_bytes)
{
    struct cbor_reader r;
    uint64_t items;
    const uint8_t *skip;
    size_t skip_bytes;
    cbor_reader_init(&r, bytes, size);
    enum err e = cbor_read_tag(&r, CBOR_TAG_SIGN1);
    if (!e)
        e = cbor_enter_array(&r, &items);
    if (!e)
        e = cbor_read_bytes(&r, &skip, &skip_bytes);
    if (!e)
        e = cbor_skip(&r);
    if (!e)
        e = cbor_read_bytes(&r, payload, payload_bytes);
    return e;
}

static enum err open_birth(struct ingest *i, const char *device, const uint8_t *bytes, size_t size,
                           struct envelope *out, struct message_birth *birth)
{
    const uint8_t *payload;
    size_t payload_bytes;
    char id[KEYS_ID_HEX];
    enum err e = peek_payload(bytes, size, &payload, &payload_bytes);
    if (e)
        return e;
    memset(birth, 0, sizeof *birth);
    e = message_birth_decode(payload, payload_bytes, birth);
    if (e)
        return e == ERR_FULL ? ERR_FORMAT : e;
    keys_id_hex(birth->public_key, id);
    if (strcmp(id, device) != 0)
        return ERR_AUDIENCE;
    if (!keys_is_public(birth->public_key))
        return ERR_SIGNATURE;
    return envelope_open(bytes, size, birth->public_key, i->c->settings.fleet, ENVELOPE_DEVICE,
                         MESSAGE_BIRTH, out);
}

/* Is it worth a write that this device was heard now? Judged by its record as it was loaded already. */
static bool is_news(const struct ingest *i, const json_t *device)
{
    return !doc_bool(device, "online") || i->now_ms / 1000 - doc_int(device, "last_seen") >= HEARD_EVERY_S;
}

static uint32_t type_of(uint32_t kind)
{
    switch (kind) {
    case TOPIC_UP_DEATH:
        return MESSAGE_DEATH;
    case TOPIC_UP_TEL:
        return MESSAGE_BATCH;
    case TOPIC_UP_JOB:
        return MESSAGE_JOB;
    case TOPIC_UP_REQ:
        return MESSAGE_REQUEST;
    case TOPIC_UP_BENCH:
        return MESSAGE_RESULT;
    case TOPIC_UP_CAL:
        return MESSAGE_SUMS;
    default:
        return 0;
    }
}

/* Below here the sender is known. Approved devices only, but for births, deaths and requests. */
static enum err apply_known(struct ingest *i, json_t *device, const struct topic *topic,
                            const struct envelope *envelope, bool is_retained)
{
    const char *status = doc_text(device, "status");
    bool is_approved = strcmp(status, "approved") == 0;
    switch (topic->kind) {
    case TOPIC_UP_DEATH:
        return ingest_death(i, device, topic->device, envelope);
    case TOPIC_UP_REQ:
        return ingest_request(i, device, topic->device, envelope);
    default:
        break;
    }
    (void)is_retained;
    if (!is_approved)
        return ERR_AUDIENCE;
    switch (topic->kind) {
    case TOPIC_UP_TEL:
        return ingest_batch(i, topic->device, envelope);
    case TOPIC_UP_JOB:
        return ingest_job(i, device, topic->device, envelope);
    case TOPIC_UP_BENCH:
        return ingest_result(i, topic->device, envelope);
    case TOPIC_UP_CAL:
        return ingest_sums(i, topic->device, envelope);
    default:
        return ERR_FORMAT;
    }
}

static enum err apply(struct ingest *i, const struct topic *topic, bool is_retained,
                      const uint8_t *payload, size_t size)
{
    struct envelope envelope;
    if (topic->kind == TOPIC_UP_BIRTH) {
        enum err e = open_birth(i, topic->device, payload, size, &envelope, &i->birth);
        return e ? e : ingest_birth(i, topic->device, &i->birth, is_retained);
    }
    json_t *device = NULL;
    uint8_t key[32];
    enum err e = registry_get_doc(i->t, REGISTRY_DEVICES, topic->device, &device);
    if (e)
        return e; /* nobody can be verified before a birth has shown the key */
    e = hex_decode(doc_text(device, "key"), strlen(doc_text(device, "key")), key, sizeof key);
    if (!e)
        e = envelope_open(payload, size, key, i->c->settings.fleet, ENVELOPE_DEVICE,
                          type_of(topic->kind), &envelope);
    if (!e)
        e = apply_known(i, device, topic, &envelope, is_retained);
    if (!e && !is_retained && topic->kind != TOPIC_UP_DEATH && is_news(i, device))
        e = ingest_heard(i, topic->device);
    json_decref(device);
    return e;
}

/* An error of the machine gives up the batch; an error of the message is its sender's. */
static bool is_ours(enum err e)
{
    return e == ERR_IO || e == ERR_MEMORY || e == ERR_FULL;
}

enum err ingest_apply(struct ingest *i, const char *topic_text, bool is_retained,
                      const uint8_t *payload, size_t size, int64_t now_ms)
{
    struct topic topic;
    i->now_ms = now_ms;
    i->last = ERR_FORMAT;
    if (size == 0)
        return ERR_NONE; /* a retained message that was cleared */
    enum err e = topic_decode(topic_text, strlen(topic_text), &topic);
    if (!e && (!topic_is_up(topic.kind) || strcmp(topic.fleet, i->c->settings.fleet) != 0))
        e = ERR_AUDIENCE;
    if (!e)
        e = apply(i, &topic, is_retained, payload, size);
    i->last = e;
    if (is_ours(e))
        return e;
    if (e == ERR_NONE) {
        atomic_fetch_add(&i->c->counts.messages, 1);
    } else if (e == ERR_STALE) {
        atomic_fetch_add(&i->c->counts.duplicates, 1);
    } else {
        atomic_fetch_add(&i->c->counts.refused, 1);
        controller_log(CONTROLLER_LOG_WARNING, "ingest: refused a message on %.96s: %s", topic_text,
                       err_name(e));
    }
    return ERR_NONE;
}

static enum err add_ack(struct ingest *i, size_t k, int64_t now_ms)
{
    struct message_ack ack = {.epoch = i->touch[k].epoch, .time_ms = (uint64_t)now_ms};
    uint8_t payload[256];
    size_t size;
    json_t *doc = NULL;
    char key[INGEST_SEEN_KEY];
    ingest_seen_key(i->touch[k].device, i->touch[k].epoch, key);
    enum err e = registry_get_doc(i->t, REGISTRY_SEEN, key, &doc);
    if (e)
        return e == ERR_NOT_FOUND ? ERR_NONE : e;
    for (uint32_t s = 0; s < MESSAGE_STREAMS; s++) {
        char name[8];
        snprintf(name, sizeof name, "%u", s);
        ack.seq[s] = (uint64_t)doc_int(json_object_get(doc, name), "up_to");
    }
    json_decref(doc);
    e = message_ack_encode(&ack, payload, sizeof payload, &size);
    if (!e)
        e = posts_add_signed(i->posts, i->c, i->touch[k].device, TOPIC_DN_ACK, MESSAGE_ACK, payload,
                             size);
    return e;
}

enum err ingest_commit(struct ingest *i, int64_t now_ms, struct posts *posts)
{
    enum err e = ERR_NONE;
    for (size_t k = 0; k < i->touched && !e; k++)
        e = add_ack(i, k, now_ms);
    if (e) {
        ingest_abort(i);
        return e;
    }
    e = registry_commit(i->t);
    i->t = NULL;
    if (!e) {
        atomic_fetch_add(&i->c->counts.commits, 1);
        atomic_fetch_add(&i->c->counts.records, i->records);
        posts_move(posts, i->posts);
    }
    ingest_abort(i);
    return e;
}
