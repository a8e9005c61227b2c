/* check_attend.c: cache slots: rounding on the way in, attention on the way out. */
#include "hal/check_case.h"

#include <string.h>

#include "hal/block.h"
#include "plugins/scalar/scalar.h"

static const uint32_t cache_types[] = {HAL_F16, HAL_Q8_0, HAL_Q4_0, HAL_F32};

/* Clear both caches, so that slots never stored compare equal too. */
static enum err clear(struct check_run *c, struct check_pair *cache)
{
    uint8_t zeros[4096];
    const struct hal_mat *m = &cache->theirs;
    const size_t row = block_row_bytes(m->type, m->cols);
    enum err e = row > sizeof zeros ? ERR_ARGUMENT : ERR_NONE;
    memset(zeros, 0, sizeof zeros);
    for (uint32_t r = 0; r < m->rows && e == ERR_NONE; r++) {
        memcpy((char *)m->mem + r * row, zeros, row);
        e = c->plugin->mat_put(c->dev, &cache->mine, r, 1, zeros, row);
    }
    return e == ERR_NONE ? e : check_fail(c, e, "mat_put of a cache: %s", err_name(e));
}

static enum err new_cache(struct check_run *c, uint32_t type, uint32_t slots, uint32_t cols,
                          struct check_pair *out)
{
    const enum err e = check_pair_new(c, HAL_CACHE, type, slots, cols, out);
    return e == ERR_NONE ? clear(c, out) : e;
}

/* Random rows into random slots, on both sides. */
static enum err fill_slots(struct check_run *c, struct check_pair *cache, uint32_t rows)
{
    struct check_pair x;
    uint32_t slot[128];
    enum err e = check_pair_activation(c, rows, cache->theirs.cols, &x);
    /* ascending with gaps, the first and the last slot included */
    for (uint32_t r = 0; r < rows; r++)
        slot[r] = r * (cache->theirs.rows - 1) / (rows > 1 ? rows - 1 : 1);
    if (e == ERR_NONE) {
        const enum err mine = c->plugin->store(c->dev, &cache->mine, &x.mine, slot);
        e = check_same_error(c, mine, scalar_store(c->reference, &cache->theirs, &x.theirs, slot));
    }
    slot[0] = cache->theirs.rows;
    if (e == ERR_NONE && c->plugin->store(c->dev, &cache->mine, &x.mine, slot) != ERR_ARGUMENT)
        e = check_fail(c, ERR_MISMATCH, "a slot beyond the cache: wanted ERR_ARGUMENT");
    check_pair_free(c, &x);
    return e;
}

enum err check_store(struct check_run *c)
{
    enum err e = ERR_NONE;
    for (size_t i = 0; i < sizeof cache_types / sizeof *cache_types; i++)
        for (c->pattern = 0; c->pattern < CHECK_PATTERNS && e == ERR_NONE; c->pattern++) {
            struct check_pair cache;
            check_case(c, "%s slots=40 cols=96", block_type(cache_types[i])->name);
            e = new_cache(c, cache_types[i], 40, 96, &cache);
            if (e == ERR_NONE)
                e = fill_slots(c, &cache, 17);
            if (e == ERR_NONE)
                e = check_pair_compare(c, &cache);
            check_pair_free(c, &cache);
        }
    c->pattern = CHECK_NORMAL;
    return e;
}

struct attend_case {
    uint32_t type, heads, kv_heads, key_dim, value_dim, rows, slots;
    float softcap;
    int is_shared; /* v is k */
};

static enum err run_attend(struct check_run *c, const struct attend_case *a,
                           const struct hal_attend *g, const struct check_pair *q,
                           const struct check_pair *k, const struct check_pair *v)
{
    struct check_pair y;
    enum err e = check_pair_new(c, HAL_ACTIVATION, HAL_F32, a->rows, a->heads * a->value_dim, &y);
    if (e == ERR_NONE) {
        const enum err mine = c->plugin->attend(c->dev, &y.mine, &q->mine, &k->mine, &v->mine, g);
        e = check_same_error(
            c, mine, scalar_attend(c->reference, &y.theirs, &q->theirs, &k->theirs, &v->theirs, g));
    }
    if (e == ERR_NONE)
        e = check_pair_compare(c, &y);
    check_pair_free(c, &y);
    return e;
}

static enum err attend_case(struct check_run *c, const struct attend_case *a)
{
    struct check_pair q, k, v;
    struct hal_span spans[64];
    uint32_t first[32], n = 0;
    memset(&k, 0, sizeof k);
    memset(&v, 0, sizeof v);
    check_case(c, "%s heads=%u/%u dims=%u/%u rows=%u slots=%u softcap=%g",
               block_type(a->type)->name, a->heads, a->kv_heads, a->key_dim, a->value_dim, a->rows,
               a->slots, (double)a->softcap);
    enum err e = check_pair_activation(c, a->rows, a->heads * a->key_dim, &q);
    if (e == ERR_NONE)
        e = new_cache(c, a->type, a->slots, a->kv_heads * a->key_dim, &k);
    if (e == ERR_NONE)
        e = fill_slots(c, &k, a->slots < 128 ? a->slots : 128);
    if (e == ERR_NONE && !a->is_shared)
        e = new_cache(c, a->type, a->slots, a->kv_heads * a->value_dim, &v);
    if (e == ERR_NONE && !a->is_shared)
        e = fill_slots(c, &v, a->slots < 128 ? a->slots : 128);
    /* row 0 sees one slot, the last one all; a middle one two pieces out of order; another nothing
     */
    for (uint32_t r = 0; r < a->rows; r++) {
        first[r] = n;
        if (r % 4 == 1 && a->slots > 3) {
            spans[n++] = (struct hal_span){a->slots - 2, 2};
            spans[n++] = (struct hal_span){0, a->slots / 2};
        } else if (r % 4 != 2 || r + 1 == a->rows) {
            spans[n++] = (struct hal_span){0, r + 1 == a->rows ? a->slots : 1 + r % a->slots};
        }
    }
    first[a->rows] = n;
    const struct hal_attend g = {a->heads, a->kv_heads, a->key_dim, a->value_dim,
                                 0.176f,   a->softcap,  spans,      first};
    if (e == ERR_NONE)
        e = run_attend(c, a, &g, &q, &k, a->is_shared ? &k : &v);
    check_pair_free(c, &v);
    check_pair_free(c, &k);
    check_pair_free(c, &q);
    return e;
}

enum err check_attend(struct check_run *c)
{
    static const struct attend_case cases[] = {
        {HAL_F16, 8, 2, 32, 32, 5, 33, 0.0f, 0},    {HAL_Q8_0, 8, 2, 64, 64, 3, 17, 0.0f, 0},
        {HAL_Q4_0, 4, 4, 32, 32, 2, 40, 0.0f, 0},   {HAL_F16, 4, 1, 64, 64, 1, 1, 0.0f, 0},
        {HAL_F16, 6, 2, 48, 48, 9, 100, 30.0f, 0},  {HAL_F16, 4, 1, 80, 64, 6, 70, 0.0f, 1},
        {HAL_F16, 2, 2, 20, 12, 5, 31, 0.0f, 0},    {HAL_Q8_0, 32, 8, 128, 128, 17, 300, 0.0f, 0},
        {HAL_F16, 32, 8, 128, 128, 4, 513, 0.0f, 0},
        {HAL_F32, 6, 3, 24, 16, 7, 90, 20.0f, 0},   {HAL_F32, 4, 1, 40, 32, 5, 50, 0.0f, 1}};
    const size_t count = c->options->is_quick ? 4 : sizeof cases / sizeof cases[0];
    enum err e = ERR_NONE;
    for (size_t i = 0; i < count && e == ERR_NONE; i++) {
        e = attend_case(c, &cases[i]);
        /* equal scores everywhere: the mean of the values */
        c->pattern = CHECK_MAXIMUM;
        if (e == ERR_NONE && !c->options->is_quick)
            e = attend_case(c, &cases[i]);
        c->pattern = CHECK_NORMAL;
    }
    return e;
}
