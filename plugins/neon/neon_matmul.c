/* neon_matmul.c: the product with weights in their file layout, four rows at a time, unpacked once per
 * tile for all tokens. Which instructions multiply is decided by dev->dot. */
#include "plugins/neon/neon_tile.h"

#include <arm_neon.h>
#include <string.h>

#include "hal/block.h"

enum { TOKENS_MAX = 64 }; /* per pass over a row group; bounds the sums on the stack */

struct product {
    const struct neon_dev *dev;
    float *y;
    const float *x;
    const uint8_t *w;
    uint32_t type, tokens, in, out;
    size_t row_bytes;
    int8_t *q;
    float *d;
    int32_t *sums;
};

static void round_rows(void *context, uint32_t first, uint32_t last)
{
    const struct product *p = context;
    for (uint32_t r = first; r < last; r++)
        scalar_round_row(p->x + (size_t)r * p->in, p->in, p->q + (size_t)r * p->in,
                         p->d + (size_t)r * (p->in / 32), p->sums + (size_t)r * (p->in / 16));
}

/* The sums of rows `row` .. row + 3 (the last row again where the matrix ends) with all of x. */
static void multiply_tile(const struct product *p, const struct neon_format *f, uint32_t row,
                          const struct neon_input *x, float *acc)
{
    struct neon_tile tile[NEON_TILE_ROWS];
    memset(acc, 0, NEON_TILE_ROWS * x->tokens * sizeof *acc);
    for (uint32_t col = 0; col < p->in; col += NEON_TILE_VALUES) {
        const uint32_t rest = p->in - col;
        const uint32_t values = rest < NEON_TILE_VALUES ? rest : NEON_TILE_VALUES;
        const size_t at = (size_t)(col / f->values) * f->bytes;
        for (uint32_t r = 0; r < NEON_TILE_ROWS; r++) {
            const uint32_t last = p->out - 1;
            const size_t source = row + r < last ? row + r : last;
            f->unpack(p->w + source * p->row_bytes + at, values, &tile[r]);
        }
        p->dev->dot(tile, f, values, x, col, acc);
    }
}

static void multiply_blocks(void *context, uint32_t first, uint32_t last)
{
    const struct product *p = context;
    const struct neon_format *f = neon_format(p->type);
    float acc[NEON_TILE_ROWS * TOKENS_MAX];
    for (uint32_t row = first; row < last; row += NEON_TILE_ROWS)
        for (uint32_t t = 0; t < p->tokens; t += TOKENS_MAX) {
            const uint32_t rest = p->tokens - t;
            const struct neon_input x = {p->q + (size_t)t * p->in, p->d + (size_t)t * (p->in / 32),
                                         p->sums + (size_t)t * (p->in / 16),
                                         rest < TOKENS_MAX ? rest : TOKENS_MAX, p->in};
            multiply_tile(p, f, row, &x, acc);
            for (uint32_t r = 0; r < NEON_TILE_ROWS && row + r < last; r++)
                for (uint32_t i = 0; i < x.tokens; i++)
                    p->y[(size_t)(t + i) * p->out + row + r] = acc[r * x.tokens + i];
        }
}

static float dot_plain(const float *x, const float *w, uint32_t n)
{
    float32x4_t sum[2] = {vdupq_n_f32(0), vdupq_n_f32(0)};
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        sum[0] = vfmaq_f32(sum[0], vld1q_f32(x + i), vld1q_f32(w + i));
        sum[1] = vfmaq_f32(sum[1], vld1q_f32(x + i + 4), vld1q_f32(w + i + 4));
    }
    float y = vaddvq_f32(vaddq_f32(sum[0], sum[1]));
    for (; i < n; i++)
        y += x[i] * w[i];
    return y;
}

static void plain_row(uint32_t type, const uint8_t *row, uint32_t n, float *out)
{
    uint32_t i = 0;
    if (type == HAL_F16) {
        for (; i + 4 <= n; i += 4) {
            float16x4_t h;
            memcpy(&h, row + 2 * (size_t)i, sizeof h);
            vst1q_f32(out + i, vcvt_f32_f16(h));
        }
    }
    /* the type has no codes and the rest is not empty, so this cannot fail */
    if (i < n && block_decode_row(type, row + block_row_bytes(type, i), n - i, out + i) != ERR_NONE)
        return;
}

static void multiply_plain(void *context, uint32_t first, uint32_t last)
{
    const struct product *p = context;
    float w[NEON_TILE_VALUES];
    for (uint32_t o = first; o < last; o++) {
        for (uint32_t t = 0; t < p->tokens; t++)
            p->y[(size_t)t * p->out + o] = 0;
        for (uint32_t i = 0; i < p->in; i += NEON_TILE_VALUES) {
            const uint32_t rest = p->in - i, n = rest < NEON_TILE_VALUES ? rest : NEON_TILE_VALUES;
            plain_row(p->type, p->w + o * p->row_bytes + block_row_bytes(p->type, i), n, w);
            for (uint32_t t = 0; t < p->tokens; t++)
                p->y[(size_t)t * p->out + o] += dot_plain(p->x + (size_t)t * p->in + i, w, n);
        }
    }
}

enum err neon_matmul(void *opened, const struct hal_mat *const *y, const struct hal_mat *x,
                     const struct hal_mat *const *w, uint32_t count)
{
    struct neon_dev *dev = opened;
    const enum err e = scalar_check_matmul(y, x, w, count);
    if (e)
        return e;
    struct product p = {.dev = dev, .x = x->mem, .tokens = x->rows, .in = x->cols};
    const size_t values = (size_t)p.tokens * p.in;
    for (uint32_t i = 0; i < count; i++) {
        p.y = y[i]->mem;
        p.w = w[i]->mem;
        p.type = w[i]->type;
        p.out = w[i]->rows;
        p.row_bytes = block_row_bytes(p.type, p.in);
        const struct block_type *t = block_type(p.type);
        if (t->codes == 0) {
            scalar_parallel(&dev->scalar, p.out, 1, multiply_plain, &p);
            continue;
        }
        if (!neon_format(p.type)) {
            const enum err failed = scalar_matmul(opened, y + i, x, w + i, 1);
            if (failed)
                return failed;
            p.q = NULL; /* scalar has used the scratch */
            continue;
        }
        if (!p.q) {
            if (values / 32 * (32 + sizeof(float) + 2 * sizeof(int32_t)) > dev->scalar.scratch_bytes)
                return ERR_ARGUMENT; /* x was not made by this dev */
            p.d = dev->scalar.scratch;
            p.sums = (int32_t *)(p.d + values / 32);
            p.q = (int8_t *)(p.sums + values / 16);
            scalar_parallel(&dev->scalar, p.tokens, 1, round_rows, &p);
        }
        scalar_parallel(&dev->scalar, p.out, NEON_TILE_ROWS, multiply_blocks, &p);
    }
    return ERR_NONE;
}
