/* scalar_search_q3k.c: SEARCH of Q3_K, to the bit. Its eight levels are so few that values and weights in whole
 * numbers of 16 bits tell scales apart; sums are exact then, in any order, and a vector holds twice as many.
 *
 * Weights w as in scalar_search.c. A group of 16:
 *   p = its peak; a group with |p| <= 2^-100 has X = 0, W = 0, unit = 0
 *   X = whole(x * (8192 / p), -8192, 8192),  unit = p / 8192
 *   v = the greatest w, W = whole(w * (2047 / v), 0, 2047); 0 where v is 0
 *   whole(u, low, high) = nearest(clamp(u, low, high))
 *   round(a, n) = (a + 2^(n - 1)) >> n, the shift arithmetic
 *   sums by levels L: LL = sum of W * L * L, XL = sum of W * L * X, as F32 (exact before, nearest even)
 *
 * Search: 12 trials A = -23, -21 .. -13, then 9, 11 .. 19: L = clamp(round(X * A, 15), -4, 3), which is x * (A / 4) / p;
 * the first with the greatest XL * XL / LL, found as (XL * XL) * LL' > (XL' * XL') * LL from LL' = 1, XL' = 0, gives
 * the group's scale, (XL / LL) * unit.
 *
 * Scales are stored as RTN does. Then twice, for each group, of the neighbours of its s (0, -1, +1, in -32..31) the
 * first with the least r * (r * LL - 2 * XL) is kept, r = (d * s) * (8192 / p), by the levels
 *   I = whole(2^24 / r, -32767, 32767), 0 where r is 0; L = clamp(round(round(X * I, 15), 9), -4, 3);
 * after the first time, by lane sums over the groups: d = half(sum(s * XL * unit * v) / sum(s * s * LL * v)), products
 * from the left, if the divisor is > 0. At the end codes as in scalar_encode.h.
 * Blocks whose squares are no floats any more (1e19 and more, where half(d) ends at 8e6) get weights without end and
 * scales of 0.
 *
 * Against 16 trials, two more fits of each scale and a third time, in F32, the weighted error is .05 % larger
 * (tare-tiny); rounds of fitting gain nothing because the neighbours are tried anyway.
 */
#include "plugins/scalar/scalar_encode.h"

enum { GROUP = 16, GROUPS = 16 };

/* A group in whole numbers. */
struct whole {
    int32_t x[GROUP], w[GROUP];
    float unit, inverse; /* 2^-13 of the peak, and 1 over it */
    float top;           /* v */
};

struct whole_sums {
    float ll, xl;
};

static int32_t whole_of(float u, float low, float high)
{
    return (int32_t)lanes_nearest(lanes_clamp(u, low, high));
}

static void take(const struct encode_block *b, uint32_t at, struct whole *g)
{
    float peak = 0.0f, top = 0.0f;
    *g = (struct whole){0};
    for (uint32_t i = 0; i < GROUP; i++) {
        const float size = b->x[at + i] < 0.0f ? -b->x[at + i] : b->x[at + i];
        peak = size > top ? b->x[at + i] : peak;
        top = size > top ? size : top;
        g->top = b->w[at + i] > g->top ? b->w[at + i] : g->top;
    }
    if (!(top > 0x1p-100f))
        return;
    g->unit = peak * 0x1p-13f;
    g->inverse = 8192.0f / peak;
    const float heavy = g->top > 0.0f ? 2047.0f / g->top : 0.0f;
    for (uint32_t i = 0; i < GROUP; i++) {
        g->x[i] = whole_of(b->x[at + i] * g->inverse, -8192.0f, 8192.0f);
        g->w[i] = whole_of(b->w[at + i] * heavy, 0.0f, 2047.0f);
    }
}

static int32_t round_by(int32_t a, int bits)
{
    return (a + (1 << (bits - 1))) >> bits;
}

static int32_t clamped(int32_t level)
{
    return level < -4 ? -4 : level > 3 ? 3 : level;
}

static void add(const struct whole *g, uint32_t i, int32_t level, int32_t *ll, int32_t *xl)
{
    const int32_t t = g->w[i] * level;
    *ll += t * level;
    *xl += t * g->x[i];
}

static struct whole_sums trial_sums(const struct whole *g, int32_t multiplier)
{
    int32_t ll = 0, xl = 0;
    for (uint32_t i = 0; i < GROUP; i++)
        add(g, i, clamped(round_by(g->x[i] * multiplier, 15)), &ll, &xl);
    return (struct whole_sums){(float)ll, (float)xl};
}

/* By the levels of r above. */
static struct whole_sums scale_sums(const struct whole *g, float r)
{
    const int32_t multiplier = r == 0.0f ? 0 : whole_of(0x1p24f / r, -32767.0f, 32767.0f);
    int32_t ll = 0, xl = 0;
    for (uint32_t i = 0; i < GROUP; i++)
        add(g, i, clamped(round_by(round_by(g->x[i] * multiplier, 15), 9)), &ll, &xl);
    return (struct whole_sums){(float)ll, (float)xl};
}

static float search(const struct whole *g)
{
    struct whole_sums best = {1.0f, 0.0f};
    for (int t = 0; t < ENCODE_Q3K_TRIALS; t++) {
        const struct whole_sums s = trial_sums(g, encode_q3k_trial(t));
        if (s.xl * s.xl * best.ll > best.xl * best.xl * s.ll)
            best = s;
    }
    return best.xl / best.ll * g->unit;
}

static void refine_group(const struct whole *g, float d, int8_t *scale, float *above, float *below)
{
    static const float neighbour[3] = {0.0f, -1.0f, 1.0f};
    struct whole_sums kept = {0};
    float best = 0.0f, pick = 0.0f;
    for (int k = 0; k < 3; k++) {
        const float s = lanes_clamp((float)*scale + neighbour[k], -32.0f, 31.0f);
        const float r = d * s * g->inverse;
        const struct whole_sums u = scale_sums(g, r);
        const float e = r * (r * u.ll - 2.0f * u.xl);
        if (k == 0 || e < best) {
            best = e;
            pick = s;
            kept = u;
        }
    }
    *scale = (int8_t)pick;
    *above = pick * kept.xl * g->unit * g->top;
    *below = pick * pick * kept.ll * g->top;
}

void encode_search_q3k(struct encode_block *b)
{
    struct whole group[GROUPS];
    float S[GROUPS];
    for (uint32_t g = 0; g < GROUPS; g++) {
        take(b, g * GROUP, &group[g]);
        S[g] = search(&group[g]);
    }
    encode_put_signed(b, S);
    for (int p = 0; p < ENCODE_Q3K_PASSES; p++) {
        const float d = half_f16_to_f32(b->scales.d);
        struct lanes above, below;
        for (uint32_t g = 0; g < GROUPS; g++)
            refine_group(&group[g], d, &b->scales.s[g], &above.lane[g], &below.lane[g]);
        const float divisor = lanes_sum(below);
        if (p == 0 && divisor > 0.0f)
            b->scales.d = encode_half(lanes_sum(above) / divisor);
    }
}
