/* codec_encode.c: structs to CBOR by tables. */
#include "protocol/codec.h"

#include <string.h>

#include "protocol/cbor.h"
#include "protocol/keys.h"
#include "protocol/message.h"
#include "protocol/topic.h"

/* An open map, or an array of maps, of which `row` is being written. */
struct frame {
    const struct codec_table *table;
    const uint8_t *base;
    uint32_t field;
    uint32_t row;
    uint32_t rows;
};

static uint32_t number_at(const uint8_t *base, uint32_t offset)
{
    uint32_t n;
    memcpy(&n, base + offset, sizeof n);
    return n;
}

static const struct codec_table *chosen(const struct codec_field *f, const uint8_t *base)
{
    uint32_t kind = number_at(base, f->count);
    return kind < f->limit ? f->tables[kind] : NULL;
}

static bool is_zero(const uint8_t *at, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (at[i])
            return false;
    return true;
}

static bool is_leaf_present(const struct codec_field *f, const uint8_t *base)
{
    const uint8_t *at = base + f->at;
    struct message_blob blob;
    struct sketch sketch;
    if (f->flags & CODEC_ALWAYS)
        return true;
    switch (f->kind) {
    case CODEC_U32:
    case CODEC_F32: return !is_zero(at, 4);
    case CODEC_U64:
    case CODEC_I64:
    case CODEC_F64: return !is_zero(at, 8);
    case CODEC_BOOL: return !is_zero(at, sizeof(bool));
    case CODEC_TEXT:
    case CODEC_FLEET:
    case CODEC_DEVICE: return at[0] != 0;
    case CODEC_BYTES: return !is_zero(at, f->limit);
    case CODEC_BLOB: memcpy(&blob, at, sizeof blob); return blob.size != 0;
    case CODEC_SKETCH: memcpy(&sketch, at, sizeof sketch); return sketch.count != 0;
    default: return number_at(base, f->count) != 0;
    }
}

static bool is_present(const struct codec_field *f, const uint8_t *base)
{
    if (f->kind != CODEC_MAP && f->kind != CODEC_UNION)
        return is_leaf_present(f, base);
    const struct codec_table *table = f->kind == CODEC_MAP ? f->table : chosen(f, base);
    for (uint32_t i = 0; table && i < table->fields; i++)
        if (is_leaf_present(&table->field[i], base + f->at))
            return true;
    return false;
}

/* The head of the map of `base`. */
static enum err start_map(struct cbor_writer *w, const struct codec_table *table,
                          const uint8_t *base)
{
    uint32_t pairs = 0;
    for (uint32_t i = 0; i < table->fields; i++) {
        bool present = is_present(&table->field[i], base);
        if (!present && (table->field[i].flags & CODEC_NEED))
            return ERR_ARGUMENT;
        pairs += present;
    }
    cbor_write_map(w, pairs);
    return ERR_NONE;
}

static enum err write_text(struct cbor_writer *w, const struct codec_field *f, const char *text)
{
    size_t size = strnlen(text, f->limit);
    if (size == f->limit || (f->kind == CODEC_FLEET && !topic_is_fleet(text, size)) ||
        (f->kind == CODEC_DEVICE && !keys_is_id(text, size)))
        return ERR_ARGUMENT;
    cbor_write_text(w, text, size);
    return ERR_NONE;
}

static enum err write_numbers(struct cbor_writer *w, const struct codec_field *f,
                              const uint8_t *base)
{
    uint32_t count = number_at(base, f->count);
    uint64_t value, before = 0;
    if (count > f->limit)
        return ERR_ARGUMENT;
    cbor_write_array(w, count);
    for (uint32_t i = 0; i < count; i++, before = value) {
        memcpy(&value, base + f->at + 8 * i, sizeof value);
        if (value <= before)
            return ERR_ARGUMENT;
        cbor_write_u64(w, value);
    }
    return ERR_NONE;
}

static enum err write_blobs(struct cbor_writer *w, const struct codec_field *f, const uint8_t *base)
{
    uint32_t count = number_at(base, f->count);
    const struct message_blob *blob;
    memcpy(&blob, base + f->at, sizeof blob);
    if (!blob || count > f->limit)
        return ERR_ARGUMENT;
    cbor_write_array(w, count);
    for (uint32_t i = 0; i < count; i++) {
        if (cbor_check(blob[i].at, blob[i].size) != ERR_NONE)
            return ERR_ARGUMENT;
        cbor_write_raw(w, blob[i].at, blob[i].size);
    }
    return ERR_NONE;
}

static enum err write_leaf(struct cbor_writer *w, const struct codec_field *f, const uint8_t *base)
{
    const uint8_t *at = base + f->at;
    uint64_t u;
    int64_t i;
    double d;
    float g;
    struct message_blob blob;
    struct sketch sketch;
    switch (f->kind) {
    case CODEC_U32:
        u = number_at(base, f->at);
        if (f->limit && u > f->limit)
            return ERR_ARGUMENT;
        cbor_write_u64(w, u);
        return ERR_NONE;
    case CODEC_U64:
        memcpy(&u, at, sizeof u);
        cbor_write_u64(w, u);
        return ERR_NONE;
    case CODEC_I64:
        memcpy(&i, at, sizeof i);
        cbor_write_i64(w, i);
        return ERR_NONE;
    case CODEC_BOOL: cbor_write_bool(w, !is_zero(at, sizeof(bool))); return ERR_NONE;
    case CODEC_F32:
        memcpy(&g, at, sizeof g);
        cbor_write_f64(w, (double)g);
        return ERR_NONE;
    case CODEC_F64:
        memcpy(&d, at, sizeof d);
        cbor_write_f64(w, d);
        return ERR_NONE;
    case CODEC_TEXT:
    case CODEC_FLEET:
    case CODEC_DEVICE: return write_text(w, f, (const char *)at);
    case CODEC_BYTES: cbor_write_bytes(w, at, f->limit); return ERR_NONE;
    case CODEC_BLOB:
        memcpy(&blob, at, sizeof blob);
        if (blob.size > f->limit)
            return ERR_ARGUMENT;
        cbor_write_bytes(w, blob.at, blob.size);
        return ERR_NONE;
    case CODEC_NUMBERS: return write_numbers(w, f, base);
    case CODEC_BLOBS: return write_blobs(w, f, base);
    case CODEC_SKETCH:
        memcpy(&sketch, at, sizeof sketch);
        codec_write_sketch(w, &sketch);
        return ERR_NONE;
    default: return ERR_ARGUMENT;
    }
}

/* The frame of a field that holds maps. */
static enum err open_frame(struct cbor_writer *w, const struct codec_field *f, const uint8_t *base,
                           struct frame *out)
{
    *out = (struct frame){.table = f->table, .base = base + f->at, .rows = 1};
    if (f->kind == CODEC_UNION)
        out->table = chosen(f, base);
    if (f->kind == CODEC_ROWS || f->kind == CODEC_LIST) {
        out->rows = number_at(base, f->count);
        if (f->kind == CODEC_LIST)
            memcpy(&out->base, base + f->at, sizeof out->base);
        if (out->rows > f->limit || !out->base)
            return ERR_ARGUMENT;
        cbor_write_array(w, out->rows);
    }
    return start_map(w, out->table, out->base);
}

static bool has_maps(const struct codec_field *f)
{
    return f->kind == CODEC_MAP || f->kind == CODEC_UNION || f->kind == CODEC_ROWS ||
           f->kind == CODEC_LIST;
}

enum err codec_encode(const struct codec_table *table, const void *from, uint8_t *out,
                      size_t capacity, size_t *size)
{
    struct frame stack[CODEC_NEST_MAX] = {{.table = table, .base = from, .rows = 1}};
    struct cbor_writer w;
    uint32_t depth = 1;
    cbor_writer_init(&w, out, capacity);
    enum err e = start_map(&w, table, from);
    while (e == ERR_NONE && depth) {
        struct frame *top = &stack[depth - 1];
        if (top->field == top->table->fields) {
            if (++top->row == top->rows) {
                depth--;
                continue;
            }
            top->field = 0;
            top->base += top->table->bytes;
            e = start_map(&w, top->table, top->base);
            continue;
        }
        const struct codec_field *f = &top->table->field[top->field++];
        if (!is_present(f, top->base))
            continue;
        cbor_write_key(&w, f->key);
        if (!has_maps(f))
            e = write_leaf(&w, f, top->base);
        else if (depth == CODEC_NEST_MAX)
            e = ERR_ARGUMENT;
        else
            e = open_frame(&w, f, top->base, &stack[depth++]);
    }
    return e ? e : cbor_written(&w, size);
}
