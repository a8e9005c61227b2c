/* tune.c: what fits, which settings there are to try, and the meter on a real model. */
#include "model/tune.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "hal/block.h"
#include "model/cache.h"
#include "model/cache_cost.h"

enum { NOISE_TOKENS = 1 << 16, DEVICE_SHARE_PERCENT = 90, CONTEXT_LEAST = 64 };

/* A plugin's own layout of weights needs a little more than the file: rows are padded to whole tiles. */
static const double LAYOUT = 1.03;

/* A run that waited longer for a CPU is not the device's speed. */
static const double DISTURBED = 0.05;

static double mib(uint64_t bytes)
{
    return (double)bytes / (1 << 20);
}

static uint64_t share_of(uint64_t bytes, uint32_t percent)
{
    return bytes / 100 * percent;
}

static void choose_budget(const struct engine *e, const struct device_info *device, const struct tune_wish *wish,
                          struct tune_choice *out)
{
    const bool is_own = e->caps.mem_bytes > 0;
    const uint32_t percent = is_own ? DEVICE_SHARE_PERCENT : TUNE_SHARE_PERCENT;
    const uint64_t there = is_own ? e->caps.mem_bytes : device->available_bytes + engine_memory_used();
    const bool is_limited = !is_own && device->limit_bytes && device->limit_left_bytes <= device->available_bytes;
    const char *const of = is_own ? "the accelerator's" : is_limited ? "what the cgroup leaves, its" : "the available";
    out->budget_bytes = share_of(there, percent);
    if (there == 0)
        out->budget_bytes = UINT64_MAX; /* nothing is known */
    if (wish->memory_bytes && wish->memory_bytes < out->budget_bytes) {
        out->budget_bytes = wish->memory_bytes;
        tune_say(out, "memory %.0f MiB: as set, less than %u %% of %s %.0f MiB", mib(out->budget_bytes), percent, of,
                 mib(there));
    } else if (there == 0) {
        tune_say(out, "memory: unknown here, nothing is held back");
    } else {
        tune_say(out, "memory %.0f MiB: %u %% of %s %.0f MiB%s", mib(out->budget_bytes), percent, of, mib(there),
                 is_limited ? "" : ", no tighter cgroup");
    }
}

/* Bytes of keys and values of all sequences, as cache_open will make them; 0 without a cache. */
static uint64_t cache_bytes(const struct gguf *g, uint32_t type, uint32_t context, uint32_t sequences, uint32_t chunk)
{
    struct cache_cost cost;
    const uint32_t held = type == MODEL_CACHE_F32 ? HAL_F32 : type;
    if (cache_cost(g, held, held, &cost) != ERR_NONE)
        return 0;
    const uint64_t whole = (context + CACHE_PAGE - 1) / CACHE_PAGE * (uint64_t)CACHE_PAGE;
    uint64_t seen = whole;
    if (cost.window && cost.window + chunk + 3ull * CACHE_PAGE < whole)
        seen = cost.window + chunk + 3ull * CACHE_PAGE;
    return sequences * ((cost.token_bytes - cost.windowed_bytes) * whole + cost.windowed_bytes * seen);
}

struct fit {
    const struct gguf *g;
    uint64_t room;      /* for cache and arena */
    uint64_t row_bytes; /* of a token in the arena */
    uint32_t least;     /* chunk */
    uint64_t most;      /* of the cache in memory; 0: all of it */
};

static uint64_t in_memory(const struct fit *f, uint32_t type, uint32_t context, uint32_t sequences, uint32_t chunk)
{
    const uint64_t bytes = cache_bytes(f->g, type, context, sequences, chunk);
    return f->most && f->most < bytes ? f->most : bytes;
}

static bool try_fit(const struct fit *f, uint32_t cache, uint32_t context, struct tune_choice *out)
{
    struct cache_cost cost;
    const uint32_t held = cache == MODEL_CACHE_F32 ? HAL_F32 : cache;
    out->cache = cache;
    out->context = context;
    out->cache_bytes = in_memory(f, cache, context, out->sequences, f->least);
    out->arena_bytes = f->row_bytes * f->least;
    if (cache_cost(f->g, held, held, &cost) == ERR_ARGUMENT)
        return false; /* heads that are no whole blocks of it */
    return out->cache_bytes + out->arena_bytes <= f->room;
}

/* F16 before Q8_0, both before less context that nobody asked for, Q4_0 last. */
static bool choose_cache(const struct fit *f, const struct tune_wish *wish, uint32_t context, struct tune_choice *out)
{
    static const uint32_t types[] = {HAL_F16, HAL_Q8_0, HAL_Q4_0};
    for (int pass = 0; pass < 2; pass++) { /* the first without Q4_0 where the context may give way */
        const uint32_t count = wish->cache ? 1 : wish->context || pass == 1 ? 3 : 2;
        for (uint32_t c = context; c >= CONTEXT_LEAST || c == context; c /= 2) {
            for (uint32_t i = 0; i < count; i++)
                if (try_fit(f, wish->cache ? wish->cache : types[i], c, out))
                    return true;
            if (c <= 1 || wish->is_firm)
                break;
        }
    }
    return try_fit(f, wish->cache ? wish->cache : HAL_F16, context, out);
}

static const char *cache_name(uint32_t cache)
{
    const struct block_type *t = block_type(cache == MODEL_CACHE_F32 ? HAL_F32 : cache);
    return t ? t->name : "?";
}

static void say_cache(const struct fit *f, const struct tune_wish *wish, uint32_t context, bool does_fit,
                      struct tune_choice *out)
{
    const uint64_t plain = cache_bytes(f->g, HAL_F16, context, out->sequences, f->least);
    const bool is_cut = f->most && out->cache_bytes == f->most;
    const char *const why = !does_fit           ? "which does not fit: opening may fail"
                            : wish->cache       ? "as asked for"
                            : out->cache == HAL_F16 ? "the exact one fits"
                            : out->cache == HAL_Q8_0 ? "F16 does not fit"
                                                     : "neither F16 nor Q8_0 fits";
    tune_say(out, "cache %s: %.1f MiB for %u x %u positions beside weights of %.0f MiB, %s", cache_name(out->cache),
             mib(out->cache_bytes), out->sequences, out->context, mib(out->weight_bytes), why);
    if (is_cut)
        tune_say(out, "cache in memory %.1f MiB: as set, the rest takes turns", mib(f->most));
    if (out->context != context)
        tune_say(out, "context %u: %u would need %.0f MiB in F16", out->context, context, mib(plain));
}

static void choose_chunk(const struct fit *f, const struct tune_wish *wish, struct tune_choice *out)
{
    uint32_t chunk = wish->chunk ? wish->chunk : TUNE_CHUNK_MOST;
    while (chunk > f->least && in_memory(f, out->cache, out->context, out->sequences, chunk) + f->row_bytes * chunk > f->room)
        chunk = chunk / 2 > f->least ? chunk / 2 : f->least;
    if (!wish->chunk && chunk > out->context)
        while (chunk / 2 >= out->context && chunk / 2 >= f->least)
            chunk /= 2;
    out->chunk = chunk;
    out->arena_bytes = f->row_bytes * chunk;
    out->cache_bytes = in_memory(f, out->cache, out->context, out->sequences, chunk);
    if (wish->chunk && chunk != wish->chunk)
        tune_say(out, "chunk %u: %u would need %.1f MiB of activations", chunk, wish->chunk,
                 mib(f->row_bytes * wish->chunk));
    else if (!wish->chunk && chunk < TUNE_CHUNK_MOST && chunk < out->context)
        tune_say(out, "chunk %u at most: of %u the activations do not fit", chunk, 2 * chunk);
}

enum err tune_fit(const struct gguf *g, const struct engine *e, const struct device_info *device,
                  const struct tune_wish *wish, struct tune_choice *out, char reason[GGUF_REASON_BYTES])
{
    struct model_info info;
    const struct model_options o = {.context = wish->context, .sequences = wish->sequences, .batch = wish->chunk};
    *out = (struct tune_choice){.threads = e->threads, .cache = wish->cache};
    const enum err failed = model_sizes(g, &o, &info, reason);
    if (failed)
        return failed;
    out->sequences = info.sequences;
    out->context = info.context;
    out->weight_bytes = (uint64_t)((double)info.weight_bytes * LAYOUT);
    choose_budget(e, device, wish, out);
    struct fit f = {.g = g, .row_bytes = info.arena_bytes / info.batch, .most = wish->cache_bytes};
    f.least = info.sequences > TUNE_CHUNK_LEAST ? info.sequences : TUNE_CHUNK_LEAST;
    if (wish->chunk && wish->chunk < f.least)
        f.least = wish->chunk;
    if (info.is_encoder) { /* a text goes through in one step */
        out->chunk = info.batch;
        out->arena_bytes = info.arena_bytes;
        tune_say(out, "an encoder: no cache, a text is one step of up to %u tokens", out->chunk);
        return ERR_NONE;
    }
    f.room = out->budget_bytes > out->weight_bytes ? out->budget_bytes - out->weight_bytes : 0;
    const bool does_fit = choose_cache(&f, wish, info.context, out);
    say_cache(&f, wish, info.context, does_fit, out);
    choose_chunk(&f, wish, out);
    return ERR_NONE;
}

void tune_options(const struct tune_choice *choice, struct model_options *o)
{
    o->context = choice->context;
    o->sequences = choice->sequences;
    o->batch = choice->chunk;
    o->cache_k = o->cache_v = choice->cache;
}

/* ---- what to try ---- */

static void add(uint32_t *list, uint32_t *count, uint32_t value)
{
    for (uint32_t i = 0; i < *count; i++)
        if (list[i] == value)
            return;
    if (value > 0 && *count < TUNE_CANDIDATES_MAX)
        list[(*count)++] = value;
}

void tune_space_of(const struct device_info *device, const struct engine *e, const struct tune_wish *wish,
                   uint32_t chunk_most, struct tune_space *out)
{
    const uint32_t most = e->host.threads;
    *out = (struct tune_space){.prompt = wish->prompt ? wish->prompt : TUNE_PROMPT,
                               .generate = wish->generate ? wish->generate : TUNE_GENERATE,
                               .limit_s = TUNE_SECONDS,
                               .is_throttled = device->quota_cpus > 0 && device->quota_cpus < device->allowed_cpus};
    if (wish->threads || e->ops.limit_threads == NULL) {
        add(out->threads, &out->thread_count, wish->threads && wish->threads < most ? wish->threads : most);
    } else {
        const uint32_t list[] = {most, device->cores < most ? device->cores : most, (uint32_t)device->quota_cpus,
                                 most / 2, most - 1, most - most / 4, most / 4, 1};
        for (size_t i = 0; i < sizeof list / sizeof *list; i++)
            if (list[i] <= most)
                add(out->threads, &out->thread_count, list[i]);
    }
    if (!wish->chunk)
        for (uint32_t chunk = TUNE_CHUNK_LEAST; chunk < chunk_most; chunk *= 2)
            add(out->chunk, &out->chunk_count, chunk);
    add(out->chunk, &out->chunk_count, chunk_most);
    if (out->prompt < out->chunk[0])
        out->prompt = out->chunk[0];
}

/* ---- the meter ---- */

static double meter_now(void *context)
{
    struct timespec t;
    (void)context;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Tokens of no meaning, but the same ones every time. */
static void noise(const struct model *m, uint32_t *tokens, uint32_t count)
{
    uint64_t state = 1;
    for (uint32_t i = 0; i < count; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        tokens[i] = (uint32_t)(state >> 33) % model_info(m)->vocabulary;
    }
}

static enum err set_threads(struct tune_place *p, uint32_t threads)
{
    if (p->beat)
        p->beat(p->beat_context);
    return threads == p->e->threads ? ERR_NONE : engine_limit_threads(p->e, threads);
}

static enum err meter_prefill(void *context, uint32_t threads, uint32_t chunk, uint32_t tokens)
{
    struct tune_place *p = context;
    const float *logits;
    uint32_t step[TUNE_CHUNK_MOST];
    enum err e = set_threads(p, threads);
    model_truncate(p->m, 0, 0);
    noise(p->m, step, TUNE_CHUNK_MOST);
    for (uint32_t at = 0; at < tokens && !e;) {
        uint32_t n = tokens - at < chunk ? tokens - at : chunk;
        n = n < TUNE_CHUNK_MOST ? n : TUNE_CHUNK_MOST;
        const struct model_run run = {0, at + n == tokens, n, step};
        e = model_step(p->m, &run, 1);
        at += n;
    }
    return e ? e : model_logits(p->m, 0, 1, &logits);
}

static enum err meter_decode(void *context, uint32_t threads, uint32_t tokens)
{
    struct tune_place *p = context;
    const float *logits;
    uint32_t token;
    enum err e = set_threads(p, threads);
    noise(p->m, &token, 1);
    for (uint32_t i = 0; i < tokens && !e; i++) {
        const struct model_run run = {0, 1, 1, &token};
        if (model_length(p->m, 0) >= model_info(p->m)->context)
            model_truncate(p->m, 0, 0);
        e = model_step(p->m, &run, 1);
        if (!e)
            e = model_logits(p->m, 0, 1, &logits);
    }
    return e;
}

struct tune_meter tune_meter_of(struct tune_place *place)
{
    return (struct tune_meter){place, meter_now, meter_prefill, meter_decode};
}

/* Seconds that this thread was ready and waited for a CPU; 0 where the kernel does not say. */
static double waited(void)
{
    double running, waiting = 0;
    FILE *f = fopen("/proc/thread-self/schedstat", "re");
    if (f && fscanf(f, "%lf %lf", &running, &waiting) != 2)
        waiting = 0;
    if (f)
        fclose(f);
    return waiting * 1e-9;
}

enum err tune_measure(struct engine *e, struct model *m, const struct device_info *device,
                      const struct tune_wish *wish, double limit_s, void (*beat)(void *context), void *context,
                      struct tune_choice *choice)
{
    struct tune_place place = {e, m, beat, context};
    struct tune_space space;
    const struct model_info *info = model_info(m);
    if (info->is_encoder || (wish->threads && wish->chunk)) {
        choice->threads = e->threads;
        tune_say(choice, "threads %u: %s", e->threads, wish->threads ? "as asked for" : "by the device's probe");
        return ERR_NONE;
    }
    uint32_t most = info->batch < info->context ? info->batch : info->context;
    tune_space_of(device, e, wish, most, &space);
    space.limit_s = limit_s;
    if (space.prompt > info->context)
        space.prompt = info->context;
    const struct tune_meter meter = tune_meter_of(&place);
    const uint32_t before = e->threads;
    const double ready = waited();
    const enum err failed = tune_search(&meter, &space, choice);
    const double others = waited() - ready;
    choice->is_disturbed = !space.is_throttled && others > DISTURBED * choice->seconds;
    if (choice->is_disturbed)
        tune_say(choice, "others had the CPU for %.2f s of it: to be measured again before long", others);
    model_truncate(m, 0, 0);
    if (failed && before != e->threads)
        (void)!engine_limit_threads(e, before);
    return failed;
}

enum err tune_apply(struct engine *e, struct model *m, const struct tune_choice *choice)
{
    model_narrow(m, choice->chunk);
    return choice->threads == e->threads ? ERR_NONE : engine_limit_threads(e, choice->threads);
}
