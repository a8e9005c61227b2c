/* api.c: listening, tokens, routes, bodies. */
#include "controller/api.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "controller/controller_log.h"
#include "controller/doc.h"
#include "controller/http.h"
#include "protocol/hex.h"

enum { TIMEOUT_S = 120, HASH = 32, TOKEN_LEAST = 16, STATIC_MAX = 4 << 20 };

struct token {
    uint8_t hash[HASH]; /* compared instead of the token: constant time, whatever its length */
    char name[64];
};

struct api_server {
    struct controller *c;
    struct MHD_Daemon *daemon;
    uint16_t port;
    struct token token[API_TOKENS_MAX];
    size_t tokens;
};

struct request {
    struct api_call call;
    const struct route *route;
    char *body;
    size_t body_bytes;
    int upload;
    bool is_refused, is_too_large, has_io_error;
    struct token who;
};

struct route {
    const char *method;
    const char *path; /* '*' stands for one variable part, a second one for the verb */
    void (*handle)(struct api_call *call);
};

static const struct route routes[] = {
    {"GET", "/api/1/status", api_status},
    {"GET", "/api/1/devices", api_devices_list},
    {"GET", "/api/1/devices/*", api_devices_show},
    {"POST", "/api/1/devices/*/*", api_devices_command},
    {"GET", "/api/1/models", api_models_list},
    {"POST", "/api/1/models", api_models_register},
    {"PUT", "/api/1/models", api_models_upload},
    {"GET", "/api/1/recipes", api_recipes_list},
    {"GET", "/api/1/rollouts", api_rollouts_list},
    {"POST", "/api/1/rollouts", api_rollouts_create},
    {"GET", "/api/1/rollouts/*", api_rollouts_show},
    {"POST", "/api/1/rollouts/*/*", api_rollouts_command},
    {"GET", "/api/1/bench", api_bench_list},
    {"POST", "/api/1/bench", api_bench_create},
    {"GET", "/api/1/telemetry", api_telemetry},
    {"GET", "/api/1/calibration", api_calibration},
    {"POST", "/api/1/recalibrate", api_recalibrate},
    {"GET", "/api/1/decisions", api_decisions},
};

static const struct {
    const char *path, *file, *type;
} pages[] = {
    {"/", "index.html", "text/html; charset=utf-8"},
    {"/index.html", "index.html", "text/html; charset=utf-8"},
    {"/app.js", "app.js", "text/javascript; charset=utf-8"},
    {"/charts.js", "charts.js", "text/javascript; charset=utf-8"},
    {"/app.css", "app.css", "text/css; charset=utf-8"},
    {"/openapi.json", "openapi.json", "application/json"},
    {"/chart.js", NULL, "text/javascript; charset=utf-8"},
};

void api_fail(struct api_call *call, enum err e, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    switch (e) {
    case ERR_NOT_FOUND:
        call->status = MHD_HTTP_NOT_FOUND;
        break;
    case ERR_STALE:
        call->status = MHD_HTTP_CONFLICT;
        break;
    case ERR_ARGUMENT:
    case ERR_FORMAT:
    case ERR_MISMATCH:
    case ERR_UNSUPPORTED:
    case ERR_VERSION:
        call->status = MHD_HTTP_BAD_REQUEST;
        break;
    default:
        call->status = MHD_HTTP_INTERNAL_SERVER_ERROR;
        controller_log(CONTROLLER_LOG_ERROR, "api: %s", text);
        break;
    }
    json_decref(call->answer);
    call->answer = json_pack("{s:s,s:s}", "error", text, "code", err_name(e));
}

const char *api_query(const struct api_call *call, const char *name)
{
    const char *value =
        MHD_lookup_connection_value(call->connection, MHD_GET_ARGUMENT_KIND, name);
    return value ? value : "";
}

int64_t api_query_int(const struct api_call *call, const char *name, int64_t preset, int64_t least,
                      int64_t most)
{
    const char *value = api_query(call, name);
    char *end;
    errno = 0;
    long long number = strtoll(value, &end, 10);
    if (!value[0] || errno || *end)
        return preset;
    return number < least ? least : number > most ? most : number;
}

static bool has_parts(const char *pattern, const char *url, struct api_call *call)
{
    char *slots[2] = {call->part, call->verb};
    size_t used = 0;
    while (*pattern) {
        if (*pattern != '*') {
            if (*pattern++ != *url++)
                return false;
            continue;
        }
        size_t length = strcspn(url, "/");
        if (used == 2 || length == 0 || length >= API_PART_MAX)
            return false;
        memcpy(slots[used], url, length);
        slots[used++][length] = '\0';
        url += length;
        pattern++;
    }
    return *url == '\0';
}

static bool is_known_token(const struct api_server *s, struct MHD_Connection *connection,
                           struct token *who)
{
    const char *header = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Authorization");
    uint8_t hash[HASH];
    bool is_known = false;
    if (!header || strncmp(header, "Bearer ", 7) != 0)
        return false;
    crypto_generichash(hash, sizeof hash, (const uint8_t *)header + 7, strlen(header + 7), NULL, 0);
    for (size_t i = 0; i < s->tokens; i++)
        if (sodium_memcmp(hash, s->token[i].hash, sizeof hash) == 0) {
            *who = s->token[i];
            is_known = true;
        }
    return is_known;
}

static enum MHD_Result answer_json(struct MHD_Connection *connection, unsigned status, json_t *answer)
{
    char *text = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
    json_decref(answer);
    if (!text)
        return http_body(connection, MHD_HTTP_INTERNAL_SERVER_ERROR, "application/json",
                         "{\"error\":\"no memory\",\"code\":\"ERR_MEMORY\"}", 42);
    enum MHD_Result r = http_body(connection, status, "application/json", text, strlen(text));
    free(text);
    return r;
}

static enum MHD_Result answer_error(struct MHD_Connection *connection, unsigned status,
                                    const char *code, const char *text)
{
    return answer_json(connection, status, json_pack("{s:s,s:s}", "error", text, "code", code));
}

static enum MHD_Result answer_page(struct api_server *s, struct MHD_Connection *connection, size_t i)
{
    char path[CONTROLLER_PATH + 32];
    if (pages[i].file)
        snprintf(path, sizeof path, "%s/%s", s->c->settings.web, pages[i].file);
    else
        snprintf(path, sizeof path, "%s", s->c->settings.chart_js);
    FILE *f = fopen(path, "rbe");
    char *bytes = f ? malloc(STATIC_MAX) : NULL;
    size_t size = bytes ? fread(bytes, 1, STATIC_MAX, f) : 0;
    if (f)
        fclose(f);
    if (size == 0) {
        free(bytes);
        return answer_error(connection, MHD_HTTP_NOT_FOUND, "ERR_NOT_FOUND", "no such page");
    }
    struct MHD_Response *response =
        MHD_create_response_from_buffer(size, bytes, MHD_RESPMEM_MUST_FREE);
    if (!response) {
        free(bytes);
        return MHD_NO;
    }
    bool is_ok =
        MHD_add_response_header(response, "Content-Type", pages[i].type) == MHD_YES &&
        MHD_add_response_header(response, "X-Content-Type-Options", "nosniff") == MHD_YES &&
        MHD_add_response_header(response, "Cache-Control", "no-cache") == MHD_YES &&
        MHD_add_response_header(response, "Content-Security-Policy",
                                "default-src 'self'; style-src 'self' 'unsafe-inline'; "
                                "img-src 'self' data:; frame-ancestors 'none'") == MHD_YES;
    enum MHD_Result r = is_ok ? MHD_queue_response(connection, MHD_HTTP_OK, response) : MHD_NO;
    MHD_destroy_response(response);
    return r;
}

static enum MHD_Result answer_metrics(struct api_server *s, struct MHD_Connection *connection)
{
    char *text = NULL;
    if (metrics_text(s->c, &text))
        return answer_error(connection, MHD_HTTP_INTERNAL_SERVER_ERROR, "ERR_IO", "no metrics");
    enum MHD_Result r = http_body(connection, MHD_HTTP_OK,
                                  "text/plain; version=0.0.4; charset=utf-8", text, strlen(text));
    free(text);
    return r;
}

/* The first look at a request: a page, a refusal, or a route whose body is to come. */
static enum MHD_Result begin(struct api_server *s, struct MHD_Connection *connection, const char *url,
                             const char *method, struct request *r)
{
    bool is_get = strcmp(method, "GET") == 0;
    for (size_t i = 0; is_get && i < sizeof pages / sizeof pages[0]; i++)
        if (strcmp(url, pages[i].path) == 0)
            return answer_page(s, connection, i);
    r->is_refused = !is_known_token(s, connection, &r->who);
    bool has_path = false;
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        if (!has_parts(routes[i].path, url, &r->call))
            continue;
        has_path = true;
        if (strcmp(method, routes[i].method) == 0)
            r->route = &routes[i];
    }
    if (r->is_refused)
        return answer_error(connection, MHD_HTTP_UNAUTHORIZED, "ERR_SIGNATURE",
                            "expected Authorization: Bearer TOKEN with a token of the token file");
    if (is_get && strcmp(url, "/metrics") == 0)
        return answer_metrics(s, connection);
    if (!r->route)
        return answer_error(connection,
                            has_path ? MHD_HTTP_METHOD_NOT_ALLOWED : MHD_HTTP_NOT_FOUND,
                            "ERR_NOT_FOUND", has_path ? "no such method here" : "no such path");
    r->call.c = s->c;
    r->call.connection = connection;
    r->call.who = r->who.name;
    r->call.status = MHD_HTTP_OK;
    return MHD_YES;
}

static void take(struct request *r, const char *bytes, size_t size)
{
    if (strcmp(r->route->method, "PUT") == 0) {
        if (r->upload < 0) {
            int n = snprintf(r->call.upload, sizeof r->call.upload, "%.400s/artifacts/upload-XXXXXX",
                             r->call.c->settings.state);
            r->upload = n > 0 ? mkostemp(r->call.upload, O_CLOEXEC) : -1;
            r->has_io_error = r->upload < 0;
            if (r->has_io_error)
                r->call.upload[0] = '\0';
        }
        while (size > 0 && !r->has_io_error) {
            ssize_t n = write(r->upload, bytes, size);
            if (n < 0 && errno != EINTR)
                r->has_io_error = true;
            if (n > 0) {
                bytes += n;
                size -= (size_t)n;
            }
        }
        return;
    }
    if (r->body_bytes + size > API_BODY_MAX) {
        r->is_too_large = true;
        return;
    }
    char *more = realloc(r->body, r->body_bytes + size + 1);
    if (!more) {
        r->has_io_error = true;
        return;
    }
    r->body = more;
    memcpy(r->body + r->body_bytes, bytes, size);
    r->body_bytes += size;
}

static enum MHD_Result finish(struct request *r, struct MHD_Connection *connection)
{
    json_error_t error;
    if (r->is_too_large)
        return answer_error(connection, MHD_HTTP_CONTENT_TOO_LARGE, "ERR_FULL",
                            "expected a request of at most 1 MiB");
    if (r->upload >= 0 && fsync(r->upload) != 0)
        r->has_io_error = true;
    if (r->has_io_error)
        return answer_error(connection, MHD_HTTP_INTERNAL_SERVER_ERROR, "ERR_IO",
                            "the request could not be kept: no room on the disk or in memory");
    json_t *body = r->body_bytes ? json_loadb(r->body, r->body_bytes, JSON_REJECT_DUPLICATES, &error)
                                 : json_object();
    if (!json_is_object(body)) {
        char text[256];
        snprintf(text, sizeof text, "body:%d: expected a JSON object%s%.160s", body ? 1 : error.line,
                 body ? "" : ": ", body ? "" : error.text);
        json_decref(body);
        return answer_error(connection, MHD_HTTP_BAD_REQUEST, "ERR_FORMAT", text);
    }
    r->call.body = body;
    r->route->handle(&r->call);
    r->call.body = NULL;
    json_decref(body);
    return answer_json(connection, r->call.status, r->call.answer);
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_bytes, void **state)
{
    struct request *r = *state;
    (void)version;
    if (!r) {
        r = calloc(1, sizeof *r);
        if (!r)
            return MHD_NO;
        r->upload = -1;
        *state = r;
        /* An answer queued at the first call ends the request before its body is read. */
        return begin(context, connection, url, method, r);
    }
    if (!r->route)
        return MHD_YES;
    if (*upload_bytes) {
        take(r, upload, *upload_bytes);
        *upload_bytes = 0;
        return MHD_YES;
    }
    return finish(r, connection);
}

static void on_completed(void *context, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode code)
{
    struct request *r = *state;
    (void)context;
    (void)connection;
    (void)code;
    if (!r)
        return;
    if (r->upload >= 0)
        close(r->upload);
    if (r->call.upload[0])
        (void)unlink(r->call.upload); /* gone already when it was registered */
    free(r->body);
    free(r);
    *state = NULL;
}

static enum err make_token(const char *path)
{
    uint8_t bytes[24];
    char text[2 * sizeof bytes + 1];
    randombytes_buf(bytes, sizeof bytes);
    hex_encode(bytes, sizeof bytes, text);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return errno == EEXIST ? ERR_NONE : ERR_IO;
    bool is_ok = dprintf(fd, "%s operator\n", text) > 0 && fsync(fd) == 0;
    is_ok = close(fd) == 0 && is_ok;
    return is_ok ? ERR_NONE : ERR_IO;
}

static enum err load_tokens(struct api_server *s, char *why, uint32_t why_bytes)
{
    const char *path = s->c->settings.token_file;
    char line[512], token[256];
    enum err e = make_token(path);
    FILE *f = e ? NULL : fopen(path, "re");
    if (!f) {
        snprintf(why, why_bytes, "%s: %s", path, strerror(errno));
        return ERR_IO;
    }
    for (unsigned number = 1; !e && fgets(line, sizeof line, f); number++) {
        struct token *t = &s->token[s->tokens];
        int n = line[0] == '#' ? 0 : sscanf(line, "%255s %63s", token, t->name);
        if (n < 1)
            continue;
        if (n == 1)
            snprintf(t->name, sizeof t->name, "operator-%u", number);
        if (strlen(token) < TOKEN_LEAST || s->tokens + 1 >= API_TOKENS_MAX) {
            snprintf(why, why_bytes, "%s:%u: expected at most %d tokens of %d characters or more", path,
                     number, API_TOKENS_MAX - 1, TOKEN_LEAST);
            e = ERR_FORMAT;
            break;
        }
        crypto_generichash(t->hash, sizeof t->hash, (const uint8_t *)token, strlen(token), NULL, 0);
        s->tokens++;
    }
    fclose(f);
    if (!e && s->tokens == 0) {
        snprintf(why, why_bytes, "%s: expected at least one token", path);
        e = ERR_FORMAT;
    }
    return e;
}

enum err api_open(struct controller *c, struct api_server **out, char *why, uint32_t why_bytes)
{
    struct api_server *s = calloc(1, sizeof *s);
    if (!s)
        return ERR_MEMORY;
    s->c = c;
    enum err e = load_tokens(s, why, why_bytes);
    if (!e) {
        uint16_t port = (uint16_t)c->settings.http_port;
        uint16_t last = port ? 0 : controller_last_port(c, "http");
        e = ERR_IO;
        if (last)
            e = http_listen(c->settings.http_address, last, HTTP_PER_CONNECTION, 0, TIMEOUT_S,
                            on_request, on_completed, s, &s->daemon, &s->port);
        if (e)
            e = http_listen(c->settings.http_address, port, HTTP_PER_CONNECTION, 0, TIMEOUT_S,
                            on_request, on_completed, s, &s->daemon, &s->port);
        if (e)
            snprintf(why, why_bytes, "[http] %s:%u: cannot listen", c->settings.http_address,
                     c->settings.http_port);
    }
    if (!e) {
        e = controller_keep_port(c, "http", s->port);
        if (!e)
            e = http_write_port(c->settings.state, "http.port", s->port);
        if (e)
            snprintf(why, why_bytes, "%s/http.port: cannot be written", c->settings.state);
    }
    if (e) {
        api_close(s);
        return e;
    }
    *out = s;
    return ERR_NONE;
}

void api_close(struct api_server *s)
{
    if (!s)
        return;
    if (s->daemon)
        MHD_stop_daemon(s->daemon);
    free(s);
}

uint16_t api_port(const struct api_server *s)
{
    return s->port;
}
