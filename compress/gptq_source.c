#include "compress/gptq_source.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compress/gptq_work.h"
#include "compress/larger.h"
#include "compress/layer_stream.h"
#include "compress/resident.h"
#include "hal/block.h"
#include "hal/engine.h"
#include "model/model.h"

enum {
    CONTEXT = 512,
    TOKENS_DEFAULT = 32768,
    SLACK_BYTES = 16 << 20,
    ENCODE_BYTES = 10,     /* per value of a tensor: floats, codes twice, blocks, mapped pages of 2 */
    SIGNATURE_ROWS = 16
};

/* A tensor of the layer in work, and whose input it shares. */
struct member {
    uint32_t tensor, leader; /* of the plan; leader UINT32_MAX: no Hessian for it */
    uint32_t seen;           /* when its input came; UINT32_MAX: never */
    uint32_t cols;
    uint64_t signature; /* of the input */
};

struct gptq_source {
    struct gptq_source_options options;
    struct calibrate_windows *windows;
    struct gptq_work work;
    struct layer_stream *stream;
    uint32_t until; /* layers [0, until) are streamed */
    uint32_t done;  /* of these */
    bool has_begun;
    struct member *member; /* [members] of layer `done`, in the order of encoding */
    uint32_t *order;       /* the same as indices of the plan */
    uint32_t members, seen;
    uint32_t passes, pass; /* of the text through this layer */
    /* what is being collected */
    uint32_t leader;
    struct hessian *hessian;
    struct gptq_basis *basis;
    bool is_held;  /* the window in work is held out */
    uint32_t rows; /* of it that were seen */
    enum err error;
};

void gptq_source_discard(const char *out_path)
{
    gptq_work_discard(out_path);
}

static bool wants_gptq(const struct plan_tensor *t)
{
    return t->method == RECIPE_GPTQ || t->method == RECIPE_GPTQ_AWQ;
}

/* A tensor that is one linear: experts are many. */
static bool is_linear(const struct gptq_source *s, uint32_t i)
{
    return gguf_tensor(s->options.base, i)->dims == 2 && s->options.plan->tensor[i].rows > 1;
}

/* What a run takes beside what is resident now: the greater of a pass and of encoding a tensor. */
static uint64_t needed(const struct gptq_source *s)
{
    uint64_t widest = 0, largest = 0;
    for (uint32_t i = 0; i < s->options.plan->tensors; i++) {
        const struct plan_tensor *t = &s->options.plan->tensor[i];
        if (!wants_gptq(t) || !is_linear(s, i) || layer_stream_layer(t->name) == UINT32_MAX)
            continue;
        widest = larger(widest, t->cols);
        largest = larger(largest, (uint64_t)t->rows * t->cols);
    }
    const uint64_t square = widest * widest * sizeof(float);
    const uint64_t run = 2 * square + layer_stream_bytes(s->options.base, s->windows->context);
    const uint64_t encode = 3 * square + largest * ENCODE_BYTES;
    return SLACK_BYTES + s->options.reserved + larger(run, encode);
}

static enum err check_memory(const struct gptq_source *s, struct fault *f)
{
    const uint64_t memory = s->options.memory_bytes, least = resident_now() + needed(s);
    if (memory == 0 || least <= memory)
        return ERR_NONE;
    return fault_set(f, ERR_ARGUMENT, "memory: %.0f MiB is too little for gptq, at least %.0f MiB is needed",
                     (double)memory / 1048576, (double)least / 1048576 + 1);
}

/* Before the copy is made that such a model runs in. */
static enum err check_model(const struct gguf *base, struct fault *f)
{
    struct model_info info;
    char reason[GGUF_REASON_BYTES] = "";
    const enum err e = model_sizes(base, NULL, &info, reason);
    return e ? fault_set(f, e, "%s: %s", gguf_path(base), reason[0] ? reason : err_name(e)) : e;
}

static void drop_pages(void *context)
{
    gptq_work_drop(&((const struct gptq_source *)context)->work);
}

static int show(void *context, uint32_t windows, uint32_t of)
{
    const struct gptq_source *s = context;
    const double part = s->passes ? (s->pass + (double)windows / of) / s->passes : 0;
    return s->options.progress ? s->options.progress(s->options.progress_context, part) : 0;
}

enum err gptq_source_open(const struct gptq_source_options *options, struct gptq_source **out,
                          struct fault *f)
{
    struct gptq_source *s = calloc(1, sizeof *s);
    if (!s)
        return ERR_MEMORY;
    const struct plan *p = options->plan;
    s->options = *options;
    s->leader = UINT32_MAX;
    s->work.blocks = -1;
    s->member = calloc(p->tensors, sizeof *s->member);
    s->order = calloc(p->tensors, sizeof *s->order);
    enum err e = s->member && s->order ? ERR_NONE : ERR_MEMORY;
    for (uint32_t i = 0; i < p->tensors; i++) {
        const uint32_t layer = layer_stream_layer(p->tensor[i].name);
        if (wants_gptq(&p->tensor[i]) && layer != UINT32_MAX && layer >= s->until)
            s->until = layer + 1;
    }
    const uint32_t languages = calibrate_windows_languages(options->text, options->texts);
    if (!e)
        e = calibrate_windows_of(options->base, options->text, options->texts, CONTEXT,
                                 options->tokens ? options->tokens : TOKENS_DEFAULT / languages, languages > 1, p->seed,
                                 &s->windows, f);
    if (!e)
        e = check_memory(s, f);
    if (!e)
        e = check_model(options->base, f);
    if (!e)
        e = gptq_work_open(&s->work, options->out_path, options->identity, p, options->base, &s->done, f);
    s->has_begun = s->done > 0;
    if (!e) {
        const struct layer_stream_options stream = {.g = s->work.gguf, .engine = options->engine,
                                                    .windows = s->windows, .beside = options->out_path,
                                                    .drop = drop_pages, .progress = show, .context = s};
        e = layer_stream_open(&stream, &s->stream, f);
    }
    if (e) {
        gptq_source_close(s);
        return e;
    }
    *out = s;
    return ERR_NONE;
}

static void drop_basis(struct gptq_source *s)
{
    hessian_close(s->hessian);
    gptq_basis_close(s->basis);
    s->hessian = NULL;
    s->basis = NULL;
    s->leader = UINT32_MAX;
}

void gptq_source_close(struct gptq_source *s)
{
    if (!s)
        return;
    drop_basis(s);
    layer_stream_close(s->stream);
    calibrate_windows_close(s->windows);
    gptq_work_close(&s->work);
    free(s->member);
    free(s->order);
    free(s);
}

uint32_t gptq_source_done(const struct gptq_source *s)
{
    return s->done;
}

bool gptq_source_streams(const struct gptq_source *s, uint32_t i, uint32_t *layer)
{
    *layer = layer_stream_layer(s->options.plan->tensor[i].name);
    return *layer < s->until;
}

/* FNV-1a over the first rows of an input: linears of one input see the same. */
static uint64_t sign(const float *x, uint32_t rows, uint32_t cols)
{
    uint64_t hash = 0xcbf29ce484222325u;
    const size_t values = (size_t)(rows < SIGNATURE_ROWS ? rows : SIGNATURE_ROWS) * cols;
    for (size_t i = 0; i < values; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        hash = (hash ^ bits) * 0x100000001b3u;
    }
    return hash;
}

static void note_input(void *context, const char *tensor, uint32_t part, const float *x, uint32_t rows, uint32_t cols)
{
    struct gptq_source *s = context;
    for (uint32_t i = 0; part == 0 && i < s->members; i++) {
        struct member *m = &s->member[i];
        if (m->seen != UINT32_MAX || strcmp(s->options.plan->tensor[m->tensor].name, tensor) != 0)
            continue;
        m->seen = s->seen++;
        m->cols = cols;
        m->signature = sign(x, rows, cols);
    }
}

/* What is never seen first: vectors, experts; the others as they are computed. */
static int by_time(const void *a, const void *b)
{
    const struct member *x = a, *y = b;
    const uint32_t at = x->seen + 1, other = y->seen + 1; /* never: 0 */
    return at != other ? (at < other ? -1 : 1) : x->tensor < y->tensor ? -1 : x->tensor > y->tensor;
}

static const float *column_of(const struct gptq_source *s, uint32_t i)
{
    const float *column = NULL, *row = NULL;
    awq_scales(s->options.awq, i, &column, &row);
    return column;
}

/* Who shares a Hessian: the first of those that want one and have the same input, folded alike. */
static void choose_leaders(struct gptq_source *s)
{
    s->passes = 1;
    for (uint32_t i = 0; i < s->members; i++) {
        struct member *m = &s->member[i];
        const struct plan_tensor *t = &s->options.plan->tensor[m->tensor];
        m->leader = UINT32_MAX;
        if (!wants_gptq(t) || !is_linear(s, m->tensor) || m->seen == UINT32_MAX || m->cols != t->cols)
            continue;
        for (uint32_t k = 0; k < i && m->leader == UINT32_MAX; k++) {
            const struct member *other = &s->member[k];
            if (other->leader == other->tensor && other->signature == m->signature && other->cols == m->cols &&
                column_of(s, other->tensor) == column_of(s, m->tensor))
                m->leader = other->tensor;
        }
        if (m->leader != UINT32_MAX)
            continue;
        m->leader = m->tensor;
        s->passes++;
    }
}

enum err gptq_source_begin(struct gptq_source *s, const uint32_t **tensor, uint32_t *count, struct fault *f)
{
    const struct layer_stream_watch watch = {.observer = {.linear = note_input, .context = s}};
    enum err e = ERR_NONE;
    s->has_begun = true;
    s->passes = 0;
    while (!e && layer_stream_at(s->stream) < s->done) /* what an earlier run quantised is run again */
        e = layer_stream_advance(s->stream, NULL, f);
    s->members = s->seen = s->pass = 0;
    for (uint32_t i = 0; i < s->options.plan->tensors; i++)
        if (layer_stream_layer(s->options.plan->tensor[i].name) == s->done)
            s->member[s->members++] = (struct member){.tensor = i, .seen = UINT32_MAX};
    if (!e)
        e = layer_stream_look(s->stream, 1, &watch, f);
    qsort(s->member, s->members, sizeof *s->member, by_time);
    choose_leaders(s);
    for (uint32_t i = 0; i < s->members; i++)
        s->order[i] = s->member[i].tensor;
    *tensor = s->order;
    *count = s->members;
    return e;
}

static void next_window(void *context, uint32_t window)
{
    struct gptq_source *s = context;
    s->is_held = calibrate_windows_is_held(window);
    s->rows = 0;
}

static void add_input(void *context, const char *tensor, uint32_t part, const float *x, uint32_t rows, uint32_t cols)
{
    struct gptq_source *s = context;
    if (s->error || part > 0 || cols != s->hessian->cols ||
        strcmp(s->options.plan->tensor[s->leader].name, tensor) != 0)
        return;
    s->error = hessian_add(s->hessian, s->is_held ? HESSIAN_HELD : HESSIAN_TRAIN, x, rows, s->options.threads);
    s->rows += rows;
}

static bool has_enough(void *context)
{
    const struct gptq_source *s = context;
    return s->rows >= s->windows->context;
}

/* Folding multiplies the columns of a weight by c and so divides its input. */
static void fold(float *m, uint32_t n, const float *c)
{
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++)
            m[(size_t)i * n + j] /= c[i] * c[j];
}

static enum err collect(struct gptq_source *s, uint32_t leader, struct fault *f)
{
    const struct layer_stream_watch watch = {
        .window = next_window,
        .observer = {.linear = add_input, .context = s, .is_enough = has_enough},
        .error = &s->error};
    const float *column = column_of(s, leader);
    drop_basis(s);
    enum err e = hessian_open(s->options.plan->tensor[leader].cols, &s->hessian);
    s->leader = leader;
    s->error = ERR_NONE;
    if (!e)
        e = layer_stream_look(s->stream, s->windows->windows, &watch, f);
    s->pass++;
    if (e)
        return e;
    struct hessian *h = s->hessian;
    s->hessian = NULL;
    if (h->rows[HESSIAN_TRAIN] < h->cols / 4.0) { /* too few to trust */
        hessian_close(h);
        return ERR_NONE;
    }
    hessian_finish(h);
    for (uint32_t k = 0; column && k < 2; k++)
        fold(h->sum[k], h->cols, column);
    return gptq_basis_open(h, &s->basis);
}

enum err gptq_source_get(struct gptq_source *s, uint32_t i, struct gptq_basis **out, struct fault *f)
{
    uint32_t leader = UINT32_MAX;
    for (uint32_t k = 0; k < s->members; k++)
        if (s->member[k].tensor == i)
            leader = s->member[k].leader;
    *out = NULL;
    if (leader == UINT32_MAX)
        return ERR_NONE;
    if (leader != s->leader) {
        enum err e = collect(s, leader, f);
        if (e)
            return e;
    }
    *out = s->basis;
    return ERR_NONE;
}

enum err gptq_source_put(struct gptq_source *s, uint32_t i, uint32_t row, uint32_t rows, float *x)
{
    const struct plan_tensor *t = &s->options.plan->tensor[i];
    const struct gguf_tensor *to = gguf_tensor(s->work.gguf, i);
    const float *column, *row_scale;
    if (s->has_begun && layer_stream_layer(t->name) == UINT32_MAX)
        return ERR_NONE;
    awq_scales(s->options.awq, i, &column, &row_scale);
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = 0; c < t->cols; c++)
            x[(size_t)r * t->cols + c] = x[(size_t)r * t->cols + c] / (column ? column[c] : 1) *
                                         (row_scale ? row_scale[row + r] : 1);
    enum err e = s->options.engine->ops.encode(s->options.engine->dev, to->type, HAL_RTN, x, rows, t->cols, NULL,
                                               gptq_work_data(&s->work, i) + (size_t)row * to->row_bytes,
                                               rows * to->row_bytes);
    gptq_work_drop(&s->work);
    return e;
}

enum err gptq_source_keep(struct gptq_source *s, uint32_t i, const void *data, size_t bytes)
{
    return gptq_work_keep(&s->work, i, data, bytes);
}

enum err gptq_source_read(struct gptq_source *s, uint32_t i, uint64_t at, void *out, size_t bytes)
{
    return gptq_work_read(&s->work, i, at, out, bytes);
}

enum err gptq_source_end(struct gptq_source *s, struct fault *f)
{
    enum err e = ERR_NONE;
    drop_basis(s);
    if (s->done + 1 < s->until)
        e = layer_stream_advance(s->stream, NULL, f);
    if (!e && (e = gptq_work_commit(&s->work, s->done + 1)))
        fault_set(f, e, "%s.layers: %s", s->options.out_path, strerror(errno));
    s->members = 0;
    s->done += !e;
    return e;
}
