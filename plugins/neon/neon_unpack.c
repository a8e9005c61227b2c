/* neon_unpack.c: block formats to tiles of signed bytes. Layouts: hal/block.h. */
#include "plugins/neon/neon_tile.h"

#include <arm_neon.h>
#include <string.h>

#include "hal/half.h"

enum { NIBBLE = 15 };

static const int8_t iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};

static float read_half(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return half_f16_to_f32(h);
}

static void set_scale(struct neon_tile *t, uint32_t group32, float scale, float minimum)
{
    t->scale[2 * group32] = t->scale[2 * group32 + 1] = scale;
    t->minimum[2 * group32] = t->minimum[2 * group32 + 1] = minimum;
}

/* 16 bytes of nibbles: the low ones are values 0..15, the high ones 16..31. */
static void split_nibbles(const uint8_t *qs, int8x16_t out[2])
{
    const uint8x16_t b = vld1q_u8(qs);
    out[0] = vreinterpretq_s8_u8(vandq_u8(b, vdupq_n_u8(NIBBLE)));
    out[1] = vreinterpretq_s8_u8(vshrq_n_u8(b, 4));
}

/* Bit i of bits, as 16 in value i: the fifth bit of Q5_0 and Q5_1. */
static void spread_bits(uint32_t bits, uint8x16_t out[2])
{
    static const uint8_t select[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x16_t mask = vld1q_u8(select);
    for (uint32_t half = 0; half < 2; half++) {
        const uint8x16_t bytes = vcombine_u8(vdup_n_u8((uint8_t)(bits >> (16 * half))),
                                             vdup_n_u8((uint8_t)(bits >> (16 * half + 8))));
        out[half] = vandq_u8(vtstq_u8(bytes, mask), vdupq_n_u8(16));
    }
}

static void store_pair(struct neon_tile *t, uint32_t group32, int8x16_t low, int8x16_t high, int8_t zero)
{
    vst1q_s8(t->level + 32 * group32, vsubq_s8(low, vdupq_n_s8(zero)));
    vst1q_s8(t->level + 32 * group32 + 16, vsubq_s8(high, vdupq_n_s8(zero)));
}

static void unpack_q4_0(const uint8_t *b, uint32_t values, struct neon_tile *t)
{
    for (uint32_t g = 0; g < values / 32; g++, b += 18) {
        int8x16_t q[2];
        split_nibbles(b + 2, q);
        store_pair(t, g, q[0], q[1], 8);
        set_scale(t, g, read_half(b), 0);
    }
}

static void unpack_iq4_nl(const uint8_t *b, uint32_t values, struct neon_tile *t)
{
    const int8x16_t table = vld1q_s8(iq4_levels);
    for (uint32_t g = 0; g < values / 32; g++, b += 18) {
        int8x16_t q[2];
        split_nibbles(b + 2, q);
        store_pair(t, g, vqtbl1q_s8(table, vreinterpretq_u8_s8(q[0])),
                   vqtbl1q_s8(table, vreinterpretq_u8_s8(q[1])), 0);
        set_scale(t, g, read_half(b), 0);
    }
}

/* value = d * code + m, so the minimum is -m */
static void unpack_q4_1(const uint8_t *b, uint32_t values, struct neon_tile *t)
{
    for (uint32_t g = 0; g < values / 32; g++, b += 20) {
        int8x16_t q[2];
        split_nibbles(b + 4, q);
        store_pair(t, g, q[0], q[1], 0);
        set_scale(t, g, read_half(b), -read_half(b + 2));
    }
}

static void unpack_fives(const uint8_t *qh, const uint8_t *qs, int8x16_t q[2])
{
    uint32_t bits;
    memcpy(&bits, qh, sizeof bits);
    uint8x16_t fifth[2];
    spread_bits(bits, fifth);
    split_nibbles(qs, q);
    q[0] = vorrq_s8(q[0], vreinterpretq_s8_u8(fifth[0]));
    q[1] = vorrq_s8(q[1], vreinterpretq_s8_u8(fifth[1]));
}

static void unpack_q5_0(const uint8_t *b, uint32_t values, struct neon_tile *t)
{
    for (uint32_t g = 0; g < values / 32; g++, b += 22) {
        int8x16_t q[2];
        unpack_fives(b + 2, b + 6, q);
        store_pair(t, g, q[0], q[1], 16);
        set_scale(t, g, read_half(b), 0);
    }
}

static void unpack_q5_1(const uint8_t *b, uint32_t values, struct neon_tile *t)
{
    for (uint32_t g = 0; g < values / 32; g++, b += 24) {
        int8x16_t q[2];
        unpack_fives(b + 4, b + 8, q);
        store_pair(t, g, q[0], q[1], 0);
        set_scale(t, g, read_half(b), -read_half(b + 2));
    }
}

static void unpack_q8_0(const uint8_t *b, uint32_t values, struct neon_tile *t)
{
    for (uint32_t g = 0; g < values / 32; g++, b += 34) {
        memcpy(t->level + 32 * g, b + 2, 32);
        set_scale(t, g, read_half(b), 0);
    }
}

/* The eight 6-bit scales and minima that Q4_K and Q5_K pack into 12 bytes. */
static void six_bit_pairs(const uint8_t *s, uint8_t scale[8], uint8_t minimum[8])
{
    for (uint32_t b = 0; b < 4; b++) {
        scale[b] = s[b] & 63;
        minimum[b] = s[b + 4] & 63;
        scale[b + 4] = (uint8_t)((s[b + 8] & NIBBLE) | (s[b] >> 6) << 4);
        minimum[b + 4] = (uint8_t)(s[b + 8] >> 4 | (s[b + 4] >> 6) << 4);
    }
}

static void unpack_q45_k(const uint8_t *b, const uint8_t *qh, const uint8_t *qs, struct neon_tile *t)
{
    uint8_t scale[8], minimum[8];
    six_bit_pairs(b + 4, scale, minimum);
    const float d = read_half(b), dmin = read_half(b + 2);
    for (uint32_t pair = 0; pair < 4; pair++)
        for (uint32_t half = 0; half < 2; half++) {
            const uint8x16_t q = vld1q_u8(qs + 32 * pair + 16 * half);
            uint8x16_t low = vandq_u8(q, vdupq_n_u8(NIBBLE)), high = vshrq_n_u8(q, 4);
            if (qh) {
                const uint8x16_t h = vld1q_u8(qh + 16 * half);
                const uint8x16_t bit = vdupq_n_u8((uint8_t)(1u << (2 * pair)));
                const uint8x16_t next = vdupq_n_u8((uint8_t)(2u << (2 * pair)));
                low = vorrq_u8(low, vandq_u8(vtstq_u8(h, bit), vdupq_n_u8(16)));
                high = vorrq_u8(high, vandq_u8(vtstq_u8(h, next), vdupq_n_u8(16)));
            }
            vst1q_s8(t->level + 64 * pair + 16 * half, vreinterpretq_s8_u8(low));
            vst1q_s8(t->level + 64 * pair + 32 + 16 * half, vreinterpretq_s8_u8(high));
        }
    for (uint32_t g = 0; g < 8; g++)
        set_scale(t, g, d * scale[g], dmin * minimum[g]);
}

static void unpack_q4_k(const uint8_t *b, uint32_t values, struct neon_tile *t)
{
    (void)values;
    unpack_q45_k(b, NULL, b + 16, t);
}

static void unpack_q5_k(const uint8_t *b, uint32_t values, struct neon_tile *t)
{
    (void)values;
    unpack_q45_k(b, b + 16, b + 48, t);
}

static uint8x16_t shift_right(uint8x16_t v, uint32_t bits)
{
    return vshlq_u8(v, vdupq_n_s8((int8_t)-(int32_t)bits));
}

static void unpack_q6_k(const uint8_t *b, uint32_t values, struct neon_tile *t)
{
    (void)values;
    const uint8_t *ql = b, *qh = b + 128;
    const int8_t *scales = (const int8_t *)(b + 192);
    const float d = read_half(b + 208);
    for (uint32_t g = 0; g < 16; g++) { /* 16 values each: half h, row r of it */
        const uint32_t h = g / 8, r = 16 * (g % 8);
        const uint8x16_t low = vandq_u8(shift_right(vld1q_u8(ql + 64 * h + r % 64), 4 * (r / 64)),
                                        vdupq_n_u8(NIBBLE));
        const uint8x16_t high = vandq_u8(shift_right(vld1q_u8(qh + 32 * h + r % 32), 2 * (r / 32)),
                                         vdupq_n_u8(3));
        const int8x16_t q = vreinterpretq_s8_u8(vorrq_u8(low, vshlq_n_u8(high, 4)));
        vst1q_s8(t->level + 16 * g, vsubq_s8(q, vdupq_n_s8(32)));
        t->scale[g] = d * (float)scales[g];
        t->minimum[g] = 0;
    }
}

/* The 2-bit codes of Q2_K and Q3_K: 16 values of group g. */
static uint8x16_t two_bits(const uint8_t *qs, uint32_t g)
{
    const uint32_t h = g / 8, r = 16 * (g % 8);
    return vandq_u8(shift_right(vld1q_u8(qs + 32 * h + r % 32), 2 * (r / 32)), vdupq_n_u8(3));
}

static void unpack_q2_k(const uint8_t *b, uint32_t values, struct neon_tile *t)
{
    (void)values;
    const float d = read_half(b + 80), dmin = read_half(b + 82);
    for (uint32_t g = 0; g < 16; g++) {
        vst1q_s8(t->level + 16 * g, vreinterpretq_s8_u8(two_bits(b + 16, g)));
        t->scale[g] = d * (float)(b[g] & NIBBLE);
        t->minimum[g] = dmin * (float)(b[g] >> 4);
    }
}

static void unpack_q3_k(const uint8_t *b, uint32_t values, struct neon_tile *t)
{
    (void)values;
    const float d = read_half(b + 108);
    const uint8_t *packed = b + 96;
    for (uint32_t g = 0; g < 16; g++) {
        const uint8x16_t hmask = vld1q_u8(b + 16 * (g % 2));
        const uint8x16_t bit = vtstq_u8(hmask, vdupq_n_u8((uint8_t)(1u << (g / 2))));
        const uint8x16_t q = vorrq_u8(two_bits(b + 32, g), vandq_u8(bit, vdupq_n_u8(4)));
        vst1q_s8(t->level + 16 * g, vsubq_s8(vreinterpretq_s8_u8(q), vdupq_n_s8(4)));
        const uint32_t low = packed[g % 8] >> (4 * (g / 8)) & NIBBLE;
        const uint32_t high = packed[8 + g % 4] >> (2 * (g / 4)) & 3u;
        t->scale[g] = d * (float)((int32_t)(low | high << 4) - 32);
        t->minimum[g] = 0;
    }
}

static void unpack_iq4_xs(const uint8_t *b, uint32_t values, struct neon_tile *t)
{
    (void)values;
    const int8x16_t table = vld1q_s8(iq4_levels);
    const float d = read_half(b);
    const uint32_t high = (uint32_t)(b[2] | b[3] << 8);
    for (uint32_t g = 0; g < 8; g++) {
        int8x16_t q[2];
        split_nibbles(b + 8 + 16 * g, q);
        store_pair(t, g, vqtbl1q_s8(table, vreinterpretq_u8_s8(q[0])),
                   vqtbl1q_s8(table, vreinterpretq_u8_s8(q[1])), 0);
        const uint32_t low = b[4 + g / 2] >> (4 * (g % 2)) & NIBBLE;
        const int32_t scale = (int32_t)(low | (high >> (2 * g) & 3u) << 4) - 32;
        set_scale(t, g, d * (float)scale, 0);
    }
}

static const struct neon_format formats[] = {
    [HAL_Q4_0] = {32, 18, 0, 0, unpack_q4_0},       [HAL_Q4_1] = {32, 20, 1, 0, unpack_q4_1},
    [HAL_Q5_0] = {32, 22, 0, 0, unpack_q5_0},       [HAL_Q5_1] = {32, 24, 1, 0, unpack_q5_1},
    [HAL_Q8_0] = {32, 34, 0, 0, unpack_q8_0},       [HAL_Q2_K] = {256, 84, 1, 1, unpack_q2_k},
    [HAL_Q3_K] = {256, 110, 0, 1, unpack_q3_k},     [HAL_Q4_K] = {256, 144, 1, 0, unpack_q4_k},
    [HAL_Q5_K] = {256, 176, 1, 0, unpack_q5_k},     [HAL_Q6_K] = {256, 210, 0, 1, unpack_q6_k},
    [HAL_IQ4_NL] = {32, 18, 0, 0, unpack_iq4_nl},   [HAL_IQ4_XS] = {256, 136, 0, 0, unpack_iq4_xs},
};

const struct neon_format *neon_format(uint32_t type)
{
    if (type >= sizeof formats / sizeof formats[0] || !formats[type].unpack)
        return NULL;
    return &formats[type];
}
