#include "compress/calibrate.h"

#include <stdlib.h>
#include <string.h>

#include "compress/calibrate_windows.h"
#include "compress/digest.h"
#include "compress/layer_stream.h"
#include "compress/ranges.h"
#include "hal/engine.h"
#include "model/model.h"

enum { CONTEXT_DEFAULT = 512 };

struct work {
    const struct calibrate_options *options;
    struct gguf *base;
    struct tokenizer *tokenizer;
    struct model *model;
    struct engine *engine;
    struct engine *own;
    struct profile *profile;
    struct calibrate_windows *windows;
    uint32_t context;
    struct profile *part; /* of the language in work, or NULL */
    struct layer_stream *stream; /* NULL: the model is open */
    uint32_t layers;
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
    if (!w->error && w->part && !(w->error = profile_entry_get(w->part, tensor, cols, slices, &entry)) && part < slices)
        profile_add_rows(entry, part, x, rows);
    if (!w->error && w->options->ranges) {
        const uint64_t total = (uint64_t)w->windows->windows * w->context * cols * slices;
        w->error = ranges_add(w->options->ranges, tensor, total, x, (uint64_t)rows * cols);
    }
}

static enum err run_all(struct work *w)
{
    const struct calibrate_options *o = w->options;
    struct calibrate_progress progress = {.tokens_total = (uint64_t)w->windows->windows * w->context};
    for (uint32_t i = 0; i < w->windows->windows; i++) {
        progress.language = w->windows->language[w->windows->window[i].language];
        if (o->part) {
            w->part = o->part[w->windows->window[i].language];
            w->part->chunks++;
        }
        enum err e = calibrate_windows_step(w->windows, i, w->model);
        if (!e)
            e = w->error;
        if (e)
            return fault_set(w->fault, e, "%s: the model failed: %s", progress.language, err_name(e));
        w->profile->chunks++;
        progress.tokens += w->context;
        if (o->progress && o->progress(o->progress_context, &progress))
            return ERR_CANCELLED;
    }
    return ERR_NONE;
}

/* Before a window goes through a layer. */
static void next_window(void *context, uint32_t window)
{
    struct work *w = context;
    const bool is_first = layer_stream_at(w->stream) == 0;
    if (w->options->part) {
        w->part = w->options->part[w->windows->window[window].language];
        w->part->chunks += is_first;
    }
    w->profile->chunks += is_first;
}

static int show_layer(void *context, uint32_t windows, uint32_t of)
{
    const struct work *w = context;
    const struct calibrate_options *o = w->options;
    const uint64_t total = (uint64_t)of * w->context;
    const double passes = (layer_stream_at(w->stream) + (double)windows / of) / w->layers;
    const struct calibrate_progress progress = {
        .tokens = (uint64_t)(passes * (double)total),
        .tokens_total = total,
        .language = w->windows->language[w->windows->window[windows - 1].language]};
    return o->progress ? o->progress(o->progress_context, &progress) : 0;
}

static enum err run_layers(struct work *w)
{
    const struct layer_stream_options options = {.g = w->base, .engine = w->engine, .windows = w->windows,
                                                 .beside = w->options->beside, .progress = show_layer, .context = w};
    const struct layer_stream_watch watch = {
        .window = next_window, .observer = {.linear = observe, .context = w}, .error = &w->error};
    enum err e = layer_stream_open(&options, &w->stream, w->fault);
    while (!e && layer_stream_at(w->stream) < w->layers)
        e = layer_stream_advance(w->stream, &watch, w->fault);
    layer_stream_close(w->stream);
    return e;
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
    uint32_t wanted = o->context ? o->context : CONTEXT_DEFAULT;
    struct model_options options = {.sequences = 1, .context = wanted, .batch = wanted};
    struct model_info sizes;
    if (o->beside)
        e = model_sizes(w->base, &options, &sizes, reason);
    else
        e = model_open(w->base, w->engine, &options, &w->model, reason);
    if (e)
        return fault_set(w->fault, e, "%s", reason);
    const struct model_info *info = o->beside ? &sizes : model_info(w->model);
    w->layers = info->layers;
    const uint32_t limits[] = {info->context, info->context_trained, info->batch};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
        if (limits[i] && limits[i] < wanted)
            wanted = limits[i];
    w->context = wanted;
    return w->model ? model_observe(w->model, &observer) : ERR_NONE;
}

static enum err describe(struct work *w)
{
    const struct calibrate_options *o = w->options;
    enum err e = ERR_NONE;
    w->profile->chunk_size = w->context;
    strcpy(w->profile->method, "tare calibrate");
    for (uint32_t i = 0; !e && i < o->texts; i++) {
        const char *slash = strrchr(o->text[i].path, '/');
        e = profile_add_dataset(w->profile, slash ? slash + 1 : o->text[i].path);
    }
    for (uint32_t i = 0; !e && i < w->windows->languages; i++)
        e = profile_add_language(w->profile, w->windows->language[i], w->windows->tokens[i]);
    return e ? e : digest_file(o->base_path, w->profile->base_sha256, NULL);
}

/* One profile per language, with what the whole one says of its origin. */
static enum err open_parts(struct work *w)
{
    const struct calibrate_options *o = w->options;
    enum err e = ERR_NONE;
    if (!o->part)
        return ERR_NONE;
    if (w->windows->languages > o->parts_max)
        return fault_set(w->fault, ERR_ARGUMENT, "expected at most %u languages", o->parts_max);
    for (uint32_t i = 0; !e && i < w->windows->languages; i++) {
        if ((e = profile_open(&o->part[i])))
            break;
        struct profile *p = o->part[i];
        *o->parts = i + 1;
        p->chunk_size = w->context;
        strcpy(p->method, w->profile->method);
        memcpy(p->base_sha256, w->profile->base_sha256, sizeof p->base_sha256);
        e = profile_add_language(p, w->windows->language[i], w->windows->tokens[i]);
        for (uint32_t t = 0; !e && t < o->texts; t++)
            if (o->text[t].language && strcmp(o->text[t].language, w->windows->language[i]) == 0)
                e = profile_add_dataset(p, strrchr(o->text[t].path, '/') ? strrchr(o->text[t].path, '/') + 1
                                                                         : o->text[t].path);
    }
    return e;
}

enum err calibrate_run(const struct calibrate_options *options, struct profile **out, struct fault *f)
{
    struct work w = {.options = options, .fault = f};
    enum err e = open_model(&w);
    if (!e)
        e = profile_open(&w.profile);
    if (!e)
        e = calibrate_windows_open(w.tokenizer, options->text, options->texts, w.context,
                                   options->tokens_per_language, !options->unbalanced, options->seed, &w.windows, f);
    if (!e)
        e = describe(&w);
    if (!e)
        e = open_parts(&w);
    if (!e)
        e = options->beside ? run_layers(&w) : run_all(&w);
    if (!e && options->ranges) {
        memcpy(options->ranges->base_sha256, w.profile->base_sha256, sizeof w.profile->base_sha256);
        e = ranges_finish(options->ranges);
    }
    calibrate_windows_close(w.windows);
    model_close(w.model);
    tokenizer_close(w.tokenizer);
    engine_close(w.own);
    gguf_close(w.base);
    if (e)
        profile_close(w.profile);
    else
        *out = w.profile;
    return e;
}
