/* bench.h: benchmark requests of the controller: run by a task worker, answered by a signed report. */
#ifndef BENCH_H
#define BENCH_H

#include "agent/identity.h"
#include "agent/slots.h"
#include "agent/task.h"

struct bench_options {
    struct loop *loop;
    const struct settings *settings;
    const struct identity *identity;
    struct store *store;
    struct task *task;
    void *context;
    uint64_t (*now_ms)(void *context);
    void (*posted)(void *context);
};

struct bench;

NODISCARD enum err bench_open(const struct bench_options *options, struct bench **out);
void bench_close(struct bench *b); /* NULL is allowed */

/* Takes a verified request; it runs when no job's task does. One waits at most: ERR_FULL. The version of the
 * request counts as done once its report is stored, in the same transaction. */
NODISCARD enum err bench_ask(struct bench *b, const struct message_benchmark *request);

#endif
