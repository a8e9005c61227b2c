/* cuda_rows.c: arguments checked, rows of indices sent, one kernel each. */
#include "plugins/cuda/cuda.h"

#include "hal/block.h"

static int is_activation(const struct hal_mat *m)
{
    return m->type == HAL_F32 && m->use == HAL_ACTIVATION && m->mem != NULL;
}

static int is_same_shape(const struct hal_mat *a, const struct hal_mat *b)
{
    return is_activation(a) && is_activation(b) && a->rows == b->rows && a->cols == b->cols;
}

/* A vector of one value per column. */
static int is_vector(const struct hal_mat *w, uint32_t cols)
{
    return is_activation(w) && w->rows == 1 && w->cols == cols;
}

static uint64_t address(const struct hal_mat *m)
{
    return m != NULL ? (uintptr_t)m->mem : 0;
}

static uint64_t values_of(const struct hal_mat *m)
{
    return (uint64_t)m->rows * m->cols;
}

/* Are indices below limit, and is there room for them and `more` bytes of notes? */
static enum err check_rows(struct cuda_dev *d, const uint32_t *row, uint32_t count, uint32_t limit,
                           size_t more)
{
    for (uint32_t r = 0; r < count; r++)
        if (row[r] >= limit)
            return ERR_ARGUMENT;
    return count <= CUDA_ROWS_MAX
               ? cuda_room(d, count * sizeof *row + CUDA_NOTE_ALIGN + more)
               : ERR_MEMORY;
}

enum err cuda_embed(void *dev, const struct hal_mat *y, const struct hal_mat *table,
                    const uint32_t *row)
{
    struct cuda_dev *d = dev;
    if (!is_activation(y) || table->use == HAL_CACHE || table->mem == NULL ||
        block_row_bytes(table->type, table->cols) == 0 || table->cols != y->cols ||
        table->mem == y->mem)
        return ERR_ARGUMENT;
    const enum err e = check_rows(d, row, y->rows, table->rows, 0);
    if (e != ERR_NONE)
        return e;
    struct cuda_embed_args a = {cuda_weight_of(table),
                                address(y),
                                cuda_note(d, row, y->rows * sizeof *row),
                                y->rows,
                                y->cols,
                                table->type};
    if (format_planes(table->type) == 0)
        return cuda_launch_values(d, CUDA_KERNEL_embed_dense, values_of(y), &a);
    return cuda_launch_values(d, CUDA_KERNEL_embed_blocks, values_of(y) / 32, &a);
}

static enum err norm(struct cuda_dev *d, uint32_t kernel, const struct hal_mat *x,
                     struct cuda_norm_args *a)
{
    return cuda_launch(d, kernel, x->rows, 1, 1, CUDA_THREADS, a);
}

enum err cuda_rmsnorm(void *dev, const struct hal_mat *y, const struct hal_mat *x,
                      const struct hal_mat *w, float eps)
{
    if (!is_same_shape(y, x) || !is_vector(w, x->cols))
        return ERR_ARGUMENT;
    struct cuda_norm_args a = {address(y), address(x), address(w), 0, x->cols, eps};
    return norm(dev, CUDA_KERNEL_rmsnorm, x, &a);
}

enum err cuda_layernorm(void *dev, const struct hal_mat *y, const struct hal_mat *x,
                        const struct hal_mat *w, const struct hal_mat *b, float eps)
{
    if (!is_same_shape(y, x) || !is_vector(w, x->cols) || (b != NULL && !is_vector(b, x->cols)))
        return ERR_ARGUMENT;
    struct cuda_norm_args a = {address(y), address(x), address(w), address(b), x->cols, eps};
    return norm(dev, CUDA_KERNEL_layernorm, x, &a);
}

enum err cuda_rope(void *dev, const struct hal_mat *x, const struct hal_mat *cos_sin,
                   const struct hal_rope_shape *shape)
{
    struct cuda_dev *d = dev;
    if (!is_activation(x) || !is_activation(cos_sin) || shape->head_dim == 0 ||
        x->cols % shape->head_dim != 0 || shape->dims % 2 != 0 || shape->dims == 0 ||
        shape->offset > shape->head_dim || shape->dims > shape->head_dim - shape->offset ||
        cos_sin->rows != x->rows || cos_sin->cols != shape->dims || shape->kind > HAL_ROPE_NEOX)
        return ERR_ARGUMENT;
    struct cuda_rope_args a = {address(x),      address(cos_sin), x->rows,     x->cols,
                               shape->head_dim, shape->offset,    shape->dims, shape->kind};
    const uint64_t heads = x->cols / shape->head_dim;
    return cuda_launch_values(d, CUDA_KERNEL_rope, x->rows * heads * (shape->dims / 2), &a);
}

enum err cuda_store(void *dev, const struct hal_mat *cache, const struct hal_mat *x,
                    const uint32_t *slot)
{
    struct cuda_dev *d = dev;
    if (!is_activation(x) || cache->use != HAL_CACHE || cache->mem == NULL ||
        cache->cols != x->cols)
        return ERR_ARGUMENT;
    const enum err e = check_rows(d, slot, x->rows, cache->rows, 0);
    if (e != ERR_NONE)
        return e;
    struct cuda_store_args a = {address(cache),
                                address(x),
                                cuda_note(d, slot, x->rows * sizeof *slot),
                                x->rows,
                                x->cols,
                                cache->type};
    if (format_planes(cache->type) == 0)
        return cuda_launch_values(d, CUDA_KERNEL_store_dense, values_of(x), &a);
    return cuda_launch_values(d, CUDA_KERNEL_store_blocks, values_of(x) / 32, &a);
}

enum err cuda_glu(void *dev, const struct hal_mat *y, const struct hal_mat *gate,
                  const struct hal_mat *up, uint32_t function)
{
    struct cuda_dev *d = dev;
    if (!is_same_shape(y, gate) || (up != NULL && !is_same_shape(up, gate)) || function > HAL_RELU)
        return ERR_ARGUMENT;
    struct cuda_glu_args a = {address(y), address(gate), address(up), values_of(y), function};
    return cuda_launch_values(d, CUDA_KERNEL_glu, a.values, &a);
}

enum err cuda_add(void *dev, const struct hal_mat *y, const struct hal_mat *x)
{
    struct cuda_dev *d = dev;
    if (!is_activation(y) || y->cols != x->cols || !(is_same_shape(y, x) || is_vector(x, y->cols)))
        return ERR_ARGUMENT;
    struct cuda_add_args a = {address(y), address(x), values_of(y), x->rows == 1 ? x->cols : 0};
    return cuda_launch_values(d, CUDA_KERNEL_add, a.values, &a);
}

enum err cuda_scale(void *dev, const struct hal_mat *y, float factor)
{
    struct cuda_dev *d = dev;
    if (!is_activation(y))
        return ERR_ARGUMENT;
    struct cuda_scale_args a = {address(y), values_of(y), factor};
    return cuda_launch_values(d, CUDA_KERNEL_scale, a.values, &a);
}

enum err cuda_scatter(void *dev, const struct hal_mat *y, const struct hal_mat *x,
                      const uint32_t *row, const float *weight)
{
    struct cuda_dev *d = dev;
    if (!is_activation(y) || !is_activation(x) || y->cols != x->cols || y->mem == x->mem)
        return ERR_ARGUMENT;
    const enum err e = check_rows(d, row, x->rows, y->rows,
                                  x->rows * sizeof *weight + CUDA_NOTE_ALIGN);
    if (e != ERR_NONE)
        return e;
    struct cuda_scatter_args a = {address(y),
                                  address(x),
                                  cuda_note(d, row, x->rows * sizeof *row),
                                  cuda_note(d, weight, x->rows * sizeof *weight),
                                  x->rows,
                                  x->cols};
    return cuda_launch_values(d, CUDA_KERNEL_scatter, x->cols, &a);
}

enum err cuda_copy(void *dev, const struct hal_mat *y, uint32_t y_col, const struct hal_mat *x,
                   uint32_t x_col, uint32_t cols)
{
    struct cuda_dev *d = dev;
    if (!is_activation(y) || !is_activation(x) || y->rows != x->rows || y->mem == x->mem ||
        y_col > y->cols || cols > y->cols - y_col || x_col > x->cols || cols > x->cols - x_col)
        return ERR_ARGUMENT;
    struct cuda_copy_args a = {address(y), address(x), y->rows, cols,
                               y->cols,    y_col,      x->cols, x_col};
    return cuda_launch_values(d, CUDA_KERNEL_copy, (uint64_t)y->rows * cols, &a);
}
