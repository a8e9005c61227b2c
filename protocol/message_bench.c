/* message_bench.c: benchmark requests and results. */
#include "protocol/message.h"

#include <string.h>

#include "protocol/codec.h"

#define T struct message_benchmark
static const struct codec_field benchmark_fields[] = {
    CODEC_STRING(1, CODEC_DEVICE, T, device, CODEC_NEED),
    CODEC_STRING(2, CODEC_BYTES, T, id, CODEC_NEED),
    CODEC_NUMBER(3, CODEC_U64, T, version, CODEC_NEED, 0),
    CODEC_STRING(4, CODEC_BYTES, T, model, 0),
    CODEC_STRING(5, CODEC_TEXT, T, plugin, 0),
    CODEC_NUMBER(6, CODEC_U32, T, threads, 0, 1024),
    CODEC_NUMBER(7, CODEC_U32, T, prompt, 0, 1048576),
    CODEC_NUMBER(8, CODEC_U32, T, generate, 0, 1048576),
    CODEC_NUMBER(9, CODEC_U32, T, repetitions, 0, 1000),
    CODEC_NUMBER(10, CODEC_U64, T, not_after_ms, 0, 0),
};
static const struct codec_table benchmark_table = CODEC_TABLE(T, benchmark_fields);
#undef T

#define T struct message_row
static const struct codec_field row_fields[] = {
    CODEC_STRING(1, CODEC_TEXT, T, test, CODEC_NEED),
    CODEC_NUMBER(2, CODEC_U32, T, prompt, 0, 0),
    CODEC_NUMBER(3, CODEC_U32, T, generate, 0, 0),
    CODEC_NUMBER(4, CODEC_U32, T, threads, 0, 0),
    CODEC_STRING(5, CODEC_TEXT, T, plugin, 0),
    CODEC_STRING(6, CODEC_TEXT, T, path, 0),
    CODEC_NUMBER(7, CODEC_U32, T, repetitions, 0, 0),
    CODEC_NUMBER(8, CODEC_F32, T, tok_s, 0, 0),
    CODEC_NUMBER(9, CODEC_F32, T, tok_s_deviation, 0, 0),
    CODEC_NUMBER(10, CODEC_U64, T, rss_bytes, 0, 0),
    CODEC_NUMBER(11, CODEC_F32, T, energy_j, 0, 0),
};
static const struct codec_table row_table = CODEC_TABLE(T, row_fields);
#undef T

#define T struct message_result
static const struct codec_field result_fields[] = {
    CODEC_NUMBER(1, CODEC_U64, T, epoch, CODEC_NEED, 0),
    CODEC_NUMBER(2, CODEC_U64, T, seq, CODEC_NEED, 0),
    CODEC_STRING(3, CODEC_BYTES, T, id, 0),
    CODEC_STRING(4, CODEC_BYTES, T, model, 0),
    CODEC_STRING(5, CODEC_TEXT, T, model_text, 0),
    CODEC_NUMBER(6, CODEC_U64, T, model_bytes, 0, 0),
    CODEC_NUMBER(7, CODEC_U64, T, parameters, 0, 0),
    CODEC_NUMBER(8, CODEC_U32, T, err, 0, 0),
    CODEC_STRING(9, CODEC_TEXT, T, reason, 0),
    CODEC_ARRAY(10, CODEC_ROWS, T, row, rows, MESSAGE_ROWS_MAX, &row_table),
    CODEC_NUMBER(11, CODEC_U64, T, time_ms, 0, 0),
};
static const struct codec_table result_table = CODEC_TABLE(T, result_fields);
#undef T

enum err message_benchmark_encode(const struct message_benchmark *m, uint8_t *out, size_t capacity,
                                  size_t *size)
{
    return codec_encode(&benchmark_table, m, out, capacity, size);
}

enum err message_benchmark_decode(const uint8_t *bytes, size_t size, struct message_benchmark *m)
{
    memset(m, 0, sizeof *m);
    return codec_decode(&benchmark_table, bytes, size, m);
}

enum err message_result_encode(const struct message_result *m, uint8_t *out, size_t capacity,
                               size_t *size)
{
    return codec_encode(&result_table, m, out, capacity, size);
}

enum err message_result_decode(const uint8_t *bytes, size_t size, struct message_result *m)
{
    memset(m, 0, sizeof *m);
    return codec_decode(&result_table, bytes, size, m);
}
