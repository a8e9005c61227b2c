/* inventory.h: finding and judging devices. */
#ifndef INVENTORY_H
#define INVENTORY_H

#include "controller/registry.h"

/* By id, by a beginning of the id that is unique (6 digits or more), or by name. *out is the caller's.
 * Errors: ERR_NOT_FOUND, ERR_ARGUMENT (several fit). */
NODISCARD enum err inventory_find(struct registry_txn *t, const char *what, json_t **out);

/* Approve or revoke; name and tags NULL leave them. Writes the trail. */
NODISCARD enum err inventory_approve(struct registry_txn *t, json_t *device, const char *name,
                                     const json_t *tags, const char *who, int64_t now_s);
NODISCARD enum err inventory_revoke(struct registry_txn *t, json_t *device, const char *who,
                                    int64_t now_s);

/* Has it every one of these tags? tags NULL: yes. */
bool inventory_has_tags(const json_t *device, const json_t *tags);

#endif
