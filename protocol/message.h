/* message.h: what controller and devices say to each other, as structs, and as deterministic CBOR.
 *
 * Each message is the payload of an envelope (envelope.h) of its type. It is one map; the numbers
 * of its keys are in the table of message_*.c that defines it. A field that is zero, empty or all
 * zero bytes means "absent" and is left out, a present zero is refused, so what was accepted
 * encodes to the same bytes again. Unknown keys are skipped, unless a plan lists them as critical.
 *
 * decode overwrites the whole struct, but for the pointers and maxima of lists, which the caller
 * sets; it allocates nothing. struct message_blob points into the bytes, which must outlive it.
 * Text fields hold valid UTF-8 and a NUL.
 *
 * Errors of decode: ERR_FORMAT (malformed, not deterministic, a required field missing, out of
 * range), ERR_FULL (a list is longer than the caller's array), ERR_UNSUPPORTED (unknown critical
 * field or schema); the struct is then not to be used. Errors of encode: ERR_FULL (capacity),
 * ERR_ARGUMENT (a field that the decoder would refuse). Threads: any.
 */
#ifndef MESSAGE_H
#define MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"
#include "protocol/sketch.h"

enum {
    MESSAGE_SCHEMA = 1,
    MESSAGE_MAX = 256 * 1024 - 192, /* ENVELOPE_PAYLOAD_MAX */
    MESSAGE_NAME_MAX = 64,          /* tensor, plugin, device names, with their NULs */
    MESSAGE_TEXT_MAX = 192,         /* reasons, URLs */
    MESSAGE_PLUGINS_MAX = 16,
    MESSAGE_SLOTS = 2,
    MESSAGE_TENSORS_MAX = 4096,
    MESSAGE_CRITICAL_MAX = 16,
    MESSAGE_RECORDS_MAX = 1024, /* of one batch */
    MESSAGE_ROWS_MAX = 32,      /* of one benchmark result */
    MESSAGE_SUMS_MAX = 64,      /* tensors in one calibration chunk */
    MESSAGE_EVENT_MAX = 16
};

/* The type bound into an envelope. */
enum message_type {
    MESSAGE_ROOT = 1,       /* keys.h */
    MESSAGE_BIRTH = 2,      /* device   up/birth */
    MESSAGE_REQUEST = 3,    /* device   up/req */
    MESSAGE_JOB = 4,        /* device   up/job */
    MESSAGE_BATCH = 5,      /* device   up/tel */
    MESSAGE_RESULT = 6,     /* device   up/bench */
    MESSAGE_SUMS = 7,       /* device   up/cal */
    MESSAGE_PLAN = 8,       /* director dn/plan */
    MESSAGE_ACK = 9,        /* director dn/ack */
    MESSAGE_ANSWER = 10,    /* director dn/rsp */
    MESSAGE_BENCHMARK = 11, /* director dn/bench */
    MESSAGE_COMMAND = 12,   /* director dn/cmd */
    MESSAGE_DEATH = 13      /* device   up/death, the will: signed at connect */
};

struct message_blob {
    const uint8_t *at;
    size_t size;
};

/* ---- birth and death ---- */

struct message_probe {
    char arch[16]; /* "x86_64", "aarch64" */
    char cpu[MESSAGE_NAME_MAX];
    char features[MESSAGE_TEXT_MAX]; /* "avx2 avxvnni ...", sorted, one blank between */
    uint32_t cores;
    uint64_t memory_bytes;
    uint64_t disk_free_bytes;
    float read_gb_s; /* measured streaming read, 1e9 bytes/s */
    float int8_gops; /* measured int8 multiply-adds * 2, 1e9/s */
    bool has_temperature;
    bool has_energy;
};

/* A plugin found on the device, accepted or refused. */
struct message_plugin {
    char name[16];
    char version[32];
    uint32_t abi;
    uint32_t score;
    char path[24]; /* code path: "avx512-vnni" */
    uint8_t digest[32];
    bool is_refused;
    char reason[MESSAGE_TEXT_MAX];
};

struct message_slot {
    uint8_t base[32];
    uint8_t variant[32];
    uint8_t plan_id[16];
    uint64_t variant_bytes;
    bool is_active;
};

struct message_birth {
    uint64_t epoch; /* grows with each start of the agent */
    uint8_t public_key[32];
    char agent_version[32];
    uint32_t agent_number;       /* major * 1000000 + minor * 1000 + patch */
    char name[MESSAGE_NAME_MAX]; /* for people: the host name */
    struct message_probe probe;
    struct message_plugin plugin[MESSAGE_PLUGINS_MAX];
    uint32_t plugins;
    char active_plugin[16];
    struct message_slot slot[MESSAGE_SLOTS];
    uint32_t slots;
    uint32_t job_state; /* enum job_state */
    uint8_t job_plan_id[16];
    uint64_t newest_plan; /* highest plan version ever accepted */
    uint64_t time_ms;     /* Unix, 0 when the clock is not set */
};

NODISCARD enum err message_birth_encode(const struct message_birth *m, uint8_t *out, size_t capacity, size_t *size);
NODISCARD enum err message_birth_decode(const uint8_t *bytes, size_t size, struct message_birth *m);

struct message_death {
    uint64_t epoch;
    char reason[MESSAGE_TEXT_MAX]; /* empty: the connection was lost */
};

NODISCARD enum err message_death_encode(const struct message_death *m, uint8_t *out, size_t capacity, size_t *size);
NODISCARD enum err message_death_decode(const uint8_t *bytes, size_t size, struct message_death *m);

/* ---- requests, answers, acks, commands ---- */

enum message_ask { MESSAGE_ASK_PLAN = 1, MESSAGE_ASK_TIME = 2, MESSAGE_ASK_ACK = 3 };

struct message_request {
    uint32_t ask; /* enum message_ask */
    uint64_t epoch;
    uint8_t nonce[16];
    uint64_t newest_plan; /* the device has this plan version already */
};

NODISCARD enum err message_request_encode(const struct message_request *m, uint8_t *out,
                                          size_t capacity, size_t *size);
NODISCARD enum err message_request_decode(const uint8_t *bytes, size_t size, struct message_request *m);

enum message_standing {
    MESSAGE_PENDING = 1,  /* known, not yet approved */
    MESSAGE_APPROVED = 2, /* part of the fleet */
    MESSAGE_FORBIDDEN = 3 /* refused by the operator */
};

/* Answers a nonce; the device may take time_ms as the time. */
struct message_answer {
    uint8_t nonce[16];
    uint64_t time_ms;
    uint32_t standing;    /* enum message_standing */
    uint64_t newest_plan; /* version of the plan wanted for this device; 0: none */
};

NODISCARD enum err message_answer_encode(const struct message_answer *m, uint8_t *out, size_t capacity, size_t *size);
NODISCARD enum err message_answer_decode(const uint8_t *bytes, size_t size, struct message_answer *m);

/* Reliable streams of a device, each numbered from 1 within an epoch of its outbox. */
enum message_stream {
    MESSAGE_STREAM_TEL = 0,
    MESSAGE_STREAM_JOB = 1,
    MESSAGE_STREAM_BENCH = 2,
    MESSAGE_STREAM_CAL = 3,
    MESSAGE_STREAMS = 4
};

/* Everything up to and with seq[stream] is durable at the controller. 0: nothing. */
struct message_ack {
    uint64_t epoch;
    uint64_t seq[MESSAGE_STREAMS];
    uint64_t time_ms;
};

NODISCARD enum err message_ack_encode(const struct message_ack *m, uint8_t *out, size_t capacity, size_t *size);
NODISCARD enum err message_ack_decode(const uint8_t *bytes, size_t size, struct message_ack *m);

enum message_verb {
    MESSAGE_CANCEL = 1,    /* withdraw plan_id, if it has not committed */
    MESSAGE_REVERT = 2,    /* go back to the other slot, if plan_id is in the active one */
    MESSAGE_CALIBRATE = 3, /* collect activation statistics over `tokens` tokens, then report */
    MESSAGE_REPORT = 4     /* send a birth and all unsent telemetry now */
};

struct message_command {
    char device[33];
    uint64_t version; /* per device, grows by at least 1 per command */
    uint32_t verb;    /* enum message_verb */
    uint8_t plan_id[16];
    uint64_t tokens;
    uint64_t not_after_ms;
    uint64_t id; /* echoed in what the command causes */
    char reason[MESSAGE_TEXT_MAX];
};

NODISCARD enum err message_command_encode(const struct message_command *m, uint8_t *out,
                                          size_t capacity, size_t *size);
NODISCARD enum err message_command_decode(const uint8_t *bytes, size_t size, struct message_command *m);

/* ---- plan ---- */

/* A file by content: SHA-256, length, and where: a path on the artifact server ("/b/<hex>") or a
 * URL. */
struct message_artifact {
    uint8_t digest[32];
    uint64_t bytes;
    char url[MESSAGE_TEXT_MAX];
};

enum message_method {
    MESSAGE_METHOD_COPY = 1,
    MESSAGE_METHOD_RTN = 2,
    MESSAGE_METHOD_SEARCH = 3,
    MESSAGE_METHOD_AWQ = 4,
    MESSAGE_METHOD_GPTQ = 5
};

struct message_tensor {
    char name[MESSAGE_NAME_MAX];
    uint32_t type;   /* enum hal_type; always written */
    uint32_t method; /* enum message_method; 0: the plan's */
};

/* Limits; 0: no limit. */
struct message_gates {
    float dppl_percent; /* perplexity may rise by this much */
    float kld_mean;
    float top1_percent; /* agreement with the base, at least */
    float decode_tok_s; /* at least */
    float prefill_tok_s;
    uint64_t rss_bytes; /* at most */
};

struct message_constraint {
    char name[16]; /* empty: any plugin */
    uint32_t abi;
    uint8_t digest[32];
};

/* How the committed variant is watched. 0: the agent's own setting. */
struct message_watch {
    uint32_t batch_s;          /* a telemetry batch at least this often */
    uint32_t shadow_every;     /* one request in so many is re-run on the base */
    uint64_t calibrate_tokens; /* activation statistics over windows of so many tokens */
};

struct message_plan {
    uint32_t schema;                         /* MESSAGE_SCHEMA */
    uint64_t critical[MESSAGE_CRITICAL_MAX]; /* keys, ascending, that the reader must know */
    uint32_t criticals;
    char fleet[33];
    char device[33];
    uint8_t plan_id[16];
    uint64_t version; /* per device, grows by at least 1 per plan */
    uint64_t rollout; /* id; 0: none */
    uint32_t stage;   /* 1 is the first */
    uint64_t not_before_ms;
    uint64_t not_after_ms;
    uint32_t min_agent; /* as agent_number of a birth */
    uint8_t nonce[16];
    uint8_t recipe[32]; /* SHA-256 of the recipe's text */
    struct message_artifact base;
    struct message_artifact profile;
    struct message_artifact text; /* for the gates */
    struct message_constraint plugin;
    uint32_t method;               /* enum message_method */
    struct message_tensor *tensor; /* the caller's array: read by encode, filled by decode */
    uint32_t tensors;
    uint32_t tensors_max; /* of the array, for decode */
    /* What the device derives by: the bytes of compress/plan.h's plan_encode, opaque here.
     * Controllers always send it; the tensor list above is then empty. Its base and variant digests
     * must equal the ones in this message. */
    struct message_blob derivation;
    struct message_gates gates;
    uint8_t variant[32]; /* predicted digest; zero when the method does not allow it */
    uint64_t variant_bytes;
    uint32_t trial_s;
    uint32_t trial_requests;
    struct message_watch watch;
};

NODISCARD enum err message_plan_encode(const struct message_plan *m, uint8_t *out, size_t capacity, size_t *size);
NODISCARD enum err message_plan_decode(const uint8_t *bytes, size_t size, struct message_plan *m);

/* ---- job state report ---- */

struct message_measured {
    float ppl;
    float ppl_base;
    float dppl_percent;
    float kld_mean;
    float kld_99;
    float kld_max;
    float top1_percent;
    float decode_tok_s;
    float prefill_tok_s;
    uint64_t rss_bytes;
    float bits_per_weight;
    uint64_t variant_bytes;
    float derive_s;
    float energy_j;
};

struct message_job {
    uint64_t epoch;
    uint64_t seq; /* MESSAGE_STREAM_JOB */
    uint8_t plan_id[16];
    uint64_t plan_version;
    uint32_t state;   /* enum job_state */
    uint32_t attempt; /* from 1 */
    uint32_t code;    /* enum job_code */
    uint32_t err;     /* enum err */
    char reason[MESSAGE_TEXT_MAX];
    uint32_t progress_ppm; /* of this state */
    struct message_measured measured;
    uint8_t variant[32];
    char plugin[16];
    uint64_t time_ms;
};

NODISCARD enum err message_job_encode(const struct message_job *m, uint8_t *out, size_t capacity, size_t *size);
NODISCARD enum err message_job_decode(const uint8_t *bytes, size_t size, struct message_job *m);

/* ---- telemetry ---- */

enum message_metric {
    MESSAGE_TTFT_US = 1,            /* request to first token */
    MESSAGE_TOKEN_US = 2,           /* between tokens */
    MESSAGE_PREFILL_MILLITOK_S = 3, /* 0.001 tokens/s */
    MESSAGE_DECODE_MILLITOK_S = 4,
    MESSAGE_REQUEST_US = 5,
    MESSAGE_CACHED_TOKENS = 6 /* of a prompt: what an earlier request had left in the cache */
};

enum message_record_kind {
    MESSAGE_RECORD_SKETCH = 1,
    MESSAGE_RECORD_MEMORY = 2,
    MESSAGE_RECORD_HEAT = 3,
    MESSAGE_RECORD_ENERGY = 4,
    MESSAGE_RECORD_SHADOW = 5,
    MESSAGE_RECORD_ERROR = 6,
    MESSAGE_RECORD_LOST = 7,
    MESSAGE_RECORD_EVENT = 8
};

struct message_record {
    uint32_t kind; /* enum message_record_kind; of an unknown one the body is skipped */
    uint64_t time_ms;
    uint8_t variant[32]; /* what served; zero when it does not matter */
    union {
        struct {
            uint32_t metric; /* enum message_metric */
            struct sketch sketch;
        } sketch;
        struct {
            uint64_t rss_bytes;
            uint64_t available_bytes;
            uint64_t cache_bytes;
        } memory;
        struct {
            uint32_t sensor;
            int64_t millicelsius;
            uint64_t throttled_ms;
        } heat;
        struct {
            uint64_t millijoules; /* over window_ms */
            uint64_t window_ms;
            uint64_t tokens;
        } energy;
        struct {
            uint64_t tokens;
            double kld_sum; /* mean = kld_sum / tokens */
            double kld_most;
            uint64_t top1_same;
            uint64_t requests;
        } shadow;
        struct {
            uint32_t err; /* enum err */
            uint64_t count;
            char text[MESSAGE_TEXT_MAX];
        } error;
        struct {
            uint64_t from; /* sequence numbers that will never come, both ends included */
            uint64_t to;
        } lost;
        struct {
            char name[MESSAGE_NAME_MAX];
            char text[MESSAGE_TEXT_MAX];
            uint64_t value;
        } event;
    } of;
};

/* One record by itself: what the device's store keeps. */
NODISCARD enum err message_record_encode(const struct message_record *m, uint8_t *out, size_t capacity, size_t *size);
NODISCARD enum err message_record_decode(const uint8_t *bytes, size_t size, struct message_record *m);

/* Record i of a batch has sequence number first + i. */
struct message_batch {
    uint64_t epoch;              /* of the outbox */
    uint64_t first;              /* MESSAGE_STREAM_TEL, from 1 */
    struct message_blob *record; /* the caller's array: encoded records, views after decode */
    uint32_t records;
    uint32_t records_max; /* of the array, for decode */
};

/* decode checks that each record is well formed CBOR; message_record_decode judges what is in it. */
NODISCARD enum err message_batch_encode(const struct message_batch *m, uint8_t *out, size_t capacity, size_t *size);
NODISCARD enum err message_batch_decode(const uint8_t *bytes, size_t size, struct message_batch *m);

/* ---- benchmarks ---- */

struct message_benchmark {
    char device[33];
    uint8_t id[16];
    uint64_t version;  /* shares its counter with message_command.version */
    uint8_t model[32]; /* digest of a base or variant; zero: what serves now */
    char plugin[16];   /* empty: the selected one */
    uint32_t threads;  /* 0: the agent's */
    uint32_t prompt;   /* tokens of the prefill test; 0: none */
    uint32_t generate; /* tokens of the decode test; 0: none */
    uint32_t repetitions;
    uint64_t not_after_ms;
};

NODISCARD enum err message_benchmark_encode(const struct message_benchmark *m, uint8_t *out,
                                            size_t capacity, size_t *size);
NODISCARD enum err message_benchmark_decode(const uint8_t *bytes, size_t size, struct message_benchmark *m);

/* One row as llama-bench prints it. */
struct message_row {
    char test[32]; /* "pp512", "tg128" */
    uint32_t prompt;
    uint32_t generate;
    uint32_t threads;
    char plugin[16];
    char path[24];
    uint32_t repetitions;
    float tok_s; /* mean */
    float tok_s_deviation;
    uint64_t rss_bytes;
    float energy_j; /* per repetition; 0: no counter */
};

struct message_result {
    uint64_t epoch;
    uint64_t seq; /* MESSAGE_STREAM_BENCH */
    uint8_t id[16];
    uint8_t model[32];
    char model_text[MESSAGE_NAME_MAX]; /* "llama 25M Q4_K" */
    uint64_t model_bytes;
    uint64_t parameters;
    uint32_t err; /* enum err; 0: rows follow */
    char reason[MESSAGE_TEXT_MAX];
    struct message_row row[MESSAGE_ROWS_MAX];
    uint32_t rows;
    uint64_t time_ms;
};

NODISCARD enum err message_result_encode(const struct message_result *m, uint8_t *out, size_t capacity, size_t *size);
NODISCARD enum err message_result_decode(const uint8_t *bytes, size_t size, struct message_result *m);

/* ---- calibration statistics ---- */

/* A run of channels of one linear's input. */
struct message_sum {
    char name[MESSAGE_NAME_MAX]; /* of the weight tensor */
    uint32_t channels;           /* of the whole input */
    uint32_t offset;             /* first channel of this run */
    uint64_t rows;               /* tokens that were summed */
    struct message_blob squares; /* F32 little-endian: sum of x^2 per channel of the run */
};

/* One window of live traffic, cut into chunks that fit one envelope. */
struct message_sums {
    uint64_t epoch;
    uint64_t seq;    /* MESSAGE_STREAM_CAL */
    uint64_t window; /* number of the window; its chunks share it */
    uint32_t chunk;  /* from 1 */
    uint32_t chunks;
    uint64_t command; /* the command that asked; 0: by itself */
    uint8_t base[32];
    uint8_t variant[32];
    uint64_t tokens;
    uint64_t from_ms;
    uint64_t to_ms;
    struct message_sum sum[MESSAGE_SUMS_MAX];
    uint32_t sums;
};

NODISCARD enum err message_sums_encode(const struct message_sums *m, uint8_t *out, size_t capacity, size_t *size);
NODISCARD enum err message_sums_decode(const uint8_t *bytes, size_t size, struct message_sums *m);
/* F32 values of a blob of them, one by one: blobs are not aligned. i < size / 4. */
float message_blob_f32(const struct message_blob *blob, uint32_t i);

#endif
