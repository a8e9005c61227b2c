/* tune_test.c: the race of settings on devices that are formulas with a clock of their own, what fits into
 * which memory, the file of results, and a real run. */
#include "tests/harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <utime.h>

#include "model/tune.h"

#define TINY SOURCE_DIR "/models/tare-tiny/tare-tiny-f16.gguf"

/* ---- a device that is a formula ---- */

struct fake {
    double now;
    double token_s;     /* of decoding with one thread */
    double bandwidth;   /* threads that memory feeds at once */
    double batch_gain;  /* a prefilled token costs so much less than a decoded one, at best */
    double half_chunk;  /* at which half of that is reached */
    double spill_chunk; /* above it activations leave the cache */
    double sync_s;      /* of one step, per further thread */
    double noise;
    uint32_t state, calls, fail_at;
};

static double parallel(const struct fake *f, uint32_t threads, double most)
{
    return threads < most ? threads : most - 0.02 * (threads - most) * (f->bandwidth > 0);
}

static double decode_s(const struct fake *f, uint32_t threads)
{
    return f->token_s / parallel(f, threads, f->bandwidth) + f->sync_s * (threads - 1);
}

static double prefill_s(const struct fake *f, uint32_t threads, uint32_t chunk)
{
    const double gain = 1 + (f->batch_gain - 1) * chunk / (chunk + f->half_chunk);
    const double spill = chunk > f->spill_chunk ? 1.3 : 1;
    return spill * f->token_s / gain / parallel(f, threads, 64) + f->sync_s * (threads - 1) / chunk;
}

static double goal_s(const struct fake *f, const struct tune_space *s, uint32_t threads, uint32_t chunk)
{
    return s->prompt * prefill_s(f, threads, chunk) + s->generate * decode_s(f, threads);
}

static double disturb(struct fake *f)
{
    f->state = f->state * 1664525u + 1013904223u;
    return 1 + f->noise * (f->state >> 8) / (1u << 24);
}

static double fake_now(void *context)
{
    return ((struct fake *)context)->now;
}

static enum err count(struct fake *f)
{
    return ++f->calls == f->fail_at ? ERR_DEVICE : ERR_NONE;
}

static enum err fake_prefill(void *context, uint32_t threads, uint32_t chunk, uint32_t tokens)
{
    struct fake *f = context;
    for (uint32_t at = 0; at < tokens; at += chunk) {
        const uint32_t n = tokens - at < chunk ? tokens - at : chunk;
        f->now += n * prefill_s(f, threads, n) * disturb(f);
    }
    return count(f);
}

static enum err fake_decode(void *context, uint32_t threads, uint32_t tokens)
{
    struct fake *f = context;
    f->now += tokens * decode_s(f, threads) * disturb(f);
    return count(f);
}

static struct tune_space space_of(const uint32_t *threads, uint32_t count)
{
    struct tune_space s = {.thread_count = count,
                           .chunk = {32, 64, 128, 256, 512},
                           .chunk_count = 5,
                           .prompt = 512,
                           .generate = 128,
                           .limit_s = TUNE_SECONDS};
    memcpy(s.threads, threads, count * sizeof *threads);
    return s;
}

static double best_goal(const struct fake *f, const struct tune_space *s)
{
    double best = INFINITY;
    for (uint32_t t = 0; t < s->thread_count; t++)
        for (uint32_t c = 0; c < s->chunk_count; c++)
            best = fmin(best, goal_s(f, s, s->threads[t], s->chunk[c]));
    return best;
}

static struct tune_choice search(struct fake *f, const struct tune_space *s)
{
    const struct tune_meter meter = {f, fake_now, fake_prefill, fake_decode};
    struct tune_choice choice = {.lines = 0};
    CU_ASSERT_EQUAL(tune_search(&meter, s, &choice), ERR_NONE);
    return choice;
}

static double uniform(uint32_t *state, double from, double to)
{
    *state = *state * 1664525u + 1013904223u;
    return from + (to - from) * (*state >> 8) / (1u << 24);
}

/* Devices of many kinds: never over the time; within 5 % of the best of all settings, noise and all. */
static void test_race(void)
{
    static const uint32_t threads[] = {8, 4, 7, 6, 2, 1};
    const struct tune_space s = space_of(threads, 6);
    uint32_t state = 5, good = 0, devices = 400;
    double worst = 1;
    for (uint32_t i = 0; i < devices; i++) {
        struct fake f = {.token_s = exp(uniform(&state, log(0.0005), log(0.03))),
                         .bandwidth = uniform(&state, 1, 9),
                         .batch_gain = uniform(&state, 4, 30),
                         .half_chunk = uniform(&state, 4, 60),
                         .spill_chunk = uniform(&state, 40, 900),
                         .sync_s = uniform(&state, 0, 2e-5),
                         .noise = 0.02,
                         .state = i + 1};
        const struct tune_choice c = search(&f, &s);
        const double ratio = goal_s(&f, &s, c.threads, c.chunk) / best_goal(&f, &s);
        good += ratio <= 1.05;
        worst = fmax(worst, ratio);
        CU_ASSERT_TRUE(f.now <= s.limit_s);
        CU_ASSERT_DOUBLE_EQUAL(c.seconds, f.now, 1e-9);
    }
    printf("%u of %u devices within 5 %%, worst %.3f ... ", good, devices, worst);
    CU_ASSERT_EQUAL(good, devices);
}

/* Too slow for two seconds: the probe's threads, the smallest chunk, and it says so. */
static void test_slow(void)
{
    static const uint32_t threads[] = {4, 2, 1};
    const struct tune_space s = space_of(threads, 3);
    const double tokens[] = {0.2, 0.9, 5};
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        struct fake f = {.token_s = 4 * tokens[i], .bandwidth = 8, .batch_gain = 2, .half_chunk = 8, .spill_chunk = 1e9};
        const struct tune_choice c = search(&f, &s);
        CU_ASSERT_EQUAL(c.threads, 4);
        CU_ASSERT_EQUAL(c.chunk, 32);
        CU_ASSERT_TRUE(c.decode_tok_s > 0);
        /* a first token cannot be foreseen: it is the one thing that may pass the limit */
        CU_ASSERT_TRUE(f.now <= fmax(s.limit_s, tokens[i]));
        CU_ASSERT_PTR_NOT_NULL(strstr(c.line[0], "by the device's probe"));
    }
}

/* A quota stops every thread at times: means tell, the best samples would not. */
static void test_throttled(void)
{
    static const uint32_t threads[] = {2, 1};
    struct tune_space s = space_of(threads, 2);
    s.is_throttled = true;
    struct fake f = {.token_s = 0.004, .bandwidth = 8, .batch_gain = 8, .half_chunk = 8, .spill_chunk = 1e9};
    const struct tune_choice c = search(&f, &s);
    CU_ASSERT_EQUAL(c.threads, 2);
    CU_ASSERT_PTR_NOT_NULL(strstr(c.line[0], "under a quota"));
}

static void test_failing(void)
{
    static const uint32_t threads[] = {2, 1};
    const struct tune_space s = space_of(threads, 2);
    for (uint32_t at = 1; at < 20; at++) {
        struct fake f = {.token_s = 0.002, .bandwidth = 8, .batch_gain = 8, .half_chunk = 8, .spill_chunk = 1e9, .fail_at = at};
        const struct tune_meter meter = {&f, fake_now, fake_prefill, fake_decode};
        struct tune_choice choice = {.lines = 0};
        CU_ASSERT_EQUAL(tune_search(&meter, &s, &choice), ERR_DEVICE);
        CU_ASSERT_EQUAL(f.calls, at); /* nothing is run after it */
    }
}

/* ---- what fits ---- */

static struct engine *engine;
static struct gguf *tiny;

static void open_tiny(uint32_t threads)
{
    char reason[GGUF_REASON_BYTES];
    const struct engine_options o = {.plugin = "scalar", .threads = threads};
    CU_ASSERT_EQUAL_FATAL(engine_open(&o, &engine, NULL), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(gguf_open(TINY, &tiny, reason), ERR_NONE);
}

static void close_tiny(void)
{
    gguf_close(tiny);
    engine_close(engine);
}

static struct tune_choice fit(uint64_t available, struct tune_wish wish)
{
    struct device_info device = {.available_bytes = available, .memory_bytes = 1ull << 40, .threads = 2};
    struct tune_choice c;
    char reason[GGUF_REASON_BYTES];
    CU_ASSERT_EQUAL_FATAL(tune_fit(tiny, engine, &device, &wish, &c, reason), ERR_NONE);
    return c;
}

static bool says(const struct tune_choice *c, const char *words)
{
    for (uint32_t i = 0; i < c->lines; i++)
        if (strstr(c->line[i], words))
            return true;
    return false;
}

static void test_fit(void)
{
    open_tiny(2);
    const struct tune_wish wish = {.context = 1024, .sequences = 4};
    struct tune_choice c = fit(1ull << 34, wish);
    CU_ASSERT_EQUAL(c.cache, HAL_F16);
    CU_ASSERT_EQUAL(c.chunk, TUNE_CHUNK_MOST);
    CU_ASSERT_EQUAL(c.context, 1024);
    CU_ASSERT_EQUAL(c.budget_bytes, ((1ull << 34) + engine_memory_used()) / 100 * TUNE_SHARE_PERCENT);
    CU_ASSERT_TRUE(says(&c, "no tighter cgroup"));
    const uint64_t f16 = c.cache_bytes, row = c.arena_bytes / c.chunk, weights = c.weight_bytes;
#define NEED(bytes) ((uint64_t)((double)(bytes) * 100 / TUNE_SHARE_PERCENT) + 200)
    /* less and less: first the chunk, then Q8_0, then Q4_0, then the context */
    c = fit(NEED(weights + f16 + 130 * row), wish);
    CU_ASSERT_EQUAL(c.cache, HAL_F16);
    CU_ASSERT_EQUAL(c.chunk, 128);
    CU_ASSERT_TRUE(says(&c, "activations do not fit"));
    c = fit(NEED(weights + f16 * 6 / 10 + 33 * row), wish);
    CU_ASSERT_EQUAL(c.cache, HAL_Q8_0);
    CU_ASSERT_TRUE(says(&c, "F16 does not fit"));
    c = fit(NEED(weights + f16 * 3 / 10 + 33 * row), wish);
    CU_ASSERT_EQUAL(c.cache, HAL_Q4_0);
    CU_ASSERT_EQUAL(c.context, 1024);
    CU_ASSERT_TRUE(says(&c, "neither F16 nor Q8_0 fits"));
    c = fit(NEED(weights + f16 / 8 + 33 * row), wish);
    CU_ASSERT_TRUE(c.context < 1024);
    CU_ASSERT_TRUE(c.cache_bytes + c.arena_bytes + c.weight_bytes <= c.budget_bytes);
    struct tune_wish firm = wish;
    firm.is_firm = true;
    c = fit(NEED(weights + f16 / 8 + 33 * row), firm);
    CU_ASSERT_EQUAL(c.context, 1024);
    CU_ASSERT_TRUE(says(&c, "opening may fail"));
    /* a context that nobody asked for goes before Q4_0 does */
    struct tune_wish open = {.sequences = 1};
    c = fit(1ull << 34, open);
    const uint32_t preset = c.context;
    c = fit(NEED(weights + c.cache_bytes * 3 / 10 + 33 * row), open);
    CU_ASSERT_EQUAL(c.cache, HAL_Q8_0);
    CU_ASSERT_EQUAL(c.context, preset / 2);
    CU_ASSERT_TRUE(says(&c, "in F16"));
    /* wishes win */
    const struct tune_wish asked = {.context = 1024, .cache = HAL_Q4_0, .chunk = 16, .memory_bytes = 1 << 28};
    c = fit(1ull << 34, asked);
    CU_ASSERT_EQUAL(c.cache, HAL_Q4_0);
    CU_ASSERT_EQUAL(c.chunk, 16);
    CU_ASSERT_EQUAL(c.budget_bytes, 1 << 28);
    CU_ASSERT_TRUE(says(&c, "as set") && says(&c, "as asked for"));
    /* nothing fits: said, and left to model_open */
    c = fit(1 << 20, wish);
    CU_ASSERT_TRUE(says(&c, "does not fit"));
    close_tiny();
}

/* What was estimated is what opening takes: the estimate is no lower, and not much higher. */
static void test_estimate(void)
{
    char reason[GGUF_REASON_BYTES];
    struct model *m;
    open_tiny(2);
    const uint64_t before = engine_memory_used();
    struct tune_choice c = fit(1ull << 34, (struct tune_wish){.context = 2048, .sequences = 2});
    struct model_options o = {.context = 0};
    tune_options(&c, &o);
    CU_ASSERT_EQUAL_FATAL(model_open(tiny, engine, &o, &m, reason), ERR_NONE);
    const uint64_t took = engine_memory_used() - before;
    const uint64_t estimate = c.weight_bytes + c.cache_bytes + c.arena_bytes;
    printf("estimated %.2f MiB, took %.2f ... ", (double)estimate / (1 << 20), (double)took / (1 << 20));
    CU_ASSERT_EQUAL(c.cache_bytes, model_info(m)->cache_bytes);
    CU_ASSERT_TRUE((double)took < 1.15 * (double)estimate && (double)took > 0.8 * (double)estimate);
    model_close(m);
    close_tiny();
}

/* ---- the file ---- */

static void test_store(void)
{
    char path[] = "/tmp/tune_test.XXXXXX";
    const struct device_info device = {.machine = "x86_64", .cpu = "A\nCPU", .cpus = 4, .quota_cpus = 1.5};
    struct device_info other = device;
    struct tune_choice c = {.threads = 3, .chunk = 128, .prefill_tok_s = 1234.5, .decode_tok_s = 56.25, .seconds = 1.5, .samples = 9};
    struct tune_choice back = {.chunk = 512};
    char key[TUNE_KEY_BYTES], key2[TUNE_KEY_BYTES];
    const struct tune_wish wish = {.context = 1024};
    const int fd = mkstemp(path);
    CU_ASSERT_FATAL(fd >= 0);
    close(fd);
    open_tiny(2);
    tune_key(&device, engine, "abc 5 bytes", &wish, key);
    CU_ASSERT_PTR_NULL(strchr(key, '\n'));
    CU_ASSERT_EQUAL(tune_load(path, key, &back), ERR_FORMAT);
    CU_ASSERT_EQUAL(tune_save(path, key, &c), ERR_NONE);
    CU_ASSERT_EQUAL(tune_load(path, key, &back), ERR_NONE);
    CU_ASSERT_TRUE(back.threads == 3 && back.chunk == 128 && back.is_kept && back.samples == 9);
    CU_ASSERT_DOUBLE_EQUAL(back.decode_tok_s, 56.25, 1e-9);
    CU_ASSERT_TRUE(says(&back, "as measured before"));
    back = (struct tune_choice){.chunk = 64}; /* less memory than then */
    CU_ASSERT_EQUAL(tune_load(path, key, &back), ERR_NONE);
    CU_ASSERT_EQUAL(back.chunk, 64);
    /* another quota, plugin path, variant or wish is another key */
    other.quota_cpus = 2;
    tune_key(&other, engine, "abc 5 bytes", &wish, key2);
    CU_ASSERT_EQUAL(tune_load(path, key2, &back), ERR_STALE);
    strcpy(engine->caps.path, "other");
    tune_key(&device, engine, "abc 5 bytes", &wish, key2);
    CU_ASSERT_EQUAL(tune_load(path, key2, &back), ERR_STALE);
    strcpy(engine->caps.path, "c11");
    tune_key(&device, engine, "abd 5 bytes", &wish, key2);
    CU_ASSERT_EQUAL(tune_load(path, key2, &back), ERR_STALE);
    key[strlen(key) - 1] = '\0';
    CU_ASSERT_EQUAL(tune_load(path, key, &back), ERR_STALE);
    /* a disturbed result is good for a while */
    tune_key(&device, engine, "abc 5 bytes", &wish, key);
    c.is_disturbed = true;
    CU_ASSERT_EQUAL(tune_save(path, key, &c), ERR_NONE);
    CU_ASSERT_EQUAL(tune_load(path, key, &back), ERR_NONE);
    const struct utimbuf old = {time(NULL) - 3600, time(NULL) - 3600};
    CU_ASSERT_EQUAL(utime(path, &old), 0);
    CU_ASSERT_EQUAL(tune_load(path, key, &back), ERR_STALE);
    /* numbers out of range */
    c.is_disturbed = false;
    c.threads = 0;
    CU_ASSERT_EQUAL(tune_save(path, key, &c), ERR_NONE);
    CU_ASSERT_EQUAL(tune_load(path, key, &back), ERR_FORMAT);
    unlink(path);
    CU_ASSERT_EQUAL(tune_load(path, key, &back), ERR_NOT_FOUND);
    CU_ASSERT_EQUAL(tune_save("/nonexistent/x", key, &c), ERR_IO);
    close_tiny();
}

/* ---- a real model ---- */

static void count_beat(void *context)
{
    ++*(uint32_t *)context;
}

static void test_real(void)
{
    char reason[GGUF_REASON_BYTES];
    struct device_info device;
    struct model_options o = {.context = 0};
    const struct tune_wish wish = {.context = 256, .prompt = 128, .generate = 16};
    struct tune_choice c;
    struct model *m;
    uint32_t beats = 0;
    open_tiny(2);
    CU_ASSERT_EQUAL(device_probe(NULL, &device), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(tune_fit(tiny, engine, &device, &wish, &c, reason), ERR_NONE);
    tune_options(&c, &o);
    CU_ASSERT_EQUAL_FATAL(model_open(tiny, engine, &o, &m, reason), ERR_NONE);
    CU_ASSERT_EQUAL(tune_measure(engine, m, &device, &wish, 0.5, count_beat, &beats, &c), ERR_NONE);
    CU_ASSERT_TRUE(c.threads == 1 || c.threads == 2);
    CU_ASSERT_TRUE(c.chunk >= TUNE_CHUNK_LEAST && c.chunk <= o.batch);
    CU_ASSERT_TRUE(c.decode_tok_s > 0 && c.samples >= 2 && beats == c.samples);
    CU_ASSERT_EQUAL(model_length(m, 0), 0);
    CU_ASSERT_EQUAL(tune_apply(engine, m, &c), ERR_NONE);
    CU_ASSERT_EQUAL(engine->threads, c.threads);
    CU_ASSERT_EQUAL(model_info(m)->batch, c.chunk);
    const uint32_t tokens[600] = {1};
    CU_ASSERT_EQUAL(model_prefill(m, 0, tokens, 200), ERR_NONE);
    CU_ASSERT_EQUAL(model_length(m, 0), 200);
    model_close(m);
    close_tiny();
}

RUN_SUITE("tune", {"race", test_race}, {"slow", test_slow}, {"throttled", test_throttled},
          {"failing", test_failing}, {"fit", test_fit}, {"estimate", test_estimate}, {"store", test_store},
          {"real", test_real})
