/* worker_step_test.c: between two steps of a serving worker nothing is allocated: not for a prompt's step, not for a
 * token: model, sampling, stop strings, log probabilities, text and frames. The worker runs in a thread here, the
 * test is its agent; what is counted begins with a request's first step and ends with its last. */
#include "harness.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/worker_serve.h"
#include "tests/allocations.h"

#define MODEL SOURCE_DIR "/models/tare-tiny/tare-tiny-f16.gguf"

/* ---- what worker_main.c gives the worker's files ---- */

static const char *plugin_name;

int64_t worker_self_ms(void)
{
    return 0;
}

void worker_beat(struct worker_self *w, uint64_t done, uint64_t total)
{
    struct wire m;
    wire_init(&m, WIRE_PROGRESS, w->id);
    wire_put_u64(&m, WIRE_K_PPM, total ? done * 1000000 / total : 0);
    worker_reply(w, &m);
}

void worker_reply(struct worker_self *w, const struct wire *m)
{
    CU_ASSERT_EQUAL_FATAL(wire_send(&w->channel, m), ERR_NONE);
}

void worker_fail(struct worker_self *w, enum err error, const char *why)
{
    (void)w;
    printf("\n    %s: %s\n", err_name(error), why);
}

enum err worker_engine(struct worker_self *w, const char *plugin, uint32_t threads, struct engine **out,
                       char why[WORKER_WHY])
{
    const struct engine_options o = {
        .plugin = plugin_name, .folder = BUILD_DIR "/lib/tare/plugins", .threads = 2, .is_unchecked = 1};
    (void)w;
    (void)plugin;
    (void)threads;
    why[0] = 0;
    return engine_open(&o, out, NULL);
}

void worker_log(int level, const char *message)
{
    (void)level;
    (void)message;
}

uint64_t worker_self_rss(void)
{
    return 0;
}

/* ---- steps seen by the linker's --wrap ---- */

static unsigned long first_step, last_step, steps;

enum err __real_model_step(struct model *m, const struct model_run *runs, uint32_t count);
enum err __wrap_model_step(struct model *m, const struct model_run *runs, uint32_t count);

enum err __wrap_model_step(struct model *m, const struct model_run *runs, uint32_t count)
{
    last_step = allocations();
    if (steps++ == 0)
        first_step = last_step;
    return __real_model_step(m, runs, count);
}

/* ---- the agent's side ---- */

static struct wire_channel agent;

static void *be_worker(void *context)
{
    struct worker_self *w = context;
    struct wire m;
    wire_init(&m, WIRE_SERVE, 0);
    wire_put_text(&m, WIRE_K_PATH, MODEL);
    wire_put_text(&m, WIRE_K_PLUGIN, plugin_name);
    wire_put_u64(&m, WIRE_K_SEQUENCES, 2);
    wire_put_u64(&m, WIRE_K_CONTEXT, 256);
    wire_put_u64(&m, WIRE_K_KEEP, 1);
    const enum err e = worker_serve(w, &m);
    return (void *)(intptr_t)e;
}

/* Frames until one of this kind; how many tokens came before it. */
static uint32_t hear(uint32_t kind)
{
    uint32_t tokens = 0;
    struct wire m;
    for (;;) {
        enum err e = wire_next(&agent, &m);
        if (e == ERR_NOT_FOUND && wire_fill(&agent) == ERR_NONE)
            continue;
        CU_ASSERT_EQUAL_FATAL(e, ERR_NONE);
        if (m.kind == kind)
            return tokens;
        tokens += m.kind == WIRE_TOKEN;
    }
}

static void ask(uint64_t id, const char *prompt, uint32_t most)
{
    static const char stop[] = "zebra\0never said";
    struct wire m;
    wire_init(&m, WIRE_GENERATE, id);
    wire_put_bytes(&m, WIRE_K_PROMPT, prompt, strlen(prompt));
    wire_put_u64(&m, WIRE_K_GENERATE, most);
    wire_put_f64(&m, WIRE_K_TEMPERATURE, 0.7);
    wire_put_f64(&m, WIRE_K_TOP_P, 0.9);
    wire_put_u64(&m, WIRE_K_TOP, 3);
    wire_put_bytes(&m, WIRE_K_STOP, stop, sizeof stop);
    CU_ASSERT_EQUAL_FATAL(wire_send(&agent, &m), ERR_NONE);
}

static void check(const char *plugin)
{
    char prompt[700] = "";
    struct worker_self *w = calloc(1, sizeof *w);
    struct engine *probe = NULL;
    pthread_t thread;
    int pair[2];
    const struct engine_options o = {.plugin = plugin, .folder = BUILD_DIR "/lib/tare/plugins", .is_unchecked = 1};
    if (engine_open(&o, &probe, NULL)) {
        printf("\n    %s: not here", plugin);
        free(w);
        return;
    }
    engine_close(probe);
    plugin_name = plugin;
    for (int i = 0; i < 40; i++)
        strcat(prompt, i % 3 ? "and then " : "the little dog ");
    CU_ASSERT_FATAL(w && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    wire_channel_open(&agent, pair[0]);
    wire_channel_open(&w->channel, pair[1]);
    CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, be_worker, w), 0);
    hear(WIRE_READY);
    for (int i = 0; i < 3; i++) { /* the first one makes what stays */
        steps = 0;
        ask((uint64_t)i + 1, i == 2 ? prompt + 4 : prompt, 30);
        const uint32_t tokens = hear(WIRE_END);
        CU_ASSERT(tokens > 4 && steps >= tokens);
        if (i > 0) {
            CU_ASSERT_EQUAL(last_step, first_step);
        }
    }
    shutdown(pair[0], SHUT_WR);
    void *ended = NULL;
    pthread_join(thread, &ended);
    wire_channel_close(&w->channel);
    wire_channel_close(&agent);
    free(w);
}

static void test_steps(void)
{
    check("scalar");
    check("vnni");
}

int main(void)
{
    if (!allocations_are_seen()) {
        printf("skipped: a sanitizer counts allocations for itself\n");
        return HARNESS_SKIPPED;
    }
    allocations_ignore();
    CU_TestInfo tests[] = {{"steps", test_steps}, CU_TEST_INFO_NULL};
    return harness_run("worker_step", tests);
}
