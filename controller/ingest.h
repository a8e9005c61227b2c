/* ingest.h: what devices say, verified and applied to the registry.
 *
 * Order for every message: topic, then the envelope against the key that this very device enrolled
 * with (its id is the hash of it), then the payload, then its place in its stream; only then is anything
 * written. All of it is idempotent: applying a message again changes nothing.
 */
#ifndef INGEST_H
#define INGEST_H

#include "controller/controller.h"
#include "controller/controller_link.h"

/* A batch: one transaction's worth of messages. */
struct ingest;
NODISCARD enum err ingest_begin(struct controller *c, struct ingest **out);
/* Apply one message. Refused and repeated ones are counted and logged, and are no error; an error means
 * that the batch must be given up (ERR_IO, ERR_MEMORY, ERR_FULL). */
NODISCARD enum err ingest_apply(struct ingest *i, const char *topic, bool is_retained,
                               const uint8_t *payload,
                                size_t size, int64_t now_ms);
/* Commit, then fill posts with answers and cumulative acks. Ends the batch whatever it returns. */
NODISCARD enum err ingest_commit(struct ingest *i, int64_t now_ms, struct posts *posts);
void ingest_abort(struct ingest *i); /* NULL is allowed */

/* What became of the last message given to ingest_apply: ERR_NONE (applied), ERR_STALE (seen before),
 * or why it was refused. */
enum err ingest_last(const struct ingest *i);

#endif
