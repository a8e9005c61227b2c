/* worker_selftest.c: a variant against its base, as it would be served, and against its recipe's gates. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/worker_serve.h"
#include "agent/worker_speed.h"
#include "agent/worker_task.h"
#include "compress/judge.h"
#include "compress/plan.h"

enum { EVAL_CONTEXT = 512, EVAL_CONTEXT_LEAST = 64, SPEED_PROMPT = 128, SPEED_GENERATE = 32, SPEED_TIMES = 3 };

struct test {
    struct worker_self *self;
    struct plan *plan; /* NULL: none was sent */
    struct engine *engine;
    struct worker_task_model variant, base;
    struct judge judge;
    bool is_judged;
    double prefill_tok_s, decode_tok_s, rss_mib, energy_mj_token; /* NAN: not measured */
    struct wire *answer;
    char why[WORKER_WHY];
    char missed[WORKER_WHY]; /* what the answer points to */
};

static bool on_judge(void *context, const struct judge_progress *p)
{
    worker_beat(context, p->eval.windows, p->eval.windows_total);
    return true;
}

static void put_judge(struct wire *m, const struct judge *j)
{
    const struct eval_result *r = &j->all;
    wire_put_f64(m, WIRE_K_PPL, r->perplexity.value);
    wire_put_f64(m, WIRE_K_PPL_BASE, r->perplexity_reference.value);
    wire_put_f64(m, WIRE_K_KLD, r->kld.value);
    wire_put_f64(m, WIRE_K_KLD_99, r->kld_99);
    wire_put_f64(m, WIRE_K_KLD_MAX, r->kld_max);
    wire_put_f64(m, WIRE_K_TOP1, r->top1.value);
    const struct judge_language *dppl = judge_worst_dppl(j), *kld = judge_worst_kld(j);
    if (dppl)
        wire_put_f64(m, WIRE_K_WORST_DPPL, 100 * (dppl->result.perplexity_ratio.value - 1));
    if (kld)
        wire_put_f64(m, WIRE_K_WORST_KLD, kld->result.kld.value);
}

/* Speed and memory come first, while the variant is alone in this process. */
static enum err test_speed(struct test *t)
{
    struct worker_speed prefill, decode = {.tok_s = NAN, .energy_j = NAN};
    const uint32_t context = model_info(t->variant.model)->context;
    const uint32_t prompt = context > SPEED_PROMPT + SPEED_GENERATE ? SPEED_PROMPT : context / 2;
    const uint32_t generate = SPEED_GENERATE < context ? SPEED_GENERATE : context / 2;
    enum err e = worker_speed(t->self, t->variant.model, prompt, 0, SPEED_TIMES, &prefill, t->why);
    if (!e && !model_info(t->variant.model)->is_encoder)
        e = worker_speed(t->self, t->variant.model, 0, generate, SPEED_TIMES, &decode, t->why);
    if (e)
        return e;
    const uint64_t rss = worker_self_rss();
    t->prefill_tok_s = prefill.tok_s;
    t->decode_tok_s = decode.tok_s;
    t->rss_mib = (double)rss / 1048576;
    if (decode.energy_j > 0)
        t->energy_mj_token = 1000 * decode.energy_j / generate;
    wire_put_f64(t->answer, WIRE_K_PREFILL, prefill.tok_s);
    wire_put_f64(t->answer, WIRE_K_DECODE, decode.tok_s);
    wire_put_f64(t->answer, WIRE_K_ENERGY, decode.energy_j);
    wire_put_u64(t->answer, WIRE_K_RSS, rss);
    return ERR_NONE;
}

static enum err test_text(struct test *t, const char *base_path, const char *text)
{
    const struct calibrate_text texts = {.path = text, .language = "text"};
    const struct judge_options o = {.text = &texts,
                                    .texts = 1,
                                    .context_least = EVAL_CONTEXT_LEAST,
                                    .progress = on_judge,
                                    .progress_context = t->self};
    struct tokenizer *tokenizer = NULL;
    struct fault f = {""};
    enum err e = worker_task_open(t->self, base_path, t->engine, EVAL_CONTEXT, NULL, &t->base, t->why);
    if (!e)
        e = tokenizer_open(t->base.gguf, &tokenizer, t->why);
    if (!e && (e = judge_models(t->variant.model, t->base.model, tokenizer, &o, &t->judge, &f)))
        snprintf(t->why, sizeof t->why, "%.200s", f.text);
    tokenizer_close(tokenizer);
    t->is_judged = e == ERR_NONE;
    if (t->is_judged)
        put_judge(t->answer, &t->judge);
    return e;
}

static double machine_value(const struct test *t, uint32_t gate)
{
    switch (gate) {
    case RECIPE_DECODE_TOK_S:
        return t->decode_tok_s;
    case RECIPE_PREFILL_TOK_S:
        return t->prefill_tok_s;
    case RECIPE_RSS_MIB:
        return t->rss_mib;
    case RECIPE_ENERGY_MJ_TOKEN:
        return t->energy_mj_token;
    default:
        return NAN;
    }
}

/* Every gate of the recipe, held against what was measured here; the first that is missed is told. */
static void test_gates(struct test *t)
{
    struct judge_verdicts v;
    const struct recipe_gates *gates = &t->plan->gates;
    judge_gates(gates, t->is_judged ? &t->judge : NULL, gguf_bytes(t->variant.gguf), &v);
    for (uint32_t i = 0; i < v.count; i++) {
        struct judge_verdict *g = &v.verdict[i];
        if (!g->is_measured) {
            g->value = machine_value(t, g->gate);
            g->is_measured = !isnan(g->value);
            g->is_kept = recipe_gate_passes(gates, g->gate, g->value);
        }
        if (g->is_kept || (!g->is_measured && g->gate == RECIPE_ENERGY_MJ_TOKEN)) /* not every platform counts it */
            continue;
        if (g->is_measured)
            snprintf(t->missed, sizeof t->missed, "%s is %.6g%s%s, the limit is %.6g", recipe_gate_name(g->gate), g->value,
                     g->language[0] ? " in " : "", g->language, g->limit);
        else
            snprintf(t->missed, sizeof t->missed, "%s could not be measured", recipe_gate_name(g->gate));
        wire_put_u64(t->answer, WIRE_K_GATE, g->is_measured ? g->gate : (uint32_t)RECIPE_GATES);
        wire_put_text(t->answer, WIRE_K_TEXT, t->missed);
        return;
    }
}

static enum err run_test(struct test *t, const struct wire *m, const char *base_path, const char *path)
{
    struct model_options setting = {0};
    const void *texts;
    const char *text = NULL;
    size_t bytes, at = 0;
    enum err e = ERR_NONE;
    if (wire_view(m, WIRE_K_PLAN, &texts, &bytes) && (e = worker_task_plan(m, &t->plan, t->why)))
        return e;
    if (t->plan)
        judge_model_options(t->plan->cache_type, t->plan->activation_bits, &setting);
    if (wire_view(m, WIRE_K_TEXTS, &texts, &bytes))
        text = wire_list_next(texts, bytes, &at);
    if ((e = worker_engine(t->self, NULL, 0, &t->engine, t->why)) ||
        (e = worker_task_open(t->self, path, t->engine, EVAL_CONTEXT, &setting, &t->variant, t->why)) ||
        (e = test_speed(t)))
        return e;
    const struct model_info *info = model_info(t->variant.model);
    wire_put_f64(t->answer, WIRE_K_BPW, (double)gguf_bytes(t->variant.gguf) * 8 / (double)info->parameters);
    wire_put_text(t->answer, WIRE_K_PLUGIN, t->engine->ops.name);
    /* A text is judged by its next words, which an encoder does not say. */
    if (text && !info->is_encoder && (e = test_text(t, base_path, text)))
        return e;
    if (t->plan)
        test_gates(t);
    return ERR_NONE;
}

void worker_selftest(struct worker_self *w, const struct wire *m)
{
    char base_path[900], path[900];
    struct wire answer;
    struct test *t = calloc(1, sizeof *t);
    enum err e = t ? ERR_ARGUMENT : ERR_MEMORY;
    wire_init(&answer, WIRE_DONE, w->id);
    if (t) {
        *t = (struct test){.self = w, .answer = &answer, .energy_mj_token = NAN};
        t->prefill_tok_s = t->decode_tok_s = t->rss_mib = NAN;
        if (wire_text(m, WIRE_K_BASE, base_path, sizeof base_path) && wire_text(m, WIRE_K_PATH, path, sizeof path))
            e = run_test(t, m, base_path, path);
    }
    if (e)
        worker_fail(w, e, t && t->why[0] ? t->why : err_name(e));
    else
        worker_reply(w, &answer);
    if (t) {
        worker_task_close(&t->base);
        worker_task_close(&t->variant);
        engine_close(t->engine);
        plan_close(t->plan);
    }
    free(t);
}
