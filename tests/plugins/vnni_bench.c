/* vnni_bench: the matrix product of one shape on one path: best of many samples, one JSON line each.
 *
 *   vnni_bench [PATH|-] [THREADS] [ROWS] [COLS] [TOKENS] [TYPE...]
 */
#include "tests/plugins/vnni_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SAMPLES = 9 };

/* One thread is timed by what it ran, so that other work on the machine counts less. */
static double seconds(uint32_t threads)
{
    struct timespec t;
    clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *plain_alloc(size_t bytes)
{
    return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

static void plain_release(void *p, size_t bytes)
{
    (void)bytes;
    free(p);
}

static void no_log(int level, const char *message)
{
    (void)level;
    (void)message;
}

/* Weights of several matrices, together beyond the caches, are read in turn. */
static int bench(const struct hal_plugin *p, void *dev, const struct block_type *type, uint32_t rows,
                 uint32_t cols, uint32_t tokens, uint32_t threads)
{
    const size_t bytes = block_row_bytes(type->type, cols) * rows;
    const uint32_t copies = tokens == 1 && getenv("CACHED") == NULL ? (uint32_t)((256u << 20) / bytes + 1) : 2;
    struct hal_mat x = {NULL, HAL_F32, HAL_ACTIVATION, tokens, cols};
    struct hal_mat y = {NULL, HAL_F32, HAL_ACTIVATION, tokens, rows};
    struct hal_mat *w = calloc(copies, sizeof *w);
    uint8_t *blocks = malloc(bytes);
    int ok = w != NULL && blocks != NULL && p->mat_new(dev, &x) == ERR_NONE &&
             p->mat_new(dev, &y) == ERR_NONE;
    if (ok) {
        vnni_fixture_blocks(type->type, blocks, bytes, VNNI_PATTERN_NORMAL, 1);
        vnni_fixture_fill(x.mem, (size_t)tokens * cols, VNNI_PATTERN_NORMAL, 2);
    }
    for (uint32_t i = 0; ok && i < copies; i++) {
        w[i] = (struct hal_mat){NULL, type->type, HAL_WEIGHT, rows, cols};
        ok = p->mat_new(dev, &w[i]) == ERR_NONE &&
             p->mat_put(dev, &w[i], 0, rows, blocks, bytes) == ERR_NONE;
    }
    double best = 1e9;
    for (int sample = 0; ok && sample < SAMPLES; sample++) {
        const double start = seconds(threads);
        for (uint32_t i = 0; i < copies; i++) {
            const struct hal_mat *one_y = &y, *one_w = &w[i];
            ok &= p->matmul(dev, &one_y, &x, &one_w, 1) == ERR_NONE;
        }
        const double each = (seconds(threads) - start) / copies;
        best = each < best ? each : best;
    }
    printf("{\"type\":\"%s\",\"rows\":%u,\"cols\":%u,\"tokens\":%u,\"us\":%.1f,\"gops\":%.1f,"
           "\"gb_per_s\":%.2f}\n",
           type->name, rows, cols, tokens, best * 1e6, 2e-9 * rows * cols * tokens / best,
           1e-9 * (double)bytes / best);
    for (uint32_t i = 0; w != NULL && i < copies; i++)
        p->mat_free(dev, &w[i]);
    p->mat_free(dev, &x);
    p->mat_free(dev, &y);
    free(w);
    free(blocks);
    return ok;
}

int main(int argc, char **argv)
{
    const char *path = argc > 1 && strcmp(argv[1], "-") != 0 ? argv[1] : NULL;
    uint32_t numbers[4] = {1, 4864, 1024, 1}; /* threads, rows, cols, tokens */
    for (int i = 0; i < 4 && i + 2 < argc; i++)
        numbers[i] = (uint32_t)strtoul(argv[i + 2], NULL, 10);
    const struct hal_plugin *p = hal_plugin_entry();
    const struct hal_host host = {plain_alloc, plain_release, no_log, numbers[0], path};
    void *dev;
    if (p->open(&host, &dev) != ERR_NONE) {
        fprintf(stderr, "vnni_bench: this machine has no path \"%s\"\n", path == NULL ? "" : path);
        return 4;
    }
    static const char *const all[] = {"Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K",  "Q2_K",
                                      "Q3_K", "Q4_1", "Q5_0", "IQ4_NL", "IQ4_XS", "F16"};
    int ok = 1;
    for (int i = 0; i < (argc > 6 ? argc - 6 : 12); i++) {
        const struct block_type *type = block_type_by_name(argc > 6 ? argv[6 + i] : all[i]);
        ok &= type != NULL && bench(p, dev, type, numbers[1], numbers[2], numbers[3],
                                      numbers[0]);
    }
    p->close(dev);
    return ok ? 0 : 3;
}
