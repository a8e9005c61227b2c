/* open_model.h: a file, its tokenizer and its model on an engine, for verbs that run one. */
#ifndef OPEN_MODEL_H
#define OPEN_MODEL_H

#include "cli/cli.h"
#include "hal/engine.h"
#include "model/model.h"
#include "model/tokenizer.h"

struct open_model {
    struct gguf *file;
    struct tokenizer *tokenizer; /* NULL when not wanted */
    struct model *model;
};

/* Options of a cache type, in the order of open_model_cache's index. */
#define OPEN_MODEL_CACHES "f16|q8_0|q4_0|f32"
uint32_t open_model_cache(int index);

/* Show the loading as progress; returns CLI_DONE, or has called cli_fail. Close it in any case. */
int open_model(struct cli_call *call, struct engine *e, const char *path, bool has_tokenizer,
               const struct model_options *options, struct open_model *out);
void open_model_close(struct open_model *m);

/* A whole file as bytes, terminated by a zero byte that is not counted; the caller frees it. */
int open_model_text(struct cli_call *call, const char *path, char **text, size_t *bytes);

#endif
