/* fleet_http.h: one question to the controller's HTTP API, one JSON document back. */
#ifndef FLEET_HTTP_H
#define FLEET_HTTP_H

#include "cli/cli.h"

/* What every fleet verb takes; the first member of its settings. */
struct fleet_settings {
    const char *controller; /* URL; NULL: $TARE_CONTROLLER, else http://127.0.0.1:8780 */
    const char *token_file; /* NULL: $TARE_TOKEN_FILE, else /var/lib/tare-controller/api.token */
};

/* The entries of a verb's option table for them; they stand at its beginning. */
#define FLEET_OPTIONS                                                                              \
    {.name = "controller",                                                                         \
     .kind = CLI_TEXT,                                                                             \
     .offset = offsetof(struct fleet_settings, controller),                                        \
     .value = "URL",                                                                               \
     .help = "HTTP API (default $TARE_CONTROLLER, then http://127.0.0.1:8780)"},                   \
    {                                                                                              \
        .name = "token-file", .kind = CLI_TEXT,                                                    \
        .offset = offsetof(struct fleet_settings, token_file), .value = "FILE",                    \
        .help = "bearer token (default $TARE_TOKEN_FILE, then the controller's own)"               \
    }

/* Ask: method GET, POST or PUT, path "/api/1/devices?status=pending" (already encoded).
 *   body    sent as JSON; NULL: none; borrowed
 *   upload  a file to send instead of a body (PUT), NULL: none
 *   out     the document, the caller's reference
 * Returns CLI_DONE, or has called cli_fail: what the controller refuses is CLI_INPUT with its own
 * words, an unreachable or broken controller CLI_ENVIRONMENT. */
int fleet_ask(struct cli_call *call, const char *method, const char *path,
              const struct json_t *body, const char *upload, struct json_t **out);

/* Percent-encode text into out (3 x its length + 1 bytes). Returns out. */
char *fleet_encode(const char *text, char *out, size_t bytes);

#endif
