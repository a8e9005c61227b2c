/* registry.h: everything the controller knows, in one LMDB environment.
 *
 * Most records are JSON documents (the form the HTTP API answers with); bulk records (signed plans,
 * telemetry, calibration sums) are the bytes themselves. A document's key is text, except in the
 * tables that are read in order of time, whose keys are big-endian numbers.
 *
 * Rules: default durability (a commit that returned is on disk), no WRITEMAP, no NOSYNC, no DUPSORT,
 * no nested transactions; the map grows by itself before it is full. kill -9 at any point leaves the
 * last committed state.
 *
 * Threads: any; a transaction holds the registry's lock from begin to commit or abort, so a thread
 * must never begin a second one before it ended the first, and never waits on the network inside.
 */
#ifndef REGISTRY_H
#define REGISTRY_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"

/* Numbers are indices of sub-databases; the names in registry.c are what is stored. */
enum registry_table {
    REGISTRY_META = 0,        /* text -> document: schema, counters that are not derived */
    REGISTRY_DEVICES = 1,     /* device id -> document */
    REGISTRY_FILES = 2,       /* SHA-256 hex -> document: bases, profiles, texts */
    REGISTRY_RECIPES = 3,     /* recipe id -> document */
    REGISTRY_PLANS = 4,       /* plan id -> document */
    REGISTRY_ENVELOPES = 5,   /* device id, device id/cmd -> signed bytes: newest plan, open command */
    REGISTRY_ROLLOUTS = 6,    /* rollout id -> document */
    REGISTRY_JOBS = 7,        /* rollout id/device id -> document */
    REGISTRY_DRIFT = 8,       /* device id -> document: how far its traffic has moved, state of the rule */
    REGISTRY_TELEMETRY = 9,   /* device id, epoch, seq (big-endian) -> record as received */
    REGISTRY_BENCH = 10,      /* request id -> document */
    REGISTRY_SUMS = 11,       /* device id/epoch/window/chunk -> calibration sums as received */
    REGISTRY_DECISIONS = 12,  /* number (big-endian) -> document: the trail */
    REGISTRY_SEEN = 13,       /* device id/epoch -> document: which reports have been applied */
    REGISTRY_TABLES = 14
};

struct registry;
struct registry_txn;

/* Open or create the environment in a folder (created, 0700).
 *   map_bytes  first size of the map; it grows when three quarters are used
 * Errors: ERR_IO (folder, disk, another controller holds it), ERR_VERSION (a newer schema). */
NODISCARD enum err registry_open(const char *folder, size_t map_bytes, struct registry **out);
void registry_close(struct registry *r); /* NULL is allowed */

NODISCARD enum err registry_begin(struct registry *r, bool is_write, struct registry_txn **out);
/* Ends the transaction whatever it returns. ERR_NONE: the changes are durable. ERR_MEMORY: a document
 * could not be filled since the begin (doc.h), so nothing was written. */
NODISCARD enum err registry_commit(struct registry_txn *t);
void registry_abort(struct registry_txn *t); /* NULL is allowed */

/* Bytes. get: *value points into the map, valid until the transaction's next write or its end.
 * Errors: ERR_NOT_FOUND, ERR_IO, ERR_FULL (disk). */
NODISCARD enum err registry_get(struct registry_txn *t, enum registry_table table, const void *key,
                                size_t key_bytes, const void **value, size_t *bytes);
NODISCARD enum err registry_put(struct registry_txn *t, enum registry_table table, const void *key,
                                size_t key_bytes, const void *value, size_t bytes);
/* ERR_NONE as well when there was no such key. */
NODISCARD enum err registry_delete(struct registry_txn *t, enum registry_table table,
                                   const void *key, size_t key_bytes);

/* Documents. get: *out is the caller's (json_decref). put: borrows doc; NULL (a
 * json_pack that failed) is ERR_MEMORY. */
NODISCARD enum err registry_get_doc(struct registry_txn *t, enum registry_table table,
                                    const char *key, json_t **out);
NODISCARD enum err registry_put_doc(struct registry_txn *t, enum registry_table table,
                                    const char *key, const json_t *doc);

/* Called for each record of a scan. Anything but ERR_NONE ends it; ERR_CANCELLED ends it well. */
typedef enum err registry_visit(void *context, const void *key, size_t key_bytes, const void *value,
                                size_t bytes);

/* Visit the records whose key starts with prefix (none: all), in key order or backwards. The visitor
 * must not write to the same table. */
NODISCARD enum err registry_scan(struct registry_txn *t, enum registry_table table,
                                 const void *prefix, size_t prefix_bytes, bool is_backwards,
                                 registry_visit *visit, void *context);

/* All documents of a table whose key starts with prefix (NULL: all), as a new array (the caller's),
 * at most limit of them (0: all), backwards if asked. */
NODISCARD enum err registry_list(struct registry_txn *t, enum registry_table table,
                                 const char *prefix, bool is_backwards, size_t limit, json_t **out);

/* Append a document under the next number, which is also put into it as "n". */
NODISCARD enum err registry_append(struct registry_txn *t, enum registry_table table, json_t *doc);

/* Number of records. */
NODISCARD enum err registry_count(struct registry_txn *t, enum registry_table table, size_t *out);

/* Sizes, for /metrics: bytes of the map and bytes of it in use. */
void registry_sizes(struct registry *r, uint64_t *map_bytes, uint64_t *used_bytes);

#endif
