/* check_case.c: inputs by pattern, pairs of matrices, comparison. */
#include "hal/check_case.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "hal/block.h"
#include "hal/half.h"
#include "plugins/scalar/scalar.h"

static const char *const pattern_names[CHECK_PATTERNS] = {"normal", "maximum", "minimum", "zero",
                                                          "ties"};

enum err check_fail(struct check_run *c, enum err e, const char *format, ...)
{
    char what[120];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    if (c->report->error == ERR_NONE) {
        c->report->error = e;
        snprintf(c->report->text, sizeof c->report->text, "%s %.60s pattern=%s seed=%llu: %.90s",
                 c->report->op, c->shape, pattern_names[c->pattern],
                 (unsigned long long)c->options->seed, what);
    }
    return e;
}

void check_case(struct check_run *c, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(c->shape, sizeof c->shape, format, arguments);
    va_end(arguments);
    c->report->steps++;
    if (c->options->verbose != NULL)
        fprintf(c->options->verbose, "%s %s pattern=%s\n", c->report->op, c->shape,
                pattern_names[c->pattern]);
}

/* splitmix64, https://prng.di.unimi.it/splitmix64.c (public domain algorithm) */
static uint64_t next(struct check_run *c)
{
    uint64_t z = c->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

uint32_t check_random(struct check_run *c, uint32_t below)
{
    return (uint32_t)((next(c) >> 32) * below >> 32);
}

/* In [-1, 1) */
static float uniform(struct check_run *c)
{
    return (float)(int32_t)(next(c) >> 40) * 0x1p-23f - 1.0f;
}

void check_fill_normal(struct check_run *c, float *x, size_t values)
{
    for (size_t i = 0; i < values; i++)
        x[i] = uniform(c) + uniform(c) + uniform(c);
}

void check_fill(struct check_run *c, float *x, size_t values)
{
    /* with amax 127 the ties are exact; with another a wrong formula of the scale shows */
    const float amax = check_random(c, 2) == 0 ? 127.0f : 2.0f + uniform(c);
    switch (c->pattern) {
    case CHECK_MAXIMUM:
    case CHECK_MINIMUM:
        for (size_t i = 0; i < values; i++)
            x[i] = c->pattern == CHECK_MAXIMUM ? 3.0f : -3.0f;
        return;
    case CHECK_ZERO: memset(x, 0, values * sizeof *x); return;
    case CHECK_TIES:
        for (size_t i = 0; i < values; i++) {
            const float tie = ((float)check_random(c, 126) + 0.5f) * (amax / 127.0f);
            x[i] = i % 4 == 3 ? amax : check_random(c, 2) ? tie : -tie;
        }
        return;
    default: check_fill_normal(c, x, values);
    }
}

/* The greatest stored scale and minimum of a type with 256 values. */
static void scale_range(uint32_t type, int *low, int *high)
{
    *low = type == HAL_Q3_K || type == HAL_IQ4_XS ? -32 : type == HAL_Q6_K ? -128 : 0;
    *high = type == HAL_Q2_K                         ? 15
            : type == HAL_Q3_K || type == HAL_IQ4_XS ? 31
            : type == HAL_Q6_K                       ? 127
                                                     : 63;
    if (type == HAL_NF4) {
        *low = -100;
        *high = 100;
    }
}

static void fill_block(struct check_run *c, const struct block_type *t, uint8_t *block)
{
    struct block_scales s;
    uint8_t code[BLOCK_VALUES_MAX];
    int low, high;
    memset(&s, 0, sizeof s);
    scale_range(t->type, &low, &high);
    s.d = half_f32_to_f16(0.004f * (1.5f + uniform(c)));
    s.dmin = half_f32_to_f16((t->type == HAL_NF4 ? 0.9f : 0.03f) * (1.5f + uniform(c)));
    for (uint32_t i = 0; i < t->values; i++) {
        code[i] = (uint8_t)check_random(c, t->codes);
        if (t->type == HAL_Q8_0 && code[i] == 0)
            code[i] = 1;
    }
    for (int g = 0; g < BLOCK_GROUPS_MAX; g++) {
        s.s[g] = (int8_t)(low + (int)check_random(c, (uint32_t)(high - low + 1)));
        s.m[g] = (uint8_t)check_random(c, t->type == HAL_Q2_K ? 16 : 64);
    }
    if (c->pattern == CHECK_MAXIMUM || c->pattern == CHECK_MINIMUM) {
        const int is_top = c->pattern == CHECK_MAXIMUM;
        s.d = half_f32_to_f16(1.0f);
        s.dmin = half_f32_to_f16(is_top ? 0.0f : 1.0f);
        memset(s.s, high, sizeof s.s);
        memset(s.m, t->type == HAL_Q2_K ? 15 : 63, sizeof s.m);
        memset(code, is_top ? (int)t->codes - 1 : t->type == HAL_Q8_0, sizeof code);
    } else if (c->pattern == CHECK_ZERO) {
        s.d = s.dmin = 0;
    }
    /* t has codes: these cannot fail */
    if (block_put_scales(t->type, &s, block) != ERR_NONE ||
        block_put_codes(t->type, code, block) != ERR_NONE)
        memset(block, 0, t->bytes);
}

void check_fill_weights(struct check_run *c, uint32_t type, uint32_t rows, uint32_t cols,
                        uint8_t *out)
{
    const struct block_type *t = block_type(type);
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t i = 0; i < cols; i += t->values, out += t->bytes) {
            float value;
            if (t->codes != 0) {
                fill_block(c, t, out);
                continue;
            }
            check_fill(c, &value, 1);
            if (scalar_encode(c->reference, type, HAL_RTN, &value, 1, 1, NULL, out, t->bytes) !=
                ERR_NONE)
                memset(out, 0, t->bytes);
        }
}

enum err check_pair_new(struct check_run *c, uint32_t use, uint32_t type, uint32_t rows,
                        uint32_t cols, struct check_pair *out)
{
    const struct hal_mat m = {.type = type, .use = use, .rows = rows, .cols = cols};
    out->mine = out->theirs = m;
    enum err e = scalar_mat_new(c->reference, &out->theirs);
    if (e != ERR_NONE)
        return check_fail(c, e, "the check has no memory");
    e = c->plugin->mat_new(c->dev, &out->mine);
    if (e != ERR_NONE)
        return check_fail(c, e, "mat_new %s: %s", block_type(type)->name, err_name(e));
    return ERR_NONE;
}

enum err check_pair_put(struct check_run *c, struct check_pair *pair, const void *rows)
{
    const struct hal_mat *m = &pair->theirs;
    const size_t bytes = block_row_bytes(m->type, m->cols) * m->rows;
    memcpy(m->mem, rows, bytes);
    const enum err e = c->plugin->mat_put(c->dev, &pair->mine, 0, m->rows, rows, bytes);
    return e == ERR_NONE ? e : check_fail(c, e, "mat_put: %s", err_name(e));
}

enum err check_pair_activation(struct check_run *c, uint32_t rows, uint32_t cols,
                               struct check_pair *out)
{
    enum err e = check_pair_new(c, HAL_ACTIVATION, HAL_F32, rows, cols, out);
    float *x = malloc((size_t)rows * cols * sizeof *x);
    if (e == ERR_NONE && x == NULL)
        e = ERR_MEMORY;
    if (e == ERR_NONE) {
        check_fill(c, x, (size_t)rows * cols);
        e = check_pair_put(c, out, x);
    }
    free(x);
    return e;
}

enum err check_pair_weight(struct check_run *c, uint32_t type, uint32_t rows, uint32_t cols,
                           struct check_pair *out)
{
    enum err e = check_pair_new(c, HAL_WEIGHT, type, rows, cols, out);
    uint8_t *w = malloc(block_row_bytes(type, cols) * rows);
    if (e == ERR_NONE && w == NULL)
        e = ERR_MEMORY;
    if (e == ERR_NONE) {
        check_fill_weights(c, type, rows, cols, w);
        e = check_pair_put(c, out, w);
    }
    free(w);
    return e;
}

void check_pair_free(struct check_run *c, struct check_pair *pair)
{
    if (pair->mine.mem != NULL)
        c->plugin->mat_free(c->dev, &pair->mine);
    if (pair->theirs.mem != NULL)
        scalar_mat_free(c->reference, &pair->theirs);
    memset(pair, 0, sizeof *pair);
}

static enum err compare_values(struct check_run *c, const float *mine, const float *theirs,
                               uint32_t rows, uint32_t cols, double tolerance)
{
    double largest = 0.0;
    const size_t values = (size_t)rows * cols;
    for (size_t i = 0; i < values; i++)
        if (isfinite(theirs[i]) && fabs((double)theirs[i]) > largest)
            largest = fabs((double)theirs[i]);
    for (size_t i = 0; i < values; i++) {
        /* |got - NaN| > limit is false, so not-finite has a rule of its own: the same kind */
        const double difference = fabs((double)mine[i] - (double)theirs[i]);
        const int is_same = isnan(theirs[i])   ? isnan(mine[i])
                            : isinf(theirs[i]) ? mine[i] == theirs[i]
                                               : difference <= tolerance * largest;
        if (!is_same)
            return check_fail(c, ERR_MISMATCH, "[%zu,%zu] got %.9g wanted %.9g", i / cols, i % cols,
                              (double)mine[i], (double)theirs[i]);
    }
    return ERR_NONE;
}

enum err check_pair_compare(struct check_run *c, const struct check_pair *pair)
{
    const struct hal_mat *m = &pair->theirs;
    const size_t bytes = block_row_bytes(m->type, m->cols) * m->rows;
    uint8_t *mine = malloc(bytes);
    if (mine == NULL)
        return check_fail(c, ERR_MEMORY, "the check has no memory");
    enum err e = c->plugin->mat_get(c->dev, &pair->mine, 0, m->rows, mine, bytes);
    if (e != ERR_NONE)
        e = check_fail(c, e, "mat_get: %s", err_name(e));
    else if (m->type == HAL_F32)
        e = compare_values(c, (const float *)(const void *)mine, m->mem, m->rows, m->cols,
                           check_op_find(c->report->op)->tolerance);
    else
        e = check_same_bytes(c, mine, m->mem, bytes);
    free(mine);
    c->report->cases++;
    return e;
}

enum err check_same_error(struct check_run *c, enum err mine, enum err theirs)
{
    if (mine == theirs)
        return mine == ERR_NONE ? ERR_NONE : check_fail(c, mine, "both: %s", err_name(mine));
    return check_fail(c, ERR_MISMATCH, "returned %s, wanted %s", err_name(mine), err_name(theirs));
}

enum err check_same_bytes(struct check_run *c, const void *mine, const void *theirs, size_t bytes)
{
    const uint8_t *a = mine, *b = theirs;
    for (size_t i = 0; i < bytes; i++)
        if (a[i] != b[i])
            return check_fail(c, ERR_MISMATCH, "byte %zu got %02x wanted %02x", i, a[i], b[i]);
    return ERR_NONE;
}
