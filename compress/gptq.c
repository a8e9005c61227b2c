#include "compress/gptq.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compress/gptq_rows.h"
#include "compress/parallel.h"
#include "hal/block.h"
#include "hal/engine.h"

enum { SAMPLE_ROWS = 96, DAMPS = 5 };

static const double damps[DAMPS] = {0.001, 0.003, 0.01, 0.03, 0.1};

struct ranked {
    float energy;
    uint32_t column;
};

static int by_energy(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->energy != y->energy)
        return x->energy > y->energy ? -1 : 1;
    return x->column < y->column ? -1 : x->column > y->column;
}

enum err gptq_basis_open(struct hessian *h, struct gptq_basis **out)
{
    const size_t n = h->cols;
    struct gptq_basis *b = calloc(1, sizeof *b);
    struct ranked *ranked = malloc(n * sizeof *ranked);
    enum err e = b && ranked ? ERR_NONE : ERR_MEMORY;
    if (e)
        goto out;
    b->cols = h->cols;
    b->order = malloc(n * sizeof *b->order);
    b->importance = malloc(n * sizeof *b->importance);
    b->train = malloc(n * n * sizeof *b->train);
    if (!b->order || !b->importance || !b->train) {
        e = ERR_MEMORY;
        goto out;
    }
    for (uint32_t i = 0; i < n; i++)
        ranked[i] = (struct ranked){b->importance[i] = h->sum[HESSIAN_TRAIN][i * n + i], i};
    qsort(ranked, n, sizeof *ranked, by_energy);
    for (uint32_t i = 0; i < n; i++)
        b->order[i] = ranked[i].column;
    hessian_permute(h->sum[HESSIAN_TRAIN], b->order, h->cols, b->train);
    if (h->rows[HESSIAN_HELD] > 0) { /* into the square that is free now */
        hessian_permute(h->sum[HESSIAN_HELD], b->order, h->cols, h->sum[HESSIAN_TRAIN]);
        b->held = h->sum[HESSIAN_TRAIN];
        h->sum[HESSIAN_TRAIN] = NULL;
    }
out:
    free(ranked);
    hessian_close(h);
    if (e)
        gptq_basis_close(b);
    else
        *out = b;
    return e;
}

void gptq_basis_close(struct gptq_basis *b)
{
    if (!b)
        return;
    free(b->order);
    free(b->importance);
    free(b->train);
    free(b->held);
    free(b->factor);
    free(b);
}

static enum err do_rows(void *context, uint32_t first, uint32_t last)
{
    struct gptq_rows *g = context;
    return gptq_rows_run(g, first, last);
}

/* Output error of the rows [0, rows) by the three ways, each as a share of tr(W H W^T). */
static enum err judge(struct gptq_rows *g, uint32_t threads, uint32_t rows, uint32_t step, double out[3])
{
    double energy = 0;
    memset(out, 0, 3 * sizeof *out);
    g->step = step;
    enum err e = parallel_run(threads, rows, GPTQ_STRIP, do_rows, g);
    for (uint32_t r = 0; !e && r < rows; r++) { /* in order: the same sum for any number of threads */
        for (uint32_t k = 0; k < 3; k++)
            out[k] += g->row_error[3 * (size_t)r + k];
        energy += g->is_sample ? 1 : g->row_energy[r];
    }
    for (uint32_t k = 0; k < 3; k++)
        out[k] = energy > 0 ? out[k] / energy : 0;
    return e;
}

static enum err factor(struct gptq_basis *b, double damp, uint32_t threads)
{
    if (!b->factor && !(b->factor = malloc(hessian_room(b->cols))))
        return ERR_MEMORY;
    enum err e = ERR_NONE;
    for (; damp <= 10; damp *= 10) { /* a matrix that is not definite needs more */
        e = hessian_factor_within(b->train, b->cols, damp, b->factor, threads);
        if (e != ERR_ARGUMENT)
            break;
        e = ERR_NONE;
    }
    if (damp > 10) /* never: no feedback */
        memset(b->factor, 0, hessian_room(b->cols));
    b->damp = damp;
    return e;
}

/* What a dampening gives on rows spread over the tensor. */
static enum err try_damp(struct gptq_rows *g, double damp, uint32_t threads, double *out)
{
    double error[3];
    const uint32_t sample = g->rows < SAMPLE_ROWS ? g->rows : SAMPLE_ROWS;
    enum err e = factor(g->basis, damp, threads);
    if (e)
        return e;
    g->is_sample = true;
    e = judge(g, threads, sample, g->rows / sample, error);
    g->is_sample = false;
    *out = error[GPTQ_POLISHED] < error[GPTQ_LDLQ] ? error[GPTQ_POLISHED] : error[GPTQ_LDLQ];
    return e;
}

/* The dampening that gives the least held-out error. */
static enum err choose_damp(struct gptq_rows *g, uint32_t threads)
{
    double least = INFINITY, now;
    int best = DAMPS / 2, last = -1;
    for (int i = 0; g->basis->held && i < DAMPS; i++) {
        enum err e = try_damp(g, damps[last = i], threads, &now);
        if (e)
            return e;
        if (now < least) {
            least = now;
            best = i;
        }
    }
    return last == best ? ERR_NONE : factor(g->basis, damps[best], threads);
}

static void pick(struct gptq_result *r)
{
    r->taken = GPTQ_SEARCH;
    if (r->error[GPTQ_LDLQ] < r->error[r->taken])
        r->taken = GPTQ_LDLQ;
    if (r->error[GPTQ_POLISHED] < r->error[r->taken])
        r->taken = GPTQ_POLISHED;
}

enum err gptq_encode(struct engine *engine, uint32_t threads, uint32_t type, const float *w,
                     uint32_t rows, uint32_t cols, struct gptq_basis *b, const float *weights,
                     uint8_t *out, struct gptq_result *result)
{
    struct gptq_rows *g = NULL;
    const size_t row_bytes = block_row_bytes(type, cols);
    const struct block_type *t = block_type(type);
    if (row_bytes == 0 || !t || t->codes == 0 || cols != b->cols || rows == 0)
        return ERR_ARGUMENT;
    enum err e = engine->ops.encode(engine->dev, type, HAL_SEARCH, w, rows, cols,
                                    weights ? weights : b->importance, out, rows * row_bytes);
    if (!e)
        e = gptq_rows_open(type, w, rows, cols, b, out, &g);
    if (!e && b->damp == 0)
        e = choose_damp(g, threads);
    if (!e)
        e = judge(g, threads, rows, 1, result->error);
    if (!e) {
        pick(result);
        result->damp = b->damp;
        e = gptq_rows_pack(g, result->taken);
    }
    gptq_rows_close(g);
    return e;
}
