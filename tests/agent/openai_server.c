/* openai_server.c: the serving half of an agent with a real worker, for openai_client.py: a model on a free port of
 * loopback, which is said on stdout. Two requests run, two wait. Each line on stdin is a command: "none" takes the
 * model away, "model FILE" serves another one; the end of stdin ends the program.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "agent/openai.h"
#include "agent/serve.h"
#include "agent/worker.h"
#include "agent_fixture.h"

static struct fixture f;
static struct serve *serve;
static uint8_t models;
static bool is_over;

static void on_trial_ready(void *context)
{
    (void)context;
}

static void on_trial_answered(void *context, bool is_good)
{
    (void)context;
    (void)is_good;
}

static bool on_trial_crashed(void *context, bool by_force, const char *why)
{
    (void)context;
    (void)by_force;
    (void)why;
    return false;
}

static bool is_sampled(void *context)
{
    (void)context;
    return false;
}

static void on_token(void *context, uint64_t us)
{
    (void)context;
    (void)us;
}

static void on_finished(void *context, const struct serve_cost *cost)
{
    (void)context;
    printf("finished %s %u\n", err_name(cost->error), cost->usage.made);
    fflush(stdout);
}

static void on_stats(void *context, const struct wire *frame)
{
    (void)context;
    (void)frame;
}

static void on_crashed(void *context, const char *why)
{
    (void)context;
    fprintf(stderr, "openai_server: %s\n", why);
}

static void serve_file(const char *path)
{
    struct serve_model m = {.plugin = ""};
    snprintf(m.path, sizeof m.path, "%s", path);
    memset(m.variant, ++models, sizeof m.variant);
    serve_main(serve, &m);
}

static void on_stdin(void *context, uint32_t events)
{
    static char line[1024];
    static size_t used;
    char *end;
    (void)context;
    (void)events;
    const ssize_t n = read(0, line + used, sizeof line - used - 1);
    if (n <= 0) {
        is_over = true;
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
    if (used == sizeof line - 1)
        is_over = true;
}

int main(int argc, char **argv)
{
    static const struct serve_hooks hooks = {.trial_ready = on_trial_ready,
                                             .trial_answered = on_trial_answered,
                                             .trial_crashed = on_trial_crashed,
                                             .is_sampled = is_sampled,
                                             .token = on_token,
                                             .finished = on_finished,
                                             .stats = on_stats,
                                             .crashed = on_crashed};
    struct loop_watch commands = {0};
    struct openai *openai = NULL;
    uint16_t port = 0;
    if (argc != 2)
        return 2;
    fixture_open(&f);
    worker_set_program(BUILD_DIR "/bin/tared-worker");
    strcpy(f.settings.plugin, "scalar");
    f.settings.threads = 1;
    f.settings.context = 512;
    if (serve_open(f.loop, &f.settings, &hooks, &serve) || openai_open(f.loop, &f.settings, serve, &openai, &port) ||
        loop_add(f.loop, &commands, 0, EPOLLIN, on_stdin, NULL))
        return 1;
    if (strcmp(argv[1], "none") != 0)
        serve_file(argv[1]);
    printf("port %u\n", port);
    fflush(stdout);
    while (!is_over && loop_once(f.loop, -1) == ERR_NONE)
        continue;
    loop_delete(f.loop, &commands);
    openai_close(openai);
    serve_close(serve);
    fixture_close(&f);
    return 0;
}
