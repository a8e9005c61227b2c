/* spool.h: bulk that may be lost if it must, but then is known to be lost: telemetry and calibration sums.
 *
 * One LMDB environment of its own (<folder>/tel), so that its loss never touches the store. Each stream
 * has half of the quota. An append and the pruning that it forces are one transaction. Of a run of
 * records that pruning takes before the controller had them, the last one's place is filled by a
 * tombstone that names the run, so loss is known loss. Values carry a checksum, LMDB has none; a damaged
 * record becomes a tombstone when it is read.
 *
 *   MAP_FULL       the map grows by a quarter once, then a quarter of the stream is deleted
 *   damaged        the folder is set aside as tel.bad and a new one begins
 *   disk nearly full or failing   records wait in memory (bounded) until there is room again
 *
 * Threads: the agent's only one.
 */
#ifndef SPOOL_H
#define SPOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"

enum spool_stream { SPOOL_TEL = 0, SPOOL_CAL = 1, SPOOL_STREAMS = 2 };

enum { SPOOL_RECORD_MAX = 256 << 10, SPOOL_MEMORY_RECORDS = 256 };

struct spool_options {
    const char *folder;   /* of the agent's state */
    uint64_t quota_bytes; /* of both streams: half each; at least 1 MiB */
    uint64_t epoch;       /* of this start, above every one in the ring */
    /* The record that stands for [from, to] of a stream, put in the place of `to`. */
    enum err (*tombstone)(enum spool_stream stream, uint64_t epoch, uint64_t from, uint64_t to, uint8_t *out,
                          size_t capacity, size_t *size);
    /* Free and total bytes of the disk; NULL: statvfs. For tests. */
    bool (*disk)(void *context, uint64_t *free_bytes, uint64_t *total_bytes);
    void *disk_context;
};

struct spool;

/* Errors: ERR_ARGUMENT, ERR_MEMORY. A store that cannot be opened is set aside; a disk that does not take
 * one leaves a ring in memory. */
NODISCARD enum err spool_open(const struct spool_options *options, struct spool **out);
void spool_close(struct spool *r); /* NULL is allowed */

struct spool_record {
    const void *bytes;
    size_t size;
};

/* Appends all or nothing, durable when it returns unless spool_is_degraded; *first gets the seq of the
 * first, they count up by one from it. Errors: ERR_ARGUMENT (too large), ERR_FULL (memory full),
 * ERR_IO. */
NODISCARD enum err spool_append(struct spool *r, enum spool_stream stream, const struct spool_record *records,
                               uint32_t count, uint64_t *first);

/* A copy of consecutive records of one epoch, made by spool_read. */
struct spool_batch {
    uint64_t epoch;
    uint64_t first;
    uint32_t count;
    uint32_t offset[1025]; /* record i is bytes[offset[i] .. offset[i + 1]) */
    uint8_t *bytes;        /* the caller's */
    size_t capacity;
};

/* The records after (epoch, seq), as many as fit: at most max_count (<= 1024). ERR_NOT_FOUND: none. */
NODISCARD enum err spool_read(struct spool *r, enum spool_stream stream, uint64_t epoch, uint64_t seq,
                             uint32_t max_count, struct spool_batch *batch);

/* The controller holds everything of this epoch up to and with seq. */
NODISCARD enum err spool_acknowledge(struct spool *r, enum spool_stream stream, uint64_t epoch, uint64_t seq);

/* The seq that the next record will have. */
uint64_t spool_next_seq(const struct spool *r, enum spool_stream stream);
bool spool_is_degraded(const struct spool *r);
uint64_t spool_records(struct spool *r, enum spool_stream stream);

#endif
