/* registry_test.c: what is committed survives kill -9, what is not leaves no trace. */
#include "controller/registry.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/harness.h"

static char folder[64];

static struct registry *open_new(void)
{
    struct registry *r = NULL;
    snprintf(folder, sizeof folder, "/tmp/tare-registry-XXXXXX");
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(folder));
    CU_ASSERT_EQUAL_FATAL(registry_open(folder, 1 << 20, &r), ERR_NONE);
    return r;
}

static void remove_folder(void)
{
    static const char *const names[] = {"data.mdb", "lock.mdb", "controller.lock"};
    char path[128];
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    rmdir(folder);
}

static void keeps_documents_and_bytes(void)
{
    struct registry *r = open_new();
    struct registry_txn *t = NULL;
    CU_ASSERT_EQUAL_FATAL(registry_begin(r, true, &t), ERR_NONE);
    json_t *doc = json_pack("{s:s,s:i}", "id", "a", "x", 7);
    CU_ASSERT_EQUAL(registry_put_doc(t, REGISTRY_DEVICES, "a", doc), ERR_NONE);
    CU_ASSERT_EQUAL(registry_put(t, REGISTRY_SUMS, "k", 1, "\0\1", 2), ERR_NONE);
    CU_ASSERT_EQUAL(registry_commit(t), ERR_NONE);
    json_decref(doc);

    CU_ASSERT_EQUAL_FATAL(registry_begin(r, false, &t), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(registry_get_doc(t, REGISTRY_DEVICES, "a", &doc), ERR_NONE);
    CU_ASSERT_EQUAL(json_integer_value(json_object_get(doc, "x")), 7);
    json_decref(doc);
    const void *value;
    size_t bytes;
    CU_ASSERT_EQUAL(registry_get(t, REGISTRY_SUMS, "k", 1, &value, &bytes), ERR_NONE);
    CU_ASSERT_EQUAL(bytes, 2);
    CU_ASSERT_EQUAL(registry_get_doc(t, REGISTRY_DEVICES, "b", &doc), ERR_NOT_FOUND);
    registry_abort(t);
    registry_close(r);
    remove_folder();
}

static void lists_by_prefix_both_ways(void)
{
    struct registry *r = open_new();
    struct registry_txn *t = NULL;
    CU_ASSERT_EQUAL_FATAL(registry_begin(r, true, &t), ERR_NONE);
    for (int i = 0; i < 30; i++) {
        char key[16];
        snprintf(key, sizeof key, "%d/%02d", i % 3, i);
        json_t *doc = json_pack("{s:i}", "i", i);
        CU_ASSERT_EQUAL(registry_put_doc(t, REGISTRY_JOBS, key, doc), ERR_NONE);
        json_decref(doc);
    }
    json_t *list = NULL;
    CU_ASSERT_EQUAL_FATAL(registry_list(t, REGISTRY_JOBS, "1/", false, 0, &list), ERR_NONE);
    CU_ASSERT_EQUAL(json_array_size(list), 10);
    CU_ASSERT_EQUAL(json_integer_value(json_object_get(json_array_get(list, 0), "i")), 1);
    json_decref(list);
    CU_ASSERT_EQUAL_FATAL(registry_list(t, REGISTRY_JOBS, "1/", true, 3, &list), ERR_NONE);
    CU_ASSERT_EQUAL(json_array_size(list), 3);
    CU_ASSERT_EQUAL(json_integer_value(json_object_get(json_array_get(list, 0), "i")), 28);
    json_decref(list);
    CU_ASSERT_EQUAL_FATAL(registry_list(t, REGISTRY_JOBS, "2/", true, 1, &list), ERR_NONE);
    CU_ASSERT_EQUAL(json_integer_value(json_object_get(json_array_get(list, 0), "i")), 29);
    json_decref(list);
    CU_ASSERT_EQUAL_FATAL(registry_list(t, REGISTRY_JOBS, "9", true, 0, &list), ERR_NONE);
    CU_ASSERT_EQUAL(json_array_size(list), 0);
    json_decref(list);
    registry_abort(t);
    registry_close(r);
    remove_folder();
}

static void numbers_the_trail(void)
{
    struct registry *r = open_new();
    struct registry_txn *t = NULL;
    CU_ASSERT_EQUAL_FATAL(registry_begin(r, true, &t), ERR_NONE);
    for (int i = 1; i <= 300; i++) {
        json_t *doc = json_object();
        CU_ASSERT_EQUAL(registry_append(t, REGISTRY_DECISIONS, doc), ERR_NONE);
        CU_ASSERT_EQUAL(json_integer_value(json_object_get(doc, "n")), i);
        json_decref(doc);
    }
    size_t count = 0;
    CU_ASSERT_EQUAL(registry_count(t, REGISTRY_DECISIONS, &count), ERR_NONE);
    CU_ASSERT_EQUAL(count, 300);
    CU_ASSERT_EQUAL(registry_commit(t), ERR_NONE);
    registry_close(r);
    remove_folder();
}

static void grows_before_it_is_full(void)
{
    struct registry *r = open_new();
    static char block[4000];
    for (int i = 0; i < 2000; i++) { /* 8 MB into a map of 1 MiB */
        struct registry_txn *t = NULL;
        CU_ASSERT_EQUAL_FATAL(registry_begin(r, true, &t), ERR_NONE);
        CU_ASSERT_EQUAL_FATAL(registry_put(t, REGISTRY_SUMS, &i, sizeof i, block, sizeof block),
                              ERR_NONE);
        CU_ASSERT_EQUAL_FATAL(registry_commit(t), ERR_NONE);
    }
    registry_close(r);
    remove_folder();
}

static void refuses_a_second_controller(void)
{
    struct registry *r = open_new(), *other = NULL;
    CU_ASSERT_EQUAL(registry_open(folder, 1 << 20, &other), ERR_IO);
    registry_close(r);
    CU_ASSERT_EQUAL(registry_open(folder, 1 << 20, &other), ERR_NONE);
    registry_close(other);
    remove_folder();
}

/* The child counts up in two tables per commit and says each commit on a pipe; killed at any moment,
 * the registry holds every count that was said, and both tables agree. */
static void survives_kill(void)
{
    struct registry *r = open_new();
    registry_close(r);
    for (unsigned round = 0; round < 12; round++) {
        int said[2];
        CU_ASSERT_EQUAL_FATAL(pipe(said), 0);
        pid_t child = fork();
        if (child == 0) {
            if (registry_open(folder, 1 << 20, &r))
                _exit(1);
            for (unsigned i = 1;; i++) {
                struct registry_txn *t = NULL;
                unsigned value = round * 1000000 + i;
                if (registry_begin(r, true, &t) ||
                    registry_put(t, REGISTRY_META, "a", 1, &value, sizeof value) ||
                    registry_put(t, REGISTRY_TELEMETRY, &value, sizeof value, &value, sizeof value) ||
                    registry_commit(t) || write(said[1], &value, sizeof value) != sizeof value)
                    _exit(1);
            }
        }
        close(said[1]);
        usleep(3000 + round * 1700);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        unsigned last = 0, value = 0;
        while (read(said[0], &value, sizeof value) == sizeof value)
            last = value;
        close(said[0]);
        CU_ASSERT_EQUAL_FATAL(registry_open(folder, 1 << 20, &r), ERR_NONE);
        struct registry_txn *t = NULL;
        CU_ASSERT_EQUAL_FATAL(registry_begin(r, false, &t), ERR_NONE);
        const void *at;
        size_t bytes;
        if (last) {
            CU_ASSERT_EQUAL_FATAL(registry_get(t, REGISTRY_META, "a", 1, &at, &bytes), ERR_NONE);
            memcpy(&value, at, sizeof value);
            CU_ASSERT(value == last || value == last + 1);
            CU_ASSERT_EQUAL(
                registry_get(t, REGISTRY_TELEMETRY, &value, sizeof value, &at, &bytes), ERR_NONE);
        }
        registry_abort(t);
        registry_close(r);
    }
    remove_folder();
}

RUN_SUITE("registry", {"keeps documents and bytes", keeps_documents_and_bytes},
          {"lists by prefix, both ways", lists_by_prefix_both_ways},
          {"numbers the trail", numbers_the_trail},
          {"grows before it is full", grows_before_it_is_full},
          {"refuses a second controller", refuses_a_second_controller},
          {"survives kill -9", survives_kill})
