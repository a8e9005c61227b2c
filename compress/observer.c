#include "compress/observer.h"

#include <stdlib.h>
#include <string.h>

enum { MANTISSA_BITS = 52, EXPONENT_ONE = 1023, SERIES = 23 };

static const char *const names[OBSERVER_METHODS] = {"minmax", "percentile", "mse", "entropy"};

const char *observer_method_name(uint32_t method)
{
    return method < OBSERVER_METHODS ? names[method] : "?";
}

uint32_t observer_method_parse(const char *name)
{
    uint32_t i = 0;
    while (i < OBSERVER_METHODS && strcmp(names[i], name) != 0)
        i++;
    return i;
}

double observer_nearest(double v)
{
    const double shift = 6755399441055744.0; /* 1.5 * 2^52: the sum has no room for a fraction */
    return (v + shift) - shift;
}

static double absolute(double v)
{
    return v < 0 ? -v : v;
}

static double least(double a, double b)
{
    return a < b ? a : b;
}

/* ln of a positive normal number by the series of atanh; libm's differs between machines. */
static double logarithm(double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    double exponent = (double)((int64_t)(bits >> MANTISSA_BITS) - EXPONENT_ONE);
    bits = (bits & ((1ull << MANTISSA_BITS) - 1)) | (uint64_t)EXPONENT_ONE << MANTISSA_BITS;
    memcpy(&v, &bits, sizeof v);
    if (v > 1.4142135623730951) {
        v /= 2;
        exponent += 1;
    }
    const double s = (v - 1) / (v + 1), square = s * s;
    double sum = 0;
    for (int k = SERIES; k >= 1; k -= 2)
        sum = sum * square + 1.0 / k;
    return exponent * 0.6931471805599453 + 2 * s * sum;
}

/* The least power of two above v > 0, as its exponent. */
static int power_above(double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    return (int)(bits >> MANTISSA_BITS) - EXPONENT_ONE + 1;
}

static double power(int exponent)
{
    const uint64_t bits = (uint64_t)(exponent + EXPONENT_ONE) << MANTISSA_BITS;
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

double observer_quantile(const float *ascending, size_t n, double fraction)
{
    const double h = (double)(n - 1) * fraction;
    const size_t at = (size_t)h;
    const double low = (double)ascending[at];
    return at + 1 < n ? low + (h - (double)at) * ((double)ascending[at + 1] - low) : low;
}

double observer_round(const struct observer_choice *c, const struct observer_range *r, double x)
{
    if (c->is_symmetric) {
        const double most = (double)((1u << (c->bits - 1)) - 1), s = r->high / most;
        if (!(s > 0))
            return 0;
        double q = observer_nearest(least(absolute(x) / s, most));
        return x < 0 ? -q * s : q * s;
    }
    const double most = (double)((1u << c->bits) - 1), s = (r->high - r->low) / most;
    if (!(s > 0))
        return 0;
    const double zero = observer_nearest(-r->low / s);
    const double q = observer_nearest(x < 0 ? -least(-x / s, 2 * most) : least(x / s, 2 * most)) + zero;
    return ((q < 0 ? 0 : q > most ? most : q) - zero) * s;
}

/* The range when nothing beyond +-limit is wanted. */
static struct observer_range cut(const struct observer_choice *c, double low, double high, double limit)
{
    if (c->is_symmetric)
        return (struct observer_range){-limit, limit};
    return (struct observer_range){low < -limit ? -limit : low > 0 ? 0 : low, high > limit ? limit : high < 0 ? 0 : high};
}

/* KL(P || Q) of the first `bins` bins in `levels` levels, P's normed by `total`; negative when Q lacks
 * what P has. */
static double divergence(const uint64_t *bin, uint32_t bins, uint64_t above, uint32_t levels, double total)
{
    double sum = 0;
    uint64_t inside = 0;
    for (uint32_t j = 0; j < bins; j++)
        inside += bin[j];
    if (inside == 0)
        return -1;
    for (uint32_t level = 0, j = 0; level < levels; level++) {
        const uint32_t from = j;
        uint64_t mass = 0;
        uint32_t filled = 0;
        for (; j < bins && (uint64_t)j * levels / bins == level; j++) {
            mass += bin[j];
            filled += bin[j] > 0 || (j + 1 == bins && above > 0);
        }
        if (filled == 0)
            continue;
        if (mass == 0)
            return -1;
        const double q = (double)mass / filled / (double)inside;
        for (uint32_t k = from; k < j; k++) {
            const double p = (double)(bin[k] + (k + 1 == bins ? above : 0)) / total;
            if (p > 0)
                sum += p * logarithm(p / q);
        }
    }
    return sum < 0 ? 0 : sum;
}

static double entropy_limit(const uint64_t *bin, int exponent, uint32_t bits, uint32_t step, double most)
{
    const uint32_t levels = 1u << (bits - 1);
    double best = -1, limit = most;
    uint64_t total = 0, inside = 0;
    uint32_t counted = 0;
    for (uint32_t j = 0; j < OBSERVER_BINS; j++)
        total += bin[j];
    for (uint32_t i = levels; i <= OBSERVER_BINS; i += step) {
        for (; counted < i; counted++)
            inside += bin[counted];
        const double d = divergence(bin, i, total - inside, levels, (double)total);
        if (d >= 0 && (best < 0 || d < best)) {
            best = d;
            limit = least(most, i * power(exponent) / OBSERVER_BINS);
        }
    }
    return limit;
}

/* ---- values ---- */

static int ascending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

static double mse_limit(const struct observer_choice *c, const float *x, size_t n, double low, double high,
                        double most)
{
    double best = -1, limit = most;
    for (uint32_t k = 1; k <= OBSERVER_TRIALS; k++) {
        const double trial = most * k / OBSERVER_TRIALS;
        const struct observer_range r = cut(c, low, high, trial);
        double sum = 0;
        for (size_t i = 0; i < n && (best < 0 || sum < best); i++) {
            const double d = (double)x[i] - observer_round(c, &r, (double)x[i]);
            sum += d * d;
        }
        if (best < 0 || sum < best) {
            best = sum;
            limit = trial;
        }
    }
    return limit;
}

void observer_values(const struct observer_choice *c, const float *x, size_t n, float *scratch,
                     struct observer_range *out)
{
    double low = 0, high = 0, limit;
    for (size_t i = 0; i < n; i++) {
        low = least(low, (double)x[i]);
        high = (double)x[i] > high ? (double)x[i] : high;
    }
    const double most = high > -low ? high : -low;
    limit = most;
    if (c->method == OBSERVER_PERCENTILE && n > 0) {
        for (size_t i = 0; i < n; i++)
            scratch[i] = c->is_symmetric && x[i] < 0 ? -x[i] : x[i];
        qsort(scratch, n, sizeof *scratch, ascending);
        const double fraction = c->percentile / 100;
        high = observer_quantile(scratch, n, fraction);
        low = c->is_symmetric ? -high : observer_quantile(scratch, n, 1 - fraction);
        limit = c->is_symmetric ? high : most;
    } else if (c->method == OBSERVER_MSE && most > 0) {
        limit = mse_limit(c, x, n, low, high, most);
    } else if (c->method == OBSERVER_ENTROPY && most > 0) {
        uint64_t bin[OBSERVER_BINS] = {0};
        const int exponent = power_above(most);
        const double scale = OBSERVER_BINS / power(exponent);
        for (size_t i = 0; i < n; i++)
            bin[(size_t)(absolute((double)x[i]) * scale)]++;
        limit = entropy_limit(bin, exponent, c->bits, OBSERVER_VALUES_STEP, most);
    }
    *out = cut(c, low, high, limit);
}

/* ---- a stream ---- */

/* The largest values so far, as a heap with the least on top. */
struct tail {
    float *value;
    size_t count;
};

struct observer {
    uint64_t total, seen;
    double least; /* percentile */
    size_t keep;
    struct tail tail[3]; /* of |x|, x, -x */
    bool is_sorted;
    float low, high;
    int exponent; /* bins cover [0, 2^exponent) */
    uint64_t bin[OBSERVER_BINS];
};

enum err observer_open(uint64_t total, double least_percentile, struct observer **out)
{
    if (total == 0 || total > 1ull << 40 || !(least_percentile > 50 && least_percentile <= 100))
        return ERR_ARGUMENT;
    struct observer *o = calloc(1, sizeof *o);
    if (!o)
        return ERR_MEMORY;
    o->total = total;
    o->least = least_percentile;
    o->keep = (size_t)(total - (uint64_t)((double)(total - 1) * (least_percentile / 100))) + 1;
    o->exponent = -EXPONENT_ONE;
    for (int i = 0; i < 3; i++)
        if (!(o->tail[i].value = malloc(o->keep * sizeof(float)))) {
            observer_close(o);
            return ERR_MEMORY;
        }
    *out = o;
    return ERR_NONE;
}

void observer_close(struct observer *o)
{
    for (int i = 0; o && i < 3; i++)
        free(o->tail[i].value);
    free(o);
}

uint64_t observer_count(const struct observer *o)
{
    return o->seen;
}

static void sink(struct tail *t, size_t at)
{
    const float v = t->value[at];
    for (size_t child; (child = 2 * at + 1) < t->count; at = child) {
        child += child + 1 < t->count && t->value[child + 1] < t->value[child];
        if (t->value[child] >= v)
            break;
        t->value[at] = t->value[child];
    }
    t->value[at] = v;
}

static void push(struct tail *t, size_t keep, float v)
{
    if (t->count == keep) {
        if (v > t->value[0]) {
            t->value[0] = v;
            sink(t, 0);
        }
        return;
    }
    size_t at = t->count++;
    for (; at > 0 && t->value[(at - 1) / 2] > v; at = (at - 1) / 2)
        t->value[at] = t->value[(at - 1) / 2];
    t->value[at] = v;
}

/* Neighbouring bins become one until 2^exponent is enough. */
static void widen(struct observer *o, int exponent)
{
    if (o->exponent == -EXPONENT_ONE)
        o->exponent = exponent;
    for (; o->exponent < exponent; o->exponent++) {
        for (uint32_t j = 0; j < OBSERVER_BINS / 2; j++)
            o->bin[j] = o->bin[2 * j] + o->bin[2 * j + 1];
        memset(o->bin + OBSERVER_BINS / 2, 0, sizeof o->bin / 2);
    }
}

enum err observer_add(struct observer *o, const float *x, size_t n)
{
    o->is_sorted = false; /* what is sorted is a heap too */
    if (n > o->total - o->seen)
        return ERR_FULL;
    for (size_t i = 0; i < n; i++) {
        const float v = x[i], size = v < 0 ? -v : v;
        if (!(size <= 3.402823466e38f))
            continue;
        if ((double)size > 0) {
            const int exponent = power_above((double)size);
            if (exponent > o->exponent)
                widen(o, exponent);
        }
        const double scale = o->exponent == -EXPONENT_ONE ? 0 : OBSERVER_BINS / power(o->exponent);
        o->bin[(size_t)((double)size * scale)]++;
        o->low = v < o->low ? v : o->low;
        o->high = v > o->high ? v : o->high;
        push(&o->tail[0], o->keep, size);
        push(&o->tail[1], o->keep, v);
        push(&o->tail[2], o->keep, -v);
        o->seen++;
    }
    return ERR_NONE;
}

/* Q(fraction) of what a sorted tail ends. */
static double tail_quantile(const struct observer *o, const struct tail *t, double fraction)
{
    const double h = (double)(o->seen - 1) * fraction;
    const uint64_t at = (uint64_t)h, first = o->seen - t->count; /* rank of value[0] */
    const double low = (double)t->value[at - first];
    return at + 1 < o->seen ? low + (h - (double)at) * ((double)t->value[at + 1 - first] - low) : low;
}

static double binned_mse_limit(const struct observer *o, const struct observer_choice *c, double most)
{
    const double width = power(o->exponent) / OBSERVER_BINS;
    double best = -1, limit = most;
    for (uint32_t k = 1; k <= OBSERVER_TRIALS; k++) {
        const double trial = most * k / OBSERVER_TRIALS;
        const struct observer_range r = {-trial, trial};
        double sum = 0;
        for (uint32_t j = 0; j < OBSERVER_BINS; j++) {
            const double x = (j + 0.5) * width, d = x - observer_round(c, &r, x);
            sum += (double)o->bin[j] * (d * d);
        }
        if (best < 0 || sum < best) {
            best = sum;
            limit = trial;
        }
    }
    return limit;
}

enum err observer_find(struct observer *o, const struct observer_choice *c, struct observer_range *out)
{
    const bool is_entropy = c->method == OBSERVER_ENTROPY;
    if (c->bits < 2 || c->bits > (is_entropy ? 12 : OBSERVER_BITS_MAX) || c->method >= OBSERVER_METHODS ||
        (c->method == OBSERVER_PERCENTILE && (c->percentile < o->least || c->percentile > 100)))
        return ERR_ARGUMENT;
    if (o->seen == 0)
        return ERR_NOT_FOUND;
    double low = (double)o->low, high = (double)o->high;
    const double most = high > -low ? high : -low;
    double limit = most;
    if (c->method == OBSERVER_PERCENTILE) {
        for (int i = 0; i < 3 && !o->is_sorted; i++)
            qsort(o->tail[i].value, o->tail[i].count, sizeof(float), ascending);
        o->is_sorted = true;
        const double fraction = c->percentile / 100;
        limit = c->is_symmetric ? tail_quantile(o, &o->tail[0], fraction) : most;
        high = tail_quantile(o, &o->tail[1], fraction);
        low = -tail_quantile(o, &o->tail[2], fraction);
    } else if (c->method == OBSERVER_MSE && most > 0) {
        /* the bins do not know signs: an asymmetric range is cut where the symmetric one is */
        const struct observer_choice symmetric = {.bits = c->bits, .is_symmetric = true};
        limit = binned_mse_limit(o, &symmetric, most);
    } else if (is_entropy && most > 0) {
        limit = entropy_limit(o->bin, o->exponent, c->bits, 1, most);
    }
    *out = cut(c, low, high, limit);
    return ERR_NONE;
}
