/* device_speed.c: what memory and integer arithmetic reach, measured for a moment. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "hal/device.h"

enum { THREADS_MAX = 64, BUFFER_BYTES = 64 << 20, BUFFER_LEAST = 4 << 20, INT8_BYTES = 4096 };

struct runner {
    const uint64_t *words; /* this thread's part of the buffer */
    size_t count;
    uint32_t limit_ms;
    double gbs, gops;
    uint64_t sink; /* keeps the loops from being dropped */
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint64_t read_once(const uint64_t *words, size_t count)
{
    uint64_t sum[8] = {0};
    for (size_t i = 0; i + 8 <= count; i += 8)
        for (int k = 0; k < 8; k++)
            sum[k] += words[i + (size_t)k];
    return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

static int32_t multiply_once(const int8_t *a, const int8_t *b)
{
    int32_t sum = 0;
    for (int i = 0; i < INT8_BYTES; i++)
        sum += a[i] * b[i];
    return sum;
}

static void *run(void *argument)
{
    struct runner *r = argument;
    const double half = (double)r->limit_ms * 0.5e-3;
    double start = now_s(), best = 1e9, end;
    do {
        const double before = now_s();
        r->sink += read_once(r->words, r->count);
        end = now_s();
        best = end - before < best ? end - before : best;
    } while (end - start < half);
    r->gbs = best > 0 ? (double)r->count * 8e-9 / best : 0;
    const int8_t *bytes = (const int8_t *)r->words;
    uint64_t rounds = 0;
    best = 1e9;
    start = now_s();
    do {
        const double before = now_s();
        for (int i = 0; i < 64; i++)
            r->sink += (uint64_t)multiply_once(bytes, bytes + 64 * i);
        end = now_s();
        best = end - before < best ? end - before : best;
        rounds++;
    } while (end - start < half);
    r->gops = best > 0 ? 64.0 * INT8_BYTES * 2 * 1e-9 / best : 0;
    return NULL;
}

enum err device_measure(uint32_t threads, uint32_t limit_ms, struct device_speed *out)
{
    struct runner runners[THREADS_MAX];
    pthread_t thread[THREADS_MAX];
    uint32_t started = 0;
    if (threads == 0 || limit_ms == 0 || out == NULL)
        return ERR_ARGUMENT;
    if (threads > THREADS_MAX)
        threads = THREADS_MAX;
    size_t bytes = BUFFER_BYTES;
    char *buffer = malloc(bytes);
    while (buffer == NULL && bytes > BUFFER_LEAST)
        buffer = malloc(bytes /= 2);
    if (buffer == NULL)
        return ERR_MEMORY;
    memset(buffer, 3, bytes); /* real pages, not the shared zero page */
    const size_t part = bytes / threads / 64 * 64;
    for (uint32_t i = 0; i < threads; i++)
        runners[i] = (struct runner){.words = (const uint64_t *)(buffer + i * part),
                                     .count = part / 8,
                                     .limit_ms = limit_ms};
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
