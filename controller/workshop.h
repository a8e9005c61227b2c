/* workshop.h: the heavy work before a rollout starts, in a process of its own.
 *
 * For each rollout in state preparing the controller starts itself once more as `tare-controller
 * prepare FOLDER`, one at a time: it calibrates if the recipe asks for it, makes the plan of each class
 * of devices, and derives each variant to know its digest. What it reads may be hostile or too large for
 * this machine: then that process dies, the rollout fails with its last words, and the controller goes on.
 *
 * FOLDER = STATE/work/<rollout>: job.json and recipe.yaml (written here), progress, plan-<i>.cbor and
 * result.json (written by the process, each by rename). Killed at any time, the work is taken up again
 * where the quantiser's checkpoints left it. Digests that were derived once are kept in
 * STATE/predictions/<class>, so the same plan of the same base is never derived twice.
 */
#ifndef WORKSHOP_H
#define WORKSHOP_H

#include "controller/controller.h"

/* program: the executable to start; NULL: this one. */
NODISCARD enum err workshop_open(struct controller *c, const char *program, struct workshop **out);
void workshop_close(struct workshop *w); /* stops the process; NULL is allowed */

/* Look after the process, take its result, start the next. *is_busy: call again soon. */
NODISCARD enum err workshop_tick(struct workshop *w, int64_t now_s, bool *is_busy);

/* The part of main() for `prepare FOLDER`; returns an exit status. */
int prepare_main(const char *folder);

#endif
