/* http.h: what the API and the artifact server share of libmicrohttpd. */
#ifndef HTTP_H
#define HTTP_H

#include <microhttpd.h>
#include <stdint.h>

#include "protocol/err.h"

enum http_threads {
    HTTP_POOL = 0,          /* a few threads with epoll: answers that never wait */
    HTTP_PER_CONNECTION = 1 /* answers that hash or write files */
};

/* Listen on address (IPv4 or IPv6, as digits) and port (0: any free one). Errors: ERR_ARGUMENT, ERR_IO. */
NODISCARD enum err http_listen(const char *address, uint16_t port, enum http_threads threads,
                               unsigned count, unsigned timeout_s, MHD_AccessHandlerCallback handler,
                               MHD_RequestCompletedCallback completed, void *context,
                               struct MHD_Daemon **out, uint16_t *chosen);

/* Write "PORT\n" to FOLDER/NAME by a temporary file and rename. Errors: ERR_IO, ERR_ARGUMENT. */
NODISCARD enum err http_write_port(const char *folder, const char *name, uint16_t port);

/* A status and nothing else. */
enum MHD_Result http_empty(struct MHD_Connection *connection, unsigned status);

/* A body that is copied. */
enum MHD_Result http_body(struct MHD_Connection *connection, unsigned status, const char *type,
                          const void *body, size_t bytes);

#endif
