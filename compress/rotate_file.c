#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compress/plan.h"
#include "compress/prune.h"
#include "compress/rotate.h"
#include "hal/engine.h"
#include "model/gguf.h"

enum { PATH_BYTES = 4096, STRIP_ROWS = 64, PANEL = 16 };

static const char head_name[] = "output.weight", embedding_name[] = "token_embd.weight",
                  last_norm[] = "output_norm.weight", key_name[] = "tare.rotated";

enum turn { NONE, STREAM, VALUES };

/* What happens to a tensor. */
struct fold {
    const char *name; /* of a layer: without its prefix */
    bool is_gain;     /* becomes all ones */
    const char *gain; /* the norm in front of it */
    enum turn row;    /* of each row */
    enum turn column; /* of each column, in runs of the length */
};

static const struct fold of_model[] = {{embedding_name, false, NULL, STREAM, NONE},
                                       {head_name, false, last_norm, STREAM, NONE},
                                       {last_norm, true, NULL, NONE, NONE},
                                       {"rope_freqs.weight", false, NULL, NONE, NONE}};

static const struct fold of_layer[] = {{"attn_norm.weight", true, NULL, NONE, NONE},
                                       {"attn_q.weight", false, "attn_norm.weight", STREAM, NONE},
                                       {"attn_k.weight", false, "attn_norm.weight", STREAM, NONE},
                                       {"attn_v.weight", false, "attn_norm.weight", STREAM, VALUES},
                                       {"attn_output.weight", false, NULL, VALUES, STREAM},
                                       {"attn_q.bias", false, NULL, NONE, NONE},
                                       {"attn_k.bias", false, NULL, NONE, NONE},
                                       {"attn_v.bias", false, NULL, VALUES, NONE},
                                       {"attn_output.bias", false, NULL, STREAM, NONE},
                                       {"attn_q_norm.weight", false, NULL, NONE, NONE},
                                       {"attn_k_norm.weight", false, NULL, NONE, NONE},
                                       {"ffn_norm.weight", true, NULL, NONE, NONE},
                                       {"ffn_gate.weight", false, "ffn_norm.weight", STREAM, NONE},
                                       {"ffn_up.weight", false, "ffn_norm.weight", STREAM, NONE},
                                       {"ffn_down.weight", false, NULL, NONE, STREAM},
                                       {"ffn_gate.bias", false, NULL, NONE, NONE},
                                       {"ffn_up.bias", false, NULL, NONE, NONE},
                                       {"ffn_down.bias", false, NULL, STREAM, NONE}};

struct turning {
    const struct rotate_options *options;
    const struct gguf *base;
    struct gguf_writer *writer;
    struct prune_shape shape;
    struct rotate stream;
    bool is_tied;
    struct fault *fault;
};

void rotate_file_path(const char *out_path, char *path, size_t capacity)
{
    snprintf(path, capacity, "%s.rotated", out_path);
}

void rotate_file_discard(const char *out_path)
{
    char path[PATH_BYTES];
    rotate_file_path(out_path, path, sizeof path);
    unlink(path);
}

/* The fold of a tensor and its layer; NULL: the rotation does not know it. */
static const struct fold *find_fold(const char *name, uint32_t *layer)
{
    *layer = 0;
    const char *rest = plan_block(name, layer);
    const struct fold *list = rest ? of_layer : of_model;
    const size_t count = rest ? sizeof of_layer / sizeof *of_layer : sizeof of_model / sizeof *of_model;
    for (size_t i = 0; i < count; i++)
        if (strcmp(list[i].name, rest ? rest : name) == 0)
            return &list[i];
    return NULL;
}

/* Everything must be known before anything is written: what is left out would be wrong, not worse. */
static enum err check_base(struct turning *w)
{
    uint32_t layer;
    struct gguf_text a = {"", 0};
    const struct gguf *g = w->base;
    if (gguf_string(g, "general.architecture", &a) || a.bytes != 5 ||
        (memcmp(a.text, "llama", 5) != 0 && memcmp(a.text, "qwen2", 5) != 0 && memcmp(a.text, "qwen3", 5) != 0))
        return fault_set(w->fault, ERR_UNSUPPORTED, "%s: rotation knows the architectures llama, qwen2 and qwen3 only",
                         gguf_path(g));
    for (uint32_t i = 0; i < gguf_tensors(g); i++)
        if (!find_fold(gguf_tensor(g, i)->name, &layer))
            return fault_set(w->fault, ERR_UNSUPPORTED, "%s: %s: rotation does not know this tensor", gguf_path(g),
                             gguf_tensor(g, i)->name);
    const enum err e = prune_shape_read(g, &w->shape, w->fault);
    if (e)
        return e;
    const struct gguf_tensor *embedding = gguf_tensor_find(g, embedding_name), *norm = gguf_tensor_find(g, last_norm);
    if (!embedding || embedding->dims != 2 || !norm || norm->bytes == 0 || norm->shape[0] != embedding->shape[0] ||
        embedding->shape[0] > 1 << 17)
        return fault_set(w->fault, ERR_FORMAT, "%s: expected %s and %s of one width", gguf_path(g), embedding_name,
                         last_norm);
    w->is_tied = !gguf_tensor_find(g, head_name);
    return ERR_NONE;
}

static uint32_t length_of(const struct turning *w, enum turn turn)
{
    return turn == STREAM ? w->stream.length : turn == VALUES ? w->shape.value_dim : 1;
}

/* The gain in front of the rows of t, ones where there is none. */
static enum err read_gain(const struct turning *w, const char *name, uint32_t layer, const struct gguf_tensor *t,
                          float *gain)
{
    char full[GGUF_NAME_BYTES];
    for (uint64_t c = 0; c < t->shape[0]; c++)
        gain[c] = 1;
    if (!name)
        return ERR_NONE;
    if (strncmp(name, "output", 6) == 0)
        snprintf(full, sizeof full, "%s", name);
    else
        snprintf(full, sizeof full, "blk.%u.%s", layer, name);
    const struct gguf_tensor *n = gguf_tensor_find(w->base, full);
    if (!n || n->rows != 1 || n->shape[0] != t->shape[0])
        return fault_set(w->fault, ERR_FORMAT, "%s: expected %s of the width of %s", gguf_path(w->base), full, t->name);
    struct engine *engine = w->options->engine;
    return engine->ops.decode(engine->dev, n->type, n->data, n->row_bytes, 1, (uint32_t)n->shape[0], gain);
}

/* Rows times gain, rotated in runs. */
static void turn_rows(const struct rotate *r, const float *gain, uint32_t rows, uint32_t cols, float *x, double *y)
{
    for (uint32_t i = 0; i < rows; i++, x += cols)
        for (uint32_t at = 0; at < cols; at += r->length) {
            for (uint32_t c = 0; c < r->length; c++)
                y[c] = (double)x[at + c] * (double)gain[at + c];
            rotate_apply(r, y);
            for (uint32_t c = 0; c < r->length; c++)
                x[at + c] = (float)y[c];
        }
}

/* Columns of r->length rows, a panel of them at a time for the cache's sake. */
static void turn_columns(const struct rotate *r, uint32_t cols, float *x, double *y)
{
    for (uint32_t at = 0; at < cols; at += PANEL) {
        const uint32_t n = cols - at < PANEL ? cols - at : PANEL;
        for (uint32_t i = 0; i < r->length; i++)
            for (uint32_t c = 0; c < n; c++)
                y[(size_t)c * r->length + i] = (double)x[(size_t)i * cols + at + c];
        for (uint32_t c = 0; c < n; c++)
            rotate_apply(r, y + (size_t)c * r->length);
        for (uint32_t i = 0; i < r->length; i++)
            for (uint32_t c = 0; c < n; c++)
                x[(size_t)i * cols + at + c] = (float)y[(size_t)c * r->length + i];
    }
}

static enum err turn_tensor(struct turning *w, const struct gguf_tensor *t, const struct fold *fold, uint32_t layer)
{
    struct rotate values = {0};
    struct engine *engine = w->options->engine;
    const uint32_t cols = (uint32_t)t->shape[0], run = length_of(w, fold->row), block = length_of(w, fold->column);
    const uint32_t strip = fold->column == NONE ? STRIP_ROWS : block;
    if (cols % run || t->rows % block || (fold->row == STREAM && cols != run) ||
        (fold->column == STREAM && t->rows != block))
        return fault_set(w->fault, ERR_FORMAT, "%s: %s is not of the shape that its keys tell", gguf_path(w->base),
                         t->name);
    enum err e = rotate_open(w->shape.value_dim, w->options->seed, 1 + layer, &values);
    float *x = malloc((size_t)strip * cols * sizeof *x), *gain = malloc(cols * sizeof *gain);
    double *y = malloc((size_t)PANEL * (run > block ? run : block) * sizeof *y);
    if (!e)
        e = x && gain && y ? read_gain(w, fold->gain, layer, t, gain) : ERR_MEMORY;
    for (uint64_t row = 0; !e && row < t->rows; row += strip) {
        const uint32_t rows = t->rows - row < strip ? (uint32_t)(t->rows - row) : strip;
        const uint8_t *from = t->data + row * t->row_bytes;
        if ((e = engine->ops.decode(engine->dev, t->type, from, rows * t->row_bytes, rows, cols, x)))
            break;
        if (fold->row != NONE)
            turn_rows(fold->row == STREAM ? &w->stream : &values, gain, rows, cols, x, y);
        if (fold->column != NONE)
            turn_columns(fold->column == STREAM ? &w->stream : &values, cols, x, y);
        for (size_t i = 0; fold->is_gain && i < (size_t)rows * cols; i++)
            x[i] = 1;
        e = gguf_writer_append(w->writer, x, (size_t)rows * cols * sizeof *x);
        gguf_drop(w->base, from, rows * t->row_bytes);
    }
    rotate_close(&values);
    free(x);
    free(gain);
    free(y);
    return e;
}

static bool is_copied(const struct fold *fold)
{
    return !fold->is_gain && fold->row == NONE && fold->column == NONE;
}

static enum err announce(struct turning *w)
{
    for (uint32_t i = 0; i < gguf_tensors(w->base); i++) {
        uint32_t layer;
        const struct gguf_tensor *t = gguf_tensor(w->base, i);
        const uint32_t type = is_copied(find_fold(t->name, &layer)) ? t->type : (uint32_t)HAL_F32;
        const enum err e = gguf_writer_tensor(w->writer, t->name, type, t->dims, t->shape);
        if (e)
            return e;
    }
    const struct gguf_tensor *t = gguf_tensor_find(w->base, embedding_name);
    return w->is_tied ? gguf_writer_tensor(w->writer, head_name, HAL_F32, t->dims, t->shape) : ERR_NONE;
}

static enum err write_data(struct turning *w)
{
    uint32_t layer;
    enum err e = ERR_NONE;
    const struct rotate_options *o = w->options;
    for (uint32_t i = 0; !e && i < gguf_tensors(w->base); i++) {
        const struct gguf_tensor *t = gguf_tensor(w->base, i);
        const struct fold *fold = find_fold(t->name, &layer);
        e = is_copied(fold) ? gguf_writer_append(w->writer, t->data, t->bytes) : turn_tensor(w, t, fold, layer);
        if (!e && o->progress && o->progress(o->progress_context, i + 1))
            e = ERR_CANCELLED;
    }
    if (!e && w->is_tied)
        e = turn_tensor(w, gguf_tensor_find(w->base, embedding_name), find_fold(head_name, &layer), 0);
    return e;
}

static enum err write_file(struct turning *w, const char *text)
{
    enum err e = gguf_writer_open(w->options->out_path, gguf_alignment(w->base), &w->writer);
    if (e)
        return e;
    if (!(e = gguf_writer_copy_all(w->writer, w->base)) &&
        !(e = gguf_writer_string(w->writer, key_name, text, strlen(text))) && !(e = announce(w)) &&
        !(e = gguf_writer_begin(w->writer, 0)) && !(e = write_data(w)))
        e = gguf_writer_commit(w->writer);
    if (e && e != ERR_CANCELLED && !w->fault->text[0] && gguf_writer_reason(w->writer)[0])
        fault_set(w->fault, e, "%s", gguf_writer_reason(w->writer));
    gguf_writer_close(w->writer);
    return e;
}

/* A matrix that writes the stream is turned whole. */
uint64_t rotate_bytes(const struct gguf *base)
{
    uint64_t values = 0;
    for (uint32_t i = 0; i < gguf_tensors(base); i++) {
        const struct gguf_tensor *t = gguf_tensor(base, i);
        const uint64_t n = (strncmp(t->name, "blk.", 4) == 0 ? t->rows : STRIP_ROWS) * t->shape[0];
        values = n > values ? n : values;
    }
    return values * sizeof(float) + (8 << 20);
}

enum err rotate_file_make(const struct rotate_options *options, struct rotate_result *result, struct fault *f)
{
    char reason[GGUF_REASON_BYTES] = "", text[ROTATE_TEXT];
    struct fault own = {""};
    struct turning w = {.options = options, .fault = f ? f : &own};
    struct gguf *base = NULL;
    enum err e = gguf_open(options->base_path, &base, reason);
    if (e)
        return fault_set(f, e, "%s", reason);
    w.base = base;
    if ((e = check_base(&w)))
        goto out;
    const struct gguf_tensor *embedding = gguf_tensor_find(base, embedding_name);
    if ((e = rotate_open((uint32_t)embedding->shape[0], options->seed, 0, &w.stream)))
        goto out;
    snprintf(text, sizeof text, "stream %u = %u x %u, values %u, seed %" PRIu64 ", base %s", w.stream.length,
             w.stream.power, w.stream.odd, w.shape.value_dim, options->seed, options->base_sha256);
    if (!(e = write_file(&w, text)) && result)
        *result = (struct rotate_result){w.is_tied, w.is_tied ? embedding->rows * embedding->shape[0] : 0};
out:
    if (e && !w.fault->text[0])
        fault_set(w.fault, e, "%s: cannot be rotated: %s", options->base_path, err_name(e));
    rotate_close(&w.stream);
    gguf_close(base);
    return e;
}
