/* vnni_attend_tiles.c: attention on the BF16 tiles of AMX, as exactly as in F32 vectors; compiled for the path that
 * has them.
 *
 * A block of slots is taken apart once for up to VNNI_TILE_QUERIES queries, which go in groups of 16. Scores are made
 * with slots as rows, so that keys lie in the cache as a tile wants them; they are transposed on their way to
 * weights. Tiles are fed while vectors work on something else: scores of the next group and values of the last one
 * while a group is weighed, or while the next block is taken apart. Nothing depends on which queries stand beside
 * each other: a sum of a tile is of one row and one column. Queries whose result is not finite are left to the
 * vectors, because a part of an infinity is no number.
 */
#include "plugins/vnni/vnni_attend.h"
#include "plugins/vnni/vnni_attend_tiles.h"
#include "plugins/vnni/vnni_kernel.h"
#include "plugins/vnni/vnni_tile_config.h"

enum { LANES = 16 };

/* Tiles 0: scores, 1, 2: parts of keys, 3: of queries. 4: results, 5: parts of weights, 6, 7: of values. */

/* Steps of tiles that are left to do: of each tile of results its chunks, one after the other. */
struct steps {
    uint32_t group;
    uint32_t tile, tiles;
    uint32_t chunk, chunks;
    uint32_t turn; /* which of the two buffers of scores or weights */
};

/* Room: see vnni_tile_sizes. */
struct work {
    const struct vnni_attention *a;
    const struct vnni_queries *queries;
    uint32_t count, groups; /* queries, and their groups */
    uint32_t key_chunks, value_groups;
    uint32_t key_bytes; /* of a chunk of 16 keys */
    struct vnni_tile_sizes sizes;
    uint8_t *k; /* [keys / 16][key_chunks][2 or 3 parts][16 slots] of 32 columns */
    uint8_t *v; /* [keys / 32][value_groups, even][2 parts][16 pairs] of 16 columns */
    uint8_t *p; /* [2][keys / 32][2 parts][16 queries] of 32 weights */
    uint8_t *s; /* [2][keys][16 queries] scores, F32 */
    uint8_t *q; /* [group][key_chunks][3 parts][16 pairs] of 16 queries */
    float *y;   /* [group][16 queries][16 * value_groups] */
    float *total; /* [group][16 queries][16 lanes] */
    float *top; /* [group][16 queries] */
    uint32_t visible[VNNI_TILE_QUERIES];
    uint32_t slots[VNNI_TILE_KEYS], next[VNNI_TILE_KEYS];
    uint32_t slot_count, next_count;
    uint32_t before; /* slots of the blocks before */
    struct steps scores, values;
    uint32_t rate, credit; /* steps for each call of feed, in 1/64 */
};

static uint32_t row_of(const struct work *w, uint32_t i)
{
    return w->queries->first_row + i / w->queries->heads;
}

static uint32_t head_of(const struct work *w, uint32_t i)
{
    return w->queries->first_head + i % w->queries->heads;
}

static uint32_t group_count(const struct work *w, uint32_t group)
{
    const uint32_t left = w->count - group * LANES;
    return left < LANES ? left : LANES;
}

/* ---- what the tiles do ---- */

static uint32_t left_of(const struct steps *s)
{
    return (s->tiles - s->tile) * s->chunks - s->chunk;
}

static void advance(struct steps *s)
{
    if (++s->chunk == s->chunks) {
        s->chunk = 0;
        s->tile++;
    }
}

/* 16 slots x 16 queries += over 32 columns. */
INLINE void multiply_keys(struct work *w)
{
    const struct steps *at = &w->scores;
    const uint8_t *k = w->k + (size_t)(at->tile * w->key_chunks + at->chunk) * w->key_bytes;
    const uint8_t *q = w->q + (size_t)(at->group * w->key_chunks + at->chunk) * ATTEND_QUERY_PARTS;
    if (at->chunk == 0)
        _tile_zero(0);
    _tile_loadd(3, q, 64);
    if (w->key_bytes == 3 * ATTEND_TILE) {
        _tile_loadd(2, k + 2 * ATTEND_TILE, 64);
        _tile_dpbf16ps(0, 2, 3);
    }
    _tile_loadd(1, k, 64);
    _tile_dpbf16ps(0, 1, 3);
    _tile_loadd(2, k + ATTEND_TILE, 64);
    _tile_dpbf16ps(0, 2, 3);
    _tile_loadd(3, q + ATTEND_TILE, 64);
    _tile_dpbf16ps(0, 1, 3);
    _tile_dpbf16ps(0, 2, 3);
    _tile_loadd(3, q + 2 * ATTEND_TILE, 64);
    _tile_dpbf16ps(0, 1, 3);
    if (at->chunk + 1 == at->chunks)
        _tile_stored(0, w->s + at->turn * w->sizes.s + (size_t)at->tile * ATTEND_TILE, 64);
    advance(&w->scores);
}

/* 16 queries x 16 columns += over 32 slots. */
INLINE void multiply_values(struct work *w)
{
    const struct steps *at = &w->values;
    const uint32_t even = (w->value_groups + 1) / 2 * 2;
    const uint8_t *v = w->v + (size_t)(at->chunk * even + at->tile) * ATTEND_PARTS;
    const uint8_t *p = w->p + at->turn * w->sizes.p + (size_t)at->chunk * ATTEND_PARTS;
    float *y = w->y + ((size_t)at->group * LANES * w->value_groups + at->tile) * LANES;
    const size_t stride = (size_t)w->value_groups * 64;
    if (at->chunk == 0)
        _tile_loadd(4, y, stride);
    _tile_loadd(5, p, 64);
    _tile_loadd(6, v, 64);
    _tile_dpbf16ps(4, 5, 6);
    _tile_loadd(7, v + ATTEND_TILE, 64);
    _tile_dpbf16ps(4, 5, 7);
    _tile_loadd(5, p + ATTEND_TILE, 64);
    _tile_dpbf16ps(4, 5, 6);
    if (at->chunk + 1 == at->chunks)
        _tile_stored(4, y, stride);
    advance(&w->values);
}

static void step(struct work *w)
{
    if (left_of(&w->values) != 0)
        multiply_values(w);
    else
        multiply_keys(w);
}

/* Feed is called `calls` times from here on, or less often. */
static void pace(struct work *w, uint32_t calls)
{
    const uint32_t steps = left_of(&w->values) + left_of(&w->scores);
    w->credit = 0;
    w->rate = calls == 0 ? 0 : steps * 64 / calls;
}

INLINE void feed(struct work *w)
{
    for (w->credit += w->rate; w->credit >= 64; w->credit -= 64)
        step(w);
}

static void finish(struct work *w)
{
    while (left_of(&w->values) + left_of(&w->scores) != 0)
        step(w);
    w->rate = 0;
}

/* ---- a block of slots ---- */

INLINE void prefetch(const uint8_t *p, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64)
        _mm_prefetch((const char *)p + i, _MM_HINT_T1);
}

INLINE void take_keys(struct work *w, uint32_t type)
{
    const struct vnni_attention *a = w->a;
    const uint32_t dim = a->geometry->key_dim;
    const uint8_t *k = a->k + w->queries->kv_head * a->k_head;
    for (uint32_t j = 0; j < w->slot_count; j++) {
        if (j < w->next_count)
            prefetch(k + w->next[j] * a->k_row, a->k_bytes);
        attend_key(type, k + w->slots[j] * a->k_row, dim,
                   w->k + (size_t)(j / LANES) * w->key_chunks * w->key_bytes + 64 * (j % LANES));
        feed(w);
    }
}

INLINE void take_values(struct work *w, uint32_t type)
{
    const struct vnni_attention *a = w->a;
    const uint32_t dim = a->geometry->value_dim, groups = (dim + 31) / 32 * 2;
    const uint8_t *v = a->v + w->queries->kv_head * a->v_head;
    for (uint32_t j = 0; j < w->slot_count; j += j % LANES == LANES - 1 ? LANES + 1 : 1) {
        const uint8_t *second = j + LANES < w->slot_count ? v + w->slots[j + LANES] * a->v_row : NULL;
        if (j < w->next_count)
            prefetch(v + w->next[j] * a->v_row, a->v_bytes);
        if (j + LANES < w->next_count)
            prefetch(v + w->next[j + LANES] * a->v_row, a->v_bytes);
        attend_values(type, v + w->slots[j] * a->v_row, second, dim,
                      w->v + (size_t)(j / 32) * groups * ATTEND_PARTS + 64 * (j % LANES));
        feed(w);
    }
    for (uint32_t j = w->slot_count; j % 32 != 0 && j % 32 < LANES; j++) /* pairs without slots weigh nothing */
        for (uint32_t part = 0; part < 2 * groups; part++)
            memset(w->v + (size_t)((j / 32) * groups * 2 + part) * ATTEND_TILE + 64 * (j % LANES), 0, 64);
}

#define TAKE(what, type)                                                                           \
    switch (type) {                                                                                \
    case HAL_F16: what(w, HAL_F16); break;                                                         \
    case HAL_Q8_0: what(w, HAL_Q8_0); break;                                                       \
    default: what(w, HAL_Q4_0);                                                                    \
    }

static void start_scores(struct work *w, uint32_t group, uint32_t turn)
{
    w->scores = (struct steps){.group = group, .tiles = (w->slot_count + 31) / 32 * 2, .chunks = w->key_chunks, .turn = turn};
}

static void take_block(struct work *w, uint32_t first_group)
{
    pace(w, w->slot_count);
    TAKE(take_keys, w->a->k_type)
    finish(w); /* the values of the block before */
    start_scores(w, first_group, first_group & 1);
    const uint32_t rest = w->slot_count % 32;
    pace(w, w->slot_count / 32 * LANES + (rest < LANES ? rest : LANES));
    TAKE(take_values, w->a->v_type)
    finish(w);
}

/* ---- weights ---- */

/* tanh as 1 - 2 / (e^2u + 1) */
INLINE __m512 soften(__m512 score, float softcap)
{
    const __m512 e = vf_exp(vf_mul(score, vf_set(2.0f / softcap)));
    const __m512 tanh = vf_sub(vf_set(1.0f), vf_div(vf_set(2.0f), vf_add(e, vf_set(1.0f))));
    return vf_mul(tanh, vf_set(softcap));
}

static float *scores_of(const struct work *w, uint32_t group)
{
    return (float *)(void *)(w->s + (group & 1) * w->sizes.s);
}

/* The greatest score that each query of the group sees; what was summed before shrinks when it grows. */
static void raise_top(const struct work *w, uint32_t group)
{
    const float *s = scores_of(w, group);
    const float softcap = w->a->geometry->softcap;
    const __m512i visible = _mm512_loadu_si512(w->visible + group * LANES);
    const __m512 low = vf_set(-__builtin_inff());
    __m512 most[4] = {low, low, low, low}; /* latency, not work, is what one would cost */
    for (uint32_t j = 0; j < w->slot_count; j += 4) { /* of whole tiles; what is beyond, nobody sees */
        UNROLL for (uint32_t i = 0; i < 4; i++)
        {
            const __mmask16 sees = _mm512_cmpgt_epu32_mask(visible, _mm512_set1_epi32((int)(w->before + j + i)));
            most[i] = _mm512_mask_max_ps(most[i], sees, vf_load(s + (size_t)(j + i) * LANES), most[i]);
        }
    }
    __m512 greatest = vf_max(vf_max(most[0], most[1]), vf_max(most[2], most[3]));
    if (softcap != 0.0f)
        greatest = vf_select(vf_equal(greatest, low), low, soften(greatest, softcap));
    const __m512 before = vf_load(w->top + group * LANES), top = vf_max(greatest, before);
    const __mmask16 grows = _mm512_cmp_ps_mask(top, before, _CMP_NEQ_UQ);
    vf_store(w->top + group * LANES, top);
    if (grows == 0 || w->before == 0)
        return;
    float shrink[LANES];
    vf_store(shrink, vf_select(grows, vf_exp(vf_sub(before, top)), vf_set(1.0f)));
    const uint32_t width = w->value_groups * LANES;
    for (uint32_t i = 0; i < group_count(w, group); i++) {
        if ((grows >> i & 1) == 0)
            continue;
        float *y = w->y + (size_t)(group * LANES + i) * width, *total = w->total + (size_t)(group * LANES + i) * LANES;
        vf_store(total, vf_mul(vf_load(total), vf_set(shrink[i])));
        for (uint32_t c = 0; c < width; c += LANES)
            vf_store(y + c, vf_mul(vf_load(y + c), vf_set(shrink[i])));
    }
}

static void transpose_scores(float *s)
{
    __m512 v[LANES];
    UNROLL for (uint32_t i = 0; i < LANES; i++)
        v[i] = vf_load(s + i * LANES);
    vf_transpose(v);
    UNROLL for (uint32_t i = 0; i < LANES; i++)
        vf_store(s + i * LANES, v[i]);
}

INLINE __m512 weight_of(const float *score, float softcap, __m512 top)
{
    const __m512 s = vf_load(score);
    return vf_exp(vf_sub(softcap != 0.0f ? soften(s, softcap) : s, top));
}

/* Weights of 32 slots, chunk by chunk, as tiles of queries x slots. */
INLINE void weigh(struct work *w, uint32_t group, uint32_t chunk, float softcap, int is_all)
{
    float *s = scores_of(w, group) + (size_t)chunk * 32 * LANES;
    uint8_t *p = w->p + (group & 1) * w->sizes.p + (size_t)chunk * ATTEND_PARTS;
    transpose_scores(s);
    feed(w);
    transpose_scores(s + LANES * LANES);
    feed(w);
    const uint32_t count = group_count(w, group);
    for (uint32_t i = 0; i < count; i++) {
        const __m512 top = vf_set(w->top[group * LANES + i]);
        __m512 a = weight_of(s + i * LANES, softcap, top), b = weight_of(s + (LANES + i) * LANES, softcap, top);
        if (!is_all) {
            const uint32_t start = w->before + chunk * 32, visible = w->visible[group * LANES + i];
            const uint32_t left = visible > start ? visible - start : 0;
            const uint32_t sees = left >= 32 ? ~0u : (1u << left) - 1u;
            a = vf_if((__mmask16)sees, a);
            b = vf_if((__mmask16)(sees >> 16), b);
        }
        float *total = w->total + (size_t)(group * LANES + i) * LANES;
        vf_store(total, vf_add(vf_load(total), vf_add(a, b)));
        attend_split(a, b, 0, p + 64 * i);
        feed(w);
    }
}

static void attend_group(struct work *w, uint32_t group)
{
    const uint32_t chunks = (w->slot_count + 31) / 32;
    const float softcap = w->a->geometry->softcap;
    if (group + 1 < w->groups)
        start_scores(w, group + 1, (group + 1) & 1);
    pace(w, chunks * (group_count(w, group) + 2));
    raise_top(w, group);
    const int is_all = w->visible[group * LANES] >= w->before + chunks * 32;
    for (uint32_t c = 0; c < chunks; c++) {
        if (is_all && softcap == 0.0f)
            weigh(w, group, c, 0.0f, 1);
        else
            weigh(w, group, c, softcap, 0);
    }
    finish(w);
    w->values = (struct steps){.group = group, .tiles = w->value_groups, .chunks = chunks, .turn = group & 1};
}

/* ---- all of it ---- */

static void lay_out(struct work *w, uint8_t *room)
{
    w->sizes = vnni_tile_sizes(w->a->geometry->key_dim, w->a->geometry->value_dim);
    w->key_chunks = (w->a->geometry->key_dim + 31) / 32;
    w->key_bytes = attend_key_parts(w->a->k_type) * ATTEND_TILE;
    w->value_groups = (w->a->geometry->value_dim + 15) / 16;
    w->groups = (w->count + LANES - 1) / LANES;
    w->k = room;
    w->v = w->k + w->sizes.k;
    w->p = w->v + w->sizes.v;
    w->s = w->p + 2 * w->sizes.p;
    w->q = w->s + 2 * w->sizes.s;
    w->y = (float *)(void *)(w->q + w->groups * w->sizes.q);
    w->total = w->y + w->groups * w->sizes.y / sizeof(float);
    w->top = w->total + (size_t)w->groups * LANES * LANES;
    memset(w->y, 0, w->groups * (w->sizes.y + LANES * LANES * sizeof(float)));
    memset(w->p, 0, 2 * w->sizes.p);
}

static void take_queries(struct work *w, uint32_t group)
{
    const struct hal_attend *g = w->a->geometry;
    const float *q[LANES] = {NULL};
    for (uint32_t l = 0; l < LANES; l++) {
        const uint32_t i = group * LANES + l;
        w->top[i] = -__builtin_inff();
        w->visible[i] = 0;
        if (l >= group_count(w, group))
            continue;
        q[l] = w->a->q + ((size_t)row_of(w, i) * g->heads + head_of(w, i)) * g->key_dim;
        w->visible[i] = i % w->queries->heads != 0 ? w->visible[i - 1] : attend_visible(g, row_of(w, i));
    }
    attend_queries(q, g->key_dim, g->scale, w->q + (size_t)group * w->key_chunks * ATTEND_QUERY_PARTS);
}

/* Returns 0 when a value is no number. */
static int put(const struct work *w, uint32_t i)
{
    const struct hal_attend *g = w->a->geometry;
    const float all = vf_sum(vf_load(w->total + (size_t)i * LANES));
    const __m512 by = vf_set(all == 0.0f ? 0.0f : 1.0f / all);
    const float *from = w->y + (size_t)i * w->value_groups * LANES;
    float *y = w->a->y + ((size_t)row_of(w, i) * g->heads + head_of(w, i)) * g->value_dim;
    __mmask16 strange = 0;
    for (uint32_t c = 0; c < g->value_dim; c += LANES) { /* + 0: nothing added may turn -0 into 0, or not */
        const __m512 v = vf_add(vf_mul(vf_load(from + c), by), vf_zero());
        strange |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
        vf_store_part(y + c, v, g->value_dim - c);
    }
    return strange == 0;
}

static void attend_slots(struct work *w)
{
    const struct hal_attend *g = w->a->geometry;
    const uint32_t last = w->queries->first_row + w->queries->rows - 1;
    struct attend_cursor at = {g->first[last], 0}; /* what the last row sees */
    w->next_count = attend_take(g->spans, &at, g->first[last + 1], w->sizes.keys, w->next);
    uint32_t group = 0;
    while (w->next_count != 0) {
        w->slot_count = w->next_count;
        memcpy(w->slots, w->next, w->next_count * sizeof *w->next);
        w->next_count = attend_take(g->spans, &at, g->first[last + 1], w->sizes.keys, w->next);
        while (w->visible[group * LANES + group_count(w, group) - 1] <= w->before) /* its last query sees most */
            group++;
        take_block(w, group);
        for (uint32_t i = group; i < w->groups; i++)
            attend_group(w, i);
        w->before += w->slot_count;
    }
    finish(w);
}

void VNNI_KERNEL(attend_tiles)(const struct vnni_attention *a, const struct vnni_queries *queries, uint8_t *room)
{
    struct work w = {.a = a, .queries = queries, .count = queries->rows * queries->heads};
    uint32_t strange[VNNI_TILE_QUERIES], count = 0;
    lay_out(&w, room);
    for (uint32_t group = 0; group < w.groups; group++)
        take_queries(&w, group);
    struct tile_config config = tile_config_full;
    if (w.groups == 1) /* fewer rows take less time */
        config.rows[4] = config.rows[5] = (uint8_t)w.count;
    tile_config_load(&config);
    attend_slots(&w);
    _tile_release();
    for (uint32_t i = 0; i < w.count; i++) {
        if (!put(&w, i))
            strange[count++] = i;
    }
    for (uint32_t i = 0; i < count; i++) { /* the room is theirs now */
        const struct vnni_queries one = {.first_row = row_of(&w, strange[i]), .rows = 1, .kv_head = queries->kv_head,
                                         .first_head = head_of(&w, strange[i]), .heads = 1};
        VNNI_BASE_KERNEL(attend)(a, &one, (float *)(void *)room);
    }
}
