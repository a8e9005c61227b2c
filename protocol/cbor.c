/* cbor.c: reading deterministic CBOR, on libcbor's streaming decoder. No I/O, no allocation. */
#include "protocol/cbor.h"

#include <cbor.h>
#include <math.h>
#include <string.h>

#include "protocol/cbor_float.h"
#include "protocol/text.h"

enum { TAG_SIGN1 = 0xc0 + CBOR_TAG_SIGN1 };

/* One head as libcbor reports it, with its content for strings. */
struct item {
    enum cbor_kind kind;
    uint64_t value; /* integer, count or tag; of a negative integer -1 - n */
    double number;
    const uint8_t *bytes;
    size_t size;
};

static void on_uint(void *to, enum cbor_kind kind, uint64_t value)
{
    struct item *item = to;
    item->kind = kind;
    item->value = value;
}

static void on_uint8(void *to, uint8_t v)
{
    on_uint(to, CBOR_KIND_UINT, v);
}
static void on_uint16(void *to, uint16_t v)
{
    on_uint(to, CBOR_KIND_UINT, v);
}
static void on_uint32(void *to, uint32_t v)
{
    on_uint(to, CBOR_KIND_UINT, v);
}
static void on_uint64(void *to, uint64_t v)
{
    on_uint(to, CBOR_KIND_UINT, v);
}
static void on_nint8(void *to, uint8_t v)
{
    on_uint(to, CBOR_KIND_NINT, v);
}
static void on_nint16(void *to, uint16_t v)
{
    on_uint(to, CBOR_KIND_NINT, v);
}
static void on_nint32(void *to, uint32_t v)
{
    on_uint(to, CBOR_KIND_NINT, v);
}
static void on_nint64(void *to, uint64_t v)
{
    on_uint(to, CBOR_KIND_NINT, v);
}
static void on_bytes(void *to, cbor_data bytes, size_t size)
{
    struct item *item = to;
    item->kind = CBOR_KIND_BYTES;
    item->bytes = bytes;
    item->size = size;
}
static void on_text(void *to, cbor_data bytes, size_t size)
{
    on_bytes(to, bytes, size);
    ((struct item *)to)->kind = CBOR_KIND_TEXT;
}
static void on_array(void *to, size_t items)
{
    on_uint(to, CBOR_KIND_ARRAY, items);
}
static void on_map(void *to, size_t pairs)
{
    on_uint(to, CBOR_KIND_MAP, pairs);
}
static void on_tag(void *to, uint64_t tag)
{
    on_uint(to, CBOR_KIND_TAG, tag);
}
static void on_float(void *to, float v)
{
    struct item *item = to;
    item->kind = CBOR_KIND_FLOAT;
    item->number = (double)v;
}
static void on_double(void *to, double v)
{
    struct item *item = to;
    item->kind = CBOR_KIND_FLOAT;
    item->number = v;
}
static void on_bool(void *to, bool v)
{
    on_uint(to, CBOR_KIND_BOOL, v);
}
static void on_null(void *to)
{
    on_uint(to, CBOR_KIND_NULL, 0);
}
/* undefined, break and indefinite lengths are not part of the subset: the kind stays NONE */
static void on_other(void *to)
{
    (void)to;
}

static const struct cbor_callbacks callbacks = {
    .uint8 = on_uint8,
    .uint16 = on_uint16,
    .uint32 = on_uint32,
    .uint64 = on_uint64,
    .negint8 = on_nint8,
    .negint16 = on_nint16,
    .negint32 = on_nint32,
    .negint64 = on_nint64,
    .byte_string_start = on_other,
    .byte_string = on_bytes,
    .string = on_text,
    .string_start = on_other,
    .indef_array_start = on_other,
    .array_start = on_array,
    .indef_map_start = on_other,
    .map_start = on_map,
    .tag = on_tag,
    .float2 = on_float,
    .float4 = on_float,
    .float8 = on_double,
    .undefined = on_other,
    .null = on_null,
    .boolean = on_bool,
    .indef_break = on_other,
};

static size_t head_bytes(uint64_t value)
{
    if (value < 24)
        return 1;
    if (value <= UINT8_MAX)
        return 2;
    if (value <= UINT16_MAX)
        return 3;
    return value <= UINT32_MAX ? 5 : 9;
}

/* Decode one head at r->at and check that it is the shortest one. */
static enum err decode_head(const struct cbor_reader *r, struct item *item, size_t *size)
{
    *item = (struct item){0};
    size_t rest = (size_t)(r->end - r->at);
    if (rest == 0)
        return ERR_FORMAT;
    if (*r->at == TAG_SIGN1) {
        /* libcbor 0.8 refuses the tags that RFC 7049 had not assigned, 18 among them */
        on_uint(item, CBOR_KIND_TAG, CBOR_TAG_SIGN1);
        *size = 1;
        return ERR_NONE;
    }
    struct cbor_decoder_result result = cbor_stream_decode(r->at, rest, &callbacks, item);
    if (result.status != CBOR_DECODER_FINISHED || item->kind == CBOR_KIND_NONE ||
        result.read > rest)
        return ERR_FORMAT;
    size_t expected = 1;
    switch (item->kind) {
    case CBOR_KIND_BYTES:
    case CBOR_KIND_TEXT: expected = head_bytes(item->size) + item->size; break;
    case CBOR_KIND_FLOAT:
        if (!isfinite(item->number))
            return ERR_FORMAT;
        expected = 1 + cbor_float_bytes(item->number);
        break;
    case CBOR_KIND_BOOL:
    case CBOR_KIND_NULL:
    case CBOR_KIND_NONE: break;
    default: expected = head_bytes(item->value);
    }
    if (result.read != expected)
        return ERR_FORMAT;
    if (item->kind == CBOR_KIND_TEXT && !text_is_utf8(item->bytes, item->size))
        return ERR_FORMAT;
    *size = result.read;
    return ERR_NONE;
}

/* Take the next item of the wanted kind, or of any kind but a tag for CBOR_KIND_NONE. */
static enum err take(struct cbor_reader *r, enum cbor_kind wanted, struct item *item)
{
    struct cbor_level *level = r->depth ? &r->level[r->depth - 1] : NULL;
    size_t size = 0;
    if (level && (level->left == 0 || (level->is_map && !level->is_value)))
        return ERR_FORMAT;
    if (decode_head(r, item, &size) != ERR_NONE)
        return ERR_FORMAT;
    if (wanted == CBOR_KIND_NONE ? item->kind == CBOR_KIND_TAG : item->kind != wanted)
        return ERR_FORMAT;
    bool is_open = item->kind == CBOR_KIND_ARRAY || item->kind == CBOR_KIND_MAP;
    uint64_t rest = (uint64_t)(r->end - r->at) - size;
    /* every element needs a byte at least: a larger count is a lie, found before anyone believes it
     */
    if (is_open && (r->depth == CBOR_DEPTH_MAX || item->value > rest ||
                    (item->kind == CBOR_KIND_MAP && item->value > rest / 2)))
        return ERR_FORMAT;
    r->at += size;
    if (level && item->kind != CBOR_KIND_TAG) {
        level->left--;
        level->is_value = false;
    }
    if (is_open)
        r->level[r->depth++] = (struct cbor_level){
            .left = item->kind == CBOR_KIND_MAP ? 2 * item->value : item->value,
            .is_map = item->kind == CBOR_KIND_MAP,
        };
    return ERR_NONE;
}

void cbor_reader_init(struct cbor_reader *r, const uint8_t *bytes, size_t size)
{
    static const uint8_t nothing[1];
    *r = (struct cbor_reader){.at = bytes ? bytes : nothing};
    r->end = r->at + (bytes ? size : 0);
}

enum cbor_kind cbor_peek(const struct cbor_reader *r)
{
    static const enum cbor_kind of_major[7] = {CBOR_KIND_UINT, CBOR_KIND_NINT,  CBOR_KIND_BYTES,
                                               CBOR_KIND_TEXT, CBOR_KIND_ARRAY, CBOR_KIND_MAP,
                                               CBOR_KIND_TAG};
    if (r->at == r->end || (r->depth && r->level[r->depth - 1].left == 0))
        return CBOR_KIND_NONE;
    if (*r->at < 0xe0)
        return of_major[*r->at >> 5];
    switch (*r->at) {
    case 0xf4:
    case 0xf5: return CBOR_KIND_BOOL;
    case 0xf6: return CBOR_KIND_NULL;
    case 0xf9:
    case 0xfa:
    case 0xfb: return CBOR_KIND_FLOAT;
    default: return CBOR_KIND_NONE;
    }
}

enum err cbor_read_u64(struct cbor_reader *r, uint64_t *out)
{
    struct item item;
    if (take(r, CBOR_KIND_UINT, &item) != ERR_NONE)
        return ERR_FORMAT;
    *out = item.value;
    return ERR_NONE;
}

enum err cbor_read_i64(struct cbor_reader *r, int64_t *out)
{
    struct item item;
    struct cbor_reader before = *r;
    enum cbor_kind kind = cbor_peek(r) == CBOR_KIND_NINT ? CBOR_KIND_NINT : CBOR_KIND_UINT;
    if (take(r, kind, &item) != ERR_NONE)
        return ERR_FORMAT;
    if (item.value > INT64_MAX) {
        *r = before;
        return ERR_FORMAT;
    }
    *out = kind == CBOR_KIND_UINT ? (int64_t)item.value : -1 - (int64_t)item.value;
    return ERR_NONE;
}

enum err cbor_read_bool(struct cbor_reader *r, bool *out)
{
    struct item item;
    if (take(r, CBOR_KIND_BOOL, &item) != ERR_NONE)
        return ERR_FORMAT;
    *out = item.value != 0;
    return ERR_NONE;
}

enum err cbor_read_null(struct cbor_reader *r)
{
    struct item item;
    return take(r, CBOR_KIND_NULL, &item);
}

enum err cbor_read_f64(struct cbor_reader *r, double *out)
{
    struct item item;
    if (take(r, CBOR_KIND_FLOAT, &item) != ERR_NONE)
        return ERR_FORMAT;
    *out = item.number;
    return ERR_NONE;
}

enum err cbor_read_f32(struct cbor_reader *r, float *out)
{
    if (r->at != r->end && *r->at == 0xfb)
        return ERR_FORMAT;
    double value;
    enum err e = cbor_read_f64(r, &value);
    if (e == ERR_NONE)
        *out = (float)value;
    return e;
}

enum err cbor_read_bytes(struct cbor_reader *r, const uint8_t **out, size_t *size)
{
    struct item item;
    if (take(r, CBOR_KIND_BYTES, &item) != ERR_NONE)
        return ERR_FORMAT;
    *out = item.bytes;
    *size = item.size;
    return ERR_NONE;
}

enum err cbor_read_text(struct cbor_reader *r, const char **out, size_t *size)
{
    struct item item;
    if (take(r, CBOR_KIND_TEXT, &item) != ERR_NONE)
        return ERR_FORMAT;
    *out = (const char *)item.bytes;
    *size = item.size;
    return ERR_NONE;
}

enum err cbor_read_bytes_into(struct cbor_reader *r, uint8_t *out, size_t size)
{
    struct cbor_reader before = *r;
    const uint8_t *at;
    size_t n;
    if (cbor_read_bytes(r, &at, &n) != ERR_NONE)
        return ERR_FORMAT;
    if (n != size) {
        *r = before;
        return ERR_FORMAT;
    }
    memcpy(out, at, n);
    return ERR_NONE;
}

enum err cbor_read_text_into(struct cbor_reader *r, char *out, size_t capacity)
{
    struct cbor_reader before = *r;
    const char *at;
    size_t n;
    if (cbor_read_text(r, &at, &n) != ERR_NONE)
        return ERR_FORMAT;
    if (n >= capacity || memchr(at, 0, n)) {
        *r = before;
        return ERR_FORMAT;
    }
    memcpy(out, at, n);
    out[n] = 0;
    return ERR_NONE;
}

enum err cbor_read_tag(struct cbor_reader *r, uint64_t expected)
{
    struct item item;
    struct cbor_reader before = *r;
    if (take(r, CBOR_KIND_TAG, &item) != ERR_NONE)
        return ERR_FORMAT;
    if (item.value != expected || before.depth != 0) {
        *r = before;
        return ERR_FORMAT;
    }
    return ERR_NONE;
}

enum err cbor_enter_array(struct cbor_reader *r, uint64_t *items)
{
    struct item item;
    if (take(r, CBOR_KIND_ARRAY, &item) != ERR_NONE)
        return ERR_FORMAT;
    *items = item.value;
    return ERR_NONE;
}

enum err cbor_enter_map(struct cbor_reader *r, uint64_t *pairs)
{
    struct item item;
    if (take(r, CBOR_KIND_MAP, &item) != ERR_NONE)
        return ERR_FORMAT;
    *pairs = item.value;
    return ERR_NONE;
}

enum err cbor_leave(struct cbor_reader *r)
{
    if (r->depth == 0 || r->level[r->depth - 1].left != 0)
        return ERR_FORMAT;
    r->depth--;
    return ERR_NONE;
}

enum err cbor_next_key(struct cbor_reader *r, int64_t *key)
{
    struct cbor_level *level = r->depth ? &r->level[r->depth - 1] : NULL;
    if (!level || !level->is_map || level->is_value)
        return ERR_FORMAT;
    if (level->left == 0) {
        r->depth--;
        return ERR_NOT_FOUND;
    }
    struct item item;
    size_t size = 0;
    if (decode_head(r, &item, &size) != ERR_NONE || item.value > INT64_MAX ||
        (item.kind != CBOR_KIND_UINT && item.kind != CBOR_KIND_NINT))
        return ERR_FORMAT;
    /* byte order of the encodings: all of major type 0 before all of major type 1 */
    uint64_t rank = item.kind == CBOR_KIND_UINT ? item.value : (UINT64_C(1) << 63) + item.value;
    if (level->is_keyed && rank <= level->rank)
        return ERR_FORMAT;
    r->at += size;
    level->left--;
    level->rank = rank;
    level->is_keyed = true;
    level->is_value = true;
    *key = item.kind == CBOR_KIND_UINT ? (int64_t)item.value : -1 - (int64_t)item.value;
    return ERR_NONE;
}

enum err cbor_skip(struct cbor_reader *r)
{
    struct cbor_reader walk = *r;
    uint32_t floor = r->depth;
    do {
        struct cbor_level *level = walk.depth ? &walk.level[walk.depth - 1] : NULL;
        struct item item;
        int64_t key;
        if (walk.depth > floor && level->left == 0) {
            walk.depth--;
        } else if (walk.depth > floor && level->is_map && !level->is_value) {
            if (cbor_next_key(&walk, &key) != ERR_NONE)
                return ERR_FORMAT;
        } else if (take(&walk, CBOR_KIND_NONE, &item) != ERR_NONE) {
            return ERR_FORMAT;
        }
    } while (walk.depth > floor);
    *r = walk;
    return ERR_NONE;
}

enum err cbor_finish(const struct cbor_reader *r)
{
    return r->depth == 0 && r->at == r->end ? ERR_NONE : ERR_FORMAT;
}

enum err cbor_check(const uint8_t *bytes, size_t size)
{
    struct cbor_reader r;
    cbor_reader_init(&r, bytes, size);
    if (cbor_peek(&r) == CBOR_KIND_TAG && cbor_read_tag(&r, CBOR_TAG_SIGN1) != ERR_NONE)
        return ERR_FORMAT;
    enum err e = cbor_skip(&r);
    return e ? e : cbor_finish(&r);
}
