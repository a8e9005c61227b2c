/* vnni_attend.c: cuts attention into tiles of rows that share what they see and heads that share a
 * key/value head, so that every slot is decoded once for many queries. */
#include "plugins/vnni/vnni.h"

enum { ROWS_MAX = 16, TILES_PER_THREAD = 4 };

struct job {
    struct vnni_attention a;
    struct vnni_dev *dev;
    uint32_t rows;      /* of q */
    uint32_t tile_rows; /* a tile has at most these */
    uint32_t head_parts; /* tiles that the heads of one key/value head make */
    uint32_t part_heads;
    int is_tiled; /* on the tiles of the processor */
};

static size_t head_bytes(uint32_t type, uint32_t dim)
{
    if (type == HAL_F16 || type == HAL_F32)
        return (size_t)dim * (type == HAL_F16 ? 2 : 4);
    return (size_t)(dim / 32) * (type == HAL_Q8_0 ? 34 : 18);
}

/* Does row see the first slots of what `row + 1` sees? */
static int is_prefix(const struct hal_attend *g, uint32_t row)
{
    const uint32_t count = g->first[row + 1] - g->first[row];
    const struct hal_span *mine = g->spans + g->first[row], *next = g->spans + g->first[row + 1];
    if (count > g->first[row + 2] - g->first[row + 1])
        return 0;
    for (uint32_t s = 0; s < count; s++) {
        const int is_last = s + 1 == count;
        if (mine[s].slot != next[s].slot || mine[s].slots > next[s].slots ||
            (!is_last && mine[s].slots != next[s].slots))
            return 0;
    }
    return 1;
}

static void attend_tile(void *context, uint32_t tile, uint32_t thread)
{
    const struct job *job = context;
    const struct hal_attend *g = job->a.geometry;
    const uint32_t heads = g->heads / g->kv_heads, parts = g->kv_heads * job->head_parts;
    const uint32_t part = tile % parts, within = part % job->head_parts * job->part_heads;
    const uint32_t left = heads - within;
    /* the last rows see most: first come, first served evens out */
    const uint32_t tiles = (job->rows + job->tile_rows - 1) / job->tile_rows;
    const uint32_t start = (tiles - 1 - tile / parts) * job->tile_rows;
    const uint32_t end =
        job->rows - start < job->tile_rows ? job->rows : start + job->tile_rows;
    struct vnni_queries queries = {.kv_head = part / job->head_parts,
                                   .heads = left < job->part_heads ? left : job->part_heads};
    queries.first_head = queries.kv_head * heads + within;
    for (uint32_t row = start; row < end; row += queries.rows) {
        queries.first_row = row;
        queries.rows = 1;
        while (row + queries.rows < end && is_prefix(g, row + queries.rows - 1))
            queries.rows++;
        uint8_t *room = job->dev->unpacked + thread * job->dev->unpacked_bytes;
        if (job->is_tiled)
            job->dev->kernels->attend_tiles(&job->a, &queries, room);
        else
            job->dev->kernels->attend(&job->a, &queries, (float *)(void *)room);
    }
}

/* Queries of one tile: as many as the room holds on the tiles of the processor, 0 where they cannot serve. */
static uint32_t tiled_queries(const struct job *job)
{
    const struct vnni_attention *a = &job->a;
    const struct vnni_dev *d = job->dev;
    if (d->kernels->attend_tiles == NULL || a->k_type == HAL_F32 || a->v_type == HAL_F32)
        return 0;
    const struct vnni_tile_sizes sizes = vnni_tile_sizes(a->geometry->key_dim, a->geometry->value_dim);
    if (d->unpacked_bytes < sizes.block + sizes.group)
        return 0;
    const size_t groups = (d->unpacked_bytes - sizes.block) / sizes.group;
    return groups * 16 > VNNI_TILE_QUERIES ? VNNI_TILE_QUERIES : (uint32_t)groups * 16;
}

/* Rows of a tile so that every thread gets some. */
static uint32_t tiled_rows(const struct job *job, uint32_t queries)
{
    const uint32_t most = queries / job->part_heads, least = (15 + job->part_heads) / job->part_heads;
    const uint32_t wanted = TILES_PER_THREAD * vnni_pool_active(job->dev->pool);
    const uint32_t even = job->rows * job->a.geometry->kv_heads * job->head_parts / wanted;
    return even < least ? least < most ? least : most : even < most ? even : most;
}

enum err vnni_attend(void *dev, const struct hal_mat *y, const struct hal_mat *q,
                     const struct hal_mat *k, const struct hal_mat *v,
                     const struct hal_attend *geometry)
{
    const enum err e = scalar_check_attend(y, q, k, v, geometry);
    if (e != ERR_NONE)
        return e;
    const struct hal_attend *g = geometry;
    struct job job = {.dev = dev, .rows = q->rows};
    job.a = (struct vnni_attention){
        .geometry = g, .q = q->mem, .y = y->mem, .k = k->mem, .v = v->mem,
        .k_type = k->type, .v_type = v->type,
        .k_row = head_bytes(k->type, k->cols), .v_row = head_bytes(v->type, v->cols),
        .k_head = head_bytes(k->type, g->key_dim),
        .v_head = head_bytes(v->type, v->cols / g->kv_heads),
        .k_bytes = head_bytes(k->type, g->key_dim), .v_bytes = head_bytes(v->type, g->value_dim)};
    const uint32_t heads = g->heads / g->kv_heads, tiled = tiled_queries(&job);
    const uint32_t queries = tiled != 0 ? tiled : VNNI_QUERIES;
    job.is_tiled = tiled != 0;
    job.head_parts = (heads + queries - 1) / queries;
    job.part_heads = (heads + job.head_parts - 1) / job.head_parts;
    job.tile_rows = queries / job.part_heads;
    job.tile_rows = job.tile_rows > ROWS_MAX ? ROWS_MAX : job.tile_rows;
    if (job.is_tiled)
        job.tile_rows = tiled_rows(&job, queries);
    const uint32_t tiles = (q->rows + job.tile_rows - 1) / job.tile_rows;
    vnni_pool_run(job.dev->pool, attend_tile, &job, tiles * g->kv_heads * job.head_parts);
    return ERR_NONE;
}
