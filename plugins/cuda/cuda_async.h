/* cuda_async.h: for the kernels: products of Q4_0, Q4_K and Q8_0 weights whose codes go from global to
 * shared memory by asynchronous copies, some stages ahead of the arithmetic, and are taken apart only
 * on their way into the registers. Floors as in cuda_matmul_kernel.h and cuda_tile.h. */
#ifndef CUDA_ASYNC_H
#define CUDA_ASYNC_H

#include "plugins/cuda/cuda_product.h"
#include "plugins/cuda/cuda_tile.h"

enum {
    FLOW_STAGES = 4,  /* of a matvec: one is read, the others are on their way */
    FLOW_THREADS = 32 * CUDA_WARPS,
    ASYNC_STAGES = 3, /* of a tile */
    ASYNC_X = 3       /* 16-byte words between lines of 32 int8: fragments hit 32 banks */
};

/* 16-byte words of codes in a group. */
FN uint async_words(uint type)
{
    return format_planes(type) & PLANE_BYTE ? 2 : 1;
}

/* ---- few tokens: a lane's groups come through slots of its own, so that nobody waits for others ---- */

/* Slot `stage` of a ring gets a group's codes, *scales what goes with them; nothing beyond the row. */
FN void flow_fetch(uint type, const struct cuda_weight *w, uint row, uint group,
                   LOCAL VECTOR4 *ring, uint stage, struct raw_group *scales)
{
    const uint words = async_words(type);
    if (group < w->groups) {
        const ulong at = w->nibble + ((ulong)row * w->groups + group) * (16 * words);
        for (uint i = 0; i < words; i++)
            async_copy16(ring + (stage * words + i) * FLOW_THREADS + thread_x(), at + 16 * i, 16);
        load_scales(type, w, row, group, scales);
    }
    async_commit();
}

FN void flow_read(uint type, const LOCAL VECTOR4 *ring, uint stage, struct raw_group *out)
{
    const uint words = async_words(type);
    const VECTOR4 low = ring[stage * words * FLOW_THREADS + thread_x()];
    out->nibble[0] = low.x;
    out->nibble[1] = low.y;
    out->nibble[2] = low.z;
    out->nibble[3] = low.w;
    if (words == 1)
        return;
    const VECTOR4 high = ring[(stage * words + 1) * FLOW_THREADS + thread_x()];
    out->more[0] = high.x;
    out->more[1] = high.y;
    out->more[2] = high.z;
    out->more[3] = high.w;
}

/* As matvec(); ring: [FLOW_STAGES][words][FLOW_THREADS]. */
FN void flow(uint type, uint most, const struct cuda_product_args *a, LOCAL VECTOR4 *ring)
{
    const uint lane = thread_x() % 32, row = block_x() * CUDA_WARPS + thread_x() / 32;
    const uint first = block_y() * most;
    float y[CUDA_FEW] = {0.0f, 0.0f, 0.0f, 0.0f};
    struct raw_group raw[FLOW_STAGES];
    if (row >= a->w.rows)
        return;
    UNROLL for (uint s = 0; s + 1 < FLOW_STAGES; s++)
        flow_fetch(type, &a->w, row, lane + 32 * s, ring, s, &raw[s]);
    for (uint from = lane; from < a->w.groups; from += 32 * FLOW_STAGES)
        UNROLL for (uint s = 0; s < FLOW_STAGES; s++) {
            const uint group = from + 32 * s, next = (s + FLOW_STAGES - 1) % FLOW_STAGES;
            async_wait(2); /* FLOW_STAGES - 2 */
            /* the slot that the step before has read */
            flow_fetch(type, &a->w, row, group + 32 * (FLOW_STAGES - 1), ring, next, &raw[next]);
            if (group < a->w.groups) {
                struct group_scales scales;
                uint code[8];
                flow_read(type, ring, s, &raw[s]);
                unpack_codes(type, &raw[s], code);
                unpack_scales(type, &raw[s], &scales);
                UNROLL for (uint i = 0; i < most; i++)
                    if (first + i < a->tokens)
                        y[i] += group_product(type, code, &scales, &a->x,
                                              (ulong)(first + i) * a->w.groups + group);
            }
        }
    product_write(most, a, row, first, y);
}

/* ---- many tokens: tiles as in cuda_tile.h ---- */

/* The stages of both sides, in shared memory; a line is a group of a row or of a token. */
struct async_tile {
    LOCAL VECTOR4 *w; /* [ASYNC_STAGES][TILE_LINES][1, or ASYNC_X for Q8_0] codes as in the planes */
    LOCAL VECTOR4 *x; /* [ASYNC_STAGES][TILE_LINES][ASYNC_X] */
    LOCAL VECTOR2 *sums;
    LOCAL float *d, *scale, *minimum;
};

FN uint async_stride(uint type)
{
    return async_words(type) == 1 ? 1 : ASYNC_X;
}

FN uint async_line(void)
{
    return thread_x() % TILE_GROUPS * CUDA_TILE + thread_x() / TILE_GROUPS;
}

/* A thread's line of either side on its way into buffer `to`; lines beyond the matrix are zeros. */
FN void async_fetch(uint type, const struct cuda_product_args *a, uint stage, uint to,
                    const struct async_tile *t, struct raw_group *scales)
{
    const uint group = stage * TILE_GROUPS + thread_x() % TILE_GROUPS, groups = a->w.groups;
    const uint row = block_x() * CUDA_TILE + thread_x() / TILE_GROUPS;
    const uint token = block_y() * CUDA_TILE + thread_x() / TILE_GROUPS;
    const uint has_w = row < a->w.rows && group < groups, has_x = token < a->tokens && group < groups;
    const ulong of_w = has_w ? (ulong)row * groups + group : 0;
    const ulong of_x = has_x ? (ulong)token * groups + group : 0;
    const uint line = to * TILE_LINES + async_line(), words = async_words(type);
    for (uint i = 0; i < words; i++)
        async_copy16(t->w + line * async_stride(type) + i, a->w.nibble + (of_w * words + i) * 16,
                     has_w * 16);
    async_copy16(t->x + line * ASYNC_X, a->x.q + of_x * 32, has_x * 16);
    async_copy16(t->x + line * ASYNC_X + 1, a->x.q + of_x * 32 + 16, has_x * 16);
    async_copy4(t->d + line, a->x.d + of_x * 4, has_x * 4);
    async_copy8(t->sums + line, a->x.sums + of_x * 8, has_x * 8);
    scales->scale = scales->super = 0; /* which multiply out to 0 */
    if (has_w)
        load_scales(type, &a->w, row, group, scales);
}

/* The scales of the thread's line, once they have come. */
FN void async_keep(uint type, const struct raw_group *raw, uint to, const struct async_tile *t)
{
    struct group_scales scales;
    unpack_scales(type, raw, &scales);
    t->scale[to * TILE_LINES + async_line()] = scales.scale[0];
    if (type == FORMAT_Q4_K)
        t->minimum[to * TILE_LINES + async_line()] = scales.minimum[0];
}

/* One 16 x 8 piece of one group: tokens from line x, rows from line w; lanes as in tile_integers().
 * Word i of NIBBLE holds words i and i + 4 of the codes. */
FN void async_add(uint type, const struct async_tile *t, uint x, uint w, float *y)
{
    const uint g = thread_x() % 32 / 4, at = thread_x() % 4, zero = format_zero(type);
    const LOCAL uint *of_x = (const LOCAL uint *)(t->x + (x + g) * ASYNC_X) + at;
    const LOCAL uint *of_w = (const LOCAL uint *)(t->w + (w + g) * async_stride(type)) + at;
    const uint lines = 8 * 4 * ASYNC_X;
    const uint a[4] = {of_x[0], of_x[lines], of_x[4], of_x[lines + 4]};
    const uint b[2] = {async_words(type) == 1 ? of_w[0] & 0x0f0f0f0fu : of_w[0],
                       async_words(type) == 1 ? of_w[0] >> 4 & 0x0f0f0f0fu : of_w[4]};
    int c[4];
    multiply32(a, b, c);
    UNROLL for (uint e = 0; e < 4; e++) {
        const uint token = x + g + 8 * (e / 2), row = w + 2 * at + e % 2;
        const VECTOR2 sums = t->sums[token];
        const int sum = (int)(sums.x + sums.y);
        float v = t->scale[row] * (float)(c[e] - (int)zero * sum);
        if (type == FORMAT_Q4_K)
            v = MULTIPLY_ADD(-t->minimum[row], (float)sum, v);
        y[e] = MULTIPLY_ADD(t->d[token], v, y[e]);
    }
}

/* CUDA_TILE_THREADS threads; grid: rows, tokens. */
FN void async_tile(uint type, const struct cuda_product_args *a, const struct async_tile *t)
{
    const uint warp = thread_x() / 32, stages = (a->w.groups + TILE_GROUPS - 1) / TILE_GROUPS;
    const uint token = warp % 2 * 32, row = warp / 2 * 32;
    struct raw_group raw;
    float y[8][4];
    UNROLL for (uint i = 0; i < 32; i++)
        y[i / 4][i % 4] = 0.0f;
    for (uint s = 0; s + 1 < ASYNC_STAGES; s++) {
        if (s < stages) {
            async_fetch(type, a, s, s, t, &raw);
            async_keep(type, &raw, s, t);
        }
        async_commit();
    }
    uint from = 0, to = ASYNC_STAGES - 1;
    for (uint stage = 0; stage < stages; stage++) {
        const uint has_more = stage + ASYNC_STAGES - 1 < stages;
        async_wait(1); /* ASYNC_STAGES - 2: this stage's copies of this thread are there */
        block_sync();  /* and the others'; and all have left the buffer that is filled next */
        if (has_more)
            async_fetch(type, a, stage + ASYNC_STAGES - 1, to, t, &raw);
        async_commit();
        for (uint group = 0; group < TILE_GROUPS; group++) {
            const uint line = from * TILE_LINES + group * CUDA_TILE;
            UNROLL for (uint i = 0; i < 8; i++)
                async_add(type, t, line + token + i / 4 * 16, line + row + i % 4 * 8, y[i]);
        }
        if (has_more)
            async_keep(type, &raw, to, t);
        from = from + 1 < ASYNC_STAGES ? from + 1 : 0;
        to = to + 1 < ASYNC_STAGES ? to + 1 : 0;
    }
    UNROLL for (uint i = 0; i < 8; i++)
        tile_write(a, token + i / 4 * 16, row + i % 4 * 8, y[i]);
}

#endif
