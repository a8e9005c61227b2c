/* prune_test.c: what goes, what is written, what the others take over. Weights are tare-tiny's, inputs come
 * from a fixed generator. */
#include "tests/harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "compress/prune_base.h"
#include "compress/prune_choose.h"
#include "compress/prune_mask.h"
#include "compress/prune_solve.h"
#include "compress/quantise.h"
#include "hal/engine.h"
#include "hal/half.h"
#include "model/gguf.h"
#include "model/model.h"
#include "protocol/cbor.h"

static const char base_path[] = SOURCE_DIR "/models/tare-tiny/tare-tiny-f16.gguf";
static char folder[] = "/tmp/tare-prune-XXXXXX";
static char out_path[256], other_path[256];
static char base_sha256[65];
static struct profile *profile;
static struct engine *engine;
static uint64_t seed = 1;

static float noise(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (float)(seed >> 40) / 16777216.0f - 0.5f;
}

static void set_up(void)
{
    char reason[GGUF_REASON_BYTES];
    struct gguf *base = NULL;
    const struct engine_options options = {.plugin = "scalar", .threads = 2, .is_unchecked = 1};
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(folder));
    snprintf(out_path, sizeof out_path, "%s/out.gguf", folder);
    snprintf(other_path, sizeof other_path, "%s/other.gguf", folder);
    CU_ASSERT_EQUAL_FATAL(engine_open(&options, &engine, NULL), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(digest_file(base_path, base_sha256, NULL), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(gguf_open(base_path, &base, reason), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(profile_open(&profile), ERR_NONE);
    for (uint32_t i = 0; i < gguf_tensors(base); i++) {
        const struct gguf_tensor *t = gguf_tensor(base, i);
        struct profile_entry *e;
        if (t->dims < 2)
            continue;
        CU_ASSERT_EQUAL_FATAL(profile_entry_get(profile, t->name, (uint32_t)t->shape[0], 1, &e), ERR_NONE);
        e->count[0] = 100;
        for (uint32_t c = 0; c < e->cols; c++)
            e->sum2[c] = (double)(noise() + 0.6f) * (c % 37 == 0 ? 5000 : 100);
    }
    gguf_close(base);
}

static struct recipe_prune want_of(const char *text, uint32_t by)
{
    struct recipe_prune want = {.by = by};
    struct fault f = {""};
    CU_ASSERT_EQUAL_FATAL(recipe_prune_parse(text, &want, &f), ERR_NONE);
    return want;
}

static enum err choose(const struct recipe_prune *want, const char *path, uint32_t threads, struct prune **out,
                       struct fault *f)
{
    const struct prune_choose_options o = {
        .want = want, .base_path = path, .profile = profile, .engine = engine, .threads = threads};
    return prune_choose(&o, out, f);
}

static size_t wire_of(const struct prune *p, uint8_t *out, size_t capacity)
{
    struct cbor_writer w;
    size_t bytes = 0;
    cbor_writer_init(&w, out, capacity);
    CU_ASSERT_EQUAL_FATAL(prune_encode(&w, p), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(cbor_written(&w, &bytes), ERR_NONE);
    return bytes;
}

static void make(const struct prune *p, const char *path, const char *base, uint32_t threads)
{
    struct fault f = {""};
    const struct prune_file_options o = {.base_path = base, .base_sha256 = base_sha256, .out_path = path, .prune = p,
                                         .profile = profile, .engine = engine, .threads = threads};
    unlink(path);
    const enum err e = prune_file_make(&o, NULL, &f);
    if (e)
        fprintf(stderr, "%s\n", f.text);
    CU_ASSERT_EQUAL_FATAL(e, ERR_NONE);
}

/* Magnitude and Wanda: the same choice and the same file for any number of threads. */
static void choices_repeat(void)
{
    for (uint32_t by = RECIPE_MAGNITUDE; by <= RECIPE_WANDA; by++) {
        static uint8_t first[1 << 14], wire[1 << 14];
        const struct recipe_prune want = want_of("ffn=20%,heads=25%,layers=25%", by);
        size_t first_bytes = 0;
        char sha[65] = "", again[65];
        for (uint32_t threads = 1; threads <= 3; threads += 2) {
            struct prune *p = NULL, *q = NULL;
            struct cbor_reader r;
            struct fault f = {""};
            CU_ASSERT_EQUAL_FATAL(choose(&want, base_path, threads, &p, &f), ERR_NONE);
            const size_t bytes = wire_of(p, threads == 1 ? first : wire, sizeof wire);
            if (threads == 1)
                first_bytes = bytes;
            else
                CU_ASSERT_TRUE(bytes == first_bytes && memcmp(first, wire, bytes) == 0);
            cbor_reader_init(&r, first, first_bytes);
            CU_ASSERT_EQUAL_FATAL(prune_decode(&r, &q), ERR_NONE);
            CU_ASSERT_TRUE(wire_of(q, wire, sizeof wire) == first_bytes && memcmp(first, wire, bytes) == 0);
            make(q, out_path, base_path, threads);
            CU_ASSERT_EQUAL_FATAL(digest_file(out_path, again, NULL), ERR_NONE);
            if (threads == 1)
                strcpy(sha, again);
            CU_ASSERT_STRING_EQUAL(sha, again);
            prune_close(p);
            prune_close(q);
        }
    }
}

/* Nothing but what encode writes is taken. */
static void wire_is_strict(void)
{
    static uint8_t wire[1 << 14];
    const struct recipe_prune want = want_of("ffn=20%,heads=25%", RECIPE_MAGNITUDE);
    struct prune *p = NULL;
    struct fault f = {""};
    CU_ASSERT_EQUAL_FATAL(choose(&want, base_path, 1, &p, &f), ERR_NONE);
    const size_t bytes = wire_of(p, wire, sizeof wire);
    prune_close(p);
    for (size_t i = 0; i < bytes; i++)
        for (unsigned bit = 0; bit < 8; bit += 3) {
            static uint8_t again[1 << 14];
            struct cbor_reader r;
            struct prune *q = NULL;
            wire[i] = (uint8_t)(wire[i] ^ 1u << bit);
            cbor_reader_init(&r, wire, bytes);
            if (prune_decode(&r, &q) == ERR_NONE) {
                const size_t n = wire_of(q, again, sizeof again);
                CU_ASSERT_TRUE(memcmp(again, wire, n) == 0);
                CU_ASSERT_EQUAL(prune_check(q, NULL), ERR_NONE);
                prune_close(q);
            }
            wire[i] = (uint8_t)(wire[i] ^ 1u << bit);
        }
}

static void expect_shape(const struct gguf *g, const char *name, uint64_t rows, uint64_t cols)
{
    const struct gguf_tensor *t = gguf_tensor_find(g, name);
    CU_ASSERT_PTR_NOT_NULL_FATAL(t);
    CU_ASSERT_TRUE(t->rows == rows && t->shape[0] == cols);
}

static uint32_t number(const struct gguf *g, const char *key)
{
    uint32_t value = 0;
    CU_ASSERT_EQUAL(gguf_u32(g, key, &value), ERR_NONE);
    return value;
}

static void shapes_follow(void)
{
    char reason[GGUF_REASON_BYTES];
    const struct recipe_prune want = want_of("ffn=20%,heads=25%,groups=50%,layers=25%", RECIPE_MAGNITUDE);
    const struct model_options options = {.context = 64};
    struct prune *p = NULL;
    struct gguf *g = NULL;
    struct model *m = NULL;
    struct stat before, after;
    struct fault f = {""};
    CU_ASSERT_EQUAL_FATAL(choose(&want, base_path, 2, &p, &f), ERR_NONE);
    make(p, out_path, base_path, 2);
    CU_ASSERT_EQUAL_FATAL(gguf_open(out_path, &g, reason), ERR_NONE);
    CU_ASSERT_EQUAL(number(g, "llama.block_count"), 3);
    CU_ASSERT_EQUAL(number(g, "llama.feed_forward_length"), 608);
    CU_ASSERT_EQUAL(number(g, "llama.attention.head_count"), 3);
    CU_ASSERT_EQUAL(number(g, "llama.attention.head_count_kv"), 1);
    CU_ASSERT_EQUAL(number(g, "llama.attention.key_length"), 32);
    expect_shape(g, "blk.2.attn_q.weight", 96, 256);
    expect_shape(g, "blk.2.attn_k.weight", 32, 256);
    expect_shape(g, "blk.0.attn_v.weight", 32, 256);
    expect_shape(g, "blk.1.attn_output.weight", 256, 96);
    expect_shape(g, "blk.0.ffn_gate.weight", 608, 256);
    expect_shape(g, "blk.0.ffn_up.weight", 608, 256);
    expect_shape(g, "blk.2.ffn_down.weight", 256, 608);
    CU_ASSERT_PTR_NULL(gguf_tensor_find(g, "blk.3.ffn_down.weight"));
    CU_ASSERT_EQUAL_FATAL(model_open(g, engine, &options, &m, reason), ERR_NONE);
    const uint32_t tokens[] = {1, 300, 301, 302};
    const struct model_run run = {.outputs = 1, .count = 4, .tokens = tokens};
    CU_ASSERT_EQUAL(model_step(m, &run, 1), ERR_NONE);
    CU_ASSERT_TRUE(stat(base_path, &before) == 0 && stat(out_path, &after) == 0);
    CU_ASSERT_TRUE(after.st_size < before.st_size * 7 / 10);
    model_close(m);
    gguf_close(g);
    prune_close(p);
}

/* The base with the columns of some channels and heads 0: those are what goes, and nothing changes. */
static char *silent_base(const struct prune *p)
{
    static const struct {
        const char *part;
        uint32_t axis;
    } linears[] = {{"attn_output", PRUNE_OUT}, {"ffn_down", PRUNE_FFN}};
    char reason[GGUF_REASON_BYTES], name[64];
    struct gguf *g = NULL;
    struct stat status;
    FILE *from = fopen(base_path, "rb");
    CU_ASSERT_TRUE_FATAL(from && fstat(fileno(from), &status) == 0);
    char *bytes = malloc((size_t)status.st_size);
    CU_ASSERT_TRUE_FATAL(bytes && fread(bytes, 1, (size_t)status.st_size, from) == (size_t)status.st_size);
    fclose(from);
    CU_ASSERT_EQUAL_FATAL(gguf_open_bytes(bytes, (size_t)status.st_size, "silent", &g, reason), ERR_NONE);
    for (uint32_t l = 0; l < p->shape.layers; l++)
        for (int i = 0; i < 2; i++) {
            snprintf(name, sizeof name, "blk.%u.%s.weight", l, linears[i].part);
            const struct gguf_tensor *t = gguf_tensor_find(g, name);
            uint32_t index[1024];
            const uint32_t kept = prune_axis_kept(p, l, linears[i].axis, index);
            char *data = bytes + ((const char *)t->data - bytes);
            for (uint64_t r = 0; r < t->rows; r++)
                for (uint32_t c = 0, k = 0; c < t->shape[0]; c++) {
                    if (k < kept && index[k] == c)
                        k++;
                    else
                        memset(data + r * t->row_bytes + 2 * (size_t)c, 0, 2);
                }
        }
    gguf_close(g);
    FILE *to = fopen(other_path, "wb");
    CU_ASSERT_TRUE_FATAL(to && fwrite(bytes, 1, (size_t)status.st_size, to) == (size_t)status.st_size);
    CU_ASSERT_EQUAL_FATAL(fclose(to), 0);
    free(bytes);
    return other_path;
}

static void logits_of(const char *path, float *out, uint32_t vocabulary)
{
    char reason[GGUF_REASON_BYTES];
    static const uint32_t tokens[] = {1, 310, 400, 999, 1234, 17, 2048, 311};
    const struct model_options options = {.context = 64, .cache_k = MODEL_CACHE_F32, .cache_v = MODEL_CACHE_F32};
    const struct model_run run = {.outputs = 1, .count = 8, .tokens = tokens};
    const float *row = NULL;
    struct gguf *g = NULL;
    struct model *m = NULL;
    CU_ASSERT_EQUAL_FATAL(gguf_open(path, &g, reason), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(model_open(g, engine, &options, &m, reason), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(model_step(m, &run, 1), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(model_logits(m, 0, 1, &row), ERR_NONE);
    memcpy(out, row, vocabulary * sizeof *out);
    model_close(m);
    gguf_close(g);
}

static void silent_parts_are_not_missed(void)
{
    enum { VOCABULARY = 4096 };
    static float a[VOCABULARY], b[VOCABULARY];
    const struct prune_shape shape = {4, 8, 2, 768, 32, 32};
    struct recipe_prune want = want_of("ffn=25%,heads=25%", RECIPE_MAGNITUDE);
    struct prune *p = NULL, *found = NULL;
    struct fault f = {""};
    double worst = 0, largest = 0;
    CU_ASSERT_EQUAL_FATAL(prune_open(&shape, &p), ERR_NONE);
    for (uint32_t l = 0; l < 4; l++) {
        p->head[l * 8 + l % 4] = p->head[l * 8 + 4 + (l + 1) % 4] = 0;
        for (uint32_t c = 0; c < 768; c++)
            p->channel[l * 768 + c] = (c + l) % 4 != 0;
    }
    char *silent = silent_base(p);
    /* what is silent is what Wanda takes */
    want.by = RECIPE_WANDA;
    CU_ASSERT_EQUAL_FATAL(choose(&want, silent, 2, &found, &f), ERR_NONE);
    CU_ASSERT_EQUAL(memcmp(p->head, found->head, 32), 0);
    CU_ASSERT_EQUAL(memcmp(p->channel, found->channel, 4 * 768), 0);
    make(found, out_path, silent, 2);
    logits_of(silent, a, VOCABULARY);
    logits_of(out_path, b, VOCABULARY);
    for (uint32_t i = 0; i < VOCABULARY; i++) {
        worst = fmax(worst, fabs((double)a[i] - (double)b[i]));
        largest = fmax(largest, fabs((double)a[i]));
    }
    CU_ASSERT_TRUE(worst < 1e-4 * largest);
    prune_close(p);
    prune_close(found);
}

/* ---- solving ---- */

enum { COLS = 96, ROWS = 40, TOKENS = 2000, SOURCES = 24 };

/* Inputs that fewer sources make: what goes can be said by what stays. */
static struct hessian *correlated(void)
{
    static float x[TOKENS * COLS], mix[SOURCES * COLS];
    struct hessian *h = NULL;
    for (int i = 0; i < SOURCES * COLS; i++)
        mix[i] = noise();
    for (int t = 0; t < TOKENS; t++) {
        float s[SOURCES];
        for (int k = 0; k < SOURCES; k++)
            s[k] = noise();
        for (int c = 0; c < COLS; c++) {
            float v = 0.1f * noise();
            for (int k = 0; k < SOURCES; k++)
                v += s[k] * mix[k * COLS + c];
            x[t * COLS + c] = v;
        }
    }
    CU_ASSERT_EQUAL_FATAL(hessian_open(COLS, &h), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(hessian_add(h, HESSIAN_TRAIN, x, TOKENS * 3 / 4, 2), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(hessian_add(h, HESSIAN_HELD, x + (size_t)TOKENS * 3 / 4 * COLS, TOKENS / 4, 2), ERR_NONE);
    hessian_finish(h);
    return h;
}

static double greedy_error(const struct hessian *h, const float *w, bool is_compensated, const struct prune_units *u,
                           uint32_t threads, uint8_t *kept, double *before)
{
    static float gram[COLS * COLS], copy[ROWS * COLS];
    struct prune_recovery r;
    memset(kept, 1, COLS / u->width);
    memcpy(copy, w, sizeof copy);
    CU_ASSERT_EQUAL_FATAL(prune_solve_gram(w, ROWS, COLS, threads, gram), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(prune_solve_greedy(gram, h->sum[0], u, is_compensated, threads, kept), ERR_NONE);
    uint8_t columns[COLS];
    for (uint32_t c = 0; c < COLS; c++)
        columns[c] = kept[c / u->width];
    CU_ASSERT_EQUAL_FATAL(prune_solve_recover(h, columns, copy, ROWS, threads, &r), ERR_NONE);
    for (uint32_t c = 0; c < COLS; c++)
        CU_ASSERT_TRUE(columns[c] || copy[c] == 0);
    *before = r.before;
    return r.after;
}

static void others_take_over(void)
{
    static float w[ROWS * COLS];
    struct hessian *h = correlated();
    uint8_t kept[COLS], again[COLS];
    double cut = 0, cut_for_recovery = 0, other = 0;
    for (int i = 0; i < ROWS * COLS; i++)
        w[i] = noise();
    const struct prune_units channels = {COLS, 1, COLS, COLS / 4}, heads = {COLS, 8, 4, 1};
    const double plain = greedy_error(h, w, false, &channels, 2, kept, &cut);
    const double compensated = greedy_error(h, w, true, &channels, 1, kept, &cut_for_recovery);
    CU_ASSERT_TRUE(plain < 0.5 * cut);
    CU_ASSERT_TRUE(compensated < plain);       /* chosen for what it is used for */
    CU_ASSERT_TRUE(cut < cut_for_recovery);    /* and the reverse */
    CU_ASSERT_EQUAL(greedy_error(h, w, true, &channels, 3, again, &other), compensated);
    CU_ASSERT_EQUAL(memcmp(kept, again, COLS), 0);
    CU_ASSERT_TRUE(greedy_error(h, w, true, &heads, 2, kept, &cut) < cut);
    for (uint32_t class = 0; class < 3; class++) { /* one head of every group of four */
        uint32_t left = 0;
        for (uint32_t i = 0; i < 4; i++)
            left += kept[class * 4 + i];
        CU_ASSERT_EQUAL(left, 3);
    }
    hessian_close(h);
}

/* A recovery over the model's own activations: better on every linear than cutting alone. */
static void model_recovers(void)
{
    const struct calibrate_text text = {.path = SOURCE_DIR "/README.md", .language = "text"};
    struct recipe_prune want = want_of("ffn=20%,heads=25%", RECIPE_OUTPUT);
    want.is_recovered = true;
    struct prune_choose_options choosing = {.want = &want, .base_path = base_path, .beside = out_path, .engine = engine, .text = &text,
                                            .texts = 1, .tokens = 512};
    struct prune *p = NULL;
    struct prune_file_result r, again;
    struct fault f = {""};
    CU_ASSERT_EQUAL_FATAL(prune_choose(&choosing, &p, &f), ERR_NONE);
    struct prune_file_options o = {.base_path = base_path, .base_sha256 = base_sha256, .out_path = out_path,
                                   .prune = p, .engine = engine, .text = &text, .texts = 1};
    unlink(out_path);
    CU_ASSERT_EQUAL_FATAL(prune_file_make(&o, &r, &f), ERR_NONE);
    CU_ASSERT_TRUE(r.linears == 8 && r.recovered == 8 && r.after < 0.6 * r.before);
    CU_ASSERT_EQUAL_FATAL(prune_file_make(&o, &again, &f), ERR_NONE);
    CU_ASSERT_TRUE(again.is_reused && !r.is_reused);
    o.texts = 0;
    o.out_path = other_path;
    CU_ASSERT_EQUAL(prune_file_make(&o, &again, &f), ERR_ARGUMENT);
    CU_ASSERT_PTR_NOT_NULL(strstr(f.text, "calibration text"));
    prune_close(p);
}

/* ---- in a plan, as a device gets it ---- */

static void plan_is_derived(void)
{
    static const char text[] = "{type: q4_k, prune: {ffn: 20%, heads: 25, by: wanda}}";
    static uint8_t wire[PLAN_BYTES_MAX];
    char sha[65] = "";
    struct recipe recipe;
    struct plan *made = NULL, *plan = NULL;
    struct prune_base pruned;
    struct fault f = {""};
    size_t bytes = 0;
    CU_ASSERT_EQUAL_FATAL(recipe_parse("r.yaml", text, strlen(text), &recipe, &f), ERR_NONE);
    const struct prune_base_options o = {.base_path = base_path, .base_sha256 = base_sha256, .out_path = out_path,
                                         .want = &recipe.prune, .profile = profile, .engine = engine};
    quantise_discard(out_path);
    CU_ASSERT_EQUAL_FATAL(prune_base_open(&o, &pruned, &f), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(plan_make(&recipe, pruned.gguf, base_sha256, 8219104, pruned.profile, base_sha256, NULL, NULL,
                                    &made, &f),
                          ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(prune_base_attach(&pruned, base_sha256, made), ERR_NONE);
    CU_ASSERT_TRUE(plan_is_reproducible(made));
    CU_ASSERT_EQUAL_FATAL(plan_encode(made, wire, sizeof wire, &bytes), ERR_NONE);
    prune_base_close(&pruned);
    quantise_discard(out_path);
    for (uint32_t threads = 1; threads <= 3; threads += 2) {
        struct quantise_result r;
        CU_ASSERT_EQUAL_FATAL(plan_decode(wire, bytes, &plan, &f), ERR_NONE);
        const struct quantise_options q = {.base_path = base_path, .out_path = out_path, .plan = plan,
                                           .profile = profile, .engine = engine, .threads = threads};
        CU_ASSERT_EQUAL_FATAL(quantise_run(&q, &r, &f), ERR_NONE);
        CU_ASSERT_EQUAL(r.bytes, plan->variant_bytes);
        if (threads == 1)
            strcpy(sha, r.sha256);
        CU_ASSERT_STRING_EQUAL(sha, r.sha256);
        char left[300];
        snprintf(left, sizeof left, "%s.pruned", out_path);
        CU_ASSERT_NOT_EQUAL(access(left, F_OK), 0);
        quantise_result_close(&r);
        plan_close(plan);
    }
    plan_close(made);
}

static void recipes_say_it(void)
{
    static const char *const good[] = {"prune: 20%", "prune: ffn=20%,layers=25%",
                                       "prune: {groups: 50%, by: output, recover: true, multiple: 32}",
                                       "prune: {ffn: 10, mask: \"2:4\"}", "prune: {mask: 50%}"};
    static const char *const bad[] = {"prune: 120%", "prune: {by: wanda}", "prune: {ffn: 20, by: luck}",
                                      "prune: ffn=20%,ffn=3%", "prune: {mask: \"4:2\"}", "prune: {heads: none}",
                                      "prune: []"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct recipe a, b;
        char page[4096];
        struct fault f = {""};
        CU_ASSERT_EQUAL_FATAL(recipe_parse("r.yaml", good[i], strlen(good[i]), &a, &f), ERR_NONE);
        CU_ASSERT_TRUE(recipe_prunes(&a.prune));
        CU_ASSERT_EQUAL_FATAL(recipe_print(&a, page, sizeof page), ERR_NONE);
        CU_ASSERT_EQUAL_FATAL(recipe_parse("p.yaml", page, strlen(page), &b, &f), ERR_NONE);
        CU_ASSERT_EQUAL(memcmp(&a.prune, &b.prune, sizeof a.prune), 0);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct recipe a;
        struct fault f = {""};
        CU_ASSERT_EQUAL(recipe_parse("r.yaml", bad[i], strlen(bad[i]), &a, &f), ERR_FORMAT);
        CU_ASSERT_PTR_NOT_NULL(strstr(f.text, "r.yaml:1: "));
    }
}

static void refusals_say_why(void)
{
    struct recipe_prune want = want_of("ffn=20%", RECIPE_MAGNITUDE);
    struct prune *p = NULL;
    struct fault f = {""};
    want.multiple = 100;
    CU_ASSERT_EQUAL(choose(&want, base_path, 1, &p, &f), ERR_ARGUMENT);
    CU_ASSERT_PTR_NOT_NULL(strstr(f.text, "768 FFN channels do not divide by 100"));
    want = want_of("layers=1%", RECIPE_MAGNITUDE);
    CU_ASSERT_EQUAL(choose(&want, base_path, 1, &p, &f), ERR_ARGUMENT);
    CU_ASSERT_PTR_NOT_NULL(strstr(f.text, "nothing would go"));
    want = want_of("20%", RECIPE_OUTPUT);
    CU_ASSERT_EQUAL(choose(&want, base_path, 1, &p, &f), ERR_ARGUMENT);
    CU_ASSERT_PTR_NOT_NULL(strstr(f.text, "calibration text"));
    /* another architecture: a file of one key is enough */
    struct gguf_writer *w = NULL;
    CU_ASSERT_EQUAL_FATAL(gguf_writer_open(other_path, 32, &w), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(gguf_writer_string(w, "general.architecture", "gpt2", 4), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(gguf_writer_begin(w, 0), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(gguf_writer_commit(w), ERR_NONE);
    gguf_writer_close(w);
    want = want_of("20%", RECIPE_MAGNITUDE);
    CU_ASSERT_EQUAL(choose(&want, other_path, 1, &p, &f), ERR_UNSUPPORTED);
    CU_ASSERT_PTR_NOT_NULL(strstr(f.text, "this is 'gpt2'"));
}

/* Half of every row, or two of four, by weight and by second moments; the file has the base's size. */
static void masks_only_zero(void)
{
    char reason[GGUF_REASON_BYTES];
    float row[10] = {5, -1, 3, 2, -4, 0.5f, 9, 8, -7, 6}, scratch[10];
    const float h[10] = {1, 100, 1, 1, 1, 1, 1, 1, 1, 0};
    const float expected[10] = {5, -1, 0, 0, 0, 0, 9, 8, -7, 6};
    struct prune mask = {.mask_by = RECIPE_WANDA, .mask_keep = 2, .mask_of = 4};
    prune_mask_row(&mask, h, 10, row, scratch);
    CU_ASSERT_EQUAL(memcmp(row, expected, sizeof row), 0);
    struct recipe_prune want = {.by = RECIPE_MAGNITUDE, .mask = 50};
    struct prune *p = NULL;
    struct gguf *g = NULL;
    struct fault f = {""};
    CU_ASSERT_EQUAL_FATAL(choose(&want, base_path, 1, &p, &f), ERR_NONE);
    make(p, out_path, base_path, 1);
    CU_ASSERT_EQUAL_FATAL(gguf_open(out_path, &g, reason), ERR_NONE);
    const struct gguf_tensor *t = gguf_tensor_find(g, "blk.1.ffn_down.weight");
    for (uint64_t r = 0; r < t->rows; r += 17) {
        uint32_t zeros = 0;
        for (uint32_t c = 0; c < 768; c++) {
            uint16_t bits;
            memcpy(&bits, t->data + r * t->row_bytes + 2 * (size_t)c, 2);
            zeros += half_f16_to_f32(bits) == 0;
        }
        CU_ASSERT_TRUE(zeros >= 384 && zeros <= 390);
    }
    CU_ASSERT_TRUE(gguf_bytes(g) >= 8219104);
    gguf_close(g);
    prune_close(p);
}

static void tear_down(void)
{
    quantise_discard(out_path);
    unlink(out_path);
    unlink(other_path);
    CU_ASSERT_EQUAL(rmdir(folder), 0);
    profile_close(profile);
    engine_close(engine);
}

RUN_SUITE("prune", {"set_up", set_up}, {"choices_repeat", choices_repeat}, {"wire_is_strict", wire_is_strict},
          {"shapes_follow", shapes_follow}, {"silent_parts_are_not_missed", silent_parts_are_not_missed},
          {"others_take_over", others_take_over}, {"model_recovers", model_recovers},
          {"plan_is_derived", plan_is_derived}, {"recipes_say_it", recipes_say_it},
          {"refusals_say_why", refusals_say_why}, {"masks_only_zero", masks_only_zero}, {"tear_down", tear_down})
