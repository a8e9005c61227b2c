/* embed.h: one vector of unit length for a text, pooled from a model's last hidden states. */
#ifndef EMBED_H
#define EMBED_H

#include "model/model.h"

/* With the numbers of <architecture>.pooling_type. */
enum embed_pooling {
    EMBED_MEAN = 1,  /* of all tokens; also what a file without the key gets */
    EMBED_FIRST = 2, /* the token that stands for the text (CLS) */
    EMBED_LAST = 3
};

/* ERR_UNSUPPORTED: the file asks for another one. */
NODISCARD enum err embed_pooling(const struct gguf *g, uint32_t *out);

/* tokens[count] through sequence, which is cleared before and after; out [width] has length 1, or is zero
 * where the states are. rows is room for [batch, width]. Nothing is allocated.
 * Errors: ERR_ARGUMENT (no token, pooling), ERR_FULL (more tokens than fit: the context, or the batch of an
 * encoder), and those of model_step. */
NODISCARD enum err embed_tokens(struct model *m, uint32_t sequence, const uint32_t *tokens, uint32_t count,
                                uint32_t pooling, float *rows, float *out);

#endif
