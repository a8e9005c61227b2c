#include "compress/gptq_rows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compress/tiles.h"
#include "compress/wide.h"
#include "hal/block.h"

enum { TILE = 128, HALF_TILE = 192, PASSES = 3 };

enum err gptq_rows_open(uint32_t type, const float *w, uint32_t rows, uint32_t cols,
                        struct gptq_basis *b, uint8_t *blocks, struct gptq_rows **out)
{
    const struct block_type *t = block_type(type);
    struct gptq_rows *g = calloc(1, sizeof *g);
    if (!g)
        return ERR_MEMORY;
    *g = (struct gptq_rows){.type = type, .rows = rows, .cols = cols, .step = 1, .w = w, .basis = b,
                            .blocks = blocks, .codes = t->codes, .is_even = true};
    for (uint32_t i = 0; i < t->codes && i < 256; i++) {
        g->level[i] = block_level(type, i);
        g->is_even = g->is_even && (i == 0 || g->level[i] == g->level[i - 1] + 1);
    }
    g->code[0] = malloc((size_t)rows * cols);
    g->code[1] = malloc((size_t)rows * cols);
    g->row_error = calloc(rows, 3 * sizeof *g->row_error);
    g->row_energy = calloc(rows, sizeof *g->row_energy);
    if (!g->code[0] || !g->code[1] || !g->row_error || !g->row_energy) {
        gptq_rows_close(g);
        return ERR_MEMORY;
    }
    *out = g;
    return ERR_NONE;
}

void gptq_rows_close(struct gptq_rows *g)
{
    if (!g)
        return;
    free(g->code[0]);
    free(g->code[1]);
    free(g->row_error);
    free(g->row_energy);
    free(g);
}

/* What one strip works on; rows are of the strip, places k are permuted columns. */
struct strip {
    struct gptq_rows *g;
    uint32_t rows;
    float *w, *scale, *minimum, *error, *target; /* [GPTQ_STRIP, cols] */
    uint8_t *code;                                         /* [GPTQ_STRIP, cols] permuted */
};

static void strip_close(struct strip *s)
{
    free(s->w);
    free(s->scale);
    free(s->minimum);
    free(s->error);
    free(s->target);
    free(s->code);
}

static enum err strip_open(struct strip *s, struct gptq_rows *g, uint32_t rows)
{
    const size_t values = (size_t)GPTQ_STRIP * g->cols;
    *s = (struct strip){.g = g, .rows = rows};
    s->w = calloc(values, sizeof(float));
    s->scale = malloc(values * sizeof(float));
    s->minimum = malloc(values * sizeof(float));
    s->error = calloc(values, sizeof(float));
    s->target = malloc(values * sizeof(float));
    s->code = malloc(values);
    return s->w && s->scale && s->minimum && s->error && s->target && s->code ? ERR_NONE : ERR_MEMORY;
}

/* One row into permuted order, with the scale and minimum of every place spread out. */
static enum err load_row(struct strip *s, uint32_t r, uint32_t row, float *plain)
{
    const struct gptq_rows *g = s->g;
    const struct block_type *t = block_type(g->type);
    const uint32_t *order = g->basis->order;
    const uint8_t *block = g->blocks + (size_t)row * block_row_bytes(g->type, g->cols);
    float *scale = plain, *minimum = plain + g->cols;
    uint8_t *code = (uint8_t *)(void *)(plain + 2 * (size_t)g->cols);
    for (uint32_t c = 0; c < g->cols; c += t->values, block += t->bytes) {
        struct block_codes b;
        enum err e = block_unpack(g->type, block, &b);
        if (e)
            return e;
        for (uint32_t i = 0; i < t->values; i++) {
            scale[c + i] = b.scale[i / t->group];
            minimum[c + i] = b.minimum[i / t->group];
            code[c + i] = b.code[i];
        }
    }
    for (uint32_t k = 0; k < g->cols; k++) {
        const size_t at = (size_t)r * g->cols + k;
        s->w[at] = g->w[(size_t)row * g->cols + order[k]];
        s->scale[at] = scale[order[k]];
        s->minimum[at] = minimum[order[k]];
        s->code[at] = code[order[k]];
    }
    return ERR_NONE;
}

/* The code whose value is nearest to x before scaling. */
static uint8_t nearest(const struct gptq_rows *g, float x)
{
    if (g->is_even) {
        /* -128 of Q8_0 is left out: kernels may negate codes in 8 bits */
        const float first = g->type == HAL_Q8_0 ? 1 : 0, last = (float)(g->codes - 1);
        const float place = floorf(x - g->level[0] + 0.5f);
        return (uint8_t)(place < first ? first : place > last ? last : place);
    }
    uint32_t best = 0;
    float least = fabsf(x - g->level[0]);
    for (uint32_t i = 1; i < g->codes; i++)
        if (fabsf(x - g->level[i]) < least) {
            least = fabsf(x - g->level[i]);
            best = i;
        }
    return (uint8_t)best;
}

static float value_of(const struct strip *s, size_t at, uint8_t code)
{
    return s->scale[at] * s->g->level[code] - s->minimum[at];
}

static uint8_t round_to(const struct strip *s, size_t at, float target, uint8_t held)
{
    const float scale = s->scale[at];
    return scale == 0 ? held : nearest(s->g, (target + s->minimum[at]) / scale);
}

WIDE static void axpy(float *restrict y, const float *restrict x, float a, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] += a * x[i];
}

/* target_k = w_k + sum over j < k of (w_j - q_j) T[j][k]: what is left of the tile by columns before it,
 * then within it column by column. */
static void feed_back(struct strip *s)
{
    const uint32_t n = s->g->cols;
    const float *t = s->g->basis->factor;
    for (uint32_t k0 = 0; k0 < n; k0 += TILE) {
        const uint32_t width = n - k0 < TILE ? n - k0 : TILE;
        for (uint32_t r = 0; r < s->rows; r++)
            memcpy(s->target + (size_t)r * n + k0, s->w + (size_t)r * n + k0, width * sizeof(float));
        tiles_multiply(s->target, s->error, t, s->rows, k0, k0, k0 + width, n);
        for (uint32_t k = k0; k < k0 + width; k++)
            for (uint32_t r = 0; r < s->rows; r++) {
                const size_t at = (size_t)r * n + k;
                s->code[at] = round_to(s, at, s->target[at], s->code[at]);
                s->error[at] = s->w[at] - value_of(s, at, s->code[at]);
                axpy(s->target + at + 1, t + (size_t)k * n + k + 1, s->error[at], k0 + width - k - 1);
            }
    }
}

/* target = x m of all rows at once, so that m is read once. */
static void multiply(struct strip *s, const float *x, const float *m)
{
    const uint32_t n = s->g->cols;
    memset(s->target, 0, (size_t)s->rows * n * sizeof *s->target);
    tiles_multiply(s->target, x, m, s->rows, n, 0, n, n);
}

/* In target what gives x m x^T of a row as its sum with x: m is symmetric, what is left of a tile counts twice. */
static void multiply_half(struct strip *s, const float *x, const float *m)
{
    const uint32_t n = s->g->cols;
    memset(s->target, 0, (size_t)s->rows * n * sizeof *s->target);
    for (uint32_t from = 0; from < n; from += HALF_TILE) {
        const uint32_t to = n - from < HALF_TILE ? n : from + HALF_TILE;
        tiles_multiply(s->target, x, m, s->rows, from, from, to, n);
        for (uint32_t r = 0; r < s->rows; r++)
            for (uint32_t k = from; k < to; k++)
                s->target[(size_t)r * n + k] *= 2;
        tiles_multiply(s->target, x + from, m + (size_t)from * n, s->rows, to - from, from, to, n);
    }
}

/* x m x^T of one row, after multiply_half. */
static double norm(const struct strip *s, uint32_t r, const float *x)
{
    double sum = 0;
    for (size_t at = (size_t)r * s->g->cols; at < (size_t)(r + 1) * s->g->cols; at++)
        sum += (double)s->target[at] * (double)x[at];
    return sum > 0 ? sum : 0;
}

/* Move single codes while the damped training error of the row falls; target holds error x train. */
static void polish(struct strip *s, uint32_t r, double damp_diagonal)
{
    const uint32_t n = s->g->cols;
    const float *h = s->g->basis->train;
    float *e = s->error + (size_t)r * n, *g = s->target + (size_t)r * n;
    const float damp = (float)damp_diagonal;
    for (uint32_t pass = 0; pass < PASSES; pass++) {
        uint32_t moves = 0;
        for (uint32_t j = 0; j < n; j++) {
            const size_t at = (size_t)r * n + j;
            const float diagonal = h[(size_t)j * n + j] + damp, slope = g[j] + damp * e[j];
            const float now = s->w[at] - e[j];
            const uint8_t code = round_to(s, at, now + slope / diagonal, s->code[at]);
            const float change = value_of(s, at, code) - now;
            if (code == s->code[at] || !(2 * change * slope - change * change * diagonal > 0))
                continue;
            s->code[at] = code;
            e[j] -= change;
            axpy(g, h + (size_t)j * n, -change, n);
            moves++;
        }
        if (moves == 0)
            return;
    }
}

static void errors_now(struct strip *s)
{
    for (size_t at = 0; at < (size_t)s->rows * s->g->cols; at++)
        s->error[at] = s->w[at] - value_of(s, at, s->code[at]);
}

/* Judge what the strip holds now, and keep its codes in storage order. */
static void keep(struct strip *s, uint32_t first, uint32_t way)
{
    const struct gptq_rows *g = s->g;
    multiply_half(s, s->error, g->basis->held ? g->basis->held : g->basis->train);
    for (uint32_t r = 0; r < s->rows; r++) {
        const size_t row = (size_t)(first + r) * g->step;
        g->row_error[3 * (size_t)(first + r) + way] = norm(s, r, s->error);
        for (uint32_t k = 0; way != GPTQ_SEARCH && k < g->cols; k++)
            g->code[way - 1][row * g->cols + g->basis->order[k]] = s->code[(size_t)r * g->cols + k];
    }
}

enum err gptq_rows_run(struct gptq_rows *g, uint32_t first, uint32_t last)
{
    struct strip s;
    double mean = 0;
    float *plain = malloc(g->cols * (2 * sizeof(float) + 1));
    enum err e = strip_open(&s, g, last - first);
    if (!plain)
        e = ERR_MEMORY;
    for (uint32_t r = 0; !e && r < s.rows; r++)
        e = load_row(&s, r, (first + r) * g->step, plain);
    if (e)
        goto out;
    if (!g->is_sample) {
        multiply_half(&s, s.w, g->basis->held ? g->basis->held : g->basis->train);
        for (uint32_t r = 0; r < s.rows; r++)
            g->row_energy[first + r] = norm(&s, r, s.w);
        errors_now(&s);
        keep(&s, first, GPTQ_SEARCH);
    }
    feed_back(&s);
    keep(&s, first, GPTQ_LDLQ);
    for (uint32_t k = 0; k < g->cols; k++)
        mean += (double)g->basis->train[(size_t)k * g->cols + k] / g->cols;
    multiply(&s, s.error, g->basis->train);
    for (uint32_t r = 0; r < s.rows; r++)
        polish(&s, r, g->basis->damp * mean);
    keep(&s, first, GPTQ_POLISHED);
out:
    strip_close(&s);
    free(plain);
    return e;
}

enum err gptq_rows_pack(struct gptq_rows *g, uint32_t taken)
{
    const struct block_type *t = block_type(g->type);
    if (taken == GPTQ_SEARCH)
        return ERR_NONE;
    const uint8_t *code = g->code[taken - 1];
    uint8_t *block = g->blocks;
    for (size_t at = 0; at < (size_t)g->rows * g->cols; at += t->values, block += t->bytes) {
        struct block_codes b;
        enum err e = block_unpack(g->type, block, &b);
        if (e)
            return e;
        memcpy(b.code, code + at, t->values);
        if ((e = block_pack(g->type, &b, block)))
            return e;
    }
    return ERR_NONE;
}
