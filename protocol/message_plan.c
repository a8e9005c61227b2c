/* message_plan.c: the plan: what a director tells one device to make of one base. */
#include "protocol/message.h"

#include <string.h>

#include "protocol/codec.h"

#define T struct message_artifact
static const struct codec_field artifact_fields[] = {
    CODEC_STRING(1, CODEC_BYTES, T, digest, CODEC_NEED),
    CODEC_NUMBER(2, CODEC_U64, T, bytes, 0, 0),
    CODEC_STRING(3, CODEC_TEXT, T, url, 0),
};
static const struct codec_table artifact_table = CODEC_TABLE(T, artifact_fields);
#undef T

#define T struct message_constraint
static const struct codec_field constraint_fields[] = {
    CODEC_STRING(1, CODEC_TEXT, T, name, 0),
    CODEC_NUMBER(2, CODEC_U32, T, abi, 0, 0),
    CODEC_STRING(3, CODEC_BYTES, T, digest, 0),
};
static const struct codec_table constraint_table = CODEC_TABLE(T, constraint_fields);
#undef T

#define T struct message_tensor
static const struct codec_field tensor_fields[] = {
    CODEC_STRING(1, CODEC_TEXT, T, name, CODEC_NEED),
    CODEC_NUMBER(2, CODEC_U32, T, type, CODEC_ALWAYS, 0),
    CODEC_NUMBER(3, CODEC_U32, T, method, 0, 0),
};
static const struct codec_table tensor_table = CODEC_TABLE(T, tensor_fields);
#undef T

#define T struct message_gates
static const struct codec_field gates_fields[] = {
    CODEC_NUMBER(1, CODEC_F32, T, dppl_percent, 0, 0),
    CODEC_NUMBER(2, CODEC_F32, T, kld_mean, 0, 0),
    CODEC_NUMBER(3, CODEC_F32, T, top1_percent, 0, 0),
    CODEC_NUMBER(4, CODEC_F32, T, decode_tok_s, 0, 0),
    CODEC_NUMBER(5, CODEC_F32, T, prefill_tok_s, 0, 0),
    CODEC_NUMBER(6, CODEC_U64, T, rss_bytes, 0, 0),
};
static const struct codec_table gates_table = CODEC_TABLE(T, gates_fields);
#undef T

#define T struct message_watch
static const struct codec_field watch_fields[] = {
    CODEC_NUMBER(1, CODEC_U32, T, batch_s, 0, 0),
    CODEC_NUMBER(2, CODEC_U32, T, shadow_every, 0, 0),
    CODEC_NUMBER(3, CODEC_U64, T, calibrate_tokens, 0, 0),
};
static const struct codec_table watch_table = CODEC_TABLE(T, watch_fields);
#undef T

#define T struct message_plan
static const struct codec_field plan_fields[] = {
    CODEC_NUMBER(1, CODEC_U32, T, schema, CODEC_NEED, 0),
    CODEC_ARRAY(2, CODEC_NUMBERS, T, critical, criticals, MESSAGE_CRITICAL_MAX, NULL),
    CODEC_STRING(3, CODEC_FLEET, T, fleet, CODEC_NEED),
    CODEC_STRING(4, CODEC_DEVICE, T, device, CODEC_NEED),
    CODEC_STRING(5, CODEC_BYTES, T, plan_id, CODEC_NEED),
    CODEC_NUMBER(6, CODEC_U64, T, version, CODEC_NEED, 0),
    CODEC_NUMBER(7, CODEC_U64, T, rollout, 0, 0),
    CODEC_NUMBER(8, CODEC_U32, T, stage, 0, 0),
    CODEC_NUMBER(9, CODEC_U64, T, not_before_ms, 0, 0),
    CODEC_NUMBER(10, CODEC_U64, T, not_after_ms, 0, 0),
    CODEC_NUMBER(11, CODEC_U32, T, min_agent, 0, 0),
    CODEC_STRING(12, CODEC_BYTES, T, nonce, 0),
    CODEC_STRING(13, CODEC_BYTES, T, recipe, 0),
    CODEC_STRUCT(14, T, base, &artifact_table),
    CODEC_STRUCT(15, T, profile, &artifact_table),
    CODEC_STRUCT(16, T, text, &artifact_table),
    CODEC_STRUCT(17, T, plugin, &constraint_table),
    CODEC_NUMBER(18, CODEC_U32, T, method, 0, 0),
    {.key = 19,
     .kind = CODEC_LIST,
     .at = offsetof(T, tensor),
     .limit = MESSAGE_TENSORS_MAX,
     .count = offsetof(T, tensors),
     .most = offsetof(T, tensors_max),
     .table = &tensor_table},
    CODEC_STRUCT(20, T, gates, &gates_table),
    CODEC_STRING(21, CODEC_BYTES, T, variant, 0),
    CODEC_NUMBER(22, CODEC_U64, T, variant_bytes, 0, 0),
    CODEC_NUMBER(23, CODEC_U32, T, trial_s, 0, 0),
    CODEC_NUMBER(24, CODEC_U32, T, trial_requests, 0, 0),
    CODEC_STRUCT(25, T, watch, &watch_table),
    CODEC_NUMBER(26, CODEC_BLOB, T, derivation, 0, MESSAGE_MAX),
};
static const struct codec_table plan_table = CODEC_TABLE(T, plan_fields);
#undef T

enum err message_plan_encode(const struct message_plan *m, uint8_t *out, size_t capacity,
                             size_t *size)
{
    if (m->schema != MESSAGE_SCHEMA)
        return ERR_ARGUMENT;
    return codec_encode(&plan_table, m, out, capacity, size);
}

enum err message_plan_decode(const uint8_t *bytes, size_t size, struct message_plan *m)
{
    struct message_tensor *tensor = m->tensor;
    uint32_t tensors_max = tensor ? m->tensors_max : 0;
    memset(m, 0, sizeof *m);
    m->tensor = tensor;
    m->tensors_max = tensors_max;
    enum err e = codec_decode(&plan_table, bytes, size, m);
    if (e)
        return e;
    if (m->schema != MESSAGE_SCHEMA)
        return ERR_UNSUPPORTED;
    for (uint32_t i = 0; i < m->criticals; i++)
        if (!codec_knows(&plan_table, m->critical[i]))
            return ERR_UNSUPPORTED;
    return ERR_NONE;
}
