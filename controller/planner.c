/* planner.c: plans and commands, versioned, signed, stored, queued. */
#include "controller/planner.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller/doc.h"
#include "controller/jobrecord.h"
#include "protocol/envelope.h"
#include "protocol/hex.h"
#include "protocol/topic.h"

enum { COMMAND_DAYS = 7 };
static const int64_t day_ms = INT64_C(86400000);

void planner_class_key(const char *rollout, int64_t class, char out[PLANNER_KEY])
{
    snprintf(out, PLANNER_KEY, "class/%.24s/%lld", rollout, (long long)class);
}

/* A registered file as the plan names it. "" gives an absent one. */
static enum err artifact_of(struct registry_txn *t, const char *digest, struct message_artifact *out)
{
    json_t *file = NULL;
    if (!digest[0])
        return ERR_NONE;
    enum err e = registry_get_doc(t, REGISTRY_FILES, digest, &file);
    if (!e)
        e = hex_decode(digest, strlen(digest), out->digest, sizeof out->digest);
    if (!e) {
        out->bytes = (uint64_t)doc_int(file, "bytes");
        snprintf(out->url, sizeof out->url, "/b/%.64s", digest);
    }
    json_decref(file);
    return e;
}

static void gates_of(const json_t *g, struct message_gates *out)
{
    out->dppl_percent = (float)doc_real(g, "dppl_percent");
    out->kld_mean = (float)doc_real(g, "kld_mean");
    out->top1_percent = (float)doc_real(g, "top1_percent");
    out->decode_tok_s = (float)doc_real(g, "decode_tok_s");
    out->prefill_tok_s = (float)doc_real(g, "prefill_tok_s");
    out->rss_bytes = (uint64_t)doc_int(g, "rss_bytes");
}

/* The next version of a device's plans or commands: never given twice, whatever becomes of it. */
static uint64_t next_version(json_t *device, const char *key)
{
    int64_t version = doc_int(device, key);
    /* A device that outlived a lost registry knows higher numbers: it said so in its birth. */
    if (strcmp(key, "plan_version") == 0 && doc_int(device, "newest_plan") > version)
        version = doc_int(device, "newest_plan");
    doc_set_int(device, key, version + 1);
    return (uint64_t)version + 1;
}

static enum err fill(struct controller *c, struct registry_txn *t, const json_t *rollout,
                     const json_t *job, json_t *device, int64_t now_ms, struct message_plan *m)
{
    char key[PLANNER_KEY];
    const void *bytes;
    size_t size;
    const json_t *class =
        json_array_get(json_object_get(rollout, "classes"), (size_t)doc_int(job, "class"));
    const char *variant = doc_text(class, "variant");
    planner_class_key(doc_text(rollout, "id"), doc_int(job, "class"), key);
    enum err e = registry_get(t, REGISTRY_ENVELOPES, key, strlen(key), &bytes, &size);
    if (e)
        return e;
    m->schema = MESSAGE_SCHEMA;
    snprintf(m->fleet, sizeof m->fleet, "%.32s", c->settings.fleet);
    snprintf(m->device, sizeof m->device, "%.32s", doc_text(device, "id"));
    randombytes_buf(m->plan_id, sizeof m->plan_id);
    randombytes_buf(m->nonce, sizeof m->nonce);
    m->version = next_version(device, "plan_version");
    m->rollout = (uint64_t)doc_int(rollout, "number");
    m->stage = (uint32_t)doc_int(job, "stage") + 1;
    m->not_after_ms = (uint64_t)(now_ms + day_ms * c->settings.plan_days);
    m->method = (uint32_t)doc_int(rollout, "method");
    m->derivation = (struct message_blob){bytes, size};
    gates_of(json_object_get(rollout, "gates"), &m->gates);
    m->variant_bytes = (uint64_t)doc_int(class, "bytes");
    m->trial_s = (uint32_t)doc_int(rollout, "trial_s");
    m->watch = (struct message_watch){.batch_s = c->settings.watch_batch_s,
                                      .shadow_every = c->settings.watch_shadow_every,
                                      .calibrate_tokens = c->settings.watch_tokens};
    const char *recipe = doc_text(rollout, "recipe");
    e = hex_decode(recipe, strlen(recipe), m->recipe, sizeof m->recipe);
    if (!e && variant[0])
        e = hex_decode(variant, strlen(variant), m->variant, sizeof m->variant);
    if (!e)
        e = artifact_of(t, doc_text(rollout, "base"), &m->base);
    if (!e)
        e = artifact_of(t, doc_text(rollout, "profile"), &m->profile);
    if (!e)
        e = artifact_of(t, doc_text(rollout, "text"), &m->text);
    return e;
}

static enum err store_plan(struct registry_txn *t, const json_t *rollout, const json_t *job,
                           const struct message_plan *m, int64_t now_ms, char id[33])
{
    json_t *plan = json_object();
    hex_encode(m->plan_id, sizeof m->plan_id, id);
    doc_set_text(plan, "id", id);
    doc_set_text(plan, "device", m->device);
    doc_set_text(plan, "rollout", doc_text(rollout, "id"));
    doc_set_int(plan, "stage", m->stage);
    doc_set_int(plan, "version", (int64_t)m->version);
    doc_set_text(plan, "base", doc_text(rollout, "base"));
    doc_set_text(plan, "profile", doc_text(rollout, "profile"));
    doc_set_text(plan, "recipe", doc_text(rollout, "recipe"));
    doc_set_hex(plan, "variant", m->variant, sizeof m->variant);
    doc_set_int(plan, "class", doc_int(job, "class"));
    doc_set_int(plan, "created", now_ms / 1000);
    doc_set_int(plan, "not_after", (int64_t)(m->not_after_ms / 1000));
    doc_set(plan, "gates", json_incref(json_object_get(rollout, "gates")));
    enum err e = registry_put_doc(t, REGISTRY_PLANS, id, plan);
    json_decref(plan);
    return e;
}

enum err planner_offer(struct controller *c, struct registry_txn *t, const json_t *rollout, json_t *job,
                       json_t *device, int64_t now_ms, struct posts *posts)
{
    const char *id = doc_text(device, "id");
    char plan_id[33], key[JOBRECORD_KEY];
    struct message_plan m = {0};
    size_t payload_bytes = 0, size = 0;
    uint8_t *payload = malloc(MESSAGE_MAX + ENVELOPE_MAX);
    if (!payload)
        return ERR_MEMORY;
    uint8_t *envelope = payload + MESSAGE_MAX;
    enum err e = fill(c, t, rollout, job, device, now_ms, &m);
    if (!e)
        e = message_plan_encode(&m, payload, MESSAGE_MAX, &payload_bytes);
    if (!e)
        e = envelope_sign(c->director.secret_key, c->settings.fleet, ENVELOPE_DIRECTOR, MESSAGE_PLAN,
                          payload, payload_bytes, envelope, ENVELOPE_MAX, &size);
    if (!e)
        e = store_plan(t, rollout, job, &m, now_ms, plan_id);
    if (!e)
        e = registry_put(t, REGISTRY_ENVELOPES, id, strlen(id), envelope, size);
    if (!e) {
        if (doc_int(job, "attempt") == 0) {
            doc_set_text(job, "previous", doc_text(device, "variant"));
            doc_set_text(job, "previous_rollout", doc_text(device, "variant_rollout"));
        }
        jobrecord_offered(job, plan_id, m.version, size, now_ms / 1000);
        doc_set_hex(job, "expected", m.variant, sizeof m.variant);
        doc_set_text(device, "plan", plan_id);
        doc_set_text(device, "offered_rollout", doc_text(rollout, "id"));
        jobrecord_key(doc_text(rollout, "id"), id, key);
        e = registry_put_doc(t, REGISTRY_JOBS, key, job);
    }
    if (!e)
        e = registry_put_doc(t, REGISTRY_DEVICES, id, device);
    if (!e)
        e = posts_add(posts, c->settings.fleet, id, TOPIC_DN_PLAN, envelope, size);
    free(payload);
    return e;
}

static enum err sign_command(struct controller *c, const struct message_command *m, uint8_t *out,
                             size_t capacity, size_t *size)
{
    uint8_t payload[1024];
    size_t bytes;
    enum err e = message_command_encode(m, payload, sizeof payload, &bytes);
    if (!e)
        e = envelope_sign(c->director.secret_key, c->settings.fleet, ENVELOPE_DIRECTOR, MESSAGE_COMMAND,
                          payload, bytes, out, capacity, size);
    return e;
}

static void command_of(json_t *device, uint32_t verb, const char *reason, int64_t now_ms,
                       struct message_command *m)
{
    *m = (struct message_command){.verb = verb};
    snprintf(m->device, sizeof m->device, "%.32s", doc_text(device, "id"));
    snprintf(m->reason, sizeof m->reason, "%.180s", reason);
    m->version = next_version(device, "command_version");
    m->id = m->version;
    m->not_after_ms = (uint64_t)(now_ms + day_ms * COMMAND_DAYS);
}

enum err planner_withdraw(struct controller *c, struct registry_txn *t, uint32_t verb, json_t *job,
                          json_t *device, const char *reason, int64_t now_ms, struct posts *posts)
{
    const char *id = doc_text(device, "id"), *plan = doc_text(job, "plan");
    char key[JOBRECORD_KEY], command_key[48];
    uint8_t envelope[2048];
    size_t size;
    struct message_command m;
    command_of(device, verb, reason, now_ms, &m);
    enum err e = hex_decode(plan, strlen(plan), m.plan_id, sizeof m.plan_id);
    if (!e)
        e = sign_command(c, &m, envelope, sizeof envelope, &size);
    snprintf(command_key, sizeof command_key, "%.32s/cmd", id);
    if (!e)
        e = registry_put(t, REGISTRY_ENVELOPES, command_key, strlen(command_key), envelope, size);
    if (!e && strcmp(doc_text(device, "plan"), plan) == 0) {
        e = registry_delete(t, REGISTRY_ENVELOPES, id, strlen(id)); /* nobody may pull it any more */
        doc_set_text(device, "plan", "");
    }
    if (e)
        return e;
    doc_set_bool(job, verb == MESSAGE_CANCEL ? "cancel" : "revert", true);
    if (verb == MESSAGE_CANCEL && doc_int(job, "phase_number") == ROLLOUT_OFFERED) {
        /* It has not said a word about this plan; should it do so after all, its report tells. */
        doc_set_int(job, "phase_number", ROLLOUT_CANCELLED);
        doc_set_text(job, "phase", rollout_phase_name(ROLLOUT_CANCELLED));
    }
    jobrecord_key(doc_text(job, "rollout"), id, key);
    e = registry_put_doc(t, REGISTRY_JOBS, key, job);
    if (!e)
        e = registry_put_doc(t, REGISTRY_DEVICES, id, device);
    if (!e)
        e = posts_add(posts, c->settings.fleet, id, TOPIC_DN_CMD, envelope, size);
    return e;
}

enum err planner_calibrate(struct controller *c, struct registry_txn *t, json_t *device,
                           uint64_t tokens, int64_t now_ms, struct posts *posts)
{
    const char *id = doc_text(device, "id");
    uint8_t envelope[2048];
    size_t size;
    struct message_command m;
    command_of(device, MESSAGE_CALIBRATE, "an operator asked for statistics", now_ms, &m);
    m.tokens = tokens;
    enum err e = sign_command(c, &m, envelope, sizeof envelope, &size);
    if (!e)
        e = registry_put_doc(t, REGISTRY_DEVICES, id, device);
    if (!e)
        e = posts_add(posts, c->settings.fleet, id, TOPIC_DN_CMD, envelope, size);
    return e;
}

enum err planner_bench(struct controller *c, struct registry_txn *t, json_t *bench, int64_t now_ms,
                       struct posts *posts)
{
    json_t *device = NULL;
    const char *id = doc_text(bench, "device");
    struct message_benchmark m = {0};
    uint8_t payload[512];
    size_t size;
    enum err e = registry_get_doc(t, REGISTRY_DEVICES, id, &device);
    if (!e)
        e = hex_decode(doc_text(bench, "id"), strlen(doc_text(bench, "id")), m.id, sizeof m.id);
    if (e)
        goto out;
    snprintf(m.device, sizeof m.device, "%.32s", id);
    snprintf(m.plugin, sizeof m.plugin, "%.15s", doc_text(bench, "plugin"));
    m.version = next_version(device, "command_version");
    m.prompt = (uint32_t)doc_int(bench, "prompt_tokens");
    m.generate = (uint32_t)doc_int(bench, "generate_tokens");
    m.repetitions = (uint32_t)doc_int(bench, "repeats");
    m.threads = (uint32_t)doc_int(bench, "threads");
    m.not_after_ms = (uint64_t)doc_int(bench, "not_after") * 1000;
    e = message_benchmark_encode(&m, payload, sizeof payload, &size);
    if (!e)
        e = posts_add_signed(posts, c, id, TOPIC_DN_BENCH, MESSAGE_BENCHMARK, payload, size);
    if (!e)
        e = registry_put_doc(t, REGISTRY_DEVICES, id, device);
    doc_set_int(bench, "sent", now_ms / 1000);
    if (!e)
        e = registry_put_doc(t, REGISTRY_BENCH, doc_text(bench, "id"), bench);
out:
    json_decref(device);
    return e;
}
