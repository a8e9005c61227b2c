#include "compress/hessian.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compress/parallel.h"
#include "compress/tiles.h"
#include "compress/wide.h"

enum { TOKENS_AT_ONCE = 256, PANEL = 32, CHUNK = 1024 }; /* CHUNK: of the long axis, so that a panel stays in cache */

uint64_t hessian_bytes(uint32_t cols)
{
    return 2 * (uint64_t)cols * cols * sizeof(float);
}

enum err hessian_open(uint32_t cols, struct hessian **out)
{
    struct hessian *h = calloc(1, sizeof *h);
    if (!h)
        return ERR_MEMORY;
    h->cols = cols;
    for (uint32_t s = 0; s < 2; s++)
        h->sum[s] = calloc((size_t)cols * cols, sizeof(float));
    if (!h->sum[0] || !h->sum[1]) {
        hessian_close(h);
        return ERR_MEMORY;
    }
    *out = h;
    return ERR_NONE;
}

void hessian_close(struct hessian *h)
{
    if (!h)
        return;
    free(h->sum[0]);
    free(h->sum[1]);
    free(h->square[0]);
    free(h->square[1]);
    free(h->panel);
    free(h);
}

struct adding {
    const float *x;
    float *panel, *sum;
    uint32_t rows, cols;
};

static enum err pack_panels(void *context, uint32_t first, uint32_t last)
{
    const struct adding *a = context;
    tiles_pack(a->x, a->rows, a->cols, first, last, a->panel);
    return ERR_NONE;
}

static enum err add_rows(void *context, uint32_t first, uint32_t last)
{
    const struct adding *a = context;
    tiles_square(a->panel, a->rows, a->cols, first * TILES_ROWS, last * TILES_ROWS, a->sum);
    return ERR_NONE;
}

enum err hessian_add(struct hessian *h, uint32_t sample, const float *x, uint32_t rows,
                     uint32_t threads)
{
    enum err e = ERR_NONE;
    const uint32_t panels = (h->cols + TILES_PANEL - 1) / TILES_PANEL;
    if (!h->panel && !(h->panel = malloc((size_t)panels * TILES_PANEL * TOKENS_AT_ONCE * sizeof *h->panel)))
        return ERR_MEMORY;
    for (uint32_t r = 0; !e && r < rows; r += TOKENS_AT_ONCE) {
        struct adding a = {.x = x + (size_t)r * h->cols,
                           .panel = h->panel,
                           .sum = h->sum[sample],
                           .rows = rows - r < TOKENS_AT_ONCE ? rows - r : TOKENS_AT_ONCE,
                           .cols = h->cols};
        e = parallel_run(threads, panels, 16, pack_panels, &a);
        if (!e)
            e = parallel_run(threads, (h->cols + TILES_ROWS - 1) / TILES_ROWS, 16, add_rows, &a);
    }
    h->rows[sample] += rows;
    return e;
}

enum err hessian_split(struct hessian *h, uint32_t cols)
{
    const uint32_t n = h->cols, tail = n - cols;
    for (uint32_t s = 0; s < 2; s++) {
        float *m = h->sum[s];
        const float scale = (float)(1 / (h->rows[s] > 0 ? h->rows[s] : 1));
        if (!(h->square[s] = malloc(((size_t)tail + 1) * sizeof *m)))
            return ERR_MEMORY;
        for (uint32_t i = 0; i < tail; i++)
            h->square[s][i] = scale * m[(size_t)(cols + i) * n + cols + i];
        for (uint32_t i = 0; i < n; i++)
            memmove(m + (size_t)i * cols, m + (size_t)i * n, (i < cols ? i + 1 : cols) * sizeof *m);
        float *less = realloc(m, (size_t)n * cols * sizeof *m);
        h->sum[s] = less ? less : m;
        h->cross[s] = h->sum[s] + (size_t)cols * cols;
        for (size_t i = 0; i < (size_t)tail * cols; i++)
            h->cross[s][i] *= scale;
    }
    h->cols = cols;
    free(h->panel);
    h->panel = NULL;
    return ERR_NONE;
}

void hessian_finish(struct hessian *h)
{
    const uint32_t n = h->cols;
    free(h->panel);
    h->panel = NULL;
    for (uint32_t s = 0; s < 2; s++) {
        float *m = h->sum[s];
        const float scale = (float)(1 / (h->rows[s] > 0 ? h->rows[s] : 1));
        double mean = 0;
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t j = 0; j <= i; j++)
                m[(size_t)j * n + i] = m[(size_t)i * n + j] *= scale;
        for (uint32_t i = 0; i < n; i++)
            mean += (double)m[(size_t)i * n + i] / n;
        for (uint32_t i = 0; i < n; i++) {
            if ((double)m[(size_t)i * n + i] > 1e-8 * mean)
                continue;
            for (uint32_t j = 0; j < n; j++)
                m[(size_t)i * n + j] = m[(size_t)j * n + i] = 0;
            m[(size_t)i * n + i] = (float)(s == HESSIAN_TRAIN ? mean : 0);
        }
    }
}

void hessian_permute(const float *m, const uint32_t *order, uint32_t cols, float *out)
{
    for (uint32_t i = 0; i < cols; i++)
        for (uint32_t j = 0; j < cols; j++)
            out[(size_t)i * cols + j] = m[(size_t)order[i] * cols + order[j]];
}

/* Eight partial sums, so that the compiler may use vectors without reordering anything itself. */
WIDE static double dot(const double *a, const double *b, uint32_t n)
{
    double sum[8] = {0}, rest = 0;
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (uint32_t k = 0; k < 8; k++)
            sum[k] += a[i + k] * b[i + k];
    for (; i < n; i++)
        rest += a[i] * b[i];
    return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7])) + rest;
}

/* The upper triangle, rows of a square or one behind the other. */
struct factoring {
    double *a;
    uint32_t n, from, to; /* the panel's columns */
    bool is_packed;
};

static double *row_of(const struct factoring *f, uint32_t j) /* column k at [k], k >= j */
{
    const size_t n = f->n;
    return f->a + (f->is_packed ? j * (2 * n - j - 1) / 2 : j * n);
}

/* Columns [k, k + TILES_DOTS) of the panel of as many rows from j on: what the columns [c, c + count) take away. */
static void take_away(const struct factoring *f, uint32_t j, uint32_t last, uint32_t k, uint32_t c, uint32_t count)
{
    const double *a[TILES_DOTS], *b[TILES_DOTS];
    double sum[TILES_DOTS][TILES_DOTS] = {{0}}, *to[TILES_DOTS];
    for (uint32_t i = 0; i < TILES_DOTS; i++) { /* past the end the last one again */
        a[i] = row_of(f, j + i < last ? j + i : last - 1) + c;
        b[i] = row_of(f, k + i < f->to ? k + i : f->to - 1) + c;
        to[i] = sum[i];
    }
    tiles_dots(a, b, count, to);
    for (uint32_t i = 0; i < TILES_DOTS && j + i < last; i++)
        for (uint32_t l = 0; l < TILES_DOTS && k + l < f->to; l++)
            if (k + l >= j + i)
                row_of(f, j + i)[k + l] += sum[i][l];
}

/* Rows [first, last): the panel's columns without what the columns right of the panel take away. */
static enum err reduce_rows(void *context, uint32_t first, uint32_t last)
{
    const struct factoring *f = context;
    for (uint32_t c = f->to; c < f->n; c += CHUNK)
        for (uint32_t j = first; j < last; j += TILES_DOTS)
            for (uint32_t k = f->from; k < f->to; k += TILES_DOTS)
                take_away(f, j, last, k, c, f->n - c < CHUNK ? f->n - c : CHUNK);
    return ERR_NONE;
}

/* Rows above the panel: the solution against its triangle. */
static enum err solve_rows(void *context, uint32_t first, uint32_t last)
{
    const struct factoring *f = context;
    for (uint32_t j = first; j < last; j++) {
        double *row = row_of(f, j);
        for (uint32_t k = f->to; k-- > f->from;) {
            const double *other = row_of(f, k);
            row[k] = (row[k] - dot(row + k + 1, other + k + 1, f->to - k - 1)) / other[k];
        }
    }
    return ERR_NONE;
}

static enum err factor_diagonal(const struct factoring *f)
{
    for (uint32_t k = f->to; k-- > f->from;) {
        double *row = row_of(f, k);
        const double rest = row[k] - dot(row + k + 1, row + k + 1, f->to - k - 1);
        if (!(rest > 0) || isinf(rest))
            return ERR_ARGUMENT;
        row[k] = sqrt(rest);
        for (uint32_t j = f->from; j < k; j++) {
            double *above = row_of(f, j);
            above[k] = (above[k] - dot(above + k + 1, row + k + 1, f->to - k - 1)) / row[k];
        }
    }
    return ERR_NONE;
}

static enum err factor(struct factoring *f, const float *m, double damp, uint32_t threads)
{
    const uint32_t n = f->n;
    double mean = 0;
    for (uint32_t i = 0; i < n; i++)
        mean += (double)m[(size_t)i * n + i] / n;
    for (uint32_t j = 0; j < n; j++) {
        double *row = row_of(f, j);
        for (uint32_t k = j; k < n; k++)
            row[k] = (double)m[(size_t)j * n + k];
        row[j] += damp * mean;
    }
    for (uint32_t to = n; to > 0; to = f->from) {
        f->from = to > PANEL ? to - PANEL : 0;
        f->to = to;
        enum err e = to < n ? parallel_run(threads, to, 32, reduce_rows, f) : ERR_NONE;
        if (!e)
            e = factor_diagonal(f);
        if (!e && f->from > 0)
            e = parallel_run(threads, f->from, 32, solve_rows, f);
        if (e)
            return e;
    }
    return ERR_NONE;
}

enum err hessian_factor(const float *m, uint32_t cols, double damp, double *work, float *t,
                        uint32_t threads)
{
    struct factoring f = {.a = work, .n = cols};
    enum err e = factor(&f, m, damp, threads);
    for (uint32_t j = 0; !e && t && j < cols; j++)
        for (uint32_t k = 0; k < cols; k++)
            t[(size_t)j * cols + k] =
                j < k ? (float)(work[(size_t)j * cols + k] / work[(size_t)k * cols + k]) : 0;
    return e;
}

size_t hessian_room(uint32_t cols)
{
    return (size_t)cols * (cols + (size_t)1) / 2 * sizeof(double);
}

enum err hessian_factor_within(const float *m, uint32_t cols, double damp, void *room, uint32_t threads)
{
    struct factoring f = {.a = room, .n = cols, .is_packed = true};
    char *out = room;
    double *diagonal = malloc(cols * sizeof *diagonal);
    enum err e = diagonal ? factor(&f, m, damp, threads) : ERR_MEMORY;
    for (uint32_t k = 0; !e && k < cols; k++)
        diagonal[k] = row_of(&f, k)[k];
    /* a float never lies behind its double, so that nothing is overwritten before it is read */
    for (uint32_t j = 0; !e && j < cols; j++)
        for (uint32_t k = j; k < cols; k++) {
            double value;
            memcpy(&value, row_of(&f, j) + k, sizeof value);
            const float t = j < k ? (float)(value / diagonal[k]) : 0;
            memcpy(out + ((size_t)j * cols + k) * sizeof t, &t, sizeof t);
        }
    free(diagonal);
    return e;
}

WIDE static void axpy(float *y, const float *x, float a, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] += a * x[i];
}

double hessian_norm(const float *m, uint32_t cols, const float *e, float *scratch)
{
    double sum = 0;
    memset(scratch, 0, cols * sizeof *scratch);
    for (uint32_t j = 0; j < cols; j++)
        if (e[j] != 0)
            axpy(scratch, m + (size_t)j * cols, e[j], cols);
    for (uint32_t j = 0; j < cols; j++)
        sum += (double)scratch[j] * (double)e[j];
    return sum > 0 ? sum : 0;
}
