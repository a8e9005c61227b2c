/* release_test.c: a whole rollout on the repository's own model: the plans that go out, what devices
 * answer, and a controller that dies at every step. */
#include "tests/controller/controller_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compress/plan.h"
#include "controller/catalogue.h"
#include "controller/jobrecord.h"
#include "controller/release.h"
#include "controller/workshop.h"
#include "protocol/hex.h"

enum { DEVICES = 6 };

static struct fixture f;
static struct fixture_device devices[DEVICES];

static const char recipe[] = "name: test\nmode: balanced\nmethod: rtn\ngates: {kld_mean: 0.05}\n"
                             "rollout: {stages: [20, 100], threshold: 0.3, minimum_sample: 2, "
                             "deadline_s: 60, trial_s: 1, revert: true}\n";

static void add_file(const char *path, const char *name)
{
    struct registry_txn *t = NULL;
    json_t *file = NULL;
    char why[CATALOGUE_WHY];
    CU_ASSERT_EQUAL_FATAL(catalogue_examine(path, name, "", &file, why), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(registry_begin(f.c->registry, true, &t), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(catalogue_add(t, file, 1), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(registry_commit(t), ERR_NONE);
    json_decref(file);
}

static void open_workshop(void)
{
    CU_ASSERT_EQUAL_FATAL(workshop_open(f.c, BUILD_DIR "/bin/tare-controller", &f.c->workshop), ERR_NONE);
}

static void open_all(void)
{
    fixture_open(&f);
    open_workshop();
    for (uint8_t i = 0; i < DEVICES; i++) {
        char name[16];
        snprintf(name, sizeof name, "device-%u", i);
        fixture_device(&devices[i], (uint8_t)(i + 10));
        CU_ASSERT_EQUAL(fixture_birth(&f, &devices[i], name), ERR_NONE);
        fixture_approve(&f, &devices[i]);
    }
    add_file(SOURCE_DIR "/models/tare-tiny/tare-tiny-f16.gguf", "tiny");
    add_file(SOURCE_DIR "/tests/data/text/en/heldout.txt", "held-out");
}

static void close_all(void)
{
    workshop_close(f.c->workshop);
    f.c->workshop = NULL;
    fixture_close(&f);
}

/* kill -9: the process is gone, the files are what they are. */
static void die(void)
{
    workshop_close(f.c->workshop);
    fixture_reopen(&f);
    open_workshop();
}

static enum err deploy(const char *text, char id[24], char why[RELEASE_WHY])
{
    struct registry_txn *t = NULL;
    json_t *made = NULL;
    struct release_request request = {.recipe = text, .model = "tiny", .profile = "", .text = "held-out",
                                      .name = "", .trigger = "operator"};
    CU_ASSERT_EQUAL_FATAL(registry_begin(f.c->registry, true, &t), ERR_NONE);
    enum err e = release_create(f.c, t, &request, f.now_ms / 1000, &made, why);
    if (e) {
        registry_abort(t);
        return e;
    }
    CU_ASSERT_EQUAL_FATAL(registry_commit(t), ERR_NONE);
    snprintf(id, 24, "%s", doc_text(made, "id"));
    json_decref(made);
    return ERR_NONE;
}

/* One tick with its posts kept, as the loop does it. */
static void tick(int64_t later_s)
{
    struct registry_txn *t = NULL;
    bool is_busy = false;
    f.now_ms += later_s * 1000;
    CU_ASSERT_EQUAL(workshop_tick(f.c->workshop, f.now_ms / 1000, &is_busy), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(registry_begin(f.c->registry, true, &t), ERR_NONE);
    CU_ASSERT_EQUAL(release_tick(f.c, t, f.now_ms, f.posts), ERR_NONE);
    CU_ASSERT_EQUAL(registry_commit(t), ERR_NONE);
}

static void state_of(const char *id, char out[24], int64_t *stage)
{
    json_t *doc = fixture_doc(&f, REGISTRY_ROLLOUTS, id);
    snprintf(out, 24, "%s", doc_text(doc, "state"));
    *stage = doc_int(doc, "stage");
    json_decref(doc);
}

static bool is_state(const char *id, const char *wanted)
{
    char state[24];
    int64_t stage;
    state_of(id, state, &stage);
    return strcmp(state, wanted) == 0;
}

static void prepare(const char *id)
{
    for (int i = 0; i < 2400 && is_state(id, "preparing"); i++) {
        tick(0);
        usleep(50000);
    }
    CU_ASSERT_TRUE_FATAL(is_state(id, "running"));
    tick(0);
}

/* The newest plan that was sent to a device since fixture_forget; false: none. */
static bool plan_of(const struct fixture_device *d, struct message_plan *m)
{
    struct envelope envelope;
    memset(m, 0, sizeof *m);
    if (!fixture_post(&f, d->id, TOPIC_DN_PLAN, MESSAGE_PLAN, &envelope))
        return false;
    CU_ASSERT_EQUAL_FATAL(message_plan_decode(envelope.payload, envelope.payload_bytes, m), ERR_NONE);
    return true;
}

static bool command_of(const struct fixture_device *d, uint32_t verb)
{
    struct envelope envelope;
    struct message_command m = {0};
    if (!fixture_post(&f, d->id, TOPIC_DN_CMD, MESSAGE_COMMAND, &envelope))
        return false;
    CU_ASSERT_EQUAL_FATAL(message_command_decode(envelope.payload, envelope.payload_bytes, &m), ERR_NONE);
    return m.verb == verb;
}

static int commit(struct fixture_device *d)
{
    struct message_plan plan;
    if (!plan_of(d, &plan))
        return 0;
    CU_ASSERT_EQUAL(fixture_job(&f, d, &plan, JOB_ACCEPTED, 0, NULL), ERR_NONE);
    CU_ASSERT_EQUAL(fixture_job(&f, d, &plan, JOB_DERIVING, 0, NULL), ERR_NONE);
    CU_ASSERT_EQUAL(fixture_job(&f, d, &plan, JOB_COMMITTED, 0, plan.variant), ERR_NONE);
    return 1;
}

static void a_plan_says_everything(void)
{
    char id[24], why[RELEASE_WHY] = "", hex[65];
    struct message_plan m;
    struct plan *plan = NULL;
    struct fault fault = {""};
    open_all();
    CU_ASSERT_EQUAL_FATAL(deploy(recipe, id, why), ERR_NONE);
    prepare(id);
    int offered = 0;
    for (int i = 0; i < DEVICES; i++) {
        if (!plan_of(&devices[i], &m))
            continue;
        offered++;
        CU_ASSERT_STRING_EQUAL(m.device, devices[i].id);
        CU_ASSERT_STRING_EQUAL(m.fleet, FIXTURE_FLEET);
        CU_ASSERT_EQUAL(m.version, 1);
        CU_ASSERT_EQUAL(m.stage, 1);
        CU_ASSERT(m.not_after_ms > (uint64_t)f.now_ms);
        hex_encode(m.base.digest, 32, hex);
        CU_ASSERT_EQUAL(strcmp(m.base.url + 3, hex), 0);
        CU_ASSERT_EQUAL_FATAL(plan_decode(m.derivation.at, m.derivation.size, &plan, &fault), ERR_NONE);
        CU_ASSERT_STRING_EQUAL(plan->base_sha256, hex);
        hex_encode(m.variant, 32, hex);
        CU_ASSERT_STRING_EQUAL(plan->variant_sha256, hex); /* predicted */
        CU_ASSERT_EQUAL(plan->variant_bytes, m.variant_bytes);
        plan_close(plan);
    }
    CU_ASSERT_EQUAL(offered, 1); /* the canary */
    close_all();
}

/* The canary's plan of a recipe. */
static void variant_of(const char *text, char hex[65])
{
    char id[24], why[RELEASE_WHY] = "";
    struct message_plan m;
    hex[0] = 0;
    open_all();
    CU_ASSERT_EQUAL_FATAL(deploy(text, id, why), ERR_NONE);
    prepare(id);
    for (int i = 0; i < DEVICES; i++)
        if (plan_of(&devices[i], &m))
            hex_encode(m.variant, 32, hex);
    CU_ASSERT_EQUAL(strlen(hex), 64);
    close_all();
}

/* The same goal, bits dealt out by names and by what was measured on the text. */
static void sensitivity_is_measured(void)
{
    char named[65], measured[65];
    variant_of("bpw: 4.5\nmethod: rtn\ncalibration: {texts: [held-out], tokens: 64}\n", named);
    variant_of("bpw: 4.5\nmethod: rtn\ncalibration: {texts: [held-out], tokens: 64}\nsensitivity: leave-one-out\n", measured);
    CU_ASSERT_STRING_NOT_EQUAL(named, measured);
}

static void dies_at_every_step(void)
{
    char id[24], why[RELEASE_WHY] = "", state[24];
    int64_t stage = 0;
    struct message_plan m;
    open_all();
    CU_ASSERT_EQUAL_FATAL(deploy(recipe, id, why), ERR_NONE);
    die();
    tick(0); /* the workshop begins */
    die();   /* and is killed with the controller */
    prepare(id);
    die();
    int committed = 0;
    for (int i = 0; i < DEVICES; i++) {
        committed += commit(&devices[i]);
        die();
    }
    CU_ASSERT_EQUAL(committed, 1);
    fixture_forget(&f);
    tick(1);
    state_of(id, state, &stage);
    CU_ASSERT_EQUAL(stage, 1);
    for (int i = 0; i < DEVICES; i++) {
        bool was_sent = plan_of(&devices[i], &m);
        json_t *doc = fixture_doc(&f, REGISTRY_DEVICES, devices[i].id);
        CU_ASSERT_EQUAL(doc_int(doc, "plan_version"), 1); /* nobody got two */
        json_decref(doc);
        committed += was_sent;
    }
    CU_ASSERT_EQUAL(committed, DEVICES);
    for (int i = 0; i < DEVICES; i++) {
        (void)commit(&devices[i]);
        die();
        tick(0);
    }
    CU_ASSERT_TRUE(is_state(id, "done"));
    close_all();
}

static void a_bad_canary_halts_before_the_second_stage(void)
{
    char id[24], why[RELEASE_WHY] = "";
    struct message_plan m;
    open_all();
    CU_ASSERT_EQUAL_FATAL(deploy(recipe, id, why), ERR_NONE);
    prepare(id);
    for (int i = 0; i < DEVICES; i++)
        if (plan_of(&devices[i], &m))
            CU_ASSERT_EQUAL(fixture_job(&f, &devices[i], &m, JOB_FAILED, JOB_GATE_KLD, m.variant), ERR_NONE);
    fixture_forget(&f);
    for (int i = 0; i < 5; i++)
        tick(1);
    CU_ASSERT_TRUE(is_state(id, "reverted"));
    for (int i = 0; i < DEVICES; i++)
        CU_ASSERT_FALSE(plan_of(&devices[i], &m));
    close_all();
}

static void another_digest_is_refused_and_taken_back(void)
{
    char id[24], why[RELEASE_WHY] = "";
    struct message_plan m, lied = {0};
    uint8_t wrong[32];
    int liar = -1;
    open_all();
    CU_ASSERT_EQUAL_FATAL(deploy(recipe, id, why), ERR_NONE);
    prepare(id);
    for (int i = 0; i < DEVICES; i++)
        if (plan_of(&devices[i], &m)) {
            liar = i;
            lied = m;
            memcpy(wrong, m.variant, sizeof wrong);
            wrong[0] ^= 1;
            CU_ASSERT_EQUAL(fixture_job(&f, &devices[i], &m, JOB_COMMITTED, 0, wrong), ERR_NONE);
        }
    CU_ASSERT_NOT_EQUAL_FATAL(liar, -1);
    fixture_forget(&f);
    tick(1);
    CU_ASSERT_TRUE(command_of(&devices[liar], MESSAGE_REVERT));
    CU_ASSERT_TRUE(is_state(id, "reverting"));
    CU_ASSERT_EQUAL(fixture_job(&f, &devices[liar], &lied, JOB_ROLLED_BACK, JOB_REVERTED, NULL), ERR_NONE);
    tick(1);
    CU_ASSERT_TRUE(is_state(id, "reverted"));
    close_all();
}

/* Below the threshold the rollout goes on, but the one with another digest does not keep its variant. */
static void one_liar_among_many_is_withdrawn_alone(void)
{
    char id[24], why[RELEASE_WHY] = "";
    struct message_plan m;
    uint8_t wrong[32];
    int liar = -1;
    open_all();
    CU_ASSERT_EQUAL_FATAL(deploy(recipe, id, why), ERR_NONE);
    prepare(id);
    for (int i = 0; i < DEVICES; i++)
        (void)commit(&devices[i]);
    fixture_forget(&f);
    tick(1);
    for (int i = 0; i < DEVICES; i++) {
        if (!plan_of(&devices[i], &m))
            continue;
        if (liar >= 0) {
            (void)commit(&devices[i]);
            continue;
        }
        liar = i;
        memcpy(wrong, m.variant, sizeof wrong);
        wrong[31] ^= 1;
        CU_ASSERT_EQUAL(fixture_job(&f, &devices[i], &m, JOB_STAGED, 0, wrong), ERR_NONE);
    }
    fixture_forget(&f);
    tick(1);
    CU_ASSERT_TRUE_FATAL(liar >= 0);
    CU_ASSERT_TRUE(command_of(&devices[liar], MESSAGE_CANCEL));
    CU_ASSERT_TRUE(is_state(id, "done"));
    for (int i = 0; i < DEVICES; i++)
        CU_ASSERT(i == liar || !command_of(&devices[i], MESSAGE_REVERT));
    fixture_forget(&f);
    tick(1);
    CU_ASSERT_FALSE(command_of(&devices[liar], MESSAGE_CANCEL)); /* said once, kept for it to pull */
    close_all();
}

static void reports_out_of_order_do_not_set_back(void)
{
    char id[24], why[RELEASE_WHY] = "", key[JOBRECORD_KEY];
    struct message_plan m;
    open_all();
    CU_ASSERT_EQUAL_FATAL(deploy(recipe, id, why), ERR_NONE);
    prepare(id);
    for (int i = 0; i < DEVICES; i++) {
        struct fixture_device *d = &devices[i];
        if (!plan_of(d, &m))
            continue;
        d->seq[MESSAGE_STREAM_JOB] = 2;
        CU_ASSERT_EQUAL(fixture_job(&f, d, &m, JOB_COMMITTED, 0, m.variant), ERR_NONE);
        CU_ASSERT_EQUAL(fixture_acked(&f, d, MESSAGE_STREAM_JOB), 0); /* 1 and 2 are missing */
        d->seq[MESSAGE_STREAM_JOB] = 0;
        CU_ASSERT_EQUAL(fixture_job(&f, d, &m, JOB_ACCEPTED, 0, NULL), ERR_NONE);
        CU_ASSERT_EQUAL(fixture_job(&f, d, &m, JOB_DERIVING, 0, NULL), ERR_NONE);
        CU_ASSERT_EQUAL(fixture_acked(&f, d, MESSAGE_STREAM_JOB), 3);
        d->seq[MESSAGE_STREAM_JOB] = 2;
        CU_ASSERT_EQUAL(fixture_job(&f, d, &m, JOB_COMMITTED, 0, m.variant), ERR_STALE);
        jobrecord_key(id, d->id, key);
        json_t *job = fixture_doc(&f, REGISTRY_JOBS, key);
        CU_ASSERT_STRING_EQUAL(doc_text(job, "phase"), "committed");
        json_decref(job);
    }
    close_all();
}

static void silence_halts_and_the_halt_reaches_the_silent(void)
{
    char id[24], why[RELEASE_WHY] = "";
    struct message_plan m;
    int canary = -1;
    open_all();
    CU_ASSERT_EQUAL_FATAL(deploy(recipe, id, why), ERR_NONE);
    prepare(id);
    for (int i = 0; i < DEVICES; i++)
        if (plan_of(&devices[i], &m)) {
            canary = i;
            CU_ASSERT_EQUAL(fixture_job(&f, &devices[i], &m, JOB_DERIVING, 0, NULL), ERR_NONE);
        }
    fixture_forget(&f);
    tick(59);
    CU_ASSERT_TRUE(is_state(id, "running"));
    tick(5);
    CU_ASSERT_TRUE(is_state(id, "reverting"));
    CU_ASSERT_TRUE(canary >= 0 && command_of(&devices[canary], MESSAGE_CANCEL));
    close_all();
}

static void refuses_what_cannot_be_deployed(void)
{
    static const struct {
        const char *text;
        enum err e;
    } table[] = {{"mode: nonsense\n", ERR_FORMAT},
                 {"mode: balanced\nunknown: 1\n", ERR_FORMAT},
                 {"mode: balanced\nrollout: {stages: [50, 20, 100]}\n", ERR_FORMAT},
                 {"mode: balanced\nbase: "
                  "0000000000000000000000000000000000000000000000000000000000000000\n",
                  ERR_MISMATCH},
                 {"mode: balanced\nsensitivity: leave-one-out\n", ERR_ARGUMENT},
                 {"mode: balanced\ncalibration: {profile: absent.gguf}\n", ERR_NOT_FOUND},
                 {"mode: balanced\ncalibration: {texts: [absent.txt]}\n", ERR_NOT_FOUND}};
    char id[24], why[RELEASE_WHY];
    open_all();
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        CU_ASSERT_EQUAL(deploy(table[i].text, id, why), table[i].e);
        CU_ASSERT(strlen(why) > 8);
    }
    CU_ASSERT_EQUAL(fixture_count(&f, REGISTRY_ROLLOUTS), 0);
    CU_ASSERT_EQUAL(deploy(recipe, id, why), ERR_NONE);
    CU_ASSERT_EQUAL(deploy(recipe, id, why), ERR_STALE); /* the devices are taken */
    close_all();
}

RUN_SUITE("release", {"a plan says everything", a_plan_says_everything},
          {"sensitivity is measured", sensitivity_is_measured},
          {"dies at every step", dies_at_every_step},
          {"a bad canary halts before the second stage", a_bad_canary_halts_before_the_second_stage},
          {"another digest is refused and taken back", another_digest_is_refused_and_taken_back},
          {"one liar among many is withdrawn alone", one_liar_among_many_is_withdrawn_alone},
          {"reports out of order do not set back", reports_out_of_order_do_not_set_back},
          {"silence halts, and the halt reaches the silent", silence_halts_and_the_halt_reaches_the_silent},
          {"refuses what cannot be deployed", refuses_what_cannot_be_deployed})
