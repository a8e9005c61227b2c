/* worker_serve.h: what the serving files of tared-worker share. */
#ifndef WORKER_SERVE_H
#define WORKER_SERVE_H

#include "agent/worker_parts.h"
#include "agent/worker_text.h"
#include "compress/profile.h"
#include "model/chat.h"
#include "model/embed.h"
#include "model/model.h"
#include "model/sample.h"
#include "model/tokenizer.h"

enum { WORKER_TOP_MAX = 20 }; /* alternatives that are told of a token */

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
    struct worker_embedding *embedding; /* it wants vectors; NULL: an answer */
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
    uint32_t pooling;
    float *embed_rows, *embed_vector; /* made by the first request for vectors */
    struct model_run *runs;
    struct worker_sequence **running; /* [sequences] whose runs they are */
    uint32_t *top_token;              /* [head_rows, HAL_TOP_MAX] where few logits decide */
    float *top_logit;
    uint32_t *prompt;                 /* [context] of the request that begins */
    /* The window of activation statistics. */
    double rate;
    struct profile *window;
    uint64_t window_tokens;
    bool observes;
};

/* The model of a file with threads, step and cache as model/tune.h finds them best here, within the settings;
 * what was measured is kept in "<path>.tune". Errors: as worker_open_model. */
NODISCARD enum err worker_tune_open(struct worker_self *w, const char *path, const struct gguf *g, struct engine *e,
                                    const struct model_options *o, struct model **out, char *why);

/* The tokens of a step are chosen row by row, in the order of the runs that have outputs. */
struct worker_choice {
    uint32_t outputs, row, wants; /* wants: sample_wants() of all, or 0 */
    const float *logits;
    enum err error;
};
struct worker_choice worker_choices(const struct worker_server *v, uint32_t count);
/* The next row's. logits gets all of the row's where they were needed. */
NODISCARD enum err worker_choose(struct worker_server *v, struct worker_choice *c, struct worker_sequence *s,
                                 struct sample_choice *out, const float **logits);

/* model_open, trying less context when memory is short. */
NODISCARD enum err worker_open_model(const struct gguf *g, struct engine *e, const struct model_options *o,
                                     struct model **out, char *why);

/* The model's chat template, behind the tokenizer. */
void worker_chat_open(struct worker_server *v);
/* CHAT and VARIABLES of a frame to tokens. Errors: as chat_encode, with why; ERR_UNSUPPORTED: no template. */
NODISCARD enum err worker_chat(struct worker_server *v, const struct wire *m, uint32_t *tokens, size_t capacity,
                               size_t *count, char why[WORKER_WHY]);

/* Room for what may be held back: less than the longest stop string, and one piece. ERR_MEMORY. */
NODISCARD enum err worker_answer_begin(struct worker_sequence *s);
/* One more token of the answer, sampled or (logits NULL, is_replayed) by a worker before. False: it has ended. */
bool worker_answer_take(struct worker_server *v, struct worker_sequence *s, const struct sample_choice *c,
                        const float *logits, bool is_replayed);
uint64_t worker_self_us(void);
/* A request's end: what it cost, or why it failed (s NULL: it never began). */
void worker_answer_end(struct worker_server *v, struct worker_sequence *s, uint64_t id, uint32_t reason, enum err error,
                      const char *why);

/* An encoder's positions are learnt: there are no more than it was trained with. */
uint32_t worker_embed_context(const struct gguf *g, uint32_t context);
/* Inputs into vectors. begin may leave s->embedding on error; worker_embed_free takes it, NULL too. */
NODISCARD enum err worker_embed_begin(struct worker_server *v, struct worker_sequence *s, const struct wire *m,
                                      char why[WORKER_WHY]);
/* The next input; false: that was the last, END is sent. */
bool worker_embed_step(struct worker_server *v, struct worker_sequence *s);
void worker_embed_free(struct worker_embedding *b);
void worker_embed_close(struct worker_server *v);

/* Whether the next step's activations are summed up. */
NODISCARD enum err worker_window_observe(struct worker_server *v, bool on);
/* Sends the sums as WIRE_STATS frames and begins a new window. */
void worker_window_collect(struct worker_server *v);
void worker_window_close(struct worker_server *v);

#endif
