/* openai_json.c: answers, events and problems as JSON. */
#include "agent/openai_json.h"

#include <math.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* A token as completions spell it: part of a character as "bytes:\\xe2\\x82". */
static json_t *token_string(const char *text, size_t bytes)
{
    char spelt[6 + 4 * 255 + 1] = "bytes:";
    json_t *s = json_stringn(text, bytes);
    if (s || bytes > 255)
        return s ? s : string(text, bytes);
    for (size_t i = 0; i < bytes; i++)
        snprintf(spelt + 6 + 4 * i, 5, "\\x%02x", (unsigned char)text[i]);
    return json_string(spelt);
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
    json_t *one = json_object(), *others = a->ask->kind == OPENAI_CHAT ? json_array() : json_object();
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
        if (a->ask->kind == OPENAI_CHAT) {
            json_t *entry = json_pack("{s:o, s:f, s:o}", "token", string(text, n), "logprob", value, "bytes",
                                      byte_list(text, n));
            if (i == 0)
                json_object_update(one, entry);
            else
                json_array_append(others, entry);
            json_decref(entry);
        } else {
            json_t *key = token_string(text, n);
            if (i == 0) {
                json_object_set(one, "token", key);
                json_object_set_new(one, "logprob", json_real(value));
            }
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
static json_t *logprobs_shape(struct openai_answer *a, json_t *all)
{
    size_t i;
    json_t *one;
    if (!a->ask->has_logprobs || !all) {
        json_decref(all);
        return json_null();
    }
    if (a->ask->kind == OPENAI_CHAT)
        return json_pack("{s:o, s:n}", "content", all, "refusal");
    json_t *tokens = json_array(), *values = json_array(), *tops = json_array(), *offsets = json_array();
    json_array_foreach(all, i, one)
    {
        json_t *token = json_object_get(one, "token");
        json_array_append(tokens, token);
        json_array_append(values, json_object_get(one, "logprob"));
        json_array_append(tops, json_object_get(one, "top_logprobs"));
        json_array_append_new(offsets, json_integer((json_int_t)a->offset));
        for (const char *c = json_string_value(token); *c; c++)
            a->offset += ((unsigned char)*c & 0xc0) != 0x80;
    }
    json_decref(all);
    return json_pack("{s:o, s:o, s:o, s:o}", "tokens", tokens, "token_logprobs", values, "top_logprobs", tops,
                     "text_offset", offsets);
}

static json_t *frame(const struct openai_answer *a, const char *object, json_t *choices)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:s+, s:o}", "id", a->id, "object", object, "created",
                     (json_int_t)a->created_s, "model", a->model, "system_fingerprint", "tare-", a->model, "choices",
                     choices);
}

static json_t *usage_of(const struct serve_usage *u)
{
    return json_pack("{s:I, s:I, s:I, s:{s:I}}", "prompt_tokens", (json_int_t)u->prompt, "completion_tokens",
                     (json_int_t)u->made, "total_tokens", (json_int_t)u->prompt + u->made, "prompt_tokens_details",
                     "cached_tokens", (json_int_t)u->cached);
}

char *openai_answer_text(struct openai_answer *a, const char *text, size_t bytes, json_t *logprobs,
                       const char *finish, const struct serve_usage *usage)
{
    json_t *choice;
    if (a->ask->kind == OPENAI_CHAT)
        choice = json_pack("{s:i, s:{s:s, s:o, s:n}, s:o, s:s}", "index", 0, "message", "role", "assistant", "content",
                           string(text, bytes), "refusal", "logprobs", logprobs_shape(a, logprobs), "finish_reason", finish);
    else
        choice = json_pack("{s:o, s:i, s:o, s:s}", "text", string(text, bytes), "index", 0, "logprobs",
                           logprobs_shape(a, logprobs), "finish_reason", finish);
    json_t *whole_answer =
        frame(a, a->ask->kind == OPENAI_CHAT ? "chat.completion" : "text_completion", json_pack("[o]", choice));
    json_object_set_new(whole_answer, "usage", usage_of(usage));
    return text_of(whole_answer, "", "");
}

char *openai_event_text(struct openai_answer *a, const char *text, size_t bytes, json_t *logprobs, const char *finish,
                      bool is_first)
{
    json_t *choice, *shape = logprobs_shape(a, logprobs);
    if (a->ask->kind == OPENAI_CHAT) {
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
    json_t *event = frame(a, a->ask->kind == OPENAI_CHAT ? "chat.completion.chunk" : "text_completion", json_pack("[o]", choice));
    if (a->ask->has_usage && event)
        json_object_set_new(event, "usage", json_null());
    return text_of(event, "data: ", "\n\n");
}

char *openai_usage_event(const struct openai_answer *a, const struct serve_usage *usage)
{
    json_t *event = frame(a, a->ask->kind == OPENAI_CHAT ? "chat.completion.chunk" : "text_completion", json_array());
    if (event)
        json_object_set_new(event, "usage", usage_of(usage));
    return text_of(event, "data: ", "\n\n");
}

/* ---- embeddings ---- */

char *openai_vector_text(const struct openai_ask *a, uint32_t index, const float *values, size_t count)
{
    const size_t n = a->dimensions && a->dimensions < count ? a->dimensions : count;
    const size_t capacity = 64 + (a->is_base64 ? sodium_base64_ENCODED_LEN(n * 4, sodium_base64_VARIANT_ORIGINAL) : n * 18);
    char *text = malloc(capacity);
    float *cut = malloc(n * sizeof *cut + 1);
    double square = 0;
    size_t used = 0;
    if (!text || !cut)
        goto out;
    for (size_t i = 0; i < n; i++)
        square += (double)values[i] * (double)values[i];
    for (size_t i = 0; i < n; i++)
        cut[i] = n < count && square > 0 ? (float)((double)values[i] / sqrt(square)) : isfinite(values[i]) ? values[i] : 0;
    used = (size_t)snprintf(text, capacity, "%s{\"object\":\"embedding\",\"index\":%u,\"embedding\":", index ? "," : "", index);
    if (a->is_base64) {
        text[used++] = '"';
        sodium_bin2base64(text + used, capacity - used, (const unsigned char *)cut, n * 4, sodium_base64_VARIANT_ORIGINAL);
        used += strlen(text + used);
        text[used++] = '"';
    } else {
        for (size_t i = 0; i < n; i++)
            used += (size_t)snprintf(text + used, capacity - used, "%c%.9g", i ? ',' : '[', (double)cut[i]);
        text[used++] = ']';
    }
    text[used++] = '}';
    text[used] = 0;
out:
    free(cut);
    return text;
}

char *openai_vectors_text(const struct openai_answer *a, const char *vectors, size_t bytes, uint32_t prompt_tokens)
{
    static const char head[] = "{\"object\":\"list\",\"data\":[";
    const size_t capacity = bytes + sizeof head + 200;
    char *text = malloc(capacity);
    if (!text)
        return NULL;
    memcpy(text, head, sizeof head - 1);
    memcpy(text + sizeof head - 1, vectors, bytes);
    const size_t used = sizeof head - 1 + bytes;
    snprintf(text + used, capacity - used, "],\"model\":\"%s\",\"usage\":{\"prompt_tokens\":%u,\"total_tokens\":%u}}",
             a->model, prompt_tokens, prompt_tokens);
    return text;
}
