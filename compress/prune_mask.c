#include "compress/prune_mask.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int ascending(const void *a, const void *b)
{
    float x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

static float score(const float *h, const float *row, uint32_t c)
{
    return h ? fabsf(row[c]) * sqrtf(h[c]) : fabsf(row[c]);
}

static void mask_share(const struct prune *p, const float *h, uint32_t cols, float *row, float *sorted)
{
    uint32_t gone = (uint32_t)((uint64_t)cols * p->mask_share / 10000), below = 0;
    if (gone == 0)
        return;
    for (uint32_t c = 0; c < cols; c++)
        sorted[c] = score(h, row, c);
    qsort(sorted, cols, sizeof *sorted, ascending);
    const float limit = sorted[gone - 1];
    for (uint32_t c = 0; c < cols; c++)
        below += sorted[c] < limit;
    uint32_t equals = gone - below;
    for (uint32_t c = 0; c < cols; c++) {
        const float s = score(h, row, c);
        if (s < limit || (s == limit && equals > 0)) {
            equals -= s == limit;
            row[c] = 0;
        }
    }
}

static void mask_pattern(const struct prune *p, const float *h, uint32_t cols, float *row, float *kept)
{
    for (uint32_t at = 0; at < cols; at += p->mask_of) {
        const uint32_t n = cols - at < p->mask_of ? cols - at : p->mask_of;
        for (uint32_t i = 0; i < n; i++)
            kept[i] = score(h, row, at + i);
        for (uint32_t gone = p->mask_keep; gone < n; gone++) {
            uint32_t best = 0;
            for (uint32_t i = 1; i < n; i++)
                if (kept[i] < kept[best])
                    best = i;
            kept[best] = INFINITY;
            row[at + best] = 0;
        }
    }
}

void prune_mask_row(const struct prune *p, const float *h, uint32_t cols, float *row, float *scratch)
{
    if (p->mask_of > 0)
        mask_pattern(p, h, cols, row, scratch);
    else
        mask_share(p, h, cols, row, scratch);
}
