#include "compress/prune_source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "compress/calibrate_windows.h"
#include "compress/layer_stream.h"
#include "hal/engine.h"
#include "model/model.h"

enum { TOKENS_DEFAULT = 16384, PIECE = 1 << 20 };

struct prune_source {
    struct prune_source_options options;
    struct calibrate_windows *windows;
    uint8_t *map;
    size_t bytes;
    struct gguf *gguf;
    bool has_copy;
    bool is_changed; /* in memory */
    struct layer_stream *stream;
    /* while collecting */
    char (*name)[64];
    struct hessian **hessian;
    uint32_t count, sample;
    enum err error; /* of the observer */
};

static enum err copy_file(int from, int to)
{
    char *piece = malloc(PIECE);
    ssize_t n = 0;
    enum err e = piece ? ERR_NONE : ERR_MEMORY;
    while (!e && (n = read(from, piece, PIECE)) > 0)
        if (write(to, piece, (size_t)n) != n)
            e = ERR_IO;
    free(piece);
    return e ? e : n < 0 ? ERR_IO : ERR_NONE;
}

static enum err map_base(struct prune_source *s, struct fault *f)
{
    const struct prune_source_options *o = &s->options;
    char reason[GGUF_REASON_BYTES] = "";
    const char *path = o->base_path;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && o->work_path) {
        const int base = fd;
        path = o->work_path;
        fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        s->has_copy = fd >= 0;
        const enum err e = fd >= 0 ? copy_file(base, fd) : ERR_IO;
        close(base);
        if (e) {
            const enum err why = fault_set(f, e, "%s: %s", path, strerror(errno));
            if (fd >= 0)
                close(fd);
            return why;
        }
    }
    const off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    void *map = size <= 0 ? MAP_FAILED
                          : mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, o->work_path ? MAP_SHARED : MAP_PRIVATE, fd, 0);
    if (fd >= 0)
        close(fd);
    if (map == MAP_FAILED)
        return fault_set(f, ERR_IO, "%s: %s", path, strerror(errno));
    s->map = map;
    s->bytes = (size_t)size;
    const enum err e = gguf_open_bytes(s->map, s->bytes, path, &s->gguf, reason);
    return e ? fault_set(f, e, "%s", reason) : ERR_NONE;
}

enum err prune_source_open(const struct prune_source_options *options, struct prune_source **out, struct fault *f)
{
    struct prune_source *s = calloc(1, sizeof *s);
    if (!s)
        return ERR_MEMORY;
    s->options = *options;
    enum err e = map_base(s, f);
    if (!e && options->texts > 0)
        e = calibrate_windows_of(s->gguf, options->text, options->texts, PRUNE_SOURCE_CONTEXT,
                                 options->tokens ? options->tokens : TOKENS_DEFAULT, false, 0, &s->windows, f);
    if (e)
        prune_source_close(s);
    else
        *out = s;
    return e;
}

void prune_source_close(struct prune_source *s)
{
    if (!s)
        return;
    layer_stream_close(s->stream);
    calibrate_windows_close(s->windows);
    gguf_close(s->gguf);
    if (s->map)
        munmap(s->map, s->bytes);
    if (s->has_copy)
        unlink(s->options.work_path);
    free(s);
}

const struct gguf *prune_source_gguf(const struct prune_source *s)
{
    return s->gguf;
}

/* Pages that were read need not stay: they are in the file, as long as it has the changes. */
static void drop(void *context)
{
    const struct prune_source *s = context;
    if (s->has_copy || !s->is_changed)
        (void)madvise(s->map, s->bytes, MADV_DONTNEED); /* only advice */
}

enum err prune_source_get(struct prune_source *s, const char *name, float **out)
{
    const struct gguf_tensor *t = gguf_tensor_find(s->gguf, name);
    struct engine *g = s->options.engine;
    if (!t)
        return ERR_NOT_FOUND;
    float *x = malloc((size_t)t->rows * t->shape[0] * sizeof *x);
    if (!x)
        return ERR_MEMORY;
    enum err e = g->ops.decode(g->dev, t->type, t->data, t->bytes, (uint32_t)t->rows, (uint32_t)t->shape[0], x);
    drop(s);
    if (e)
        free(x);
    else
        *out = x;
    return e;
}

static uint8_t *bytes_of(struct prune_source *s, const struct gguf_tensor *t)
{
    s->is_changed = true;
    return s->map + (t->data - s->map);
}

enum err prune_source_put(struct prune_source *s, const char *name, const float *x)
{
    const struct gguf_tensor *t = gguf_tensor_find(s->gguf, name);
    struct engine *g = s->options.engine;
    if (!t)
        return ERR_NOT_FOUND;
    return g->ops.encode(g->dev, t->type, HAL_RTN, x, (uint32_t)t->rows, (uint32_t)t->shape[0], NULL, bytes_of(s, t),
                         t->bytes);
}

void prune_source_zero(struct prune_source *s, const char *name)
{
    const struct gguf_tensor *t = gguf_tensor_find(s->gguf, name);
    if (t)
        memset(bytes_of(s, t), 0, t->bytes);
}

void prune_source_restore(struct prune_source *s, const char *name, const void *bytes)
{
    const struct gguf_tensor *t = gguf_tensor_find(s->gguf, name);
    if (t)
        memcpy(bytes_of(s, t), bytes, t->bytes);
}

static void observe(void *context, const char *tensor, uint32_t part, const float *x, uint32_t rows, uint32_t cols)
{
    struct prune_source *s = context;
    for (uint32_t i = 0; !s->error && part == 0 && i < s->count; i++)
        if (strcmp(s->name[i], tensor) == 0 && s->hessian[i]->cols == cols)
            s->error = hessian_add(s->hessian[i], s->sample, x, rows, s->options.threads);
}

static void on_window(void *context, uint32_t window)
{
    struct prune_source *s = context;
    s->sample = calibrate_windows_is_held(window) ? HESSIAN_HELD : HESSIAN_TRAIN;
}

static enum err run_text(struct prune_source *s, struct model *m)
{
    for (uint32_t i = 0; i < s->windows->windows; i++) {
        on_window(s, i);
        enum err e = calibrate_windows_step(s->windows, i, m);
        if (!e)
            e = s->error;
        if (!e && s->options.progress && s->options.progress(s->options.progress_context))
            e = ERR_CANCELLED;
        if (e)
            return e;
    }
    return ERR_NONE;
}

static enum err open_sums(struct prune_source *s)
{
    enum err e = ERR_NONE;
    for (uint32_t i = 0; !e && i < s->count; i++) {
        const struct gguf_tensor *t = gguf_tensor_find(s->gguf, s->name[i]);
        e = t ? hessian_open((uint32_t)t->shape[0], &s->hessian[i]) : ERR_NOT_FOUND;
    }
    return e;
}

enum err prune_source_collect(struct prune_source *s, char (*name)[64], uint32_t count, struct hessian **out,
                              struct fault *f)
{
    char reason[GGUF_REASON_BYTES] = "";
    struct model *m = NULL;
    const struct model_observer observer = {.linear = observe, .context = s};
    const struct model_options options = {
        .sequences = 1, .context = s->windows->context, .batch = s->windows->context};
    memset(out, 0, count * sizeof(struct hessian *));
    s->name = name;
    s->hessian = out;
    s->count = count;
    s->error = ERR_NONE;
    enum err e = open_sums(s);
    if (!e && (e = model_open(s->gguf, s->options.engine, &options, &m, reason)))
        fault_set(f, e, "%s", reason);
    if (!e)
        e = model_observe(m, &observer);
    if (!e)
        e = run_text(s, m);
    model_close(m);
    for (uint32_t i = 0; e && i < count; i++) {
        hessian_close(out[i]);
        out[i] = NULL;
    }
    return e;
}

static int on_progress(void *context, uint32_t windows, uint32_t of)
{
    const struct prune_source *s = context;
    (void)windows;
    (void)of;
    return s->options.progress ? s->options.progress(s->options.progress_context) : 0;
}

static enum err open_stream(struct prune_source *s, struct fault *f)
{
    const struct layer_stream_options options = {.g = s->gguf,
                                                 .engine = s->options.engine,
                                                 .windows = s->windows,
                                                 .beside = s->options.work_path,
                                                 .drop = drop,
                                                 .progress = on_progress,
                                                 .context = s};
    return s->stream ? ERR_NONE : layer_stream_open(&options, &s->stream, f);
}

enum err prune_source_look(struct prune_source *s, const char *name, struct hessian **out, struct fault *f)
{
    char one[1][64];
    const struct layer_stream_watch watch = {on_window, {.linear = observe, .context = s}, &s->error};
    snprintf(one[0], sizeof one[0], "%s", name);
    *out = NULL;
    s->name = one;
    s->hessian = out;
    s->count = 1;
    s->error = ERR_NONE;
    enum err e = open_stream(s, f);
    if (!e && !(e = open_sums(s)))
        e = layer_stream_look(s->stream, s->windows->windows, &watch, f);
    s->count = 0;
    s->name = NULL;
    if (e) {
        hessian_close(*out);
        *out = NULL;
    }
    return e;
}

enum err prune_source_advance(struct prune_source *s, struct fault *f)
{
    const enum err e = open_stream(s, f);
    return e ? e : layer_stream_advance(s->stream, NULL, f);
}
