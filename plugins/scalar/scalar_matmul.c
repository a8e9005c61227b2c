/* scalar_matmul.c: rounding of activations and the product with weights of every type. */
#include "plugins/scalar/scalar.h"

#include <string.h>

#include "hal/block.h"
#include "hal/half.h"
#include "plugins/scalar/scalar_lanes.h"

void scalar_round_row(const float *x, uint32_t cols, int8_t *q, float *d, int32_t *s)
{
    for (uint32_t g = 0; g < cols / 32; g++, x += 32, q += 32) {
        uint32_t top = 0;
        for (int i = 0; i < 32; i++) {
            const uint32_t magnitude = half_to_bits(x[i]) & 0x7fffffffu;
            top = magnitude > top ? magnitude : top;
        }
        const float amax = half_from_bits(top);
        const float inverse = 127.0f / amax;
        d[g] = amax / 127.0f;
        if (top >= 0x7f800000u) { /* infinite or NaN somewhere: poison the whole group */
            d[g] = half_from_bits(0x7fc00000u);
            memset(q, 0, 32);
        } else if (half_to_bits(inverse) >= 0x7f800000u) { /* 0, or too small to invert */
            memset(q, 0, 32);
        } else {
            for (int i = 0; i < 32; i++)
                q[i] = (int8_t)lanes_nearest(x[i] * inverse);
        }
        if (s != NULL)
            for (int half = 0; half < 2; half++) {
                int32_t sum = 0;
                for (int i = 0; i < 16; i++)
                    sum += q[16 * half + i];
                s[2 * g + (uint32_t)half] = sum;
            }
    }
}

enum err scalar_check_matmul(const struct hal_mat *const *y, const struct hal_mat *x,
                             const struct hal_mat *const *w, uint32_t count)
{
    if (x->type != HAL_F32 || x->use != HAL_ACTIVATION || x->rows == 0 || x->mem == NULL)
        return ERR_ARGUMENT;
    for (uint32_t i = 0; i < count; i++) {
        const struct block_type *t = block_type(w[i]->type);
        if (t == NULL || w[i]->use != HAL_WEIGHT || w[i]->cols != x->cols || w[i]->mem == NULL ||
            x->cols % t->values != 0)
            return ERR_ARGUMENT;
        if (y[i]->type != HAL_F32 || y[i]->use != HAL_ACTIVATION || y[i]->rows != x->rows ||
            y[i]->cols != w[i]->rows || y[i]->mem == NULL || y[i]->mem == x->mem)
            return ERR_ARGUMENT;
    }
    return ERR_NONE;
}

struct product {
    float *y;
    const float *x;
    const uint8_t *w;
    uint32_t type, tokens, in, out;
    size_t row_bytes;
    int8_t *q;     /* [tokens, in] */
    float *d;      /* [tokens, in / 32] */
    int32_t *sums; /* [tokens, in / 16] */
};

static void round_rows(void *context, uint32_t first, uint32_t last)
{
    const struct product *p = context;
    for (uint32_t r = first; r < last; r++)
        scalar_round_row(p->x + (size_t)r * p->in, p->in, p->q + (size_t)r * p->in,
                         p->d + (size_t)r * (p->in / 32), p->sums + (size_t)r * (p->in / 16));
}

/* One block of weights taken apart: integer levels and the scales of each piece of 16 values. */
struct piece_block {
    int8_t level[BLOCK_VALUES_MAX];
    float scale[BLOCK_GROUPS_MAX];
    float minimum[BLOCK_GROUPS_MAX];
};

static void take_apart(const struct block_type *t, const uint8_t *block, struct piece_block *out)
{
    uint8_t code[BLOCK_VALUES_MAX];
    struct block_scales scales;
    const int8_t *table = block_table(t->type);
    /* t has codes, so none of these can fail */
    if (block_get_codes(t->type, block, code) != ERR_NONE ||
        block_get_scales(t->type, block, &scales) != ERR_NONE ||
        block_multiply_scales(t->type, &scales, out->scale, out->minimum) != ERR_NONE)
        return;
    if (table != NULL)
        for (uint32_t i = 0; i < t->values; i++)
            out->level[i] = table[code[i]];
    else
        for (uint32_t i = 0; i < t->values; i++)
            out->level[i] = (int8_t)(code[i] - t->code_zero);
}

static int32_t dot16(const int8_t *a, const int8_t *b)
{
    int32_t sum = 0;
    for (int i = 0; i < 16; i++)
        sum += a[i] * b[i];
    return sum;
}

/* The sum of one block's groups for one token, groups ascending; a group is 16 or 32 values, since
 * activations change their scale every 32. */
static float block_product(const struct block_type *t, const struct piece_block *b, const int8_t *q,
                           const float *d, const int32_t *sums)
{
    float y = 0.0f;
    for (uint32_t p = 0; p < t->values / 32; p++) {
        const int32_t low = dot16(b->level + 32 * p, q + 32 * p);
        const int32_t high = dot16(b->level + 32 * p + 16, q + 32 * p + 16);
        if (t->group == 16) {
            y += d[p] * (b->scale[2 * p] * (float)low - b->minimum[2 * p] * (float)sums[2 * p]);
            y += d[p] * (b->scale[2 * p + 1] * (float)high -
                         b->minimum[2 * p + 1] * (float)sums[2 * p + 1]);
        } else {
            const uint32_t g = 32 * p / t->group;
            y += d[p] * (b->scale[g] * (float)(low + high) -
                         b->minimum[g] * (float)(sums[2 * p] + sums[2 * p + 1]));
        }
    }
    return y;
}

static void multiply_blocks(void *context, uint32_t first, uint32_t last)
{
    const struct product *p = context;
    const struct block_type *t = block_type(p->type);
    for (uint32_t o = first; o < last; o++) {
        const uint8_t *row = p->w + o * p->row_bytes;
        for (uint32_t r = 0; r < p->tokens; r++)
            p->y[(size_t)r * p->out + o] = 0.0f;
        for (uint32_t i = 0; i < p->in; i += t->values, row += t->bytes) {
            struct piece_block b;
            take_apart(t, row, &b);
            for (uint32_t r = 0; r < p->tokens; r++) {
                const size_t at = (size_t)r * p->in + i;
                p->y[(size_t)r * p->out + o] +=
                    block_product(t, &b, p->q + at, p->d + at / 32, p->sums + at / 16);
            }
        }
    }
}

static void multiply_plain(void *context, uint32_t first, uint32_t last)
{
    const struct product *p = context;
    for (uint32_t o = first; o < last; o++) {
        const uint8_t *row = p->w + o * p->row_bytes;
        for (uint32_t r = 0; r < p->tokens; r++)
            p->y[(size_t)r * p->out + o] = 0.0f;
        for (uint32_t i = 0; i < p->in; i += BLOCK_VALUES_MAX) {
            float w[BLOCK_VALUES_MAX];
            const uint32_t rest = p->in - i;
            const uint32_t values = rest < BLOCK_VALUES_MAX ? rest : BLOCK_VALUES_MAX;
            if (block_decode_row(p->type, row + block_row_bytes(p->type, i), values, w) != ERR_NONE)
                return;
            for (uint32_t r = 0; r < p->tokens; r++)
                p->y[(size_t)r * p->out + o] += lanes_dot(p->x + (size_t)r * p->in + i, w, values);
        }
    }
}

enum err scalar_matmul(void *opened, const struct hal_mat *const *y, const struct hal_mat *x,
                       const struct hal_mat *const *w, uint32_t count)
{
    struct scalar_dev *dev = opened;
    const enum err e = scalar_check_matmul(y, x, w, count);
    if (e != ERR_NONE)
        return e;
    struct product p = {.x = x->mem, .tokens = x->rows, .in = x->cols};
    const size_t values = (size_t)p.tokens * p.in;
    int is_rounded = 0;
    for (uint32_t i = 0; i < count; i++) {
        p.y = y[i]->mem;
        p.w = w[i]->mem;
        p.type = w[i]->type;
        p.out = w[i]->rows;
        p.row_bytes = block_row_bytes(p.type, p.in);
        const struct block_type *t = block_type(p.type);
        if (t->codes == 0) {
            scalar_parallel(dev, p.out, 1, multiply_plain, &p);
            continue;
        }
        if (!is_rounded) {
            if (values / 32 * (32 + sizeof(float) + 2 * sizeof(int32_t)) > dev->scratch_bytes)
                return ERR_ARGUMENT; /* x was not made by this dev */
            p.d = dev->scratch;
            p.sums = (int32_t *)(p.d + values / 32);
            p.q = (int8_t *)(p.sums + values / 16);
            scalar_parallel(dev, p.tokens, 1, round_rows, &p);
            is_rounded = 1;
        }
        scalar_parallel(dev, p.out, 1, multiply_blocks, &p);
    }
    return ERR_NONE;
}
