#include "harness.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent/jobs.h"
#include "agent_fixture.h"
#include "compress/plan.h"
#include "protocol/envelope.h"

/* One agent's job with the others played by the test. */
static struct play {
    struct fixture f;
    struct store *store;
    struct task *task;
    struct jobs *jobs;
    struct message_birth birth;
    bool is_reachable;
    int trials, untrials, promotes, restores;
    uint32_t kill_at, posts; /* SIGKILL at that report */
    bool fails_trial;
} p;

static uint64_t hook_now(void *context)
{
    (void)context;
    return (uint64_t)time(NULL) * 1000;
}

static bool hook_contact(void *context)
{
    (void)context;
    return p.is_reachable;
}

static void hook_nothing(void *context)
{
    (void)context;
}

static void hook_posted(void *context)
{
    (void)context;
    if (++p.posts == p.kill_at)
        raise(SIGKILL);
}

static enum err hook_trial(void *context, const char *path, const struct message_plan *plan)
{
    (void)context;
    (void)plan;
    p.trials++;
    return access(path, R_OK) == 0 && !p.fails_trial ? ERR_NONE : ERR_IO;
}

static void hook_untrial(void *context)
{
    (void)context;
    p.untrials++;
}

static void hook_promote(void *context)
{
    (void)context;
    p.promotes++;
}

static void hook_restore(void *context)
{
    (void)context;
    p.restores++;
}

static enum err open_jobs(void)
{
    struct jobs_options o = {.loop = p.f.loop,
                             .settings = &p.f.settings,
                             .identity = &p.f.identity,
                             .keys = &p.f.keys,
                             .hooks = {.now_ms = hook_now,
                                       .in_contact = hook_contact,
                                       .ask_contact = hook_nothing,
                                       .posted = hook_posted,
                                       .changed = hook_nothing,
                                       .trial = hook_trial,
                                       .untrial = hook_untrial,
                                       .promote = hook_promote,
                                       .restore = hook_restore}};
    enum err e = store_open(p.f.folder, &p.store);
    if (!e)
        e = task_open(p.f.loop, &p.f.settings, &p.task);
    o.store = p.store;
    o.task = p.task;
    if (!e)
        e = jobs_open(&o, &p.jobs);
    if (!e)
        jobs_start(p.jobs, &p.birth);
    return e;
}

static void close_jobs(void)
{
    jobs_close(p.jobs);
    task_close(p.task);
    store_close(p.store);
}

static void begin(void)
{
    memset(&p, 0, sizeof p);
    fixture_open(&p.f);
    p.is_reachable = true;
    p.birth.plugins = 1;
    strcpy(p.birth.plugin[0].name, "scalar");
    CU_ASSERT_FATAL(open_jobs() == ERR_NONE);
}

static void end(void)
{
    close_jobs();
    fixture_close(&p.f);
}

static uint32_t offer(const struct message_plan *plan)
{
    static uint8_t bytes[8192];
    return jobs_offer(p.jobs, bytes, fixture_sign_plan(&p.f, plan, bytes, sizeof bytes));
}

static uint32_t offer_version(uint64_t version)
{
    struct message_plan plan;
    fixture_plan(&p.f, version, &plan);
    return offer(&plan);
}

static bool is_in(void *context)
{
    uint32_t state = *(uint32_t *)context;
    if (jobs_state(p.jobs) == JOB_TRIAL && state != JOB_TRIAL)
        jobs_trial_ready(p.jobs);
    return jobs_state(p.jobs) == state;
}

static bool reaches(uint32_t state)
{
    return fixture_wait(&p.f, 20000, is_in, &state);
}

/* The newest report that waits. */
static struct message_job last_report(void)
{
    struct store_txn *t;
    struct store_report r;
    struct envelope envelope;
    struct message_job m = {0}, newest = {0};
    uint64_t epoch = 0, seq = 0;
    CU_ASSERT_FATAL(store_begin(p.store, false, &t) == ERR_NONE);
    while (store_next_report(t, MESSAGE_STREAM_JOB, epoch, seq, &r) == ERR_NONE) {
        CU_ASSERT(envelope_open(r.bytes, r.size, p.f.identity.key.public_key, "demo", ENVELOPE_DEVICE, MESSAGE_JOB,
                                &envelope) == ERR_NONE);
        m = (struct message_job){0};
        CU_ASSERT(message_job_decode(envelope.payload, envelope.payload_bytes, &m) == ERR_NONE);
        CU_ASSERT(m.epoch == r.epoch && m.seq == r.seq);
        newest = m;
        epoch = r.epoch;
        seq = r.seq;
    }
    store_abort(t);
    return newest;
}

static uint32_t active_slot(struct slot *slot)
{
    struct store_txn *t;
    uint32_t active = 9;
    CU_ASSERT_FATAL(store_begin(p.store, false, &t) == ERR_NONE);
    CU_ASSERT(slots_active(t, &active) == ERR_NONE);
    if (active < SLOTS_NONE)
        CU_ASSERT(slots_get(t, active, slot) == ERR_NONE);
    store_abort(t);
    return active;
}

static void test_commit(void)
{
    struct slot slot;
    begin();
    CU_ASSERT_EQUAL(active_slot(&slot), SLOTS_NONE);
    CU_ASSERT_EQUAL(offer_version(1), JOB_OK);
    CU_ASSERT_EQUAL(offer_version(1), JOB_OK); /* in hand already: no second job */
    CU_ASSERT(reaches(JOB_COMMITTED));
    struct message_job m = last_report();
    CU_ASSERT(m.state == JOB_COMMITTED && m.variant[0] == 0x44 && m.plan_version == 1);
    CU_ASSERT(m.measured.kld_mean > 0 && m.measured.dppl_percent > 0.9f && m.measured.dppl_percent < 1.1f);
    CU_ASSERT(active_slot(&slot) == 0 && slot.variant[0] == 0x44 && slot.variant_bytes == 5);
    CU_ASSERT(p.trials == 1 && p.promotes == 1 && p.untrials == 0);
    CU_ASSERT_EQUAL(offer_version(1), JOB_OK); /* idempotent */
    CU_ASSERT_EQUAL(jobs_state(p.jobs), JOB_COMMITTED);
    /* the next one goes to the other slot */
    CU_ASSERT_EQUAL(offer_version(2), JOB_OK);
    CU_ASSERT(reaches(JOB_COMMITTED));
    CU_ASSERT(active_slot(&slot) == 1 && slot.plan.version == 2);
    end();
}

static void expect_failure(const char *variable, const char *value, uint32_t state, uint32_t code)
{
    struct slot slot;
    begin();
    CU_ASSERT_EQUAL(offer_version(1), JOB_OK);
    CU_ASSERT(reaches(JOB_COMMITTED));
    setenv(variable, value, 1);
    struct message_plan plan;
    fixture_plan(&p.f, 2, &plan);
    memset(plan.variant, 0x45, 32); /* another variant, so that it is derived */
    setenv("STUB_DIGEST", "69", 0);
    CU_ASSERT_EQUAL(offer(&plan), JOB_OK);
    CU_ASSERT(reaches(state));
    struct message_job m = last_report();
    CU_ASSERT_EQUAL(m.code, code);
    CU_ASSERT(m.reason[0] != 0);
    CU_ASSERT(active_slot(&slot) == 0 && slot.plan.version == 1); /* the old variant serves on */
    CU_ASSERT_EQUAL(p.promotes, 1);
    end();
}

static void test_failures(void)
{
    expect_failure("STUB_KLD", "0.9", JOB_FAILED, JOB_GATE_KLD);
    expect_failure("STUB_GATE", "9", JOB_FAILED, JOB_GATE_WORST_KLD);
    expect_failure("STUB_DIGEST", "7", JOB_FAILED, JOB_FAIL_MISMATCH);
    expect_failure("STUB_DERIVE", "damaged", JOB_FAILED, JOB_FAIL_MISMATCH);
}

/* A failure that passes is tried again and the job still commits. */
static void test_retries(void)
{
    static const char *const cases[][2] = {{"STUB_FETCH", "fail"},      {"STUB_FETCH", "damaged"},
                                           {"STUB_VERIFY", "damaged"},  {"STUB_DERIVE", "crash"},
                                           {"STUB_DERIVE", "fail"},     {"STUB_SELFTEST", "crash"},
                                           {"STUB_SELFTEST", "memory"}, {"STUB_SELFTEST", "garbage"}};
    char once[300];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        begin();
        snprintf(once, sizeof once, "%s/once", p.f.folder);
        setenv("STUB_ONCE", once, 1);
        setenv(cases[i][0], cases[i][1], 1);
        CU_ASSERT_EQUAL(offer_version(1), JOB_OK);
        CU_ASSERT(reaches(JOB_COMMITTED));
        CU_ASSERT(access(once, F_OK) == 0); /* it did go wrong */
        end();
    }
}

static void test_hang(void)
{
    char once[300];
    begin();
    p.f.settings.hang_s = 1;
    snprintf(once, sizeof once, "%s/once", p.f.folder);
    setenv("STUB_ONCE", once, 1);
    setenv("STUB_DERIVE", "hang", 1);
    CU_ASSERT_EQUAL(offer_version(1), JOB_OK);
    CU_ASSERT(reaches(JOB_COMMITTED));
    CU_ASSERT(access(once, F_OK) == 0);
    end();
}

static void test_contact(void)
{
    begin();
    p.is_reachable = false;
    CU_ASSERT_EQUAL(offer_version(1), JOB_OK);
    CU_ASSERT(reaches(JOB_STAGED)); /* tested, but nobody is there to hear of it */
    for (int i = 0; i < 5; i++)
        CU_ASSERT(loop_once(p.f.loop, 10) == ERR_NONE);
    CU_ASSERT_EQUAL(jobs_state(p.jobs), JOB_STAGED);
    p.is_reachable = true;
    jobs_contact(p.jobs);
    CU_ASSERT_EQUAL(jobs_state(p.jobs), JOB_TRIAL);
    p.is_reachable = false; /* lost during the trial: no commit */
    jobs_trial_ready(p.jobs);
    CU_ASSERT_EQUAL(jobs_state(p.jobs), JOB_TRIAL);
    p.is_reachable = true;
    jobs_contact(p.jobs);
    CU_ASSERT_EQUAL(jobs_state(p.jobs), JOB_COMMITTED);
    end();
}

static void begin_trial(uint32_t requests)
{
    struct message_plan plan;
    begin();
    fixture_plan(&p.f, 1, &plan);
    plan.trial_requests = requests;
    CU_ASSERT_EQUAL(offer(&plan), JOB_OK);
    CU_ASSERT(reaches(JOB_TRIAL));
    jobs_trial_ready(p.jobs);
    CU_ASSERT_EQUAL(jobs_state(p.jobs), JOB_TRIAL);
}

static void test_trial(void)
{
    begin_trial(3);
    jobs_trial_answered(p.jobs, true);
    jobs_trial_answered(p.jobs, false);
    jobs_trial_answered(p.jobs, true);
    CU_ASSERT_EQUAL(jobs_state(p.jobs), JOB_TRIAL);
    jobs_trial_answered(p.jobs, true);
    CU_ASSERT_EQUAL(jobs_state(p.jobs), JOB_COMMITTED);
    end();

    begin_trial(100);
    for (int i = 0; i < 4; i++)
        jobs_trial_answered(p.jobs, false);
    CU_ASSERT_EQUAL(jobs_state(p.jobs), JOB_ROLLED_BACK);
    CU_ASSERT_EQUAL(last_report().code, JOB_TRIAL_ERRORS);
    CU_ASSERT_EQUAL(p.untrials, 1);
    end();

    begin_trial(100);
    CU_ASSERT(jobs_trial_crashed(p.jobs, true, "signal 9"));
    CU_ASSERT(!jobs_trial_crashed(p.jobs, false, "signal 11"));
    CU_ASSERT_EQUAL(jobs_state(p.jobs), JOB_ROLLED_BACK);
    CU_ASSERT_EQUAL(last_report().code, JOB_TRIAL_CRASH);
    end();

    begin();
    p.fails_trial = true;
    CU_ASSERT_EQUAL(offer_version(1), JOB_OK);
    CU_ASSERT(reaches(JOB_ROLLED_BACK));
    end();
}

/* Starts of the agent during a trial are counted; too many end it. */
static void test_restarts(void)
{
    struct slot slot;
    begin_trial(100);
    for (uint32_t i = 0; i < p.f.settings.trial_attempts; i++) {
        close_jobs();
        CU_ASSERT_FATAL(open_jobs() == ERR_NONE);
        CU_ASSERT_EQUAL(jobs_state(p.jobs), JOB_TRIAL);
    }
    close_jobs();
    CU_ASSERT_FATAL(open_jobs() == ERR_NONE);
    CU_ASSERT_EQUAL(jobs_state(p.jobs), JOB_ROLLED_BACK);
    CU_ASSERT_EQUAL(last_report().code, JOB_TRIAL_RESTARTS);
    CU_ASSERT_EQUAL(active_slot(&slot), SLOTS_NONE);
    end();
}

static void test_orders(void)
{
    struct message_plan plan;
    struct slot slot;
    uint8_t other[16] = {9};
    begin();
    setenv("STUB_DERIVE", "hang", 1);
    fixture_plan(&p.f, 1, &plan);
    CU_ASSERT_EQUAL(offer(&plan), JOB_OK);
    CU_ASSERT(reaches(JOB_DERIVING));
    CU_ASSERT_EQUAL(jobs_cancel(p.jobs, other), ERR_NOT_FOUND);
    CU_ASSERT_EQUAL(jobs_cancel(p.jobs, plan.plan_id), ERR_NONE);
    CU_ASSERT_EQUAL(jobs_state(p.jobs), JOB_FAILED);
    CU_ASSERT_EQUAL(last_report().code, JOB_CANCELLED);
    CU_ASSERT(!task_is_busy(p.task));
    /* a newer plan takes the place of one in work */
    CU_ASSERT_EQUAL(offer_version(2), JOB_OK);
    CU_ASSERT(reaches(JOB_DERIVING));
    unsetenv("STUB_DERIVE");
    CU_ASSERT_EQUAL(offer_version(3), JOB_OK);
    CU_ASSERT(reaches(JOB_COMMITTED));
    CU_ASSERT(active_slot(&slot) == 0 && slot.plan.version == 3);
    CU_ASSERT_EQUAL(jobs_cancel(p.jobs, slot.plan.plan_id), ERR_ARGUMENT);
    CU_ASSERT_EQUAL(offer_version(2), JOB_REJECT_STALE);
    /* revert of the first one ever: nothing serves again; of a second one: the first */
    CU_ASSERT_EQUAL(offer_version(4), JOB_OK);
    CU_ASSERT(reaches(JOB_COMMITTED));
    CU_ASSERT(active_slot(&slot) == 1);
    CU_ASSERT_EQUAL(jobs_revert(p.jobs, other), ERR_NOT_FOUND);
    CU_ASSERT_EQUAL(jobs_revert(p.jobs, slot.plan.plan_id), ERR_NONE);
    CU_ASSERT_EQUAL(jobs_state(p.jobs), JOB_ROLLED_BACK);
    CU_ASSERT(active_slot(&slot) == 0 && slot.plan.version == 3 && p.restores == 1);
    end();
}

static void test_judged(void)
{
    struct message_plan plan;
    begin();
    fixture_plan(&p.f, 1, &plan);
    strcpy(plan.plugin.name, "neon");
    CU_ASSERT_EQUAL(offer(&plan), JOB_OK);
    CU_ASSERT_EQUAL(jobs_state(p.jobs), JOB_REJECTED);
    CU_ASSERT_EQUAL(last_report().code, JOB_REJECT_PLUGIN);
    /* made by a version whose encoders write other bytes */
    const uint8_t other_schema[] = {0xa1, PLAN_KEY_SCHEMA, PLAN_SCHEMA + 1};
    fixture_plan(&p.f, 2, &plan);
    plan.derivation = (struct message_blob){other_schema, sizeof other_schema};
    CU_ASSERT_EQUAL(offer(&plan), JOB_OK);
    CU_ASSERT_EQUAL(jobs_state(p.jobs), JOB_REJECTED);
    CU_ASSERT_EQUAL(last_report().code, JOB_REJECT_VERSION);
    fixture_plan(&p.f, 3, &plan);
    plan.not_before_ms = hook_now(NULL) + 1200;
    CU_ASSERT_EQUAL(offer(&plan), JOB_OK);
    CU_ASSERT_EQUAL(jobs_state(p.jobs), JOB_DEFERRED);
    CU_ASSERT(reaches(JOB_COMMITTED));
    /* an expired one is told once and changes nothing */
    fixture_plan(&p.f, 4, &plan);
    plan.not_after_ms = 1000;
    uint32_t posts = p.posts;
    CU_ASSERT_EQUAL(offer(&plan), JOB_REJECT_EXPIRED);
    CU_ASSERT_EQUAL(offer(&plan), JOB_REJECT_EXPIRED);
    CU_ASSERT_EQUAL(p.posts, posts + 1);
    CU_ASSERT_EQUAL(jobs_state(p.jobs), JOB_COMMITTED);
    CU_ASSERT_EQUAL(jobs_newest_plan(p.jobs), 3);
    struct message_job m = last_report();
    CU_ASSERT(m.state == JOB_REJECTED && m.code == JOB_REJECT_EXPIRED && m.plan_version == 4);
    end();
}

/* kill -9 right after the n-th step has been stored, for every n, then start again, as often as it takes. */
static void test_kill(void)
{
    enum { MOST = 12 };
    bool seen[JOB_STATES] = {false};
    for (uint32_t n = 1; n <= MOST; n++) {
        struct slot slot;
        int status = 0;
        begin();
        p.f.settings.trial_attempts = 20;
        close_jobs();
        for (int start = 0; start < 3; start++) {
            fflush(stdout);
            pid_t child = fork();
            if (child == 0) {
                loop_close(p.f.loop); /* an epoll set is shared with the parent otherwise */
                if (loop_open(&p.f.loop))
                    _exit(9);
                p.kill_at = start == 0 ? n : start == 1 ? n / 2 + 1 : 0;
                p.posts = 0;
                if (open_jobs())
                    _exit(8);
                if (jobs_state(p.jobs) == JOB_IDLE && offer_version(1))
                    _exit(7);
                _exit(reaches(JOB_COMMITTED) ? 0 : 6);
            }
            CU_ASSERT_FATAL(waitpid(child, &status, 0) == child);
            CU_ASSERT(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0);
            struct store_txn *t;
            struct message_job m = {0};
            const void *value;
            size_t bytes;
            CU_ASSERT_FATAL(store_open(p.f.folder, &p.store) == ERR_NONE);
            CU_ASSERT_FATAL(store_begin(p.store, false, &t) == ERR_NONE);
            if (store_get(t, "job", &value, &bytes) == ERR_NONE && message_job_decode(value, bytes, &m) == ERR_NONE)
                seen[m.state] = true;
            store_abort(t);
            store_close(p.store);
        }
        CU_ASSERT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        CU_ASSERT_FATAL(open_jobs() == ERR_NONE);
        CU_ASSERT_EQUAL(jobs_state(p.jobs), JOB_COMMITTED);
        CU_ASSERT(active_slot(&slot) == 0 && slot.variant[0] == 0x44);
        CU_ASSERT_EQUAL(last_report().state, JOB_COMMITTED);
        end();
    }
    static const uint32_t all[] = {JOB_OFFERED,  JOB_ACCEPTED, JOB_FETCHING, JOB_VERIFYING, JOB_DERIVING,
                                   JOB_SELFTEST, JOB_STAGED,   JOB_TRIAL,    JOB_COMMITTED};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        CU_ASSERT(seen[all[i]]); /* it was killed in each of them */
}

RUN_SUITE("jobs", {"commit", test_commit}, {"failures leave the old variant", test_failures},
          {"retries", test_retries}, {"a worker that hangs", test_hang}, {"contact", test_contact},
          {"trial", test_trial}, {"restarts", test_restarts}, {"cancel, supersede, revert", test_orders},
          {"rejected, deferred, refused", test_judged}, {"kill -9 in each state", test_kill})
