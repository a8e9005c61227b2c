/* openai_route.c: addresses, and those that are answered at once. */
#include "agent/openai_parts.h"

#include <string.h>

#include "agent/wire.h"
#include "protocol/hex.h"

void openai_name_model(struct call *c)
{
    uint8_t variant[32];
    c->model[0] = 0;
    if (serve_variant(c->h->serve, variant))
        hex_encode(variant, 12, c->model);
}

/* What clients choose by: what it can do, and how much fits. */
static json_t *model_object(struct call *c)
{
    struct serve_abilities a;
    json_t *o = json_pack("{s:s, s:s, s:I, s:s}", "id", c->model, "object", "model", "created",
                          (json_int_t)loop_wall_s(c->h->loop), "owned_by", "tare");
    if (o && serve_abilities(c->h->serve, &a)) {
        json_object_set_new(o, "capabilities",
                            json_pack("{s:b, s:b, s:b}", "completions", (a.can & WIRE_CAN_COMPLETE) != 0, "chat",
                                      (a.can & WIRE_CAN_CHAT) != 0, "embeddings", (a.can & WIRE_CAN_EMBED) != 0));
        json_object_set_new(o, "context_length", json_integer(a.context));
        json_object_set_new(o, "embedding_length", json_integer(a.width));
    }
    return o;
}

/* Takes all. */
static enum MHD_Result send_json(struct call *c, unsigned status, json_t *all)
{
    char *text = all ? json_dumps(all, JSON_COMPACT) : NULL;
    json_decref(all);
    return openai_send_text(c, status, text);
}

static enum MHD_Result send_models(struct call *c)
{
    json_t *list = json_array();
    openai_name_model(c);
    if (c->model[0])
        json_array_append_new(list, model_object(c));
    return send_json(c, 200, json_pack("{s:s, s:o}", "object", "list", "data", list));
}

static enum MHD_Result send_model(struct call *c, const char *name)
{
    openai_name_model(c);
    if (!c->model[0] || strcmp(name, c->model) != 0)
        return openai_refuse(c, 404, "model_not_found", "there is no model of this name");
    return send_json(c, 200, model_object(c));
}

static enum MHD_Result send_health(struct call *c)
{
    static const char *const names[] = {"no model", "loading", "ok"};
    enum serve_state state = serve_state(c->h->serve);
    openai_name_model(c);
    return send_json(c, state == SERVE_READY ? 200 : 503,
                     json_pack("{s:s, s:s?}", "status", names[state], "model", c->model[0] ? c->model : NULL));
}

enum MHD_Result openai_route(struct call *c, const char *url, const char *method, enum openai_kind *kind)
{
    static const char *const addresses[] = {
        [OPENAI_COMPLETION] = "/v1/completions", [OPENAI_CHAT] = "/v1/chat/completions", [OPENAI_EMBEDDING] = "/v1/embeddings"};
    bool is_get = strcmp(method, "GET") == 0;
    *kind = OPENAI_NOTHING;
    if (strcmp(url, "/health") == 0 || strncmp(url, "/v1/models", 10) == 0) {
        if (!is_get)
            return openai_refuse(c, 405, NULL, "only GET is allowed here");
        if (url[1] == 'h')
            return send_health(c);
        if (url[10] == 0)
            return send_models(c);
        if (url[10] == '/')
            return send_model(c, url + 11);
    }
    for (size_t i = OPENAI_COMPLETION; i <= OPENAI_EMBEDDING; i++)
        if (strcmp(url, addresses[i]) == 0) {
            if (strcmp(method, "POST") != 0)
                return openai_refuse(c, 405, NULL, "only POST is allowed here");
            *kind = (enum openai_kind)i;
            return MHD_YES;
        }
    return openai_refuse(c, 404, NULL, "there is nothing at this address");
}
