/* block_layout.h: where each block format keeps its codes and scales; for hal/block*.c alone. */
#ifndef BLOCK_LAYOUT_H
#define BLOCK_LAYOUT_H

#include "hal/block.h"

struct block_layout {
    struct block_type type;
    void (*get_codes)(const uint8_t *block, uint8_t *code);
    void (*put_codes)(const uint8_t *code, uint8_t *block);
    void (*get_scales)(const uint8_t *block, struct block_scales *out);
    void (*put_scales)(const struct block_scales *scales, uint8_t *block);
};

extern const struct block_layout block_layout_q4_0, block_layout_q4_1, block_layout_q5_0,
    block_layout_q5_1, block_layout_q8_0, block_layout_iq4_nl, block_layout_iq4_xs,
    block_layout_nf4;
extern const struct block_layout block_layout_q2_k, block_layout_q3_k, block_layout_q4_k,
    block_layout_q5_k, block_layout_q6_k;

/* Little-endian 16 bits at any address. */
static inline uint16_t block_layout_get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline void block_layout_put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

#endif
