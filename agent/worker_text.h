/* worker_text.h: the texts whose keys and values a serving worker keeps, and what of them a new one may begin with.
 *
 * A text is one sequence of the model with the tokens it holds. While a request runs it is busy; afterwards it
 * rests, until its place or its cache pages are needed: the longest rested goes first. A new text begins with the
 * longest prefix that any of them holds, down to the last token: whole pages are shared, the rest is copied, so
 * that neither sees what the other goes on with. Nothing else is taken from one text into another.
 */
#ifndef WORKER_TEXT_H
#define WORKER_TEXT_H

#include "model/model.h"

struct worker_text {
    uint32_t *token; /* [context], made at its first use; NULL before */
    uint32_t count;  /* tokens written, by its request while it is busy */
    bool is_busy;
    uint64_t used; /* when it last rested, by a clock of requests */
};

struct worker_texts {
    struct model *model;
    struct worker_text *text; /* [count], by the model's sequence */
    uint32_t count;
    bool keeps; /* texts that rest */
    uint64_t clock;
};

/* Every sequence of the model is a place; keeps false: a text ends with its request. ERR_MEMORY. */
NODISCARD enum err worker_texts_open(struct worker_texts *t, struct model *m, bool keeps);
void worker_texts_close(struct worker_texts *t);

/* A place for a text that begins with these tokens, busy from now on: *place; *held of the tokens are in the cache,
 * fewer than count. Its token array holds all of them. ERR_FULL (every place is busy), ERR_MEMORY. */
NODISCARD enum err worker_texts_begin(struct worker_texts *t, const uint32_t *token, uint32_t count, uint32_t *place,
                                      uint32_t *held);
/* The request has ended, in whatever way: what the model holds rests. */
void worker_texts_end(struct worker_texts *t, uint32_t place);
/* Cache pages are short: the text that has rested longest is forgotten. False: none rests. */
bool worker_texts_forget(struct worker_texts *t);

#endif
