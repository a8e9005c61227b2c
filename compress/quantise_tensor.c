/* quantise_tensor.c: one tensor after the other, in strips of rows. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "compress/finite.h"
#include "compress/quantise_work.h"
#include "compress/resident.h"
#include "hal/block.h"

enum {
    MEMORY_DEFAULT = 64 << 20,
    MEMORY_SLACK = 6 << 20, /* of threads, the digest and what allocators keep */
    STRIP_BYTES = 8 << 20, /* of F32: more gains nothing */
    COPY_BYTES = 1 << 20,
    CHECK_VALUES = 1 << 18,
    CHEAP = 16 /* as much faster is what needs no Hessian, at least */
};

/* To the file, or, out of its order, to the source. */
static enum err append(struct quantise_work *w, uint32_t i, const void *data, size_t bytes)
{
    if (!w->is_streaming)
        return quantise_file_append(w->file, data, bytes);
    const enum err e = gptq_source_keep(w->source, i, data, bytes);
    return e == ERR_IO ? fault_set(w->fault, e, "%s.blocks: %s", w->options->out_path, strerror(errno)) : e;
}

static bool is_gptq(const struct plan_tensor *t)
{
    return t->method == RECIPE_GPTQ || t->method == RECIPE_GPTQ_AWQ;
}

bool quantise_tensor_wants_gptq(const struct plan *p)
{
    bool wants = false;
    for (uint32_t i = 0; i < p->tensors; i++)
        wants = wants || is_gptq(&p->tensor[i]);
    return wants;
}

uint64_t quantise_tensor_cost(const struct quantise_work *w, uint32_t i)
{
    const uint64_t bytes = gguf_tensor(w->base, i)->bytes;
    return quantise_tensor_wants_gptq(w->plan) && !is_gptq(&w->plan->tensor[i]) ? bytes / CHEAP : bytes;
}

/* rows of tensor i are done */
static void count(struct quantise_work *w, uint32_t i, uint64_t rows)
{
    const struct gguf_tensor *t = gguf_tensor(w->base, i);
    if (!w->is_streaming) /* there the text's way through the layer counts */
        w->progress.bytes += rows * (quantise_tensor_cost(w, i) / t->rows);
}

enum err quantise_tensor_report(struct quantise_work *w)
{
    const struct quantise_options *o = w->options;
    return o->progress && o->progress(o->progress_context, &w->progress) ? ERR_CANCELLED : ERR_NONE;
}

/* Room for strips: the largest row must fit, else the cap says how many rows are taken at once. */
enum err quantise_tensor_room(struct quantise_work *w)
{
    uint64_t cap = MEMORY_DEFAULT;
    const bool has_y = w->options->is_measured || quantise_tensor_wants_gptq(w->plan);
    const uint32_t floats = has_y ? 2 : 1;
    uint64_t longest = 1;
    for (uint32_t i = 0; i < w->plan->tensors; i++)
        if (w->plan->tensor[i].cols > longest)
            longest = w->plan->tensor[i].cols;
    const uint64_t row_bytes = (floats + 2) * sizeof(float) * longest; /* with the mapped pages it is read from */
    if (w->options->memory_bytes) {
        const uint64_t used = resident_now() + MEMORY_SLACK, memory = w->options->memory_bytes;
        if (memory < used + row_bytes)
            return fault_set(w->fault, ERR_ARGUMENT, "memory: %.1f MiB is too little, at least %.1f MiB is needed",
                             (double)memory / 1048576, (double)(used + row_bytes) / 1048576);
        cap = memory - used < MEMORY_DEFAULT ? memory - used : MEMORY_DEFAULT;
    }
    uint64_t values = cap / ((floats + 2) * sizeof(float));
    if (values > STRIP_BYTES / sizeof(float))
        values = STRIP_BYTES / sizeof(float);
    if (values < longest)
        values = longest;
    w->strip_values = (size_t)values;
    w->x = malloc(values * sizeof *w->x);
    w->y = has_y ? malloc(values * sizeof *w->y) : NULL;
    w->out = malloc(values * sizeof *w->x); /* no type has more bits than F32 */
    w->h = malloc(longest * sizeof *w->h);
    if (!w->x || !w->out || !w->h || (has_y && !w->y))
        return ERR_MEMORY;
    return ERR_NONE;
}

static enum err copy_tensor(struct quantise_work *w, uint32_t i)
{
    const struct gguf_tensor *t = gguf_tensor(w->base, i);
    for (size_t at = 0; at < t->bytes; at += COPY_BYTES) {
        const size_t n = t->bytes - at < COPY_BYTES ? t->bytes - at : COPY_BYTES;
        enum err e = quantise_file_append(w->file, t->data + at, n);
        if (e)
            return e;
        gguf_drop(w->base, t->data + at, n);
        if ((e = quantise_tensor_report(w)))
            return e;
    }
    count(w, i, t->rows);
    return ERR_NONE;
}

static void measure(struct quantise_work *w, uint32_t rows, uint32_t cols, const float *from, bool is_weighted)
{
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = 0; c < cols; c++) {
            const double h = is_weighted ? (double)w->h[c] : 1;
            const double x = (double)from[(size_t)r * cols + c];
            const double d = x - (double)w->y[(size_t)r * cols + c];
            w->error += h * d * d;
            w->energy += h * x * x;
        }
}

/* Rows of the base as they came, and what they decode to, while both are still in a cache. */
static enum err check_rows(const struct quantise_work *w, uint32_t i, uint32_t row, uint32_t rows, const float *x)
{
    return finite_rows(w->options->base_path, gguf_tensor(w->base, i), row, rows, x, w->fault);
}

/* In pieces that the check still finds near the processor: it costs nothing that can be measured then. */
static enum err decode_strip(struct quantise_work *w, uint32_t i, uint32_t row, uint32_t rows)
{
    const struct gguf_tensor *from = gguf_tensor(w->base, i);
    const uint32_t cols = w->plan->tensor[i].cols, most = cols < CHECK_VALUES ? CHECK_VALUES / cols : 1;
    enum err e = ERR_NONE;
    for (uint32_t at = 0, n; at < rows && !e; at += n) {
        n = rows - at < most ? rows - at : most;
        float *x = w->x + (size_t)at * cols;
        e = w->engine->ops.decode(w->engine->dev, from->type, from->data + (size_t)(row + at) * from->row_bytes,
                                  n * from->row_bytes, n, cols, x);
        e = e ? e : check_rows(w, i, row + at, n, x);
    }
    return e;
}

/* What the blocks of rows [row, row + rows) say, compared with x and handed to later layers. */
static enum err look_back(struct quantise_work *w, uint32_t i, uint32_t row, uint32_t rows, const float *x,
                          const uint8_t *blocks)
{
    const struct plan_tensor *to = &w->plan->tensor[i];
    if (!w->y)
        return ERR_NONE;
    enum err e = w->engine->ops.decode(w->engine->dev, to->type, blocks, rows * block_row_bytes(to->type, to->cols),
                                       rows, to->cols, w->y);
    if (e)
        return e;
    measure(w, rows, to->cols, x, to->is_weighted);
    return w->source && to->type != to->from ? gptq_source_put(w->source, i, row, rows, w->y) : ERR_NONE;
}

/* What Q8_0 keeps of the strip: the first step of a cascade. Where rows do not divide there is none. */
static enum err through_q8(struct quantise_work *w, uint32_t rows, uint32_t cols)
{
    const size_t bytes = rows * block_row_bytes(HAL_Q8_0, cols);
    if (bytes == 0)
        return ERR_NONE;
    enum err e = w->engine->ops.encode(w->engine->dev, HAL_Q8_0, HAL_RTN, w->x, rows, cols, NULL, w->out, bytes);
    return e ? e : w->engine->ops.decode(w->engine->dev, HAL_Q8_0, w->out, bytes, rows, cols, w->x);
}

/* rows rows from `row` on: decode, fold, encode, append. */
static enum err encode_strip(struct quantise_work *w, uint32_t i, uint32_t row, uint32_t rows)
{
    const struct plan_tensor *to = &w->plan->tensor[i];
    const struct gguf_tensor *from = gguf_tensor(w->base, i);
    const struct hal_plugin *ops = &w->engine->ops;
    const size_t bytes = rows * block_row_bytes(to->type, to->cols);
    const uint8_t *data = from->data + (size_t)row * from->row_bytes;
    const float *column, *row_scale;
    enum err e = decode_strip(w, i, row, rows);
    if (e)
        return e;
    awq_scales(w->awq, i, &column, &row_scale);
    awq_apply(w->x, row, rows, to->cols, column, row_scale);
    if (to->method == RECIPE_CASCADE && (e = through_q8(w, rows, to->cols)))
        return e;
    const uint32_t method = to->method == RECIPE_RTN || to->method == RECIPE_KEEP ? HAL_RTN : HAL_SEARCH;
    if ((e = ops->encode(w->engine->dev, to->type, method, w->x, rows, to->cols,
                         to->is_weighted ? w->h : NULL, w->out, bytes)) ||
        (e = append(w, i, w->out, bytes)))
        return e;
    if (to->method == RECIPE_CASCADE && w->y && /* the loss is counted from the base, not from Q8_0 */
        (e = w->engine->ops.decode(w->engine->dev, from->type, data, rows * from->row_bytes, rows, to->cols, w->x)))
        return e;
    if ((e = look_back(w, i, row, rows, w->x, w->out)))
        return e;
    gguf_drop(w->base, data, rows * from->row_bytes);
    count(w, i, rows);
    e = quantise_base_settle(w, false);
    return e ? e : quantise_tensor_report(w);
}

static enum err encode_tensor(struct quantise_work *w, uint32_t i)
{
    const struct plan_tensor *to = &w->plan->tensor[i];
    const struct profile_entry *entry =
        to->is_weighted ? profile_find(w->profile, to->name) : NULL;
    const uint32_t slices = entry ? entry->slices : 1;
    const uint32_t slice_rows = to->rows / slices;
    const uint32_t most = (uint32_t)(w->strip_values / to->cols);
    const float *column, *row_scale;
    awq_scales(w->awq, i, &column, &row_scale);
    for (uint32_t s = 0; s < slices; s++) {
        if (entry) {
            profile_importance(entry, s, w->h);
            if (column)
                awq_importance(w->h, to->cols, column);
        }
        for (uint32_t row = 0; row < slice_rows; row += most) {
            const uint32_t rows = slice_rows - row < most ? slice_rows - row : most;
            enum err e = encode_strip(w, i, s * slice_rows + row, rows);
            if (e)
                return e;
        }
    }
    return ERR_NONE;
}

bool quantise_tensor_is_copied(const struct quantise_work *w, uint32_t i)
{
    const struct plan_tensor *t = &w->plan->tensor[i];
    const float *column, *row_scale;
    awq_scales(w->awq, i, &column, &row_scale);
    return t->type == t->from && t->method != RECIPE_SCHEME && !column && !row_scale;
}

/* By the plan's scheme: strips, or all rows at once where they share one scale. */
static enum err scheme_tensor(struct quantise_work *w, uint32_t i)
{
    const struct plan_tensor *to = &w->plan->tensor[i];
    const struct gguf_tensor *from = gguf_tensor(w->base, i);
    const struct scheme *s = &w->plan->scheme;
    const bool is_whole = s->group == SCHEME_TENSOR;
    const uint32_t most = is_whole ? to->rows : (uint32_t)(w->strip_values / to->cols);
    const size_t values = (size_t)most * to->cols, row_bytes = block_row_bytes(to->type, to->cols);
    float *x = malloc(values * sizeof *x), *scratch = malloc((is_whole ? values : to->cols) * sizeof *scratch);
    uint8_t *out = malloc(most * row_bytes);
    enum err e = x && scratch && out ? ERR_NONE : ERR_MEMORY;
    for (uint32_t row = 0; row < to->rows && !e; row += most) {
        const uint32_t rows = to->rows - row < most ? to->rows - row : most;
        const uint8_t *data = from->data + (size_t)row * from->row_bytes;
        if ((e = w->engine->ops.decode(w->engine->dev, from->type, data, rows * from->row_bytes, rows, to->cols, x)) ||
            (e = check_rows(w, i, row, rows, x)) ||
            (e = scheme_encode(s, to->type, x, rows, to->cols, scratch, out)) ||
            (e = append(w, i, out, rows * row_bytes)))
            break;
        for (uint32_t at = 0, n; at < rows && !e; at += n) { /* y holds a strip */
            n = (uint32_t)(w->strip_values / to->cols);
            n = rows - at < n ? rows - at : n;
            e = look_back(w, i, row + at, n, x + (size_t)at * to->cols, out + at * row_bytes);
        }
        gguf_drop(w->base, data, rows * from->row_bytes);
        count(w, i, rows);
        e = e ? e : quantise_tensor_report(w);
    }
    free(x);
    free(scratch);
    free(out);
    return e;
}

/* A whole tensor at once: its codes depend on each other along the row, its dampening on all rows. */
static enum err feed_back_tensor(struct quantise_work *w, uint32_t i, struct gptq_basis *basis,
                                 struct quantise_tensor *out)
{
    const struct plan_tensor *to = &w->plan->tensor[i];
    const struct gguf_tensor *from = gguf_tensor(w->base, i);
    const size_t row_bytes = block_row_bytes(to->type, to->cols);
    const uint32_t most = (uint32_t)(w->strip_values / to->cols);
    const float *column, *row_scale;
    struct gptq_result result;
    float *x = malloc((size_t)to->rows * to->cols * sizeof *x);
    uint8_t *blocks = malloc(to->rows * row_bytes);
    enum err e = x && blocks ? w->engine->ops.decode(w->engine->dev, from->type, from->data, from->bytes, to->rows,
                                                     to->cols, x)
                             : ERR_MEMORY;
    if (e || (e = check_rows(w, i, 0, to->rows, x)))
        goto out;
    awq_scales(w->awq, i, &column, &row_scale);
    awq_apply(x, 0, to->rows, to->cols, column, row_scale);
    memcpy(w->h, basis->importance, to->cols * sizeof *w->h);
    if ((e = gptq_encode(w->engine, w->threads, to->type, x, to->rows, to->cols, basis, NULL, blocks, &result)) ||
        (e = append(w, i, blocks, to->rows * row_bytes)))
        goto out;
    out->output_error = result.error[result.taken];
    out->method = result.taken == GPTQ_SEARCH ? RECIPE_SEARCH : to->method;
    for (uint32_t row = 0; !e && row < to->rows; row += most) {
        const uint32_t rows = to->rows - row < most ? to->rows - row : most;
        e = look_back(w, i, row, rows, x + (size_t)row * to->cols, blocks + row * row_bytes);
    }
    gguf_drop(w->base, from->data, from->bytes);
    count(w, i, to->rows);
    if (!e)
        e = quantise_tensor_report(w);
out:
    free(x);
    free(blocks);
    return e;
}

static enum err encode_by_method(struct quantise_work *w, uint32_t i)
{
    struct gptq_basis *basis = NULL;
    struct quantise_tensor *out = &w->tensor[i];
    enum err e = ERR_NONE;
    if (w->is_streaming && (e = gptq_source_get(w->source, i, &basis, w->fault)))
        return e;
    if (basis)
        return feed_back_tensor(w, i, basis, out);
    if (w->plan->tensor[i].method == RECIPE_SCHEME)
        return scheme_tensor(w, i);
    if (is_gptq(&w->plan->tensor[i]))
        out->method = RECIPE_SEARCH;
    return encode_tensor(w, i);
}

static enum err encode(struct quantise_work *w, uint32_t i)
{
    w->progress.tensor = i;
    w->progress.name = w->plan->tensor[i].name;
    w->error = w->energy = 0;
    enum err e = encode_by_method(w, i);
    if (!e && w->y)
        w->tensor[i].error = w->energy > 0 ? w->error / w->energy : 0;
    return e;
}

/* The next layer into the source, in the order in which it is computed. */
static enum err stream_layer(struct quantise_work *w)
{
    const uint32_t *tensor = NULL;
    uint32_t tensors = 0;
    w->layer_done = w->progress.bytes;
    w->layer_bytes = 0;
    enum err e = gptq_source_begin(w->source, &tensor, &tensors, w->fault);
    for (uint32_t k = 0; k < tensors; k++)
        w->layer_bytes += quantise_tensor_is_copied(w, tensor[k]) ? 0 : quantise_tensor_cost(w, tensor[k]);
    w->is_streaming = true;
    for (uint32_t k = 0; k < tensors && !e; k++)
        e = quantise_tensor_is_copied(w, tensor[k]) ? ERR_NONE : encode(w, tensor[k]);
    w->is_streaming = false;
    e = e ? e : gptq_source_end(w->source, w->fault);
    w->progress.bytes = w->layer_done + w->layer_bytes;
    return e;
}

/* What the source keeps of tensor i into the file. */
static enum err take_kept(struct quantise_work *w, uint32_t i)
{
    const uint64_t bytes = plan_tensor_bytes(&w->plan->tensor[i]);
    const size_t piece = w->strip_values * sizeof *w->out;
    for (uint64_t at = 0; at < bytes; at += piece) {
        const size_t n = bytes - at < piece ? (size_t)(bytes - at) : piece;
        enum err e = gptq_source_read(w->source, i, at, w->out, n);
        if (e || (e = quantise_file_append(w->file, w->out, n)))
            return e;
    }
    return ERR_NONE;
}

enum err quantise_tensor_take(struct quantise_work *w, uint32_t i)
{
    uint32_t layer = 0;
    enum err e = ERR_NONE;
    if (!w->source || !gptq_source_streams(w->source, i, &layer)) {
        if (!quantise_tensor_is_copied(w, i))
            return encode(w, i);
    } else {
        while (!e && gptq_source_done(w->source) <= layer)
            e = stream_layer(w);
    }
    if (e)
        return e;
    w->progress.tensor = i;
    w->progress.name = w->plan->tensor[i].name;
    if (!quantise_tensor_is_copied(w, i)) {
        if (layer < w->counted)
            count(w, i, w->plan->tensor[i].rows);
        return take_kept(w, i);
    }
    w->tensor[i].error = 0;
    return copy_tensor(w, i);
}
