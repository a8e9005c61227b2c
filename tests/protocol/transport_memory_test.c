/* transport_memory_test.c tests protocol/transport_memory.c: the faults are real, and repeatable.
 */
#include "tests/harness.h"

#include <poll.h>
#include <string.h>

#include "protocol/transport.h"

#define DEVICE "0123456789abcdef0123456789abcdef"
#define OTHER "ffffffffffffffffffffffffffffffff"

static struct transport_memory *broker;

static struct transport client(const char *id, const char *will_topic)
{
    struct transport t = {0};
    struct transport_options options = {.client_id = id,
                                        .will_topic = will_topic,
                                        .will = (const uint8_t *)"gone",
                                        .will_bytes = 4};
    CU_ASSERT_EQUAL(transport_memory_client(broker, &options, &t), ERR_NONE);
    CU_ASSERT_EQUAL(t.connect(t.state), ERR_NONE);
    return t;
}

/* Events of one kind until there are none. */
static unsigned drain(struct transport *t, uint32_t kind, struct transport_event *last)
{
    struct transport_event event;
    unsigned n = 0;
    int wait_ms;
    CU_ASSERT_EQUAL(t->step(t->state, &wait_ms), ERR_NONE);
    while (t->next(t->state, &event) == ERR_NONE)
        if (event.kind == kind) {
            n++;
            if (last)
                *last = event;
        }
    return n;
}

static void start(const struct transport_faults *faults)
{
    CU_ASSERT_EQUAL_FATAL(transport_memory_open(faults, &broker), ERR_NONE);
}

static void delivers(void)
{
    struct transport_event event = {0};
    uint32_t token = 0;
    start(NULL);
    struct transport device = client(DEVICE, NULL), controller = client("controller", NULL);
    CU_ASSERT_EQUAL(drain(&device, TRANSPORT_CONNECTED, &event), 1);
    CU_ASSERT_FALSE(event.has_session);
    CU_ASSERT_EQUAL(controller.subscribe(controller.state, "tare/1/demo/+/up/#"), ERR_NONE);
    CU_ASSERT_EQUAL(device.subscribe(device.state, "tare/1/demo/" DEVICE "/dn/#"), ERR_NONE);
    CU_ASSERT_EQUAL(drain(&device, TRANSPORT_SUBSCRIBED, &event), 1);
    (void)drain(&controller, 0, NULL);
    CU_ASSERT_EQUAL(device.publish(device.state, "tare/1/demo/" DEVICE "/up/birth",
                                   (const uint8_t *)"hi", 2, true, &token),
                    ERR_NONE);
    struct pollfd p = {.fd = controller.fd, .events = POLLIN};
    CU_ASSERT_EQUAL(poll(&p, 1, 0), 1);
    struct transport_event got;
    CU_ASSERT_EQUAL(controller.next(controller.state, &got), ERR_NONE);
    CU_ASSERT_STRING_EQUAL(got.topic, "tare/1/demo/" DEVICE "/up/birth");
    CU_ASSERT_EQUAL(memcmp(got.payload, "hi", 2), 0);
    CU_ASSERT_EQUAL(controller.next(controller.state, &got), ERR_NOT_FOUND);
    CU_ASSERT_EQUAL(poll(&p, 1, 0), 0);
    CU_ASSERT_EQUAL(drain(&device, TRANSPORT_DELIVERED, &event), 1);
    CU_ASSERT_EQUAL(event.token, token);
    /* retained, for who comes later */
    struct transport late = client("dashboard", NULL);
    CU_ASSERT_EQUAL(late.subscribe(late.state, "tare/1/demo/+/up/#"), ERR_NONE);
    CU_ASSERT_EQUAL(drain(&late, TRANSPORT_MESSAGE, &event), 1);
    CU_ASSERT_TRUE(event.is_retained);
    late.close(late.state);
    device.close(device.state);
    controller.close(controller.state);
    transport_memory_close(broker);
}

static void has_access_rules(void)
{
    struct transport_event event = {0};
    uint32_t token = 0;
    start(NULL);
    struct transport device = client(DEVICE, NULL), spy = client(OTHER, NULL);
    CU_ASSERT_EQUAL(spy.subscribe(spy.state, "tare/1/demo/+/up/#"), ERR_NONE);
    CU_ASSERT_EQUAL(spy.subscribe(spy.state, "tare/1/demo/" DEVICE "/dn/#"), ERR_NONE);
    CU_ASSERT_EQUAL(
        device.publish(device.state, "tare/1/demo/" OTHER "/up/job", NULL, 0, false, &token),
        ERR_NONE);
    CU_ASSERT_EQUAL(drain(&device, TRANSPORT_FAILED, &event), 1);
    CU_ASSERT_EQUAL(event.err, ERR_AUDIENCE);
    CU_ASSERT_EQUAL(
        device.publish(device.state, "tare/1/demo/" DEVICE "/up/job", NULL, 0, false, &token),
        ERR_NONE);
    CU_ASSERT_EQUAL(drain(&spy, TRANSPORT_MESSAGE, &event), 0);
    device.close(device.state);
    spy.close(spy.state);
    transport_memory_close(broker);
}

/* What arrives at the controller of 1000 numbered messages; a digest of the order in *order. */
static unsigned send_thousand(const struct transport_faults *faults, unsigned count[1000],
                              unsigned *inversions, unsigned *failed)
{
    unsigned received = 0;
    uint32_t before = 0, token;
    struct transport_event event;
    start(faults);
    struct transport device = client(DEVICE, NULL), controller = client("controller", NULL);
    CU_ASSERT_EQUAL(controller.subscribe(controller.state, "tare/1/demo/+/up/#"), ERR_NONE);
    memset(count, 0, 1000 * sizeof count[0]);
    *inversions = *failed = 0;
    for (uint32_t i = 0; i < 1100; i++) {
        if (i < 1000)
            CU_ASSERT_EQUAL(device.publish(device.state, "tare/1/demo/" DEVICE "/up/tel",
                                           (const uint8_t *)&i, sizeof i, false, &token),
                            ERR_NONE);
        transport_memory_step(broker);
        *failed += drain(&device, TRANSPORT_FAILED, NULL);
        while (i % 10 == 9 && controller.next(controller.state, &event) == ERR_NONE) {
            uint32_t got;
            if (event.kind != TRANSPORT_MESSAGE)
                continue;
            memcpy(&got, event.payload, sizeof got);
            count[got]++;
            received++;
            *inversions += got < before;
            before = got;
        }
    }
    device.close(device.state);
    controller.close(controller.state);
    transport_memory_close(broker);
    return received;
}

static void faults_are_real(void)
{
    unsigned a[1000], b[1000], inversions, again, failed;
    CU_ASSERT_EQUAL(send_thousand(NULL, a, &inversions, &failed), 1000);
    CU_ASSERT_EQUAL(inversions + failed, 0);
    struct transport_faults faults = {.seed = 5, .lose = 100};
    unsigned received = send_thousand(&faults, a, &inversions, &failed);
    CU_ASSERT_TRUE(received > 750 && received < 950);
    CU_ASSERT_TRUE(failed > 50 && failed < 150);
    faults = (struct transport_faults){.seed = 6, .duplicate = 100};
    CU_ASSERT_TRUE(send_thousand(&faults, a, &inversions, &failed) > 1050);
    faults = (struct transport_faults){.seed = 7, .reorder = 200};
    CU_ASSERT_EQUAL(send_thousand(&faults, a, &inversions, &failed), 1000);
    CU_ASSERT_TRUE(inversions > 50);
    faults = (struct transport_faults){.seed = 8, .delay = 300, .delay_steps = 50};
    CU_ASSERT_EQUAL(send_thousand(&faults, a, &inversions, &failed), 1000);
    CU_ASSERT_TRUE(inversions > 50);
    faults = (struct transport_faults){9, 50, 50, 50, 50, 20};
    received = send_thousand(&faults, a, &inversions, &failed);
    CU_ASSERT_EQUAL(send_thousand(&faults, b, &again, &failed), received); /* one seed, one story */
    CU_ASSERT_EQUAL(again, inversions);
    CU_ASSERT_EQUAL(memcmp(a, b, sizeof a), 0);
}

static void survives_broker_death(void)
{
    struct transport_event event = {0};
    uint32_t token;
    start(NULL);
    struct transport device = client(DEVICE, NULL), controller = client("controller", NULL);
    CU_ASSERT_EQUAL(device.subscribe(device.state, "tare/1/demo/" DEVICE "/dn/#"), ERR_NONE);
    transport_memory_stop(broker, false);
    CU_ASSERT_EQUAL(drain(&device, TRANSPORT_LOST, NULL), 1);
    CU_ASSERT_EQUAL(
        device.publish(device.state, "tare/1/demo/" DEVICE "/up/tel", NULL, 0, false, &token),
        ERR_FULL);
    transport_memory_start(broker);
    CU_ASSERT_EQUAL(drain(&device, TRANSPORT_CONNECTED, &event), 1);
    CU_ASSERT_FALSE(event.has_session);
    (void)drain(&controller, 0, NULL);
    CU_ASSERT_EQUAL(controller.publish(controller.state, "tare/1/demo/" DEVICE "/dn/plan", NULL, 0,
                                       false, &token),
                    ERR_NONE);
    CU_ASSERT_EQUAL(drain(&device, TRANSPORT_MESSAGE, NULL), 0); /* it has to subscribe again */
    device.close(device.state);
    controller.close(controller.state);
    transport_memory_close(broker);
}

static void session_and_will(void)
{
    struct transport_event event = {0};
    uint32_t token;
    start(NULL);
    struct transport device = client(DEVICE, "tare/1/demo/" DEVICE "/up/death");
    struct transport controller = client("controller", NULL);
    CU_ASSERT_EQUAL(controller.subscribe(controller.state, "tare/1/demo/+/up/#"), ERR_NONE);
    CU_ASSERT_EQUAL(device.subscribe(device.state, "tare/1/demo/" DEVICE "/dn/#"), ERR_NONE);
    (void)drain(&device, 0, NULL);
    transport_memory_cut(broker, DEVICE);
    struct transport_event will;
    int seen = 0;
    while (controller.next(controller.state, &will) == ERR_NONE)
        seen += will.kind == TRANSPORT_MESSAGE && memcmp(will.payload, "gone", 4) == 0;
    CU_ASSERT_EQUAL(seen, 1);
    CU_ASSERT_EQUAL(controller.publish(controller.state, "tare/1/demo/" DEVICE "/dn/plan",
                                       (const uint8_t *)"later", 5, false, &token),
                    ERR_NONE);
    CU_ASSERT_EQUAL(device.next(device.state, &event), ERR_NONE);
    CU_ASSERT_EQUAL(event.kind, TRANSPORT_LOST);
    CU_ASSERT_EQUAL(drain(&device, TRANSPORT_MESSAGE, NULL), 1); /* step() linked it up again */
    /* the window */
    unsigned sent = 0;
    while (sent < 50 &&
           controller.publish(controller.state, "x", NULL, 0, false, &token) == ERR_NONE)
        sent++;
    CU_ASSERT_TRUE(sent > 0 && sent <= TRANSPORT_WINDOW_MAX);
    CU_ASSERT_TRUE(drain(&controller, TRANSPORT_DELIVERED, NULL) >= sent);
    CU_ASSERT_EQUAL(controller.publish(controller.state, "x", NULL, 0, false, &token), ERR_NONE);
    device.close(device.state);
    controller.close(controller.state);
    transport_memory_close(broker);
}

RUN_SUITE("transport_memory", {"delivers", delivers}, {"has_access_rules", has_access_rules},
          {"faults_are_real", faults_are_real}, {"survives_broker_death", survives_broker_death},
          {"session_and_will", session_and_will})
