/* vnni_encode_q3k.h: SEARCH of Q3_K by plugins/scalar/scalar_search_q3k.c, to the bit; a part of vnni_encode_kernel.c,
 * which alone includes it.
 *
 * A vector of 16-bit lanes holds a pair of values of each of VF_LANES groups: as 32-bit lanes the dot products of
 * pairs are the groups' sums.
 */
#ifndef VNNI_ENCODE_Q3K_H
#define VNNI_ENCODE_Q3K_H

enum { PAIRS = 8 };

/* VF_LANES groups in whole numbers. */
struct whole {
    VI x[PAIRS], w[PAIRS];
    VF unit, inverse, top;
};

struct whole_sums {
    VF ll, xl;
};

/* a at or above low, at or below high; low where it is NaN */
INLINE VI whole_of(VF a, float low, float high)
{
    return vi_from_f(clamp(a, vf_set(low), vf_set(high)));
}

INLINE void take_whole(const struct batch *b, int v, struct whole *g)
{
    const VF peak = peak_of(HAL_Q3_K, b, v);
    const VM is_taken = vf_greater(vf_abs(peak), vf_set(0x1p-100f));
    VF top = vf_zero();
    for (int i = 0; i < 2 * PAIRS; i++)
        top = vf_max(vf_load(b->w + i * GROUPS + v * VF_LANES), top);
    g->top = top;
    g->unit = vf_if(is_taken, vf_mul(peak, vf_set(0x1p-13f)));
    g->inverse = vf_if(is_taken, vf_div(vf_set(8192.0f), peak));
    const VM is_heavy = vm_and(is_taken, vf_greater(top, vf_zero()));
    const VF heavy = vf_if(is_heavy, vf_div(vf_set(2047.0f), top));
    UNROLL for (int i = 0; i < PAIRS; i++)
    {
        VI x[2], w[2];
        UNROLL for (int k = 0; k < 2; k++)
        {
            const int at = (2 * i + k) * GROUPS + v * VF_LANES;
            x[k] = whole_of(vf_mul(vf_load(b->x + at), g->inverse), -8192.0f, 8192.0f);
            w[k] = whole_of(vf_mul(vf_load(b->w + at), heavy), 0.0f, 2047.0f);
        }
        g->x[i] = vi_pair16(x[0], x[1]);
        g->w[i] = vi_pair16(w[0], w[1]);
    }
}

/* Sums by the levels that x * multiplier >> 15 rounds to, and, if is_fine, >> 9 after that. */
INLINE struct whole_sums whole_sums_of(const struct whole *g, VI multiplier, int is_fine)
{
    VI ll = vi_zero(), xl = vi_zero();
    UNROLL for (int i = 0; i < PAIRS; i++)
    {
        VI level = vi_round16(g->x[i], multiplier);
        if (is_fine)
            level = vi_round16(level, vi_set16(1 << 6));
        level = vi_clamp16(level, vi_set16(-4), vi_set16(3));
        const VI t = vi_mul16(g->w[i], level);
        ll = vi_add_dot16(ll, t, level);
        xl = vi_add_dot16(xl, t, g->x[i]);
    }
    return (struct whole_sums){vf_from_32(ll), vf_from_32(xl)};
}

INLINE VF search_whole(const struct whole *g)
{
    struct whole_sums best = {vf_set(1.0f), vf_zero()};
    for (int t = 0; t < ENCODE_Q3K_TRIALS; t++) {
        const struct whole_sums s = whole_sums_of(g, vi_set16(encode_q3k_trial(t)), 0);
        const VM better = vf_greater(vf_mul(vf_mul(s.xl, s.xl), best.ll), vf_mul(vf_mul(best.xl, best.xl), s.ll));
        best.ll = vf_select(better, s.ll, best.ll);
        best.xl = vf_select(better, s.xl, best.xl);
    }
    return vf_mul(vf_div(best.xl, best.ll), g->unit);
}

/* The best of each group's neighbouring stored scales under the d of now, and the products of its sums. */
INLINE void refine_whole(const struct whole *g, VF d, float *scale, VF *above, VF *below)
{
    const VF now = vf_load(scale);
    struct whole_sums kept = {vf_zero(), vf_zero()};
    VF best = vf_zero(), pick = now;
    for (int k = 0; k < 3; k++) {
        const VF s = clamp(vf_add(now, vf_set(neighbour[k])), vf_set(-32.0f), vf_set(31.0f));
        const VF r = vf_mul(vf_mul(d, s), g->inverse);
        const VF steps = vf_and_not(vf_equal(r, vf_zero()), vf_div(vf_set(0x1p24f), r));
        const VI multiplier = whole_of(steps, -32767.0f, 32767.0f);
        const struct whole_sums u = whole_sums_of(g, vi_pair16(multiplier, multiplier), 1);
        const VF e = vf_mul(r, vf_sub(vf_mul(r, u.ll), vf_mul(vf_set(2.0f), u.xl)));
        const VM better = k == 0 ? vf_equal(vf_zero(), vf_zero()) : vf_greater(best, e);
        best = vf_select(better, e, best);
        pick = vf_select(better, s, pick);
        kept.ll = vf_select(better, u.ll, kept.ll);
        kept.xl = vf_select(better, u.xl, kept.xl);
    }
    vf_store(scale, pick);
    *above = vf_mul(vf_mul(vf_mul(pick, kept.xl), g->unit), g->top);
    *below = vf_mul(vf_mul(vf_mul(pick, pick), kept.ll), g->top);
}

/* The lane sum of 16 values. */
INLINE float lane_sum(const VF value[VECTORS])
{
    struct lanes all;
    for (int v = 0; v < VECTORS; v++)
        vf_store(all.lane + v * VF_LANES, value[v]);
    return lanes_sum(all);
}

#endif
