/* quantize_options.h: what `tare quantize` can be told. */
#ifndef QUANTIZE_OPTIONS_H
#define QUANTIZE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/files.h"
#include "cli/texts.h"
#include "compress/recipe.h"

struct quantize_settings {
    const char *out;
    int mode;
    const char *type;
    double bpw;
    const char *plan;
    const char *method;
    const char *scheme;
    const char *profile;
    struct cli_list texts, languages;
    int64_t tokens;
    struct cli_list eval_texts, eval_languages, gates;
    int cache, activations;
    const char *seed; /* NULL: the recipe's */
    int sensitivity;
    const char *report;
    bool dry_run, measure, export;
    const char *prune, *mask;
    int prune_by;
    int64_t prune_step;
    bool recover, rotate;
};

/* What --help shows. */
extern const struct cli_option quantize_options[];
extern const char quantize_text[];
extern const struct cli_example quantize_examples[];

/* The recipe that --plan names, else the default one, with what the options replace of it; texts and gates are left.
 * Returns CLI_DONE, or has called cli_fail. */
int quantize_options_recipe(struct cli_call *call, const struct quantize_settings *s, struct recipe *r);

/* All that the run reads and writes (files.h). Returns CLI_DONE, or has called cli_fail; files_close in any case. */
int quantize_options_files(struct cli_call *call, const struct recipe *r, const struct texts *texts,
                           const struct texts *eval_texts, struct files *files);

#endif
