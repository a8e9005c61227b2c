#include "tests/harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "compress/awq.h"
#include "compress/digest.h"
#include "compress/quantise.h"
#include "compress/resident.h"
#include "hal/engine.h"
#include "model/gguf.h"

static const char base_path[] = SOURCE_DIR "/models/tare-tiny/tare-tiny-f16.gguf";
static char folder[] = "/tmp/tare-quantise-XXXXXX";
static char out_path[256];
static char base_sha256[65];
static struct gguf *base;
static struct profile *profile;

static void set_up(void)
{
    char reason[GGUF_REASON_BYTES];
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(folder));
    snprintf(out_path, sizeof out_path, "%s/out.gguf", folder);
    CU_ASSERT_EQUAL_FATAL(gguf_open(base_path, &base, reason), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(digest_file(base_path, base_sha256, NULL), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(profile_open(&profile), ERR_NONE);
    /* energies from a fixed generator for every linear of the model, the head's included */
    uint64_t seed = 1;
    for (uint32_t i = 0; i < gguf_tensors(base); i++) {
        const struct gguf_tensor *t = gguf_tensor(base, i);
        struct profile_entry *e;
        if (t->dims < 2)
            continue;
        CU_ASSERT_EQUAL_FATAL(profile_entry_get(profile, t->name, (uint32_t)t->shape[0], 1, &e), ERR_NONE);
        e->count[0] = 100;
        for (uint32_t c = 0; c < e->cols; c++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            e->sum2[c] = (double)(seed >> 44) * (c % 37 == 0 ? 50 : 1);
        }
    }
}

static struct plan *plan_of(const char *text, bool has_profile)
{
    struct recipe r;
    struct plan *p = NULL;
    struct fault f = {""};
    CU_ASSERT_EQUAL_FATAL(recipe_parse("r.yaml", text, strlen(text), &r, &f), ERR_NONE);
    enum err e = plan_make(&r, base, base_sha256, gguf_bytes(base), has_profile ? profile : NULL,
                           has_profile ? base_sha256 : NULL, NULL, NULL, &p, &f);
    if (e)
        fprintf(stderr, "%s\n", f.text);
    CU_ASSERT_EQUAL_FATAL(e, ERR_NONE);
    return p;
}

struct stopper {
    uint64_t calls, stop_at;
};

static int stop(void *context, const struct quantise_progress *p)
{
    struct stopper *s = context;
    (void)p;
    return ++s->calls == s->stop_at;
}

static enum err run(const struct plan *p, const char *plugin, uint32_t threads, struct stopper *s,
                    uint64_t memory, struct quantise_result *r)
{
    struct engine *engine = NULL;
    struct fault f = {""};
    const struct engine_options options = {.plugin = plugin, .threads = threads, .is_unchecked = 1};
    struct quantise_options o = {.base_path = base_path, .out_path = out_path, .plan = p,
                                 .profile = profile, .is_measured = true, .memory_bytes = memory};
    CU_ASSERT_EQUAL_FATAL(engine_open(&options, &engine, NULL), ERR_NONE);
    o.engine = engine;
    if (strcmp(p->base_sha256, DIGEST_LATER) == 0)
        CU_ASSERT_EQUAL_FATAL(digest_task_open(base_path, &o.base), ERR_NONE);
    if (s) {
        o.progress = stop;
        o.progress_context = s;
    }
    enum err e = quantise_run(&o, r, &f);
    if (e && e != ERR_CANCELLED && e != ERR_MISMATCH)
        fprintf(stderr, "%s\n", f.text);
    digest_task_close(o.base);
    engine_close(engine);
    return e;
}

static void size_and_digest(void)
{
    static const char *const recipes[] = {
        "{type: q8_0, method: rtn}", "{type: q4_0}", "{type: q4_1, method: rtn}",
        "{type: q5_0, method: rtn}", "{type: q6_k, method: rtn}", "{type: q5_k, method: rtn}",
        "{type: q3_k, method: rtn}", "{type: q2_k, method: rtn}", "{type: iq4_nl}", "{type: bf16}",
        "{mode: accuracy, method: rtn}", "mode: compression", "{mode: balanced, method: rtn}"};
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) {
        struct quantise_result r;
        struct stat status;
        char sha[65];
        struct plan *p = plan_of(recipes[i], i % 2 == 0);
        CU_ASSERT_EQUAL_FATAL(run(p, "scalar", 2, NULL, 0, &r), ERR_NONE);
        CU_ASSERT_EQUAL_FATAL(stat(out_path, &status), 0);
        CU_ASSERT_EQUAL((uint64_t)status.st_size, p->variant_bytes);
        CU_ASSERT_EQUAL(r.bytes, p->variant_bytes);
        CU_ASSERT_EQUAL_FATAL(digest_file(out_path, sha, NULL), ERR_NONE);
        CU_ASSERT_STRING_EQUAL(sha, r.sha256);
        for (uint32_t t = 0; t < r.tensors; t++)
            CU_ASSERT_TRUE(r.tensor[t].error >= 0 && r.tensor[t].error < 0.3);
        quantise_result_close(&r);
        plan_close(p);
    }
}

/* A base that is hashed meanwhile makes the same file as one that was hashed before, stopped in between or not. */
static void base_digest_comes_late(void)
{
    struct quantise_result early, late;
    struct stopper s = {0, 20};
    struct plan *p = plan_of("{type: q4_0, method: rtn}", false);
    CU_ASSERT_EQUAL_FATAL(run(p, "scalar", 2, NULL, 0, &early), ERR_NONE);
    memcpy(p->base_sha256, DIGEST_LATER, sizeof p->base_sha256);
    CU_ASSERT_EQUAL(run(p, "scalar", 2, &s, 0, &late), ERR_CANCELLED);
    CU_ASSERT_EQUAL_FATAL(run(p, "scalar", 2, NULL, 0, &late), ERR_NONE);
    CU_ASSERT_STRING_EQUAL(late.sha256, early.sha256);
    CU_ASSERT_STRING_EQUAL(late.base_sha256, base_sha256);
    quantise_result_close(&early);
    quantise_result_close(&late);
    plan_close(p);
}

/* The same bytes for any number of threads and any size of strip. */
static void bytes_do_not_depend(void)
{
    static const char *const recipes[] = {"{mode: compression, method: awq}",
                                          "{type: iq4_nl, method: rtn}"};
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) {
        char sha[65] = "";
        for (uint32_t threads = 1; threads <= 4; threads *= 2) {
            struct quantise_result r;
            struct plan *p = plan_of(recipes[i], true);
            CU_ASSERT_EQUAL_FATAL(run(p, "scalar", threads, NULL, resident_now() + ((7 + threads) << 20), &r), ERR_NONE);
            if (threads == 1)
                strcpy(sha, r.sha256);
            CU_ASSERT_STRING_EQUAL(sha, r.sha256);
            quantise_result_close(&r);
            plan_close(p);
        }
    }
}

/* Stopped at any place, the next run ends with the file that one run makes, and OUT appears only then. */
static void stops_and_resumes(void)
{
    struct quantise_result r;
    char sha[65];
    struct plan *p = plan_of("{type: q4_k, method: rtn}", false);
    CU_ASSERT_EQUAL_FATAL(run(p, "scalar", 2, NULL, 0, &r), ERR_NONE);
    strcpy(sha, r.sha256);
    quantise_result_close(&r);
    for (uint64_t at = 1; at < 40; at += 6) {
        struct stopper s = {.stop_at = at};
        unlink(out_path);
        CU_ASSERT_EQUAL(run(p, "scalar", 2, &s, 0, &r), ERR_CANCELLED);
        CU_ASSERT_NOT_EQUAL(access(out_path, F_OK), 0);
        CU_ASSERT_EQUAL_FATAL(run(p, "scalar", 1, NULL, 0, &r), ERR_NONE);
        CU_ASSERT_STRING_EQUAL(sha, r.sha256);
        quantise_result_close(&r);
    }
    plan_close(p);
}

static void digest_is_judged(void)
{
    struct quantise_result r;
    struct plan *p = plan_of("{type: q4_0}", false);
    unlink(out_path);
    memset(p->variant_sha256, 'a', 64);
    CU_ASSERT_EQUAL(run(p, "scalar", 1, NULL, 0, &r), ERR_MISMATCH);
    CU_ASSERT_NOT_EQUAL(access(out_path, F_OK), 0);
    quantise_discard(out_path);
    plan_close(p);
}

/* The head is not weighted by the profile, the others are. */
static void head_is_not_weighted(void)
{
    struct plan *p = plan_of("{type: q4_k}", true);
    for (uint32_t i = 0; i < p->tensors; i++) {
        const struct plan_tensor *t = &p->tensor[i];
        const bool expected = t->type == HAL_Q4_K && strcmp(t->name, "token_embd.weight") != 0;
        CU_ASSERT_EQUAL(t->is_weighted, expected);
    }
    plan_close(p);
}

/* W diag(s) and gamma / s: the product of norm weight and column stays what it was. */
static void folding_keeps_function(void)
{
    struct awq *a = NULL;
    struct engine *engine = NULL;
    const float *norm = NULL, *q = NULL, *k = NULL, *up_row = NULL, *down = NULL, *none = NULL;
    const struct engine_options options = {.plugin = "scalar", .threads = 2};
    struct plan *p = plan_of("{type: q3_k, method: awq}", true);
    CU_ASSERT_EQUAL_FATAL(engine_open(&options, &engine, NULL), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(awq_open(p, base, profile, engine, &a), ERR_NONE);
    CU_ASSERT_TRUE(awq_groups(a) > 0);
    uint32_t checked = 0;
    for (uint32_t i = 0; i < p->tensors; i++) {
        if (strcmp(p->tensor[i].name, "blk.0.attn_norm.weight") == 0)
            awq_scales(a, i, &norm, &none);
        else if (strcmp(p->tensor[i].name, "blk.0.attn_q.weight") == 0)
            awq_scales(a, i, &q, &none);
        else if (strcmp(p->tensor[i].name, "blk.0.attn_k.weight") == 0)
            awq_scales(a, i, &k, &none);
        else if (strcmp(p->tensor[i].name, "blk.0.ffn_up.weight") == 0)
            awq_scales(a, i, &none, &up_row);
        else if (strcmp(p->tensor[i].name, "blk.0.ffn_down.weight") == 0)
            awq_scales(a, i, &down, &none);
    }
    for (uint32_t c = 0; norm && c < 256; c++, checked++) {
        CU_ASSERT_DOUBLE_EQUAL((double)norm[c] * (double)q[c], 1, 1e-6);
        CU_ASSERT_EQUAL(q[c], k[c]);
    }
    for (uint32_t c = 0; down && c < 768; c++, checked++)
        CU_ASSERT_EQUAL(down[c], up_row[c]);
    CU_ASSERT_TRUE(checked > 0);
    awq_close(a);
    engine_close(engine);
    plan_close(p);
}

/* The tensors of a file by name: equal types and bytes in both? */
static bool has_same_tensors(const char *a_path, const char *b_path)
{
    char reason[GGUF_REASON_BYTES];
    struct gguf *a = NULL, *b = NULL;
    CU_ASSERT_EQUAL_FATAL(gguf_open(a_path, &a, reason), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(gguf_open(b_path, &b, reason), ERR_NONE);
    bool is_same = gguf_tensors(a) == gguf_tensors(b);
    for (uint32_t i = 0; is_same && i < gguf_tensors(a); i++) {
        const struct gguf_tensor *s = gguf_tensor(a, i), *t = gguf_tensor_find(b, s->name);
        is_same = t && s->type == t->type && s->bytes == t->bytes && memcmp(s->data, t->data, s->bytes) == 0;
    }
    gguf_close(a);
    gguf_close(b);
    return is_same;
}

/* From `from` (NULL: the base) to `to` by a recipe. */
static void derive(const char *from, const char *text, const char *to)
{
    char reason[GGUF_REASON_BYTES], digest[65];
    const struct plan_device device = {.has_nf4 = true};
    struct gguf *g = NULL;
    struct recipe r;
    struct plan *p = NULL;
    struct quantise_result result;
    struct fault f = {""};
    CU_ASSERT_EQUAL_FATAL(gguf_open(from ? from : base_path, &g, reason), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(digest_file(from ? from : base_path, digest, NULL), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(recipe_parse("r.yaml", text, strlen(text), &r, &f), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(plan_make(&r, g, digest, gguf_bytes(g), NULL, NULL, NULL, &device, &p, &f), ERR_NONE);
    const struct quantise_options o = {.base_path = from ? from : base_path, .out_path = to, .plan = p};
    CU_ASSERT_EQUAL_FATAL(quantise_run(&o, &result, &f), ERR_NONE);
    CU_ASSERT_EQUAL(result.bytes, p->variant_bytes);
    quantise_result_close(&result);
    plan_close(p);
    gguf_close(g);
}

/* One run F16 -> Q8_0 -> Q4_0 gives what two runs give, and not what one direct step gives. */
static void cascade_is_two_steps(void)
{
    char q8[300], two[300];
    snprintf(q8, sizeof q8, "%s/q8.gguf", folder);
    snprintf(two, sizeof two, "%s/two.gguf", folder);
    derive(NULL, "{type: Q8_0, method: rtn}", q8);
    derive(q8, "{type: Q4_0, method: search}", two);
    derive(NULL, "{type: Q4_0, method: cascade}", out_path);
    CU_ASSERT_TRUE(has_same_tensors(two, out_path));
    derive(NULL, "{type: Q4_0, method: search}", out_path);
    CU_ASSERT_FALSE(has_same_tensors(two, out_path));
    unlink(q8);
    unlink(two);
}

/* An NF4 file leaves as a stock one: IQ4_NL for NF4, the same bytes for the rest. */
static void nf4_is_exported(void)
{
    char nf4[300], reason[GGUF_REASON_BYTES];
    struct gguf *from = NULL, *to = NULL;
    uint32_t left = 0;
    snprintf(nf4, sizeof nf4, "%s/nf4.gguf", folder);
    derive(NULL, "{type: NF4, tensors: [{match: '*ffn_up*', type: Q6_K}]}", nf4);
    derive(nf4, "{mode: export}", out_path);
    CU_ASSERT_EQUAL_FATAL(gguf_open(nf4, &from, reason), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(gguf_open(out_path, &to, reason), ERR_NONE);
    for (uint32_t i = 0; i < gguf_tensors(from); i++) {
        const struct gguf_tensor *a = gguf_tensor(from, i), *b = gguf_tensor(to, i);
        CU_ASSERT_EQUAL(b->type, a->type == HAL_NF4 ? (uint32_t)HAL_IQ4_NL : a->type);
        if (a->type == HAL_NF4)
            left++;
        else
            CU_ASSERT_TRUE(a->bytes == b->bytes && memcmp(a->data, b->data, a->bytes) == 0);
    }
    CU_ASSERT_TRUE(left > 10);
    gguf_close(from);
    gguf_close(to);
    unlink(nf4);
}

static void tear_down(void)
{
    unlink(out_path);
    CU_ASSERT_EQUAL(rmdir(folder), 0); /* nothing else was left */
    profile_close(profile);
    gguf_close(base);
}

RUN_SUITE("quantise", {"set_up", set_up}, {"size_and_digest", size_and_digest},
          {"base_digest_comes_late", base_digest_comes_late},
          {"bytes_do_not_depend", bytes_do_not_depend}, {"stops_and_resumes", stops_and_resumes},
          {"digest_is_judged", digest_is_judged}, {"head_is_not_weighted", head_is_not_weighted},
          {"folding_keeps_function", folding_keeps_function}, {"cascade_is_two_steps", cascade_is_two_steps},
          {"nf4_is_exported", nf4_is_exported}, {"tear_down", tear_down})
