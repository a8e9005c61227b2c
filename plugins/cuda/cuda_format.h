/* cuda_format.h: how weights lie on the GPU. Read by the host (C) and by the kernels (OpenCL C).
 *
 * A weight of block type is taken apart into planes, each [rows][groups of 32 values], so that
 * neighbouring lanes read neighbouring groups in wide loads. Planes of one group, by bits of a code:
 *   NIBBLE  16 bytes  the low 4 bits. Byte i holds element i low and i + 16 high; for table formats
 *                     elements 2 i and 2 i + 1, the order in which byte permutes look levels up
 *   PAIR     8 bytes  2 bits: element 4 (2 s + v) + b is bits 2 s of byte b of word v
 *   SINGLE   4 bytes  1 bit: element 4 s + b is bit s of byte b
 *   BYTE    32 bytes  the levels of Q8_0 as they are
 *   SCALE    0 to 2   stored scales (and minima) of the group; Q2_K: s | m << 4 for each 16 values,
 *                     Q3_K and Q6_K: s for each 16, Q4_K and Q5_K: s, m; IQ4_XS and NF4: s
 *   SUPER    2 or 4   d (and dmin) as binary16: of each group for formats of 32 values, else of
 *                     each 8 groups, then always 4 bytes
 * F32, F16 and BF16 weights keep rows of the host layout.
 */
#ifndef CUDA_FORMAT_H
#define CUDA_FORMAT_H

#ifdef __OPENCL_C_VERSION__
#define uint32_t uint
#define uint64_t ulong
#define CUDA_BOTH static inline __attribute__((always_inline))
#else
#include <stdint.h>
#define CUDA_BOTH static inline
#endif

/* enum hal_type, which OpenCL C cannot include; cuda_mat.c asserts that they agree. */
enum {
    FORMAT_F32 = 0,
    FORMAT_F16 = 1,
    FORMAT_Q4_0 = 2,
    FORMAT_Q4_1 = 3,
    FORMAT_Q5_0 = 6,
    FORMAT_Q5_1 = 7,
    FORMAT_Q8_0 = 8,
    FORMAT_Q2_K = 10,
    FORMAT_Q3_K = 11,
    FORMAT_Q4_K = 12,
    FORMAT_Q5_K = 13,
    FORMAT_Q6_K = 14,
    FORMAT_IQ4_NL = 20,
    FORMAT_IQ4_XS = 23,
    FORMAT_BF16 = 30,
    FORMAT_NF4 = 62
};

enum { PLANE_NIBBLE = 1, PLANE_PAIR = 2, PLANE_SINGLE = 4, PLANE_BYTE = 8 };

/* The planes that hold codes; 0 for a type without codes. */
CUDA_BOTH uint32_t format_planes(uint32_t type)
{
    switch (type) {
    case FORMAT_Q8_0: return PLANE_BYTE;
    case FORMAT_Q2_K: return PLANE_PAIR;
    case FORMAT_Q3_K: return PLANE_PAIR | PLANE_SINGLE;
    case FORMAT_Q5_0:
    case FORMAT_Q5_1:
    case FORMAT_Q5_K: return PLANE_NIBBLE | PLANE_SINGLE;
    case FORMAT_Q6_K: return PLANE_NIBBLE | PLANE_PAIR;
    case FORMAT_Q4_0:
    case FORMAT_Q4_1:
    case FORMAT_Q4_K:
    case FORMAT_IQ4_NL:
    case FORMAT_IQ4_XS:
    case FORMAT_NF4: return PLANE_NIBBLE;
    default: return 0;
    }
}

/* Subtracted from the codes kept in the planes to give levels. */
CUDA_BOTH uint32_t format_zero(uint32_t type)
{
    return type == FORMAT_Q4_0   ? 8u
           : type == FORMAT_Q5_0 ? 16u
           : type == FORMAT_Q3_K ? 4u
           : type == FORMAT_Q6_K ? 32u
                                 : 0u;
}

CUDA_BOTH int format_is_table(uint32_t type)
{
    return type == FORMAT_IQ4_NL || type == FORMAT_IQ4_XS || type == FORMAT_NF4;
}

/* A scale for each 16 values instead of 32. */
CUDA_BOTH int format_is_halved(uint32_t type)
{
    return type == FORMAT_Q2_K || type == FORMAT_Q3_K || type == FORMAT_Q6_K;
}

/* Bytes of the SCALE plane in each group. */
CUDA_BOTH uint32_t format_scale_bytes(uint32_t type)
{
    switch (type) {
    case FORMAT_Q2_K:
    case FORMAT_Q3_K:
    case FORMAT_Q4_K:
    case FORMAT_Q5_K:
    case FORMAT_Q6_K: return 2;
    case FORMAT_IQ4_XS:
    case FORMAT_NF4: return 1;
    default: return 0;
    }
}

/* Groups that share an entry of the SUPER plane, and bytes of the entry. */
CUDA_BOTH uint32_t format_super_groups(uint32_t type)
{
    return format_scale_bytes(type) != 0 ? 8u : 1u;
}

CUDA_BOTH uint32_t format_super_bytes(uint32_t type)
{
    return format_scale_bytes(type) != 0 || type == FORMAT_Q4_1 || type == FORMAT_Q5_1 ? 4u : 2u;
}

#endif
