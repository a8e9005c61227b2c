/* agent_fixture.c: see agent_fixture.h. */
#include "agent_fixture.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agent/log.h"
#include "agent/slots.h"
#include "agent/worker.h"
#include "protocol/envelope.h"

static void must(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "fixture: %s\n", what);
    abort();
}

void fixture_open(struct fixture *f)
{
    memset(f, 0, sizeof *f);
    log_set_level(getenv("VERBOSE") ? LOG_LEVEL_DEBUG : 0);
    snprintf(f->folder, sizeof f->folder, "/tmp/tare-agent-test.XXXXXX");
    must(mkdtemp(f->folder) != NULL, "mkdtemp");
    struct settings *s = &f->settings;
    strcpy(s->fleet, "demo");
    strcpy(s->state, f->folder);
    strcpy(s->controller_url, "http://127.0.0.1:1");
    strcpy(s->listen_address, "127.0.0.1");
    s->poll_s = 60;
    s->trial_attempts = 3;
    s->hang_s = 60;
    s->sequences = 2;
    s->context = 64;
    s->queue = 2;
    s->telemetry_s = 60;
    s->calibration_s = 3600;
    s->ring_bytes = 1 << 20;
    must(identity_load(f->folder, &f->identity) == ERR_NONE, "identity");
    must(keys_generate(&f->director) == ERR_NONE, "director");
    memcpy(f->keys.director[0], f->director.public_key, 32);
    f->keys.directors = 1;
    must(loop_open(&f->loop) == ERR_NONE, "loop");
    must(slots_prepare(f->folder) == ERR_NONE, "folders");
    worker_set_program(BUILD_DIR "/bin/stub_worker");
}

static int delete_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

void fixture_close(struct fixture *f)
{
    static const char *const variables[] = {"STUB_FETCH", "STUB_VERIFY", "STUB_DERIVE", "STUB_SELFTEST", "STUB_SERVE",
                                            "STUB_BENCH", "STUB_SHADOW", "STUB_PROBE",  "STUB_ONCE",     "STUB_KLD",
                                            "STUB_DECODE", "STUB_DIGEST", "STUB_DIE_AT", "STUB_TOKEN_MS", "STUB_CANCELS",
                                            "STUB_GATE"};
    for (size_t i = 0; i < sizeof variables / sizeof variables[0]; i++)
        unsetenv(variables[i]);
    loop_close(f->loop);
    nftw(f->folder, delete_one, 16, FTW_DEPTH | FTW_PHYS);
}

void fixture_plan(const struct fixture *f, uint64_t version, struct message_plan *p)
{
    memset(p, 0, sizeof *p);
    p->schema = MESSAGE_SCHEMA;
    strcpy(p->fleet, f->settings.fleet);
    strcpy(p->device, f->identity.id);
    memset(p->plan_id, (int)version & 0x7f, sizeof p->plan_id);
    p->plan_id[0] = 1;
    p->version = version;
    p->rollout = 1;
    p->stage = 1;
    p->not_after_ms = ((uint64_t)time(NULL) + 3600) * 1000;
    memset(p->nonce, 3, sizeof p->nonce);
    memset(p->recipe, 5, sizeof p->recipe);
    memset(p->base.digest, 0x11, 32);
    p->base.bytes = 7;
    memset(p->text.digest, 0x22, 32);
    p->text.bytes = 3;
    p->method = MESSAGE_METHOD_RTN;
    p->derivation = (struct message_blob){(const uint8_t *)"\x80", 1};
    p->gates.kld_mean = 0.05f;
    memset(p->variant, 0x44, 32);
    p->variant_bytes = 5;
}

size_t fixture_sign(const struct fixture *f, uint32_t type, const uint8_t *payload, size_t bytes, uint8_t *out,
                    size_t capacity)
{
    size_t size = 0;
    must(envelope_sign(f->director.secret_key, f->settings.fleet, ENVELOPE_DIRECTOR, type, payload, bytes, out,
                       capacity, &size) == ERR_NONE,
         "sign");
    return size;
}

size_t fixture_sign_plan(const struct fixture *f, const struct message_plan *plan, uint8_t *out, size_t capacity)
{
    uint8_t payload[4096];
    size_t bytes;
    must(message_plan_encode(plan, payload, sizeof payload, &bytes) == ERR_NONE, "plan");
    return fixture_sign(f, MESSAGE_PLAN, payload, bytes, out, capacity);
}

bool fixture_wait(struct fixture *f, int ms, bool (*done)(void *context), void *context)
{
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (;;) {
        if (done(context))
            return true;
        clock_gettime(CLOCK_MONOTONIC, &b);
        int64_t left = ms - ((b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000);
        if (left <= 0)
            return false;
        if (loop_once(f->loop, left < 20 ? (int)left : 20))
            return false;
    }
}

const char *fixture_link(struct fixture *f, const char *file)
{
    static char path[300];
    snprintf(path, sizeof path, "%s/linked.gguf", f->folder);
    if (symlink(file, path) != 0 && errno != EEXIST)
        path[0] = 0;
    return path;
}
