#include "harness.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/store.h"
#include "agent_fixture.h"
#include "protocol/message.h"

static enum err put(struct store *s, const char *key, uint64_t value, bool commits)
{
    struct store_txn *t;
    enum err e = store_begin(s, true, &t);
    if (e)
        return e;
    e = store_put_u64(t, key, value);
    if (commits && !e)
        return store_commit(t);
    store_abort(t);
    return e;
}

static uint64_t get(struct store *s, const char *key)
{
    struct store_txn *t;
    uint64_t v = UINT64_MAX;
    if (store_begin(s, false, &t) == ERR_NONE) {
        if (store_get_u64(t, key, &v))
            v = UINT64_MAX;
        store_abort(t);
    }
    return v;
}

static void test_epoch(void)
{
    struct fixture f;
    struct store *s, *second;
    fixture_open(&f);
    for (uint64_t i = 1; i < 4; i++) {
        CU_ASSERT_EQUAL_FATAL(store_open(f.folder, &s), ERR_NONE);
        CU_ASSERT_EQUAL(store_epoch(s), i);
        CU_ASSERT_EQUAL(store_open(f.folder, &second), ERR_IO); /* one agent per identity */
        CU_ASSERT_EQUAL(put(s, "a", i, true), ERR_NONE);
        CU_ASSERT_EQUAL(put(s, "b", i, false), ERR_NONE);
        CU_ASSERT_EQUAL(get(s, "a"), i);
        CU_ASSERT_EQUAL(get(s, "b"), 0);
        store_close(s);
    }
    fixture_close(&f);
}

static void post(struct store *s, uint32_t stream, uint32_t count)
{
    struct store_txn *t;
    uint64_t seq;
    CU_ASSERT_FATAL(store_begin(s, true, &t) == ERR_NONE);
    for (uint32_t i = 0; i < count; i++) {
        CU_ASSERT_FATAL(store_next_seq(t, stream, &seq) == ERR_NONE);
        CU_ASSERT_FATAL(store_post(t, stream, seq, &seq, sizeof seq) == ERR_NONE);
    }
    CU_ASSERT_EQUAL(store_post(t, stream, seq, &seq, sizeof seq), ERR_ARGUMENT);
    CU_ASSERT_FATAL(store_commit(t) == ERR_NONE);
}

/* Counts what waits of a stream, checking order. */
static uint32_t walk(struct store *s, uint32_t stream)
{
    struct store_txn *t;
    struct store_report r;
    uint64_t epoch = 0, seq = 0;
    uint32_t n = 0;
    CU_ASSERT_FATAL(store_begin(s, false, &t) == ERR_NONE);
    while (store_next_report(t, stream, epoch, seq, &r) == ERR_NONE) {
        CU_ASSERT(r.epoch > epoch || r.seq > seq);
        CU_ASSERT_EQUAL(r.stream, stream);
        CU_ASSERT(r.size == 8 && memcmp(r.bytes, &r.seq, 8) == 0);
        epoch = r.epoch;
        seq = r.seq;
        n++;
    }
    store_abort(t);
    return n;
}

static void test_outbox(void)
{
    struct fixture f;
    struct store *s;
    struct store_txn *t;
    uint32_t count;
    fixture_open(&f);
    CU_ASSERT_FATAL(store_open(f.folder, &s) == ERR_NONE);
    post(s, MESSAGE_STREAM_JOB, 5);
    post(s, MESSAGE_STREAM_BENCH, 2);
    store_close(s);
    CU_ASSERT_FATAL(store_open(f.folder, &s) == ERR_NONE);
    post(s, MESSAGE_STREAM_JOB, 3); /* from 1 again, in epoch 2 */
    CU_ASSERT_EQUAL(walk(s, MESSAGE_STREAM_JOB), 8);
    CU_ASSERT_EQUAL(walk(s, MESSAGE_STREAM_BENCH), 2);
    CU_ASSERT_FATAL(store_begin(s, true, &t) == ERR_NONE);
    CU_ASSERT_EQUAL(store_acknowledge(t, MESSAGE_STREAM_JOB, 1, 4, &count), ERR_NONE);
    CU_ASSERT_EQUAL(count, 4);
    CU_ASSERT_EQUAL(store_acknowledge(t, MESSAGE_STREAM_JOB, 2, 1, &count), ERR_NONE);
    CU_ASSERT_EQUAL(count, 1);
    CU_ASSERT_EQUAL(store_acknowledge(t, MESSAGE_STREAM_JOB, 9, 100, &count), ERR_NONE);
    CU_ASSERT_EQUAL(count, 0);
    CU_ASSERT_FATAL(store_commit(t) == ERR_NONE);
    CU_ASSERT_EQUAL(walk(s, MESSAGE_STREAM_JOB), 3);
    CU_ASSERT_EQUAL(walk(s, MESSAGE_STREAM_BENCH), 2);
    post(s, MESSAGE_STREAM_JOB, STORE_OUTBOX_MAX); /* bounded: the oldest went */
    count = walk(s, MESSAGE_STREAM_JOB);
    CU_ASSERT(count <= STORE_OUTBOX_MAX && count > STORE_OUTBOX_MAX / 2);
    CU_ASSERT_EQUAL(walk(s, MESSAGE_STREAM_BENCH), 2);
    store_close(s);
    fixture_close(&f);
}

/* A child counts two values up together and is killed at any moment; they are always equal. */
static void test_kill(void)
{
    struct fixture f;
    fixture_open(&f);
    uint64_t last = 0;
    for (int round = 0; round < 20; round++) {
        pid_t child = fork();
        if (child == 0) {
            struct store *s;
            struct store_txn *t;
            if (store_open(f.folder, &s))
                _exit(1);
            for (uint64_t i = get(s, "a") + 1;; i++) {
                if (store_begin(s, true, &t) || store_put_u64(t, "a", i) || store_put_u64(t, "b", i) || store_commit(t))
                    _exit(2);
            }
        }
        usleep(5000 + (useconds_t)(round * 700));
        kill(child, SIGKILL);
        int status;
        waitpid(child, &status, 0);
        CU_ASSERT(WIFSIGNALED(status));
        struct store *s;
        CU_ASSERT_FATAL(store_open(f.folder, &s) == ERR_NONE);
        uint64_t a = get(s, "a");
        CU_ASSERT_EQUAL(a, get(s, "b"));
        CU_ASSERT(a >= last);
        last = a;
        store_close(s);
    }
    CU_ASSERT(last > 0);
    fixture_close(&f);
}

static void test_identity(void)
{
    struct fixture f;
    struct identity again;
    struct stat st;
    char path[300];
    fixture_open(&f);
    snprintf(path, sizeof path, "%s/device.seed", f.folder);
    CU_ASSERT(stat(path, &st) == 0 && (st.st_mode & 0777) == 0600 && st.st_size == 32);
    CU_ASSERT_EQUAL_FATAL(identity_load(f.folder, &again), ERR_NONE);
    CU_ASSERT_STRING_EQUAL(again.id, f.identity.id);
    CU_ASSERT(keys_is_id(again.id, strlen(again.id)));
    chmod(path, 0640);
    CU_ASSERT_EQUAL(identity_load(f.folder, &again), ERR_AUDIENCE);
    chmod(path, 0600);
    CU_ASSERT(truncate(path, 31) == 0);
    CU_ASSERT_EQUAL(identity_load(f.folder, &again), ERR_FORMAT);
    fixture_close(&f);
}

RUN_SUITE("store", {"epoch, transactions, one owner", test_epoch}, {"outbox", test_outbox},
          {"killed at any moment", test_kill}, {"identity", test_identity})
