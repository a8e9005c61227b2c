/* sample.h: from logits to the next token. Same options, seed and logits: same tokens, on any machine
 * whose logits agree. Memory: allocated at open only. Threads: one caller per sampler. */
#ifndef SAMPLE_H
#define SAMPLE_H

#include <stdint.h>

#include "protocol/err.h"

struct sampler;

struct sample_options {
    float temperature; /* 0: greedy */
    float top_p;       /* 0 or 1: off; else the smallest set of tokens with this probability */
    uint32_t top_k;    /* 0: off */
    uint64_t seed;
};

struct sample_choice {
    uint32_t token;
    float logprob; /* natural logarithm, of the whole unscaled distribution */
};

/* Errors: ERR_ARGUMENT (negative or not finite values, top_p above 1, vocabulary 0), ERR_MEMORY. */
NODISCARD enum err sample_open(const struct sample_options *options, uint32_t vocabulary,
                               struct sampler **out);
void sample_close(struct sampler *s); /* NULL is allowed */

/* logits [vocabulary], borrowed. Ties go to the lower token. Errors: ERR_ARGUMENT when every logit is
 * NaN or -inf. */
NODISCARD enum err sample_next(struct sampler *s, const float *logits, struct sample_choice *out);

/* How many of the greatest logits decide: 1 when greedy, top_k where that cuts and hal.h's top gives as
 * many; 0: all of them, for sample_next. */
uint32_t sample_wants(const struct sampler *s);

/* The same token as sample_next, from the sample_wants() greatest logits, greatest first, as hal.h's top
 * gives them. logprob is NAN: it takes the whole distribution. Errors: ERR_ARGUMENT as sample_next. */
NODISCARD enum err sample_from(struct sampler *s, const uint32_t *token, const float *logit,
                               struct sample_choice *out);

/* The `count` likeliest tokens, best first; fewer only if the vocabulary is smaller: *got. */
NODISCARD enum err sample_top(struct sampler *s, const float *logits, uint32_t count,
                              struct sample_choice *out, uint32_t *got);

/* log softmax(logits)[token], summed in F64. */
double sample_logprob(const float *logits, uint32_t vocabulary, uint32_t token);

#endif
