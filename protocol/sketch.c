/* sketch.c: integer log-linear buckets. */
#include "protocol/sketch.h"

#include <string.h>

enum { LINEAR = 16, STEPS = 8, STEP_BITS = 3, VALUE_BITS = 40 };

uint32_t sketch_bucket(uint64_t value)
{
    if (value < LINEAR)
        return (uint32_t)value;
    if (value >> VALUE_BITS)
        return SKETCH_BUCKETS - 1;
    uint32_t top = 63 - (uint32_t)__builtin_clzll(value); /* 4 .. 39 */
    return LINEAR + (top - 4) * STEPS + (uint32_t)(value >> (top - STEP_BITS) & (STEPS - 1));
}

uint64_t sketch_bucket_start(uint32_t bucket)
{
    if (bucket < LINEAR)
        return bucket;
    if (bucket >= SKETCH_BUCKETS)
        return UINT64_C(1) << VALUE_BITS;
    uint32_t top = 4 + (bucket - LINEAR) / STEPS;
    return (uint64_t)(STEPS + (bucket - LINEAR) % STEPS) << (top - STEP_BITS);
}

void sketch_clear(struct sketch *s)
{
    memset(s, 0, sizeof *s);
}

static uint64_t add_saturated(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

void sketch_add(struct sketch *s, uint64_t value)
{
    if (s->count == 0 || value < s->least)
        s->least = value;
    if (value > s->most)
        s->most = value;
    s->count++;
    s->sum = add_saturated(s->sum, value);
    s->bucket[sketch_bucket(value)]++;
}

void sketch_merge(struct sketch *into, const struct sketch *from)
{
    if (from->count == 0)
        return;
    if (into->count == 0 || from->least < into->least)
        into->least = from->least;
    if (from->most > into->most)
        into->most = from->most;
    into->count = add_saturated(into->count, from->count);
    into->sum = add_saturated(into->sum, from->sum);
    for (uint32_t i = 0; i < SKETCH_BUCKETS; i++)
        into->bucket[i] = add_saturated(into->bucket[i], from->bucket[i]);
}

uint64_t sketch_quantile(const struct sketch *s, double q)
{
    if (s->count == 0)
        return 0;
    if (!(q > 0.0))
        return s->least;
    if (q >= 1.0)
        return s->most;
    double rank = q * (double)s->count;
    uint64_t seen = 0;
    for (uint32_t i = 0; i < SKETCH_BUCKETS; i++) {
        seen = add_saturated(seen, s->bucket[i]);
        if ((double)seen <= rank && seen != s->count)
            continue;
        uint64_t start = sketch_bucket_start(i);
        uint64_t middle = start + (sketch_bucket_start(i + 1) - start) / 2;
        return middle < s->least ? s->least : middle > s->most ? s->most : middle;
    }
    return s->most;
}

double sketch_mean(const struct sketch *s)
{
    return s->count ? (double)s->sum / (double)s->count : 0.0;
}
