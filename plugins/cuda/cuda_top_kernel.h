/* cuda_top_kernel.h: kernel: the greatest of a chunk of a row, one after the other. A thread keeps its
 * values and knows the best that is left of them; the block finds the best of those, whose thread looks
 * again. Floor: the bytes of the row over the bandwidth, then `count` rounds of a block. */
#ifndef CUDA_TOP_KERNEL_H
#define CUDA_TOP_KERNEL_H

#include "plugins/cuda/cuda_lang.h"

struct candidate {
    float value;
    uint column; /* CUDA_NONE: none */
};

/* Greater values first, then lower columns; what is none comes last. */
FN struct candidate better(struct candidate a, struct candidate b)
{
    const int is_b = a.column == CUDA_NONE || (b.column != CUDA_NONE && (b.value > a.value ||
                                               (b.value == a.value && b.column < a.column)));
    return is_b ? b : a;
}

FN struct candidate best_left(const struct candidate *own, uint taken)
{
    struct candidate best = {0.0f, CUDA_NONE};
    UNROLL for (uint i = 0; i < CUDA_TOP_EACH; i++)
        if (!(taken >> i & 1))
            best = better(best, own[i]);
    return best;
}

FN struct candidate best_of_warp(struct candidate c)
{
    for (uint mask = 16; mask > 0; mask /= 2) {
        const struct candidate other = {shuffle(c.value, mask), shuffle_bits(c.column, mask)};
        c = better(c, other);
    }
    return c;
}

/* NaN is none. */
FN struct candidate candidate_at(const struct cuda_top_args *a, ulong row, uint i)
{
    struct candidate c = {0.0f, CUDA_NONE};
    if (i >= a->cols)
        return c;
    if (a->from != 0) {
        const VECTOR2 v = AT(const VECTOR2, a->from)[row * a->cols + i];
        c.value = float_of(v.x);
        c.column = v.y;
        return c;
    }
    const float v = AT(const float, a->values)[row * a->cols + i];
    if (v == v) {
        c.value = v;
        c.column = i;
    }
    return c;
}

/* CUDA_THREADS threads; grid: chunks of CUDA_TOP_CHUNK, rows. */
KERNEL(top, cuda_top_args)
{
    enum { WARPS = CUDA_THREADS / 32 };
    SHARED float values[2 * WARPS];
    SHARED uint columns[2 * WARPS];
    struct candidate own[CUDA_TOP_EACH];
    const ulong out = ((ulong)block_y() * a.chunks + block_x()) * a.count;
    uint taken = 0;
    UNROLL for (uint i = 0; i < CUDA_TOP_EACH; i++)
        own[i] = candidate_at(&a, block_y(),
                              block_x() * CUDA_TOP_CHUNK + i * CUDA_THREADS + thread_x());
    struct candidate mine = best_left(own, taken);
    for (uint n = 0; n < a.count; n++) {
        const uint side = n % 2 * WARPS; /* nobody writes where the round before is still read */
        struct candidate best = best_of_warp(mine);
        if (thread_x() % 32 == 0) {
            values[side + thread_x() / 32] = best.value;
            columns[side + thread_x() / 32] = best.column;
        }
        block_sync();
        for (uint w = 0; w < WARPS; w++) {
            const struct candidate other = {values[side + w], columns[side + w]};
            best = better(best, other);
        }
        if (best.column != CUDA_NONE && best.column == mine.column) {
            UNROLL for (uint i = 0; i < CUDA_TOP_EACH; i++)
                taken |= (uint)(own[i].column == best.column) << i;
            mine = best_left(own, taken);
        }
        if (thread_x() == 0) {
            VECTOR2 v;
            v.x = bits_of(best.value);
            v.y = best.column;
            AT(VECTOR2, a.out)[out + n] = v;
        }
    }
}

#endif
