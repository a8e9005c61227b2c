#include "model/rounding.h"

#include <math.h>
#include <stdlib.h>

#include "hal/block.h"
#include "model/weights.h"

enum { GROUP = 32, NATIVE_BITS = 8 };

bool rounding_keeps_blocks(const struct model_rounding *how)
{
    return how->bits == 0 || (how->bits == NATIVE_BITS && !how->limit);
}

enum err rounding_open(struct rounding *r, struct engine *e, const struct model_rounding *how, uint32_t rows,
                       uint32_t cols_max)
{
    *r = (struct rounding){.how = *how, .rows = rows};
    if (how->bits == 0)
        return ERR_NONE;
    if (how->bits < 2 || how->bits > 16)
        return ERR_ARGUMENT;
    if (!(r->host = calloc((size_t)rows * cols_max, sizeof *r->host)))
        return ERR_MEMORY;
    r->e = e;
    return ERR_NONE;
}

void rounding_close(struct rounding *r)
{
    for (uint32_t i = 0; i < r->widths; i++)
        r->e->ops.mat_free(r->e->dev, &r->width[i]);
    free(r->width);
    free(r->host);
    *r = (struct rounding){.e = NULL};
}

static enum err find_width(struct rounding *r, uint32_t cols, struct hal_mat **out)
{
    uint32_t i = 0;
    while (i < r->widths && r->width[i].cols != cols)
        i++;
    *out = r->width + i;
    if (i < r->widths)
        return ERR_NONE;
    struct hal_mat *more = realloc(r->width, (i + 1) * sizeof *more);
    if (!more)
        return ERR_MEMORY;
    r->width = more;
    *out = more + i;
    more[i] = (struct hal_mat){.type = HAL_F32, .use = HAL_ACTIVATION, .rows = r->rows, .cols = cols};
    const enum err e = r->e->ops.mat_new(r->e->dev, more + i);
    if (!e)
        r->widths++;
    return e;
}

static void round_group(float *x, uint32_t n, float most)
{
    float peak = 0;
    for (uint32_t i = 0; i < n; i++)
        peak = fabsf(x[i]) > peak ? fabsf(x[i]) : peak;
    const float inverse = peak > 0 ? most / peak : 0, step = peak / most;
    for (uint32_t i = 0; i < n; i++)
        x[i] = nearbyintf(x[i] * inverse) * step;
}

static void round_to_limit(float *x, size_t n, float limit, float most)
{
    const float step = limit / most;
    for (size_t i = 0; i < n; i++) {
        const float q = nearbyintf(x[i] / step);
        x[i] = (q > most ? most : q < -most ? -most : q) * step;
    }
}

enum err rounding_apply(struct rounding *r, const struct weights_linear *const *w, uint32_t count,
                        const struct hal_mat **x)
{
    const uint32_t rows = (*x)->rows, cols = (*x)->cols;
    const size_t bytes = (size_t)rows * cols * sizeof(float);
    const float most = (float)((1u << (r->how.bits - 1)) - 1);
    bool is_native = rounding_keeps_blocks(&r->how); /* then the plugin rounds, unless a weight is of floats */
    struct hal_mat *to;
    for (uint32_t i = 0; i < count; i++)
        is_native = is_native && block_type(w[i]->w.type)->codes > 0;
    if (is_native || !r->e)
        return ERR_NONE;
    const float limit = r->how.limit ? r->how.limit(r->how.context, w[0]->name) : 0;
    enum err e = find_width(r, cols, &to);
    if (e || (e = r->e->ops.mat_get(r->e->dev, *x, 0, rows, r->host, bytes)))
        return e;
    for (size_t at = 0; limit <= 0 && at < (size_t)rows * cols; at += cols)
        for (uint32_t c = 0; c < cols; c += GROUP)
            round_group(r->host + at + c, cols - c < GROUP ? cols - c : GROUP, most);
    if (limit > 0)
        round_to_limit(r->host, (size_t)rows * cols, limit, most);
    r->view = *to; /* the first rows of it: mat_free wants what mat_new made */
    r->view.rows = rows;
    e = r->e->ops.mat_put(r->e->dev, &r->view, 0, rows, r->host, bytes);
    *x = &r->view;
    return e;
}
