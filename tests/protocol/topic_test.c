/* topic_test.c tests protocol/topic.c. */
#include "tests/harness.h"

#include <string.h>

#include "protocol/topic.h"

#define ID "0123456789abcdef0123456789abcdef"

static void builds_and_parses(void)
{
    for (uint32_t kind = 1; kind < TOPIC_KINDS; kind++) {
        char text[TOPIC_MAX];
        struct topic t = {0};
        CU_ASSERT_EQUAL(topic_encode("demo-1", ID, kind, text), ERR_NONE);
        CU_ASSERT_EQUAL(topic_decode(text, strlen(text), &t), ERR_NONE);
        CU_ASSERT_EQUAL(t.kind, kind);
        CU_ASSERT_STRING_EQUAL(t.fleet, "demo-1");
        CU_ASSERT_STRING_EQUAL(t.device, ID);
        CU_ASSERT_EQUAL(topic_is_up(kind), strstr(text, "/up/") != NULL);
        /* no other length parses */
        for (size_t n = 0; n < strlen(text); n++)
            CU_ASSERT_EQUAL(topic_decode(text, n, &t), ERR_FORMAT);
        strcat(text, "x");
        CU_ASSERT_EQUAL(topic_decode(text, strlen(text), &t), ERR_FORMAT);
    }
    char text[TOPIC_MAX];
    CU_ASSERT_EQUAL(topic_encode("demo", ID, TOPIC_DN_PLAN, text), ERR_NONE);
    CU_ASSERT_STRING_EQUAL(text, "tare/1/demo/" ID "/dn/plan");
    CU_ASSERT_EQUAL(topic_device_filter("demo", ID, text), ERR_NONE);
    CU_ASSERT_STRING_EQUAL(text, "tare/1/demo/" ID "/dn/#");
    CU_ASSERT_EQUAL(topic_fleet_filter("demo", text), ERR_NONE);
    CU_ASSERT_STRING_EQUAL(text, "tare/1/demo/+/up/#");
    CU_ASSERT_EQUAL(topic_encode("abcdefghijklmnopqrstuvwxyz012345", ID, TOPIC_UP_BENCH, text),
                    ERR_NONE);
}

static void refuses(void)
{
    static const char *const wrong[] = {"tare/1/demo/" ID "/up/plan",
                                        "tare/1/demo/" ID "/dn/job",
                                        "tare/1/demo/" ID "/up/",
                                        "tare/1/demo/" ID "/up",
                                        "tare/1/demo/" ID "/up/job/",
                                        "tare/1/demo//" ID "/up/job",
                                        "tare/1//" ID "/up/job",
                                        "tare/1/+/" ID "/up/job",
                                        "tare/1/demo/+/up/job",
                                        "tare/1/demo/" ID "0/up/job",
                                        "tare/1/demo/0123456789ABCDEF0123456789abcdef/up/job",
                                        "tare/1/-demo/" ID "/up/job",
                                        "tare/1/demo-/" ID "/up/job",
                                        "tare/1/Demo/" ID "/up/job",
                                        "tare/1/abcdefghijklmnopqrstuvwxyz0123456/" ID "/up/job",
                                        "tare/2/demo/" ID "/up/job",
                                        "/tare/1/demo/" ID "/up/job",
                                        "tare/1/demo/#",
                                        "tare/1/d\xc3\xa9mo/" ID "/up/job"};
    struct topic t = {.kind = 99};
    char text[TOPIC_MAX];
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        CU_ASSERT_EQUAL(topic_decode(wrong[i], strlen(wrong[i]), &t), ERR_FORMAT);
    CU_ASSERT_EQUAL(topic_decode("tare/1/de\0o/" ID "/up/job", 51, &t), ERR_FORMAT);
    CU_ASSERT_EQUAL(t.kind, 99);
    CU_ASSERT_EQUAL(topic_encode("demo", ID, 0, text), ERR_ARGUMENT);
    CU_ASSERT_EQUAL(topic_encode("demo", ID, TOPIC_KINDS, text), ERR_ARGUMENT);
    CU_ASSERT_EQUAL(topic_encode("demo", "device", TOPIC_UP_JOB, text), ERR_ARGUMENT);
    CU_ASSERT_EQUAL(topic_encode("a/b", ID, TOPIC_UP_JOB, text), ERR_ARGUMENT);
    CU_ASSERT_EQUAL(topic_encode(NULL, ID, TOPIC_UP_JOB, text), ERR_ARGUMENT);
    CU_ASSERT_EQUAL(topic_encode("demo", NULL, TOPIC_UP_JOB, text), ERR_ARGUMENT);
}

RUN_SUITE("topic", {"builds_and_parses", builds_and_parses}, {"refuses", refuses})
