#include "compress/prune_solve.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compress/parallel.h"
#include "compress/tiles.h"
#include "compress/triangle.h"
#include "compress/wide.h"

enum { SAMPLE_ROWS = 64, SIDES_LEAST = 8, CHUNK = 512 }; /* CHUNK: columns of all sides that stay in cache */

static const double damps[] = {0.0003, 0.003, 0.03, 0.3};
static const double damp_greedy = 0.01;
static const double aim_most = 0.75; /* of what the stream lacks: all of it was worse on held-out text */

enum err prune_solve_gram(const float *w, uint32_t rows, uint32_t cols, uint32_t threads, float *gram)
{
    struct hessian *h = NULL;
    enum err e = hessian_open(cols, &h);
    if (!e)
        e = hessian_add(h, HESSIAN_TRAIN, w, rows, threads);
    for (uint32_t i = 0; !e && i < cols; i++) /* not finished: a column of zeros costs nothing here */
        for (uint32_t j = 0; j <= i; j++)
            gram[(size_t)i * cols + j] = gram[(size_t)j * cols + i] = h->sum[HESSIAN_TRAIN][(size_t)i * cols + j];
    hessian_close(h);
    return e;
}

/* ---- choosing ---- */

static uint32_t units_of(const struct prune_units *u)
{
    return u->cols / u->width;
}

/* The cheapest unit of a class that has not lost enough yet. cost(context, unit) is asked of those only. */
static uint32_t cheapest(const struct prune_units *u, const uint8_t *kept, const uint32_t *gone,
                         const double *cost)
{
    uint32_t best = UINT32_MAX;
    for (uint32_t i = 0; i < units_of(u); i++)
        if (kept[i] && gone[i / u->class] < u->gone && (best == UINT32_MAX || cost[i] < cost[best]))
            best = i;
    return best;
}

void prune_solve_lowest(const double *score, const struct prune_units *u, uint8_t *kept)
{
    const uint32_t classes = units_of(u) / u->class;
    for (uint32_t c = 0; c < classes; c++)
        for (uint32_t k = 0; k < u->gone; k++) {
            uint32_t best = UINT32_MAX;
            for (uint32_t i = c * u->class; i < (c + 1) * u->class; i++)
                if (kept[i] && (best == UINT32_MAX || score[i] < score[best]))
                    best = i;
            if (best != UINT32_MAX)
                kept[best] = 0;
        }
}

struct greedy {
    const struct prune_units *u;
    const float *gram, *h;
    double *a, *c; /* compensated: the inverse of h and W^T W, as the columns go */
    double *row;   /* [2, cols] of the column that goes */
    double *r;     /* the factor while the inverse is made */
    double pivot, energy;
    uint8_t *kept;
    double *cost;
    double *block; /* [2, width, width] */
};

static double cross(const struct greedy *g, uint32_t a, uint32_t b)
{
    double sum = 0;
    const uint32_t w = g->u->width;
    for (uint32_t i = a * w; i < (a + 1) * w; i++)
        for (uint32_t j = b * w; j < (b + 1) * w; j++) {
            const size_t at = (size_t)i * g->u->cols + j;
            sum += (double)g->gram[at] * (double)g->h[at];
        }
    return sum;
}

static void drop_plain(struct greedy *g, uint32_t unit)
{
    g->kept[unit] = 0;
    for (uint32_t i = 0; i < units_of(g->u); i++)
        if (g->kept[i])
            g->cost[i] += 2 * cross(g, i, unit);
}

static enum err invert_columns(void *context, uint32_t first, uint32_t last)
{
    const struct greedy *g = context;
    const uint32_t n = g->u->cols;
    for (uint32_t at = first; at < last; at += TRIANGLE_SIDES) {
        double *b = g->a + (size_t)at * n;
        const uint32_t sides = last - at < TRIANGLE_SIDES ? last - at : TRIANGLE_SIDES;
        memset(b, 0, (size_t)n * sides * sizeof *b);
        for (uint32_t s = 0; s < sides; s++)
            b[(size_t)s * n + at + s] = 1;
        triangle_solve(g->r, n, b, sides);
    }
    return ERR_NONE;
}

/* a = (h + damp I)^-1; c is room for the factor until it gets W^T W. */
static enum err invert(struct greedy *g, uint32_t threads)
{
    const uint32_t n = g->u->cols;
    enum err e = hessian_factor(g->h, n, damp_greedy, g->c, NULL, threads);
    g->r = g->c;
    if (!e) {
        triangle_mirror(g->c, n);
        e = parallel_run(threads, n, TRIANGLE_SIDES, invert_columns, g);
    }
    for (size_t i = 0; !e && i < (size_t)n * n; i++)
        g->c[i] = (double)g->gram[i];
    return e;
}

/* a -= a_j a_j^T / a_jj; c loses column j, the others having taken over. */
static enum err update_rows(void *context, uint32_t first, uint32_t last)
{
    const struct greedy *g = context;
    const uint32_t n = g->u->cols;
    const double *aj = g->row, *cj = g->row + n;
    for (uint32_t i = first; i < last; i++) {
        double *a = g->a + (size_t)i * n, *c = g->c + (size_t)i * n;
        const double u = aj[i] / g->pivot, v = cj[i];
        for (uint32_t j = 0; j < n; j++) {
            const double uj = aj[j] / g->pivot;
            a[j] -= u * aj[j];
            c[j] += g->energy * u * uj - u * cj[j] - v * uj;
        }
    }
    return ERR_NONE;
}

static enum err drop_column(struct greedy *g, uint32_t j, uint32_t threads)
{
    const uint32_t n = g->u->cols;
    memcpy(g->row, g->a + (size_t)j * n, n * sizeof *g->row);
    memcpy(g->row + n, g->c + (size_t)j * n, n * sizeof *g->row);
    g->pivot = g->row[j];
    g->energy = g->row[n + j];
    if (!(g->pivot > 0))
        return ERR_ARGUMENT;
    enum err e = parallel_run(threads, n, 64, update_rows, g);
    for (uint32_t i = 0; i < n; i++) /* exactly gone, so that rounding does not bring it back */
        g->a[(size_t)i * n + j] = g->a[(size_t)j * n + i] = g->c[(size_t)i * n + j] = g->c[(size_t)j * n + i] = 0;
    return e;
}

/* What the removal of a unit costs once the rest has taken over: eliminated column by column in a copy. */
static double block_cost(const struct greedy *g, uint32_t unit)
{
    const uint32_t w = g->u->width, n = g->u->cols, at = unit * w;
    double cost = 0, *a = g->block, *c = g->block + (size_t)w * w;
    for (uint32_t i = 0; i < w; i++)
        for (uint32_t j = 0; j < w; j++) {
            a[i * w + j] = g->a[(size_t)(at + i) * n + at + j];
            c[i * w + j] = g->c[(size_t)(at + i) * n + at + j];
        }
    for (uint32_t k = 0; k < w; k++) {
        const double pivot = a[k * w + k], energy = c[k * w + k];
        if (!(pivot > 0))
            continue;
        cost += energy / pivot;
        for (uint32_t i = k + 1; i < w; i++)
            for (uint32_t j = k + 1; j < w; j++) {
                const double u = a[i * w + k] / pivot, uj = a[k * w + j] / pivot;
                c[i * w + j] += energy * u * uj - u * c[k * w + j] - c[i * w + k] * uj;
            }
        for (uint32_t i = k + 1; i < w; i++)
            for (uint32_t j = k + 1; j < w; j++)
                a[i * w + j] -= a[i * w + k] * a[k * w + j] / pivot;
    }
    return cost;
}

static enum err drop_unit(struct greedy *g, uint32_t unit, uint32_t threads)
{
    enum err e = ERR_NONE;
    g->kept[unit] = 0;
    if (!g->a) {
        drop_plain(g, unit);
        return e;
    }
    for (uint32_t i = unit * g->u->width; !e && i < (unit + 1) * g->u->width; i++)
        e = drop_column(g, i, threads);
    for (uint32_t i = 0; !e && i < units_of(g->u); i++)
        if (g->kept[i])
            g->cost[i] = block_cost(g, i);
    return e;
}

static enum err greedy_open(struct greedy *g, bool is_compensated, uint32_t threads)
{
    const uint32_t n = g->u->cols, w = g->u->width;
    if (!(g->cost = calloc(units_of(g->u), sizeof *g->cost)))
        return ERR_MEMORY;
    if (!is_compensated) {
        for (uint32_t i = 0; i < units_of(g->u); i++)
            g->cost[i] = cross(g, i, i);
        return ERR_NONE;
    }
    g->a = malloc((size_t)n * n * sizeof *g->a);
    g->c = malloc((size_t)n * n * sizeof *g->c);
    g->row = malloc(2 * (size_t)n * sizeof *g->row);
    g->block = malloc(2 * (size_t)w * w * sizeof *g->block);
    enum err e = g->a && g->c && g->row && g->block ? invert(g, threads) : ERR_MEMORY;
    for (uint32_t i = 0; !e && i < units_of(g->u); i++)
        g->cost[i] = block_cost(g, i);
    return e;
}

enum err prune_solve_greedy(const float *gram, const float *h, const struct prune_units *u, bool is_compensated,
                            uint32_t threads, uint8_t *kept)
{
    struct greedy g = {.u = u, .gram = gram, .h = h, .kept = kept};
    const uint32_t units = units_of(u), classes = units / u->class;
    uint32_t *gone = calloc(classes, sizeof *gone);
    enum err e = gone ? greedy_open(&g, is_compensated, threads) : ERR_MEMORY;
    for (uint32_t i = 0; !e && i < units; i++)
        if (!kept[i]) {
            e = drop_unit(&g, i, threads);
        }
    for (uint32_t unit; !e && (unit = cheapest(u, kept, gone, g.cost)) != UINT32_MAX;) {
        gone[unit / u->class]++;
        e = drop_unit(&g, unit, threads);
    }
    free(g.a);
    free(g.c);
    free(g.row);
    free(g.block);
    free(g.cost);
    free(gone);
    return e;
}

/* ---- recovering ---- */

struct recovering {
    const struct hessian *h;
    const uint8_t *kept;
    float *w;
    uint32_t rows, cols;
    uint32_t stays, goes;
    uint32_t *stay, *go; /* columns */
    const double *r;     /* factor of the damped H of those that stay, mirrored */
    double aim;          /* share of what the stream lacks that is made up for */
    uint32_t step;       /* rows: every step-th one */
    double *error;       /* [rows / step] after, or NULL: write to w */
    double *plain, *energy; /* once they are known NULL */
};

/* z [sides, n] += x [sides] y [count] */
WIDE static void add_product(double *z, uint32_t n, uint32_t sides, const double *x, const double *y, uint32_t count)
{
    for (uint32_t s = 0; s < sides; s++)
        for (uint32_t k = 0; k < count; k++)
            z[(size_t)s * n + k] += x[s] * y[k];
}

/* z = (W_P H_PK + aim * C_K) (H_KK + d I)^-1 of some rows: z [sides, stays]. */
static void take_over(const struct recovering *v, const uint32_t *row, uint32_t sides, double *z)
{
    const float *h = v->h->sum[HESSIAN_TRAIN], *cross = v->h->cross[HESSIAN_TRAIN];
    const uint32_t n = v->stays;
    for (uint32_t s = 0; s < sides; s++)
        for (uint32_t k = 0; k < n; k++)
            z[(size_t)s * n + k] = cross ? v->aim * (double)cross[(size_t)row[s] * v->cols + v->stay[k]] : 0;
    for (uint32_t c = 0; c < n; c += CHUNK)
        for (uint32_t p = 0; p < v->goes; p++) {
            const uint32_t count = n - c < CHUNK ? n - c : CHUNK;
            double x[TRIANGLE_SIDES], y[CHUNK];
            for (uint32_t s = 0; s < sides; s++)
                x[s] = (double)v->w[(size_t)row[s] * v->cols + v->go[p]];
            for (uint32_t k = 0; k < count; k++)
                y[k] = (double)h[(size_t)v->go[p] * v->cols + v->stay[c + k]];
            add_product(z + c, n, sides, x, y, count);
        }
    triangle_solve(v->r, n, z, sides);
}

enum judged { JUDGED_SOLVED, JUDGED_CUT, JUDGED_WHOLE };

/* Errors of some rows on the moments that judge: with z, of cutting alone, or the energy of the whole.
 * e [2, sides, cols]. */
static void judge(const struct recovering *v, const uint32_t *row, uint32_t sides, const double *z, enum judged what,
                  float *e, double *out)
{
    const uint32_t sample = v->h->rows[HESSIAN_HELD] > 0 ? HESSIAN_HELD : HESSIAN_TRAIN;
    const float *cross = what == JUDGED_WHOLE || v->aim <= 0 ? NULL : v->h->cross[sample];
    float *y = e + (size_t)sides * v->cols;
    memset(y, 0, (size_t)sides * v->cols * sizeof *y);
    for (uint32_t s = 0; s < sides; s++) {
        float *to = e + (size_t)s * v->cols;
        for (uint32_t c = 0; c < v->cols; c++)
            to[c] = what == JUDGED_WHOLE || !v->kept[c] ? v->w[(size_t)row[s] * v->cols + c] : 0;
        for (uint32_t k = 0; what == JUDGED_SOLVED && k < v->stays; k++)
            to[v->stay[k]] = (float)-z[(size_t)s * v->stays + k];
    }
    tiles_multiply(y, e, v->h->sum[sample], sides, v->cols, 0, v->cols, v->cols);
    for (uint32_t s = 0; s < sides; s++) {
        double sum = cross ? (double)v->h->square[sample][row[s]] : 0;
        for (uint32_t c = 0; c < v->cols; c++) {
            const double one = (double)e[(size_t)s * v->cols + c], lacks = cross ? cross[(size_t)row[s] * v->cols + c] : 0;
            sum += one * ((double)y[(size_t)s * v->cols + c] + 2 * lacks);
        }
        out[s] = sum > 0 ? sum : 0;
    }
}

static enum err recover_rows(void *context, uint32_t first, uint32_t last)
{
    const struct recovering *v = context;
    double *z = malloc((size_t)v->stays * TRIANGLE_SIDES * sizeof *z);
    float *e = v->error ? malloc(2 * (size_t)v->cols * TRIANGLE_SIDES * sizeof *e) : NULL;
    if (!z || (v->error && !e)) {
        free(z);
        free(e);
        return ERR_MEMORY;
    }
    for (uint32_t at = first; at < last; at += TRIANGLE_SIDES) {
        uint32_t row[TRIANGLE_SIDES], sides = 0;
        for (; sides < TRIANGLE_SIDES && at + sides < last; sides++)
            row[sides] = (at + sides) * v->step;
        take_over(v, row, sides, z);
        if (v->error)
            judge(v, row, sides, z, JUDGED_SOLVED, e, v->error + at);
        if (v->error && v->plain) {
            judge(v, row, sides, NULL, JUDGED_CUT, e, v->plain + at);
            judge(v, row, sides, NULL, JUDGED_WHOLE, e, v->energy + at);
        }
        for (uint32_t s = 0; !v->error && s < sides; s++)
            for (uint32_t k = 0; k < v->stays; k++)
                v->w[(size_t)row[s] * v->cols + v->stay[k]] += (float)z[(size_t)s * v->stays + k];
    }
    free(z);
    free(e);
    return ERR_NONE;
}

/* So many rows at once that every thread has some. */
static enum err run_rows(struct recovering *v, uint32_t rows, uint32_t threads)
{
    const uint32_t each = (rows + threads - 1) / (threads ? threads : 1);
    const uint32_t grain = each < SIDES_LEAST ? SIDES_LEAST : each < TRIANGLE_SIDES ? each : TRIANGLE_SIDES;
    return parallel_run(threads, rows, grain, recover_rows, v);
}

static double sum_of(const double *x, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += x[i];
    return sum;
}

/* The factor for a dampening into r; part is room for H_KK. */
static enum err factor(const struct recovering *v, double damp, float *part, double *r, uint32_t threads)
{
    for (uint32_t i = 0; i < v->stays; i++)
        for (uint32_t j = 0; j < v->stays; j++)
            part[(size_t)i * v->stays + j] = v->h->sum[HESSIAN_TRAIN][(size_t)v->stay[i] * v->cols + v->stay[j]];
    const enum err e = hessian_factor(part, v->stays, damp, r, NULL, threads);
    if (!e)
        triangle_mirror(r, v->stays);
    return e;
}

static enum err choose_damp(struct recovering *v, float *part, double *r, uint32_t threads, struct prune_recovery *out)
{
    enum err e = ERR_NONE;
    const uint32_t step = v->rows > SAMPLE_ROWS ? v->rows / SAMPLE_ROWS : 1, samples = (v->rows + step - 1) / step;
    double *sums = calloc(3 * (size_t)samples, sizeof *sums), whole = 1;
    if (!sums)
        return ERR_MEMORY;
    v->step = step;
    v->error = sums;
    v->plain = sums + samples;
    v->energy = sums + 2 * (size_t)samples;
    for (size_t i = 0; !e && i < sizeof damps / sizeof *damps; i++) {
        if (factor(v, damps[i], part, r, threads))
            continue; /* not positive definite: more dampening may be enough */
        if ((e = run_rows(v, samples, threads)))
            break;
        if (v->plain) {
            const double energy = sum_of(v->energy, samples);
            whole = energy > 0 ? energy : 1;
            out->before = out->after = sum_of(v->plain, samples) / whole;
            v->plain = v->energy = NULL;
        }
        const double after = sum_of(v->error, samples) / whole;
        if (after < out->after) {
            out->after = after;
            out->damp = damps[i];
        }
    }
    free(sums);
    v->error = NULL;
    v->step = 1;
    return e;
}

enum err prune_solve_recover(const struct hessian *h, const uint8_t *kept, float *w, uint32_t rows, uint32_t threads,
                             struct prune_recovery *out)
{
    struct recovering v = {.h = h, .kept = kept, .w = w, .rows = rows, .cols = h->cols, .step = 1};
    uint32_t *index = malloc((size_t)h->cols * sizeof *index);
    *out = (struct prune_recovery){0};
    if (!index)
        return ERR_MEMORY;
    for (uint32_t c = 0; c < h->cols; c++)
        v.stays += kept[c] != 0;
    v.stay = index;
    v.go = index + v.stays;
    v.stays = 0;
    for (uint32_t c = 0; c < h->cols; c++)
        *(kept[c] ? &v.stay[v.stays++] : &v.go[v.goes++]) = c;
    v.aim = h->cross[HESSIAN_TRAIN] && h->rows[HESSIAN_HELD] > 0 ? aim_most : 0;
    const size_t square = (size_t)v.stays * v.stays;
    float *part = malloc(square * sizeof *part);
    double *r = malloc(square * sizeof *r);
    v.r = r;
    enum err e = part && r ? ERR_NONE : ERR_MEMORY;
    if (!e && (v.goes > 0 || v.aim > 0) && v.stays > 0)
        e = choose_damp(&v, part, r, threads, out);
    if (!e && out->damp > 0 && !(e = factor(&v, out->damp, part, r, threads)))
        e = run_rows(&v, rows, threads);
    for (uint32_t i = 0; !e && i < rows; i++)
        for (uint32_t p = 0; p < v.goes; p++)
            w[(size_t)i * v.cols + v.go[p]] = 0;
    free(index);
    free(part);
    free(r);
    return e;
}
