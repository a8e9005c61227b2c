/* release.h: carries out what rollout.h decides: loads records, takes one step, stores and sends. */
#ifndef RELEASE_H
#define RELEASE_H

#include "controller/controller.h"
#include "controller/controller_link.h"
#include "controller/rollout.h"

/* What an operator, or the drift rule, asks for. Strings are borrowed. */
struct release_request {
    const char *recipe;       /* text */
    const char *model;        /* digest or name of a base */
    const char *profile;      /* digest or name, or "" */
    const char *text;         /* digest or name of the text for the gates, or "" */
    const char *name;         /* or "" for the recipe's */
    const char *trigger;      /* "operator", "drift" */
    const json_t *devices;    /* array of ids or names; NULL: all approved */
    const json_t *tags;       /* array: only devices with all of them; NULL: any */
    const json_t *raise;      /* array of tensor names whose type is raised; NULL: none */
    bool wants_approval;
};

enum { RELEASE_WHY = 320 };

/* Record a rollout in state preparing. *out is the caller's.
 * Errors with one line in why: ERR_FORMAT (recipe), ERR_NOT_FOUND (model, profile, text, device),
 * ERR_ARGUMENT (nothing to do, rules), ERR_STALE (a device is in another rollout that goes on). */
NODISCARD enum err release_create(struct controller *c, struct registry_txn *t,
                                  const struct release_request *request, int64_t now_s, json_t **out,
                                  char why[RELEASE_WHY]);

/* An operator's command. Errors: ERR_NOT_FOUND, ERR_ARGUMENT with a reason. */
NODISCARD enum err release_command(struct registry_txn *t, const char *id,
                                   enum rollout_command command, const char *who, int64_t now_s,
                                   json_t **out, char why[RELEASE_WHY]);

/* One of the approvals that the recipe asks for; who counts once. */
NODISCARD enum err release_approve(struct registry_txn *t, const char *id, const char *who,
                                   int64_t now_s, json_t **out, char why[RELEASE_WHY]);

/* The workshop is done: result as workshop.h says, folder holds its files. */
NODISCARD enum err release_prepared(struct controller *c, struct registry_txn *t, const char *id,
                                    const json_t *result, const char *folder, int64_t now_s);

/* Step every rollout that is not settled. */
NODISCARD enum err release_tick(struct controller *c, struct registry_txn *t, int64_t now_ms,
                                struct posts *posts);

/* Put counts of each stage, and with_devices the records, into a rollout's document for an answer. */
NODISCARD enum err release_describe(struct registry_txn *t, json_t *rollout, bool with_devices,
                                    int64_t now_s);

/* Rules from and to a rollout's document. */
void release_rules(const json_t *rollout, struct rollout_rules *out);

#endif
