/* http.c: listening and answering. */
#include "controller/http.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 1024, CONNECTION_MEMORY = 64 * 1024 };

static enum err address_of(const char *text, uint16_t port, struct sockaddr_storage *out)
{
    memset(out, 0, sizeof *out);
    struct sockaddr_in *four = (struct sockaddr_in *)out;
    if (inet_pton(AF_INET, text, &four->sin_addr) == 1) {
        four->sin_family = AF_INET;
        four->sin_port = htons(port);
        return ERR_NONE;
    }
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)out;
    if (inet_pton(AF_INET6, text, &six->sin6_addr) == 1) {
        six->sin6_family = AF_INET6;
        six->sin6_port = htons(port);
        return ERR_NONE;
    }
    return ERR_ARGUMENT;
}

enum err http_listen(const char *address, uint16_t port, enum http_threads threads, unsigned count,
                     unsigned timeout_s, MHD_AccessHandlerCallback handler,
                     MHD_RequestCompletedCallback completed, void *context, struct MHD_Daemon **out,
                     uint16_t *chosen)
{
    struct sockaddr_storage to;
    enum err e = address_of(address, port, &to);
    if (e)
        return e;
    unsigned flags = threads == HTTP_POOL
                         ? MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_EPOLL
                         : MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL;
    if (to.ss_family == AF_INET6)
        flags |= MHD_USE_IPv6;
    struct MHD_OptionItem more[] = {
        {threads == HTTP_POOL ? MHD_OPTION_THREAD_POOL_SIZE : MHD_OPTION_END, (intptr_t)count, NULL},
        {MHD_OPTION_END, 0, NULL}};
    struct MHD_Daemon *daemon = MHD_start_daemon(
        flags, port, NULL, NULL, handler, context, MHD_OPTION_SOCK_ADDR, (struct sockaddr *)&to,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)CONNECTION_MEMORY, MHD_OPTION_CONNECTION_TIMEOUT, timeout_s,
        MHD_OPTION_LISTENING_ADDRESS_REUSE, 1u, MHD_OPTION_NOTIFY_COMPLETED, completed, context,
        MHD_OPTION_ARRAY, more, MHD_OPTION_END);
    if (!daemon)
        return ERR_IO;
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_BIND_PORT);
    *chosen = info ? info->port : port;
    *out = daemon;
    return ERR_NONE;
}

enum err http_write_port(const char *folder, const char *name, uint16_t port)
{
    char path[1024], part[1040];
    int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    if (n < 0 || (size_t)n >= sizeof path)
        return ERR_ARGUMENT;
    snprintf(part, sizeof part, "%s.part", path);
    FILE *f = fopen(part, "we");
    if (!f)
        return ERR_IO;
    bool is_ok = fprintf(f, "%u\n", port) > 0 && fflush(f) == 0 && fsync(fileno(f)) == 0;
    is_ok = fclose(f) == 0 && is_ok;
    if (!is_ok || rename(part, path) != 0) {
        unlink(part);
        return ERR_IO;
    }
    return ERR_NONE;
}

enum MHD_Result http_empty(struct MHD_Connection *connection, unsigned status)
{
    return http_body(connection, status, NULL, "", 0);
}

enum MHD_Result http_body(struct MHD_Connection *connection, unsigned status, const char *type,
                          const void *body, size_t bytes)
{
    void *copy;
    memcpy(&copy, &body, sizeof copy); /* MUST_COPY only reads it */
    struct MHD_Response *response =
        MHD_create_response_from_buffer(bytes, copy, MHD_RESPMEM_MUST_COPY);
    if (!response)
        return MHD_NO;
    enum MHD_Result r = MHD_YES;
    if (type)
        r = MHD_add_response_header(response, "Content-Type", type);
    if (r == MHD_YES)
        r = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return r;
}
