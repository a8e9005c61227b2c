#include "compress/scheme.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compress/observer.h"
#include "hal/block.h"
#include "hal/half.h"

enum { FRACTION_ONE = 1000000, FRACTION_PRESET = 999000, POWER_LEAST = -24, POWER_MOST = 15, BLOCK = 32 };

static const char *const kinds[SCHEME_KINDS] = {"symmetric", "power-of-two", "asymmetric", "affine"};
static const char *const stores[SCHEME_STORES] = {"auto", "f16", "f32"};
static const float half_most = 65504.0f;

/* ---- words ---- */

static uint32_t word_of(const char *const *table, uint32_t words, const char *word)
{
    uint32_t i = 0;
    while (i < words && strcmp(table[i], word) != 0)
        i++;
    return i;
}

static bool is_group(uint32_t n)
{
    return n == 16 || n == 32 || n == 64 || n == 128 || n == 256;
}

static bool take_number(const char *word, struct scheme *s)
{
    if (strspn(word, "0123456789") != strlen(word) || strlen(word) > 3)
        return false;
    const uint32_t n = (uint32_t)strtoul(word, NULL, 10);
    if (n >= 2 && n <= 8)
        s->bits = n;
    else if (is_group(n))
        s->group = n;
    else
        return false;
    return true;
}

static bool take_percentile(const char *word, struct scheme *s)
{
    char *end;
    if (strncmp(word, "percentile=", 11) != 0 || strspn(word + 11, "0123456789.") != strlen(word + 11))
        return false;
    const double p = strtod(word + 11, &end);
    if (*end || end == word + 11 || !(p > 50 && p <= 100))
        return false;
    s->range = OBSERVER_PERCENTILE;
    s->millionths = (uint32_t)(p * (FRACTION_ONE / 100) + 0.5);
    return true;
}

static bool take_word(const char *word, struct scheme *s)
{
    const uint32_t kind = word_of(kinds, SCHEME_KINDS, word), store = word_of(stores, SCHEME_STORES, word);
    const uint32_t range = observer_method_parse(word);
    if (kind < SCHEME_KINDS)
        s->kind = kind;
    else if (store < SCHEME_STORES)
        s->store = store;
    else if (range < OBSERVER_METHODS)
        s->range = range;
    else if (strcmp(word, "channel") == 0)
        s->group = SCHEME_CHANNEL;
    else if (strcmp(word, "tensor") == 0)
        s->group = SCHEME_TENSOR;
    else
        return take_number(word, s) || take_percentile(word, s);
    return true;
}

bool scheme_is_valid(const struct scheme *s)
{
    return s->bits >= 2 && s->bits <= 8 && s->kind < SCHEME_KINDS && s->range < OBSERVER_METHODS &&
           s->store < SCHEME_STORES && (is_group(s->group) || s->group <= SCHEME_TENSOR) &&
           s->millionths > FRACTION_ONE / 2 && s->millionths <= FRACTION_ONE &&
           (s->range == OBSERVER_PERCENTILE || s->millionths == FRACTION_PRESET) &&
           (s->range != OBSERVER_ENTROPY || !is_group(s->group));
}

enum err scheme_parse(const char *text, struct scheme *out, struct fault *f)
{
    struct scheme s = {.bits = 4, .group = 32, .millionths = FRACTION_PRESET};
    char copy[SCHEME_TEXT_MAX * 2], *rest = NULL;
    if (strlen(text) >= sizeof copy)
        return fault_set(f, ERR_FORMAT, "scheme: expected fewer than %zu bytes", sizeof copy);
    strcpy(copy, text);
    for (char *word = strtok_r(copy, ", \t", &rest); word; word = strtok_r(NULL, ", \t", &rest))
        if (!take_word(word, &s))
            return fault_set(f, ERR_FORMAT,
                             "scheme: '%.40s': expected bits 2 to 8, symmetric, power-of-two, asymmetric or affine; "
                             "16 32 64 128 256, channel or tensor; minmax, percentile[=50..100], mse or entropy; "
                             "auto, f16 or f32",
                             word);
    if (s.range == OBSERVER_ENTROPY && is_group(s.group))
        return fault_set(f, ERR_FORMAT, "scheme: entropy needs channel or tensor: %u values make no histogram",
                         s.group);
    if (s.range != OBSERVER_PERCENTILE)
        s.millionths = FRACTION_PRESET;
    *out = s;
    return ERR_NONE;
}

void scheme_print(const struct scheme *s, char out[SCHEME_TEXT_MAX])
{
    char group[16], percentile[24] = "";
    snprintf(group, sizeof group, "%u", s->group);
    if (s->range == OBSERVER_PERCENTILE) /* 6 digits: the fraction is millionths */
        snprintf(percentile, sizeof percentile, "=%u.%04u", s->millionths / 10000, s->millionths % 10000);
    snprintf(out, SCHEME_TEXT_MAX, "%u %s %s %s%s %s", s->bits, kinds[s->kind % SCHEME_KINDS],
             s->group == SCHEME_CHANNEL  ? "channel"
             : s->group == SCHEME_TENSOR ? "tensor"
                                         : group,
             observer_method_name(s->range), percentile, stores[s->store % SCHEME_STORES]);
}

/* ---- sizes ---- */

uint32_t scheme_type(const struct scheme *s, uint32_t cols)
{
    const bool is_even = s->kind == SCHEME_SYMMETRIC || s->kind == SCHEME_POWER_OF_TWO;
    if (s->store == SCHEME_F16)
        return HAL_F16;
    if (s->store == SCHEME_F32 || cols % BLOCK != 0 || s->group == 16 || s->kind == SCHEME_ASYMMETRIC)
        return HAL_F32;
    if (s->bits <= 4)
        return is_even ? HAL_Q4_0 : HAL_Q4_1;
    if (s->bits == 5)
        return is_even ? HAL_Q5_0 : HAL_Q5_1;
    return is_even ? HAL_Q8_0 : HAL_F32;
}

uint64_t scheme_bytes(const struct scheme *s, uint64_t rows, uint64_t cols)
{
    static const uint32_t scale_bits[SCHEME_KINDS] = {16, 8, 16, 32};
    const uint64_t groups = s->group == SCHEME_TENSOR    ? 1
                            : s->group == SCHEME_CHANNEL ? rows
                                                         : rows * ((cols + s->group - 1) / s->group);
    const uint64_t bits = scale_bits[s->kind % SCHEME_KINDS] + (s->kind == SCHEME_ASYMMETRIC ? s->bits : 0);
    return (rows * cols * s->bits + groups * bits + 7) / 8;
}

/* ---- one grid ---- */

/* value = d * (q - zero) + m; q from least to most */
struct grid {
    uint16_t d, m; /* binary16 */
    int32_t zero, least, most;
};

/* The nearest binary16, never infinite. */
static uint16_t half(double v)
{
    const double most = (double)half_most;
    return half_f32_to_f16((float)(v > most ? most : v < -most ? -most : v));
}

static int32_t code(const struct grid *g, float x)
{
    const double d = (double)half_f16_to_f32(g->d);
    if (!(d > 0))
        return g->zero < g->least ? g->least : g->zero;
    const double u = ((double)x - (double)half_f16_to_f32(g->m)) / d, bound = 1 << 20;
    const double q = observer_nearest(u > bound ? bound : u < -bound ? -bound : u) + g->zero;
    return q < g->least ? g->least : q > g->most ? g->most : (int32_t)q;
}

/* As the block types multiply out: each product and sum one F32 operation. */
static float value(const struct grid *g, int32_t q)
{
    const float product = half_f16_to_f32(g->d) * (float)(q - g->zero);
    return product + half_f16_to_f32(g->m);
}

static double squares(const struct grid *g, const float *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        const double e = (double)x[i] - (double)value(g, code(g, x[i]));
        sum += e * e;
    }
    return sum;
}

static double power_of_two(int exponent)
{
    double v = 1;
    for (; exponent > 0; exponent--)
        v *= 2;
    for (; exponent < 0; exponent++)
        v /= 2;
    return v;
}

static void round_to_power(struct grid *g, double d, const float *x, size_t n)
{
    int below = POWER_LEAST;
    while (below < POWER_MOST && power_of_two(below + 1) <= d)
        below++;
    struct grid other = *g;
    g->d = half(power_of_two(below));
    other.d = half(power_of_two(below < POWER_MOST ? below + 1 : below));
    if (squares(&other, x, n) < squares(g, x, n))
        *g = other;
}

static struct grid make_grid(const struct scheme *s, const float *x, size_t n, float *scratch)
{
    const bool is_even = s->kind == SCHEME_SYMMETRIC || s->kind == SCHEME_POWER_OF_TWO;
    const struct observer_choice c = {.method = s->range,
                                      .percentile = s->millionths / 10000.0,
                                      .bits = s->bits,
                                      .is_symmetric = is_even};
    const int32_t all = (1 << s->bits) - 1, side = (1 << (s->bits - 1)) - 1;
    struct grid g = {.least = is_even ? -side : 0, .most = is_even ? side : all};
    struct observer_range r;
    observer_values(&c, x, n, scratch, &r);
    const double d = is_even ? r.high / side : (r.high - r.low) / all;
    g.d = half(d);
    if (s->kind == SCHEME_POWER_OF_TWO && d > 0)
        round_to_power(&g, d, x, n);
    if (s->kind == SCHEME_ASYMMETRIC && half_f16_to_f32(g.d) > 0) {
        const double z = observer_nearest(-r.low / (double)half_f16_to_f32(g.d));
        g.zero = z > all ? all : (int32_t)z;
    }
    if (s->kind == SCHEME_AFFINE)
        g.m = half(r.low);
    return g;
}

/* ---- rows ---- */

static enum err put_block(uint32_t type, const struct grid *g, const float *x, uint8_t *out)
{
    uint8_t codes[BLOCK];
    const struct block_type *t = block_type(type);
    const struct block_scales scales = {.d = g->d, .dmin = g->m};
    for (uint32_t i = 0; i < BLOCK; i++)
        codes[i] = (uint8_t)(code(g, x[i]) + t->code_zero);
    memset(out, 0, t->bytes);
    enum err e = block_put_scales(type, &scales, out);
    return e ? e : block_put_codes(type, codes, out);
}

static enum err put_values(uint32_t type, const struct grid *g, const float *x, uint32_t n, uint8_t *out)
{
    const struct block_type *t = block_type(type);
    if (t->codes > 0) {
        for (uint32_t i = 0; i < n; i += BLOCK) {
            enum err e = put_block(type, g, x + i, out + i / BLOCK * t->bytes);
            if (e)
                return e;
        }
        return ERR_NONE;
    }
    for (uint32_t i = 0; i < n; i++) {
        const float v = value(g, code(g, x[i]));
        const uint16_t h = half_f32_to_f16(v);
        if (type == HAL_F16)
            memcpy(out + i * sizeof h, &h, sizeof h);
        else
            memcpy(out + i * sizeof v, &v, sizeof v);
    }
    return ERR_NONE;
}

enum err scheme_encode(const struct scheme *s, uint32_t type, const float *x, uint32_t rows, uint32_t cols,
                       float *scratch, uint8_t *out)
{
    const size_t row_bytes = block_row_bytes(type, cols);
    const struct block_type *t = block_type(type);
    const uint32_t group = s->group <= SCHEME_TENSOR || s->group > cols ? cols : s->group;
    struct grid g = {0};
    enum err e = ERR_NONE;
    if (!scheme_is_valid(s) || row_bytes == 0 || type != scheme_type(s, cols))
        return ERR_ARGUMENT;
    if (s->group == SCHEME_TENSOR)
        g = make_grid(s, x, (size_t)rows * cols, scratch);
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = 0; c < cols && !e; c += group) {
            const float *at = x + (size_t)r * cols + c;
            const uint32_t n = cols - c < group ? cols - c : group;
            if (s->group != SCHEME_TENSOR)
                g = make_grid(s, at, n, scratch);
            e = put_values(type, &g, at, n, out + r * row_bytes + c / t->values * t->bytes);
        }
    return e;
}
