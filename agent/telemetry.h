/* telemetry.h: what the device measures of itself: latency and throughput, memory, heat, energy, errors,
 * shadow runs on the base, and second moments of activations over windows of live traffic. Never text.
 *
 * Records gather in memory and go to the spool once per interval; what the spool does not take is kept and
 * goes with the next ones.
 */
#ifndef TELEMETRY_H
#define TELEMETRY_H

#include "agent/serve.h"
#include "agent/slots.h"
#include "agent/spool.h"
#include "agent/task.h"

struct telemetry_options {
    struct loop *loop;
    const struct settings *settings;
    struct spool *spool;
    struct serve *serve;
    struct task *task;
    uint64_t epoch;
    void *context;
    uint64_t (*now_ms)(void *context);
    void (*posted)(void *context); /* records wait in the spool */
};

struct telemetry;

NODISCARD enum err telemetry_open(const struct telemetry_options *options, struct telemetry **out);
void telemetry_close(struct telemetry *t); /* writes what it holds; NULL is allowed */

/* The slot that serves now, or NULL: what measures are about, and how it wants to be watched. */
void telemetry_serving(struct telemetry *t, const struct slot *slot);

/* The hooks of serve. */
bool telemetry_is_sampled(struct telemetry *t);
void telemetry_token(struct telemetry *t, uint64_t us);
void telemetry_finished(struct telemetry *t, const struct serve_cost *cost);
void telemetry_stats(struct telemetry *t, const struct wire *frame);

void telemetry_error(struct telemetry *t, enum err error, const char *text);
void telemetry_event(struct telemetry *t, const char *name, const char *text, uint64_t value);
/* Sums over so many tokens from now on, at full rate, then a report that names the command. */
void telemetry_calibrate(struct telemetry *t, uint64_t tokens, uint64_t command);
/* Writes what has gathered to the spool now. */
void telemetry_flush(struct telemetry *t);

/* The tombstones of the spool (spool.h). */
enum err telemetry_tombstone(enum spool_stream stream, uint64_t epoch, uint64_t from, uint64_t to, uint8_t *out,
                             size_t capacity, size_t *size);

#endif
