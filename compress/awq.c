#include "compress/awq.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hal/block.h"
#include "hal/engine.h"
#include "model/gguf.h"

enum { EIGHTHS = 8, CONSUMERS = 3, SAMPLE_ROWS = 128, LAYERS_MAX = 1024 };

struct fold {
    float *column;
    float *row;
};

struct awq {
    uint32_t tensors;
    struct fold *fold; /* [tensors] */
    uint32_t groups;
};

/* One group while it is examined. Indices are of the plan; UINT32_MAX: absent. */
struct group {
    uint32_t producer;
    bool is_norm; /* else the producer's rows are divided */
    uint32_t bias; /* of a norm, divided too */
    uint32_t consumers;
    uint32_t consumer[CONSUMERS];
};

struct folding {
    const struct plan *plan;
    const struct gguf *base;
    const struct profile *profile;
    struct engine *engine;
    struct awq *awq;
};

static uint32_t find(const struct folding *w, uint32_t layer, const char *part)
{
    char name[PLAN_NAME_MAX];
    snprintf(name, sizeof name, "blk.%u.%s", layer, part);
    for (uint32_t i = 0; i < w->plan->tensors; i++)
        if (strcmp(w->plan->tensor[i].name, name) == 0)
            return i;
    return UINT32_MAX;
}

static bool is_awq(const struct folding *w, uint32_t i)
{
    if (i == UINT32_MAX)
        return false;
    const struct plan_tensor *t = &w->plan->tensor[i];
    return t->is_weighted && (t->method == RECIPE_AWQ || t->method == RECIPE_GPTQ_AWQ);
}

static bool norm_group(const struct folding *w, uint32_t layer, const char *norm, const char *norm_bias,
                       const char *const *names, uint32_t count, struct group *g)
{
    *g = (struct group){.producer = find(w, layer, norm), .is_norm = true, .consumers = count,
                        .bias = find(w, layer, norm_bias)};
    bool is_whole = g->producer != UINT32_MAX;
    for (uint32_t i = 0; i < count; i++) {
        g->consumer[i] = find(w, layer, names[i]);
        is_whole = is_whole && is_awq(w, g->consumer[i]);
    }
    return is_whole && w->plan->tensor[g->producer].cols == w->plan->tensor[g->consumer[0]].cols;
}

/* A producer whose rows are the consumer's columns, without a bias that would have to follow. */
static bool row_group(const struct folding *w, uint32_t layer, const char *producer, const char *bias,
                      const char *consumer, struct group *g)
{
    *g = (struct group){.producer = find(w, layer, producer), .bias = UINT32_MAX, .consumers = 1,
                        .consumer = {find(w, layer, consumer)}};
    return g->producer != UINT32_MAX && is_awq(w, g->consumer[0]) &&
           find(w, layer, bias) == UINT32_MAX &&
           w->plan->tensor[g->producer].rows == w->plan->tensor[g->consumer[0]].cols &&
           w->plan->tensor[g->producer].method != RECIPE_KEEP;
}

void awq_scale_of(const float *h, uint32_t cols, uint32_t eighths, float *s)
{
    double least = INFINITY, most = 0;
    for (uint32_t c = 0; c < cols; c++) {
        /* sqrt(h)^(eighths / 8): the sixteenth root of h, multiplied `eighths` times */
        const double root = sqrt(sqrt(sqrt(sqrt((double)h[c]))));
        double x = 1;
        for (uint32_t i = 0; i < eighths; i++)
            x *= root;
        s[c] = (float)x;
        least = x < least ? x : least;
        most = x > most ? x : most;
    }
    const double middle = sqrt(least * most);
    for (uint32_t c = 0; c < cols; c++) {
        const double x = middle > 0 ? (double)s[c] / middle : 1;
        s[c] = (float)(x < 0.01 ? 0.01 : x > 100 ? 100 : x);
    }
}

void awq_apply(float *x, uint32_t row, uint32_t rows, uint32_t cols, const float *column,
               const float *row_scale)
{
    for (uint32_t r = 0; r < rows; r++, x += cols) {
        if (column)
            for (uint32_t c = 0; c < cols; c++)
                x[c] *= column[c];
        if (row_scale)
            for (uint32_t c = 0; c < cols; c++)
                x[c] /= row_scale[row + r];
    }
}

void awq_importance(float *h, uint32_t cols, const float *column)
{
    for (uint32_t c = 0; c < cols; c++)
        h[c] = h[c] / column[c] / column[c];
}

struct trial {
    float *x, *y, *h;
    uint8_t *blocks;
};

static void trial_close(struct trial *t)
{
    free(t->x);
    free(t->y);
    free(t->h);
    free(t->blocks);
}

/* Weighted error of one consumer, in the scale of its output, when its columns are multiplied by s. */
static enum err consumer_error(const struct folding *w, uint32_t i, const float *s, struct trial *t,
                               double *sum)
{
    const struct plan_tensor *to = &w->plan->tensor[i];
    const struct gguf_tensor *from = gguf_tensor(w->base, i);
    const struct hal_plugin *ops = &w->engine->ops;
    const uint32_t rows = to->rows < SAMPLE_ROWS ? to->rows : SAMPLE_ROWS;
    const uint32_t step = to->rows / rows;
    const size_t bytes = block_row_bytes(to->type, to->cols);
    for (uint32_t r = 0; r < rows; r++) {
        enum err e = ops->decode(w->engine->dev, from->type, from->data + (size_t)r * step * from->row_bytes,
                                 from->row_bytes, 1, to->cols, t->x + (size_t)r * to->cols);
        if (e)
            return e;
    }
    profile_importance(profile_find(w->profile, to->name), 0, t->h);
    awq_apply(t->x, 0, rows, to->cols, s, NULL);
    awq_importance(t->h, to->cols, s);
    enum err e = ops->encode(w->engine->dev, to->type, HAL_SEARCH, t->x, rows, to->cols, t->h, t->blocks,
                             rows * bytes);
    if (!e)
        e = ops->decode(w->engine->dev, to->type, t->blocks, rows * bytes, rows, to->cols, t->y);
    for (size_t k = 0; !e && k < (size_t)rows * to->cols; k++) {
        const double d = (double)t->x[k] - (double)t->y[k];
        *sum += (double)t->h[k % to->cols] * d * d * step;
    }
    return e;
}

static enum err trial_open(const struct folding *w, const struct group *g, struct trial *t)
{
    const size_t cols = w->plan->tensor[g->consumer[0]].cols;
    t->x = malloc(SAMPLE_ROWS * cols * sizeof *t->x);
    t->y = malloc(SAMPLE_ROWS * cols * sizeof *t->y);
    t->h = malloc(cols * sizeof *t->h);
    t->blocks = malloc(SAMPLE_ROWS * cols * sizeof(float));
    return t->x && t->y && t->h && t->blocks ? ERR_NONE : ERR_MEMORY;
}

static enum err multiply_into(float **into, const float *s, uint32_t n)
{
    if (!*into) {
        if (!(*into = malloc(n * sizeof **into)))
            return ERR_MEMORY;
        memcpy(*into, s, n * sizeof *s);
        return ERR_NONE;
    }
    for (uint32_t i = 0; i < n; i++)
        (*into)[i] *= s[i];
    return ERR_NONE;
}

/* A norm is one row: its columns are divided, so they are multiplied by 1/s. */
static enum err adopt(struct folding *w, const struct group *g, const float *s, float *inverse)
{
    struct fold *fold = w->awq->fold;
    const uint32_t cols = w->plan->tensor[g->consumer[0]].cols;
    enum err e = ERR_NONE;
    for (uint32_t i = 0; !e && i < g->consumers; i++)
        e = multiply_into(&fold[g->consumer[i]].column, s, cols);
    if (e || !g->is_norm)
        return e ? e : multiply_into(&fold[g->producer].row, s, cols);
    for (uint32_t c = 0; c < cols; c++)
        inverse[c] = 1 / s[c];
    e = multiply_into(&fold[g->producer].column, inverse, cols);
    if (!e && g->bias != UINT32_MAX)
        e = multiply_into(&fold[g->bias].column, inverse, cols);
    return e;
}

static enum err examine(struct folding *w, const struct group *g)
{
    struct trial t = {0};
    const uint32_t cols = w->plan->tensor[g->consumer[0]].cols;
    float *s = malloc(cols * sizeof *s), *h = malloc(cols * sizeof *h);
    enum err e = s && h ? trial_open(w, g, &t) : ERR_MEMORY;
    double best = INFINITY;
    uint32_t eighths = 0;
    const struct profile_entry *entry = profile_find(w->profile, w->plan->tensor[g->consumer[0]].name);
    if (e)
        goto out;
    profile_importance(entry, 0, h);
    for (uint32_t a = 0; a <= EIGHTHS; a++) {
        double sum = 0;
        awq_scale_of(h, cols, a, s);
        for (uint32_t i = 0; i < g->consumers; i++)
            if ((e = consumer_error(w, g->consumer[i], s, &t, &sum)))
                goto out;
        if (sum < best) {
            best = sum;
            eighths = a;
        }
    }
    if (eighths > 0) {
        awq_scale_of(h, cols, eighths, s);
        w->awq->groups++;
        e = adopt(w, g, s, h);
    }
out:
    trial_close(&t);
    free(s);
    free(h);
    return e;
}

static enum err fold_layer(struct folding *w, uint32_t layer)
{
    static const char *const attention[] = {"attn_q.weight", "attn_k.weight", "attn_v.weight"};
    static const char *const ffn[] = {"ffn_gate.weight", "ffn_up.weight"};
    struct group g;
    enum err e = ERR_NONE;
    /* where one norm feeds both halves of a block, or experts are routed by it, nothing is folded */
    if (find(w, layer, "ffn_norm.weight") == UINT32_MAX ||
        find(w, layer, "ffn_gate_inp.weight") != UINT32_MAX)
        return ERR_NONE;
    if (norm_group(w, layer, "attn_norm.weight", "attn_norm.bias", attention, 3, &g))
        e = examine(w, &g);
    if (!e && norm_group(w, layer, "ffn_norm.weight", "ffn_norm.bias", ffn, 2, &g))
        e = examine(w, &g);
    if (!e && find(w, layer, "ffn_gate.weight") != UINT32_MAX &&
        row_group(w, layer, "ffn_up.weight", "ffn_up.bias", "ffn_down.weight", &g))
        e = examine(w, &g);
    if (!e && row_group(w, layer, "attn_v.weight", "attn_v.bias", "attn_output.weight", &g))
        e = examine(w, &g);
    return e;
}

enum err awq_open(const struct plan *plan, const struct gguf *base, const struct profile *profile,
                  struct engine *engine, struct awq **out)
{
    struct folding w = {.plan = plan, .base = base, .profile = profile, .engine = engine};
    struct awq *a = w.awq = calloc(1, sizeof *a);
    enum err e = a ? ERR_NONE : ERR_MEMORY;
    if (!e && !(a->fold = calloc(plan->tensors, sizeof *a->fold)))
        e = ERR_MEMORY;
    if (!e)
        a->tensors = plan->tensors;
    for (uint32_t layer = 0; !e && profile && layer < LAYERS_MAX; layer++)
        e = fold_layer(&w, layer);
    if (e)
        awq_close(a);
    else
        *out = a;
    return e;
}

void awq_close(struct awq *a)
{
    if (!a)
        return;
    for (uint32_t i = 0; i < a->tensors; i++) {
        free(a->fold[i].column);
        free(a->fold[i].row);
    }
    free(a->fold);
    free(a);
}

void awq_scales(const struct awq *a, uint32_t i, const float **column, const float **row)
{
    *column = a ? a->fold[i].column : NULL;
    *row = a ? a->fold[i].row : NULL;
}

uint32_t awq_groups(const struct awq *a)
{
    return a ? a->groups : 0;
}
