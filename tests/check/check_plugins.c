/* check_plugins.c: the full check on scalar, on one plugin file, or on every plugin of a folder;
 * every code path that a plugin offers on this machine. check_plugins scalar|FILE|FOLDER [seed] */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hal/check.h"
#include "hal/load.h"
#include "plugins/scalar/scalar.h"

/* Paths that any plugin of ours may know; probe refuses the ones that are not its own or not here.
 */
static const char *const paths[] = {NULL,     "avx2", "avxvnni", "avx-vnni", "avx512-vnni",
                                    "avx512", "base", "dotprod", "i8mm",     "auto",
                                    "hvx",    "mma",  "dp4a",    "c11"};

static int check_path(const struct hal_plugin *plugin, const char *path, uint64_t seed)
{
    struct hal_caps caps;
    struct check_report report;
    const struct check_options options = {.seed = seed, .path = path, .threads = 3};
    if (plugin->probe(path, &caps) != ERR_NONE) {
        if (path == NULL)
            printf("%s: cannot run here: %s\n", plugin->name, caps.reason);
        return 0;
    }
    const enum err e = check_plugin(plugin, &options, &report);
    printf("%s path=%s: %u cases, %s%s%s\n", plugin->name, caps.path, report.cases,
           e == ERR_NONE ? "agree" : err_name(e), e == ERR_NONE ? "" : ": ", report.text);
    fflush(stdout);
    return e != ERR_NONE;
}

static int check_table(const struct hal_plugin *plugin, uint64_t seed)
{
    int bad = 0;
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++)
        bad |= check_path(plugin, paths[i], seed);
    return bad;
}

static int check_file(const char *path, uint64_t seed)
{
    struct hal_plugin plugin;
    char reason[LOAD_REASON_BYTES];
    const enum err e = load_plugin(path, NULL, &plugin, reason);
    if (e != ERR_NONE) {
        printf("%s: %s: %s\n", path, err_name(e), reason);
        return 1;
    }
    return check_table(&plugin, seed);
}

static int is_plugin_file(const struct dirent *entry)
{
    const size_t length = strlen(entry->d_name);
    return length > 3 && strcmp(entry->d_name + length - 3, ".so") == 0;
}

int main(int argc, char **argv)
{
    struct dirent **entries = NULL;
    const uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    int bad = 0;
    if (argc < 2) {
        fputs("usage: check_plugins scalar|FILE|FOLDER [seed]\n", stderr);
        return 2;
    }
    if (strcmp(argv[1], "scalar") == 0)
        return check_table(&scalar_plugin, seed);
    const int files = scandir(argv[1], &entries, is_plugin_file, alphasort);
    if (files < 0 && strstr(argv[1], ".so") != NULL)
        return check_file(argv[1], seed);
    for (int i = 0; i < files; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", argv[1], entries[i]->d_name);
        bad |= check_file(path, seed);
        free(entries[i]);
    }
    free(entries);
    if (files <= 0)
        puts("no plugin was built");
    return files <= 0 ? 77 : bad;
}
