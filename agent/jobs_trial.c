/* jobs_trial.c: a variant on trial: switched to while the controller is there to see it, until it has proved itself. */
#include "agent/jobs_parts.h"

#include <stdio.h>

enum {
    CONTACT_AGAIN_MS = 10000,
    KILLS_MAX = 3, /* of the trial's worker from outside */
    BAD_LEAST = 3, /* failed requests before their share counts */
    SILENT_LEAST_MS = 3600 * 1000
};

void jobs_begin_trial(struct jobs *j)
{
    if (!j->options.hooks.in_contact(j->options.hooks.context)) {
        j->options.hooks.ask_contact(j->options.hooks.context);
        jobs_later(j, CONTACT_AGAIN_MS);
        return;
    }
    j->restarts = 0;
    if (jobs_take(j, &(struct jobs_step){.event = JOB_EVENT_SWITCH}))
        jobs_work(j);
}

static enum err also_commit(struct jobs *j, struct store_txn *t, void *context)
{
    uint32_t spare;
    (void)j;
    (void)context;
    enum err e = slots_spare(t, &spare);
    return e ? e : slots_activate(t, spare);
}

static void on_trial(void *context)
{
    struct jobs *j = context;
    const struct jobs_hooks *h = &j->options.hooks;
    int64_t now = loop_now_ms(j->options.loop), length = (int64_t)j->plan.trial_s * 1000;
    int64_t run = now - j->trial_from_ms;
    int64_t silent = length * 20 > SILENT_LEAST_MS ? length * 20 : SILENT_LEAST_MS;
    if (j->now.state != JOB_TRIAL)
        return;
    if (run < length) {
        loop_set_timer(j->options.loop, &j->trial, length - run, on_trial, j);
        return;
    }
    if (j->trial_good < j->plan.trial_requests && run > silent) {
        jobs_fail(j, JOB_TRIAL_SILENT, ERR_TIMEOUT, "too few requests came");
        return;
    }
    if (j->trial_good < j->plan.trial_requests) {
        loop_set_timer(j->options.loop, &j->trial, 1000 + silent / 100, on_trial, j);
        return;
    }
    if (!h->in_contact(h->context)) {
        h->ask_contact(h->context);
        loop_set_timer(j->options.loop, &j->trial, CONTACT_AGAIN_MS, on_trial, j);
        return;
    }
    if (!jobs_take(j, &(struct jobs_step){.event = JOB_EVENT_PROVED, .also = also_commit})) {
        loop_set_timer(j->options.loop, &j->trial, CONTACT_AGAIN_MS, on_trial, j);
        return;
    }
    h->promote(h->context);
    jobs_work(j);
}

void jobs_run_trial(struct jobs *j)
{
    char path[SLOTS_PATH];
    j->trial_from_ms = 0;
    j->trial_good = j->trial_bad = j->trial_kills = 0;
    slots_variant_path(j->options.settings->state, j->now.variant, path);
    enum err e = j->options.hooks.trial(j->options.hooks.context, path, &j->plan);
    if (e)
        jobs_fail(j, JOB_TRIAL_CRASH, e, "no worker could be started for the trial");
}

void jobs_trial_ready(struct jobs *j)
{
    if (j->now.state != JOB_TRIAL || j->trial_from_ms)
        return;
    j->trial_from_ms = loop_now_ms(j->options.loop);
    on_trial(j);
}

void jobs_trial_answered(struct jobs *j, bool is_good)
{
    char why[64];
    if (j->now.state != JOB_TRIAL)
        return;
    if (is_good) {
        j->trial_good++;
        if (j->trial_good == j->plan.trial_requests && j->trial_from_ms)
            on_trial(j);
        return;
    }
    j->trial_bad++;
    if (j->trial_bad > BAD_LEAST && j->trial_bad * 10 > j->trial_good) {
        snprintf(why, sizeof why, "%u of %u requests failed", j->trial_bad, j->trial_bad + j->trial_good);
        jobs_fail(j, JOB_TRIAL_ERRORS, ERR_DEVICE, why);
    }
}

bool jobs_trial_crashed(struct jobs *j, bool by_force, const char *why)
{
    if (j->now.state != JOB_TRIAL)
        return false;
    if (by_force && ++j->trial_kills < KILLS_MAX)
        return true;
    jobs_fail(j, JOB_TRIAL_CRASH, ERR_CRASHED, why);
    return false;
}

void jobs_contact(struct jobs *j)
{
    if (!j->birth)
        return;
    if (j->now.state == JOB_STAGED && !task_is_busy(j->options.task))
        jobs_begin_trial(j);
    else if (j->now.state == JOB_TRIAL && j->trial_from_ms)
        on_trial(j);
}
