/* codec_sketch.c: a sketch as [sum, least, most, gap, n, gap, n, ...]: before each used bucket the
 * number of empty ones since the last. */
#include "protocol/codec.h"

#include "protocol/cbor.h"
#include "protocol/sketch.h"

enum { HEAD = 3 };

void codec_write_sketch(struct cbor_writer *w, const struct sketch *s)
{
    uint64_t used = 0, gap = 0;
    for (uint32_t i = 0; i < SKETCH_BUCKETS; i++)
        used += s->bucket[i] != 0;
    cbor_write_array(w, HEAD + 2 * used);
    cbor_write_u64(w, s->sum);
    cbor_write_u64(w, s->least);
    cbor_write_u64(w, s->most);
    for (uint32_t i = 0; i < SKETCH_BUCKETS; i++) {
        if (s->bucket[i] == 0) {
            gap++;
            continue;
        }
        cbor_write_u64(w, gap);
        cbor_write_u64(w, s->bucket[i]);
        gap = 0;
    }
}

enum err codec_read_sketch(struct cbor_reader *r, struct sketch *s)
{
    uint64_t items, gap, n;
    uint32_t next = 0, first = 0;
    enum err e;
    if ((e = cbor_enter_array(r, &items)) || (e = cbor_read_u64(r, &s->sum)) ||
        (e = cbor_read_u64(r, &s->least)) || (e = cbor_read_u64(r, &s->most)))
        return e;
    if (items < HEAD + 2 || (items - HEAD) % 2 != 0)
        return ERR_FORMAT;
    for (uint64_t i = HEAD; i < items; i += 2) {
        if ((e = cbor_read_u64(r, &gap)) || (e = cbor_read_u64(r, &n)))
            return e;
        if (gap >= SKETCH_BUCKETS - next || n == 0 || n > UINT64_MAX - s->count)
            return ERR_FORMAT;
        next += (uint32_t)gap;
        if (s->count == 0)
            first = next;
        s->bucket[next++] = n;
        s->count += n;
    }
    /* the ends must lie in the first and the last used bucket */
    if (s->least > s->most || sketch_bucket(s->least) != first ||
        sketch_bucket(s->most) != next - 1)
        return ERR_FORMAT;
    return cbor_leave(r);
}
