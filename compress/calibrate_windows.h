/* calibrate_windows.h: texts cut into windows of tokens, in the order in which they are run.
 *
 * Round-robin over the languages until each has spent its budget, so that the order of every sum is
 * fixed. The text of one language is one stream, BOS first; the first token of every window is replaced
 * by BOS where the model wants one, as the field's tools do.
 */
#ifndef CALIBRATE_WINDOWS_H
#define CALIBRATE_WINDOWS_H

#include "compress/calibrate.h"
#include "model/model.h"
#include "model/tokenizer.h"

struct calibrate_window {
    const uint32_t *token;   /* [context] */
    uint32_t language;
};

struct calibrate_windows {
    uint32_t context;
    uint32_t windows;
    struct calibrate_window *window; /* in the order of the run */
    uint32_t languages;
    const char **language;           /* names, borrowed from the texts */
    uint64_t *tokens;                /* per language, that are used */
    uint32_t *token;                 /* all of them */
};

enum { CALIBRATE_TEXT_MAX = 1 << 30 };

/* A file's first `most` bytes, or fewer if it is shorter; the caller frees them. Errors: ERR_IO, ERR_MEMORY (most is
 * CALIBRATE_TEXT_MAX, and it is longer still). */
NODISCARD enum err calibrate_windows_read(const char *path, size_t most, char **out, size_t *bytes, struct fault *f);

/* `most` tokens, or as many as the base was trained with. */
uint32_t calibrate_windows_context(const struct gguf *base, uint32_t most);

/* per_language: tokens at most, 0: all; balanced: as many of each language as the shortest has. seed: which
 * windows of a longer text are taken, 0: the first, and no more of a text is read than they ask for.
 * Errors: ERR_IO, ERR_ARGUMENT (no text, or one shorter than a window), ERR_MEMORY. */
NODISCARD enum err calibrate_windows_open(const struct tokenizer *t, const struct calibrate_text *text,
                                          uint32_t texts, uint32_t context, uint64_t per_language,
                                          bool balanced, uint64_t seed, struct calibrate_windows **out,
                                          struct fault *f);
/* The same with the base's own tokenizer; a window is as long as calibrate_windows_context says. */
NODISCARD enum err calibrate_windows_of(const struct gguf *base, const struct calibrate_text *text, uint32_t texts,
                                        uint32_t context, uint64_t per_language, bool balanced, uint64_t seed,
                                        struct calibrate_windows **out, struct fault *f);
void calibrate_windows_close(struct calibrate_windows *w);

/* Memory that cutting them takes, most of it while the longest text becomes tokens; the arguments are those of open. */
uint64_t calibrate_windows_bytes(const struct calibrate_text *text, uint32_t texts, uint64_t per_language, uint64_t seed);

/* Different languages of texts that all name one; at least 1. */
uint32_t calibrate_windows_languages(const struct calibrate_text *text, uint32_t texts);

/* Run window i alone; all outputs are wanted, for the last layer may leave out rows that nobody asks for. Errors: the
 * model's. */
NODISCARD enum err calibrate_windows_step(const struct calibrate_windows *w, uint32_t i, struct model *m);

/* Every eighth window is not quantised with but judged by. */
bool calibrate_windows_is_held(uint32_t i);

#endif
