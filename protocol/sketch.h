/* sketch.h: a log-bucket histogram of unsigned values that merges exactly.
 *
 * Buckets are fixed: values below 16 have one each, above there are 8 per power of two, so a
 * quantile is known within 6.25 %. Values of 2^40 and more count in the last bucket. No libm.
 * Source: the idea of HdrHistogram; DDSketch, arXiv:1908.10693.
 */
#ifndef SKETCH_H
#define SKETCH_H

#include <stdint.h>

#include "protocol/err.h"

enum { SKETCH_BUCKETS = 16 + 36 * 8 };

struct sketch {
    uint64_t count;
    uint64_t sum; /* saturates */
    uint64_t least;
    uint64_t most;
    uint64_t bucket[SKETCH_BUCKETS];
};

void sketch_clear(struct sketch *s);
void sketch_add(struct sketch *s, uint64_t value);
/* into += from; the same whatever the order of merges. */
void sketch_merge(struct sketch *into, const struct sketch *from);
/* The value below which the share q (0 .. 1) of the values lies: the middle of its bucket, kept
 * within least .. most. 0 when empty. */
uint64_t sketch_quantile(const struct sketch *s, double q);
double sketch_mean(const struct sketch *s);
uint32_t sketch_bucket(uint64_t value);
/* Smallest value of a bucket. */
uint64_t sketch_bucket_start(uint32_t bucket);

#endif
