/* latent_bench.c: from which length on does attention over cached latents beat attention over cached heads?
 *
 *   latent_bench [PLUGIN [THREADS]]
 *
 * One layer of DeepSeek-V2-Lite's shape, one new token: 16 heads of 128 + 64 for keys and 128 for values, rank 512.
 * Heads: the latent is turned into the heads' keys and values once (Wkv_b) and those are cached. Latents: queries
 * and results pass through Wk_b and Wv_b in each step, the cache holds 512 + 64 values for all heads. JSON lines:
 * medians in microseconds and bytes of cache; the last line says where latents begin to win. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "hal/engine.h"

enum { HEADS = 16, NOPE = 128, ROPE = 64, KEY = NOPE + ROPE, VALUE = 128, RANK = 512, LATENT = RANK + ROPE,
       LONGEST = 16384, SAMPLES = 21, WEIGHTS = 2 * HEADS };

static struct engine *engine;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static void must(enum err e, const char *what)
{
    if (e) {
        fprintf(stderr, "latent_bench: %s: %s\n", what, err_name(e));
        exit(4);
    }
}

static struct hal_mat make(uint32_t use, uint32_t type, uint32_t rows, uint32_t cols)
{
    struct hal_mat m = {.type = type, .use = use, .rows = rows, .cols = cols};
    must(engine->ops.mat_new(engine->dev, &m), "mat_new");
    const size_t row = (type == HAL_F32 ? 4u : 2u) * (size_t)cols;
    char *host = calloc(1, row);
    for (uint32_t i = 0; host && i < cols; i++) { /* about 0.1 everywhere: no subnormal numbers */
        const float single = 0.1f + (float)(i % 7) * 0.001f;
        const uint16_t half = (uint16_t)(0x2e00 + i % 64);
        memcpy(host + i * (row / cols), type == HAL_F32 ? (const void *)&single : (const void *)&half, row / cols);
    }
    for (uint32_t r = 0; r < rows; r++)
        must(engine->ops.mat_put(engine->dev, &m, r, 1, host, row), "mat_put");
    free(host);
    return m;
}

static int by_size(const void *a, const void *b)
{
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

struct layer {
    struct hal_mat k, v, q, y;        /* caches; what attention reads and gives */
    struct hal_mat x, up;             /* of the linears beside it */
    struct hal_mat *weight;           /* [weights] */
    uint32_t weights;
    struct hal_attend geometry;
    int is_latent;
};

/* Microseconds of one new token. */
static double step(const struct layer *l, uint32_t slots)
{
    const struct hal_span span = {0, slots};
    const uint32_t first[2] = {0, 1};
    struct hal_attend g = l->geometry;
    struct hal_mat one = l->y;
    float done;
    g.spans = &span;
    g.first = first;
    one.cols = 1;
    const double start = now();
    for (uint32_t w = 0; w < l->weights; w++) {
        struct hal_mat x = l->x, y = l->up;
        x.cols = l->weight[w].cols;
        y.cols = l->weight[w].rows;
        const struct hal_mat *const ys[] = {&y}, *const ws[] = {&l->weight[w]};
        must(engine->ops.matmul(engine->dev, ys, &x, ws, 1), "matmul");
    }
    must(engine->ops.attend(engine->dev, &l->y, &l->q, &l->k, l->is_latent ? &l->k : &l->v, &g), "attend");
    must(engine->ops.mat_get(engine->dev, &one, 0, 1, &done, sizeof done), "mat_get");
    return now() - start;
}

/* Medians of both, taken in turn. */
static void measure(struct layer *const both[2], uint32_t slots, double median[2])
{
    double sample[2][SAMPLES];
    for (int i = 0; i < SAMPLES; i++)
        for (int k = 0; k < 2; k++)
            sample[k][i] = step(both[k], slots);
    for (int k = 0; k < 2; k++) {
        qsort(sample[k], SAMPLES, sizeof sample[k][0], by_size);
        median[k] = sample[k][SAMPLES / 2];
    }
}

int main(int argc, char **argv)
{
    const struct engine_options options = {
        .plugin = argc > 1 ? argv[1] : NULL, .threads = argc > 2 ? (uint32_t)atoi(argv[2]) : 1, .is_unchecked = 1};
    struct hal_mat expand[1], absorb[WEIGHTS];
    must(engine_open(&options, &engine, NULL), "engine");
    expand[0] = make(HAL_WEIGHT, HAL_F16, HEADS * (NOPE + VALUE), RANK);
    for (int h = 0; h < WEIGHTS; h++)
        absorb[h] = h < HEADS ? make(HAL_WEIGHT, HAL_F16, RANK, NOPE) : make(HAL_WEIGHT, HAL_F16, VALUE, RANK);
    struct layer heads = {.weight = expand, .weights = 1,
                          .geometry = {.heads = HEADS, .kv_heads = HEADS, .key_dim = KEY, .value_dim = VALUE, .scale = 0.07f}};
    struct layer latents = {.weight = absorb, .weights = WEIGHTS, .is_latent = 1,
                            .geometry = {.heads = HEADS, .kv_heads = 1, .key_dim = LATENT, .value_dim = RANK, .scale = 0.07f}};
    heads.k = make(HAL_CACHE, HAL_F16, LONGEST, HEADS * KEY);
    heads.v = make(HAL_CACHE, HAL_F16, LONGEST, HEADS * VALUE);
    latents.k = make(HAL_CACHE, HAL_F16, LONGEST, LATENT);
    struct layer *const both[] = {&heads, &latents};
    for (int i = 0; i < 2; i++) {
        both[i]->q = make(HAL_ACTIVATION, HAL_F32, 1, HEADS * both[i]->geometry.key_dim);
        both[i]->y = make(HAL_ACTIVATION, HAL_F32, 1, HEADS * both[i]->geometry.value_dim);
        both[i]->x = make(HAL_ACTIVATION, HAL_F32, 1, RANK);
        both[i]->up = make(HAL_ACTIVATION, HAL_F32, 1, HEADS * (NOPE + VALUE));
    }
    uint32_t crossover = 0;
    for (uint32_t slots = 16; slots <= LONGEST; slots *= 2) {
        double median[2];
        measure(both, slots, median);
        const double a = median[0], b = median[1];
        printf("{\"plugin\":\"%s\",\"tokens\":%u,\"heads_us\":%.1f,\"latents_us\":%.1f,\"ratio\":%.2f,"
               "\"heads_bytes\":%u,\"latents_bytes\":%u}\n", engine->ops.name, slots, a, b, a / b,
               2 * slots * HEADS * (KEY + VALUE), 2 * slots * LATENT);
        crossover = b < a ? (crossover ? crossover : slots) : 0;
    }
    printf("{\"plugin\":\"%s\",\"latents_win_from\":%u}\n", engine->ops.name, crossover);
    return 0; /* the process ends: nothing is freed one by one */
}
