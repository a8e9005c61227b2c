/* message_samples.h: one full example of each message, and every codec behind one signature. */
#ifndef MESSAGE_SAMPLES_H
#define MESSAGE_SAMPLES_H

#include <stddef.h>
#include <stdint.h>

#include "protocol/message.h"

enum { SAMPLES = 12 };

/* Big enough for any message; decode uses the lists. */
struct message_sample {
    union {
        struct message_birth birth;
        struct message_death death;
        struct message_request request;
        struct message_answer answer;
        struct message_ack ack;
        struct message_command command;
        struct message_plan plan;
        struct message_job job;
        struct message_record record;
        struct message_batch batch;
        struct message_benchmark benchmark;
        struct message_result result;
        struct message_sums sums;
    } as;
    struct message_tensor tensor[MESSAGE_TENSORS_MAX];
    struct message_blob record[MESSAGE_RECORDS_MAX];
    uint8_t room[4096]; /* what the blobs of a made sample point to */
};

extern const char *const sample_name[SAMPLES + 1];

/* Fill number 0 .. SAMPLES - 1, or SAMPLES: a telemetry record, whose kind is variant + 1. */
void sample_make(int which, unsigned variant, struct message_sample *out);
enum err sample_encode(int which, const struct message_sample *from, uint8_t *out, size_t capacity,
                       size_t *size);
enum err sample_decode(int which, const uint8_t *bytes, size_t size, struct message_sample *out);

#endif
