/* jobs.h: the device's job: protocol/job.h's table, made durable and carried out.
 *
 * Every step is one transaction of the store: the new state, what belongs to it (plan, slot, active slot,
 * counters) and the signed report. Only then is anything else done about it. At start jobs_start reads
 * the record, counts the restart and goes on with the state's work, whatever the state is; work is
 * written so that doing it again, or finding it half done, gives the same end.
 *
 * Threads: the agent's only one.
 */
#ifndef JOBS_H
#define JOBS_H

#include "agent/accept.h"
#include "agent/identity.h"
#include "agent/loop.h"
#include "agent/slots.h"
#include "agent/task.h"

/* What jobs asks of the others. */
struct jobs_hooks {
    void *context;
    uint64_t (*now_ms)(void *context);      /* Unix time as far as it is known; 0: unknown */
    bool (*in_contact)(void *context);      /* the controller has answered lately */
    void (*ask_contact)(void *context);     /* try to reach it; jobs_contact follows */
    void (*posted)(void *context);          /* a report waits in the outbox */
    void (*changed)(void *context);         /* slots or state changed: a new birth is due */
    /* Serve this variant to new requests, beside the committed one; answers by jobs_trial_*. */
    enum err (*trial)(void *context, const char *path, const struct message_plan *plan);
    void (*untrial)(void *context);         /* it is no longer on trial: stop it */
    void (*promote)(void *context);         /* it is committed: it serves, the other one stops */
    void (*restore)(void *context);         /* serve what the active slot holds now */
};

struct jobs_options {
    struct loop *loop;
    const struct settings *settings;
    const struct identity *identity;
    const struct accept_keys *keys;
    struct store *store;
    struct task *task;
    struct jobs_hooks hooks;
};

struct jobs;

NODISCARD enum err jobs_open(const struct jobs_options *options, struct jobs **out);
void jobs_close(struct jobs *j); /* NULL is allowed */

/* Goes on where the last start stopped. birth: of this start, lives as long as j. */
void jobs_start(struct jobs *j, const struct message_birth *birth);

/* A plan came: any bytes. JOB_OK: it is stored and on its way, or it is the one in hand already. Else the
 * code of the refusal; the job in hand is then untouched. */
uint32_t jobs_offer(struct jobs *j, const uint8_t *bytes, size_t size);
/* Withdraws the plan before it has committed; ERR_NOT_FOUND when it is not in hand, ERR_ARGUMENT too late. */
NODISCARD enum err jobs_cancel(struct jobs *j, const uint8_t plan_id[16]);
/* Back to the other slot, if the active one holds this plan; also ends a trial of it. */
NODISCARD enum err jobs_revert(struct jobs *j, const uint8_t plan_id[16]);

void jobs_contact(struct jobs *j); /* the controller has answered */
void jobs_trial_ready(struct jobs *j);
void jobs_trial_answered(struct jobs *j, bool is_good);
/* The trial's worker is gone; by_force: killed from outside, not by itself. True: start it again. */
bool jobs_trial_crashed(struct jobs *j, bool by_force, const char *why);

uint32_t jobs_state(const struct jobs *j);
/* Job and slot fields of a birth. */
void jobs_fill_birth(struct jobs *j, struct message_birth *birth);
/* The highest plan version accepted. */
uint64_t jobs_newest_plan(const struct jobs *j);

#endif
