/* vnni_matmul.c: rounds the input once, then hands tiles of panels to the threads. Plain C: the kernels
 * of the chosen instruction set do the work. */
#include "plugins/vnni/vnni.h"

#include <stdatomic.h>

enum {
    LANES_MAX = 256,
    WEIGHTS_MAX = 16,       /* of one call; more are taken in several rounds */
    TILE_BYTES = 32 << 10,  /* weights of one tile with one token: some microseconds */
    TILES_PER_THREAD = 8,   /* with many tokens: enough to even out, few enough to keep tokens in cache */
    SPLIT_LEAST = 5,        /* tokens from which tiles of BF16, 16 at a time, beat F32 vectors */
    ROUND_PARALLEL = 1 << 15 /* values below which waking threads costs more than it saves */
};

/* One weight's share of a job. */
struct part {
    const struct hal_mat *w;
    float *y;
    size_t panel_bytes;
    size_t unpacked_bytes; /* of one panel */
    uint32_t panels;
    uint32_t tile_panels;
    uint32_t first_tile;
};

/* Tiles that one thread walks in order: the first that is left, and behind the last, 32 bits each. */
struct lane {
    _Alignas(64) _Atomic uint64_t left;
};

struct job {
    struct vnni_dev *dev;
    const float *x;
    struct vnni_input input; /* of tokens `first` on */
    uint32_t first;
    uint32_t tokens;
    uint32_t count;
    int is_split; /* the input is parts of BF16 for dense weights */
    struct lane *lanes;
    uint32_t lane_count;
    struct part parts[WEIGHTS_MAX];
};

static int is_dense(uint32_t type)
{
    return vnni_layout_dense_bytes(type) != 0;
}

struct vnni_shape vnni_shape_of(uint32_t type)
{
    switch (type) {
    case HAL_Q4_1:
    case HAL_Q5_1:
    case HAL_Q4_K:
    case HAL_Q5_K: return (struct vnni_shape){1, 1, 0};
    case HAL_Q2_K: return (struct vnni_shape){1, 2, 0};
    case HAL_Q6_K: return (struct vnni_shape){2, 0, 0};
    case HAL_NF4: return (struct vnni_shape){1, 0, 1};
    default: return (struct vnni_shape){1, 0, 0};
    }
}

/* Where panels from `panel` on put the results of the job's tokens. */
static struct vnni_output output_of(const struct job *job, const struct part *part, uint32_t panel,
                                    uint32_t panels)
{
    const uint32_t row = panel * VNNI_ROWS, left = part->w->rows - row;
    return (struct vnni_output){part->y + (size_t)job->first * part->w->rows + row, part->w->rows,
                                left < panels * VNNI_ROWS ? left : panels * VNNI_ROWS};
}

static void multiply_unpacked(const struct job *job, const struct part *part, uint32_t panel,
                              uint32_t panels, uint32_t thread)
{
    const struct vnni_dev *d = job->dev;
    const struct vnni_shape shape = vnni_shape_of(part->w->type);
    uint8_t *room = d->unpacked + thread * d->unpacked_bytes;
    const uint8_t *resident = (const uint8_t *)part->w->mem + panel * part->panel_bytes;
    for (uint32_t p = 0; p < panels; p++)
        d->kernels->unpack(part->w->type, resident + p * part->panel_bytes, part->w->cols,
                           room + p * part->unpacked_bytes);
    d->kernels->gemm(shape, room, panels, &job->input, output_of(job, part, panel, panels));
}

static void multiply_split(const struct job *job, const struct part *part, uint32_t panel,
                           uint32_t panels, uint32_t thread)
{
    const struct vnni_dev *d = job->dev;
    d->kernels->dense_split(part->w->type, (const uint8_t *)part->w->mem + panel * part->panel_bytes,
                            job->x + (size_t)job->first * part->w->cols, &job->input,
                            d->unpacked + thread * d->unpacked_bytes,
                            output_of(job, part, panel, panels));
}

static void multiply_panel(const struct job *job, const struct part *part, uint32_t panel)
{
    const struct vnni_kernels *kernels = job->dev->kernels;
    const uint8_t *resident = (const uint8_t *)part->w->mem + panel * part->panel_bytes;
    const struct vnni_output out = output_of(job, part, panel, 1);
    if (is_dense(part->w->type))
        kernels->dense(part->w->type, resident, job->x + (size_t)job->first * part->w->cols,
                       part->w->cols, 0, job->tokens, out);
    else
        kernels->gemv(part->w->type, resident, &job->input, out);
}

static void multiply_tile(void *context, uint32_t tile, uint32_t thread)
{
    const struct job *job = context;
    uint32_t i = job->count - 1;
    while (job->parts[i].first_tile > tile)
        i--;
    const struct part *part = &job->parts[i];
    const uint32_t panel = (tile - part->first_tile) * part->tile_panels;
    const uint32_t left = part->panels - panel;
    const uint32_t panels = left < part->tile_panels ? left : part->tile_panels;
    if (job->tokens > 1 && !is_dense(part->w->type)) {
        multiply_unpacked(job, part, panel, panels, thread);
        return;
    }
    if (job->is_split && part->w->type != HAL_F32) {
        multiply_split(job, part, panel, panels, thread);
        return;
    }
    for (uint32_t p = 0; p < panels; p++)
        multiply_panel(job, part, panel + p);
}

/* The owner takes from the front, others from the back. Returns 0 when nothing is left. */
static int claim(struct lane *lane, int is_owner, uint32_t *tile)
{
    uint64_t left = atomic_load_explicit(&lane->left, memory_order_relaxed);
    for (;;) {
        const uint32_t first = (uint32_t)(left >> 32), end = (uint32_t)left;
        if (first >= end)
            return 0;
        const uint64_t rest = is_owner ? left + (UINT64_C(1) << 32) : left - 1;
        if (!atomic_compare_exchange_weak_explicit(&lane->left, &left, rest, memory_order_relaxed,
                                                   memory_order_relaxed))
            continue;
        *tile = is_owner ? first : end - 1;
        return 1;
    }
}

static void multiply_lane(void *context, uint32_t lane, uint32_t thread)
{
    const struct job *job = context;
    for (uint32_t i = 0; i < job->lane_count; i++) {
        uint32_t tile;
        while (claim(&job->lanes[(lane + i) % job->lane_count], i == 0, &tile))
            multiply_tile(context, tile, thread);
    }
}

/* With one token weights are streamed: a thread that took every other tile would prefetch those of its
 * neighbour, so each walks a part of its own, and helps where another is late. */
static void run_lanes(struct job *job, uint32_t tiles)
{
    struct lane lanes[LANES_MAX];
    const uint32_t threads = vnni_pool_active(job->dev->pool);
    job->lanes = lanes;
    job->lane_count = threads < tiles ? threads : tiles;
    job->lane_count = job->lane_count < LANES_MAX ? job->lane_count : LANES_MAX;
    for (uint32_t i = 0; i < job->lane_count; i++) {
        const uint64_t first = (uint64_t)tiles * i / job->lane_count;
        atomic_init(&lanes[i].left, first << 32 | (uint64_t)tiles * (i + 1) / job->lane_count);
    }
    vnni_pool_run(job->dev->pool, multiply_lane, job, job->lane_count);
}

static void round_block(void *context, uint32_t tile, uint32_t thread)
{
    (void)thread;
    const struct job *job = context;
    const struct vnni_input *in = &job->input;
    job->dev->kernels->round(in, job->x + (size_t)job->first * in->cols, tile * in->width,
                             (tile + 1) * in->width);
}

static void round_input(struct job *job, uint32_t cols)
{
    struct vnni_input *in = &job->input;
    in->tokens = job->tokens;
    in->cols = cols;
    in->width = job->tokens == 1 ? 1 : VNNI_BLOCK;
    const uint32_t blocks = (job->tokens + in->width - 1) / in->width;
    in->q = (int8_t *)job->dev->input;
    in->info = (float *)(void *)(job->dev->input + (size_t)blocks * in->width * cols);
    if ((size_t)job->tokens * cols >= ROUND_PARALLEL) {
        vnni_pool_run(job->dev->pool, round_block, job, blocks);
        return;
    }
    for (uint32_t block = 0; block < blocks; block++)
        round_block(job, block, 0);
}

static void split_block(void *context, uint32_t tile, uint32_t thread)
{
    (void)thread;
    const struct job *job = context;
    job->dev->kernels->split(&job->input, job->x + (size_t)job->first * job->input.cols, tile);
}

static void split_input(struct job *job, uint32_t cols)
{
    struct vnni_input *in = &job->input;
    const size_t padded = ((size_t)cols + 31) / 32 * 32;
    const uint32_t blocks = (job->tokens + VNNI_BLOCK - 1) / VNNI_BLOCK;
    *in = (struct vnni_input){.tokens = job->tokens, .cols = cols, .width = VNNI_BLOCK};
    in->q = (int8_t *)job->dev->input;
    in->info = (float *)(void *)(job->dev->input + blocks * VNNI_BLOCK * padded * VNNI_SPLIT_BYTES);
    vnni_pool_run(job->dev->pool, split_block, job, blocks);
}

/* Tokens that the room for split inputs holds, or 0: not worth it. Blocks of other types need that room. */
static uint32_t split_room(const struct job *job, const struct hal_mat *x, const struct hal_mat *const *w,
                           uint32_t count)
{
    const size_t padded = ((size_t)x->cols + 31) / 32 * 32;
    int has_halves = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (!is_dense(w[i]->type))
            return 0;
        has_halves |= w[i]->type != HAL_F32;
    }
    if (!has_halves || job->dev->kernels->split == NULL || x->rows < SPLIT_LEAST)
        return 0;
    const size_t block = VNNI_BLOCK * padded * VNNI_SPLIT_BYTES + sizeof(float);
    const size_t room = job->dev->split_bytes / block * VNNI_BLOCK;
    return room < VNNI_SPLIT_TOKENS ? (uint32_t)room : VNNI_SPLIT_TOKENS;
}

static uint32_t tile_panels(const struct job *job, const struct part *part)
{
    const uint32_t threads = vnni_pool_active(job->dev->pool);
    size_t panels = part->panels / (threads * TILES_PER_THREAD);
    if (job->tokens == 1)
        panels = TILE_BYTES / part->panel_bytes;
    else if (job->is_split)
        panels += panels % 2; /* two at a time */
    else if (!is_dense(part->w->type) &&
             panels > job->dev->unpacked_bytes / part->unpacked_bytes)
        panels = job->dev->unpacked_bytes / part->unpacked_bytes;
    return panels == 0 ? 1 : (uint32_t)panels;
}

/* Tokens first.. of x times count weights, as many tokens as the room for rounded ones holds. */
static void multiply(struct job *job, const struct hal_mat *const *y, const struct hal_mat *const *w,
                     uint32_t count)
{
    uint32_t tiles = 0;
    job->count = count;
    for (uint32_t i = 0; i < count; i++) {
        struct part *part = &job->parts[i];
        *part = (struct part){.w = w[i],
                              .y = y[i]->mem,
                              .panel_bytes = vnni_layout_panel_bytes(w[i]->type, w[i]->cols),
                              .unpacked_bytes =
                                  w[i]->cols / 32 * vnni_group_bytes(vnni_shape_of(w[i]->type)),
                              .panels = (w[i]->rows + VNNI_ROWS - 1) / VNNI_ROWS,
                              .first_tile = tiles};
        part->tile_panels = tile_panels(job, part);
        tiles += (part->panels + part->tile_panels - 1) / part->tile_panels;
    }
    if (job->tokens == 1)
        run_lanes(job, tiles);
    else
        vnni_pool_run(job->dev->pool, multiply_tile, job, tiles);
}

enum err vnni_matmul(void *dev, const struct hal_mat *const *y, const struct hal_mat *x,
                     const struct hal_mat *const *w, uint32_t count)
{
    const enum err e = scalar_check_matmul(y, x, w, count);
    if (e != ERR_NONE)
        return e;
    struct job job = {.dev = dev, .x = x->mem};
    int has_blocks = 0;
    for (uint32_t i = 0; i < count; i++)
        has_blocks |= !is_dense(w[i]->type);
    const size_t groups = (x->cols + 31) / 32;
    const size_t block_bytes = VNNI_BLOCK * groups * (32 + VNNI_INFO * 4);
    const size_t room = job.dev->input_bytes / block_bytes * VNNI_BLOCK;
    const uint32_t split = split_room(&job, x, w, count);
    job.is_split = split != 0;
    for (uint32_t first = 0; first < x->rows; first += job.tokens) {
        job.first = first;
        job.tokens = x->rows - first;
        if (job.is_split && job.tokens > split)
            job.tokens = split;
        if (job.is_split)
            split_input(&job, x->cols);
        if (has_blocks && job.tokens > room)
            job.tokens = (uint32_t)room;
        if (has_blocks)
            round_input(&job, x->cols);
        for (uint32_t i = 0; i < count; i += WEIGHTS_MAX)
            multiply(&job, y + i, w + i, count - i < WEIGHTS_MAX ? count - i : WEIGHTS_MAX);
    }
    return ERR_NONE;
}
