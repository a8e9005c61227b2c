/* openai_ask.c: a request's body, taken apart: what is not understood but harmless is passed over, what would change
 * the answer and is not supported is refused. */
#include "agent/openai_json.h"

#include <math.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/wire.h"

enum { STOPS_MAX = 16, TOP_MAX = 20, INPUTS_MAX = 2048 };

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
static bool append_content(struct openai_ask *a, size_t *used, json_t *content, bool may_be_null)
{
    size_t i;
    json_t *part;
    if (json_is_null(content) && may_be_null) /* an assistant's that called tools */
        return append(&a->input, used, "", 0);
    if (json_is_string(content))
        return append(&a->input, used, json_string_value(content), json_string_length(content));
    if (!json_is_array(content))
        return false;
    if (!append(&a->input, used, "", 0))
        return false;
    json_array_foreach(content, i, part)
    {
        json_t *text = json_object_get(part, "text");
        const char *type = json_string_value(json_object_get(part, "type"));
        if (!type || strcmp(type, "text") != 0 || !json_is_string(text))
            return false;
        *used -= 1; /* go on over the NUL */
        if (!append(&a->input, used, json_string_value(text), json_string_length(text)))
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
        if (!append(&a->input, &used, name, strlen(name)) ||
            !append_content(a, &used, json_object_get(one, "content"), !strcmp(name, "assistant")))
            return refuse(p, "messages", "a message's 'content' must be a string, or an array of text parts");
    }
    a->ask.form = SERVE_CHAT;
    a->ask.input = a->input;
    a->ask.input_bytes = used;
    return true;
}

/* Whole numbers that tokens can be, behind *used bytes of a->input. */
static bool append_tokens(struct openai_ask *a, size_t *used, json_t *list)
{
    const size_t count = json_array_size(list);
    char *grown = realloc(a->input, *used + count * 4 + 1);
    if (!grown || count == 0)
        return false;
    a->input = grown;
    for (size_t i = 0; i < count; i++) {
        json_t *v = json_array_get(list, i);
        const json_int_t n = json_integer_value(v);
        const uint32_t token = (uint32_t)n;
        if (!json_is_integer(v) || n < 0 || n > INT32_MAX)
            return false;
        memcpy(a->input + *used, &token, 4);
        *used += 4;
    }
    return true;
}

static size_t characters(const char *text, size_t bytes)
{
    size_t count = 0;
    for (size_t i = 0; i < bytes; i++)
        count += ((unsigned char)text[i] & 0xc0) != 0x80;
    return count;
}

static bool parse_prompt(struct openai_ask *a, struct openai_problem *p)
{
    json_t *prompt = json_object_get(a->body, "prompt"), *first = json_array_get(prompt, 0);
    size_t used = 0;
    if (json_array_size(prompt) == 1 && !json_is_integer(first))
        prompt = first;
    if (json_is_array(prompt) && append_tokens(a, &used, prompt)) {
        a->ask.form = SERVE_TOKENS;
        a->ask.input = a->input;
        a->ask.input_bytes = used;
        return true;
    }
    if (!json_is_string(prompt))
        return refuse(p, "prompt", "'prompt' must be a string, or an array of tokens");
    a->ask.form = SERVE_TEXT;
    a->ask.input = json_string_value(prompt);
    a->ask.input_bytes = json_string_length(prompt);
    a->prompt_characters = characters(a->ask.input, a->ask.input_bytes);
    return true;
}

/* One input as WIRE_K_INPUTS has it. */
static bool append_input(struct openai_ask *a, size_t *used, json_t *v)
{
    const size_t head = *used;
    const bool is_text = json_is_string(v);
    const size_t bytes = is_text ? json_string_length(v) : 0;
    char *grown = realloc(a->input, head + 5 + bytes + 1);
    if (!grown)
        return false;
    a->input = grown;
    *used += 5;
    if (is_text) {
        memcpy(a->input + *used, json_string_value(v), bytes);
        *used += bytes;
    } else if (!json_is_array(v) || !append_tokens(a, used, v)) {
        return false;
    }
    const uint32_t size = (uint32_t)(*used - head - 5);
    a->input[head] = is_text ? WIRE_INPUT_TEXT : WIRE_INPUT_TOKENS;
    memcpy(a->input + head + 1, &size, 4);
    a->inputs++;
    return size > 0;
}

static bool parse_embedding(struct openai_ask *a, struct openai_problem *p)
{
    json_t *input = json_object_get(a->body, "input"), *format = json_object_get(a->body, "encoding_format"), *one;
    const char *name = json_string_value(format);
    double dimensions = 0;
    size_t i, used = 0;
    bool ok = true;
    if (format && !json_is_null(format) && (!name || (strcmp(name, "float") != 0 && strcmp(name, "base64") != 0)))
        return refuse(p, "encoding_format", "'encoding_format' must be float or base64");
    a->is_base64 = name && name[0] == 'b';
    if (!whole(a->body, "dimensions", 1, 1 << 20, 0, &dimensions, p))
        return false;
    a->dimensions = (uint32_t)dimensions;
    if (json_is_string(input) || (json_is_array(input) && json_is_integer(json_array_get(input, 0)))) {
        ok = append_input(a, &used, input);
    } else {
        ok = json_is_array(input) && json_array_size(input) > 0 && json_array_size(input) <= INPUTS_MAX;
        json_array_foreach(input, i, one)
            ok = ok && append_input(a, &used, one);
    }
    if (!ok)
        return refuse(p, "input", "'input' must be a string, an array of at most 2048 strings, or tokens; none empty");
    a->ask.form = SERVE_INPUTS;
    a->ask.input = a->input;
    a->ask.input_bytes = used;
    return true;
}

static bool parse_logprobs(struct openai_ask *a, struct openai_problem *p)
{
    double top = 0;
    json_t *v = json_object_get(a->body, "logprobs"), *tops = json_object_get(a->body, "top_logprobs");
    a->ask.top = UINT32_MAX;
    if (a->kind == OPENAI_CHAT) {
        if (!flag(a->body, "logprobs", &a->has_logprobs, p) ||
            !whole(a->body, "top_logprobs", 0, TOP_MAX, 0, &top, p))
            return false;
        if (tops && !json_is_null(tops) && !a->has_logprobs)
            return refuse(p, "top_logprobs", "'top_logprobs' needs 'logprobs' to be true");
    } else if (v && !json_is_null(v)) {
        a->has_logprobs = true;
        if (!whole(a->body, "logprobs", 0, TOP_MAX, 0, &top, p))
            return false;
    }
    if (a->has_logprobs)
        a->ask.top = (uint32_t)top;
    return true;
}

/* Asks for something: not null, false, 0 or empty. */
static bool is_asked(const json_t *v)
{
    if (json_is_number(v))
        return json_number_value(v) < 0 || json_number_value(v) > 0;
    return json_is_true(v) || json_string_length(v) > 0 || json_array_size(v) > 0 || json_object_size(v) > 0;
}

static bool parse_unsupported(const struct openai_ask *a, struct openai_problem *p)
{
    static const char *const names[] = {"echo", "suffix", "tools", "functions", "logit_bias", "presence_penalty",
                                        "frequency_penalty", "audio"};
    const char *format = json_string_value(json_object_get(json_object_get(a->body, "response_format"), "type"));
    char message[64];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (is_asked(json_object_get(a->body, names[i]))) {
            snprintf(message, sizeof message, "'%s' is not supported", names[i]);
            return refuse(p, names[i], message);
        }
    if (format && strcmp(format, "text") != 0)
        return refuse(p, "response_format", "'response_format' other than text is not supported");
    return true;
}

/* max_tokens and its newer name; the newer one counts. */
static bool parse_most(struct openai_ask *a, struct openai_problem *p)
{
    static const char *const names[] = {"max_tokens", "max_completion_tokens"};
    double most = a->kind == OPENAI_COMPLETION ? 16 : 0, given; /* the form's own default */
    char message[64];
    for (size_t i = 0; i < 2; i++) {
        json_t *v = json_object_get(a->body, names[i]);
        if (!whole(a->body, names[i], 0, SERVE_TOKENS_MAX, 0, &given, p))
            return false;
        if (!v || json_is_null(v))
            continue;
        most = given;
        if (given >= 1)
            continue;
        snprintf(message, sizeof message, "'%s' must be at least 1", names[i]);
        return refuse(p, names[i], message);
    }
    a->ask.max_tokens = (uint32_t)most;
    return true;
}

static bool parse_stream(struct openai_ask *a, struct openai_problem *p)
{
    json_t *options = json_object_get(a->body, "stream_options");
    if (!flag(a->body, "stream", &a->is_stream, p))
        return false;
    if (options && !json_is_null(options) && !a->is_stream)
        return refuse(p, "stream_options", "'stream_options' needs 'stream' to be true");
    a->has_usage = json_is_true(json_object_get(options, "include_usage"));
    return true;
}

/* What templates ask for beside messages, as other servers take it too. */
static bool parse_variables(struct openai_ask *a, struct openai_problem *p)
{
    json_t *v = json_object_get(a->body, "chat_template_kwargs");
    if (!v || json_is_null(v))
        return true;
    if (!json_is_object(v) || !(a->variables = json_dumps(v, JSON_COMPACT)))
        return refuse(p, "chat_template_kwargs", "'chat_template_kwargs' must be an object");
    a->ask.variables = a->variables;
    a->ask.variables_bytes = strlen(a->variables);
    return true;
}

static bool parse_answer(struct openai_ask *a, struct openai_problem *p)
{
    double n, top_k, seed;
    json_t *given = json_object_get(a->body, "seed");
    if (a->kind == OPENAI_CHAT ? !parse_messages(a, p) || !parse_variables(a, p) : !parse_prompt(a, p))
        return false;
    if (!whole(a->body, "n", 1, 1, 1, &n, p) || !whole(a->body, "best_of", 1, 1, 1, &n, p) ||
        !number(a->body, "temperature", 0, 100, 1, &a->ask.temperature, p) ||
        !number(a->body, "top_p", 0, 1, 1, &a->ask.top_p, p) ||
        !whole(a->body, "top_k", 0, 1e9, 0, &top_k, p) ||
        !whole(a->body, "seed", -9007199254740992.0, 9007199254740992.0, 0, &seed, p) || !parse_most(a, p) ||
        !parse_stream(a, p) || !parse_stop(a, p) || !parse_logprobs(a, p) || !parse_unsupported(a, p))
        return false;
    a->ask.top_k = (uint32_t)top_k;
    if (json_is_number(given))
        a->ask.seed = (uint64_t)(int64_t)seed;
    else
        randombytes_buf(&a->ask.seed, sizeof a->ask.seed);
    return true;
}

bool openai_ask_parse(const char *body, size_t bytes, enum openai_kind kind, struct openai_ask *out,
                      struct openai_problem *problem)
{
    json_error_t error;
    char message[220];
    struct openai_ask *a = out;
    memset(a, 0, sizeof *a);
    a->kind = kind;
    a->body = json_loadb(body, bytes, JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(a->body)) {
        snprintf(message, sizeof message, "the body must be a JSON object: line %d: %s", error.line, error.text);
        return refuse(problem, NULL, message);
    }
    json_t *model = json_object_get(a->body, "model");
    if (model && !json_is_null(model) && !json_is_string(model))
        return refuse(problem, "model", "'model' must be a string");
    snprintf(a->model, sizeof a->model, "%s", model && json_is_string(model) ? json_string_value(model) : "");
    return kind == OPENAI_EMBEDDING ? parse_embedding(a, problem) : parse_answer(a, problem);
}

void openai_ask_free(struct openai_ask *a)
{
    json_decref(a->body);
    free(a->input);
    free(a->stop);
    free(a->variables);
    memset(a, 0, sizeof *a);
}
