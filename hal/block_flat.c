/* block_flat.c: the formats of 32 values, and those that are 32-groups in a row (IQ4_XS, NF4). */
#include "hal/block_layout.h"

#include <string.h>

/* Element i < 16 of a 32-group is the low nibble of byte i, element i + 16 its high nibble. */
static void get_split(const uint8_t *qs, uint8_t *code)
{
    for (int i = 0; i < 16; i++) {
        code[i] = qs[i] & 15;
        code[i + 16] = qs[i] >> 4;
    }
}

static void put_split(const uint8_t *code, uint8_t *qs)
{
    for (int i = 0; i < 16; i++)
        qs[i] = (uint8_t)((code[i] & 15) | code[i + 16] << 4);
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void get_fifth(const uint8_t *qh, uint8_t *code)
{
    const uint32_t bits = get32(qh);
    for (int i = 0; i < 32; i++)
        code[i] = (uint8_t)(code[i] | (bits >> i & 1u) << 4);
}

static void put_fifth(const uint8_t *code, uint8_t *qh)
{
    for (int byte = 0; byte < 4; byte++) {
        unsigned bits = 0;
        for (int i = 0; i < 8; i++)
            bits |= (code[8 * byte + i] >> 4 & 1u) << i;
        qh[byte] = (uint8_t)bits;
    }
}

static void get_d(const uint8_t *block, struct block_scales *out)
{
    out->d = block_layout_get16(block);
}

static void put_d(const struct block_scales *scales, uint8_t *block)
{
    block_layout_put16(block, scales->d);
}

static void get_d_m(const uint8_t *block, struct block_scales *out)
{
    out->d = block_layout_get16(block);
    out->dmin = block_layout_get16(block + 2);
}

static void put_d_m(const struct block_scales *scales, uint8_t *block)
{
    block_layout_put16(block, scales->d);
    block_layout_put16(block + 2, scales->dmin);
}

static void get_q4_0(const uint8_t *block, uint8_t *code)
{
    get_split(block + 2, code);
}

static void put_q4_0(const uint8_t *code, uint8_t *block)
{
    put_split(code, block + 2);
}

static void get_q4_1(const uint8_t *block, uint8_t *code)
{
    get_split(block + 4, code);
}

static void put_q4_1(const uint8_t *code, uint8_t *block)
{
    put_split(code, block + 4);
}

static void get_q5_0(const uint8_t *block, uint8_t *code)
{
    get_split(block + 6, code);
    get_fifth(block + 2, code);
}

static void put_q5_0(const uint8_t *code, uint8_t *block)
{
    put_split(code, block + 6);
    put_fifth(code, block + 2);
}

static void get_q5_1(const uint8_t *block, uint8_t *code)
{
    get_split(block + 8, code);
    get_fifth(block + 4, code);
}

static void put_q5_1(const uint8_t *code, uint8_t *block)
{
    put_split(code, block + 8);
    put_fifth(code, block + 4);
}

/* The code is the stored int8 plus 128. */
static void get_q8_0(const uint8_t *block, uint8_t *code)
{
    for (int i = 0; i < 32; i++)
        code[i] = (uint8_t)(block[2 + i] ^ 0x80u);
}

static void put_q8_0(const uint8_t *code, uint8_t *block)
{
    for (int i = 0; i < 32; i++)
        block[2 + i] = (uint8_t)(code[i] ^ 0x80u);
}

static void get_groups(const uint8_t *block, uint8_t *code)
{
    for (int g = 0; g < 8; g++)
        get_split(block + 8 + 16 * g, code + 32 * g);
}

static void put_groups(const uint8_t *code, uint8_t *block)
{
    for (int g = 0; g < 8; g++)
        put_split(code + 32 * g, block + 8 + 16 * g);
}

/* d@0, scales_h u16@2, scales_l[4]@4 */
static void get_iq4_xs_scales(const uint8_t *block, struct block_scales *out)
{
    out->d = block_layout_get16(block);
    const unsigned high = block_layout_get16(block + 2);
    for (int g = 0; g < 8; g++) {
        const unsigned low = (unsigned)block[4 + g / 2] >> 4 * (g % 2) & 15u;
        out->s[g] = (int8_t)((int)(low | (high >> 2 * g & 3u) << 4) - 32);
    }
}

static void put_iq4_xs_scales(const struct block_scales *scales, uint8_t *block)
{
    unsigned high = 0;
    block_layout_put16(block, scales->d);
    memset(block + 4, 0, 4);
    for (int g = 0; g < 8; g++) {
        const unsigned s = (unsigned)(scales->s[g] + 32) & 63u;
        block[4 + g / 2] = (uint8_t)(block[4 + g / 2] | (s & 15u) << 4 * (g % 2));
        high |= s >> 4 << 2 * g;
    }
    block_layout_put16(block + 2, (uint16_t)high);
}

static void get_nf4_scales(const uint8_t *block, struct block_scales *out)
{
    get_d_m(block, out);
    memcpy(out->s, block + 4, 4);
}

static void put_nf4_scales(const struct block_scales *scales, uint8_t *block)
{
    put_d_m(scales, block);
    memcpy(block + 4, scales->s, 4);
}

const struct block_layout block_layout_q4_0 = {
    {"Q4_0", HAL_Q4_0, 32, 18, 32, 16, 8}, get_q4_0, put_q4_0, get_d, put_d};
const struct block_layout block_layout_q4_1 = {
    {"Q4_1", HAL_Q4_1, 32, 20, 32, 16, 0}, get_q4_1, put_q4_1, get_d_m, put_d_m};
const struct block_layout block_layout_q5_0 = {
    {"Q5_0", HAL_Q5_0, 32, 22, 32, 32, 16}, get_q5_0, put_q5_0, get_d, put_d};
const struct block_layout block_layout_q5_1 = {
    {"Q5_1", HAL_Q5_1, 32, 24, 32, 32, 0}, get_q5_1, put_q5_1, get_d_m, put_d_m};
const struct block_layout block_layout_q8_0 = {
    {"Q8_0", HAL_Q8_0, 32, 34, 32, 256, 128}, get_q8_0, put_q8_0, get_d, put_d};
const struct block_layout block_layout_iq4_nl = {
    {"IQ4_NL", HAL_IQ4_NL, 32, 18, 32, 16, 0}, get_q4_0, put_q4_0, get_d, put_d};
const struct block_layout block_layout_iq4_xs = {{"IQ4_XS", HAL_IQ4_XS, 256, 136, 32, 16, 0},
                                                 get_groups,
                                                 put_groups,
                                                 get_iq4_xs_scales,
                                                 put_iq4_xs_scales};
const struct block_layout block_layout_nf4 = {
    {"NF4", HAL_NF4, 256, 136, 64, 16, 0}, get_groups, put_groups, get_nf4_scales, put_nf4_scales};
