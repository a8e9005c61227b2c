/* abi_v1.c: what a plugin built against the frozen header looks like: its table and its offsets. */
#include "tests/abi/hal_v1.h"

#include "tests/abi/abi_v1.h"

static const size_t offsets[] = {offsetof(struct hal_plugin, abi),
                                 offsetof(struct hal_plugin, size),
                                 offsetof(struct hal_plugin, name),
                                 offsetof(struct hal_plugin, version),
                                 offsetof(struct hal_plugin, probe),
                                 offsetof(struct hal_plugin, open),
                                 offsetof(struct hal_plugin, close),
                                 offsetof(struct hal_plugin, mat_new),
                                 offsetof(struct hal_plugin, mat_free),
                                 offsetof(struct hal_plugin, mat_put),
                                 offsetof(struct hal_plugin, mat_get),
                                 offsetof(struct hal_plugin, matmul),
                                 offsetof(struct hal_plugin, embed),
                                 offsetof(struct hal_plugin, rmsnorm),
                                 offsetof(struct hal_plugin, layernorm),
                                 offsetof(struct hal_plugin, rope),
                                 offsetof(struct hal_plugin, store),
                                 offsetof(struct hal_plugin, attend),
                                 offsetof(struct hal_plugin, glu),
                                 offsetof(struct hal_plugin, add),
                                 offsetof(struct hal_plugin, scale),
                                 offsetof(struct hal_plugin, scatter),
                                 offsetof(struct hal_plugin, encode),
                                 offsetof(struct hal_plugin, decode),
                                 offsetof(struct hal_mat, mem),
                                 offsetof(struct hal_mat, type),
                                 offsetof(struct hal_mat, use),
                                 offsetof(struct hal_mat, rows),
                                 offsetof(struct hal_mat, cols),
                                 sizeof(struct hal_mat),
                                 offsetof(struct hal_caps, types),
                                 offsetof(struct hal_caps, device),
                                 offsetof(struct hal_caps, reason),
                                 sizeof(struct hal_caps),
                                 offsetof(struct hal_host, threads),
                                 offsetof(struct hal_host, path),
                                 sizeof(struct hal_span),
                                 offsetof(struct hal_attend, scale),
                                 offsetof(struct hal_attend, first),
                                 sizeof(struct hal_rope_shape)};

const size_t *abi_v1_offsets(size_t *count)
{
    *count = sizeof offsets / sizeof offsets[0];
    return offsets;
}

static enum err probe(const char *path, struct hal_caps *caps)
{
    (void)path;
    caps->score = 2;
    return ERR_NONE;
}

static enum err open_dev(const struct hal_host *host, void **dev)
{
    *dev = NULL;
    return host == NULL ? ERR_ARGUMENT : ERR_UNSUPPORTED;
}

static void close_dev(void *dev)
{
    (void)dev;
}

static enum err mat_new(void *dev, struct hal_mat *m)
{
    (void)dev;
    m->mem = NULL;
    return ERR_UNSUPPORTED;
}

static void mat_free(void *dev, struct hal_mat *m)
{
    (void)dev;
    m->mem = NULL;
}

static enum err mat_put(void *dev, struct hal_mat *m, uint32_t row, uint32_t rows, const void *host,
                        size_t bytes)
{
    (void)dev;
    (void)row;
    (void)rows;
    return m->mem == NULL || host == NULL || bytes == 0 ? ERR_ARGUMENT : ERR_UNSUPPORTED;
}

static enum err mat_get(void *dev, const struct hal_mat *m, uint32_t row, uint32_t rows, void *host,
                        size_t bytes)
{
    (void)dev;
    (void)row;
    (void)rows;
    return m->mem == NULL || host == NULL || bytes == 0 ? ERR_ARGUMENT : ERR_UNSUPPORTED;
}

static enum err matmul(void *dev, const struct hal_mat *const *y, const struct hal_mat *x,
                       const struct hal_mat *const *w, uint32_t count)
{
    (void)dev;
    (void)y;
    (void)w;
    return x == NULL || count == 0 ? ERR_ARGUMENT : ERR_UNSUPPORTED;
}

static enum err decode(void *dev, uint32_t type, const void *in, size_t in_bytes, uint32_t rows,
                       uint32_t cols, float *x)
{
    (void)dev;
    (void)in;
    (void)in_bytes;
    (void)rows;
    (void)cols;
    (void)x;
    return type == HAL_F32 ? ERR_UNSUPPORTED : ERR_ARGUMENT;
}

static struct hal_plugin table = {HAL_ABI,   sizeof table, "old",    "1",     probe,   open_dev,
                                  close_dev, mat_new,      mat_free, mat_put, mat_get, matmul,
                                  NULL,      NULL,         NULL,     NULL,    NULL,    NULL,
                                  NULL,      NULL,         NULL,     NULL,    NULL,    decode};

const void *abi_v1_table(void)
{
    return &table;
}
