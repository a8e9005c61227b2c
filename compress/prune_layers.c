#include "compress/prune_layers.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hal/engine.h"
#include "model/eval.h"

enum { TEXT_BYTES = 1 << 17, CONTEXT = 512, WINDOWS = 8, PARTS = 4 };

static const char *const writers[PARTS] = {"attn_output.weight", "attn_output.bias", "ffn_down.weight",
                                           "ffn_down.bias"};

struct trying {
    const struct prune_layers_options *options;
    struct prune_source *source;
    struct model *base;
    struct tokenizer *tokenizer;
    char *text;
    size_t bytes;
    uint32_t context;
    uint8_t *saved[PARTS]; /* bytes of the layer that is silent for a trial */
    struct fault *fault;
};

static const struct gguf_tensor *part_of(const struct prune_source *s, uint32_t layer, uint32_t part)
{
    char name[64];
    snprintf(name, sizeof name, "blk.%u.%s", layer, writers[part]);
    return gguf_tensor_find(prune_source_gguf(s), name);
}

void prune_layers_silence(struct prune_source *source, uint32_t layer)
{
    for (uint32_t i = 0; i < PARTS; i++) {
        const struct gguf_tensor *t = part_of(source, layer, i);
        if (t)
            prune_source_zero(source, t->name);
    }
}

static enum err save(struct trying *t, uint32_t layer)
{
    for (uint32_t i = 0; i < PARTS; i++) {
        const struct gguf_tensor *part = part_of(t->source, layer, i);
        if (!part)
            continue;
        if (!(t->saved[i] = malloc(part->bytes)))
            return ERR_MEMORY;
        memcpy(t->saved[i], part->data, part->bytes);
    }
    return ERR_NONE;
}

static void restore(struct trying *t, uint32_t layer)
{
    for (uint32_t i = 0; i < PARTS; i++) {
        const struct gguf_tensor *part = part_of(t->source, layer, i);
        if (part && t->saved[i])
            prune_source_restore(t->source, part->name, t->saved[i]);
        free(t->saved[i]);
        t->saved[i] = NULL;
    }
}

static bool go_on(void *context, const struct eval_progress *p)
{
    const struct prune_layers_options *o = context;
    (void)p;
    return !o->progress || o->progress(o->progress_context) == 0;
}

static enum err try_layer(struct trying *t, uint32_t layer, double *kld)
{
    char reason[GGUF_REASON_BYTES] = "";
    struct model *m = NULL;
    struct eval_result r;
    const struct model_options options = {.context = t->context, .head_rows = 16};
    const struct eval_options eval = {.context = t->context, .windows = WINDOWS, .progress = go_on,
                                      .progress_context = (void *)(uintptr_t)t->options};
    enum err e = save(t, layer);
    if (!e) {
        prune_layers_silence(t->source, layer);
        e = model_open(prune_source_gguf(t->source), t->options->engine, &options, &m, reason);
    }
    if (!e)
        e = eval_text(m, t->base, t->tokenizer, t->text, t->bytes, &eval, &r, reason);
    model_close(m);
    restore(t, layer);
    if (e && e != ERR_CANCELLED && reason[0])
        fault_set(t->fault, e, "%s: %s", t->options->text_path, reason);
    if (!e)
        *kld = r.kld.value;
    return e;
}

static enum err read_text(struct trying *t)
{
    FILE *in = fopen(t->options->text_path, "rb");
    if (!in)
        return fault_open(t->fault, t->options->text_path);
    t->text = malloc(TEXT_BYTES);
    t->bytes = t->text ? fread(t->text, 1, TEXT_BYTES, in) : 0;
    const bool failed = ferror(in) != 0;
    fclose(in);
    if (!t->text)
        return ERR_MEMORY;
    while (t->bytes == TEXT_BYTES && t->bytes > 1 && ((unsigned char)t->text[t->bytes - 1] & 0xc0) == 0x80)
        t->bytes--; /* no half characters at the cut */
    return failed ? fault_set(t->fault, ERR_IO, "%s: cannot be read", t->options->text_path) : ERR_NONE;
}

enum err prune_layers_choose(const struct prune_layers_options *options, struct prune_source *source,
                             uint32_t layers, uint8_t *layer, struct fault *f)
{
    char reason[GGUF_REASON_BYTES] = "";
    struct trying t = {.options = options, .source = source, .fault = f, .context = CONTEXT};
    struct gguf *base = NULL;
    enum err e = read_text(&t);
    if (!e && ((e = gguf_open(options->base_path, &base, reason)) || (e = tokenizer_open(base, &t.tokenizer, reason))))
        fault_set(f, e, "%s", reason);
    const struct model_options model = {.context = t.context, .head_rows = 16};
    if (!e && (e = model_open(base, options->engine, &model, &t.base, reason)))
        fault_set(f, e, "%s", reason);
    if (!e && model_info(t.base)->context_trained && model_info(t.base)->context_trained < t.context)
        t.context = model_info(t.base)->context_trained & ~1u;
    for (uint32_t gone = 0; !e && gone < options->gone; gone++) {
        uint32_t best = UINT32_MAX;
        double least = INFINITY;
        for (uint32_t l = 0; !e && l < layers; l++) {
            double kld = INFINITY;
            if (!layer[l])
                continue;
            e = try_layer(&t, l, &kld);
            if (!e && kld < least) {
                least = kld;
                best = l;
            }
        }
        if (e)
            break;
        if (best == UINT32_MAX) {
            e = fault_set(f, ERR_ARGUMENT, "%s: the text tells no layers apart", options->text_path);
            break;
        }
        layer[best] = 0;
        prune_layers_silence(source, best);
    }
    model_close(t.base);
    tokenizer_close(t.tokenizer);
    gguf_close(base);
    free(t.text);
    return e;
}
