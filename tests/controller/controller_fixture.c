/* controller_fixture.c: see the header. */
#include "tests/controller/controller_fixture.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void open_controller(struct fixture *f)
{
    char why[300] = "";
    enum err e = controller_open(&f->settings, &f->c, why, sizeof why);
    if (e)
        fprintf(stderr, "%s\n", why);
    CU_ASSERT_EQUAL_FATAL(e, ERR_NONE);
}

void fixture_open(struct fixture *f)
{
    char ini[96], why[300] = "";
    memset(f, 0, sizeof *f);
    snprintf(f->folder, sizeof f->folder, "/tmp/tare-controller-XXXXXX");
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(f->folder));
    snprintf(ini, sizeof ini, "%s/controller.ini", f->folder);
    FILE *file = fopen(ini, "w");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    fprintf(file,
            "[fleet]\nid = " FIXTURE_FLEET "\n[controller]\nstate = %s/state\nmap_mib = 8\n"
            "[broker]\ntls = no\n[http]\nport = 0\n[artifacts]\nport = 0\n"
            "[telemetry]\nrecords_per_device = 500\n",
            f->folder);
    fclose(file);
    enum err e = controller_settings_load(ini, &f->settings, why, sizeof why);
    if (e)
        fprintf(stderr, "%s\n", why);
    CU_ASSERT_EQUAL_FATAL(e, ERR_NONE);
    f->now_ms = 1700000000000;
    CU_ASSERT_EQUAL_FATAL(posts_open(&f->posts), ERR_NONE);
    open_controller(f);
}

void fixture_reopen(struct fixture *f)
{
    controller_close(f->c);
    open_controller(f);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

void fixture_close(struct fixture *f)
{
    controller_close(f->c);
    posts_close(f->posts);
    (void)nftw(f->folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

void fixture_forget(struct fixture *f)
{
    posts_close(f->posts);
    CU_ASSERT_EQUAL_FATAL(posts_open(&f->posts), ERR_NONE);
}

void fixture_device(struct fixture_device *d, uint8_t number)
{
    uint8_t seed[32];
    memset(d, 0, sizeof *d);
    memset(seed, number, sizeof seed);
    keys_from_seed(seed, &d->keys);
    keys_id_hex(d->keys.public_key, d->id);
    d->epoch = 1;
}

enum err fixture_raw(struct fixture *f, const char *topic, bool is_retained, const uint8_t *bytes,
                     size_t size)
{
    struct ingest *i = NULL;
    CU_ASSERT_EQUAL_FATAL(ingest_begin(f->c, &i), ERR_NONE);
    enum err e = ingest_apply(i, topic, is_retained, bytes, size, f->now_ms);
    CU_ASSERT_EQUAL(e, ERR_NONE);
    enum err last = ingest_last(i);
    CU_ASSERT_EQUAL(ingest_commit(i, f->now_ms, f->posts), ERR_NONE);
    return last;
}

enum err fixture_say(struct fixture *f, const struct fixture_device *d, uint32_t kind, uint32_t type,
                     const uint8_t *payload, size_t size)
{
    static uint8_t envelope[ENVELOPE_MAX];
    char topic[TOPIC_MAX];
    size_t bytes = 0;
    CU_ASSERT_EQUAL_FATAL(envelope_sign(d->keys.secret_key, FIXTURE_FLEET, ENVELOPE_DEVICE, type, payload,
                                        size, envelope, sizeof envelope, &bytes),
                          ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(topic_encode(FIXTURE_FLEET, d->id, kind, topic), ERR_NONE);
    return fixture_raw(f, topic, false, envelope, bytes);
}

enum err fixture_birth(struct fixture *f, struct fixture_device *d, const char *name)
{
    static uint8_t payload[MESSAGE_MAX];
    struct message_birth m = {.epoch = d->epoch, .agent_number = 1000, .newest_plan = 0};
    size_t size = 0;
    memcpy(m.public_key, d->keys.public_key, 32);
    snprintf(m.agent_version, sizeof m.agent_version, "0.1.0");
    snprintf(m.name, sizeof m.name, "%s", name);
    snprintf(m.probe.arch, sizeof m.probe.arch, "x86_64");
    snprintf(m.active_plugin, sizeof m.active_plugin, "scalar");
    m.probe.cores = 2;
    m.probe.memory_bytes = UINT64_C(1) << 30;
    CU_ASSERT_EQUAL_FATAL(message_birth_encode(&m, payload, sizeof payload, &size), ERR_NONE);
    return fixture_say(f, d, TOPIC_UP_BIRTH, MESSAGE_BIRTH, payload, size);
}

enum err fixture_job(struct fixture *f, struct fixture_device *d, const struct message_plan *plan,
                     uint32_t state, uint32_t code, const uint8_t variant[32])
{
    uint8_t payload[2048];
    size_t size = 0;
    struct message_job m = {.epoch = d->epoch, .seq = ++d->seq[MESSAGE_STREAM_JOB], .state = state,
                            .code = code, .attempt = 1, .plan_version = plan->version};
    memcpy(m.plan_id, plan->plan_id, sizeof m.plan_id);
    if (variant) {
        memcpy(m.variant, variant, sizeof m.variant);
        m.measured.kld_mean = 0.01f;
        m.measured.decode_tok_s = 50;
        m.measured.variant_bytes = 1000;
    }
    CU_ASSERT_EQUAL_FATAL(message_job_encode(&m, payload, sizeof payload, &size), ERR_NONE);
    return fixture_say(f, d, TOPIC_UP_JOB, MESSAGE_JOB, payload, size);
}

enum err fixture_batch(struct fixture *f, const struct fixture_device *d, uint64_t first, uint32_t count)
{
    static uint8_t payload[MESSAGE_MAX], bytes[64][256];
    struct message_blob blobs[64];
    struct message_batch m = {.epoch = d->epoch, .first = first, .record = blobs, .records = count};
    size_t size = 0;
    for (uint32_t k = 0; k < count && k < 64; k++) {
        struct message_record *r = calloc(1, sizeof *r);
        r->kind = MESSAGE_RECORD_EVENT;
        r->time_ms = (uint64_t)f->now_ms;
        snprintf(r->of.event.name, sizeof r->of.event.name, "test");
        r->of.event.value = first + k;
        CU_ASSERT_EQUAL_FATAL(message_record_encode(r, bytes[k], sizeof bytes[k], &size), ERR_NONE);
        blobs[k] = (struct message_blob){bytes[k], size};
        free(r);
    }
    CU_ASSERT_EQUAL_FATAL(message_batch_encode(&m, payload, sizeof payload, &size), ERR_NONE);
    return fixture_say(f, d, TOPIC_UP_TEL, MESSAGE_BATCH, payload, size);
}

void fixture_approve(struct fixture *f, const struct fixture_device *d)
{
    struct registry_txn *t = NULL;
    json_t *doc = NULL;
    CU_ASSERT_EQUAL_FATAL(registry_begin(f->c->registry, true, &t), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(registry_get_doc(t, REGISTRY_DEVICES, d->id, &doc), ERR_NONE);
    doc_set_text(doc, "status", "approved");
    CU_ASSERT_EQUAL_FATAL(registry_put_doc(t, REGISTRY_DEVICES, d->id, doc), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(registry_commit(t), ERR_NONE);
    json_decref(doc);
}

bool fixture_post(const struct fixture *f, const char *device, uint32_t kind, uint32_t type,
                  struct envelope *out)
{
    char wanted[TOPIC_MAX];
    bool is_found = false;
    CU_ASSERT_EQUAL_FATAL(topic_encode(FIXTURE_FLEET, device, kind, wanted), ERR_NONE);
    for (size_t i = 0; i < posts_count(f->posts); i++) {
        const char *topic = NULL;
        size_t size = 0;
        const uint8_t *bytes = posts_get(f->posts, i, &topic, &size);
        if (strcmp(topic, wanted) != 0)
            continue;
        CU_ASSERT_EQUAL_FATAL(envelope_open(bytes, size, f->c->director.public_key, FIXTURE_FLEET,
                                            ENVELOPE_DIRECTOR, type, out),
                              ERR_NONE);
        is_found = true;
    }
    return is_found;
}

uint64_t fixture_acked(const struct fixture *f, const struct fixture_device *d, uint32_t stream)
{
    struct envelope envelope;
    struct message_ack ack = {0};
    if (!fixture_post(f, d->id, TOPIC_DN_ACK, MESSAGE_ACK, &envelope))
        return 0;
    CU_ASSERT_EQUAL_FATAL(message_ack_decode(envelope.payload, envelope.payload_bytes, &ack), ERR_NONE);
    CU_ASSERT_EQUAL(ack.epoch, d->epoch);
    return ack.seq[stream];
}

json_t *fixture_doc(const struct fixture *f, enum registry_table table, const char *key)
{
    struct registry_txn *t = NULL;
    json_t *doc = NULL;
    CU_ASSERT_EQUAL_FATAL(registry_begin(f->c->registry, false, &t), ERR_NONE);
    (void)!registry_get_doc(t, table, key, &doc);
    registry_abort(t);
    return doc;
}

size_t fixture_count(const struct fixture *f, enum registry_table table)
{
    struct registry_txn *t = NULL;
    size_t count = 0;
    CU_ASSERT_EQUAL_FATAL(registry_begin(f->c->registry, false, &t), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(registry_count(t, table, &count), ERR_NONE);
    registry_abort(t);
    return count;
}
