/* vnni_attend.h: what the kernels of attention share: the slots of a row, one after the other. Included by kernel
 * files only. */
#ifndef VNNI_ATTEND_H
#define VNNI_ATTEND_H

#include "plugins/vnni/vnni.h"

/* Where slots are taken from. */
struct attend_cursor {
    uint32_t span, offset;
};

/* How many slots `row` sees. */
static inline uint32_t attend_visible(const struct hal_attend *g, uint32_t row)
{
    uint32_t slots = 0;
    for (uint32_t s = g->first[row]; s < g->first[row + 1]; s++)
        slots += g->spans[s].slots;
    return slots;
}

/* The next slots before span `end`, at most `most`; returns how many. */
static inline uint32_t attend_take(const struct hal_span *spans, struct attend_cursor *at, uint32_t end,
                                   uint32_t most, uint32_t *slots)
{
    uint32_t count = 0;
    while (count < most && at->span < end) {
        if (at->offset == spans[at->span].slots) {
            at->span++;
            at->offset = 0;
            continue;
        }
        slots[count++] = spans[at->span].slot + at->offset++;
    }
    return count;
}

#endif
