/* drift.h: telemetry-driven recompression: when the traffic of devices is no longer what their variant
 * was calibrated on, a new profile, a new plan, a canaried rollout.
 *
 * Per device the newest windows of activation statistics are merged and compared with the profile of its
 * plan (compress/profile.h, profile_compare); the mean KLD of shadow evaluation is watched beside it. A
 * device whose score is above drift_limit for `confirm` looks in a row fires, once; it is armed again
 * below drift_rearm or with another variant. Devices of one rollout that fired together are recompressed
 * together: their statistics are blended with the old profile, tensors whose inputs moved most get one
 * step more bits, and the new rollout goes through the stages of the old recipe. At most one per device
 * and interval.
 */
#ifndef DRIFT_H
#define DRIFT_H

#include "controller/controller.h"
#include "controller/controller_link.h"
#include "compress/profile.h"

enum { DRIFT_WINDOWS = 4, DRIFT_RAISE_MAX = 6, DRIFT_WHY = 320 };

/* What the rule remembers and sees of one device. Pure, for tests. */
struct drift_state {
    bool is_armed;
    uint32_t above; /* looks in a row above a limit */
    int64_t fired_s;
};
struct drift_look {
    double score, shadow_kld; /* shadow_kld 0: nothing known */
    double rows;
    int64_t now_s;
};
/* Should it be recompressed now? Advances the state. */
bool drift_rule(const struct controller_settings *s, const struct drift_look *look,
                struct drift_state *state);

/* Look at every device with news; start what fires. */
NODISCARD enum err drift_tick(struct controller *c, int64_t now_s);

/* An operator asks: recompress the cohort of a rollout from what its devices have sent. *out is the new
 * rollout. Errors: ERR_NOT_FOUND (rollout; or no statistics yet: why says which),
 * and release_create's. */
NODISCARD enum err drift_recalibrate(struct controller *c, const char *rollout, int64_t now_s,
                                     json_t **out, char why[DRIFT_WHY]);

/* Merge a device's newest windows for a variant, `most` at most (1 .. DRIFT_WINDOWS). *out is the caller's; *windows how many.
 * Errors: ERR_NOT_FOUND (none complete), ERR_MEMORY, ERR_IO. */
NODISCARD enum err drift_gather(struct registry_txn *t, const char *device, const char *variant,
                                uint32_t most, struct profile **out, uint32_t *windows);

#endif
