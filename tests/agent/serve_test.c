#include "harness.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/openai.h"
#include "agent/serve.h"
#include "agent_fixture.h"

/* The serving half of an agent, with a stub for a model. */
static struct play {
    struct fixture f;
    struct serve *serve;
    struct openai *openai;
    uint16_t port;
    int ready, good, bad, crashes, finished;
    bool restarts_trial;
} p;

static void hook_ready(void *context)
{
    (void)context;
    p.ready++;
}

static void hook_answered(void *context, bool is_good)
{
    (void)context;
    p.good += is_good;
    p.bad += !is_good;
}

static bool hook_crashed(void *context, bool by_force, const char *why)
{
    (void)context;
    (void)by_force;
    (void)why;
    p.crashes++;
    if (!p.restarts_trial)
        serve_untrial(p.serve);
    return p.restarts_trial;
}

static void hook_finished(void *context, const struct serve_cost *c)
{
    (void)context;
    p.finished += c->error == ERR_NONE;
}

static void begin(void)
{
    static const struct serve_hooks hooks = {.trial_ready = hook_ready,
                                             .trial_answered = hook_answered,
                                             .trial_crashed = hook_crashed,
                                             .finished = hook_finished};
    memset(&p, 0, sizeof p);
    fixture_open(&p.f);
    CU_ASSERT_FATAL(serve_open(p.f.loop, &p.f.settings, &hooks, &p.serve) == ERR_NONE);
    CU_ASSERT_FATAL(openai_open(p.f.loop, &p.f.settings, p.serve, &p.openai, &p.port) == ERR_NONE);
}

static void end(void)
{
    openai_close(p.openai);
    serve_close(p.serve);
    fixture_close(&p.f);
}

static struct serve_model model(int n)
{
    struct serve_model m = {.path = "/model"};
    memset(m.variant, n, sizeof m.variant);
    return m;
}

static bool is_state(void *context)
{
    return serve_state(p.serve) == *(enum serve_state *)context;
}

static void serve_now(int n)
{
    struct serve_model m = model(n);
    enum serve_state ready = SERVE_READY;
    serve_main(p.serve, &m);
    CU_ASSERT(fixture_wait(&p.f, 5000, is_state, &ready));
}

/* ---- requests by the C interface ---- */

struct asked {
    struct serve_request *request;
    char text[4096];
    size_t used;
    bool ended;
    enum err error;
    uint32_t made;
};

static void on_token(void *context, const char *text, size_t bytes, const uint8_t *top, size_t top_bytes)
{
    struct asked *a = context;
    (void)top;
    (void)top_bytes;
    if (a->used + bytes < sizeof a->text) {
        memcpy(a->text + a->used, text, bytes);
        a->used += bytes;
    }
}

static void on_end(void *context, enum err error, const char *why, uint32_t reason, const struct serve_usage *usage)
{
    struct asked *a = context;
    (void)why;
    (void)reason;
    CU_ASSERT(!a->ended);
    a->ended = true;
    a->error = error;
    a->made = usage->made;
}

static enum err ask(struct asked *a, uint32_t tokens)
{
    struct serve_ask s = {.input = "hello",
                          .input_bytes = 5,
                          .max_tokens = tokens,
                          .top = UINT32_MAX,
                          .context = a,
                          .token = on_token,
                          .end = on_end};
    memset(a, 0, sizeof *a);
    return serve_submit(p.serve, &s, &a->request);
}

static bool has_ended(void *context)
{
    return ((struct asked *)context)->ended;
}

static bool has_text(void *context)
{
    return ((struct asked *)context)->used > 0;
}

/* "w0 w1 ... " to the end, nothing twice, nothing missing. */
static bool is_whole(const struct asked *a, uint32_t tokens)
{
    char text[4096] = "";
    for (uint32_t i = 0; i < tokens; i++)
        sprintf(text + strlen(text), "w%u ", i);
    return a->error == ERR_NONE && a->made == tokens && a->used == strlen(text) && !memcmp(a->text, text, a->used);
}

static void test_answers(void)
{
    struct asked a[5];
    begin();
    CU_ASSERT_EQUAL(ask(&a[0], 3), ERR_NOT_FOUND);
    setenv("STUB_TOKEN_MS", "5", 1);
    serve_now(1);
    for (int i = 0; i < 4; i++) /* two run, two wait */
        CU_ASSERT_EQUAL(ask(&a[i], 10), ERR_NONE);
    CU_ASSERT_EQUAL(ask(&a[4], 10), ERR_FULL);
    for (int i = 0; i < 4; i++) {
        CU_ASSERT(fixture_wait(&p.f, 5000, has_ended, &a[i]));
        CU_ASSERT(is_whole(&a[i], 10));
    }
    CU_ASSERT(serve_is_idle(p.serve));
    CU_ASSERT_EQUAL(p.finished, 4);
    /* before a stop: what runs is answered, nothing more is taken */
    CU_ASSERT_EQUAL(ask(&a[0], 10), ERR_NONE);
    serve_drain(p.serve);
    CU_ASSERT_EQUAL(ask(&a[1], 10), ERR_NOT_FOUND);
    CU_ASSERT(fixture_wait(&p.f, 5000, has_ended, &a[0]) && is_whole(&a[0], 10));
    end();
}

static void test_crash(void)
{
    struct asked a, b;
    char once[300];
    begin();
    snprintf(once, sizeof once, "%s/once", p.f.folder);
    setenv("STUB_ONCE", once, 1);
    setenv("STUB_DIE_AT", "7", 1);
    setenv("STUB_TOKEN_MS", "5", 1);
    serve_now(1);
    CU_ASSERT_EQUAL(ask(&a, 20), ERR_NONE);
    CU_ASSERT_EQUAL(ask(&b, 20), ERR_NONE);
    CU_ASSERT(fixture_wait(&p.f, 10000, has_ended, &a) && fixture_wait(&p.f, 10000, has_ended, &b));
    CU_ASSERT(access(once, F_OK) == 0);
    CU_ASSERT(is_whole(&a, 20) && is_whole(&b, 20)); /* they went on where they stood */
    end();

    begin(); /* a request that kills every worker is given up, the others are not */
    setenv("STUB_DIE_AT", "3", 1);
    serve_now(1);
    CU_ASSERT_EQUAL(ask(&a, 20), ERR_NONE);
    CU_ASSERT(fixture_wait(&p.f, 10000, has_ended, &a));
    CU_ASSERT_EQUAL(a.error, ERR_CRASHED);
    end();

    begin(); /* kill -9 from outside, again and again */
    setenv("STUB_TOKEN_MS", "20", 1);
    serve_now(1);
    CU_ASSERT_EQUAL(ask(&a, 30), ERR_NONE);
    for (int i = 0; i < 5; i++) {
        size_t before = a.used;
        while (a.used == before && !a.ended)
            CU_ASSERT_FATAL(loop_once(p.f.loop, 50) == ERR_NONE);
        if (serve_pid(p.serve) > 0)
            kill(serve_pid(p.serve), SIGKILL);
    }
    CU_ASSERT(fixture_wait(&p.f, 20000, has_ended, &a));
    CU_ASSERT(is_whole(&a, 30));
    end();

    begin(); /* a worker that hangs in the middle */
    p.f.settings.hang_s = 1;
    setenv("STUB_TOKEN_MS", "20", 1);
    serve_now(1);
    CU_ASSERT_EQUAL(ask(&a, 10), ERR_NONE);
    CU_ASSERT(fixture_wait(&p.f, 5000, has_text, &a));
    kill(serve_pid(p.serve), SIGSTOP);
    CU_ASSERT(fixture_wait(&p.f, 20000, has_ended, &a));
    CU_ASSERT(is_whole(&a, 10));
    end();
}

static bool is_ready(void *context)
{
    (void)context;
    return p.ready > 0;
}

static void test_switch(void)
{
    struct asked old, fresh, waits[2];
    struct serve_model two = model(2);
    uint8_t variant[32];
    begin();
    setenv("STUB_TOKEN_MS", "20", 1);
    serve_now(1);
    CU_ASSERT_EQUAL(ask(&old, 30), ERR_NONE);
    CU_ASSERT(fixture_wait(&p.f, 5000, has_text, &old));
    serve_trial(p.serve, &two);
    CU_ASSERT(fixture_wait(&p.f, 5000, is_ready, NULL));
    CU_ASSERT(serve_variant(p.serve, variant) && variant[0] == 2);
    CU_ASSERT_EQUAL(ask(&fresh, 10), ERR_NONE);
    serve_promote(p.serve);
    CU_ASSERT(fixture_wait(&p.f, 5000, has_ended, &fresh));
    CU_ASSERT(!old.ended); /* it runs on where it began */
    CU_ASSERT(fixture_wait(&p.f, 5000, has_ended, &old));
    CU_ASSERT(is_whole(&old, 30) && is_whole(&fresh, 10));
    CU_ASSERT(p.good == 0 || p.good == 1);
    end();

    begin(); /* the trial's worker dies: its requests go back to the old variant */
    setenv("STUB_TOKEN_MS", "20", 1);
    serve_now(1);
    serve_trial(p.serve, &two);
    CU_ASSERT(fixture_wait(&p.f, 5000, is_ready, NULL));
    CU_ASSERT_EQUAL(ask(&waits[0], 10), ERR_NONE);
    CU_ASSERT_EQUAL(ask(&waits[1], 10), ERR_NONE);
    CU_ASSERT(fixture_wait(&p.f, 5000, has_text, &waits[0]));
    setenv("STUB_DIE_AT", "1", 1);
    serve_trial(p.serve, &two); /* the second one dies at its first token */
    p.ready = 0;
    CU_ASSERT(fixture_wait(&p.f, 5000, is_ready, NULL));
    CU_ASSERT_EQUAL(ask(&fresh, 5), ERR_NONE);
    CU_ASSERT(fixture_wait(&p.f, 5000, has_ended, &fresh));
    CU_ASSERT(is_whole(&fresh, 5));
    CU_ASSERT_EQUAL(p.crashes, 1);
    for (int i = 0; i < 2; i++)
        CU_ASSERT(fixture_wait(&p.f, 5000, has_ended, &waits[i]) && is_whole(&waits[i], 10));
    CU_ASSERT(serve_variant(p.serve, variant) && variant[0] == 1);
    end();
}

static void test_cancel(void)
{
    struct asked a[3];
    char log[300];
    begin();
    snprintf(log, sizeof log, "%s/cancelled", p.f.folder);
    setenv("STUB_CANCELS", log, 1);
    setenv("STUB_TOKEN_MS", "5", 1);
    serve_now(1);
    for (int i = 0; i < 3; i++)
        CU_ASSERT_EQUAL(ask(&a[i], 1000), ERR_NONE);
    CU_ASSERT(fixture_wait(&p.f, 5000, has_text, &a[0]));
    serve_cancel(p.serve, a[0].request);
    CU_ASSERT(fixture_wait(&p.f, 5000, has_text, &a[2])); /* its place is taken */
    serve_cancel(p.serve, a[1].request);
    serve_cancel(p.serve, a[2].request);
    CU_ASSERT(serve_is_idle(p.serve) && access(log, F_OK) == 0);
    CU_ASSERT(!a[0].ended && !a[1].ended && !a[2].ended);
    end();
}

/* ---- requests by HTTP ---- */

struct talk {
    int fd;
    char text[1 << 16];
    size_t used;
    bool is_closed;
};

static void say(struct talk *t, const char *text)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(p.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    memset(t, 0, sizeof *t);
    t->fd = socket(AF_INET, SOCK_STREAM, 0);
    CU_ASSERT_FATAL(connect(t->fd, (struct sockaddr *)&a, sizeof a) == 0);
    CU_ASSERT_FATAL(write(t->fd, text, strlen(text)) == (ssize_t)strlen(text));
    fcntl(t->fd, F_SETFL, O_NONBLOCK);
}

static void post(struct talk *t, const char *path, const char *body)
{
    static char text[1 << 15];
    snprintf(text, sizeof text, "POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s", path,
             strlen(body), body);
    say(t, text);
}

static bool is_answered(void *context)
{
    struct talk *t = context;
    ssize_t n = read(t->fd, t->text + t->used, sizeof t->text - t->used - 1);
    if (n > 0)
        t->used += (size_t)n;
    if (n == 0)
        t->is_closed = true;
    return t->is_closed;
}

static bool has_bytes(void *context)
{
    struct talk *t = context;
    is_answered(t);
    return t->used > 0;
}

static const char *answer(struct talk *t)
{
    CU_ASSERT(fixture_wait(&p.f, 10000, is_answered, t));
    close(t->fd);
    return t->text;
}

static void test_http(void)
{
    struct talk t;
    begin();
    say(&t, "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    CU_ASSERT(strstr(answer(&t), "503") != NULL && strstr(t.text, "no model") != NULL);
    post(&t, "/v1/completions", "{\"prompt\":\"x\"}");
    CU_ASSERT(strstr(answer(&t), "HTTP/1.1 503") != NULL && strstr(t.text, "Retry-After") != NULL);
    serve_now(1);
    say(&t, "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    CU_ASSERT(strstr(answer(&t), "200 OK") != NULL && strstr(t.text, "\"ok\"") != NULL);
    say(&t, "GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    CU_ASSERT(strstr(answer(&t), "010101010101010101010101") != NULL);
    post(&t, "/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":3}");
    CU_ASSERT(strstr(answer(&t), "\"text\":\"w0 w1 w2 \"") != NULL);
    CU_ASSERT(strstr(t.text, "\"finish_reason\":\"length\"") != NULL && strstr(t.text, "\"total_tokens\":6") != NULL);
    post(&t, "/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":2}");
    CU_ASSERT(strstr(answer(&t), "\"role\":\"assistant\",\"content\":\"w0 w1 \"") != NULL);
    post(&t, "/v1/chat/completions",
         "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"x\"}]}],\"max_tokens\":2,"
         "\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
    CU_ASSERT(strstr(answer(&t), "text/event-stream") != NULL && strstr(t.text, "data: [DONE]") != NULL);
    CU_ASSERT(strstr(t.text, "{\"role\":\"assistant\",\"content\":\"w0 \"}") != NULL);
    CU_ASSERT(strstr(t.text, "{\"content\":\"w1 \"}") != NULL && strstr(t.text, "\"completion_tokens\":2") != NULL);
    end();
}

static void test_http_errors(void)
{
    static const struct {
        const char *path, *body, *status, *message;
    } cases[] = {
        {"/v1/completions", "{", "400", "the body must be a JSON object"},
        {"/v1/completions", "[]", "400", "the body must be a JSON object"},
        {"/v1/completions", "{\"prompt\":\"a\",\"prompt\":\"b\"}", "400", "the body must be a JSON object"},
        {"/v1/completions", "{}", "400", "'prompt' must be a string"},
        {"/v1/completions", "{\"prompt\":\"x\",\"temperature\":-1}", "400", "'temperature' must be a number"},
        {"/v1/completions", "{\"prompt\":\"x\",\"top_p\":2}", "400", "'top_p' must be a number from 0 to 1"},
        {"/v1/completions", "{\"prompt\":\"x\",\"n\":2}", "400", "'n' must be"},
        {"/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":0}", "400", "'max_tokens' must be at least 1"},
        {"/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":1.5}", "400", "whole"},
        {"/v1/completions", "{\"prompt\":\"x\",\"stop\":[\"\"]}", "400", "'stop' must hold strings"},
        {"/v1/completions", "{\"prompt\":\"x\",\"stream\":1}", "400", "'stream' must be true or false"},
        {"/v1/completions", "{\"prompt\":\"x\",\"echo\":true}", "400", "'echo' is not supported"},
        {"/v1/completions", "{\"prompt\":\"x\",\"logprobs\":50}", "400", "'logprobs' must be"},
        {"/v1/chat/completions", "{\"messages\":[]}", "400", "at least one message"},
        {"/v1/chat/completions", "{\"messages\":[{\"role\":\"king\",\"content\":\"x\"}]}", "400", "'role' must be"},
        {"/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":3}]}", "400", "'content' must be"},
        {"/v1/elsewhere", "{}", "404", "nothing at this address"},
        {"/health", "{}", "405", "only GET"},
    };
    struct talk t;
    begin();
    serve_now(1);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char status[32];
        post(&t, cases[i].path, cases[i].body);
        snprintf(status, sizeof status, "HTTP/1.1 %s ", cases[i].status);
        CU_ASSERT(strncmp(answer(&t), status, strlen(status)) == 0);
        CU_ASSERT(strstr(t.text, "{\"error\":{\"message\":\"") != NULL && strstr(t.text, cases[i].message) != NULL);
    }
    say(&t, "GET /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    CU_ASSERT(strstr(answer(&t), "HTTP/1.1 405") != NULL);
    /* a body of more than 1 MiB */
    char head[200];
    snprintf(head, sizeof head, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n",
             (1 << 20) + 10);
    say(&t, head);
    fcntl(t.fd, F_SETFL, 0);
    char *many = calloc(1, (1 << 20) + 10);
    size_t sent = 0;
    fcntl(t.fd, F_SETFL, O_NONBLOCK);
    while (sent < (1 << 20) + 10) {
        ssize_t n = write(t.fd, many + sent, (1 << 20) + 10 - sent);
        if (n > 0)
            sent += (size_t)n;
        CU_ASSERT_FATAL(loop_once(p.f.loop, 1) == ERR_NONE);
    }
    free(many);
    CU_ASSERT(strstr(answer(&t), "HTTP/1.1 413") != NULL);
    end();
}

static bool is_idle(void *context)
{
    (void)context;
    return serve_is_idle(p.serve);
}

static void test_http_pressure(void)
{
    static struct talk t[5];
    begin();
    setenv("STUB_TOKEN_MS", "10", 1);
    serve_now(1);
    for (int i = 0; i < 4; i++) { /* two run, two wait */
        post(&t[i], "/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":60,\"stream\":true}");
        for (int k = 0; k < 5; k++)
            CU_ASSERT(loop_once(p.f.loop, 5) == ERR_NONE);
    }
    post(&t[4], "/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":60}");
    CU_ASSERT(strstr(answer(&t[4]), "HTTP/1.1 429") != NULL && strstr(t[4].text, "Retry-After: ") != NULL);
    CU_ASSERT(fixture_wait(&p.f, 5000, has_bytes, &t[0]));
    for (int i = 0; i < 3; i++) /* streaming, running and waiting ones hang up */
        close(t[i].fd);
    CU_ASSERT(strstr(answer(&t[3]), "data: [DONE]") != NULL);
    CU_ASSERT(fixture_wait(&p.f, 5000, is_idle, NULL));
    CU_ASSERT_EQUAL(p.finished, 1);
    /* a client that is still sending when the agent stops */
    post(&t[0], "/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":60}");
    for (int k = 0; k < 5; k++)
        CU_ASSERT(loop_once(p.f.loop, 5) == ERR_NONE);
    end();
    close(t[0].fd);
}

RUN_SUITE("serve", {"answers and the bound", test_answers}, {"workers that die or hang", test_crash},
          {"a switch loses no request", test_switch}, {"cancel", test_cancel}, {"HTTP", test_http},
          {"HTTP errors", test_http_errors}, {"back-pressure, hang-ups", test_http_pressure})
