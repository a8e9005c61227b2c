/* rollout.h: the decisions of a staged release, as a pure function of its records.
 *
 * rollout_step() looks at one rollout and at what is recorded about each of its devices, and says
 * what to do next. It keeps nothing and reads no clock: every counter is derived from the device
 * records, so a report that arrives twice changes nothing, and a controller that was killed decides
 * the same again from what it had committed.
 *
 *   PREPARING -> RUNNING -> (stage 0, 1, ...) -> DONE
 *                   |  ^
 *                   v  |  operator
 *                 PAUSED
 *   RUNNING, PAUSED -> HALTED -> REVERTING -> REVERTED
 *   any of them -> ABORTED; PREPARING -> FAILED (no plan can be made)
 *
 * Threads: any.  Memory: allocates nothing.  Source: AWS IoT Jobs' abort rule with a minimum sample,
 * Mender's commit point, and silence counted as failure.
 */
#ifndef ROLLOUT_H
#define ROLLOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"

enum { ROLLOUT_STAGES_MAX = 16, ROLLOUT_REASON_BYTES = 160 };

enum rollout_state {
    ROLLOUT_PREPARING = 0, /* plans and expected digests are being made, or approvals collected */
    ROLLOUT_RUNNING = 1,
    ROLLOUT_PAUSED = 2,
    ROLLOUT_HALTED = 3,
    ROLLOUT_REVERTING = 4,
    ROLLOUT_REVERTED = 5,
    ROLLOUT_ABORTED = 6,
    ROLLOUT_DONE = 7,
    ROLLOUT_FAILED = 8
};

/* What the records say about one device within one rollout. */
enum rollout_phase {
    ROLLOUT_WAITING = 0,    /* never offered */
    ROLLOUT_OFFERED = 1,    /* told, and has not answered yet */
    ROLLOUT_ACTIVE = 2,     /* accepted, on its way */
    ROLLOUT_DEFERRED = 3,   /* will come back by until_s */
    ROLLOUT_COMMITTED = 4,
    ROLLOUT_UNDONE = 5,     /* failed or rolled back by itself: runs its old variant */
    ROLLOUT_REJECTED = 6,   /* said no: never asked again */
    ROLLOUT_CANCELLED = 7,  /* withdrawn by us before it committed */
    ROLLOUT_RESTORED = 8    /* was reverted to what it had before */
};

struct rollout_rules {
    double fractions[ROLLOUT_STAGES_MAX]; /* cumulative share of the cohort, ascending, last 1.0 */
    uint32_t stages;                      /* 1 or more */
    double advance_ratio;   /* share of a stage that must be committed before the next one starts */
    double failure_ratio;   /* failures / finished above this halt the rollout */
    uint32_t min_sample;    /* finished devices before failure_ratio may halt */
    uint32_t silence_s;     /* no word for this long after an offer or report: failure */
    uint32_t soak_s;        /* a stage rests this long after its last commit */
    uint32_t max_attempts;  /* offers per device, 1 or more */
    uint32_t max_in_flight; /* devices on their way at once; 0: no limit */
    bool is_auto_revert;    /* a halt by failures reverts what had been committed */
};

struct rollout_device {
    uint32_t stage;   /* from rollout_assign */
    uint32_t attempt; /* offers so far */
    enum rollout_phase phase;
    bool is_retryable;     /* of the last failure */
    bool is_online;        /* its last will has not been seen since its last birth */
    bool has_cancel;       /* a cancel was sent for the current attempt */
    bool has_revert;       /* a revert was sent */
    int64_t offered_s;     /* of the current attempt */
    int64_t reported_s;    /* last word about this rollout, 0: none */
    int64_t until_s;       /* of a deferral */
    int64_t committed_s;   /* when it committed, 0: it has not */
    bool is_gate_missed;   /* committed, yet a measured value is beyond its limit: counts as failed */
};

struct rollout {
    enum rollout_state state;
    uint32_t stage; /* the newest started stage */
    char reason[ROLLOUT_REASON_BYTES];
    struct rollout_rules rules;
};

enum rollout_action_kind {
    ROLLOUT_OFFER = 0,  /* send the plan */
    ROLLOUT_CANCEL = 1, /* withdraw it from a device on its way */
    ROLLOUT_REVERT = 2  /* send what the device ran before */
};

struct rollout_action {
    enum rollout_action_kind kind;
    uint32_t device; /* index into the records */
};

/* Counters derived from the records; the same whatever their order and however often reported. */
struct rollout_count {
    uint32_t total;     /* devices of the stages asked for */
    uint32_t waiting;
    uint32_t active;    /* offered, active or deferred, not silent */
    uint32_t committed; /* and within its gates */
    uint32_t failed;    /* undone, rejected, silent, or beyond a gate */
    uint32_t silent;    /* of those, the silent ones */
    uint32_t absent;    /* offered while offline and never answered: not a failure, not counted on */
    uint32_t gone;      /* withdrawn one by one, or superseded: neither good nor bad */
    uint32_t restored;
    int64_t last_commit_s;
};

/* "running" and so on, for people and JSON. Never NULL. */
const char *rollout_state_name(enum rollout_state s);
const char *rollout_phase_name(enum rollout_phase p);
bool rollout_is_over(enum rollout_state s); /* nothing will be decided any more */

/* The stage of each device: the devices are ordered by BLAKE2b(rollout id, device id) and cut at the
 * fractions; every stage up to the last gets at least one device while there are any.
 *   ids     n pointers to device ids (text)
 *   stages  n, overwritten
 * Errors: ERR_ARGUMENT (rules), ERR_MEMORY. */
NODISCARD enum err rollout_assign(const char *rollout_id, const char *const *ids, size_t n,
                                  const struct rollout_rules *rules, uint32_t *stages);

/* ERR_ARGUMENT with one line in reason when the rules cannot be meant. */
NODISCARD enum err rollout_check(const struct rollout_rules *rules, char reason[ROLLOUT_REASON_BYTES]);

/* Count devices of stages first..last. */
struct rollout_count rollout_count(const struct rollout_rules *rules,
                                   const struct rollout_device *devices, size_t n, uint32_t first,
                                   uint32_t last, int64_t now_s);

/* One decision.
 *   r        in and out: state, stage and reason may change
 *   actions  room for n; *actions_n are written, at most one per device
 * Calling it again with the same records gives no further change of state; actions repeat until the
 * records say that they were carried out.
 */
void rollout_step(struct rollout *r, const struct rollout_device *devices, size_t n, int64_t now_s,
                  struct rollout_action *actions, size_t *actions_n);

/* What an operator may say. ERR_ARGUMENT with a reason when the state does not allow it. */
enum rollout_command { ROLLOUT_PAUSE = 0, ROLLOUT_RESUME = 1, ROLLOUT_ABORT = 2, ROLLOUT_UNDO = 3 };
NODISCARD enum err rollout_command(struct rollout *r, enum rollout_command c,
                                   char reason[ROLLOUT_REASON_BYTES]);

#endif
