/* open_model.h: a file, its tokenizer and its model on an engine, for verbs that run one. */
#ifndef OPEN_MODEL_H
#define OPEN_MODEL_H

#include "cli/cli.h"
#include "hal/engine.h"
#include "model/model.h"
#include "model/tokenizer.h"
#include "model/tune.h"

struct open_model {
    struct gguf *file;
    struct tokenizer *tokenizer; /* NULL when not wanted */
    struct model *model;
};

/* Options of a cache type, in the order of open_model_cache's index. */
#define OPEN_MODEL_CACHES "f16|q8_0|q4_0|f32"
uint32_t open_model_cache(int index);

/* The same with the choice left to model/tune.h: open_model_cache(index - 1), or 0 for the first. */
#define OPEN_MODEL_CACHES_AUTO "auto|" OPEN_MODEL_CACHES

/* Show the loading as progress; returns CLI_DONE, or has called cli_fail. Close it in any case. */
int open_model(struct cli_call *call, struct engine *e, const char *path, bool has_tokenizer,
               const struct model_options *options, struct open_model *out);
void open_model_close(struct open_model *m);

/* Open it with the settings that suit this device: what fits, and what a calibration run found, now or, with
 * the same device, plugin, file and wish, earlier: it is kept in the user's cache folder. is_fresh: measure in
 * any case. options, or NULL: what is not to be chosen. choice->line says why. Returns and close as open_model. */
int open_model_tuned(struct cli_call *call, struct engine *e, const char *path, bool has_tokenizer,
                     const struct model_options *options, const struct tune_wish *wish, bool is_fresh,
                     struct open_model *out, struct tune_choice *choice);
/* The choice and its reasons as a document. */
struct json_t *open_model_choice(const struct tune_choice *choice);
/* The name of a cache type: "F16". */
const char *open_model_cache_name(uint32_t cache);

/* A whole file as bytes, terminated by a zero byte that is not counted; the caller frees it. */
int open_model_text(struct cli_call *call, const char *path, char **text, size_t *bytes);

#endif
