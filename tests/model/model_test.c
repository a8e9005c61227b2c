/* model_test.c: a small random llama against its definition written out in F64; batches, chunks, shared
 * pages and errors give the same logits; a step allocates nothing. */
#include "tests/harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hal/engine.h"
#include "hal/half.h"
#include "model/model.h"

enum { WIDTH = 64, HEADS = 4, KV_HEADS = 2, DIM = 32, FFN = 96, WORDS = 50, LAYERS = 2, LENGTH = 90 };

static struct engine *engine;
static char path[] = "/tmp/model_test.XXXXXX";
static char reason[GGUF_REASON_BYTES];
static uint32_t text[LENGTH];
static double wanted[LENGTH][WORDS]; /* logits of the definition */

/* ---- allocations are counted by the linker's --wrap ---- */

static _Atomic long allocations;
void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *p, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *p, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);

void *__wrap_malloc(size_t bytes)
{
    allocations++;
    return __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    allocations++;
    return __real_calloc(count, bytes);
}

void *__wrap_realloc(void *p, size_t bytes)
{
    allocations++;
    return __real_realloc(p, bytes);
}

void *__wrap_aligned_alloc(size_t alignment, size_t bytes)
{
    allocations++;
    return __real_aligned_alloc(alignment, bytes);
}

/* ---- the weights: a function of tensor, row and column ---- */

static float weight(const char *name, uint32_t index)
{
    uint32_t h = 2166136261u ^ index * 2654435761u;
    for (const char *p = name; *p; p++)
        h = (h ^ (uint8_t)*p) * 16777619u;
    h ^= h >> 15;
    h *= 2246822519u;
    h ^= h >> 13;
    const float x = (float)(h >> 8) / 16777216.0f - 0.5f;
    return strstr(name, "norm") ? 1 + x : half_f16_to_f32(half_f32_to_f16(x * 0.4f));
}

static void matrix(const char *name, uint32_t rows, uint32_t cols, const double *x, double *y)
{
    for (uint32_t r = 0; r < rows; r++) {
        y[r] = 0;
        for (uint32_t c = 0; c < cols; c++)
            y[r] += (double)weight(name, r * cols + c) * x[c];
    }
}

static void normalise(const char *name, const double *x, double *y)
{
    double sum = 0;
    for (int i = 0; i < WIDTH; i++)
        sum += x[i] * x[i];
    for (uint32_t i = 0; i < WIDTH; i++)
        y[i] = x[i] / sqrt(sum / WIDTH + 1e-5) * (double)weight(name, i);
}

static const char *name_of(int layer, const char *part)
{
    static char name[64];
    snprintf(name, sizeof name, "blk.%d.%s.weight", layer, part);
    return name;
}

static void turn(double *x, int heads, int position)
{
    for (int h = 0; h < heads; h++)
        for (int p = 0; p < DIM / 2; p++) {
            const double angle = position * pow(10000, -2.0 * p / DIM);
            double *a = &x[h * DIM + 2 * p], *b = a + 1;
            const double u = *a * cos(angle) - *b * sin(angle), v = *a * sin(angle) + *b * cos(angle);
            *a = u;
            *b = v;
        }
}

static double keys[LAYERS][LENGTH][KV_HEADS * DIM], values[LAYERS][LENGTH][KV_HEADS * DIM];

static void attend(int layer, int position, int window, const double *q, double *out)
{
    for (int h = 0; h < HEADS; h++) {
        double score[LENGTH], sum = 0;
        const int kv = h / (HEADS / KV_HEADS) * DIM;
        const int low = window && position + 1 > window ? position + 1 - window : 0;
        for (int t = low; t <= position; t++) {
            double dot = 0;
            for (int i = 0; i < DIM; i++)
                dot += q[h * DIM + i] * keys[layer][t][kv + i];
            score[t] = exp(dot / sqrt(DIM));
            sum += score[t];
        }
        for (int i = 0; i < DIM; i++) {
            out[h * DIM + i] = 0;
            for (int t = low; t <= position; t++)
                out[h * DIM + i] += score[t] / sum * values[layer][t][kv + i];
        }
    }
}

static void define(int window)
{
    for (int t = 0; t < LENGTH; t++) {
        double x[WIDTH], h[WIDTH], q[HEADS * DIM], a[HEADS * DIM], y[WIDTH], gate[FFN], up[FFN];
        for (uint32_t i = 0; i < WIDTH; i++)
            x[i] = (double)weight("token_embd.weight", text[t] * WIDTH + i);
        for (int l = 0; l < LAYERS; l++) {
            normalise(name_of(l, "attn_norm"), x, h);
            matrix(name_of(l, "attn_q"), HEADS * DIM, WIDTH, h, q);
            matrix(name_of(l, "attn_k"), KV_HEADS * DIM, WIDTH, h, keys[l][t]);
            matrix(name_of(l, "attn_v"), KV_HEADS * DIM, WIDTH, h, values[l][t]);
            turn(q, HEADS, t);
            turn(keys[l][t], KV_HEADS, t);
            attend(l, t, window, q, a);
            matrix(name_of(l, "attn_output"), WIDTH, HEADS * DIM, a, y);
            for (int i = 0; i < WIDTH; i++)
                x[i] += y[i];
            normalise(name_of(l, "ffn_norm"), x, h);
            matrix(name_of(l, "ffn_gate"), FFN, WIDTH, h, gate);
            matrix(name_of(l, "ffn_up"), FFN, WIDTH, h, up);
            for (int i = 0; i < FFN; i++)
                gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
            matrix(name_of(l, "ffn_down"), WIDTH, FFN, gate, y);
            for (int i = 0; i < WIDTH; i++)
                x[i] += y[i];
        }
        normalise("output_norm.weight", x, h);
        matrix("token_embd.weight", WORDS, WIDTH, h, wanted[t]);
    }
}

/* ---- the same as a file ---- */

static void announce(struct gguf_writer *w, const char *name, uint64_t rows, uint64_t cols)
{
    const uint64_t shape[] = {cols, rows};
    CU_ASSERT_EQUAL_FATAL(gguf_writer_tensor(w, name, rows > 1 ? HAL_F16 : HAL_F32, rows > 1 ? 2 : 1, shape),
                          ERR_NONE);
}

static void append(struct gguf_writer *w, const char *name, uint64_t rows, uint64_t cols)
{
    for (uint32_t i = 0; i < rows * cols; i++) {
        const float x = weight(name, i);
        const uint16_t half = half_f32_to_f16(x);
        CU_ASSERT_EQUAL_FATAL(rows > 1 ? gguf_writer_append(w, &half, 2) : gguf_writer_append(w, &x, 4),
                              ERR_NONE);
    }
}

static void each_tensor(struct gguf_writer *w,
                        void (*visit)(struct gguf_writer *, const char *, uint64_t, uint64_t))
{
    visit(w, "token_embd.weight", WORDS, WIDTH);
    for (int l = 0; l < LAYERS; l++) {
        visit(w, name_of(l, "attn_norm"), 1, WIDTH);
        visit(w, name_of(l, "attn_q"), HEADS * DIM, WIDTH);
        visit(w, name_of(l, "attn_k"), KV_HEADS * DIM, WIDTH);
        visit(w, name_of(l, "attn_v"), KV_HEADS * DIM, WIDTH);
        visit(w, name_of(l, "attn_output"), WIDTH, HEADS * DIM);
        visit(w, name_of(l, "ffn_norm"), 1, WIDTH);
        visit(w, name_of(l, "ffn_gate"), FFN, WIDTH);
        visit(w, name_of(l, "ffn_up"), FFN, WIDTH);
        visit(w, name_of(l, "ffn_down"), WIDTH, FFN);
    }
    visit(w, "output_norm.weight", 1, WIDTH);
}

static void write_model(uint32_t window, const char *architecture, uint32_t kv_heads)
{
    struct gguf_writer *w = NULL;
    CU_ASSERT_EQUAL_FATAL(gguf_writer_open(path, 32, &w), ERR_NONE);
    CU_ASSERT(!gguf_writer_string(w, "general.architecture", architecture, strlen(architecture)));
    CU_ASSERT(!gguf_writer_u32(w, "llama.block_count", LAYERS));
    CU_ASSERT(!gguf_writer_u32(w, "llama.embedding_length", WIDTH));
    CU_ASSERT(!gguf_writer_u32(w, "llama.feed_forward_length", FFN));
    CU_ASSERT(!gguf_writer_u32(w, "llama.attention.head_count", HEADS));
    CU_ASSERT(!gguf_writer_u32(w, "llama.attention.head_count_kv", kv_heads));
    CU_ASSERT(!gguf_writer_u32(w, "llama.attention.key_length", DIM)); /* not width / heads */
    CU_ASSERT(!gguf_writer_u32(w, "llama.context_length", 128));
    CU_ASSERT(!gguf_writer_u32(w, "llama.attention.sliding_window", window));
    each_tensor(w, announce);
    CU_ASSERT(!gguf_writer_begin(w, 0));
    each_tensor(w, append);
    CU_ASSERT(!gguf_writer_commit(w));
    gguf_writer_close(w);
}

static struct model *open_model(const struct model_options *options)
{
    struct gguf *g = NULL;
    struct model *m = NULL;
    CU_ASSERT_EQUAL_FATAL(gguf_open(path, &g, reason), ERR_NONE);
    const enum err e = model_open(g, engine, options, &m, reason);
    if (e)
        printf("%s\n", reason);
    CU_ASSERT_EQUAL_FATAL(e, ERR_NONE);
    gguf_close(g);
    return m;
}

/* Output row against the definition at a position. */
static void check_row(struct model *m, uint32_t row, int position, double tolerance)
{
    const float *logits = NULL;
    double worst = 0;
    CU_ASSERT_EQUAL_FATAL(model_logits(m, row, 1, &logits), ERR_NONE);
    for (int i = 0; i < WORDS; i++)
        worst = fmax(worst, fabs((double)logits[i] - wanted[position][i]));
    if (!(worst < tolerance))
        printf("position %d: %g\n", position, worst);
    CU_ASSERT(worst < tolerance);
}

static void start(void)
{
    const struct engine_options options = {.plugin = "scalar", .threads = 2};
    CU_ASSERT_EQUAL_FATAL(engine_open(&options, &engine, NULL), ERR_NONE);
    const int fd = mkstemp(path);
    CU_ASSERT_FATAL(fd >= 0);
    close(fd);
    for (uint32_t i = 0; i < LENGTH; i++)
        text[i] = (i * 29 + i * i) % WORDS;
}

static void equals_the_definition(void)
{
    static const uint32_t batches[] = {LENGTH, 7, 1};
    define(0);
    write_model(0, "llama", KV_HEADS);
    for (int b = 0; b < 3; b++) {
        struct model *m = open_model(&(struct model_options){.batch = batches[b], .head_rows = 3});
        CU_ASSERT_EQUAL(model_info(m)->vocabulary, WORDS);
        CU_ASSERT_EQUAL(model_info(m)->context, 128);
        for (uint32_t at = 0; at < LENGTH; at += batches[b]) {
            const uint32_t n = LENGTH - at < batches[b] ? LENGTH - at : batches[b];
            const struct model_run run = {0, n, n, text + at};
            CU_ASSERT_EQUAL(model_step(m, &run, 1), ERR_NONE);
            for (uint32_t i = 0; i < n; i++)
                check_row(m, i, (int)(at + i), 4e-3); /* an F16 cache */
        }
        CU_ASSERT_EQUAL(model_length(m, 0), LENGTH);
        model_close(m);
    }
}

static void window_slides(void)
{
    define(40);
    write_model(40, "llama", KV_HEADS);
    struct model *m = open_model(&(struct model_options){.batch = 10});
    for (uint32_t at = 0; at < LENGTH; at += 10) {
        const struct model_run run = {0, 10, 10, text + at};
        CU_ASSERT_EQUAL(model_step(m, &run, 1), ERR_NONE);
        for (uint32_t i = 0; i < 10; i++)
            check_row(m, i, (int)(at + i), 4e-3);
    }
    CU_ASSERT_EQUAL(model_truncate(m, 0, 89), 89);
    CU_ASSERT_EQUAL(model_prefill(m, 0, text + 89, 1), ERR_NONE);
    check_row(m, 0, 89, 4e-3);
    CU_ASSERT_EQUAL(model_truncate(m, 0, 5), 0); /* what it saw is gone */
    CU_ASSERT_EQUAL(model_prefill(m, 0, text, 60), ERR_NONE);
    check_row(m, 0, 59, 4e-3);
    model_close(m);
}

static void sequences_together(void)
{
    define(0);
    write_model(0, "llama", KV_HEADS);
    struct model *m = open_model(&(struct model_options){.sequences = 3, .batch = 64});
    uint32_t other[LENGTH];
    for (int i = 0; i < LENGTH; i++)
        other[i] = (uint32_t)(LENGTH - i) % WORDS;
    CU_ASSERT_EQUAL(model_prefill(m, 1, other, 30), ERR_NONE);
    CU_ASSERT_EQUAL(model_prefill(m, 0, text, 50), ERR_NONE);
    check_row(m, 0, 49, 4e-3);
    CU_ASSERT_EQUAL(model_share(m, 2, 0, 40), 40); /* a page and a part of one */
    for (uint32_t i = 40; i < LENGTH; i++) {       /* 2 catches up, 0 goes on, 1 disturbs */
        struct model_run runs[3] = {{2, 1, 1, text + i}, {1, 0, 1, other + i}, {0, 1, 1, text + i + 10}};
        CU_ASSERT_EQUAL(model_step(m, runs, i + 10 < LENGTH ? 3 : 2), ERR_NONE);
        check_row(m, 0, (int)i, 4e-3);
        if (i + 10 < LENGTH)
            check_row(m, 1, (int)i + 10, 4e-3);
    }
    /* A cut into a shared page falls back to its start, and the other sequence keeps its text. */
    CU_ASSERT_EQUAL(model_truncate(m, 2, 20), 0);
    CU_ASSERT_EQUAL(model_prefill(m, 2, other, 40), ERR_NONE);
    CU_ASSERT_EQUAL(model_truncate(m, 0, 89), 89);
    CU_ASSERT_EQUAL(model_prefill(m, 0, text + 89, 1), ERR_NONE);
    check_row(m, 0, 89, 4e-3);
    const uint32_t before = model_free_slots(m);
    for (uint32_t s = 0; s < 3; s++)
        CU_ASSERT_EQUAL(model_truncate(m, s, 0), 0);
    CU_ASSERT(model_free_slots(m) > before);
    CU_ASSERT_EQUAL(model_free_slots(m), 384);
    model_close(m);
}

static void small_caches(void)
{
    static const uint32_t types[] = {HAL_Q8_0, HAL_Q4_0};
    static const double tolerances[] = {0.06, 0.9};
    for (int i = 0; i < 2; i++) {
        struct model *m = open_model(&(struct model_options){.cache_k = types[i], .cache_v = types[i]});
        CU_ASSERT_EQUAL(model_info(m)->cache_bytes, 128u * LAYERS * 2 * KV_HEADS * (i ? 18 : 34));
        CU_ASSERT_EQUAL(model_prefill(m, 0, text, LENGTH), ERR_NONE);
        check_row(m, 0, LENGTH - 1, tolerances[i]);
        model_close(m);
    }
}

/* The few greatest logits, to the bit, without the rest. */
static void top_is_of_the_logits(void)
{
    enum { ROWS = 3, COUNT = 5 };
    struct model *m = open_model(NULL);
    const float *logits = NULL;
    uint32_t token[ROWS * COUNT];
    float logit[ROWS * COUNT];
    const struct model_run run = {0, ROWS, LENGTH, text};
    CU_ASSERT_EQUAL(model_step(m, &run, 1), ERR_NONE);
    CU_ASSERT_EQUAL(model_top(m, 0, ROWS, COUNT, token, logit), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(model_logits(m, 0, ROWS, &logits), ERR_NONE);
    for (uint32_t r = 0; r < ROWS; r++, logits += WORDS)
        for (uint32_t i = 0; i < COUNT; i++) {
            const uint32_t t = token[r * COUNT + i];
            uint32_t before = 0;
            CU_ASSERT_FATAL(t < WORDS);
            CU_ASSERT_EQUAL(logit[r * COUNT + i], logits[t]);
            for (uint32_t k = 0; k < WORDS; k++)
                before += logits[k] > logits[t] || (logits[k] == logits[t] && k < t);
            CU_ASSERT_EQUAL(before, i);
        }
    CU_ASSERT_EQUAL(model_top(m, ROWS, 1, COUNT, token, logit), ERR_ARGUMENT);
    CU_ASSERT_EQUAL(model_top(m, 0, 1, 0, token, logit), ERR_ARGUMENT);
    model_close(m);
}

static void allocates_nothing(void)
{
    struct model *m = open_model(&(struct model_options){.sequences = 2});
    const float *logits = NULL;
    const long before = allocations;
    const uint64_t used = engine_memory_used();
    CU_ASSERT(before > 0);
    for (uint32_t i = 0; i < 40; i++) {
        const struct model_run runs[] = {{0, 1, i ? 1 : 20, text + i}, {1, 1, 2, text + i}};
        CU_ASSERT_EQUAL(model_step(m, runs, 2), ERR_NONE);
        CU_ASSERT_EQUAL(model_logits(m, 0, 2, &logits), ERR_NONE);
    }
    CU_ASSERT_EQUAL(model_truncate(m, 0, 0), 0);
    CU_ASSERT_EQUAL(allocations, before);
    CU_ASSERT_EQUAL(engine_memory_used(), used);
    model_close(m);
}

struct watched {
    double sum[8]; /* of squares, per kind of tensor */
    uint32_t rows[8];
    int calls;
};

static void watch(void *context, const char *tensor, uint32_t part, const float *x, uint32_t rows,
                  uint32_t cols)
{
    static const char *const kinds[] = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up",
                                        "ffn_down"};
    struct watched *w = context;
    CU_ASSERT_EQUAL(part, 0);
    w->calls++;
    for (int k = 0; k < 7; k++)
        if (strstr(tensor, kinds[k])) {
            w->rows[k] += rows;
            CU_ASSERT_EQUAL(cols, k == 6 ? FFN : k == 3 ? HEADS * DIM : WIDTH);
            for (uint32_t i = 0; i < rows * cols; i++)
                w->sum[k] += (double)x[i] * (double)x[i];
        }
}

static void observer_sees_inputs(void)
{
    struct model *m = open_model(NULL);
    struct watched w = {0};
    const struct model_run run = {0, LENGTH, LENGTH, text};
    CU_ASSERT_EQUAL(model_observe(m, &(struct model_observer){.linear = watch, .context = &w}), ERR_NONE);
    CU_ASSERT_EQUAL(model_step(m, &run, 1), ERR_NONE);
    CU_ASSERT_EQUAL(w.calls, 7 * LAYERS);
    for (int k = 0; k < 7; k++)
        CU_ASSERT_EQUAL(w.rows[k], LENGTH * LAYERS);
    CU_ASSERT_EQUAL(w.sum[0], w.sum[1]);
    CU_ASSERT_EQUAL(w.sum[4], w.sum[5]);
    CU_ASSERT(w.sum[0] > 0 && w.sum[3] > 0 && w.sum[6] > 0 && w.sum[0] != w.sum[4]);
    CU_ASSERT_EQUAL(model_observe(m, NULL), ERR_NONE);
    model_truncate(m, 0, 0);
    CU_ASSERT_EQUAL(model_step(m, &run, 1), ERR_NONE);
    CU_ASSERT_EQUAL(w.calls, 7 * LAYERS);
    model_close(m);
}

static void refuses(void)
{
    struct model *m = open_model(&(struct model_options){.context = 64, .sequences = 2, .slots = 64});
    const float *logits = NULL;
    const uint32_t bad = WORDS;
    struct model_run runs[] = {{0, 0, 1, &bad}, {0, 0, 1, text}};
    CU_ASSERT_EQUAL(model_step(m, runs, 1), ERR_ARGUMENT);
    CU_ASSERT_EQUAL(model_step(m, runs, 0), ERR_ARGUMENT);
    runs[0].tokens = text;
    CU_ASSERT_EQUAL(model_step(m, runs, 2), ERR_ARGUMENT); /* twice the same sequence */
    runs[0].outputs = 2;
    CU_ASSERT_EQUAL(model_step(m, runs, 1), ERR_ARGUMENT);
    runs[0].outputs = 0;
    CU_ASSERT_EQUAL(model_step(m, runs, 1), ERR_NONE);
    CU_ASSERT_EQUAL(model_logits(m, 0, 1, &logits), ERR_ARGUMENT); /* none was asked for */
    CU_ASSERT_EQUAL(model_prefill(m, 1, text, 33), ERR_FULL);      /* one page is left */
    CU_ASSERT_EQUAL(model_length(m, 1), 0);
    CU_ASSERT_EQUAL(model_prefill(m, 1, text, 32), ERR_NONE);
    CU_ASSERT_EQUAL(model_prefill(m, 0, text, 64), ERR_FULL);
    CU_ASSERT_EQUAL(model_length(m, 0), 1);
    model_close(m);
    model_close(NULL);
}

static enum err try_open(void)
{
    struct gguf *g = NULL;
    struct model *m = NULL;
    CU_ASSERT_EQUAL_FATAL(gguf_open(path, &g, reason), ERR_NONE);
    const enum err e = model_open(g, engine, NULL, &m, reason);
    CU_ASSERT((e == ERR_NONE) == (m != NULL));
    model_close(m);
    gguf_close(g);
    return e;
}

static void refuses_files(void)
{
    const uint64_t used = engine_memory_used();
    write_model(0, "lamp", KV_HEADS);
    CU_ASSERT_EQUAL(try_open(), ERR_UNSUPPORTED);
    CU_ASSERT(strstr(reason, "the architecture lamp is unknown") != NULL);
    write_model(0, "llama", 4); /* tensors are of 2 */
    CU_ASSERT_EQUAL(try_open(), ERR_FORMAT);
    CU_ASSERT(strstr(reason, "expected blk.0.attn_k.weight of 64 x 128, found 64 x 64") != NULL);
    write_model(0, "llama", 3);
    CU_ASSERT_EQUAL(try_open(), ERR_FORMAT);
    CU_ASSERT_EQUAL(engine_memory_used(), used); /* a failed open keeps nothing */
}

static void finish(void)
{
    engine_close(engine);
    CU_ASSERT_EQUAL(engine_memory_used(), 0);
    CU_ASSERT_EQUAL(unlink(path), 0);
}

RUN_SUITE("model/model", {"start", start}, {"equals the definition", equals_the_definition},
          {"a window slides", window_slides}, {"sequences together", sequences_together},
          {"small caches", small_caches}, {"a step allocates nothing", allocates_nothing},
          {"the greatest logits", top_is_of_the_logits},
          {"the observer sees inputs", observer_sees_inputs}, {"refuses", refuses},
          {"refuses files", refuses_files}, {"finish", finish})
