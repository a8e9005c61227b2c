#include "compress/calibrate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compress/digest.h"
#include "hal/engine.h"
#include "model/gguf.h"
#include "model/model.h"
#include "model/tokenizer.h"

enum { CONTEXT_DEFAULT = 512, LANGUAGES_MAX = 256, TEXT_BYTES_MAX = 1 << 30 };

/* The tokens of all texts of one language, in the order given. */
struct language {
    const char *name;
    uint32_t *token;
    size_t tokens;
    size_t spent;
    size_t budget;
};

struct work {
    const struct calibrate_options *options;
    struct gguf *base;
    struct tokenizer *tokenizer;
    struct model *model;
    struct engine *engine;
    struct engine *own;
    struct profile *profile;
    struct language language[LANGUAGES_MAX];
    uint32_t languages;
    uint32_t context;
    uint32_t *window;
    enum err error; /* of the observer, which cannot return one */
    struct fault *fault;
};

static void observe(void *context, const char *tensor, uint32_t part, const float *x, uint32_t rows,
                    uint32_t cols)
{
    struct work *w = context;
    struct profile_entry *entry;
    const struct gguf_tensor *t = gguf_tensor_find(w->base, tensor);
    if (w->error || !t || strcmp(tensor, "output.weight") == 0 || strcmp(tensor, "token_embd.weight") == 0)
        return;
    const uint32_t slices = (uint32_t)(t->shape[2] * t->shape[3]);
    w->error = profile_entry_get(w->profile, tensor, cols, slices, &entry);
    if (!w->error && part < slices)
        profile_add_rows(entry, part, x, rows);
}

static enum err read_text(const char *path, char **out, size_t *bytes, struct fault *f)
{
    enum err e = ERR_NONE;
    char *text = NULL;
    size_t used = 0, room = 0;
    FILE *in = fopen(path, "rb");
    if (!in)
        return fault_set(f, ERR_IO, "%s: %s", path, strerror(errno));
    for (;;) {
        if (used == room) {
            char *longer = room < TEXT_BYTES_MAX ? realloc(text, room = room ? 2 * room : 1 << 16) : NULL;
            if (!longer) {
                e = fault_set(f, ERR_MEMORY, "%s: too long", path);
                break;
            }
            text = longer;
        }
        const size_t n = fread(text + used, 1, room - used, in);
        if (n == 0)
            break;
        used += n;
    }
    if (!e && ferror(in))
        e = fault_set(f, ERR_IO, "%s: cannot be read", path);
    fclose(in);
    if (e) {
        free(text);
        return e;
    }
    *out = text;
    *bytes = used;
    return ERR_NONE;
}

static struct language *language_of(struct work *w, const struct calibrate_text *t)
{
    const char *name = t->language ? t->language : t->path;
    for (uint32_t i = 0; i < w->languages; i++)
        if (strcmp(w->language[i].name, name) == 0)
            return &w->language[i];
    if (w->languages == LANGUAGES_MAX)
        return NULL;
    w->language[w->languages] = (struct language){.name = name};
    return &w->language[w->languages++];
}

static enum err add_text(struct work *w, const struct calibrate_text *t)
{
    char *text = NULL;
    size_t bytes = 0, count = 0;
    struct language *l = language_of(w, t);
    if (!l)
        return fault_set(w->fault, ERR_ARGUMENT, "expected at most %d languages", LANGUAGES_MAX);
    enum err e = read_text(t->path, &text, &bytes, w->fault);
    if (e)
        return e;
    uint32_t *token = realloc(l->token, (l->tokens + bytes + 4) * sizeof *token);
    if (!token) {
        e = ERR_MEMORY;
        goto out;
    }
    l->token = token;
    e = tokenizer_encode(w->tokenizer, text, bytes, l->tokens == 0, false, token + l->tokens, bytes + 4, &count);
    if (e)
        fault_set(w->fault, e, "%s: cannot be tokenised", t->path);
    else
        l->tokens += count;
out:
    free(text);
    return e;
}

/* Whole windows only; balanced: as many of each language as the shortest one has. */
static enum err set_budgets(struct work *w, uint64_t *total)
{
    const struct calibrate_options *o = w->options;
    size_t least = SIZE_MAX;
    for (uint32_t i = 0; i < w->languages; i++) {
        struct language *l = &w->language[i];
        size_t tokens = l->tokens;
        if (o->tokens_per_language && tokens > o->tokens_per_language)
            tokens = o->tokens_per_language;
        l->budget = tokens / w->context;
        if (l->budget == 0)
            return fault_set(w->fault, ERR_ARGUMENT, "%s: has %zu tokens to use, one window takes %u",
                             l->name, tokens, w->context);
        least = l->budget < least ? l->budget : least;
    }
    *total = 0;
    for (uint32_t i = 0; i < w->languages; i++) {
        if (!o->unbalanced)
            w->language[i].budget = least;
        *total += w->language[i].budget * w->context;
    }
    return ERR_NONE;
}

static enum err run_window(struct work *w, struct language *l)
{
    memcpy(w->window, l->token + l->spent, w->context * sizeof *w->window);
    if (tokenizer_adds_bos(w->tokenizer))
        w->window[0] = tokenizer_bos(w->tokenizer);
    l->spent += w->context;
    l->budget--;
    /* all outputs are wanted: the last layer may leave out rows that nobody asks for */
    const struct model_run run = {
        .sequence = 0, .outputs = w->context, .count = w->context, .tokens = w->window};
    model_truncate(w->model, 0, 0);
    enum err e = model_step(w->model, &run, 1);
    return e ? e : w->error;
}

static enum err run_all(struct work *w, uint64_t total)
{
    const struct calibrate_options *o = w->options;
    struct calibrate_progress progress = {.tokens_total = total};
    bool is_left = true;
    while (is_left) {
        is_left = false;
        for (uint32_t i = 0; i < w->languages; i++) {
            struct language *l = &w->language[i];
            if (l->budget == 0)
                continue;
            is_left = true;
            enum err e = run_window(w, l);
            if (e)
                return fault_set(w->fault, e, "%s: the model failed: %s", l->name, err_name(e));
            w->profile->chunks++;
            progress.tokens += w->context;
            progress.language = l->name;
            if (o->progress && o->progress(o->progress_context, &progress))
                return ERR_CANCELLED;
        }
    }
    return ERR_NONE;
}

static enum err open_model(struct work *w)
{
    char reason[GGUF_REASON_BYTES] = "";
    const struct calibrate_options *o = w->options;
    const struct engine_options engine_options = {.threads = o->threads};
    const struct model_observer observer = {.linear = observe, .context = w};
    enum err e = gguf_open(o->base_path, &w->base, reason);
    if (e || (e = tokenizer_open(w->base, &w->tokenizer, reason)))
        return fault_set(w->fault, e, "%s", reason);
    w->engine = o->engine;
    if (!w->engine) {
        if ((e = engine_open(&engine_options, &w->own, NULL)))
            return e;
        w->engine = w->own;
    }
    const uint32_t wanted = o->context ? o->context : CONTEXT_DEFAULT;
    struct model_options options = {.sequences = 1, .context = wanted, .batch = wanted};
    if ((e = model_open(w->base, w->engine, &options, &w->model, reason)))
        return fault_set(w->fault, e, "%s: %s", o->base_path, reason);
    const struct model_info *info = model_info(w->model);
    w->context = info->context < wanted ? info->context : wanted;
    if (info->context_trained && info->context_trained < w->context)
        w->context = info->context_trained;
    if (w->context > info->batch)
        w->context = info->batch;
    w->window = malloc(w->context * sizeof *w->window);
    return w->window ? model_observe(w->model, &observer) : ERR_MEMORY;
}

static enum err describe(struct work *w, uint64_t *total)
{
    const struct calibrate_options *o = w->options;
    enum err e = set_budgets(w, total);
    w->profile->chunk_size = w->context;
    strcpy(w->profile->method, "tare calibrate");
    for (uint32_t i = 0; !e && i < o->texts; i++) {
        const char *slash = strrchr(o->text[i].path, '/');
        e = profile_add_dataset(w->profile, slash ? slash + 1 : o->text[i].path);
    }
    for (uint32_t i = 0; !e && i < w->languages; i++)
        e = profile_add_language(w->profile, w->language[i].name,
                                 (uint64_t)w->language[i].budget * w->context);
    return e ? e : digest_file(o->base_path, w->profile->base_sha256, NULL);
}

enum err calibrate_run(const struct calibrate_options *options, struct profile **out, struct fault *f)
{
    uint64_t total = 0;
    struct work *w = calloc(1, sizeof *w);
    if (!w)
        return ERR_MEMORY;
    w->options = options;
    w->fault = f;
    enum err e = options->texts == 0 ? fault_set(f, ERR_ARGUMENT, "expected at least one text")
                                     : open_model(w);
    if (e || (e = profile_open(&w->profile)))
        goto out;
    for (uint32_t i = 0; i < options->texts; i++)
        if ((e = add_text(w, &options->text[i])))
            goto out;
    if ((e = describe(w, &total)))
        goto out;
    e = run_all(w, total);
out:
    for (uint32_t i = 0; i < w->languages; i++)
        free(w->language[i].token);
    free(w->window);
    model_close(w->model);
    tokenizer_close(w->tokenizer);
    engine_close(w->own);
    gguf_close(w->base);
    if (e)
        profile_close(w->profile);
    else
        *out = w->profile;
    free(w);
    return e;
}
