/* slow_open.c: an accelerator, by its score, whose open() shows no sign of life: the first time for
 * longer than the check's limit for one step (SLOW_LATE), or for ever (SLOW_NEVER). */
#include <time.h>

#include "plugins/scalar/scalar.h"

static enum err probe(const char *path, struct hal_caps *caps)
{
    const enum err e = scalar_plugin.probe(path, caps);
    caps->score = 1000;
    return e;
}

static enum err open_slowly(const struct hal_host *host, void **dev)
{
    static int is_warm;
    if (!is_warm)
        nanosleep(&(struct timespec){2, 500000000}, NULL);
#ifdef SLOW_LATE
    is_warm = 1;
#else
    for (volatile int forever = 1; forever != 0;)
        nanosleep(&(struct timespec){1, 0}, NULL);
#endif
    return scalar_plugin.open(host, dev);
}

static void fill(struct hal_plugin *p)
{
    *p = scalar_plugin;
    p->name = SLOW_NAME;
    p->probe = probe;
    p->open = open_slowly;
}

HAL_EXPORT(fill)
