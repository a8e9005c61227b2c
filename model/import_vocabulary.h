/* import_vocabulary.h: the tokens of an import in the making; for model/import_*.c only. */
#ifndef IMPORT_VOCABULARY_H
#define IMPORT_VOCABULARY_H

#include "model/import_source.h"
#include "model/tokenizer.h"

/* One entry per row of the embedding. */
struct vocabulary {
    struct gguf_text *spelt; /* owned texts; NULL: no such token */
    float *score;
    int32_t *class; /* enum tokenizer_class */
    uint32_t size;
    bool has_scores;
};

NODISCARD enum err vocabulary_set(struct import_source *s, struct vocabulary *v, json_int_t id, const char *text,
                                  size_t bytes, int32_t class);
/* Tokens that are still missing become padding. */
NODISCARD enum err vocabulary_fill(struct import_source *s, struct vocabulary *v);
/* Special tokens become control tokens, other added ones are found in any text. */
NODISCARD enum err vocabulary_add(struct import_source *s, struct vocabulary *v, const json_t *added);

/* The model part of tokenizer.json, and of SentencePiece's tokenizer.model: tokens into v, the keys of
 * tokenizer.ggml that belong to the kind into the writer. */
NODISCARD enum err vocabulary_from_json(struct import_source *s, struct vocabulary *v, const json_t *root);
NODISCARD enum err vocabulary_from_model(struct import_source *s, struct vocabulary *v, const uint8_t *bytes,
                                         size_t size);

#endif
