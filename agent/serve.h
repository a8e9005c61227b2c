/* serve.h: requests to the model, and the workers that answer them.
 *
 * One worker holds the committed variant (main); during a trial a second one holds the new one and takes
 * every new request; a worker that is replaced finishes what it has begun. A request whose worker dies
 * goes on where it stood on the one that survives, or on the next that starts: the answer so far is part
 * of what the next worker is told. At most settings.sequences run per worker, settings.queue wait.
 *
 * Threads: the agent's only one.
 */
#ifndef SERVE_H
#define SERVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent/loop.h"
#include "agent/settings.h"
#include "agent/wire.h"

enum { SERVE_TOKENS_MAX = 1 << 20 };

/* Tokens of a request; cached: of the prompt, that were in the cache. */
struct serve_usage {
    uint32_t prompt, cached, made;
};

/* What a finished request cost, for telemetry. */
struct serve_cost {
    bool is_trial;
    uint8_t variant[32];
    uint64_t ttft_us, total_us, prefill_us, decode_us;
    struct serve_usage usage;
    const uint32_t *tokens; /* prompt and answer, when is_sampled; else NULL */
    uint32_t token_count;
    enum err error;
};

/* NULL: nothing is done, and is_sampled and trial_crashed say no. */
struct serve_hooks {
    void *context;
    void (*trial_ready)(void *context);
    void (*trial_answered)(void *context, bool is_good);
    bool (*trial_crashed)(void *context, bool by_force, const char *why); /* true: start it again */
    bool (*is_sampled)(void *context);          /* keep the tokens of the next request for a shadow run? */
    void (*token)(void *context, uint64_t us);  /* between two tokens of one answer */
    void (*finished)(void *context, const struct serve_cost *cost);
    void (*stats)(void *context, const struct wire *frame); /* WIRE_STATS of the main worker */
    void (*crashed)(void *context, const char *why);
    void (*served)(void *context, const char *plugin); /* a worker is ready: engine_describe() of its engine */
};

struct serve;

NODISCARD enum err serve_open(struct loop *loop, const struct settings *settings, const struct serve_hooks *hooks,
                              struct serve **out);
void serve_close(struct serve *s); /* running requests end with ERR_CANCELLED; NULL is allowed */

/* A model to serve: its file and digest; plugin: "" or one that must be used. */
struct serve_model {
    char path[768];
    uint8_t variant[32];
    char plugin[16];
    uint32_t cache_type, activation_bits; /* as its plan says; 0: F16, 8 */
};

/* Serve this to new requests; NULL: nothing. The one before finishes what it has begun. */
void serve_main(struct serve *s, const struct serve_model *m);
/* The same beside main, until promote (it becomes main) or untrial (it goes). */
void serve_trial(struct serve *s, const struct serve_model *m);
void serve_untrial(struct serve *s);
void serve_promote(struct serve *s);

enum serve_state { SERVE_NOTHING = 0, SERVE_LOADING = 1, SERVE_READY = 2 };
enum serve_state serve_state(const struct serve *s);
/* The variant that the next request goes to; false: none. */
bool serve_variant(const struct serve *s, uint8_t variant[32]);
/* What that variant can do, once its worker is ready; can: enum wire_can, or-ed. */
struct serve_abilities {
    uint64_t can;
    uint32_t context, width;
};
bool serve_abilities(const struct serve *s, struct serve_abilities *out);
uint64_t serve_rss(const struct serve *s);   /* of the workers */
pid_t serve_pid(const struct serve *s);      /* of the main worker, or -1 */
bool serve_is_idle(const struct serve *s);   /* no request runs or waits */
/* Takes no more requests; those that run or wait are answered. */
void serve_drain(struct serve *s);
/* Asks the main worker for its calibration sums; WIRE_STATS frames follow. ERR_NOT_FOUND: no worker. */
NODISCARD enum err serve_collect(struct serve *s);
/* Share of the steps whose activations are measured from now on. */
void serve_set_rate(struct serve *s, double rate);

struct serve_request;

/* What a request brings. */
enum serve_form {
    SERVE_TEXT = 0, /* a prompt */
    SERVE_TOKENS,   /* a prompt as u32 */
    SERVE_CHAT,     /* a list: role, content, ... */
    SERVE_INPUTS    /* texts and tokens to turn into vectors, as WIRE_K_INPUTS */
};

/* All bytes are copied by serve_submit. */
struct serve_ask {
    enum serve_form form;
    const void *input;
    size_t input_bytes;
    const char *variables; /* SERVE_CHAT: a JSON object for the template, or NULL */
    size_t variables_bytes;
    const void *stop; /* a list */
    size_t stop_bytes;
    uint32_t max_tokens; /* 0: as many as the context holds */
    double temperature, top_p;
    uint32_t top_k;
    uint64_t seed;
    uint32_t top; /* alternatives per token; UINT32_MAX: no log probabilities */
    void *context;
    /* top: packed choices, the chosen one first: [f32 logprob][u8 bytes][text] each; NULL without. */
    void (*token)(void *context, const char *text, size_t bytes, const uint8_t *top, size_t top_bytes);
    /* SERVE_INPUTS: a vector for each input, in order. */
    void (*vector)(void *context, const float *values, size_t count);
    /* error and why, or how it ended. Called once, last; never from serve_submit. */
    void (*end)(void *context, enum err error, const char *why, uint32_t reason, const struct serve_usage *usage);
};

/* ERR_FULL: too many wait, try later. ERR_NOT_FOUND: there is no model. ERR_MEMORY, ERR_ARGUMENT. */
NODISCARD enum err serve_submit(struct serve *s, const struct serve_ask *ask, struct serve_request **out);
/* No more calls for it; the worker is told. */
void serve_cancel(struct serve *s, struct serve_request *r);

#endif
