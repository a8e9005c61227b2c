/* tokenizer_split.h: cutting a text into words by the regular expressions of a model family; for
 * model/tokenizer_*.c only.
 *
 * A family is one to six expressions; each cuts the pieces that the ones before left into its matches
 * and what lies between them. The expressions are those of the families' own tokenizer.json files.
 */
#ifndef TOKENIZER_SPLIT_H
#define TOKENIZER_SPLIT_H

#include "model/tokenizer_kind.h"

struct tokenizer_split;

/* family as tokenizer.ggml.pre spells it. Errors: ERR_UNSUPPORTED, ERR_MEMORY; reason names the key. */
NODISCARD enum err tokenizer_split_open(const char *family, size_t bytes, struct tokenizer_split **out,
                                        char reason[GGUF_REASON_BYTES]);
void tokenizer_split_close(struct tokenizer_split *s); /* NULL is allowed */

/* The words of one text, which must be well-formed UTF-8 and outlive them. */
struct tokenizer_words {
    const char *text;
    uint8_t *composed; /* what text points into for families that normalise, else NULL */
    uint32_t *end; /* of each word, ascending */
    size_t words, next;
    size_t longest; /* bytes of the longest word, at least 1 */
};

/* Errors: ERR_MEMORY (also for a text of 1 GiB and more). */
NODISCARD enum err tokenizer_words_open(const struct tokenizer_split *s, const char *text, size_t bytes,
                                        struct tokenizer_words *out);
bool tokenizer_words_next(struct tokenizer_words *w, const char **word, size_t *bytes);
void tokenizer_words_close(struct tokenizer_words *w);

#endif
