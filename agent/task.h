/* task.h: the one task worker: a process per task, started, watched and cleared away.
 *
 * A job's tasks come first: a task of less weight is given up when one of more weight starts.
 */
#ifndef TASK_H
#define TASK_H

#include "agent/worker.h"

enum task_weight { TASK_SHADOW = 1, TASK_BENCH = 2, TASK_JOB = 3 };

struct task_options {
    enum task_weight weight;
    void *context;
    void (*progress)(void *context, uint32_t ppm); /* NULL is allowed */
    void (*done)(void *context, const struct wire *answer);
    /* error: what the worker said, or ERR_CRASHED, ERR_TIMEOUT (it hung), ERR_MEMORY, or ERR_CANCELLED
     * (it was given up for a task of more weight). */
    void (*failed)(void *context, enum err error, const char *why);
};

struct task;

NODISCARD enum err task_open(struct loop *loop, const struct settings *settings, struct task **out);
void task_close(struct task *t); /* calls nothing back */

/* Starts one. Exactly one of done and failed follows, unless task_cancel. Errors: ERR_FULL (one of the same
 * or more weight runs), and those of worker_open. */
NODISCARD enum err task_start(struct task *t, const struct task_options *options, const struct wire *request);
/* Gives up the task of this weight, if it is the one that runs; calls nothing back. */
void task_cancel(struct task *t, enum task_weight weight);
bool task_is_busy(const struct task *t);
pid_t task_pid(const struct task *t); /* -1: none */

#endif
