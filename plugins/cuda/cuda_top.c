/* cuda_top.c: the greatest values of rows: those of each chunk, then those of these, until one chunk is
 * left; only they come to the host. */
#include "plugins/cuda/cuda.h"

#include "hal/half.h"

enum { CANDIDATE_BYTES = 8 };

static uint32_t chunks_of(uint32_t cols)
{
    return cols / CUDA_TOP_CHUNK + (cols % CUDA_TOP_CHUNK != 0);
}

/* Queue the kernels for some rows; *out is where their candidates [rows][count] will be. */
static enum err find(struct cuda_dev *d, uint64_t values, uint32_t rows, uint32_t cols,
                     uint32_t count, uint64_t *out)
{
    uint64_t from = 0, to = d->parts, other = d->parts + CUDA_PARTS_BYTES / 2;
    enum err e = ERR_NONE;
    for (uint32_t chunks = 0; chunks != 1 && e == ERR_NONE; cols = chunks * count) {
        chunks = chunks_of(cols);
        const struct cuda_top_args a = {values, from, to, cols, count, chunks};
        e = cuda_launch(d, CUDA_KERNEL_top, chunks, rows, 1, CUDA_THREADS, &a);
        from = to;
        to = other;
        other = from;
    }
    *out = from;
    return e;
}

enum err cuda_top(void *dev, const struct hal_mat *x, uint32_t count, uint32_t *index, float *value)
{
    struct cuda_dev *d = dev;
    if (x->type != HAL_F32 || x->use != HAL_ACTIVATION || x->mem == NULL || x->cols == 0 ||
        count == 0 || count > HAL_TOP_MAX || index == NULL || value == NULL)
        return ERR_ARGUMENT;
    /* what comes back lies where notes are gathered: those have been sent by then */
    uint32_t *const host = (uint32_t *)(void *)d->notes.host;
    const uint64_t row_bytes = (uint64_t)chunks_of(x->cols) * count * CANDIDATE_BYTES;
    uint32_t most = (uint32_t)(CUDA_PARTS_BYTES / 2 / row_bytes);
    enum err e = most == 0 ? ERR_ARGUMENT : ERR_NONE; /* more columns than any model has */
    most = most > CUDA_TOP_ROWS ? CUDA_TOP_ROWS : most;
    for (uint32_t first = 0, rows; first < x->rows && e == ERR_NONE; first += rows) {
        uint64_t at = 0;
        rows = x->rows - first < most ? x->rows - first : most;
        const size_t found = (size_t)rows * count;
        e = find(d, (uintptr_t)x->mem + (uint64_t)first * x->cols * sizeof(float), rows, x->cols,
                 count, &at);
        if (e == ERR_NONE)
            e = cuda_start(d);
        if (e == ERR_NONE)
            e = cuda_result(d, "cuMemcpyDtoH",
                            d->driver->cuMemcpyDtoH_v2(host, at, found * CANDIDATE_BYTES));
        for (size_t i = 0; i < found && e == ERR_NONE; i++) {
            value[(size_t)first * count + i] = half_from_bits(host[2 * i]);
            index[(size_t)first * count + i] = host[2 * i + 1];
        }
    }
    return e;
}
