/* message_birth.c: birth and death of an agent. */
#include "protocol/message.h"

#include <string.h>

#include "protocol/codec.h"
#include "protocol/job.h"

#define T struct message_probe
static const struct codec_field probe_fields[] = {
    CODEC_STRING(1, CODEC_TEXT, T, arch, 0),
    CODEC_STRING(2, CODEC_TEXT, T, cpu, 0),
    CODEC_STRING(3, CODEC_TEXT, T, features, 0),
    CODEC_NUMBER(4, CODEC_U32, T, cores, 0, 0),
    CODEC_NUMBER(5, CODEC_U64, T, memory_bytes, 0, 0),
    CODEC_NUMBER(6, CODEC_U64, T, disk_free_bytes, 0, 0),
    CODEC_NUMBER(7, CODEC_F32, T, read_gb_s, 0, 0),
    CODEC_NUMBER(8, CODEC_F32, T, int8_gops, 0, 0),
    CODEC_NUMBER(9, CODEC_BOOL, T, has_temperature, 0, 0),
    CODEC_NUMBER(10, CODEC_BOOL, T, has_energy, 0, 0),
};
static const struct codec_table probe_table = CODEC_TABLE(T, probe_fields);
#undef T

#define T struct message_plugin
static const struct codec_field plugin_fields[] = {
    CODEC_STRING(1, CODEC_TEXT, T, name, CODEC_NEED), CODEC_STRING(2, CODEC_TEXT, T, version, 0),
    CODEC_NUMBER(3, CODEC_U32, T, abi, 0, 0),         CODEC_NUMBER(4, CODEC_U32, T, score, 0, 0),
    CODEC_STRING(5, CODEC_TEXT, T, path, 0),          CODEC_STRING(6, CODEC_BYTES, T, digest, 0),
    CODEC_NUMBER(7, CODEC_BOOL, T, is_refused, 0, 0), CODEC_STRING(8, CODEC_TEXT, T, reason, 0),
};
static const struct codec_table plugin_table = CODEC_TABLE(T, plugin_fields);
#undef T

#define T struct message_slot
static const struct codec_field slot_fields[] = {
    CODEC_STRING(1, CODEC_BYTES, T, base, 0),
    CODEC_STRING(2, CODEC_BYTES, T, variant, 0),
    CODEC_STRING(3, CODEC_BYTES, T, plan_id, 0),
    CODEC_NUMBER(4, CODEC_U64, T, variant_bytes, 0, 0),
    CODEC_NUMBER(5, CODEC_BOOL, T, is_active, 0, 0),
};
static const struct codec_table slot_table = CODEC_TABLE(T, slot_fields);
#undef T

#define T struct message_birth
static const struct codec_field birth_fields[] = {
    CODEC_NUMBER(1, CODEC_U64, T, epoch, CODEC_NEED, 0),
    CODEC_STRING(2, CODEC_BYTES, T, public_key, CODEC_NEED),
    CODEC_STRING(3, CODEC_TEXT, T, agent_version, 0),
    CODEC_NUMBER(4, CODEC_U32, T, agent_number, 0, 0),
    CODEC_STRING(5, CODEC_TEXT, T, name, 0),
    CODEC_STRUCT(6, T, probe, &probe_table),
    CODEC_ARRAY(7, CODEC_ROWS, T, plugin, plugins, MESSAGE_PLUGINS_MAX, &plugin_table),
    CODEC_STRING(8, CODEC_TEXT, T, active_plugin, 0),
    CODEC_ARRAY(9, CODEC_ROWS, T, slot, slots, MESSAGE_SLOTS, &slot_table),
    CODEC_NUMBER(10, CODEC_U32, T, job_state, 0, JOB_STATES - 1),
    CODEC_STRING(11, CODEC_BYTES, T, job_plan_id, 0),
    CODEC_NUMBER(12, CODEC_U64, T, newest_plan, 0, 0),
    CODEC_NUMBER(13, CODEC_U64, T, time_ms, 0, 0),
};
static const struct codec_table birth_table = CODEC_TABLE(T, birth_fields);
#undef T

#define T struct message_death
static const struct codec_field death_fields[] = {
    CODEC_NUMBER(1, CODEC_U64, T, epoch, CODEC_NEED, 0),
    CODEC_STRING(2, CODEC_TEXT, T, reason, 0),
};
static const struct codec_table death_table = CODEC_TABLE(T, death_fields);
#undef T

enum err message_birth_encode(const struct message_birth *m, uint8_t *out, size_t capacity,
                              size_t *size)
{
    return codec_encode(&birth_table, m, out, capacity, size);
}

enum err message_birth_decode(const uint8_t *bytes, size_t size, struct message_birth *m)
{
    memset(m, 0, sizeof *m);
    return codec_decode(&birth_table, bytes, size, m);
}

enum err message_death_encode(const struct message_death *m, uint8_t *out, size_t capacity,
                              size_t *size)
{
    return codec_encode(&death_table, m, out, capacity, size);
}

enum err message_death_decode(const uint8_t *bytes, size_t size, struct message_death *m)
{
    memset(m, 0, sizeof *m);
    return codec_decode(&death_table, bytes, size, m);
}
