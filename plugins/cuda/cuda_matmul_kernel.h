/* cuda_matmul_kernel.h: kernels: rounding of activations; products of few tokens, which stream the
 * weights once (floor: bytes of the planes over the bandwidth); dense weights. */
#ifndef CUDA_MATMUL_KERNEL_H
#define CUDA_MATMUL_KERNEL_H

#include "plugins/cuda/cuda_product.h"

/* A warp rounds a group, a lane a value: scalar_round_row() of scalar.h, to the bit. */
KERNEL(round_rows, cuda_round_args)
{
    const uint lane = thread_x() % 32;
    const ulong group = (ulong)block_x() * (CUDA_THREADS / 32) + thread_x() / 32;
    if (group >= a.groups)
        return;
    const float x = AT(const float, a.x)[group * 32 + lane];
    uint top = bits_of(x) & 0x7fffffffu;
    for (uint mask = 16; mask > 0; mask /= 2) {
        const uint other = shuffle_bits(top, mask);
        top = other > top ? other : top;
    }
    const float amax = float_of(top), inverse = 127.0f / amax;
    float d = amax / 127.0f;
    int q = 0;
    if (top >= 0x7f800000u)
        d = float_of(0x7fc00000u);
    else if (bits_of(inverse) < 0x7f800000u) /* else 0, or too small to invert */
        q = (int)((x * inverse + 12582912.0f) - 12582912.0f);
    int sum = q; /* of 16 lanes */
    for (uint mask = 8; mask > 0; mask /= 2)
        sum += (int)shuffle_bits((uint)sum, mask);
    AT(uchar, a.out.q)[group * 32 + lane] = (uchar)q;
    if (lane % 16 == 0)
        AT(int, a.out.sums)[group * 2 + lane / 16] = sum;
    if (lane == 0)
        AT(float, a.out.d)[group] = d;
}

/* A warp makes one row of y for up to `most` tokens. Grid: rows / CUDA_WARPS, tokens / most. */
FN void matvec(uint type, uint most, const struct cuda_product_args *a)
{
    const uint lane = thread_x() % 32, row = block_x() * CUDA_WARPS + thread_x() / 32;
    const uint first = block_y() * most;
    float y[CUDA_FEW] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (row >= a->w.rows)
        return;
    for (uint group = lane; group < a->w.groups; group += 32) {
        struct raw_group raw;
        struct group_scales scales;
        uint code[8];
        load_group(type, &a->w, row, group, &raw);
        unpack_codes(type, &raw, code);
        unpack_scales(type, &raw, &scales);
        for (uint i = 0; i < most; i++)
            if (first + i < a->tokens)
                y[i] += group_product(type, code, &scales, &a->x,
                                      (ulong)(first + i) * a->w.groups + group);
    }
    product_write(most, a, row, first, y);
}

#define MATVEC(name, type)                                                                         \
    KERNEL(matvec_##name, cuda_product_args)                                                       \
    {                                                                                              \
        matvec(type, 1, &a);                                                                       \
    }                                                                                              \
    KERNEL(matvecs_##name, cuda_product_args)                                                      \
    {                                                                                              \
        matvec(type, CUDA_FEW, &a);                                                                \
    }
MATVEC(q4_0, FORMAT_Q4_0)
MATVEC(q4_1, FORMAT_Q4_1)
MATVEC(q5_0, FORMAT_Q5_0)
MATVEC(q5_1, FORMAT_Q5_1)
MATVEC(q8_0, FORMAT_Q8_0)
MATVEC(q2_k, FORMAT_Q2_K)
MATVEC(q3_k, FORMAT_Q3_K)
MATVEC(q4_k, FORMAT_Q4_K)
MATVEC(q5_k, FORMAT_Q5_K)
MATVEC(q6_k, FORMAT_Q6_K)
MATVEC(iq4_nl, FORMAT_IQ4_NL)
MATVEC(iq4_xs, FORMAT_IQ4_XS)
MATVEC(nf4, FORMAT_NF4)

/* Value i of a dense matrix. */
FN float dense_value(uint type, ulong address, ulong i)
{
    if (type == FORMAT_F32)
        return AT(const float, address)[i];
    const uint h = AT(const ushort, address)[i];
    return type == FORMAT_F16 ? float_of_f16(h) : float_of(h << 16);
}

/* Four values from 4 i on. */
FN void dense_four(uint type, ulong address, ulong i, float *out)
{
    if (type == FORMAT_F32) {
        const VECTOR4 v = AT(const VECTOR4, address)[i];
        out[0] = float_of(v.x);
        out[1] = float_of(v.y);
        out[2] = float_of(v.z);
        out[3] = float_of(v.w);
        return;
    }
    const VECTOR2 v = AT(const VECTOR2, address)[i];
    const uint h[4] = {v.x & 0xffffu, v.x >> 16, v.y & 0xffffu, v.y >> 16};
    for (uint k = 0; k < 4; k++)
        out[k] = type == FORMAT_F16 ? float_of_f16(h[k]) : float_of(h[k] << 16);
}

/* As matvec; widths that are no multiple of 4 value by value. */
KERNEL(dense_matvec, cuda_dense_args)
{
    const uint lane = thread_x() % 32, row = block_x() * CUDA_WARPS + thread_x() / 32;
    const uint first = block_y() * CUDA_FEW;
    float y[CUDA_FEW] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (row >= a.rows)
        return;
    const ulong start = (ulong)row * a.cols;
    if (a.cols % 4 == 0) {
        for (uint k = lane; k < a.cols / 4; k += 32) {
            float w[4], x[4];
            dense_four(a.type, a.w, start / 4 + k, w);
            for (uint i = 0; i < CUDA_FEW; i++)
                if (first + i < a.tokens) {
                    dense_four(FORMAT_F32, a.x, (ulong)(first + i) * (a.cols / 4) + k, x);
                    for (uint j = 0; j < 4; j++)
                        y[i] = MULTIPLY_ADD(x[j], w[j], y[i]);
                }
        }
    } else {
        for (uint k = lane; k < a.cols; k += 32) {
            const float w = dense_value(a.type, a.w, start + k);
            for (uint i = 0; i < CUDA_FEW; i++)
                if (first + i < a.tokens)
                    y[i] = MULTIPLY_ADD(AT(const float, a.x)[(ulong)(first + i) * a.cols + k], w,
                                        y[i]);
        }
    }
    for (uint i = 0; i < CUDA_FEW; i++) {
        const float sum = warp_sum(y[i]);
        if (lane == 0 && first + i < a.tokens)
            AT(float, a.y)[(ulong)(first + i) * a.rows + row] = sum;
    }
}

enum { DENSE_DEPTH = 16, DENSE_STRIDE = CUDA_TILE + 4 };

/* 64 tokens x 64 rows by 256 threads of 4 x 4, 16 columns at a time. */
KERNEL(dense_tile, cuda_dense_args)
{
    SHARED float xs[DENSE_DEPTH * DENSE_STRIDE];
    SHARED float ws[DENSE_DEPTH * DENSE_STRIDE];
    const uint to_row = thread_x() % 16 * 4, to_token = thread_x() / 16 * 4;
    const uint rows = block_x() * CUDA_TILE, tokens = block_y() * CUDA_TILE;
    float y[4][4];
    for (uint i = 0; i < 16; i++)
        y[i / 4][i % 4] = 0.0f;
    for (uint from = 0; from < a.cols; from += DENSE_DEPTH) {
        for (uint e = thread_x(); e < DENSE_DEPTH * CUDA_TILE; e += CUDA_THREADS) {
            const uint k = e % DENSE_DEPTH, line = e / DENSE_DEPTH;
            const int is_in = from + k < a.cols;
            xs[k * DENSE_STRIDE + line] =
                is_in && tokens + line < a.tokens
                    ? AT(const float, a.x)[(ulong)(tokens + line) * a.cols + from + k]
                    : 0.0f;
            ws[k * DENSE_STRIDE + line] =
                is_in && rows + line < a.rows
                    ? dense_value(a.type, a.w, (ulong)(rows + line) * a.cols + from + k)
                    : 0.0f;
        }
        block_sync();
        for (uint k = 0; k < DENSE_DEPTH; k++)
            for (uint i = 0; i < 16; i++)
                y[i / 4][i % 4] = MULTIPLY_ADD(xs[k * DENSE_STRIDE + to_token + i / 4],
                                               ws[k * DENSE_STRIDE + to_row + i % 4],
                                               y[i / 4][i % 4]);
        block_sync();
    }
    for (uint i = 0; i < 16; i++) {
        const uint token = tokens + to_token + i / 4, row = rows + to_row + i % 4;
        if (token < a.tokens && row < a.rows)
            AT(float, a.y)[(ulong)token * a.rows + row] = y[i / 4][i % 4];
    }
}

#endif
