/* delivery_test.c: telemetry over a wire that loses, repeats, reorders and delays, with a controller that
 * dies on the way: in the end every record is there, each once. */
#include "tests/controller/controller_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/transport.h"

enum { DEVICES = 5, RECORDS = 400, BATCH = 20 };

struct sender {
    struct fixture_device d;
    struct transport wire;
    uint64_t acked;
    bool is_connected;
};

static struct fixture f;
static struct transport_memory *broker;
static struct sender senders[DEVICES];

static void publish(struct sender *s, uint32_t kind, uint32_t type, const uint8_t *payload, size_t n)
{
    static uint8_t envelope[ENVELOPE_MAX];
    char topic[TOPIC_MAX];
    size_t size = 0;
    uint32_t token;
    CU_ASSERT_EQUAL_FATAL(envelope_sign(s->d.keys.secret_key, FIXTURE_FLEET, ENVELOPE_DEVICE, type, payload,
                                        n, envelope, sizeof envelope, &size),
                          ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(topic_encode(FIXTURE_FLEET, s->d.id, kind, topic), ERR_NONE);
    (void)!s->wire.publish(s->wire.state, topic, envelope, size, kind == TOPIC_UP_BIRTH, &token);
}

static void say_birth(struct sender *s)
{
    static uint8_t payload[MESSAGE_MAX];
    struct message_birth m = {.epoch = 1};
    size_t n = 0;
    memcpy(m.public_key, s->d.keys.public_key, 32);
    CU_ASSERT_EQUAL_FATAL(message_birth_encode(&m, payload, sizeof payload, &n), ERR_NONE);
    publish(s, TOPIC_UP_BIRTH, MESSAGE_BIRTH, payload, n);
}

static void say_batch(struct sender *s, uint64_t first)
{
    static uint8_t payload[MESSAGE_MAX], bytes[BATCH][128];
    struct message_blob blobs[BATCH];
    struct message_batch m = {.epoch = 1, .first = first, .record = blobs};
    static struct message_record r;
    size_t n = 0;
    for (uint64_t seq = first; seq < first + BATCH && seq <= RECORDS; seq++) {
        memset(&r, 0, sizeof r);
        r.kind = MESSAGE_RECORD_EVENT;
        r.time_ms = 1700000000000u + seq;
        snprintf(r.of.event.name, sizeof r.of.event.name, "n");
        r.of.event.value = seq;
        CU_ASSERT_EQUAL_FATAL(message_record_encode(&r, bytes[m.records], 128, &n), ERR_NONE);
        blobs[m.records] = (struct message_blob){bytes[m.records], n};
        m.records++;
    }
    CU_ASSERT_EQUAL_FATAL(message_batch_encode(&m, payload, sizeof payload, &n), ERR_NONE);
    publish(s, TOPIC_UP_TEL, MESSAGE_BATCH, payload, n);
}

static void receive(struct sender *s)
{
    struct transport_event event;
    struct envelope envelope;
    int wait_ms;
    (void)!s->wire.step(s->wire.state, &wait_ms);
    while (s->wire.next(s->wire.state, &event) == ERR_NONE) {
        if (event.kind == TRANSPORT_CONNECTED) {
            char filter[TOPIC_MAX];
            s->is_connected = true;
            CU_ASSERT_EQUAL(topic_device_filter(FIXTURE_FLEET, s->d.id, filter), ERR_NONE);
            (void)!s->wire.subscribe(s->wire.state, filter);
            say_birth(s);
        } else if (event.kind == TRANSPORT_LOST) {
            s->is_connected = false;
        } else if (event.kind == TRANSPORT_MESSAGE && strstr(event.topic, "/dn/ack")) {
            struct message_ack ack = {0};
            CU_ASSERT_EQUAL_FATAL(envelope_open(event.payload, event.payload_bytes,
                                                f.c->director.public_key, FIXTURE_FLEET,
                                                ENVELOPE_DIRECTOR, MESSAGE_ACK, &envelope),
                                  ERR_NONE);
            CU_ASSERT_EQUAL_FATAL(
                message_ack_decode(envelope.payload, envelope.payload_bytes, &ack), ERR_NONE);
            if (ack.seq[MESSAGE_STREAM_TEL] > s->acked)
                s->acked = ack.seq[MESSAGE_STREAM_TEL];
        }
    }
}

static void open_link(void)
{
    struct transport t = {0};
    struct transport_options options = {.client_id = "controller"};
    CU_ASSERT_EQUAL_FATAL(transport_memory_client(broker, &options, &t), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(controller_link_open(f.c, &t, &f.c->link), ERR_NONE);
}

/* What was acknowledged must be there after the controller's death, whatever else is. */
static void die_and_come_back(void)
{
    controller_link_close(f.c->link);
    f.c->link = NULL;
    fixture_reopen(&f);
    open_link();
}

static uint64_t received(const struct sender *s)
{
    char key[64];
    snprintf(key, sizeof key, "tel/%s", s->d.id);
    json_t *doc = fixture_doc(&f, REGISTRY_META, key);
    uint64_t n = (uint64_t)doc_int(doc, "received");
    json_decref(doc);
    return n;
}

static void run(uint64_t seed)
{
    struct transport_faults faults = {.seed = seed, .lose = 150, .duplicate = 150, .reorder = 150,
                                      .delay = 200, .delay_steps = 12};
    fixture_open(&f);
    CU_ASSERT_EQUAL_FATAL(transport_memory_open(&faults, &broker), ERR_NONE);
    open_link();
    for (uint8_t i = 0; i < DEVICES; i++) {
        struct sender *s = &senders[i];
        memset(s, 0, sizeof *s);
        fixture_device(&s->d, (uint8_t)(i + 1));
        CU_ASSERT_EQUAL(fixture_birth(&f, &s->d, "x"), ERR_NONE);
        fixture_approve(&f, &s->d);
        struct transport_options options = {.client_id = s->d.id};
        CU_ASSERT_EQUAL_FATAL(transport_memory_client(broker, &options, &s->wire), ERR_NONE);
        CU_ASSERT_EQUAL(s->wire.connect(s->wire.state), ERR_NONE);
    }
    unsigned round = 0, finished = 0;
    for (; round < 3000 && finished < DEVICES; round++) {
        int wait_ms;
        finished = 0;
        for (size_t i = 0; i < DEVICES; i++) {
            struct sender *s = &senders[i];
            receive(s);
            finished += s->acked >= RECORDS;
            /* As the agent does: from the oldest that is not acknowledged, a few batches ahead. */
            for (uint64_t k = 0; s->is_connected && round % 4 == 0 && k < 3; k++)
                if (s->acked + 1 + k * BATCH <= RECORDS)
                    say_batch(s, s->acked + 1 + k * BATCH);
        }
        transport_memory_step(broker);
        controller_link_pump(f.c->link, &wait_ms);
        if (round % 37 == 36)
            die_and_come_back();
        if (round % 101 == 100) {
            transport_memory_stop(broker, round % 202 == 100);
            transport_memory_start(broker);
        }
    }
    CU_ASSERT_EQUAL(finished, DEVICES);
    CU_ASSERT_EQUAL(fixture_count(&f, REGISTRY_TELEMETRY), DEVICES * RECORDS);
    for (size_t i = 0; i < DEVICES; i++) {
        CU_ASSERT_EQUAL(received(&senders[i]), RECORDS);
        senders[i].wire.close(senders[i].wire.state);
    }
    controller_link_close(f.c->link);
    f.c->link = NULL;
    transport_memory_close(broker);
    fixture_close(&f);
}

static void everything_arrives_once(void)
{
    for (uint64_t seed = 1; seed <= 6; seed++)
        run(seed);
}

RUN_SUITE("delivery", {"everything arrives, once", everything_arrives_once})
