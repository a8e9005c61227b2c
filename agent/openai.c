/* openai.c: libmicrohttpd inside the agent's loop; an answer in the making keeps its connection suspended. */
#include "agent/openai.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/openai_json.h"
#include "agent/log.h"
#include "protocol/hex.h"

enum { BODY_MAX = 1 << 20, CONNECTIONS_MAX = 256, IDLE_S = 120, RETRY_AFTER_S = 2 };

struct openai {
    struct loop *loop;
    const struct settings *settings;
    struct serve *serve;
    struct MHD_Daemon *daemon;
    struct loop_watch watch;
    struct loop_timer timer;
    struct call *calls;
    bool is_running; /* inside MHD_run */
    bool is_due;
};

/* One HTTP request. It belongs to MHD's connection: on_completed frees it. */
struct call {
    struct openai *h;
    struct call *next;
    struct MHD_Connection *connection;
    struct loop_watch hangup;
    bool is_suspended;
    bool is_post;
    bool is_chat;
    bool is_gone; /* the client hung up */
    char *body;
    size_t body_bytes, body_capacity;
    struct openai_ask ask;
    struct openai_answer answer;
    struct serve_request *request; /* runs */
    char id[48], model[32];
    /* What came so far. */
    char *text; /* a stream: events not sent yet; else the answer's text */
    size_t text_bytes, text_capacity, text_sent;
    json_t *logprobs;
    bool has_token, has_ended, is_streaming;
    struct openai_problem problem; /* status 0: none */
    uint32_t reason;
    struct serve_usage usage;
};

static void run(struct openai *h);

static void on_timer(void *context)
{
    run(context);
}

static void on_readable(void *context, uint32_t events)
{
    (void)events;
    run(context);
}

static void run(struct openai *h)
{
    MHD_UNSIGNED_LONG_LONG left;
    if (h->is_running) {
        h->is_due = true;
        return;
    }
    h->is_running = true;
    int rounds = 0;
    do {
        h->is_due = false;
        MHD_run(h->daemon);
    } while (h->is_due && rounds++ < 16);
    h->is_running = false;
    if (h->is_due)
        loop_set_timer(h->loop, &h->timer, 0, on_timer, h);
    else if (MHD_get_timeout(h->daemon, &left) == MHD_YES)
        loop_set_timer(h->loop, &h->timer, (int64_t)left, on_timer, h);
    else
        loop_clear_timer(h->loop, &h->timer);
}

/* ---- suspend and resume ---- */

static void resume(struct call *c)
{
    if (!c->is_suspended)
        return;
    loop_delete(c->h->loop, &c->hangup);
    c->is_suspended = false;
    MHD_resume_connection(c->connection);
    c->h->is_due = true;
    if (!c->h->is_running)
        loop_set_timer(c->h->loop, &c->h->timer, 0, on_timer, c->h);
}

static void on_hangup(void *context, uint32_t events)
{
    struct call *c = context;
    (void)events;
    c->is_gone = true;
    if (c->request) {
        serve_cancel(c->h->serve, c->request);
        c->request = NULL;
    }
    c->has_ended = true;
    c->problem = (struct openai_problem){.status = 499, .type = "cancelled", .message = "the client hung up"};
    resume(c);
}

static void suspend(struct call *c)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(c->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    MHD_suspend_connection(c->connection);
    c->is_suspended = true;
    /* MHD does not look at a suspended connection; that the client is still there is ours to see. */
    int fd = info ? info->connect_fd : -1;
    if (fd >= 0 && loop_add(c->h->loop, &c->hangup, fd, EPOLLRDHUP, on_hangup, c))
        log_debug("openai: a connection cannot be watched");
}

/* ---- what serve says ---- */

static bool append(struct call *c, const char *text, size_t bytes)
{
    if (bytes == 0)
        return true;
    if (c->text_sent && c->text_sent == c->text_bytes)
        c->text_sent = c->text_bytes = 0;
    if (c->text_bytes + bytes > c->text_capacity) {
        size_t capacity = c->text_capacity ? c->text_capacity : 256;
        while (capacity < c->text_bytes + bytes)
            capacity *= 2;
        char *grown = realloc(c->text, capacity);
        if (!grown)
            return false;
        c->text = grown;
        c->text_capacity = capacity;
    }
    memcpy(c->text + c->text_bytes, text, bytes);
    c->text_bytes += bytes;
    return true;
}

static void append_event(struct call *c, char *event)
{
    if (event && append(c, event, strlen(event)))
        c->has_token = true;
    free(event);
}

static void on_token(void *context, const char *text, size_t bytes, const uint8_t *top, size_t top_bytes)
{
    struct call *c = context;
    json_t *one = top ? openai_logprobs(&c->answer, top, top_bytes) : NULL;
    if (c->ask.is_stream) {
        json_t *list = NULL;
        openai_logprobs_add(&list, one);
        append_event(c, openai_event_text(&c->answer, text, bytes, list, NULL, !c->has_token));
        resume(c);
        return;
    }
    openai_logprobs_add(&c->logprobs, one);
    if (append(c, text, bytes))
        c->has_token = true;
}

static void problem_of(struct call *c, enum err error, const char *why)
{
    struct openai_problem *p = &c->problem;
    *p = (struct openai_problem){.status = 500, .type = "server_error", .code = err_name(error)};
    if (error == ERR_ARGUMENT || error == ERR_FORMAT || error == ERR_FULL) {
        p->status = 400;
        p->type = "invalid_request_error";
        p->code = error == ERR_FULL ? "context_length_exceeded" : NULL;
    } else if (error == ERR_NOT_FOUND || error == ERR_CANCELLED) {
        p->status = 503;
    }
    snprintf(p->message, sizeof p->message, "%s", why && *why ? why : err_name(error));
}

static void on_end(void *context, enum err error, const char *why, uint32_t reason, const struct serve_usage *usage)
{
    struct call *c = context;
    c->request = NULL;
    c->has_ended = true;
    c->reason = reason;
    c->usage = *usage;
    if (error)
        problem_of(c, error, why);
    if (c->ask.is_stream && !error) {
        append_event(c, openai_event_text(&c->answer, "", 0, NULL, reason == WIRE_LENGTH ? "length" : "stop",
                                        !c->has_token));
        if (c->ask.has_usage)
            append_event(c, openai_usage_event(&c->answer, usage));
        append_event(c, strdup("data: [DONE]\n\n"));
    } else if (c->ask.is_stream && c->has_token) {
        char *text = openai_problem_text(&c->problem);
        append(c, "data: ", 6);
        append_event(c, text);
        append(c, "\n\n", 2);
    }
    resume(c);
}

/* ---- answers ---- */

static enum MHD_Result send_text(struct call *c, unsigned status, char *text, const char *retry_after)
{
    if (!text)
        return MHD_NO;
    struct MHD_Response *r = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
    if (!r) {
        free(text);
        return MHD_NO;
    }
    MHD_add_response_header(r, "Content-Type", "application/json");
    if (retry_after)
        MHD_add_response_header(r, "Retry-After", retry_after);
    enum MHD_Result result = MHD_queue_response(c->connection, status, r);
    MHD_destroy_response(r);
    return result;
}

static enum MHD_Result send_problem(struct call *c)
{
    char after[16];
    snprintf(after, sizeof after, "%d", RETRY_AFTER_S);
    bool busy = c->problem.status == 429 || c->problem.status == 503;
    return send_text(c, c->problem.status, openai_problem_text(&c->problem), busy ? after : NULL);
}

static enum MHD_Result refuse(struct call *c, unsigned status, const char *type, const char *message)
{
    c->problem = (struct openai_problem){.status = status, .type = type};
    snprintf(c->problem.message, sizeof c->problem.message, "%s", message);
    return send_problem(c);
}

static ssize_t read_stream(void *context, uint64_t position, char *out, size_t capacity)
{
    struct call *c = context;
    (void)position;
    size_t left = c->text_bytes - c->text_sent;
    if (c->is_gone)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (left == 0) {
        if (c->has_ended)
            return MHD_CONTENT_READER_END_OF_STREAM;
        suspend(c);
        return 0;
    }
    if (left > capacity)
        left = capacity;
    memcpy(out, c->text + c->text_sent, left);
    c->text_sent += left;
    return (ssize_t)left;
}

static enum MHD_Result start_stream(struct call *c)
{
    struct MHD_Response *r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, read_stream, c, NULL);
    if (!r)
        return MHD_NO;
    MHD_add_response_header(r, "Content-Type", "text/event-stream");
    MHD_add_response_header(r, "Cache-Control", "no-cache");
    c->is_streaming = true;
    enum MHD_Result result = MHD_queue_response(c->connection, 200, r);
    MHD_destroy_response(r);
    return result;
}

static void name_model(struct call *c)
{
    uint8_t variant[32];
    char hex[25];
    if (serve_variant(c->h->serve, variant)) {
        hex_encode(variant, 12, hex);
        snprintf(c->model, sizeof c->model, "%s", hex);
    }
}

static enum MHD_Result begin(struct call *c)
{
    uint8_t bytes[12];
    char hex[25];
    if (!openai_ask_parse(c->body ? c->body : "", c->body_bytes, c->is_chat, &c->ask, &c->problem))
        return send_problem(c);
    randombytes_buf(bytes, sizeof bytes);
    hex_encode(bytes, sizeof bytes, hex);
    snprintf(c->id, sizeof c->id, "%s-%s", c->is_chat ? "chatcmpl" : "cmpl", hex);
    name_model(c);
    c->answer = (struct openai_answer){
        .ask = &c->ask, .id = c->id, .model = c->model, .created_s = loop_wall_s(c->h->loop)};
    c->ask.ask.context = c;
    c->ask.ask.token = on_token;
    c->ask.ask.end = on_end;
    enum err e = serve_submit(c->h->serve, &c->ask.ask, &c->request);
    if (e == ERR_FULL)
        return refuse(c, 429, "rate_limit_error", "too many requests wait; try again later");
    if (e == ERR_NOT_FOUND)
        return refuse(c, 503, "server_error", "no model is committed on this device yet");
    if (e)
        return refuse(c, e == ERR_ARGUMENT ? 413 : 503, "server_error", err_name(e));
    suspend(c);
    return MHD_YES;
}

/* A call whose request runs or has ended, after a resume. */
static enum MHD_Result go_on(struct call *c)
{
    bool has_bytes = c->has_token;
    if (c->is_gone)
        return MHD_NO;
    if (c->ask.is_stream && (has_bytes || (c->has_ended && !c->problem.status)))
        return start_stream(c);
    if (!c->has_ended) {
        suspend(c);
        return MHD_YES;
    }
    if (c->problem.status)
        return send_problem(c);
    json_t *logprobs = c->logprobs;
    c->logprobs = NULL;
    return send_text(c, 200,
                     openai_answer_text(&c->answer, c->text ? c->text : "", c->text_bytes, logprobs,
                                      c->reason == WIRE_LENGTH ? "length" : "stop", &c->usage),
                     NULL);
}

static enum MHD_Result send_models(struct call *c)
{
    json_t *list = json_array();
    name_model(c);
    if (c->model[0])
        json_array_append_new(list, json_pack("{s:s, s:s, s:I, s:s}", "id", c->model, "object", "model", "created",
                                              (json_int_t)loop_wall_s(c->h->loop), "owned_by", "tare"));
    json_t *all = json_pack("{s:s, s:o}", "object", "list", "data", list);
    char *text = all ? json_dumps(all, JSON_COMPACT) : NULL;
    json_decref(all);
    return send_text(c, 200, text, NULL);
}

static enum MHD_Result send_health(struct call *c)
{
    static const char *const names[] = {"no model", "loading", "ok"};
    enum serve_state state = serve_state(c->h->serve);
    name_model(c);
    json_t *all = json_pack("{s:s, s:s?}", "status", names[state], "model", c->model[0] ? c->model : NULL);
    char *text = all ? json_dumps(all, JSON_COMPACT) : NULL;
    json_decref(all);
    return send_text(c, state == SERVE_READY ? 200 : 503, text, NULL);
}

static enum MHD_Result route(struct call *c, const char *url, const char *method)
{
    bool is_get = strcmp(method, "GET") == 0;
    c->is_post = strcmp(method, "POST") == 0;
    if (strcmp(url, "/health") == 0 || strcmp(url, "/v1/models") == 0) {
        if (!is_get)
            return refuse(c, 405, "invalid_request_error", "only GET is allowed here");
        return strcmp(url, "/health") == 0 ? send_health(c) : send_models(c);
    }
    c->is_chat = strcmp(url, "/v1/chat/completions") == 0;
    if (!c->is_chat && strcmp(url, "/v1/completions") != 0)
        return refuse(c, 404, "invalid_request_error", "there is nothing at this address");
    if (!c->is_post)
        return refuse(c, 405, "invalid_request_error", "only POST is allowed here");
    return MHD_YES;
}

static bool keep_body(struct call *c, const char *data, size_t bytes)
{
    if (c->body_bytes + bytes > BODY_MAX)
        return false;
    if (c->body_bytes + bytes > c->body_capacity) {
        size_t capacity = c->body_capacity ? c->body_capacity : 1024;
        while (capacity < c->body_bytes + bytes)
            capacity *= 2;
        char *grown = realloc(c->body, capacity);
        if (!grown)
            return false;
        c->body = grown;
        c->body_capacity = capacity;
    }
    memcpy(c->body + c->body_bytes, data, bytes);
    c->body_bytes += bytes;
    return true;
}

static enum MHD_Result on_access(void *context, struct MHD_Connection *connection, const char *url, const char *method,
                                 const char *version, const char *data, size_t *data_bytes, void **state)
{
    struct openai *h = context;
    struct call *c = *state;
    (void)version;
    if (!c) {
        c = calloc(1, sizeof *c);
        if (!c)
            return MHD_NO;
        c->h = h;
        c->connection = connection;
        c->next = h->calls;
        h->calls = c;
        *state = c;
        return MHD_YES;
    }
    if (*data_bytes) {
        if (!keep_body(c, data, *data_bytes))
            c->problem = (struct openai_problem){
                .status = 413, .type = "invalid_request_error", .message = "the body is larger than 1 MiB"};
        *data_bytes = 0;
        return MHD_YES;
    }
    if (c->request || c->has_ended)
        return go_on(c);
    if (c->problem.status)
        return send_problem(c);
    enum MHD_Result result = route(c, url, method);
    if (result != MHD_YES || c->problem.status || strncmp(url, "/v1/c", 5) != 0)
        return result;
    return begin(c);
}

static void on_completed(void *context, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode code)
{
    struct openai *h = context;
    struct call *c = *state;
    (void)connection;
    (void)code;
    if (!c)
        return;
    *state = NULL;
    for (struct call **p = &h->calls; *p; p = &(*p)->next)
        if (*p == c) {
            *p = c->next;
            break;
        }
    loop_delete(h->loop, &c->hangup);
    if (c->request)
        serve_cancel(h->serve, c->request);
    openai_ask_free(&c->ask);
    json_decref(c->logprobs);
    free(c->body);
    free(c->text);
    free(c);
}

/* ---- open and close ---- */

static enum err write_port(const struct settings *s, uint16_t port)
{
    char path[SETTINGS_PATH + 16], part[SETTINGS_PATH + 24], text[16];
    snprintf(path, sizeof path, "%s/http.port", s->state);
    snprintf(part, sizeof part, "%s.part", path);
    int n = snprintf(text, sizeof text, "%u\n", port);
    int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return ERR_IO;
    bool ok = write(fd, text, (size_t)n) == n;
    ok = close(fd) == 0 && ok && rename(part, path) == 0;
    return ok ? ERR_NONE : ERR_IO;
}

static int listen_on(const struct settings *s, uint16_t *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)s->listen_port)};
    socklen_t size = sizeof a;
    int one = 1;
    if (inet_pton(AF_INET, s->listen_address, &a.sin_addr) != 1) {
        errno = EINVAL;
        return -1;
    }
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
        bind(fd, (struct sockaddr *)&a, sizeof a) != 0 || listen(fd, 128) != 0 ||
        getsockname(fd, (struct sockaddr *)&a, &size) != 0) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    *port = ntohs(a.sin_port);
    return fd;
}

enum err openai_open(struct loop *loop, const struct settings *settings, struct serve *serve, struct openai **out,
                   uint16_t *port)
{
    struct openai *h = calloc(1, sizeof *h);
    if (!h)
        return ERR_MEMORY;
    h->loop = loop;
    h->settings = settings;
    h->serve = serve;
    int fd = listen_on(settings, port);
    if (fd < 0) {
        free(h);
        return ERR_IO;
    }
    h->daemon = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, on_access, h,
                                 MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_COMPLETED, on_completed, h,
                                 MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX,
                                 MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_S, MHD_OPTION_END);
    if (!h->daemon) {
        close(fd);
        free(h);
        return ERR_IO;
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    enum err e = info ? loop_add(loop, &h->watch, info->epoll_fd, EPOLLIN, on_readable, h) : ERR_IO;
    if (!e)
        e = write_port(settings, *port);
    if (e) {
        openai_close(h);
        return e;
    }
    *out = h;
    return ERR_NONE;
}

void openai_close(struct openai *h)
{
    if (!h)
        return;
    loop_delete(h->loop, &h->watch);
    h->is_running = true; /* resumes below only mark */
    for (struct call *c = h->calls; c; c = c->next) {
        if (c->request)
            serve_cancel(h->serve, c->request);
        c->request = NULL;
        c->has_ended = c->is_gone = true;
        resume(c);
    }
    MHD_run(h->daemon);
    MHD_stop_daemon(h->daemon);
    loop_clear_timer(h->loop, &h->timer);
    free(h);
}
