/* jobs_parts.h: what jobs.c (the steps) and the files of each state's work share: jobs_work.c, jobs_make.c (deriving,
 * self-test), jobs_trial.c. */
#ifndef JOBS_PARTS_H
#define JOBS_PARTS_H

#include "agent/jobs.h"

enum { JOBS_TRIES = 128, JOBS_BACKOFF_MS = 1000 };

struct jobs {
    struct jobs_options options;
    struct message_job now;   /* the record, as last committed */
    struct message_plan plan; /* of it, without tensors; valid unless IDLE */
    uint8_t tries[JOBS_TRIES]; /* failures by code, of this plan */
    uint64_t restarts;        /* during the trial */
    uint64_t newest_plan;
    const struct message_birth *birth; /* NULL before jobs_start */
    struct loop_timer again;  /* back-off, deferral, waiting for contact */
    struct loop_timer trial;
    uint32_t file;            /* FETCHING, VERIFYING: which artifact */
    /* Of the trial, this start only. */
    int64_t trial_from_ms, asked_ms;
    uint32_t trial_good, trial_bad, trial_kills;
    uint64_t refused_version; /* the last refusal that was reported: once is enough */
    uint32_t refused_code;
};

/* One step with all that belongs to it, then the work of the state reached. code, error and reason say why;
 * also() adds to the transaction. A store that does not take it leaves the state and tries later. */
struct jobs_step {
    uint32_t event;
    uint32_t code;
    enum err error;
    const char *reason;
    enum err (*also)(struct jobs *j, struct store_txn *t, void *context);
    void *context;
};
bool jobs_take(struct jobs *j, const struct jobs_step *step);

/* The work of the state that the record holds. */
void jobs_work(struct jobs *j);
/* A failure: again after a back-off while the code allows it, else the end of the job. */
void jobs_fail(struct jobs *j, uint32_t code, enum err error, const char *reason);
/* The plan's payload as it was signed; the caller frees it. */
NODISCARD enum err jobs_payload(struct jobs *j, uint8_t **payload, size_t *bytes);

/* Looks at the job again then. */
void jobs_later(struct jobs *j, int64_t delay_ms);
/* What the end of a task says, where it says more than `otherwise`. */
uint32_t jobs_code_of(enum err error, uint32_t otherwise);
/* False: later, or the job has failed. */
bool jobs_start_task(struct jobs *j, const struct wire *request, void (*done)(void *, const struct wire *),
                     void (*failed)(void *, enum err, const char *));
/* A worker reads the whole file. */
void jobs_verify_file(struct jobs *j, const char *path, const uint8_t digest[32], uint64_t bytes,
                      void (*done)(void *, const struct wire *), void (*failed)(void *, enum err, const char *));

/* The work of DERIVING, SELFTEST, STAGED and TRIAL. */
void jobs_derive(struct jobs *j);
void jobs_selftest(struct jobs *j);
void jobs_begin_trial(struct jobs *j);
void jobs_run_trial(struct jobs *j);

#endif
