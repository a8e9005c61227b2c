/* planner.h: signed plans and commands for single devices.
 *
 * Every plan and command gets the device's next version before it is signed, in the transaction that
 * records it, so no device is ever sent two with one version, and a replay is always older.
 */
#ifndef PLANNER_H
#define PLANNER_H

#include "controller/controller.h"
#include "controller/controller_link.h"
#include "protocol/message.h"

/* Store and queue the plan of a rollout for a device; job and device are changed and stored.
 * Errors: ERR_NOT_FOUND (the class was never prepared, or a file is gone), ERR_FULL (plan too large for
 * one message), ERR_IO, ERR_MEMORY. */
NODISCARD enum err planner_offer(struct controller *c, struct registry_txn *t, const json_t *rollout,
                                 json_t *job, json_t *device, int64_t now_ms, struct posts *posts);

/* Withdraw the job's plan (MESSAGE_CANCEL) or ask the device back to its other slot (MESSAGE_REVERT);
 * the command is kept for the device to pull until its job has ended. */
NODISCARD enum err planner_withdraw(struct controller *c, struct registry_txn *t, uint32_t verb,
                                    json_t *job, json_t *device, const char *reason, int64_t now_ms,
                                    struct posts *posts);

/* Ask for activation statistics over so many tokens of live traffic. */
NODISCARD enum err planner_calibrate(struct controller *c, struct registry_txn *t, json_t *device,
                                     uint64_t tokens, int64_t now_ms, struct posts *posts);

/* Send a benchmark request that an HTTP call has recorded. */
NODISCARD enum err planner_bench(struct controller *c, struct registry_txn *t, json_t *bench,
                                 int64_t now_ms, struct posts *posts);

/* Where a prepared class of a rollout keeps the bytes of its compress plan. */
enum { PLANNER_KEY = 64 };
void planner_class_key(const char *rollout, int64_t class, char out[PLANNER_KEY]);

#endif
