/* split.c: the sides are tried, then the soonest is taken. */
#include "hal/split.h"

#include <math.h>
#include <time.h>

#include "hal/block.h"

enum {
    TRIES = 2,            /* of each side: the first may wake threads */
    TRIAL_VALUES = 65536, /* of one try */
    LEAST_VALUES = 4096   /* that a time can be taken of */
};

struct piece {
    uint32_t type, kind, method, cols;
    const uint8_t *from;
    uint8_t *to;
    size_t from_bytes, to_bytes; /* of a row */
    const float *importance;
};

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

void split_add(struct split *s, const struct hal_plugin *ops, void *dev)
{
    if (s->sides == SPLIT_SIDES)
        return;
    s->side[s->sides].ops = ops;
    s->side[s->sides++].dev = dev;
}

static enum err run(const struct split *s, uint32_t side, const struct piece *p, uint32_t row,
                    uint32_t rows)
{
    const struct hal_plugin *ops = s->side[side].ops;
    const void *from = p->from + row * p->from_bytes;
    void *to = p->to + row * p->to_bytes;
    if (p->kind == 0)
        return ops->decode(s->side[side].dev, p->type, from, rows * p->from_bytes, rows, p->cols, to);
    return ops->encode(s->side[side].dev, p->type, p->method, from, rows, p->cols, p->importance, to,
                       rows * p->to_bytes);
}

/* The side to go on with; *is_trial: one that is not known yet. */
static uint32_t choose(const struct split *s, const struct piece *p, int *is_trial)
{
    uint32_t best = 0;
    *is_trial = 1;
    for (uint32_t i = 0; i < s->sides; i++)
        if (s->cost[p->type][p->kind].tries[i] < TRIES)
            return i;
    for (uint32_t i = 1; i < s->sides; i++)
        if (s->cost[p->type][p->kind].ns[i] < s->cost[p->type][p->kind].ns[best])
            best = i;
    *is_trial = 0;
    return best;
}

static void note(struct split *s, const struct piece *p, uint32_t side, double ns)
{
    double *least = &s->cost[p->type][p->kind].ns[side];
    uint32_t *tries = &s->cost[p->type][p->kind].tries[side];
    *least = *tries == 0 || ns < *least ? ns : *least;
    *tries = isinf(ns) ? TRIES : *tries + 1;
}

static enum err run_all(struct split *s, const struct piece *p, uint32_t rows)
{
    uint32_t row = 0;
    while (row < rows) {
        int is_trial;
        const uint32_t side = choose(s, p, &is_trial);
        const uint32_t trial = TRIAL_VALUES / p->cols + 1;
        const uint32_t n = is_trial && trial < rows - row ? trial : rows - row;
        const double start = now_ns(), values = (double)n * p->cols;
        const enum err e = run(s, side, p, row, n);
        if (e == ERR_UNSUPPORTED && is_trial && side + 1 < s->sides) {
            note(s, p, side, (double)INFINITY); /* the next one may */
            continue;
        }
        if (e != ERR_NONE)
            return e;
        if (is_trial && values >= LEAST_VALUES)
            note(s, p, side, (now_ns() - start) / values);
        row += n;
    }
    return ERR_NONE;
}

static int is_known(uint32_t type, size_t row_bytes, uint32_t rows, size_t bytes)
{
    return type < SPLIT_TYPES && row_bytes != 0 && rows != 0 && bytes == row_bytes * rows;
}

enum err split_encode(struct split *s, uint32_t type, uint32_t method, const float *x, uint32_t rows,
                      uint32_t cols, const float *importance, void *out, size_t out_bytes)
{
    const size_t row_bytes = block_row_bytes(type, cols);
    const struct piece p = {type, 1 + method,          method,    cols,      (const uint8_t *)x,
                            out,  cols * sizeof(float), row_bytes, importance};
    if (s->sides == 1 || method > HAL_SEARCH || x == NULL || out == NULL ||
        !is_known(type, row_bytes, rows, out_bytes)) /* its words on what is wrong are those of any */
        return s->side[0].ops->encode(s->side[0].dev, type, method, x, rows, cols, importance, out, out_bytes);
    return run_all(s, &p, rows);
}

enum err split_decode(struct split *s, uint32_t type, const void *in, size_t in_bytes, uint32_t rows,
                      uint32_t cols, float *x)
{
    const size_t row_bytes = block_row_bytes(type, cols);
    const struct piece p = {type, 0, 0, cols, in, (uint8_t *)x, row_bytes, cols * sizeof(float), NULL};
    if (s->sides == 1 || in == NULL || x == NULL || !is_known(type, row_bytes, rows, in_bytes))
        return s->side[0].ops->decode(s->side[0].dev, type, in, in_bytes, rows, cols, x);
    return run_all(s, &p, rows);
}
