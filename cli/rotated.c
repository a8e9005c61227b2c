#include "cli/rotated.h"

#include <stdio.h>
#include <string.h>

#include "cli/progress.h"
#include "compress/digest.h"
#include "compress/rotate.h"
#include "model/gguf.h"

static int show(void *context, uint64_t tensors)
{
    progress_update(context, (double)tensors, NULL);
    return 0;
}

int rotated_make(struct cli_call *call, struct engine *engine, const struct gguf *base, const char *out_path,
                 struct recipe *recipe, char path[ROTATED_PATH])
{
    char sha256[65];
    struct fault f = {""};
    struct progress bar;
    struct rotate_result result = {0};
    if (recipe_prunes(&recipe->prune) || recipe->profile[0])
        return cli_fail(call, CLI_USAGE, NULL, "--rotate",
                        "expected no pruning and no profile beside it (--text calibrates on the rotated base)");
    enum err e = digest_file(gguf_path(base), sha256, NULL);
    if (e)
        fault_set(&f, e, "%s: cannot be read", gguf_path(base));
    else if (recipe->base_sha256[0] && strcmp(recipe->base_sha256, sha256) != 0)
        e = fault_set(&f, ERR_MISMATCH, "the recipe is for base %s, this one is %s", recipe->base_sha256, sha256);
    if (e)
        return cli_fail(call, e == ERR_MISMATCH ? CLI_INPUT : (enum cli_status)cli_status_of(e), NULL, NULL, "%s", f.text);
    recipe->base_sha256[0] = 0;
    rotate_file_path(out_path, path, ROTATED_PATH);
    const struct rotate_options o = {.base_path = gguf_path(base),
                                     .base_sha256 = sha256,
                                     .out_path = path,
                                     .seed = recipe->seed,
                                     .engine = engine,
                                     .progress = show,
                                     .progress_context = &bar};
    progress_open(&bar, call, "rotate", "tensors", gguf_tensors(base));
    e = rotate_file_make(&o, &result, &f);
    progress_close(&bar, e == ERR_NONE);
    if (e)
        return cli_fail(call, (enum cli_status)cli_status_of(e), NULL, NULL, "%s", f.text);
    if (result.is_untied)
        cli_print(call, "rotated: the head is no longer the embedding, %llu weights more\n",
                  (unsigned long long)result.weights_added);
    return CLI_DONE;
}
