/* bad_product.c: a plugin whose product is wrong in one way, chosen when it is built. All but the
 * mistake is scalar's. */
#include <stdlib.h>
#include <string.h>

#include "hal/block.h"
#include "plugins/scalar/scalar.h"

#if defined(BAD_SATURATE) || defined(BAD_TIES)
/* Q8_0 alone, as scalar does it, but for one step. */
static void product(const float *x, uint32_t in, const uint8_t *row, float *y)
{
    int8_t q[8192];
    float d[256];
    scalar_round_row(x, in, q, d, NULL);
#ifdef BAD_TIES
    for (uint32_t i = 0; i < in; i++) { /* halves away from zero */
        float amax = 0.0f;
        for (uint32_t k = i / 32 * 32; k < i / 32 * 32 + 32; k++)
            amax = x[k] > amax ? x[k] : -x[k] > amax ? -x[k] : amax;
        const float v = amax > 0.0f ? x[i] * (127.0f / amax) : 0.0f;
        q[i] = (int8_t)(v < 0.0f ? v - 0.5f : v + 0.5f);
    }
#endif
    *y = 0.0f;
    for (uint32_t g = 0; g < in / 32; g++, row += 34) {
        struct block_codes codes;
        int32_t sum = 0;
        if (block_unpack(HAL_Q8_0, row, &codes) != ERR_NONE)
            return;
        for (uint32_t i = 0; i < 32; i += 2) {
            int32_t pair = q[32 * g + i] * (codes.code[i] - 128) +
                           q[32 * g + i + 1] * (codes.code[i + 1] - 128);
#ifdef BAD_SATURATE /* like maddubs: pairs are added in 16 bits, here of products that are too     \
                       large */
            pair = pair > 32000 ? 32000 : pair < -32000 ? -32000 : pair;
#endif
            sum += pair;
        }
        *y += d[g] * (codes.scale[0] * (float)sum);
    }
}
#endif

static enum err bad_matmul(void *dev, const struct hal_mat *const *y, const struct hal_mat *x,
                           const struct hal_mat *const *w, uint32_t count)
{
    const enum err e = scalar_matmul(dev, y, x, w, count);
    if (e != ERR_NONE)
        return e;
#ifdef BAD_CRASH
    abort();
#endif
#ifdef BAD_HANG
    for (volatile int forever = 1; forever != 0;)
        ;
#endif
    for (uint32_t i = 0; i < count; i++) {
        float *out = y[i]->mem;
        const uint32_t cols = y[i]->cols;
        (void)out;
        (void)cols;
#ifdef BAD_TILE /* the last row of a weight whose rows are no whole tile is forgotten */
        for (uint32_t r = 0; r < x->rows && cols % 16 == 1; r++)
            out[(size_t)r * cols + cols - 1] = 0.0f;
#endif
#ifdef BAD_PAST /* whole tiles are stored at the end */
        if (cols % 16 != 0)
            out[(size_t)x->rows * cols] = 0.0f;
#endif
#if defined(BAD_SATURATE) || defined(BAD_TIES)
        for (uint32_t r = 0; r < x->rows && w[i]->type == HAL_Q8_0; r++)
            for (uint32_t o = 0; o < cols; o++)
                product((const float *)x->mem + (size_t)r * x->cols, x->cols,
                        (const uint8_t *)w[i]->mem + o * block_row_bytes(HAL_Q8_0, x->cols),
                        &out[(size_t)r * cols + o]);
#endif
    }
#ifdef BAD_LEAK
    struct scalar_dev *mine = dev;
    if (mine->host.alloc(100) == NULL)
        return ERR_MEMORY;
#endif
    return ERR_NONE;
}

static void fill(struct hal_plugin *p)
{
    *p = scalar_plugin;
    p->name = BAD_NAME;
    p->matmul = bad_matmul;
}

HAL_EXPORT(fill)
