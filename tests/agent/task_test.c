#include "harness.h"

#include <fcntl.h>
#include <microhttpd.h>
#include <signal.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/task.h"
#include "agent/worker.h"
#include "agent_fixture.h"

static struct fixture f;
static struct task *task;
static enum err failed_with;
static bool is_done;

static void on_done(void *context, const struct wire *m)
{
    (void)context;
    (void)m;
    is_done = true;
    failed_with = ERR_NONE;
}

static void on_failed(void *context, enum err error, const char *why)
{
    (void)context;
    CU_ASSERT(why[0] != 0);
    is_done = true;
    failed_with = error;
}

static bool task_is_done(void *context)
{
    (void)context;
    return is_done;
}

static const struct task_options options = {.weight = TASK_SHADOW, .done = on_done, .failed = on_failed};

/* ---- fetching, by the real tared-worker ---- */

static uint8_t file[300000];

static struct server {
    struct MHD_Daemon *daemon;
    uint16_t port;
    int requests, ranges, fails; /* answers 500 that often first */
    unsigned status;             /* not 0: always this */
    size_t cut;                  /* not 0: the body ends after so many bytes, once */
    bool ignores_range;
    size_t extra;
} server;

static ssize_t read_cut(void *context, uint64_t position, char *out, size_t capacity)
{
    size_t from = (size_t)context, left = server.cut - (size_t)position;
    if (left == 0) {
        server.cut = 0;
        return MHD_CONTENT_READER_END_WITH_ERROR;
    }
    if (left > capacity)
        left = capacity;
    memcpy(out, file + from + position, left);
    return (ssize_t)left;
}

static enum MHD_Result on_access(void *context, struct MHD_Connection *c, const char *url, const char *method,
                                 const char *version, const char *data, size_t *bytes, void **state)
{
    struct MHD_Response *r;
    size_t from = 0;
    (void)context;
    (void)url;
    (void)method;
    (void)version;
    (void)data;
    (void)bytes;
    if (!*state) {
        *state = &server;
        return MHD_YES;
    }
    server.requests++;
    const char *range = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Range");
    unsigned status = 200;
    if (range && !server.ignores_range) {
        from = strtoul(range + strlen("bytes="), NULL, 10);
        status = 206;
        server.ranges++;
    }
    if (server.fails-- > 0)
        status = 500;
    if (server.status)
        status = server.status;
    if (status >= 400)
        r = MHD_create_response_from_buffer(4, (void *)(uintptr_t)"oops", MHD_RESPMEM_PERSISTENT);
    else if (server.cut)
        r = MHD_create_response_from_callback(sizeof file - from, 4096, read_cut, (void *)from, NULL);
    else
        r = MHD_create_response_from_buffer(sizeof file - from + server.extra, file + from, MHD_RESPMEM_MUST_COPY);
    enum MHD_Result result = MHD_queue_response(c, status, r);
    MHD_destroy_response(r);
    return result;
}

/* How a fetch of so many bytes ended. */
static enum err fetch(const uint8_t digest[32], uint64_t bytes)
{
    char path[300], url[64];
    struct wire m;
    wire_init(&m, WIRE_FETCH, 1);
    snprintf(path, sizeof path, "%s/blobs/file", f.folder);
    snprintf(url, sizeof url, "http://127.0.0.1:%u/b/x", server.port);
    wire_put_text(&m, WIRE_K_PATH, path);
    wire_put_text(&m, WIRE_K_URL, url);
    wire_put_bytes(&m, WIRE_K_DIGEST, digest, 32);
    wire_put_u64(&m, WIRE_K_BYTES, bytes);
    is_done = false;
    CU_ASSERT_FATAL(task_start(task, &options, &m) == ERR_NONE);
    CU_ASSERT(fixture_wait(&f, 90000, task_is_done, NULL));
    return failed_with;
}

static void test_fetch(void)
{
    uint8_t digest[32], wrong[32] = {1};
    char path[300], part[310];
    struct stat st;
    fixture_open(&f);
    worker_set_program(BUILD_DIR "/bin/tared-worker");
    CU_ASSERT_FATAL(task_open(f.loop, &f.settings, &task) == ERR_NONE);
    randombytes_buf(file, sizeof file);
    crypto_hash_sha256(digest, file, sizeof file);
    snprintf(path, sizeof path, "%s/blobs/file", f.folder);
    snprintf(part, sizeof part, "%s.part", path);
    server.daemon = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD, 0, NULL, NULL, on_access, NULL, MHD_OPTION_END);
    CU_ASSERT_FATAL(server.daemon != NULL);
    server.port = MHD_get_daemon_info(server.daemon, MHD_DAEMON_INFO_BIND_PORT)->port;
    /* cut in the middle, then a failing server: the rest is asked for, not all again */
    server.cut = 100000;
    server.fails = 0;
    CU_ASSERT_EQUAL(fetch(digest, sizeof file), ERR_NONE);
    CU_ASSERT(server.requests == 2 && server.ranges == 1);
    CU_ASSERT(stat(path, &st) == 0 && st.st_size == sizeof file && access(part, F_OK) != 0);
    /* a part of an earlier life; the server fails twice before it answers */
    CU_ASSERT(rename(path, part) == 0 && truncate(part, 5000) == 0);
    server.fails = 2;
    server.ranges = 0;
    CU_ASSERT_EQUAL(fetch(digest, sizeof file), ERR_NONE);
    CU_ASSERT(server.ranges >= 1 && access(path, F_OK) == 0);
    /* a server without ranges sends all again */
    CU_ASSERT(rename(path, part) == 0 && truncate(part, 5000) == 0);
    server.ignores_range = true;
    CU_ASSERT_EQUAL(fetch(digest, sizeof file), ERR_NONE);
    /* a damaged part cannot become the file: it is thrown away, the next try is clean */
    CU_ASSERT(rename(path, part) == 0);
    int fd = open(part, O_WRONLY);
    CU_ASSERT(pwrite(fd, "damage", 6, 1000) == 6);
    close(fd);
    CU_ASSERT_EQUAL(fetch(digest, sizeof file), ERR_MISMATCH);
    CU_ASSERT(access(part, F_OK) != 0);
    CU_ASSERT_EQUAL(fetch(wrong, sizeof file), ERR_MISMATCH);
    CU_ASSERT(access(path, F_OK) != 0);
    CU_ASSERT_EQUAL(fetch(digest, sizeof file - 10), ERR_MISMATCH); /* more bytes than the plan says */
    server.requests = 0;
    server.status = 404; /* permanent: asked once */
    CU_ASSERT_EQUAL(fetch(digest, sizeof file), ERR_NOT_FOUND);
    CU_ASSERT(server.requests == 1);
    server.status = 403;
    CU_ASSERT_EQUAL(fetch(digest, sizeof file), ERR_UNSUPPORTED);
    CU_ASSERT(server.requests == 2);
    MHD_stop_daemon(server.daemon);
    task_close(task);
    fixture_close(&f);
}

/* ---- supervision, by the stub ---- */

static void test_supervision(void)
{
    static const struct {
        const char *mode;
        enum err error;
    } cases[] = {{"ok", ERR_NONE},          {"fail", ERR_UNSUPPORTED}, {"crash", ERR_CRASHED},
                 {"garbage", ERR_CRASHED},  {"memory", ERR_MEMORY},    {"hang", ERR_TIMEOUT}};
    struct wire m;
    fixture_open(&f);
    f.settings.hang_s = 1;
    CU_ASSERT_FATAL(task_open(f.loop, &f.settings, &task) == ERR_NONE);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        setenv("STUB_VERIFY", cases[i].mode, 1);
        is_done = false;
        wire_init(&m, WIRE_VERIFY, 1);
        CU_ASSERT_EQUAL(task_start(task, &options, &m), ERR_NONE);
        CU_ASSERT_EQUAL(task_start(task, &options, &m), ERR_FULL);
        CU_ASSERT(fixture_wait(&f, 10000, task_is_done, NULL));
        CU_ASSERT_EQUAL(failed_with, cases[i].error);
        CU_ASSERT(!task_is_busy(task));
    }
    /* killed from outside; given up for something of more weight; cancelled in silence */
    is_done = false;
    CU_ASSERT_EQUAL(task_start(task, &options, &m), ERR_NONE);
    kill(task_pid(task), SIGKILL);
    CU_ASSERT(fixture_wait(&f, 10000, task_is_done, NULL) && failed_with == ERR_CRASHED);
    is_done = false;
    CU_ASSERT_EQUAL(task_start(task, &options, &m), ERR_NONE);
    struct task_options more = options;
    more.weight = TASK_JOB;
    setenv("STUB_VERIFY", "ok", 1);
    CU_ASSERT_EQUAL(task_start(task, &more, &m), ERR_NONE);
    CU_ASSERT(is_done && failed_with == ERR_CANCELLED);
    is_done = false;
    CU_ASSERT(fixture_wait(&f, 10000, task_is_done, NULL) && failed_with == ERR_NONE);
    is_done = false;
    setenv("STUB_VERIFY", "hang", 1);
    CU_ASSERT_EQUAL(task_start(task, &options, &m), ERR_NONE);
    task_cancel(task, TASK_SHADOW);
    CU_ASSERT(!task_is_busy(task) && !is_done);
    worker_set_program("/nowhere/tared-worker");
    CU_ASSERT_EQUAL(task_start(task, &options, &m), ERR_NOT_FOUND);
    task_close(task);
    fixture_close(&f);
}

RUN_SUITE("task", {"supervision", test_supervision}, {"fetch", test_fetch})
