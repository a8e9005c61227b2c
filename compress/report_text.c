/* report_text.c: the same report for people: Markdown whose tables are also aligned as text. */
#include <math.h>
#include <string.h>

#include "compress/report.h"
#include "hal/block.h"
#include "hal/engine.h"

static void put_row(const char *name, const struct eval_result *r, FILE *to)
{
    if (!r->has_reference) {
        fprintf(to, "| %-8s | %7llu | %9.4f ± %-7.4f | %8.5f |\n", name, (unsigned long long)r->scored,
                r->perplexity.value, r->perplexity.error, r->nll_per_byte);
        return;
    }
    fprintf(to, "| %-8s | %7llu | %9.4f | %+8.4f ± %-6.4f | %+7.3f | %+9.6f | %8.6f ± %8.6f | %8.5f | %8.5f | %6.2f |\n",
            name, (unsigned long long)r->scored, r->perplexity.value, r->perplexity_delta.value,
            r->perplexity_delta.error, 100 * (r->perplexity_ratio.value - 1), r->nll_per_byte_delta.value, r->kld.value,
            r->kld.error, r->kld_99, r->kld_max, 100 * r->top1.value);
}

void report_text_judge(const struct judge *j, FILE *to)
{
    if (j->all.has_reference)
        fputs("| text     |  scored |       PPL |     dPPL ± SE      |  dPPL % | dNLL/byte |  KLD mean ± SE      | KLD p99  |  KLD "
              "max |  top-1 |\n"
              "|----------|--------:|----------:|-------------------:|--------:|----------:|--------------------:|---------:|------"
              "---:|-------:|\n",
              to);
    else
        fputs("| text     |  scored |         PPL ± SE    | NLL/byte |\n"
              "|----------|--------:|--------------------:|---------:|\n",
              to);
    for (uint32_t i = 0; i < j->languages; i++)
        put_row(j->language[i].name, &j->language[i].result, to);
    if (j->languages > 1)
        put_row("all", &j->all, to);
    const struct judge_language *ppl = judge_worst_dppl(j), *kld = judge_worst_kld(j);
    if (j->languages > 1 && ppl && kld)
        fprintf(to, "\nworst: %s by perplexity (%+.3f %%), %s by mean KLD (%.6f)\n", ppl->name,
                100 * (ppl->result.perplexity_ratio.value - 1), kld->name, kld->result.kld.value);
}

void report_text_gates(const struct judge_verdicts *v, FILE *to)
{
    if (v->count == 0)
        return;
    fputs("| gate                | limit    | measured | language | |\n|---------------------|---------:|---------:|----------|-|\n",
          to);
    for (uint32_t i = 0; i < v->count; i++) {
        const struct judge_verdict *g = &v->verdict[i];
        char value[32] = "-";
        if (g->is_measured)
            snprintf(value, sizeof value, "%.6g", g->value);
        fprintf(to, "| %-19s | %8.6g | %8s | %-8s | %s |\n", recipe_gate_name(g->gate), g->limit, value, g->language,
                !g->is_measured ? "not measured" : g->is_kept ? "kept" : "MISSED");
    }
}

static void put_head(const struct report *r, FILE *to)
{
    const struct plan *p = r->plan;
    const double bpw = plan_bpw(p);
    fprintf(to, "# %s\n\n", r->variant);
    if (r->is_refused)
        fputs("- REFUSED: a gate was missed, see below; the file is kept under this name only\n", to);
    if (r->rotated && r->rotated[0])
        fprintf(to, "- base: %s, rotated (%s): %llu bytes, sha256 %s\n", r->base, r->rotated,
                (unsigned long long)p->base_bytes, p->base_sha256);
    else
        fprintf(to, "- base: %s, %llu bytes, sha256 %s\n", r->base, (unsigned long long)p->base_bytes, p->base_sha256);
    if (r->profile && r->profile[0])
        fprintf(to, "- profile: %s%s%s\n", r->profile, p->profile_sha256[0] ? ", sha256 " : "", p->profile_sha256);
    if (r->result)
        fprintf(to, "- variant: %llu bytes (predicted %llu), sha256 %s\n", (unsigned long long)r->result->bytes,
                (unsigned long long)p->variant_bytes, r->result->sha256);
    else
        fprintf(to, "- variant: %llu bytes predicted, not written\n", (unsigned long long)p->variant_bytes);
    fprintf(to, "- %.4f bits per weight: %.3f x smaller than FP32, %.3f x than FP16\n", bpw, 32 / bpw, 16 / bpw);
    if (p->prune) {
        char pruned[160];
        prune_describe(p->prune, pruned, sizeof pruned);
        fprintf(to, "- pruned: %s: %.1f %% of the base's bytes%s\n", pruned,
                100 * (double)p->variant_bytes / (double)p->base_bytes,
                p->prune->mask_by ? "; a mask leaves size and speed as they are" : "");
    }
    if (p->scheme.bits) {
        char words[SCHEME_TEXT_MAX];
        bool is_held;
        const double bytes = report_scheme_bytes(p, &is_held);
        scheme_print(&p->scheme, words);
        fprintf(to, "- scheme %s: its own container would hold the tensors in %.0f bytes, %.3f bits per weight%s\n", words,
                bytes, bpw * bytes / (double)p->variant_bytes,
                is_held ? "" : "; simulated: this file holds its values as floats");
    }
    fprintf(to, "- goal %s, method %s, sensitivity %s, seed %llu\n", r->goal, r->method, r->sensitivity,
            (unsigned long long)p->seed);
    fprintf(to, "- tare %s, plugin %s %s, path %s, %u threads\n", r->version, r->engine->ops.name,
            r->engine->ops.version ? r->engine->ops.version : "", r->engine->caps.path, r->engine->host.threads);
    fprintf(to, "- peak resident memory %.1f MiB", (double)r->peak_rss_bytes / 1048576);
    if (r->memory_bytes)
        fprintf(to, " of %.1f MiB allowed", (double)r->memory_bytes / 1048576);
    fputc('\n', to);
    if (r->result && r->result->tensors_resumed)
        fprintf(to, "- %u tensors were taken over from an interrupted run; their errors were its report's\n", r->result->tensors_resumed);
    fputs("- wall time:", to);
    for (uint32_t i = 0; i < r->stages; i++)
        fprintf(to, "%s %s %.2f s", i ? "," : "", r->stage[i].name, r->stage[i].seconds);
    fputc('\n', to);
}

static void put_tensors(const struct report *r, FILE *to)
{
    fputs("\n| tensor                           | from | type   | method   |      bytes | error    | output error |\n"
          "|----------------------------------|------|--------|----------|-----------:|---------:|-------------:|\n",
          to);
    for (uint32_t i = 0; i < r->plan->tensors; i++) {
        const struct plan_tensor *t = &r->plan->tensor[i];
        const struct quantise_tensor *did = r->result ? &r->result->tensor[i] : NULL;
        char error[32] = "-", output[32] = "-";
        if (did && !isnan(did->error))
            snprintf(error, sizeof error, "%.3e", did->error);
        if (did && !isnan(did->output_error))
            snprintf(output, sizeof output, "%.3e", did->output_error);
        fprintf(to, "| %-32s | %-4s | %-6s | %-8s | %10llu | %8s | %12s |%s\n", t->name, block_type(t->from)->name,
                block_type(t->type)->name, recipe_method_name(did ? did->method : t->method),
                (unsigned long long)plan_tensor_bytes(t), error, output, t->is_fallback ? " fallback" : "");
    }
    fputs("\nerror: weighted relative squared error of the weights; output error: the same of the layer's outputs on held-out\n"
          "calibration tokens (gptq only).\n",
          to);
}

void report_text(const struct report *r, bool has_tensors, FILE *to)
{
    put_head(r, to);
    if (r->judge) {
        fprintf(to, "\nHeld-out text against the base, windows of %u tokens:\n\n", r->judge->context);
        report_text_judge(r->judge, to);
    }
    if (r->verdicts && r->verdicts->count) {
        fputc('\n', to);
        report_text_gates(r->verdicts, to);
    }
    if (has_tensors)
        put_tensors(r, to);
}
