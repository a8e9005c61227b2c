/* dashboard_test.c: every view of the dashboard in Chromium, with data, without a script error. */
#include "tests/controller/controller_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "controller/api.h"
#include "controller/release.h"
#include "controller/trail.h"
#include "controller/workshop.h"

enum { PAGE_MAX = 4 << 20 };

static struct fixture f;
static struct api_server *api;
static char token[96], browser[128];
static bool is_sandboxed;

static bool find_browser(void)
{
    FILE *p = popen("command -v chromium chromium-browser google-chrome 2>/dev/null | head -n 1", "r");
    if (!p)
        return false;
    bool is_found = fgets(browser, sizeof browser, p) != NULL;
    pclose(p);
    browser[strcspn(browser, "\n")] = '\0';
    is_sandboxed = geteuid() != 0; /* Chromium refuses to sandbox root */
    return is_found;
}

static void seed(void)
{
    struct fixture_device d;
    struct registry_txn *t = NULL;
    struct trail entry = {.kind = "drift", .subject = "1"};
    char why[300] = "", path[700];
    fixture_open(&f);
    f.now_ms = controller_now_ms();
    snprintf(f.c->settings.web, sizeof f.c->settings.web, "%s", SOURCE_DIR "/controller/web");
    CU_ASSERT_EQUAL_FATAL(workshop_open(f.c, NULL, &f.c->workshop), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(api_open(f.c, &api, why, sizeof why), ERR_NONE);
    snprintf(path, sizeof path, "%s/api.token", f.c->settings.state);
    FILE *file = fopen(path, "r");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    CU_ASSERT_EQUAL_FATAL(fscanf(file, "%95s", token), 1);
    fclose(file);
    fixture_device(&d, 1);
    CU_ASSERT_EQUAL(fixture_birth(&f, &d, "gateway-7<b>"), ERR_NONE); /* text, never markup */
    fixture_approve(&f, &d);
    CU_ASSERT_EQUAL(fixture_batch(&f, &d, 1, 10), ERR_NONE);
    snprintf(entry.seen, sizeof entry.seen, "seen-by-test");
    snprintf(entry.changed, sizeof entry.changed, "changed-by-test");
    CU_ASSERT_EQUAL_FATAL(registry_begin(f.c->registry, true, &t), ERR_NONE);
    CU_ASSERT_EQUAL(trail_add(t, f.now_ms / 1000, &entry), ERR_NONE);
    json_t *doc = json_pack("{s:f,s:f,s:s,s:f,s:i,s:s,s:I,s:b,s:[{s:I,s:f,s:f},{s:I,s:f,s:f}]}", "score", 0.1234,
                            "worst", 0.5, "worst_name", "blk.3.ffn_down.weight", "rows", 2048.0, "windows", 4,
                            "rollout", "1", "looked", (json_int_t)(f.now_ms / 1000), "armed", 1, "history",
                            "time", (json_int_t)(f.now_ms / 1000 - 60), "score", 0.02, "shadow_kld", 0.0,
                            "time", (json_int_t)(f.now_ms / 1000), "score", 0.1234, "shadow_kld", 0.0);
    CU_ASSERT_EQUAL(registry_put_doc(t, REGISTRY_DRIFT, d.id, doc), ERR_NONE);
    json_decref(doc);
    doc = json_pack("{s:s,s:I,s:s,s:s,s:i,s:i,s:s,s:s,s:s,s:I,s:{s:[f,f],s:f,s:f,s:i,s:i,s:i,s:b}}", "id", "1",
                    "number", (json_int_t)1, "name", "balanced-by-test", "state", "running", "state_number",
                    ROLLOUT_RUNNING, "stage", 0, "reason", "", "trigger", "operator", "goal", "balanced",
                    "created", (json_int_t)(f.now_ms / 1000), "rules", "stages", 0.1, 1.0, "advance_ratio", 0.8,
                    "failure_ratio", 0.2, "min_sample", 1, "silence_s", 60, "max_attempts", 1, "auto_revert", 1);
    CU_ASSERT_EQUAL(registry_put_doc(t, REGISTRY_ROLLOUTS, "1", doc), ERR_NONE);
    json_decref(doc);
    CU_ASSERT_EQUAL(registry_commit(t), ERR_NONE);
}

/* The page as it stands after its scripts have run for a while; the caller frees it. */
static char *page_of(const char *view, const char *with_token)
{
    char command[1024], profile[] = "/tmp/tare-browser-XXXXXX";
    char *page = calloc(1, PAGE_MAX);
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(profile));
    snprintf(command, sizeof command,
             "timeout 60 '%s' --headless=new %s --disable-gpu --no-first-run --enable-logging=stderr --v=0 "
             "--user-data-dir=%s --virtual-time-budget=5000 --dump-dom "
             "'http://127.0.0.1:%u/#token=%s&view=%s' 2>&1",
             browser, is_sandboxed ? "" : "--no-sandbox", profile, api_port(api), with_token, view);
    FILE *p = popen(command, "r");
    CU_ASSERT_PTR_NOT_NULL_FATAL(p);
    size_t size = fread(page, 1, PAGE_MAX - 1, p);
    pclose(p);
    CU_ASSERT(size > 0);
    snprintf(command, sizeof command, "rm -rf %s", profile);
    CU_ASSERT_EQUAL(system(command), 0);
    return page;
}

static void shows_every_view(void)
{
    static const struct {
        const char *view, *wanted;
    } table[] = {{"overview", "changed-by-test"},
                 {"devices", "gateway-7&lt;b&gt;"},
                 {"rollouts", "balanced-by-test"},
                 {"telemetry", "nothing measured yet"},
                 {"drift", "blk.3.ffn_down.weight"},
                 {"bench", "no benchmark yet"},
                 {"files", "nothing registered"},
                 {"decisions", "seen-by-test"}};
    seed();
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        char *page = page_of(table[i].view, token);
        if (!strstr(page, table[i].wanted))
            fprintf(stderr, "%s: '%s' is not on the page\n", table[i].view, table[i].wanted);
        CU_ASSERT_PTR_NOT_NULL(strstr(page, table[i].wanted));
        CU_ASSERT_PTR_NOT_NULL(strstr(page, "fleet test")); /* it did speak to the API */
        CU_ASSERT_PTR_NULL(strstr(page, "Uncaught"));
        CU_ASSERT_PTR_NULL(strstr(page, "Content Security Policy"));
        free(page);
    }
    char *page = page_of("devices", "wrong");
    CU_ASSERT_PTR_NULL(strstr(page, "gateway-7"));
    CU_ASSERT_PTR_NOT_NULL(strstr(page, "expected Authorization: Bearer"));
    free(page);
    api_close(api);
    workshop_close(f.c->workshop);
    f.c->workshop = NULL;
    fixture_close(&f);
}

static int run(void)
{
    CU_TestInfo tests[] = {{"shows every view", shows_every_view}, CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {{"dashboard", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    int bad = 1;
    if (CU_initialize_registry() == CUE_SUCCESS && CU_register_suites(suites) == CUE_SUCCESS) {
        CU_basic_set_mode(CU_BRM_VERBOSE);
        bad = CU_basic_run_tests() != CUE_SUCCESS || CU_get_number_of_failures() != 0 ||
              CU_get_number_of_asserts() == 0;
    }
    CU_cleanup_registry();
    return bad;
}

int main(void)
{
    if (!find_browser()) {
        printf("skipped: no chromium on this machine\n");
        return HARNESS_SKIPPED;
    }
    return run();
}
