/* engine.c: from options to an opened plugin; and the memory that plugins take. */
#include "hal/engine.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugins/scalar/scalar.h"

enum { ALIGNMENT = 64 };

/* hal_host's functions have no context, so what they count is the process'. */
static _Atomic uint64_t memory_used, memory_peak, memory_budget;

static size_t rounded(size_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static void *host_alloc(size_t bytes)
{
    if (bytes == 0 || bytes > SIZE_MAX - ALIGNMENT)
        return NULL;
    const size_t whole = rounded(bytes);
    const uint64_t budget = atomic_load(&memory_budget);
    const uint64_t used = atomic_fetch_add(&memory_used, whole) + whole;
    void *p = budget != 0 && used > budget ? NULL : aligned_alloc(ALIGNMENT, whole);
    if (p == NULL) {
        atomic_fetch_sub(&memory_used, whole);
        return NULL;
    }
    uint64_t peak = atomic_load(&memory_peak);
    while (used > peak && !atomic_compare_exchange_weak(&memory_peak, &peak, used))
        ;
    return p;
}

static void host_release(void *p, size_t bytes)
{
    if (p == NULL)
        return;
    free(p);
    atomic_fetch_sub(&memory_used, rounded(bytes));
}

static void silence(int syslog_level, const char *message)
{
    (void)syslog_level;
    (void)message;
}

uint64_t engine_memory_used(void)
{
    return atomic_load(&memory_used);
}

uint64_t engine_memory_peak(void)
{
    return atomic_load(&memory_peak);
}

static uint32_t default_threads(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    const int cpus = CPU_COUNT(&set);
    return cpus > 0 ? (uint32_t)cpus : 1;
}

enum err engine_open(const struct engine_options *options, struct engine **out,
                     struct engine_refusal *refusal)
{
    static const struct engine_options defaults;
    const struct engine_options *o = options != NULL ? options : &defaults;
    *out = NULL;
    if (o->plugin != NULL && strcmp(o->plugin, "scalar") != 0) {
        if (refusal != NULL) {
            *refusal = (struct engine_refusal){.error = ERR_NOT_FOUND};
            snprintf(refusal->name, sizeof refusal->name, "%s", o->plugin);
            snprintf(refusal->reason, sizeof refusal->reason, "no such plugin");
        }
        return ERR_NOT_FOUND;
    }
    struct engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL)
        return ERR_MEMORY;
    atomic_store(&memory_budget, o->budget_bytes);
    engine->ops = scalar_plugin;
    engine->host = (struct hal_host){host_alloc, host_release, o->log != NULL ? o->log : silence,
                                     o->threads != 0 ? o->threads : default_threads(), NULL};
    enum err e = engine->ops.probe(NULL, &engine->caps);
    if (e == ERR_NONE)
        e = engine->ops.open(&engine->host, &engine->dev);
    if (e != ERR_NONE) {
        free(engine);
        return e;
    }
    *out = engine;
    return ERR_NONE;
}

void engine_close(struct engine *engine)
{
    if (engine == NULL)
        return;
    engine->ops.close(engine->dev);
    free(engine);
}
