/* cbor.h: deterministic CBOR, read from and written to the caller's bytes.
 *
 * The subset of RFC 8949 that Tare speaks: integers of 64 bits, byte and text strings, arrays, maps
 * with integer keys, false, true, null, floats. No indefinite lengths, no tag but 18 (COSE_Sign1),
 * at most CBOR_DEPTH_MAX levels. Reading accepts the core deterministic form of section 4.2.1 only:
 * shortest heads, keys in ascending byte order and each once (0, 1, 2, ..., then -1, -2, ...),
 * floats in the shortest of 16, 32 or 64 bits that keeps the value, no NaN and no infinity. So
 * every accepted byte string re-encodes to itself. Nothing is allocated, nothing recurses.
 */
#ifndef PROTOCOL_CBOR_H
#define PROTOCOL_CBOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"

enum { CBOR_DEPTH_MAX = 8, CBOR_TAG_SIGN1 = 18 };

enum cbor_kind {
    CBOR_KIND_NONE = 0, /* the end of the bytes or of the open array or map, or malformed */
    CBOR_KIND_UINT,
    CBOR_KIND_NINT,
    CBOR_KIND_BYTES,
    CBOR_KIND_TEXT,
    CBOR_KIND_ARRAY,
    CBOR_KIND_MAP,
    CBOR_KIND_TAG,
    CBOR_KIND_BOOL,
    CBOR_KIND_NULL,
    CBOR_KIND_FLOAT
};

struct cbor_level {
    uint64_t left; /* items still to read: array elements, or keys plus values */
    uint64_t rank; /* of the last key, in the order of the encoding */
    bool is_map;
    bool is_keyed; /* rank is valid */
    bool is_value; /* a key was read, its value is next */
};

/* A position in foreign bytes. The bytes must outlive the reader and every view it gives. */
struct cbor_reader {
    const uint8_t *at;
    const uint8_t *end;
    uint32_t depth; /* open arrays and maps */
    struct cbor_level level[CBOR_DEPTH_MAX];
};

/* ---- reading. Each call reads one item, or fails and leaves the reader where it was.
 * Errors: ERR_FORMAT for everything that is malformed, not deterministic, too deep, of another kind
 * than asked for, or out of the range of the result; others are named below. */

void cbor_reader_init(struct cbor_reader *r, const uint8_t *bytes, size_t size);
/* What comes next, by its first byte only. */
enum cbor_kind cbor_peek(const struct cbor_reader *r);
NODISCARD enum err cbor_read_u64(struct cbor_reader *r, uint64_t *out);
NODISCARD enum err cbor_read_i64(struct cbor_reader *r, int64_t *out);
NODISCARD enum err cbor_read_bool(struct cbor_reader *r, bool *out);
NODISCARD enum err cbor_read_null(struct cbor_reader *r);
NODISCARD enum err cbor_read_f64(struct cbor_reader *r, double *out);
NODISCARD enum err cbor_read_f32(struct cbor_reader *r, float *out); /* a wider value: ERR_FORMAT */
/* Views into the bytes given to cbor_reader_init; text is valid UTF-8 and not NUL-terminated. */
NODISCARD enum err cbor_read_bytes(struct cbor_reader *r, const uint8_t **out, size_t *size);
NODISCARD enum err cbor_read_text(struct cbor_reader *r, const char **out, size_t *size);
/* Copies: exactly size bytes; or text of at most capacity - 1 bytes without NUL, then a NUL. */
NODISCARD enum err cbor_read_bytes_into(struct cbor_reader *r, uint8_t *out, size_t size);
NODISCARD enum err cbor_read_text_into(struct cbor_reader *r, char *out, size_t capacity);
NODISCARD enum err cbor_read_tag(struct cbor_reader *r, uint64_t expected);
/* Opens an array; read `items` items, then cbor_leave. */
NODISCARD enum err cbor_enter_array(struct cbor_reader *r, uint64_t *items);
NODISCARD enum err cbor_leave(struct cbor_reader *r);
/* Opens a map; then cbor_next_key until ERR_NOT_FOUND, which says that the map has ended and closes
 * it. After each key its value must be read or skipped. */
NODISCARD enum err cbor_enter_map(struct cbor_reader *r, uint64_t *pairs);
NODISCARD enum err cbor_next_key(struct cbor_reader *r, int64_t *key);
/* Skips one item whole, checking all of it. */
NODISCARD enum err cbor_skip(struct cbor_reader *r);
/* Everything closed and no byte left over. */
NODISCARD enum err cbor_finish(const struct cbor_reader *r);
/* One item, all of it deterministic, no byte left over. */
NODISCARD enum err cbor_check(const uint8_t *bytes, size_t size);

/* ---- writing. Calls past the end of the buffer write nothing more and are remembered, so only
 * cbor_written need be checked. The caller writes map keys in ascending order and as many items as
 * it announced. */

struct cbor_writer {
    uint8_t *at;     /* the caller's buffer */
    size_t capacity; /* of it */
    size_t size;     /* bytes written so far */
    enum err error;  /* ERR_FULL or ERR_ARGUMENT once something failed */
};

void cbor_writer_init(struct cbor_writer *w, uint8_t *out, size_t capacity);
void cbor_write_u64(struct cbor_writer *w, uint64_t value);
void cbor_write_i64(struct cbor_writer *w, int64_t value);
void cbor_write_bool(struct cbor_writer *w, bool value);
void cbor_write_null(struct cbor_writer *w);
void cbor_write_f64(struct cbor_writer *w, double value); /* NaN, infinity: ERR_ARGUMENT */
void cbor_write_bytes(struct cbor_writer *w, const void *bytes, size_t size);
void cbor_write_text(struct cbor_writer *w, const char *text, size_t size); /* UTF-8 */
void cbor_write_string(struct cbor_writer *w, const char *text);            /* NUL-terminated */
void cbor_write_tag(struct cbor_writer *w, uint64_t tag);
void cbor_write_array(struct cbor_writer *w, uint64_t items);
void cbor_write_map(struct cbor_writer *w, uint64_t pairs);
void cbor_write_key(struct cbor_writer *w, int64_t key);
/* Bytes that are CBOR already. */
void cbor_write_raw(struct cbor_writer *w, const void *bytes, size_t size);
/* The first error, or ERR_NONE and the bytes written. */
NODISCARD enum err cbor_written(const struct cbor_writer *w, size_t *size);

#endif
