/* tokenizer_kind.h: what a kind of tokenizer fills in; for model/tokenizer*.c only.
 *
 * tokenizer.c reads the vocabulary, finds special tokens in a text and hands the plain pieces between
 * them to the kind. To add a kind: one file with its struct tokenizer_kind, one line in tokenizer.c.
 */
#ifndef TOKENIZER_KIND_H
#define TOKENIZER_KIND_H

#include "model/tokenizer.h"

/* Where encoded tokens go; count runs on past capacity, so that the caller learns what is needed. */
struct tokenizer_sink {
    uint32_t *tokens;
    size_t capacity;
    size_t count;
};

struct tokenizer_kind {
    const char *name;        /* tokenizer.ggml.model */
    bool adds_bos;           /* defaults of files that do not say */
    bool adds_eos;
    bool adds_space_prefix;
    bool drops_first_space;  /* decode: the space that encode put before the text */
    /* After the vocabulary has been read; may set t->state. NULL: nothing to do. */
    enum err (*open)(struct tokenizer *t, const struct gguf *g, char reason[GGUF_REASON_BYTES]);
    void (*close)(struct tokenizer *t); /* NULL: nothing to do; t->state may be NULL */
    /* text[bytes > 0], well-formed UTF-8 without special tokens; starts: nothing or a special token precedes it.
     * Errors: ERR_MEMORY. */
    enum err (*encode)(const struct tokenizer *t, const char *text, size_t bytes, bool starts,
                       struct tokenizer_sink *sink);
    /* The bytes of a normal or byte token into out, which has room for its spelling; how many. */
    size_t (*piece)(const struct tokenizer *t, uint32_t token, char *out);
};

struct tokenizer {
    const struct tokenizer_kind *kind;
    void *state; /* of the kind */
    uint32_t vocabulary;
    char *text;         /* all spellings, end to end */
    size_t *start;      /* [vocabulary + 1] into text */
    float *score;       /* [vocabulary] or NULL */
    uint8_t *class;     /* [vocabulary] */
    uint32_t *table;    /* hash of spellings: token + 1, 0 is empty */
    uint32_t table_mask;
    uint32_t *special;  /* tokens looked for in a text, longest first */
    uint8_t *strips;    /* [specials] bit 0: eats white space before, bit 1: after */
    uint32_t specials;
    bool *ends; /* [vocabulary] */
    uint32_t bos, eos, unknown, separator;
    bool adds_bos, adds_eos, adds_sep, adds_space_prefix;
    char *chat_template;
    size_t chat_template_bytes;
};

void tokenizer_sink_put(struct tokenizer_sink *sink, uint32_t token);

extern const struct tokenizer_kind tokenizer_spm, tokenizer_bpe, tokenizer_wordpiece, tokenizer_unigram;

#endif
