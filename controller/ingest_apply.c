/* ingest_apply.c: what each message of a device means for the registry. */
#include "controller/ingest_parts.h"

#include <stdio.h>
#include <string.h>

#include "controller/doc.h"
#include "controller/jobrecord.h"
#include "protocol/hex.h"
#include "protocol/job.h"

/* The decoders say ERR_FULL of lists that are too long; of a device's message that is its fault. */
static enum err foreign(enum err e)
{
    return e == ERR_FULL || e == ERR_ARGUMENT ? ERR_FORMAT : e;
}

static void put_probe(json_t *doc, const struct message_birth *m)
{
    doc_set_text(doc, "arch", m->probe.arch);
    doc_set_text(doc, "cpu", m->probe.cpu);
    doc_set_text(doc, "features", m->probe.features);
    doc_set_int(doc, "cores", m->probe.cores);
    doc_set_int(doc, "memory_bytes", (int64_t)m->probe.memory_bytes);
    doc_set_int(doc, "disk_free_bytes", (int64_t)m->probe.disk_free_bytes);
    doc_set_real(doc, "read_gb_s", (double)m->probe.read_gb_s);
    doc_set_real(doc, "int8_gops", (double)m->probe.int8_gops);
    doc_set_bool(doc, "has_temperature", m->probe.has_temperature);
    doc_set_bool(doc, "has_energy", m->probe.has_energy);
    doc_set_text(doc, "agent_version", m->agent_version);
    doc_set_int(doc, "agent_number", m->agent_number);
    doc_set_text(doc, "host", m->name);
    doc_set_text(doc, "plugin", m->active_plugin);
    doc_set_text(doc, "job_state", job_state_name(m->job_state));
    doc_set_int(doc, "newest_plan", (int64_t)m->newest_plan);
}

static void put_lists(json_t *doc, const struct message_birth *m)
{
    json_t *plugins = json_array(), *slots = json_array();
    for (uint32_t k = 0; plugins && k < m->plugins; k++) {
        const struct message_plugin *p = &m->plugin[k];
        json_t *plugin = json_object();
        doc_set_text(plugin, "name", p->name);
        doc_set_text(plugin, "version", p->version);
        doc_set_int(plugin, "abi", p->abi);
        doc_set_int(plugin, "score", p->score);
        doc_set_text(plugin, "path", p->path);
        doc_set_hex(plugin, "digest", p->digest, 32);
        doc_set_text(plugin, "refused", p->is_refused ? p->reason[0] ? p->reason : "refused" : "");
        doc_append(plugins, plugin);
    }
    for (uint32_t k = 0; slots && k < m->slots; k++) {
        const struct message_slot *s = &m->slot[k];
        json_t *slot = json_object();
        doc_set_hex(slot, "base", s->base, 32);
        doc_set_hex(slot, "variant", s->variant, 32);
        doc_set_hex(slot, "plan", s->plan_id, 16);
        doc_set_int(slot, "bytes", (int64_t)s->variant_bytes);
        doc_set_bool(slot, "active", s->is_active);
        doc_append(slots, slot);
        if (s->is_active) {
            doc_set_hex(doc, "variant", s->variant, 32);
            doc_set_hex(doc, "base", s->base, 32);
        }
    }
    doc_set(doc, "plugins", plugins);
    doc_set(doc, "slots", slots);
}

static enum err enrol(struct ingest *i, const char *device, const struct message_birth *m,
                      json_t **doc)
{
    struct trail entry = {.kind = "enrolment", .subject = device};
    *doc = json_pack("{s:s,s:s,s:s,s:I,s:[]}", "id", device, "status", "pending", "name", m->name,
                     "first_seen", (json_int_t)(i->now_ms / 1000), "tags");
    if (!*doc)
        return ERR_MEMORY;
    doc_set_hex(*doc, "key", m->public_key, 32);
    snprintf(entry.seen, sizeof entry.seen, "an unknown device %.60s (%s, %u cores) showed its key",
             m->name, m->probe.arch, m->probe.cores);
    snprintf(entry.rule, sizeof entry.rule, "unknown devices wait for an operator");
    snprintf(entry.sent, sizeof entry.sent, "nothing");
    snprintf(entry.changed, sizeof entry.changed, "it is pending");
    return trail_add(i->t, i->now_ms / 1000, &entry);
}

enum err ingest_birth(struct ingest *i, const char *device, const struct message_birth *m,
                      bool is_retained)
{
    json_t *doc = NULL;
    enum err e = registry_get_doc(i->t, REGISTRY_DEVICES, device, &doc);
    if (m->epoch > INT64_MAX || m->newest_plan > INT64_MAX) {
        e = ERR_FORMAT;
    } else if (e == ERR_NOT_FOUND) {
        e = enrol(i, device, m, &doc);
    } else if (!e && (int64_t)m->epoch < doc_int(doc, "epoch")) {
        e = ERR_STALE; /* a replay of an earlier life */
    }
    if (!e) {
        doc_set_int(doc, "epoch", (int64_t)m->epoch);
        put_probe(doc, m);
        put_lists(doc, m);
        bool is_dead = is_retained && doc_int(doc, "death_epoch") >= (int64_t)m->epoch;
        doc_set_bool(doc, "online", !is_dead);
        if (!is_retained || !doc_int(doc, "last_seen"))
            doc_set_int(doc, "last_seen", i->now_ms / 1000);
        e = registry_put_doc(i->t, REGISTRY_DEVICES, device, doc);
    }
    json_decref(doc);
    return e;
}

enum err ingest_death(struct ingest *i, json_t *doc, const char *device,
                      const struct envelope *envelope)
{
    struct message_death m = {0};
    enum err e = foreign(message_death_decode(envelope->payload, envelope->payload_bytes, &m));
    if (e)
        return e;
    if ((int64_t)m.epoch < doc_int(doc, "epoch"))
        return ERR_STALE;
    doc_set_int(doc, "death_epoch", (int64_t)m.epoch);
    doc_set_bool(doc, "online", false);
    return registry_put_doc(i->t, REGISTRY_DEVICES, device, doc);
}

enum err ingest_heard(struct ingest *i, const char *device)
{
    json_t *doc = NULL;
    int64_t now_s = i->now_ms / 1000;
    enum err e = registry_get_doc(i->t, REGISTRY_DEVICES, device, &doc);
    if (!e) {
        doc_set_bool(doc, "online", true);
        doc_set_int(doc, "death_epoch", 0);
        doc_set_int(doc, "last_seen", now_s);
        e = registry_put_doc(i->t, REGISTRY_DEVICES, device, doc);
    }
    json_decref(doc);
    return e;
}

static enum err post_stored(struct ingest *i, const char *device, const char *key, uint32_t kind)
{
    const void *bytes;
    size_t size;
    enum err e = registry_get(i->t, REGISTRY_ENVELOPES, key, strlen(key), &bytes, &size);
    if (!e)
        e = posts_add(i->posts, i->c->settings.fleet, device, kind, bytes, size);
    return e == ERR_NOT_FOUND ? ERR_NONE : e;
}

enum err ingest_request(struct ingest *i, json_t *doc, const char *device,
                        const struct envelope *envelope)
{
    struct message_request m = {0};
    enum err e = foreign(message_request_decode(envelope->payload, envelope->payload_bytes, &m));
    if (e)
        return e;
    const char *status = doc_text(doc, "status");
    struct message_answer answer = {.time_ms = (uint64_t)i->now_ms};
    memcpy(answer.nonce, m.nonce, sizeof answer.nonce);
    answer.standing = strcmp(status, "approved") == 0  ? MESSAGE_APPROVED
                      : strcmp(status, "revoked") == 0 ? MESSAGE_FORBIDDEN
                                                       : MESSAGE_PENDING;
    if (answer.standing == MESSAGE_APPROVED)
        answer.newest_plan = (uint64_t)doc_int(doc, "plan_version");
    uint8_t payload[256];
    size_t size;
    e = message_answer_encode(&answer, payload, sizeof payload, &size);
    if (!e)
        e = posts_add_signed(i->posts, i->c, device, TOPIC_DN_RSP, MESSAGE_ANSWER, payload, size);
    if (e || answer.standing != MESSAGE_APPROVED)
        return e;
    ingest_touch(i, device, m.epoch);
    if (m.ask != MESSAGE_ASK_PLAN)
        return ERR_NONE;
    char key[KEYS_ID_HEX + 8];
    snprintf(key, sizeof key, "%.32s/cmd", device);
    e = post_stored(i, device, key, TOPIC_DN_CMD);
    if (!e && answer.newest_plan > m.newest_plan)
        e = post_stored(i, device, device, TOPIC_DN_PLAN);
    return e;
}

static void tel_key(const uint8_t id[16], uint64_t epoch, uint64_t seq, uint8_t out[32])
{
    memcpy(out, id, 16);
    for (size_t k = 0; k < 8; k++) {
        out[16 + k] = (uint8_t)(epoch >> (56 - 8 * k));
        out[24 + k] = (uint8_t)(seq >> (56 - 8 * k));
    }
}

/* The mean shadow KLD of the newest requests of the variant in service. */
static enum err note_shadow(struct ingest *i, const char *device, const struct message_record *r)
{
    json_t *doc = NULL;
    char variant[65] = "";
    hex_encode(r->variant, 32, variant);
    enum err e = registry_get_doc(i->t, REGISTRY_DRIFT, device, &doc);
    if (e == ERR_NOT_FOUND) {
        doc = json_object();
        e = doc ? ERR_NONE : ERR_MEMORY;
    }
    if (e)
        return e;
    bool is_same = strcmp(doc_text(doc, "shadow_variant"), variant) == 0;
    double tokens = is_same ? doc_real(doc, "shadow_tokens") : 0;
    double sum = is_same ? doc_real(doc, "shadow_kld_sum") : 0;
    double same = is_same ? doc_real(doc, "shadow_top1") : 0;
    if (tokens > 65536) { /* older traffic fades */
        tokens /= 2;
        sum /= 2;
        same /= 2;
    }
    doc_set_text(doc, "shadow_variant", variant);
    doc_set_real(doc, "shadow_tokens", tokens + (double)r->of.shadow.tokens);
    doc_set_real(doc, "shadow_kld_sum", sum + r->of.shadow.kld_sum);
    doc_set_real(doc, "shadow_top1", same + (double)r->of.shadow.top1_same);
    doc_set_bool(doc, "dirty", true);
    e = registry_put_doc(i->t, REGISTRY_DRIFT, device, doc);
    json_decref(doc);
    return e;
}

static enum err judge_record(struct ingest *i, const char *device, const struct message_blob *blob,
                             struct seen *seen)
{
    struct message_record *r = &i->record;
    memset(r, 0, sizeof *r);
    if (message_record_decode(blob->at, blob->size, r))
        return ERR_NONE; /* kept as it came; a newer kind may be understood later */
    if (r->kind == MESSAGE_RECORD_SHADOW)
        return note_shadow(i, device, r);
    if (r->kind == MESSAGE_RECORD_LOST && r->of.lost.to <= INT64_MAX) {
        enum err e = seen_add(seen, r->of.lost.from, r->of.lost.to, i->now_ms / 1000);
        return e == ERR_ARGUMENT || e == ERR_FULL ? ERR_NONE : e;
    }
    return ERR_NONE;
}

struct oldest {
    uint8_t keys[64][32];
    size_t count, wanted;
};

static enum err oldest_visit(void *context, const void *key, size_t key_bytes, const void *value,
                             size_t bytes)
{
    struct oldest *o = context;
    (void)value;
    (void)bytes;
    if (key_bytes == 32)
        memcpy(o->keys[o->count++], key, 32);
    return o->count >= o->wanted ? ERR_CANCELLED : ERR_NONE;
}

/* Keep the number of records of a device within its quota, a few too many at a time. */
static enum err trim(struct ingest *i, json_t *doc, const uint8_t id[16], uint64_t added)
{
    uint64_t kept = (uint64_t)doc_int(doc, "kept") + added;
    enum err e = ERR_NONE;
    while (!e && kept > i->c->settings.telemetry_records) {
        uint64_t over = kept - i->c->settings.telemetry_records;
        struct oldest o = {.wanted = over < 64 ? (size_t)over : 64};
        e = registry_scan(i->t, REGISTRY_TELEMETRY, id, 16, false, oldest_visit, &o);
        if (!e && o.count == 0)
            break;
        for (size_t k = 0; k < o.count && !e; k++)
            e = registry_delete(i->t, REGISTRY_TELEMETRY, o.keys[k], 32);
        kept -= o.count < kept ? o.count : kept;
    }
    doc_set_int(doc, "kept", (int64_t)kept);
    return e;
}

static enum err count_records(struct ingest *i, const char *device, const uint8_t id[16],
                              uint64_t added)
{
    char key[KEYS_ID_HEX + 8];
    json_t *doc = NULL;
    snprintf(key, sizeof key, "tel/%.32s", device);
    enum err e = registry_get_doc(i->t, REGISTRY_META, key, &doc);
    if (e == ERR_NOT_FOUND) {
        doc = json_object();
        e = doc ? ERR_NONE : ERR_MEMORY;
    }
    if (!e)
        e = trim(i, doc, id, added);
    if (!e) {
        doc_set_int(doc, "received", doc_int(doc, "received") + (int64_t)added);
        e = registry_put_doc(i->t, REGISTRY_META, key, doc);
    }
    json_decref(doc);
    return e;
}

enum err ingest_batch(struct ingest *i, const char *device, const struct envelope *envelope)
{
    struct message_batch m = {.record = i->blobs, .records_max = MESSAGE_RECORDS_MAX};
    enum err e = foreign(message_batch_decode(envelope->payload, envelope->payload_bytes, &m));
    if (e)
        return e;
    if (m.epoch > INT64_MAX || m.first == 0 || m.first > INT64_MAX - MESSAGE_RECORDS_MAX ||
        m.records == 0)
        return ERR_FORMAT;
    uint8_t id[16], key[32];
    json_t *doc = NULL;
    struct seen seen;
    e = hex_decode(device, 32, id, sizeof id);
    if (!e)
        e = ingest_seen_load(i, device, m.epoch, MESSAGE_STREAM_TEL, &doc, &seen);
    if (e)
        goto out;
    ingest_touch(i, device, m.epoch);
    uint64_t added = 0, was_up_to = seen.up_to;
    struct seen before = seen;
    e = seen_add(&seen, m.first, m.first + m.records - 1, i->now_ms / 1000);
    if (e) {
        e = ERR_TIMEOUT; /* too many gaps: nothing is taken, it will come again */
        goto out;
    }
    for (uint32_t k = 0; k < m.records && !e; k++) {
        if (seen_has(&before, m.first + k))
            continue;
        tel_key(id, m.epoch, m.first + k, key);
        e = registry_put(i->t, REGISTRY_TELEMETRY, key, sizeof key, m.record[k].at, m.record[k].size);
        if (!e)
            e = judge_record(i, device, &m.record[k], &seen);
        added++;
    }
    if (!e && added == 0 && m.first > was_up_to) {
        uint64_t lost = seen_repeat(&seen, i->now_ms / 1000);
        if (lost)
            e = ingest_note_gap(i, device, MESSAGE_STREAM_TEL, lost);
    }
    if (!e && added)
        e = count_records(i, device, id, added);
    if (!e)
        e = ingest_seen_store(i, device, m.epoch, MESSAGE_STREAM_TEL, doc, &seen);
    i->records += added;
    if (!e && added == 0)
        e = ERR_STALE;
out:
    json_decref(doc);
    return e;
}

static void gates_of(const json_t *plan, struct message_gates *out)
{
    const json_t *g = json_object_get(plan, "gates");
    *out = (struct message_gates){
        .dppl_percent = (float)doc_real(g, "dppl_percent"),
        .kld_mean = (float)doc_real(g, "kld_mean"),
        .top1_percent = (float)doc_real(g, "top1_percent"),
        .decode_tok_s = (float)doc_real(g, "decode_tok_s"),
        .prefill_tok_s = (float)doc_real(g, "prefill_tok_s"),
        .rss_bytes = (uint64_t)doc_int(g, "rss_bytes"),
    };
}

/* The record has ended for the device: a command that asked for just that need not be repeated. */
static enum err settle(struct ingest *i, const char *device, json_t *doc, json_t *job)
{
    enum rollout_phase phase = (enum rollout_phase)doc_int(job, "phase_number");
    char key[KEYS_ID_HEX + 8];
    snprintf(key, sizeof key, "%.32s/cmd", device);
    if (phase == ROLLOUT_COMMITTED && doc_text(job, "variant")[0]) {
        doc_set_text(doc, "variant", doc_text(job, "variant"));
        doc_set_text(doc, "variant_rollout", doc_text(job, "rollout"));
    } else if (phase == ROLLOUT_RESTORED) {
        doc_set_text(doc, "variant", doc_text(job, "previous"));
        doc_set_text(doc, "variant_rollout", doc_text(job, "previous_rollout"));
    } else if (phase == ROLLOUT_OFFERED || phase == ROLLOUT_ACTIVE || phase == ROLLOUT_DEFERRED) {
        return ERR_NONE;
    }
    doc_set_text(doc, "job_state", doc_text(job, "state"));
    enum err e = ERR_NONE;
    if (phase != ROLLOUT_COMMITTED && strcmp(doc_text(doc, "plan"), doc_text(job, "plan")) == 0) {
        /* A device that lost its memory must not be given a plan again that has come to nothing. */
        doc_set_text(doc, "plan", "");
        e = registry_delete(i->t, REGISTRY_ENVELOPES, device, strlen(device));
    }
    if (!e)
        e = registry_put_doc(i->t, REGISTRY_DEVICES, device, doc);
    if (!e && !(phase == ROLLOUT_COMMITTED && doc_bool(job, "revert")))
        e = registry_delete(i->t, REGISTRY_ENVELOPES, key, strlen(key));
    return e;
}

static enum err note_refusal(struct ingest *i, const char *device, json_t *job, bool is_digest)
{
    struct trail entry = {.kind = "refusal", .subject = doc_text(job, "rollout")};
    snprintf(entry.seen, sizeof entry.seen, "device %.8s reported %s", device,
             is_digest ? "a variant with another digest" : "a measured value beyond its limit");
    snprintf(entry.rule, sizeof entry.rule, "%s",
             is_digest ? "reproducible methods give the predicted digest"
                       : "gates hold on the controller too");
    snprintf(entry.sent, sizeof entry.sent, "%s",
             is_digest ? "a withdrawal of its plan" : "nothing yet");
    snprintf(entry.changed, sizeof entry.changed, "it counts as failed: %s", doc_text(job, "gate"));
    return trail_add(i->t, i->now_ms / 1000, &entry);
}

enum err ingest_job(struct ingest *i, json_t *doc, const char *device,
                    const struct envelope *envelope)
{
    struct message_job m = {0};
    bool is_new = false;
    enum err e = foreign(message_job_decode(envelope->payload, envelope->payload_bytes, &m));
    if (!e)
        e = ingest_stream(i, device, m.epoch, MESSAGE_STREAM_JOB, m.seq, &is_new);
    if (e || !is_new)
        return e ? e : ERR_STALE;
    char plan_id[33], key[JOBRECORD_KEY];
    json_t *plan = NULL, *job = NULL;
    uint8_t expected[32] = {0};
    struct message_gates gates;
    hex_encode(m.plan_id, 16, plan_id);
    e = registry_get_doc(i->t, REGISTRY_PLANS, plan_id, &plan);
    if (e == ERR_NOT_FOUND || (!e && strcmp(doc_text(plan, "device"), device) != 0)) {
        e = ERR_NONE; /* of a plan that was never ours, or not for it: nothing to record */
        goto out;
    }
    if (!e) {
        jobrecord_key(doc_text(plan, "rollout"), device, key);
        e = registry_get_doc(i->t, REGISTRY_JOBS, key, &job);
    }
    if (e || strcmp(doc_text(job, "plan"), plan_id) != 0)
        goto out; /* an earlier attempt */
    if (doc_text(plan, "variant")[0])
        e = hex_decode(doc_text(plan, "variant"), strlen(doc_text(plan, "variant")), expected,
                       sizeof expected);
    if (e)
        goto out;
    gates_of(plan, &gates);
    bool had_gate = doc_text(job, "gate")[0] != '\0';
    enum jobrecord_change change = jobrecord_report(job, &m, expected, &gates, i->now_ms / 1000);
    if (change == JOBRECORD_OLD)
        goto out;
    if ((change == JOBRECORD_REFUSED || change == JOBRECORD_MISSED) && !had_gate)
        e = note_refusal(i, device, job, change == JOBRECORD_REFUSED);
    if (change == JOBRECORD_REFUSED)
        doc_set_bool(job, "withdraw", true);
    if (!e)
        e = registry_put_doc(i->t, REGISTRY_JOBS, key, job);
    if (!e)
        e = settle(i, device, doc, job);
out:
    json_decref(job);
    json_decref(plan);
    return e;
}
