/* worker.h: the agent's side of a worker process: start it, talk to it, notice when it dies or hangs.
 *
 * A worker is the program tared-worker beside tared. It alone loads plugins, reads models and speaks
 * HTTP to the artifact server. It dies with the agent (PR_SET_PDEATHSIG, end of the socket). What it
 * allocates is bounded by RLIMIT_DATA when the settings give a limit.
 */
#ifndef WORKER_H
#define WORKER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent/loop.h"
#include "agent/settings.h"
#include "agent/wire.h"

struct worker;

enum worker_end {
    WORKER_STOPPED = 1, /* worker_stop was asked for and is done */
    WORKER_CRASHED = 2, /* by a signal, or a status that is not 0 */
    WORKER_HUNG = 3,    /* no frame within the time set: it was killed */
    WORKER_BROKE = 4,   /* it said something that is no frame: it was killed */
    WORKER_MEMORY = 5   /* killed for memory */
};

struct worker_options {
    struct loop *loop;
    const struct settings *settings;
    const char *name; /* for the log: "serve", "derive", ...; a literal */
    void *context;
    /* A frame came. The worker may be closed inside. */
    void (*message)(void *context, struct worker *w, const struct wire *m);
    /* It is gone; worker_close it, inside or later. Not called by worker_close. */
    void (*ended)(void *context, struct worker *w, enum worker_end end, const char *why);
};

/* Starts the process and sends it WIRE_SETUP. Errors: ERR_IO, ERR_MEMORY, ERR_NOT_FOUND (no program). */
NODISCARD enum err worker_open(const struct worker_options *options, struct worker **out);
/* Kills it at once, if need be, reaps it, frees it. NULL is allowed. */
void worker_close(struct worker *w);

/* Errors: ERR_FULL, ERR_IO (its end follows), ERR_ARGUMENT. */
NODISCARD enum err worker_send(struct worker *w, const struct wire *m);

/* From now on it must say something at least every so many milliseconds; 0: it may be silent. */
void worker_expect(struct worker *w, int64_t within_ms);

pid_t worker_pid(const struct worker *w);
uint64_t worker_rss(const struct worker *w); /* bytes now; 0: unknown */
const char *worker_end_name(enum worker_end end);

/* Another program than tared-worker beside this one. For tests. */
void worker_set_program(const char *path);

#endif
