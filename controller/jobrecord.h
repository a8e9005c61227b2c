/* jobrecord.h: the record of one device within one rollout: what it reported, what was sent to it.
 *
 * Document "ROLLOUT/DEVICE" in REGISTRY_JOBS: rollout, device, stage, phase, state, code, reason,
 * attempt, retryable, plan, plan_version, plan_bytes, offered, reported, until, committed, cancel,
 * revert, gate, expected, variant, plugin, progress, measured{}, history[{time, state, code}].
 */
#ifndef JOBRECORD_H
#define JOBRECORD_H

#include "controller/registry.h"
#include "controller/rollout.h"
#include "protocol/message.h"

enum { JOBRECORD_KEY = 80, JOBRECORD_HISTORY_MAX = 48 };

void jobrecord_key(const char *rollout, const char *device, char out[JOBRECORD_KEY]);

/* A new record: waiting, nothing sent. The caller's reference. Errors: ERR_MEMORY. */
NODISCARD enum err jobrecord_new(const char *rollout, const char *device, uint32_t stage,
                                 json_t **out);

/* What rollout_step wants to know. */
void jobrecord_to_device(const json_t *job, bool is_online, struct rollout_device *out);

/* What was sent. */
void jobrecord_offered(json_t *job, const char *plan, uint64_t version, uint64_t plan_bytes,
                       int64_t now_s);

enum jobrecord_change {
    JOBRECORD_OLD = 0,     /* not newer than what is recorded, or of another plan: nothing changed */
    JOBRECORD_PROGRESS = 1,
    JOBRECORD_REFUSED = 2, /* the variant is not the predicted one: withdraw it */
    JOBRECORD_MISSED = 3   /* committed, but a measured value is beyond its limit */
};

/* Apply a report whose plan is the record's. expected is the digest that the variant must have (32
 * bytes; all zero: none). */
enum jobrecord_change jobrecord_report(json_t *job, const struct message_job *m,
                                       const uint8_t expected[32], const struct message_gates *gates,
                                       int64_t now_s);

#endif
