/* jobs_work.c: what is done in each state of the job. */
#include "agent/jobs_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/log.h"
#include "compress/recipe.h"

enum {
    FILES = 3,
    BACKOFF_MS = 1000,
    BACKOFF_MOST_MS = 60000,
    CONTACT_AGAIN_MS = 10000,
    KILLS_MAX = 3,       /* of the trial's worker from outside */
    BAD_LEAST = 3,       /* failed requests before their share counts */
    SILENT_LEAST_MS = 3600 * 1000
};

static void later(struct jobs *j, int64_t delay_ms);

static void on_later(void *context)
{
    jobs_work(context);
}

static void later(struct jobs *j, int64_t delay_ms)
{
    loop_set_timer(j->options.loop, &j->again, delay_ms, on_later, j);
}

void jobs_fail(struct jobs *j, uint32_t code, enum err error, const char *reason)
{
    if (error == ERR_CANCELLED) { /* only a task of ours in our own way */
        later(j, BACKOFF_MS);
        return;
    }
    uint32_t tries = code < JOBS_TRIES && j->tries[code] < UINT8_MAX ? ++j->tries[code] : UINT8_MAX;
    struct jobs_step step = {.event = JOB_EVENT_FAIL, .code = code, .error = error, .reason = reason};
    if (job_is_retryable(code) && tries < job_attempts(code)) {
        step.event = JOB_EVENT_RETRY;
        if (!jobs_take(j, &step))
            return;
        uint32_t wait = BACKOFF_MS << (tries < 7 ? tries - 1 : 6);
        if (wait > BACKOFF_MOST_MS)
            wait = BACKOFF_MOST_MS;
        later(j, wait / 2 + loop_jitter(wait));
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

static uint32_t code_of(enum err error, uint32_t otherwise)
{
    switch (error) {
    case ERR_CRASHED: return JOB_FAIL_CRASH;
    case ERR_TIMEOUT: return JOB_FAIL_HANG;
    case ERR_MEMORY: return JOB_FAIL_MEMORY;
    case ERR_IO: return JOB_FAIL_DISK;
    default: return otherwise;
    }
}

static bool start_task(struct jobs *j, const struct wire *request, void (*done)(void *, const struct wire *),
                       void (*failed)(void *, enum err, const char *))
{
    struct task_options options = {.weight = TASK_JOB, .context = j, .done = done, .failed = failed};
    enum err e = task_start(j->options.task, &options, request);
    if (e == ERR_NONE)
        return true;
    if (e == ERR_FULL) /* the one of before is on its way out */
        later(j, BACKOFF_MS);
    else
        jobs_fail(j, code_of(e, JOB_FAIL_CRASH), e, "no worker could be started");
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
                                   .disk_free_bytes = left};
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
        later(j, left < 60000 ? (int64_t)left : 60000);
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
                                            : code_of(error, JOB_FAIL_FETCH);
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
    start_task(j, &m, on_fetched, on_fetch_failed);
}

static void on_verify_failed(void *context, enum err error, const char *why)
{
    struct jobs *j = context;
    char path[SLOTS_PATH];
    if (error != ERR_MISMATCH && error != ERR_NOT_FOUND) {
        jobs_fail(j, code_of(error, JOB_FAIL_DIGEST), error, why);
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

static void send_verify(struct jobs *j, const char *path, const uint8_t digest[32], uint64_t bytes,
                        void (*done)(void *, const struct wire *), void (*failed)(void *, enum err, const char *))
{
    struct wire m;
    wire_init(&m, WIRE_VERIFY, 1);
    wire_put_text(&m, WIRE_K_PATH, path);
    wire_put_bytes(&m, WIRE_K_DIGEST, digest, 32);
    wire_put_u64(&m, WIRE_K_BYTES, bytes);
    start_task(j, &m, done, failed);
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
    send_verify(j, path, a->digest, a->bytes, on_fetched, on_verify_failed);
}

/* ---- DERIVING ---- */

static bool is_zero(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i])
            return false;
    return true;
}

static void take_derived(struct jobs *j, const uint8_t digest[32], uint64_t bytes, double seconds)
{
    memcpy(j->now.variant, digest, 32);
    j->now.measured.variant_bytes = bytes;
    j->now.measured.derive_s = (float)seconds;
    if (jobs_take(j, &(struct jobs_step){.event = JOB_EVENT_DERIVED}))
        jobs_work(j);
}

static void on_derived(void *context, const struct wire *answer)
{
    struct jobs *j = context;
    const char *folder = j->options.settings->state;
    char from[SLOTS_PATH], to[SLOTS_PATH], dir[SLOTS_PATH];
    const void *digest;
    size_t size;
    if (!wire_view(answer, WIRE_K_DIGEST, &digest, &size) || size != 32) {
        jobs_fail(j, JOB_FAIL_DERIVE, ERR_FORMAT, "the worker named no digest");
        return;
    }
    if (!is_zero(j->plan.variant, 32) && memcmp(digest, j->plan.variant, 32) != 0) {
        jobs_fail(j, JOB_FAIL_MISMATCH, ERR_MISMATCH, "the variant has another digest than the plan predicts");
        return;
    }
    slots_work_path(folder, j->now.plan_id, from);
    slots_variant_path(folder, digest, to);
    snprintf(dir, sizeof dir, "%s/variants", folder);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && rename(from, to) == 0 && fsync(fd) == 0;
    if (fd >= 0)
        close(fd);
    if (!ok) {
        jobs_fail(j, JOB_FAIL_DISK, ERR_IO, strerror(errno));
        return;
    }
    take_derived(j, digest, wire_u64(answer, WIRE_K_BYTES, 0), wire_f64(answer, WIRE_K_SECONDS, 0));
}

static void on_derive_failed(void *context, enum err error, const char *why)
{
    jobs_fail(context, error == ERR_MISMATCH ? JOB_FAIL_MISMATCH : code_of(error, JOB_FAIL_DERIVE), error, why);
}

static void on_found_good(void *context, const struct wire *answer)
{
    struct jobs *j = context;
    (void)answer;
    take_derived(j, j->plan.variant, j->plan.variant_bytes, 0);
}

static void derive(struct jobs *j);

static void on_found_bad(void *context, enum err error, const char *why)
{
    struct jobs *j = context;
    char path[SLOTS_PATH];
    if (error != ERR_MISMATCH && error != ERR_NOT_FOUND) {
        on_derive_failed(j, error, why);
        return;
    }
    slots_variant_path(j->options.settings->state, j->plan.variant, path);
    unlink(path);
    derive(j);
}

/* Puts the files that derivation and self-test need into m; paths are SLOTS_PATH each, and live on. */
struct inputs {
    char base[SLOTS_PATH], profile[SLOTS_PATH], text[SLOTS_PATH], path[SLOTS_PATH];
};

static void put_inputs(struct jobs *j, struct wire *m, struct inputs *in)
{
    const char *folder = j->options.settings->state;
    slots_blob_path(folder, j->plan.base.digest, in->base);
    wire_put_text(m, WIRE_K_BASE, in->base);
    if (j->plan.profile.bytes) {
        slots_blob_path(folder, j->plan.profile.digest, in->profile);
        wire_put_text(m, WIRE_K_PROFILE, in->profile);
    }
    if (j->plan.text.bytes) {
        slots_blob_path(folder, j->plan.text.digest, in->text);
        wire_put_bytes(m, WIRE_K_TEXTS, in->text, strlen(in->text) + 1);
    }
    wire_put_text(m, WIRE_K_PATH, in->path);
}

static void derive(struct jobs *j)
{
    const char *folder = j->options.settings->state;
    struct inputs in;
    uint8_t *payload = NULL;
    size_t bytes;
    slots_variant_path(folder, j->plan.variant, in.path);
    if (!is_zero(j->plan.variant, 32) && slots_has_file(in.path, j->plan.variant_bytes)) {
        send_verify(j, in.path, j->plan.variant, j->plan.variant_bytes, on_found_good, on_found_bad);
        return;
    }
    if (jobs_payload(j, &payload, &bytes)) {
        jobs_fail(j, JOB_FAIL_DISK, ERR_IO, "the plan cannot be read back");
        return;
    }
    struct wire m;
    wire_init(&m, WIRE_DERIVE, 1);
    slots_work_path(folder, j->now.plan_id, in.path);
    put_inputs(j, &m, &in);
    wire_put_bytes(&m, WIRE_K_PLAN, payload, bytes);
    start_task(j, &m, on_derived, on_derive_failed);
    free(payload);
}

/* ---- SELFTEST ---- */

static uint32_t missed_gate(const struct message_plan *p, const struct message_measured *m, const struct wire *answer,
                            char *why, size_t why_bytes)
{
    const struct message_gates *g = &p->gates;
    const struct {
        uint32_t code;
        double limit, value;
        bool is_least;
        const char *name;
    } gates[] = {
        {JOB_GATE_DPPL, (double)g->dppl_percent, (double)m->dppl_percent, false, "dPPL %"},
        {JOB_GATE_KLD, (double)g->kld_mean, wire_f64(answer, WIRE_K_KLD, NAN), false, "mean KLD"},
        {JOB_GATE_TOP1, (double)g->top1_percent, (double)m->top1_percent, true, "top-1 %"},
        {JOB_GATE_DECODE, (double)g->decode_tok_s, (double)m->decode_tok_s, true, "decode tok/s"},
        {JOB_GATE_PREFILL, (double)g->prefill_tok_s, (double)m->prefill_tok_s, true, "prefill tok/s"},
        {JOB_GATE_RSS, (double)g->rss_bytes, (double)m->rss_bytes, false, "RSS bytes"},
    };
    bool is_text_measured = !isnan(wire_f64(answer, WIRE_K_PPL, NAN));
    for (size_t i = 0; i < sizeof gates / sizeof gates[0]; i++) {
        if (!(gates[i].limit > 0))
            continue;
        if (isnan(gates[i].value) || (i < 3 && !is_text_measured)) {
            snprintf(why, why_bytes, "%s could not be measured", gates[i].name);
            return JOB_FAIL_SELFTEST;
        }
        bool ok = gates[i].is_least ? gates[i].value >= gates[i].limit : gates[i].value <= gates[i].limit;
        if (!ok) {
            snprintf(why, why_bytes, "%s is %.6g, the limit is %.6g", gates[i].name, gates[i].value, gates[i].limit);
            return gates[i].code;
        }
    }
    return JOB_OK;
}

/* What the worker held against the recipe's gates itself, those that the signed plan has no field for among
 * them. */
static uint32_t missed_there(const struct wire *answer, char *why, size_t why_bytes)
{
    static const uint32_t code[RECIPE_GATES] = {
        [RECIPE_DPPL_PERCENT] = JOB_GATE_DPPL,
        [RECIPE_KLD_MEAN] = JOB_GATE_KLD,
        [RECIPE_KLD_P99] = JOB_GATE_KLD_P99,
        [RECIPE_TOP1] = JOB_GATE_TOP1,
        [RECIPE_DECODE_TOK_S] = JOB_GATE_DECODE,
        [RECIPE_PREFILL_TOK_S] = JOB_GATE_PREFILL,
        [RECIPE_RSS_MIB] = JOB_GATE_RSS,
        [RECIPE_FILE_MIB] = JOB_GATE_FILE,
        [RECIPE_WORST_DPPL_PERCENT] = JOB_GATE_WORST_DPPL,
        [RECIPE_WORST_KLD_MEAN] = JOB_GATE_WORST_KLD,
        [RECIPE_ENERGY_MJ_TOKEN] = JOB_GATE_ENERGY};
    const uint64_t gate = wire_u64(answer, WIRE_K_GATE, UINT64_MAX);
    if (gate == UINT64_MAX)
        return JOB_OK;
    if (!wire_text(answer, WIRE_K_TEXT, why, why_bytes))
        snprintf(why, why_bytes, "a gate was missed");
    return gate < RECIPE_GATES ? code[gate] : (uint32_t)JOB_FAIL_SELFTEST;
}

static float number(const struct wire *m, uint32_t key)
{
    double v = wire_f64(m, key, 0);
    return isfinite(v) ? (float)v : 0;
}

static enum err also_stage(struct jobs *j, struct store_txn *t, void *context)
{
    uint8_t *payload = NULL;
    const void *value;
    size_t bytes;
    uint32_t spare;
    (void)context;
    enum err e = store_get(t, "job.plan", &value, &bytes);
    if (e)
        return e;
    payload = malloc(bytes ? bytes : 1); /* a view does not outlive the next write */
    if (!payload)
        return ERR_MEMORY;
    memcpy(payload, value, bytes);
    e = slots_spare(t, &spare);
    if (!e)
        e = slots_put(t, spare, j->now.variant, j->now.measured.variant_bytes, payload, bytes);
    free(payload);
    return e;
}

static void on_tested(void *context, const struct wire *answer)
{
    struct jobs *j = context;
    char why[MESSAGE_TEXT_MAX];
    struct message_measured *m = &j->now.measured;
    m->ppl = number(answer, WIRE_K_PPL);
    m->ppl_base = number(answer, WIRE_K_PPL_BASE);
    m->dppl_percent = m->ppl_base > 0 ? 100 * (m->ppl / m->ppl_base - 1) : 0;
    m->kld_mean = number(answer, WIRE_K_KLD);
    m->kld_99 = number(answer, WIRE_K_KLD_99);
    m->kld_max = number(answer, WIRE_K_KLD_MAX);
    m->top1_percent = 100 * number(answer, WIRE_K_TOP1);
    m->decode_tok_s = number(answer, WIRE_K_DECODE);
    m->prefill_tok_s = number(answer, WIRE_K_PREFILL);
    m->rss_bytes = wire_u64(answer, WIRE_K_RSS, 0);
    m->bits_per_weight = number(answer, WIRE_K_BPW);
    m->energy_j = number(answer, WIRE_K_ENERGY);
    if (!wire_text(answer, WIRE_K_PLUGIN, j->now.plugin, sizeof j->now.plugin))
        j->now.plugin[0] = 0;
    uint32_t code = missed_gate(&j->plan, m, answer, why, sizeof why);
    if (!code)
        code = missed_there(answer, why, sizeof why);
    if (code) {
        jobs_fail(j, code, ERR_GATE, why);
        return;
    }
    if (jobs_take(j, &(struct jobs_step){.event = JOB_EVENT_PASSED, .also = also_stage}))
        jobs_work(j);
}

static void on_test_failed(void *context, enum err error, const char *why)
{
    jobs_fail(context, code_of(error, JOB_FAIL_SELFTEST), error, why);
}

static void selftest(struct jobs *j)
{
    struct inputs in;
    uint8_t *payload = NULL;
    size_t bytes;
    struct wire m;
    if (jobs_payload(j, &payload, &bytes)) {
        jobs_fail(j, JOB_FAIL_DISK, ERR_IO, "the plan cannot be read back");
        return;
    }
    wire_init(&m, WIRE_SELFTEST, 1);
    slots_variant_path(j->options.settings->state, j->now.variant, in.path);
    put_inputs(j, &m, &in);
    wire_put_bytes(&m, WIRE_K_PLAN, payload, bytes);
    start_task(j, &m, on_tested, on_test_failed);
    free(payload);
}

/* ---- STAGED, TRIAL ---- */

static void begin_trial(struct jobs *j)
{
    if (!j->options.hooks.in_contact(j->options.hooks.context)) {
        j->options.hooks.ask_contact(j->options.hooks.context);
        later(j, CONTACT_AGAIN_MS);
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

static void run_trial(struct jobs *j)
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
        begin_trial(j);
    else if (j->now.state == JOB_TRIAL && j->trial_from_ms)
        on_trial(j);
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
    case JOB_DERIVING: derive(j); break;
    case JOB_SELFTEST: selftest(j); break;
    case JOB_STAGED: begin_trial(j); break;
    case JOB_TRIAL: run_trial(j); break;
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
