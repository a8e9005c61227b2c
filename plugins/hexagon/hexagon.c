/* hexagon.c: the plugin's table, its memory and its two paths: "auto" gives each product to the
 * side that will be done sooner, "hvx" gives the DSP all that it takes. */
#include "plugins/hexagon/hexagon.h"

#include <stdio.h>
#include <string.h>

#include "hal/block.h"

enum { RPC_HEAP_SYSTEM = 25, RPC_CACHED = 1, BUFFER_BYTES = 4 << 20 };

static int is_path(const char *path)
{
    return path == NULL || strcmp(path, "auto") == 0 || strcmp(path, "hvx") == 0;
}

static enum err hexagon_probe(const char *path, struct hal_caps *caps)
{
    struct hexagon_rpc rpc;
    uint32_t architecture = 0;
    memset(caps, 0, sizeof *caps);
    if (!is_path(path)) {
        snprintf(caps->reason, sizeof caps->reason, "no path %.32s: auto or hvx", path);
        return ERR_UNSUPPORTED;
    }
    struct hal_caps reference;
    enum err e = scalar_plugin.probe(NULL, &reference);
    if (!e)
        e = hexagon_rpc_open(&rpc, &architecture, caps->reason);
    if (e)
        return e;
    caps->score = 1000;
    caps->paths = 2;
    caps->types = reference.types;
    snprintf(caps->device, sizeof caps->device, "Hexagon v%x: Q8_0, Q4_0 products; CPU: the rest", architecture);
    snprintf(caps->path, sizeof caps->path, "%s", path ? path : "auto");
    return ERR_NONE;
}

static void close_dev(struct hexagon_dev *dev)
{
    struct scalar_dev *scalar = hexagon_cpu_scalar(&dev->cpu);
    void (*release)(void *, size_t) = scalar->host.release;
    if (dev->x)
        dev->rpc.release(dev->x);
    if (dev->y)
        dev->rpc.release(dev->y);
    if (dev->handle)
        (void)dev->rpc.close(dev->handle); /* a dead DSP cannot be closed any better */
    scalar_close_from(scalar);
    release(dev, sizeof *dev);
}

static enum err start(struct hexagon_dev *dev)
{
    char reason[96] = "";
    uint32_t architecture;
    enum err e = hexagon_rpc_open(&dev->rpc, &architecture, reason);
    if (!e)
        e = hexagon_rpc_start(&dev->rpc, &dev->handle, reason);
    const struct hal_host *host = &hexagon_cpu_scalar(&dev->cpu)->host;
    if (e && host->log)
        host->log(3, reason); /* LOG_ERR */
    if (e) {
        dev->handle = 0;
        return e;
    }
    dev->x = dev->rpc.alloc(RPC_HEAP_SYSTEM, RPC_CACHED, BUFFER_BYTES);
    dev->y = dev->rpc.alloc(RPC_HEAP_SYSTEM, RPC_CACHED, BUFFER_BYTES);
    if (!dev->x || !dev->y)
        return ERR_MEMORY;
    dev->x_bytes = dev->y_bytes = BUFFER_BYTES;
    dev->is_alive = 1;
    return hexagon_measure(dev);
}

static enum err hexagon_open(const struct hal_host *host, void **out)
{
    if (!is_path(host->path))
        return ERR_UNSUPPORTED;
    struct hexagon_dev *dev = host->alloc(sizeof *dev);
    if (!dev)
        return ERR_MEMORY;
    memset(dev, 0, sizeof *dev);
    enum err e = scalar_open_into(host, hexagon_cpu_scalar(&dev->cpu));
    if (e) {
        host->release(dev, sizeof *dev);
        return e;
    }
    hexagon_cpu_open(&dev->cpu);
    dev->is_forced = host->path && strcmp(host->path, "hvx") == 0;
    if ((e = start(dev))) {
        close_dev(dev);
        return e;
    }
    *out = dev;
    return ERR_NONE;
}

static void hexagon_close(void *dev)
{
    if (dev)
        close_dev(dev);
}

static enum err hexagon_mat_new(void *opened, struct hal_mat *m)
{
    struct hexagon_dev *dev = opened;
    if (!hexagon_is_packed(m))
        return scalar_mat_new(opened, m);
    if (m->rows == 0 || m->rows > HEXAGON_ROWS_MAX || m->cols == 0 || m->cols > HEXAGON_COLS_MAX ||
        m->cols % HEXAGON_GROUP)
        return ERR_ARGUMENT;
    const size_t bytes = hexagon_packed_bytes(m->type, m->rows, m->cols);
    void *mem = bytes <= INT32_MAX ? dev->rpc.alloc(RPC_HEAP_SYSTEM, RPC_CACHED, (int)bytes) : NULL;
    if (!mem)
        return ERR_MEMORY;
    memset(mem, 0, bytes); /* rows that fill the last tile up */
    m->mem = mem;
    return ERR_NONE;
}

static void hexagon_mat_free(void *opened, struct hal_mat *m)
{
    struct hexagon_dev *dev = opened;
    if (!hexagon_is_packed(m)) {
        scalar_mat_free(opened, m);
        return;
    }
    if (m->mem)
        dev->rpc.release(m->mem);
    m->mem = NULL;
}

static enum err hexagon_mat_put(void *opened, struct hal_mat *m, uint32_t row, uint32_t rows,
                                const void *host, size_t bytes)
{
    if (!hexagon_is_packed(m))
        return scalar_mat_put(opened, m, row, rows, host, bytes);
    const size_t row_bytes = block_row_bytes(m->type, m->cols);
    if (!m->mem || !host || row > m->rows || rows > m->rows - row || bytes != row_bytes * rows)
        return ERR_ARGUMENT;
    for (uint32_t r = 0; r < rows; r++)
        hexagon_pack_row(m->type, m->cols, row + r, (const uint8_t *)host + r * row_bytes, m->mem);
    return ERR_NONE;
}

static enum err hexagon_mat_get(void *opened, const struct hal_mat *m, uint32_t row, uint32_t rows,
                                void *host, size_t bytes)
{
    return hexagon_is_packed(m) ? ERR_UNSUPPORTED
                                : scalar_mat_get(opened, m, row, rows, host, bytes);
}

static enum err hexagon_embed(void *opened, const struct hal_mat *y, const struct hal_mat *table,
                              const uint32_t *row)
{
    if (!hexagon_is_packed(table))
        return scalar_embed(opened, y, table, row);
    if (y->type != HAL_F32 || y->use != HAL_ACTIVATION || !y->mem || !table->mem ||
        table->cols != y->cols)
        return ERR_ARGUMENT;
    for (uint32_t r = 0; r < y->rows; r++)
        if (row[r] >= table->rows)
            return ERR_ARGUMENT;
    for (uint32_t r = 0; r < y->rows; r++)
        hexagon_unpack_row(table->type, table->cols, row[r], table->mem,
                           (float *)y->mem + (size_t)r * y->cols);
    return ERR_NONE;
}

static void fill(struct hal_plugin *p)
{
    hexagon_cpu_fill(p);
    p->name = "hexagon";
    p->version = "1";
    p->probe = hexagon_probe;
    p->open = hexagon_open;
    p->close = hexagon_close;
    p->mat_new = hexagon_mat_new;
    p->mat_free = hexagon_mat_free;
    p->mat_put = hexagon_mat_put;
    p->mat_get = hexagon_mat_get;
    p->matmul = hexagon_matmul;
    p->embed = hexagon_embed;
}

HAL_EXPORT(fill)
