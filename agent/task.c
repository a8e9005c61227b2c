/* task.c: see task.h. */
#include "agent/task.h"

#include <stdio.h>
#include <stdlib.h>

#include "agent/log.h"

struct task {
    struct loop *loop;
    const struct settings *settings;
    struct worker *worker;
    struct task_options now;
};

enum err task_open(struct loop *loop, const struct settings *settings, struct task **out)
{
    struct task *t = calloc(1, sizeof *t);
    if (!t)
        return ERR_MEMORY;
    t->loop = loop;
    t->settings = settings;
    *out = t;
    return ERR_NONE;
}

void task_close(struct task *t)
{
    if (!t)
        return;
    worker_close(t->worker);
    free(t);
}

static void clear(struct task *t)
{
    struct worker *w = t->worker;
    t->worker = NULL;
    worker_close(w);
}

static void on_message(void *context, struct worker *w, const struct wire *m)
{
    struct task *t = context;
    struct task_options now = t->now;
    char text[256];
    (void)w;
    switch (m->kind) {
    case WIRE_PROGRESS:
        if (now.progress)
            now.progress(now.context, (uint32_t)wire_u64(m, WIRE_K_PPM, 0));
        break;
    case WIRE_DONE:
        clear(t); /* the frame lives until this returns */
        now.done(now.context, m);
        break;
    case WIRE_FAILED:
        if (!wire_text(m, WIRE_K_TEXT, text, sizeof text))
            snprintf(text, sizeof text, "a reason too long to keep");
        uint64_t error = wire_u64(m, WIRE_K_ERR, ERR_FORMAT);
        clear(t);
        now.failed(now.context, error && error <= ERR_CRASHED ? (enum err)error : ERR_FORMAT, text);
        break;
    default: log_warning("task: an unexpected frame: kind=%u", m->kind); break;
    }
}

static void on_ended(void *context, struct worker *w, enum worker_end end, const char *why)
{
    struct task *t = context;
    struct task_options now = t->now;
    char text[160];
    (void)w;
    snprintf(text, sizeof text, "the worker %s (%s)", worker_end_name(end), why);
    clear(t);
    now.failed(now.context, end == WORKER_HUNG ? ERR_TIMEOUT : end == WORKER_MEMORY ? ERR_MEMORY : ERR_CRASHED, text);
}

enum err task_start(struct task *t, const struct task_options *options, const struct wire *request)
{
    static const char *const names[] = {"?", "shadow", "bench", "job"};
    if (t->worker && t->now.weight >= options->weight)
        return ERR_FULL;
    if (t->worker) {
        struct task_options was = t->now;
        clear(t);
        was.failed(was.context, ERR_CANCELLED, "given up for a task of more weight");
        if (t->worker)
            return ERR_FULL;
    }
    struct worker_options w = {.loop = t->loop,
                               .settings = t->settings,
                               .name = names[options->weight],
                               .context = t,
                               .message = on_message,
                               .ended = on_ended};
    enum err e = worker_open(&w, &t->worker);
    if (e) {
        t->worker = NULL;
        return e;
    }
    t->now = *options;
    worker_expect(t->worker, (int64_t)t->settings->hang_s * 1000);
    if ((e = worker_send(t->worker, request)))
        clear(t);
    return e;
}

void task_cancel(struct task *t, enum task_weight weight)
{
    if (t->worker && t->now.weight == weight)
        clear(t);
}

bool task_is_busy(const struct task *t)
{
    return t->worker != NULL;
}

pid_t task_pid(const struct task *t)
{
    return t->worker ? worker_pid(t->worker) : -1;
}
