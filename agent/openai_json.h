/* openai_json.h: the JSON of the OpenAI form: from a request's body to serve_ask, and the answers. */
#ifndef OPENAI_JSON_H
#define OPENAI_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "agent/serve.h"

/* A request, taken apart. Strings belong to it. */
struct openai_ask {
    bool is_chat;
    bool is_stream;
    bool has_usage; /* stream_options.include_usage */
    bool has_logprobs;
    struct serve_ask ask; /* without callbacks; points into the buffers below */
    json_t *body;
    char *chat, *stop;
};

/* What went wrong, for the client. */
struct openai_problem {
    unsigned status;
    const char *type;  /* "invalid_request_error", ... */
    const char *param; /* or NULL */
    const char *code;  /* or NULL */
    char message[256];
};

/* False with the problem filled. openai_ask_free in any case. */
bool openai_ask_parse(const char *body, size_t bytes, bool is_chat, struct openai_ask *out, struct openai_problem *problem);
void openai_ask_free(struct openai_ask *a);

char *openai_problem_text(const struct openai_problem *p); /* malloc */

/* What belongs to every part of one answer. */
struct openai_answer {
    const struct openai_ask *ask;
    const char *id;    /* "cmpl-..." */
    const char *model;
    int64_t created_s;
};

/* One token's log probabilities as the form wants them; top as serve_ask.token gives it. NULL on bad bytes. */
json_t *openai_logprobs(const struct openai_answer *a, const uint8_t *top, size_t bytes);
/* Adds one such to the collection of an answer (which may be NULL at first). */
void openai_logprobs_add(json_t **all, json_t *one);

/* The whole answer; text and logprobs (may be NULL, taken). malloc, NULL when out of memory. */
char *openai_answer_text(const struct openai_answer *a, const char *text, size_t bytes, json_t *logprobs,
                       const char *finish, const struct serve_usage *usage);
/* One event of a stream, "data: {...}\n\n"; finish NULL: more follows; is_first: chat says the role. */
char *openai_event_text(const struct openai_answer *a, const char *text, size_t bytes, json_t *logprobs, const char *finish,
                      bool is_first);
char *openai_usage_event(const struct openai_answer *a, const struct serve_usage *usage);

#endif
