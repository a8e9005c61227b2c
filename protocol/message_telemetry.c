/* message_telemetry.c: telemetry records and batches of them. */
#include "protocol/message.h"

#include <string.h>

#include "protocol/codec.h"

/* The union `of` starts where its members do, so offsets are taken within it. */
#define T struct message_record
#define OF(member) (offsetof(T, of.member) - offsetof(T, of))
#define OF_NUMBER(key_, kind_, member)                                                             \
    {                                                                                              \
        .key = (key_), .kind = (kind_), .at = OF(member)                                           \
    }
#define OF_TEXT(key_, member)                                                                      \
    {                                                                                              \
        .key = (key_), .kind = CODEC_TEXT, .at = OF(member), .limit = CODEC_SIZE(T, of.member)     \
    }
#define OF_TABLE(fields_)                                                                          \
    {                                                                                              \
        .field = (fields_), .fields = sizeof(fields_) / sizeof(fields_)[0],                        \
        .bytes = CODEC_SIZE(T, of)                                                                 \
    }

static const struct codec_field sketch_fields[] = {
    OF_NUMBER(1, CODEC_U32, sketch.metric),
    OF_NUMBER(2, CODEC_SKETCH, sketch.sketch),
};
static const struct codec_field memory_fields[] = {
    OF_NUMBER(1, CODEC_U64, memory.rss_bytes),
    OF_NUMBER(2, CODEC_U64, memory.available_bytes),
    OF_NUMBER(3, CODEC_U64, memory.cache_bytes),
};
static const struct codec_field heat_fields[] = {
    OF_NUMBER(1, CODEC_U32, heat.sensor),
    OF_NUMBER(2, CODEC_I64, heat.millicelsius),
    OF_NUMBER(3, CODEC_U64, heat.throttled_ms),
};
static const struct codec_field energy_fields[] = {
    OF_NUMBER(1, CODEC_U64, energy.millijoules),
    OF_NUMBER(2, CODEC_U64, energy.window_ms),
    OF_NUMBER(3, CODEC_U64, energy.tokens),
};
static const struct codec_field shadow_fields[] = {
    OF_NUMBER(1, CODEC_U64, shadow.tokens),   OF_NUMBER(2, CODEC_F64, shadow.kld_sum),
    OF_NUMBER(3, CODEC_F64, shadow.kld_most), OF_NUMBER(4, CODEC_U64, shadow.top1_same),
    OF_NUMBER(5, CODEC_U64, shadow.requests),
};
static const struct codec_field error_fields[] = {
    OF_NUMBER(1, CODEC_U32, error.err),
    OF_NUMBER(2, CODEC_U64, error.count),
    OF_TEXT(3, error.text),
};
static const struct codec_field lost_fields[] = {
    OF_NUMBER(1, CODEC_U64, lost.from),
    OF_NUMBER(2, CODEC_U64, lost.to),
};
static const struct codec_field event_fields[] = {
    OF_TEXT(1, event.name),
    OF_TEXT(2, event.text),
    OF_NUMBER(3, CODEC_U64, event.value),
};
static const struct codec_table sketch_table = OF_TABLE(sketch_fields);
static const struct codec_table memory_table = OF_TABLE(memory_fields);
static const struct codec_table heat_table = OF_TABLE(heat_fields);
static const struct codec_table energy_table = OF_TABLE(energy_fields);
static const struct codec_table shadow_table = OF_TABLE(shadow_fields);
static const struct codec_table error_table = OF_TABLE(error_fields);
static const struct codec_table lost_table = OF_TABLE(lost_fields);
static const struct codec_table event_table = OF_TABLE(event_fields);
static const struct codec_table *const kind_tables[] = {
    [MESSAGE_RECORD_SKETCH] = &sketch_table, [MESSAGE_RECORD_MEMORY] = &memory_table,
    [MESSAGE_RECORD_HEAT] = &heat_table,     [MESSAGE_RECORD_ENERGY] = &energy_table,
    [MESSAGE_RECORD_SHADOW] = &shadow_table, [MESSAGE_RECORD_ERROR] = &error_table,
    [MESSAGE_RECORD_LOST] = &lost_table,     [MESSAGE_RECORD_EVENT] = &event_table,
};

static const struct codec_field record_fields[] = {
    CODEC_NUMBER(1, CODEC_U32, T, kind, CODEC_NEED, 0),
    CODEC_NUMBER(2, CODEC_U64, T, time_ms, 0, 0),
    CODEC_STRING(3, CODEC_BYTES, T, variant, 0),
    {.key = 4,
     .kind = CODEC_UNION,
     .at = offsetof(T, of),
     .count = offsetof(T, kind),
     .limit = sizeof kind_tables / sizeof kind_tables[0],
     .tables = kind_tables},
};
static const struct codec_table record_table = CODEC_TABLE(T, record_fields);
#undef T

#define T struct message_batch
static const struct codec_field batch_fields[] = {
    CODEC_NUMBER(1, CODEC_U64, T, epoch, CODEC_NEED, 0),
    CODEC_NUMBER(2, CODEC_U64, T, first, CODEC_NEED, 0),
    {.key = 3,
     .kind = CODEC_BLOBS,
     .flags = CODEC_NEED,
     .at = offsetof(T, record),
     .limit = MESSAGE_RECORDS_MAX,
     .count = offsetof(T, records),
     .most = offsetof(T, records_max)},
};
static const struct codec_table batch_table = CODEC_TABLE(T, batch_fields);
#undef T

enum err message_record_encode(const struct message_record *m, uint8_t *out, size_t capacity,
                               size_t *size)
{
    return codec_encode(&record_table, m, out, capacity, size);
}

enum err message_record_decode(const uint8_t *bytes, size_t size, struct message_record *m)
{
    memset(m, 0, sizeof *m);
    enum err e = codec_decode(&record_table, bytes, size, m);
    if (e == ERR_NONE && m->kind == MESSAGE_RECORD_LOST && m->of.lost.from > m->of.lost.to)
        return ERR_FORMAT;
    return e;
}

enum err message_batch_encode(const struct message_batch *m, uint8_t *out, size_t capacity,
                              size_t *size)
{
    if (m->records > UINT64_MAX - m->first)
        return ERR_ARGUMENT;
    return codec_encode(&batch_table, m, out, capacity, size);
}

enum err message_batch_decode(const uint8_t *bytes, size_t size, struct message_batch *m)
{
    struct message_blob *record = m->record;
    uint32_t records_max = record ? m->records_max : 0;
    memset(m, 0, sizeof *m);
    m->record = record;
    m->records_max = records_max;
    enum err e = codec_decode(&batch_table, bytes, size, m);
    return e == ERR_NONE && m->records > UINT64_MAX - m->first ? ERR_FORMAT : e;
}
