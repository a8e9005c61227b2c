/* open_model.c: what the verbs that run a model share. */
#include "cli/open_model.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/progress.h"

uint32_t open_model_cache(int index)
{
    static const uint32_t types[] = {HAL_F16, HAL_Q8_0, HAL_Q4_0, MODEL_CACHE_F32};
    return index >= 0 && index < 4 ? types[index] : HAL_F16;
}

static void show(void *context, uint64_t done, uint64_t total)
{
    struct progress *p = context;
    p->total = (double)total;
    progress_update(p, (double)done, NULL);
}

/* The library's line names the file already. */
static int refuse(struct cli_call *call, enum err e, const char *reason)
{
    return cli_fail(call, (enum cli_status)cli_status_of(e), NULL, NULL, "%s",
                    reason[0] ? reason : cli_sentence(e));
}

int open_model(struct cli_call *call, struct engine *e, const char *path, bool has_tokenizer,
               const struct model_options *options, struct open_model *out)
{
    char reason[GGUF_REASON_BYTES] = "";
    struct progress progress;
    struct model_options o = *options;
    *out = (struct open_model){NULL, NULL, NULL};
    enum err failed = gguf_open(path, &out->file, reason);
    if (!failed && has_tokenizer)
        failed = tokenizer_open(out->file, &out->tokenizer, reason);
    if (failed)
        return refuse(call, failed, reason);
    progress_open(&progress, call, "load", "bytes", (double)gguf_bytes(out->file));
    o.progress = show;
    o.progress_context = &progress;
    failed = model_open(out->file, e, &o, &out->model, reason);
    progress_close(&progress, false);
    return failed ? refuse(call, failed, reason) : CLI_DONE;
}

void open_model_close(struct open_model *m)
{
    model_close(m->model);
    tokenizer_close(m->tokenizer);
    gguf_close(m->file);
    *m = (struct open_model){NULL, NULL, NULL};
}

int open_model_text(struct cli_call *call, const char *path, char **text, size_t *bytes)
{
    struct stat status;
    FILE *f = fopen(path, "rb");
    if (!f || fstat(fileno(f), &status) != 0) {
        const int error = errno;
        if (f)
            fclose(f);
        return cli_fail(call, CLI_INPUT, path, NULL, "%s", strerror(error));
    }
    char *buffer = S_ISREG(status.st_mode) ? malloc((size_t)status.st_size + 1) : NULL;
    if (!buffer) {
        fclose(f);
        return cli_fail(call, CLI_INPUT, path, NULL, "expected a file that fits into memory");
    }
    *bytes = fread(buffer, 1, (size_t)status.st_size, f);
    const int failed = ferror(f);
    fclose(f);
    if (failed) {
        free(buffer);
        return cli_fail(call, CLI_INPUT, path, NULL, "cannot be read");
    }
    buffer[*bytes] = 0;
    *text = buffer;
    return CLI_DONE;
}
