/* worker_serve.h: what the serving files of tared-worker share. */
#ifndef WORKER_SERVE_H
#define WORKER_SERVE_H

#include "agent/worker_parts.h"
#include "agent/worker_text.h"
#include "compress/profile.h"
#include "model/chat.h"
#include "model/model.h"
#include "model/sample.h"
#include "model/tokenizer.h"

/* One request in the making. */
struct worker_sequence {
    bool used;
    bool wants_tokens; /* the agent wants them all at the end */
    uint64_t id;
    uint32_t index;    /* its text, the model's sequence */
    uint32_t *history; /* [context] prompt, then answer: the text's tokens */
    uint32_t prompt, count, fed;
    uint32_t cached;   /* tokens of the prompt that were in the cache */
    uint32_t most;     /* tokens of the answer */
    uint32_t top;      /* UINT32_MAX: no log probabilities */
    struct sampler *sampler;
    struct tokenizer_stream stream;
    char *stop;        /* a list */
    size_t stop_bytes;
    char *held;        /* text that is not said yet: it may begin a stop string */
    size_t held_bytes, held_capacity;
    uint64_t from_us, first_us;
};

struct worker_server {
    struct worker_self *w;
    struct engine *engine;
    struct gguf *gguf;
    struct tokenizer *tokenizer;
    struct chat *chat; /* NULL: chat_why says why not */
    char chat_why[GGUF_REASON_BYTES];
    struct model *model;
    struct worker_texts texts;
    uint32_t sequences, context, active;
    struct worker_sequence *sequence;
    struct model_run *runs;
    struct worker_sequence **running; /* [sequences] whose runs they are */
    uint32_t *prompt;                 /* [context] of the request that begins */
    /* The window of activation statistics. */
    double rate;
    struct profile *window;
    uint64_t window_tokens;
    bool observes;
};

/* model_open, trying less context when memory is short. */
NODISCARD enum err worker_open_model(const struct gguf *g, struct engine *e, const struct model_options *o,
                                     struct model **out, char *why);

/* The model's chat template, behind the tokenizer. */
void worker_chat_open(struct worker_server *v);
/* A chat (a list: role, content, ...) to tokens. Errors: as chat_encode, with why; ERR_UNSUPPORTED: no template. */
NODISCARD enum err worker_chat(struct worker_server *v, const char *chat, size_t bytes, uint32_t *tokens,
                               size_t capacity, size_t *count, char why[WORKER_WHY]);

/* Whether the next step's activations are summed up. */
NODISCARD enum err worker_window_observe(struct worker_server *v, bool on);
/* Sends the sums as WIRE_STATS frames and begins a new window. */
void worker_window_collect(struct worker_server *v);
void worker_window_close(struct worker_server *v);

#endif
