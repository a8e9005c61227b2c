/* serve_host.c: serve_host MODEL|none [key=value...]: the agent's serving alone, on loopback, for tests and benchmarks.
 * No fleet: the model is served as if it had been committed. The first line out is "port worker-pid"; it serves
 * until its input ends, then lets the worker end by itself, so that a sanitizer can say what leaked. A line of input
 * is a command: "none" takes the model away, "model FILE" serves another one.
 * Keys: plugin path folder threads sequences context queue keep cache_mib spill_mib memory_mib state, and tell=1 for
 * a line "finished ERROR TOKENS" after every request.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/log.h"
#include "agent/loop.h"
#include "agent/openai.h"
#include "agent/serve.h"
#include "agent/worker.h"

static struct loop *loop;
static struct serve *serve;
static uint8_t models;
static uint32_t tells;
static unsigned long long requests, cached, crashes;

static void hook_finished(void *context, const struct serve_cost *c)
{
    (void)context;
    requests++;
    cached += c->usage.cached;
    if (tells) {
        printf("finished %s %u\n", err_name(c->error), c->usage.made);
        fflush(stdout);
    }
}

static void hook_down(void *context, const char *why)
{
    (void)context;
    fprintf(stderr, "serve_host: %s\n", why);
    crashes++;
}

/* The worker sees our end of the channel close, and ends by itself: the agent would not wait for a sanitizer's last
 * look. It stays to be reaped by its owner. */
static bool leave(pid_t worker)
{
    struct sockaddr name = {0};
    siginfo_t info = {0};
    for (int fd = 3; fd < 1024; fd++) {
        socklen_t size = sizeof name;
        if (getsockname(fd, &name, &size) == 0 && name.sa_family == AF_UNIX)
            shutdown(fd, SHUT_WR);
    }
    if (waitid(P_PID, (id_t)worker, &info, WEXITED | WNOWAIT) || info.si_code != CLD_EXITED || info.si_status) {
        fprintf(stderr, "serve_host: the worker ended with %d\n", info.si_status);
        return false;
    }
    return true;
}

static void serve_file(const char *path)
{
    struct serve_model m = {.plugin = ""};
    snprintf(m.path, sizeof m.path, "%s", path);
    memset(m.variant, ++models, sizeof m.variant);
    serve_main(serve, &m);
}

static void on_input(void *context, uint32_t events)
{
    static char line[1024];
    static size_t used;
    char *end;
    (void)events;
    const ssize_t n = read(0, line + used, sizeof line - used - 1);
    if (n <= 0 || used + (size_t)n == sizeof line - 1) {
        loop_delete(loop, context);
        loop_stop(loop);
        return;
    }
    used += (size_t)n;
    line[used] = 0;
    while ((end = strchr(line, '\n'))) {
        *end = 0;
        if (!strcmp(line, "none"))
            serve_main(serve, NULL);
        else if (!strncmp(line, "model ", 6))
            serve_file(line + 6);
        used -= (size_t)(end + 1 - line);
        memmove(line, end + 1, used + 1);
    }
}

static bool set(struct settings *s, const char *argument)
{
    const char *value = strchr(argument, '=');
    const size_t n = value ? (size_t)(value++ - argument) : 0;
    const struct {
        const char *name;
        char *text;
        uint32_t *number;
        uint64_t *mib;
    } keys[] = {{"plugin", s->plugin, NULL, NULL},           {"path", s->path, NULL, NULL},
                {"folder", s->plugin_folder, NULL, NULL},    {"state", s->state, NULL, NULL},
                {"threads", NULL, &s->threads, NULL},        {"sequences", NULL, &s->sequences, NULL},
                {"context", NULL, &s->context, NULL},        {"queue", NULL, &s->queue, NULL},
                {"keep", NULL, &s->keep, NULL},              {"cache_mib", NULL, NULL, &s->cache_bytes},
                {"spill_mib", NULL, NULL, &s->spill_bytes},  {"memory_mib", NULL, NULL, &s->memory_bytes},
                {"tell", NULL, &tells, NULL}};
    for (size_t i = 0; value && i < sizeof keys / sizeof keys[0]; i++) {
        if (strlen(keys[i].name) != n || strncmp(keys[i].name, argument, n) != 0)
            continue;
        if (keys[i].text && strlen(value) < SETTINGS_NAME)
            strcpy(keys[i].text, value);
        if (keys[i].number)
            *keys[i].number = (uint32_t)strtoul(value, NULL, 10);
        if (keys[i].mib)
            *keys[i].mib = strtoull(value, NULL, 10) << 20;
        return true;
    }
    return false;
}

int main(int argc, char **argv)
{
    static const struct serve_hooks hooks = {.finished = hook_finished, .crashed = hook_down};
    struct settings s = {.listen_address = "127.0.0.1", .hang_s = 120, .sequences = 4, .context = 512, .queue = 64,
                         .keep = 4};
    struct openai *openai = NULL;
    struct loop_watch input = {0};
    uint16_t port = 0;
    int status = 1;
    strcpy(s.state, "/tmp/tare-serve.XXXXXX");
    for (int i = 2; i < argc; i++)
        if (!set(&s, argv[i])) {
            fprintf(stderr, "serve_host: unknown: %s\n", argv[i]);
            return 2;
        }
    if (argc < 2 || (strstr(s.state, "XXXXXX") && !mkdtemp(s.state)))
        return 2;
    signal(SIGPIPE, SIG_IGN);
    log_set_level(getenv("VERBOSE") ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARNING);
    worker_set_program(BUILD_DIR "/bin/tared-worker");
    if (loop_open(&loop) || serve_open(loop, &s, &hooks, &serve) || openai_open(loop, &s, serve, &openai, &port))
        goto out;
    const bool has_model = strcmp(argv[1], "none") != 0;
    if (has_model)
        serve_file(argv[1]);
    while (has_model && serve_state(serve) != SERVE_READY && crashes == 0)
        if (loop_once(loop, 100))
            goto out;
    if (crashes || loop_add(loop, &input, 0, EPOLLIN, on_input, &input))
        goto out;
    printf("%u %d\n", port, (int)serve_pid(serve));
    fflush(stdout);
    status = loop_run(loop) || (serve_pid(serve) > 0 && !leave(serve_pid(serve))) || crashes;
    printf("%llu requests, %llu cached tokens, %llu crashes\n", requests, cached, crashes);
out:
    openai_close(openai);
    serve_close(serve);
    loop_close(loop);
    char path[SETTINGS_PATH + 16];
    snprintf(path, sizeof path, "%s/http.port", s.state);
    unlink(path);
    rmdir(s.state);
    return status;
}
