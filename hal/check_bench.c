/* check_bench.c: the same calls, timed: plugin and scalar, interleaved, medians. */
#include "hal/check_case.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "hal/block.h"
#include "hal/check_bench_rows.h"
#include "hal/check_host.h"
#include "plugins/scalar/scalar.h"

enum { SAMPLES = 11, SAMPLE_NS = 1000000, BENCH_OUT = 4096 };

struct side {
    const struct hal_plugin *ops;
    void *dev;
};

/* One timed call: whatever it needs is behind context. */
struct work {
    enum err (*call)(const struct side *side, void *context);
    void *context;
};

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median of samples of at least SAMPLE_NS each, per call. */
static enum err time_work(const struct side *side, const struct work *w, uint32_t samples,
                          double *ns)
{
    double sample[SAMPLES];
    for (uint32_t i = 0; i <= samples; i++) { /* the first is a warm-up */
        const double start = now_ns();
        double end = start;
        uint32_t calls = 0;
        do {
            const enum err e = w->call(side, w->context);
            if (e != ERR_NONE)
                return e;
            calls++;
            end = now_ns();
        } while (end - start < SAMPLE_NS);
        if (i > 0)
            sample[i - 1] = (end - start) / calls;
    }
    qsort(sample, samples, sizeof *sample, by_value);
    *ns = sample[samples / 2];
    return ERR_NONE;
}

struct bench {
    struct check_run *c;
    void (*each)(void *context, const struct check_timing *timing);
    void *context;
    struct side mine, theirs;
};

static enum err report_work(const struct bench *b, const char *op, const char *shape,
                            const struct work *mine, const struct work *theirs, double ops,
                            double bytes)
{
    struct check_timing t = {.op = op};
    snprintf(t.shape, sizeof t.shape, "%s", shape);
    enum err e = time_work(&b->mine, mine, SAMPLES, &t.ns);
    if (e == ERR_NONE)
        e = time_work(&b->theirs, theirs, 1, &t.reference_ns);
    if (e != ERR_NONE)
        return e;
    t.gops = ops / t.ns;
    t.gbs = bytes / t.ns;
    b->each(b->context, &t);
    return ERR_NONE;
}

/* A call that knows nothing of sides. */
struct plain_call {
    enum err (*call)(const struct hal_plugin *ops, void *dev, void *context);
    void *context;
};

static enum err call_plain(const struct side *side, void *context)
{
    const struct plain_call *p = context;
    return p->call(side->ops, side->dev, p->context);
}

/* One token times copies of a weight in turn, so that they come from memory and not from a cache. */
struct product {
    struct hal_mat x, y;
    struct hal_mat *w;
    uint32_t copies, next;
    float row[BENCH_OUT];
};

static enum err call_matmul(const struct side *side, void *context)
{
    struct product *p = context;
    const struct hal_mat *const y = &p->y, *const w = &p->w[p->next++ % p->copies];
    const enum err e = side->ops->matmul(side->dev, &y, &p->x, &w, 1);
    /* work may still run on return: the first row waits for it */
    return e != ERR_NONE
               ? e
               : side->ops->mat_get(side->dev, &p->y, 0, 1, p->row, p->y.cols * sizeof *p->row);
}

static void free_copies(const struct bench *b, struct product *p)
{
    for (uint32_t i = 1; i < p->copies; i++)
        b->c->plugin->mat_free(b->c->dev, &p->w[i]);
    free(p->w);
}

/* The first is w itself; the others get the same rows from scalar's copy. */
static enum err new_copies(const struct bench *b, const struct check_pair *w, uint32_t copies,
                           struct product *p)
{
    const size_t bytes = block_row_bytes(w->theirs.type, w->theirs.cols) * w->theirs.rows;
    p->w = calloc(copies, sizeof *p->w);
    if (p->w == NULL)
        return ERR_MEMORY;
    p->w[0] = w->mine;
    for (p->copies = 1; p->copies < copies; p->copies++) {
        struct hal_mat *m = &p->w[p->copies];
        *m = w->mine;
        m->mem = NULL;
        enum err e = b->c->plugin->mat_new(b->c->dev, m);
        if (e != ERR_NONE)
            return ERR_NONE; /* fewer, where memory is short */
        e = b->c->plugin->mat_put(b->c->dev, m, 0, m->rows, w->theirs.mem, bytes);
        if (e != ERR_NONE) {
            b->c->plugin->mat_free(b->c->dev, m);
            return e;
        }
    }
    return ERR_NONE;
}

static enum err bench_matmul(const struct bench *b, uint32_t type, uint32_t n)
{
    struct check_run *c = b->c;
    struct check_pair x, w, y;
    struct product mine = {.w = NULL}, theirs = {.w = NULL};
    const uint32_t in = 4096, out = BENCH_OUT;
    const size_t bytes = block_row_bytes(type, in) * out;
    char shape[64];
    memset(&w, 0, sizeof w);
    memset(&y, 0, sizeof y);
    snprintf(shape, sizeof shape, "%s n=%u in=%u out=%u", block_type(type)->name, n, in, out);
    enum err e = check_pair_activation(c, n, in, &x);
    if (e == ERR_NONE)
        e = check_pair_weight(c, type, out, in, &w);
    if (e == ERR_NONE)
        e = check_pair_new(c, HAL_ACTIVATION, HAL_F32, n, out, &y);
    if (e == ERR_NONE)
        e = new_copies(b, &w, n == 1 && !c->options->is_quick ? CHECK_STREAM_BYTES / (uint32_t)bytes : 1,
                       &mine);
    if (e == ERR_NONE) {
        mine.x = x.mine;
        mine.y = y.mine;
        theirs = (struct product){x.theirs, y.theirs, &w.theirs, 1, 0, {0}};
        const struct work a = {call_matmul, &mine}, r = {call_matmul, &theirs};
        e = report_work(b, "matmul", shape, &a, &r, 2.0 * n * in * out, (double)bytes);
    }
    free_copies(b, &mine);
    check_pair_free(c, &y);
    check_pair_free(c, &w);
    check_pair_free(c, &x);
    return e;
}

struct coding {
    uint32_t type, method, rows, cols;
    float *x;
    uint8_t *bytes;
};

static enum err call_encode(const struct side *side, void *context)
{
    const struct coding *k = context;
    return side->ops->encode(side->dev, k->type, k->method, k->x, k->rows, k->cols, NULL, k->bytes,
                             block_row_bytes(k->type, k->cols) * k->rows);
}

static enum err call_decode(const struct side *side, void *context)
{
    const struct coding *k = context;
    return side->ops->decode(side->dev, k->type, k->bytes,
                             block_row_bytes(k->type, k->cols) * k->rows, k->rows, k->cols, k->x);
}

static enum err bench_coding(const struct bench *b, uint32_t type)
{
    struct coding k = {.type = type, .rows = 16, .cols = 4096};
    const double values = (double)k.rows * k.cols;
    char shape[64];
    enum err e = ERR_NONE;
    k.x = malloc((size_t)k.rows * k.cols * sizeof *k.x);
    k.bytes = malloc((size_t)k.rows * k.cols * 4);
    if (k.x == NULL || k.bytes == NULL)
        e = ERR_MEMORY;
    else
        check_fill_normal(b->c, k.x, (size_t)k.rows * k.cols);
    const struct work encode = {call_encode, &k}, decode = {call_decode, &k};
    for (k.method = 0; k.method < 2 && e == ERR_NONE && b->mine.ops->encode != NULL; k.method++) {
        snprintf(shape, sizeof shape, "%s %s %ux%u", block_type(type)->name,
                 k.method == HAL_RTN ? "rtn" : "search", k.rows, k.cols);
        e = report_work(b, "encode", shape, &encode, &encode, 0, values * 4);
    }
    if (e == ERR_NONE && b->mine.ops->decode != NULL) {
        snprintf(shape, sizeof shape, "%s %ux%u", block_type(type)->name, k.rows, k.cols);
        e = report_work(b, "decode", shape, &decode, &decode, 0, values * 4);
    }
    free(k.bytes);
    free(k.x);
    return e;
}

static enum err report_rows(const struct check_clock *clock, const char *op, const char *shape,
                            enum err (*call)(const struct hal_plugin *ops, void *dev, void *context),
                            void *mine, void *theirs, double ops, double bytes)
{
    const struct bench *b = clock->bench;
    struct plain_call plain = {call, mine}, reference = {call, theirs};
    const struct work a = {call_plain, &plain}, r = {call_plain, &reference};
    return report_work(b, op, shape, &a, &r, ops, bytes);
}

static int is_wanted(const struct check_options *o, const char *op)
{
    return o->op == NULL || strcmp(o->op, op) == 0;
}

static enum err bench_all(const struct bench *b)
{
    const struct check_options *o = b->c->options;
    uint32_t count;
    const struct block_type *const *types = block_types(&count);
    enum err e = ERR_NONE;
    for (uint32_t i = 0; i < count && e == ERR_NONE; i++) {
        const int is_taken = (int)(b->c->caps.types >> types[i]->type & 1u);
        if (is_taken && is_wanted(o, "matmul"))
            e = bench_matmul(b, types[i]->type, 1);
        if (e == ERR_NONE && is_taken && is_wanted(o, "matmul") && !o->is_quick)
            e = bench_matmul(b, types[i]->type, 64);
        if (e == ERR_NONE && (is_wanted(o, "encode") || is_wanted(o, "decode")) && !o->is_quick)
            e = bench_coding(b, types[i]->type);
    }
    const struct check_clock clock = {o, b->mine.ops, b, report_rows};
    return e == ERR_NONE ? check_bench_rows(b->c, &clock) : e;
}

enum err check_bench(const struct hal_plugin *plugin, const struct check_options *options,
                     void (*each)(void *context, const struct check_timing *timing), void *context)
{
    struct check_options o = {0};
    struct check_report report = {0};
    if (options != NULL)
        o = *options;
    o.seed = o.seed != 0 ? o.seed : 1;
    struct hal_host host = check_host_plain;
    host.threads = o.threads != 0 ? o.threads : 2;
    host.path = o.path;
    struct check_run c = {.plugin = plugin, .options = &o, .report = &report, .random = o.seed};
    enum err e = plugin->probe(o.path, &c.caps);
    if (e != ERR_NONE)
        return e;
    e = scalar_plugin.open(&check_host_plain, &c.reference);
    if (e != ERR_NONE)
        return e;
    e = plugin->open(&host, &c.dev);
    if (e == ERR_NONE) {
        const struct bench b = {&c, each, context, {plugin, c.dev}, {&scalar_plugin, c.reference}};
        e = bench_all(&b);
        plugin->close(c.dev);
    }
    scalar_plugin.close(c.reference);
    return e;
}
