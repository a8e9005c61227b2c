/* weights.c: row ranges from the map into the engine. */
#include "model/weights.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hal/block.h"
#include "hal/half.h"

enum { PIECE_BYTES = 1 << 20 };

void weights_fail(struct weights *w, enum err e, const char *format, ...)
{
    if (w->error || !e)
        return;
    w->error = e;
    const size_t length = strlen(gguf_path(w->g));
    int used = snprintf(w->reason, GGUF_REASON_BYTES, "%s: ",
                        gguf_path(w->g) + (length > 60 ? length - 60 : 0));
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(w->reason + used, (size_t)(GGUF_REASON_BYTES - used), format, arguments);
    va_end(arguments);
}

/* "<architecture>.<key>" */
static const char *full_key(const struct weights *w, const char *key, char out[160])
{
    struct gguf_text architecture = {"", 0};
    if (gguf_string(w->g, "general.architecture", &architecture) != ERR_NONE)
        return key;
    snprintf(out, 160, "%.*s.%s", (int)(architecture.bytes < 32 ? architecture.bytes : 32),
             architecture.text, key);
    return out;
}

static bool read_u32(struct weights *w, const char *key, uint32_t *out)
{
    char name[160];
    const enum err e = w->error ? ERR_NOT_FOUND : gguf_u32(w->g, full_key(w, key, name), out);
    if (e == ERR_FORMAT)
        weights_fail(w, e, "expected the key %s as an integer of 32 bits", name);
    return e == ERR_NONE;
}

uint32_t weights_u32(struct weights *w, const char *key)
{
    char name[160];
    uint32_t value = 0;
    if (!read_u32(w, key, &value))
        weights_fail(w, ERR_FORMAT, "expected the key %s", full_key(w, key, name));
    else if (value == 0 || value > 1u << 24)
        weights_fail(w, ERR_FORMAT, "expected %s of 1 to 2^24, found %" PRIu32, full_key(w, key, name),
                     value);
    return w->error ? 0 : value;
}

uint32_t weights_u32_or(struct weights *w, const char *key, uint32_t preset)
{
    uint32_t value = preset;
    return read_u32(w, key, &value) ? value : preset;
}

float weights_f32_or(struct weights *w, const char *key, float preset)
{
    char name[160];
    float value = preset;
    const enum err e = gguf_f32(w->g, full_key(w, key, name), &value);
    if (e == ERR_FORMAT)
        weights_fail(w, e, "expected the key %s as a finite number", name);
    return e ? preset : value;
}

uint32_t weights_heads(struct weights *w, const char *key, uint32_t preset)
{
    char name[160];
    const struct gguf_value *v = gguf_find(w->g, full_key(w, key, name));
    if (!v || v->kind != GGUF_ARRAY)
        return preset ? weights_u32_or(w, key, preset) : weights_u32(w, key);
    const double heads = gguf_number(v, 0);
    for (uint64_t i = 1; i < v->count; i++)
        if (gguf_number(v, i) != heads) {
            weights_fail(w, ERR_UNSUPPORTED, "%s differs from layer to layer", name);
            return 0;
        }
    return heads >= 1 && heads <= 65536 ? (uint32_t)heads : 0;
}

struct gguf_text weights_text(struct weights *w, const char *key)
{
    char name[160];
    struct gguf_text text = {"", 0};
    return gguf_string(w->g, full_key(w, key, name), &text) == ERR_NONE ? text
                                                                       : (struct gguf_text){"", 0};
}

static void format_name(char out[GGUF_NAME_BYTES], const char *format, va_list arguments,
                        const char *ending)
{
    const int used = vsnprintf(out, GGUF_NAME_BYTES - 8, format, arguments);
    strcpy(out + (used < GGUF_NAME_BYTES - 8 ? used : GGUF_NAME_BYTES - 9), ending);
}

bool weights_has(struct weights *w, const char *format, ...)
{
    char name[GGUF_NAME_BYTES];
    va_list arguments;
    va_start(arguments, format);
    format_name(name, format, arguments, "");
    va_end(arguments);
    return gguf_tensor_find(w->g, name) != NULL;
}

void weights_make(struct weights *w, struct hal_mat *out, uint32_t use, uint32_t type, uint32_t rows,
                  uint32_t cols)
{
    *out = (struct hal_mat){.type = type, .use = use, .rows = rows, .cols = cols};
    if (w->error)
        return;
    if (w->made_count == w->made_room) {
        const size_t room = w->made_room * 2 + 64;
        struct hal_mat *made = realloc(w->made, room * sizeof *made);
        if (!made) {
            weights_fail(w, ERR_MEMORY, "no memory for the list of matrices");
            return;
        }
        w->made = made;
        w->made_room = room;
    }
    const enum err e = w->e->ops.mat_new(w->e->dev, out);
    if (e)
        weights_fail(w, e, "no room for a matrix of %" PRIu32 " x %" PRIu32 " (%s)", rows, cols,
                     err_name(e));
    else
        w->made[w->made_count++] = *out;
}

void weights_close(struct weights *w)
{
    while (w->made_count > 0)
        w->e->ops.mat_free(w->e->dev, &w->made[--w->made_count]);
    free(w->made);
    free(w->piece);
    *w = (struct weights){0};
}

/* What the engine shall hold: the file's type, or a float that keeps more than the file has. */
static uint32_t held_type(const struct weights *w, uint32_t type)
{
    if (w->is_decoded && block_type(type)->codes > 0)
        return HAL_F32;
    if (type < 64 && w->e->caps.types >> type & 1)
        return type;
    if (type == HAL_BF16 || type == HAL_F32 || !(w->e->caps.types >> HAL_F16 & 1))
        return HAL_F32;
    return HAL_F16;
}

static enum err convert(struct weights *w, const struct gguf_tensor *t, uint32_t to, const uint8_t *data,
                        uint32_t rows, void **out, size_t *bytes)
{
    const size_t values = (size_t)rows * t->shape[0];
    if (values > w->piece_floats) {
        float *piece = realloc(w->piece, values * sizeof *piece);
        if (!piece)
            return ERR_MEMORY;
        w->piece = piece;
        w->piece_floats = values;
    }
    const enum err e = w->e->ops.decode(w->e->dev, t->type, data, rows * t->row_bytes, rows,
                                        (uint32_t)t->shape[0], w->piece);
    *out = w->piece;
    *bytes = values * sizeof(float);
    if (e || to == HAL_F32)
        return e;
    uint16_t *half = (uint16_t *)(void *)w->piece; /* in place: a half never overtakes its float */
    for (size_t i = 0; i < values; i++) {
        float value;
        memcpy(&value, (const char *)w->piece + i * sizeof value, sizeof value);
        const uint16_t bits = half_f32_to_f16(value);
        memcpy((char *)half + i * sizeof bits, &bits, sizeof bits);
    }
    *bytes = values * sizeof(uint16_t);
    return ERR_NONE;
}

/* Rows [first, first + m->rows) of t into m. */
static void load(struct weights *w, const struct gguf_tensor *t, uint32_t first, struct hal_mat *m)
{
    uint32_t step = (uint32_t)(PIECE_BYTES / t->row_bytes);
    step = step < 8 ? 8 : step / 8 * 8;
    for (uint32_t row = 0; row < m->rows && !w->error; row += step) {
        const uint32_t rows = m->rows - row < step ? m->rows - row : step;
        const uint8_t *data = t->data + (size_t)(first + row) * t->row_bytes;
        void *host = (void *)(uintptr_t)data;
        size_t bytes = rows * t->row_bytes;
        enum err e = ERR_NONE;
        if (m->type != t->type)
            e = convert(w, t, m->type, data, rows, &host, &bytes);
        if (!e)
            e = w->e->ops.mat_put(w->e->dev, m, row, rows, host, bytes);
        if (e)
            weights_fail(w, e, "%s: rows from %" PRIu32 " on were refused by %s (%s)", t->name, row,
                         w->e->ops.name, err_name(e));
        gguf_drop(w->g, data, rows * t->row_bytes);
        w->done_bytes += rows * t->row_bytes;
        if (w->progress)
            w->progress(w->progress_context, w->done_bytes, w->total_bytes);
    }
    if (m->mem)
        w->made[w->made_count - 1] = *m; /* put may have moved what make listed last */
    w->bytes += block_row_bytes(m->type, m->cols) * m->rows;
    w->parameters += (uint64_t)m->rows * m->cols;
}

static const struct gguf_tensor *find(struct weights *w, const char *name, uint64_t rows, uint32_t cols)
{
    if (w->error)
        return NULL;
    const struct gguf_tensor *t = gguf_tensor_find(w->g, name);
    if (!t)
        weights_fail(w, ERR_FORMAT, "expected the tensor %s", name);
    else if (t->shape[0] != cols || t->rows < rows)
        weights_fail(w, ERR_FORMAT, "expected %s of %" PRIu32 " x %" PRIu64 ", found %" PRIu64 " x %" PRIu64,
                     name, cols, rows, t->shape[0], t->rows);
    return w->error ? NULL : t;
}

static void linear(struct weights *w, struct weights_linear *out, uint64_t whole_rows, uint32_t first,
                   uint32_t rows, uint32_t cols, char name[GGUF_NAME_BYTES])
{
    *out = (struct weights_linear){0};
    const struct gguf_tensor *t = find(w, name, whole_rows, cols);
    if (!t)
        return;
    weights_make(w, &out->w, HAL_WEIGHT, held_type(w, t->type), rows, cols);
    load(w, t, first, &out->w);
    if (first == 0)
        snprintf(out->name, sizeof out->name, "%.63s", name);
    if (cols > w->cols_max)
        w->cols_max = cols;
    strcpy(name + strlen(name) - strlen("weight"), "bias");
    const struct gguf_tensor *bias = gguf_tensor_find(w->g, name);
    if (!bias || w->error)
        return;
    if (bias->bytes / bias->row_bytes != 1 || bias->shape[0] < (uint64_t)first + rows) {
        weights_fail(w, ERR_FORMAT, "expected %s of %" PRIu32 " values", name, first + rows);
        return;
    }
    float *values = calloc((size_t)bias->shape[0], sizeof *values);
    weights_make(w, &out->bias, HAL_ACTIVATION, HAL_F32, 1, rows);
    if (!values)
        weights_fail(w, ERR_MEMORY, "no memory for %s", name);
    else
        weights_floats(w, name, (uint32_t)bias->shape[0], values);
    if (!w->error)
        weights_fail(w, w->e->ops.mat_put(w->e->dev, &out->bias, 0, 1, values + first, rows * 4u),
                     "%s was refused", name);
    free(values);
}

void weights_linear(struct weights *w, struct weights_linear *out, uint32_t rows, uint32_t cols,
                    const char *format, ...)
{
    char name[GGUF_NAME_BYTES];
    va_list arguments;
    va_start(arguments, format);
    format_name(name, format, arguments, ".weight");
    va_end(arguments);
    linear(w, out, rows, 0, rows, cols, name);
}

void weights_linear_part(struct weights *w, struct weights_linear *out, uint32_t first, uint32_t rows,
                         uint32_t cols, const char *format, ...)
{
    char name[GGUF_NAME_BYTES];
    va_list arguments;
    va_start(arguments, format);
    format_name(name, format, arguments, ".weight");
    va_end(arguments);
    linear(w, out, (uint64_t)first + rows, first, rows, cols, name);
}

void weights_table(struct weights *w, struct hal_mat *out, uint32_t rows, uint32_t cols, const char *format,
                   ...)
{
    char name[GGUF_NAME_BYTES];
    va_list arguments;
    va_start(arguments, format);
    format_name(name, format, arguments, ".weight");
    va_end(arguments);
    *out = (struct hal_mat){0};
    const struct gguf_tensor *t = find(w, name, rows, cols);
    if (!t)
        return;
    weights_make(w, out, HAL_WEIGHT, held_type(w, t->type), rows, cols);
    load(w, t, 0, out);
}

void weights_floats(struct weights *w, const char *name, uint32_t count, float *out)
{
    const struct gguf_tensor *t = find(w, name, 1, count);
    if (!t)
        return;
    const enum err e = block_decode_row(t->type, t->data, count, out);
    if (e)
        weights_fail(w, e, "expected %s as numbers", name);
    else
        w->done_bytes += t->bytes;
}

void weights_vector(struct weights *w, struct hal_mat *out, uint32_t cols, const char *format, ...)
{
    char name[GGUF_NAME_BYTES];
    va_list arguments;
    va_start(arguments, format);
    format_name(name, format, arguments, "");
    va_end(arguments);
    weights_make(w, out, HAL_ACTIVATION, HAL_F32, 1, cols);
    float *values = calloc(cols, sizeof *values);
    if (!values)
        weights_fail(w, ERR_MEMORY, "no memory for %s", name);
    else
        weights_floats(w, name, cols, values);
    if (!w->error)
        weights_fail(w, w->e->ops.mat_put(w->e->dev, out, 0, 1, values, cols * sizeof *values),
                     "%s was refused", name);
    w->parameters += cols;
    w->bytes += cols * sizeof *values;
    free(values);
}

void weights_norm(struct weights *w, struct weights_norm *out, uint32_t cols, const char *format, ...)
{
    char name[GGUF_NAME_BYTES];
    va_list arguments;
    va_start(arguments, format);
    format_name(name, format, arguments, "");
    va_end(arguments);
    *out = (struct weights_norm){.w = {.mem = NULL}};
    weights_vector(w, &out->w, cols, "%s.weight", name);
    if (weights_has(w, "%s.bias", name))
        weights_vector(w, &out->b, cols, "%s.bias", name);
}
