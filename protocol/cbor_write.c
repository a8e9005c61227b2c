/* cbor_write.c: writing deterministic CBOR, on libcbor's encoders. */
#include "protocol/cbor.h"

#include <cbor.h>
#include <math.h>
#include <string.h>

#include "protocol/cbor_float.h"
#include "protocol/text.h"

void cbor_writer_init(struct cbor_writer *w, uint8_t *out, size_t capacity)
{
    *w = (struct cbor_writer){.at = out, .capacity = out ? capacity : 0};
}

/* An encoder of libcbor answers 0 when the head has no room. */
#define PUT_HEAD(w, encoder, value)                                                                \
    do {                                                                                           \
        size_t head_ =                                                                             \
            (w)->error ? 0 : encoder(value, (w)->at + (w)->size, (w)->capacity - (w)->size);       \
        if (head_ == 0)                                                                            \
            fail(w, ERR_FULL);                                                                     \
        (w)->size += head_;                                                                        \
    } while (0)

static void fail(struct cbor_writer *w, enum err e)
{
    if (w->error == ERR_NONE)
        w->error = e;
}

void cbor_write_raw(struct cbor_writer *w, const void *bytes, size_t size)
{
    if (w->error || size > w->capacity - w->size) {
        fail(w, ERR_FULL);
        return;
    }
    if (size)
        memcpy(w->at + w->size, bytes, size);
    w->size += size;
}

void cbor_write_u64(struct cbor_writer *w, uint64_t value)
{
    PUT_HEAD(w, cbor_encode_uint, value);
}

void cbor_write_i64(struct cbor_writer *w, int64_t value)
{
    if (value >= 0)
        PUT_HEAD(w, cbor_encode_uint, (uint64_t)value);
    else
        PUT_HEAD(w, cbor_encode_negint, (uint64_t)(-1 - value));
}

void cbor_write_bool(struct cbor_writer *w, bool value)
{
    PUT_HEAD(w, cbor_encode_bool, value);
}

void cbor_write_null(struct cbor_writer *w)
{
    static const uint8_t null = 0xf6;
    cbor_write_raw(w, &null, 1);
}

void cbor_write_f64(struct cbor_writer *w, double value)
{
    if (!isfinite(value)) {
        fail(w, ERR_ARGUMENT);
        return;
    }
    switch (cbor_float_bytes(value)) {
    case 2: {
        uint16_t bits = 0;
        (void)cbor_float_half((float)value, &bits);
        uint8_t half[3] = {0xf9, (uint8_t)(bits >> 8), (uint8_t)bits};
        cbor_write_raw(w, half, sizeof half);
        break;
    }
    case 4: PUT_HEAD(w, cbor_encode_single, (float)value); break;
    default: PUT_HEAD(w, cbor_encode_double, value);
    }
}

void cbor_write_bytes(struct cbor_writer *w, const void *bytes, size_t size)
{
    PUT_HEAD(w, cbor_encode_bytestring_start, size);
    cbor_write_raw(w, bytes, size);
}

void cbor_write_text(struct cbor_writer *w, const char *text, size_t size)
{
    if (!text_is_utf8((const uint8_t *)text, size)) {
        fail(w, ERR_ARGUMENT);
        return;
    }
    PUT_HEAD(w, cbor_encode_string_start, size);
    cbor_write_raw(w, text, size);
}

void cbor_write_string(struct cbor_writer *w, const char *text)
{
    cbor_write_text(w, text, strlen(text));
}

void cbor_write_tag(struct cbor_writer *w, uint64_t tag)
{
    PUT_HEAD(w, cbor_encode_tag, tag);
}

void cbor_write_array(struct cbor_writer *w, uint64_t items)
{
    PUT_HEAD(w, cbor_encode_array_start, items);
}

void cbor_write_map(struct cbor_writer *w, uint64_t pairs)
{
    PUT_HEAD(w, cbor_encode_map_start, pairs);
}

void cbor_write_key(struct cbor_writer *w, int64_t key)
{
    cbor_write_i64(w, key);
}

enum err cbor_written(const struct cbor_writer *w, size_t *size)
{
    if (w->error == ERR_NONE)
        *size = w->size;
    return w->error;
}
