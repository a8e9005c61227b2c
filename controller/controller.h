/* controller.h: what the parts of the controller share.
 *
 * Threads: one loop (link, ingest, release, drift, workshop) and the HTTP threads. They meet in the
 * registry only; an HTTP call that changes a record wakes the loop, and only the loop publishes.
 */
#ifndef CONTROLLER_H
#define CONTROLLER_H

#include <stdatomic.h>
#include <stdint.h>

#include "controller/controller_settings.h"
#include "controller/registry.h"
#include "protocol/keys.h"

struct controller_link;
struct workshop;

/* Counters since start, for /metrics. */
struct controller_counts {
    atomic_ullong messages;    /* received and applied */
    atomic_ullong duplicates;  /* received again */
    atomic_ullong refused;     /* signature, format, audience, stale */
    atomic_ullong records;     /* of telemetry, made durable */
    atomic_ullong commits;
    atomic_ullong published;
    atomic_ullong artifact_bytes;
    atomic_bool is_connected;
};

struct controller {
    struct controller_settings settings;
    struct registry *registry;
    struct keys_secret director;
    struct controller_link *link; /* the loop's only; NULL in tests without a network */
    struct workshop *workshop;    /* the loop's only */
    struct controller_counts counts;
    int wake_fd; /* eventfd */
    int64_t started_s;
};

/* Open registry, keys and token of the settings' state folder; the caller closes. why holds one line
 * on error. Errors: ERR_IO, ERR_FORMAT, ERR_VERSION, ERR_MEMORY. */
NODISCARD enum err controller_open(const struct controller_settings *settings,
                                   struct controller **out, char *why, uint32_t why_bytes);
void controller_close(struct controller *c); /* NULL is allowed */

/* Wake the loop. Any thread. */
void controller_wake(struct controller *c);

/* What is due now besides messages: rollouts, the workshop's results, drift, bench requests, expiry.
 * The loop's thread only. */
void controller_tick(struct controller *c, int64_t now_ms);

/* The port that an earlier run chose under this name, 0 when none: what was told to devices should hold
 * after a restart. keep: remember it. */
uint16_t controller_last_port(struct controller *c, const char *name);
NODISCARD enum err controller_keep_port(struct controller *c, const char *name, uint16_t port);

int64_t controller_now_ms(void); /* Unix */

#endif
