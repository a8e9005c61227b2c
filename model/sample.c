/* sample.c: greedy and random choice with top-k and top-p. */
#include "model/sample.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "hal/hal.h"

enum { TOKEN_NONE = 0xffffffffu };

struct sampler {
    struct sample_options options;
    uint32_t vocabulary;
    uint64_t state[4]; /* xoshiro256** by Blackman and Vigna, doi:10.1145/3460772 */
    float *key;        /* [vocabulary] logits of the order */
    uint32_t *order;   /* [vocabulary] a heap of candidates */
    uint32_t *token;   /* [cut] what top_k leaves, best first */
    float *logit;      /* [cut] */
    uint32_t cut;      /* top_k where it cuts, else 0 */
};

static uint64_t splitmix(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static uint64_t rotate(uint64_t x, int bits)
{
    return x << bits | x >> (64 - bits);
}

static double uniform(struct sampler *s)
{
    uint64_t *a = s->state;
    const uint64_t result = rotate(a[1] * 5, 7) * 9;
    const uint64_t shifted = a[1] << 17;
    a[2] ^= a[0];
    a[3] ^= a[1];
    a[1] ^= a[2];
    a[0] ^= a[3];
    a[2] ^= shifted;
    a[3] = rotate(a[3], 45);
    return (double)(result >> 11) * 0x1p-53;
}

enum err sample_open(const struct sample_options *options, uint32_t vocabulary, struct sampler **out)
{
    if (!isfinite(options->temperature) || options->temperature < 0 || !(options->top_p >= 0) ||
        options->top_p > 1 || vocabulary == 0)
        return ERR_ARGUMENT;
    struct sampler *s = calloc(1, sizeof *s);
    if (!s)
        return ERR_MEMORY;
    s->options = *options;
    s->vocabulary = vocabulary;
    uint64_t seed = options->seed;
    for (int i = 0; i < 4; i++)
        s->state[i] = splitmix(&seed);
    s->key = calloc(vocabulary, sizeof *s->key);
    s->order = calloc(vocabulary, sizeof *s->order);
    s->cut = options->top_k < vocabulary ? options->top_k : 0;
    s->token = calloc(s->cut + 1u, sizeof *s->token);
    s->logit = calloc(s->cut + 1u, sizeof *s->logit);
    if (!s->key || !s->order || !s->token || !s->logit) {
        sample_close(s);
        return ERR_MEMORY;
    }
    *out = s;
    return ERR_NONE;
}

void sample_close(struct sampler *s)
{
    if (!s)
        return;
    free(s->key);
    free(s->order);
    free(s->token);
    free(s->logit);
    free(s);
}

/* NaN never wins; equal logits go to the lower token. */
static bool better(const struct sampler *s, uint32_t a, uint32_t b)
{
    return s->key[a] > s->key[b] || (s->key[a] == s->key[b] && a < b);
}

static void sift(struct sampler *s, uint32_t at, uint32_t count)
{
    for (;;) {
        uint32_t best = at;
        for (uint32_t child = 2 * at + 1; child <= 2 * at + 2 && child < count; child++)
            if (better(s, s->order[child], s->order[best]))
                best = child;
        if (best == at)
            return;
        const uint32_t token = s->order[at];
        s->order[at] = s->order[best];
        s->order[best] = token;
        at = best;
    }
}

/* A heap with the best on top: the few best of a large vocabulary come out without sorting it all. */
static void heap_fill(struct sampler *s, const float *logits)
{
    for (uint32_t i = 0; i < s->vocabulary; i++) {
        s->key[i] = isnan(logits[i]) ? -INFINITY : logits[i];
        s->order[i] = i;
    }
    for (uint32_t i = s->vocabulary / 2; i-- > 0;)
        sift(s, i, s->vocabulary);
}

/* Move the best of the first `count` of order behind them, at order[count - 1]. */
static uint32_t heap_take(struct sampler *s, uint32_t count)
{
    const uint32_t token = s->order[0];
    s->order[0] = s->order[count - 1];
    s->order[count - 1] = token;
    sift(s, 0, count - 1);
    return token;
}

static uint32_t argmax(const float *logits, uint32_t vocabulary)
{
    uint32_t best = TOKEN_NONE;
    for (uint32_t i = 0; i < vocabulary; i++)
        if (logits[i] > -INFINITY && (best == TOKEN_NONE || logits[i] > logits[best]))
            best = i;
    return best;
}

/* ln(sum(exp((logits - logits[best]) / temperature))) */
static double log_sum(const float *logits, uint32_t vocabulary, uint32_t best, double temperature)
{
    double sum = 0;
    for (uint32_t i = 0; i < vocabulary; i++)
        if (!isnan(logits[i]))
            sum += exp(((double)logits[i] - (double)logits[best]) / temperature);
    return log(sum);
}

double sample_logprob(const float *logits, uint32_t vocabulary, uint32_t token)
{
    const uint32_t best = argmax(logits, vocabulary);
    if (best == TOKEN_NONE || token >= vocabulary)
        return -INFINITY;
    return (double)logits[token] - (double)logits[best] - log_sum(logits, vocabulary, best, 1);
}

static double weight_of(const struct sampler *s, float logit, float best)
{
    return exp(((double)logit - (double)best) / (double)s->options.temperature);
}

static bool cuts_mass(const struct sampler *s)
{
    return s->options.top_p > 0 && s->options.top_p < 1;
}

/* Draw from softmax(logit / temperature) of `count` tokens, best first, cut to mass top_p. */
static uint32_t draw_from(struct sampler *s, const uint32_t *token, const float *logit, uint32_t count)
{
    double total = 0;
    for (uint32_t i = 0; i < count; i++)
        total += weight_of(s, logit[i], logit[0]);
    const double u = uniform(s);
    double mass = total;
    if (cuts_mass(s)) {
        const double wanted = total * (double)s->options.top_p;
        mass = 0;
        for (uint32_t i = 0; i < count && mass < wanted; i++)
            mass += weight_of(s, logit[i], logit[0]);
    }
    double at = 0;
    uint32_t chosen = token[0];
    for (uint32_t i = 0; i < count && at <= u * mass; i++) {
        chosen = token[i];
        at += weight_of(s, logit[i], logit[0]);
    }
    return chosen;
}

/* The same of all tokens. */
static uint32_t draw(struct sampler *s, const float *logits, uint32_t best)
{
    const double total = exp(log_sum(logits, s->vocabulary, best, (double)s->options.temperature));
    heap_fill(s, logits);
    /* u * mass of the set that top_p leaves; the set is found while the tokens come out best first. */
    const double u = uniform(s);
    double mass = total;
    if (cuts_mass(s)) {
        const double wanted = total * (double)s->options.top_p;
        mass = 0;
        for (uint32_t i = 0; i < s->vocabulary && mass < wanted; i++)
            mass += weight_of(s, s->key[heap_take(s, s->vocabulary - i)], logits[best]);
        heap_fill(s, logits);
    }
    double at = 0;
    uint32_t token = best;
    for (uint32_t i = 0; i < s->vocabulary && at <= u * mass; i++) {
        token = heap_take(s, s->vocabulary - i);
        at += weight_of(s, s->key[token], logits[best]);
    }
    return token;
}

/* The same of the top_k best. */
static uint32_t draw_cut(struct sampler *s, const float *logits)
{
    heap_fill(s, logits);
    for (uint32_t i = 0; i < s->cut; i++) {
        s->token[i] = heap_take(s, s->vocabulary - i);
        s->logit[i] = s->key[s->token[i]];
    }
    return draw_from(s, s->token, s->logit, s->cut);
}

uint32_t sample_wants(const struct sampler *s)
{
    return s->options.temperature == 0 ? 1 : s->cut <= HAL_TOP_MAX ? s->cut : 0;
}

enum err sample_from(struct sampler *s, const uint32_t *token, const float *logit,
                     struct sample_choice *out)
{
    uint32_t count = sample_wants(s);
    while (count > 0 && token[count - 1] == TOKEN_NONE) /* the others were NaN: never drawn */
        count--;
    if (count == 0 || !(logit[0] > -INFINITY))
        return ERR_ARGUMENT;
    out->token = s->options.temperature == 0 || isinf(logit[0]) ? token[0] : draw_from(s, token, logit, count);
    out->logprob = NAN;
    return ERR_NONE;
}

enum err sample_next(struct sampler *s, const float *logits, struct sample_choice *out)
{
    const uint32_t best = argmax(logits, s->vocabulary);
    if (best == TOKEN_NONE)
        return ERR_ARGUMENT;
    out->token = s->options.temperature == 0 || isinf(logits[best]) ? best
                 : s->cut > 0                                              ? draw_cut(s, logits)
                                                                           : draw(s, logits, best);
    out->logprob = (float)sample_logprob(logits, s->vocabulary, out->token);
    return ERR_NONE;
}

enum err sample_top(struct sampler *s, const float *logits, uint32_t count,
                    struct sample_choice *out, uint32_t *got)
{
    const uint32_t best = argmax(logits, s->vocabulary);
    if (best == TOKEN_NONE)
        return ERR_ARGUMENT;
    const double log_total = log_sum(logits, s->vocabulary, best, 1);
    heap_fill(s, logits);
    *got = count < s->vocabulary ? count : s->vocabulary;
    for (uint32_t i = 0; i < *got; i++) {
        const uint32_t token = heap_take(s, s->vocabulary - i);
        out[i].token = token;
        out[i].logprob = (float)((double)s->key[token] - (double)logits[best] - log_total);
    }
    return ERR_NONE;
}
