#include "compress/layer_stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compress/larger.h"
#include "compress/plan.h"
#include "compress/unnamed.h"
#include "hal/block.h"

enum { LOAD_BYTES = 8 << 20 }; /* of a layer that are loaded between two drops */

struct layer_stream {
    struct layer_stream_options options;
    int fd;
    uint32_t at;
    float *row; /* [context, width] of one window; made by the first pass that needs it */
    uint64_t loaded;
};

uint32_t layer_stream_layer(const char *name)
{
    uint32_t layer;
    return plan_block(name, &layer) ? layer : UINT32_MAX;
}

uint64_t layer_stream_bytes(const struct gguf *g, uint32_t context)
{
    struct sizes {
        uint64_t weights, outputs, wide;
    } *layer = calloc(PLAN_LAYERS_MAX, sizeof *layer);
    uint64_t most = 0, ends = 0, vocabulary = 0;
    if (!layer)
        return UINT64_MAX;
    for (uint32_t i = 0; i < gguf_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor(g, i);
        const uint32_t at = layer_stream_layer(t->name);
        if (at == UINT32_MAX) {
            ends = larger(ends, t->shape[0]);
            vocabulary = larger(vocabulary, t->rows);
            continue;
        }
        layer[at].weights += t->type == HAL_BF16 ? 2 * t->bytes : t->bytes; /* held as F32 */
        layer[at].outputs += t->dims == 2 && t->shape[1] > 1 ? t->shape[1] : 0;
        layer[at].wide = larger(layer[at].wide, t->shape[0]);
    }
    for (uint32_t i = 0; i < PLAN_LAYERS_MAX; i++)
        if (layer[i].weights)
            most = larger(most, layer[i].weights + (layer[i].outputs + 6 * ends + 2 * layer[i].wide) * context * sizeof(float));
    free(layer);
    return most + 2 * vocabulary * sizeof(float) + 2 * LOAD_BYTES;
}

enum err layer_stream_open(const struct layer_stream_options *options, struct layer_stream **out, struct fault *f)
{
    struct layer_stream *s = calloc(1, sizeof *s);
    if (!s)
        return ERR_MEMORY;
    s->options = *options;
    const enum err e = unnamed_open(options->beside, &s->fd, f);
    if (e)
        free(s);
    else
        *out = s;
    return e;
}

void layer_stream_close(struct layer_stream *s)
{
    if (!s)
        return;
    close(s->fd);
    free(s->row);
    free(s);
}

uint32_t layer_stream_at(const struct layer_stream *s)
{
    return s->at;
}

static void drop(const struct layer_stream *s)
{
    if (s->options.drop)
        s->options.drop(s->options.context);
}

static void on_load(void *context, uint64_t done, uint64_t total)
{
    struct layer_stream *s = context;
    (void)total;
    if (done < s->loaded || done - s->loaded > LOAD_BYTES) {
        drop(s);
        s->loaded = done;
    }
}

static enum err run_window(struct layer_stream *s, struct model *m, uint32_t i, bool is_kept)
{
    const struct calibrate_windows *w = s->options.windows;
    const size_t bytes = (size_t)w->context * model_info(m)->width * sizeof(float);
    enum err e = ERR_NONE;
    if (s->at == 0) {
        e = calibrate_windows_step(w, i, m);
    } else if (!(e = unnamed_read(s->fd, i * (uint64_t)bytes, s->row, bytes))) {
        (void)model_truncate(m, 0, 0);
        e = model_step_stream(m, 0, w->context, s->row);
    }
    if (!e && is_kept && !(e = model_hidden(m, s->row)))
        e = unnamed_write(s->fd, i * (uint64_t)bytes, s->row, bytes);
    return e;
}

static enum err pass(struct layer_stream *s, uint32_t windows, const struct layer_stream_watch *watch, bool is_kept,
                     struct fault *f)
{
    char reason[GGUF_REASON_BYTES] = "";
    struct model *m = NULL;
    const struct layer_stream_options *o = &s->options;
    const uint32_t context = o->windows->context;
    const struct model_options options = {.sequences = 1, .context = context, .batch = context, .head_rows = 1,
                                          .first_layer = s->at, .last_layer = s->at + 1,
                                          .progress = on_load, .progress_context = s};
    enum err e = model_open(o->g, o->engine, &options, &m, reason);
    if (e)
        return fault_set(f, e, "%s", reason);
    if (!s->row && !(s->row = malloc((size_t)context * model_info(m)->width * sizeof *s->row)))
        e = ERR_MEMORY;
    if (!e && watch)
        e = model_observe(m, &watch->observer);
    for (uint32_t i = 0; i < windows && !e; i++) {
        if (watch && watch->window)
            watch->window(watch->observer.context, i);
        e = run_window(s, m, i, is_kept);
        if (e == ERR_IO)
            fault_set(f, e, "%s: what a layer gave cannot be kept: %s", o->beside, strerror(errno));
        if (!e && watch && watch->error)
            e = *watch->error;
        if (s->at == 0)
            drop(s); /* tokens were looked up */
        if (!e && o->progress && o->progress(o->context, i + 1, windows))
            e = ERR_CANCELLED;
    }
    model_close(m);
    drop(s);
    return e;
}

enum err layer_stream_look(struct layer_stream *s, uint32_t windows, const struct layer_stream_watch *watch,
                           struct fault *f)
{
    return pass(s, windows, watch, false, f);
}

enum err layer_stream_advance(struct layer_stream *s, const struct layer_stream_watch *watch, struct fault *f)
{
    enum err e = pass(s, s->options.windows->windows, watch, true, f);
    if (!e)
        s->at++;
    return e;
}
