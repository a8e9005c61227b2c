/* fallback.c: operations that a plugin lacks, done by scalar on host copies of its matrices. */
#include "hal/fallback.h"

#include <string.h>

#include "hal/block.h"
#include "hal/split.h"
#include "plugins/scalar/scalar.h"

struct fallback {
    struct hal_plugin plugin;
    void *dev;
    struct hal_host host;
    struct scalar_dev scalar;
    struct hal_plugin helper; /* a plugin for the CPU beside an accelerator */
    void *helper_dev;         /* NULL: none */
    struct split split;       /* encode and decode */
};

const char *fallback_name(uint32_t i)
{
    static const char *const names[FALLBACK_OPS] = {"embed", "rmsnorm", "layernorm", "rope",   "store",
                                                    "attend", "glu",    "add",       "scale",  "scatter",
                                                    "encode", "decode", "copy",      "top"};
    return names[i];
}

uint32_t fallback_missing(const struct hal_plugin *p)
{
    const int lacks[FALLBACK_OPS] = {p->embed == NULL,   p->rmsnorm == NULL, p->layernorm == NULL,
                                     p->rope == NULL,    p->store == NULL,   p->attend == NULL,
                                     p->glu == NULL,     p->add == NULL,     p->scale == NULL,
                                     p->scatter == NULL, p->encode == NULL,  p->decode == NULL,
                                     p->copy == NULL,    p->top == NULL};
    uint32_t bits = 0;
    for (int i = 0; i < FALLBACK_OPS; i++)
        bits |= (uint32_t)(lacks[i] != 0) << i;
    return bits;
}

/* A host copy of the first rows of a plugin's matrix; of no matrix it is none. */
static enum err pull(struct fallback *f, const struct hal_mat *from, uint32_t rows,
                     struct hal_mat *copy)
{
    memset(copy, 0, sizeof *copy);
    if (from == NULL)
        return ERR_NONE;
    *copy = *from;
    copy->mem = NULL;
    copy->rows = rows;
    const enum err e = scalar_mat_new(&f->scalar, copy);
    if (e != ERR_NONE)
        return e;
    return f->plugin.mat_get(f->dev, from, 0, rows, copy->mem,
                             block_row_bytes(from->type, from->cols) * rows);
}

static enum err push(struct fallback *f, const struct hal_mat *copy, const struct hal_mat *to)
{
    struct hal_mat target = *to;
    return f->plugin.mat_put(f->dev, &target, 0, to->rows, copy->mem,
                             block_row_bytes(to->type, to->cols) * to->rows);
}

static void drop(struct fallback *f, struct hal_mat *copy)
{
    if (copy->mem != NULL)
        scalar_mat_free(&f->scalar, copy);
}

static void close_fallback(void *dev)
{
    struct fallback *f = dev;
    if (f == NULL)
        return;
    const struct hal_host host = f->host;
    f->plugin.close(f->dev);
    if (f->helper_dev != NULL)
        f->helper.close(f->helper_dev);
    scalar_close_from(&f->scalar);
    host.release(f, sizeof *f);
}

static enum err mat_new(void *dev, struct hal_mat *m)
{
    struct fallback *f = dev;
    return f->plugin.mat_new(f->dev, m);
}

static void mat_free(void *dev, struct hal_mat *m)
{
    struct fallback *f = dev;
    f->plugin.mat_free(f->dev, m);
}

static enum err mat_put(void *dev, struct hal_mat *m, uint32_t row, uint32_t rows, const void *host,
                        size_t bytes)
{
    struct fallback *f = dev;
    return f->plugin.mat_put(f->dev, m, row, rows, host, bytes);
}

static enum err mat_get(void *dev, const struct hal_mat *m, uint32_t row, uint32_t rows, void *host,
                        size_t bytes)
{
    struct fallback *f = dev;
    return f->plugin.mat_get(f->dev, m, row, rows, host, bytes);
}

static enum err matmul(void *dev, const struct hal_mat *const *y, const struct hal_mat *x,
                       const struct hal_mat *const *w, uint32_t count)
{
    struct fallback *f = dev;
    return f->plugin.matmul(f->dev, y, x, w, count);
}

/* Row by row, since the table may be large. */
static enum err embed(void *dev, const struct hal_mat *y, const struct hal_mat *table,
                      const uint32_t *row)
{
    struct fallback *f = dev;
    if (f->plugin.embed != NULL)
        return f->plugin.embed(f->dev, y, table, row);
    const size_t row_bytes = block_row_bytes(table->type, table->cols);
    struct hal_mat out = *y, rows = *table;
    out.mem = rows.mem = NULL;
    rows.rows = 1;
    if (row_bytes == 0)
        return ERR_ARGUMENT;
    enum err e = scalar_mat_new(&f->scalar, &out);
    if (e == ERR_NONE)
        e = scalar_mat_new(&f->scalar, &rows);
    for (uint32_t r = 0; r < y->rows && e == ERR_NONE; r++) {
        struct hal_mat one = out;
        const uint32_t first = 0;
        one.mem = (float *)out.mem + (size_t)r * out.cols;
        one.rows = 1;
        e = f->plugin.mat_get(f->dev, table, row[r], 1, rows.mem, row_bytes);
        if (e == ERR_NONE)
            e = scalar_embed(&f->scalar, &one, &rows, &first);
    }
    if (e == ERR_NONE)
        e = push(f, &out, y);
    drop(f, &rows);
    drop(f, &out);
    return e;
}

static enum err layernorm(void *dev, const struct hal_mat *y, const struct hal_mat *x,
                          const struct hal_mat *w, const struct hal_mat *b, float eps)
{
    struct fallback *f = dev;
    if (f->plugin.layernorm != NULL)
        return f->plugin.layernorm(f->dev, y, x, w, b, eps);
    struct hal_mat in, weight, bias;
    memset(&weight, 0, sizeof weight);
    memset(&bias, 0, sizeof bias);
    enum err e = pull(f, x, x->rows, &in);
    if (e == ERR_NONE)
        e = pull(f, w, w->rows, &weight);
    if (e == ERR_NONE)
        e = pull(f, b, b != NULL ? b->rows : 0, &bias);
    if (e == ERR_NONE && (y->rows != x->rows || y->cols != x->cols))
        e = ERR_ARGUMENT;
    if (e == ERR_NONE)
        e = scalar_layernorm(&f->scalar, &in, &in, &weight, b != NULL ? &bias : NULL, eps);
    if (e == ERR_NONE)
        e = push(f, &in, y);
    drop(f, &bias);
    drop(f, &weight);
    drop(f, &in);
    return e;
}

static enum err rmsnorm(void *dev, const struct hal_mat *y, const struct hal_mat *x,
                        const struct hal_mat *w, float eps)
{
    struct fallback *f = dev;
    if (f->plugin.rmsnorm != NULL)
        return f->plugin.rmsnorm(f->dev, y, x, w, eps);
    struct hal_mat in, weight;
    memset(&weight, 0, sizeof weight);
    enum err e = pull(f, x, x->rows, &in);
    if (e == ERR_NONE)
        e = pull(f, w, w->rows, &weight);
    if (e == ERR_NONE && (y->rows != x->rows || y->cols != x->cols))
        e = ERR_ARGUMENT;
    if (e == ERR_NONE)
        e = scalar_rmsnorm(&f->scalar, &in, &in, &weight, eps);
    if (e == ERR_NONE)
        e = push(f, &in, y);
    drop(f, &weight);
    drop(f, &in);
    return e;
}

static enum err rope(void *dev, const struct hal_mat *x, const struct hal_mat *cos_sin,
                     const struct hal_rope_shape *shape)
{
    struct fallback *f = dev;
    if (f->plugin.rope != NULL)
        return f->plugin.rope(f->dev, x, cos_sin, shape);
    struct hal_mat in, angles;
    memset(&angles, 0, sizeof angles);
    enum err e = pull(f, x, x->rows, &in);
    if (e == ERR_NONE)
        e = pull(f, cos_sin, cos_sin->rows, &angles);
    if (e == ERR_NONE)
        e = scalar_rope(&f->scalar, &in, &angles, shape);
    if (e == ERR_NONE)
        e = push(f, &in, x);
    drop(f, &angles);
    drop(f, &in);
    return e;
}

/* Rows are rounded on the host in a small cache of their own, then put into their slots. */
static enum err store(void *dev, const struct hal_mat *cache, const struct hal_mat *x,
                      const uint32_t *slot)
{
    struct fallback *f = dev;
    if (f->plugin.store != NULL)
        return f->plugin.store(f->dev, cache, x, slot);
    const size_t row_bytes = block_row_bytes(cache->type, cache->cols);
    struct hal_mat in, rows = *cache, target = *cache;
    rows.mem = NULL;
    rows.rows = 1;
    enum err e = pull(f, x, x->rows, &in);
    if (e == ERR_NONE)
        e = scalar_mat_new(&f->scalar, &rows);
    for (uint32_t r = 0; r < x->rows && e == ERR_NONE; r++)
        if (slot[r] >= cache->rows)
            e = ERR_ARGUMENT;
    for (uint32_t r = 0; r < x->rows && e == ERR_NONE; r++) {
        struct hal_mat one = in;
        const uint32_t first = 0;
        one.mem = (float *)in.mem + (size_t)r * in.cols;
        one.rows = 1;
        e = scalar_store(&f->scalar, &rows, &one, &first);
        if (e == ERR_NONE)
            e = f->plugin.mat_put(f->dev, &target, slot[r], 1, rows.mem, row_bytes);
    }
    drop(f, &rows);
    drop(f, &in);
    return e;
}

/* The rows of a cache that any span reaches. */
static uint32_t rows_seen(const struct hal_attend *g, uint32_t n)
{
    uint32_t rows = 1;
    for (uint32_t s = g->first[0]; s < g->first[n]; s++)
        if (g->spans[s].slot + g->spans[s].slots > rows)
            rows = g->spans[s].slot + g->spans[s].slots;
    return rows;
}

static enum err attend(void *dev, const struct hal_mat *y, const struct hal_mat *q,
                       const struct hal_mat *k, const struct hal_mat *v,
                       const struct hal_attend *geometry)
{
    struct fallback *f = dev;
    if (f->plugin.attend != NULL)
        return f->plugin.attend(f->dev, y, q, k, v, geometry);
    const enum err bad = scalar_check_attend(y, q, k, v, geometry);
    if (bad != ERR_NONE)
        return bad;
    const uint32_t rows = rows_seen(geometry, q->rows);
    struct hal_mat in, keys, values, out = *y;
    memset(&keys, 0, sizeof keys);
    memset(&values, 0, sizeof values);
    out.mem = NULL;
    enum err e = pull(f, q, q->rows, &in);
    if (e == ERR_NONE)
        e = pull(f, k, rows, &keys);
    if (e == ERR_NONE)
        e = pull(f, v == k ? NULL : v, rows, &values);
    if (e == ERR_NONE)
        e = scalar_mat_new(&f->scalar, &out);
    if (e == ERR_NONE)
        e = scalar_attend(&f->scalar, &out, &in, &keys, v == k ? &keys : &values, geometry);
    if (e == ERR_NONE)
        e = push(f, &out, y);
    drop(f, &out);
    drop(f, &values);
    drop(f, &keys);
    drop(f, &in);
    return e;
}

static enum err glu(void *dev, const struct hal_mat *y, const struct hal_mat *gate,
                    const struct hal_mat *up, uint32_t function)
{
    struct fallback *f = dev;
    if (f->plugin.glu != NULL)
        return f->plugin.glu(f->dev, y, gate, up, function);
    struct hal_mat in, factor;
    memset(&factor, 0, sizeof factor);
    enum err e = pull(f, gate, gate->rows, &in);
    if (e == ERR_NONE)
        e = pull(f, up, up != NULL ? up->rows : 0, &factor);
    if (e == ERR_NONE && (y->rows != gate->rows || y->cols != gate->cols))
        e = ERR_ARGUMENT;
    if (e == ERR_NONE)
        e = scalar_glu(&f->scalar, &in, &in, up != NULL ? &factor : NULL, function);
    if (e == ERR_NONE)
        e = push(f, &in, y);
    drop(f, &factor);
    drop(f, &in);
    return e;
}

static enum err add(void *dev, const struct hal_mat *y, const struct hal_mat *x)
{
    struct fallback *f = dev;
    if (f->plugin.add != NULL)
        return f->plugin.add(f->dev, y, x);
    struct hal_mat sum, in;
    memset(&in, 0, sizeof in);
    enum err e = pull(f, y, y->rows, &sum);
    if (e == ERR_NONE)
        e = pull(f, x, x->rows, &in);
    if (e == ERR_NONE)
        e = scalar_add(&f->scalar, &sum, &in);
    if (e == ERR_NONE)
        e = push(f, &sum, y);
    drop(f, &in);
    drop(f, &sum);
    return e;
}

static enum err scale(void *dev, const struct hal_mat *y, float factor)
{
    struct fallback *f = dev;
    if (f->plugin.scale != NULL)
        return f->plugin.scale(f->dev, y, factor);
    struct hal_mat in;
    enum err e = pull(f, y, y->rows, &in);
    if (e == ERR_NONE)
        e = scalar_scale(&f->scalar, &in, factor);
    if (e == ERR_NONE)
        e = push(f, &in, y);
    drop(f, &in);
    return e;
}

static enum err scatter(void *dev, const struct hal_mat *y, const struct hal_mat *x,
                        const uint32_t *row, const float *weight)
{
    struct fallback *f = dev;
    if (f->plugin.scatter != NULL)
        return f->plugin.scatter(f->dev, y, x, row, weight);
    struct hal_mat sum, in;
    memset(&in, 0, sizeof in);
    enum err e = pull(f, y, y->rows, &sum);
    if (e == ERR_NONE)
        e = pull(f, x, x->rows, &in);
    if (e == ERR_NONE)
        e = scalar_scatter(&f->scalar, &sum, &in, row, weight);
    if (e == ERR_NONE)
        e = push(f, &sum, y);
    drop(f, &in);
    drop(f, &sum);
    return e;
}

static enum err encode(void *dev, uint32_t type, uint32_t method, const float *x, uint32_t rows,
                       uint32_t cols, const float *importance, void *out, size_t out_bytes)
{
    struct fallback *f = dev;
    return split_encode(&f->split, type, method, x, rows, cols, importance, out, out_bytes);
}

static enum err decode(void *dev, uint32_t type, const void *in, size_t in_bytes, uint32_t rows,
                       uint32_t cols, float *x)
{
    struct fallback *f = dev;
    return split_decode(&f->split, type, in, in_bytes, rows, cols, x);
}

static enum err copy(void *dev, const struct hal_mat *y, uint32_t y_col, const struct hal_mat *x,
                     uint32_t x_col, uint32_t cols)
{
    struct fallback *f = dev;
    if (f->plugin.copy != NULL)
        return f->plugin.copy(f->dev, y, y_col, x, x_col, cols);
    struct hal_mat out, in;
    memset(&in, 0, sizeof in);
    enum err e = pull(f, y, y->rows, &out);
    if (e == ERR_NONE)
        e = pull(f, x, x->rows, &in);
    if (e == ERR_NONE)
        e = scalar_copy(&f->scalar, &out, y_col, &in, x_col, cols);
    if (e == ERR_NONE)
        e = push(f, &out, y);
    drop(f, &in);
    drop(f, &out);
    return e;
}

static enum err top(void *dev, const struct hal_mat *x, uint32_t count, uint32_t *index, float *value)
{
    struct fallback *f = dev;
    if (f->plugin.top != NULL)
        return f->plugin.top(f->dev, x, count, index, value);
    struct hal_mat in;
    enum err e = pull(f, x, x->rows, &in);
    if (e == ERR_NONE)
        e = scalar_top(&f->scalar, &in, count, index, value);
    drop(f, &in);
    return e;
}

static enum err limit_threads(void *dev, uint32_t threads)
{
    struct fallback *f = dev;
    enum err e = f->plugin.limit_threads(f->dev, threads);
    if (e == ERR_NONE && f->helper_dev != NULL && f->helper.limit_threads != NULL)
        e = f->helper.limit_threads(f->helper_dev, threads);
    return e != ERR_NONE ? e : scalar_limit_threads(&f->scalar, threads);
}

/* Who can encode and decode: the helper, the plugin itself; scalar where neither does. */
static void divide(struct fallback *f)
{
    memset(&f->split, 0, sizeof f->split);
    if (f->helper_dev != NULL)
        split_add(&f->split, &f->helper, f->helper_dev);
    if (f->plugin.encode != NULL && f->plugin.decode != NULL)
        split_add(&f->split, &f->plugin, f->dev);
    if (f->split.sides == 0)
        split_add(&f->split, &scalar_plugin, &f->scalar);
}

void fallback_help(void *dev, const struct hal_plugin *helper, void *helper_dev)
{
    struct fallback *f = dev;
    f->helper = *helper;
    f->helper_dev = helper_dev;
    divide(f);
}

enum err fallback_open(const struct hal_plugin *plugin, void *plugin_dev,
                       const struct hal_host *host, struct hal_plugin *ops, void **dev)
{
    struct fallback *f = host->alloc(sizeof *f);
    if (f == NULL)
        return ERR_MEMORY;
    f->plugin = *plugin;
    f->dev = plugin_dev;
    f->host = *host;
    f->helper_dev = NULL;
    divide(f);
    const enum err e = scalar_open_into(host, &f->scalar);
    if (e != ERR_NONE) {
        host->release(f, sizeof *f);
        return e;
    }
    *ops = (struct hal_plugin){plugin->abi,
                               plugin->size,
                               plugin->name,
                               plugin->version,
                               plugin->probe,
                               plugin->open,
                               close_fallback,
                               mat_new,
                               mat_free,
                               mat_put,
                               mat_get,
                               matmul,
                               embed,
                               rmsnorm,
                               layernorm,
                               rope,
                               store,
                               attend,
                               glu,
                               add,
                               scale,
                               scatter,
                               encode,
                               decode,
                               copy,
                               plugin->limit_threads != NULL ? limit_threads : NULL,
                               top};
    *dev = f;
    return ERR_NONE;
}
