/* rollout.c: the decisions of a staged release. No I/O, no clock, no state of its own. */
#include "controller/rollout.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *rollout_state_name(enum rollout_state s)
{
    static const char *const names[] = {"preparing", "running",  "paused",  "halted", "reverting",
                                        "reverted",  "aborted", "done",   "failed"};
    return (size_t)s < sizeof names / sizeof names[0] ? names[s] : "?";
}

const char *rollout_phase_name(enum rollout_phase p)
{
    static const char *const names[] = {"waiting", "offered",  "active",    "deferred", "committed",
                                        "undone",  "rejected", "cancelled", "restored"};
    return (size_t)p < sizeof names / sizeof names[0] ? names[p] : "?";
}

bool rollout_is_over(enum rollout_state s)
{
    return s == ROLLOUT_REVERTED || s == ROLLOUT_ABORTED || s == ROLLOUT_DONE || s == ROLLOUT_FAILED;
}

enum err rollout_check(const struct rollout_rules *rules, char reason[ROLLOUT_REASON_BYTES])
{
    const char *why = NULL;
    if (rules->stages < 1 || rules->stages > ROLLOUT_STAGES_MAX)
        why = "1 to 16 stages are possible";
    for (uint32_t i = 0; !why && i < rules->stages; i++) {
        double before = i ? rules->fractions[i - 1] : 0.0;
        if (!(rules->fractions[i] > before) || rules->fractions[i] > 1.0)
            why = "the stages must be shares of the cohort that rise up to 1";
    }
    if (!why && rules->fractions[rules->stages - 1] < 1.0)
        why = "the last stage must reach the whole cohort (1.0)";
    if (!why && !(rules->advance_ratio > 0.0 && rules->advance_ratio <= 1.0))
        why = "the share of a stage that must commit is above 0 and at most 1";
    if (!why && !(rules->failure_ratio >= 0.0 && rules->failure_ratio < 1.0))
        why = "the failure threshold is at least 0 and below 1";
    if (!why && rules->min_sample < 1)
        why = "the minimum sample is at least 1";
    if (!why && (rules->silence_s < 1 || rules->max_attempts < 1))
        why = "the silence deadline and the attempts are at least 1";
    if (!why)
        return ERR_NONE;
    snprintf(reason, ROLLOUT_REASON_BYTES, "%s", why);
    return ERR_ARGUMENT;
}

struct ranked {
    uint8_t hash[16];
    size_t index;
};

static int by_hash(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    return memcmp(x->hash, y->hash, sizeof x->hash);
}

enum err rollout_assign(const char *rollout_id, const char *const *ids, size_t n,
                        const struct rollout_rules *rules, uint32_t *stages)
{
    char reason[ROLLOUT_REASON_BYTES];
    if (rollout_check(rules, reason))
        return ERR_ARGUMENT;
    if (n == 0)
        return ERR_NONE;
    struct ranked *ranked = calloc(n, sizeof *ranked);
    if (!ranked)
        return ERR_MEMORY;
    for (size_t i = 0; i < n; i++) {
        crypto_generichash_state h;
        crypto_generichash_init(&h, NULL, 0, sizeof ranked[i].hash);
        crypto_generichash_update(&h, (const uint8_t *)rollout_id, strlen(rollout_id) + 1);
        crypto_generichash_update(&h, (const uint8_t *)ids[i], strlen(ids[i]));
        crypto_generichash_final(&h, ranked[i].hash, sizeof ranked[i].hash);
        ranked[i].index = i;
    }
    qsort(ranked, n, sizeof *ranked, by_hash);
    size_t from = 0;
    for (uint32_t s = 0; s < rules->stages; s++) {
        size_t to = (size_t)(rules->fractions[s] * (double)n + 1e-9);
        if (to <= from && from < n)
            to = from + 1; /* a canary of 1 % of 20 devices is one device, not none */
        if (s + 1 == rules->stages)
            to = n;
        for (size_t i = from; i < to && i < n; i++)
            stages[ranked[i].index] = s;
        from = to > from ? to : from;
    }
    free(ranked);
    return ERR_NONE;
}

enum fate { WAITING, ON_ITS_WAY, GOOD, BAD, SILENT, ABSENT, GONE, BACK };

/* The one place where a record becomes a verdict. */
static enum fate fate_of(const struct rollout_rules *rules, const struct rollout_device *d,
                         int64_t now_s)
{
    int64_t heard_s = d->reported_s > d->offered_s ? d->reported_s : d->offered_s;
    switch (d->phase) {
    case ROLLOUT_WAITING:
        return WAITING;
    case ROLLOUT_DEFERRED:
        if (d->until_s > heard_s)
            heard_s = d->until_s;
        return now_s - heard_s > (int64_t)rules->silence_s ? SILENT : ON_ITS_WAY;
    case ROLLOUT_OFFERED:
        if (now_s - heard_s <= (int64_t)rules->silence_s)
            return ON_ITS_WAY;
        /* Never heard the offer because it is off: that says nothing about the plan. */
        return d->is_online ? SILENT : ABSENT;
    case ROLLOUT_ACTIVE:
        return now_s - heard_s > (int64_t)rules->silence_s ? SILENT : ON_ITS_WAY;
    case ROLLOUT_COMMITTED:
        return d->is_gate_missed ? BAD : GOOD;
    case ROLLOUT_UNDONE:
        /* A failure that will be tried again is not over yet. */
        return d->is_retryable && d->attempt < rules->max_attempts ? WAITING : BAD;
    case ROLLOUT_REJECTED:
        return BAD;
    case ROLLOUT_CANCELLED:
        return GONE;
    case ROLLOUT_RESTORED:
        return d->is_gate_missed ? BAD : BACK;
    }
    return BAD;
}

struct rollout_count rollout_count(const struct rollout_rules *rules,
                                   const struct rollout_device *devices, size_t n, uint32_t first,
                                   uint32_t last, int64_t now_s)
{
    struct rollout_count c = {0};
    for (size_t i = 0; i < n; i++) {
        const struct rollout_device *d = &devices[i];
        if (d->stage < first || d->stage > last)
            continue;
        c.total++;
        enum fate f = fate_of(rules, d, now_s);
        c.waiting += f == WAITING;
        c.active += f == ON_ITS_WAY;
        c.committed += f == GOOD;
        c.failed += f == BAD || f == SILENT;
        c.silent += f == SILENT;
        c.absent += f == ABSENT;
        c.gone += f == GONE;
        c.restored += f == BACK;
        if (d->committed_s > c.last_commit_s)
            c.last_commit_s = d->committed_s;
    }
    return c;
}

/* Whole devices that make up a share of a stage: never less than one, never more than all. */
static uint32_t share(double ratio, uint32_t total)
{
    double exact = ratio * (double)total;
    uint32_t whole = (uint32_t)exact;
    if ((double)whole < exact - 1e-9)
        whole++;
    return whole < 1 ? 1 : whole > total ? total : whole;
}

static void halt(struct rollout *r, const char *format, uint32_t a, uint32_t b, uint32_t c)
{
    r->state = r->rules.is_auto_revert ? ROLLOUT_REVERTING : ROLLOUT_HALTED;
    snprintf(r->reason, sizeof r->reason, format, a, b, c);
}

/* Failures above the threshold with a minimum sample, or a stage that ended without enough commits
 * (a canary of one device that fails is below every minimum sample and must still stop the rest). */
static bool check_failures(struct rollout *r, const struct rollout_device *devices, size_t n,
                           int64_t now_s)
{
    const struct rollout_rules *rules = &r->rules;
    struct rollout_count all = rollout_count(rules, devices, n, 0, r->stage, now_s);
    uint32_t finished = all.committed + all.failed;
    if (finished >= rules->min_sample &&
        (double)all.failed > rules->failure_ratio * (double)finished) {
        halt(r, "%u of %u finished devices failed (%u of them silent)", all.failed, finished,
             all.silent);
        return true;
    }
    struct rollout_count now = rollout_count(rules, devices, n, r->stage, r->stage, now_s);
    uint32_t counted_on = now.total - now.absent - now.gone;
    if (counted_on > 0 && now.failed > 0 &&
        now.committed + now.active + now.waiting < share(rules->advance_ratio, counted_on)) {
        halt(r, "stage %u can no longer commit enough: %u failed, %u committed", r->stage + 1,
             now.failed, now.committed);
        return true;
    }
    return false;
}

static void advance(struct rollout *r, const struct rollout_device *devices, size_t n, int64_t now_s)
{
    const struct rollout_rules *rules = &r->rules;
    for (;;) {
        struct rollout_count now = rollout_count(rules, devices, n, r->stage, r->stage, now_s);
        uint32_t counted_on = now.total - now.absent - now.gone;
        bool is_last = r->stage + 1 >= rules->stages;
        if (now.total > 0 && (counted_on == 0 || now.committed < share(rules->advance_ratio, counted_on)))
            return; /* a stage whose devices are all absent proves nothing: wait for one */
        if (!is_last && now.total > 0 && now_s - now.last_commit_s < (int64_t)rules->soak_s)
            return;
        if (is_last) {
            struct rollout_count all = rollout_count(rules, devices, n, 0, r->stage, now_s);
            if (all.active == 0 && all.waiting == 0) {
                r->state = ROLLOUT_DONE;
                snprintf(r->reason, sizeof r->reason, "%u committed, %u failed, %u not reached",
                         all.committed, all.failed, all.absent);
            }
            return;
        }
        r->stage++;
    }
}

static void offer(const struct rollout *r, const struct rollout_device *devices, size_t n,
                  int64_t now_s, struct rollout_action *actions, size_t *actions_n)
{
    const struct rollout_rules *rules = &r->rules;
    struct rollout_count all = rollout_count(rules, devices, n, 0, r->stage, now_s);
    uint32_t in_flight = all.active;
    for (size_t i = 0; i < n; i++) {
        if (rules->max_in_flight && in_flight >= rules->max_in_flight)
            return;
        if (devices[i].stage > r->stage || fate_of(rules, &devices[i], now_s) != WAITING)
            continue;
        actions[(*actions_n)++] = (struct rollout_action){ROLLOUT_OFFER, (uint32_t)i};
        in_flight++;
    }
}

/* A halt reaches devices on their way, whether or not they have answered or gone silent. */
static void cancel_all(const struct rollout_device *devices, size_t n,
                       struct rollout_action *actions, size_t *actions_n)
{
    for (size_t i = 0; i < n; i++) {
        enum rollout_phase p = devices[i].phase;
        if ((p == ROLLOUT_OFFERED || p == ROLLOUT_ACTIVE || p == ROLLOUT_DEFERRED) &&
            !devices[i].has_cancel)
            actions[(*actions_n)++] = (struct rollout_action){ROLLOUT_CANCEL, (uint32_t)i};
    }
}

static void revert_all(struct rollout *r, const struct rollout_device *devices, size_t n,
                       struct rollout_action *actions, size_t *actions_n)
{
    uint32_t left = 0;
    for (size_t i = 0; i < n; i++) {
        if (devices[i].phase != ROLLOUT_COMMITTED) {
            enum rollout_phase p = devices[i].phase;
            left += p == ROLLOUT_OFFERED || p == ROLLOUT_ACTIVE || p == ROLLOUT_DEFERRED;
            continue;
        }
        left++;
        if (!devices[i].has_revert)
            actions[(*actions_n)++] = (struct rollout_action){ROLLOUT_REVERT, (uint32_t)i};
    }
    if (left == 0)
        r->state = ROLLOUT_REVERTED;
}

void rollout_step(struct rollout *r, const struct rollout_device *devices, size_t n, int64_t now_s,
                  struct rollout_action *actions, size_t *actions_n)
{
    *actions_n = 0;
    if (r->state == ROLLOUT_RUNNING || r->state == ROLLOUT_PAUSED)
        (void)check_failures(r, devices, n, now_s);
    if (r->state == ROLLOUT_RUNNING)
        advance(r, devices, n, now_s);
    switch (r->state) {
    case ROLLOUT_RUNNING:
        offer(r, devices, n, now_s, actions, actions_n);
        break;
    case ROLLOUT_HALTED:
    case ROLLOUT_ABORTED:
        cancel_all(devices, n, actions, actions_n);
        break;
    case ROLLOUT_REVERTING:
    case ROLLOUT_REVERTED: /* one that committed after all, against the cancel, goes back too */
        cancel_all(devices, n, actions, actions_n);
        revert_all(r, devices, n, actions, actions_n);
        break;
    case ROLLOUT_PREPARING:
    case ROLLOUT_PAUSED:
    case ROLLOUT_DONE:
    case ROLLOUT_FAILED:
        break;
    }
}

enum err rollout_command(struct rollout *r, enum rollout_command c,
                         char reason[ROLLOUT_REASON_BYTES])
{
    enum rollout_state s = r->state, to = s;
    if (c == ROLLOUT_PAUSE && s == ROLLOUT_RUNNING)
        to = ROLLOUT_PAUSED;
    else if (c == ROLLOUT_RESUME && s == ROLLOUT_PAUSED)
        to = ROLLOUT_RUNNING;
    else if (c == ROLLOUT_ABORT && !rollout_is_over(s) && s != ROLLOUT_REVERTING)
        to = ROLLOUT_ABORTED;
    else if (c == ROLLOUT_UNDO && s != ROLLOUT_PREPARING && s != ROLLOUT_FAILED &&
             s != ROLLOUT_REVERTING && s != ROLLOUT_REVERTED)
        to = ROLLOUT_REVERTING;
    if (to == s) {
        static const char *const verbs[] = {"paused", "resumed", "aborted", "reverted"};
        snprintf(reason, ROLLOUT_REASON_BYTES, "a rollout that is %s cannot be %s",
                 rollout_state_name(s), verbs[c]);
        return ERR_ARGUMENT;
    }
    r->state = to;
    snprintf(r->reason, sizeof r->reason, "by an operator");
    return ERR_NONE;
}
