/* ingest_test.c: what is taken from devices, what is refused, and that nothing counts twice. */
#include "tests/controller/controller_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller/drift.h"
#include "protocol/hex.h"

static struct fixture f;
static struct fixture_device d, other;

static void open_all(void)
{
    fixture_open(&f);
    fixture_device(&d, 1);
    fixture_device(&other, 2);
}

static void enrols_an_unknown_device_as_pending(void)
{
    open_all();
    CU_ASSERT_EQUAL(fixture_birth(&f, &d, "gateway"), ERR_NONE);
    json_t *doc = fixture_doc(&f, REGISTRY_DEVICES, d.id);
    CU_ASSERT_PTR_NOT_NULL_FATAL(doc);
    CU_ASSERT_STRING_EQUAL(doc_text(doc, "status"), "pending");
    CU_ASSERT_STRING_EQUAL(doc_text(doc, "name"), "gateway");
    CU_ASSERT_TRUE(doc_bool(doc, "online"));
    json_decref(doc);
    CU_ASSERT_EQUAL(fixture_count(&f, REGISTRY_DECISIONS), 1);
    CU_ASSERT_EQUAL(fixture_birth(&f, &d, "gateway"), ERR_NONE); /* again: nothing new */
    CU_ASSERT_EQUAL(fixture_count(&f, REGISTRY_DECISIONS), 1);
    CU_ASSERT_EQUAL(fixture_batch(&f, &d, 1, 3), ERR_AUDIENCE); /* not yet part of the fleet */
    CU_ASSERT_EQUAL(fixture_count(&f, REGISTRY_TELEMETRY), 0);
    CU_ASSERT_EQUAL(fixture_acked(&f, &d, MESSAGE_STREAM_TEL), 0);
    fixture_close(&f);
}

static void refuses_what_is_not_signed_by_the_device(void)
{
    static uint8_t bytes[4096];
    uint8_t payload[64];
    size_t size = 0, n = 0;
    char topic[TOPIC_MAX];
    struct message_request m = {.ask = MESSAGE_ASK_PLAN, .epoch = 1, .nonce = {1}};
    open_all();
    CU_ASSERT_EQUAL(fixture_birth(&f, &d, "a"), ERR_NONE);
    CU_ASSERT_EQUAL(fixture_birth(&f, &other, "b"), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(message_request_encode(&m, payload, sizeof payload, &n), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(envelope_sign(d.keys.secret_key, FIXTURE_FLEET, ENVELOPE_DEVICE, MESSAGE_REQUEST,
                                        payload, n, bytes, sizeof bytes, &size),
                          ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(topic_encode(FIXTURE_FLEET, d.id, TOPIC_UP_REQ, topic), ERR_NONE);
    CU_ASSERT_EQUAL(fixture_raw(&f, topic, false, bytes, size), ERR_NONE);
    for (size_t i = 0; i < size * 8; i++) { /* every flipped bit */
        bytes[i / 8] ^= (uint8_t)(1u << i % 8);
        CU_ASSERT_NOT_EQUAL(fixture_raw(&f, topic, false, bytes, size), ERR_NONE);
        bytes[i / 8] ^= (uint8_t)(1u << i % 8);
    }
    for (size_t i = 0; i < size; i++) /* every cut; an empty one is a cleared retained message */
        CU_ASSERT_NOT_EQUAL(fixture_raw(&f, topic, false, bytes, i), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(topic_encode(FIXTURE_FLEET, other.id, TOPIC_UP_REQ, topic), ERR_NONE);
    CU_ASSERT_EQUAL(fixture_raw(&f, topic, false, bytes, size), ERR_SIGNATURE); /* another's topic */
    CU_ASSERT_EQUAL_FATAL(topic_encode("elsewhere", d.id, TOPIC_UP_REQ, topic), ERR_NONE);
    CU_ASSERT_EQUAL(fixture_raw(&f, topic, false, bytes, size), ERR_AUDIENCE); /* another fleet's */
    CU_ASSERT_EQUAL_FATAL(topic_encode(FIXTURE_FLEET, d.id, TOPIC_UP_TEL, topic), ERR_NONE);
    CU_ASSERT_EQUAL(fixture_raw(&f, topic, false, bytes, size), ERR_AUDIENCE); /* another type */
    CU_ASSERT_EQUAL_FATAL(topic_encode(FIXTURE_FLEET, d.id, TOPIC_DN_PLAN, topic), ERR_NONE);
    CU_ASSERT_EQUAL(fixture_raw(&f, topic, false, bytes, size), ERR_AUDIENCE); /* downwards */
    CU_ASSERT_EQUAL(envelope_sign(d.keys.secret_key, "elsewhere", ENVELOPE_DEVICE, MESSAGE_REQUEST, payload,
                                  n, bytes, sizeof bytes, &size),
                    ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(topic_encode(FIXTURE_FLEET, d.id, TOPIC_UP_REQ, topic), ERR_NONE);
    CU_ASSERT_EQUAL(fixture_raw(&f, topic, false, bytes, size), ERR_AUDIENCE); /* signed for another */
    fixture_close(&f);
}

static void refuses_a_birth_under_another_id(void)
{
    open_all();
    char keep[KEYS_ID_HEX];
    memcpy(keep, d.id, sizeof keep);
    memcpy(d.id, other.id, sizeof keep); /* right signature, but the topic is the hash of another key */
    CU_ASSERT_EQUAL(fixture_birth(&f, &d, "thief"), ERR_AUDIENCE);
    CU_ASSERT_EQUAL(fixture_count(&f, REGISTRY_DEVICES), 0);
    memcpy(d.id, keep, sizeof keep);
    d.epoch = 5;
    CU_ASSERT_EQUAL(fixture_birth(&f, &d, "a"), ERR_NONE);
    d.epoch = 4;
    CU_ASSERT_EQUAL(fixture_birth(&f, &d, "a"), ERR_STALE); /* a replay of an earlier life */
    fixture_close(&f);
}

static void counts_each_record_once(void)
{
    open_all();
    CU_ASSERT_EQUAL(fixture_birth(&f, &d, "a"), ERR_NONE);
    fixture_approve(&f, &d);
    CU_ASSERT_EQUAL(fixture_batch(&f, &d, 1, 10), ERR_NONE);
    CU_ASSERT_EQUAL(fixture_acked(&f, &d, MESSAGE_STREAM_TEL), 10);
    CU_ASSERT_EQUAL(fixture_batch(&f, &d, 1, 10), ERR_STALE);
    CU_ASSERT_EQUAL(fixture_acked(&f, &d, MESSAGE_STREAM_TEL), 10); /* told again */
    CU_ASSERT_EQUAL(fixture_batch(&f, &d, 5, 10), ERR_NONE);        /* cut anew by the device */
    CU_ASSERT_EQUAL(fixture_count(&f, REGISTRY_TELEMETRY), 14);
    CU_ASSERT_EQUAL(fixture_acked(&f, &d, MESSAGE_STREAM_TEL), 14);
    CU_ASSERT_EQUAL(fixture_batch(&f, &d, 21, 5), ERR_NONE); /* ahead of a gap: kept, not acknowledged */
    CU_ASSERT_EQUAL(fixture_acked(&f, &d, MESSAGE_STREAM_TEL), 14);
    fixture_reopen(&f);
    CU_ASSERT_EQUAL(fixture_batch(&f, &d, 21, 5), ERR_STALE);
    CU_ASSERT_EQUAL(fixture_batch(&f, &d, 15, 6), ERR_NONE); /* the gap is filled */
    CU_ASSERT_EQUAL(fixture_acked(&f, &d, MESSAGE_STREAM_TEL), 25);
    CU_ASSERT_EQUAL(fixture_count(&f, REGISTRY_TELEMETRY), 25);
    d.epoch = 2; /* another outbox: its numbers begin anew */
    CU_ASSERT_EQUAL(fixture_batch(&f, &d, 1, 5), ERR_NONE);
    CU_ASSERT_EQUAL(fixture_count(&f, REGISTRY_TELEMETRY), 30);
    char key[64];
    snprintf(key, sizeof key, "tel/%s", d.id);
    json_t *doc = fixture_doc(&f, REGISTRY_META, key);
    CU_ASSERT_EQUAL(doc_int(doc, "received"), 30);
    json_decref(doc);
    fixture_close(&f);
}

static void gives_up_a_gap_only_after_long(void)
{
    open_all();
    CU_ASSERT_EQUAL(fixture_birth(&f, &d, "a"), ERR_NONE);
    fixture_approve(&f, &d);
    CU_ASSERT_EQUAL(fixture_batch(&f, &d, 11, 5), ERR_NONE); /* a registry that was lost meets this */
    for (int i = 0; i < 10; i++)
        CU_ASSERT_EQUAL(fixture_batch(&f, &d, 11, 5), ERR_STALE);
    CU_ASSERT_EQUAL(fixture_acked(&f, &d, MESSAGE_STREAM_TEL), 0);
    f.now_ms += 601000;
    CU_ASSERT_EQUAL(fixture_batch(&f, &d, 11, 5), ERR_STALE);
    CU_ASSERT_EQUAL(fixture_acked(&f, &d, MESSAGE_STREAM_TEL), 15);
    CU_ASSERT_EQUAL(fixture_count(&f, REGISTRY_DECISIONS), 2); /* enrolment, and the known loss */
    fixture_close(&f);
}

static void keeps_the_newest_of_its_quota(void)
{
    open_all();
    CU_ASSERT_EQUAL(fixture_birth(&f, &d, "a"), ERR_NONE);
    fixture_approve(&f, &d);
    for (uint64_t first = 1; first < 1000; first += 50)
        CU_ASSERT_EQUAL(fixture_batch(&f, &d, first, 50), ERR_NONE);
    CU_ASSERT_EQUAL(fixture_count(&f, REGISTRY_TELEMETRY), 500);
    CU_ASSERT_EQUAL(fixture_acked(&f, &d, MESSAGE_STREAM_TEL), 1000);
    CU_ASSERT_EQUAL(fixture_batch(&f, &d, 1, 50), ERR_STALE); /* dropped, and still not new */
    fixture_close(&f);
}

static uint32_t standing(const struct fixture_device *x, uint64_t *newest)
{
    uint8_t payload[64];
    size_t size = 0;
    struct envelope envelope;
    struct message_answer answer = {0};
    struct message_request m = {.ask = MESSAGE_ASK_PLAN, .epoch = 1, .nonce = {9, 8, 7}};
    fixture_forget(&f);
    CU_ASSERT_EQUAL_FATAL(message_request_encode(&m, payload, sizeof payload, &size), ERR_NONE);
    CU_ASSERT_EQUAL(fixture_say(&f, x, TOPIC_UP_REQ, MESSAGE_REQUEST, payload, size), ERR_NONE);
    CU_ASSERT_TRUE_FATAL(fixture_post(&f, x->id, TOPIC_DN_RSP, MESSAGE_ANSWER, &envelope));
    CU_ASSERT_EQUAL_FATAL(message_answer_decode(envelope.payload, envelope.payload_bytes, &answer),
                          ERR_NONE);
    CU_ASSERT_EQUAL(memcmp(answer.nonce, m.nonce, sizeof m.nonce), 0);
    *newest = answer.newest_plan;
    return answer.standing;
}

static void says_where_a_device_stands(void)
{
    uint64_t newest = 0;
    open_all();
    CU_ASSERT_EQUAL(fixture_birth(&f, &d, "a"), ERR_NONE);
    CU_ASSERT_EQUAL(standing(&d, &newest), MESSAGE_PENDING);
    fixture_approve(&f, &d);
    CU_ASSERT_EQUAL(standing(&d, &newest), MESSAGE_APPROVED);
    CU_ASSERT_EQUAL(newest, 0);
    struct registry_txn *t = NULL;
    json_t *doc = fixture_doc(&f, REGISTRY_DEVICES, d.id);
    doc_set_text(doc, "status", "revoked");
    CU_ASSERT_EQUAL_FATAL(registry_begin(f.c->registry, true, &t), ERR_NONE);
    CU_ASSERT_EQUAL(registry_put_doc(t, REGISTRY_DEVICES, d.id, doc), ERR_NONE);
    CU_ASSERT_EQUAL(registry_commit(t), ERR_NONE);
    json_decref(doc);
    CU_ASSERT_EQUAL(standing(&d, &newest), MESSAGE_FORBIDDEN);
    CU_ASSERT_EQUAL(fixture_batch(&f, &d, 1, 3), ERR_AUDIENCE);
    CU_ASSERT_EQUAL(fixture_birth(&f, &d, "a"), ERR_NONE); /* does not heal it */
    CU_ASSERT_EQUAL(standing(&d, &newest), MESSAGE_FORBIDDEN);
    fixture_close(&f);
}

static void tells_the_dead_from_the_living(void)
{
    static uint8_t bytes[2048];
    uint8_t payload[64];
    size_t size = 0, n = 0;
    char topic[TOPIC_MAX];
    struct message_death m = {.epoch = 1};
    open_all();
    CU_ASSERT_EQUAL(fixture_birth(&f, &d, "a"), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(message_death_encode(&m, payload, sizeof payload, &n), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(envelope_sign(d.keys.secret_key, FIXTURE_FLEET, ENVELOPE_DEVICE, MESSAGE_DEATH,
                                        payload, n, bytes, sizeof bytes, &size),
                          ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(topic_encode(FIXTURE_FLEET, d.id, TOPIC_UP_DEATH, topic), ERR_NONE);
    CU_ASSERT_EQUAL(fixture_raw(&f, topic, true, bytes, size), ERR_NONE);
    json_t *doc = fixture_doc(&f, REGISTRY_DEVICES, d.id);
    CU_ASSERT_FALSE(doc_bool(doc, "online"));
    json_decref(doc);
    d.epoch = 2;
    CU_ASSERT_EQUAL(fixture_birth(&f, &d, "a"), ERR_NONE);
    CU_ASSERT_EQUAL(fixture_raw(&f, topic, true, bytes, size), ERR_STALE); /* the will of epoch 1 */
    doc = fixture_doc(&f, REGISTRY_DEVICES, d.id);
    CU_ASSERT_TRUE(doc_bool(doc, "online"));
    json_decref(doc);
    fixture_close(&f);
}

static enum err say_sums(float first, uint64_t rows, uint64_t window)
{
    static uint8_t payload[8192];
    static struct message_sums m;
    float squares[32];
    uint8_t raw[sizeof squares];
    size_t size = 0;
    for (size_t i = 0; i < 32; i++)
        squares[i] = (float)(i + 1);
    squares[0] = first;
    memcpy(raw, squares, sizeof raw);
    memset(&m, 0, sizeof m);
    m.epoch = d.epoch;
    m.seq = ++d.seq[MESSAGE_STREAM_CAL];
    m.window = window;
    m.chunk = m.chunks = 1;
    memset(m.base, 1, 32);
    memset(m.variant, 2, 32);
    m.tokens = 100;
    m.sums = 1;
    snprintf(m.sum[0].name, sizeof m.sum[0].name, "blk.0.attn_q.weight");
    m.sum[0].channels = 32;
    m.sum[0].rows = rows;
    m.sum[0].squares = (struct message_blob){raw, sizeof raw};
    CU_ASSERT_EQUAL_FATAL(message_sums_encode(&m, payload, sizeof payload, &size), ERR_NONE);
    return fixture_say(&f, &d, TOPIC_UP_CAL, MESSAGE_SUMS, payload, size);
}

static void gathers_sane_statistics_only(void)
{
    char variant[65];
    uint8_t digest[32];
    struct registry_txn *t = NULL;
    struct profile *p = NULL;
    uint32_t windows = 0;
    open_all();
    CU_ASSERT_EQUAL(fixture_birth(&f, &d, "a"), ERR_NONE);
    fixture_approve(&f, &d);
    memset(digest, 2, sizeof digest);
    hex_encode(digest, sizeof digest, variant);
    CU_ASSERT_EQUAL(say_sums(1, 100, 1), ERR_NONE);
    CU_ASSERT_EQUAL(say_sums(1, 100000, 2), ERR_NONE); /* acknowledged, left out, on the trail */
    CU_ASSERT_EQUAL(say_sums(3, 100, 3), ERR_NONE);
    CU_ASSERT_EQUAL(fixture_count(&f, REGISTRY_SUMS), 2);
    CU_ASSERT_EQUAL(fixture_count(&f, REGISTRY_DECISIONS), 1 + 1);
    CU_ASSERT_EQUAL(fixture_acked(&f, &d, MESSAGE_STREAM_CAL), 3);
    CU_ASSERT_EQUAL_FATAL(registry_begin(f.c->registry, true, &t), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(drift_gather(t, d.id, variant, DRIFT_WINDOWS, &p, &windows), ERR_NONE);
    CU_ASSERT_EQUAL(windows, 2);
    CU_ASSERT_EQUAL_FATAL(p->entries, 1);
    CU_ASSERT_DOUBLE_EQUAL(p->entry[0].sum2[0], 4, 0);
    CU_ASSERT_DOUBLE_EQUAL(p->entry[0].sum2[31], 64, 0);
    CU_ASSERT_DOUBLE_EQUAL(p->entry[0].count[0], 200, 0);
    profile_close(p);
    registry_abort(t);
    fixture_close(&f);
}

static void keeps_no_more_than_the_newest_windows(void)
{
    char variant[65];
    uint8_t digest[32];
    struct registry_txn *t = NULL;
    struct profile *p = NULL;
    uint32_t windows = 0;
    open_all();
    CU_ASSERT_EQUAL(fixture_birth(&f, &d, "a"), ERR_NONE);
    fixture_approve(&f, &d);
    for (uint64_t w = 1; w <= 20; w++)
        CU_ASSERT_EQUAL(say_sums((float)w, 100, w), ERR_NONE);
    memset(digest, 2, sizeof digest);
    hex_encode(digest, sizeof digest, variant);
    CU_ASSERT_EQUAL_FATAL(registry_begin(f.c->registry, true, &t), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(drift_gather(t, d.id, variant, DRIFT_WINDOWS, &p, &windows), ERR_NONE);
    CU_ASSERT_EQUAL(windows, DRIFT_WINDOWS);
    CU_ASSERT_DOUBLE_EQUAL(p->entry[0].sum2[0], 17 + 18 + 19 + 20, 0);
    CU_ASSERT_EQUAL(registry_commit(t), ERR_NONE);
    profile_close(p);
    CU_ASSERT_EQUAL(fixture_count(&f, REGISTRY_SUMS), DRIFT_WINDOWS);
    fixture_close(&f);
}

RUN_SUITE("ingest", {"enrols an unknown device as pending", enrols_an_unknown_device_as_pending},
          {"refuses what is not signed by the device", refuses_what_is_not_signed_by_the_device},
          {"refuses a birth under another id", refuses_a_birth_under_another_id},
          {"counts each record once", counts_each_record_once},
          {"gives up a gap only after long", gives_up_a_gap_only_after_long},
          {"keeps the newest of its quota", keeps_the_newest_of_its_quota},
          {"says where a device stands", says_where_a_device_stands},
          {"tells the dead from the living", tells_the_dead_from_the_living},
          {"gathers sane statistics only", gathers_sane_statistics_only},
          {"keeps no more than the newest windows", keeps_no_more_than_the_newest_windows})
