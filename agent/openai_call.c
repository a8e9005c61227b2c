/* openai_call.c: one request: what serve says of it, and how that goes out. */
#include "agent/openai_parts.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/wire.h"
#include "protocol/hex.h"

enum { RETRY_AFTER_S = 2, VECTORS_MAX = 64 << 20 };

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
        openai_resume(c);
        return;
    }
    openai_logprobs_add(&c->logprobs, one);
    if (append(c, text, bytes))
        c->has_token = true;
}

static void on_vector(void *context, const float *values, size_t count)
{
    struct call *c = context;
    if (c->problem.status)
        return;
    if (c->ask.dimensions > count) {
        c->problem = (struct openai_problem){.status = 400, .type = "invalid_request_error", .param = "dimensions"};
        snprintf(c->problem.message, sizeof c->problem.message, "'dimensions' must be at most %zu with this model", count);
        return;
    }
    char *text = openai_vector_text(&c->ask, c->vectors, values, count);
    const size_t bytes = text ? strlen(text) : 0;
    if (c->text_bytes + bytes > VECTORS_MAX)
        c->problem = (struct openai_problem){.status = 400,
                                             .type = "invalid_request_error",
                                             .param = "input",
                                             .message = "the answer would be larger than 64 MiB: ask for fewer inputs"};
    else if (text && append(c, text, bytes))
        c->vectors++;
    free(text);
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
    else if (!c->problem.status && c->vectors != c->ask.inputs)
        problem_of(c, ERR_MEMORY, "no memory for the vectors");
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
    openai_resume(c);
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

enum MHD_Result openai_send_text(struct call *c, unsigned status, char *text)
{
    return send_text(c, status, text, NULL);
}

enum MHD_Result openai_send_problem(struct call *c)
{
    char after[16];
    snprintf(after, sizeof after, "%d", RETRY_AFTER_S);
    bool busy = c->problem.status == 429 || c->problem.status == 503;
    return send_text(c, c->problem.status, openai_problem_text(&c->problem), busy ? after : NULL);
}

enum MHD_Result openai_refuse(struct call *c, unsigned status, const char *code, const char *message)
{
    const char *type = status == 429 ? "rate_limit_error" : status >= 500 ? "server_error" : "invalid_request_error";
    c->problem = (struct openai_problem){.status = status, .type = type, .code = code};
    snprintf(c->problem.message, sizeof c->problem.message, "%s", message);
    return openai_send_problem(c);
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
        openai_suspend(c);
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
    enum MHD_Result result = MHD_queue_response(c->connection, 200, r);
    MHD_destroy_response(r);
    return result;
}

/* ---- from the body to the answer ---- */

static bool is_served(const struct call *c, const char *name)
{
    uint8_t variant[32];
    char whole[65];
    if (!serve_variant(c->h->serve, variant))
        return true; /* another answer tells */
    hex_encode(variant, 32, whole);
    return name[0] == 0 || !strcmp(name, c->model) || !strcmp(name, whole) || !strcmp(name, "default");
}

enum MHD_Result openai_begin(struct call *c, enum openai_kind kind)
{
    static const char *const prefixes[] = {
        [OPENAI_COMPLETION] = "cmpl", [OPENAI_CHAT] = "chatcmpl", [OPENAI_EMBEDDING] = "embd"};
    uint8_t bytes[12];
    char hex[25], message[200];
    if (!openai_ask_parse(c->body ? c->body : "", c->body_bytes, kind, &c->ask, &c->problem))
        return openai_send_problem(c);
    openai_name_model(c);
    if (!is_served(c, c->ask.model)) {
        snprintf(message, sizeof message, "the model '%s' is not served here; this one is: '%s', or 'default'",
                 c->ask.model, c->model);
        return openai_refuse(c, 404, "model_not_found", message);
    }
    randombytes_buf(bytes, sizeof bytes);
    hex_encode(bytes, sizeof bytes, hex);
    snprintf(c->id, sizeof c->id, "%s-%s", prefixes[kind], hex);
    c->answer = (struct openai_answer){.ask = &c->ask,
                                       .id = c->id,
                                       .model = c->model,
                                       .created_s = loop_wall_s(c->h->loop),
                                       .offset = c->ask.prompt_characters};
    c->ask.ask.context = c;
    c->ask.ask.token = on_token;
    c->ask.ask.vector = on_vector;
    c->ask.ask.end = on_end;
    enum err e = serve_submit(c->h->serve, &c->ask.ask, &c->request);
    if (e == ERR_FULL)
        return openai_refuse(c, 429, "rate_limit_exceeded", "too many requests wait; try again later");
    if (e == ERR_NOT_FOUND)
        return openai_refuse(c, 503, "no_model", "no model is committed on this device yet");
    if (e)
        return openai_refuse(c, e == ERR_ARGUMENT ? 413 : 503, NULL, err_name(e));
    openai_suspend(c);
    return MHD_YES;
}

static char *whole_answer(struct call *c)
{
    json_t *logprobs = c->logprobs;
    const char *text = c->text ? c->text : "";
    c->logprobs = NULL;
    if (c->ask.kind == OPENAI_EMBEDDING)
        return openai_vectors_text(&c->answer, text, c->text_bytes, c->usage.prompt);
    return openai_answer_text(&c->answer, text, c->text_bytes, logprobs, c->reason == WIRE_LENGTH ? "length" : "stop",
                              &c->usage);
}

enum MHD_Result openai_go_on(struct call *c)
{
    if (c->is_gone)
        return MHD_NO;
    if (c->ask.is_stream && (c->has_token || (c->has_ended && !c->problem.status)))
        return start_stream(c);
    if (!c->has_ended) {
        openai_suspend(c);
        return MHD_YES;
    }
    return c->problem.status ? openai_send_problem(c) : openai_send_text(c, 200, whole_answer(c));
}

void openai_call_close(struct call *c)
{
    if (c->request)
        serve_cancel(c->h->serve, c->request);
    openai_ask_free(&c->ask);
    json_decref(c->logprobs);
    free(c->body);
    free(c->text);
}
