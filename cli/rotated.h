/* rotated.h: compress/rotate.h for a verb, with progress. */
#ifndef ROTATED_H
#define ROTATED_H

#include "cli/cli.h"
#include "compress/recipe.h"

struct gguf;

enum { ROTATED_PATH = 4096 };

/* Make OUT.rotated of base and give its path. The recipe's own base is compared and forgotten: from here on it is
 * another. Returns CLI_DONE, or has called cli_fail. */
int rotated_make(struct cli_call *call, struct engine *engine, const struct gguf *base, const char *out_path,
                 struct recipe *recipe, char path[ROTATED_PATH]);

#endif
