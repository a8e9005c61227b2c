/* tokenizer.h: text to tokens and back, as the GGUF file of a model defines it.
 *
 * One file per kind behind tokenizer_kind.h: tokenizer_spm.c ("llama": SentencePiece BPE with scores and
 * byte fallback), tokenizer_bpe.c ("gpt2": byte-level BPE), tokenizer_wordpiece.c ("bert"),
 * tokenizer_unigram.c ("t5"). A tokenizer owns copies of all it needs and never changes after
 * open: any number of threads may use one.
 */
#ifndef TOKENIZER_H
#define TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/gguf.h"
#include "protocol/err.h"

struct tokenizer;

enum { TOKENIZER_NONE = 0xffffffffu }; /* no such token */

/* Classes of tokens, with the numbers of tokenizer.ggml.token_type. */
enum tokenizer_class {
    TOKENIZER_NORMAL = 1,
    TOKENIZER_UNKNOWN = 2,
    TOKENIZER_CONTROL = 3,
    TOKENIZER_USER = 4,
    TOKENIZER_UNUSED = 5,
    TOKENIZER_BYTE = 6
};

/* Errors: ERR_NOT_FOUND (no tokenizer in the file), ERR_UNSUPPORTED (a kind this build does not know),
 * ERR_FORMAT, ERR_MEMORY; reason says which key. */
NODISCARD enum err tokenizer_open(const struct gguf *g, struct tokenizer **out,
                                  char reason[GGUF_REASON_BYTES]);
void tokenizer_close(struct tokenizer *t); /* NULL is allowed */

uint32_t tokenizer_vocabulary(const struct tokenizer *t);
uint32_t tokenizer_bos(const struct tokenizer *t); /* or TOKENIZER_NONE */
uint32_t tokenizer_eos(const struct tokenizer *t);
bool tokenizer_adds_bos(const struct tokenizer *t);
bool tokenizer_adds_eos(const struct tokenizer *t);
bool tokenizer_is_end(const struct tokenizer *t, uint32_t token); /* ends a generation: eos, eot, eom */
uint32_t tokenizer_class(const struct tokenizer *t, uint32_t token); /* 0: out of range */
/* The token as the file spells it ("▁the", "<0x0A>"); empty out of range. Lives as long as t. */
struct gguf_text tokenizer_spelling(const struct tokenizer *t, uint32_t token);
/* The token spelt so, or TOKENIZER_NONE. */
uint32_t tokenizer_find(const struct tokenizer *t, const char *spelling, size_t bytes);
/* The model's chat template, or empty. */
struct gguf_text tokenizer_chat_template(const struct tokenizer *t);

/* text[bytes], any bytes (what is no UTF-8 counts as U+FFFD), to tokens[capacity]; *count gets how
 * many there are.
 *   special  add the tokens that the model wants around a text (BOS, EOS, CLS, SEP)
 *   markup   recognise control tokens spelt out in the text; without it "<s>" is plain characters
 * Errors: ERR_FULL (*count says how many are needed; 3 * bytes + 8 always suffice), ERR_MEMORY. */
NODISCARD enum err tokenizer_encode(const struct tokenizer *t, const char *text, size_t bytes,
                                    bool special, bool markup, uint32_t *tokens, size_t capacity,
                                    size_t *count);

/* The same for what a chat template made: UTF-8 in which foreign[i] is 1 where a byte is not the template's. Control
 * tokens are recognised where none of their bytes is foreign. special puts BOS before it where the model wants
 * that; nothing is added behind. Errors: also ERR_FORMAT (no UTF-8). */
NODISCARD enum err tokenizer_encode_marked(const struct tokenizer *t, const char *text, const uint8_t *foreign,
                                           size_t bytes, bool special, uint32_t *tokens, size_t capacity,
                                           size_t *count);

/* Text as it arrives token by token: whole UTF-8 characters only, the rest is held back. */
struct tokenizer_stream {
    uint8_t held[4];
    uint32_t held_bytes;
    bool started;       /* something was put: a leading space is no longer dropped */
    bool shows_special; /* control tokens appear as spelt; otherwise they are silent */
};

/* A generation that continues a prompt keeps the space before its first word: continues = true. */
void tokenizer_stream_start(struct tokenizer_stream *s, bool continues, bool shows_special);

/* Bytes of text that this token completes, into out[capacity], not terminated. Bytes that can never
 * become UTF-8 come out as U+FFFD. Errors: ERR_ARGUMENT (no such token), ERR_FULL (capacity under
 * the token's length * 3 + 16; the stream is unchanged). */
NODISCARD enum err tokenizer_stream_put(const struct tokenizer *t, struct tokenizer_stream *s,
                                        uint32_t token, char *out, size_t capacity, size_t *bytes);
/* What is still held, as U+FFFD; at most 3 bytes. */
size_t tokenizer_stream_end(struct tokenizer_stream *s, char out[4]);

/* Raw bytes of one token, which may be part of a character; word-start marks become spaces.
 * Errors: ERR_ARGUMENT, ERR_FULL. */
NODISCARD enum err tokenizer_piece(const struct tokenizer *t, uint32_t token, bool shows_special,
                                   char *out, size_t capacity, size_t *bytes);

/* All tokens to text, as the inverse of encode. Errors: ERR_ARGUMENT, ERR_FULL (*bytes: needed). */
NODISCARD enum err tokenizer_decode(const struct tokenizer *t, const uint32_t *tokens, size_t count,
                                    bool shows_special, char *out, size_t capacity, size_t *bytes);

#endif
