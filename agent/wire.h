/* wire.h: what the agent and its workers say to each other over a socket pair.
 *
 * A frame is its length as 4 little-endian bytes and one deterministic CBOR map: {0: kind, 1: id, then
 * fields by enum wire_key}. Both ends are of one build, but the agent believes nothing of what a worker
 * says beyond its form: a worker runs plugins and reads foreign files.
 */
#ifndef WIRE_H
#define WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"

enum { WIRE_MAX = 2 << 20, WIRE_FIELDS = 32 };

/* id of a frame: the request or task that it is about. A worker does one task, or serves. */
enum wire_kind {
    /* to the worker */
    WIRE_SETUP = 1,    /* first of all: engine settings */
    WIRE_PROBE = 2,    /* -> DONE with BIRTH */
    WIRE_FETCH = 3,    /* URL, DIGEST, BYTES, PATH -> PROGRESS, DONE */
    WIRE_VERIFY = 4,   /* DIGEST, BYTES, PATH -> DONE, or FAILED with ERR_MISMATCH */
    WIRE_DERIVE = 5,   /* BASE, PROFILE, TEXTS, PLAN, PATH -> PROGRESS, DONE with DIGEST, BYTES, SECONDS */
    WIRE_SELFTEST = 6, /* BASE, PATH, TEXTS, PLAN -> PROGRESS, DONE with the measures, GATE and TEXT if missed */
    WIRE_BENCH = 7,    /* PATH, PROMPT, GENERATE, REPEAT, THREADS -> DONE with RESULT */
    WIRE_SHADOW = 8,   /* BASE, PATH, TOKENS, PREFIX, CACHE, ACTIVATIONS -> DONE with KLD, KLD_MAX, TOP1, COUNT */
    WIRE_SERVE = 9,    /* PATH, SEQUENCES, CONTEXT, RATE, CACHE, ACTIVATIONS, KEEP, CACHE_BYTES, SPILL_BYTES, FOLDER
                        * -> READY; then the four below */
    WIRE_GENERATE = 10,
    WIRE_CANCEL = 11,
    WIRE_COLLECT = 12, /* -> STATS, one per chunk, the last with LAST; then the window begins anew */
    WIRE_WINDOW = 13,  /* RATE: share of the steps whose activations are measured from now on */
    WIRE_EMBED = 14,   /* INPUTS, PREFIX (inputs to pass over) -> VECTOR for each, then END */
    /* from the worker */
    WIRE_READY = 32,    /* CAN, CONTEXT, WIDTH */
    WIRE_PROGRESS = 33, /* PPM; proof that it is alive as well */
    WIRE_DONE = 34,
    WIRE_FAILED = 35, /* ERR, TEXT */
    WIRE_TOKEN = 36,  /* TEXT (whole characters, may be empty), TOKENS [1], LOGPROB, TOP */
    WIRE_END = 37,    /* REASON, PROMPT, CACHED, GENERATE, PREFILL_US, DECODE_US; or ERR, TEXT */
    WIRE_STATS = 38,
    WIRE_VECTOR = 39 /* VECTOR */
};

enum wire_key {
    WIRE_K_PATH = 2,    /* text */
    WIRE_K_BASE,        /* text: path */
    WIRE_K_PROFILE,     /* text: path */
    WIRE_K_TEXTS,       /* list of paths */
    WIRE_K_PLAN,        /* bytes: payload of the signed plan */
    WIRE_K_URL,         /* text */
    WIRE_K_CA,          /* text: path */
    WIRE_K_DIGEST,      /* bytes: 32 */
    WIRE_K_BYTES,       /* u64 */
    WIRE_K_PLUGIN,      /* text */
    WIRE_K_CODE_PATH,   /* text */
    WIRE_K_FOLDER,      /* text */
    WIRE_K_KEYS,        /* list of base64 lines */
    WIRE_K_THREADS,     /* u64 */
    WIRE_K_MEMORY,      /* u64 bytes */
    WIRE_K_SEQUENCES,   /* u64 */
    WIRE_K_CONTEXT,     /* u64 tokens */
    WIRE_K_RATE,        /* f64 0..1 */
    WIRE_K_PROMPT,      /* text; or u64 tokens */
    WIRE_K_CHAT,        /* list: role, content, role, content, ... */
    WIRE_K_GENERATE,    /* u64 tokens at most; or made */
    WIRE_K_TEMPERATURE, /* f64 */
    WIRE_K_TOP_P,       /* f64 */
    WIRE_K_TOP_K,       /* u64 */
    WIRE_K_SEED,        /* u64 */
    WIRE_K_STOP,        /* list */
    WIRE_K_TOP,         /* u64: alternatives wanted; or bytes: packed struct wire_top */
    WIRE_K_TOKENS,      /* bytes: u32 little-endian; of GENERATE: already answered, to go on from */
    WIRE_K_TEXT,        /* text */
    WIRE_K_LOGPROB,     /* f64 */
    WIRE_K_REASON,      /* u64: enum wire_reason */
    WIRE_K_ERR,         /* u64: enum err */
    WIRE_K_PPM,         /* u64 */
    WIRE_K_BIRTH,       /* bytes: message_birth with what the worker knows */
    WIRE_K_RESULT,      /* bytes: message_result */
    WIRE_K_SUMS,        /* bytes: message_sums */
    WIRE_K_LAST,        /* bool as u64 */
    WIRE_K_SECONDS,     /* f64 */
    WIRE_K_PPL,         /* f64 */
    WIRE_K_PPL_BASE,
    WIRE_K_KLD,
    WIRE_K_KLD_99,
    WIRE_K_KLD_MAX,
    WIRE_K_TOP1,       /* f64 0..1 */
    WIRE_K_DECODE,     /* f64 tokens per second */
    WIRE_K_PREFILL,    /* f64 tokens per second */
    WIRE_K_RSS,        /* u64 bytes */
    WIRE_K_BPW,        /* f64 */
    WIRE_K_ENERGY,     /* f64 joule */
    WIRE_K_COUNT,      /* u64 */
    WIRE_K_PREFIX,     /* u64 tokens */
    WIRE_K_PREFILL_US, /* u64 */
    WIRE_K_DECODE_US,  /* u64 */
    WIRE_K_REPEAT,     /* u64 */
    WIRE_K_WORST_DPPL, /* f64 percent */
    WIRE_K_WORST_KLD,  /* f64 */
    WIRE_K_KEEP,        /* u64: texts that may rest in the cache beside those that run */
    WIRE_K_CACHE_BYTES, /* u64: of keys and values in memory */
    WIRE_K_SPILL_BYTES, /* u64: of the file that texts at rest may go to */
    WIRE_K_CACHED,      /* u64: tokens of the prompt that were in the cache */
    WIRE_K_CACHE,       /* u64: enum hal_type of the cache */
    WIRE_K_ACTIVATIONS, /* u64 bits, as a plan says them */
    WIRE_K_GATE,        /* u64: enum recipe_gate that was missed, TEXT says how; RECIPE_GATES: not measured */
    WIRE_K_PROMPT_IDS,  /* bytes: u32 little-endian tokens, instead of PROMPT */
    WIRE_K_INPUTS,      /* bytes: for each [u8 enum wire_input][u32 bytes][bytes] */
    WIRE_K_VECTOR,      /* bytes: f32 little-endian */
    WIRE_K_CAN,         /* u64: enum wire_can, or-ed */
    WIRE_K_WIDTH,       /* u64: values of a vector */
    WIRE_K_VARIABLES    /* bytes: a JSON object for the chat template */
};

enum wire_reason { WIRE_STOPPED = 1, WIRE_LENGTH = 2 };
enum wire_input { WIRE_INPUT_TEXT = 1, WIRE_INPUT_TOKENS = 2 };
enum wire_can { WIRE_CAN_COMPLETE = 1, WIRE_CAN_CHAT = 2, WIRE_CAN_EMBED = 4 };

struct wire_field {
    uint32_t key;
    enum { WIRE_U64, WIRE_F64, WIRE_TEXT, WIRE_BYTES } kind;
    union {
        uint64_t u64;
        double f64;
        struct {
            const void *at;
            size_t size;
        } view;
    } of;
};

/* One frame, as views: of the caller's memory when writing, of the channel's when reading. */
struct wire {
    uint32_t kind;
    uint64_t id;
    uint32_t fields;
    struct wire_field field[WIRE_FIELDS];
};

void wire_init(struct wire *m, uint32_t kind, uint64_t id);
void wire_put_u64(struct wire *m, uint32_t key, uint64_t value);
void wire_put_f64(struct wire *m, uint32_t key, double value); /* NaN and infinity: left out */
void wire_put_text(struct wire *m, uint32_t key, const char *text); /* NULL and "": left out */
void wire_put_text_bytes(struct wire *m, uint32_t key, const char *text, size_t size);
void wire_put_bytes(struct wire *m, uint32_t key, const void *bytes, size_t size);

/* Absent or of another kind: the preset. */
uint64_t wire_u64(const struct wire *m, uint32_t key, uint64_t preset);
double wire_f64(const struct wire *m, uint32_t key, double preset);
/* False when absent; *at is not terminated. */
bool wire_view(const struct wire *m, uint32_t key, const void **at, size_t *size);
/* A copy with its end, "" when absent, cut never: false when it does not fit. */
bool wire_text(const struct wire *m, uint32_t key, char *out, size_t capacity);

/* A list of strings is their bytes, each ended by NUL, in a bytes field. */
const char *wire_list_next(const void *list, size_t size, size_t *at); /* NULL at the end */

NODISCARD enum err wire_encode(const struct wire *m, uint8_t *out, size_t capacity, size_t *size);
NODISCARD enum err wire_decode(const uint8_t *bytes, size_t size, struct wire *m);

/* One end of the socket pair. */
struct wire_channel {
    int fd;
    uint8_t *in, *out;
    size_t in_used, in_taken, in_capacity;
    size_t out_used, out_capacity;
};

void wire_channel_open(struct wire_channel *c, int fd);
void wire_channel_close(struct wire_channel *c);
/* Puts a frame behind what waits and writes as much as the socket takes; blocks if the socket does.
 * ERR_FULL (over 2 * WIRE_MAX wait), ERR_IO (the other end is gone), ERR_ARGUMENT, ERR_MEMORY. */
NODISCARD enum err wire_send(struct wire_channel *c, const struct wire *m);
/* Writes what waits. */
NODISCARD enum err wire_flush(struct wire_channel *c);
bool wire_is_waiting(const struct wire_channel *c);
/* Reads what there is; ERR_IO: the other end is gone; ERR_NOT_FOUND: nothing now (non-blocking). */
NODISCARD enum err wire_fill(struct wire_channel *c);
/* The next whole frame, valid until the next wire_fill. ERR_NOT_FOUND: not yet. ERR_FORMAT. */
NODISCARD enum err wire_next(struct wire_channel *c, struct wire *m);

#endif
