/* vnni_attend_kernel.c: attention with a softmax that rescales as it goes; compiled once per instruction
 * set. Blocks of VNNI_KEYS slots are decoded once for all queries that share a key/value head: keys
 * transposed, so that lanes are slots, values as they are, so that lanes are columns. */
#include "plugins/vnni/vnni_attend.h"
#include "plugins/vnni/vnni_kernel.h"
#include "plugins/vnni/vnni_simd.h"

#include "hal/half.h"

enum {
    KEY_VECTORS = VNNI_KEYS / VF_LANES,
    QUERY_GROUP = 4,     /* queries that share loads of keys or values */
    VALUE_VECTORS = HALVES == 1 ? 4 : 2
};

/* Room: keys [key_dim][VNNI_KEYS], values [VNNI_KEYS][value_dim + pad], top and total of each query, scores
 * [query][VNNI_KEYS], then decoded keys on their way to be transposed [VF_LANES][key_dim + pad]. */
struct work {
    const struct vnni_attention *a;
    const struct vnni_queries *queries;
    uint32_t count;                 /* queries */
    uint32_t key_stride, value_stride;
    float *keys, *values, *scores, *top, *total, *lines;
    uint32_t slots[VNNI_KEYS];
    uint32_t slot_count; /* of this block */
    uint32_t before;     /* slots of the blocks before */
};

static const float *query_of(const struct work *w, uint32_t i)
{
    const struct hal_attend *g = w->a->geometry;
    const uint32_t row = w->queries->first_row + i / w->queries->heads;
    const uint32_t head = w->queries->first_head + i % w->queries->heads;
    return w->a->q + ((size_t)row * g->heads + head) * g->key_dim;
}

static float *result_of(const struct work *w, uint32_t i)
{
    const struct hal_attend *g = w->a->geometry;
    const uint32_t row = w->queries->first_row + i / w->queries->heads;
    const uint32_t head = w->queries->first_head + i % w->queries->heads;
    return w->a->y + ((size_t)row * g->heads + head) * g->value_dim;
}

static float half_at(const uint8_t *p)
{
    uint16_t half;
    memcpy(&half, p, sizeof half);
    return half_f16_to_f32(half);
}

/* `dim` values from p on; up to VF_LANES - 1 more are written. */
static void decode(uint32_t type, const uint8_t *p, uint32_t dim, float *out)
{
    if (type == HAL_F16) {
        uint32_t i = 0;
        for (; i + VF_LANES <= dim; i += VF_LANES)
            vf_store(out + i, vf_from_f16(p + 2 * (size_t)i));
        for (; i < dim; i++)
            out[i] = half_at(p + 2 * (size_t)i);
        return;
    }
    if (type == HAL_F32) {
        memcpy(out, p, (size_t)dim * sizeof *out);
        return;
    }
    const size_t block_bytes = type == HAL_Q8_0 ? 34 : 18;
    for (uint32_t i = 0; i < dim; i += 32, p += block_bytes) {
        int8_t codes[32];
        const VF scale = vf_set(half_at(p));
        if (type == HAL_Q8_0) {
            memcpy(codes, p + 2, sizeof codes);
        } else {
            const __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(p + 2));
            const __m128i low = _mm_set1_epi8(15), eight = _mm_set1_epi8(8);
            _mm_storeu_si128((__m128i *)(void *)codes,
                             _mm_sub_epi8(_mm_and_si128(v, low), eight));
            _mm_storeu_si128((__m128i *)(void *)(codes + 16),
                             _mm_sub_epi8(_mm_and_si128(_mm_srli_epi16(v, 4), low), eight));
        }
        for (uint32_t j = 0; j < 32; j += VF_LANES)
            vf_store(out + i + j, vf_mul(vf_from_8(codes + j), scale));
    }
}

/* ---- scores of one block: [query][VNNI_KEYS], before scale ----
 *
 * Lanes are slots and columns are added in order whatever the number of queries is, so that a row's result does
 * not depend on the rows beside it: a token decoded alone has the bits of the same token within a prompt. */

INLINE void score_group(const struct work *w, uint32_t first, uint32_t count)
{
    VF sum[QUERY_GROUP][KEY_VECTORS];
    const float *q[QUERY_GROUP];
    UNROLL for (uint32_t i = 0; i < count; i++)
    {
        q[i] = query_of(w, first + i);
        UNROLL for (int k = 0; k < KEY_VECTORS; k++)
            sum[i][k] = vf_zero();
    }
    const float *keys = w->keys;
    for (uint32_t c = 0; c < w->a->geometry->key_dim; c++, keys += VNNI_KEYS) {
        UNROLL for (uint32_t i = 0; i < count; i++)
        {
            const VF x = vf_set(q[i][c]);
            UNROLL for (int k = 0; k < KEY_VECTORS; k++)
                sum[i][k] = vf_fma(x, vf_load(keys + k * VF_LANES), sum[i][k]);
        }
    }
    UNROLL for (uint32_t i = 0; i < count; i++)
    {
        UNROLL for (int k = 0; k < KEY_VECTORS; k++)
            vf_store(w->scores + (first + i) * VNNI_KEYS + k * VF_LANES, sum[i][k]);
    }
}

static void score(const struct work *w)
{
    uint32_t i = 0;
    for (; i + QUERY_GROUP <= w->count; i += QUERY_GROUP)
        score_group(w, i, QUERY_GROUP);
    for (; i < w->count; i++)
        score_group(w, i, 1);
}

/* ---- the softmax so far ---- */

/* tanh as 1 - 2 / (e^2u + 1) */
INLINE VF soften(VF score, float softcap)
{
    const VF e = vf_exp(vf_mul(score, vf_set(2.0f / softcap)));
    const VF tanh = vf_sub(vf_set(1.0f), vf_div(vf_set(2.0f), vf_add(e, vf_set(1.0f))));
    return vf_mul(tanh, vf_set(softcap));
}

/* Scores of query i become weights; returns by how much what was summed before shrinks. visible: slots
 * of this block that it sees, at least 1. */
static float weigh(const struct work *w, uint32_t i, uint32_t visible)
{
    const struct hal_attend *g = w->a->geometry;
    float *scores = w->scores + i * VNNI_KEYS;
    const VF low = vf_set(-__builtin_inff());
    VF most = vf_set(w->top[i]), unordered = vf_zero();
    for (uint32_t k = 0; k < VNNI_KEYS; k += VF_LANES) {
        VF s = vf_mul(vf_load(scores + k), vf_set(g->scale));
        if (g->softcap != 0.0f)
            s = soften(s, g->softcap);
        s = vf_first(visible > k ? visible - k : 0, s, low);
        vf_store(scores + k, s);
        most = vf_max(most, s);
        unordered = vf_add(unordered, vf_first(visible > k ? visible - k : 0, s, vf_zero()));
    }
    float lanes[VF_LANES], top = w->top[i];
    vf_store(lanes, most);
    for (uint32_t l = 0; l < VF_LANES; l++)
        top = lanes[l] > top ? lanes[l] : top;
    const float all = vf_sum(unordered);
    if (all != all) /* NaN, also from infinities of both signs: so is the result */
        top = all;
    VF total = vf_zero();
    for (uint32_t k = 0; k < VNNI_KEYS; k += VF_LANES) {
        const VF weight = vf_exp(vf_sub(vf_load(scores + k), vf_set(top)));
        const VF seen = vf_first(visible > k ? visible - k : 0, weight, vf_zero());
        vf_store(scores + k, seen);
        total = vf_add(total, seen);
    }
    float shrink[VF_LANES];
    vf_store(shrink, vf_exp(vf_set(w->top[i] - top)));
    const float by = w->before == 0 ? 0.0f : shrink[0];
    w->total[i] = w->total[i] * by + vf_sum(total);
    w->top[i] = top;
    return by;
}

/* ---- y = y * shrink + weights * values ---- */

INLINE void add_values(const struct work *w, uint32_t first, uint32_t count, const float *shrink,
                       uint32_t column, uint32_t vectors)
{
    VF y[QUERY_GROUP][VALUE_VECTORS];
    UNROLL for (uint32_t i = 0; i < count; i++)
    {
        const float *from = result_of(w, first + i) + column;
        UNROLL for (uint32_t v = 0; v < vectors; v++)
            y[i][v] = w->before == 0 ? vf_zero()
                                     : vf_mul(vf_load(from + v * VF_LANES), vf_set(shrink[i]));
    }
    const float *values = w->values + column, *weights = w->scores + first * VNNI_KEYS;
    for (uint32_t j = 0; j < w->slot_count; j++, values += w->value_stride) {
        UNROLL for (uint32_t i = 0; i < count; i++)
        {
            const VF weight = vf_set(weights[i * VNNI_KEYS + j]);
            UNROLL for (uint32_t v = 0; v < vectors; v++)
                y[i][v] = vf_fma(weight, vf_load(values + v * VF_LANES), y[i][v]);
        }
    }
    UNROLL for (uint32_t i = 0; i < count; i++)
    {
        UNROLL for (uint32_t v = 0; v < vectors; v++)
            vf_store(result_of(w, first + i) + column + v * VF_LANES, y[i][v]);
    }
}

/* Columns beyond the last whole vector. */
static void add_values_ragged(const struct work *w, uint32_t i, float shrink, uint32_t column)
{
    const uint32_t left = w->a->geometry->value_dim - column;
    float *to = result_of(w, i) + column;
    VF y = w->before == 0 ? vf_zero() : vf_mul(vf_load_part(to, left), vf_set(shrink));
    for (uint32_t j = 0; j < w->slot_count; j++)
        y = vf_fma(vf_set(w->scores[i * VNNI_KEYS + j]),
                   vf_load_part(w->values + (size_t)j * w->value_stride + column, left), y);
    vf_store_part(to, y, left);
}

INLINE void add_columns(const struct work *w, uint32_t first, uint32_t count, const float *shrink)
{
    const uint32_t dim = w->a->geometry->value_dim;
    uint32_t column = 0;
    for (; column + VALUE_VECTORS * VF_LANES <= dim; column += VALUE_VECTORS * VF_LANES)
        add_values(w, first, count, shrink, column, VALUE_VECTORS);
    for (; column + VF_LANES <= dim; column += VF_LANES)
        add_values(w, first, count, shrink, column, 1);
    for (uint32_t i = 0; column < dim && i < count; i++)
        add_values_ragged(w, first + i, shrink[i], column);
}

/* ---- blocks of slots ---- */

/* VF_LANES lines of as many values from `lines` on become `columns` rows of VNNI_KEYS. */
INLINE void transpose(const float *lines, uint32_t stride, float *out, uint32_t columns)
{
    VF v[VF_LANES];
    UNROLL for (uint32_t i = 0; i < VF_LANES; i++)
        v[i] = vf_load(lines + (size_t)i * stride);
    vf_transpose(v);
    if (columns == VF_LANES) {
        UNROLL for (uint32_t i = 0; i < VF_LANES; i++)
            vf_store(out + (size_t)i * VNNI_KEYS, v[i]);
        return;
    }
    UNROLL for (uint32_t i = 0; i < VF_LANES; i++)
    {
        if (i < columns)
            vf_store(out + (size_t)i * VNNI_KEYS, v[i]);
    }
}

static void load_block(const struct work *w)
{
    const struct vnni_attention *a = w->a;
    const uint32_t key_dim = a->geometry->key_dim, value_dim = a->geometry->value_dim;
    const uint8_t *k = a->k + w->queries->kv_head * a->k_head;
    const uint8_t *v = a->v + w->queries->kv_head * a->v_head;
    for (uint32_t j = 0; j < w->slot_count; j++) {
        float *value = w->values + (size_t)j * w->value_stride;
        decode(a->v_type, v + w->slots[j] * a->v_row, value_dim, value);
    }
    for (uint32_t j = 0; j < w->slot_count; j += VF_LANES) {
        const uint32_t left = w->slot_count - j;
        const uint32_t slots = left < VF_LANES ? left : VF_LANES;
        for (uint32_t i = 0; i < slots; i++)
            decode(a->k_type, k + w->slots[j + i] * a->k_row, key_dim, w->lines + (size_t)i * w->key_stride);
        for (uint32_t c = 0; c < key_dim; c += VF_LANES)
            transpose(w->lines + c, w->key_stride, w->keys + (size_t)c * VNNI_KEYS + j,
                      key_dim - c < VF_LANES ? key_dim - c : VF_LANES);
    }
}

static void attend_block(struct work *w, const uint32_t *visible)
{
    load_block(w);
    score(w);
    float shrink[VNNI_QUERIES];
    for (uint32_t i = 0; i < w->count; i++) {
        const uint32_t all = visible[i / w->queries->heads];
        const uint32_t left = all > w->before ? all - w->before : 0;
        if (left == 0) { /* nothing more for this row: nothing is added */
            memset(w->scores + i * VNNI_KEYS, 0, VNNI_KEYS * sizeof *w->scores);
            shrink[i] = 1.0f;
            continue;
        }
        shrink[i] = weigh(w, i, left < VNNI_KEYS ? left : VNNI_KEYS);
    }
    uint32_t i = 0;
    for (; i + QUERY_GROUP <= w->count; i += QUERY_GROUP)
        add_columns(w, i, QUERY_GROUP, shrink + i);
    for (; i < w->count; i++)
        add_columns(w, i, 1, shrink + i);
}

void VNNI_BASE_KERNEL(attend)(const struct vnni_attention *a, const struct vnni_queries *queries,
                         float *room)
{
    const struct hal_attend *g = a->geometry;
    struct work w = {.a = a, .queries = queries, .count = queries->rows * queries->heads};
    w.key_stride = (g->key_dim + 15) / 16 * 16;
    w.value_stride = (g->value_dim + 15) / 16 * 16;
    w.keys = room;
    w.values = w.keys + (size_t)VNNI_KEYS * w.key_stride;
    w.top = w.values + (size_t)VNNI_KEYS * w.value_stride;
    w.total = w.top + VNNI_QUERIES;
    w.scores = w.total + VNNI_QUERIES;
    w.lines = w.scores + VNNI_QUERIES * VNNI_KEYS;
    uint32_t visible[VNNI_QUERIES];
    for (uint32_t r = 0; r < queries->rows; r++)
        visible[r] = attend_visible(g, queries->first_row + r);
    for (uint32_t i = 0; i < w.count; i++) {
        w.top[i] = -__builtin_inff();
        w.total[i] = 0.0f;
    }
    const uint32_t last = queries->first_row + queries->rows - 1;
    struct attend_cursor at = {g->first[last], 0}; /* what the last row sees */
    for (;;) {
        w.slot_count = attend_take(g->spans, &at, g->first[last + 1], VNNI_KEYS, w.slots);
        if (w.slot_count == 0)
            break;
        attend_block(&w, visible);
        w.before += w.slot_count;
    }
    for (uint32_t i = 0; i < w.count; i++) {
        float *y = result_of(&w, i);
        const float by = w.total[i] != 0.0f ? 1.0f / w.total[i] : 0.0f;
        for (uint32_t c = 0; c < g->value_dim; c++)
            y[c] = by == 0.0f ? 0.0f : y[c] * by;
    }
}
