/* release.c: one step of every rollout that is not settled. */
#include "controller/release.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller/controller_log.h"
#include "controller/doc.h"
#include "controller/jobrecord.h"
#include "controller/planner.h"
#include "controller/trail.h"

/* A rollout with everything that a step needs. */
struct loaded {
    json_t *doc;
    json_t *jobs;     /* array */
    json_t **devices; /* [n] */
    struct rollout_device *records;
    struct rollout_action *actions;
    size_t n;
    struct rollout rollout;
};

static void unload(struct loaded *l)
{
    for (size_t i = 0; l->devices && i < l->n; i++)
        json_decref(l->devices[i]);
    free(l->devices);
    free(l->records);
    free(l->actions);
    json_decref(l->jobs);
}

static enum err load(struct registry_txn *t, json_t *doc, struct loaded *l)
{
    char prefix[JOBRECORD_KEY];
    memset(l, 0, sizeof *l);
    l->doc = doc;
    jobrecord_key(doc_text(doc, "id"), "", prefix);
    enum err e = registry_list(t, REGISTRY_JOBS, prefix, false, 0, &l->jobs);
    if (e)
        return e;
    l->n = json_array_size(l->jobs);
    l->devices = calloc(l->n + 1, sizeof *l->devices);
    l->records = calloc(l->n + 1, sizeof *l->records);
    l->actions = calloc(2 * l->n + 1, sizeof *l->actions);
    if (!l->devices || !l->records || !l->actions)
        return ERR_MEMORY;
    for (size_t i = 0; i < l->n && !e; i++) {
        const json_t *job = json_array_get(l->jobs, i);
        e = registry_get_doc(t, REGISTRY_DEVICES, doc_text(job, "device"), &l->devices[i]);
        if (!e)
            jobrecord_to_device(job, doc_bool(l->devices[i], "online"), &l->records[i]);
    }
    l->rollout.state = (enum rollout_state)doc_int(doc, "state_number");
    l->rollout.stage = (uint32_t)doc_int(doc, "stage");
    snprintf(l->rollout.reason, sizeof l->rollout.reason, "%.150s", doc_text(doc, "reason"));
    release_rules(doc, &l->rollout.rules);
    return e;
}

static void set_state(json_t *doc, const struct rollout *r, int64_t now_s)
{
    doc_set_int(doc, "state_number", r->state);
    doc_set_text(doc, "state", rollout_state_name(r->state));
    doc_set_int(doc, "stage", r->stage);
    doc_set_text(doc, "reason", r->reason);
    doc_set_int(doc, "updated", now_s);
}

/* What a step sent, by enum rollout_action_kind. */
struct sent {
    size_t count[3];
};

static void say_sent(const struct sent *sent, uint32_t stage, char *out, size_t room)
{
    if (sent->count[ROLLOUT_OFFER])
        snprintf(out, room, "plans to %zu devices, up to stage %u", sent->count[ROLLOUT_OFFER], stage + 1);
    else if (sent->count[ROLLOUT_CANCEL] || sent->count[ROLLOUT_REVERT])
        snprintf(out, room, "withdrawals to %zu devices on their way, reverts to %zu that had committed",
                 sent->count[ROLLOUT_CANCEL], sent->count[ROLLOUT_REVERT]);
    else
        snprintf(out, room, "nothing");
}

static enum err note_change(struct registry_txn *t, const struct loaded *l,
                            const struct rollout *before, const struct sent *sent, int64_t now_s)
{
    const struct rollout *r = &l->rollout;
    struct rollout_count c =
        rollout_count(&r->rules, l->records, l->n, 0, r->rules.stages - 1, now_s);
    struct trail entry = {.kind = "rollout", .subject = doc_text(l->doc, "id")};
    snprintf(entry.seen, sizeof entry.seen,
             "%u committed, %u failed (%u silent), %u restored, %u on their way, %u to go", c.committed,
             c.failed, c.silent, c.restored, c.active, c.waiting);
    if (before->state != r->state) {
        snprintf(entry.rule, sizeof entry.rule, "%.110s", r->reason[0] ? r->reason : "all is prepared");
        snprintf(entry.changed, sizeof entry.changed, "%s -> %s", rollout_state_name(before->state),
                 rollout_state_name(r->state));
    } else if (before->stage != r->stage) {
        snprintf(entry.rule, sizeof entry.rule, "enough of stage %u has committed", before->stage + 1);
        snprintf(entry.changed, sizeof entry.changed, "stage %u -> %u", before->stage + 1, r->stage + 1);
    } else {
        snprintf(entry.rule, sizeof entry.rule, "%.110s", r->reason[0] ? r->reason : "asked for");
        snprintf(entry.changed, sizeof entry.changed, "it stays %s", rollout_state_name(r->state));
    }
    say_sent(sent, r->stage, entry.sent, sizeof entry.sent);
    return trail_add(t, now_s, &entry);
}

static enum err let_go(struct registry_txn *t, json_t *job, const char *reason)
{
    char key[JOBRECORD_KEY];
    doc_set_int(job, "phase_number", ROLLOUT_CANCELLED);
    doc_set_text(job, "phase", rollout_phase_name(ROLLOUT_CANCELLED));
    doc_set_text(job, "reason", reason);
    jobrecord_key(doc_text(job, "rollout"), doc_text(job, "device"), key);
    return registry_put_doc(t, REGISTRY_JOBS, key, job);
}

static enum err act(struct controller *c, struct registry_txn *t, struct loaded *l,
                    const struct rollout_action *a, int64_t now_ms, struct posts *posts)
{
    json_t *job = json_array_get(l->jobs, a->device), *device = l->devices[a->device];
    /* A later rollout has taken the device over: what it runs is that one's business. */
    if (a->kind != ROLLOUT_OFFER &&
        strcmp(doc_text(device, "offered_rollout"), doc_text(l->doc, "id")) != 0)
        return let_go(t, job, "a later rollout has taken this device over");
    switch (a->kind) {
    case ROLLOUT_OFFER:
        if (strcmp(doc_text(device, "status"), "approved") != 0)
            return let_go(t, job, "the device is no part of the fleet any more");
        return planner_offer(c, t, l->doc, job, device, now_ms, posts);
    case ROLLOUT_CANCEL:
        return planner_withdraw(c, t, MESSAGE_CANCEL, job, device, l->rollout.reason, now_ms, posts);
    case ROLLOUT_REVERT:
        return planner_withdraw(c, t, MESSAGE_REVERT, job, device, l->rollout.reason, now_ms, posts);
    }
    return ERR_ARGUMENT;
}

/* Single devices that reported another digest than predicted are withdrawn whatever the rollout does. */
static enum err withdraw_refused(struct controller *c, struct registry_txn *t, struct loaded *l,
                                 int64_t now_ms, struct posts *posts)
{
    enum err e = ERR_NONE;
    for (size_t i = 0; i < l->n && !e; i++) {
        json_t *job = json_array_get(l->jobs, i);
        if (!doc_bool(job, "withdraw"))
            continue;
        bool is_committed = doc_int(job, "phase_number") == ROLLOUT_COMMITTED;
        if (doc_bool(job, is_committed ? "revert" : "cancel"))
            continue;
        e = planner_withdraw(c, t, is_committed ? MESSAGE_REVERT : MESSAGE_CANCEL, job, l->devices[i],
                             "another digest than predicted", now_ms, posts);
        jobrecord_to_device(job, doc_bool(l->devices[i], "online"), &l->records[i]);
    }
    return e;
}

/* A plan that nobody took before it expired is offered anew, and not counted as another attempt. */
static enum err renew_expired(struct registry_txn *t, struct loaded *l, int64_t now_s)
{
    enum err e = ERR_NONE;
    for (size_t i = 0; i < l->n && !e; i++) {
        json_t *job = json_array_get(l->jobs, i), *plan = NULL;
        if (doc_int(job, "phase_number") != ROLLOUT_OFFERED)
            continue;
        e = registry_get_doc(t, REGISTRY_PLANS, doc_text(job, "plan"), &plan);
        if (!e && doc_int(plan, "not_after") <= now_s) {
            doc_set_int(job, "phase_number", ROLLOUT_WAITING);
            doc_set_text(job, "phase", rollout_phase_name(ROLLOUT_WAITING));
            doc_set_int(job, "attempt", doc_int(job, "attempt") - 1);
            jobrecord_to_device(job, doc_bool(l->devices[i], "online"), &l->records[i]);
        }
        json_decref(plan);
    }
    return e;
}

/* Nothing can change any more but by an operator or a late report, which clear the mark. */
static bool is_settled(const struct loaded *l)
{
    if (!rollout_is_over(l->rollout.state))
        return false;
    for (size_t i = 0; i < l->n; i++) {
        enum rollout_phase p = (enum rollout_phase)doc_int(json_array_get(l->jobs, i), "phase_number");
        if (p == ROLLOUT_OFFERED || p == ROLLOUT_ACTIVE || p == ROLLOUT_DEFERRED)
            return false;
    }
    return true;
}

static enum err step(struct controller *c, struct registry_txn *t, json_t *doc, int64_t now_ms,
                     struct posts *posts)
{
    struct loaded l;
    size_t actions = 0;
    struct sent sent = {{0}};
    int64_t now_s = now_ms / 1000;
    enum err e = load(t, doc, &l);
    if (!e)
        e = withdraw_refused(c, t, &l, now_ms, posts);
    if (!e)
        e = renew_expired(t, &l, now_s);
    if (e)
        goto out;
    struct rollout before = l.rollout;
    rollout_step(&l.rollout, l.records, l.n, now_s, l.actions, &actions);
    for (size_t i = 0; i < actions && !e; i++) {
        e = act(c, t, &l, &l.actions[i], now_ms, posts);
        sent.count[l.actions[i].kind]++;
        if (e == ERR_NOT_FOUND || e == ERR_FULL) {
            l.rollout.state = ROLLOUT_ABORTED;
            snprintf(l.rollout.reason, sizeof l.rollout.reason, "a plan could not be made: %s",
                     err_name(e));
            e = ERR_NONE;
            break;
        }
    }
    bool has_changed = before.state != l.rollout.state || before.stage != l.rollout.stage;
    bool settled = is_settled(&l);
    if (!e && (has_changed || settled != doc_bool(doc, "settled"))) {
        doc_set_bool(doc, "settled", settled);
        set_state(doc, &l.rollout, now_s);
        e = registry_put_doc(t, REGISTRY_ROLLOUTS, doc_text(doc, "id"), doc);
    }
    bool has_begun = doc_bool(doc, "has_begun");
    if (!e && !has_begun && sent.count[ROLLOUT_OFFER]) {
        doc_set_bool(doc, "has_begun", true);
        before.state = ROLLOUT_PREPARING;
        has_changed = true;
        e = registry_put_doc(t, REGISTRY_ROLLOUTS, doc_text(doc, "id"), doc);
    }
    if (!e && (has_changed || sent.count[ROLLOUT_CANCEL] || sent.count[ROLLOUT_REVERT]))
        e = note_change(t, &l, &before, &sent, now_s);
out:
    unload(&l);
    return e;
}

enum err release_tick(struct controller *c, struct registry_txn *t, int64_t now_ms,
                      struct posts *posts)
{
    json_t *all = NULL, *doc;
    size_t i;
    enum err e = registry_list(t, REGISTRY_ROLLOUTS, NULL, false, 0, &all);
    if (e)
        return e;
    json_array_foreach(all, i, doc)
    {
        if (e || doc_bool(doc, "settled") || doc_int(doc, "state_number") == ROLLOUT_PREPARING)
            continue;
        e = step(c, t, doc, now_ms, posts);
    }
    json_decref(all);
    return e;
}

/* A device takes the smallest memory class that it has room for. */
static enum err assign_class(struct registry_txn *t, json_t *job, const json_t *classes)
{
    json_t *device = NULL;
    char key[JOBRECORD_KEY];
    enum err e = registry_get_doc(t, REGISTRY_DEVICES, doc_text(job, "device"), &device);
    if (e)
        return e;
    size_t i;
    const json_t *class, *found = NULL;
    for (i = 0; i < json_array_size(classes) && !found; i++) {
        class = json_array_get(classes, i);
        if (doc_int(class, "memory_bytes") == doc_int(device, "memory_bytes"))
            found = class;
    }
    doc_set_int(job, "class", (int64_t)i - 1);
    if (!found || doc_text(found, "error")[0]) {
        doc_set_int(job, "phase_number", ROLLOUT_REJECTED);
        doc_set_text(job, "phase", rollout_phase_name(ROLLOUT_REJECTED));
        doc_set_text(job, "reason", found ? doc_text(found, "error") : "no plan fits this device");
        doc_set_text(job, "code", "no-plan");
    }
    jobrecord_key(doc_text(job, "rollout"), doc_text(job, "device"), key);
    e = registry_put_doc(t, REGISTRY_JOBS, key, job);
    json_decref(device);
    return e;
}

static enum err store_class(struct registry_txn *t, const char *id, size_t i, const char *folder)
{
    char path[1024], key[PLANNER_KEY];
    static const size_t most = 1 << 20;
    snprintf(path, sizeof path, "%s/plan-%zu.cbor", folder, i);
    FILE *f = fopen(path, "rbe");
    uint8_t *bytes = malloc(most);
    enum err e = !f ? ERR_NOT_FOUND : !bytes ? ERR_MEMORY : ERR_NONE;
    size_t size = e ? 0 : fread(bytes, 1, most, f);
    if (!e && (ferror(f) || size == 0))
        e = ERR_IO;
    planner_class_key(id, (int64_t)i, key);
    if (!e)
        e = registry_put(t, REGISTRY_ENVELOPES, key, strlen(key), bytes, size);
    free(bytes);
    if (f)
        fclose(f);
    return e;
}

static enum err note_prepared(struct registry_txn *t, const json_t *doc, int64_t now_s)
{
    struct trail entry = {.kind = "rollout", .subject = doc_text(doc, "id")};
    const json_t *class = json_array_get(json_object_get(doc, "classes"), 0);
    bool has_failed = doc_int(doc, "state_number") == ROLLOUT_FAILED;
    if (has_failed)
        snprintf(entry.seen, sizeof entry.seen, "%.190s", doc_text(doc, "reason"));
    else
        snprintf(entry.seen, sizeof entry.seen, "plan of %lld bytes: %.2f bpw, variant %.16s, %.1f MiB",
                 (long long)doc_int(class, "plan_bytes"), doc_real(class, "bpw"),
                 doc_text(class, "variant")[0] ? doc_text(class, "variant") : "not predictable",
                 (double)doc_int(class, "bytes") / 1048576.0);
    snprintf(entry.rule, sizeof entry.rule, "%s",
             has_failed ? "nothing is sent that cannot be planned"
                        : "the controller derives the variant itself to know its digest");
    snprintf(entry.sent, sizeof entry.sent, "nothing yet");
    snprintf(entry.changed, sizeof entry.changed, "%s",
             has_failed ? "preparing -> failed" : "the plans are ready");
    return trail_add(t, now_s, &entry);
}

enum err release_prepared(struct controller *c, struct registry_txn *t, const char *id,
                          const json_t *result, const char *folder, int64_t now_s)
{
    json_t *doc = NULL, *jobs = NULL, *job;
    char prefix[JOBRECORD_KEY];
    size_t i;
    (void)c;
    enum err e = registry_get_doc(t, REGISTRY_ROLLOUTS, id, &doc);
    if (e || doc_int(doc, "state_number") != ROLLOUT_PREPARING || doc_bool(doc, "prepared"))
        goto out; /* aborted meanwhile */
    const json_t *classes = json_object_get(result, "classes");
    struct rollout r = {.state = ROLLOUT_PREPARING};
    doc_set_bool(doc, "prepared", true);
    if (doc_text(result, "error")[0]) {
        r.state = ROLLOUT_FAILED;
        snprintf(r.reason, sizeof r.reason, "%.155s", doc_text(result, "error"));
        doc_set_bool(doc, "settled", true);
    } else {
        doc_set(doc, "classes", json_deep_copy(classes));
        if (doc_text(result, "profile")[0])
            doc_set_text(doc, "profile", doc_text(result, "profile"));
        for (i = 0; i < json_array_size(classes) && !e; i++)
            if (!doc_text(json_array_get(classes, i), "error")[0])
                e = store_class(t, id, i, folder);
        jobrecord_key(id, "", prefix);
        if (!e)
            e = registry_list(t, REGISTRY_JOBS, prefix, false, 0, &jobs);
        json_array_foreach(jobs, i, job)
            if (!e)
                e = assign_class(t, job, classes);
        if (doc_int(doc, "approvals") <= (int64_t)json_array_size(json_object_get(doc, "approved_by")))
            r.state = ROLLOUT_RUNNING;
        else
            snprintf(r.reason, sizeof r.reason, "waits for %lld approvals",
                     (long long)doc_int(doc, "approvals"));
    }
    set_state(doc, &r, now_s);
    if (!e)
        e = registry_put_doc(t, REGISTRY_ROLLOUTS, id, doc);
    if (!e)
        e = note_prepared(t, doc, now_s);
out:
    json_decref(jobs);
    json_decref(doc);
    return e;
}

enum err release_approve(struct registry_txn *t, const char *id, const char *who, int64_t now_s,
                         json_t **out, char why[RELEASE_WHY])
{
    json_t *doc = NULL, *name;
    size_t i;
    enum err e = registry_get_doc(t, REGISTRY_ROLLOUTS, id, &doc);
    if (e) {
        snprintf(why, RELEASE_WHY, "rollout %.40s: not known", id);
        return e;
    }
    json_t *by = json_object_get(doc, "approved_by");
    json_array_foreach(by, i, name)
        if (strcmp(json_string_value(name), who) == 0)
            e = ERR_ARGUMENT;
    if (doc_int(doc, "state_number") != ROLLOUT_PREPARING || doc_int(doc, "approvals") == 0 || e) {
        snprintf(why, RELEASE_WHY, "rollout %.40s: %s", id,
                 e ? "you have approved it already" : "it does not wait for approval");
        json_decref(doc);
        return ERR_ARGUMENT;
    }
    doc_append(by, json_string(who));
    struct rollout r = {.state = ROLLOUT_PREPARING};
    int64_t missing = doc_int(doc, "approvals") - (int64_t)json_array_size(by);
    if (missing > 0)
        snprintf(r.reason, sizeof r.reason, "waits for %lld more approvals", (long long)missing);
    else if (doc_bool(doc, "prepared"))
        r.state = ROLLOUT_RUNNING;
    set_state(doc, &r, now_s);
    struct trail entry = {.kind = "operator", .subject = id};
    snprintf(entry.seen, sizeof entry.seen, "%.60s approved", who);
    snprintf(entry.rule, sizeof entry.rule, "%lld approvals are needed",
             (long long)doc_int(doc, "approvals"));
    snprintf(entry.changed, sizeof entry.changed, "%s", r.reason[0] ? r.reason : r.state == ROLLOUT_RUNNING ? "it runs" : "it runs when it is prepared");
    snprintf(entry.sent, sizeof entry.sent, "nothing yet");
    e = registry_put_doc(t, REGISTRY_ROLLOUTS, id, doc);
    if (!e)
        e = trail_add(t, now_s, &entry);
    if (e)
        json_decref(doc);
    else
        *out = doc;
    return e;
}

enum err release_command(struct registry_txn *t, const char *id, enum rollout_command command,
                         const char *who, int64_t now_s, json_t **out, char why[RELEASE_WHY])
{
    static const char *const verbs[] = {"pause", "resume", "abort", "revert"};
    json_t *doc = NULL;
    char reason[ROLLOUT_REASON_BYTES];
    enum err e = registry_get_doc(t, REGISTRY_ROLLOUTS, id, &doc);
    if (e) {
        snprintf(why, RELEASE_WHY, "rollout %.40s: not known", id);
        return e;
    }
    struct rollout r = {.state = (enum rollout_state)doc_int(doc, "state_number"),
                        .stage = (uint32_t)doc_int(doc, "stage")};
    const char *before = rollout_state_name(r.state);
    e = rollout_command(&r, command, reason);
    if (e) {
        snprintf(why, RELEASE_WHY, "rollout %.40s: %s", id, reason);
        json_decref(doc);
        return e;
    }
    snprintf(r.reason, sizeof r.reason, "%s by %.60s", verbs[command], who);
    doc_set_bool(doc, "settled", false);
    set_state(doc, &r, now_s);
    struct trail entry = {.kind = "operator", .subject = id};
    snprintf(entry.seen, sizeof entry.seen, "the rollout was %s", before);
    snprintf(entry.rule, sizeof entry.rule, "%.110s", r.reason);
    snprintf(entry.sent, sizeof entry.sent, "what that asks for, with the next step");
    snprintf(entry.changed, sizeof entry.changed, "%s -> %s", before, rollout_state_name(r.state));
    e = registry_put_doc(t, REGISTRY_ROLLOUTS, id, doc);
    if (!e)
        e = trail_add(t, now_s, &entry);
    if (e)
        json_decref(doc);
    else
        *out = doc;
    return e;
}

enum err release_describe(struct registry_txn *t, json_t *doc, bool with_devices, int64_t now_s)
{
    struct loaded l;
    enum err e = load(t, doc, &l);
    json_t *stages = json_array();
    for (uint32_t i = 0; i < l.rollout.rules.stages && !e; i++) {
        struct rollout_count c = rollout_count(&l.rollout.rules, l.records, l.n, i, i, now_s);
        doc_append(stages,
                   json_pack("{s:f,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i}", "percent",
                             100.0 * l.rollout.rules.fractions[i], "devices", (int)c.total, "waiting",
                             (int)c.waiting, "active", (int)c.active, "committed", (int)c.committed,
                             "failed", (int)c.failed, "silent", (int)c.silent, "absent", (int)c.absent,
                             "restored", (int)c.restored));
    }
    doc_set(doc, "stages", stages);
    for (size_t i = 0; with_devices && i < l.n && !e; i++) {
        json_t *job = json_array_get(l.jobs, i);
        doc_set_text(job, "name", doc_text(l.devices[i], "name"));
        doc_set_bool(job, "online", doc_bool(l.devices[i], "online"));
        if (!doc_text(job, "plugin")[0])
            doc_set_text(job, "plugin", doc_text(l.devices[i], "plugin"));
    }
    if (with_devices && !e)
        doc_set(doc, "devices", json_incref(l.jobs));
    unload(&l);
    return e;
}
