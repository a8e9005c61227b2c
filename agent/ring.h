/* ring.h: bulk that may be lost if it must, but then is known to be lost: telemetry and calibration sums.
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
#ifndef RING_H
#define RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"

enum ring_stream { RING_TEL = 0, RING_CAL = 1, RING_STREAMS = 2 };

enum { RING_RECORD_MAX = 256 << 10, RING_MEMORY_RECORDS = 256 };

struct ring_options {
    const char *folder;   /* of the agent's state */
    uint64_t quota_bytes; /* of both streams: half each; at least 1 MiB */
    uint64_t epoch;       /* of this start, above every one in the ring */
    /* The record that stands for [from, to] of a stream, put in the place of `to`. */
    enum err (*tombstone)(enum ring_stream stream, uint64_t epoch, uint64_t from, uint64_t to, uint8_t *out,
                          size_t capacity, size_t *size);
    /* Free and total bytes of the disk; NULL: statvfs. For tests. */
    bool (*disk)(void *context, uint64_t *free_bytes, uint64_t *total_bytes);
    void *disk_context;
};

struct ring;

/* Errors: ERR_ARGUMENT, ERR_MEMORY. A store that cannot be opened is set aside; a disk that does not take
 * one leaves a ring in memory. */
NODISCARD enum err ring_open(const struct ring_options *options, struct ring **out);
void ring_close(struct ring *r); /* NULL is allowed */

struct ring_record {
    const void *bytes;
    size_t size;
};

/* Appends all or nothing, durable when it returns unless ring_is_degraded; *first gets the seq of the
 * first, they count up by one from it. Errors: ERR_ARGUMENT (too large), ERR_FULL (memory ring full),
 * ERR_IO. */
NODISCARD enum err ring_append(struct ring *r, enum ring_stream stream, const struct ring_record *records,
                               uint32_t count, uint64_t *first);

/* A copy of consecutive records of one epoch, made by ring_read. */
struct ring_batch {
    uint64_t epoch;
    uint64_t first;
    uint32_t count;
    uint32_t offset[1025]; /* record i is bytes[offset[i] .. offset[i + 1]) */
    uint8_t *bytes;        /* the caller's */
    size_t capacity;
};

/* The records after (epoch, seq), as many as fit: at most max_count (<= 1024). ERR_NOT_FOUND: none. */
NODISCARD enum err ring_read(struct ring *r, enum ring_stream stream, uint64_t epoch, uint64_t seq,
                             uint32_t max_count, struct ring_batch *batch);

/* The controller holds everything of this epoch up to and with seq. */
NODISCARD enum err ring_acknowledge(struct ring *r, enum ring_stream stream, uint64_t epoch, uint64_t seq);

/* The seq that the next record will have. */
uint64_t ring_next_seq(const struct ring *r, enum ring_stream stream);
bool ring_is_degraded(const struct ring *r);
uint64_t ring_records(struct ring *r, enum ring_stream stream);

#endif
