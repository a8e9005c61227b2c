/* recompress_test.c: traffic that moves: from statistics of devices to a new profile, plan and rollout. */
#include "tests/controller/controller_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compress/plan.h"
#include "controller/catalogue.h"
#include "controller/drift.h"
#include "controller/release.h"
#include "controller/workshop.h"
#include "model/gguf.h"
#include "protocol/hex.h"

enum { DEVICES = 3, TENSORS = 8, COLS = 256 };

static struct fixture f;
static struct fixture_device devices[DEVICES];
static char tensor[TENSORS][64];
static uint32_t cols[TENSORS];

static const char recipe[] = "name: moved\ntype: q4_k\nmethod: search\n"
                             "rollout: {stages: [34, 100], threshold: 0.3, minimum_sample: 1, "
                             "deadline_s: 60, trial_s: 1}\n";

/* Energy of a channel, for the profile (turn 0) and for traffic that has turned to other channels. */
static float energy(uint32_t channel, uint32_t of, uint32_t turn)
{
    uint32_t at = (channel + turn * of / 2) % of;
    return at < of / 8 ? 50.0f : 1.0f;
}

static void pick_tensors(void)
{
    struct gguf *g = NULL;
    char reason[GGUF_REASON_BYTES];
    uint32_t n = 0;
    CU_ASSERT_EQUAL_FATAL(gguf_open(SOURCE_DIR "/models/tare-tiny/tare-tiny-f16.gguf", &g, reason), ERR_NONE);
    for (uint32_t i = 0; i < gguf_tensors(g) && n < TENSORS; i++) {
        const struct gguf_tensor *t = gguf_tensor(g, i);
        if (!strstr(t->name, "ffn_") || strstr(t->name, "norm"))
            continue;
        snprintf(tensor[n], sizeof tensor[n], "%.60s", t->name);
        cols[n++] = (uint32_t)t->shape[0];
    }
    CU_ASSERT_EQUAL_FATAL(n, TENSORS);
    gguf_close(g);
}

static void make_profile(const char *path)
{
    struct profile *p = NULL;
    struct fault fault;
    CU_ASSERT_EQUAL_FATAL(profile_open(&p), ERR_NONE);
    for (uint32_t i = 0; i < TENSORS; i++) {
        struct profile_entry *e = NULL;
        CU_ASSERT_EQUAL_FATAL(profile_entry_get(p, tensor[i], cols[i], 1, &e), ERR_NONE);
        for (uint32_t j = 0; j < cols[i]; j++)
            e->sum2[j] = 1000.0 * (double)energy(j, cols[i], 0);
        e->count[0] = 1000;
    }
    p->chunks = 2;
    p->chunk_size = 500;
    CU_ASSERT_EQUAL_FATAL(profile_save(p, path, NULL, &fault), ERR_NONE);
    profile_close(p);
}

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

static void open_all(void)
{
    char path[96];
    fixture_open(&f);
    f.c->settings.drift_interval_s = 600;
    CU_ASSERT_EQUAL_FATAL(workshop_open(f.c, BUILD_DIR "/bin/tare-controller", &f.c->workshop), ERR_NONE);
    for (uint8_t i = 0; i < DEVICES; i++) {
        fixture_device(&devices[i], (uint8_t)(i + 30));
        CU_ASSERT_EQUAL(fixture_birth(&f, &devices[i], "d"), ERR_NONE);
        fixture_approve(&f, &devices[i]);
    }
    pick_tensors();
    snprintf(path, sizeof path, "%s/profile.gguf", f.folder);
    make_profile(path);
    add_file(SOURCE_DIR "/models/tare-tiny/tare-tiny-f16.gguf", "tiny");
    add_file(path, "profile");
}

static void close_all(void)
{
    workshop_close(f.c->workshop);
    f.c->workshop = NULL;
    fixture_close(&f);
}

static bool is_state(const char *id, const char *wanted)
{
    json_t *doc = fixture_doc(&f, REGISTRY_ROLLOUTS, id);
    bool is_it = strcmp(doc_text(doc, "state"), wanted) == 0;
    json_decref(doc);
    return is_it;
}

/* Tick, and let every device that gets a plan commit it, until the rollout is done. */
static void carry_through(const char *id)
{
    for (int i = 0; i < 2400 && !is_state(id, "done"); i++) {
        struct registry_txn *t = NULL;
        bool is_busy = false;
        CU_ASSERT_EQUAL(workshop_tick(f.c->workshop, f.now_ms / 1000, &is_busy), ERR_NONE);
        CU_ASSERT_EQUAL_FATAL(registry_begin(f.c->registry, true, &t), ERR_NONE);
        CU_ASSERT_EQUAL(release_tick(f.c, t, f.now_ms, f.posts), ERR_NONE);
        CU_ASSERT_EQUAL(registry_commit(t), ERR_NONE);
        for (int k = 0; k < DEVICES; k++) {
            struct envelope envelope;
            struct message_plan m = {0};
            if (!fixture_post(&f, devices[k].id, TOPIC_DN_PLAN, MESSAGE_PLAN, &envelope))
                continue;
            CU_ASSERT_EQUAL_FATAL(message_plan_decode(envelope.payload, envelope.payload_bytes, &m),
                                  ERR_NONE);
            CU_ASSERT_EQUAL(fixture_job(&f, &devices[k], &m, JOB_COMMITTED, 0, m.variant), ERR_NONE);
        }
        fixture_forget(&f);
        if (is_busy)
            usleep(50000);
    }
    CU_ASSERT_TRUE_FATAL(is_state(id, "done"));
}

static void say_window(struct fixture_device *d, const char *variant, uint64_t window, uint32_t turn)
{
    static uint8_t payload[MESSAGE_MAX];
    static struct message_sums m;
    static uint8_t raw[TENSORS][4 * 4096];
    size_t size = 0;
    memset(&m, 0, sizeof m);
    m.epoch = d->epoch;
    m.seq = ++d->seq[MESSAGE_STREAM_CAL];
    m.window = window;
    m.chunk = m.chunks = 1;
    m.tokens = 400;
    memset(m.base, 1, 32);
    CU_ASSERT_EQUAL_FATAL(hex_decode(variant, 64, m.variant, 32), ERR_NONE);
    m.sums = TENSORS;
    for (uint32_t i = 0; i < TENSORS; i++) {
        CU_ASSERT_FATAL(cols[i] <= 4096);
        for (uint32_t j = 0; j < cols[i]; j++) {
            float square = 400.0f * energy(j, cols[i], turn);
            memcpy(raw[i] + 4 * j, &square, 4);
        }
        snprintf(m.sum[i].name, sizeof m.sum[i].name, "%.63s", tensor[i]);
        m.sum[i].channels = cols[i];
        m.sum[i].rows = 400;
        m.sum[i].squares = (struct message_blob){raw[i], 4 * cols[i]};
    }
    CU_ASSERT_EQUAL_FATAL(message_sums_encode(&m, payload, sizeof payload, &size), ERR_NONE);
    CU_ASSERT_EQUAL(fixture_say(&f, d, TOPIC_UP_CAL, MESSAGE_SUMS, payload, size), ERR_NONE);
}

static void variant_of(const struct fixture_device *d, char out[65])
{
    json_t *doc = fixture_doc(&f, REGISTRY_DEVICES, d->id);
    snprintf(out, 65, "%s", doc_text(doc, "variant"));
    json_decref(doc);
}

static void look(void)
{
    f.now_ms += 10000;
    CU_ASSERT_EQUAL(drift_tick(f.c, f.now_ms / 1000), ERR_NONE);
}

static void recompresses_the_device_that_moved(void)
{
    struct registry_txn *t = NULL;
    json_t *made = NULL;
    char why[RELEASE_WHY] = "", before[65], after[65], still[65];
    struct release_request request = {.recipe = recipe, .model = "tiny", .profile = "profile", .text = "",
                                      .name = "", .trigger = "operator"};
    open_all();
    CU_ASSERT_EQUAL_FATAL(registry_begin(f.c->registry, true, &t), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(release_create(f.c, t, &request, f.now_ms / 1000, &made, why), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(registry_commit(t), ERR_NONE);
    json_decref(made);
    carry_through("1");
    variant_of(&devices[0], before);
    CU_ASSERT_EQUAL_FATAL(strlen(before), 64);

    for (uint64_t w = 1; w <= 6; w++) { /* what it was made for: nothing happens */
        for (int k = 0; k < DEVICES; k++)
            say_window(&devices[k], before, w, 0);
        look();
    }
    CU_ASSERT_EQUAL(fixture_count(&f, REGISTRY_ROLLOUTS), 1);
    for (uint64_t w = 7; w <= 12; w++) { /* one device turns to other channels */
        for (int k = 0; k < DEVICES; k++)
            say_window(&devices[k], before, w, k == 0);
        look();
    }
    CU_ASSERT_EQUAL_FATAL(fixture_count(&f, REGISTRY_ROLLOUTS), 2); /* once, however long it lasts */
    json_t *doc = fixture_doc(&f, REGISTRY_ROLLOUTS, "2");
    CU_ASSERT_STRING_EQUAL(doc_text(doc, "trigger"), "drift");
    CU_ASSERT_EQUAL(json_array_size(json_object_get(doc, "cohort")), 1);
    CU_ASSERT_STRING_EQUAL(json_string_value(json_array_get(json_object_get(doc, "cohort"), 0)),
                           devices[0].id);
    CU_ASSERT(json_array_size(json_object_get(doc, "raise")) > 0); /* more bits where it hurts */
    json_decref(doc);
    carry_through("2");
    variant_of(&devices[0], after);
    variant_of(&devices[1], still);
    CU_ASSERT_STRING_NOT_EQUAL(after, before);
    CU_ASSERT_STRING_EQUAL(still, before);
    for (uint64_t w = 13; w <= 20; w++) { /* the new profile knows this traffic: it is calm */
        say_window(&devices[0], after, w, 1);
        look();
    }
    CU_ASSERT_EQUAL(fixture_count(&f, REGISTRY_ROLLOUTS), 2);
    doc = fixture_doc(&f, REGISTRY_DRIFT, devices[0].id);
    CU_ASSERT(doc_real(doc, "score") < f.c->settings.drift_limit);
    json_decref(doc);
    close_all();
}

static void recalibrates_on_request(void)
{
    struct registry_txn *t = NULL;
    json_t *made = NULL;
    char why[DRIFT_WHY] = "", variant[65];
    struct release_request request = {.recipe = recipe, .model = "tiny", .profile = "profile", .text = "",
                                      .name = "", .trigger = "operator"};
    open_all();
    CU_ASSERT_EQUAL(drift_recalibrate(f.c, "1", 1, &made, why), ERR_NOT_FOUND);
    CU_ASSERT_EQUAL_FATAL(registry_begin(f.c->registry, true, &t), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(release_create(f.c, t, &request, f.now_ms / 1000, &made, why), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(registry_commit(t), ERR_NONE);
    json_decref(made);
    carry_through("1");
    CU_ASSERT_EQUAL(drift_recalibrate(f.c, "1", 1, &made, why), ERR_NOT_FOUND); /* no statistics yet */
    CU_ASSERT_PTR_NOT_NULL(strstr(why, "statistics"));
    variant_of(&devices[1], variant);
    say_window(&devices[1], variant, 1, 1);
    CU_ASSERT_EQUAL_FATAL(drift_recalibrate(f.c, "1", 1, &made, why), ERR_NONE);
    CU_ASSERT_EQUAL(json_array_size(json_object_get(made, "cohort")), DEVICES);
    json_decref(made);
    CU_ASSERT_EQUAL(drift_recalibrate(f.c, "1", 1, &made, why), ERR_STALE); /* one at a time */
    carry_through("2");
    close_all();
}

static void waits_for_the_approvals_it_asks_for(void)
{
    struct registry_txn *t = NULL;
    json_t *made = NULL;
    char why[RELEASE_WHY] = "";
    static const char text[] = "name: two\ntype: q4_0\nmethod: rtn\nrollout: {stages: [100], approvals: 2}\n";
    struct release_request request = {.recipe = text, .model = "tiny", .profile = "", .text = "",
                                      .name = "", .trigger = "operator"};
    open_all();
    CU_ASSERT_EQUAL_FATAL(registry_begin(f.c->registry, true, &t), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(release_create(f.c, t, &request, f.now_ms / 1000, &made, why), ERR_NONE);
    json_decref(made);
    CU_ASSERT_EQUAL(release_approve(t, "1", "ann", 1, &made, why), ERR_NONE);
    json_decref(made);
    CU_ASSERT_EQUAL(release_approve(t, "1", "ann", 1, &made, why), ERR_ARGUMENT); /* counts once */
    CU_ASSERT_EQUAL_FATAL(registry_commit(t), ERR_NONE);
    for (int i = 0; i < 400; i++) {
        bool is_busy = false;
        CU_ASSERT_EQUAL(workshop_tick(f.c->workshop, f.now_ms / 1000, &is_busy), ERR_NONE);
        usleep(50000);
        json_t *doc = fixture_doc(&f, REGISTRY_ROLLOUTS, "1");
        bool is_prepared = doc_bool(doc, "prepared");
        json_decref(doc);
        if (is_prepared)
            break;
    }
    CU_ASSERT_TRUE(is_state("1", "preparing"));
    CU_ASSERT_EQUAL_FATAL(registry_begin(f.c->registry, true, &t), ERR_NONE);
    CU_ASSERT_EQUAL(release_approve(t, "1", "bob", 1, &made, why), ERR_NONE);
    json_decref(made);
    CU_ASSERT_EQUAL_FATAL(registry_commit(t), ERR_NONE);
    CU_ASSERT_TRUE(is_state("1", "running"));
    carry_through("1");
    close_all();
}

RUN_SUITE("recompress", {"recompresses the device that moved", recompresses_the_device_that_moved},
          {"recalibrates on request", recalibrates_on_request},
          {"waits for the approvals it asks for", waits_for_the_approvals_it_asks_for})
