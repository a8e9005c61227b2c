/* message_job.c: job state reports. */
#include "protocol/message.h"

#include <string.h>

#include "protocol/codec.h"
#include "protocol/job.h"

#define T struct message_measured
static const struct codec_field measured_fields[] = {
    CODEC_NUMBER(1, CODEC_F32, T, ppl, 0, 0),
    CODEC_NUMBER(2, CODEC_F32, T, ppl_base, 0, 0),
    CODEC_NUMBER(3, CODEC_F32, T, dppl_percent, 0, 0),
    CODEC_NUMBER(4, CODEC_F32, T, kld_mean, 0, 0),
    CODEC_NUMBER(5, CODEC_F32, T, kld_99, 0, 0),
    CODEC_NUMBER(6, CODEC_F32, T, kld_max, 0, 0),
    CODEC_NUMBER(7, CODEC_F32, T, top1_percent, 0, 0),
    CODEC_NUMBER(8, CODEC_F32, T, decode_tok_s, 0, 0),
    CODEC_NUMBER(9, CODEC_F32, T, prefill_tok_s, 0, 0),
    CODEC_NUMBER(10, CODEC_U64, T, rss_bytes, 0, 0),
    CODEC_NUMBER(11, CODEC_F32, T, bits_per_weight, 0, 0),
    CODEC_NUMBER(12, CODEC_U64, T, variant_bytes, 0, 0),
    CODEC_NUMBER(13, CODEC_F32, T, derive_s, 0, 0),
    CODEC_NUMBER(14, CODEC_F32, T, energy_j, 0, 0),
};
static const struct codec_table measured_table = CODEC_TABLE(T, measured_fields);
#undef T

#define T struct message_job
static const struct codec_field job_fields[] = {
    CODEC_NUMBER(1, CODEC_U64, T, epoch, CODEC_NEED, 0),
    CODEC_NUMBER(2, CODEC_U64, T, seq, CODEC_NEED, 0),
    CODEC_STRING(3, CODEC_BYTES, T, plan_id, 0),
    CODEC_NUMBER(4, CODEC_U64, T, plan_version, 0, 0),
    CODEC_NUMBER(5, CODEC_U32, T, state, CODEC_ALWAYS, JOB_STATES - 1),
    CODEC_NUMBER(6, CODEC_U32, T, attempt, 0, 0),
    CODEC_NUMBER(7, CODEC_U32, T, code, 0, 0),
    CODEC_NUMBER(8, CODEC_U32, T, err, 0, 0),
    CODEC_STRING(9, CODEC_TEXT, T, reason, 0),
    CODEC_NUMBER(10, CODEC_U32, T, progress_ppm, 0, 1000000),
    CODEC_STRUCT(11, T, measured, &measured_table),
    CODEC_STRING(12, CODEC_BYTES, T, variant, 0),
    CODEC_STRING(13, CODEC_TEXT, T, plugin, 0),
    CODEC_NUMBER(14, CODEC_U64, T, time_ms, 0, 0),
};
static const struct codec_table job_table = CODEC_TABLE(T, job_fields);
#undef T

enum err message_job_encode(const struct message_job *m, uint8_t *out, size_t capacity,
                            size_t *size)
{
    return codec_encode(&job_table, m, out, capacity, size);
}

enum err message_job_decode(const uint8_t *bytes, size_t size, struct message_job *m)
{
    memset(m, 0, sizeof *m);
    return codec_decode(&job_table, bytes, size, m);
}
