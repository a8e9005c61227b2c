#include "cli/leave_one_out.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/progress.h"

enum { PATH_BYTES = 1024 };

static int show(void *context, const struct sensitivity_progress *p)
{
    struct progress *bar = context;
    bar->total = p->total;
    progress_update(bar, p->done, p->name);
    return 0;
}

/* "" when there is no such folder and none can be made. */
static void find_cache(char path[PATH_BYTES])
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n = 0;
    if (cache && cache[0] == '/')
        n = snprintf(path, PATH_BYTES, "%s", cache);
    else if (home && home[0] == '/')
        n = snprintf(path, PATH_BYTES, "%s/.cache", home);
    const bool is_named = n > 0 && n < PATH_BYTES - 8;
    if (is_named) {
        (void)mkdir(path, 0700); /* there already, or the next one fails */
        strcat(path, "/tare");
    }
    if (!is_named || (mkdir(path, 0700) && errno != EEXIST))
        path[0] = 0;
}

enum err leave_one_out(const struct cli_call *call, const struct sensitivity_options *options,
                       struct plan_errors *errors, struct fault *f)
{
    char cache[PATH_BYTES] = "";
    struct progress bar;
    struct sensitivity_options o = *options;
    find_cache(cache);
    progress_open(&bar, call, "sensitivity", "evaluations", 0);
    o.cache_folder = cache[0] ? cache : NULL;
    o.progress = show;
    o.progress_context = &bar;
    const enum err e = sensitivity_measure(&o, errors, f);
    progress_close(&bar, e == ERR_NONE);
    return e;
}
