/* device_speed.c: what memory and integer arithmetic reach, measured for a moment. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "hal/device_int8.h"

enum { THREADS_MAX = 64, BUFFER_BYTES = 64 << 20, BUFFER_LEAST = 4 << 20, INT8_ROUNDS = 20000 };

struct runner {
    const char *bytes; /* this thread's part of the buffer */
    size_t count;
    uint32_t limit_ms;
    struct device_int8 int8;
    double gbs, gops;
    uint64_t sink; /* keeps the loops from being dropped */
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* 32 bytes at a time in four chains; the compiler makes of it what this build's target has. */
static uint64_t read_once(const char *bytes, size_t count)
{
    __attribute__((vector_size(32))) uint64_t sum[4] = {{0}}, part;
    for (size_t i = 0; i + 128 <= count; i += 128)
        for (size_t k = 0; k < 4; k++) {
            memcpy(&part, bytes + i + 32 * k, sizeof part);
            sum[k] += part;
        }
    sum[0] += sum[1] + sum[2] + sum[3];
    return sum[0][0] + sum[0][1] + sum[0][2] + sum[0][3];
}

static void *run(void *argument)
{
    struct runner *r = argument;
    const double half = (double)r->limit_ms * 0.5e-3;
    double start = now_s(), best = 1e9, end;
    do {
        const double before = now_s();
        r->sink += read_once(r->bytes, r->count);
        end = now_s();
        best = end - before < best ? end - before : best;
    } while (end - start < half);
    r->gbs = best > 0 ? (double)r->count * 1e-9 / best : 0;
    best = 1e9;
    start = now_s();
    do {
        const double before = now_s();
        r->sink += (uint64_t)(uint32_t)r->int8.run(INT8_ROUNDS);
        end = now_s();
        best = end - before < best ? end - before : best;
    } while (end - start < half);
    r->gops = best > 0 ? 2e-9 * INT8_ROUNDS * r->int8.products / best : 0;
    return NULL;
}

enum err device_measure(uint32_t threads, uint32_t limit_ms, struct device_speed *out)
{
    struct runner runners[THREADS_MAX];
    pthread_t thread[THREADS_MAX];
    struct device_info info;
    uint32_t started = 0;
    if (threads == 0 || limit_ms == 0 || out == NULL)
        return ERR_ARGUMENT;
    if (threads > THREADS_MAX)
        threads = THREADS_MAX;
    const enum err e = device_probe(NULL, &info);
    if (e != ERR_NONE)
        return e;
    size_t bytes = BUFFER_BYTES;
    char *buffer = malloc(bytes);
    while (buffer == NULL && bytes > BUFFER_LEAST)
        buffer = malloc(bytes /= 2);
    if (buffer == NULL)
        return ERR_MEMORY;
    memset(buffer, 3, bytes); /* real pages, not the shared zero page */
    const size_t part = bytes / threads / 64 * 64;
    for (uint32_t i = 0; i < threads; i++)
        runners[i] = (struct runner){.bytes = buffer + i * part,
                                     .count = part,
                                     .limit_ms = limit_ms,
                                     .int8 = device_int8_best(info.features)};
    while (started + 1 < threads &&
           pthread_create(&thread[started], NULL, run, &runners[started + 1]) == 0)
        started++;
    run(&runners[0]);
    *out = (struct device_speed){runners[0].gbs, runners[0].gops};
    for (uint32_t i = 0; i < started; i++) {
        pthread_join(thread[i], NULL);
        out->read_gbs += runners[i + 1].gbs;
        out->int8_gops += runners[i + 1].gops;
    }
    free(buffer);
    return ERR_NONE;
}
