/* api_test.c: who is let in, what is refused and how, ranges of artifacts, metrics that Prometheus takes. */
#include "tests/controller/controller_fixture.h"

#include <curl/curl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "controller/api.h"
#include "controller/artifact.h"
#include "controller/workshop.h"

static struct fixture f;
static struct api_server *api;
static struct artifact_server *artifacts;
static char token[96], header_tag[128];

struct answer {
    char *text;
    size_t size;
};

static size_t on_bytes(char *bytes, size_t size, size_t n, void *context)
{
    struct answer *a = context;
    char *more = realloc(a->text, a->size + size * n + 1);
    if (!more)
        return 0;
    a->text = more;
    memcpy(a->text + a->size, bytes, size * n);
    a->size += size * n;
    a->text[a->size] = '\0';
    return size * n;
}

static size_t on_header(char *bytes, size_t size, size_t n, void *context)
{
    (void)context;
    if (size * n > 6 && size * n < sizeof header_tag && strncasecmp(bytes, "ETag: ", 6) == 0) {
        memcpy(header_tag, bytes, size * n);
        header_tag[size * n] = '\0';
    }
    return size * n;
}

/* with: NULL or one more header. text NULL: not wanted; else the caller frees it. */
static long ask(uint16_t port, const char *method, const char *path, const char *with_token,
                const char *with, const char *body, size_t body_bytes, struct answer *out)
{
    char url[256], authorization[160];
    long status = 0;
    struct answer a = {0};
    struct curl_slist *headers = NULL;
    CURL *curl = curl_easy_init();
    snprintf(url, sizeof url, "http://127.0.0.1:%u%s", port, path);
    snprintf(authorization, sizeof authorization, "Authorization: Bearer %s", with_token);
    if (with_token[0])
        headers = curl_slist_append(headers, authorization);
    if (with)
        headers = curl_slist_append(headers, with);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &a);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
    if (body) {
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, (long)body_bytes);
    }
    CU_ASSERT_EQUAL(curl_easy_perform(curl), CURLE_OK);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);
    if (out)
        *out = a;
    else
        free(a.text);
    return status;
}

static long get(const char *path)
{
    return ask(api_port(api), "GET", path, token, NULL, NULL, 0, NULL);
}

static long post(const char *path, const char *body, char *error, size_t room)
{
    struct answer a = {0};
    long status = ask(api_port(api), "POST", path, token, NULL, body, strlen(body), &a);
    json_t *doc = a.text ? json_loads(a.text, 0, NULL) : NULL;
    if (error)
        snprintf(error, room, "%s", doc_text(doc, "error"));
    json_decref(doc);
    free(a.text);
    return status;
}

static void open_all(void)
{
    char why[300] = "", path[700];
    fixture_open(&f);
    snprintf(f.c->settings.web, sizeof f.c->settings.web, "%s", SOURCE_DIR "/controller/web");
    CU_ASSERT_EQUAL_FATAL(workshop_open(f.c, BUILD_DIR "/bin/tare-controller", &f.c->workshop), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(api_open(f.c, &api, why, sizeof why), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(artifact_open(f.c, &artifacts), ERR_NONE);
    snprintf(path, sizeof path, "%s/api.token", f.c->settings.state);
    FILE *file = fopen(path, "r");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    CU_ASSERT_EQUAL_FATAL(fscanf(file, "%95s", token), 1);
    fclose(file);
    struct stat st;
    CU_ASSERT_EQUAL(stat(path, &st), 0);
    CU_ASSERT_EQUAL(st.st_mode & 0777, 0600);
}

static void close_all(void)
{
    artifact_close(artifacts);
    api_close(api);
    workshop_close(f.c->workshop);
    f.c->workshop = NULL;
    fixture_close(&f);
}

static void asks_for_a_token(void)
{
    static const char *const paths[] = {"/api/1/status",      "/api/1/devices",     "/api/1/models",
                                        "/api/1/rollouts",    "/api/1/bench",       "/api/1/telemetry",
                                        "/api/1/calibration", "/api/1/decisions",   "/api/1/recipes",
                                        "/metrics",           "/api/1/rollouts/99", "/api/1/nothing"};
    char wrong[96];
    open_all();
    memcpy(wrong, token, sizeof wrong);
    wrong[5] = wrong[5] == 'a' ? 'b' : 'a';
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        CU_ASSERT_EQUAL(ask(api_port(api), "GET", paths[i], "", NULL, NULL, 0, NULL), 401);
        CU_ASSERT_EQUAL(ask(api_port(api), "GET", paths[i], wrong, NULL, NULL, 0, NULL), 401);
    }
    CU_ASSERT_EQUAL(ask(api_port(api), "POST", "/api/1/devices/x/approve", "", NULL, "{}", 2, NULL), 401);
    CU_ASSERT_EQUAL(ask(api_port(api), "PUT", "/api/1/models?name=x", "", NULL, "abc", 3, NULL), 401);
    for (size_t i = 0; i < 10; i++)
        CU_ASSERT_EQUAL(get(paths[i]), 200);
    CU_ASSERT_EQUAL(get(paths[10]), 404);
    CU_ASSERT_EQUAL(get(paths[11]), 404);
    close_all();
}

static void serves_the_dashboard_without_one(void)
{
    static const char *const pages[] = {"/", "/app.js", "/charts.js", "/app.css", "/openapi.json"};
    struct answer a = {0};
    open_all();
    for (size_t i = 0; i < sizeof pages / sizeof pages[0]; i++)
        CU_ASSERT_EQUAL(ask(api_port(api), "GET", pages[i], "", NULL, NULL, 0, NULL), 200);
    CU_ASSERT_EQUAL(ask(api_port(api), "GET", "/../api.token", "", NULL, NULL, 0, NULL), 401);
    CU_ASSERT_EQUAL(ask(api_port(api), "GET", "/controller.c", "", NULL, NULL, 0, NULL), 401);
    CU_ASSERT_EQUAL(ask(api_port(api), "GET", "/openapi.json", "", NULL, NULL, 0, &a), 200);
    json_t *doc = json_loads(a.text ? a.text : "", 0, NULL);
    CU_ASSERT_PTR_NOT_NULL(doc);
    free(a.text);
    const char *path;
    json_t *methods;
    json_object_foreach(json_object_get(doc, "paths"), path, methods)
    {
        char filled[160];
        const char *brace = strchr(path, '{');
        if (!json_object_get(methods, "get"))
            continue;
        if (brace)
            snprintf(filled, sizeof filled, "%.*sabsent", (int)(brace - path), path);
        else
            snprintf(filled, sizeof filled, "%s", path);
        CU_ASSERT_EQUAL(get(filled), brace ? 404 : 200); /* every path described is there */
    }
    json_decref(doc);
    close_all();
}

static void refuses_with_one_line(void)
{
    static const struct {
        const char *path, *body;
        long status;
    } table[] = {
        {"/api/1/rollouts", "{", 400},
        {"/api/1/rollouts", "[]", 400},
        {"/api/1/rollouts", "{\"recipe\":\"mode: balanced\",\"recipe\":\"\"}", 400},
        {"/api/1/rollouts", "{}", 400},
        {"/api/1/rollouts", "{\"recipe\":\"mode: balanced\",\"model\":\"x\",\"colour\":1}", 400},
        {"/api/1/rollouts", "{\"recipe\":\"mode: balanced\",\"model\":\"x\",\"devices\":[1]}", 400},
        {"/api/1/rollouts", "{\"recipe\":\"mode: balanced\",\"model\":\"absent\"}", 404},
        {"/api/1/rollouts", "{\"recipe\":\"mode: odd\",\"model\":\"absent\"}", 400},
        {"/api/1/rollouts/7/pause", "{}", 404},
        {"/api/1/rollouts/7/explode", "{}", 404},
        {"/api/1/devices/abc/approve", "{}", 404},
        {"/api/1/models", "{}", 400},
        {"/api/1/models", "{\"path\":\"relative\"}", 400},
        {"/api/1/models", "{\"path\":\"/\"}", 400},
        {"/api/1/models", "{\"path\":\"/dev/zero\"}", 400},
        {"/api/1/models", "{\"path\":\"/absent/file.gguf\"}", 400},
        {"/api/1/bench", "{\"repeats\":1000}", 400},
        {"/api/1/bench", "{\"devices\":[\"absent\"]}", 404},
        {"/api/1/recalibrate", "{}", 400},
        {"/api/1/recalibrate", "{\"rollout\":\"7\"}", 404},
    };
    char error[400];
    open_all();
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        long status = post(table[i].path, table[i].body, error, sizeof error);
        if (status != table[i].status)
            fprintf(stderr, "%s %s: %ld %s\n", table[i].path, table[i].body, status, error);
        CU_ASSERT_EQUAL(status, table[i].status);
        CU_ASSERT(strlen(error) > 5);
        CU_ASSERT_PTR_NULL(strchr(error, '\n'));
    }
    char *large = malloc(3 << 20);
    memset(large, ' ', 3 << 20);
    CU_ASSERT_EQUAL(ask(api_port(api), "POST", "/api/1/bench", token, NULL, large, 3 << 20, NULL), 413);
    free(large);
    CU_ASSERT_EQUAL(ask(api_port(api), "DELETE", "/api/1/devices", token, NULL, NULL, 0, NULL), 405);
    CU_ASSERT_EQUAL(fixture_count(&f, REGISTRY_ROLLOUTS), 0);
    CU_ASSERT_EQUAL(fixture_count(&f, REGISTRY_FILES), 0);
    close_all();
}

static void approves_and_revokes(void)
{
    struct fixture_device d;
    char path[96], error[200];
    open_all();
    fixture_device(&d, 1);
    CU_ASSERT_EQUAL(fixture_birth(&f, &d, "gateway"), ERR_NONE);
    snprintf(path, sizeof path, "/api/1/devices/%s/approve", d.id);
    CU_ASSERT_EQUAL(post(path, "{\"tags\":\"no list\"}", error, sizeof error), 400);
    CU_ASSERT_EQUAL(post(path, "{\"name\":\"shed\",\"tags\":[\"arm\"]}", NULL, 0), 200);
    json_t *doc = fixture_doc(&f, REGISTRY_DEVICES, d.id);
    CU_ASSERT_STRING_EQUAL(doc_text(doc, "status"), "approved");
    CU_ASSERT_STRING_EQUAL(doc_text(doc, "name"), "shed");
    json_decref(doc);
    CU_ASSERT_EQUAL(get("/api/1/devices/shed"), 200);
    snprintf(path, sizeof path, "/api/1/devices/%.8s/revoke", d.id);
    CU_ASSERT_EQUAL(post(path, "{}", NULL, 0), 200);
    CU_ASSERT_EQUAL(fixture_batch(&f, &d, 1, 2), ERR_AUDIENCE);
    close_all();
}

static void uploads_and_serves_by_digest(void)
{
    static const char text[] = "It was a bright cold day in April, and the clocks were striking.\n";
    static const char digest_of_abc[] =
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    struct answer a = {0};
    char path[128], tag[160];
    open_all();
    CU_ASSERT_EQUAL(ask(api_port(api), "PUT", "/api/1/models?name=t", token, NULL, "\xff\xfe", 2, NULL), 400);
    CU_ASSERT_EQUAL(ask(api_port(api), "PUT", "/api/1/models?name=g", token, NULL, "GGUF\3\0\0\0", 8, NULL),
                    400);
    CU_ASSERT_EQUAL(ask(api_port(api), "PUT", "/api/1/models", token, NULL, "abc", 3, NULL), 400);
    CU_ASSERT_EQUAL(ask(api_port(api), "PUT", "/api/1/models?name=abc", token, NULL, "abc", 3, NULL), 201);
    CU_ASSERT_EQUAL(ask(api_port(api), "PUT", "/api/1/models?name=t&kind=text", token, NULL, text,
                        sizeof text - 1, &a),
                    201);
    json_t *doc = json_loads(a.text, 0, NULL);
    free(a.text);
    uint16_t port = artifact_port(artifacts);
    snprintf(path, sizeof path, "/b/%s", digest_of_abc);
    CU_ASSERT_EQUAL(ask(port, "GET", path, "", NULL, NULL, 0, &a), 200);
    CU_ASSERT_EQUAL(a.size, 3);
    free(a.text);
    snprintf(path, sizeof path, "/b/%s", doc_text(doc, "digest"));
    CU_ASSERT_EQUAL(ask(port, "GET", path, "", "Range: bytes=3-5", NULL, 0, &a), 206);
    CU_ASSERT_EQUAL(a.size, 3);
    CU_ASSERT_EQUAL(memcmp(a.text, text + 3, 3), 0);
    free(a.text);
    CU_ASSERT_EQUAL(ask(port, "GET", path, "", "Range: bytes=60-", NULL, 0, &a), 206);
    CU_ASSERT_EQUAL(a.size, sizeof text - 1 - 60);
    free(a.text);
    CU_ASSERT_EQUAL(ask(port, "GET", path, "", "Range: bytes=900-", NULL, 0, NULL), 416);
    CU_ASSERT_EQUAL(ask(port, "GET", path, "", "Range: bytes=1-2,4-5", NULL, 0, &a), 200);
    CU_ASSERT_EQUAL(a.size, sizeof text - 1);
    free(a.text);
    snprintf(tag, sizeof tag, "If-None-Match: \"%s\"", doc_text(doc, "digest"));
    CU_ASSERT_EQUAL(ask(port, "GET", path, "", tag, NULL, 0, NULL), 304);
    CU_ASSERT_PTR_NOT_NULL(strstr(header_tag, doc_text(doc, "digest")));
    CU_ASSERT_EQUAL(ask(port, "GET", "/b/../../etc/passwd", "", NULL, NULL, 0, NULL), 404);
    CU_ASSERT_EQUAL(ask(port, "GET", "/b/", "", NULL, NULL, 0, NULL), 404);
    CU_ASSERT_EQUAL(ask(port, "GET", "/api/1/status", token, NULL, NULL, 0, NULL), 404);
    CU_ASSERT_EQUAL(ask(port, "POST", path, "", NULL, "x", 1, NULL), 405);
    CU_ASSERT_EQUAL(truncate(doc_text(doc, "path"), 4), 0); /* not what was registered any more */
    CU_ASSERT_EQUAL(ask(port, "GET", path, "", NULL, NULL, 0, NULL), 404);
    json_decref(doc);
    close_all();
}

static void metrics_please_prometheus(void)
{
    struct answer a = {0};
    struct fixture_device d;
    open_all();
    fixture_device(&d, 1);
    CU_ASSERT_EQUAL(fixture_birth(&f, &d, "gateway"), ERR_NONE);
    CU_ASSERT_EQUAL(ask(api_port(api), "GET", "/metrics", token, NULL, NULL, 0, &a), 200);
    CU_ASSERT_PTR_NOT_NULL_FATAL(a.text);
    CU_ASSERT_PTR_NOT_NULL(strstr(a.text, "\ntare_devices{status=\"pending\"} 1\n"));
    CU_ASSERT_PTR_NOT_NULL(strstr(a.text, "\ntare_messages_total 1\n"));
    if (system("command -v promtool >/dev/null 2>&1") == 0) {
        FILE *check = popen("promtool check metrics", "w");
        CU_ASSERT_PTR_NOT_NULL_FATAL(check);
        CU_ASSERT_EQUAL(fwrite(a.text, 1, a.size, check), a.size);
        CU_ASSERT_EQUAL(pclose(check), 0);
    }
    free(a.text);
    close_all();
}

static void keeps_its_ports(void)
{
    open_all();
    uint16_t http = api_port(api), files = artifact_port(artifacts);
    char why[200];
    artifact_close(artifacts);
    api_close(api);
    workshop_close(f.c->workshop);
    fixture_reopen(&f);
    CU_ASSERT_EQUAL_FATAL(workshop_open(f.c, NULL, &f.c->workshop), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(api_open(f.c, &api, why, sizeof why), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(artifact_open(f.c, &artifacts), ERR_NONE);
    CU_ASSERT_EQUAL(api_port(api), http);
    CU_ASSERT_EQUAL(artifact_port(artifacts), files);
    close_all();
}

static void *hammer(void *context)
{
    static const char *const paths[] = {"/api/1/devices", "/api/1/telemetry", "/metrics",
                                        "/api/1/rollouts", "/api/1/decisions", "/api/1/status"};
    unsigned *bad = context;
    for (size_t i = 0; i < 60; i++)
        *bad += get(paths[i % 6]) != 200;
    return NULL;
}

/* HTTP threads and the loop at once: nobody waits for ever, nothing is half seen. */
static void answers_while_the_loop_works(void)
{
    pthread_t threads[4];
    unsigned bad[4] = {0};
    struct fixture_device d;
    open_all();
    fixture_device(&d, 1);
    CU_ASSERT_EQUAL(fixture_birth(&f, &d, "gateway"), ERR_NONE);
    fixture_approve(&f, &d);
    for (size_t i = 0; i < 4; i++)
        CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, hammer, &bad[i]), 0);
    for (uint64_t i = 0; i < 40; i++) {
        CU_ASSERT_EQUAL(fixture_batch(&f, &d, 1 + 10 * i, 10), ERR_NONE);
        controller_tick(f.c, f.now_ms);
    }
    for (size_t i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        CU_ASSERT_EQUAL(bad[i], 0);
    }
    CU_ASSERT_EQUAL(fixture_count(&f, REGISTRY_TELEMETRY), 400);
    close_all();
}

static void parses_ranges(void)
{
    static const struct {
        const char *header;
        uint64_t size;
        int kind;
        uint64_t first, last;
    } table[] = {{"bytes=0-0", 10, 1, 0, 0},    {"bytes=0-99", 10, 1, 0, 9},
                 {"bytes=5-", 10, 1, 5, 9},     {"bytes=-3", 10, 1, 7, 9},
                 {"bytes=-30", 10, 1, 0, 9},    {"bytes=-0", 10, -1, 0, 0},
                 {"bytes=10-", 10, -1, 0, 0},   {"bytes=5-4", 10, 0, 0, 0},
                 {"bytes=a-4", 10, 0, 0, 0},    {"bytes=1-2x", 10, 0, 0, 0},
                 {"items=0-1", 10, 0, 0, 0},    {"bytes=0-1,3-4", 10, 0, 0, 0},
                 {"bytes=", 10, 0, 0, 0},       {"bytes=-", 10, 0, 0, 0},
                 {"bytes=99999999999999999999999-", 10, 0, 0, 0}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        uint64_t first = 0, last = 0;
        CU_ASSERT_EQUAL(artifact_range(table[i].header, table[i].size, &first, &last), table[i].kind);
        if (table[i].kind == 1) {
            CU_ASSERT_EQUAL(first, table[i].first);
            CU_ASSERT_EQUAL(last, table[i].last);
        }
    }
}

RUN_SUITE("api", {"asks for a token", asks_for_a_token},
          {"serves the dashboard without one", serves_the_dashboard_without_one},
          {"refuses with one line", refuses_with_one_line}, {"approves and revokes", approves_and_revokes},
          {"uploads and serves by digest", uploads_and_serves_by_digest},
          {"metrics please Prometheus", metrics_please_prometheus},
          {"answers while the loop works", answers_while_the_loop_works}, {"keeps its ports", keeps_its_ports},
          {"parses ranges", parses_ranges})
