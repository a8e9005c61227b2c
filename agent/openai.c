/* openai.c: libmicrohttpd inside the agent's loop; an answer in the making keeps its connection suspended. */
#include "agent/openai_parts.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/log.h"

enum { BODY_MAX = 1 << 20, CONNECTIONS_MAX = 256, IDLE_S = 120 };

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

void openai_resume(struct call *c)
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
    openai_resume(c);
}

void openai_suspend(struct call *c)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(c->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    MHD_suspend_connection(c->connection);
    c->is_suspended = true;
    /* MHD does not look at a suspended connection; that the client is still there is ours to see. */
    int fd = info ? info->connect_fd : -1;
    if (fd >= 0 && loop_add(c->h->loop, &c->hangup, fd, EPOLLRDHUP, on_hangup, c))
        log_debug("openai: a connection cannot be watched");
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
    enum openai_kind kind;
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
        return openai_go_on(c);
    if (c->problem.status)
        return openai_send_problem(c);
    enum MHD_Result result = openai_route(c, url, method, &kind);
    return kind == OPENAI_NOTHING ? result : openai_begin(c, kind);
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
    openai_call_close(c);
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
        openai_resume(c);
    }
    MHD_run(h->daemon);
    MHD_stop_daemon(h->daemon);
    loop_clear_timer(h->loop, &h->timer);
    free(h);
}
