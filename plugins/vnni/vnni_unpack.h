/* vnni_unpack.h: from a cell of vnni_layout.h to codes and scales, for every block type.
 *
 * `type`, `g` and `bias` are constants at every call, so each use compiles to a few instructions. A
 * value is scale * (code - bias) - minimum. The scales of Q2_K and Q3_K, one for 16 columns, are
 * multiplied into the codes (at most 45, and -128..124), which leaves one F32 scale for 256 columns;
 * with one token, where unpacking is not shared, unpack_pair_* keep them apart as pairs of integers.
 */
#ifndef VNNI_UNPACK_H
#define VNNI_UNPACK_H

#include "hal/hal.h"
#include "plugins/vnni/vnni_simd.h"

/* Levels of the table formats, from block_table(). */
#define UNPACK_NF4_LEVELS                                                                          \
    _mm_setr_epi8(-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127)
#define UNPACK_IQ4_LEVELS                                                                          \
    _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)

INLINE uint32_t unpack_cell_groups(uint32_t type)
{
    switch (type) {
    case HAL_Q2_K:
    case HAL_Q3_K:
    case HAL_Q4_K:
    case HAL_Q5_K:
    case HAL_Q6_K:
    case HAL_IQ4_XS:
    case HAL_NF4: return 8;
    default: return 2;
    }
}

INLINE uint32_t unpack_cell_bytes(uint32_t type)
{
    switch (type) {
    case HAL_Q4_1: return 640;
    case HAL_Q5_0: return 704;
    case HAL_Q5_1: return 768;
    case HAL_Q8_0: return 1088;
    case HAL_Q2_K: return 1344;
    case HAL_Q3_K: return 1760;
    case HAL_Q4_K: return 2304;
    case HAL_Q5_K: return 2816;
    case HAL_Q6_K: return 3360;
    case HAL_IQ4_XS:
    case HAL_NF4: return 2176;
    default: return 576; /* Q4_0, IQ4_NL */
    }
}

/* Where the codes of a cell begin, and its F16 scales that come behind `bytes` of codes, or before them in
 * every second cell of Q3_K and Q6_K, which then is 32 bytes off: panels are aligned to 64. */
INLINE const uint8_t *unpack_body(uint32_t type, const uint8_t *cell)
{
    return type == HAL_Q3_K || type == HAL_Q6_K ? cell + ((uintptr_t)cell & 32) : cell;
}

INLINE const uint8_t *unpack_factor(const uint8_t *cell, size_t bytes)
{
    return ((uintptr_t)cell & 32) != 0 ? cell : cell + bytes;
}

/* How many scales and minimums a group of 32 columns has. */
INLINE uint32_t unpack_scales_of(uint32_t type)
{
    return type == HAL_Q6_K ? 2 : 1;
}

INLINE uint32_t unpack_minimums_of(uint32_t type)
{
    switch (type) {
    case HAL_Q4_1:
    case HAL_Q5_1:
    case HAL_Q4_K:
    case HAL_Q5_K: return 1;
    case HAL_Q2_K: return 2;
    default: return 0;
    }
}

INLINE VI unpack_biased(VI code, int32_t bias) /* code has 128 added */
{
    return bias == 128 ? code : vi_xor(code, vi_set8(-128));
}

/* Nibbles of 4 vectors: columns 0..15 low, 16..31 high; the codes then need `add`. */
INLINE void unpack_split(const uint8_t *p, int32_t add, VI w[8])
{
    const VI low = vi_set8(15);
    for (int j = 0; j < 4; j++) {
        const VI v = vi_load(p + 64 * j);
        w[j] = vi_and(v, low);
        w[j + 4] = vi_and(vi_shr16(v, 4), low);
    }
    if (add != 0)
        for (int j = 0; j < 8; j++)
            w[j] = vi_add8(w[j], vi_set8(add));
}

INLINE void unpack_table(const uint8_t *p, __m128i table, int32_t bias, VI w[8])
{
    const VI levels = vi_add8(vi_table(table), vi_set8(bias));
    unpack_split(p, 0, w);
    for (int j = 0; j < 8; j++)
        w[j] = vi_shuffle8(levels, w[j]);
}

/* Bit j of each byte of one vector belongs to vector j: Q5_0 and Q5_1. */
INLINE void unpack_fifth_spread(const uint8_t *p, VI w[8])
{
    const VI high = vi_load(p), bit = vi_set8(16);
    for (int j = 0; j < 4; j++)
        w[j] = vi_or(w[j], vi_and(vi_shl16(high, 4 - j), bit));
    for (int j = 4; j < 8; j++)
        w[j] = vi_or(w[j], vi_and(vi_shr16(high, j - 4), bit));
}

/* Nibbles of 8 vectors: low for even groups, high for odd ones: Q4_K and Q5_K. */
INLINE void unpack_pair(const uint8_t *p, uint32_t g, VI w[8])
{
    for (int j = 0; j < 8; j++) {
        const VI v = vi_load(p + 512 * (g / 2) + 64 * j);
        w[j] = vi_and(g % 2 == 0 ? v : vi_shr16(v, 4), vi_set8(15));
    }
}

INLINE void unpack_fifth(const uint8_t *p, uint32_t g, VI w[8])
{
    for (int j = 0; j < 8; j++)
        w[j] = vi_or(w[j], vi_if_bits(vi_load(p + 64 * j), vi_set8(1 << g), vi_set8(16)));
}

INLINE void unpack_q6(const uint8_t *cell, uint32_t g, int32_t bias, VI w[8])
{
    const uint8_t *low = cell + 1024 * (g / 4) + 512 * (g % 2);
    const uint8_t *high = cell + 2048 + 512 * (g / 4);
    for (int j = 0; j < 8; j++) {
        const VI v = vi_load(low + 64 * j), h = vi_load(high + 64 * j);
        const VI four = vi_and(g % 4 < 2 ? v : vi_shr16(v, 4), vi_set8(15));
        VI two = h;
        if (g % 4 < 2)
            two = vi_shl16(h, 4 - 2 * (int)(g % 4));
        if (g % 4 == 3)
            two = vi_shr16(h, 2);
        w[j] = vi_add8(vi_or(four, vi_and(two, vi_set8(48))), vi_set8(bias - 32));
    }
}

/* 2-bit codes as indices into the four bytes of their row: the table of a 128-bit lane has 4 rows. */
INLINE VI unpack_row_index(const uint8_t *p, uint32_t g, int j)
{
    const VI v = vi_load(p + 512 * (g / 4) + 64 * j);
    const VI rows = vi_table(_mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c));
    return vi_or(vi_and(g % 4 == 0 ? v : vi_shr16(v, 2 * (g % 4)), vi_set8(3)), rows);
}

/* Scales (low nibbles) and minimums (high) of columns 0..15 and 16..31, two int16 to a lane. */
INLINE VI unpack_q2_pair(const uint8_t *cell, uint32_t g, int half)
{
    return vi_bytes_to_16(cell + 1024 + 32 * g + 16 * half);
}

INLINE void unpack_q2(const uint8_t *cell, uint32_t g, int half, int32_t bias, VI w[8])
{
    const VI pair = unpack_q2_pair(cell - 32 * half, g, half);
    for (int b = 0; b < 2; b++) {
        const VI s = vi_and(b == 0 ? pair : vi_shr32(pair, 16), vi_set32(15));
        const VI multiples = vi_mul32(s, vi_set32(0x03020100));
        for (int j = 4 * b; j < 4 * b + 4; j++)
            w[j] = vi_add8(vi_shuffle8(multiples, unpack_row_index(cell, g, j)), vi_set8(bias));
    }
}

/* The unsigned 6-bit scales of columns 0..15 and 16..31, two int16 to a lane. */
INLINE VI unpack_q3_pair(const uint8_t *cell, uint32_t g, int half)
{
    const uint8_t *packed = cell + 1536 + 16 * half;
    const VI low = vi_bytes_to_16(packed + 32 * (g % 4));
    const VI high = vi_bytes_to_16(packed + 32 * (4 + g % 2));
    const VI nibble = vi_set32(0x000f000f), top = vi_set32(0x00300030);
    const VI four = vi_and(g < 4 ? low : vi_shr16(low, 4), nibble);
    const VI two = vi_and(g < 4 ? vi_shl16(high, 4 - 2 * (int)(g / 2))
                                : vi_shr16(high, 2 * (int)(g / 2) - 4),
                          top);
    return vi_or(four, two);
}

/* With s the scale + 32 and u the code, -(s - 32) * (u - 4) + 128: a multiple of s picked by the low two
 * bits of u, less 4 (s - 32) where its third bit is set. */
INLINE void unpack_q3(const uint8_t *cell, uint32_t g, int half, int32_t bias, VI w[8])
{
    const VI pair = unpack_q3_pair(cell - 32 * half, g, half);
    for (int b = 0; b < 2; b++) {
        const VI s = b == 0 ? vi_and(pair, vi_set32(63)) : vi_shr32(pair, 16);
        const VI multiples =
            vi_add32(vi_mul32(s, vi_set32(0x01020304)), vi_set32(0x60402000));
        const VI four = vi_xor(vi_mul32(s, vi_set32(0x04040404)), vi_set8(-128));
        for (int j = 4 * b; j < 4 * b + 4; j++) {
            const VI high = vi_load(cell + 1024 + 64 * j);
            const VI code = vi_shuffle8(multiples, unpack_row_index(cell, g, j));
            w[j] = unpack_biased(vi_sub8(code, vi_if_bits(high, vi_set8(1 << g), four)), bias);
        }
    }
}

/* The codes of group g of a cell, bias added: w[j] holds columns 4 j .. 4 j + 3 of VF_LANES rows. */
INLINE void unpack_codes(uint32_t type, const uint8_t *cell, uint32_t g, int half, int32_t bias,
                         VI w[8])
{
    const uint8_t *p = unpack_body(type, cell) + 32 * half;
    switch (type) {
    case HAL_Q4_0: unpack_split(p + 256 * g, bias - 8, w); break;
    case HAL_Q4_1: unpack_split(p + 256 * g, bias, w); break;
    case HAL_Q5_0:
    case HAL_Q5_1:
        unpack_split(p + 256 * g, 0, w);
        unpack_fifth_spread(p + 512 + 64 * g, w);
        for (int j = 0; j < 8; j++)
            w[j] = vi_add8(w[j], vi_set8(type == HAL_Q5_0 ? bias - 16 : bias));
        break;
    case HAL_Q8_0:
        for (int j = 0; j < 8; j++)
            w[j] = vi_xor(vi_load(p + 512 * g + 64 * j), vi_set8(bias));
        break;
    case HAL_IQ4_NL:
    case HAL_IQ4_XS: unpack_table(p + 256 * g, UNPACK_IQ4_LEVELS, bias, w); break;
    case HAL_NF4: unpack_table(p + 256 * g, UNPACK_NF4_LEVELS, bias, w); break;
    case HAL_Q2_K: unpack_q2(p, g, half, bias, w); break;
    case HAL_Q3_K: unpack_q3(p, g, half, bias, w); break;
    case HAL_Q6_K: unpack_q6(p, g, bias, w); break;
    default: /* Q4_K, Q5_K */
        unpack_pair(p, g, w);
        if (type == HAL_Q5_K)
            unpack_fifth(p + 2048, g, w);
        for (int j = 0; j < 8; j++)
            w[j] = vi_add8(w[j], vi_set8(bias));
    }
}

/* 6-bit scale and minimum of group g of Q4_K and Q5_K. */
INLINE void unpack_k4_scales(const uint8_t *packed, uint32_t g, VI *scale, VI *minimum)
{
    if (g < 4) {
        *scale = vi_and(vi_bytes_to_32(packed + 16 * g), vi_set32(63));
        *minimum = vi_and(vi_bytes_to_32(packed + 16 * (g + 4)), vi_set32(63));
        return;
    }
    const VI low = vi_bytes_to_32(packed + 16 * (g + 4));
    const VI high = vi_bytes_to_32(packed + 16 * (g - 4));
    const VI high_minimum = vi_bytes_to_32(packed + 16 * g);
    *scale = vi_or(vi_and(low, vi_set32(15)), vi_and(vi_shr16(high, 2), vi_set32(48)));
    *minimum = vi_or(vi_shr16(low, 4), vi_and(vi_shr16(high_minimum, 2), vi_set32(48)));
}

INLINE VI unpack_iq4_scale(const uint8_t *low_packed, const uint8_t *high_packed, uint32_t g)
{
    const VI low = vi_bytes_to_32(low_packed + 16 * (g / 2));
    const VI high = vi_bytes_to_32(high_packed + 16 * (g / 4));
    const VI four = vi_and(g % 2 == 0 ? low : vi_shr16(low, 4), vi_set32(15));
    const VI two = vi_and(g % 4 == 3 ? vi_shr16(high, 2) : vi_shl16(high, 4 - 2 * (int)(g % 4)),
                          vi_set32(48));
    return vi_sub32(vi_or(four, two), vi_set32(32));
}

/* The F32 scales and minimums of group g, counts by unpack_scales_of and unpack_minimums_of. */
INLINE void unpack_scales(uint32_t type, const uint8_t *cell, uint32_t g, int half, VF scale[2],
                          VF minimum[2])
{
    const uint8_t *halves = cell + 16 * half; /* F16 fields */
    const uint8_t *bytes = cell + 8 * half;
    const VF zero = vf_zero();
    VI s, m;
    switch (type) {
    case HAL_Q8_0: scale[0] = vf_from_f16(halves + 1024 + 32 * g); break;
    case HAL_Q5_0: scale[0] = vf_from_f16(halves + 640 + 32 * g); break;
    case HAL_Q4_1:
        scale[0] = vf_from_f16(halves + 512 + 32 * g);
        minimum[0] = vf_fnma(vf_from_f16(halves + 576 + 32 * g), vf_set(1.0f), zero);
        break;
    case HAL_Q5_1:
        scale[0] = vf_from_f16(halves + 640 + 32 * g);
        minimum[0] = vf_fnma(vf_from_f16(halves + 704 + 32 * g), vf_set(1.0f), zero);
        break;
    case HAL_Q2_K:
        scale[0] = vf_from_f16(halves + 1280);
        for (uint32_t b = 0; b < 2; b++) {
            m = vi_and(vi_shr32(unpack_q2_pair(cell, g, half), 4 + 16 * b), vi_set32(15));
            minimum[b] = vf_mul(vf_from_f16(halves + 1312), vf_from_32(m));
        }
        break;
    case HAL_Q3_K:
        scale[0] = vf_fnma(vf_from_f16(unpack_factor(cell, 1728) + 16 * half), vf_set(1.0f), zero);
        break;
    case HAL_Q4_K:
        unpack_k4_scales(bytes + 2048, g, &s, &m);
        scale[0] = vf_mul(vf_from_f16(halves + 2240), vf_from_32(s));
        minimum[0] = vf_mul(vf_from_f16(halves + 2272), vf_from_32(m));
        break;
    case HAL_Q5_K:
        unpack_k4_scales(bytes + 2560, g, &s, &m);
        scale[0] = vf_mul(vf_from_f16(halves + 2752), vf_from_32(s));
        minimum[0] = vf_mul(vf_from_f16(halves + 2784), vf_from_32(m));
        break;
    case HAL_Q6_K:
        for (uint32_t b = 0; b < 2; b++) {
            s = vi_signed_bytes_to_32(unpack_body(type, cell) + 8 * half + 3072 + 16 * (2 * g + b));
            scale[b] = vf_mul(vf_from_f16(unpack_factor(cell, 3328) + 16 * half), vf_from_32(s));
        }
        break;
    case HAL_IQ4_XS:
        s = unpack_iq4_scale(bytes + 2048, bytes + 2112, g);
        scale[0] = vf_mul(vf_from_f16(halves + 2144), vf_from_32(s));
        break;
    case HAL_NF4: /* multiplied, then added: as decode rounds it */
        s = vi_signed_bytes_to_32(bytes + 2048 + 16 * (g / 2));
        scale[0] = vf_add(vf_from_f16(halves + 2144),
                          vf_mul(vf_from_f16(halves + 2112), vf_from_32(s)));
        break;
    default: scale[0] = vf_from_f16(halves + 512 + 32 * g); break; /* Q4_0, IQ4_NL */
    }
}

/* ---- one token ---- */

/* Has a group two integer scales that stay apart? */
INLINE int unpack_is_paired(uint32_t type)
{
    return type == HAL_Q2_K || type == HAL_Q3_K;
}

/* What is added to a level to make the code as it is stored. */
INLINE int32_t unpack_offset(uint32_t type)
{
    switch (type) {
    case HAL_Q4_0: return 8;
    case HAL_Q5_0: return 16;
    case HAL_Q6_K: return 32;
    case HAL_Q3_K: return 4;
    case HAL_Q4_1:
    case HAL_Q5_1:
    case HAL_Q2_K:
    case HAL_Q4_K:
    case HAL_Q5_K: return 0;
    default: return 128;
    }
}

/* Codes of Q2_K and Q3_K without their scales, in 0..3 and 0..7, less `less`. */
INLINE void unpack_pair_codes(uint32_t type, const uint8_t *cell, uint32_t g, int half, int32_t less,
                              VI w[8])
{
    const uint8_t *p = unpack_body(type, cell) + 32 * half;
    for (int j = 0; j < 8; j++) {
        const VI v = vi_load(p + 512 * (g / 4) + 64 * j);
        w[j] = vi_and(g % 4 == 0 ? v : vi_shr16(v, 2 * (g % 4)), vi_set8(3));
        if (type == HAL_Q3_K) {
            const VI high = vi_load(p + 1024 + 64 * j);
            const VI at_two = g < 2 ? vi_shl16(high, 2 - (int)g) : vi_shr16(high, (int)g - 2);
            w[j] = vi_or(w[j], vi_and(at_two, vi_set8(4)));
        }
        if (less != 0)
            w[j] = vi_sub8(w[j], vi_set8(less));
    }
}

/* Their integer scales and minimums, pairs of int16. */
INLINE void unpack_pair_scales(uint32_t type, const uint8_t *cell, uint32_t g, int half, VI *scale,
                               VI *minimum)
{
    if (type == HAL_Q3_K) {
        *scale = vi_sub16(unpack_q3_pair(unpack_body(type, cell), g, half), vi_set32(0x00200020));
        *minimum = vi_zero();
        return;
    }
    const VI pair = unpack_q2_pair(cell, g, half);
    *scale = vi_and(pair, vi_set32(0x000f000f));
    *minimum = vi_shr16(pair, 4);
}

/* ---- every type ---- */

#define UNPACK_FOR_EACH_TYPE(CASE)                                                                        \
    CASE(HAL_Q4_0) CASE(HAL_Q4_1) CASE(HAL_Q5_0) CASE(HAL_Q5_1) CASE(HAL_Q8_0) CASE(HAL_Q2_K)      \
    CASE(HAL_Q3_K) CASE(HAL_Q4_K) CASE(HAL_Q5_K) CASE(HAL_Q6_K) CASE(HAL_IQ4_NL) CASE(HAL_IQ4_XS)      \
    CASE(HAL_NF4)

#endif
