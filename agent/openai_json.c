/* openai_json.c: see openai_json.h. */
#include "agent/openai_json.h"

#include <math.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STOPS_MAX = 16, TOP_MAX = 20 };

static bool refuse(struct openai_problem *p, const char *param, const char *message)
{
    *p = (struct openai_problem){.status = 400, .type = "invalid_request_error", .param = param};
    snprintf(p->message, sizeof p->message, "%s", message);
    return false;
}

/* A list of strings: every one ended by NUL. */
static bool append(char **list, size_t *used, const char *text, size_t bytes)
{
    if (memchr(text, 0, bytes)) /* NUL cannot be said in a list; no text needs it */
        return false;
    char *grown = realloc(*list, *used + bytes + 1);
    if (!grown)
        return false;
    memcpy(grown + *used, text, bytes);
    grown[*used + bytes] = 0;
    *list = grown;
    *used += bytes + 1;
    return true;
}

static bool number(json_t *body, const char *name, double low, double high, double preset, double *out,
                   struct openai_problem *p)
{
    char message[128];
    json_t *v = json_object_get(body, name);
    *out = preset;
    if (!v || json_is_null(v))
        return true;
    if (json_is_number(v)) {
        *out = json_number_value(v);
        if (*out >= low && *out <= high)
            return true;
    }
    snprintf(message, sizeof message, "'%s' must be a number from %g to %g", name, low, high);
    return refuse(p, name, message);
}

static bool whole(json_t *body, const char *name, double low, double high, double preset, double *out,
                  struct openai_problem *p)
{
    char message[128];
    if (!number(body, name, low, high, preset, out, p))
        return false;
    if (*out == floor(*out))
        return true;
    snprintf(message, sizeof message, "'%s' must be a whole number", name);
    return refuse(p, name, message);
}

static bool flag(json_t *body, const char *name, bool *out, struct openai_problem *p)
{
    char message[64];
    json_t *v = json_object_get(body, name);
    *out = json_is_true(v);
    if (!v || json_is_null(v) || json_is_boolean(v))
        return true;
    snprintf(message, sizeof message, "'%s' must be true or false", name);
    return refuse(p, name, message);
}

static bool parse_stop(struct openai_ask *a, struct openai_problem *p)
{
    json_t *v = json_object_get(a->body, "stop"), *one;
    size_t i, used = 0;
    if (!v || json_is_null(v))
        return true;
    if (json_is_string(v)) {
        if (!json_string_length(v) || !append(&a->stop, &used, json_string_value(v), json_string_length(v)))
            return refuse(p, "stop", "'stop' must not be empty");
    } else if (json_is_array(v) && json_array_size(v) <= STOPS_MAX) {
        json_array_foreach(v, i, one)
        {
            if (!json_is_string(one) || !json_string_length(one) ||
                !append(&a->stop, &used, json_string_value(one), json_string_length(one)))
                return refuse(p, "stop", "'stop' must hold strings that are not empty");
        }
    } else {
        return refuse(p, "stop", "'stop' must be a string or an array of at most 16 strings");
    }
    a->ask.stop = a->stop;
    a->ask.stop_bytes = used;
    return true;
}

/* Content is a string, or an array of parts of type text. */
static bool append_content(struct openai_ask *a, size_t *used, json_t *content)
{
    size_t i;
    json_t *part;
    if (json_is_string(content))
        return append(&a->chat, used, json_string_value(content), json_string_length(content));
    if (!json_is_array(content))
        return false;
    if (!append(&a->chat, used, "", 0))
        return false;
    json_array_foreach(content, i, part)
    {
        json_t *text = json_object_get(part, "text");
        const char *type = json_string_value(json_object_get(part, "type"));
        if (!type || strcmp(type, "text") != 0 || !json_is_string(text))
            return false;
        *used -= 1; /* go on over the NUL */
        if (!append(&a->chat, used, json_string_value(text), json_string_length(text)))
            return false;
    }
    return true;
}

static bool parse_messages(struct openai_ask *a, struct openai_problem *p)
{
    json_t *messages = json_object_get(a->body, "messages"), *one;
    size_t i, used = 0;
    if (!json_is_array(messages) || json_array_size(messages) == 0)
        return refuse(p, "messages", "'messages' must be an array of at least one message");
    json_array_foreach(messages, i, one)
    {
        json_t *role = json_object_get(one, "role");
        const char *name = json_string_value(role);
        bool known = name && (!strcmp(name, "system") || !strcmp(name, "user") || !strcmp(name, "assistant") ||
                              !strcmp(name, "developer") || !strcmp(name, "tool"));
        if (!known)
            return refuse(p, "messages", "a message's 'role' must be system, user, assistant, developer or tool");
        if (!append(&a->chat, &used, name, strlen(name)) ||
            !append_content(a, &used, json_object_get(one, "content")))
            return refuse(p, "messages", "a message's 'content' must be a string, or an array of text parts");
    }
    a->ask.chat = a->chat;
    a->ask.chat_bytes = used;
    return true;
}

static bool parse_prompt(struct openai_ask *a, struct openai_problem *p)
{
    json_t *prompt = json_object_get(a->body, "prompt");
    if (json_is_array(prompt) && json_array_size(prompt) == 1)
        prompt = json_array_get(prompt, 0);
    if (!json_is_string(prompt))
        return refuse(p, "prompt", "'prompt' must be a string");
    a->ask.prompt = json_string_value(prompt);
    a->ask.prompt_bytes = json_string_length(prompt);
    return true;
}

static bool parse_logprobs(struct openai_ask *a, struct openai_problem *p)
{
    double top = 0;
    json_t *v = json_object_get(a->body, "logprobs");
    a->ask.top = UINT32_MAX;
    if (a->is_chat) {
        if (!flag(a->body, "logprobs", &a->has_logprobs, p) ||
            !whole(a->body, "top_logprobs", 0, TOP_MAX, 0, &top, p))
            return false;
    } else if (v && !json_is_null(v)) {
        a->has_logprobs = true;
        if (!whole(a->body, "logprobs", 0, TOP_MAX, 0, &top, p))
            return false;
    }
    if (a->has_logprobs)
        a->ask.top = (uint32_t)top;
    return true;
}

bool openai_ask_parse(const char *body, size_t bytes, bool is_chat, struct openai_ask *out, struct openai_problem *problem)
{
    json_error_t error;
    char message[220];
    double n, most = 0, most_chat = 0, top_k, seed;
    struct openai_ask *a = out;
    memset(a, 0, sizeof *a);
    a->is_chat = is_chat;
    a->body = json_loadb(body, bytes, JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(a->body)) {
        snprintf(message, sizeof message, "the body must be a JSON object: line %d: %s", error.line, error.text);
        return refuse(problem, NULL, message);
    }
    if (is_chat ? !parse_messages(a, problem) : !parse_prompt(a, problem))
        return false;
    if (!whole(a->body, "n", 1, 1, 1, &n, problem) || !whole(a->body, "best_of", 1, 1, 1, &n, problem) ||
        !whole(a->body, "max_tokens", 0, SERVE_TOKENS_MAX, 0, &most, problem) ||
        !whole(a->body, "max_completion_tokens", 0, SERVE_TOKENS_MAX, 0, &most_chat, problem) ||
        !number(a->body, "temperature", 0, 100, 1, &a->ask.temperature, problem) ||
        !number(a->body, "top_p", 0, 1, 1, &a->ask.top_p, problem) ||
        !whole(a->body, "top_k", 0, 1e9, 0, &top_k, problem) ||
        !whole(a->body, "seed", -9007199254740992.0, 9007199254740992.0, 0, &seed, problem) ||
        !flag(a->body, "stream", &a->is_stream, problem) || !parse_stop(a, problem) || !parse_logprobs(a, problem))
        return false;
    bool echoes;
    if (!flag(a->body, "echo", &echoes, problem))
        return false;
    if (echoes)
        return refuse(problem, "echo", "'echo' is not supported");
    json_t *options = json_object_get(a->body, "stream_options");
    a->has_usage = json_is_true(json_object_get(options, "include_usage"));
    json_t *limit = json_object_get(a->body, "max_tokens");
    if (most_chat > 0)
        most = most_chat;
    if (!is_chat && (!limit || json_is_null(limit)) && most == 0)
        most = 16; /* the form's own default */
    if ((limit && json_is_integer(limit) && json_integer_value(limit) == 0))
        return refuse(problem, "max_tokens", "'max_tokens' must be at least 1");
    a->ask.max_tokens = (uint32_t)most;
    a->ask.top_k = (uint32_t)top_k;
    json_t *given = json_object_get(a->body, "seed");
    if (json_is_number(given))
        a->ask.seed = (uint64_t)(int64_t)seed;
    else
        randombytes_buf(&a->ask.seed, sizeof a->ask.seed);
    return true;
}

void openai_ask_free(struct openai_ask *a)
{
    json_decref(a->body);
    free(a->chat);
    free(a->stop);
    memset(a, 0, sizeof *a);
}

/* Takes v. */
static char *text_of(json_t *v, const char *before, const char *after)
{
    char *json = v ? json_dumps(v, JSON_COMPACT) : NULL;
    json_decref(v);
    if (!json)
        return NULL;
    size_t bytes = strlen(before) + strlen(json) + strlen(after) + 1;
    char *text = malloc(bytes);
    if (text)
        snprintf(text, bytes, "%s%s%s", before, json, after);
    free(json);
    return text;
}

char *openai_problem_text(const struct openai_problem *p)
{
    return text_of(json_pack("{s:{s:s, s:s, s:s?, s:s?}}", "error", "message", p->message, "type", p->type, "param",
                             p->param, "code", p->code),
                   "", "");
}

/* Bytes that are not UTF-8 (a token may be part of a character) become U+FFFD. */
static json_t *string(const char *text, size_t bytes)
{
    json_t *s = json_stringn(text, bytes);
    return s ? s : json_string("\xEF\xBF\xBD");
}

static json_t *byte_list(const char *text, size_t bytes)
{
    json_t *list = json_array();
    for (size_t i = 0; i < bytes; i++)
        json_array_append_new(list, json_integer((unsigned char)text[i]));
    return list;
}

json_t *openai_logprobs(const struct openai_answer *a, const uint8_t *top, size_t bytes)
{
    json_t *one = json_object(), *others = a->ask->is_chat ? json_array() : json_object();
    size_t at = 0;
    for (uint32_t i = 0; at + 5 <= bytes; i++) {
        float logprob;
        memcpy(&logprob, top + at, 4);
        size_t n = top[at + 4];
        const char *text = (const char *)top + at + 5;
        at += 5 + n;
        if (at > bytes || !isfinite(logprob)) {
            json_decref(one);
            json_decref(others);
            return NULL;
        }
        double value = (double)logprob;
        if (a->ask->is_chat) {
            json_t *entry = json_pack("{s:o, s:f, s:o}", "token", string(text, n), "logprob", value, "bytes",
                                      byte_list(text, n));
            if (i == 0)
                json_object_update(one, entry);
            else
                json_array_append(others, entry);
            json_decref(entry);
        } else if (i == 0) {
            json_object_set_new(one, "token", string(text, n));
            json_object_set_new(one, "logprob", json_real(value));
        } else {
            json_t *key = string(text, n);
            json_object_set_new(others, json_string_value(key), json_real(value));
            json_decref(key);
        }
    }
    json_object_set_new(one, "top_logprobs", others);
    return one;
}

void openai_logprobs_add(json_t **all, json_t *one)
{
    if (!one)
        return;
    if (!*all)
        *all = json_array();
    json_array_append_new(*all, one);
}

/* The two shapes: chat {content: [...]}; completions {tokens, token_logprobs, top_logprobs, text_offset}. */
static json_t *logprobs_shape(const struct openai_answer *a, json_t *all)
{
    size_t i;
    json_t *one;
    if (!a->ask->has_logprobs || !all) {
        json_decref(all);
        return json_null();
    }
    if (a->ask->is_chat)
        return json_pack("{s:o}", "content", all);
    json_t *tokens = json_array(), *values = json_array(), *tops = json_array(), *offsets = json_array();
    size_t offset = 0;
    json_array_foreach(all, i, one)
    {
        json_t *token = json_object_get(one, "token");
        json_array_append(tokens, token);
        json_array_append(values, json_object_get(one, "logprob"));
        json_array_append(tops, json_object_get(one, "top_logprobs"));
        json_array_append_new(offsets, json_integer((json_int_t)offset));
        offset += json_string_length(token);
    }
    json_decref(all);
    return json_pack("{s:o, s:o, s:o, s:o}", "tokens", tokens, "token_logprobs", values, "top_logprobs", tops,
                     "text_offset", offsets);
}

static json_t *frame(const struct openai_answer *a, const char *object, json_t *choices)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:o}", "id", a->id, "object", object, "created", (json_int_t)a->created_s,
                     "model", a->model, "choices", choices);
}

static json_t *usage_of(const struct serve_usage *u)
{
    return json_pack("{s:I, s:I, s:I, s:{s:I}}", "prompt_tokens", (json_int_t)u->prompt, "completion_tokens",
                     (json_int_t)u->made, "total_tokens", (json_int_t)u->prompt + u->made, "prompt_tokens_details",
                     "cached_tokens", (json_int_t)u->cached);
}

char *openai_answer_text(const struct openai_answer *a, const char *text, size_t bytes, json_t *logprobs,
                       const char *finish, const struct serve_usage *usage)
{
    json_t *choice;
    if (a->ask->is_chat)
        choice = json_pack("{s:i, s:{s:s, s:o}, s:o, s:s}", "index", 0, "message", "role", "assistant", "content",
                           string(text, bytes), "logprobs", logprobs_shape(a, logprobs), "finish_reason", finish);
    else
        choice = json_pack("{s:o, s:i, s:o, s:s}", "text", string(text, bytes), "index", 0, "logprobs",
                           logprobs_shape(a, logprobs), "finish_reason", finish);
    json_t *whole_answer =
        frame(a, a->ask->is_chat ? "chat.completion" : "text_completion", json_pack("[o]", choice));
    json_object_set_new(whole_answer, "usage", usage_of(usage));
    return text_of(whole_answer, "", "");
}

char *openai_event_text(const struct openai_answer *a, const char *text, size_t bytes, json_t *logprobs, const char *finish,
                      bool is_first)
{
    json_t *choice, *shape = logprobs_shape(a, logprobs);
    if (a->ask->is_chat) {
        json_t *delta = json_object();
        if (is_first)
            json_object_set_new(delta, "role", json_string("assistant"));
        if (bytes || is_first)
            json_object_set_new(delta, "content", string(text, bytes));
        choice = json_pack("{s:i, s:o, s:o, s:s?}", "index", 0, "delta", delta, "logprobs", shape, "finish_reason",
                           finish);
    } else {
        choice = json_pack("{s:o, s:i, s:o, s:s?}", "text", string(text, bytes), "index", 0, "logprobs", shape,
                           "finish_reason", finish);
    }
    json_t *event = frame(a, a->ask->is_chat ? "chat.completion.chunk" : "text_completion", json_pack("[o]", choice));
    if (a->ask->has_usage && event)
        json_object_set_new(event, "usage", json_null());
    return text_of(event, "data: ", "\n\n");
}

char *openai_usage_event(const struct openai_answer *a, const struct serve_usage *usage)
{
    json_t *event = frame(a, a->ask->is_chat ? "chat.completion.chunk" : "text_completion", json_array());
    if (event)
        json_object_set_new(event, "usage", usage_of(usage));
    return text_of(event, "data: ", "\n\n");
}
