/* vnni_rows.c: operations on rows: arguments are checked here, rows shared among threads, and the kernels
 * do the arithmetic. */
#include "plugins/vnni/vnni.h"

#include <string.h>

#include "hal/block.h"

enum {
    STRIP = 64, /* columns */
    SHARE_VALUES = 1 << 15, /* fewer values than this are done before a thread would have woken */
    TILE_VALUES = 1 << 13
};

/* One operation on rows; the members that it needs. */
struct rows {
    const struct vnni_kernels *kernels;
    void (*work)(const struct rows *job, uint32_t first, uint32_t last);
    uint32_t rows, tile_rows, cols;
    float *y;
    const float *x, *w, *b;
    float number;
    uint32_t function;
    const struct hal_rope_shape *shape;
    uint8_t *cache;
    uint32_t cache_type;
    const uint32_t *slot; /* or rows of y */
    size_t slot_bytes;
    const float *weight; /* of rows of x */
    uint32_t x_rows;
    size_t x_stride, y_stride; /* of copy */
};

static int is_activation(const struct hal_mat *m)
{
    return m->type == HAL_F32 && m->use == HAL_ACTIVATION && m->mem != NULL;
}

static int is_same_shape(const struct hal_mat *a, const struct hal_mat *b)
{
    return is_activation(a) && is_activation(b) && a->rows == b->rows && a->cols == b->cols;
}

static int is_vector(const struct hal_mat *w, uint32_t cols)
{
    return is_activation(w) && w->rows == 1 && w->cols == cols;
}

static void run_tile(void *context, uint32_t tile, uint32_t thread)
{
    (void)thread;
    const struct rows *job = context;
    const uint32_t first = tile * job->tile_rows, left = job->rows - first;
    job->work(job, first, first + (left < job->tile_rows ? left : job->tile_rows));
}

static void run(struct vnni_dev *d, struct rows *job)
{
    job->kernels = d->kernels;
    if ((size_t)job->rows * job->cols < SHARE_VALUES || job->rows == 1) {
        job->work(job, 0, job->rows);
        return;
    }
    job->tile_rows = (TILE_VALUES + job->cols - 1) / job->cols;
    vnni_pool_run(d->pool, run_tile, job, (job->rows + job->tile_rows - 1) / job->tile_rows);
}

static size_t at(const struct rows *job, uint32_t row)
{
    return (size_t)row * job->cols;
}

static void norm_rows(const struct rows *job, uint32_t first, uint32_t last)
{
    job->kernels->rmsnorm(job->y + at(job, first), job->x + at(job, first), job->w, last - first,
                          job->cols, job->number);
}

enum err vnni_rmsnorm(void *dev, const struct hal_mat *y, const struct hal_mat *x,
                      const struct hal_mat *w, float eps)
{
    if (!is_same_shape(y, x) || !is_vector(w, x->cols))
        return ERR_ARGUMENT;
    struct rows job = {.work = norm_rows, .rows = x->rows, .cols = x->cols, .y = y->mem,
                       .x = x->mem, .w = w->mem, .number = eps};
    run(dev, &job);
    return ERR_NONE;
}

static void layernorm_rows(const struct rows *job, uint32_t first, uint32_t last)
{
    job->kernels->layernorm(job->y + at(job, first), job->x + at(job, first), job->w, job->b,
                            last - first, job->cols, job->number);
}

enum err vnni_layernorm(void *dev, const struct hal_mat *y, const struct hal_mat *x,
                        const struct hal_mat *w, const struct hal_mat *b, float eps)
{
    if (!is_same_shape(y, x) || !is_vector(w, x->cols) || (b != NULL && !is_vector(b, x->cols)))
        return ERR_ARGUMENT;
    struct rows job = {.work = layernorm_rows, .rows = x->rows, .cols = x->cols, .y = y->mem,
                       .x = x->mem, .w = w->mem, .b = b == NULL ? NULL : b->mem, .number = eps};
    run(dev, &job);
    return ERR_NONE;
}

static void rotate_rows(const struct rows *job, uint32_t first, uint32_t last)
{
    job->kernels->rope(job->y + at(job, first), job->x + (size_t)first * job->shape->dims, job->shape,
                       last - first, job->cols);
}

enum err vnni_rope(void *dev, const struct hal_mat *x, const struct hal_mat *cos_sin,
                   const struct hal_rope_shape *shape)
{
    if (!is_activation(x) || !is_activation(cos_sin) || shape->head_dim == 0 ||
        x->cols % shape->head_dim != 0 || shape->dims % 2 != 0 || shape->dims == 0 ||
        shape->offset > shape->head_dim || shape->dims > shape->head_dim - shape->offset ||
        cos_sin->rows != x->rows || cos_sin->cols != shape->dims || shape->kind > HAL_ROPE_NEOX)
        return ERR_ARGUMENT;
    struct rows job = {.work = rotate_rows, .rows = x->rows, .cols = x->cols, .y = x->mem,
                       .x = cos_sin->mem, .shape = shape};
    run(dev, &job);
    return ERR_NONE;
}

static void gate_rows(const struct rows *job, uint32_t first, uint32_t last)
{
    const size_t start = at(job, first);
    job->kernels->glu(job->y + start, job->x + start, job->w == NULL ? NULL : job->w + start,
                      at(job, last) - start, job->function);
}

enum err vnni_glu(void *dev, const struct hal_mat *y, const struct hal_mat *gate,
                  const struct hal_mat *up, uint32_t function)
{
    if (!is_same_shape(y, gate) || (up != NULL && !is_same_shape(up, gate)) || function > HAL_RELU)
        return ERR_ARGUMENT;
    struct rows job = {.work = gate_rows, .rows = y->rows, .cols = y->cols, .y = y->mem,
                       .x = gate->mem, .w = up == NULL ? NULL : up->mem, .function = function};
    run(dev, &job);
    return ERR_NONE;
}

static void add_rows(const struct rows *job, uint32_t first, uint32_t last)
{
    job->kernels->add(job->y + at(job, first), job->x + at(job, first),
                      at(job, last) - at(job, first));
}

static void add_vector(const struct rows *job, uint32_t first, uint32_t last)
{
    for (uint32_t row = first; row < last; row++)
        job->kernels->add(job->y + at(job, row), job->x, job->cols);
}

enum err vnni_add(void *dev, const struct hal_mat *y, const struct hal_mat *x)
{
    if (!is_activation(y) || y->cols != x->cols || !(is_same_shape(y, x) || is_vector(x, y->cols)))
        return ERR_ARGUMENT;
    struct rows job = {.work = x->rows == y->rows ? add_rows : add_vector, .rows = y->rows,
                       .cols = y->cols, .y = y->mem, .x = x->mem};
    run(dev, &job);
    return ERR_NONE;
}

static void scale_rows(const struct rows *job, uint32_t first, uint32_t last)
{
    job->kernels->scale(job->y + at(job, first), job->number, at(job, last) - at(job, first));
}

enum err vnni_scale(void *dev, const struct hal_mat *y, float factor)
{
    if (!is_activation(y))
        return ERR_ARGUMENT;
    struct rows job = {.work = scale_rows, .rows = y->rows, .cols = y->cols, .y = y->mem,
                       .number = factor};
    run(dev, &job);
    return ERR_NONE;
}

static void scatter_strips(const struct rows *job, uint32_t first, uint32_t last)
{
    const size_t start = (size_t)first * STRIP, cols = job->x_stride;
    const size_t end = (size_t)last * STRIP < cols ? (size_t)last * STRIP : cols;
    for (uint32_t r = 0; r < job->x_rows; r++)
        job->kernels->scatter(job->y + job->slot[r] * cols + start, job->x + r * cols + start,
                              job->weight[r], end - start);
}

/* Threads share columns, because rows of y may be named twice. */
enum err vnni_scatter(void *dev, const struct hal_mat *y, const struct hal_mat *x,
                      const uint32_t *row, const float *weight)
{
    if (!is_activation(y) || !is_activation(x) || y->cols != x->cols || y->mem == x->mem)
        return ERR_ARGUMENT;
    for (uint32_t r = 0; r < x->rows; r++) {
        if (row[r] >= y->rows)
            return ERR_ARGUMENT;
    }
    struct rows job = {.work = scatter_strips, .rows = (x->cols + STRIP - 1) / STRIP,
                       .cols = STRIP * x->rows, .y = y->mem, .x = x->mem, .slot = row,
                       .weight = weight, .x_rows = x->rows, .x_stride = x->cols};
    run(dev, &job);
    return ERR_NONE;
}

static void copy_rows(const struct rows *job, uint32_t first, uint32_t last)
{
    for (uint32_t row = first; row < last; row++)
        memcpy(job->y + row * job->y_stride, job->x + row * job->x_stride,
               job->cols * sizeof(float));
}

enum err vnni_copy(void *dev, const struct hal_mat *y, uint32_t y_col, const struct hal_mat *x,
                   uint32_t x_col, uint32_t cols)
{
    if (!is_activation(y) || !is_activation(x) || y->rows != x->rows || y->mem == x->mem ||
        y_col > y->cols || cols > y->cols - y_col || x_col > x->cols || cols > x->cols - x_col)
        return ERR_ARGUMENT;
    struct rows job = {.work = copy_rows, .rows = x->rows, .cols = cols,
                       .y = (float *)y->mem + y_col, .x = (const float *)x->mem + x_col,
                       .y_stride = y->cols, .x_stride = x->cols};
    if (cols != 0)
        run(dev, &job);
    return ERR_NONE;
}

static void store_row(const struct rows *job, uint32_t row)
{
    const float *x = job->x + at(job, row);
    uint8_t *slot = job->cache + job->slot[row] * job->slot_bytes;
    if (job->cache_type == HAL_F16) {
        job->kernels->store(x, job->cols, slot);
    } else if (job->cache_type == HAL_F32) {
        memcpy(slot, x, job->slot_bytes);
    } else {
        const struct vnni_encoding encoding = {.type = job->cache_type, .method = HAL_RTN,
                                               .cols = job->cols, .x = x, .out = slot,
                                               .row_bytes = job->slot_bytes};
        job->kernels->encode(&encoding, 0);
    }
}

static void store_rows(const struct rows *job, uint32_t first, uint32_t last)
{
    for (uint32_t row = first; row < last; row++)
        store_row(job, row);
}

enum err vnni_store(void *dev, const struct hal_mat *cache, const struct hal_mat *x,
                    const uint32_t *slot)
{
    const int is_taken = cache->type == HAL_F32 || cache->type == HAL_F16 ||
                         cache->type == HAL_Q8_0 || cache->type == HAL_Q4_0;
    if (!is_taken)
        return scalar_store(dev, cache, x, slot);
    const size_t slot_bytes = block_row_bytes(cache->type, cache->cols);
    if (!is_activation(x) || cache->use != HAL_CACHE || cache->mem == NULL || slot_bytes == 0 ||
        cache->cols != x->cols)
        return ERR_ARGUMENT;
    for (uint32_t r = 0; r < x->rows; r++) {
        if (slot[r] >= cache->rows)
            return ERR_ARGUMENT;
    }
    struct rows job = {.work = store_rows, .rows = x->rows, .cols = x->cols, .x = x->mem,
                       .cache = cache->mem, .cache_type = cache->type, .slot = slot,
                       .slot_bytes = slot_bytes};
    run(dev, &job);
    return ERR_NONE;
}
