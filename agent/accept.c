/* accept.c: see accept.h. */
#include "agent/accept.h"

#include <stdio.h>
#include <string.h>

#include "agent/agent.h"
#include "compress/plan.h"
#include "protocol/envelope.h"
#include "protocol/keys.h"
#include "protocol/minisign.h"

static enum err load_root(const struct settings *s, uint64_t now_s, struct accept_keys *out)
{
    static uint8_t bytes[KEYS_ROOT_MAX + 1];
    static struct keys_root root;
    FILE *f = fopen(s->root, "re");
    if (!f)
        return ERR_NOT_FOUND;
    size_t size = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    if (size > KEYS_ROOT_MAX)
        return ERR_FORMAT;
    enum err e = keys_root_verify(bytes, size, NULL, now_s, &root);
    if (e)
        return e;
    if (strcmp(root.fleet, s->fleet) != 0)
        return ERR_AUDIENCE;
    for (uint32_t i = 0; i < root.roles; i++)
        for (uint32_t k = 0; root.role[i].role == ENVELOPE_DIRECTOR && k < root.role[i].keys; k++)
            if (out->directors < ACCEPT_KEYS_MAX)
                memcpy(out->director[out->directors++], root.role[i].key[k], 32);
    return ERR_NONE;
}

enum err accept_load_keys(const struct settings *s, uint64_t now_s, struct accept_keys *out, char *why,
                          uint32_t why_bytes)
{
    out->directors = 0;
    for (uint32_t i = 0; i < s->director_key_count; i++) {
        struct minisign_public key;
        enum err e = minisign_public_load(s->director_keys[i], &key);
        if (!e && !keys_is_public(key.public_key))
            e = ERR_FORMAT;
        if (e) {
            snprintf(why, why_bytes, "%s: expected a minisign public key (%s)", s->director_keys[i], err_name(e));
            return e;
        }
        memcpy(out->director[out->directors++], key.public_key, 32);
    }
    enum err e = s->root[0] ? load_root(s, now_s, out) : ERR_NONE;
    if (e)
        snprintf(why, why_bytes, "%s: expected a root document of fleet %s that is in force (%s)", s->root, s->fleet,
                 err_name(e));
    return e;
}

enum err accept_open(const struct accept_keys *keys, const char *fleet, uint32_t type, const uint8_t *bytes,
                     size_t size, const uint8_t **payload, size_t *payload_bytes)
{
    struct envelope_claim claim;
    enum err e = envelope_peek(bytes, size, &claim);
    if (e)
        return e;
    for (uint32_t i = 0; i < keys->directors; i++) {
        uint8_t id[KEYS_ID_BYTES];
        struct envelope envelope;
        keys_id(keys->director[i], id);
        if (memcmp(id, claim.kid, sizeof id) != 0)
            continue;
        e = envelope_open(bytes, size, keys->director[i], fleet, ENVELOPE_DIRECTOR, type, &envelope);
        if (!e) {
            *payload = envelope.payload;
            *payload_bytes = envelope.payload_bytes;
        }
        return e;
    }
    return ERR_SIGNATURE; /* by nobody we know */
}

uint32_t accept_verify(const struct accept_device *d, const uint8_t *bytes, size_t size, struct message_plan *plan)
{
    const uint8_t *payload;
    size_t payload_bytes;
    enum err e = accept_open(d->keys, d->fleet, MESSAGE_PLAN, bytes, size, &payload, &payload_bytes);
    if (e == ERR_SIGNATURE)
        return JOB_REJECT_SIGNATURE;
    if (e == ERR_AUDIENCE)
        return JOB_REJECT_AUDIENCE;
    if (e)
        return JOB_REJECT_FORMAT;
    e = message_plan_decode(payload, payload_bytes, plan);
    if (e == ERR_UNSUPPORTED)
        return JOB_REJECT_CRITICAL;
    if (e)
        return JOB_REJECT_FORMAT;
    if (strcmp(plan->fleet, d->fleet) != 0 || strcmp(plan->device, d->device) != 0)
        return JOB_REJECT_AUDIENCE;
    if (plan->version <= d->newest_plan)
        return JOB_REJECT_STALE;
    if (d->now_ms && plan->not_after_ms && d->now_ms > plan->not_after_ms)
        return JOB_REJECT_EXPIRED;
    if (plan->min_agent > (uint32_t)AGENT_NUMBER)
        return JOB_REJECT_VERSION;
    return JOB_OK;
}

static bool is_zero(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i])
            return false;
    return true;
}

static uint32_t judge_plugin(const struct accept_device *d, const struct message_plan *plan, char *why,
                             uint32_t why_bytes)
{
    const struct message_constraint *c = &plan->plugin;
    if (!c->name[0])
        return JOB_OK;
    if (d->forced_plugin[0] && strcmp(d->forced_plugin, c->name) != 0) {
        snprintf(why, why_bytes, "the plan wants plugin %s, the settings force %s", c->name, d->forced_plugin);
        return JOB_REJECT_PLUGIN;
    }
    for (uint32_t i = 0; i < d->birth->plugins; i++) {
        const struct message_plugin *p = &d->birth->plugin[i];
        if (strcmp(p->name, c->name) != 0)
            continue;
        if (p->is_refused)
            snprintf(why, why_bytes, "plugin %s is refused here: %.120s", p->name, p->reason);
        else if (c->abi && c->abi != p->abi)
            snprintf(why, why_bytes, "plugin %s has ABI %u, the plan wants %u", p->name, p->abi, c->abi);
        else if (!is_zero(c->digest, 32) && memcmp(c->digest, p->digest, 32) != 0)
            snprintf(why, why_bytes, "plugin %s has another digest than the plan says", p->name);
        else
            return JOB_OK;
        return JOB_REJECT_PLUGIN;
    }
    snprintf(why, why_bytes, "there is no plugin %s here", c->name);
    return JOB_REJECT_PLUGIN;
}

uint32_t accept_judge(const struct accept_device *d, const struct message_plan *plan, char *why, uint32_t why_bytes)
{
    why[0] = 0;
    if (d->schema && d->schema != PLAN_SCHEMA) {
        snprintf(why, why_bytes, "the plan derives by schema %u, this agent by %d: update the older one", d->schema,
                 PLAN_SCHEMA);
        return JOB_REJECT_VERSION;
    }
    uint32_t code = judge_plugin(d, plan, why, why_bytes);
    if (code)
        return code;
    if (plan->base.bytes == 0 || is_zero(plan->base.digest, 32)) {
        snprintf(why, why_bytes, "the plan names no base");
        return JOB_REJECT_MODEL;
    }
    bool has_gate = plan->gates.dppl_percent > 0 || plan->gates.kld_mean > 0 || plan->gates.top1_percent > 0;
    if (has_gate && plan->text.bytes == 0) {
        snprintf(why, why_bytes, "the plan has gates on quality, but no text to measure it on");
        return JOB_REJECT_METHOD;
    }
    uint64_t need = plan->base.bytes + plan->profile.bytes + plan->text.bytes + plan->variant_bytes;
    if (d->disk_free_bytes != UINT64_MAX && need > d->disk_free_bytes) {
        snprintf(why, why_bytes, "%llu MiB are needed, %llu MiB are free", (unsigned long long)(need >> 20),
                 (unsigned long long)(d->disk_free_bytes >> 20));
        return JOB_REJECT_SPACE;
    }
    if (d->now_ms && plan->not_before_ms > d->now_ms) {
        snprintf(why, why_bytes, "the window has not opened");
        return JOB_DEFER_WINDOW;
    }
    return JOB_OK;
}
