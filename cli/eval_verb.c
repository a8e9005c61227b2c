/* eval_verb.c: tare eval: how well a model predicts a text, and how far it is from its base. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/open_model.h"
#include "cli/texts.h"
#include "compress/ranges.h"
#include "compress/report.h"

struct eval_settings {
    struct cli_list texts, languages, gates;
    const char *reference, *plan, *ranges;
    int64_t context, windows;
    int cache, activation_bits, range;
};

static const struct cli_option options[] = {
    {.name = "text", .kind = CLI_LIST, .value = "FILE", .offset = offsetof(struct eval_settings, texts),
     .help = "the text to predict"},
    {.name = "language", .kind = CLI_LIST, .value = "en=FILE", .is_greedy = true,
     .offset = offsetof(struct eval_settings, languages), .help = "texts per language: a table, and the worst of them"},
    {.name = "reference", .kind = CLI_TEXT, .value = "BASE.gguf",
     .offset = offsetof(struct eval_settings, reference), .help = "compare with this model"},
    {.name = "gate", .kind = CLI_LIST, .value = "NAME=LIMIT", .is_greedy = true,
     .offset = offsetof(struct eval_settings, gates),
     .help = "fail with status 1 beyond it: kld_mean, worst_kld_mean, dppl_percent, ... (with --reference), file_mib"},
    {.name = "plan", .kind = CLI_TEXT, .value = "RECIPE.yaml", .offset = offsetof(struct eval_settings, plan),
     .help = "take gates, cache and activations of this recipe"},
    {.name = "context", .kind = CLI_INT, .value = "N", .preset = "512", .minimum = 8, .maximum = 1 << 20,
     .offset = offsetof(struct eval_settings, context), .help = "tokens of a window; the second half is scored"},
    {.name = "windows", .kind = CLI_INT, .value = "N", .minimum = 0, .maximum = 1e9,
     .offset = offsetof(struct eval_settings, windows), .help = "stop after so many; default: the whole text"},
    {.name = "cache", .kind = CLI_CHOICE, .choices = OPEN_MODEL_CACHES,
     .offset = offsetof(struct eval_settings, cache), .help = "type of keys and values (default f16)"},
    {.name = "activation-bits", .kind = CLI_CHOICE, .choices = "16|8|4",
     .offset = offsetof(struct eval_settings, activation_bits),
     .help = "round the input of every linear to so many bits; default: as the plugin does"},
    {.name = "ranges", .kind = CLI_TEXT, .value = "RANGES.gguf", .offset = offsetof(struct eval_settings, ranges),
     .help = "with --activation-bits: one static scale per input, of tare calibrate --ranges"},
    {.name = "range", .kind = CLI_CHOICE, .choices = "minmax|percentile|mse|entropy", .preset = "percentile",
     .offset = offsetof(struct eval_settings, range), .help = "which of them"},
    {.name = NULL}};

/* JSON knows neither NaN nor infinity. */
static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *pair(struct eval_value v)
{
    return json_pack("{s:o, s:o}", "value", number(v.value), "error", number(v.error));
}

/* What is measured, under the names that this verb has always had. */
static json_t *measures(const struct eval_settings *s, const struct eval_result *r)
{
    json_t *d = json_pack("{s:I, s:I, s:I, s:o, s:o, s:o, s:f, s:f}", "windows", (json_int_t)r->windows, "tokens",
                          (json_int_t)r->tokens, "scored", (json_int_t)r->scored, "perplexity", pair(r->perplexity),
                          "nll", pair(r->nll), "nll_per_byte", number(r->nll_per_byte), "seconds", r->seconds,
                          "tokens_per_second", r->tokens_per_second);
    if (!r->has_reference)
        return d;
    json_object_set_new(d, "reference", json_string(s->reference));
    json_object_set_new(d, "perplexity_reference", pair(r->perplexity_reference));
    json_object_set_new(d, "perplexity_delta", pair(r->perplexity_delta));
    json_object_set_new(d, "perplexity_ratio", pair(r->perplexity_ratio));
    json_object_set_new(d, "nll_per_byte_delta", pair(r->nll_per_byte_delta));
    json_object_set_new(d, "kld", pair(r->kld));
    json_object_set_new(d, "kld_quantiles", json_pack("{s:o, s:o, s:o, s:o, s:o}", "50", number(r->kld_median),
                                                      "90", number(r->kld_90), "99", number(r->kld_99), "99.9",
                                                      number(r->kld_999), "100", number(r->kld_max)));
    json_object_set_new(d, "top1", pair(r->top1));
    return d;
}

static json_t *document(const struct cli_call *call, const struct judge *j, const struct judge_verdicts *v)
{
    const struct eval_settings *s = call->settings;
    json_t *d = measures(s, &j->all), *languages = json_object();
    json_object_set_new(d, "model", json_string(call->operand[0]));
    json_object_set_new(d, "context", json_integer((json_int_t)j->context));
    if (s->texts.count)
        json_object_set_new(d, "text", json_string(s->texts.items[0]));
    for (uint32_t i = 0; i < j->languages; i++)
        json_object_set_new(languages, j->language[i].name, measures(s, &j->language[i].result));
    json_object_set_new(d, "languages", languages);
    if (v->count)
        json_object_set_new(d, "gates", report_gates(v));
    return d;
}

static void print(const struct cli_call *call, const struct eval_result *r)
{
    cli_print(call, "perplexity        %12.4f ± %.5f   (%u windows, %llu tokens scored)\n", r->perplexity.value,
              r->perplexity.error, r->windows, (unsigned long long)r->scored);
    cli_print(call, "nats per byte     %12.5f\n", r->nll_per_byte);
    if (r->has_reference) {
        cli_print(call, "reference         %12.4f ± %.5f\n", r->perplexity_reference.value,
                  r->perplexity_reference.error);
        cli_print(call, "difference        %+12.4f ± %.5f   (%+.3f %%)\n", r->perplexity_delta.value,
                  r->perplexity_delta.error, 100 * (r->perplexity_ratio.value - 1));
        cli_print(call, "KLD mean          %12.6f ± %.6f\n", r->kld.value, r->kld.error);
        cli_print(call, "KLD 50 %% / 99 %%   %12.6f / %.6f\n", r->kld_median, r->kld_99);
        cli_print(call, "KLD maximum       %12.6f\n", r->kld_max);
        cli_print(call, "same top token    %12.3f ± %.3f %%\n", 100 * r->top1.value, 100 * r->top1.error);
    }
    cli_print(call, "speed             %12.1f tok/s\n", r->tokens_per_second);
}

static void print_tables(const struct cli_call *call, const struct judge *j, const struct judge_verdicts *v)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *to = open_memstream(&text, &bytes);
    if (!to)
        return;
    if (j->languages > 1) {
        fputc('\n', to);
        report_text_judge(j, to);
    }
    if (v->count) {
        fputc('\n', to);
        report_text_gates(v, to);
    }
    if (fclose(to) == 0)
        cli_print(call, "%s", text);
    free(text);
}

static int evaluate(struct cli_call *call, struct open_model *m, struct open_model *base, const struct texts *texts,
                    const struct recipe_gates *gates)
{
    static struct judge j;
    const struct eval_settings *s = call->settings;
    struct judge_verdicts verdicts;
    struct fault f = {""};
    struct progress bar;
    progress_open(&bar, call, "evaluate", "texts", 0);
    const struct judge_options o = {.text = texts->text,
                                    .texts = texts->count,
                                    .context = (uint32_t)s->context,
                                    .windows = (uint32_t)s->windows,
                                    .progress = texts_show,
                                    .progress_context = &bar};
    const enum err e = judge_models(m->model, base->model, m->tokenizer, &o, &j, &f);
    progress_close(&bar, e == ERR_NONE);
    if (e) /* a difference of vocabularies is bad input here, no failed comparison */
        return cli_fail(call, e == ERR_MEMORY || e == ERR_DEVICE ? CLI_ENVIRONMENT : CLI_INPUT, NULL, NULL, "%s",
                        f.text[0] ? f.text : cli_sentence(e));
    judge_gates(gates, &j, gguf_bytes(m->file), &verdicts);
    cli_answer(call, document(call, &j, &verdicts));
    print(call, &j.all);
    print_tables(call, &j, &verdicts);
    return texts_verdict(call, &verdicts);
}

/* The recipe's gates, cache and activations, and those of the command line over them. */
static int take_recipe(struct cli_call *call, struct recipe_gates *gates, struct model_options *o)
{
    static const uint32_t bits[] = {16, 8, 4};
    static struct recipe r;
    const struct eval_settings *s = call->settings;
    struct fault f = {""};
    const enum err e = s->plan ? recipe_load(s->plan, &r, &f) : ERR_NONE;
    if (e)
        return cli_fail(call, (enum cli_status)cli_status_of(e), NULL, NULL, "%s", f.text);
    *gates = r.gates;
    judge_model_options(r.cache_type, s->plan ? r.activation_bits : 8, o);
    if (s->cache >= 0)
        o->cache_k = o->cache_v = open_model_cache(s->cache);
    if (s->activation_bits >= 0) /* asked for: weights of floats take them too */
        o->rounding.bits = bits[s->activation_bits];
    const struct texts_gauge gauge = {.has_quality = s->reference, .needs = "--reference", .recipe = s->plan};
    return texts_gates(call, &s->gates, &gauge, gates);
}

struct static_scales {
    struct ranges *ranges;
    uint32_t method, bits;
};

static float limit_of(void *context, const char *tensor)
{
    const struct static_scales *s = context;
    return ranges_limit(s->ranges, tensor, s->method, s->bits);
}

static int take_ranges(struct cli_call *call, struct static_scales *scales, struct model_options *o)
{
    const struct eval_settings *s = call->settings;
    struct fault f = {""};
    if (!s->ranges)
        return CLI_DONE;
    if (s->activation_bits < 0)
        return cli_fail(call, CLI_USAGE, NULL, "--ranges", "expected --activation-bits too");
    const enum err e = ranges_load(s->ranges, &scales->ranges, &f);
    if (e)
        return cli_fail(call, (enum cli_status)cli_status_of(e), NULL, NULL, "%s", f.text);
    scales->method = (uint32_t)s->range;
    scales->bits = o->rounding.bits;
    o->rounding.limit = limit_of;
    o->rounding.context = scales;
    return CLI_DONE;
}

static int eval(struct cli_call *call)
{
    const struct eval_settings *s = call->settings;
    const struct model_options plain = {.context = (uint32_t)s->context, .head_rows = 16};
    struct model_options o = plain; /* the base stays as it is */
    struct open_model m = {NULL, NULL, NULL}, base = {NULL, NULL, NULL};
    struct static_scales scales = {NULL, 0, 0};
    struct engine *e = NULL;
    static struct texts texts;
    struct recipe_gates gates = {0};
    int status = texts_take(call, &s->texts, &s->languages, "--language", &texts);
    if (status == CLI_DONE && texts.count == 0)
        status = cli_fail(call, CLI_USAGE, NULL, NULL, "expected --text or --language; see tare eval --help");
    if (status == CLI_DONE)
        status = take_recipe(call, &gates, &o);
    if (status == CLI_DONE)
        status = take_ranges(call, &scales, &o);
    if (status == CLI_DONE)
        status = cli_engine_open(call, &e);
    if (status == CLI_DONE)
        status = open_model(call, e, call->operand[0], true, &o, &m);
    if (status == CLI_DONE && s->reference)
        status = open_model(call, e, s->reference, false, &plain, &base);
    if (status == CLI_DONE)
        status = evaluate(call, &m, &base, &texts, &gates);
    open_model_close(&m);
    open_model_close(&base);
    engine_close(e);
    ranges_close(scales.ranges);
    return status;
}

const struct cli_verb cli_eval = {
    .name = "eval",
    .operands = "FILE.gguf",
    .operands_min = 1,
    .operands_max = 1,
    .summary = "measure how well a model predicts a text, and how far it is from its base",
    .text = "Measured as llama.cpp's perplexity tool does: windows of --context tokens, each scored from its\n"
            "middle on. With --reference also the divergence of the predicted distributions (nats) and how often\n"
            "the likeliest token is the same. With --language every language gets its line, and the gates worst_* hold\n"
            "for the worst of them. A gate that cannot be measured is an error; only gates of a recipe for speed, memory\n"
            "and energy are left to devices, with a line on standard error. NaN keeps no gate.\n\n"
            "The reference keeps an F16 cache and its own activations, whatever --cache and --activation-bits say.\n"
            "8 bits are what every plugin does for quantised weights; others are simulated: per 32 values, the\n"
            "weights held as F32.",
    .options = options,
    .shared = CLI_ENGINE | CLI_OUTPUT,
    .settings_bytes = sizeof(struct eval_settings),
    .run = eval,
    .examples = (const struct cli_example[]){
        {"tare eval small.gguf --text heldout.txt", "perplexity with its standard error"},
        {"tare eval small.gguf --text heldout.txt --reference base.gguf --json", "KLD and agreement with the base"},
        {"tare eval small.gguf --reference base.gguf --language en=en.txt zh=zh.txt --gate worst_kld_mean=0.02",
         "per language; status 1 if one lost more"},
        {NULL, NULL}}};
