/* ceiling.c: threads that read, multiply in vectors and multiply in tiles, each phase together. */
#include "hal/ceiling.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "hal/device_int8.h"

enum {
    THREADS_MAX = 256,
    LINE = 64,
    HUGE_PAGE = 2 << 20,
    AHEAD = 3072, /* bytes */
    STREAMS = 4,  /* read at once: more pages in flight than one stream's prefetchers open */
    INT8_ROUNDS = 20000,
    TILE_ROUNDS = 20000,
    TILE_PRODUCTS = 4 * 16 * 16 * 64 /* multiply-adds of a round */
};

enum phase { READ, INT8, TILE, PHASES };

#define UNROLL _Pragma("GCC unroll 4")

struct common {
    _Atomic int is_started;
    uint32_t limit_ms;
    struct device_int8 int8;
    int has_tiles;
};

struct runner {
    struct common *common;
    const char *bytes; /* this thread's part */
    size_t count;
    double best[PHASES]; /* work per second */
    uint64_t sink;
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* The fastest of three ways: one stream as the machine prefetches it, one prefetched by hand, or four. */
static uint64_t read_once(const char *bytes, size_t count, uint32_t way)
{
    __attribute__((vector_size(16))) uint64_t sum[4] = {{0}}, part;
    const uint32_t streams = way == 2 ? STREAMS : 1;
    const size_t each = count / streams / LINE * LINE;
    for (size_t i = 0; i < each; i += LINE)
        for (uint32_t s = 0; s < streams; s++) {
            const char *line = bytes + s * each + i;
            if (way != 0)
                __builtin_prefetch(line + AHEAD);
            UNROLL for (size_t k = 0; k < 4; k++)
            {
                memcpy(&part, line + 16 * k, sizeof part);
                sum[k] += part;
            }
        }
    sum[0] += sum[1] + sum[2] + sum[3];
    return sum[0][0] + sum[0][1];
}

#if defined(__x86_64__)
struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

static int ask_for_tiles(uint32_t features)
{
    enum { ARCH_REQUEST_XCOMP = 0x1023, XFEATURE_TILE_DATA = 18 };
    return (features & DEVICE_AMX_INT8) != 0 &&
           syscall(SYS_arch_prctl, ARCH_REQUEST_XCOMP, XFEATURE_TILE_DATA) == 0;
}

/* Four sums, so that none waits for the one before. */
static void run_tiles(void)
{
    static const struct tile_config config = {.palette = 1,
                                              .row_bytes = {64, 64, 64, 64, 64, 64},
                                              .rows = {16, 16, 16, 16, 16, 16}};
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
    for (uint32_t r = 0; r < TILE_ROUNDS; r++)
        __asm__ volatile("tdpbssd %tmm5, %tmm4, %tmm0\n\ttdpbssd %tmm5, %tmm4, %tmm1\n\t"
                         "tdpbssd %tmm5, %tmm4, %tmm2\n\ttdpbssd %tmm5, %tmm4, %tmm3");
    __asm__ volatile("tilerelease");
}
#else
static int ask_for_tiles(uint32_t features)
{
    (void)features;
    return 0;
}

static void run_tiles(void)
{
}
#endif

/* One pass; returns the work done. */
static double pass(struct runner *r, enum phase phase, uint32_t number)
{
    const struct common *c = r->common;
    if (phase == READ) {
        r->sink += read_once(r->bytes, r->count, number % 3);
        return (double)r->count;
    }
    if (phase == INT8) {
        r->sink += (uint64_t)(uint32_t)c->int8.run(INT8_ROUNDS);
        return 2.0 * INT8_ROUNDS * c->int8.products;
    }
    run_tiles();
    return 2.0 * TILE_ROUNDS * TILE_PRODUCTS;
}

static void *run(void *argument)
{
    struct runner *r = argument;
    while (!atomic_load(&r->common->is_started))
        sched_yield();
    for (int phase = READ; phase < PHASES; phase++) {
        if (phase == TILE && !r->common->has_tiles)
            break;
        const double start = now_s();
        double before = start;
        for (uint32_t number = 0; number < 3 || (before - start) * 1e3 < r->common->limit_ms; number++) {
            const double work = pass(r, (enum phase)phase, number), after = now_s();
            const double speed = work / (after > before ? after - before : 1);
            r->best[phase] = speed > r->best[phase] ? speed : r->best[phase];
            before = after;
        }
    }
    return NULL;
}

/* Phases take equal times, so threads that begin together stay together. */
static void run_together(struct common *c, struct runner *runners, uint32_t threads)
{
    pthread_t thread[THREADS_MAX];
    uint32_t started = 1;
    while (started < threads && pthread_create(&thread[started], NULL, run, &runners[started]) == 0)
        started++;
    atomic_store(&c->is_started, 1);
    run(&runners[0]);
    for (uint32_t i = 1; i < started; i++)
        pthread_join(thread[i], NULL);
}

enum err ceiling_measure(uint32_t threads, size_t bytes, uint32_t limit_ms, struct ceiling *out)
{
    struct device_info info;
    memset(out, 0, sizeof *out);
    if (threads == 0 || threads > THREADS_MAX || bytes / threads < LINE || limit_ms == 0)
        return ERR_ARGUMENT;
    enum err e = device_probe(NULL, &info);
    if (e != ERR_NONE)
        return e;
    struct runner *runners = calloc(threads, sizeof *runners);
    char *buffer = aligned_alloc(HUGE_PAGE, (bytes + AHEAD + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
    struct common common = {.limit_ms = limit_ms,
                            .int8 = device_int8_best(info.features),
                            .has_tiles = ask_for_tiles(info.features)};
    if (runners == NULL || buffer == NULL) {
        e = ERR_MEMORY;
        goto out;
    }
    (void)madvise(buffer, bytes + AHEAD, MADV_HUGEPAGE); /* as weights are held */
    memset(buffer, 3, bytes + AHEAD); /* real pages, not the shared zero page */
    const size_t part = bytes / threads / LINE * LINE;
    for (uint32_t i = 0; i < threads; i++)
        runners[i] = (struct runner){.common = &common, .bytes = buffer + i * part, .count = part};
    run_together(&common, runners, threads);
    for (uint32_t i = 0; i < threads; i++) {
        out->read_gbs += runners[i].best[READ] * 1e-9;
        out->int8_gops += runners[i].best[INT8] * 1e-9;
        out->tile_gops += runners[i].best[TILE] * 1e-9;
    }
out:
    free(buffer);
    free(runners);
    return e;
}
