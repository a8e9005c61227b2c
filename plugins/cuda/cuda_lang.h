/* cuda_lang.h: what the kernels are written in: OpenCL C for PTX, or plain C for their host twins.
 *
 * A twin runs each thread of a block as a fibre; block_sync, shuffles and matrix products meet there
 * as they do on the GPU (the twin_ functions belong to the test's mock driver). Rounding is as
 * written in both: no contraction but MULTIPLY_ADD, whose two roundings or one are within tolerance. */
#ifndef CUDA_LANG_H
#define CUDA_LANG_H

#include "plugins/cuda/cuda_args.h"

#ifdef CUDA_TWIN

#include <math.h>
#include <string.h>

#include "hal/half.h"

#define uint uint32_t
#define ulong uint64_t
#define uchar uint8_t
#define ushort uint16_t

struct uint2 {
    uint x, y;
};
struct uint4 {
    _Alignas(16) uint x;
    uint y, z, w;
};
#define VECTOR2 struct uint2
#define VECTOR4 struct uint4

struct twin_place {
    uint thread, block_x, block_y, block_z;
};
extern struct twin_place twin_here;
void twin_sync(void);
uint twin_shuffle(uint value, uint mask);
/* depth 32 or 16: the int8 product of one warp, m16n8k32 or m16n8k16; c is replaced */
void twin_multiply(uint depth, const uint *a, const uint *b, int *c);

/* Copies into shared memory that are done at the wait, no sooner; what lies there is lost at once. */
void twin_async_copy(void *to, const void *from, uint bytes, uint wanted);
void twin_async_commit(void);
void twin_async_wait(uint left);
#define async_copy16(to, from, wanted) twin_async_copy(to, AT(const char, from), 16, wanted)
#define async_copy8(to, from, wanted) twin_async_copy(to, AT(const char, from), 8, wanted)
#define async_copy4(to, from, wanted) twin_async_copy(to, AT(const char, from), 4, wanted)
#define async_commit() twin_async_commit()
#define async_wait(left) twin_async_wait(left)

#define KERNEL(name, args)                                                                         \
    static void name(struct args a);                                                               \
    void twin_##name(const void *p);                                                               \
    void twin_##name(const void *p)                                                                \
    {                                                                                              \
        struct args a;                                                                             \
        memcpy(&a, p, sizeof a);                                                                   \
        name(a);                                                                                   \
    }                                                                                              \
    static void name(struct args a)
#define FN static inline
#define SHARED static
#define LOCAL
#define UNROLL
#define AT(type, address) ((type *)(uintptr_t)(address))

FN uint thread_x(void)
{
    return twin_here.thread;
}
FN uint block_x(void)
{
    return twin_here.block_x;
}
FN uint block_y(void)
{
    return twin_here.block_y;
}
FN uint block_z(void)
{
    return twin_here.block_z;
}
#define block_sync() twin_sync()
#define shuffle_bits(value, mask) twin_shuffle(value, mask)
#define bits_of(f) half_to_bits(f)
#define float_of(bits) half_from_bits(bits)
#define float_of_f16(h) half_f16_to_f32((ushort)(h))
#define f16_of_float(f) half_f32_to_f16(f)
#define square_root(v) sqrtf(v)
#define MULTIPLY_ADD(x, y, z) ((x) * (y) + (z))

FN int dot4(uint x, uint y, int sum)
{
    for (uint i = 0; i < 32; i += 8)
        sum += (int8_t)(x >> i) * (int8_t)(y >> i);
    return sum;
}

/* Byte i is byte (select >> 4 i & 7) of high:low. */
FN uint permute(uint low, uint high, uint select)
{
    const ulong both = (ulong)high << 32 | low;
    uint r = 0;
    for (uint i = 0; i < 4; i++)
        r |= (uint)(both >> 8 * (select >> 4 * i & 7) & 255) << 8 * i;
    return r;
}

FN void multiply32(const uint *a, const uint *b, int *c)
{
    twin_multiply(32, a, b, c);
}
FN void multiply16(const uint *a, const uint *b, int *c)
{
    twin_multiply(16, a, b, c);
}

#else

#define VECTOR2 uint2
#define VECTOR4 uint4
#define KERNEL(name, args) __kernel void name(struct args a)
#define FN static inline __attribute__((always_inline))
#define SHARED __local
#define LOCAL __local
#define UNROLL _Pragma("unroll") /* where a loop counts through registers */
#define AT(type, address) ((__global type *)(address))

#define thread_x() ((uint)__nvvm_read_ptx_sreg_tid_x())
#define block_x() ((uint)__nvvm_read_ptx_sreg_ctaid_x())
#define block_y() ((uint)__nvvm_read_ptx_sreg_ctaid_y())
#define block_z() ((uint)__nvvm_read_ptx_sreg_ctaid_z())
#define block_sync() __syncthreads()
#define shuffle_bits(value, mask)                                                                  \
    ((uint)__nvvm_shfl_sync_bfly_i32(0xffffffffu, (int)(value), (int)(mask), 31))
#define bits_of(f) __builtin_astype((f), uint)
#define float_of(bits) __builtin_astype((uint)(bits), float)
#define MULTIPLY_ADD(x, y, z) __nvvm_fma_rn_f((x), (y), (z))

FN float float_of_f16(uint h)
{
    float f;
    __asm__("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"((ushort)h));
    return f;
}

FN ushort f16_of_float(float f)
{
    ushort h;
    __asm__("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}

FN float square_root(float v)
{
    float r;
    __asm__("sqrt.rn.f32 %0, %1;" : "=f"(r) : "f"(v));
    return r;
}

FN int dot4(uint x, uint y, int sum)
{
    int r;
    __asm__("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y), "r"(sum));
    return r;
}

FN uint permute(uint low, uint high, uint select)
{
    uint r;
    __asm__("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(low), "r"(high), "r"(select));
    return r;
}

#ifdef CUDA_MMA
/* One warp's product of int8: 16 x depth (row major) by depth x 8. Lane l, with g = l / 4 and
 * t = l % 4: a holds words t of rows g and g + 8, then, at depth 32, words t + 4 of both; b words t
 * (and t + 4) of column g; c rows g, g, g + 8, g + 8 at columns 2 t and 2 t + 1. PTX ISA 7.0. */
FN void multiply32(const uint *a, const uint *b, int *c)
{
    __asm__ volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
                     : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(0));
}

FN void multiply16(const uint *a, const uint *b, int *c)
{
    __asm__ volatile("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 "
                     "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %7, %7, %7};"
                     : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(0));
}

/* A copy of 16, 8 or 4 bytes from global to shared memory, both so aligned, that goes past the
 * registers; only `wanted` bytes, 0 or all, are read, the rest is zeros. The thread's copies since
 * its last commit are a group; wait until at most `left` groups (a literal) are under way. Other
 * threads see them after a barrier on top. PTX ISA 7.0. */
#define ASYNC_COPY(cache, bytes, to, from, wanted)                                                 \
    __asm__ volatile("cp.async." cache ".shared.global [%0], [%1], " bytes ", %2;" ::"l"(           \
                         (ulong)(LOCAL void *)(to)),                                               \
                     "l"((ulong)(from)), "r"((uint)(wanted))                                       \
                     : "memory")
#define async_copy16(to, from, wanted) ASYNC_COPY("cg", "16", to, from, wanted)
#define async_copy8(to, from, wanted) ASYNC_COPY("ca", "8", to, from, wanted)
#define async_copy4(to, from, wanted) ASYNC_COPY("ca", "4", to, from, wanted)
#define async_commit() __asm__ volatile("cp.async.commit_group;" ::: "memory")
#define async_wait(left) __asm__ volatile("cp.async.wait_group " #left ";" ::: "memory")
#endif

#endif

FN float shuffle(float v, uint mask)
{
    return float_of(shuffle_bits(bits_of(v), mask));
}

/* The sum over a warp, in every lane. */
FN float warp_sum(float v)
{
    for (uint mask = 16; mask > 0; mask /= 2)
        v += shuffle(v, mask);
    return v;
}

/* e^v: |error| within 2 ulp; overflow infinite, underflow 0, NaN kept. Polynomial fitted to e^r - 1 -
 * r on |r| <= log(2) / 2 (relative error 4e-9). */
FN float exponential(float v)
{
    const float high = 0.693145752f, low = 1.42860677e-6f; /* log 2 in two parts */
    if (v > 89.0f)
        return float_of(0x7f800000u);
    if (v < -104.0f)
        return 0.0f;
    const float shifted = v * 1.44269504f + 12582912.0f;
    const float n = shifted - 12582912.0f;
    const int k = (int)(bits_of(shifted) - 0x4b400000u);
    const float r = (v - n * high) - n * low;
    float p = 0.001375138876f;
    p = p * r + 0.008368921466f;
    p = p * r + 0.041669532657f;
    p = p * r + 0.166665181518f;
    p = p * r + 0.499999880791f;
    p = p * r * r + r + 1.0f;
    /* in two steps, since 2^k alone may not be representable */
    const int some = k >> 1;
    return p * float_of((uint)(some + 127) << 23) * float_of((uint)(k - some + 127) << 23);
}

/* 1 - erf(z), by e^(-z^2) t P(t) with t = 1 / (1 + z / 2) for z >= 0; P fitted, relative error
 * 2e-7 up to z = 38. */
FN float complementary_error(float z)
{
    const float m = z < 0.0f ? -z : z;
    const float t = 1.0f / (1.0f + 0.5f * m);
    float p = -0.01998157427f;
    p = p * t + 0.03882863373f;
    p = p * t + 0.08062512428f;
    p = p * t - 0.25158908963f;
    p = p * t + 0.11301893741f;
    p = p * t + 0.04539402574f;
    p = p * t + 0.18333776295f;
    p = p * t + 0.24614568055f;
    p = p * t + 0.28212609887f;
    p = p * t + 0.28209429979f;
    const float tail = p * t * exponential(-m * m);
    return z < 0.0f ? 2.0f - tail : tail;
}

#endif
