/* open_model.c: what the verbs that run a model share. */
#include "cli/open_model.h"

#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/progress.h"
#include "hal/block.h"

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

static int open_file(struct cli_call *call, const char *path, bool has_tokenizer, struct open_model *out)
{
    char reason[GGUF_REASON_BYTES] = "";
    *out = (struct open_model){NULL, NULL, NULL};
    enum err failed = gguf_open(path, &out->file, reason);
    if (!failed && has_tokenizer)
        failed = tokenizer_open(out->file, &out->tokenizer, reason);
    return failed ? refuse(call, failed, reason) : CLI_DONE;
}

static int load(struct cli_call *call, struct engine *e, const struct model_options *options, struct open_model *out)
{
    char reason[GGUF_REASON_BYTES] = "";
    struct progress progress;
    struct model_options o = *options;
    progress_open(&progress, call, "load", "bytes", (double)gguf_bytes(out->file));
    o.progress = show;
    o.progress_context = &progress;
    const enum err failed = model_open(out->file, e, &o, &out->model, reason);
    progress_close(&progress, false);
    return failed ? refuse(call, failed, reason) : CLI_DONE;
}

int open_model(struct cli_call *call, struct engine *e, const char *path, bool has_tokenizer,
               const struct model_options *options, struct open_model *out)
{
    const int status = open_file(call, path, has_tokenizer, out);
    return status ? status : load(call, e, options, out);
}

const char *open_model_cache_name(uint32_t cache)
{
    const struct block_type *t = block_type(cache == MODEL_CACHE_F32 ? HAL_F32 : cache ? cache : HAL_F16);
    return t ? t->name : "?";
}

/* What tells this file's bytes from others without reading them. */
static void identify(const char *path, char *out, size_t bytes)
{
    struct stat s;
    char full[PATH_MAX];
    if (!realpath(path, full) || stat(full, &s) != 0) {
        snprintf(out, bytes, "?");
        return;
    }
    snprintf(out, bytes, "%.240s %lld bytes %lld.%09ld", full, (long long)s.st_size, (long long)s.st_mtim.tv_sec,
             s.st_mtim.tv_nsec);
}

/* $XDG_CACHE_HOME/tare/<digest of the key>.tune; "" where there is no home. */
static void store_path(const char *key, char *out, size_t bytes)
{
    const char *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    uint64_t hash = UINT64_C(14695981039346656037);
    char folder[PATH_MAX - 64];
    int n = -1;
    for (const char *c = key; *c; c++)
        hash = (hash ^ (unsigned char)*c) * UINT64_C(1099511628211);
    out[0] = 0;
    if (base && base[0] == '/')
        n = snprintf(folder, sizeof folder, "%s/tare", base);
    else if (home && home[0] == '/')
        n = snprintf(folder, sizeof folder, "%s/.cache/tare", home);
    if (n < 0 || (size_t)n >= sizeof folder)
        return;
    char *slash = strrchr(folder, '/');
    *slash = 0;
    mkdir(folder, 0700); /* there already, or the next one fails */
    *slash = '/';
    if (mkdir(folder, 0700) == 0 || errno == EEXIST)
        snprintf(out, bytes, "%s/%016llx.tune", folder, (unsigned long long)hash);
}

static enum err measure(struct cli_call *call, struct engine *e, struct open_model *m,
                        const struct device_info *device, const struct tune_wish *wish, const char *identity,
                        bool is_fresh, struct tune_choice *choice)
{
    char key[TUNE_KEY_BYTES], store[PATH_MAX];
    const bool is_open = !wish->threads || !wish->chunk;
    tune_key(device, e, identity, wish, key);
    store_path(key, store, sizeof store);
    enum err failed = ERR_NOT_FOUND;
    if (is_open && !is_fresh && store[0])
        failed = tune_load(store, key, choice);
    if (!failed)
        return tune_apply(e, m->model, choice);
    failed = tune_measure(e, m->model, device, wish, TUNE_SECONDS, NULL, NULL, choice);
    if (failed)
        return failed;
    if (is_open && choice->samples && store[0] && tune_save(store, key, choice) != ERR_NONE)
        cli_note(call, "the settings found cannot be kept in %s: they will be measured again\n", store);
    return tune_apply(e, m->model, choice);
}

int open_model_tuned(struct cli_call *call, struct engine *e, const char *path, bool has_tokenizer,
                     const struct model_options *options, const struct tune_wish *wish, bool is_fresh,
                     struct open_model *out, struct tune_choice *choice)
{
    char reason[GGUF_REASON_BYTES] = "", identity[320];
    struct device_info device;
    struct model_options o = options ? *options : (struct model_options){.context = 0};
    int status = open_file(call, path, has_tokenizer, out);
    if (status)
        return status;
    enum err failed = device_probe(NULL, &device);
    if (!failed)
        failed = tune_fit(out->file, e, &device, wish, choice, reason);
    if (failed)
        return refuse(call, failed, reason);
    tune_options(choice, &o);
    if ((status = load(call, e, &o, out)))
        return status;
    identify(path, identity, sizeof identity);
    failed = measure(call, e, out, &device, wish, identity, is_fresh, choice);
    return failed ? refuse(call, failed, "") : CLI_DONE;
}

json_t *open_model_choice(const struct tune_choice *c)
{
    json_t *why = json_array();
    for (uint32_t i = 0; i < c->lines; i++)
        json_array_append_new(why, json_string(c->line[i]));
    return json_pack("{s:I, s:I, s:s, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:I, s:o}", "threads",
                     (json_int_t)c->threads, "chunk", (json_int_t)c->chunk, "cache", open_model_cache_name(c->cache),
                     "context", (json_int_t)c->context, "budget_bytes",
                     c->budget_bytes > INT64_MAX ? (json_int_t)0 : (json_int_t)c->budget_bytes, "cache_bytes",
                     (json_int_t)c->cache_bytes, "arena_bytes", (json_int_t)c->arena_bytes, "weight_bytes",
                     (json_int_t)c->weight_bytes, "prefill_tokens_per_second", c->prefill_tok_s,
                     "decode_tokens_per_second", c->decode_tok_s, "seconds", c->seconds, "samples",
                     (json_int_t)c->samples, "why", why);
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
