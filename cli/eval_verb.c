/* eval_verb.c: tare eval: how well a model predicts a text, and how far it is from its base. */
#include <jansson.h>
#include <stdlib.h>

#include "cli/open_model.h"
#include "cli/progress.h"
#include "model/eval.h"

struct eval_settings {
    const char *text, *reference;
    int64_t context, windows;
    int cache;
};

static const struct cli_option options[] = {
    {.name = "text", .kind = CLI_TEXT, .value = "FILE", .is_required = true,
     .offset = offsetof(struct eval_settings, text), .help = "the text to predict"},
    {.name = "reference", .kind = CLI_TEXT, .value = "BASE.gguf",
     .offset = offsetof(struct eval_settings, reference), .help = "compare with this model"},
    {.name = "context", .kind = CLI_INT, .value = "N", .preset = "512", .minimum = 8, .maximum = 1 << 20,
     .offset = offsetof(struct eval_settings, context), .help = "tokens of a window; the second half is scored"},
    {.name = "windows", .kind = CLI_INT, .value = "N", .minimum = 0, .maximum = 1e9,
     .offset = offsetof(struct eval_settings, windows), .help = "stop after so many; default: the whole text"},
    {.name = "cache", .kind = CLI_CHOICE, .choices = OPEN_MODEL_CACHES, .preset = "f16",
     .offset = offsetof(struct eval_settings, cache), .help = "type of keys and values"},
    {.name = NULL}};

static bool show(void *context, const struct eval_progress *p)
{
    struct progress *bar = context;
    char note[64];
    snprintf(note, sizeof note, p->perplexity_reference > 0 ? "PPL %.4f, KLD %.6f" : "PPL %.4f", p->perplexity,
             p->kld);
    bar->total = p->windows_total;
    progress_update(bar, p->windows, note);
    return true;
}

static json_t *pair(struct eval_value v)
{
    return json_pack("{s:f, s:f}", "value", v.value, "error", v.error);
}

static json_t *document(const struct cli_call *call, const struct eval_result *r)
{
    const struct eval_settings *s = call->settings;
    json_t *d = json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:o, s:o, s:f, s:f, s:f}", "model", call->operand[0],
                          "text", s->text, "context", (json_int_t)s->context, "windows", (json_int_t)r->windows,
                          "tokens", (json_int_t)r->tokens, "scored", (json_int_t)r->scored, "perplexity",
                          pair(r->perplexity), "nll", pair(r->nll), "nll_per_byte", r->nll_per_byte, "seconds",
                          r->seconds, "tokens_per_second", r->tokens_per_second);
    if (!r->has_reference)
        return d;
    json_object_set_new(d, "reference", json_string(s->reference));
    json_object_set_new(d, "perplexity_reference", pair(r->perplexity_reference));
    json_object_set_new(d, "perplexity_delta", pair(r->perplexity_delta));
    json_object_set_new(d, "perplexity_ratio", pair(r->perplexity_ratio));
    json_object_set_new(d, "kld", pair(r->kld));
    json_object_set_new(d, "kld_quantiles", json_pack("{s:f, s:f, s:f, s:f, s:f}", "50", r->kld_median, "90",
                                                      r->kld_90, "99", r->kld_99, "99.9", r->kld_999, "100",
                                                      r->kld_max));
    json_object_set_new(d, "top1", pair(r->top1));
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

static int evaluate(struct cli_call *call, struct open_model *m, struct open_model *base, const char *text,
                    size_t bytes)
{
    const struct eval_settings *s = call->settings;
    char reason[GGUF_REASON_BYTES];
    struct progress bar;
    struct eval_result r;
    progress_open(&bar, call, "evaluate", "windows", 0);
    const struct eval_options o = {.context = (uint32_t)s->context,
                                   .windows = (uint32_t)s->windows,
                                   .progress = show,
                                   .progress_context = &bar};
    const enum err e = eval_text(m->model, base->model, m->tokenizer, text, bytes, &o, &r, reason);
    progress_close(&bar, e == ERR_NONE);
    if (e) /* a difference of vocabularies is bad input here, no failed comparison */
        return cli_fail(call, e == ERR_MEMORY || e == ERR_DEVICE ? CLI_ENVIRONMENT : CLI_INPUT, s->text, NULL,
                        "%s", reason[0] ? reason : cli_sentence(e));
    cli_answer(call, document(call, &r));
    print(call, &r);
    return CLI_DONE;
}

static int eval(struct cli_call *call)
{
    const struct eval_settings *s = call->settings;
    const struct model_options o = {.context = (uint32_t)s->context,
                                    .head_rows = 16,
                                    .cache_k = open_model_cache(s->cache),
                                    .cache_v = open_model_cache(s->cache)};
    struct open_model m = {NULL, NULL, NULL}, base = {NULL, NULL, NULL};
    struct engine *e = NULL;
    char *text = NULL;
    size_t bytes = 0;
    int status = open_model_text(call, s->text, &text, &bytes);
    if (status == CLI_DONE)
        status = cli_engine_open(call, &e);
    if (status == CLI_DONE)
        status = open_model(call, e, call->operand[0], true, &o, &m);
    if (status == CLI_DONE && s->reference)
        status = open_model(call, e, s->reference, false, &o, &base);
    if (status == CLI_DONE)
        status = evaluate(call, &m, &base, text, bytes);
    open_model_close(&m);
    open_model_close(&base);
    engine_close(e);
    free(text);
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
            "the likeliest token is the same.",
    .options = options,
    .shared = CLI_ENGINE | CLI_OUTPUT,
    .settings_bytes = sizeof(struct eval_settings),
    .run = eval,
    .examples = (const struct cli_example[]){
        {"tare eval small.gguf --text heldout.txt", "perplexity with its standard error"},
        {"tare eval small.gguf --text heldout.txt --reference base.gguf --json", "KLD and agreement with the base"},
        {NULL, NULL}}};
