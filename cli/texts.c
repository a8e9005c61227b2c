#include "cli/texts.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compress/calibrate_windows.h"
#include "compress/resident.h"

static void add(struct texts *t, const char *path, const char *language, size_t bytes)
{
    snprintf(t->language[t->count], TEXTS_LANGUAGE_BYTES, "%.*s", (int)bytes, language);
    t->path[t->count] = path;
    t->name[t->count] = t->language[t->count];
    t->text[t->count] = (struct calibrate_text){.path = path, .language = t->language[t->count]};
    t->count++;
}

void texts_add(struct texts *t, const char *path, const char *language)
{
    if (t->count < TEXTS_MAX)
        add(t, path, language, strlen(language));
}

/* "en=FILE" rather than a path with '=' in it: what is before is a short word. */
static size_t language_bytes(const char *text)
{
    const size_t n = strcspn(text, "=/.");
    return text[n] == '=' && n < TEXTS_LANGUAGE_BYTES ? n : 0;
}

int texts_take(struct cli_call *call, const struct cli_list *plain, const struct cli_list *languages,
               const char *option, struct texts *out)
{
    out->count = 0;
    if (plain->count + languages->count > TEXTS_MAX)
        return cli_fail(call, CLI_USAGE, NULL, NULL, "expected at most %d texts", TEXTS_MAX);
    for (size_t i = 0; i < plain->count; i++)
        add(out, plain->items[i], "text", 4);
    const char *language = NULL;
    for (size_t i = 0; i < languages->count; i++) {
        const char *item = languages->items[i];
        const size_t bytes = language_bytes(item);
        if (bytes)
            language = item;
        if (!language || (bytes && item[bytes + 1] == 0))
            return cli_fail(call, CLI_USAGE, NULL, option, "'%s': expected LANGUAGE=FILE", item);
        add(out, bytes ? item + bytes + 1 : item, language, language_bytes(language));
    }
    for (uint32_t i = 0; i < out->count; i++) /* now, and not when the work before its first use is done */
        if (access(out->path[i], R_OK))
            return cli_fail(call, CLI_INPUT, out->path[i], NULL, "%s", strerror(errno));
    return CLI_DONE;
}

int texts_fit(struct cli_call *call, const struct texts *t, uint64_t tokens, uint64_t seed)
{
    const uint64_t memory = (uint64_t)call->common.memory_bytes;
    const uint64_t needed = resident_now() + calibrate_windows_bytes(t->text, t->count, tokens, seed);
    if (t->count == 0 || memory == 0 || needed <= memory)
        return CLI_DONE;
    return cli_fail(call, CLI_USAGE, NULL, "--memory",
                    "%.0f MiB is too little to read the texts%s, at least %.0f MiB is needed", (double)memory / 1048576,
                    tokens == 0 ? " (fewer with --tokens)" : seed ? " (the first of them with --seed 0)" : "",
                    (double)needed / 1048576 + 1);
}

/* The gates that nothing here can measure, before any work is done for them. */
static int check_gates(struct cli_call *call, const struct texts_gauge *gauge, uint32_t asked, uint32_t present)
{
    for (uint32_t gate = 0; gate < RECIPE_GATES; gate++) {
        const bool is_asked = asked & 1u << gate;
        if (!(present & 1u << gate) || gate == RECIPE_FILE_MIB)
            continue;
        if (is_asked && judge_gate_is_machine(gate))
            return cli_fail(call, CLI_USAGE, NULL, NULL,
                            "--gate %s is measured where a fleet's device tests itself, not here: tare bench shows it",
                            recipe_gate_name(gate));
        if (!gauge->has_quality && judge_gate_is_quality(gate) && (is_asked || !gauge->is_dry))
            return cli_fail(call, CLI_USAGE, is_asked ? NULL : gauge->recipe, NULL, "%s %s needs %s",
                            is_asked ? "--gate" : "gate", recipe_gate_name(gate), gauge->needs);
    }
    return CLI_DONE;
}

int texts_gates(struct cli_call *call, const struct cli_list *list, const struct texts_gauge *gauge,
                struct recipe_gates *gates)
{
    uint32_t asked = 0;
    for (size_t i = 0; i < list->count; i++) {
        const char *item = list->items[i], *equals = strchr(item, '=');
        char *end = NULL;
        const double limit = equals ? strtod(equals + 1, &end) : NAN;
        uint32_t gate = 0;
        while (equals && gate < RECIPE_GATES && (strlen(recipe_gate_name(gate)) != (size_t)(equals - item) ||
                                                 strncmp(recipe_gate_name(gate), item, (size_t)(equals - item)) != 0))
            gate++;
        if (!equals || gate == RECIPE_GATES || end == equals + 1 || *end || !isfinite(limit))
            return cli_fail(call, CLI_USAGE, NULL, "--gate",
                            "'%s': expected NAME=LIMIT with dppl_percent, kld_mean, kld_p99, top1, "
                            "worst_dppl_percent, worst_kld_mean or file_mib",
                            item);
        asked |= 1u << gate;
        gates->limit[gate] = limit;
    }
    gates->present |= asked;
    return check_gates(call, gauge, asked, gates->present);
}

bool texts_show(void *context, const struct judge_progress *p)
{
    struct progress *bar = context;
    char note[96];
    snprintf(note, sizeof note, p->eval.perplexity_reference > 0 ? "%s: PPL %.4f, KLD %.6f" : "%s: PPL %.4f",
             p->language, p->eval.perplexity, p->eval.kld);
    bar->total = p->languages;
    progress_update(bar, p->done + (double)p->eval.windows / (p->eval.windows_total ? p->eval.windows_total : 1), note);
    return true;
}

int texts_verdict(struct cli_call *call, const struct judge_verdicts *v)
{
    struct fault f = {""};
    (void)fflush(stdout); /* in order where both are one terminal */
    for (uint32_t i = 0; i < v->count; i++) /* with --quiet too: a gate was asked for */
        if (!v->verdict[i].is_measured)
            fprintf(stderr, "tare: gate %s: not measured here, devices measure it\n", recipe_gate_name(v->verdict[i].gate));
    const enum err e = judge_check(v, &f);
    return e ? cli_fail(call, CLI_FAILED, NULL, NULL, "%s", f.text) : CLI_DONE;
}
