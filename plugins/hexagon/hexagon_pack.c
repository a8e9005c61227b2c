/* hexagon_pack.c: the layout of hexagon_skel.h from GGUF blocks and back. */
#include "plugins/hexagon/hexagon.h"

#include <string.h>

#include "hal/half.h"

enum { Q8_BLOCK = 34, Q4_BLOCK = 18 };

int hexagon_is_packed(const struct hal_mat *m)
{
    return m->use == HAL_WEIGHT && (m->type == HAL_Q8_0 || m->type == HAL_Q4_0);
}

static size_t group_bytes(uint32_t type)
{
    return type == HAL_Q8_0 ? HEXAGON_Q8_GROUP_BYTES : HEXAGON_Q4_GROUP_BYTES;
}

size_t hexagon_packed_bytes(uint32_t type, uint32_t rows, uint32_t cols)
{
    const size_t tiles = ((size_t)rows + HEXAGON_TILE_ROWS - 1) / HEXAGON_TILE_ROWS;
    return tiles * (cols / HEXAGON_GROUP) * group_bytes(type);
}

/* Group g of the tile that row is in. */
static size_t group_at(uint32_t type, uint32_t cols, uint32_t row, uint32_t g)
{
    return ((size_t)(row / HEXAGON_TILE_ROWS) * (cols / HEXAGON_GROUP) + g) * group_bytes(type);
}

/* A block's codes after its F16 scale are four bytes per vector already, in both formats. */
void hexagon_pack_row(uint32_t type, uint32_t cols, uint32_t row, const uint8_t *blocks,
                      uint8_t *packed)
{
    const size_t block = type == HAL_Q8_0 ? Q8_BLOCK : Q4_BLOCK, lane = row % HEXAGON_TILE_ROWS;
    for (uint32_t g = 0; g < cols / HEXAGON_GROUP; g++, blocks += block) {
        uint8_t *group = packed + group_at(type, cols, row, g);
        for (size_t j = 0; j < (block - 2) / 4; j++)
            memcpy(group + 128 * j + 4 * lane, blocks + 2 + 4 * j, 4);
        memcpy(group + group_bytes(type) - 64 + 2 * lane, blocks, 2);
    }
}

/* Value i of a row's group, before its scale. */
static int32_t level(uint32_t type, const uint8_t *group, size_t lane, uint32_t i)
{
    if (type == HAL_Q8_0)
        return (int8_t)group[128 * (i / 4) + 4 * lane + i % 4];
    const uint8_t both = group[128 * (i % 16 / 4) + 4 * lane + i % 4];
    return (i < 16 ? both & 15 : both >> 4) - 8;
}

static float scale_of(uint32_t type, const uint8_t *group, size_t lane)
{
    uint16_t h;
    memcpy(&h, group + group_bytes(type) - 64 + 2 * lane, sizeof h);
    return half_f16_to_f32(h);
}

void hexagon_unpack_row(uint32_t type, uint32_t cols, uint32_t row, const uint8_t *packed,
                        float *out)
{
    const size_t lane = row % HEXAGON_TILE_ROWS;
    for (uint32_t g = 0; g < cols / HEXAGON_GROUP; g++) {
        const uint8_t *group = packed + group_at(type, cols, row, g);
        const float scale = scale_of(type, group, lane);
        for (uint32_t i = 0; i < HEXAGON_GROUP; i++)
            out[g * HEXAGON_GROUP + i] = scale * (float)level(type, group, lane, i);
    }
}

struct product {
    const struct hexagon_shape *s;
    const int8_t *q;
    const float *d;
    const uint8_t *packed;
    float *y;
};

static void multiply_rows(void *context, uint32_t first, uint32_t last)
{
    const struct product *p = context;
    const struct hexagon_shape *s = p->s;
    const uint32_t groups = s->cols / HEXAGON_GROUP;
    for (uint32_t row = first; row < last; row++) {
        for (uint32_t t = 0; t < s->tokens; t++)
            p->y[(size_t)t * s->rows + row] = 0;
        for (uint32_t g = 0; g < groups; g++) {
            const uint8_t *group = p->packed + group_at(s->type, s->cols, row, g);
            const size_t lane = row % HEXAGON_TILE_ROWS;
            const float scale = scale_of(s->type, group, lane);
            int32_t w[HEXAGON_GROUP];
            for (uint32_t i = 0; i < HEXAGON_GROUP; i++)
                w[i] = level(s->type, group, lane, i);
            for (uint32_t t = 0; t < s->tokens; t++) {
                const int8_t *q = p->q + (size_t)t * s->cols + g * HEXAGON_GROUP;
                int32_t sum = 0;
                for (uint32_t i = 0; i < HEXAGON_GROUP; i++)
                    sum += w[i] * q[i];
                p->y[(size_t)t * s->rows + row] +=
                    (float)sum * (p->d[(size_t)t * groups + g] * scale);
            }
        }
    }
}

void hexagon_multiply_cpu(struct hexagon_dev *dev, const struct hexagon_shape *s, const int8_t *q,
                          const float *d, const uint8_t *packed, float *y)
{
    struct product p = {s, q, d, packed, y};
    scalar_parallel(hexagon_cpu_scalar(&dev->cpu), s->rows, HEXAGON_TILE_ROWS, multiply_rows, &p);
}
