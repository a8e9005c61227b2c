/* store.h: what the agent must never lose: its job, its slots, its outbox and its counters.
 *
 * One LMDB environment with full durability: a commit that returned is on disk. Every change of the
 * job's state is one transaction that also holds the report of it, so a state is persisted before
 * it is announced, and announced once it is persisted.
 *
 * The outbox keeps signed reports of the streams job and bench (enum message_stream) under (stream,
 * epoch, seq) until the controller says that they are durable there. Each stream is bounded; when it
 * is full its oldest reports go, and the controller sees the gap in seq.
 *
 * Threads: the agent's only one. A view from store_get is valid until the transaction ends.
 */
#ifndef STORE_H
#define STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"

struct store;
struct store_txn;

enum { STORE_OUTBOX_MAX = 4096, STORE_STREAMS = 4, STORE_VALUE_MAX = 1 << 20 };

/* Opens or makes <folder>/db and begins a new epoch: the number of this start of the agent, counted up
 * and synced before anything is sent under it. Errors: ERR_IO (or another agent holds it), ERR_FORMAT,
 * ERR_VERSION (made by a newer agent), ERR_MEMORY. */
NODISCARD enum err store_open(const char *folder, struct store **out);
void store_close(struct store *s); /* NULL is allowed */
uint64_t store_epoch(const struct store *s);

/* One transaction at a time. commit ends it whatever it returns; abort of NULL is allowed. */
NODISCARD enum err store_begin(struct store *s, bool is_write, struct store_txn **out);
NODISCARD enum err store_commit(struct store_txn *t); /* ERR_IO: disk full or broken, nothing changed */
void store_abort(struct store_txn *t);

/* Named values. Errors of get: ERR_NOT_FOUND, ERR_IO; of put: ERR_FULL, ERR_IO. */
NODISCARD enum err store_get(struct store_txn *t, const char *key, const void **value, size_t *bytes);
NODISCARD enum err store_put(struct store_txn *t, const char *key, const void *value, size_t bytes);
NODISCARD enum err store_delete(struct store_txn *t, const char *key); /* absent is fine */
NODISCARD enum err store_get_u64(struct store_txn *t, const char *key, uint64_t *out); /* 0 if absent */
NODISCARD enum err store_put_u64(struct store_txn *t, const char *key, uint64_t value);

/* A report on its way. */
struct store_report {
    uint32_t stream; /* enum message_stream */
    uint64_t epoch;
    uint64_t seq;
    const uint8_t *bytes; /* the signed envelope; a view */
    size_t size;
};

/* The seq that the next report of a stream will have in this epoch, from 1. store_post gives it out. */
NODISCARD enum err store_next_seq(struct store_txn *t, uint32_t stream, uint64_t *seq);
NODISCARD enum err store_post(struct store_txn *t, uint32_t stream, uint64_t seq, const void *envelope,
                              size_t bytes);
/* The first report of the stream after (epoch, seq), in order. ERR_NOT_FOUND: no more. */
NODISCARD enum err store_next_report(struct store_txn *t, uint32_t stream, uint64_t epoch, uint64_t seq,
                                     struct store_report *out);
/* Forgets the reports of this stream and epoch up to and with seq: the controller holds them. */
NODISCARD enum err store_acknowledge(struct store_txn *t, uint32_t stream, uint64_t epoch, uint64_t seq,
                                     uint32_t *count);
/* Reports of all streams that wait. */
NODISCARD enum err store_waiting(struct store_txn *t, uint64_t *reports);

#endif
