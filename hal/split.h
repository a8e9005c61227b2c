/* split.h: encode and decode between plugins. Both work on host memory and give the same bytes everywhere,
 * so whoever is soonest may do them: each side is tried on a few rows of what was asked for anyway, by type
 * and method, and the soonest does the rest and what follows. Threads: one caller at a time. */
#ifndef SPLIT_H
#define SPLIT_H

#include "hal/hal.h"

enum { SPLIT_SIDES = 2, SPLIT_TYPES = 64, SPLIT_KINDS = 3 /* decode; encode by each method */ };

struct split {
    struct {
        const struct hal_plugin *ops; /* borrowed; its encode and decode are there */
        void *dev;
    } side[SPLIT_SIDES];
    uint32_t sides;
    struct {
        double ns[SPLIT_SIDES]; /* for a value, the least that was seen; infinite: cannot */
        uint32_t tries[SPLIT_SIDES];
    } cost[SPLIT_TYPES][SPLIT_KINDS];
};

/* One more side; those beyond SPLIT_SIDES are left out. *s begins as zeros. */
void split_add(struct split *s, const struct hal_plugin *ops, void *dev);

/* As hal.h says; at least one side. */
NODISCARD enum err split_encode(struct split *s, uint32_t type, uint32_t method, const float *x,
                                uint32_t rows, uint32_t cols, const float *importance, void *out,
                                size_t out_bytes);
NODISCARD enum err split_decode(struct split *s, uint32_t type, const void *in, size_t in_bytes,
                                uint32_t rows, uint32_t cols, float *x);

#endif
