/* message_sums.c: calibration statistics: second moments of the inputs of linears. */
#include "protocol/message.h"

#include <math.h>
#include <string.h>

#include "protocol/codec.h"

#define T struct message_sum
static const struct codec_field sum_fields[] = {
    CODEC_STRING(1, CODEC_TEXT, T, name, CODEC_NEED),
    CODEC_NUMBER(2, CODEC_U32, T, channels, CODEC_NEED, 1 << 24),
    CODEC_NUMBER(3, CODEC_U32, T, offset, 0, 1 << 24),
    CODEC_NUMBER(4, CODEC_U64, T, rows, 0, 0),
    CODEC_NUMBER(5, CODEC_BLOB, T, squares, CODEC_NEED, MESSAGE_MAX),
};
static const struct codec_table sum_table = CODEC_TABLE(T, sum_fields);
#undef T

#define T struct message_sums
static const struct codec_field sums_fields[] = {
    CODEC_NUMBER(1, CODEC_U64, T, epoch, CODEC_NEED, 0),
    CODEC_NUMBER(2, CODEC_U64, T, seq, CODEC_NEED, 0),
    CODEC_NUMBER(3, CODEC_U64, T, window, CODEC_NEED, 0),
    CODEC_NUMBER(4, CODEC_U32, T, chunk, CODEC_NEED, 0),
    CODEC_NUMBER(5, CODEC_U32, T, chunks, CODEC_NEED, 0),
    CODEC_NUMBER(6, CODEC_U64, T, command, 0, 0),
    CODEC_STRING(7, CODEC_BYTES, T, base, 0),
    CODEC_STRING(8, CODEC_BYTES, T, variant, 0),
    CODEC_NUMBER(9, CODEC_U64, T, tokens, 0, 0),
    CODEC_NUMBER(10, CODEC_U64, T, from_ms, 0, 0),
    CODEC_NUMBER(11, CODEC_U64, T, to_ms, 0, 0),
    CODEC_ARRAY(12, CODEC_ROWS, T, sum, sums, MESSAGE_SUMS_MAX, &sum_table),
};
static const struct codec_table sums_table = CODEC_TABLE(T, sums_fields);
#undef T

float message_blob_f32(const struct message_blob *blob, uint32_t i)
{
    const uint8_t *p = blob->at + 4 * (size_t)i;
    uint32_t bits =
        (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Runs lie within their inputs, and sums of squares are finite and not negative: one hostile value
 * would spoil a whole cohort's profile. */
static bool is_sound(const struct message_sums *m)
{
    if (m->chunk > m->chunks)
        return false;
    for (uint32_t i = 0; i < m->sums; i++) {
        const struct message_sum *sum = &m->sum[i];
        size_t values = sum->squares.size / 4;
        if (sum->squares.size % 4 || values > sum->channels || sum->offset > sum->channels - values)
            return false;
        for (uint32_t k = 0; k < values; k++) {
            float value = message_blob_f32(&sum->squares, k);
            if (!(value >= 0.0f) || isinf(value))
                return false;
        }
    }
    return true;
}

enum err message_sums_encode(const struct message_sums *m, uint8_t *out, size_t capacity,
                             size_t *size)
{
    if (m->sums > MESSAGE_SUMS_MAX || !is_sound(m))
        return ERR_ARGUMENT;
    return codec_encode(&sums_table, m, out, capacity, size);
}

enum err message_sums_decode(const uint8_t *bytes, size_t size, struct message_sums *m)
{
    memset(m, 0, sizeof *m);
    enum err e = codec_decode(&sums_table, bytes, size, m);
    return e == ERR_NONE && !is_sound(m) ? ERR_FORMAT : e;
}
