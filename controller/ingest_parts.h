/* ingest_parts.h: the batch as ingest.c and ingest_apply.c share it. Nobody else includes this. */
#ifndef INGEST_PARTS_H
#define INGEST_PARTS_H

#include "controller/ingest.h"
#include "controller/seen.h"
#include "controller/trail.h"
#include "protocol/envelope.h"
#include "protocol/message.h"
#include "protocol/topic.h"

enum { HEARD_EVERY_S = 5, INGEST_TOUCH_MAX = 256, INGEST_SEEN_KEY = 64 };

struct ingest {
    struct controller *c;
    struct registry_txn *t;
    struct posts *posts;
    int64_t now_ms;
    enum err last;
    uint64_t records; /* of telemetry, new in this batch */
    size_t touched;
    struct {
        char device[KEYS_ID_HEX];
        uint64_t epoch;
    } touch[INGEST_TOUCH_MAX];
    /* Too large for the stack together. */
    struct message_birth birth;
    struct message_result result;
    struct message_sums sums;
    struct message_record record;
    struct message_blob blobs[MESSAGE_RECORDS_MAX];
    uint8_t plan[MESSAGE_MAX];
};

/* Is seq of a stream new? Marks it and remembers that the device awaits an ack. */
NODISCARD enum err ingest_stream(struct ingest *i, const char *device, uint64_t epoch, uint32_t stream,
                                 uint64_t seq, bool *is_new);
/* The pieces of it, for batches. doc is the caller's. */
NODISCARD enum err ingest_seen_load(struct ingest *i, const char *device, uint64_t epoch,
                                    uint32_t stream, json_t **doc, struct seen *out);
NODISCARD enum err ingest_seen_store(struct ingest *i, const char *device, uint64_t epoch,
                                     uint32_t stream, json_t *doc, const struct seen *s);
void ingest_seen_key(const char *device, uint64_t epoch, char out[INGEST_SEEN_KEY]);
void ingest_touch(struct ingest *i, const char *device, uint64_t epoch);
NODISCARD enum err ingest_note_gap(struct ingest *i, const char *device, uint32_t stream,
                                   uint64_t lost);

/* What a verified message does. ERR_STALE: seen before, or older than what is known. */
NODISCARD enum err ingest_birth(struct ingest *i, const char *device, const struct message_birth *m,
                                bool is_retained);
NODISCARD enum err ingest_death(struct ingest *i, json_t *doc, const char *device,
                                const struct envelope *envelope);
NODISCARD enum err ingest_request(struct ingest *i, json_t *doc, const char *device,
                                  const struct envelope *envelope);
NODISCARD enum err ingest_batch(struct ingest *i, const char *device,
                                const struct envelope *envelope);
NODISCARD enum err ingest_job(struct ingest *i, json_t *doc, const char *device,
                              const struct envelope *envelope);
NODISCARD enum err ingest_result(struct ingest *i, const char *device,
                                 const struct envelope *envelope);
NODISCARD enum err ingest_sums(struct ingest *i, const char *device, const struct envelope *envelope);
/* A live word of the device: it is there, now. */
NODISCARD enum err ingest_heard(struct ingest *i, const char *device);

#endif
