/* jobs.c: the steps of the job: load, offer, transition, report. The work is in jobs_work.c. */
#include "agent/jobs_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/log.h"
#include "protocol/envelope.h"

enum { AGAIN_MS = 5000, PAYLOAD_MAX = 4096 };

static uint64_t now_ms(struct jobs *j)
{
    return j->options.hooks.now_ms(j->options.hooks.context);
}

static enum err load(struct jobs *j)
{
    struct store_txn *t;
    const void *value;
    size_t bytes;
    enum err e = store_begin(j->options.store, false, &t);
    if (e)
        return e;
    if ((e = store_get_u64(t, "newest", &j->newest_plan)) || (e = store_get_u64(t, "job.restarts", &j->restarts)))
        goto out;
    e = store_get(t, "job.tries", &value, &bytes);
    if (!e && bytes == JOBS_TRIES)
        memcpy(j->tries, value, JOBS_TRIES);
    e = store_get(t, "job", &value, &bytes);
    if (e == ERR_NOT_FOUND) {
        e = ERR_NONE;
        goto out;
    }
    if (!e)
        e = message_job_decode(value, bytes, &j->now);
    if (!e)
        e = store_get(t, "job.plan", &value, &bytes);
    if (!e)
        e = slots_decode_plan(value, bytes, &j->plan);
    if (e) { /* a record that this build cannot read: the slots still hold what serves */
        log_error("jobs: the job's record cannot be read, it is dropped: %s", err_name(e));
        memset(&j->now, 0, sizeof j->now);
        memset(&j->plan, 0, sizeof j->plan);
        e = ERR_NONE;
    }
out:
    store_abort(t);
    return e;
}

enum err jobs_open(const struct jobs_options *options, struct jobs **out)
{
    struct jobs *j = calloc(1, sizeof *j);
    if (!j)
        return ERR_MEMORY;
    j->options = *options;
    enum err e = load(j);
    if (e) {
        free(j);
        return e;
    }
    *out = j;
    return ERR_NONE;
}

void jobs_close(struct jobs *j)
{
    if (!j)
        return;
    loop_clear_timer(j->options.loop, &j->again);
    loop_clear_timer(j->options.loop, &j->trial);
    task_cancel(j->options.task, TASK_JOB);
    free(j);
}

static enum err post(struct jobs *j, struct store_txn *t, struct message_job *m)
{
    uint8_t payload[PAYLOAD_MAX], envelope[PAYLOAD_MAX + ENVELOPE_OVERHEAD];
    size_t size, total;
    m->epoch = store_epoch(j->options.store);
    enum err e = store_next_seq(t, MESSAGE_STREAM_JOB, &m->seq);
    if (!e)
        e = message_job_encode(m, payload, sizeof payload, &size);
    if (!e)
        e = envelope_sign(j->options.identity->key.secret_key, j->options.settings->fleet, ENVELOPE_DEVICE,
                          MESSAGE_JOB, payload, size, envelope, sizeof envelope, &total);
    if (!e)
        e = store_post(t, MESSAGE_STREAM_JOB, m->seq, envelope, total);
    return e;
}

static enum err save(struct jobs *j, struct store_txn *t, const struct message_job *m)
{
    uint8_t payload[PAYLOAD_MAX];
    size_t size;
    enum err e = message_job_encode(m, payload, sizeof payload, &size);
    if (!e)
        e = store_put(t, "job", payload, size);
    if (!e)
        e = store_put(t, "job.tries", j->tries, JOBS_TRIES);
    if (!e)
        e = store_put_u64(t, "job.restarts", j->restarts);
    return e;
}

static void on_again(void *context)
{
    jobs_work(context);
}

bool jobs_take(struct jobs *j, const struct jobs_step *step)
{
    struct message_job next = j->now;
    struct store_txn *t = NULL;
    enum err e = job_next(j->now.state, step->event, &next.state);
    if (e) {
        log_error("jobs: %s is not allowed in %s", job_event_name(step->event), job_state_name(j->now.state));
        return false;
    }
    next.code = step->code;
    next.err = (uint32_t)step->error;
    next.time_ms = now_ms(j);
    next.attempt = step->event == JOB_EVENT_RETRY ? next.attempt + 1 : next.attempt ? next.attempt : 1;
    if (next.state != j->now.state && step->event != JOB_EVENT_DAMAGED)
        next.attempt = 1;
    snprintf(next.reason, sizeof next.reason, "%s", step->reason ? step->reason : "");
    e = store_begin(j->options.store, true, &t);
    if (!e && step->also)
        e = step->also(j, t, step->context);
    if (!e)
        e = post(j, t, &next);
    if (!e)
        e = save(j, t, &next);
    if (e) {
        store_abort(t);
    } else {
        e = store_commit(t);
    }
    if (e) {
        log_error("jobs: the store does not take a step, again in %d s: %s after %s: %s", AGAIN_MS / 1000,
                  job_event_name(step->event), job_state_name(j->now.state), err_name(e));
        loop_set_timer(j->options.loop, &j->again, AGAIN_MS, on_again, j);
        return false;
    }
    log_info("jobs: %s: plan=%llu attempt=%u %s%s%s", job_state_name(next.state),
             (unsigned long long)next.plan_version, next.attempt, next.code ? job_code_name(next.code) : "",
             next.reason[0] ? ": " : "", next.reason);
    j->now = next;
    j->options.hooks.posted(j->options.hooks.context);
    return true;
}

struct offer {
    const uint8_t *payload;
    size_t bytes;
    const struct message_plan *plan;
};

static enum err also_offer(struct jobs *j, struct store_txn *t, void *context)
{
    const struct offer *o = context;
    (void)j;
    enum err e = store_put(t, "job.plan", o->payload, o->bytes);
    return e ? e : store_put_u64(t, "newest", o->plan->version);
}

/* Ends what is in hand because a newer plan is here. */
static bool supersede(struct jobs *j)
{
    if (j->now.state == JOB_IDLE || job_is_ended(j->now.state) || j->now.state == JOB_OFFERED ||
        j->now.state == JOB_DEFERRED)
        return true;
    task_cancel(j->options.task, TASK_JOB);
    loop_clear_timer(j->options.loop, &j->again);
    loop_clear_timer(j->options.loop, &j->trial);
    bool on_trial = j->now.state == JOB_TRIAL;
    if (!jobs_take(j, &(struct jobs_step){.event = JOB_EVENT_CANCEL, .code = JOB_SUPERSEDED}))
        return false;
    if (on_trial)
        j->options.hooks.untrial(j->options.hooks.context);
    return true;
}

/* A refusal is told once per plan version and code, without touching the job's record. */
static void report_refusal(struct jobs *j, const struct message_plan *plan, uint32_t code)
{
    struct store_txn *t;
    bool has_id = code >= JOB_REJECT_STALE && code != JOB_REJECT_CRITICAL;
    if (!has_id || code == JOB_REJECT_STALE || (plan->version == j->refused_version && code == j->refused_code))
        return;
    struct message_job m = {.plan_version = plan->version,
                            .state = JOB_REJECTED,
                            .attempt = 1,
                            .code = code,
                            .time_ms = now_ms(j)};
    memcpy(m.plan_id, plan->plan_id, sizeof m.plan_id);
    snprintf(m.reason, sizeof m.reason, "%s", job_code_text(code));
    enum err e = store_begin(j->options.store, true, &t);
    if (e)
        return;
    if (post(j, t, &m)) {
        store_abort(t);
        return;
    }
    if (store_commit(t))
        return;
    j->refused_version = plan->version;
    j->refused_code = code;
    j->options.hooks.posted(j->options.hooks.context);
}

static uint32_t offer_plan(struct jobs *j, const uint8_t *bytes, size_t size, struct message_plan *plan)
{
    const struct settings *s = j->options.settings;
    struct accept_device device = {.keys = j->options.keys,
                                   .fleet = s->fleet,
                                   .device = j->options.identity->id,
                                   .newest_plan = j->newest_plan,
                                   .now_ms = now_ms(j)};
    struct offer o = {.plan = plan};
    uint32_t code = accept_verify(&device, bytes, size, plan);
    if (code == JOB_REJECT_STALE && plan->version == j->now.plan_version &&
        memcmp(plan->plan_id, j->now.plan_id, sizeof plan->plan_id) == 0)
        return JOB_OK; /* in hand already */
    if (code) {
        log_warning("jobs: a plan was refused: %s: %s", job_code_name(code), job_code_text(code));
        report_refusal(j, plan, code);
        return code;
    }
    if (accept_open(j->options.keys, s->fleet, MESSAGE_PLAN, bytes, size, &o.payload, &o.bytes) || !supersede(j))
        return JOB_DEFER_BUSY;
    struct message_job was = j->now;
    struct message_plan was_plan = j->plan;
    uint8_t was_tries[JOBS_TRIES];
    uint64_t was_restarts = j->restarts;
    memcpy(was_tries, j->tries, sizeof was_tries);
    uint32_t state = j->now.state;
    memset(&j->now, 0, sizeof j->now);
    memset(j->tries, 0, sizeof j->tries);
    j->now.state = state;
    memcpy(j->now.plan_id, plan->plan_id, sizeof j->now.plan_id);
    j->now.plan_version = plan->version;
    j->restarts = 0;
    j->plan = *plan;
    j->plan.tensor = NULL;
    j->plan.tensors = j->plan.tensors_max = 0;
    j->plan.derivation = (struct message_blob){NULL, 0};
    if (!jobs_take(j, &(struct jobs_step){.event = JOB_EVENT_OFFER, .also = also_offer, .context = &o})) {
        j->now = was;
        j->plan = was_plan;
        j->restarts = was_restarts;
        memcpy(j->tries, was_tries, sizeof was_tries);
        return JOB_DEFER_BUSY; /* it is offered again at the next pull */
    }
    j->newest_plan = plan->version;
    j->file = 0;
    loop_clear_timer(j->options.loop, &j->again);
    jobs_work(j);
    return JOB_OK;
}

uint32_t jobs_offer(struct jobs *j, const uint8_t *bytes, size_t size)
{
    struct message_plan plan = {0};
    plan.tensor = calloc(MESSAGE_TENSORS_MAX, sizeof *plan.tensor);
    if (!plan.tensor)
        return JOB_DEFER_BUSY;
    struct message_tensor *tensors = plan.tensor;
    plan.tensors_max = MESSAGE_TENSORS_MAX;
    uint32_t code = offer_plan(j, bytes, size, &plan);
    free(tensors);
    return code;
}

enum err jobs_cancel(struct jobs *j, const uint8_t plan_id[16])
{
    uint32_t next;
    if (j->now.state == JOB_IDLE || memcmp(plan_id, j->now.plan_id, 16) != 0)
        return ERR_NOT_FOUND;
    if (job_next(j->now.state, JOB_EVENT_CANCEL, &next))
        return ERR_ARGUMENT;
    bool on_trial = j->now.state == JOB_TRIAL;
    task_cancel(j->options.task, TASK_JOB);
    loop_clear_timer(j->options.loop, &j->again);
    loop_clear_timer(j->options.loop, &j->trial);
    if (!jobs_take(j, &(struct jobs_step){.event = JOB_EVENT_CANCEL, .code = JOB_CANCELLED}))
        return ERR_IO;
    if (on_trial)
        j->options.hooks.untrial(j->options.hooks.context);
    jobs_work(j);
    return ERR_NONE;
}

static enum err also_revert(struct jobs *j, struct store_txn *t, void *context)
{
    uint32_t active;
    struct slot other;
    (void)j;
    (void)context;
    enum err e = slots_active(t, &active);
    if (e || active == SLOTS_NONE)
        return e ? e : ERR_NOT_FOUND;
    if ((e = slots_get(t, 1 - active, &other)))
        return e;
    if (other.is_used)
        return slots_activate(t, 1 - active);
    /* There was nothing before: the device serves nothing again. */
    if ((e = slots_clear(t, active)))
        return e;
    return slots_activate(t, SLOTS_NONE);
}

enum err jobs_revert(struct jobs *j, const uint8_t plan_id[16])
{
    if (memcmp(plan_id, j->now.plan_id, 16) != 0)
        return ERR_NOT_FOUND;
    if (j->now.state == JOB_TRIAL) {
        loop_clear_timer(j->options.loop, &j->trial);
        if (!jobs_take(j, &(struct jobs_step){.event = JOB_EVENT_REVERT, .code = JOB_REVERTED}))
            return ERR_IO;
        j->options.hooks.untrial(j->options.hooks.context);
    } else if (j->now.state == JOB_COMMITTED) {
        if (!jobs_take(j, &(struct jobs_step){
                              .event = JOB_EVENT_REVERT, .code = JOB_REVERTED, .also = also_revert}))
            return ERR_IO;
        j->options.hooks.restore(j->options.hooks.context);
    } else {
        return jobs_cancel(j, plan_id);
    }
    j->options.hooks.changed(j->options.hooks.context);
    return ERR_NONE;
}

uint32_t jobs_state(const struct jobs *j)
{
    return j->now.state;
}

uint64_t jobs_newest_plan(const struct jobs *j)
{
    return j->newest_plan;
}

void jobs_fill_birth(struct jobs *j, struct message_birth *birth)
{
    struct store_txn *t;
    uint32_t active;
    birth->slots = 0;
    birth->job_state = j->now.state;
    birth->newest_plan = j->newest_plan;
    memcpy(birth->job_plan_id, j->now.plan_id, sizeof birth->job_plan_id);
    if (store_begin(j->options.store, false, &t))
        return;
    if (slots_active(t, &active) == ERR_NONE)
        for (uint32_t i = 0; i < 2; i++) {
            struct slot s;
            if (slots_get(t, i, &s) || !s.is_used)
                continue;
            struct message_slot *m = &birth->slot[birth->slots++];
            memset(m, 0, sizeof *m);
            memcpy(m->base, s.plan.base.digest, 32);
            memcpy(m->variant, s.variant, 32);
            memcpy(m->plan_id, s.plan.plan_id, 16);
            m->variant_bytes = s.variant_bytes;
            m->is_active = i == active;
        }
    store_abort(t);
}

enum err jobs_payload(struct jobs *j, uint8_t **payload, size_t *bytes)
{
    struct store_txn *t;
    const void *value;
    enum err e = store_begin(j->options.store, false, &t);
    if (e)
        return e;
    if (!(e = store_get(t, "job.plan", &value, bytes))) {
        *payload = malloc(*bytes ? *bytes : 1);
        if (*payload)
            memcpy(*payload, value, *bytes);
        else
            e = ERR_MEMORY;
    }
    store_abort(t);
    return e;
}
