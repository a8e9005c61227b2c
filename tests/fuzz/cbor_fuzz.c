/* cbor_fuzz.c: whatever is accepted as deterministic CBOR re-encodes to the same bytes. */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "protocol/cbor.h"

/* Copies one item from reader to writer by its kind; containers are opened and closed by the
 * caller's loop, which sees them as levels of the reader. */
static enum err copy_item(struct cbor_reader *r, struct cbor_writer *w)
{
    const uint8_t *bytes;
    const char *text;
    size_t size;
    uint64_t u;
    int64_t i;
    double d;
    bool b;
    enum err e;
    switch (cbor_peek(r)) {
    case CBOR_KIND_UINT:
        if ((e = cbor_read_u64(r, &u)) == ERR_NONE)
            cbor_write_u64(w, u);
        return e;
    case CBOR_KIND_NINT:
        if ((e = cbor_read_i64(r, &i)) == ERR_NONE)
            cbor_write_i64(w, i);
        return e;
    case CBOR_KIND_BYTES:
        if ((e = cbor_read_bytes(r, &bytes, &size)) == ERR_NONE)
            cbor_write_bytes(w, bytes, size);
        return e;
    case CBOR_KIND_TEXT:
        if ((e = cbor_read_text(r, &text, &size)) == ERR_NONE)
            cbor_write_text(w, text, size);
        return e;
    case CBOR_KIND_ARRAY:
        if ((e = cbor_enter_array(r, &u)) == ERR_NONE)
            cbor_write_array(w, u);
        return e;
    case CBOR_KIND_MAP:
        if ((e = cbor_enter_map(r, &u)) == ERR_NONE)
            cbor_write_map(w, u);
        return e;
    case CBOR_KIND_BOOL:
        if ((e = cbor_read_bool(r, &b)) == ERR_NONE)
            cbor_write_bool(w, b);
        return e;
    case CBOR_KIND_NULL:
        if ((e = cbor_read_null(r)) == ERR_NONE)
            cbor_write_null(w);
        return e;
    case CBOR_KIND_FLOAT:
        if ((e = cbor_read_f64(r, &d)) == ERR_NONE)
            cbor_write_f64(w, d);
        return e;
    default: return ERR_FORMAT;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (cbor_check(bytes, size) != ERR_NONE || (size && bytes[0] == 0xd2))
        return 0;
    struct cbor_reader r;
    struct cbor_writer w;
    uint8_t *copy = malloc(size + 1);
    HOLDS(copy != NULL);
    cbor_reader_init(&r, bytes, size);
    cbor_writer_init(&w, copy, size);
    int is_readable = 1;
    do {
        struct cbor_level *level = r.depth ? &r.level[r.depth - 1] : NULL;
        int64_t key;
        if (level && level->is_map && !level->is_value) {
            enum err e = cbor_next_key(&r, &key);
            HOLDS(e == ERR_NONE || e == ERR_NOT_FOUND);
            if (e == ERR_NONE)
                cbor_write_key(&w, key);
        } else if (level && level->left == 0) {
            HOLDS(cbor_leave(&r) == ERR_NONE);
        } else if (copy_item(&r, &w) != ERR_NONE) {
            /* the check takes integers below -2^63, which have no C type: only they may fail here
             */
            HOLDS(cbor_peek(&r) == CBOR_KIND_NINT);
            is_readable = 0;
            break;
        }
    } while (r.depth);
    size_t written = 0;
    if (is_readable) {
        HOLDS(cbor_finish(&r) == ERR_NONE);
        HOLDS(cbor_written(&w, &written) == ERR_NONE);
        HOLDS(written == size && memcmp(copy, bytes, size) == 0);
    }
    free(copy);
    return 0;
}
