/* cuda_codes.h: for the kernels: one group of 32 weights from its planes to levels and scales.
 *
 * type is a constant in kernels made for one type; then what it decides folds away. */
#ifndef CUDA_CODES_H
#define CUDA_CODES_H

#include "plugins/cuda/cuda_lang.h"

/* A group as loaded; taken apart only after the loads of many are on their way. */
struct raw_group {
    uint nibble[4], pair[2], single, more[4]; /* BYTE: nibble, then more */
    uint scale, super;
};

struct group_scales {
    float scale[2], minimum[2]; /* of values 0..15 and 16..31 */
};

FN void load_four(ulong address, ulong index, uint *out)
{
    const VECTOR4 v = AT(const VECTOR4, address)[index];
    out[0] = v.x;
    out[1] = v.y;
    out[2] = v.z;
    out[3] = v.w;
}

FN void load_codes(uint type, const struct cuda_weight *w, uint row, uint group,
                   struct raw_group *out)
{
    const uint planes = format_planes(type);
    const ulong at = (ulong)row * w->groups + group;
    if (planes & PLANE_BYTE) {
        load_four(w->nibble, 2 * at, out->nibble);
        load_four(w->nibble, 2 * at + 1, out->more);
    }
    if (planes & PLANE_NIBBLE)
        load_four(w->nibble, at, out->nibble);
    if (planes & PLANE_PAIR) {
        const VECTOR2 v = AT(const VECTOR2, w->pair)[at];
        out->pair[0] = v.x;
        out->pair[1] = v.y;
    }
    if (planes & PLANE_SINGLE)
        out->single = AT(const uint, w->single)[at];
}

FN void load_scales(uint type, const struct cuda_weight *w, uint row, uint group,
                    struct raw_group *out)
{
    const ulong at = (ulong)row * w->groups + group;
    if (format_scale_bytes(type) == 2)
        out->scale = AT(const ushort, w->scale)[at];
    if (format_scale_bytes(type) == 1)
        out->scale = AT(const uchar, w->scale)[at];
    if (format_super_groups(type) == 8)
        out->super = AT(const uint, w->super)[(ulong)row * (w->groups / 8) + group / 8];
    else if (format_super_bytes(type) == 4)
        out->super = AT(const uint, w->super)[at];
    else
        out->super = AT(const ushort, w->super)[at];
}

FN void load_group(uint type, const struct cuda_weight *w, uint row, uint group,
                   struct raw_group *out)
{
    load_codes(type, w, row, group, out);
    load_scales(type, w, row, group, out);
}

#define FOUR(a, b, c, d)                                                                           \
    (((uint)(a)&255u) | ((uint)(b)&255u) << 8 | ((uint)(c)&255u) << 16 | ((uint)(d)&255u) << 24)

/* The levels of the four codes in the low 16 bits of `codes` (hal/block.c has the tables). */
FN uint look_up(uint type, uint codes)
{
    const int is_nf4 = type == FORMAT_NF4;
    const uint t0 = is_nf4 ? FOUR(-127, -88, -67, -50) : FOUR(-127, -104, -83, -65);
    const uint t1 = is_nf4 ? FOUR(-36, -23, -12, 0) : FOUR(-49, -35, -22, -10);
    const uint t2 = is_nf4 ? FOUR(10, 20, 31, 43) : FOUR(1, 13, 25, 38);
    const uint t3 = is_nf4 ? FOUR(56, 71, 92, 127) : FOUR(53, 69, 89, 113);
    const uint low = permute(t0, t1, codes & 0x7777u);
    const uint high = permute(t2, t3, codes & 0x7777u);
    return permute(low, high, 0x3210u | (codes & 0x8888u) >> 1);
}

/* Eight words of four int8: word i holds elements 4 i .. 4 i + 3, each format_zero() above its
 * level. */
FN void unpack_codes(uint type, const struct raw_group *g, uint *code)
{
    const uint planes = format_planes(type);
    if (planes & PLANE_BYTE) {
        for (uint i = 0; i < 4; i++) {
            code[i] = g->nibble[i];
            code[i + 4] = g->more[i];
        }
        return;
    }
    if (format_is_table(type)) {
        for (uint i = 0; i < 4; i++) {
            code[2 * i] = look_up(type, g->nibble[i] & 0xffffu);
            code[2 * i + 1] = look_up(type, g->nibble[i] >> 16);
        }
        return;
    }
    for (uint i = 0; i < 8; i++) {
        code[i] = 0;
        if (planes & PLANE_NIBBLE)
            code[i] = g->nibble[i & 3] >> 4 * (i >> 2) & 0x0f0f0f0fu;
        if (planes & PLANE_PAIR)
            code[i] |= (g->pair[i & 1] >> 2 * (i >> 1) & 0x03030303u)
                       << (planes & PLANE_NIBBLE ? 4 : 0);
        if (planes & PLANE_SINGLE)
            code[i] |= (g->single >> i & 0x01010101u) << (planes & PLANE_NIBBLE ? 4 : 2);
    }
}

/* Codes of a word to levels: byte by byte, without borrows across. Codes with a zero are below 128;
 * without one they are levels already. */
FN uint subtract_zero(uint code, uint zero)
{
    return zero == 0 ? code : ((code | 0x80808080u) - zero * 0x01010101u) ^ 0x80808080u;
}

FN float signed_byte(uint v)
{
    return (float)((int)((v & 255u) ^ 128u) - 128);
}

/* As block_multiply_scales() multiplies them out: each product is one F32 operation. */
FN void unpack_scales(uint type, const struct raw_group *g, struct group_scales *out)
{
    const float d = float_of_f16(g->super & 0xffffu);
    const float dmin = float_of_f16(g->super >> 16);
    out->scale[0] = d;
    out->minimum[0] = out->minimum[1] = 0.0f;
    switch (type) {
    case FORMAT_Q4_1:
    case FORMAT_Q5_1: out->minimum[0] = out->minimum[1] = -dmin; break;
    case FORMAT_Q4_K:
    case FORMAT_Q5_K:
        out->scale[0] = d * (float)(g->scale & 255u);
        out->minimum[0] = out->minimum[1] = dmin * (float)(g->scale >> 8);
        break;
    case FORMAT_Q2_K:
        out->scale[0] = d * (float)(g->scale & 15u);
        out->minimum[0] = dmin * (float)(g->scale >> 4 & 15u);
        out->scale[1] = d * (float)(g->scale >> 8 & 15u);
        out->minimum[1] = dmin * (float)(g->scale >> 12);
        return;
    case FORMAT_Q3_K:
    case FORMAT_Q6_K:
        out->scale[0] = d * signed_byte(g->scale);
        out->scale[1] = d * signed_byte(g->scale >> 8);
        return;
    case FORMAT_IQ4_XS: out->scale[0] = d * signed_byte(g->scale); break;
    case FORMAT_NF4: out->scale[0] = dmin + d * signed_byte(g->scale); break;
    default: break;
    }
    out->scale[1] = out->scale[0];
}

#endif
