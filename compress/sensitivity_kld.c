#include "compress/sensitivity_kld.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { KEPT = 256, HEAD_ROWS = 16, WORST_NATS = 16 };

struct kept {
    float log_p;
    uint32_t token;
};

struct sensitivity_kld {
    const struct calibrate_windows *windows;
    uint32_t positions, kept;
    struct kept *row; /* [positions, kept] */
    double *rest;     /* [positions] probability of all other tokens */
};

/* What is done with the logits of one position. */
typedef void visit(void *context, uint32_t position, const float *logits, uint32_t vocabulary);

struct model_options sensitivity_kld_model(const struct calibrate_windows *w)
{
    return (struct model_options){
        .sequences = 1, .context = w->context, .batch = w->context / 2, .head_rows = HEAD_ROWS};
}

static double log_total(const float *logits, uint32_t count)
{
    float most = logits[0];
    double sum = 0;
    for (uint32_t i = 1; i < count; i++)
        most = logits[i] > most ? logits[i] : most;
    for (uint32_t i = 0; i < count; i++)
        sum += (double)expf(logits[i] - most);
    return (double)most + log(sum);
}

/* Put row[at] where it belongs in a heap whose least is at 0. */
static void sink(struct kept *row, uint32_t count, uint32_t at)
{
    for (;;) {
        uint32_t least = at;
        for (uint32_t child = 2 * at + 1; child <= 2 * at + 2 && child < count; child++)
            if (row[child].log_p < row[least].log_p)
                least = child;
        if (least == at)
            return;
        const struct kept moved = row[at];
        row[at] = row[least];
        row[least] = moved;
        at = least;
    }
}

static void keep(void *context, uint32_t position, const float *logits, uint32_t vocabulary)
{
    struct sensitivity_kld *k = context;
    struct kept *row = k->row + (size_t)position * k->kept;
    const double total = log_total(logits, vocabulary);
    double sum = 0;
    for (uint32_t i = 0; i < k->kept; i++)
        row[i] = (struct kept){logits[i], i};
    for (uint32_t i = k->kept / 2; i-- > 0;)
        sink(row, k->kept, i);
    for (uint32_t i = k->kept; i < vocabulary; i++)
        if (logits[i] > row[0].log_p) {
            row[0] = (struct kept){logits[i], i};
            sink(row, k->kept, 0);
        }
    for (uint32_t i = 0; i < k->kept; i++) {
        row[i].log_p = (float)((double)row[i].log_p - total);
        sum += exp((double)row[i].log_p);
    }
    k->rest[position] = sum < 1 ? 1 - sum : 0;
}

struct comparing {
    const struct sensitivity_kld *k;
    double sum;
};

static void compare(void *context, uint32_t position, const float *logits, uint32_t vocabulary)
{
    struct comparing *c = context;
    const struct kept *row = c->k->row + (size_t)position * c->k->kept;
    const double total = log_total(logits, vocabulary), p_rest = c->k->rest[position];
    double kld = 0, q_sum = 0;
    for (uint32_t i = 0; i < c->k->kept; i++) {
        const double log_p = (double)row[i].log_p, log_q = (double)logits[row[i].token] - total;
        kld += exp(log_p) * (log_p - log_q);
        q_sum += exp(log_q);
    }
    const double q_rest = 1 - q_sum;
    if (p_rest > 1e-9 && q_rest > 1e-9)
        kld += p_rest * log(p_rest / q_rest);
    c->sum += isnan(kld) ? WORST_NATS : kld > 0 ? kld : 0; /* what breaks the model must not look harmless */
}

static enum err run(struct model *m, const struct calibrate_windows *w, visit *each, void *context)
{
    const uint32_t half = w->context / 2, vocabulary = model_info(m)->vocabulary;
    enum err e = ERR_NONE;
    for (uint32_t i = 0; i < w->windows && !e; i++) {
        const uint32_t *token = w->window[i].token;
        const struct model_run head = {.count = half, .tokens = token};
        const struct model_run tail = {.outputs = half, .count = half, .tokens = token + half};
        model_truncate(m, 0, 0);
        e = model_step(m, &head, 1);
        if (!e)
            e = model_step(m, &tail, 1);
        for (uint32_t row = 0; row < half && !e; row += HEAD_ROWS) {
            const uint32_t rows = half - row < HEAD_ROWS ? half - row : HEAD_ROWS;
            const float *logits = NULL;
            e = model_logits(m, row, rows, &logits);
            for (uint32_t r = 0; r < rows && !e; r++)
                each(context, i * half + row + r, logits + (size_t)r * vocabulary, vocabulary);
        }
    }
    return e;
}

enum err sensitivity_kld_open(struct model *base, const struct calibrate_windows *w, struct sensitivity_kld **out)
{
    struct sensitivity_kld *k = calloc(1, sizeof *k);
    const uint32_t vocabulary = model_info(base)->vocabulary;
    if (!k)
        return ERR_MEMORY;
    k->windows = w;
    k->kept = vocabulary < KEPT ? vocabulary : KEPT;
    k->positions = w->windows * (w->context / 2);
    k->row = malloc((size_t)k->positions * k->kept * sizeof *k->row);
    k->rest = malloc(k->positions * sizeof *k->rest);
    enum err e = k->row && k->rest ? run(base, w, keep, k) : ERR_MEMORY;
    if (e)
        sensitivity_kld_close(k);
    else
        *out = k;
    return e;
}

void sensitivity_kld_close(struct sensitivity_kld *k)
{
    if (!k)
        return;
    free(k->row);
    free(k->rest);
    free(k);
}

enum err sensitivity_kld_of(const struct sensitivity_kld *k, struct model *m, double *out)
{
    struct comparing c = {.k = k};
    enum err e = run(m, k->windows, compare, &c);
    if (!e)
        *out = c.sum / k->positions;
    return e;
}
