/* rollout_test.c: the rules of a staged release, table by table, without a clock or a network. */
#include "controller/rollout.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/harness.h"

enum { MANY = 1000 };

static struct rollout_rules rules_of(uint32_t stages, const double *fractions)
{
    struct rollout_rules r = {.stages = stages,
                              .advance_ratio = 0.9,
                              .failure_ratio = 0.2,
                              .min_sample = 3,
                              .silence_s = 60,
                              .max_attempts = 1,
                              .is_auto_revert = true};
    memcpy(r.fractions, fractions, stages * sizeof *fractions);
    return r;
}

static const double thirds[] = {0.1, 0.5, 1.0};

/* n devices with stages in order, all online and waiting. */
static void cohort(struct rollout_device *d, size_t n, const struct rollout_rules *rules)
{
    memset(d, 0, n * sizeof *d);
    for (size_t i = 0; i < n; i++) {
        d[i].is_online = true;
        while (d[i].stage + 1 < rules->stages &&
               (double)i >= rules->fractions[d[i].stage] * (double)n - 1e-9)
            d[i].stage++;
    }
}

/* Carry actions out as the controller does. */
static void carry_out(struct rollout_device *d, const struct rollout_action *a, size_t n, int64_t now)
{
    for (size_t i = 0; i < n; i++) {
        struct rollout_device *x = &d[a[i].device];
        switch (a[i].kind) {
        case ROLLOUT_OFFER:
            x->phase = ROLLOUT_OFFERED;
            x->attempt++;
            x->offered_s = now;
            x->has_cancel = false;
            break;
        case ROLLOUT_CANCEL:
            x->has_cancel = true;
            break;
        case ROLLOUT_REVERT:
            x->has_revert = true;
            break;
        }
    }
}

static void report(struct rollout_device *d, enum rollout_phase phase, int64_t now)
{
    d->phase = phase;
    d->reported_s = now;
    if (phase == ROLLOUT_COMMITTED)
        d->committed_s = now;
}

static void assigns_the_same_stages_again(void)
{
    struct rollout_rules rules = rules_of(3, thirds);
    static char names[MANY][16];
    const char *ids[MANY], *turned[MANY];
    uint32_t a[MANY], b[MANY], count[3] = {0};
    for (size_t i = 0; i < MANY; i++) {
        snprintf(names[i], sizeof names[i], "device-%zu", i);
        ids[i] = names[i];
        turned[MANY - 1 - i] = names[i];
    }
    CU_ASSERT_EQUAL(rollout_assign("1", ids, MANY, &rules, a), ERR_NONE);
    CU_ASSERT_EQUAL(rollout_assign("1", turned, MANY, &rules, b), ERR_NONE);
    size_t moved = 0;
    for (size_t i = 0; i < MANY; i++) {
        CU_ASSERT_EQUAL(a[i], b[MANY - 1 - i]);
        count[a[i]]++;
    }
    CU_ASSERT_EQUAL(count[0], 100);
    CU_ASSERT_EQUAL(count[1], 400);
    CU_ASSERT_EQUAL(count[2], 500);
    CU_ASSERT_EQUAL(rollout_assign("2", ids, MANY, &rules, b), ERR_NONE);
    for (size_t i = 0; i < MANY; i++)
        moved += a[i] != b[i];
    CU_ASSERT(moved > MANY / 4); /* another rollout has other canaries */
    CU_ASSERT_EQUAL(rollout_assign("1", ids, 2, &rules, a), ERR_NONE);
    CU_ASSERT_EQUAL(a[0] + a[1], 1); /* one canary, one more in the second stage */
    CU_ASSERT_EQUAL(rollout_assign("1", ids, 1, &rules, a), ERR_NONE);
    CU_ASSERT_EQUAL(a[0], 0);
}

static void goes_through_all_stages(void)
{
    struct rollout r = {.state = ROLLOUT_RUNNING, .rules = rules_of(3, thirds)};
    struct rollout_device d[20];
    struct rollout_action a[20];
    size_t n;
    cohort(d, 20, &r.rules);
    rollout_step(&r, d, 20, 100, a, &n);
    CU_ASSERT_EQUAL(n, 2);
    carry_out(d, a, n, 100);
    rollout_step(&r, d, 20, 101, a, &n);
    CU_ASSERT_EQUAL(n, 0); /* offers are not repeated */
    report(&d[0], ROLLOUT_COMMITTED, 110);
    rollout_step(&r, d, 20, 111, a, &n);
    CU_ASSERT_EQUAL(r.stage, 0); /* 1 of 2 is below 0.9 */
    report(&d[1], ROLLOUT_COMMITTED, 112);
    rollout_step(&r, d, 20, 113, a, &n);
    CU_ASSERT_EQUAL(r.stage, 1);
    CU_ASSERT_EQUAL(n, 8);
    carry_out(d, a, n, 113);
    for (size_t i = 2; i < 10; i++)
        report(&d[i], ROLLOUT_COMMITTED, 120);
    rollout_step(&r, d, 20, 121, a, &n);
    CU_ASSERT_EQUAL(r.stage, 2);
    carry_out(d, a, n, 121);
    for (size_t i = 10; i < 19; i++)
        report(&d[i], ROLLOUT_COMMITTED, 130);
    rollout_step(&r, d, 20, 131, a, &n);
    CU_ASSERT_EQUAL(r.state, ROLLOUT_RUNNING); /* the last device is still on its way */
    report(&d[19], ROLLOUT_UNDONE, 132);
    rollout_step(&r, d, 20, 133, a, &n);
    CU_ASSERT_EQUAL(r.state, ROLLOUT_DONE);
    CU_ASSERT(rollout_is_over(r.state));
}

static void a_bad_canary_stops_the_second_stage(void)
{
    struct rollout r = {.state = ROLLOUT_RUNNING, .rules = rules_of(3, thirds)};
    struct rollout_device d[10];
    struct rollout_action a[10];
    size_t n;
    r.rules.min_sample = 5; /* one canary is far below it */
    cohort(d, 10, &r.rules);
    rollout_step(&r, d, 10, 100, a, &n);
    CU_ASSERT_EQUAL(n, 1);
    carry_out(d, a, n, 100);
    report(&d[0], ROLLOUT_UNDONE, 105);
    rollout_step(&r, d, 10, 106, a, &n);
    CU_ASSERT_EQUAL(n, 0);
    CU_ASSERT(r.state == ROLLOUT_REVERTED || r.state == ROLLOUT_REVERTING);
    CU_ASSERT_EQUAL(r.stage, 0);
    for (size_t i = 1; i < 10; i++)
        CU_ASSERT_EQUAL(d[i].attempt, 0);
    CU_ASSERT(strlen(r.reason) > 0);
}

/* committed, failed -> is it halted? with threshold 0.2 and minimum sample 3 in one stage of 20 */
static void threshold_and_minimum_sample(void)
{
    static const struct {
        unsigned committed, failed;
        bool is_halted;
    } table[] = {{0, 0, false}, {0, 1, false}, {0, 2, false}, {0, 3, true},  {1, 1, false},
                 {2, 1, true},  {3, 1, true},  {4, 1, false}, {9, 1, false}, {8, 2, false},
                 {7, 2, true},  {7, 3, true},  {16, 4, false}};
    static const double one[] = {1.0};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        struct rollout r = {.state = ROLLOUT_RUNNING, .rules = rules_of(1, one)};
        struct rollout_device d[20];
        struct rollout_action a[20];
        size_t n;
        r.rules.advance_ratio = 0.5;
        cohort(d, 20, &r.rules);
        rollout_step(&r, d, 20, 100, a, &n);
        carry_out(d, a, n, 100);
        for (unsigned k = 0; k < table[i].committed + table[i].failed; k++)
            report(&d[k], k < table[i].committed ? ROLLOUT_COMMITTED : ROLLOUT_UNDONE, 101);
        rollout_step(&r, d, 20, 102, a, &n);
        bool is_halted = r.state == ROLLOUT_REVERTING || r.state == ROLLOUT_REVERTED;
        CU_ASSERT_EQUAL(is_halted, table[i].is_halted);
    }
}

static void silence_is_failure(void)
{
    static const double one[] = {1.0};
    struct rollout r = {.state = ROLLOUT_RUNNING, .rules = rules_of(1, one)};
    struct rollout_device d[4];
    struct rollout_action a[4];
    size_t n;
    r.rules.is_auto_revert = false;
    cohort(d, 4, &r.rules);
    rollout_step(&r, d, 4, 100, a, &n);
    carry_out(d, a, n, 100);
    report(&d[0], ROLLOUT_ACTIVE, 110); /* accepted, then silent */
    report(&d[1], ROLLOUT_ACTIVE, 110);
    report(&d[2], ROLLOUT_COMMITTED, 110);
    d[3].is_online = false; /* never heard it */
    rollout_step(&r, d, 4, 165, a, &n);
    CU_ASSERT_EQUAL(r.state, ROLLOUT_RUNNING);
    struct rollout_count c = rollout_count(&r.rules, d, 4, 0, 0, 171);
    CU_ASSERT_EQUAL(c.silent, 2);
    CU_ASSERT_EQUAL(c.absent, 1);
    CU_ASSERT_EQUAL(c.failed, 2);
    rollout_step(&r, d, 4, 171, a, &n);
    CU_ASSERT_EQUAL(r.state, ROLLOUT_HALTED);
    CU_ASSERT_EQUAL(n, 3); /* the halt reaches the silent and the absent ones too */
    for (size_t i = 0; i < n; i++)
        CU_ASSERT_EQUAL(a[i].kind, ROLLOUT_CANCEL);
    carry_out(d, a, n, 171);
    rollout_step(&r, d, 4, 172, a, &n);
    CU_ASSERT_EQUAL(n, 0);
}

static void an_absent_stage_proves_nothing(void)
{
    struct rollout r = {.state = ROLLOUT_RUNNING, .rules = rules_of(3, thirds)};
    struct rollout_device d[10];
    struct rollout_action a[10];
    size_t n;
    cohort(d, 10, &r.rules);
    d[0].is_online = false;
    rollout_step(&r, d, 10, 100, a, &n);
    carry_out(d, a, n, 100);
    rollout_step(&r, d, 10, 10000, a, &n);
    CU_ASSERT_EQUAL(r.state, ROLLOUT_RUNNING);
    CU_ASSERT_EQUAL(r.stage, 0);
    CU_ASSERT_EQUAL(n, 0);
    d[0].is_online = true; /* back, and it pulls */
    report(&d[0], ROLLOUT_COMMITTED, 20000);
    rollout_step(&r, d, 10, 20001, a, &n);
    CU_ASSERT_EQUAL(r.stage, 1);
}

static void deferral_moves_the_deadline(void)
{
    static const double one[] = {1.0};
    struct rollout r = {.state = ROLLOUT_RUNNING, .rules = rules_of(1, one)};
    struct rollout_device d = {.is_online = true, .phase = ROLLOUT_DEFERRED, .attempt = 1,
                               .offered_s = 100, .reported_s = 101, .until_s = 1000};
    CU_ASSERT_EQUAL(rollout_count(&r.rules, &d, 1, 0, 0, 1050).active, 1);
    CU_ASSERT_EQUAL(rollout_count(&r.rules, &d, 1, 0, 0, 1061).silent, 1);
}

static void a_halt_reverts_what_had_committed(void)
{
    static const double halves[] = {0.5, 1.0};
    struct rollout r = {.state = ROLLOUT_RUNNING, .rules = rules_of(2, halves)};
    struct rollout_device d[8];
    struct rollout_action a[8];
    size_t n;
    cohort(d, 8, &r.rules);
    rollout_step(&r, d, 8, 100, a, &n);
    carry_out(d, a, n, 100);
    report(&d[0], ROLLOUT_COMMITTED, 101);
    report(&d[1], ROLLOUT_UNDONE, 101);
    report(&d[2], ROLLOUT_REJECTED, 101);
    report(&d[3], ROLLOUT_ACTIVE, 101);
    rollout_step(&r, d, 8, 102, a, &n);
    CU_ASSERT_EQUAL(r.state, ROLLOUT_REVERTING);
    CU_ASSERT_EQUAL(n, 2);
    unsigned cancels = 0, reverts = 0;
    for (size_t i = 0; i < n; i++) {
        cancels += a[i].kind == ROLLOUT_CANCEL && a[i].device == 3;
        reverts += a[i].kind == ROLLOUT_REVERT && a[i].device == 0;
    }
    CU_ASSERT_EQUAL(cancels, 1);
    CU_ASSERT_EQUAL(reverts, 1);
    carry_out(d, a, n, 102);
    report(&d[3], ROLLOUT_COMMITTED, 103); /* the cancel came too late: it goes back as well */
    rollout_step(&r, d, 8, 104, a, &n);
    CU_ASSERT_EQUAL(n, 1);
    CU_ASSERT_EQUAL(a[0].kind, ROLLOUT_REVERT);
    CU_ASSERT_EQUAL(a[0].device, 3);
    carry_out(d, a, n, 104);
    report(&d[0], ROLLOUT_RESTORED, 105);
    rollout_step(&r, d, 8, 106, a, &n);
    CU_ASSERT_EQUAL(r.state, ROLLOUT_REVERTING);
    report(&d[3], ROLLOUT_RESTORED, 107);
    rollout_step(&r, d, 8, 108, a, &n);
    CU_ASSERT_EQUAL(r.state, ROLLOUT_REVERTED);
}

static void retries_are_bounded(void)
{
    static const double one[] = {1.0};
    struct rollout r = {.state = ROLLOUT_RUNNING, .rules = rules_of(1, one)};
    struct rollout_device d[1];
    struct rollout_action a[1];
    size_t n, offers = 0;
    r.rules.max_attempts = 3;
    cohort(d, 1, &r.rules);
    for (int64_t now = 100; now < 200; now += 10) {
        rollout_step(&r, d, 1, now, a, &n);
        offers += n == 1 && a[0].kind == ROLLOUT_OFFER;
        carry_out(d, a, n, now);
        if (n) {
            report(&d[0], ROLLOUT_UNDONE, now + 1);
            d[0].is_retryable = true;
        }
    }
    CU_ASSERT_EQUAL(offers, 3);
    CU_ASSERT_EQUAL(r.state, ROLLOUT_REVERTED);
    cohort(d, 1, &r.rules);
    r.state = ROLLOUT_RUNNING;
    report(&d[0], ROLLOUT_REJECTED, 300);
    d[0].is_retryable = true; /* whatever it claims: a rejection is never asked again */
    rollout_step(&r, d, 1, 301, a, &n);
    CU_ASSERT_EQUAL(n, 0);
}

static void in_flight_is_capped(void)
{
    static const double one[] = {1.0};
    struct rollout r = {.state = ROLLOUT_RUNNING, .rules = rules_of(1, one)};
    struct rollout_device d[20];
    struct rollout_action a[20];
    size_t n;
    r.rules.max_in_flight = 4;
    cohort(d, 20, &r.rules);
    rollout_step(&r, d, 20, 100, a, &n);
    CU_ASSERT_EQUAL(n, 4);
    carry_out(d, a, n, 100);
    report(&d[0], ROLLOUT_COMMITTED, 101);
    rollout_step(&r, d, 20, 102, a, &n);
    CU_ASSERT_EQUAL(n, 1);
}

static void a_missed_gate_is_a_failure(void)
{
    static const double one[] = {1.0};
    struct rollout r = {.state = ROLLOUT_RUNNING, .rules = rules_of(1, one)};
    struct rollout_device d[3];
    struct rollout_action a[3];
    size_t n;
    cohort(d, 3, &r.rules);
    rollout_step(&r, d, 3, 100, a, &n);
    carry_out(d, a, n, 100);
    for (size_t i = 0; i < 3; i++)
        report(&d[i], ROLLOUT_COMMITTED, 101);
    d[2].is_gate_missed = true;
    rollout_step(&r, d, 3, 102, a, &n);
    CU_ASSERT_EQUAL(r.state, ROLLOUT_REVERTING);
    CU_ASSERT_EQUAL(n, 3); /* it committed, so it is reverted with the others */
}

static void pause_and_commands(void)
{
    static const double one[] = {1.0};
    struct rollout r = {.state = ROLLOUT_RUNNING, .rules = rules_of(1, one)};
    struct rollout_device d[3];
    struct rollout_action a[3];
    char reason[ROLLOUT_REASON_BYTES];
    size_t n;
    cohort(d, 3, &r.rules);
    CU_ASSERT_EQUAL(rollout_command(&r, ROLLOUT_RESUME, reason), ERR_ARGUMENT);
    CU_ASSERT_EQUAL(rollout_command(&r, ROLLOUT_PAUSE, reason), ERR_NONE);
    rollout_step(&r, d, 3, 100, a, &n);
    CU_ASSERT_EQUAL(n, 0);
    CU_ASSERT_EQUAL(rollout_command(&r, ROLLOUT_RESUME, reason), ERR_NONE);
    rollout_step(&r, d, 3, 101, a, &n);
    CU_ASSERT_EQUAL(n, 3);
    carry_out(d, a, n, 101);
    report(&d[0], ROLLOUT_COMMITTED, 102);
    CU_ASSERT_EQUAL(rollout_command(&r, ROLLOUT_ABORT, reason), ERR_NONE);
    rollout_step(&r, d, 3, 103, a, &n);
    CU_ASSERT_EQUAL(n, 2); /* cancels; what committed stays */
    CU_ASSERT_EQUAL(rollout_command(&r, ROLLOUT_PAUSE, reason), ERR_ARGUMENT);
    CU_ASSERT_EQUAL(rollout_command(&r, ROLLOUT_UNDO, reason), ERR_NONE); /* unless asked back */
    rollout_step(&r, d, 3, 104, a, &n);
    CU_ASSERT_EQUAL(r.state, ROLLOUT_REVERTING);
    CU_ASSERT_EQUAL(rollout_command(&r, ROLLOUT_UNDO, reason), ERR_ARGUMENT);
}

static void soak_holds_the_next_stage(void)
{
    static const double halves[] = {0.5, 1.0};
    struct rollout r = {.state = ROLLOUT_RUNNING, .rules = rules_of(2, halves)};
    struct rollout_device d[2];
    struct rollout_action a[2];
    size_t n;
    r.rules.soak_s = 30;
    cohort(d, 2, &r.rules);
    rollout_step(&r, d, 2, 100, a, &n);
    carry_out(d, a, n, 100);
    report(&d[0], ROLLOUT_COMMITTED, 110);
    rollout_step(&r, d, 2, 139, a, &n);
    CU_ASSERT_EQUAL(r.stage, 0);
    rollout_step(&r, d, 2, 140, a, &n);
    CU_ASSERT_EQUAL(r.stage, 1);
}

static void refuses_rules_that_cannot_be_meant(void)
{
    char reason[ROLLOUT_REASON_BYTES];
    struct rollout_rules good = rules_of(3, thirds), bad;
    CU_ASSERT_EQUAL(rollout_check(&good, reason), ERR_NONE);
    bad = good;
    bad.fractions[1] = 0.05;
    CU_ASSERT_EQUAL(rollout_check(&bad, reason), ERR_ARGUMENT);
    bad = good;
    bad.fractions[2] = 0.9;
    CU_ASSERT_EQUAL(rollout_check(&bad, reason), ERR_ARGUMENT);
    bad = good;
    bad.stages = 0;
    CU_ASSERT_EQUAL(rollout_check(&bad, reason), ERR_ARGUMENT);
    bad = good;
    bad.failure_ratio = 1.0;
    CU_ASSERT_EQUAL(rollout_check(&bad, reason), ERR_ARGUMENT);
    bad = good;
    bad.min_sample = 0;
    CU_ASSERT_EQUAL(rollout_check(&bad, reason), ERR_ARGUMENT);
}

/* 1,000 fleets with devices that fail at random: no device beyond the current stage is ever touched,
 * a fleet with 2 % failures is hardly ever halted, one with 60 % always and before the last stage. */
static uint32_t draw(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static bool simulate(uint32_t seed, uint32_t failing_percent, uint32_t *exposed)
{
    struct rollout r = {.state = ROLLOUT_RUNNING, .rules = rules_of(3, thirds)};
    static struct rollout_device d[200];
    static struct rollout_action a[200];
    r.rules.min_sample = 10;
    r.rules.advance_ratio = 0.75;
    r.rules.is_auto_revert = false;
    cohort(d, 200, &r.rules);
    for (int64_t now = 100; now < 2000 && r.state == ROLLOUT_RUNNING; now += 5) {
        size_t n;
        rollout_step(&r, d, 200, now, a, &n);
        for (size_t i = 0; i < n; i++)
            CU_ASSERT(a[i].kind != ROLLOUT_OFFER || d[a[i].device].stage <= r.stage);
        carry_out(d, a, n, now);
        for (size_t i = 0; i < 200; i++)
            if (d[i].phase == ROLLOUT_OFFERED && draw(&seed) % 4 == 0)
                report(&d[i], draw(&seed) % 100 < failing_percent ? ROLLOUT_UNDONE : ROLLOUT_COMMITTED,
                       now);
    }
    *exposed = 0;
    for (size_t i = 0; i < 200; i++)
        *exposed += d[i].attempt > 0;
    return r.state == ROLLOUT_HALTED;
}

static void thousand_fleets(void)
{
    unsigned false_halts = 0, missed = 0;
    for (uint32_t seed = 1; seed <= 1000; seed++) {
        uint32_t exposed;
        false_halts += simulate(seed, 2, &exposed);
        missed += !simulate(seed, 60, &exposed);
        CU_ASSERT(exposed <= 20);
    }
    CU_ASSERT(false_halts < 10);
    CU_ASSERT_EQUAL(missed, 0);
}

RUN_SUITE("rollout", {"assigns the same stages again", assigns_the_same_stages_again},
          {"goes through all stages", goes_through_all_stages},
          {"a bad canary stops the second stage", a_bad_canary_stops_the_second_stage},
          {"threshold and minimum sample", threshold_and_minimum_sample},
          {"silence is failure", silence_is_failure},
          {"an absent stage proves nothing", an_absent_stage_proves_nothing},
          {"deferral moves the deadline", deferral_moves_the_deadline},
          {"a halt reverts what had committed", a_halt_reverts_what_had_committed},
          {"retries are bounded", retries_are_bounded},
          {"in flight is capped", in_flight_is_capped},
          {"a missed gate is a failure", a_missed_gate_is_a_failure},
          {"pause and commands", pause_and_commands},
          {"soak holds the next stage", soak_holds_the_next_stage},
          {"refuses rules that cannot be meant", refuses_rules_that_cannot_be_meant},
          {"a thousand fleets", thousand_fleets})
