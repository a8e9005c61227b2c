#include "tests/harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compress/plan.h"
#include "hal/engine.h"
#include "model/gguf.h"

static const char base_path[] = SOURCE_DIR "/models/tare-tiny/tare-tiny-f16.gguf";
static const char digest[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
static struct gguf *base;

static void base_opens(void)
{
    char reason[GGUF_REASON_BYTES];
    CU_ASSERT_EQUAL_FATAL(gguf_open(base_path, &base, reason), ERR_NONE);
}

static enum err make(const char *text, const struct plan_errors *errors,
                     const struct plan_device *device, struct plan **out, struct fault *f)
{
    struct recipe r;
    enum err e = recipe_parse("r.yaml", text, strlen(text), &r, f);
    return e ? e : plan_make(&r, base, digest, gguf_bytes(base), NULL, NULL, errors, device, out, f);
}

static const struct plan_tensor *tensor(const struct plan *p, const char *name)
{
    for (uint32_t i = 0; i < p->tensors; i++)
        if (strcmp(p->tensor[i].name, name) == 0)
            return &p->tensor[i];
    return NULL;
}

static void modes_differ(void)
{
    static const char *const modes[] = {"mode: accuracy", "mode: balanced", "mode: compression"};
    double bpw[3];
    struct fault f = {""};
    for (int i = 0; i < 3; i++) {
        struct plan *p = NULL;
        CU_ASSERT_EQUAL_FATAL(make(modes[i], NULL, NULL, &p, &f), ERR_NONE);
        bpw[i] = plan_bpw(p);
        const struct plan_tensor *v = tensor(p, "blk.1.attn_v.weight");
        const struct plan_tensor *q = tensor(p, "blk.1.attn_q.weight");
        CU_ASSERT_TRUE(plan_tensor_bytes(v) * q->rows > plan_tensor_bytes(q) * v->rows);
        CU_ASSERT_EQUAL(tensor(p, "blk.1.attn_norm.weight")->type, HAL_F32);
        CU_ASSERT_EQUAL(tensor(p, "blk.1.attn_norm.weight")->method, RECIPE_KEEP);
        plan_close(p);
    }
    CU_ASSERT_TRUE(bpw[0] > bpw[1] + 0.3 && bpw[1] > bpw[2] + 0.3);
}

static void rules_and_fallbacks(void)
{
    struct plan *p = NULL;
    struct fault f = {""};
    CU_ASSERT_EQUAL_FATAL(make("type: q4_k\n"
                               "tensors:\n"
                               "  - {match: '*attn_v*', type: q8_0, method: rtn}\n"
                               "  - {match: 'token_embd*', method: keep}\n"
                               "  - {match: '*ffn_down*', type: f32}\n",
                               NULL, NULL, &p, &f),
                          ERR_NONE);
    CU_ASSERT_EQUAL(tensor(p, "blk.0.attn_v.weight")->type, HAL_Q8_0);
    CU_ASSERT_EQUAL(tensor(p, "blk.0.attn_v.weight")->method, RECIPE_RTN);
    CU_ASSERT_EQUAL(tensor(p, "token_embd.weight")->type, HAL_F16);
    CU_ASSERT_EQUAL(tensor(p, "blk.0.ffn_down.weight")->type, HAL_F16); /* no more bits than the base */
    CU_ASSERT_EQUAL(tensor(p, "blk.0.attn_q.weight")->type, HAL_Q4_K);
    plan_close(p);
    CU_ASSERT_EQUAL(plan_type_for(HAL_Q4_K, 512), HAL_Q4_K);
    CU_ASSERT_EQUAL(plan_type_for(HAL_Q4_K, 576), HAL_Q5_0);
    CU_ASSERT_EQUAL(plan_type_for(HAL_Q2_K, 576), HAL_IQ4_NL);
    CU_ASSERT_EQUAL(plan_type_for(HAL_Q6_K, 576), HAL_Q8_0);
    CU_ASSERT_EQUAL(plan_type_for(HAL_Q4_K, 172), HAL_F16);
    CU_ASSERT_EQUAL(plan_type_for(HAL_Q8_0, 172), HAL_F16);
}

static void devices_limit(void)
{
    struct plan *p = NULL;
    struct fault f = {""};
    struct plan_device d = {.types = 1ull << HAL_Q8_0 | 1ull << HAL_F16 | 1ull << HAL_F32};
    CU_ASSERT_EQUAL_FATAL(make("type: q4_k", NULL, &d, &p, &f), ERR_NONE);
    CU_ASSERT_EQUAL(tensor(p, "blk.0.attn_q.weight")->type, HAL_Q8_0);
    plan_close(p);
    d = (struct plan_device){.memory_bytes = 1 << 20};
    CU_ASSERT_EQUAL(make("type: q4_k", NULL, &d, &p, &f), ERR_UNSUPPORTED);
    CU_ASSERT_PTR_NOT_NULL(strstr(f.text, "MiB"));
    CU_ASSERT_EQUAL(make("{type: q8_0, gates: {rss_mib: 1}}", NULL, NULL, &p, &f), ERR_GATE);
    CU_ASSERT_PTR_NOT_NULL(strstr(f.text, "impossible gate rss_mib"));
    CU_ASSERT_EQUAL(make("{type: q8_0, base: ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff}",
                         NULL, NULL, &p, &f),
                    ERR_MISMATCH);
    CU_ASSERT_EQUAL(make("bpw: 4.5", NULL, NULL, &p, &f), ERR_ARGUMENT);
}

static void wire_returns(void)
{
    static uint8_t wire[PLAN_BYTES_MAX], again[PLAN_BYTES_MAX];
    struct plan *p = NULL, *q = NULL;
    struct fault f = {""};
    size_t bytes = 0, bytes_again = 0;
    CU_ASSERT_EQUAL_FATAL(make("{name: x, mode: balanced, seed: 7, gates: {kld_mean: 0.1, top1: 0.5}}",
                               NULL, NULL, &p, &f),
                          ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(plan_encode(p, wire, sizeof wire, &bytes), ERR_NONE);
    CU_ASSERT_TRUE(bytes < 4096);
    CU_ASSERT_EQUAL_FATAL(plan_decode(wire, bytes, &q, &f), ERR_NONE);
    CU_ASSERT_EQUAL(q->tensors, p->tensors);
    CU_ASSERT_EQUAL(memcmp(q->tensor, p->tensor, p->tensors * sizeof *p->tensor), 0);
    CU_ASSERT_EQUAL(q->variant_bytes, p->variant_bytes);
    CU_ASSERT_EQUAL(q->gates.limit[RECIPE_TOP1], 0.5);
    CU_ASSERT_EQUAL(plan_check(q, base, &f), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(plan_encode(q, again, sizeof again, &bytes_again), ERR_NONE);
    CU_ASSERT_EQUAL(bytes, bytes_again);
    CU_ASSERT_EQUAL(memcmp(wire, again, bytes), 0);
    for (size_t n = 0; n < bytes; n++) {
        struct plan *cut = NULL;
        CU_ASSERT_NOT_EQUAL(plan_decode(wire, n, &cut, &f), ERR_NONE);
    }
    CU_ASSERT_EQUAL(plan_encode(p, wire, 100, &bytes), ERR_FULL);
    q->tensor[3].rows++;
    CU_ASSERT_EQUAL(plan_check(q, base, &f), ERR_MISMATCH);
    plan_close(p);
    plan_close(q);
}

/* A scheme travels with the tensors it is for, and only then. */
static void schemes_travel(void)
{
    static uint8_t wire[PLAN_BYTES_MAX], again[PLAN_BYTES_MAX];
    struct plan *p = NULL, *q = NULL;
    struct fault f = {""};
    size_t bytes = 0, bytes_again = 0;
    CU_ASSERT_EQUAL_FATAL(make("scheme: 4 affine 128", NULL, NULL, &p, &f), ERR_NONE);
    CU_ASSERT_EQUAL(p->scheme.group, 128);
    for (uint32_t i = 0; i < p->tensors; i++)
        CU_ASSERT_EQUAL(p->tensor[i].type, p->tensor[i].method == RECIPE_SCHEME ? (uint32_t)HAL_Q4_1 : p->tensor[i].from);
    CU_ASSERT_EQUAL_FATAL(plan_encode(p, wire, sizeof wire, &bytes), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(plan_decode(wire, bytes, &q, &f), ERR_NONE);
    CU_ASSERT_EQUAL(memcmp(&p->scheme, &q->scheme, sizeof p->scheme), 0);
    CU_ASSERT_EQUAL_FATAL(plan_encode(q, again, sizeof again, &bytes_again), ERR_NONE);
    CU_ASSERT_TRUE(bytes == bytes_again && memcmp(wire, again, bytes) == 0);
    plan_close(q);
    q = NULL;
    for (uint32_t i = 0; i < p->tensors; i++)
        if (p->tensor[i].method == RECIPE_SCHEME)
            p->tensor[i].method = RECIPE_RTN;
    CU_ASSERT_EQUAL(plan_encode(p, wire, sizeof wire, &bytes), ERR_NONE);
    CU_ASSERT_EQUAL(plan_decode(wire, bytes, &q, &f), ERR_FORMAT);
    plan_close(p);
}

/* A profile of inputs that are 1, but for the output of attention of one layer. */
static struct profile *profile_of(uint32_t layer, double attended, double outlier)
{
    struct profile *p = NULL;
    CU_ASSERT_EQUAL_FATAL(profile_open(&p), ERR_NONE);
    for (uint32_t i = 0; i < gguf_tensors(base); i++) {
        const struct gguf_tensor *t = gguf_tensor(base, i);
        struct profile_entry *entry = NULL;
        uint32_t at = 0;
        const uint32_t role = plan_role(base, t->name);
        if (role == PLAN_FIXED || !plan_block(t->name, &at))
            continue;
        CU_ASSERT_EQUAL_FATAL(profile_entry_get(p, t->name, (uint32_t)t->shape[0], 1, &entry), ERR_NONE);
        entry->count[0] = 1;
        for (uint32_t c = 0; c < entry->cols; c++)
            entry->sum2[c] = at == layer && role == PLAN_ATTN_OUT ? attended : 1;
        if (role == PLAN_FFN_DOWN && at == 0)
            entry->sum2[3] = outlier;
    }
    return p;
}

static struct plan_errors *errors_by(const struct profile *profile, uint32_t rows)
{
    struct plan_errors *errors = NULL;
    struct engine *engine = NULL;
    struct fault f = {""};
    const struct engine_options options = {.plugin = "scalar", .threads = 2};
    CU_ASSERT_EQUAL_FATAL(engine_open(&options, &engine, NULL), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(plan_errors_measure(base, profile, engine, RECIPE_RTN, rows, NULL, NULL, &errors, &f), ERR_NONE);
    engine_close(engine);
    return errors;
}

static double scale(const struct plan_errors *e, const char *name)
{
    for (uint32_t t = 0; t < e->tensors; t++)
        if (strcmp(e->name[t], name) == 0)
            return e->scale[t];
    return NAN;
}

/* What a block writes to the stream decides how much its errors weigh; without a profile its role does. */
static void blocks_that_write_little_weigh_little(void)
{
    static const char *const of_attention[] = {"blk.1.attn_q.weight", "blk.1.attn_k.weight", "blk.1.attn_v.weight",
                                               "blk.1.attn_output.weight"};
    struct profile *even = profile_of(1, 1, 1), *quiet = profile_of(1, 1e-4, 1), *peak = profile_of(1, 1, 1e9);
    struct plan_errors *plain = errors_by(NULL, 32), *a = errors_by(even, 32), *b = errors_by(quiet, 32),
                       *c = errors_by(peak, 32), *whole = errors_by(even, 0);
    for (uint32_t t = 0; t < plain->tensors; t++)
        CU_ASSERT_EQUAL(plain->scale[t], plan_role_scale(plan_role(base, plain->name[t])));
    for (size_t i = 0; i < sizeof of_attention / sizeof *of_attention; i++) {
        CU_ASSERT_TRUE(scale(b, of_attention[i]) > 0);
        CU_ASSERT_TRUE(scale(b, of_attention[i]) < 2e-4 * scale(a, of_attention[i]));
    }
    CU_ASSERT_TRUE(scale(b, "blk.1.ffn_down.weight") > scale(a, "blk.1.ffn_down.weight"));
    CU_ASSERT_EQUAL(scale(b, "blk.0.attn_q.weight"), scale(a, "blk.0.attn_q.weight"));
    CU_ASSERT_EQUAL(scale(b, "token_embd.weight"), 12); /* the tied head, 256 wide */
    /* one channel of layer 0, nine orders above the others, must not hide the layers behind it */
    CU_ASSERT_TRUE(scale(c, "blk.2.ffn_down.weight") < scale(a, "blk.2.ffn_down.weight"));
    CU_ASSERT_TRUE(scale(c, "blk.2.ffn_down.weight") > 1e-3 * scale(a, "blk.2.ffn_down.weight"));
    /* rows are a sample */
    CU_ASSERT_DOUBLE_EQUAL(scale(a, "blk.2.ffn_up.weight") / scale(whole, "blk.2.ffn_up.weight"), 1, 0.2);
    plan_errors_close(plain);
    plan_errors_close(a);
    plan_errors_close(b);
    plan_errors_close(c);
    plan_errors_close(whole);
    profile_close(even);
    profile_close(quiet);
    profile_close(peak);
}

static void bpw_is_met(void)
{
    static const double targets[] = {2.9, 3.5, 4.5, 5.5, 6.6, 8.5};
    struct plan_errors *errors = NULL;
    struct engine *engine = NULL;
    struct fault f = {""};
    double damage = INFINITY;
    const struct engine_options options = {.plugin = "scalar", .threads = 2};
    CU_ASSERT_EQUAL_FATAL(engine_open(&options, &engine, NULL), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(
        plan_errors_measure(base, NULL, engine, RECIPE_RTN, 32, NULL, NULL, &errors, &f), ERR_NONE);
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        char text[64];
        struct plan *p = NULL;
        snprintf(text, sizeof text, "bpw: %g", targets[i]);
        CU_ASSERT_EQUAL_FATAL(make(text, errors, NULL, &p, &f), ERR_NONE);
        CU_ASSERT_TRUE(plan_bpw(p) <= targets[i]);
        CU_ASSERT_TRUE(plan_bpw(p) > targets[i] - 0.1);
        double sum = 0;
        for (uint32_t t = 0; t < errors->tensors; t++)
            for (uint32_t l = 0; l < errors->levels; l++)
                if (tensor(p, errors->name[t])->type == errors->level[l])
                    sum += errors->scale[t] * errors->error[t * errors->levels + l];
        CU_ASSERT_TRUE(sum < damage);
        damage = sum;
        plan_close(p);
    }
    struct plan *p = NULL;
    CU_ASSERT_EQUAL(make("bpw: 1.5", errors, NULL, &p, &f), ERR_UNSUPPORTED);
    plan_errors_close(errors);
    engine_close(engine);
    gguf_close(base);
}

RUN_SUITE("plan", {"base_opens", base_opens}, {"modes_differ", modes_differ},
          {"rules_and_fallbacks", rules_and_fallbacks}, {"devices_limit", devices_limit},
          {"wire_returns", wire_returns}, {"schemes_travel", schemes_travel}, 
          {"blocks_that_write_little_weigh_little", blocks_that_write_little_weigh_little}, {"bpw_is_met", bpw_is_met})
