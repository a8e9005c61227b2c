/* hexagon_matmul.c: each product to the side that will be done sooner, by what was measured at
 * open. */
#include "plugins/hexagon/hexagon.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static double now_ns(void)
{
    struct timespec t;
    if (clock_gettime(CLOCK_MONOTONIC, &t) != 0)
        return 0;
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static size_t x_bytes(uint32_t tokens, uint32_t cols)
{
    return (size_t)tokens * cols + (size_t)tokens * (cols / HEXAGON_GROUP) * sizeof(float);
}

/* One invocation for up to HEXAGON_TOKENS_MAX tokens; x and y are rpcmem. */
static int invoke(const struct hexagon_dev *dev, struct hexagon_shape *s, int8_t *q, float *d,
                  const uint8_t *packed, float *y)
{
    const size_t values = (size_t)s->tokens * s->cols;
    union hexagon_arg args[5] = {
        {.buffer = {s, sizeof *s}},
        {.buffer = {q, values}},
        {.buffer = {d, values / HEXAGON_GROUP * sizeof(float)}},
        {.buffer = {(void *)(uintptr_t)packed, hexagon_packed_bytes(s->type, s->rows, s->cols)}},
        {.buffer = {y, (size_t)s->tokens * s->rows * sizeof(float)}}};
    return dev->rpc.invoke(dev->handle, HEXAGON_SCALARS(HEXAGON_MATMUL, 4, 1, 0, 0), args);
}

/* The DSP is gone with all its state; the weights are in our memory, so the CPU goes on. */
static void lose_dsp(struct hexagon_dev *dev, int rc)
{
    char text[96];
    dev->is_alive = 0;
    snprintf(text, sizeof text, "hexagon: the DSP failed with 0x%x, the CPU goes on", (unsigned)rc);
    const struct hal_host *host = &hexagon_cpu_scalar(&dev->cpu)->host;
    if (host->log)
        host->log(4, text); /* LOG_WARNING */
}

/* Tokens that one call takes: what the two rpcmem buffers hold; 0: not even one. */
static uint32_t tokens_at_once(const struct hexagon_dev *dev, const struct hexagon_shape *s)
{
    size_t n = dev->x_bytes / x_bytes(1, s->cols);
    const size_t by_y = dev->y_bytes / ((size_t)s->rows * sizeof(float));
    n = by_y < n ? by_y : n;
    n = n > HEXAGON_TOKENS_MAX ? HEXAGON_TOKENS_MAX : n;
    return n < s->tokens ? (uint32_t)n : s->tokens;
}

static int is_sooner_on_dsp(const struct hexagon_dev *dev, const struct hexagon_shape *s)
{
    const uint32_t step = tokens_at_once(dev, s);
    if (!dev->is_alive || step == 0)
        return 0;
    const double work = (double)s->tokens * s->rows * s->cols;
    const double calls = (double)((s->tokens + step - 1) / step);
    return dev->is_forced || calls * dev->call_ns + work * dev->dsp_ns < work * dev->cpu_ns;
}

/* All tokens on the DSP, call by call; false once it has failed. */
static int on_dsp(struct hexagon_dev *dev, const struct hexagon_shape *whole, const int8_t *q,
                  const float *d, const uint8_t *packed, float *y)
{
    struct hexagon_shape s = *whole;
    const uint32_t step = tokens_at_once(dev, whole), groups = whole->cols / HEXAGON_GROUP;
    for (uint32_t t = 0; t < whole->tokens; t += step) {
        s.tokens = whole->tokens - t < step ? whole->tokens - t : step;
        const size_t values = (size_t)s.tokens * s.cols;
        float *scales = (float *)(void *)(dev->x + values); /* cols is a multiple of 32 */
        memcpy(dev->x, q + (size_t)t * s.cols, values);
        memcpy(scales, d + (size_t)t * groups, values / HEXAGON_GROUP * sizeof(float));
        const int rc = invoke(dev, &s, (int8_t *)dev->x, scales, packed, dev->y);
        if (rc != 0) {
            lose_dsp(dev, rc);
            return 0;
        }
        memcpy(y + (size_t)t * s.rows, dev->y, (size_t)s.tokens * s.rows * sizeof(float));
    }
    return 1;
}

struct rounding {
    const float *x;
    int8_t *q;
    float *d;
    uint32_t cols;
};

static void round_rows(void *context, uint32_t first, uint32_t last)
{
    const struct rounding *r = context;
    for (uint32_t i = first; i < last; i++)
        scalar_round_row(r->x + (size_t)i * r->cols, r->cols, r->q + (size_t)i * r->cols,
                         r->d + (size_t)i * (r->cols / HEXAGON_GROUP), NULL);
}

enum err hexagon_matmul(void *opened, const struct hal_mat *const *y, const struct hal_mat *x,
                        const struct hal_mat *const *w, uint32_t count)
{
    struct hexagon_dev *dev = opened;
    const enum err e = scalar_check_matmul(y, x, w, count);
    if (e)
        return e;
    struct scalar_dev *scalar = hexagon_cpu_scalar(&dev->cpu);
    const size_t values = (size_t)x->rows * x->cols;
    struct rounding r = {.x = x->mem, .cols = x->cols};
    for (uint32_t i = 0; i < count; i++) {
        if (!hexagon_is_packed(w[i])) {
            const enum err failed = hexagon_cpu_matmul(opened, y + i, x, w + i, 1);
            if (failed)
                return failed;
            r.q = NULL; /* the scratch was used */
            continue;
        }
        if (!r.q) {
            if (x_bytes(x->rows, x->cols) > scalar->scratch_bytes)
                return ERR_ARGUMENT; /* x was not made by this dev */
            r.d = scalar->scratch;
            r.q = (int8_t *)(r.d + values / HEXAGON_GROUP);
            scalar_parallel(scalar, x->rows, 1, round_rows, &r);
        }
        const struct hexagon_shape s = {w[i]->type, x->rows, w[i]->rows, x->cols};
        if (!is_sooner_on_dsp(dev, &s) || !on_dsp(dev, &s, r.q, r.d, w[i]->mem, y[i]->mem))
            hexagon_multiply_cpu(dev, &s, r.q, r.d, w[i]->mem, y[i]->mem);
    }
    return ERR_NONE;
}

enum err hexagon_measure(struct hexagon_dev *dev)
{
    enum { ROWS = 64, COLS = 256, TRIES = 3 };
    struct hexagon_shape s = {HAL_Q8_0, 1, ROWS, COLS};
    const size_t bytes = hexagon_packed_bytes(s.type, ROWS, COLS);
    uint8_t *packed = dev->rpc.alloc(25, 1, (int)bytes);
    if (!packed)
        return ERR_MEMORY;
    memset(packed, 0, bytes);
    memset(dev->x, 0, x_bytes(1, COLS));
    int8_t *q = (int8_t *)dev->x;
    float *d = (float *)(void *)(dev->x + COLS), y[ROWS];
    const double work = (double)ROWS * COLS;
    int rc = 0;
    dev->call_ns = dev->dsp_ns = dev->cpu_ns = 1e18;
    for (int i = 0; i < TRIES && rc == 0; i++) {
        s.rows = 1;
        double start = now_ns();
        rc = invoke(dev, &s, q, d, packed, dev->y);
        const double call = now_ns() - start;
        s.rows = ROWS;
        start = now_ns();
        if (rc == 0)
            rc = invoke(dev, &s, q, d, packed, dev->y);
        const double dsp = now_ns() - start;
        start = now_ns();
        hexagon_multiply_cpu(dev, &s, q, d, packed, y);
        const double cpu = now_ns() - start;
        dev->call_ns = call < dev->call_ns ? call : dev->call_ns;
        dev->dsp_ns = dsp / work < dev->dsp_ns ? dsp / work : dev->dsp_ns;
        dev->cpu_ns = cpu / work < dev->cpu_ns ? cpu / work : dev->cpu_ns;
    }
    dev->rpc.release(packed);
    if (rc != 0)
        return ERR_DEVICE;
    const double over =
        dev->dsp_ns - dev->call_ns / work; /* what the product adds to an empty call */
    dev->dsp_ns = over > 0 ? over : 0;
    return ERR_NONE;
}
