#include "harness.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/accept.h"
#include "agent_fixture.h"
#include "compress/plan.h"
#include "protocol/cbor.h"
#include "protocol/envelope.h"
#include "protocol/job.h"

static struct fixture f;
static struct message_birth birth;
static uint8_t bytes[8192];

static struct accept_device device(void)
{
    return (struct accept_device){.keys = &f.keys,
                                  .fleet = "demo",
                                  .device = f.identity.id,
                                  .newest_plan = 4,
                                  .now_ms = (uint64_t)time(NULL) * 1000,
                                  .birth = &birth,
                                  .forced_plugin = "",
                                  .disk_free_bytes = 1 << 20};
}

static uint32_t verify(const struct message_plan *plan)
{
    struct message_plan out = {0};
    struct accept_device d = device();
    size_t size = fixture_sign_plan(&f, plan, bytes, sizeof bytes);
    return accept_verify(&d, bytes, size, &out);
}

static void test_good(void)
{
    struct message_plan plan, out = {0};
    struct accept_device d = device();
    fixture_open(&f);
    fixture_plan(&f, 5, &plan);
    size_t size = fixture_sign_plan(&f, &plan, bytes, sizeof bytes);
    d.device = f.identity.id;
    CU_ASSERT_EQUAL_FATAL(accept_verify(&d, bytes, size, &out), JOB_OK);
    CU_ASSERT(out.version == 5 && out.variant_bytes == 5);
    d.now_ms = 0; /* no clock: expiry cannot be judged, everything else is */
    out = (struct message_plan){0};
    CU_ASSERT_EQUAL(accept_verify(&d, bytes, size, &out), JOB_OK);
    fixture_close(&f);
}

/* Every bit of a signed plan matters. */
static void test_bits(void)
{
    struct message_plan plan, out;
    fixture_open(&f);
    fixture_plan(&f, 5, &plan);
    struct accept_device d = device();
    size_t size = fixture_sign_plan(&f, &plan, bytes, sizeof bytes);
    for (size_t bit = 0; bit < size * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        out = (struct message_plan){0};
        uint32_t code = accept_verify(&d, bytes, size, &out);
        if (code != JOB_REJECT_SIGNATURE && code != JOB_REJECT_FORMAT)
            CU_ASSERT_EQUAL(code, JOB_REJECT_SIGNATURE);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t cut = 0; cut < size; cut++) {
        out = (struct message_plan){0};
        CU_ASSERT(accept_verify(&d, bytes, cut, &out) != JOB_OK);
    }
    fixture_close(&f);
}

static void test_refusals(void)
{
    struct message_plan plan, out = {0};
    struct keys_secret other;
    size_t size;
    fixture_open(&f);
    struct accept_device d = device();
    fixture_plan(&f, 5, &plan);
    plan.device[0] = plan.device[0] == 'a' ? 'b' : 'a';
    CU_ASSERT_EQUAL(verify(&plan), JOB_REJECT_AUDIENCE);
    fixture_plan(&f, 5, &plan);
    strcpy(plan.fleet, "other"); /* inside; the envelope says ours */
    CU_ASSERT_EQUAL(verify(&plan), JOB_REJECT_AUDIENCE);
    fixture_plan(&f, 4, &plan); /* replayed */
    CU_ASSERT_EQUAL(verify(&plan), JOB_REJECT_STALE);
    fixture_plan(&f, 3, &plan);
    CU_ASSERT_EQUAL(verify(&plan), JOB_REJECT_STALE);
    fixture_plan(&f, 5, &plan);
    plan.not_after_ms = 1000;
    CU_ASSERT_EQUAL(verify(&plan), JOB_REJECT_EXPIRED);
    fixture_plan(&f, 5, &plan);
    plan.min_agent = 999000000;
    CU_ASSERT_EQUAL(verify(&plan), JOB_REJECT_VERSION);
    /* a director of another fleet, and nobody's key */
    fixture_plan(&f, 5, &plan);
    size = fixture_sign_plan(&f, &plan, bytes, sizeof bytes);
    d.fleet = "other";
    CU_ASSERT_EQUAL(accept_verify(&d, bytes, size, &out), JOB_REJECT_AUDIENCE);
    d.fleet = "demo";
    CU_ASSERT_FATAL(keys_generate(&other) == ERR_NONE);
    struct keys_secret ours = f.director;
    f.director = other;
    size = fixture_sign_plan(&f, &plan, bytes, sizeof bytes);
    CU_ASSERT_EQUAL(accept_verify(&d, bytes, size, &out), JOB_REJECT_SIGNATURE);
    f.director = ours;
    /* signed by the director, but as another type, or as another role */
    uint8_t payload[4096];
    size_t n;
    CU_ASSERT_FATAL(message_plan_encode(&plan, payload, sizeof payload, &n) == ERR_NONE);
    size = fixture_sign(&f, MESSAGE_COMMAND, payload, n, bytes, sizeof bytes);
    CU_ASSERT_EQUAL(accept_verify(&d, bytes, size, &out), JOB_REJECT_AUDIENCE);
    CU_ASSERT_FATAL(envelope_sign(f.director.secret_key, "demo", ENVELOPE_DEVICE, MESSAGE_PLAN, payload, n, bytes,
                                  sizeof bytes, &size) == ERR_NONE);
    CU_ASSERT_EQUAL(accept_verify(&d, bytes, size, &out), JOB_REJECT_AUDIENCE);
    size = fixture_sign(&f, MESSAGE_PLAN, (const uint8_t *)"\xa0", 1, bytes, sizeof bytes);
    CU_ASSERT_EQUAL(accept_verify(&d, bytes, size, &out), JOB_REJECT_FORMAT);
    fixture_close(&f);
}

/* A critical field from the future: the encoder does not know it, so the plan's bytes are made by hand: the map
 * grows by the pair 9999: true, and the list of critical keys by 9999. */
static void test_critical(void)
{
    struct message_plan plan, out = {0};
    uint8_t payload[4096];
    size_t n;
    fixture_open(&f);
    struct accept_device d = device();
    fixture_plan(&f, 5, &plan);
    plan.critical[0] = 9999;
    plan.criticals = 1;
    if (message_plan_encode(&plan, payload, sizeof payload, &n) == ERR_NONE) {
        size_t size = fixture_sign(&f, MESSAGE_PLAN, payload, n, bytes, sizeof bytes);
        CU_ASSERT_EQUAL(accept_verify(&d, bytes, size, &out), JOB_REJECT_CRITICAL);
    } else {
        CU_FAIL("the encoder refuses critical keys it does not know");
    }
    fixture_close(&f);
}

static uint32_t judge(const struct message_plan *plan, const struct accept_device *d)
{
    char why[192] = "x";
    uint32_t code = accept_judge(d, plan, why, sizeof why);
    CU_ASSERT((code == JOB_OK) == (why[0] == 0));
    return code;
}

static void test_judge(void)
{
    struct message_plan plan;
    fixture_open(&f);
    memset(&birth, 0, sizeof birth);
    birth.plugins = 2;
    strcpy(birth.plugin[0].name, "scalar");
    birth.plugin[0].abi = 1;
    strcpy(birth.plugin[1].name, "vnni");
    birth.plugin[1].abi = 1;
    memset(birth.plugin[1].digest, 9, 32);
    struct accept_device d = device();
    fixture_plan(&f, 5, &plan);
    CU_ASSERT_EQUAL(judge(&plan, &d), JOB_OK);
    d.schema = PLAN_SCHEMA + 1;
    CU_ASSERT_EQUAL(judge(&plan, &d), JOB_REJECT_VERSION);
    d.schema = PLAN_SCHEMA;
    CU_ASSERT_EQUAL(judge(&plan, &d), JOB_OK);
    strcpy(plan.plugin.name, "neon");
    CU_ASSERT_EQUAL(judge(&plan, &d), JOB_REJECT_PLUGIN);
    strcpy(plan.plugin.name, "vnni");
    plan.plugin.abi = 1;
    memset(plan.plugin.digest, 9, 32);
    CU_ASSERT_EQUAL(judge(&plan, &d), JOB_OK);
    plan.plugin.digest[0] = 8;
    CU_ASSERT_EQUAL(judge(&plan, &d), JOB_REJECT_PLUGIN);
    plan.plugin.digest[0] = 9;
    plan.plugin.abi = 2;
    CU_ASSERT_EQUAL(judge(&plan, &d), JOB_REJECT_PLUGIN);
    plan.plugin.abi = 1;
    d.forced_plugin = "scalar";
    CU_ASSERT_EQUAL(judge(&plan, &d), JOB_REJECT_PLUGIN);
    d.forced_plugin = "";
    birth.plugin[1].is_refused = true;
    strcpy(birth.plugin[1].reason, "it crashed");
    CU_ASSERT_EQUAL(judge(&plan, &d), JOB_REJECT_PLUGIN);
    fixture_plan(&f, 5, &plan);
    plan.base.bytes = 2 << 20;
    CU_ASSERT_EQUAL(judge(&plan, &d), JOB_REJECT_SPACE);
    plan.base.bytes = 0;
    CU_ASSERT_EQUAL(judge(&plan, &d), JOB_REJECT_MODEL);
    fixture_plan(&f, 5, &plan);
    plan.text.bytes = 0;
    CU_ASSERT_EQUAL(judge(&plan, &d), JOB_REJECT_METHOD);
    fixture_plan(&f, 5, &plan);
    plan.not_before_ms = d.now_ms + 5000;
    CU_ASSERT_EQUAL(judge(&plan, &d), JOB_DEFER_WINDOW);
    fixture_close(&f);
}

/* Director keys by a root document: in force, signed by enough root keys, of this fleet. */
static void test_root(void)
{
    static struct keys_root root;
    struct keys_secret signers[2];
    struct accept_keys keys;
    uint8_t document[2048];
    char why[300];
    size_t size;
    fixture_open(&f);
    memset(&root, 0, sizeof root);
    strcpy(root.fleet, "demo");
    root.version = 1;
    root.not_after_s = 2000;
    root.roles = 2;
    root.role[0] = (struct keys_role){.role = ENVELOPE_ROOT, .threshold = 2, .keys = 2};
    for (int i = 0; i < 2; i++) {
        CU_ASSERT_FATAL(keys_generate(&signers[i]) == ERR_NONE);
        memcpy(root.role[0].key[i], signers[i].public_key, 32);
    }
    root.role[1] = (struct keys_role){.role = ENVELOPE_DIRECTOR, .threshold = 1, .keys = 1};
    memcpy(root.role[1].key[0], f.director.public_key, 32);
    CU_ASSERT_FATAL(keys_root_encode(&root, document, sizeof document, &size) == ERR_NONE);
    snprintf(f.settings.root, sizeof f.settings.root, "%s/root", f.folder);
    CU_ASSERT_EQUAL(accept_load_keys(&f.settings, 1000, &keys, why, sizeof why), ERR_NOT_FOUND);
    for (int i = 0; i < 2; i++) {
        CU_ASSERT_FATAL(keys_root_sign(document, sizeof document, &size, &signers[i]) == ERR_NONE);
        FILE *out = fopen(f.settings.root, "w");
        CU_ASSERT_FATAL(fwrite(document, size, 1, out) == 1 && fclose(out) == 0);
        enum err e = accept_load_keys(&f.settings, 1000, &keys, why, sizeof why);
        CU_ASSERT_EQUAL(e, i == 0 ? ERR_SIGNATURE : ERR_NONE); /* one of two is not enough */
    }
    CU_ASSERT(keys.directors == 1 && memcmp(keys.director[0], f.director.public_key, 32) == 0);
    CU_ASSERT_EQUAL(accept_load_keys(&f.settings, 3000, &keys, why, sizeof why), ERR_EXPIRED);
    strcpy(f.settings.fleet, "other");
    CU_ASSERT_EQUAL(accept_load_keys(&f.settings, 1000, &keys, why, sizeof why), ERR_AUDIENCE);
    CU_ASSERT(strstr(why, f.settings.root) != NULL);
    fixture_close(&f);
}

RUN_SUITE("accept", {"a root document", test_root}, {"a good plan", test_good}, {"one flipped bit", test_bits}, {"refusals", test_refusals},
          {"critical fields", test_critical}, {"what suits this device", test_judge})
