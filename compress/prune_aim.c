#include "compress/prune_aim.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compress/layer_stream.h"
#include "compress/unnamed.h"
#include "model/model.h"

struct prune_aim {
    struct prune_aim_options options;
    struct gguf *gguf;
    struct layer_stream *stream;
    int fd; /* [windows, places, context, width] */
    uint32_t width;
    uint32_t first, window; /* of the advance in work */
    enum err error;
};

static void drop(void *context)
{
    const struct prune_aim *a = context;
    for (uint32_t i = 0; i < gguf_tensors(a->gguf); i++)
        gguf_drop(a->gguf, gguf_tensor(a->gguf, i)->data, gguf_tensor(a->gguf, i)->bytes);
}

static int show(void *context, uint32_t windows, uint32_t of)
{
    const struct prune_aim_options *o = &((const struct prune_aim *)context)->options;
    return o->progress ? o->progress(o->context, windows, of) : 0;
}

enum err prune_aim_open(const struct prune_aim_options *options, struct prune_aim **out, struct fault *f)
{
    char reason[GGUF_REASON_BYTES] = "";
    const struct model_options sizes = {.context = options->windows->context};
    struct model_info info;
    struct prune_aim *a = calloc(1, sizeof *a);
    if (!a)
        return ERR_MEMORY;
    a->options = *options;
    a->fd = -1;
    enum err e = gguf_open(options->base_path, &a->gguf, reason);
    if (!e)
        e = model_sizes(a->gguf, &sizes, &info, reason);
    if (e)
        fault_set(f, e, "%s", reason);
    if (!e) {
        a->width = info.width;
        const struct layer_stream_options stream = {.g = a->gguf, .engine = options->engine,
                                                    .windows = options->windows, .beside = options->beside,
                                                    .drop = drop, .progress = show, .context = a};
        e = unnamed_open(options->beside, &a->fd, f);
        if (!e)
            e = layer_stream_open(&stream, &a->stream, f);
    }
    if (e)
        prune_aim_close(a);
    else
        *out = a;
    return e;
}

void prune_aim_close(struct prune_aim *a)
{
    if (!a)
        return;
    layer_stream_close(a->stream);
    gguf_close(a->gguf);
    if (a->fd >= 0)
        close(a->fd);
    free(a);
}

uint32_t prune_aim_width(const struct prune_aim *a)
{
    return a->width;
}

static uint64_t place_of(const struct prune_aim *a, uint32_t window, uint32_t place)
{
    const uint64_t one = (uint64_t)a->options.windows->context * a->width * sizeof(float);
    return ((uint64_t)window * PRUNE_AIM_PLACES + place) * one;
}

static void on_window(void *context, uint32_t window)
{
    ((struct prune_aim *)context)->window = window;
}

static void ignore(void *context, const char *tensor, uint32_t part, const float *x, uint32_t rows, uint32_t cols)
{
    (void)context, (void)tensor, (void)part, (void)x, (void)rows, (void)cols;
}

static void keep(void *context, const char *tensor, const float *x, uint32_t rows, uint32_t cols)
{
    struct prune_aim *a = context;
    const bool is_layer = strstr(tensor, ".ffn_down.") != NULL;
    const uint64_t at = place_of(a, a->window, is_layer ? PRUNE_AIM_LAYER : PRUNE_AIM_ATTENTION);
    if (!is_layer && layer_stream_at(a->stream) != a->first)
        return;
    if (rows != a->options.windows->context || cols != a->width)
        a->error = ERR_UNSUPPORTED;
    if (!a->error)
        a->error = unnamed_write(a->fd, at, x, (size_t)rows * cols * sizeof *x);
}

enum err prune_aim_advance(struct prune_aim *a, uint32_t until, struct fault *f)
{
    const struct layer_stream_watch watch = {on_window, {.linear = ignore, .stream = keep, .context = a}, &a->error};
    enum err e = ERR_NONE;
    a->first = layer_stream_at(a->stream);
    while (!e && layer_stream_at(a->stream) < until)
        e = layer_stream_advance(a->stream, &watch, f);
    return e;
}

enum err prune_aim_get(const struct prune_aim *a, uint32_t window, enum prune_aim_place place, float *out)
{
    return unnamed_read(a->fd, place_of(a, window, place), out,
                        (size_t)a->options.windows->context * a->width * sizeof *out);
}
