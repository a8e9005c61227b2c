/* openai_json.h: the JSON of the OpenAI form: from a request's body to serve_ask (openai_ask.c), and the answers
 * (openai_json.c).
 */
#ifndef OPENAI_JSON_H
#define OPENAI_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "agent/serve.h"

enum openai_kind { OPENAI_NOTHING = 0, OPENAI_COMPLETION, OPENAI_CHAT, OPENAI_EMBEDDING };

/* A request, taken apart. Strings belong to it. */
struct openai_ask {
    enum openai_kind kind;
    char model[80]; /* "": not said */
    bool is_stream;
    bool has_usage; /* stream_options.include_usage */
    bool has_logprobs;
    size_t prompt_characters;
    /* Of embeddings. */
    bool is_base64;
    uint32_t dimensions; /* 0: all */
    uint32_t inputs;
    struct serve_ask ask; /* without callbacks; points into the buffers below */
    json_t *body;
    char *input, *stop, *variables;
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
bool openai_ask_parse(const char *body, size_t bytes, enum openai_kind kind, struct openai_ask *out,
                      struct openai_problem *problem);
void openai_ask_free(struct openai_ask *a);

char *openai_problem_text(const struct openai_problem *p); /* malloc */

/* What belongs to every part of one answer. */
struct openai_answer {
    const struct openai_ask *ask;
    const char *id;    /* "cmpl-..." */
    const char *model;
    int64_t created_s;
    size_t offset; /* characters of the prompt and of the tokens told so far */
};

/* One token's log probabilities as the form wants them; top as serve_ask.token gives it. NULL on bad bytes. */
json_t *openai_logprobs(const struct openai_answer *a, const uint8_t *top, size_t bytes);
/* Adds one such to the collection of an answer (which may be NULL at first). */
void openai_logprobs_add(json_t **all, json_t *one);

/* The whole answer; text and logprobs (may be NULL, taken). malloc, NULL when out of memory. */
char *openai_answer_text(struct openai_answer *a, const char *text, size_t bytes, json_t *logprobs,
                         const char *finish, const struct serve_usage *usage);
/* One event of a stream, "data: {...}\n\n"; finish NULL: more follows; is_first: chat says the role. */
char *openai_event_text(struct openai_answer *a, const char *text, size_t bytes, json_t *logprobs, const char *finish,
                        bool is_first);
char *openai_usage_event(const struct openai_answer *a, const struct serve_usage *usage);

/* One vector of an answer to embeddings, cut and normalised again where dimensions are asked for (at most count). */
char *openai_vector_text(const struct openai_ask *a, uint32_t index, const float *values, size_t count);
/* The answer around such, joined by commas. */
char *openai_vectors_text(const struct openai_answer *a, const char *vectors, size_t bytes, uint32_t prompt_tokens);

#endif
