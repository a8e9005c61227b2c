/* api.h: the HTTP API under /api/1, /metrics and the dashboard; described by web/openapi.json.
 *
 * Every call but the dashboard's static files needs a bearer token of the token file. A handler works in
 * transactions of the registry, wakes the loop when it has changed something, and never publishes.
 */
#ifndef API_H
#define API_H

#include <microhttpd.h>

#include "controller/controller.h"

enum {
    API_BODY_MAX = 1 << 20, /* of a JSON request */
    API_PART_MAX = 128,     /* of a path's variable part */
    API_TOKENS_MAX = 32
};

struct api_server;

/* Listens on the settings' [http] address; the chosen port is written to STATE/http.port. The token file
 * ("TOKEN [NAME]" per line) is made with one token when it is absent.
 * Errors: ERR_IO, ERR_FORMAT (token file), ERR_ARGUMENT (address), ERR_MEMORY; why says it in one line. */
NODISCARD enum err api_open(struct controller *c, struct api_server **out, char *why,
                            uint32_t why_bytes);
void api_close(struct api_server *s); /* NULL is allowed */
uint16_t api_port(const struct api_server *s);

/* One call as its handler sees it. */
struct api_call {
    struct controller *c;
    struct MHD_Connection *connection;
    char part[API_PART_MAX]; /* the variable part of the path */
    char verb[API_PART_MAX]; /* what follows it */
    const char *who;         /* name of the token */
    const json_t *body;      /* an object; empty when none was sent */
    json_t *answer;          /* the handler's, taken over */
    unsigned status;         /* 200 unless the handler says otherwise */
    char upload[CONTROLLER_PATH]; /* PUT: what was sent, in a file */
};

/* Handlers answer by call->answer, or by api_fail: ERR_NOT_FOUND 404, ERR_STALE 409, ERR_ARGUMENT,
 * ERR_FORMAT, ERR_MISMATCH, ERR_UNSUPPORTED 400, everything else 500. */
void api_fail(struct api_call *call, enum err e, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* A query argument, "" when absent; as a number with a default and bounds. */
const char *api_query(const struct api_call *call, const char *name);
int64_t api_query_int(const struct api_call *call, const char *name, int64_t preset, int64_t least,
                      int64_t most);

void api_devices_list(struct api_call *call);
void api_devices_show(struct api_call *call);
void api_devices_command(struct api_call *call);
void api_rollouts_list(struct api_call *call);
void api_rollouts_create(struct api_call *call);
void api_rollouts_show(struct api_call *call);
void api_rollouts_command(struct api_call *call);
void api_bench_list(struct api_call *call);
void api_bench_create(struct api_call *call);
void api_models_list(struct api_call *call);
void api_models_register(struct api_call *call);
void api_models_upload(struct api_call *call);
void api_recipes_list(struct api_call *call);
void api_telemetry(struct api_call *call);
void api_calibration(struct api_call *call);
void api_recalibrate(struct api_call *call);
void api_decisions(struct api_call *call);
void api_status(struct api_call *call);

/* The text of /metrics; the caller frees it. */
NODISCARD enum err metrics_text(struct controller *c, char **out);

/* One telemetry record as JSON (kind, time, value, variant); NULL when it does not parse. */
json_t *telemetry_to_json(const uint8_t *bytes, size_t size);

#endif
