/* message_test.c tests protocol/message_*.c and the codec below them. */
#include "tests/harness.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/cbor.h"
#include "protocol/envelope.h"
#include "protocol/job.h"
#include "tests/protocol/message_samples.h"

static uint8_t bytes[MESSAGE_MAX], again[MESSAGE_MAX];
static struct message_sample made, read_back;

static void check_round_trip(int which, unsigned variant)
{
    size_t size = 0, n = 0;
    sample_make(which, variant, &made);
    CU_ASSERT_EQUAL(sample_encode(which, &made, bytes, sizeof bytes, &size), ERR_NONE);
    CU_ASSERT_EQUAL(cbor_check(bytes, size), ERR_NONE);
    memset(&read_back.as, 0xee, sizeof read_back.as); /* decode has to overwrite all of it */
    enum err e = sample_decode(which, bytes, size, &read_back);
    if (e)
        printf("[%s %u] ", sample_name[which], variant);
    CU_ASSERT_EQUAL(e, ERR_NONE);
    CU_ASSERT_EQUAL(sample_encode(which, &read_back, again, sizeof again, &n), ERR_NONE);
    CU_ASSERT_EQUAL(n, size);
    CU_ASSERT_EQUAL(memcmp(bytes, again, size), 0);
}

static void round_trips(void)
{
    for (int which = 0; which < SAMPLES; which++)
        check_round_trip(which, 0);
    for (unsigned variant = 0; variant < 18; variant++)
        check_round_trip(SAMPLES, variant);
    check_round_trip(6, 1); /* a plan with as many tensors as may be */
}

/* equal structs, where nothing in them is a pointer */
static void structs_come_back(void)
{
    static const struct {
        int which;
        size_t size;
    } plain[] = {{0, sizeof(struct message_birth)},   {1, sizeof(struct message_death)},
                 {2, sizeof(struct message_request)}, {3, sizeof(struct message_answer)},
                 {4, sizeof(struct message_ack)},     {5, sizeof(struct message_command)},
                 {7, sizeof(struct message_job)},     {9, sizeof(struct message_benchmark)},
                 {10, sizeof(struct message_result)}, {SAMPLES, sizeof(struct message_record)}};
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++) {
        size_t size = 0;
        sample_make(plain[i].which, 0, &made);
        CU_ASSERT_EQUAL(sample_encode(plain[i].which, &made, bytes, sizeof bytes, &size), ERR_NONE);
        CU_ASSERT_EQUAL(sample_decode(plain[i].which, bytes, size, &read_back), ERR_NONE);
        CU_ASSERT_EQUAL(memcmp(&made.as, &read_back.as, plain[i].size), 0);
    }
    size_t size = 0;
    sample_make(6, 0, &made);
    CU_ASSERT_EQUAL(sample_encode(6, &made, bytes, sizeof bytes, &size), ERR_NONE);
    CU_ASSERT_EQUAL(sample_decode(6, bytes, size, &read_back), ERR_NONE);
    CU_ASSERT_EQUAL(read_back.as.plan.tensors, 3);
    CU_ASSERT_EQUAL(memcmp(made.tensor, read_back.tensor, 3 * sizeof made.tensor[0]), 0);
    CU_ASSERT_STRING_EQUAL(read_back.as.plan.base.url, "/b/3c3d");
    CU_ASSERT_EQUAL(read_back.as.plan.gates.top1_percent, 90.25f);
    sample_make(11, 0, &made);
    CU_ASSERT_EQUAL(sample_encode(11, &made, bytes, sizeof bytes, &size), ERR_NONE);
    CU_ASSERT_EQUAL(sample_decode(11, bytes, size, &read_back), ERR_NONE);
    CU_ASSERT_EQUAL(message_blob_f32(&read_back.as.sums.sum[0].squares, 1), 1.5f);
}

/* Sizes that the design promises. */
static void fits_the_envelope(void)
{
    size_t size = 0;
    sample_make(6, 1, &made);
    CU_ASSERT_EQUAL(sample_encode(6, &made, bytes, sizeof bytes, &size), ERR_NONE);
    CU_ASSERT_TRUE(size <= MESSAGE_MAX);
    CU_ASSERT_EQUAL((int)MESSAGE_MAX, (int)ENVELOPE_PAYLOAD_MAX);
    sample_make(6, 0, &made);
    CU_ASSERT_EQUAL(sample_encode(6, &made, bytes, sizeof bytes, &size), ERR_NONE);
    CU_ASSERT_TRUE(size < 1024);
}

static void refuses_every_other_length(void)
{
    for (int which = 0; which <= SAMPLES; which++) {
        size_t size = 0;
        sample_make(which, 0, &made);
        CU_ASSERT_EQUAL(sample_encode(which, &made, bytes, sizeof bytes, &size), ERR_NONE);
        for (size_t n = 0; n < size; n++) {
            uint8_t *exact = malloc(n ? n : 1);
            CU_ASSERT_PTR_NOT_NULL_FATAL(exact);
            memcpy(exact, bytes, n);
            CU_ASSERT_EQUAL(sample_decode(which, exact, n, &read_back), ERR_FORMAT);
            free(exact);
            size_t unused;
            CU_ASSERT_EQUAL(sample_encode(which, &made, again, n, &unused), ERR_FULL);
        }
        bytes[size] = 0;
        CU_ASSERT_EQUAL(sample_decode(which, bytes, size + 1, &read_back), ERR_FORMAT);
    }
}

/* A flipped bit is refused, or gives another struct that encodes to those very bytes, or stands in
 * a field that was made unknown by it. */
static void flipped_bits_keep_the_property(void)
{
    for (int which = 0; which <= SAMPLES; which++) {
        size_t size = 0, n = 0;
        sample_make(which, 0, &made);
        CU_ASSERT_EQUAL(sample_encode(which, &made, bytes, sizeof bytes, &size), ERR_NONE);
        for (size_t i = 0; i < size * 8; i++) {
            bytes[i / 8] ^= (uint8_t)(1 << i % 8);
            if (sample_decode(which, bytes, size, &read_back) == ERR_NONE) {
                CU_ASSERT_EQUAL(sample_encode(which, &read_back, again, sizeof again, &n),
                                ERR_NONE);
                CU_ASSERT_TRUE(n < size || (n == size && memcmp(bytes, again, n) == 0));
            }
            bytes[i / 8] ^= (uint8_t)(1 << i % 8);
        }
    }
}

/* A map of one's own: {1: schema, ...} with an unknown key 99 at its end. */
static size_t plan_with_unknown(uint64_t critical)
{
    struct cbor_reader r;
    struct cbor_writer w;
    size_t size = 0;
    uint64_t pairs;
    sample_make(6, 0, &made);
    made.as.plan.criticals = critical != 0;
    made.as.plan.critical[0] = critical;
    CU_ASSERT_EQUAL(sample_encode(6, &made, bytes, sizeof bytes, &size), ERR_NONE);
    cbor_reader_init(&r, bytes, size);
    CU_ASSERT_EQUAL(cbor_enter_map(&r, &pairs), ERR_NONE);
    cbor_writer_init(&w, again, sizeof again);
    cbor_write_map(&w, pairs + 1);
    cbor_write_raw(&w, r.at, (size_t)(r.end - r.at));
    cbor_write_key(&w, 99);
    cbor_write_string(&w, "what tomorrow brings");
    CU_ASSERT_EQUAL(cbor_written(&w, &size), ERR_NONE);
    return size;
}

static void critical_fields(void)
{
    size_t size = plan_with_unknown(0);
    CU_ASSERT_EQUAL(sample_decode(6, again, size, &read_back), ERR_NONE); /* skipped */
    size = plan_with_unknown(19);
    CU_ASSERT_EQUAL(sample_decode(6, again, size, &read_back), ERR_NONE);
    size = plan_with_unknown(99);
    CU_ASSERT_EQUAL(sample_decode(6, again, size, &read_back), ERR_UNSUPPORTED);
    size = plan_with_unknown(UINT64_C(1) << 40);
    CU_ASSERT_EQUAL(sample_decode(6, again, size, &read_back), ERR_UNSUPPORTED);
}

static void refuses_bad_fields(void)
{
    size_t size = 0;
    sample_make(6, 0, &made);
    made.as.plan.version = 0;
    CU_ASSERT_EQUAL(sample_encode(6, &made, bytes, sizeof bytes, &size), ERR_ARGUMENT);
    sample_make(6, 0, &made);
    strcpy(made.as.plan.fleet, "No Such");
    CU_ASSERT_EQUAL(sample_encode(6, &made, bytes, sizeof bytes, &size), ERR_ARGUMENT);
    sample_make(6, 0, &made);
    strcpy(made.as.plan.device, "0123");
    CU_ASSERT_EQUAL(sample_encode(6, &made, bytes, sizeof bytes, &size), ERR_ARGUMENT);
    sample_make(6, 0, &made);
    made.as.plan.tensors = MESSAGE_TENSORS_MAX + 1;
    CU_ASSERT_EQUAL(sample_encode(6, &made, bytes, sizeof bytes, &size), ERR_ARGUMENT);
    sample_make(6, 0, &made);
    strcpy(made.tensor[1].name, "\xff");
    CU_ASSERT_EQUAL(sample_encode(6, &made, bytes, sizeof bytes, &size), ERR_ARGUMENT);
    sample_make(6, 0, &made);
    made.as.plan.critical[1] = 3; /* not ascending */
    CU_ASSERT_EQUAL(sample_encode(6, &made, bytes, sizeof bytes, &size), ERR_ARGUMENT);
    sample_make(7, 0, &made);
    made.as.job.state = JOB_STATES;
    CU_ASSERT_EQUAL(sample_encode(7, &made, bytes, sizeof bytes, &size), ERR_ARGUMENT);
    sample_make(7, 0, &made);
    memset(made.as.job.reason, 'x', sizeof made.as.job.reason); /* no NUL */
    CU_ASSERT_EQUAL(sample_encode(7, &made, bytes, sizeof bytes, &size), ERR_ARGUMENT);
    sample_make(7, 0, &made);
    made.as.job.measured.ppl = 1.0f / 0.0f;
    CU_ASSERT_EQUAL(sample_encode(7, &made, bytes, sizeof bytes, &size), ERR_ARGUMENT);
    /* one hostile value would spoil the merge of a cohort */
    static const float hostile[] = {-1.0f, 1.0f / 0.0f, 0.0f / 0.0f};
    for (size_t i = 0; i < 3; i++) {
        sample_make(11, 0, &made);
        memcpy(made.room + 4, &hostile[i], 4);
        CU_ASSERT_EQUAL(sample_encode(11, &made, bytes, sizeof bytes, &size), ERR_ARGUMENT);
    }
    sample_make(11, 0, &made);
    made.as.sums.sum[0].offset = 286; /* beyond the input's end */
    CU_ASSERT_EQUAL(sample_encode(11, &made, bytes, sizeof bytes, &size), ERR_ARGUMENT);
}

static void lists_are_bounded_by_the_caller(void)
{
    struct message_tensor two[2];
    struct message_plan plan = {.tensor = two, .tensors_max = 2};
    struct message_batch batch = {0};
    size_t size = 0;
    sample_make(6, 0, &made);
    CU_ASSERT_EQUAL(sample_encode(6, &made, bytes, sizeof bytes, &size), ERR_NONE);
    CU_ASSERT_EQUAL(message_plan_decode(bytes, size, &plan), ERR_FULL);
    sample_make(8, 0, &made);
    CU_ASSERT_EQUAL(sample_encode(8, &made, bytes, sizeof bytes, &size), ERR_NONE);
    CU_ASSERT_EQUAL(message_batch_decode(bytes, size, &batch), ERR_FULL);
}

static void batches_carry_records(void)
{
    size_t size = 0;
    sample_make(8, 1, &made);
    CU_ASSERT_EQUAL(sample_encode(8, &made, bytes, sizeof bytes, &size), ERR_NONE);
    CU_ASSERT_EQUAL(sample_decode(8, bytes, size, &read_back), ERR_NONE);
    CU_ASSERT_EQUAL(read_back.as.batch.records, 9);
    for (uint32_t i = 0; i < 9; i++) {
        struct message_record record;
        const struct message_blob *blob = &read_back.as.batch.record[i];
        CU_ASSERT_EQUAL(message_record_decode(blob->at, blob->size, &record), ERR_NONE);
        CU_ASSERT_EQUAL(record.kind, i + 1);
        if (record.kind == MESSAGE_RECORD_SKETCH) {
            CU_ASSERT_EQUAL(record.of.sketch.sketch.count, 300);
        }
    }
}

/* a sketch whose ends disagree with its buckets is a lie */
static void sketches_are_checked(void)
{
    struct message_record record;
    size_t size = 0;
    sample_make(SAMPLES, 0, &made);
    made.as.record.of.sketch.sketch.least += 1000;
    CU_ASSERT_EQUAL(sample_encode(SAMPLES, &made, bytes, sizeof bytes, &size), ERR_NONE);
    CU_ASSERT_EQUAL(message_record_decode(bytes, size, &record), ERR_FORMAT);
    sample_make(SAMPLES, 0, &made);
    made.as.record.of.sketch.sketch.most *= 8;
    CU_ASSERT_EQUAL(sample_encode(SAMPLES, &made, bytes, sizeof bytes, &size), ERR_NONE);
    CU_ASSERT_EQUAL(message_record_decode(bytes, size, &record), ERR_FORMAT);
}

RUN_SUITE("message", {"round_trips", round_trips}, {"structs_come_back", structs_come_back},
          {"fits_the_envelope", fits_the_envelope},
          {"refuses_every_other_length", refuses_every_other_length},
          {"flipped_bits_keep_the_property", flipped_bits_keep_the_property},
          {"critical_fields", critical_fields}, {"refuses_bad_fields", refuses_bad_fields},
          {"lists_are_bounded_by_the_caller", lists_are_bounded_by_the_caller},
          {"batches_carry_records", batches_carry_records},
          {"sketches_are_checked", sketches_are_checked})
