/* block_k.c: the formats of 256 values with quantised group scales: Q2_K to Q6_K. */
#include "hal/block_layout.h"

#include <string.h>

/* Eight codes at a time, one to a byte. */
static uint64_t load8(const uint8_t *p)
{
    uint64_t w;
    memcpy(&w, p, sizeof w);
    return w;
}

static void store8(uint8_t *p, uint64_t w)
{
    memcpy(p, &w, sizeof w);
}

/* Of each of 8 bytes the bits from `drop` on that mask keeps; drop + the bits of mask is 8 at most. */
static uint64_t bits8(const uint8_t *p, unsigned drop, unsigned mask)
{
    return load8(p) >> drop & mask * 0x0101010101010101u;
}

/* Two bits of element i: with h = i / 128 and r = i % 128, at shift 2 (r / 32) of qs[32 h + r %
 * 32]. */
static void get_pairs(const uint8_t *qs, uint8_t *code)
{
    for (unsigned h = 0; h < 2; h++)
        for (unsigned r = 0; r < 128; r += 8)
            store8(code + 128 * h + r, bits8(qs + 32 * h + r % 32, 2 * (r / 32), 3));
}

static void put_pairs(const uint8_t *code, unsigned drop, uint8_t *qs)
{
    for (unsigned h = 0; h < 2; h++)
        for (unsigned j = 0; j < 32; j += 8) {
            uint64_t w = 0;
            for (unsigned k = 0; k < 4; k++)
                w |= bits8(code + 128 * h + 32 * k + j, drop, 3) << 2 * k;
            store8(qs + 32 * h + j, w);
        }
}

/* Bit (i / 32) of mask[i % 32] is bit `bit` of element i. */
static void get_mask(const uint8_t *mask, unsigned bit, uint8_t *code)
{
    for (unsigned i = 0; i < 256; i += 8)
        store8(code + i, load8(code + i) | bits8(mask + i % 32, i / 32, 1) << bit);
}

static void put_mask(const uint8_t *code, unsigned bit, uint8_t *mask)
{
    for (unsigned j = 0; j < 32; j += 8) {
        uint64_t w = 0;
        for (unsigned k = 0; k < 8; k++)
            w |= bits8(code + 32 * k + j, bit, 1) << k;
        store8(mask + j, w);
    }
}

/* Four bits of element i: byte width (i / (2 width)) + i % width, the low nibble when i / width is even. */
static void get_nibbles(const uint8_t *qs, unsigned width, uint8_t *code)
{
    for (unsigned i = 0; i < 256; i += 8)
        store8(code + i, bits8(qs + i / (2 * width) * width + i % width, 4 * (i / width % 2), 15));
}

static void put_nibbles(const uint8_t *code, unsigned width, uint8_t *qs)
{
    for (unsigned i = 0; i < 128; i += 8) {
        const uint8_t *low = code + i / width * 2 * width + i % width;
        store8(qs + i, bits8(low, 0, 15) | bits8(low + width, 0, 15) << 4);
    }
}

/* Q2_K: scales[16]@0, qs[64]@16, d@80, dmin@82 */
static void get_q2_k(const uint8_t *block, uint8_t *code)
{
    get_pairs(block + 16, code);
}

static void put_q2_k(const uint8_t *code, uint8_t *block)
{
    put_pairs(code, 0, block + 16);
}

static void get_q2_k_scales(const uint8_t *block, struct block_scales *out)
{
    out->d = block_layout_get16(block + 80);
    out->dmin = block_layout_get16(block + 82);
    for (int g = 0; g < 16; g++) {
        out->s[g] = block[g] & 15;
        out->m[g] = block[g] >> 4;
    }
}

static void put_q2_k_scales(const struct block_scales *scales, uint8_t *block)
{
    block_layout_put16(block + 80, scales->d);
    block_layout_put16(block + 82, scales->dmin);
    for (int g = 0; g < 16; g++)
        block[g] = (uint8_t)((scales->s[g] & 15) | scales->m[g] << 4);
}

/* Q3_K: hmask[32]@0, qs[64]@32, scales[12]@96, d@108 */
static void get_q3_k(const uint8_t *block, uint8_t *code)
{
    get_pairs(block + 32, code);
    get_mask(block, 2, code);
}

static void put_q3_k(const uint8_t *code, uint8_t *block)
{
    put_pairs(code, 0, block + 32);
    put_mask(code, 2, block);
}

static void get_q3_k_scales(const uint8_t *block, struct block_scales *out)
{
    const uint8_t *s = block + 96;
    out->d = block_layout_get16(block + 108);
    for (int g = 0; g < 16; g++) {
        const unsigned low = (unsigned)s[g % 8] >> 4 * (g / 8) & 15u;
        const unsigned high = (unsigned)s[8 + g % 4] >> 2 * (g / 4) & 3u;
        out->s[g] = (int8_t)((int)(low | high << 4) - 32);
    }
}

static void put_q3_k_scales(const struct block_scales *scales, uint8_t *block)
{
    uint8_t *s = block + 96;
    block_layout_put16(block + 108, scales->d);
    memset(s, 0, 12);
    for (int g = 0; g < 16; g++) {
        const unsigned v = (unsigned)(scales->s[g] + 32) & 63u;
        s[g % 8] = (uint8_t)(s[g % 8] | (v & 15u) << 4 * (g / 8));
        s[8 + g % 4] = (uint8_t)(s[8 + g % 4] | v >> 4 << 2 * (g / 4));
    }
}

/* Q4_K and Q5_K: d@0, dmin@2, 6-bit scales and minima in 12 bytes @4 */
static void get_k_scales(const uint8_t *block, struct block_scales *out)
{
    const uint8_t *s = block + 4;
    out->d = block_layout_get16(block);
    out->dmin = block_layout_get16(block + 2);
    for (int g = 0; g < 4; g++) {
        out->s[g] = s[g] & 63;
        out->m[g] = s[g + 4] & 63;
        out->s[g + 4] = (int8_t)((s[g + 8] & 15) | s[g] >> 6 << 4);
        out->m[g + 4] = (uint8_t)(s[g + 8] >> 4 | s[g + 4] >> 6 << 4);
    }
}

static void put_k_scales(const struct block_scales *scales, uint8_t *block)
{
    uint8_t *s = block + 4;
    block_layout_put16(block, scales->d);
    block_layout_put16(block + 2, scales->dmin);
    for (int g = 0; g < 4; g++) {
        const unsigned high_s = (uint8_t)scales->s[g + 4], high_m = scales->m[g + 4];
        s[g] = (uint8_t)((scales->s[g] & 63) | high_s >> 4 << 6);
        s[g + 4] = (uint8_t)((scales->m[g] & 63) | high_m >> 4 << 6);
        s[g + 8] = (uint8_t)((high_s & 15u) | (high_m & 15u) << 4);
    }
}

/* Q4_K: qs[128]@16 */
static void get_q4_k(const uint8_t *block, uint8_t *code)
{
    get_nibbles(block + 16, 32, code);
}

static void put_q4_k(const uint8_t *code, uint8_t *block)
{
    put_nibbles(code, 32, block + 16);
}

/* Q5_K: qh[32]@16, qs[128]@48 */
static void get_q5_k(const uint8_t *block, uint8_t *code)
{
    get_nibbles(block + 48, 32, code);
    get_mask(block + 16, 4, code);
}

static void put_q5_k(const uint8_t *code, uint8_t *block)
{
    put_nibbles(code, 32, block + 48);
    put_mask(code, 4, block + 16);
}

/* Q6_K: ql[128]@0, qh[64]@128, int8 scales[16]@192, d@208 */
static void get_q6_k(const uint8_t *block, uint8_t *code)
{
    uint8_t high[256];
    get_pairs(block + 128, high);
    get_nibbles(block, 64, code);
    for (unsigned i = 0; i < 256; i += 8)
        store8(code + i, load8(code + i) | load8(high + i) << 4);
}

static void put_q6_k(const uint8_t *code, uint8_t *block)
{
    put_pairs(code, 4, block + 128);
    put_nibbles(code, 64, block);
}

static void get_q6_k_scales(const uint8_t *block, struct block_scales *out)
{
    out->d = block_layout_get16(block + 208);
    memcpy(out->s, block + 192, 16);
}

static void put_q6_k_scales(const struct block_scales *scales, uint8_t *block)
{
    block_layout_put16(block + 208, scales->d);
    memcpy(block + 192, scales->s, 16);
}

const struct block_layout block_layout_q2_k = {
    {"Q2_K", HAL_Q2_K, 256, 84, 16, 4, 0}, get_q2_k, put_q2_k, get_q2_k_scales, put_q2_k_scales};
const struct block_layout block_layout_q3_k = {
    {"Q3_K", HAL_Q3_K, 256, 110, 16, 8, 4}, get_q3_k, put_q3_k, get_q3_k_scales, put_q3_k_scales};
const struct block_layout block_layout_q4_k = {
    {"Q4_K", HAL_Q4_K, 256, 144, 32, 16, 0}, get_q4_k, put_q4_k, get_k_scales, put_k_scales};
const struct block_layout block_layout_q5_k = {
    {"Q5_K", HAL_Q5_K, 256, 176, 32, 32, 0}, get_q5_k, put_q5_k, get_k_scales, put_k_scales};
const struct block_layout block_layout_q6_k = {
    {"Q6_K", HAL_Q6_K, 256, 210, 16, 64, 32}, get_q6_k, put_q6_k, get_q6_k_scales, put_q6_k_scales};
