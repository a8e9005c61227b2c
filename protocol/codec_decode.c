/* codec_decode.c: CBOR to structs by tables. */
#include "protocol/codec.h"

#include <string.h>

#include "protocol/cbor.h"
#include "protocol/keys.h"
#include "protocol/message.h"
#include "protocol/topic.h"

/* An open map, or an array of maps, of which `row` is being read. */
struct frame {
    const struct codec_table *table;
    uint8_t *base;
    uint64_t seen; /* bit i: field i of this row was present */
    uint32_t row;
    uint32_t rows;
    bool is_array;
};

static const struct codec_field *find(const struct codec_table *table, int64_t key, uint32_t *index)
{
    for (uint32_t i = 0; i < table->fields; i++)
        if (table->field[i].key == key) {
            *index = i;
            return &table->field[i];
        }
    return NULL;
}

bool codec_knows(const struct codec_table *table, uint64_t key)
{
    uint32_t index;
    return key <= UINT8_MAX && find(table, (int64_t)key, &index);
}

static void put(uint8_t *base, uint32_t offset, uint32_t value)
{
    memcpy(base + offset, &value, sizeof value);
}

static uint32_t get(const uint8_t *base, uint32_t offset)
{
    uint32_t value;
    memcpy(&value, base + offset, sizeof value);
    return value;
}

static enum err read_count(struct cbor_reader *r, const struct codec_field *f, uint8_t *base,
                           uint32_t *out)
{
    uint64_t items;
    if (cbor_enter_array(r, &items) != ERR_NONE || items == 0 || items > f->limit)
        return ERR_FORMAT;
    if ((f->kind == CODEC_LIST || f->kind == CODEC_BLOBS) && items > get(base, f->most))
        return ERR_FULL;
    *out = (uint32_t)items;
    put(base, f->count, *out);
    return ERR_NONE;
}

static enum err read_numbers(struct cbor_reader *r, const struct codec_field *f, uint8_t *base)
{
    uint32_t count = 0;
    uint64_t value = 0, before = 0;
    enum err e = read_count(r, f, base, &count);
    for (uint32_t i = 0; e == ERR_NONE && i < count; i++, before = value) {
        e = cbor_read_u64(r, &value);
        if (e == ERR_NONE && value <= before)
            e = ERR_FORMAT;
        memcpy(base + f->at + 8 * i, &value, sizeof value);
    }
    return e ? e : cbor_leave(r);
}

static enum err read_blobs(struct cbor_reader *r, const struct codec_field *f, uint8_t *base)
{
    uint32_t count = 0;
    struct message_blob *blob;
    enum err e = read_count(r, f, base, &count);
    memcpy(&blob, base + f->at, sizeof blob);
    for (uint32_t i = 0; e == ERR_NONE && i < count; i++) {
        blob[i].at = r->at;
        e = cbor_skip(r);
        blob[i].size = (size_t)(r->at - blob[i].at);
    }
    return e ? e : cbor_leave(r);
}

static enum err read_text(struct cbor_reader *r, const struct codec_field *f, char *at,
                          bool *is_zero)
{
    enum err e = cbor_read_text_into(r, at, f->limit);
    if (e)
        return e;
    size_t size = strlen(at);
    if ((f->kind == CODEC_FLEET && !topic_is_fleet(at, size)) ||
        (f->kind == CODEC_DEVICE && !keys_is_id(at, size)))
        return ERR_FORMAT;
    *is_zero = size == 0;
    return ERR_NONE;
}

static enum err read_bytes(struct cbor_reader *r, const struct codec_field *f, uint8_t *at,
                           bool *is_zero)
{
    enum err e = cbor_read_bytes_into(r, at, f->limit);
    for (uint32_t i = 0; e == ERR_NONE && i < f->limit; i++)
        *is_zero = *is_zero && at[i] == 0;
    return e;
}

static enum err read_float(struct cbor_reader *r, const struct codec_field *f, uint8_t *at,
                           bool *is_zero)
{
    static const uint8_t zero[8];
    double d = 0;
    float g = 0;
    bool is_wide = f->kind == CODEC_F64;
    enum err e = is_wide ? cbor_read_f64(r, &d) : cbor_read_f32(r, &g);
    memcpy(at, is_wide ? (const void *)&d : (const void *)&g, is_wide ? 8 : 4);
    *is_zero = memcmp(at, zero, is_wide ? 8 : 4) == 0; /* -0.0 is a value */
    return e;
}

/* *is_zero: what the encoder would have left out. It is true on entry. */
static enum err read_leaf(struct cbor_reader *r, const struct codec_field *f, uint8_t *base,
                          bool *is_zero)
{
    uint8_t *at = base + f->at;
    uint64_t u = 0;
    int64_t i = 0;
    bool b = false;
    struct message_blob blob = {0};
    enum err e;
    switch (f->kind) {
    case CODEC_U32:
        if ((e = cbor_read_u64(r, &u)) || u > UINT32_MAX || (f->limit && u > f->limit))
            return ERR_FORMAT;
        put(base, f->at, (uint32_t)u);
        *is_zero = u == 0;
        return ERR_NONE;
    case CODEC_U64:
        e = cbor_read_u64(r, &u);
        memcpy(at, &u, sizeof u);
        *is_zero = u == 0;
        return e;
    case CODEC_I64:
        e = cbor_read_i64(r, &i);
        memcpy(at, &i, sizeof i);
        *is_zero = i == 0;
        return e;
    case CODEC_BOOL:
        e = cbor_read_bool(r, &b);
        memcpy(at, &b, sizeof b);
        *is_zero = !b;
        return e;
    case CODEC_F32:
    case CODEC_F64: return read_float(r, f, at, is_zero);
    case CODEC_TEXT:
    case CODEC_FLEET:
    case CODEC_DEVICE: return read_text(r, f, (char *)at, is_zero);
    case CODEC_BYTES: return read_bytes(r, f, at, is_zero);
    case CODEC_BLOB:
        e = cbor_read_bytes(r, &blob.at, &blob.size);
        memcpy(at, &blob, sizeof blob);
        *is_zero = blob.size == 0;
        return e == ERR_NONE && blob.size > f->limit ? ERR_FORMAT : e;
    case CODEC_NUMBERS: *is_zero = false; return read_numbers(r, f, base);
    case CODEC_BLOBS: *is_zero = false; return read_blobs(r, f, base);
    case CODEC_SKETCH: {
        struct sketch sketch = {0};
        e = codec_read_sketch(r, &sketch);
        memcpy(at, &sketch, sizeof sketch);
        *is_zero = sketch.count == 0;
        return e;
    }
    default: return ERR_ARGUMENT;
    }
}

static enum err enter_row(struct cbor_reader *r, struct frame *frame)
{
    uint64_t pairs;
    frame->seen = 0;
    return cbor_enter_map(r, &pairs);
}

/* The frame of a field that holds maps; out->table NULL: a union of an unknown kind was skipped. */
static enum err open_frame(struct cbor_reader *r, const struct codec_field *f, uint8_t *base,
                           struct frame *out)
{
    *out = (struct frame){.table = f->table, .base = base + f->at, .rows = 1};
    enum err e = ERR_NONE;
    if (f->kind == CODEC_UNION) {
        uint32_t kind = get(base, f->count);
        out->table = kind < f->limit ? f->tables[kind] : NULL;
        if (!out->table)
            return cbor_skip(r);
    }
    if (f->kind == CODEC_ROWS || f->kind == CODEC_LIST) {
        out->is_array = true;
        if (f->kind == CODEC_LIST)
            memcpy(&out->base, base + f->at, sizeof out->base);
        if ((e = read_count(r, f, base, &out->rows)))
            return e;
        memset(out->base, 0, (size_t)out->rows * f->table->bytes);
    }
    return enter_row(r, out);
}

/* A row has ended: is it complete? Then the next row, or *is_done. */
static enum err close_row(struct cbor_reader *r, struct frame *top, uint32_t depth, bool *is_done)
{
    for (uint32_t i = 0; i < top->table->fields; i++)
        if ((top->table->field[i].flags & (CODEC_NEED | CODEC_ALWAYS)) &&
            !(top->seen & UINT64_C(1) << i))
            return ERR_FORMAT;
    if (!top->is_array && depth > 1 && top->seen == 0)
        return ERR_FORMAT; /* the encoder leaves out an empty map */
    *is_done = ++top->row == top->rows;
    if (*is_done)
        return top->is_array ? cbor_leave(r) : ERR_NONE;
    top->base += top->table->bytes;
    return enter_row(r, top);
}

enum err codec_decode(const struct codec_table *table, const uint8_t *bytes, size_t size, void *to)
{
    struct frame stack[CODEC_NEST_MAX] = {{.table = table, .base = to, .rows = 1}};
    struct cbor_reader r;
    uint32_t depth = 1, index = 0;
    int64_t key;
    cbor_reader_init(&r, bytes, size);
    enum err e = enter_row(&r, &stack[0]);
    while (e == ERR_NONE && depth) {
        struct frame *top = &stack[depth - 1];
        e = cbor_next_key(&r, &key);
        if (e == ERR_NOT_FOUND) {
            bool is_done = false;
            e = close_row(&r, top, depth, &is_done);
            depth -= is_done;
            continue;
        }
        const struct codec_field *f = e ? NULL : find(top->table, key, &index);
        if (e || !f) {
            e = e ? e : cbor_skip(&r);
            continue;
        }
        top->seen |= UINT64_C(1) << index;
        if (f->kind == CODEC_MAP || f->kind == CODEC_UNION || f->kind == CODEC_ROWS ||
            f->kind == CODEC_LIST) {
            if (depth == CODEC_NEST_MAX)
                return ERR_ARGUMENT;
            e = open_frame(&r, f, top->base, &stack[depth]);
            depth += stack[depth].table != NULL;
        } else {
            bool is_zero = true;
            e = read_leaf(&r, f, top->base, &is_zero);
            if (e == ERR_NONE && is_zero && !(f->flags & CODEC_ALWAYS))
                e = ERR_FORMAT;
        }
    }
    return e ? e : cbor_finish(&r);
}
