/* selftest_test.c: the real tared-worker holds a variant against its recipe's gates, with the cache and the
 * activations of the plan, and serves it so. */
#include "harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/worker.h"
#include "agent_fixture.h"
#include "compress/digest.h"
#include "compress/plan.h"
#include "model/gguf.h"
#include "protocol/hex.h"
#include "protocol/message.h"

#define MODEL SOURCE_DIR "/models/tare-tiny/tare-tiny-f16.gguf"
#define TEXTS SOURCE_DIR "/tests/data/text/"

/* A worker under a sanitizer takes half a minute per self-test: fewer of them are run there. */
#ifdef __SANITIZE_ADDRESS__
enum { IS_SLOW = 1, SECTION_BYTES = 1000 };
#else
enum { IS_SLOW = 0, SECTION_BYTES = 3000 };
#endif

static struct fixture f;
static struct worker *worker;
static char two_languages[300], base_sha256[65];

static struct heard {
    bool is_ready, is_done, has_failed, is_over;
    uint64_t gate; /* UINT64_MAX: none was missed */
    double worst_kld, kld;
    char text[4096];
    size_t used;
} heard;

static void on_message(void *context, struct worker *w, const struct wire *m)
{
    const void *at;
    size_t bytes;
    (void)context;
    (void)w;
    heard.is_ready = heard.is_ready || m->kind == WIRE_READY;
    if (m->kind == WIRE_TOKEN && wire_view(m, WIRE_K_TOP, &at, &bytes) && heard.used + bytes < sizeof heard.text) {
        memcpy(heard.text + heard.used, at, bytes);
        heard.used += bytes;
    }
    if (m->kind == WIRE_DONE) {
        heard.is_done = true;
        heard.gate = wire_u64(m, WIRE_K_GATE, UINT64_MAX);
        heard.kld = wire_f64(m, WIRE_K_KLD, -1);
        heard.worst_kld = wire_f64(m, WIRE_K_WORST_KLD, -1);
    }
    if (m->kind == WIRE_DONE || m->kind == WIRE_FAILED)
        wire_text(m, WIRE_K_TEXT, heard.text, sizeof heard.text);
    heard.has_failed = heard.has_failed || m->kind == WIRE_FAILED;
    heard.is_over = heard.is_over || m->kind == WIRE_DONE || m->kind == WIRE_FAILED || m->kind == WIRE_END;
}

static void on_ended(void *context, struct worker *w, enum worker_end end, const char *why)
{
    (void)context;
    (void)w;
    (void)end;
    (void)why;
    heard.is_over = true;
}

static bool is_over(void *context)
{
    (void)context;
    return heard.is_over;
}

static bool is_ready(void *context)
{
    (void)context;
    return heard.is_ready || heard.is_over;
}

static void begin(const struct wire *m)
{
    struct worker_options o = {
        .loop = f.loop, .settings = &f.settings, .name = "test", .message = on_message, .ended = on_ended};
    memset(&heard, 0, sizeof heard);
    CU_ASSERT_FATAL(worker_open(&o, &worker) == ERR_NONE);
    CU_ASSERT_FATAL(worker_send(worker, m) == ERR_NONE);
}

static void put_section(FILE *to, const char *language)
{
    char path[300], text[SECTION_BYTES];
    snprintf(path, sizeof path, TEXTS "%s/heldout.txt", language);
    FILE *from = fopen(path, "rb");
    CU_ASSERT_FATAL(from != NULL);
    const size_t bytes = fread(text, 1, sizeof text - 1, from);
    fclose(from);
    fprintf(to, "\f%s\n", language);
    CU_ASSERT_EQUAL(fwrite(text, 1, bytes, to), bytes);
    fputc('\n', to);
}

static void set_up(void)
{
    fixture_open(&f);
    worker_set_program(BUILD_DIR "/bin/tared-worker");
    f.settings.threads = 2;
    CU_ASSERT_EQUAL_FATAL(digest_file(MODEL, base_sha256, NULL), ERR_NONE);
    snprintf(two_languages, sizeof two_languages, "%s/text", f.folder);
    FILE *to = fopen(two_languages, "wb");
    CU_ASSERT_FATAL(to != NULL);
    put_section(to, "en");
    put_section(to, "zh");
    fclose(to);
}

/* The payload of a signed plan of this recipe. */
static size_t make_payload(const char *text, uint8_t *out, size_t capacity)
{
    static uint8_t derivation[PLAN_BYTES_MAX];
    char reason[GGUF_REASON_BYTES];
    struct gguf *base = NULL;
    struct plan *plan = NULL;
    struct recipe recipe;
    struct fault why = {""};
    struct message_plan m;
    size_t bytes = 0;
    CU_ASSERT_EQUAL_FATAL(gguf_open(MODEL, &base, reason), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(recipe_parse("r.yaml", text, strlen(text), &recipe, &why), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(plan_make(&recipe, base, base_sha256, gguf_bytes(base), NULL, NULL, NULL, NULL, &plan, &why),
                          ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(plan_encode(plan, derivation, sizeof derivation, &bytes), ERR_NONE);
    fixture_plan(&f, 1, &m);
    m.derivation = (struct message_blob){derivation, bytes};
    CU_ASSERT_EQUAL_FATAL(hex_decode(base_sha256, 64, m.base.digest, sizeof m.base.digest), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(message_plan_encode(&m, out, capacity, &bytes), ERR_NONE);
    plan_close(plan);
    gguf_close(base);
    return bytes;
}

/* The base as a variant of itself: what differs is how it answers. */
static void test(const char *recipe, const char *text)
{
    static uint8_t payload[PLAN_BYTES_MAX + 4096];
    struct wire m;
    const size_t bytes = make_payload(recipe, payload, sizeof payload);
    wire_init(&m, WIRE_SELFTEST, 1);
    wire_put_text(&m, WIRE_K_BASE, MODEL);
    wire_put_text(&m, WIRE_K_PATH, MODEL);
    wire_put_bytes(&m, WIRE_K_PLAN, payload, bytes);
    if (text)
        wire_put_bytes(&m, WIRE_K_TEXTS, text, strlen(text) + 1);
    begin(&m);
    CU_ASSERT(fixture_wait(&f, IS_SLOW ? 500000 : 120000, is_over, NULL));
    worker_close(worker);
    CU_ASSERT(heard.is_done || heard.has_failed);
}

static void caches_are_judged(void)
{
    if (IS_SLOW)
        return;
    test("{method: keep, gates: {kld_mean: 0.0005, top1: 0.9}}", two_languages);
    CU_ASSERT(heard.is_done && heard.gate == UINT64_MAX && fabs(heard.kld) < 0.0001);
    test("{method: keep, cache: q8_0, gates: {kld_mean: 0.0005, top1: 0.9}}", two_languages);
    CU_ASSERT(heard.is_done && heard.gate == UINT64_MAX && heard.kld > 0);
    const double q8 = heard.kld;
    test("{method: keep, cache: q4_0, gates: {kld_mean: 0.0005, top1: 0.9}}", two_languages);
    CU_ASSERT_EQUAL(heard.gate, RECIPE_KLD_MEAN);
    CU_ASSERT(heard.kld > 10 * q8);
    CU_ASSERT_PTR_NOT_NULL(strstr(heard.text, "kld_mean is 0.0"));
    CU_ASSERT_PTR_NOT_NULL(strstr(heard.text, "the limit is 0.0005"));
}

static void activations_are_judged(void)
{
    if (IS_SLOW)
        return;
    test("{method: keep, activations: 16, gates: {kld_mean: 0.0005}}", two_languages);
    CU_ASSERT(heard.is_done && heard.gate == UINT64_MAX);
    test("{method: keep, activations: 4, gates: {kld_mean: 0.0005}}", two_languages);
    CU_ASSERT_EQUAL(heard.gate, RECIPE_KLD_MEAN);
}

/* Those that the signed plan has no field for. */
static void every_gate_is_held(void)
{
    static const struct {
        const char *recipe;
        uint32_t gate;
        const char *line;
    } rows[] = {
        {"{method: keep, cache: q4_0, gates: {kld_p99: 0.0001}}", RECIPE_KLD_P99, "kld_p99 is"},
        {"{method: keep, cache: q4_0, gates: {worst_kld_mean: 0.0001}}", RECIPE_WORST_KLD_MEAN, "worst_kld_mean is"},
        {"{method: keep, cache: q4_0, gates: {worst_dppl_percent: 0.0001}}", RECIPE_WORST_DPPL_PERCENT, " in "},
        {"{method: keep, gates: {decode_tok_s: 1e8}}", RECIPE_DECODE_TOK_S, "the limit is 1e+08"},
    };
    for (size_t i = 0; i < (IS_SLOW ? 1 : sizeof rows / sizeof *rows); i++) {
        test(rows[i].recipe, two_languages);
        CU_ASSERT_EQUAL(heard.gate, rows[i].gate);
        if (!strstr(heard.text, rows[i].line))
            fprintf(stderr, "row %zu: '%s' lacks '%s'\n", i, heard.text, rows[i].line);
        CU_ASSERT_PTR_NOT_NULL(strstr(heard.text, rows[i].line));
    }
    if (IS_SLOW)
        return;
    test("{method: keep, gates: {file_mib: 8, kld_p99: 0.5, worst_kld_mean: 0.1, energy_mj_token: 1e8}}", two_languages);
    CU_ASSERT(heard.is_done && heard.gate == UINT64_MAX);
    CU_ASSERT(heard.worst_kld >= heard.kld);
    test("{method: keep, gates: {kld_p99: 0.5}}", NULL);
    CU_ASSERT_EQUAL(heard.gate, RECIPE_GATES);
    CU_ASSERT_PTR_NOT_NULL(strstr(heard.text, "kld_p99 could not be measured"));
}

/* Greedy text and its probabilities, served with a cache and activations. */
static void serve(uint64_t cache, uint64_t bits, struct heard *out)
{
    struct wire m;
    wire_init(&m, WIRE_SERVE, 0);
    wire_put_text(&m, WIRE_K_PATH, fixture_link(&f, MODEL));
    wire_put_u64(&m, WIRE_K_SEQUENCES, 1);
    wire_put_u64(&m, WIRE_K_CONTEXT, 128);
    wire_put_u64(&m, WIRE_K_CACHE, cache);
    wire_put_u64(&m, WIRE_K_ACTIVATIONS, bits);
    begin(&m);
    CU_ASSERT(fixture_wait(&f, IS_SLOW ? 300000 : 60000, is_ready, NULL));
    wire_init(&m, WIRE_GENERATE, 1);
    wire_put_bytes(&m, WIRE_K_PROMPT, "Once upon a time", 16);
    wire_put_u64(&m, WIRE_K_GENERATE, 12);
    wire_put_f64(&m, WIRE_K_TOP_P, 1);
    wire_put_u64(&m, WIRE_K_TOP, 2);
    CU_ASSERT_FATAL(worker_send(worker, &m) == ERR_NONE);
    CU_ASSERT(fixture_wait(&f, IS_SLOW ? 300000 : 60000, is_over, NULL));
    worker_close(worker);
    CU_ASSERT(heard.used > 50);
    *out = heard;
}

static void serves_as_judged(void)
{
    static struct heard stock, said, q4, bits;
    serve(0, 0, &stock);
    serve(HAL_Q4_0, 8, &q4);
    CU_ASSERT(stock.used != q4.used || memcmp(stock.text, q4.text, q4.used) != 0);
    if (IS_SLOW)
        return;
    serve(HAL_F16, 8, &said);
    CU_ASSERT(stock.used == said.used && memcmp(stock.text, said.text, said.used) == 0);
    serve(HAL_F16, 4, &bits);
    CU_ASSERT(stock.used != bits.used || memcmp(stock.text, bits.text, bits.used) != 0);
}

static void tear_down(void)
{
    unlink(two_languages);
    fixture_close(&f);
}

RUN_SUITE("selftest", {"set_up", set_up}, {"caches_are_judged", caches_are_judged},
          {"activations_are_judged", activations_are_judged}, {"every_gate_is_held", every_gate_is_held},
          {"serves_as_judged", serves_as_judged}, {"tear_down", tear_down})
