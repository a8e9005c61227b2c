/* observer.h: what range of values a grid of b bits should span: min-max, percentile, MSE, entropy.
 *
 * Two forms of one definition: over values that are all here (a group, a row or a tensor of weights), and
 * over a stream (the input of a linear while texts run). No libm: a range decides a scale, and is the same
 * on every machine. The grid: symmetric, q = clamp(nearest_even(x / s), -m, m) with m = 2^(b-1) - 1 and
 * s = high / m; asymmetric, q = clamp(nearest_even(x / s) + z, 0, 2^b - 1) with s = (high - low) / (2^b - 1)
 * and z = nearest_even(-low / s), low <= 0 <= high.
 *
 *   minmax      high = max|x|; asymmetric [min(x, 0), max(x, 0)]
 *   percentile  high = Q(p) of |x|; asymmetric [Q(1 - p), Q(p)] of x widened to 0. Q is exact: with n
 *               values in ascending order, h = (n - 1) p, v[floor h] + (h - floor h) (v[floor h + 1] - v[floor h])
 *   mse         of T = max|x| k / 80, k = 1 .. 80, the first with the least sum of (x - grid(x))^2;
 *               asymmetric: of the ranges [max(min, -T), min(max, T)]. A stream takes each value as
 *               the middle of its bin
 *   entropy     the bins of |x|: 2048 of equal width over [0, 2^k), 2^k the least power of two above max|x|.
 *               For i bins, i from L = 2^(b-1) in steps: P = the first i bins, what lies above added to
 *               the last; Q = the first i bins, summed into L levels (bin j to level floor(j L / i)) and
 *               spread evenly over the bins of P that are not empty. T is the upper edge (at most max|x|)
 *               of the first i with the least KL(P || Q); an i where Q is 0 and P is not does not count.
 *               After TensorRT's calibrator, which has b = 8.
 */
#ifndef OBSERVER_H
#define OBSERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"

/* Numbers are stored and sent: never renumbered. */
enum observer_method {
    OBSERVER_MINMAX = 0,
    OBSERVER_PERCENTILE = 1,
    OBSERVER_MSE = 2,
    OBSERVER_ENTROPY = 3,
    OBSERVER_METHODS = 4
};

enum { OBSERVER_BINS = 2048, OBSERVER_TRIALS = 80, OBSERVER_VALUES_STEP = 16, OBSERVER_BITS_MAX = 16 };

struct observer_choice {
    uint32_t method;   /* enum observer_method */
    double percentile; /* of 100, for OBSERVER_PERCENTILE */
    uint32_t bits;     /* 2 .. 16; entropy: 2 .. 12 */
    bool is_symmetric;
};

struct observer_range {
    double low; /* -high when symmetric */
    double high;
};

/* "minmax", "percentile", "mse", "entropy"; parse gives OBSERVER_METHODS for an unknown word. */
const char *observer_method_name(uint32_t method);
uint32_t observer_method_parse(const char *name);

/* Q(fraction) of n >= 1 values in ascending order. */
double observer_quantile(const float *ascending, size_t n, double fraction);

/* Nearest whole number, ties to even; |v| < 2^51. */
double observer_nearest(double v);

/* The grid's value of x in a range, in exact steps. */
double observer_round(const struct observer_choice *c, const struct observer_range *r, double x);

/* The range of n values, all finite; scratch [n] is overwritten. Entropy takes every 16th i. */
void observer_values(const struct observer_choice *c, const float *x, size_t n, float *scratch,
                     struct observer_range *out);

/* ---- a stream ---- */

struct observer;

/* For at most `total` values, and percentiles from `least` (of 100) on: what lies above is kept, so that
 * quantiles are exact: (1 - least / 100) * total * 12 bytes. Errors: ERR_ARGUMENT, ERR_MEMORY. */
NODISCARD enum err observer_open(uint64_t total, double least, struct observer **out);
void observer_close(struct observer *o); /* NULL is allowed */

/* The order of the values does not matter. What is not finite is left out. Errors: ERR_FULL. */
NODISCARD enum err observer_add(struct observer *o, const float *x, size_t n);

uint64_t observer_count(const struct observer *o);

/* Errors: ERR_ARGUMENT (a percentile below `least`, bits), ERR_NOT_FOUND (no values). */
NODISCARD enum err observer_find(struct observer *o, const struct observer_choice *c, struct observer_range *out);

#endif
