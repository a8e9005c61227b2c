/* cuda_rows_kernel.h: kernels that take rows one by one: embed, norms, rope, store, glu, add, scale,
 * scatter, copy. Their floor is the bytes they read and write. */
#ifndef CUDA_ROWS_KERNEL_H
#define CUDA_ROWS_KERNEL_H

#include "plugins/cuda/cuda_matmul_kernel.h"

FN ulong thread_index(void)
{
    return (ulong)block_x() * CUDA_THREADS + thread_x();
}

/* A thread decodes one group of 32 values, exactly. */
KERNEL(embed_blocks, cuda_embed_args)
{
    const ulong i = thread_index();
    const uint groups = a.w.groups;
    if (i >= (ulong)a.count * groups)
        return;
    const uint row = AT(const uint, a.row)[i / groups];
    struct raw_group raw;
    struct group_scales s;
    uint code[8];
    load_group(a.type, &a.w, row, (uint)(i % groups), &raw);
    unpack_codes(a.type, &raw, code);
    unpack_scales(a.type, &raw, &s);
    UNROLL for (uint k = 0; k < 32; k++) {
        const uint word = subtract_zero(code[k / 4], format_zero(a.type));
        AT(float, a.y)[i * 32 + k] =
            s.scale[k / 16] * signed_byte(word >> 8 * (k % 4)) - s.minimum[k / 16];
    }
}

KERNEL(embed_dense, cuda_embed_args)
{
    const ulong i = thread_index();
    if (i >= (ulong)a.count * a.cols)
        return;
    const ulong row = AT(const uint, a.row)[i / a.cols];
    AT(float, a.y)[i] = dense_value(a.type, a.w.nibble, row * a.cols + i % a.cols);
}

/* The sum over a block of CUDA_THREADS, in every thread. room: a value for each warp. */
FN float block_sum(float v, LOCAL float *room)
{
    v = warp_sum(v);
    block_sync(); /* the last sum has been read */
    if (thread_x() % 32 == 0)
        room[thread_x() / 32] = v;
    block_sync();
    float sum = 0.0f;
    for (uint i = 0; i < CUDA_THREADS / 32; i++)
        sum += room[i];
    return sum;
}

/* A block takes a row. */
KERNEL(rmsnorm, cuda_norm_args)
{
    SHARED float room[CUDA_THREADS / 32];
    const ulong start = (ulong)block_x() * a.cols;
    float squares = 0.0f;
    for (uint i = thread_x(); i < a.cols; i += CUDA_THREADS) {
        const float v = AT(const float, a.x)[start + i];
        squares += v * v;
    }
    const float mean = block_sum(squares, room) / (float)a.cols;
    const float factor = 1.0f / square_root(mean + a.eps);
    for (uint i = thread_x(); i < a.cols; i += CUDA_THREADS)
        AT(float, a.y)[start + i] =
            AT(const float, a.x)[start + i] * factor * AT(const float, a.w)[i];
}

KERNEL(layernorm, cuda_norm_args)
{
    SHARED float room[CUDA_THREADS / 32];
    const ulong start = (ulong)block_x() * a.cols;
    float sum = 0.0f, squares = 0.0f;
    for (uint i = thread_x(); i < a.cols; i += CUDA_THREADS)
        sum += AT(const float, a.x)[start + i];
    const float mean = block_sum(sum, room) / (float)a.cols;
    for (uint i = thread_x(); i < a.cols; i += CUDA_THREADS) {
        const float v = AT(const float, a.x)[start + i] - mean;
        squares += v * v;
    }
    const float factor = 1.0f / square_root(block_sum(squares, room) / (float)a.cols + a.eps);
    for (uint i = thread_x(); i < a.cols; i += CUDA_THREADS)
        AT(float, a.y)[start + i] =
            (AT(const float, a.x)[start + i] - mean) * factor * AT(const float, a.w)[i] +
            (a.b != 0 ? AT(const float, a.b)[i] : 0.0f);
}

/* A thread rotates one pair. */
KERNEL(rope, cuda_rope_args)
{
    const ulong i = thread_index();
    const uint pairs = a.dims / 2, heads = a.cols / a.head_dim;
    if (i >= (ulong)a.rows * heads * pairs)
        return;
    const uint pair = (uint)(i % pairs), head = (uint)(i / pairs % heads);
    const ulong row = i / pairs / heads;
    const uint is_norm = a.kind == 0; /* HAL_ROPE_NORM */
    const ulong at = row * a.cols + head * a.head_dim + a.offset + pair * (is_norm ? 2 : 1);
    const ulong to = at + (is_norm ? 1 : pairs);
    const float cosine = AT(const float, a.angles)[row * a.dims + pair];
    const float sine = AT(const float, a.angles)[row * a.dims + pairs + pair];
    const float u = AT(const float, a.x)[at], v = AT(const float, a.x)[to];
    AT(float, a.x)[at] = u * cosine - v * sine;
    AT(float, a.x)[to] = u * sine + v * cosine;
}

KERNEL(store_dense, cuda_store_args)
{
    const ulong i = thread_index();
    if (i >= (ulong)a.rows * a.cols)
        return;
    const ulong slot = AT(const uint, a.slot)[i / a.cols];
    const float v = AT(const float, a.x)[i];
    if (a.type == FORMAT_F16)
        AT(ushort, a.cache)[slot * a.cols + i % a.cols] = f16_of_float(v);
    else
        AT(float, a.cache)[slot * a.cols + i % a.cols] = v;
}

/* binary16 of a scale: saturating, and never 0 for what is not 0 (encode_half of scalar). */
FN ushort scale_f16(float v)
{
    uint h = f16_of_float(v);
    if ((h & 0x7fffu) >= 0x7c00u)
        h = (h & 0x8000u) | 0x7bffu;
    if ((h & 0x7fffu) == 0 && v != 0.0f)
        h |= 1u;
    return (ushort)h;
}

/* The level of v * inverse: nearest even, between low and high; NaN gives low. */
FN int level_of(float u, float low, float high)
{
    u = u > low ? u : low;
    u = u < high ? u : high;
    return (int)((u + 12582912.0f) - 12582912.0f);
}

FN float finite_or_0(float v)
{
    return (bits_of(v) & 0x7fffffffu) < 0x7f800000u ? v : 0.0f;
}

/* A thread rounds one block of Q8_0 or Q4_0 by RTN: scalar_encode.h, to the bit. */
KERNEL(store_blocks, cuda_store_args)
{
    const ulong i = thread_index();
    const uint blocks = a.cols / 32, is_q8 = a.type == FORMAT_Q8_0;
    const uint bytes = is_q8 ? 34 : 18;
    if (i >= (ulong)a.rows * blocks)
        return;
    const ulong slot = AT(const uint, a.slot)[i / blocks];
    const ulong to = a.cache + (slot * blocks + i % blocks) * bytes;
    const ulong from = a.x + i * 32 * sizeof(float);
    float peak = 0.0f;
    for (uint k = 0; k < 32; k++) {
        const float v = finite_or_0(AT(const float, from)[k]);
        if ((bits_of(v) & 0x7fffffffu) > (bits_of(peak) & 0x7fffffffu))
            peak = v;
    }
    const float wanted = is_q8 ? (peak < 0.0f ? -peak : peak) / 127.0f : peak / -8.0f;
    const ushort d = scale_f16(wanted);
    const float scale = float_of_f16(d), inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
    AT(uchar, to)[0] = (uchar)d;
    AT(uchar, to)[1] = (uchar)(d >> 8);
    for (uint k = 0; k < 16; k++) {
        const float u = finite_or_0(AT(const float, from)[k]) * inverse;
        const float v = finite_or_0(AT(const float, from)[k + 16]) * inverse;
        if (is_q8) {
            AT(uchar, to)[2 + k] = (uchar)level_of(u, -127.0f, 127.0f);
            AT(uchar, to)[18 + k] = (uchar)level_of(v, -127.0f, 127.0f);
        } else {
            AT(uchar, to)[2 + k] = (uchar)((level_of(u, -8.0f, 7.0f) + 8) |
                                           (level_of(v, -8.0f, 7.0f) + 8) << 4);
        }
    }
}

FN float gate_of(uint function, float v)
{
    switch (function) { /* enum hal_gate */
    case 0: return v / (1.0f + exponential(-v));
    case 1: return v / (1.0f + exponential(-1.5957691216f * (v + 0.044715f * v * v * v)));
    case 2: return 0.5f * v * complementary_error(v * -0.7071067812f);
    default: return v > 0.0f || v != v ? v : 0.0f;
    }
}

KERNEL(glu, cuda_glu_args)
{
    const ulong i = thread_index();
    if (i >= a.values)
        return;
    const float g = gate_of(a.function, AT(const float, a.gate)[i]);
    AT(float, a.y)[i] = a.up != 0 ? g * AT(const float, a.up)[i] : g;
}

KERNEL(add, cuda_add_args)
{
    const ulong i = thread_index();
    if (i >= a.values)
        return;
    AT(float, a.y)[i] += AT(const float, a.x)[a.period != 0 ? i % a.period : i];
}

KERNEL(scale, cuda_scale_args)
{
    const ulong i = thread_index();
    if (i < a.values)
        AT(float, a.y)[i] *= a.factor;
}

/* A thread takes a column, so that rows named twice are added in order. */
KERNEL(scatter, cuda_scatter_args)
{
    const ulong i = thread_index();
    if (i >= a.cols)
        return;
    for (uint r = 0; r < a.count; r++) {
        const ulong to = (ulong)AT(const uint, a.row)[r] * a.cols + i;
        const float more =
            AT(const float, a.weight)[r] * AT(const float, a.x)[(ulong)r * a.cols + i];
        AT(float, a.y)[to] += more;
    }
}

KERNEL(copy, cuda_copy_args)
{
    const ulong i = thread_index();
    if (i >= (ulong)a.rows * a.cols)
        return;
    const ulong row = i / a.cols, col = i % a.cols;
    AT(float, a.y)[row * a.y_cols + a.y_col + col] =
        AT(const float, a.x)[row * a.x_cols + a.x_col + col];
}

#endif
