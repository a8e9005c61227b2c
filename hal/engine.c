/* engine.c: from options to an opened plugin; and the memory that plugins take. */
#include "hal/engine.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "hal/device.h"
#include "hal/fallback.h"
#include "hal/region.h"
#include "hal/select.h"
#include "plugins/scalar/scalar.h"

#ifdef __SANITIZE_ADDRESS__ /* which only watches what it allocates */
enum { ALIGNMENT = 64, IS_WATCHED = 1 };
#else
enum { ALIGNMENT = 64, IS_WATCHED = 0 };
#endif

/* hal_host's functions have no context, so what they count is the process'. */
static _Atomic uint64_t memory_used, memory_peak, memory_budget;

static size_t rounded(size_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static void *take(size_t bytes)
{
    return bytes >= REGION_LEAST && !IS_WATCHED ? region_alloc(bytes) : aligned_alloc(ALIGNMENT, bytes);
}

static void *host_alloc(size_t bytes)
{
    if (bytes == 0 || bytes > SIZE_MAX - ALIGNMENT)
        return NULL;
    const size_t whole = rounded(bytes);
    const uint64_t budget = atomic_load(&memory_budget);
    const uint64_t used = atomic_fetch_add(&memory_used, whole) + whole;
    void *p = budget != 0 && used > budget ? NULL : take(whole);
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
    if (IS_WATCHED || !region_release(p)) /* by address: a plugin's count of bytes is not to be relied on */
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

uint64_t engine_memory_budget(void)
{
    return atomic_load(&memory_budget);
}

/* The operator's word, or, where a cgroup has a limit, what it leaves beside what engines have already. */
static uint64_t budget_of(const struct engine_options *o)
{
    const uint64_t left = device_memory_left();
    if (left == UINT64_MAX)
        return o->budget_bytes;
    const uint64_t most = left + engine_memory_used();
    return o->budget_bytes != 0 && o->budget_bytes < most ? o->budget_bytes : most != 0 ? most : 1;
}

static void note(struct engine_refusal *to, const struct select_plugin *from)
{
    snprintf(to->name, sizeof to->name, "%s", from->name);
    to->error = from->error;
    snprintf(to->reason, sizeof to->reason, "%s", from->reason);
}

static void refuse(struct engine *engine, const struct select_plugin *plugin)
{
    char line[ENGINE_NAME_BYTES + ENGINE_REASON_BYTES + 32];
    if (engine->refusals < ENGINE_REFUSALS_MAX)
        note(&engine->refused[engine->refusals++], plugin);
    snprintf(line, sizeof line, "engine: plugin %s refused: %s: %s", plugin->name,
             err_name(plugin->error), plugin->reason);
    /* one for another machine is no news: a package holds plugins of every kind */
    engine->host.log(plugin->error == ERR_UNSUPPORTED ? LOG_DEBUG : LOG_WARNING, line);
}

/* The table of a plugin that passed: the same steps as in the child, now in this process. */
static enum err take_table(const struct select_options *options, struct select_plugin *plugin,
                           struct hal_plugin *out)
{
    if (plugin->file[0] == '\0') {
        *out = scalar_plugin;
        return ERR_NONE;
    }
    return load_plugin(plugin->file, &options->load, out, plugin->reason);
}

/* Load and open one plugin into engine; reason is left in plugin. */
static enum err open_plugin(struct engine *engine, const struct select_options *options,
                            struct select_plugin *plugin)
{
    struct hal_plugin table;
    void *dev = NULL;
    enum err e = take_table(options, plugin, &table);
    if (e == ERR_NONE)
        e = table.probe(options->path, &engine->caps);
    if (e != ERR_NONE) {
        if (plugin->reason[0] == '\0')
            snprintf(plugin->reason, sizeof plugin->reason, "cannot run here: %.*s",
                     (int)sizeof engine->caps.reason, engine->caps.reason);
        return e;
    }
    engine->host.path = plugin->file[0] == '\0' ? NULL : options->path;
    e = table.open(&engine->host, &dev);
    if (e != ERR_NONE) {
        snprintf(plugin->reason, sizeof plugin->reason, "does not open");
        return e;
    }
    engine->ops = table;
    engine->dev = dev;
    engine->fallback_ops = fallback_missing(&table);
    if (engine->fallback_ops != 0 || engine->caps.score >= SELECT_ACCELERATOR) {
        e = fallback_open(&table, dev, &engine->host, &engine->ops, &engine->dev);
        if (e != ERR_NONE) {
            table.close(dev);
            snprintf(plugin->reason, sizeof plugin->reason, "no memory for what it lacks");
        }
    }
    return e;
}

/* Beside an accelerator the best plugin for the CPU encodes and decodes, where it is sooner. Without one
 * nothing is lost but time. */
static void find_helper(struct engine *engine, const struct select_options *options,
                        struct select_plugin *list, uint32_t count)
{
    struct hal_plugin table;
    struct hal_caps caps;
    struct hal_host host = engine->host;
    void *dev = NULL;
    uint32_t i = 0;
    while (i < count && (!list[i].is_serving || list[i].caps.score >= SELECT_ACCELERATOR))
        i++;
    if (engine->caps.score < SELECT_ACCELERATOR || i == count || list[i].file[0] == '\0' ||
        take_table(options, &list[i], &table) != ERR_NONE || table.encode == NULL ||
        table.decode == NULL || table.probe(NULL, &caps) != ERR_NONE)
        return;
    host.path = NULL;
    if (table.open(&host, &dev) != ERR_NONE)
        return;
    fallback_help(engine->dev, &table, dev);
    snprintf(engine->helper, sizeof engine->helper, "%s", list[i].name);
}

static enum err find_plugins(const struct engine_options *o, const struct select_options *wanted,
                             struct select_plugin *list, uint32_t *count)
{
    struct select_options options = *wanted;
    if (o->plugin != NULL && strcmp(o->plugin, "scalar") == 0)
        options.folder = ""; /* linked in: no file need be touched */
    /* an unreadable folder leaves scalar */
    const enum err e = select_list(&options, list, count);
    if (*count == 0) {
        *count = 1;
        memset(&list[0], 0, sizeof list[0]);
        snprintf(list[0].name, sizeof list[0].name, "%s", o->plugin);
        snprintf(list[0].reason, sizeof list[0].reason, "no such plugin in %s",
                 o->folder != NULL ? o->folder : "the plugin folder");
        list[0].error = e != ERR_NONE ? e : ERR_NOT_FOUND;
    }
    return ERR_NONE;
}

static enum err open_best(struct engine *engine, const struct engine_options *o)
{
    const struct select_options options = {
        .folder = o->folder,
        .path = o->path,
        .only = o->plugin,
        .is_unchecked = o->is_unchecked,
        .load = {o->keys, o->key_count, o->folder == NULL && load_is_installed()}};
    struct select_plugin list[SELECT_PLUGINS_MAX];
    uint32_t count = 0;
    enum err last = find_plugins(o, &options, list, &count);
    /* those that do not serve come last in the list, but their reasons come first */
    for (uint32_t i = 0; i < count; i++)
        if (!list[i].is_serving) {
            refuse(engine, &list[i]);
            last = list[i].error;
        }
    for (uint32_t i = 0; i < count && list[i].is_serving; i++) {
        last = list[i].error = open_plugin(engine, &options, &list[i]);
        if (last == ERR_NONE)
            find_helper(engine, &options, list, count);
        if (last == ERR_NONE || last == ERR_MEMORY)
            return last;
        refuse(engine, &list[i]);
    }
    return last;
}

enum err engine_open(const struct engine_options *options, struct engine **out,
                     struct engine_refusal *refusal)
{
    static const struct engine_options defaults;
    const struct engine_options *o = options != NULL ? options : &defaults;
    *out = NULL;
    struct engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL)
        return ERR_MEMORY;
    atomic_store(&memory_budget, budget_of(o));
    engine->host = (struct hal_host){host_alloc, host_release, o->log != NULL ? o->log : silence,
                                     o->threads != 0 ? o->threads : device_threads(), NULL};
    const enum err e = open_best(engine, o);
    if (e != ERR_NONE) {
        if (refusal != NULL) {
            memset(refusal, 0, sizeof *refusal);
            if (engine->refusals > 0)
                *refusal = engine->refused[engine->refusals - 1];
            refusal->error = e;
        }
        free(engine);
        return e;
    }
    engine->threads = engine->host.threads;
    *out = engine;
    return ERR_NONE;
}

/* At most bytes - 1 characters in all; at stays below bytes. */
__attribute__((format(printf, 4, 5))) static size_t say(char *out, size_t bytes, size_t at,
                                                        const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    const int more = vsnprintf(out + at, bytes - at, format, arguments);
    va_end(arguments);
    return more < 0 ? at : (size_t)more < bytes - at ? at + (size_t)more : bytes - 1;
}

void engine_describe(const struct engine *engine, char *out, size_t bytes)
{
    const char *between = "; ";
    if (bytes == 0)
        return;
    size_t at = say(out, bytes, 0, "%s %s", engine->ops.name, engine->caps.path);
    for (uint32_t i = 0; i < FALLBACK_OPS; i++)
        if (engine->fallback_ops >> i & 1u) {
            at = say(out, bytes, at, "%s%s", between, fallback_name(i));
            between = ", ";
        }
    if (engine->fallback_ops != 0)
        at = say(out, bytes, at, " on the CPU");
    if (engine->helper[0] != '\0')
        at = say(out, bytes, at, "; %s encodes and decodes where sooner", engine->helper);
    between = "; refused: ";
    for (uint32_t i = 0; i < engine->refusals; i++) {
        at = say(out, bytes, at, "%s%s (%s)", between, engine->refused[i].name, engine->refused[i].reason);
        between = ", ";
    }
}

enum err engine_limit_threads(struct engine *engine, uint32_t threads)
{
    if (threads == 0 || threads > engine->host.threads)
        return ERR_ARGUMENT;
    if (engine->ops.limit_threads == NULL)
        return threads == engine->threads ? ERR_NONE : ERR_UNSUPPORTED;
    const enum err e = engine->ops.limit_threads(engine->dev, threads);
    if (e == ERR_NONE)
        engine->threads = threads;
    return e;
}

void engine_close(struct engine *engine)
{
    if (engine == NULL)
        return;
    engine->ops.close(engine->dev);
    free(engine);
}
