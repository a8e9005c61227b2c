/* scalar_search.c: weighted least-squares search of scales and codes, to the bit.
 *
 * Minimises sum w (x - value)^2 over a block. Every step below is a fixed number of rounds over
 * whole groups, the first of equal candidates wins, and comparisons with NaN are false; so lanes of
 * a vector may hold elements (16 lanes are the lane sums) or trials (16 of them, sums transposed).
 *
 * Weights, n = values of the block (product.md's reference: w = h sqrt(s2 + x^2), s2 = 2
 * mean(x^2)): spread = 2 * (dot(x, x) / n) mean   = sum(importance) / n; if 2^-60 <= mean <= 2^60:
 * r = 1 / mean, h = importance * r, else h = 1 h      = h > 2^-14 ? h : 2^-14;     w = h *
 * sqrt(spread + x * x)
 *
 * sums(m, i) of a group, level as in scalar_encode.h with u = (x + m) * i and t = w * level:
 *   L = lane sum of t,  LL = of t * level,  XL = of t * x
 * signed fit: scale = LL > 0 ? XL / LL : 0
 * ranged fit, W = sum(w), X = dot(w, x): det = W * LL - L * L; if det > 0: scale = (W * XL - X * L)
 * / det, b = (LL * X - L * XL) / det; if det <= 0, or b > 0 where the format has no negative
 * minimum: b = 0 and the signed fit; minimum = -b (+0 when b is 0)
 *
 * signed search of a group (0 when peak is 0): trials t ascending: i = (anchor + j) / peak,
 *   s = sums(0, i), gain = LL > 0 ? XL * XL / LL : 0; the greatest gain gives scale = XL / LL. Then
 *   LLOYD times scale = fit of sums(0, 1 / scale). Anchors and j by struct encode_trials; NF4 takes
 * |peak|. ranged search: lo, hi = min, max (lo = min(lo, 0) where minima are not negative); unless
 * hi > lo: scale = 0, minimum = -lo. Trials: i = (high + (t * step + from)) / (hi - lo), fit of
 * sums(-lo, i), gain = scale * XL - minimum * X. Then LLOYD times, if scale > 0, fit of
 * sums(minimum, 1 / scale).
 *
 * 32-value formats store half(scale), half(-minimum). NF4 stores the scales as RTN does. Others but Q3_K
 * store them as RTN does (negative ranged scales as 0), and then, PASSES + 1 times, for each group
 * try the neighbours of its s (0, -1, +1; for ranged formats times m: 0, -1, +1, s outermost),
 * clamped to their range, and keep the first of least error = lane sum of (w * e) * e, e = x -
 * (scale * level - minimum), with the level of u = (x + minimum) * (1 / scale); after each pass but
 * the last d (and dmin) are refitted: with L, LL, XL of the kept choice, sums over groups ascending
 * from 0: signed: d = half(sum(s * XL) / sum((s * s) * LL)) if the divisor is > 0 ranged: A += (s *
 * s) * LL, B += (s * m) * L, C += (m * m) * W, P += s * XL, Q += m * X; det = A * C - B * B; if det
 * > 0: d' = (P * C - Q * B) / det, m' = (P * B - Q * A) / det, kept if d' > 0 and m' >= 0; else if
 * A > 0: d = half(P / A) At the end codes as in scalar_encode.h.
 */
#include "plugins/scalar/scalar_encode.h"

struct encode_trials encode_trials_of(uint32_t type)
{
    switch (type) {
    case HAL_Q8_0: return (struct encode_trials){1, 1.5f, 0.0f};
    case HAL_Q6_K: return (struct encode_trials){1, 0.375f, 0.0f};
    case HAL_Q5_0: return (struct encode_trials){2, 0.375f, 0.0f};
    case HAL_IQ4_NL:
    case HAL_IQ4_XS: return (struct encode_trials){2, 4.0f, 0.0f};
    case HAL_NF4: return (struct encode_trials){1, 4.0f, 0.0f};
    case HAL_Q2_K: return (struct encode_trials){0, 0.125f, -0.875f};
    case HAL_Q4_1:
    case HAL_Q4_K: return (struct encode_trials){0, 0.1875f, -1.875f};
    case HAL_Q5_1:
    case HAL_Q5_K: return (struct encode_trials){0, 0.3125f, -3.0f};
    default: return (struct encode_trials){2, 0.25f, 0.0f}; /* Q4_0 */
    }
}

static void weigh(struct encode_block *b, const float *importance)
{
    const uint32_t n = b->type->values;
    const float spread = 2.0f * (lanes_dot(b->x, b->x, n) / (float)n);
    float inverse = 0.0f;
    if (importance != NULL) {
        const float mean = lanes_sum_of(importance, n) / (float)n;
        if (mean >= 0x1p-60f && mean <= 0x1p60f)
            inverse = 1.0f / mean;
    }
    for (uint32_t i = 0; i < n; i++) {
        float h = inverse == 0.0f ? 1.0f : importance[i] * inverse;
        h = h > 0x1p-14f ? h : 0x1p-14f;
        b->w[i] = h * __builtin_sqrtf(spread + b->x[i] * b->x[i]);
    }
}

struct sums {
    float l, ll, xl;
};

static struct sums sums_of(const struct encode_block *b, uint32_t at, float shift, float inverse)
{
    struct lanes l = {{0}}, ll = {{0}}, xl = {{0}};
    for (uint32_t i = at; i < at + b->type->group; i += LANES)
        for (uint32_t k = 0; k < LANES; k++) {
            const float x = b->x[i + k];
            const float level = encode_level(b, (x + shift) * inverse);
            const float t = b->w[i + k] * level;
            l.lane[k] += t;
            ll.lane[k] += t * level;
            xl.lane[k] += t * x;
        }
    return (struct sums){lanes_sum(l), lanes_sum(ll), lanes_sum(xl)};
}

static float error_of(const struct encode_block *b, uint32_t at, float scale, float minimum)
{
    struct lanes e = {{0}};
    const float inverse = encode_inverse(scale);
    for (uint32_t i = at; i < at + b->type->group; i += LANES)
        for (uint32_t k = 0; k < LANES; k++) {
            const float x = b->x[i + k];
            const float level = encode_level(b, (x + minimum) * inverse);
            const float d = x - (scale * level - minimum);
            e.lane[k] += b->w[i + k] * d * d;
        }
    return lanes_sum(e);
}

static float signed_fit(struct sums s)
{
    return s.ll > 0.0f ? s.xl / s.ll : 0.0f;
}

static float search_signed(const struct encode_block *b, uint32_t at)
{
    const struct encode_trials by = encode_trials_of(b->type->type);
    float peak = 0.0f, top = 0.0f;
    for (uint32_t i = at; i < at + b->type->group; i++) {
        const float size = b->x[i] < 0.0f ? -b->x[i] : b->x[i];
        peak = size > top ? b->x[i] : peak;
        top = size > top ? size : top;
    }
    if (top == 0.0f)
        return 0.0f;
    const float middle = (float)(ENCODE_TRIALS - 1) * 0.5f;
    float best = -1.0f, scale = 0.0f;
    for (int t = 0; t < by.anchors * ENCODE_TRIALS; t++) {
        float anchor = t < ENCODE_TRIALS ? b->low : b->high;
        if (b->type->type == HAL_NF4) {
            anchor = b->high;
            peak = top;
        }
        const float j = ((float)(t % ENCODE_TRIALS) - middle) * by.step;
        const struct sums s = sums_of(b, at, 0.0f, (anchor + j) / peak);
        const float gain = s.ll > 0.0f ? s.xl * s.xl / s.ll : 0.0f;
        if (gain > best) {
            best = gain;
            scale = signed_fit(s);
        }
    }
    for (int p = 0; p < ENCODE_LLOYD; p++)
        scale = signed_fit(sums_of(b, at, 0.0f, encode_inverse(scale)));
    return scale;
}

/* Sums over a group that no trial changes. */
struct group {
    float w, x;
    int is_free; /* the minimum may have either sign */
};

static void ranged_fit(struct sums s, const struct group *g, float *scale, float *minimum)
{
    const float det = g->w * s.ll - s.l * s.l;
    if (det > 0.0f) {
        const float b = (s.ll * g->x - s.l * s.xl) / det;
        if (b <= 0.0f || g->is_free) {
            *scale = (g->w * s.xl - g->x * s.l) / det;
            *minimum = b == 0.0f ? 0.0f : -b;
            return;
        }
    }
    *scale = signed_fit(s);
    *minimum = 0.0f;
}

static struct group group_of(const struct encode_block *b, uint32_t at)
{
    const uint32_t n = b->type->group;
    return (struct group){lanes_sum_of(b->w + at, n), lanes_dot(b->w + at, b->x + at, n),
                          b->type->values == 32};
}

static void search_ranged(const struct encode_block *b, uint32_t at, float *scale, float *minimum)
{
    const struct encode_trials by = encode_trials_of(b->type->type);
    const struct group g = group_of(b, at);
    float lo = b->x[at], hi = b->x[at];
    for (uint32_t i = at; i < at + b->type->group; i++) {
        lo = b->x[i] < lo ? b->x[i] : lo;
        hi = b->x[i] > hi ? b->x[i] : hi;
    }
    if (!g.is_free)
        lo = lo < 0.0f ? lo : 0.0f;
    *scale = 0.0f;
    *minimum = -lo;
    if (!(hi > lo))
        return;
    float best = -1.0f;
    for (int t = 0; t < ENCODE_TRIALS; t++) {
        const float inverse = (b->high + ((float)t * by.step + by.from)) / (hi - lo);
        const struct sums s = sums_of(b, at, -lo, inverse);
        float S, M;
        ranged_fit(s, &g, &S, &M);
        const float gain = S * s.xl - M * g.x;
        if (gain > best) {
            best = gain;
            *scale = S;
            *minimum = M;
        }
    }
    for (int p = 0; p < ENCODE_LLOYD; p++)
        if (*scale > 0.0f)
            ranged_fit(sums_of(b, at, *minimum, 1.0f / *scale), &g, scale, minimum);
}

static const float neighbour[3] = {0.0f, -1.0f, 1.0f};

/* The best of a group's neighbouring stored scales under the d of now. */
static float pick_signed(const struct encode_block *b, uint32_t at, float d, float now)
{
    const int is_q6 = b->type->type == HAL_Q6_K;
    float best = 0.0f, pick = now;
    for (int k = 0; k < 3; k++) {
        const float s =
            lanes_clamp(now + neighbour[k], is_q6 ? -128.0f : -32.0f, is_q6 ? 127.0f : 31.0f);
        const float e = error_of(b, at, d * s, 0.0f);
        if (k == 0 || e < best) {
            best = e;
            pick = s;
        }
    }
    return pick;
}

static void refine_signed(struct encode_block *b)
{
    const uint32_t n = b->type->group;
    for (int p = 0; p <= ENCODE_PASSES; p++) {
        const float d = half_f16_to_f32(b->scales.d);
        float above = 0.0f, below = 0.0f;
        for (uint32_t g = 0; g < b->type->values / n; g++) {
            const float s = pick_signed(b, g * n, d, (float)b->scales.s[g]);
            b->scales.s[g] = (int8_t)s;
            const struct sums u = sums_of(b, g * n, 0.0f, encode_inverse(d * s));
            above += s * u.xl;
            below += s * s * u.ll;
        }
        if (p < ENCODE_PASSES && below > 0.0f)
            b->scales.d = encode_half(above / below);
    }
}

static void pick_ranged(const struct encode_block *b, uint32_t at, const float d[2], float *s,
                        float *m)
{
    const float high = b->type->type == HAL_Q2_K ? 15.0f : 63.0f;
    const float s0 = *s, m0 = *m;
    float best = 0.0f;
    for (int k = 0; k < 9; k++) {
        const float s1 = lanes_clamp(s0 + neighbour[k / 3], 0.0f, high);
        const float m1 = lanes_clamp(m0 + neighbour[k % 3], 0.0f, high);
        const float e = error_of(b, at, d[0] * s1, d[1] * m1);
        if (k == 0 || e < best) {
            best = e;
            *s = s1;
            *m = m1;
        }
    }
}

/* Sums over the block from which d and dmin follow. */
struct refit {
    float a, b, c, p, q;
};

static void refit_ranged(struct encode_block *b, const struct refit *r)
{
    const float det = r->a * r->c - r->b * r->b;
    if (det > 0.0f) {
        const float d = (r->p * r->c - r->q * r->b) / det;
        const float dmin = (r->p * r->b - r->q * r->a) / det;
        if (d > 0.0f && dmin >= 0.0f) {
            b->scales.d = encode_half(d);
            b->scales.dmin = encode_half(dmin);
        }
    } else if (r->a > 0.0f) {
        b->scales.d = encode_half(r->p / r->a);
    }
}

static void refine_ranged(struct encode_block *b)
{
    const uint32_t n = b->type->group;
    for (int pass = 0; pass <= ENCODE_PASSES; pass++) {
        const float d[2] = {half_f16_to_f32(b->scales.d), half_f16_to_f32(b->scales.dmin)};
        struct refit r = {0};
        for (uint32_t g = 0; g < b->type->values / n; g++) {
            float s = (float)b->scales.s[g], m = (float)b->scales.m[g];
            pick_ranged(b, g * n, d, &s, &m);
            b->scales.s[g] = (int8_t)s;
            b->scales.m[g] = (uint8_t)m;
            const struct sums u = sums_of(b, g * n, d[1] * m, encode_inverse(d[0] * s));
            const struct group all = group_of(b, g * n);
            r.a += s * s * u.ll;
            r.b += s * m * u.l;
            r.c += m * m * all.w;
            r.p += s * u.xl;
            r.q += m * all.x;
        }
        if (pass < ENCODE_PASSES)
            refit_ranged(b, &r);
    }
}

void encode_search(struct encode_block *b, const float *importance)
{
    const uint32_t n = b->type->group;
    float S[BLOCK_GROUPS_MAX], M[BLOCK_GROUPS_MAX];
    weigh(b, importance);
    switch (b->type->type) {
    case HAL_Q4_0:
    case HAL_Q5_0:
    case HAL_Q8_0:
    case HAL_IQ4_NL: b->scales.d = encode_half(search_signed(b, 0)); break;
    case HAL_Q4_1:
    case HAL_Q5_1:
        search_ranged(b, 0, S, M);
        b->scales.d = encode_half(S[0]);
        b->scales.dmin = encode_half(-M[0]);
        break;
    case HAL_Q2_K:
    case HAL_Q4_K:
    case HAL_Q5_K:
        for (uint32_t g = 0; g < b->type->values / n; g++) {
            search_ranged(b, g * n, &S[g], &M[g]);
            S[g] = S[g] > 0.0f ? S[g] : 0.0f;
        }
        encode_put_ranged(b, S, M);
        refine_ranged(b);
        break;
    case HAL_Q3_K: encode_search_q3k(b); break;
    default:
        for (uint32_t g = 0; g < b->type->values / n; g++)
            S[g] = search_signed(b, g * n);
        encode_put_signed(b, S);
        if (b->type->type != HAL_NF4)
            refine_signed(b);
    }
    encode_codes(b);
}
