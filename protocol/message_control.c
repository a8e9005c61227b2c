/* message_control.c: requests, answers, acks, commands. */
#include "protocol/message.h"

#include <string.h>

#include "protocol/codec.h"

#define T struct message_request
static const struct codec_field request_fields[] = {
    CODEC_NUMBER(1, CODEC_U32, T, ask, CODEC_NEED, 0),
    CODEC_NUMBER(2, CODEC_U64, T, epoch, 0, 0),
    CODEC_STRING(3, CODEC_BYTES, T, nonce, 0),
    CODEC_NUMBER(4, CODEC_U64, T, newest_plan, 0, 0),
};
static const struct codec_table request_table = CODEC_TABLE(T, request_fields);
#undef T

#define T struct message_answer
static const struct codec_field answer_fields[] = {
    CODEC_STRING(1, CODEC_BYTES, T, nonce, 0),
    CODEC_NUMBER(2, CODEC_U64, T, time_ms, 0, 0),
    CODEC_NUMBER(3, CODEC_U32, T, standing, CODEC_NEED, 0),
    CODEC_NUMBER(4, CODEC_U64, T, newest_plan, 0, 0),
};
static const struct codec_table answer_table = CODEC_TABLE(T, answer_fields);
#undef T

#define T struct message_ack
static const struct codec_field ack_fields[] = {
    CODEC_NUMBER(1, CODEC_U64, T, epoch, CODEC_NEED, 0),
    CODEC_NUMBER(2, CODEC_U64, T, seq[MESSAGE_STREAM_TEL], 0, 0),
    CODEC_NUMBER(3, CODEC_U64, T, seq[MESSAGE_STREAM_JOB], 0, 0),
    CODEC_NUMBER(4, CODEC_U64, T, seq[MESSAGE_STREAM_BENCH], 0, 0),
    CODEC_NUMBER(5, CODEC_U64, T, seq[MESSAGE_STREAM_CAL], 0, 0),
    CODEC_NUMBER(6, CODEC_U64, T, time_ms, 0, 0),
};
static const struct codec_table ack_table = CODEC_TABLE(T, ack_fields);
#undef T

#define T struct message_command
static const struct codec_field command_fields[] = {
    CODEC_STRING(1, CODEC_DEVICE, T, device, CODEC_NEED),
    CODEC_NUMBER(2, CODEC_U64, T, version, CODEC_NEED, 0),
    CODEC_NUMBER(3, CODEC_U32, T, verb, CODEC_NEED, 0),
    CODEC_STRING(4, CODEC_BYTES, T, plan_id, 0),
    CODEC_NUMBER(5, CODEC_U64, T, tokens, 0, 0),
    CODEC_NUMBER(6, CODEC_U64, T, not_after_ms, 0, 0),
    CODEC_NUMBER(7, CODEC_U64, T, id, 0, 0),
    CODEC_STRING(8, CODEC_TEXT, T, reason, 0),
};
static const struct codec_table command_table = CODEC_TABLE(T, command_fields);
#undef T

enum err message_request_encode(const struct message_request *m, uint8_t *out, size_t capacity,
                                size_t *size)
{
    return codec_encode(&request_table, m, out, capacity, size);
}

enum err message_request_decode(const uint8_t *bytes, size_t size, struct message_request *m)
{
    memset(m, 0, sizeof *m);
    return codec_decode(&request_table, bytes, size, m);
}

enum err message_answer_encode(const struct message_answer *m, uint8_t *out, size_t capacity,
                               size_t *size)
{
    return codec_encode(&answer_table, m, out, capacity, size);
}

enum err message_answer_decode(const uint8_t *bytes, size_t size, struct message_answer *m)
{
    memset(m, 0, sizeof *m);
    return codec_decode(&answer_table, bytes, size, m);
}

enum err message_ack_encode(const struct message_ack *m, uint8_t *out, size_t capacity,
                            size_t *size)
{
    return codec_encode(&ack_table, m, out, capacity, size);
}

enum err message_ack_decode(const uint8_t *bytes, size_t size, struct message_ack *m)
{
    memset(m, 0, sizeof *m);
    return codec_decode(&ack_table, bytes, size, m);
}

enum err message_command_encode(const struct message_command *m, uint8_t *out, size_t capacity,
                                size_t *size)
{
    return codec_encode(&command_table, m, out, capacity, size);
}

enum err message_command_decode(const uint8_t *bytes, size_t size, struct message_command *m)
{
    memset(m, 0, sizeof *m);
    return codec_decode(&command_table, bytes, size, m);
}
