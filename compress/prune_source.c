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
#include "compress/prune_aim.h"
#include "hal/engine.h"
#include "model/model.h"

enum { TOKENS_DEFAULT = 16384, PIECE = 1 << 20 };

const char *const prune_source_input[PRUNE_SOURCE_INPUTS] = {"attn_output", "ffn_down"};

struct prune_source {
    struct prune_source_options options;
    struct calibrate_windows *windows;
    uint8_t *map;
    size_t bytes;
    struct gguf *gguf;
    bool has_copy;
    bool *is_changed; /* [tensors], in memory */
    struct layer_stream *stream;
    struct prune_aim *aim;
    /* while the text runs */
    char name[PRUNE_SOURCE_INPUTS][64];
    struct hessian *hessian[PRUNE_SOURCE_INPUTS]; /* NULL: nobody asks */
    float *both;  /* look: [context, cols + width], an input and what the stream behind it lacks */
    float *wants; /* [context, width] */
    uint32_t cols, window, sample;
    bool is_noted;  /* of this window */
    enum err error; /* of the observer */
};

/* A disk that is full takes a part of a piece first; the next attempt sets errno. */
static enum err copy_file(int from, int to)
{
    char *piece = malloc(PIECE);
    ssize_t n = 0, done;
    enum err e = piece ? ERR_NONE : ERR_MEMORY;
    while (!e && (n = read(from, piece, PIECE)) > 0)
        for (ssize_t at = 0; !e && at < n; at += done)
            if ((done = write(to, piece + at, (size_t)(n - at))) <= 0)
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
    if (fd >= 0 && o->is_copied) {
        const int base = fd;
        path = o->beside;
        fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        s->has_copy = fd >= 0;
        const enum err e = fd >= 0 ? copy_file(base, fd) : ERR_IO;
        if (e)
            fault_set(f, e, "%s: %s", path, e == ERR_IO ? strerror(errno) : err_name(e));
        close(base);
        if (e) {
            if (fd >= 0)
                close(fd);
            return e;
        }
    }
    const off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    void *map = size <= 0 ? MAP_FAILED
                          : mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, o->is_copied ? MAP_SHARED : MAP_PRIVATE, fd, 0);
    if (fd >= 0)
        close(fd);
    if (map == MAP_FAILED)
        return fault_set(f, ERR_IO, "%s: %s", path, strerror(errno));
    s->map = map;
    s->bytes = (size_t)size;
    const enum err e = gguf_open_bytes(s->map, s->bytes, path, &s->gguf, reason);
    if (e)
        return fault_set(f, e, "%s", reason);
    s->is_changed = calloc(gguf_tensors(s->gguf) + 1, sizeof *s->is_changed);
    return s->is_changed ? ERR_NONE : ERR_MEMORY;
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
    prune_aim_close(s->aim);
    calibrate_windows_close(s->windows);
    gguf_close(s->gguf);
    if (s->map)
        munmap(s->map, s->bytes);
    if (s->has_copy)
        unlink(s->options.beside);
    free(s->is_changed);
    free(s);
}

const struct gguf *prune_source_gguf(const struct prune_source *s)
{
    return s->gguf;
}

/* Pages that were read need not stay: they are in the file, as long as it has the changes. Changes in memory keep
 * theirs, with what is on the same page. */
static void drop(void *context)
{
    const struct prune_source *s = context;
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), map = (uintptr_t)s->map;
    uintptr_t from = map;
    for (uint32_t i = 0; !s->has_copy && i < gguf_tensors(s->gguf); i++) {
        const struct gguf_tensor *t = gguf_tensor(s->gguf, i);
        const uintptr_t first = (uintptr_t)t->data / page * page;
        if (!s->is_changed[i])
            continue;
        if (first > from)
            (void)madvise((void *)from, first - from, MADV_DONTNEED); /* only advice */
        from = ((uintptr_t)t->data + t->bytes + page - 1) / page * page;
    }
    if (from < map + s->bytes)
        (void)madvise((void *)from, map + s->bytes - from, MADV_DONTNEED);
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
    for (uint32_t i = 0; i < gguf_tensors(s->gguf); i++)
        s->is_changed[i] = s->is_changed[i] || gguf_tensor(s->gguf, i) == t;
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

static void on_window(void *context, uint32_t window)
{
    struct prune_source *s = context;
    s->window = window;
    s->sample = calibrate_windows_is_held(window) ? HESSIAN_HELD : HESSIAN_TRAIN;
    s->is_noted = false;
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
                                                 .beside = s->options.beside,
                                                 .drop = drop,
                                                 .progress = on_progress,
                                                 .context = s};
    return s->stream ? ERR_NONE : layer_stream_open(&options, &s->stream, f);
}

static enum err open_aim(struct prune_source *s, struct fault *f)
{
    const struct prune_aim_options options = {.base_path = s->options.base_path,
                                              .engine = s->options.engine,
                                              .windows = s->windows,
                                              .beside = s->options.beside,
                                              .progress = on_progress,
                                              .context = s};
    return s->aim ? ERR_NONE : prune_aim_open(&options, &s->aim, f);
}

/* Sums for an input of the layer at hand; tail: columns behind it. */
static enum err open_sum(struct prune_source *s, uint32_t input, uint32_t tail)
{
    snprintf(s->name[input], sizeof s->name[input], "blk.%u.%s.weight", layer_stream_at(s->stream),
             prune_source_input[input]);
    const struct gguf_tensor *t = gguf_tensor_find(s->gguf, s->name[input]);
    if (!t)
        return ERR_NOT_FOUND;
    s->cols = (uint32_t)t->shape[0];
    s->error = ERR_NONE;
    return hessian_open(s->cols + tail, &s->hessian[input]);
}

/* To the caller, or closed. */
static enum err hand_over(struct prune_source *s, uint32_t input, enum err e, struct hessian **out)
{
    if (e)
        hessian_close(s->hessian[input]);
    *out = e ? NULL : s->hessian[input];
    s->hessian[input] = NULL;
    return e;
}

static void sum_up(void *context, const char *tensor, uint32_t part, const float *x, uint32_t rows, uint32_t cols)
{
    struct prune_source *s = context;
    for (uint32_t i = 0; !s->error && part == 0 && i < PRUNE_SOURCE_INPUTS; i++)
        if (strcmp(s->name[i], tensor) == 0 && s->hessian[i]->cols == cols)
            s->error = hessian_add(s->hessian[i], s->sample, x, rows, s->options.threads);
}

enum err prune_source_collect(struct prune_source *s, struct hessian *out[PRUNE_SOURCE_INPUTS], struct fault *f)
{
    const struct layer_stream_watch watch = {on_window, {.linear = sum_up, .context = s}, &s->error};
    enum err e = open_stream(s, f);
    for (uint32_t i = 0; !e && i < PRUNE_SOURCE_INPUTS; i++)
        e = open_sum(s, i, 0);
    if (!e)
        e = layer_stream_advance(s->stream, &watch, f);
    for (uint32_t i = 0; i < PRUNE_SOURCE_INPUTS; i++)
        (void)hand_over(s, i, e, &out[i]);
    return e;
}

enum err prune_source_advance(struct prune_source *s, struct fault *f)
{
    const enum err e = open_stream(s, f);
    return e ? e : layer_stream_advance(s->stream, NULL, f);
}

enum err prune_source_aim(struct prune_source *s, uint32_t until, struct fault *f)
{
    const enum err e = open_aim(s, f);
    return e ? e : prune_aim_advance(s->aim, until, f);
}

/* ---- an input and what the stream behind it lacks, side by side ---- */

static uint32_t looked_at(const struct prune_source *s)
{
    return s->hessian[0] ? 0 : 1;
}

static void note_input(void *context, const char *tensor, uint32_t part, const float *x, uint32_t rows, uint32_t cols)
{
    struct prune_source *s = context;
    const uint32_t input = looked_at(s);
    if (strcmp(s->name[input], tensor) != 0 || part > 0)
        return;
    if (rows != s->windows->context || cols != s->cols)
        s->error = ERR_UNSUPPORTED;
    for (uint32_t r = 0; !s->error && r < rows; r++)
        memcpy(s->both + (size_t)r * s->hessian[input]->cols, x + (size_t)r * cols, cols * sizeof *x);
}

static void note_stream(void *context, const char *tensor, const float *x, uint32_t rows, uint32_t cols)
{
    struct prune_source *s = context;
    const uint32_t input = looked_at(s);
    struct hessian *h = s->hessian[input];
    if (s->error || strcmp(s->name[input], tensor) != 0)
        return;
    s->is_noted = true;
    if (rows != s->windows->context || s->cols + cols != h->cols)
        s->error = ERR_UNSUPPORTED;
    if (!s->error)
        s->error = prune_aim_get(s->aim, s->window, input == 0 ? PRUNE_AIM_ATTENTION : PRUNE_AIM_LAYER, s->wants);
    for (uint32_t r = 0; !s->error && r < rows; r++)
        for (uint32_t c = 0; c < cols; c++)
            s->both[(size_t)r * h->cols + s->cols + c] = s->wants[(size_t)r * cols + c] - x[(size_t)r * cols + c];
    if (!s->error)
        s->error = hessian_add(h, s->sample, s->both, rows, s->options.threads);
}

static bool is_noted(void *context)
{
    return ((const struct prune_source *)context)->is_noted;
}

enum err prune_source_look(struct prune_source *s, uint32_t input, struct hessian **out, struct fault *f)
{
    const struct layer_stream_watch watch = {
        on_window, {.linear = note_input, .stream = note_stream, .is_enough = is_noted, .context = s}, &s->error};
    enum err e = open_stream(s, f);
    *out = NULL;
    if (e || (e = open_aim(s, f)) || (e = open_sum(s, input, prune_aim_width(s->aim))))
        return e;
    s->both = malloc((size_t)s->windows->context * s->hessian[input]->cols * sizeof *s->both);
    s->wants = malloc((size_t)s->windows->context * prune_aim_width(s->aim) * sizeof *s->wants);
    e = s->both && s->wants ? layer_stream_look(s->stream, s->windows->windows, &watch, f) : ERR_MEMORY;
    if (!e)
        e = hessian_split(s->hessian[input], s->cols);
    free(s->both);
    free(s->wants);
    s->both = s->wants = NULL;
    return hand_over(s, input, e, out);
}
