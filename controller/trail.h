/* trail.h: the decision trail: what was seen, which rule fired, what was sent, what it changed.
 *
 * One line per field, for people; the same facts are in the records.
 */
#ifndef TRAIL_H
#define TRAIL_H

#include "controller/registry.h"

struct trail {
    const char *kind;    /* "enrolment", "rollout", "drift", "refusal", "operator", "gap" */
    const char *subject; /* rollout or device id; what the trail is searched by */
    char seen[200];
    char rule[120];
    char sent[200];
    char changed[200];
};

/* Append to the trail within t, and log it. */
NODISCARD enum err trail_add(struct registry_txn *t, int64_t now_s, const struct trail *entry);

#endif
