/* job.h: the device's job as a table: (state, event) -> state, and the codes it ends with.
 *
 * Numbers are stored and sent, so they are never reused. CLEAR takes every ended state back to
 * IDLE; a new OFFER is also taken where nothing is in progress.
 */
#ifndef JOB_H
#define JOB_H

#include <stdbool.h>
#include <stdint.h>

#include "protocol/err.h"

enum job_state {
    JOB_IDLE = 0,
    JOB_OFFERED = 1,      /* a verified plan is stored */
    JOB_ACCEPTED = 2,     /* it suits this device */
    JOB_REJECTED = 3,     /* ended; never retried */
    JOB_DEFERRED = 4,     /* waits for its window */
    JOB_FETCHING = 5,     /* base, profile, texts */
    JOB_VERIFYING = 6,    /* digests of what was fetched */
    JOB_DERIVING = 7,     /* checkpointed per tensor */
    JOB_SELFTEST = 8,     /* gates are measured */
    JOB_STAGED = 9,       /* passed; in the spare slot, not serving */
    JOB_TRIAL = 10,       /* serving; the old variant is kept hot */
    JOB_COMMITTED = 11,   /* ended well */
    JOB_ROLLED_BACK = 12, /* ended; the old variant serves again */
    JOB_FAILED = 13,      /* ended before the trial; the old variant never stopped */
    JOB_STATES = 14
};

enum job_event {
    JOB_EVENT_OFFER = 0, /* a newer plan has verified */
    JOB_EVENT_ACCEPT = 1,
    JOB_EVENT_REJECT = 2,
    JOB_EVENT_DEFER = 3,
    JOB_EVENT_DUE = 4,   /* the deferral has passed: judge the plan again */
    JOB_EVENT_START = 5, /* begin the work */
    JOB_EVENT_FETCHED = 6,
    JOB_EVENT_VERIFIED = 7,
    JOB_EVENT_DAMAGED = 8, /* a fetched file has another digest: fetch again */
    JOB_EVENT_DERIVED = 9,
    JOB_EVENT_PASSED = 10,  /* every gate measured and met */
    JOB_EVENT_SWITCH = 11,  /* the controller was reached, requests go to the new variant */
    JOB_EVENT_PROVED = 12,  /* trial length and requests reached, controller reached */
    JOB_EVENT_RETRY = 13,   /* a retryable failure with attempts left; the state stays */
    JOB_EVENT_RESTART = 14, /* the agent came up and found this state; the state stays */
    JOB_EVENT_FAIL = 15,    /* no attempts left, or a failure that is not retryable */
    JOB_EVENT_CANCEL = 16,  /* the controller withdrew the plan */
    JOB_EVENT_REVERT = 17,  /* the controller wants the other slot back */
    JOB_EVENT_CLEAR = 18,
    JOB_EVENTS = 19
};

/* Why a job stands where it stands. */
enum job_code {
    JOB_OK = 0,
    JOB_REJECT_FORMAT = 1,
    JOB_REJECT_SIGNATURE = 2,
    JOB_REJECT_AUDIENCE = 3, /* another device or fleet */
    JOB_REJECT_STALE = 4,    /* plan version not above the newest accepted: a replay */
    JOB_REJECT_EXPIRED = 5,
    JOB_REJECT_CRITICAL = 6, /* a critical field that this agent does not know */
    JOB_REJECT_VERSION = 7,  /* the agent is too old */
    JOB_REJECT_PLUGIN = 8,   /* plugin absent, refused, or of another ABI or digest */
    JOB_REJECT_METHOD = 9,   /* type or method not supported */
    JOB_REJECT_SPACE = 10,   /* can never fit disk or memory */
    JOB_REJECT_MODEL = 11,   /* architecture or tensors not supported */
    JOB_DEFER_WINDOW = 20,   /* not_before has not come */
    JOB_DEFER_BUSY = 21,
    JOB_DEFER_HEAT = 22,
    JOB_FAIL_FETCH = 30,
    JOB_FAIL_ABSENT = 31, /* the server answers that there is no such digest */
    JOB_FAIL_DIGEST = 32, /* fetched bytes keep having another digest */
    JOB_FAIL_DERIVE = 33,
    JOB_FAIL_CRASH = 34, /* the worker died */
    JOB_FAIL_HANG = 35,  /* the worker made no progress in time */
    JOB_FAIL_MEMORY = 36,
    JOB_FAIL_DISK = 37,
    JOB_FAIL_MISMATCH = 38, /* the variant has another digest than the plan predicts */
    JOB_FAIL_SELFTEST = 39, /* the gates could not be measured */
    JOB_FAIL_CONTACT = 40,  /* the controller was not reached in time */
    JOB_GATE_DPPL = 50,
    JOB_GATE_KLD = 51,
    JOB_GATE_TOP1 = 52,
    JOB_GATE_DECODE = 53,
    JOB_GATE_PREFILL = 54,
    JOB_GATE_RSS = 55,
    JOB_GATE_KLD_P99 = 56,
    JOB_GATE_FILE = 57,
    JOB_GATE_WORST_DPPL = 58, /* of the worst language */
    JOB_GATE_WORST_KLD = 59,
    JOB_TRIAL_CRASH = 60,
    JOB_TRIAL_ERRORS = 61,   /* requests failed */
    JOB_TRIAL_RESTARTS = 62, /* the agent restarted too often during the trial */
    JOB_TRIAL_SILENT = 63,   /* trial could not be proved in time */
    JOB_GATE_ENERGY = 64,
    JOB_CANCELLED = 70,
    JOB_REVERTED = 71,
    JOB_SUPERSEDED = 72 /* a newer plan took its place */
};

/* Errors: ERR_ARGUMENT (no such state or event, or the event is not allowed in this state; *next is
 * untouched). Pure, any thread. */
NODISCARD enum err job_next(uint32_t state, uint32_t event, uint32_t *next);
/* The job is over: REJECTED, COMMITTED, ROLLED_BACK, FAILED. */
bool job_is_ended(uint32_t state);
/* May a device try again by itself after this code? REJECT, GATE and MISMATCH codes: never. */
bool job_is_retryable(uint32_t code);
/* How often in all, the first time included; at least 1. */
uint32_t job_attempts(uint32_t code);
/* "FETCHING", "fetched", "gate-dppl"; "?" for another number. Never NULL. */
const char *job_state_name(uint32_t state);
const char *job_event_name(uint32_t event);
const char *job_code_name(uint32_t code);
/* A sentence for people: "perplexity rose above its limit". Never NULL. */
const char *job_code_text(uint32_t code);

#endif
