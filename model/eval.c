/* eval.c: perplexity and divergence, window by window. */
#include "model/eval.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Sums over scored positions, enough for means and standard errors. */
struct sums {
    double nll, nll2;           /* of the model */
    double base, base2, cross;  /* of the reference; model * reference */
    double kld, kld2;
    uint64_t same_top;
    uint64_t bytes; /* of the scored tokens' text */
    uint64_t count;
};

struct eval_pool {
    struct sums sums;
    float *kld; /* [sums.count]; NULL without references */
    uint32_t windows, context;
    uint64_t tokens;
    double seconds;
};

struct eval {
    struct model *model, *reference;
    const struct tokenizer *t;
    uint32_t *tokens;
    size_t token_count;
    uint32_t context, windows, vocabulary;
    uint32_t batch, head_rows; /* what both models can do at once */
    float *kld;                /* of every scored position, for the quantiles */
    struct sums sums;
    double seconds;
    char *reason;
};

__attribute__((format(printf, 3, 4))) static enum err refuse(struct eval *v, enum err e,
                                                              const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(v->reason, GGUF_REASON_BYTES, format, arguments);
    va_end(arguments);
    return e;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ln(sum(exp(logits))) and the index of the greatest. */
static double log_total(const float *logits, uint32_t count, uint32_t *top)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < count; i++)
        if (logits[i] > logits[best])
            best = i;
    const float greatest = logits[best];
    double sum = 0;
    for (uint32_t i = 0; i < count; i++)
        sum += (double)expf(logits[i] - greatest);
    *top = best;
    return (double)greatest + log(sum);
}

/* Sum over tokens of p_reference (ln p_reference - ln p_model). */
static double divergence(const float *reference, double reference_total, const float *logits, double total,
                         uint32_t count)
{
    double sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        const float log_p = reference[i] - (float)reference_total;
        if (!(log_p <= -16.0f)) /* what is less likely than e^-16 adds nothing that can be seen; NaN does */
            sum += (double)(expf(log_p) * (log_p - logits[i] + (float)total));
    }
    return sum;
}

/* What the token adds to a text; control tokens add nothing. */
static size_t text_bytes(const struct tokenizer *t, uint32_t token)
{
    char piece[1024];
    size_t bytes = 0;
    return tokenizer_piece(t, token, false, piece, sizeof piece, &bytes) ? sizeof piece : bytes;
}

static void score(struct eval *v, const float *logits, const float *reference, uint32_t token)
{
    struct sums *s = &v->sums;
    uint32_t top = 0, reference_top = 0;
    const double total = log_total(logits, v->vocabulary, &top);
    const double nll = total - (double)logits[token];
    s->nll += nll;
    s->nll2 += nll * nll;
    s->bytes += text_bytes(v->t, token);
    if (reference) {
        const double reference_total = log_total(reference, v->vocabulary, &reference_top);
        const double base = reference_total - (double)reference[token];
        const double kld = divergence(reference, reference_total, logits, total, v->vocabulary);
        s->base += base;
        s->base2 += base * base;
        s->cross += nll * base;
        s->kld += kld;
        s->kld2 += kld * kld;
        s->same_top += top == reference_top && !isnan(kld); /* nothing is likeliest among NaN */
        v->kld[s->count] = (float)kld;
    }
    s->count++;
}

/* Outputs of the last step predict tokens[at + 1 ..]. */
static enum err score_outputs(struct eval *v, size_t at, uint32_t outputs)
{
    enum err e = ERR_NONE;
    for (uint32_t row = 0; row < outputs && !e;) {
        const uint32_t rows = outputs - row < v->head_rows ? outputs - row : v->head_rows;
        const float *logits = NULL, *reference = NULL;
        const double start = now();
        e = model_logits(v->model, row, rows, &logits);
        v->seconds += now() - start;
        if (!e && v->reference)
            e = model_logits(v->reference, row, rows, &reference);
        for (uint32_t i = 0; i < rows && !e; i++)
            score(v, logits + (size_t)i * v->vocabulary,
                  reference ? reference + (size_t)i * v->vocabulary : NULL, v->tokens[at + row + i + 1]);
        row += rows;
    }
    return e;
}

/* The last token of a window is only predicted, never an input. */
static enum err run_window(struct eval *v, uint32_t window)
{
    const size_t start = (size_t)window * v->context;
    const uint32_t end = v->context - 1, scored = v->context / 2;
    enum err e = ERR_NONE;
    if (tokenizer_adds_bos(v->t))
        v->tokens[start] = tokenizer_bos(v->t);
    model_truncate(v->model, 0, 0);
    if (v->reference)
        model_truncate(v->reference, 0, 0);
    for (uint32_t at = 0; at < end && !e;) {
        uint32_t n = end - at < v->batch ? end - at : v->batch;
        if (at < scored && at + n > scored)
            n = scored - at; /* a step has either no outputs or only outputs */
        const struct model_run run = {0, at >= scored ? n : 0, n, v->tokens + start + at};
        const double began = now();
        e = model_step(v->model, &run, 1);
        v->seconds += now() - began;
        if (!e && v->reference)
            e = model_step(v->reference, &run, 1);
        if (!e && run.outputs)
            e = score_outputs(v, start + at, n);
        at += n;
    }
    return e;
}

static struct eval_value mean(double sum, double sum2, uint64_t count)
{
    const double n = (double)count, value = sum / n, variance = sum2 / n - value * value;
    return (struct eval_value){value, variance > 0 && count > 1 ? sqrt(variance / (n - 1)) : 0};
}

/* No NaN among them: order would mean nothing. */
static int ascending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double quantile(const float *sorted, uint64_t count, double fraction)
{
    const double at = fraction * (double)(count - 1);
    const uint64_t i = (uint64_t)at;
    const double part = at - (double)i;
    return (1 - part) * (double)sorted[i] + part * (double)sorted[i + 1 < count ? i + 1 : i];
}

static void compare(const struct sums *s, float *kld, struct eval_result *out)
{
    const double n = (double)s->count;
    const struct eval_value nll = out->nll, base = mean(s->base, s->base2, s->count);
    const struct eval_value delta =
        mean(s->nll - s->base, s->nll2 + s->base2 - 2 * s->cross, s->count); /* paired: much tighter */
    const double covariance = n > 1 ? (s->cross / n - nll.value * base.value) / (n - 1) : 0;
    const double ppl = exp(nll.value), reference = exp(base.value);
    const double ratio = exp(nll.value - base.value);
    const double same = (double)s->same_top / n;
    const double ppl_error = ppl * nll.error, reference_error = reference * base.error;
    out->has_reference = 1;
    out->perplexity_reference = (struct eval_value){reference, reference_error};
    out->perplexity_ratio = (struct eval_value){
        ratio, ratio * sqrt(fmax(0, nll.error * nll.error + base.error * base.error - 2 * covariance))};
    out->perplexity_delta = (struct eval_value){
        ppl - reference, sqrt(fmax(0, ppl_error * ppl_error + reference_error * reference_error -
                                          2 * ppl * reference * covariance))};
    if (s->bytes)
        out->nll_per_byte_delta =
            (struct eval_value){delta.value * n / (double)s->bytes, delta.error * n / (double)s->bytes};
    out->kld = mean(s->kld, s->kld2, s->count);
    out->top1 = (struct eval_value){same, n > 1 ? sqrt(same * (1 - same) / (n - 1)) : 0};
    if (isnan(s->kld)) {
        out->kld_median = out->kld_90 = out->kld_99 = out->kld_999 = out->kld_max = NAN;
        return;
    }
    qsort(kld, s->count, sizeof *kld, ascending);
    out->kld_median = quantile(kld, s->count, 0.5);
    out->kld_90 = quantile(kld, s->count, 0.9);
    out->kld_99 = quantile(kld, s->count, 0.99);
    out->kld_999 = quantile(kld, s->count, 0.999);
    out->kld_max = quantile(kld, s->count, 1);
}

/* kld NULL: there was no reference. */
static void summarise(const struct sums *s, float *kld, double seconds, uint32_t context, struct eval_result *out)
{
    out->scored = s->count;
    out->nll = mean(s->nll, s->nll2, s->count);
    out->perplexity = (struct eval_value){exp(out->nll.value), exp(out->nll.value) * out->nll.error};
    out->nll_per_byte = s->bytes ? s->nll / (double)s->bytes : 0;
    out->seconds = seconds;
    out->tokens_per_second = seconds > 0 ? out->windows * (double)context / seconds : 0;
    if (kld)
        compare(s, kld, out);
}

static enum err pool_add(struct eval_pool *p, const struct eval *v)
{
    const struct sums *s = &v->sums;
    const uint64_t count = p->sums.count + s->count;
    if (v->reference) {
        float *kld = realloc(p->kld, (count + 1) * sizeof *kld);
        if (!kld)
            return ERR_MEMORY;
        memcpy(kld + p->sums.count, v->kld, s->count * sizeof *kld);
        p->kld = kld;
    }
    p->sums.nll += s->nll;
    p->sums.nll2 += s->nll2;
    p->sums.base += s->base;
    p->sums.base2 += s->base2;
    p->sums.cross += s->cross;
    p->sums.kld += s->kld;
    p->sums.kld2 += s->kld2;
    p->sums.same_top += s->same_top;
    p->sums.bytes += s->bytes;
    p->sums.count = count;
    p->windows += v->windows;
    p->context = v->context;
    p->tokens += v->token_count;
    p->seconds += v->seconds;
    return ERR_NONE;
}

enum err eval_pool_open(struct eval_pool **out)
{
    struct eval_pool *p = calloc(1, sizeof *p);
    if (!p)
        return ERR_MEMORY;
    *out = p;
    return ERR_NONE;
}

void eval_pool_close(struct eval_pool *p)
{
    if (p)
        free(p->kld);
    free(p);
}

void eval_pool_result(struct eval_pool *p, struct eval_result *out)
{
    *out = (struct eval_result){.windows = p->windows, .tokens = p->tokens};
    if (p->sums.count)
        summarise(&p->sums, p->kld, p->seconds, p->context, out);
}

static enum err prepare(struct eval *v, const char *text, size_t bytes, const struct eval_options *o)
{
    const struct model_info *info = model_info(v->model);
    const struct model_info *other = v->reference ? model_info(v->reference) : info;
    v->context = o->context ? o->context : 512;
    v->vocabulary = info->vocabulary;
    v->batch = info->batch < other->batch ? info->batch : other->batch;
    v->head_rows = info->head_rows < other->head_rows ? info->head_rows : other->head_rows;
    if (other->vocabulary != v->vocabulary || tokenizer_vocabulary(v->t) != v->vocabulary)
        return refuse(v, ERR_MISMATCH, "vocabularies differ: model %u, reference %u, tokenizer %u", v->vocabulary,
                      other->vocabulary, tokenizer_vocabulary(v->t));
    if (v->context < 8 || v->context % 2 || info->context < v->context || other->context < v->context)
        return refuse(v, ERR_ARGUMENT, "expected an even context of 8 to %u, the models', found %u",
                      info->context < other->context ? info->context : other->context, v->context);
    if (bytes > UINT32_MAX / 4)
        return refuse(v, ERR_ARGUMENT, "expected a text of at most 1 GiB");
    v->tokens = malloc((3 * bytes + 8) * sizeof *v->tokens);
    if (!v->tokens)
        return refuse(v, ERR_MEMORY, "no memory for the tokens");
    enum err e = tokenizer_encode(v->t, text, bytes, true, false, v->tokens, 3 * bytes + 8, &v->token_count);
    if (e)
        return refuse(v, e, "no memory for the tokens");
    if (v->token_count < 2 * (size_t)v->context)
        return refuse(v, ERR_ARGUMENT, "expected a text of at least %u tokens, found %zu", 2 * v->context,
                      v->token_count);
    uint32_t *tokens = realloc(v->tokens, v->token_count * sizeof *v->tokens);
    if (tokens)
        v->tokens = tokens;
    v->windows = (uint32_t)(v->token_count / v->context);
    if (o->windows && o->windows < v->windows)
        v->windows = o->windows;
    if (!v->reference)
        return ERR_NONE;
    v->kld = malloc((size_t)v->windows * (v->context - 1 - v->context / 2) * sizeof *v->kld);
    return v->kld ? ERR_NONE : refuse(v, ERR_MEMORY, "no memory for the divergences");
}

static bool report(const struct eval *v, uint32_t done, const struct eval_options *o)
{
    const double n = (double)v->sums.count;
    const struct eval_progress p = {
        .windows = done,
        .windows_total = v->windows,
        .perplexity = exp(v->sums.nll / n),
        .perplexity_reference = v->reference ? exp(v->sums.base / n) : 0,
        .kld = v->reference ? v->sums.kld / n : 0,
    };
    return !o->progress || o->progress(o->progress_context, &p);
}

enum err eval_text(struct model *m, struct model *reference, const struct tokenizer *t, const char *text,
                   size_t bytes, const struct eval_options *options, struct eval_result *out,
                   char reason[GGUF_REASON_BYTES])
{
    static const struct eval_options presets;
    const struct eval_options *o = options ? options : &presets;
    struct eval v = {.model = m, .reference = reference, .t = t, .reason = reason};
    reason[0] = 0;
    enum err e = prepare(&v, text, bytes, o);
    for (uint32_t i = 0; i < v.windows && !e; i++) {
        e = run_window(&v, i);
        if (e)
            refuse(&v, e, "window %" PRIu32 ": %s", i, err_name(e));
        else if (!report(&v, i + 1, o))
            e = refuse(&v, ERR_CANCELLED, "cancelled after window %" PRIu32, i + 1);
    }
    if (!e && o->pool && (e = pool_add(o->pool, &v)))
        refuse(&v, e, "no memory for the divergences");
    if (!e) {
        *out = (struct eval_result){.windows = v.windows, .tokens = v.token_count};
        summarise(&v.sums, v.kld, v.seconds, v.context, out);
    }
    model_truncate(m, 0, 0);
    if (reference)
        model_truncate(reference, 0, 0);
    free(v.tokens);
    free(v.kld);
    return e;
}
