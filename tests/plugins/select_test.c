/* select_test.c: every bad plugin is refused by name with its reason; good ones serve; files that
 * are not what was signed never get to run. */
#include "tests/harness.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hal/engine.h"
#include "hal/fallback.h"
#include "hal/select.h"
#include "plugins/scalar/scalar.h"
#include "protocol/minisign.h"

static void expect_in(const char *folder, uint32_t open_ms, const char *name, enum err wanted,
                      const char *words)
{
    struct select_plugin p;
    char file[512];
    const struct select_options options = {.folder = folder, .open_ms = open_ms};
    snprintf(file, sizeof file, "%s/%s.so", folder, name);
    const enum err e = select_first_contact(file, &options, &p);
    CU_ASSERT_EQUAL(e, wanted);
    CU_ASSERT_EQUAL(p.error, wanted);
    CU_ASSERT_EQUAL(p.is_serving, wanted == ERR_NONE);
    CU_ASSERT_STRING_EQUAL(p.name, name);
    CU_ASSERT_PTR_NOT_NULL(strstr(p.reason, words));
    if (e != wanted || strstr(p.reason, words) == NULL)
        printf("%s: %s: %s\n", name, err_name(e), p.reason);
}

static void expect(const char *name, enum err wanted, const char *words)
{
    expect_in(SABOTAGE_DIR, 0, name, wanted, words);
}

/* An accelerator's driver may compile for seconds in its first open(); one that never comes back is
 * refused all the same. */
static void test_slow_open(void)
{
    expect_in(SABOTAGE_DIR "_open", 0, "openlate", ERR_NONE, "");
    expect_in(SABOTAGE_DIR "_open", 1000, "openlate", ERR_TIMEOUT, "hangs in open");
    expect_in(SABOTAGE_DIR "_open", 3000, "opennever", ERR_TIMEOUT, "hangs in open");
}

static void test_wrong(void)
{
    expect("badsaturate", ERR_MISMATCH, "maximum");
    expect("badtile", ERR_MISMATCH, "matmul");
    expect("badties", ERR_MISMATCH, "ties");
    expect("badpast", ERR_MISMATCH, "wrote past the end");
    expect("badleak", ERR_MISMATCH, "leaks");
    expect("badversion", ERR_VERSION, "ABI 2");
    expect("badhole", ERR_FORMAT, "missing");
}

static void test_dying(void)
{
    expect("badcrash", ERR_CRASHED, "crashes in matmul");
    expect("badhang", ERR_TIMEOUT, "hangs in matmul");
}

static void test_good(void)
{
    expect("goodplain", ERR_NONE, "");
    expect("goodspare", ERR_NONE, "");
}

static int copy(const char *from, const char *to, long flip)
{
    char buffer[65536];
    long at = 0;
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    int bad = in == NULL || out == NULL;
    for (size_t n; !bad && (n = fread(buffer, 1, sizeof buffer, in)) > 0; at += (long)n) {
        if (flip >= at && flip < at + (long)n)
            buffer[flip - at] ^= 1;
        bad = fwrite(buffer, 1, n, out) != n;
    }
    if (in != NULL)
        fclose(in);
    if (out != NULL)
        bad |= fclose(out) != 0;
    return bad;
}

static char scratch[64];

static const char *in_scratch(const char *name)
{
    static char path[4][128];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", scratch, name);
    return path[turn];
}

static void expect_load(const char *name, const struct load_options *options, enum err wanted,
                        const char *words)
{
    struct hal_plugin plugin;
    char reason[LOAD_REASON_BYTES];
    const enum err e = load_plugin(in_scratch(name), options, &plugin, reason);
    CU_ASSERT_EQUAL(e, wanted);
    CU_ASSERT_PTR_NOT_NULL(strstr(reason, words));
    if (e != wanted || strstr(reason, words) == NULL)
        printf("%s: %s: %s\n", name, err_name(e), reason);
}

static void test_files(void)
{
    const char *good = SABOTAGE_DIR "/goodplain.so", *sign = SABOTAGE_DIR "/goodplain.so.minisign";
    snprintf(scratch, sizeof scratch, "/tmp/select_test.XXXXXX");
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(scratch));
    CU_ASSERT_EQUAL(copy(good, in_scratch("goodplain.so"), -1), 0);
    expect_load("goodplain.so", NULL, ERR_SIGNATURE, "unsigned");
    CU_ASSERT_EQUAL(copy(sign, in_scratch("goodplain.so.minisign"), -1), 0);
    expect_load("goodplain.so", NULL, ERR_NONE, "");
    /* one bit of it, wherever it is */
    CU_ASSERT_EQUAL(copy(good, in_scratch("goodplain.so"), 5000), 0);
    expect_load("goodplain.so", NULL, ERR_SIGNATURE, "altered");
    /* a signature of another file */
    CU_ASSERT_EQUAL(copy(SABOTAGE_DIR "/goodspare.so", in_scratch("goodplain.so"), -1), 0);
    expect_load("goodplain.so", NULL, ERR_SIGNATURE, "altered");
    /* signed, but under another name */
    CU_ASSERT_EQUAL(copy(good, in_scratch("vnni.so"), -1), 0);
    CU_ASSERT_EQUAL(copy(sign, in_scratch("vnni.so.minisign"), -1), 0);
    expect_load("vnni.so", NULL, ERR_FORMAT, "calls itself goodplain");
    CU_ASSERT_EQUAL(symlink(good, in_scratch("link.so")), 0);
    expect_load("link.so", NULL, ERR_IO, "symbolic link");
    CU_ASSERT_EQUAL(mkdir(in_scratch("folder.so"), 0700), 0);
    expect_load("folder.so", NULL, ERR_FORMAT, "not a regular file");
    expect_load("absent.so", NULL, ERR_NOT_FOUND, "cannot open");
    FILE *file = fopen(in_scratch("empty.so"), "wb");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    fclose(file);
    expect_load("empty.so", NULL, ERR_FORMAT, "0 bytes");
    CU_ASSERT_EQUAL(truncate(in_scratch("empty.so"), (off_t)LOAD_BYTES_MAX + 1), 0);
    expect_load("empty.so", NULL, ERR_FORMAT, "expected 1 to");
}

/* A further key: refused without it, taken with it. */
static void test_keys(void)
{
    struct minisign_secret secret;
    struct minisign_public public;
    char text[MINISIGN_FILE_MAX];
    CU_ASSERT_EQUAL_FATAL(minisign_generate(&secret), ERR_NONE);
    minisign_public_of(&secret, &public);
    CU_ASSERT_EQUAL(copy(SABOTAGE_DIR "/goodplain.so", in_scratch("goodplain.so"), -1), 0);
    CU_ASSERT_EQUAL(minisign_file_sign(&secret, in_scratch("goodplain.so"), "test",
                                       in_scratch("goodplain.so.minisign")),
                    ERR_NONE);
    expect_load("goodplain.so", NULL, ERR_SIGNATURE, "not trusted");
    CU_ASSERT_EQUAL(minisign_public_encode(&public, "test", text, sizeof text), ERR_NONE);
    char *line = strchr(text, '\n') + 1;
    line[strcspn(line, "\n")] = '\0';
    const char *const keys[] = {line};
    const struct load_options with = {.keys = keys, .key_count = 1};
    expect_load("goodplain.so", &with, ERR_NONE, "");
    /* as installed, the folder must be root's alone */
    const struct load_options strict = {.keys = keys, .key_count = 1, .is_root_owned = 1};
    CU_ASSERT_EQUAL(chmod(in_scratch("goodplain.so"), 0666), 0);
    expect_load("goodplain.so", &strict, ERR_IO, "root");
    CU_ASSERT_EQUAL(chmod(in_scratch("goodplain.so"), 0644), 0);
    CU_ASSERT_EQUAL(chmod(scratch, 0777), 0);
    expect_load("goodplain.so", &strict, ERR_IO, "root");
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", scratch);
    CU_ASSERT_EQUAL(system(command), 0);
}

static int is_refused(const struct engine *engine, const char *name)
{
    for (uint32_t i = 0; i < engine->refusals; i++)
        if (strcmp(engine->refused[i].name, name) == 0)
            return engine->refused[i].reason[0] != '\0';
    return 0;
}

/* The best that passes serves, and every other is named. */
static void test_engine(void)
{
    static const char *const bad[] = {"badsaturate", "badtile", "badties", "badpast",   "badcrash",
                                      "badhang",     "badleak", "badhole", "badversion"};
    struct engine *engine;
    struct engine_refusal refusal;
    struct engine_options options = {.folder = SABOTAGE_DIR, .threads = 2};
    CU_ASSERT_EQUAL_FATAL(engine_open(&options, &engine, &refusal), ERR_NONE);
    CU_ASSERT_STRING_EQUAL(engine->ops.name, "goodplain");
    CU_ASSERT_EQUAL(engine->fallback_ops, 0);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CU_ASSERT_TRUE(is_refused(engine, bad[i]));
    char line[4096], short_line[20];
    engine_describe(engine, line, sizeof line);
    CU_ASSERT_EQUAL(strncmp(line, "goodplain c11; refused: ", 24), 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(line, "badhang (hangs in matmul"));
    engine_describe(engine, short_line, sizeof short_line);
    CU_ASSERT_EQUAL(strncmp(line, short_line, sizeof short_line - 1), 0);
    CU_ASSERT_EQUAL(strlen(short_line), sizeof short_line - 1);
    engine_close(engine);
    options.plugin = "goodspare";
    CU_ASSERT_EQUAL_FATAL(engine_open(&options, &engine, &refusal), ERR_NONE);
    engine_describe(engine, line, sizeof line);
    CU_ASSERT_STRING_EQUAL(line, "goodspare c11; embed, rmsnorm, layernorm, rope, store, attend, glu, add, scale, "
                                 "scatter, encode, decode, copy, top on the CPU");
    engine_close(engine);
    options.plugin = "badcrash";
    CU_ASSERT_EQUAL(engine_open(&options, &engine, &refusal), ERR_CRASHED);
    CU_ASSERT_PTR_NULL(engine);
    CU_ASSERT_STRING_EQUAL(refusal.name, "badcrash");
    options.plugin = "nosuch";
    CU_ASSERT_EQUAL(engine_open(&options, &engine, &refusal), ERR_NOT_FOUND);
    CU_ASSERT_PTR_NOT_NULL(strstr(refusal.reason, "no such plugin"));
    options.plugin = "scalar";
    CU_ASSERT_EQUAL_FATAL(engine_open(&options, &engine, NULL), ERR_NONE);
    CU_ASSERT_STRING_EQUAL(engine->ops.name, "scalar");
    engine_close(engine);
    options.path = "warp";
    CU_ASSERT_EQUAL(engine_open(&options, &engine, &refusal), ERR_UNSUPPORTED);
    CU_ASSERT_EQUAL(engine_memory_used(), 0);
}

static void test_budget(void)
{
    struct engine *engine;
    const struct engine_options options = {
        .plugin = "scalar", .threads = 1, .budget_bytes = 1 << 20};
    CU_ASSERT_EQUAL_FATAL(engine_open(&options, &engine, NULL), ERR_NONE);
    struct hal_mat m = {.type = HAL_F16, .use = HAL_WEIGHT, .rows = 1024, .cols = 1024};
    CU_ASSERT_EQUAL(engine->ops.mat_new(engine->dev, &m), ERR_MEMORY);
    CU_ASSERT_PTR_NULL(m.mem);
    m.rows = 256;
    CU_ASSERT_EQUAL(engine->ops.mat_new(engine->dev, &m), ERR_NONE);
    CU_ASSERT_TRUE(engine_memory_used() >= 256 * 1024 * 2);
    engine->ops.mat_free(engine->dev, &m);
    engine_close(engine);
    CU_ASSERT_EQUAL(engine_memory_used(), 0);
    CU_ASSERT_TRUE(engine_memory_peak() >= 256 * 1024 * 2);
}

/* A plugin with nothing but what is required, wrapped by fallback.c, passes the whole check. */
static struct hal_plugin spare;

static enum err open_wrapped(const struct hal_host *host, void **dev)
{
    struct hal_plugin ops;
    void *inner = NULL;
    enum err e = spare.open(host, &inner);
    if (e == ERR_NONE) {
        e = fallback_open(&spare, inner, host, &ops, dev);
        if (e != ERR_NONE)
            spare.close(inner);
    }
    return e;
}

static void test_fallback(void)
{
    struct hal_plugin wrapped;
    struct check_report report;
    void *inner = NULL, *dev = NULL;
    const struct hal_plugin *s = &scalar_plugin;
    memset(&spare, 0, sizeof spare);
    memcpy(&spare, s, offsetof(struct hal_plugin, embed)); /* only what is required */
    struct engine *engine;
    const struct engine_options options = {.plugin = "scalar", .threads = 2};
    CU_ASSERT_EQUAL_FATAL(engine_open(&options, &engine, NULL), ERR_NONE);
    CU_ASSERT_EQUAL(fallback_missing(&spare), (1u << FALLBACK_OPS) - 1u);
    CU_ASSERT_EQUAL_FATAL(spare.open(&engine->host, &inner), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(fallback_open(&spare, inner, &engine->host, &wrapped, &dev), ERR_NONE);
    wrapped.close(dev);
    engine_close(engine);
    wrapped.open = open_wrapped;
    CU_ASSERT_EQUAL(check_plugin(&wrapped, NULL, &report), ERR_NONE);
    CU_ASSERT_STRING_EQUAL(report.text, "");
    CU_ASSERT_TRUE(report.cases > 1000);
}

RUN_SUITE("select", {"wrong results", test_wrong}, {"crash and hang", test_dying}, {"slow to open", test_slow_open},
          {"good ones", test_good}, {"files", test_files}, {"keys", test_keys},
          {"engine", test_engine}, {"budget", test_budget}, {"fallback", test_fallback})
