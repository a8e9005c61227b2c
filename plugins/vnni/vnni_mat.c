/* vnni_mat.c: matrices: weights in panels (vnni_layout.h), activations and caches as scalar keeps them. */
#include "plugins/vnni/vnni.h"
#include "plugins/vnni/vnni_topology.h"

#include <string.h>
#include <sys/mman.h>

enum {
    PAGE = 4096,
    HUGE_PAGE = 2 << 20,
    LARGE_BYTES = 128 << 10, /* such weights lie side by side */
    EMBED_VALUES = 1 << 15, /* of one tile */
    INPUT_BYTES_MAX = 12 << 20,   /* more tokens than fit are taken in several passes */
    UNPACKED_BYTES_MAX = 1 << 20 /* of one thread: half of a usual second-level cache */
};

struct put_job {
    const struct hal_mat *m;
    const uint8_t *host;
    size_t row_bytes;
    size_t panel_bytes;
    uint32_t row;
    uint32_t rows;
};

static size_t round64(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

static size_t host_row_bytes(uint32_t type, uint32_t cols)
{
    const struct vnni_layout *layout = vnni_layout_of(type);
    if (layout == NULL)
        return (size_t)vnni_layout_dense_bytes(type) * cols;
    return (size_t)(cols / layout->values) * layout->bytes;
}

static size_t weight_bytes(const struct hal_mat *m)
{
    const size_t panels = ((size_t)m->rows + VNNI_ROWS - 1) / VNNI_ROWS;
    return panels * vnni_layout_panel_bytes(m->type, m->cols);
}

/* Make *p at least `wanted` bytes; the old contents are not kept. */
static enum err grow(struct vnni_dev *d, uint8_t **p, size_t *bytes, size_t wanted)
{
    if (wanted <= *bytes)
        return ERR_NONE;
    uint8_t *larger = d->host.alloc(wanted);
    if (larger == NULL)
        return ERR_MEMORY;
    d->host.release(*p, *bytes);
    *p = larger;
    *bytes = wanted;
    return ERR_NONE;
}

/* Room to round `tokens` rows of cols columns, or as many as INPUT_BYTES_MAX holds, at least a block. */
static enum err reserve_input(struct vnni_dev *d, size_t tokens, size_t cols)
{
    const size_t groups = (cols + 31) / 32;
    const size_t block = VNNI_BLOCK * groups * (32 + VNNI_INFO * 4);
    size_t blocks = (tokens + VNNI_BLOCK - 1) / VNNI_BLOCK;
    if (blocks * block > INPUT_BYTES_MAX)
        blocks = INPUT_BYTES_MAX / block;
    return grow(d, &d->input, &d->input_bytes, (blocks == 0 ? 1 : blocks) * block);
}

/* At least `bytes` of room for each thread. */
static enum err reserve_room(struct vnni_dev *d, size_t wanted)
{
    if (wanted <= d->unpacked_bytes)
        return ERR_NONE;
    const uint32_t threads = vnni_pool_threads(d->pool);
    size_t bytes = d->unpacked_bytes * threads;
    const enum err e = grow(d, &d->unpacked, &bytes, wanted * threads);
    if (e == ERR_NONE)
        d->unpacked_bytes = wanted;
    return e;
}

/* Slots of a cache taken apart: heads are not known yet, one may be a whole row. */
static enum err reserve_attend(struct vnni_dev *d, size_t cols)
{
    const struct vnni_tile_sizes tiles = vnni_tile_sizes(cols, cols);
    const size_t vectors = vnni_attend_room(cols, cols) * sizeof(float);
    const size_t least = d->kernels->attend_tiles == NULL ? 0 : tiles.block + tiles.group;
    return reserve_room(d, round64(vectors > least ? vectors : least));
}

static enum err reserve_unpacked(struct vnni_dev *d, const struct hal_mat *w)
{
    if (vnni_layout_of(w->type) == NULL) {
        if (d->kernels->split == NULL || w->type == HAL_F32)
            return ERR_NONE;
        const size_t cols = ((size_t)w->cols + 31) / 32 * 32;
        const size_t bytes = VNNI_SPLIT_LEAST * cols * VNNI_SPLIT_BYTES + VNNI_SPLIT_TOKENS * sizeof(float);
        const enum err e = grow(d, &d->input, &d->input_bytes, bytes);
        if (e == ERR_NONE && d->split_bytes < bytes)
            d->split_bytes = bytes;
        return e != ERR_NONE ? e : reserve_room(d, VNNI_DENSE_ROOM);
    }
    const size_t panel = w->cols / 32 * vnni_group_bytes(vnni_shape_of(w->type));
    size_t panels = UNPACKED_BYTES_MAX / (panel == 0 ? 1 : panel);
    panels = panels < 1 ? 1 : panels > 8 ? 8 : panels;
    return reserve_room(d, round64(panels * panel));
}

/* Decoding walks all weights once for every token. The last huge page goes beyond the end: the next weight
 * is expected there, and pages are taken when they are first written. Only a wish. */
static void ask_for_huge_pages(const void *p, size_t bytes)
{
    const uintptr_t start = (uintptr_t)p / PAGE * PAGE;
    const uintptr_t end = ((uintptr_t)p + bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    if (bytes >= LARGE_BYTES)
        (void)madvise((void *)start, end - start, MADV_HUGEPAGE);
}

enum err vnni_mat_new(void *dev, struct hal_mat *m)
{
    struct vnni_dev *d = dev;
    if (m->use == HAL_WEIGHT) {
        const size_t bytes = weight_bytes(m);
        if (bytes == 0)
            return ERR_ARGUMENT;
        enum err e = reserve_input(d, 1, m->cols);
        if (e == ERR_NONE)
            e = reserve_unpacked(d, m);
        if (e != ERR_NONE)
            return e;
        m->mem = d->host.alloc(bytes);
        if (m->mem == NULL)
            return ERR_MEMORY;
        vnni_topology_spread(vnni_pool_nodes(d->pool), m->mem, bytes);
        ask_for_huge_pages(m->mem, bytes);
        return ERR_NONE;
    }
    const enum err e = m->use == HAL_ACTIVATION ? reserve_input(d, m->rows, m->cols) : reserve_attend(d, m->cols);
    return e != ERR_NONE ? e : scalar_mat_new(dev, m);
}

void vnni_mat_free(void *dev, struct hal_mat *m)
{
    struct vnni_dev *d = dev;
    if (m->use != HAL_WEIGHT) {
        scalar_mat_free(dev, m);
        return;
    }
    if (m->mem != NULL)
        d->host.release(m->mem, weight_bytes(m));
    m->mem = NULL;
}

static void put_panel(void *context, uint32_t tile, uint32_t thread)
{
    (void)thread;
    const struct put_job *job = context;
    const uint32_t panel = job->row / VNNI_ROWS + tile;
    uint8_t *target = (uint8_t *)job->m->mem + panel * job->panel_bytes;
    const uint32_t end = job->row + job->rows;
    for (uint32_t r = 0; r < VNNI_ROWS; r++) {
        const uint32_t row = panel * VNNI_ROWS + r;
        if (r == 0 && row >= job->row && end < row + VNNI_ROWS)
            memset(target, 0, job->panel_bytes); /* rows that never come are zero blocks */
        if (row >= job->row && row < end)
            vnni_layout_put_row(job->m->type, job->m->cols,
                                job->host + (size_t)(row - job->row) * job->row_bytes, target, r);
    }
}

static enum err check_rows(const struct hal_mat *m, uint32_t row, uint32_t rows, size_t bytes)
{
    if (m->mem == NULL || row > m->rows || rows > m->rows - row ||
        bytes != rows * host_row_bytes(m->type, m->cols))
        return ERR_ARGUMENT;
    return ERR_NONE;
}

enum err vnni_mat_put(void *dev, struct hal_mat *m, uint32_t row, uint32_t rows, const void *host,
                      size_t bytes)
{
    struct vnni_dev *d = dev;
    if (m->use != HAL_WEIGHT)
        return scalar_mat_put(dev, m, row, rows, host, bytes);
    const enum err e = check_rows(m, row, rows, bytes);
    if (e != ERR_NONE || rows == 0)
        return e;
    struct put_job job = {.m = m,
                          .host = host,
                          .row_bytes = host_row_bytes(m->type, m->cols),
                          .panel_bytes = vnni_layout_panel_bytes(m->type, m->cols),
                          .row = row,
                          .rows = rows};
    const uint32_t panels = (row + rows - 1) / VNNI_ROWS - row / VNNI_ROWS + 1;
    vnni_pool_run(d->pool, put_panel, &job, panels);
    return ERR_NONE;
}

static void get_row(const struct hal_mat *m, uint32_t row, void *host)
{
    const uint8_t *panel = (const uint8_t *)m->mem +
                           row / VNNI_ROWS * vnni_layout_panel_bytes(m->type, m->cols);
    vnni_layout_get_row(m->type, m->cols, panel, row % VNNI_ROWS, host);
}

enum err vnni_mat_get(void *dev, const struct hal_mat *m, uint32_t row, uint32_t rows, void *host,
                      size_t bytes)
{
    if (m->use != HAL_WEIGHT)
        return scalar_mat_get(dev, m, row, rows, host, bytes);
    const enum err e = check_rows(m, row, rows, bytes);
    if (e != ERR_NONE)
        return e;
    const size_t row_bytes = host_row_bytes(m->type, m->cols);
    for (uint32_t i = 0; i < rows; i++)
        get_row(m, row + i, (uint8_t *)host + i * row_bytes);
    return ERR_NONE;
}

struct embed_job {
    const struct vnni_kernels *kernels;
    const struct hal_mat *table;
    const uint32_t *row;
    float *y;
    uint32_t rows, tile_rows;
};

static void embed_tile(void *context, uint32_t tile, uint32_t thread)
{
    (void)thread;
    const struct embed_job *job = context;
    const struct hal_mat *table = job->table;
    const uint32_t first = tile * job->tile_rows, left = job->rows - first;
    const uint32_t last = first + (left < job->tile_rows ? left : job->tile_rows);
    const size_t cols = table->cols;
    for (uint32_t i = first; i < last; i++) {
        if (table->use != HAL_WEIGHT) {
            memcpy(job->y + i * cols, (const float *)table->mem + job->row[i] * cols,
                   cols * sizeof *job->y);
            continue;
        }
        const uint8_t *panel = (const uint8_t *)table->mem +
                               job->row[i] / VNNI_ROWS *
                                   vnni_layout_panel_bytes(table->type, table->cols);
        job->kernels->row(table->type, panel, table->cols, job->row[i] % VNNI_ROWS,
                          job->y + i * cols);
    }
}

enum err vnni_embed(void *dev, const struct hal_mat *y, const struct hal_mat *table,
                    const uint32_t *row)
{
    if (y->type != HAL_F32 || y->use != HAL_ACTIVATION || y->mem == NULL || y->cols != table->cols ||
        table->mem == NULL || table->mem == y->mem || table->use == HAL_CACHE ||
        (table->use == HAL_ACTIVATION && table->type != HAL_F32))
        return ERR_ARGUMENT;
    for (uint32_t i = 0; i < y->rows; i++) {
        if (row[i] >= table->rows)
            return ERR_ARGUMENT;
    }
    const struct vnni_dev *d = dev;
    struct embed_job job = {.kernels = d->kernels, .table = table, .row = row, .y = y->mem,
                            .rows = y->rows, .tile_rows = EMBED_VALUES / (y->cols + 1) + 1};
    vnni_pool_run(d->pool, embed_tile, &job, (y->rows + job.tile_rows - 1) / job.tile_rows);
    return ERR_NONE;
}
