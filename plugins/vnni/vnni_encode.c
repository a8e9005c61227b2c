/* vnni_encode.c: encode and decode: rows shared among threads; F32 and the rarer directions go to scalar. */
#include "plugins/vnni/vnni.h"

#include "hal/block.h"

enum { TILE_VALUES = 1 << 13 };

struct job {
    struct vnni_encoding encoding;
    const struct vnni_kernels *kernels;
    const uint8_t *in; /* decode */
    float *x;
    uint32_t rows, tile_rows;
};

static void encode_tile(void *context, uint32_t tile, uint32_t thread)
{
    (void)thread;
    const struct job *job = context;
    const struct vnni_encoding *e = &job->encoding;
    for (uint32_t row = tile * job->tile_rows; row < job->rows; row++) {
        if (row == (tile + 1) * job->tile_rows)
            return;
        if (e->type == HAL_F16)
            job->kernels->store(e->x + (size_t)row * e->cols, e->cols, e->out + row * e->row_bytes);
        else
            job->kernels->encode(e, row);
    }
}

static void decode_tile(void *context, uint32_t tile, uint32_t thread)
{
    (void)thread;
    const struct job *job = context;
    const struct vnni_encoding *e = &job->encoding;
    for (uint32_t row = tile * job->tile_rows; row < job->rows; row++) {
        if (row == (tile + 1) * job->tile_rows)
            return;
        job->kernels->load(e->type, job->in + row * e->row_bytes, e->cols,
                           job->x + (size_t)row * e->cols);
    }
}

static void run(struct vnni_dev *d, struct job *job, vnni_tile_fn *work)
{
    job->kernels = d->kernels;
    job->tile_rows = (TILE_VALUES + job->encoding.cols - 1) / job->encoding.cols;
    while ((job->rows + job->tile_rows - 1) / job->tile_rows > VNNI_POOL_TILES_MAX)
        job->tile_rows *= 2;
    vnni_pool_run(d->pool, work, job, (job->rows + job->tile_rows - 1) / job->tile_rows);
}

enum err vnni_encode(void *dev, uint32_t type, uint32_t method, const float *x, uint32_t rows,
                     uint32_t cols, const float *importance, void *out, size_t out_bytes)
{
    const size_t row_bytes = block_row_bytes(type, cols);
    if (type == HAL_F32 || type == HAL_BF16 || row_bytes == 0)
        return scalar_encode(dev, type, method, x, rows, cols, importance, out, out_bytes);
    if (method > HAL_SEARCH || x == NULL || out == NULL || out_bytes != row_bytes * rows)
        return ERR_ARGUMENT;
    struct job job = {.rows = rows};
    job.encoding = (struct vnni_encoding){.type = type, .method = method, .cols = cols, .x = x,
                                          .importance = importance, .out = out,
                                          .row_bytes = row_bytes};
    run(dev, &job, encode_tile);
    return ERR_NONE;
}

enum err vnni_decode(void *dev, uint32_t type, const void *in, size_t in_bytes, uint32_t rows,
                     uint32_t cols, float *x)
{
    const size_t row_bytes = block_row_bytes(type, cols);
    if ((type != HAL_F16 && type != HAL_BF16 && type != HAL_Q8_0) || row_bytes == 0)
        return scalar_decode(dev, type, in, in_bytes, rows, cols, x);
    if (in == NULL || x == NULL || in_bytes != row_bytes * rows)
        return ERR_ARGUMENT;
    struct job job = {.rows = rows, .in = in, .x = x};
    job.encoding = (struct vnni_encoding){.type = type, .cols = cols, .row_bytes = row_bytes};
    run(dev, &job, decode_tile);
    return ERR_NONE;
}
