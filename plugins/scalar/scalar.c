/* scalar.c: the table of the reference plugin, its dev and its matrices: plain rows in host memory.
 */
#include "plugins/scalar/scalar.h"

#include <string.h>

#include "hal/block.h"
#include "plugins/scalar/scalar_pool.h"

static enum err probe(const char *path, struct hal_caps *caps)
{
    memset(caps, 0, sizeof *caps);
    if (path != NULL && strcmp(path, "c11") != 0) {
        strcpy(caps->reason, "scalar has the one path c11");
        return ERR_UNSUPPORTED;
    }
    uint32_t count;
    const struct block_type *const *types = block_types(&count);
    for (uint32_t i = 0; i < count; i++)
        caps->types |= UINT64_C(1) << types[i]->type;
    caps->score = 1;
    caps->paths = 1;
    strcpy(caps->device, "any CPU");
    strcpy(caps->path, "c11");
    return ERR_NONE;
}

enum err scalar_open_into(const struct hal_host *host, struct scalar_dev *dev)
{
    if (host == NULL || host->alloc == NULL || host->release == NULL || host->threads == 0)
        return ERR_ARGUMENT;
    memset(dev, 0, sizeof *dev);
    dev->host = *host;
    return scalar_pool_open(host, &dev->pool);
}

void scalar_close_from(struct scalar_dev *dev)
{
    scalar_pool_close(dev->pool);
    dev->host.release(dev->scratch, dev->scratch_bytes);
    dev->pool = NULL;
    dev->scratch = NULL;
    dev->scratch_bytes = 0;
}

enum err scalar_limit_threads(void *opened, uint32_t threads)
{
    struct scalar_dev *dev = opened;
    if (threads == 0 || threads > dev->host.threads)
        return ERR_ARGUMENT;
    if (dev->pool != NULL)
        scalar_pool_limit(dev->pool, threads - 1);
    return ERR_NONE;
}

static enum err open_dev(const struct hal_host *host, void **out)
{
    if (host == NULL || host->alloc == NULL)
        return ERR_ARGUMENT;
    if (host->path != NULL && strcmp(host->path, "c11") != 0)
        return ERR_UNSUPPORTED;
    struct scalar_dev *dev = host->alloc(sizeof *dev);
    if (dev == NULL)
        return ERR_MEMORY;
    const enum err e = scalar_open_into(host, dev);
    if (e != ERR_NONE) {
        host->release(dev, sizeof *dev);
        return e;
    }
    *out = dev;
    return ERR_NONE;
}

static void close_dev(void *opened)
{
    struct scalar_dev *dev = opened;
    if (dev == NULL)
        return;
    const struct hal_host host = dev->host;
    scalar_close_from(dev);
    host.release(dev, sizeof *dev);
}

static size_t mat_bytes(const struct hal_mat *m)
{
    const size_t row = block_row_bytes(m->type, m->cols);
    if (m->rows == 0 || m->cols == 0 || row == 0 || row > SIZE_MAX / m->rows)
        return 0;
    return row * m->rows;
}

static int is_use_of_type(const struct hal_mat *m)
{
    switch (m->use) {
    case HAL_WEIGHT: return 1;
    case HAL_ACTIVATION: return m->type == HAL_F32;
    case HAL_CACHE:
        return m->type == HAL_F16 || m->type == HAL_Q8_0 || m->type == HAL_Q4_0 ||
               m->type == HAL_F32;
    default: return 0;
    }
}

/* Operations allocate nothing, so the room for rounding activations is made with the matrices. */
static enum err reserve_scratch(struct scalar_dev *dev, const struct hal_mat *m)
{
    const uint64_t values = (uint64_t)m->rows * m->cols;
    const uint64_t groups = values / 32 + 1;
    const uint64_t bytes = groups * (32 + sizeof(float) + 2 * sizeof(int32_t)) + 256;
    if (bytes > SIZE_MAX)
        return ERR_MEMORY;
    if (bytes <= dev->scratch_bytes)
        return ERR_NONE;
    void *more = dev->host.alloc((size_t)bytes);
    if (more == NULL)
        return ERR_MEMORY;
    dev->host.release(dev->scratch, dev->scratch_bytes);
    dev->scratch = more;
    dev->scratch_bytes = (size_t)bytes;
    return ERR_NONE;
}

enum err scalar_mat_new(void *opened, struct hal_mat *m)
{
    struct scalar_dev *dev = opened;
    const size_t bytes = mat_bytes(m);
    if (bytes == 0 || !is_use_of_type(m))
        return ERR_ARGUMENT;
    if (m->use == HAL_ACTIVATION) {
        const enum err e = reserve_scratch(dev, m);
        if (e != ERR_NONE)
            return e;
    }
    void *mem = dev->host.alloc(bytes);
    if (mem == NULL)
        return ERR_MEMORY;
    m->mem = mem;
    return ERR_NONE;
}

void scalar_mat_free(void *opened, struct hal_mat *m)
{
    struct scalar_dev *dev = opened;
    if (m->mem != NULL)
        dev->host.release(m->mem, mat_bytes(m));
    m->mem = NULL;
}

static int is_range(const struct hal_mat *m, uint32_t row, uint32_t rows, const void *host,
                    size_t bytes)
{
    const size_t row_bytes = block_row_bytes(m->type, m->cols);
    return m->mem != NULL && host != NULL && row <= m->rows && rows <= m->rows - row &&
           row_bytes != 0 && bytes == row_bytes * rows;
}

enum err scalar_mat_put(void *opened, struct hal_mat *m, uint32_t row, uint32_t rows,
                        const void *host, size_t bytes)
{
    (void)opened;
    if (!is_range(m, row, rows, host, bytes))
        return ERR_ARGUMENT;
    memcpy((char *)m->mem + row * block_row_bytes(m->type, m->cols), host, bytes);
    return ERR_NONE;
}

enum err scalar_mat_get(void *opened, const struct hal_mat *m, uint32_t row, uint32_t rows,
                        void *host, size_t bytes)
{
    (void)opened;
    if (!is_range(m, row, rows, host, bytes))
        return ERR_ARGUMENT;
    memcpy(host, (const char *)m->mem + row * block_row_bytes(m->type, m->cols), bytes);
    return ERR_NONE;
}

const struct hal_plugin scalar_plugin = {
    .abi = HAL_ABI,
    .size = sizeof(struct hal_plugin),
    .name = "scalar",
    .version = "1",
    .probe = probe,
    .open = open_dev,
    .close = close_dev,
    .mat_new = scalar_mat_new,
    .mat_free = scalar_mat_free,
    .mat_put = scalar_mat_put,
    .mat_get = scalar_mat_get,
    .matmul = scalar_matmul,
    .embed = scalar_embed,
    .rmsnorm = scalar_rmsnorm,
    .layernorm = scalar_layernorm,
    .rope = scalar_rope,
    .store = scalar_store,
    .attend = scalar_attend,
    .glu = scalar_glu,
    .add = scalar_add,
    .scale = scalar_scale,
    .scatter = scalar_scatter,
    .encode = scalar_encode,
    .decode = scalar_decode,
    .copy = scalar_copy,
    .limit_threads = scalar_limit_threads,
    .top = scalar_top,
};
