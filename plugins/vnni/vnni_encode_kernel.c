/* vnni_encode_kernel.c: block encoding by plugins/scalar/scalar_encode.h, to the bit; compiled once per
 * instruction set.
 *
 * Sixteen groups at a time, one to a lane, so that every lane does what scalar does to its group: the
 * 16 lane sums of a group are 16 registers, added up in scalar's order, and nothing crosses lanes. */
#include "plugins/vnni/vnni_kernel.h"
#include "plugins/vnni/vnni_simd.h"

#include "plugins/scalar/scalar_encode.h"

enum {
    GROUPS = 16,               /* of a batch */
    BATCH_VALUES = 16 * 64,    /* the longest groups are NF4's */
    VECTORS = GROUPS / VF_LANES
};

/* What all groups of a type share. */
struct format {
    const struct block_type *type;
    const struct vnni_encoding *job;
    float low, high;
    VF middle[15]; /* of a table, doubled nowhere: u > middle[k] */
    VF level[2];   /* the table, VF_LANES entries each */
    VF entry[2];   /* the middles as a table, the last one never used */
};

/* Sixteen groups on their way. */
struct batch {
    uint32_t groups;                  /* in use */
    _Alignas(64) float x[BATCH_VALUES]; /* [i][GROUPS] */
    _Alignas(64) float w[BATCH_VALUES];
    _Alignas(64) float scale[GROUPS]; /* S, later the stored scale's number */
    _Alignas(64) float minimum[GROUPS];
    _Alignas(64) float d[GROUPS], dmin[GROUPS]; /* of each group's block */
    struct block_scales scales[GROUPS];         /* of each block */
};

struct sums {
    VF l, ll, xl;
};

INLINE int is_table(uint32_t type)
{
    return type == HAL_IQ4_NL || type == HAL_IQ4_XS || type == HAL_NF4;
}

INLINE uint32_t group_values(uint32_t type)
{
    switch (type) {
    case HAL_Q2_K:
    case HAL_Q3_K:
    case HAL_Q6_K: return 16;
    case HAL_NF4: return 64;
    default: return 32;
    }
}

INLINE int is_ranged(uint32_t type)
{
    return type == HAL_Q4_1 || type == HAL_Q5_1 || type == HAL_Q2_K || type == HAL_Q4_K ||
           type == HAL_Q5_K;
}

/* b is +0 where a == 0, else 1 / a */
INLINE VF inverse_of(VF a)
{
    return vf_and_not(vf_equal(a, vf_zero()), vf_div(vf_set(1.0f), a));
}

/* a at or above low, at or below high; low where it is NaN */
INLINE VF clamp(VF a, VF low, VF high)
{
    return vf_min(vf_max(a, low), high);
}

INLINE VF nearest(VF a)
{
    return vf_sub(vf_add(a, vf_set(12582912.0f)), vf_set(12582912.0f));
}

/* ---- the level that u rounds to ---- */

/* The number of middles below u: four steps of a binary search. */
INLINE VI table_code(const struct format *f, VF u)
{
    VI code = vi_if(vf_greater(u, f->middle[7]), vi_set32(8));
    const VF second = vf_select(vf_greater(u, f->middle[7]), f->middle[11], f->middle[3]);
    code = vi_add32(code, vi_if(vf_greater(u, second), vi_set32(4)));
    const VF third = vf_entry(f->entry, vi_add32(code, vi_set32(1)));
    code = vi_add32(code, vi_if(vf_greater(u, third), vi_set32(2)));
    const VF fourth = vf_entry(f->entry, code);
    return vi_add32(code, vi_if(vf_greater(u, fourth), vi_set32(1)));
}

INLINE VF level_of(uint32_t type, const struct format *f, VF u)
{
    if (is_table(type))
        return vf_entry(f->level, table_code(f, u));
    return nearest(clamp(u, vf_set(f->low), vf_set(f->high)));
}

/* ---- sums over the values of a group, in the order of scalar_lanes.h ---- */

/* Lanes 0..15 in the order in which their sums are added up. */
static const uint8_t lane_order[16] = {0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15};

#define LEVELS 5
/* Adds leaf j (by lane_order) to a stack of partial sums; after the 16th stack[0] is the total. */
#define REDUCE(stack, depth, j, leaf, plus)                                                        \
    do {                                                                                           \
        (stack)[(depth)++] = (leaf);                                                               \
        for (int rest = (j); (rest & 1) != 0; rest >>= 1) {                                        \
            (depth)--;                                                                             \
            (stack)[(depth)-1] = plus((stack)[(depth)-1], (stack)[depth]);                         \
        }                                                                                          \
    } while (0)

INLINE struct sums add_sums(struct sums a, struct sums b)
{
    return (struct sums){vf_add(a.l, b.l), vf_add(a.ll, b.ll), vf_add(a.xl, b.xl)};
}

/* A sum that begins at +0 is never -0. */
INLINE struct sums from_zero(struct sums s)
{
    return add_sums(s, (struct sums){vf_zero(), vf_zero(), vf_zero()});
}

/* x + shift; signed formats have no shift, and +0 would change no level. */
INLINE VF shifted(uint32_t type, VF x, VF shift)
{
    return is_ranged(type) ? vf_add(x, shift) : x;
}

INLINE struct sums sums_of(uint32_t type, const struct format *f, const struct batch *b, int v,
                           VF shift, VF inverse)
{
    struct sums stack[LEVELS];
    int depth = 0;
    UNROLL for (int j = 0; j < 16; j++)
    {
        struct sums leaf = {vf_zero(), vf_zero(), vf_zero()};
        UNROLL for (uint32_t i = lane_order[j]; i < group_values(type); i += 16)
        {
            const VF x = vf_load(b->x + i * GROUPS + v * VF_LANES);
            const VF w = vf_load(b->w + i * GROUPS + v * VF_LANES);
            const VF level = level_of(type, f, vf_mul(shifted(type, x, shift), inverse));
            const VF t = vf_mul(w, level);
            const struct sums more = {t, vf_mul(t, level), vf_mul(t, x)};
            leaf = i < 16 ? more : add_sums(leaf, more);
        }
        REDUCE(stack, depth, j, leaf, add_sums);
    }
    return from_zero(stack[0]);
}

INLINE VF error_of(uint32_t type, const struct format *f, const struct batch *b, int v, VF scale,
                   VF minimum)
{
    VF stack[LEVELS];
    const VF inverse = inverse_of(scale);
    int depth = 0;
    UNROLL for (int j = 0; j < 16; j++)
    {
        VF leaf = vf_zero();
        UNROLL for (uint32_t i = lane_order[j]; i < group_values(type); i += 16)
        {
            const VF x = vf_load(b->x + i * GROUPS + v * VF_LANES);
            const VF w = vf_load(b->w + i * GROUPS + v * VF_LANES);
            const VF level = level_of(type, f, vf_mul(shifted(type, x, minimum), inverse));
            const VF value = vf_mul(scale, level);
            const VF e = vf_sub(x, is_ranged(type) ? vf_sub(value, minimum) : value);
            const VF more = vf_mul(vf_mul(w, e), e);
            leaf = i < 16 ? more : vf_add(leaf, more);
        }
        REDUCE(stack, depth, j, leaf, vf_add);
    }
    return vf_add(stack[0], vf_zero());
}

/* Sum of w, and of w * x. */
INLINE void group_sums(uint32_t type, const struct batch *b, int v, VF *sum_w, VF *sum_x)
{
    VF stack_w[LEVELS], stack_x[LEVELS];
    int depth_w = 0, depth_x = 0;
    UNROLL for (int j = 0; j < 16; j++)
    {
        VF leaf_w = vf_zero(), leaf_x = vf_zero();
        UNROLL for (uint32_t i = lane_order[j]; i < group_values(type); i += 16)
        {
            const VF x = vf_load(b->x + i * GROUPS + v * VF_LANES);
            const VF w = vf_load(b->w + i * GROUPS + v * VF_LANES);
            leaf_w = i < 16 ? w : vf_add(leaf_w, w);
            leaf_x = i < 16 ? vf_mul(w, x) : vf_add(leaf_x, vf_mul(w, x));
        }
        REDUCE(stack_w, depth_w, j, leaf_w, vf_add);
        REDUCE(stack_x, depth_x, j, leaf_x, vf_add);
    }
    *sum_w = vf_add(stack_w[0], vf_zero());
    *sum_x = vf_add(stack_x[0], vf_zero());
}

/* ---- peaks and ranges ---- */

/* The first of the greatest |x|, with its sign. */
INLINE VF peak_of(uint32_t type, const struct batch *b, int v)
{
    VF peak = vf_zero(), top = vf_zero();
    for (uint32_t i = 0; i < group_values(type); i++) {
        const VF x = vf_load(b->x + i * GROUPS + v * VF_LANES), size = vf_abs(x);
        const VM above = vf_greater(size, top);
        peak = vf_select(above, x, peak);
        top = vf_select(above, size, top);
    }
    return peak;
}

/* min and max keep the first of equals, as scalar's comparisons do: -0 and +0 are equals. */
INLINE void range_of(uint32_t type, const struct batch *b, int v, VF *min, VF *max)
{
    *min = *max = vf_load(b->x + v * VF_LANES);
    for (uint32_t i = 1; i < group_values(type); i++) {
        const VF x = vf_load(b->x + i * GROUPS + v * VF_LANES);
        *min = vf_min(x, *min);
        *max = vf_max(x, *max);
    }
}

/* ---- SEARCH, one group to a lane ---- */

INLINE VF signed_fit(struct sums s)
{
    return vf_if(vf_greater(s.ll, vf_zero()), vf_div(s.xl, s.ll));
}

INLINE VF search_signed(uint32_t type, const struct format *f, const struct batch *b, int v)
{
    const struct encode_trials by = encode_trials_of(type);
    const VF signed_peak = peak_of(type, b, v);
    const VF peak = type == HAL_NF4 ? vf_abs(signed_peak) : signed_peak;
    const float middle = (float)(ENCODE_TRIALS - 1) * 0.5f;
    VF best = vf_set(-1.0f), scale = vf_zero();
    for (int t = 0; t < by.anchors * ENCODE_TRIALS; t++) {
        const float anchor = t < ENCODE_TRIALS && type != HAL_NF4 ? f->low : f->high;
        const float j = ((float)(t % ENCODE_TRIALS) - middle) * by.step;
        const struct sums s =
            sums_of(type, f, b, v, vf_zero(), vf_div(vf_set(anchor + j), peak));
        const VF gain = vf_if(vf_greater(s.ll, vf_zero()), vf_div(vf_mul(s.xl, s.xl), s.ll));
        const VM better = vf_greater(gain, best);
        best = vf_select(better, gain, best);
        scale = vf_select(better, signed_fit(s), scale);
    }
    for (int p = 0; p < ENCODE_LLOYD; p++)
        scale = signed_fit(sums_of(type, f, b, v, vf_zero(), inverse_of(scale)));
    return vf_and_not(vf_equal(signed_peak, vf_zero()), scale);
}

INLINE void ranged_fit(uint32_t type, struct sums s, VF w, VF x, VF *scale, VF *minimum)
{
    const VF det = vf_sub(vf_mul(w, s.ll), vf_mul(s.l, s.l));
    const VF b = vf_div(vf_sub(vf_mul(s.ll, x), vf_mul(s.l, s.xl)), det);
    const VF fit = vf_div(vf_sub(vf_mul(w, s.xl), vf_mul(x, s.l)), det);
    VM both = vf_greater(det, vf_zero());
    if (group_values(type) == 16 || type == HAL_Q4_K || type == HAL_Q5_K)
        both = vm_and(both, vf_at_most(b, vf_zero()));
    const VF negated = vf_and_not(vf_equal(b, vf_zero()), vf_negate(b));
    *scale = vf_select(both, fit, signed_fit(s));
    *minimum = vf_if(both, negated);
}

INLINE void search_ranged(uint32_t type, const struct format *f, const struct batch *b, int v,
                          VF *scale_out, VF *minimum_out)
{
    const struct encode_trials by = encode_trials_of(type);
    const int is_free = type == HAL_Q4_1 || type == HAL_Q5_1;
    VF lo, hi, sum_w, sum_x;
    group_sums(type, b, v, &sum_w, &sum_x);
    range_of(type, b, v, &lo, &hi);
    if (!is_free)
        lo = vf_select(vf_greater(vf_zero(), lo), lo, vf_zero());
    const VF shift = vf_negate(lo), range = vf_sub(hi, lo);
    const VM is_wide = vf_greater(hi, lo);
    VF best = vf_set(-1.0f), scale = vf_zero(), minimum = shift;
    for (int t = 0; t < ENCODE_TRIALS; t++) {
        const VF inverse = vf_div(vf_set(f->high + ((float)t * by.step + by.from)), range);
        const struct sums s = sums_of(type, f, b, v, shift, inverse);
        VF S, M;
        ranged_fit(type, s, sum_w, sum_x, &S, &M);
        const VF gain = vf_sub(vf_mul(S, s.xl), vf_mul(M, sum_x));
        const VM better = vm_and(is_wide, vf_greater(gain, best));
        best = vf_select(better, gain, best);
        scale = vf_select(better, S, scale);
        minimum = vf_select(better, M, minimum);
    }
    for (int p = 0; p < ENCODE_LLOYD; p++) {
        VF S, M;
        const VM goes_on = vm_and(is_wide, vf_greater(scale, vf_zero()));
        ranged_fit(type, sums_of(type, f, b, v, minimum, vf_div(vf_set(1.0f), scale)), sum_w, sum_x,
                   &S, &M);
        scale = vf_select(goes_on, S, scale);
        minimum = vf_select(goes_on, M, minimum);
    }
    *scale_out = scale;
    *minimum_out = minimum;
}

static const float neighbour[3] = {0.0f, -1.0f, 1.0f};

INLINE VF pick_signed(uint32_t type, const struct format *f, const struct batch *b, int v, VF d,
                      VF now)
{
    const float low = type == HAL_Q6_K ? -128.0f : -32.0f, high = type == HAL_Q6_K ? 127.0f : 31.0f;
    VF best = vf_zero(), pick = now;
    for (int k = 0; k < 3; k++) {
        const VF s = clamp(vf_add(now, vf_set(neighbour[k])), vf_set(low), vf_set(high));
        const VF e = error_of(type, f, b, v, vf_mul(d, s), vf_zero());
        const VM better = k == 0 ? vf_equal(vf_zero(), vf_zero()) : vf_greater(best, e);
        best = vf_select(better, e, best);
        pick = vf_select(better, s, pick);
    }
    return pick;
}

INLINE void pick_ranged(uint32_t type, const struct format *f, const struct batch *b, int v,
                        const VF d[2], VF *s, VF *m)
{
    const VF high = vf_set(type == HAL_Q2_K ? 15.0f : 63.0f);
    const VF s0 = *s, m0 = *m;
    VF best = vf_zero();
    for (int k = 0; k < 9; k++) {
        const VF s1 = clamp(vf_add(s0, vf_set(neighbour[k / 3])), vf_zero(), high);
        const VF m1 = clamp(vf_add(m0, vf_set(neighbour[k % 3])), vf_zero(), high);
        const VF e = error_of(type, f, b, v, vf_mul(d[0], s1), vf_mul(d[1], m1));
        const VM better = k == 0 ? vf_equal(vf_zero(), vf_zero()) : vf_greater(best, e);
        best = vf_select(better, e, best);
        *s = vf_select(better, s1, *s);
        *m = vf_select(better, m1, *m);
    }
}

#include "plugins/vnni/vnni_encode_q3k.h"

#include "plugins/vnni/vnni_encode_blocks.h"
