/* cuda_tile.h: for the kernels: products of many tokens, tile by tile.
 *
 * A block makes 64 tokens x 64 rows of y with 4 warps of 32 x 32. Stages of 2 groups (64 values) go
 * through two buffers in shared memory: while one is multiplied, the loads of the next are on their
 * way in registers. Floors: operations 2 x tokens x rows x cols over the int8 peak, and 3 to 4 F32
 * operations for each 32 multiply-adds, which is what block scales cost. */
#ifndef CUDA_TILE_H
#define CUDA_TILE_H

#include "plugins/cuda/cuda_codes.h"

enum {
    TILE_GROUPS = 2,  /* of a stage */
    TILE_STRIDE = 12, /* words between rows: the 8 x 4 words of a fragment hit 32 banks */
    TILE_WORDS = CUDA_TILE * TILE_STRIDE,
    TILE_LINES = TILE_GROUPS * CUDA_TILE
};

/* One stage. A line is a group of a row or of a token. */
struct tile_stage {
    uint w[TILE_GROUPS * TILE_WORDS];
    uint x[TILE_GROUPS * TILE_WORDS];
    struct group_scales scales[TILE_LINES];
    float d[TILE_LINES], sums[TILE_LINES][2];
};

/* What one thread carries from one stage to the next: a line of each side. */
struct tile_load {
    struct raw_group w;
    uint q[8], sums[2];
    float d;
    uint has_w, has_x;
};

FN void tile_fetch(const struct cuda_product_args *a, uint stage, struct tile_load *out)
{
    const uint line = thread_x() / TILE_GROUPS;
    const uint group = stage * TILE_GROUPS + thread_x() % TILE_GROUPS;
    const uint row = block_x() * CUDA_TILE + line, token = block_y() * CUDA_TILE + line;
    out->has_w = row < a->w.rows && group < a->w.groups;
    out->has_x = token < a->tokens && group < a->w.groups;
    if (out->has_w)
        load_group(a->type, &a->w, row, group, &out->w);
    if (out->has_x) {
        const ulong at = (ulong)token * a->w.groups + group;
        load_four(a->x.q, 2 * at, out->q);
        load_four(a->x.q, 2 * at + 1, out->q + 4);
        out->d = AT(const float, a->x.d)[at];
        const VECTOR2 sums = AT(const VECTOR2, a->x.sums)[at];
        out->sums[0] = sums.x;
        out->sums[1] = sums.y;
    }
}

/* Lines beyond the matrix are zeros. */
FN void tile_keep(uint type, const struct tile_load *in, LOCAL struct tile_stage *to)
{
    const uint line = thread_x() % TILE_GROUPS * CUDA_TILE + thread_x() / TILE_GROUPS;
    uint code[8];
    struct group_scales scales;
    if (in->has_w) {
        unpack_codes(type, &in->w, code);
        unpack_scales(type, &in->w, &scales);
    } else {
        for (uint i = 0; i < 8; i++)
            code[i] = 0;
        scales.scale[0] = scales.scale[1] = scales.minimum[0] = scales.minimum[1] = 0.0f;
    }
    const uint zero = in->has_w ? format_zero(type) : 0;
    for (uint i = 0; i < 8; i++) {
        to->w[line * TILE_STRIDE + i] = subtract_zero(code[i], zero);
        to->x[line * TILE_STRIDE + i] = in->has_x ? in->q[i] : 0;
    }
    to->scales[line] = scales;
    to->d[line] = in->has_x ? in->d : 0.0f;
    to->sums[line][0] = in->has_x ? (float)(int)in->sums[0] : 0.0f;
    to->sums[line][1] = in->has_x ? (float)(int)in->sums[1] : 0.0f;
}

/* The integer products of 16 tokens from line `token` and 8 rows from line `row`: of all 32 values
 * into c[0], or of each 16 into c[0] and c[1]. Lane l has tokens l / 4 and l / 4 + 8, rows 2 (l % 4)
 * and the next. */
FN void tile_integers(uint has_mma, uint halved, const LOCAL struct tile_stage *s, uint token,
                      uint row, int c[2][4])
{
    const uint g = thread_x() % 32 / 4, t = thread_x() % 4;
#if defined CUDA_MMA
    if (has_mma) {
        const LOCAL uint *x = s->x + (token + g) * TILE_STRIDE + t;
        const LOCAL uint *w = s->w + (row + g) * TILE_STRIDE + t;
        const uint a[4] = {x[0], x[8 * TILE_STRIDE], x[4], x[8 * TILE_STRIDE + 4]};
        const uint b[2] = {w[0], w[4]};
        if (halved) {
            multiply16(a, b, c[0]);
            multiply16(a + 2, b + 1, c[1]);
        } else {
            multiply32(a, b, c[0]);
        }
        return;
    }
#endif
    (void)has_mma;
    UNROLL for (uint e = 0; e < 4; e++) {
        const LOCAL uint *x = s->x + (token + g + 8 * (e / 2)) * TILE_STRIDE;
        const LOCAL uint *w = s->w + (row + 2 * t + e % 2) * TILE_STRIDE;
        c[0][e] = c[1][e] = 0;
        UNROLL for (uint i = 0; i < 8; i++)
            c[halved & i / 4][e] = dot4(x[i], w[i], c[halved & i / 4][e]);
    }
}

/* Add one 16 x 8 piece: the integers times the scales of its tokens and rows. */
FN void tile_add(uint halved, const LOCAL struct tile_stage *s, uint token, uint row,
                 int c[2][4], float *y)
{
    const uint g = thread_x() % 32 / 4, t = thread_x() % 4;
    UNROLL for (uint e = 0; e < 4; e++) {
        const uint of_x = token + g + 8 * (e / 2);
        const LOCAL struct group_scales *of_w = &s->scales[row + 2 * t + e % 2];
        const LOCAL float *sums = s->sums[of_x];
        float v;
        if (halved) {
            v = MULTIPLY_ADD(of_w->scale[0], (float)c[0][e], -(of_w->minimum[0] * sums[0]));
            v = MULTIPLY_ADD(of_w->scale[1], (float)c[1][e], v);
            v = MULTIPLY_ADD(-of_w->minimum[1], sums[1], v);
        } else {
            v = MULTIPLY_ADD(of_w->scale[0], (float)c[0][e],
                             -(of_w->minimum[0] * (sums[0] + sums[1])));
        }
        y[e] = MULTIPLY_ADD(s->d[of_x], v, y[e]);
    }
}

FN void tile_write(const struct cuda_product_args *a, uint token, uint row, const float *y)
{
    const uint g = thread_x() % 32 / 4, t = thread_x() % 4;
    UNROLL for (uint e = 0; e < 4; e++) {
        const uint i = block_y() * CUDA_TILE + token + g + 8 * (e / 2);
        const uint o = block_x() * CUDA_TILE + row + 2 * t + e % 2;
        if (i < a->tokens && o < a->w.rows)
            AT(float, a->y)[(ulong)i * a->w.rows + o] = y[e];
    }
}

/* buffers: two. CUDA_TILE_THREADS threads; grid: rows, tokens. */
FN void tile(uint has_mma, uint halved, const struct cuda_product_args *a,
             LOCAL struct tile_stage *buffers)
{
    const uint warp = thread_x() / 32, stages = (a->w.groups + TILE_GROUPS - 1) / TILE_GROUPS;
    const uint token = warp % 2 * 32, row = warp / 2 * 32;
    struct tile_load next;
    float y[2][4][4];
    UNROLL for (uint i = 0; i < 32; i++)
        y[i / 16][i / 4 % 4][i % 4] = 0.0f;
    tile_fetch(a, 0, &next);
    tile_keep(a->type, &next, &buffers[0]);
    for (uint stage = 0; stage < stages; stage++) {
        const LOCAL struct tile_stage *s = &buffers[stage % 2];
        if (stage + 1 < stages)
            tile_fetch(a, stage + 1, &next);
        block_sync();
        for (uint group = 0; group < TILE_GROUPS; group++)
            UNROLL for (uint i = 0; i < 8; i++) {
                const uint x = group * CUDA_TILE + token + i / 4 * 16;
                const uint w = group * CUDA_TILE + row + i % 4 * 8;
                int c[2][4];
                tile_integers(has_mma, halved, s, x, w, c);
                tile_add(halved, s, x, w, c, y[i / 4][i % 4]);
            }
        /* every warp has left the other buffer: it passed the barrier above after reading it */
        if (stage + 1 < stages)
            tile_keep(a->type, &next, &buffers[(stage + 1) % 2]);
    }
    UNROLL for (uint i = 0; i < 8; i++)
        tile_write(a, token + i / 4 * 16, row + i % 4 * 8, y[i / 4][i % 4]);
}

#endif
