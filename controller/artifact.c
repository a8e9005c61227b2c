/* artifact.c: files by digest over HTTP. */
#include "controller/artifact.h"

#include <fcntl.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "controller/controller_log.h"
#include "controller/doc.h"
#include "controller/http.h"

enum { THREADS = 4, TIMEOUT_S = 60 };

struct artifact_server {
    struct controller *c;
    struct MHD_Daemon *daemon;
    uint16_t port;
};

static const char *read_number(const char *p, uint64_t *out)
{
    if (*p < '0' || *p > '9')
        return NULL;
    uint64_t value = 0;
    for (; *p >= '0' && *p <= '9'; p++) {
        if (value > (UINT64_MAX - 9) / 10)
            return NULL;
        value = value * 10 + (uint64_t)(*p - '0');
    }
    *out = value;
    return p;
}

int artifact_range(const char *header, uint64_t size, uint64_t *first, uint64_t *last)
{
    uint64_t a, b;
    if (strncmp(header, "bytes=", 6) != 0 || strchr(header, ','))
        return 0;
    const char *p = header + 6;
    if (*p == '-') {
        p = read_number(p + 1, &a);
        if (!p || *p)
            return 0;
        if (a == 0 || size == 0)
            return -1;
        *first = a >= size ? 0 : size - a;
        *last = size - 1;
        return 1;
    }
    p = read_number(p, &a);
    if (!p || *p != '-')
        return 0;
    if (p[1] == '\0') {
        b = size ? size - 1 : 0;
    } else {
        p = read_number(p + 1, &b);
        if (!p || *p || b < a)
            return 0;
    }
    if (a >= size)
        return -1;
    *first = a;
    *last = b >= size ? size - 1 : b;
    return 1;
}

static int find(struct artifact_server *s, const char *digest, uint64_t *bytes)
{
    struct registry_txn *t = NULL;
    json_t *file = NULL;
    struct stat st;
    if (strlen(digest) != 64 || strspn(digest, "0123456789abcdef") != 64)
        return -1;
    if (registry_begin(s->c->registry, false, &t))
        return -1;
    enum err e = registry_get_doc(t, REGISTRY_FILES, digest, &file);
    registry_abort(t);
    if (e)
        return -1;
    int fd = open(doc_text(file, "path"), O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && (fstat(fd, &st) != 0 || st.st_size != doc_int(file, "bytes"))) {
        controller_log(CONTROLLER_LOG_ERROR, "artifacts: %s is not the file that was registered",
                       doc_text(file, "path"));
        close(fd);
        fd = -1;
    }
    if (fd >= 0)
        *bytes = (uint64_t)st.st_size;
    json_decref(file);
    return fd;
}

static enum MHD_Result answer_file(struct artifact_server *s, struct MHD_Connection *connection,
                                   const char *digest)
{
    uint64_t size = 0, first = 0, last = 0;
    int fd = find(s, digest, &size);
    if (fd < 0)
        return http_empty(connection, MHD_HTTP_NOT_FOUND);
    char tag[70], span[96];
    snprintf(tag, sizeof tag, "\"%s\"", digest);
    const char *has = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "If-None-Match");
    if (has && strcmp(has, tag) == 0) {
        close(fd);
        return http_empty(connection, MHD_HTTP_NOT_MODIFIED);
    }
    const char *range = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Range");
    const char *condition = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "If-Range");
    int kind = 0;
    if (range && (!condition || strcmp(condition, tag) == 0))
        kind = artifact_range(range, size, &first, &last);
    if (kind < 0) {
        close(fd);
        return http_empty(connection, MHD_HTTP_RANGE_NOT_SATISFIABLE);
    }
    if (kind == 0) {
        first = 0;
        last = size - 1; /* an empty file cannot be registered */
    }
    struct MHD_Response *response =
        MHD_create_response_from_fd_at_offset64(last - first + 1, fd, first);
    if (!response) {
        close(fd);
        return MHD_NO;
    }
    snprintf(span, sizeof span, "bytes %llu-%llu/%llu", (unsigned long long)first,
             (unsigned long long)last, (unsigned long long)size);
    bool is_ok = MHD_add_response_header(response, "ETag", tag) == MHD_YES &&
                 MHD_add_response_header(response, "Accept-Ranges", "bytes") == MHD_YES &&
                 MHD_add_response_header(response, "Content-Type", "application/octet-stream") == MHD_YES &&
                 MHD_add_response_header(response, "Cache-Control", "max-age=31536000, immutable") == MHD_YES;
    if (kind == 1)
        is_ok = is_ok && MHD_add_response_header(response, "Content-Range", span) == MHD_YES;
    enum MHD_Result r = MHD_NO;
    if (is_ok)
        r = MHD_queue_response(connection, kind == 1 ? MHD_HTTP_PARTIAL_CONTENT : MHD_HTTP_OK, response);
    MHD_destroy_response(response);
    atomic_fetch_add(&s->c->counts.artifact_bytes, last - first + 1);
    return r;
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_bytes, void **request)
{
    (void)version;
    (void)upload;
    (void)request;
    if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0)
        return http_empty(connection, MHD_HTTP_METHOD_NOT_ALLOWED);
    if (*upload_bytes)
        return MHD_NO;
    if (strncmp(url, "/b/", 3) != 0)
        return http_empty(connection, MHD_HTTP_NOT_FOUND);
    return answer_file(context, connection, url + 3);
}

enum err artifact_open(struct controller *c, struct artifact_server **out)
{
    struct artifact_server *s = calloc(1, sizeof *s);
    if (!s)
        return ERR_MEMORY;
    s->c = c;
    uint16_t port = (uint16_t)c->settings.artifact_port;
    uint16_t last = port ? 0 : controller_last_port(c, "artifact");
    enum err e = ERR_IO;
    if (last)
        e = http_listen(c->settings.artifact_address, last, HTTP_POOL, THREADS, TIMEOUT_S, on_request,
                        NULL, s, &s->daemon, &s->port);
    if (e)
        e = http_listen(c->settings.artifact_address, port, HTTP_POOL, THREADS, TIMEOUT_S, on_request,
                        NULL, s, &s->daemon, &s->port);
    if (!e)
        e = controller_keep_port(c, "artifact", s->port);
    if (!e)
        e = http_write_port(c->settings.state, "artifact.port", s->port);
    if (e) {
        artifact_close(s);
        return e;
    }
    *out = s;
    return ERR_NONE;
}

void artifact_close(struct artifact_server *s)
{
    if (!s)
        return;
    if (s->daemon)
        MHD_stop_daemon(s->daemon);
    free(s);
}

uint16_t artifact_port(const struct artifact_server *s)
{
    return s->port;
}
