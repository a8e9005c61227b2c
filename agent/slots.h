/* slots.h: the files of the agent: fetched blobs, two variants, and which of them may go.
 *
 * A slot holds a variant and the plan that it was made by. One is active: it serves, and is what the agent
 * returns to. The other is free, holds the variant before, or the one on trial.
 */
#ifndef SLOTS_H
#define SLOTS_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/store.h"
#include "protocol/message.h"

enum { SLOTS_PATH = 768, SLOTS_NONE = 2 };

/* What a plan's derivation says of how its variant is made and answers. */
struct slots_setting {
    uint32_t schema;          /* PLAN_SCHEMA of who made it; 0: not said */
    uint32_t cache_type;      /* enum hal_type; 0: not said */
    uint32_t activation_bits; /* 0: not said */
};

struct slot {
    bool is_used;
    uint8_t variant[32];
    uint64_t variant_bytes;
    struct message_plan plan; /* without its tensors */
    struct slots_setting setting;
};

/* Makes blobs/, variants/ and work/ in the state folder. ERR_IO. */
NODISCARD enum err slots_prepare(const char *folder);

void slots_blob_path(const char *folder, const uint8_t digest[32], char out[SLOTS_PATH]);
void slots_variant_path(const char *folder, const uint8_t digest[32], char out[SLOTS_PATH]);
/* Where a variant of this plan is derived. */
void slots_work_path(const char *folder, const uint8_t plan_id[16], char out[SLOTS_PATH]);
/* Is there a file of exactly this length? */
bool slots_has_file(const char *path, uint64_t bytes);
/* Bytes that unprivileged writers may still use in the folder's file system; UINT64_MAX: unknown. */
uint64_t slots_disk_free(const char *folder);
/* Bytes of blobs, variants and work. */
uint64_t slots_disk_used(const char *folder);

/* i is 0 or 1. An unreadable slot counts as free. */
NODISCARD enum err slots_get(struct store_txn *t, uint32_t i, struct slot *out);
/* payload: of the plan's envelope. */
NODISCARD enum err slots_put(struct store_txn *t, uint32_t i, const uint8_t variant[32], uint64_t variant_bytes,
                             const uint8_t *payload, size_t payload_bytes);
NODISCARD enum err slots_clear(struct store_txn *t, uint32_t i);
NODISCARD enum err slots_active(struct store_txn *t, uint32_t *i); /* SLOTS_NONE: none yet */
NODISCARD enum err slots_activate(struct store_txn *t, uint32_t i);
/* The one that does not serve, where the next variant goes. */
NODISCARD enum err slots_spare(struct store_txn *t, uint32_t *i);

/* Decodes a plan's payload but for its tensors. */
NODISCARD enum err slots_decode_plan(const uint8_t *payload, size_t payload_bytes, struct message_plan *out);

/* What a plan's payload says; zeros where it does not or cannot be read. */
void slots_setting(const uint8_t *payload, size_t payload_bytes, struct slots_setting *out);

/* Deletes blobs, variants and work of no slot and of no plan in hand (job may be NULL). Bases are kept as long
 * as keep_bytes of them fit. Never fails: what cannot be deleted is left. */
void slots_sweep(const char *folder, struct store_txn *t, const struct message_plan *job, uint64_t keep_bytes);

#endif
