/* tune.h: threads, prefill chunk, cache type and cache size for one model on one device: what fits the
 * memory that there is, and what a calibration run of two seconds finds fastest. What a caller wishes wins.
 *
 *     tune_fit(file, engine, &device, &wish, &choice, reason);   sizes, from the file's keys alone
 *     tune_options(&choice, &options);  model_open(file, engine, &options, &model, reason);
 *     tune_measure(engine, model, &device, &wish, TUNE_SECONDS, NULL, NULL, &choice);
 *     tune_apply(engine, model, &choice);
 *
 * choice.line says each number's reason in words. One caller per engine, as ever.
 */
#ifndef TUNE_H
#define TUNE_H

#include "hal/device.h"
#include "hal/engine.h"
#include "model/model.h"

enum {
    TUNE_LINES_MAX = 8,
    TUNE_LINE_BYTES = 200,
    TUNE_CANDIDATES_MAX = 8,
    TUNE_CHUNK_LEAST = 32,
    TUNE_CHUNK_MOST = 512,
    TUNE_SHARE_PERCENT = 80, /* of the memory that is available: the rest is for the page cache and others */
    TUNE_PROMPT = 512,       /* tokens of the goal: their time is what is made short */
    TUNE_GENERATE = 128
};

#define TUNE_SECONDS 2.0    /* of a calibration run, at most */
#define TUNE_TOLERANCE 0.02 /* a chunk this much slower than the best is as good when it is smaller */

/* Zero: choose. */
struct tune_wish {
    uint32_t threads;
    uint32_t chunk;
    uint32_t cache;           /* as model_options.cache_k */
    uint32_t context;         /* positions of one sequence; 0: as trained, at most 4096, less when memory is short */
    bool is_firm;             /* the context: rather fail than have less of it */
    uint32_t sequences;
    uint64_t memory_bytes;    /* the operator's limit */
    uint64_t cache_bytes;     /* of the cache in memory: what is more rests elsewhere (model_options.cache_bytes) */
    uint32_t prompt, generate; /* the goal */
};

struct tune_choice {
    uint32_t threads;
    uint32_t chunk;     /* tokens of one step */
    uint32_t cache;     /* as model_options.cache_k and cache_v */
    uint32_t context, sequences;
    uint64_t budget_bytes, weight_bytes, cache_bytes, arena_bytes; /* cache and arena as estimated */
    double prefill_tok_s, decode_tok_s; /* of the calibration run; 0: not measured */
    double seconds;     /* that it took */
    uint32_t samples;
    bool is_kept;       /* of an earlier run, by tune_load */
    bool is_disturbed;  /* others had the CPU for a good part of the run: good for ten minutes only */
    char line[TUNE_LINES_MAX][TUNE_LINE_BYTES];
    uint32_t lines;
};

/* Context, cache type and the largest chunk that fit. Memory: TUNE_SHARE_PERCENT of what is available within
 * the cgroup, or of the device's own, and no more than the wish. The cache is F16 where the context fits,
 * else Q8_0; Q4_0 where nothing better fits. Then the context is halved, one that was not asked for before it
 * comes to Q4_0, a firm one never. What fits in no way is left to model_open to refuse. Errors: as model_sizes. */
NODISCARD enum err tune_fit(const struct gguf *g, const struct engine *e, const struct device_info *device,
                            const struct tune_wish *wish, struct tune_choice *out,
                            char reason[GGUF_REASON_BYTES]);

/* Context, sequences, batch and cache types; the other fields stay. */
void tune_options(const struct tune_choice *choice, struct model_options *options);

/* Time the model for about limit_s, no longer than that beyond the step in progress, and choose threads and
 * chunk. The sequences of the model are empty before and after. beat (may be NULL) is called between samples.
 * An encoder, and a wish for both, need no measuring. Errors: of model_step and model_logits. */
NODISCARD enum err tune_measure(struct engine *e, struct model *m, const struct device_info *device,
                                const struct tune_wish *wish, double limit_s, void (*beat)(void *context),
                                void *context, struct tune_choice *choice);

/* Set them. Errors: of engine_limit_threads. */
NODISCARD enum err tune_apply(struct engine *e, struct model *m, const struct tune_choice *choice);

/* Keep what was measured in a small text file, written anew and renamed. key: one line that tells the device,
 * the plugin, the model and the wish apart; another key reads as ERR_STALE. identity names the model's bytes.
 * Errors: ERR_IO, ERR_NOT_FOUND, ERR_FORMAT, ERR_STALE; on error choice is as it was. */
enum { TUNE_KEY_BYTES = 640 };
void tune_key(const struct device_info *device, const struct engine *e, const char *identity,
              const struct tune_wish *wish, char key[TUNE_KEY_BYTES]);
NODISCARD enum err tune_save(const char *path, const char *key, const struct tune_choice *choice);
NODISCARD enum err tune_load(const char *path, const char *key, struct tune_choice *choice);

/* ---- the search itself, for tests and for a full sweep ---- */

/* What times one setting: seconds of running tokens so, the sequence being empty before a prefill. */
struct tune_meter {
    void *context;
    double (*now)(void *context);
    enum err (*prefill)(void *context, uint32_t threads, uint32_t chunk, uint32_t tokens);
    enum err (*decode)(void *context, uint32_t threads, uint32_t tokens);
};

/* A meter on a model; place stays the caller's, and the model's sequence 0 is cleared by every prefill. */
struct tune_place {
    struct engine *e;
    struct model *m;
    void (*beat)(void *context);
    void *beat_context;
};
struct tune_meter tune_meter_of(struct tune_place *place);

/* Candidates in the order of trying: the likeliest first. */
struct tune_space {
    uint32_t threads[TUNE_CANDIDATES_MAX], thread_count;
    uint32_t chunk[TUNE_CANDIDATES_MAX], chunk_count; /* ascending */
    uint32_t prompt, generate;
    double limit_s;
    bool is_throttled; /* a quota stops and goes: means count, not the best samples */
};
void tune_space_of(const struct device_info *device, const struct engine *e, const struct tune_wish *wish,
                   uint32_t chunk_most, struct tune_space *out);

/* Fills threads, chunk, speeds, seconds, samples and adds lines. Errors: the meter's. */
NODISCARD enum err tune_search(const struct tune_meter *meter, const struct tune_space *space,
                               struct tune_choice *out);

__attribute__((format(printf, 2, 3))) void tune_say(struct tune_choice *choice, const char *format, ...);

#endif
