/* select.c: first contact in a child, and the order of those that serve. */
#include "hal/select.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "hal/fallback.h"
#include "plugins/scalar/scalar.h"

enum { TOTAL_TIMEOUT_MS = 600000, POLL_MS = 20 };

/* What child and parent share; the child fills it as it goes, so that a death tells where it was.
 */
struct contact {
    struct select_plugin plugin;
    struct check_report report;
    volatile int is_done;
};

static void describe(const struct hal_plugin *table, struct select_plugin *plugin)
{
    plugin->is_signed = 1;
    plugin->abi = table->abi;
    plugin->fallback_ops = fallback_missing(table);
    snprintf(plugin->version, sizeof plugin->version, "%s", table->version);
}

/* In the child: nothing here may be trusted to return. */
static void make_contact(const struct select_options *options, struct contact *c)
{
    struct select_plugin *p = &c->plugin;
    struct hal_plugin table;
    p->error = load_plugin(p->file, &options->load, &table, p->reason);
    p->is_signed = p->error != ERR_SIGNATURE && p->error != ERR_NOT_FOUND && p->error != ERR_IO;
    if (p->error != ERR_NONE)
        return;
    describe(&table, p);
    p->error = table.probe(options->path, &p->caps);
    if (p->error != ERR_NONE || p->caps.score == 0) {
        p->caps.score = 0;
        p->error = p->error != ERR_NONE ? p->error : ERR_UNSUPPORTED;
        snprintf(p->reason, sizeof p->reason, "cannot run here: %.*s", (int)sizeof p->caps.reason,
                 p->caps.reason);
        return;
    }
    if (options->is_unchecked)
        return;
    const struct check_options quick = {.is_quick = 1, .path = options->path, .threads = 2};
    p->error = check_plugin(&table, options->check != NULL ? options->check : &quick, &c->report);
    p->cases = c->report.cases;
    if (p->error != ERR_NONE)
        snprintf(p->reason, sizeof p->reason, "%s", c->report.text);
}

static void run_child(const struct select_options *options, struct contact *c)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTERM, SIGINT};
    const struct rlimit none = {0, 0};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setrlimit(RLIMIT_CORE, &none);
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
        signal(signals[i], SIG_DFL);
    const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (null >= 0) {
        dup2(null, STDOUT_FILENO);
        dup2(null, STDERR_FILENO);
    }
    make_contact(options, c);
    c->is_done = 1;
    _exit(0);
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* How long the child may be silent where it is now. */
static int64_t patience_ms(const struct select_options *options, const struct contact *c)
{
    if (c->plugin.caps.score < SELECT_ACCELERATOR || strcmp(c->report.op, "open") != 0)
        return SELECT_TIMEOUT_MS;
    return options->open_ms != 0 ? options->open_ms : SELECT_OPEN_MS;
}

/* Wait until the child is gone. Steps of the check count, not time, so that a busy machine refuses
 * nobody. Returns 0, or for how many ms it was silent when it had to be killed. */
static int64_t await_child(pid_t pid, int end, const struct select_options *options,
                           const struct contact *c)
{
    const int64_t start = now_ms();
    int64_t since = start;
    uint32_t seen = 0;
    struct pollfd p = {end, POLLIN, 0};
    while (poll(&p, 1, POLL_MS) <= 0) {
        const uint32_t steps = *(const volatile uint32_t *)&c->report.steps;
        const int64_t now = now_ms();
        if (steps != seen) {
            seen = steps;
            since = now;
        }
        if (now - since > patience_ms(options, c) || now - start > TOTAL_TIMEOUT_MS) {
            kill(pid, SIGKILL);
            return now - since > 0 ? now - since : 1;
        }
    }
    return 0;
}

static void judge_death(struct contact *c, int64_t silent_ms, int status)
{
    struct select_plugin *p = &c->plugin;
    const char *op = c->report.op[0] != '\0' ? c->report.op : "loading";
    if (c->is_done && silent_ms == 0)
        return;
    p->is_serving = 0;
    p->error = silent_ms != 0 ? ERR_TIMEOUT : ERR_CRASHED;
    if (silent_ms != 0)
        snprintf(p->reason, sizeof p->reason, "hangs in %s (no progress for %lld ms)", op,
                 (long long)silent_ms);
    else if (WIFSIGNALED(status))
        snprintf(p->reason, sizeof p->reason, "crashes in %s: %s", op, strsignal(WTERMSIG(status)));
    else
        snprintf(p->reason, sizeof p->reason, "ends its process in %s (status %d)", op,
                 WIFEXITED(status) ? WEXITSTATUS(status) : -1);
}

static void name_plugin(const char *file, struct select_plugin *plugin)
{
    const char *base = strrchr(file, '/');
    base = base != NULL ? base + 1 : file;
    memset(plugin, 0, sizeof *plugin);
    snprintf(plugin->file, sizeof plugin->file, "%s", file);
    snprintf(plugin->name, sizeof plugin->name, "%s", base);
    char *end = strrchr(plugin->name, '.');
    if (end != NULL)
        *end = '\0';
}

enum err select_first_contact(const char *file, const struct select_options *options,
                              struct select_plugin *plugin)
{
    int ends[2] = {-1, -1}, status = 0;
    name_plugin(file, plugin);
    if (strlen(file) >= sizeof plugin->file) {
        snprintf(plugin->reason, sizeof plugin->reason, "path too long");
        return plugin->error = ERR_ARGUMENT;
    }
    struct contact *c =
        mmap(NULL, sizeof *c, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (c == MAP_FAILED || pipe2(ends, O_CLOEXEC) != 0) {
        if (c != MAP_FAILED)
            munmap(c, sizeof *c);
        snprintf(plugin->reason, sizeof plugin->reason, "no room to check it: %s", strerror(errno));
        return plugin->error = ERR_MEMORY;
    }
    memset(c, 0, sizeof *c);
    c->plugin = *plugin;
    const pid_t pid = fork();
    if (pid == 0) {
        close(ends[0]);
        run_child(options, c);
    }
    close(ends[1]);
    if (pid < 0) {
        snprintf(c->plugin.reason, sizeof c->plugin.reason, "fork: %s", strerror(errno));
        c->plugin.error = ERR_MEMORY;
    } else {
        const int64_t silent_ms = await_child(pid, ends[0], options, c);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
        judge_death(c, silent_ms, status);
        c->plugin.is_serving = c->plugin.error == ERR_NONE;
    }
    close(ends[0]);
    *plugin = c->plugin;
    munmap(c, sizeof *c);
    return plugin->error;
}

static void describe_scalar(const struct select_options *options, struct select_plugin *plugin)
{
    name_plugin("scalar", plugin);
    plugin->file[0] = '\0';
    describe(&scalar_plugin, plugin);
    plugin->error = scalar_plugin.probe(options->path, &plugin->caps);
    plugin->is_serving = plugin->error == ERR_NONE;
    if (!plugin->is_serving)
        snprintf(plugin->reason, sizeof plugin->reason, "cannot run here: %s", plugin->caps.reason);
}

static int is_plugin_file(const struct dirent *entry)
{
    const size_t length = strlen(entry->d_name);
    return length > 3 && strcmp(entry->d_name + length - 3, ".so") == 0;
}

static int by_rank(const void *a, const void *b)
{
    const struct select_plugin *p = a, *q = b;
    if (p->is_serving != q->is_serving)
        return q->is_serving - p->is_serving;
    if (p->caps.score != q->caps.score)
        return p->caps.score < q->caps.score ? 1 : -1;
    return strcmp(p->name, q->name);
}

static int is_wanted(const struct select_options *options, const char *name, size_t bytes)
{
    return options->only == NULL ||
           (strlen(options->only) == bytes && strncmp(options->only, name, bytes) == 0);
}

enum err select_list(const struct select_options *options, struct select_plugin *plugins,
                     uint32_t *count)
{
    char own[4096];
    struct dirent **entries = NULL;
    const char *folder = options->folder;
    enum err e = ERR_NONE;
    *count = 0;
    if (is_wanted(options, "scalar", 6))
        describe_scalar(options, &plugins[(*count)++]);
    if (folder == NULL) {
        e = load_folder(own, sizeof own);
        folder = e == ERR_NONE ? own : NULL;
    }
    const int files = folder != NULL ? scandir(folder, &entries, is_plugin_file, alphasort) : 0;
    if (files < 0 && errno != ENOENT)
        e = ERR_IO;
    for (int i = 0; i < files; i++) {
        char path[4096];
        const char *name = entries[i]->d_name;
        if (*count < SELECT_PLUGINS_MAX && is_wanted(options, name, strlen(name) - 3) &&
            snprintf(path, sizeof path, "%s/%s", folder, name) < (int)sizeof path) {
            /* the verdict is in the entry itself */
            if (select_first_contact(path, options, &plugins[*count]) == ERR_NONE ||
                plugins[*count].error != ERR_NONE)
                (*count)++;
        }
        free(entries[i]);
    }
    free(entries);
    qsort(plugins, *count, sizeof *plugins, by_rank);
    return e;
}
