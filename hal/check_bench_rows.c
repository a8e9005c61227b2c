/* check_bench_rows.c: shapes as a model of a few billion parameters has them. */
#include "hal/check_bench_rows.h"

#include <string.h>

#include "hal/block.h"

enum { HEADS = 32, KV_HEADS = 8, DIM = 128, SLOTS = 1024, WIDTH = 4096, ROWS = 64 };

/* What a call needs of one side. */
struct one {
    struct hal_mat y, x, w, k, v;
    struct hal_attend geometry;
    struct hal_rope_shape rope;
    const uint32_t *slot;
    uint32_t function;
};

static enum err call_rmsnorm(const struct hal_plugin *ops, void *dev, void *context)
{
    const struct one *o = context;
    return ops->rmsnorm(dev, &o->y, &o->x, &o->w, 1e-6f);
}

static enum err call_layernorm(const struct hal_plugin *ops, void *dev, void *context)
{
    const struct one *o = context;
    return ops->layernorm(dev, &o->y, &o->x, &o->w, &o->w, 1e-6f);
}

static enum err call_rope(const struct hal_plugin *ops, void *dev, void *context)
{
    const struct one *o = context;
    return ops->rope(dev, &o->x, &o->w, &o->rope);
}

static enum err call_glu(const struct hal_plugin *ops, void *dev, void *context)
{
    const struct one *o = context;
    return ops->glu(dev, &o->y, &o->x, &o->x, o->function);
}

static enum err call_add(const struct hal_plugin *ops, void *dev, void *context)
{
    const struct one *o = context;
    return ops->add(dev, &o->y, &o->x);
}

static enum err call_store(const struct hal_plugin *ops, void *dev, void *context)
{
    const struct one *o = context;
    return ops->store(dev, &o->k, &o->x, o->slot);
}

static enum err call_attend(const struct hal_plugin *ops, void *dev, void *context)
{
    const struct one *o = context;
    return ops->attend(dev, &o->y, &o->x, &o->k, &o->v, &o->geometry);
}

/* Matrices of both sides into what the calls take. */
static void put(const struct check_pair *pair, struct hal_mat *mine, struct hal_mat *theirs)
{
    *mine = pair->mine;
    *theirs = pair->theirs;
}

static int is_wanted(const struct check_clock *clock, const char *op)
{
    return clock->options->op == NULL || strcmp(clock->options->op, op) == 0;
}

static enum err bench_vectors(struct check_run *c, const struct check_clock *clock)
{
    static const char *const gates[] = {"silu 64x4096", "gelu tanh 64x4096", "gelu erf 64x4096"};
    const struct hal_plugin *p = clock->plugin;
    struct check_pair x, y, w, angles;
    struct one mine = {.rope = {DIM, 0, DIM, HAL_ROPE_NEOX}}, theirs = mine;
    const double bytes = (double)ROWS * WIDTH * 8;
    memset(&y, 0, sizeof y);
    memset(&w, 0, sizeof w);
    memset(&angles, 0, sizeof angles);
    enum err e = check_pair_activation(c, ROWS, WIDTH, &x);
    if (e == ERR_NONE)
        e = check_pair_activation(c, ROWS, WIDTH, &y);
    if (e == ERR_NONE)
        e = check_pair_activation(c, 1, WIDTH, &w);
    if (e == ERR_NONE)
        e = check_pair_activation(c, ROWS, DIM, &angles);
    put(&x, &mine.x, &theirs.x);
    put(&y, &mine.y, &theirs.y);
    put(&w, &mine.w, &theirs.w);
    if (e == ERR_NONE && p->rmsnorm != NULL && is_wanted(clock, "rmsnorm"))
        e = clock->report(clock, "rmsnorm", "64x4096", call_rmsnorm, &mine, &theirs, 0, bytes);
    if (e == ERR_NONE && p->layernorm != NULL && is_wanted(clock, "layernorm"))
        e = clock->report(clock, "layernorm", "64x4096", call_layernorm, &mine, &theirs, 0, bytes);
    for (uint32_t f = 0; f < 3 && e == ERR_NONE && p->glu != NULL && is_wanted(clock, "glu"); f++) {
        mine.function = theirs.function = f;
        e = clock->report(clock, "glu", gates[f], call_glu, &mine, &theirs, 0, bytes);
    }
    if (e == ERR_NONE && p->add != NULL && is_wanted(clock, "add")) {
        /* y grows with every call; its values do not matter */
        e = clock->report(clock, "add", "64x4096", call_add, &mine, &theirs, 0, bytes * 1.5);
    }
    put(&angles, &mine.w, &theirs.w);
    if (e == ERR_NONE && p->rope != NULL && is_wanted(clock, "rope")) {
        e = check_pair_put(c, &angles, (const float[ROWS * DIM]){0}); /* repeated, nothing grows */
        if (e == ERR_NONE)
            e = clock->report(clock, "rope", "neox 64x4096", call_rope, &mine, &theirs, 0, bytes);
    }
    check_pair_free(c, &angles);
    check_pair_free(c, &w);
    check_pair_free(c, &y);
    check_pair_free(c, &x);
    return e;
}

/* Rows at the end of SLOTS slots, each seeing all before it. */
static enum err time_attend(const struct check_clock *clock, const char *name, uint32_t rows,
                            struct one *mine, struct one *theirs)
{
    struct hal_span spans[ROWS];
    uint32_t first[ROWS + 1];
    char shape[64];
    double slots = 0;
    for (uint32_t r = 0; r < rows; r++) {
        spans[r] = (struct hal_span){0, SLOTS - rows + r + 1};
        first[r] = r;
        slots += spans[r].slots;
    }
    first[rows] = rows;
    mine->geometry = (struct hal_attend){HEADS, KV_HEADS, DIM, DIM, 0.088f, 0, spans, first};
    theirs->geometry = mine->geometry;
    mine->y.rows = mine->x.rows = theirs->y.rows = theirs->x.rows = rows;
    snprintf(shape, sizeof shape, "%s n=%u slots=%u heads=%u/%u", name, rows, SLOTS, HEADS, KV_HEADS);
    const double cache = 2.0 * SLOTS * (double)block_row_bytes(mine->k.type, KV_HEADS * DIM);
    return clock->report(clock, "attend", shape, call_attend, mine, theirs, 4.0 * slots * HEADS * DIM,
                         cache);
}

static enum err bench_cache(struct check_run *c, const struct check_clock *clock, uint32_t type)
{
    const struct hal_plugin *p = clock->plugin;
    const char *name = block_type(type)->name;
    struct check_pair x, q, y, k;
    uint32_t slot[SLOTS];
    struct one mine = {.slot = slot}, theirs = {.slot = slot};
    char shape[64];
    memset(&q, 0, sizeof q);
    memset(&y, 0, sizeof y);
    memset(&k, 0, sizeof k);
    for (uint32_t i = 0; i < SLOTS; i++)
        slot[i] = i;
    enum err e = check_pair_activation(c, SLOTS, KV_HEADS * DIM, &x);
    if (e == ERR_NONE)
        e = check_pair_activation(c, ROWS, HEADS * DIM, &q);
    if (e == ERR_NONE)
        e = check_pair_new(c, HAL_ACTIVATION, HAL_F32, ROWS, HEADS * DIM, &y);
    if (e == ERR_NONE)
        e = check_pair_new(c, HAL_CACHE, type, SLOTS, KV_HEADS * DIM, &k);
    put(&x, &mine.x, &theirs.x);
    put(&k, &mine.k, &theirs.k);
    snprintf(shape, sizeof shape, "%s %ux%u", name, SLOTS, KV_HEADS * DIM);
    if (e == ERR_NONE && is_wanted(clock, "store"))
        e = clock->report(clock, "store", shape, call_store, &mine, &theirs, 0,
                          (double)SLOTS * (4.0 * KV_HEADS * DIM + (double)block_row_bytes(type, KV_HEADS * DIM)));
    else if (e == ERR_NONE) /* attention needs contents */
        e = p->store(c->dev, &k.mine, &x.mine, slot);
    if (e == ERR_NONE && p->attend != NULL && is_wanted(clock, "attend")) {
        put(&q, &mine.x, &theirs.x);
        put(&y, &mine.y, &theirs.y);
        put(&k, &mine.v, &theirs.v);
        e = time_attend(clock, name, 1, &mine, &theirs);
        if (e == ERR_NONE)
            e = time_attend(clock, name, ROWS, &mine, &theirs);
    }
    check_pair_free(c, &k);
    check_pair_free(c, &y);
    check_pair_free(c, &q);
    check_pair_free(c, &x);
    return e;
}

enum err check_bench_rows(struct check_run *c, const struct check_clock *clock)
{
    static const uint32_t types[] = {HAL_F16, HAL_Q8_0, HAL_Q4_0};
    enum err e = bench_vectors(c, clock);
    const int is_cache = is_wanted(clock, "store") || is_wanted(clock, "attend");
    for (uint32_t i = 0; i < 3 && e == ERR_NONE && is_cache && clock->plugin->store != NULL; i++)
        if (i == 0 || !clock->options->is_quick)
            e = bench_cache(c, clock, types[i]);
    return e;
}
