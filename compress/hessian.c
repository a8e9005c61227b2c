#include "compress/hessian.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compress/parallel.h"

enum { TILE_ROWS = 8, TILE_COLS = 64, TOKENS_AT_ONCE = 256, PANEL = 64 };

/* One source, compiled for each width of vector; lanes are independent sums, so results are equal. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) &&  \
    !defined(__SANITIZE_THREAD__)
#define WIDE __attribute__((target_clones("avx512f", "avx2", "default"), optimize("O3")))
#else
#define WIDE
#endif

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
    free(h);
}

struct adding {
    const float *x;
    float *sum;
    uint32_t rows, cols;
};

/* sum[i0 .. i1][j0 .. j1] += over rows of x_i x_j */
WIDE static void add_tile(const float *x, uint32_t rows, uint32_t cols, uint32_t i0, uint32_t i1, uint32_t j0,
                          uint32_t width, float *sum)
{
    for (uint32_t i = i0; i < i1; i++) {
        float acc[TILE_COLS] = {0};
        if (width == TILE_COLS) {
            for (uint32_t t = 0; t < rows; t++) {
                const float a = x[(size_t)t * cols + i];
                const float *b = x + (size_t)t * cols + j0;
                for (uint32_t j = 0; j < TILE_COLS; j++)
                    acc[j] += a * b[j];
            }
        } else {
            for (uint32_t t = 0; t < rows; t++)
                for (uint32_t j = 0; j < width; j++)
                    acc[j] += x[(size_t)t * cols + i] * x[(size_t)t * cols + j0 + j];
        }
        for (uint32_t j = 0; j < width; j++)
            sum[(size_t)i * cols + j0 + j] += acc[j];
    }
}

static enum err add_rows(void *context, uint32_t first, uint32_t last)
{
    const struct adding *a = context;
    for (uint32_t i0 = first * TILE_ROWS; i0 < last * TILE_ROWS && i0 < a->cols; i0 += TILE_ROWS) {
        const uint32_t i1 = a->cols - i0 < TILE_ROWS ? a->cols : i0 + TILE_ROWS;
        for (uint32_t j0 = 0; j0 < i1; j0 += TILE_COLS) {
            const uint32_t width = a->cols - j0 < TILE_COLS ? a->cols - j0 : TILE_COLS;
            add_tile(a->x, a->rows, a->cols, i0, i1, j0, width, a->sum);
        }
    }
    return ERR_NONE;
}

enum err hessian_add(struct hessian *h, uint32_t sample, const float *x, uint32_t rows,
                     uint32_t threads)
{
    enum err e = ERR_NONE;
    for (uint32_t r = 0; !e && r < rows; r += TOKENS_AT_ONCE) {
        struct adding a = {.x = x + (size_t)r * h->cols,
                           .sum = h->sum[sample],
                           .rows = rows - r < TOKENS_AT_ONCE ? rows - r : TOKENS_AT_ONCE,
                           .cols = h->cols};
        e = parallel_run(threads, (h->cols + TILE_ROWS - 1) / TILE_ROWS, 4, add_rows, &a);
    }
    h->rows[sample] += rows;
    return e;
}

void hessian_finish(struct hessian *h)
{
    const uint32_t n = h->cols;
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

struct factoring {
    double *a;
    uint32_t n, from, to; /* the panel's columns */
};

/* Rows j of the panel's columns: first what the columns right of the panel take away, then, for rows
 * above the panel, the solution against its triangle. */
static enum err factor_rows(void *context, uint32_t first, uint32_t last)
{
    const struct factoring *f = context;
    for (uint32_t j = first; j < last; j++) {
        double *row = f->a + (size_t)j * f->n;
        for (uint32_t k = f->to; k-- > f->from;) {
            const double *other = f->a + (size_t)k * f->n;
            row[k] = (row[k] - dot(row + k + 1, other + k + 1, f->n - k - 1)) / other[k];
        }
    }
    return ERR_NONE;
}

static enum err factor_diagonal(struct factoring *f)
{
    for (uint32_t k = f->to; k-- > f->from;) {
        double *row = f->a + (size_t)k * f->n;
        const double rest = row[k] - dot(row + k + 1, row + k + 1, f->n - k - 1);
        if (!(rest > 0) || isinf(rest))
            return ERR_ARGUMENT;
        row[k] = sqrt(rest);
        for (uint32_t j = f->from; j < k; j++) {
            double *above = f->a + (size_t)j * f->n;
            above[k] = (above[k] - dot(above + k + 1, row + k + 1, f->n - k - 1)) / row[k];
        }
    }
    return ERR_NONE;
}

enum err hessian_factor(const float *m, uint32_t cols, double damp, double *work, float *t,
                        uint32_t threads)
{
    double mean = 0;
    for (uint32_t i = 0; i < cols; i++)
        mean += (double)m[(size_t)i * cols + i] / cols;
    for (size_t i = 0; i < (size_t)cols * cols; i++)
        work[i] = (double)m[i];
    for (uint32_t i = 0; i < cols; i++)
        work[(size_t)i * cols + i] += damp * mean;
    for (uint32_t to = cols; to > 0;) {
        struct factoring f = {.a = work, .n = cols, .from = to > PANEL ? to - PANEL : 0, .to = to};
        enum err e = factor_diagonal(&f);
        if (!e && f.from > 0)
            e = parallel_run(threads, f.from, 32, factor_rows, &f);
        if (e)
            return e;
        to = f.from;
    }
    for (uint32_t j = 0; j < cols; j++)
        for (uint32_t k = 0; k < cols; k++)
            t[(size_t)j * cols + k] =
                j < k ? (float)(work[(size_t)j * cols + k] / work[(size_t)k * cols + k]) : 0;
    return ERR_NONE;
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
