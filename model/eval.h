/* eval.h: how well a model predicts a text, and how far it is from a reference model.
 *
 * Exactly the measure of llama.cpp's perplexity tool: the text is cut into windows of `context` tokens,
 * the first token of each is replaced by BOS where the model adds one, predictions from the middle of a
 * window on are scored (context - 1 - context / 2 of them). Both models run in this process window by
 * window: memory is bounded by one slice of logits.
 */
#ifndef EVAL_H
#define EVAL_H

#include <stdbool.h>
#include <stdint.h>

#include "model/model.h"
#include "model/tokenizer.h"
#include "protocol/err.h"

struct eval_progress {
    uint32_t windows; /* done */
    uint32_t windows_total;
    double perplexity;           /* so far */
    double perplexity_reference; /* 0 without a reference */
    double kld;                  /* mean so far */
};

/* The scored positions of several texts, for one result over all of them. */
struct eval_pool;

struct eval_options {
    uint32_t context; /* 0: 512; even; the models must have been opened with at least this */
    uint32_t windows; /* at most; 0: all of the text */
    /* Called after each window; false stops with ERR_CANCELLED. NULL is allowed. */
    bool (*progress)(void *context, const struct eval_progress *p);
    void *progress_context;
    struct eval_pool *pool; /* gets this text's positions too; NULL is allowed */
};

/* A value and its standard error. */
struct eval_value {
    double value;
    double error;
};

struct eval_result {
    uint32_t windows;
    uint64_t tokens;              /* of the text */
    uint64_t scored;              /* predictions */
    struct eval_value perplexity; /* exp(mean nll) */
    struct eval_value nll;        /* nats per scored token */
    double nll_per_byte;          /* nats per byte of the scored tokens' text */
    /* Against the reference; 0 without one. */
    uint32_t has_reference;
    struct eval_value perplexity_reference;
    struct eval_value perplexity_delta;  /* PPL - reference */
    struct eval_value perplexity_ratio;  /* PPL / reference */
    struct eval_value nll_per_byte_delta; /* nats per byte more than the reference, paired */
    struct eval_value kld;               /* mean of KL(reference || model), nats */
    double kld_median;
    double kld_90;
    double kld_99;
    double kld_999;
    double kld_max;
    struct eval_value top1; /* share of positions with the same likeliest token, 0..1 */
    double seconds;         /* of the model under test */
    double tokens_per_second;
};

/* Score text with m, and compare with reference unless NULL; sequence 0 of both is used and left
 * empty. Errors: ERR_ARGUMENT (fewer than two windows of tokens, context), ERR_MISMATCH
 * (vocabularies differ), ERR_CANCELLED, and those of model_step; reason says what. */
NODISCARD enum err eval_text(struct model *m, struct model *reference, const struct tokenizer *t,
                             const char *text, size_t bytes, const struct eval_options *options,
                             struct eval_result *out, char reason[GGUF_REASON_BYTES]);

/* Texts of one pool are all scored with a reference, or all without one. Errors: ERR_MEMORY. */
NODISCARD enum err eval_pool_open(struct eval_pool **out);
void eval_pool_close(struct eval_pool *p); /* NULL is allowed */
/* As if the texts had been one, every scored token weighing the same; zeros for an empty pool. */
void eval_pool_result(struct eval_pool *p, struct eval_result *out);

#endif
