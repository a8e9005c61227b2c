/* scalar_encode.h: how encode picks scales and codes, to the bit; shared by plugins/scalar's
 * encoders and by every plugin that does them faster.
 *
 * All arithmetic but the sums of Q3_K's SEARCH is F32, round to nearest even, subnormals kept, no FMA,
 * every named intermediate rounded once; division and square root are IEEE's. Sums are lane sums
 * (scalar_lanes.h). "nearest" is to the nearest integer, halves to even. Values that are not finite
 * count as 0.
 *
 * Common parts
 *   half(v)     v to binary16, nearest even, saturating at +-65504; a v that is not 0 but rounds to
 * 0 becomes +-2^-24. codes       of one group with its final scale s and minimum m (the products
 * that decode uses): i = s == 0 ? 0 : 1 / s;  u = (x + m) * i; integer formats: level =
 * nearest(clamp(u, low, high)); table formats: code = the number of k in 0..14 with u > mid[k],
 *               mid[k] = (table[k] + table[k + 1]) / 2.
 *   peak        the element of greatest |x| with its sign, the first one of equals; 0 in a zero
 * group
 *
 * RTN, group by group, then the codes as above
 *   Q4_0 Q5_0 IQ4_NL   d = half(peak / low), low = -8, -16, -127
 *   Q8_0               d = half(|peak| / 127), low = -127, high = 127
 *   Q4_1 Q5_1          d = half((max - min) / high), m = half(min)
 *   Q2_K Q4_K Q5_K     lo = min(min, 0), hi = max(max, lo); S = (hi - lo) / high, M = -lo;
 *                      d = half(max S / top), dmin = half(max M / top), top = 15 or 63;
 *                      s = nearest(clamp(S * (1 / d), 0, top)), m likewise from M; 0 when d is 0
 *   Q3_K Q6_K IQ4_XS   S = peak / low, low = -4, -32, -127; P = the S of greatest |S|, first of
 * equals; d = half(P / -32), for Q6_K half(P / -128); s = nearest(clamp(S * (1 / d), -32, 31)), for
 * Q6_K -128..127; 0 when d is 0 NF4                A = |peak| / 127; m = half(((A0 + A1) + (A2 +
 * A3)) * 0.25); D = A - m; d = half(max |D| / 127); s = nearest(clamp(D * (1 / d), -127, 127)); 0
 * when d is 0
 *
 * SEARCH is described in scalar_search.c, that of Q3_K in scalar_search_q3k.c.
 */
#ifndef SCALAR_ENCODE_H
#define SCALAR_ENCODE_H

#include "hal/block.h"
#include "hal/half.h"
#include "plugins/scalar/scalar_lanes.h"

/* One block on its way: input, weights (SEARCH), and what will be stored. */
struct encode_block {
    const struct block_type *type;
    const int8_t *table; /* of a table format, else NULL */
    float low, high;     /* levels */
    float x[BLOCK_VALUES_MAX];
    float w[BLOCK_VALUES_MAX];
    struct block_scales scales;
    uint8_t code[BLOCK_VALUES_MAX];
    uint8_t code_of[513]; /* of a table format: the code of ceil(2 u) = index - 256 */
};

/* Counts of SEARCH. */
enum { ENCODE_TRIALS = 16, ENCODE_LLOYD = 2, ENCODE_PASSES = 2 };

/* Trials of a format: j = (t - middle) * step around each anchor, or (t * step + from) on top of high. */
struct encode_trials {
    int anchors; /* signed: 1: low; 2: low, then high, ENCODE_TRIALS each */
    float step, from;
};

struct encode_trials encode_trials_of(uint32_t type);

/* half(v) above. */
uint16_t encode_half(float v);

/* 1 / s, or 0 when s is 0. */
static inline float encode_inverse(float s)
{
    return s == 0.0f ? 0.0f : 1.0f / s;
}

/* The level that u = (x + m) * i rounds to. */
float encode_level(const struct encode_block *b, float u);

/* The codes of the whole block from b->scales. */
void encode_codes(struct encode_block *b);

/* Scales by RTN into b->scales. */
void encode_rtn(struct encode_block *b);

/* Weights into b->w, then scales and codes by SEARCH. importance: [values] of these columns or
 * NULL. */
void encode_search(struct encode_block *b, const float *importance);

/* Counts of SEARCH of Q3_K, and four times the level that trial t gives the peak. */
enum { ENCODE_Q3K_TRIALS = 12, ENCODE_Q3K_PASSES = 2 };

static inline int32_t encode_q3k_trial(int t)
{
    return t < ENCODE_Q3K_TRIALS / 2 ? 2 * t - 23 : 2 * t - 3;
}

/* The scales of a Q3_K block by SEARCH into b->scales, from b->x and b->w. */
void encode_search_q3k(struct encode_block *b);

/* Store group scales S[g] (signed) of a 256-value format without minima, or S, M of one with them.
 */
void encode_put_signed(struct encode_block *b, const float *S);
void encode_put_ranged(struct encode_block *b, const float *S, const float *M);

#endif
