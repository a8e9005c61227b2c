/* model.h: a transformer on an engine: open it from GGUF, step a batch of sequences, read logits.
 *
 * Weights are copied into the engine row range by row range and the mapped pages dropped, so that one
 * copy stays resident. Everything a step needs is made by model_open: a step allocates nothing.
 * A sequence is a text in the making; its keys and values live in cache pages that it owns or shares.
 * Threads: one caller per engine at a time.
 */
#ifndef MODEL_H
#define MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/gguf.h"
#include "protocol/err.h"

struct engine; /* hal/engine.h */
struct model;

/* HAL_F32 is zero, which asks for the default. */
enum { MODEL_CACHE_F32 = 0x10000 };

/* How the inputs of linears are rounded, to see what a device with few activation bits would answer. 8 bits
 * without limits is what every plugin does for block weights, and is then only added for weights of floats.
 * Anything else is simulated: block weights are held as F32, at F32's memory and speed. */
struct model_rounding {
    uint32_t bits; /* 2 .. 16; 0: as the plugin does */
    /* Static: the largest |x| of the input of a linear (named by its weight, "" for a part of one) that is
     * kept; 0: dynamic per 32 values. NULL: dynamic everywhere. */
    float (*limit)(void *context, const char *tensor);
    void *context;
};

/* Zero means the default in every field. */
struct model_options {
    uint32_t context;   /* positions of one sequence at most; default: as trained, at most 4096 */
    uint32_t sequences; /* sequences alive at once; default 1 */
    uint32_t resting;   /* of the sequences, that many only rest, in slots that the others leave; default 0 */
    uint32_t slots;     /* cache positions of all sequences together; default context * (sequences - resting) */
    uint32_t batch;     /* tokens in one step at most; default: 32 to 512, so that activations stay small;
                         * an encoder's: its context */
    uint32_t head_rows; /* rows of logits computed at once; default: sequences, up to 16 in 4 MiB */
    uint32_t cache_k;   /* HAL_F16 (default), HAL_Q8_0, HAL_Q4_0 or MODEL_CACHE_F32 */
    uint32_t cache_v;
    uint64_t cache_bytes; /* of keys and values in the engine's memory at most, one layer at least; layers
                           * beyond it rest in a file of spill_folder, without one in host memory, and take
                           * turns; default: all in memory */
    const char *spill_folder; /* where what makes room goes, to unnamed files; NULL: nowhere */
    uint64_t spill_bytes;     /* of cache pages of sequences that rest, at most; 0: they stay */
    void (*progress)(void *context, uint64_t done_bytes, uint64_t total_bytes); /* of loading; or NULL */
    void *progress_context;
    struct model_rounding rounding;
    /* Only layers [first_layer, last_layer) are loaded, neither head nor last norm: a part, which takes and gives
     * rows of the residual stream. One that begins at layer 0 takes tokens and looks them up in the file: g is
     * then borrowed until model_close. 0, 0: the whole model. */
    uint32_t first_layer, last_layer;
};

/* What was opened. Bytes are of the engine's memory. */
struct model_info {
    char architecture[32];
    uint32_t layers;
    uint32_t width; /* of the residual stream */
    uint32_t heads;
    uint32_t kv_heads;
    uint32_t vocabulary;
    uint32_t context_trained;
    bool is_encoder; /* a text goes through in one step and gives model_hidden, no logits */
    uint32_t context;
    uint32_t sequences;
    uint32_t resting;
    uint32_t slots;
    uint32_t batch;
    uint32_t head_rows;
    uint64_t parameters;
    uint64_t weight_bytes;
    uint64_t cache_bytes;
    uint64_t cache_outside_bytes; /* of layers that rest outside the engine's memory */
    uint64_t cache_token_bytes; /* one position in every layer */
    uint64_t arena_bytes;
};

/* g is borrowed for the call, e until model_close. Errors: ERR_UNSUPPORTED (architecture or type),
 * ERR_FORMAT (key or tensor missing or of another shape), ERR_ARGUMENT (options), ERR_MEMORY,
 * ERR_DEVICE; reason names the key or tensor. */
NODISCARD enum err model_open(const struct gguf *g, struct engine *e, const struct model_options *options,
                              struct model **out, char reason[GGUF_REASON_BYTES]);
void model_close(struct model *m); /* NULL is allowed */

/* What model_open would make, from the file's keys alone: sizes that were left open, bytes of weights as
 * stored, of the arena; nothing of the cache. Errors: as model_open. */
NODISCARD enum err model_sizes(const struct gguf *g, const struct model_options *options, struct model_info *out,
                               char reason[GGUF_REASON_BYTES]);

const struct model_info *model_info(const struct model *m);

/* Tokens to append to one sequence in a step; logits are wanted for the last `outputs` of them. */
struct model_run {
    uint32_t sequence;
    uint32_t outputs; /* 0 .. count */
    uint32_t count;
    const uint32_t *tokens; /* [count] */
};

/* Run all tokens of all runs together: at most `batch` of them; each sequence at most once.
 * Rows of output are numbered run by run, token by token.
 * Errors: ERR_ARGUMENT (token, sequence or counts out of range), ERR_FULL (context or cache pages
 * spent), ERR_DEVICE, ERR_MEMORY, ERR_IO (spill file). After an error every sequence is as it was before. */
NODISCARD enum err model_step(struct model *m, const struct model_run *runs, uint32_t count);

/* The same for a part behind layer 0: rows to append to one sequence, as the part before gave them in
 * model_hidden. stream [count, width]; all are outputs. */
NODISCARD enum err model_step_stream(struct model *m, uint32_t sequence, uint32_t count, const float *stream);

/* Logits of output rows [row, row + rows) of the last step, rows <= head_rows: [rows, vocabulary], the
 * model's memory, valid until the next call. Errors: ERR_ARGUMENT, ERR_DEVICE. */
NODISCARD enum err model_logits(struct model *m, uint32_t row, uint32_t rows, const float **out);

/* The `count` (1 .. HAL_TOP_MAX) greatest logits of each of the output rows that model_logits would give,
 * greatest first, of equal ones the lower token first, without the others coming to the host: token and
 * logit [rows, count]; token UINT32_MAX where the rest is NaN. Errors: ERR_ARGUMENT, ERR_UNSUPPORTED (this
 * model's logits are capped behind the head: take model_logits), ERR_DEVICE. */
NODISCARD enum err model_top(struct model *m, uint32_t row, uint32_t rows, uint32_t count, uint32_t *token,
                             float *logit);

/* The last layer's normed output of every output row of the last step: out [outputs, width]. What an
 * encoder gives, and what an embedding of a decoder is pooled from; of a part the stream behind it. Errors: ERR_ARGUMENT (no outputs),
 * ERR_DEVICE. */
NODISCARD enum err model_hidden(struct model *m, float *out);

/* Steps of at most `batch` tokens from here on: no more than now, no fewer than sequences. */
void model_narrow(struct model *m, uint32_t batch);

/* Append a long run in steps of at most `batch` tokens; logits of the last token are then row 0. */
NODISCARD enum err model_prefill(struct model *m, uint32_t sequence, const uint32_t *tokens,
                                 uint32_t count);

uint32_t model_length(const struct model *m, uint32_t sequence); /* tokens in it */
/* Positions that could be added now, by moving pages of resting sequences to the spill file too. */
uint32_t model_free_slots(const struct model *m);
/* Bytes of cache pages that went to the spill file and came back so far. */
void model_spilled(const struct model *m, uint64_t *out, uint64_t *back);
/* The same of layers that rest outside. */
void model_turned(const struct model *m, uint64_t *out, uint64_t *back);
/* Forget all but the first `length` tokens; returns how many it now holds: fewer where the cut falls into
 * a page that is shared, or before what a sliding window still keeps (then 0). */
uint32_t model_truncate(struct model *m, uint32_t sequence, uint32_t length);
/* Could another text go on from the first `length` tokens of this one? False also where a sliding window has
 * left behind what it needs. */
bool model_holds(const struct model *m, uint32_t sequence, uint32_t length);
/* Begin sequence `to` (cleared first) with the first tokens of `from`: whole cache pages are shared, the rest is
 * copied. Returns how many it now holds: length; where no page for a copy is free, a multiple of the page size;
 * 0 where from does not hold them. */
uint32_t model_share(struct model *m, uint32_t to, uint32_t from, uint32_t length);

/* Watch the F32 input x[rows, cols] of every linear, named by its weight tensor; part is the expert in
 * a mixture, else 0. x is valid during the call. Behind the last attention only the rows of outputs are
 * computed: a calibration asks for outputs = count. Costs one copy per linear. */
struct model_observer {
    void (*linear)(void *context, const char *tensor, uint32_t part, const float *x, uint32_t rows,
                   uint32_t cols);
    void *context;
    /* The stream [rows, cols] behind what `tensor` added to it (llama, qwen2, qwen3: attn_output, ffn_down); or NULL. */
    void (*stream)(void *context, const char *tensor, const float *x, uint32_t rows, uint32_t cols);
    /* Asked before a linear that was reported is computed, and behind stream; true: the step ends there. NULL: never. */
    bool (*is_enough)(void *context);
};

/* NULL stops. The observer is copied. Errors: ERR_MEMORY. */
NODISCARD enum err model_observe(struct model *m, const struct model_observer *observer);

#endif
