/* jobs_work.c: what is done in each state of the job, up to the files that are needed; the table of all. */
#include "agent/jobs_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FILES = 3, BACKOFF_MOST_MS = 60000 };

static void on_later(void *context)
{
    jobs_work(context);
}

void jobs_later(struct jobs *j, int64_t delay_ms)
{
    loop_set_timer(j->options.loop, &j->again, delay_ms, on_later, j);
}

void jobs_fail(struct jobs *j, uint32_t code, enum err error, const char *reason)
{
    if (error == ERR_CANCELLED) { /* only a task of ours in our own way */
        jobs_later(j, JOBS_BACKOFF_MS);
        return;
    }
    uint32_t tries = code < JOBS_TRIES && j->tries[code] < UINT8_MAX ? ++j->tries[code] : UINT8_MAX;
    struct jobs_step step = {.event = JOB_EVENT_FAIL, .code = code, .error = error, .reason = reason};
    if (job_is_retryable(code) && tries < job_attempts(code)) {
        step.event = JOB_EVENT_RETRY;
        if (!jobs_take(j, &step))
            return;
        uint32_t wait = JOBS_BACKOFF_MS << (tries < 7 ? tries - 1 : 6);
        if (wait > BACKOFF_MOST_MS)
            wait = BACKOFF_MOST_MS;
        jobs_later(j, wait / 2 + loop_jitter(wait));
        return;
    }
    bool on_trial = j->now.state == JOB_TRIAL;
    loop_clear_timer(j->options.loop, &j->trial);
    if (!jobs_take(j, &step))
        return;
    if (on_trial)
        j->options.hooks.untrial(j->options.hooks.context);
    jobs_work(j);
}

uint32_t jobs_code_of(enum err error, uint32_t otherwise)
{
    switch (error) {
    case ERR_CRASHED: return JOB_FAIL_CRASH;
    case ERR_TIMEOUT: return JOB_FAIL_HANG;
    case ERR_MEMORY: return JOB_FAIL_MEMORY;
    case ERR_IO: return JOB_FAIL_DISK;
    default: return otherwise;
    }
}

bool jobs_start_task(struct jobs *j, const struct wire *request, void (*done)(void *, const struct wire *),
                       void (*failed)(void *, enum err, const char *))
{
    struct task_options options = {.weight = TASK_JOB, .context = j, .done = done, .failed = failed};
    enum err e = task_start(j->options.task, &options, request);
    if (e == ERR_NONE)
        return true;
    if (e == ERR_FULL) /* the one of before is on its way out */
        jobs_later(j, JOBS_BACKOFF_MS);
    else
        jobs_fail(j, jobs_code_of(e, JOB_FAIL_CRASH), e, "no worker could be started");
    return false;
}

/* ---- OFFERED ---- */

/* Bytes that this plan's files may still take, those of them that are here already counted as free. */
static uint64_t room_for(struct jobs *j)
{
    const struct settings *s = j->options.settings;
    const struct message_artifact *files[FILES] = {&j->plan.base, &j->plan.profile, &j->plan.text};
    char path[SLOTS_PATH];
    uint64_t left = slots_disk_free(s->state), used = s->disk_bytes ? slots_disk_used(s->state) : 0;
    if (s->disk_bytes) {
        uint64_t allowed = used < s->disk_bytes ? s->disk_bytes - used : 0;
        left = allowed < left ? allowed : left;
    }
    for (int i = 0; i < FILES && left != UINT64_MAX; i++) {
        slots_blob_path(s->state, files[i]->digest, path);
        if (slots_has_file(path, files[i]->bytes))
            left += files[i]->bytes;
    }
    slots_variant_path(s->state, j->plan.variant, path);
    if (left != UINT64_MAX && slots_has_file(path, j->plan.variant_bytes))
        left += j->plan.variant_bytes;
    return left;
}

/* By which schema the plan derives; 0: it does not say, and the worker that reads the rest will. */
static uint32_t schema_of(struct jobs *j)
{
    struct slots_setting setting = {0};
    uint8_t *payload = NULL;
    size_t bytes;
    if (jobs_payload(j, &payload, &bytes) == ERR_NONE)
        slots_setting(payload, bytes, &setting);
    free(payload);
    return setting.schema;
}

static void judge(struct jobs *j)
{
    const struct settings *s = j->options.settings;
    char why[MESSAGE_TEXT_MAX];
    struct store_txn *t;
    if (!j->birth)
        return; /* jobs_start comes back to it */
    uint64_t left = room_for(j);
    uint64_t need = j->plan.base.bytes + j->plan.profile.bytes + j->plan.text.bytes + j->plan.variant_bytes;
    if (left < need && store_begin(j->options.store, false, &t) == ERR_NONE) {
        slots_sweep(s->state, t, &j->plan, 0); /* what was only kept for convenience makes room */
        store_abort(t);
        left = room_for(j);
    }
    struct accept_device device = {.keys = j->options.keys,
                                   .fleet = s->fleet,
                                   .device = j->options.identity->id,
                                   .now_ms = j->options.hooks.now_ms(j->options.hooks.context),
                                   .birth = j->birth,
                                   .forced_plugin = s->plugin,
                                   .disk_free_bytes = left,
                                   .schema = schema_of(j)};
    uint32_t code = accept_judge(&device, &j->plan, why, sizeof why);
    struct jobs_step step = {.event = JOB_EVENT_ACCEPT, .code = code, .reason = why};
    if (code == JOB_DEFER_WINDOW)
        step.event = JOB_EVENT_DEFER;
    else if (code)
        step.event = JOB_EVENT_REJECT;
    if (jobs_take(j, &step))
        jobs_work(j);
}

static void wait_for_window(struct jobs *j)
{
    uint64_t now = j->options.hooks.now_ms(j->options.hooks.context);
    if (now && now < j->plan.not_before_ms) {
        uint64_t left = j->plan.not_before_ms - now;
        jobs_later(j, left < 60000 ? (int64_t)left : 60000);
        return;
    }
    if (jobs_take(j, &(struct jobs_step){.event = JOB_EVENT_DUE}))
        jobs_work(j);
}

/* ---- FETCHING, VERIFYING ---- */

static const struct message_artifact *artifact(struct jobs *j, uint32_t i)
{
    const struct message_artifact *files[FILES] = {&j->plan.base, &j->plan.profile, &j->plan.text};
    return files[i];
}

static void on_fetched(void *context, const struct wire *answer)
{
    struct jobs *j = context;
    (void)answer;
    j->file++;
    jobs_work(j);
}

static void on_fetch_failed(void *context, enum err error, const char *why)
{
    uint32_t code = error == ERR_NOT_FOUND  ? JOB_FAIL_ABSENT
                    : error == ERR_MISMATCH ? JOB_FAIL_DIGEST
                                            : jobs_code_of(error, JOB_FAIL_FETCH);
    jobs_fail(context, code, error, why);
}

static void make_url(const struct settings *s, const struct message_artifact *a, char out[1024])
{
    char hex[SLOTS_PATH];
    if (strncmp(a->url, "http://", 7) == 0 || strncmp(a->url, "https://", 8) == 0) {
        snprintf(out, 1024, "%s", a->url);
        return;
    }
    slots_blob_path("", a->digest, hex);
    snprintf(out, 1024, "%s%s%s", s->controller_url, a->url[0] == '/' ? "" : "/b/",
             a->url[0] == '/' ? a->url : strrchr(hex, '/') + 1);
}

static void fetch(struct jobs *j)
{
    const struct settings *s = j->options.settings;
    char path[SLOTS_PATH], url[1024];
    for (; j->file < FILES; j->file++) {
        const struct message_artifact *a = artifact(j, j->file);
        slots_blob_path(s->state, a->digest, path);
        if (a->bytes && !slots_has_file(path, a->bytes))
            break;
    }
    if (j->file == FILES) {
        j->file = 0;
        if (jobs_take(j, &(struct jobs_step){.event = JOB_EVENT_FETCHED}))
            jobs_work(j);
        return;
    }
    const struct message_artifact *a = artifact(j, j->file);
    make_url(s, a, url);
    struct wire m;
    wire_init(&m, WIRE_FETCH, 1);
    wire_put_text(&m, WIRE_K_URL, url);
    wire_put_text(&m, WIRE_K_CA, s->controller_ca);
    wire_put_text(&m, WIRE_K_PATH, path);
    wire_put_bytes(&m, WIRE_K_DIGEST, a->digest, 32);
    wire_put_u64(&m, WIRE_K_BYTES, a->bytes);
    jobs_start_task(j, &m, on_fetched, on_fetch_failed);
}

static void on_verify_failed(void *context, enum err error, const char *why)
{
    struct jobs *j = context;
    char path[SLOTS_PATH];
    if (error != ERR_MISMATCH && error != ERR_NOT_FOUND) {
        jobs_fail(j, jobs_code_of(error, JOB_FAIL_DIGEST), error, why);
        return;
    }
    slots_blob_path(j->options.settings->state, artifact(j, j->file)->digest, path);
    unlink(path);
    j->file = 0;
    if (++j->tries[JOB_FAIL_DIGEST] >= job_attempts(JOB_FAIL_DIGEST)) {
        jobs_fail(j, JOB_FAIL_DIGEST, error, why);
        return;
    }
    if (jobs_take(j, &(struct jobs_step){
                          .event = JOB_EVENT_DAMAGED, .code = JOB_FAIL_DIGEST, .error = error, .reason = why}))
        jobs_work(j);
}

void jobs_verify_file(struct jobs *j, const char *path, const uint8_t digest[32], uint64_t bytes,
                        void (*done)(void *, const struct wire *), void (*failed)(void *, enum err, const char *))
{
    struct wire m;
    wire_init(&m, WIRE_VERIFY, 1);
    wire_put_text(&m, WIRE_K_PATH, path);
    wire_put_bytes(&m, WIRE_K_DIGEST, digest, 32);
    wire_put_u64(&m, WIRE_K_BYTES, bytes);
    jobs_start_task(j, &m, done, failed);
}

static void verify(struct jobs *j)
{
    char path[SLOTS_PATH];
    while (j->file < FILES && artifact(j, j->file)->bytes == 0)
        j->file++;
    if (j->file == FILES) {
        j->file = 0;
        if (jobs_take(j, &(struct jobs_step){.event = JOB_EVENT_VERIFIED}))
            jobs_work(j);
        return;
    }
    const struct message_artifact *a = artifact(j, j->file);
    slots_blob_path(j->options.settings->state, a->digest, path);
    jobs_verify_file(j, path, a->digest, a->bytes, on_fetched, on_verify_failed);
}

/* ---- the end, and the table ---- */

static void tidy(struct jobs *j)
{
    struct store_txn *t;
    bool keeps = j->now.state != JOB_IDLE && !job_is_ended(j->now.state);
    const struct settings *s = j->options.settings;
    uint64_t left = slots_disk_free(s->state);
    /* What nobody needs now may be needed again: the next plan is often for the same base. */
    uint64_t keep_bytes = s->disk_bytes ? s->disk_bytes / 2 : left == UINT64_MAX ? 0 : left / 4;
    if (store_begin(j->options.store, false, &t) == ERR_NONE) {
        slots_sweep(s->state, t, keeps ? &j->plan : NULL, keep_bytes);
        store_abort(t);
    }
    j->options.hooks.changed(j->options.hooks.context);
}

void jobs_work(struct jobs *j)
{
    switch (j->now.state) {
    case JOB_OFFERED: judge(j); break;
    case JOB_DEFERRED: wait_for_window(j); break;
    case JOB_ACCEPTED:
        j->file = 0;
        if (jobs_take(j, &(struct jobs_step){.event = JOB_EVENT_START}))
            jobs_work(j);
        break;
    case JOB_FETCHING: fetch(j); break;
    case JOB_VERIFYING: verify(j); break;
    case JOB_DERIVING: jobs_derive(j); break;
    case JOB_SELFTEST: jobs_selftest(j); break;
    case JOB_STAGED: jobs_begin_trial(j); break;
    case JOB_TRIAL: jobs_run_trial(j); break;
    default: tidy(j); break;
    }
}

void jobs_start(struct jobs *j, const struct message_birth *birth)
{
    j->birth = birth;
    if (j->now.state == JOB_IDLE || job_is_ended(j->now.state)) {
        tidy(j);
        return;
    }
    if (j->now.state == JOB_TRIAL)
        j->restarts++;
    if (j->now.state == JOB_TRIAL && j->restarts > j->options.settings->trial_attempts) {
        jobs_fail(j, JOB_TRIAL_RESTARTS, ERR_CRASHED, "the agent started too often without a commit");
        return;
    }
    if (jobs_take(j, &(struct jobs_step){.event = JOB_EVENT_RESTART}))
        jobs_work(j);
}
