/* codec.h: structs to CBOR maps and back, by tables. Inside protocol only; message_*.c hold the
 * tables.
 *
 * A table lists the fields of a struct in ascending order of their keys. Fields that are all zero
 * are left out of the map, and a present zero is refused, unless CODEC_ALWAYS says otherwise; so
 * struct and bytes determine each other.
 */
#ifndef CODEC_H
#define CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"

enum codec_kind {
    CODEC_U32, /* limit: largest value; 0: any */
    CODEC_U64,
    CODEC_I64,
    CODEC_BOOL,
    CODEC_F32,
    CODEC_F64,
    CODEC_TEXT,   /* char[limit], NUL-terminated */
    CODEC_FLEET,  /* char[limit], a fleet id */
    CODEC_DEVICE, /* char[limit], a device id */
    CODEC_BYTES,  /* uint8_t[limit] */
    CODEC_BLOB,   /* struct message_blob, at most limit bytes */
    CODEC_MAP,    /* an embedded struct of `table`, whose own fields hold no CODEC_MAP */
    CODEC_UNION,  /* a union of structs; the uint32_t at `count`, which has a smaller key, chooses
                   * among  the `limit` entries of `tables`; one that is NULL or beyond: skipped */
    CODEC_ROWS, /* an array in the struct of at most `limit` structs of `table`; uint32_t at `count`
                 */
    CODEC_LIST, /* the same, but a pointer to the caller's array, whose size is the uint32_t at
                   `most` */
    CODEC_NUMBERS, /* uint64_t[limit], ascending; uint32_t at `count` */
    CODEC_BLOBS, /* pointer to struct message_blob, `count`, `most`: items that are CBOR themselves
                  */
    CODEC_SKETCH /* struct sketch */
};

enum { CODEC_NEED = 1, CODEC_ALWAYS = 2, CODEC_NEST_MAX = 4 };

struct codec_field {
    uint8_t key;
    uint8_t kind;
    uint8_t flags; /* CODEC_NEED: may not be absent; CODEC_ALWAYS: present even if zero */
    uint32_t at;   /* offset in the struct */
    uint32_t limit;
    uint32_t count; /* offset */
    uint32_t most;  /* offset */
    const struct codec_table *table;
    const struct codec_table *const *tables;
};

struct codec_table {
    const struct codec_field *field;
    uint32_t fields; /* at most 64 */
    uint32_t bytes;  /* of the struct */
};

/* One field: of a number; of text or bytes as long as the member; of anything else by designators.
 */
#define CODEC_SIZE(type, member) sizeof(((type *)0)->member)
#define CODEC_NUMBER(key_, kind_, type, member, flags_, limit_)                                    \
    {                                                                                              \
        .key = (key_), .kind = (kind_), .flags = (flags_), .at = offsetof(type, member),           \
        .limit = (limit_)                                                                          \
    }
#define CODEC_STRING(key_, kind_, type, member, flags_)                                            \
    CODEC_NUMBER(key_, kind_, type, member, flags_, CODEC_SIZE(type, member))
#define CODEC_STRUCT(key_, type, member, table_)                                                   \
    {                                                                                              \
        .key = (key_), .kind = CODEC_MAP, .at = offsetof(type, member), .table = (table_)          \
    }
#define CODEC_ARRAY(key_, kind_, type, member, count_, limit_, table_)                             \
    {                                                                                              \
        .key = (key_), .kind = (kind_), .at = offsetof(type, member), .limit = (limit_),           \
        .count = offsetof(type, count_), .table = (table_)                                         \
    }
#define CODEC_TABLE(type, fields_)                                                                 \
    {                                                                                              \
        .field = (fields_), .fields = sizeof(fields_) / sizeof(fields_)[0], .bytes = sizeof(type)  \
    }

/* Errors as message.h says. */
NODISCARD enum err codec_encode(const struct codec_table *table, const void *from, uint8_t *out,
                                size_t capacity, size_t *size);
NODISCARD enum err codec_decode(const struct codec_table *table, const uint8_t *bytes, size_t size,
                                void *to);
/* Is there a field with this key? */
bool codec_knows(const struct codec_table *table, uint64_t key);

struct cbor_reader;
struct cbor_writer;
struct sketch;
void codec_write_sketch(struct cbor_writer *w, const struct sketch *s);
NODISCARD enum err codec_read_sketch(struct cbor_reader *r, struct sketch *s);

#endif
