/* profile_verb.c: tare profile: profiles shown, merged, weighted, aged, compared and converted. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/files.h"
#include "compress/profile.h"

enum { PROFILES_MAX = 64, PATH_MAX_BYTES = 4096 };

struct profile_settings {
    const char *out;
    const char *compare;
    double age;
    bool balance, dat;
};

static const struct cli_option options[] = {
    {.letter = 'o', .name = "output", .kind = CLI_TEXT, .value = "PROFILE", .offset = offsetof(struct profile_settings, out),
     .help = "write the result; without it, it is only shown"},
    {.name = "age", .kind = CLI_REAL, .value = "F", .minimum = 0, .maximum = 1, .offset = offsetof(struct profile_settings, age),
     .help = "oldest first: each file counts F times as much as it would beside the one behind it"},
    {.name = "balance", .kind = CLI_FLAG, .offset = offsetof(struct profile_settings, balance),
     .help = "shares by weight, however many tokens each has seen"},
    {.name = "compare", .kind = CLI_TEXT, .value = "PROFILE", .offset = offsetof(struct profile_settings, compare),
     .help = "how far the result is from this one, 0 none, 0.05 another kind of text"},
    {.name = "dat", .kind = CLI_FLAG, .offset = offsetof(struct profile_settings, dat),
     .help = "write the older binary imatrix form"},
    {.name = NULL}};

struct sources {
    uint32_t count;
    struct profile *profile[PROFILES_MAX];
    double weight[PROFILES_MAX];
};

static int fail(struct cli_call *call, enum err e, const struct fault *f)
{
    return cli_fail(call, e == ERR_MISMATCH ? CLI_INPUT : (enum cli_status)cli_status_of(e), NULL, NULL, "%s",
                    f->text[0] ? f->text : cli_sentence(e));
}

/* FILE or FILE=WEIGHT; a name that has '=' and no number behind it is a name. */
static double split_weight(const char *operand, char path[PATH_MAX_BYTES])
{
    const char *equals = strrchr(operand, '=');
    char *end = NULL;
    const double weight = equals ? strtod(equals + 1, &end) : 1;
    const bool is_weight = equals && end != equals + 1 && *end == 0;
    snprintf(path, PATH_MAX_BYTES, "%.*s", (int)(is_weight ? equals - operand : (long)strlen(operand)), operand);
    return is_weight ? weight : 1;
}

static int claim_files(struct cli_call *call, struct files *files)
{
    char path[PATH_MAX_BYTES];
    const struct profile_settings *o = call->settings;
    for (int i = 0; i < call->operands; i++) {
        (void)split_weight(call->operand[i], path);
        files_read(files, path);
    }
    files_read(files, o->compare);
    return files_write(files, call, "--output", o->out);
}

static int load_all(struct cli_call *call, struct sources *s)
{
    const struct profile_settings *o = call->settings;
    char path[PATH_MAX_BYTES];
    struct fault f = {""};
    double fading = 1;
    for (int i = 0; i < call->operands; i++) {
        const double weight = split_weight(call->operand[i], path);
        if (!(weight > 0 && weight <= 1e6))
            return cli_fail(call, CLI_USAGE, call->operand[i], NULL, "expected a weight above 0 and at most 1e6");
        const enum err e = profile_load(path, &s->profile[i], &f);
        if (e)
            return fail(call, e, &f);
        const char *base = s->profile[i]->base_sha256, *first = s->profile[0]->base_sha256;
        if (base[0] && first[0] && strcmp(base, first) != 0)
            return cli_fail(call, CLI_INPUT, path, NULL, "was taken from base %.12s, %s from %.12s", base, call->operand[0],
                            first);
        s->weight[i] = weight;
        s->count++;
    }
    for (uint32_t i = s->count; o->age > 0 && i-- > 0; fading *= o->age)
        s->weight[i] *= fading;
    return CLI_DONE;
}

static enum err combine(const struct profile_settings *o, const struct sources *s, struct profile *into, struct fault *f)
{
    enum err e = ERR_NONE;
    if (o->balance)
        return profile_blend(into, (const struct profile *const *)s->profile, s->weight, s->count, f);
    for (uint32_t i = 0; i < s->count && !e; i++)
        e = profile_merge(into, s->profile[i], s->weight[i], f);
    return e;
}

static double rows_of(const struct profile *p)
{
    double rows = 0;
    for (uint32_t i = 0; i < p->entries; i++)
        for (uint32_t k = 0; k < p->entry[i].slices; k++)
            rows = p->entry[i].count[k] > rows ? p->entry[i].count[k] : rows;
    return rows;
}

static void answer(struct cli_call *call, const struct profile *p, const struct profile_drift *drift, const char *sha256)
{
    const struct profile_settings *s = call->settings;
    json_t *languages = json_array(), *datasets = json_array();
    for (uint32_t i = 0; i < p->languages; i++)
        json_array_append_new(languages, json_string(p->language[i]));
    for (uint32_t i = 0; i < p->datasets; i++)
        json_array_append_new(datasets, json_string(p->dataset[i]));
    json_t *d = json_pack("{s:i, s:i, s:i, s:f, s:s, s:s, s:o, s:o}", "inputs", (int)p->entries, "windows", (int)p->chunks,
                          "window_tokens", (int)p->chunk_size, "tokens", rows_of(p), "base_sha256", p->base_sha256,
                          "method", p->method, "datasets", datasets, "languages", languages);
    cli_print(call, "%u inputs, %u windows of %u tokens, %.0f tokens seen%s%.12s\n", p->entries, p->chunks, p->chunk_size,
              rows_of(p), p->base_sha256[0] ? ", of base " : "", p->base_sha256);
    for (uint32_t i = 0; i < p->datasets; i++)
        cli_print(call, "  text %s\n", p->dataset[i]);
    for (uint32_t i = 0; i < p->languages; i++)
        cli_print(call, "  language %s\n", p->language[i]);
    if (s->out) {
        json_object_set_new(d, "profile", json_string(s->out));
        json_object_set_new(d, "sha256", json_string(sha256));
    }
    if (s->compare) {
        json_object_set_new(d, "drift", json_pack("{s:f, s:f, s:s, s:i, s:i}", "score", drift->score, "worst", drift->worst,
                                                  "worst_input", drift->worst_name, "compared", (int)drift->compared,
                                                  "skipped", (int)drift->skipped));
        cli_print(call, "drift %.5f (worst %.5f, %s), %u inputs compared, %u skipped\n", drift->score, drift->worst,
                  drift->worst_name, drift->compared, drift->skipped);
    }
    cli_answer(call, d);
}

static int run(struct cli_call *call)
{
    static struct sources s;
    const struct profile_settings *o = call->settings;
    struct profile *into = NULL, *then = NULL;
    struct profile_drift drift = {0};
    struct fault f = {""};
    char sha256[65] = "";
    if (o->dat && !o->out)
        return cli_fail(call, CLI_USAGE, NULL, "--dat", "expected -o PROFILE too");
    struct files files = {0};
    int status = claim_files(call, &files);
    if (status == CLI_DONE)
        status = load_all(call, &s);
    if (status == CLI_DONE) {
        enum err e = profile_open(&into);
        if (!e)
            e = combine(o, &s, into, &f);
        if (!e && o->compare)
            e = profile_load(o->compare, &then, &f);
        if (!e && o->compare && (e = profile_compare(then, into, &drift)))
            fault_set(&f, e, "%s: has no input in common with %s", o->compare, call->operand[0]);
        if (!e && o->out)
            e = o->dat ? profile_save_dat(into, o->out, &f) : profile_save(into, o->out, sha256, &f);
        if (e)
            status = fail(call, e, &f);
        else
            answer(call, into, &drift, sha256);
    }
    files_close(&files);
    profile_close(then);
    profile_close(into);
    for (uint32_t i = 0; i < PROFILES_MAX; i++)
        profile_close(s.profile[i]);
    return status;
}

const struct cli_verb cli_profile = {
    .name = "profile",
    .operands = "PROFILE[=WEIGHT] ...",
    .operands_min = 1,
    .operands_max = PROFILES_MAX,
    .summary = "show, merge, weight, age, compare and convert profiles",
    .text = "Reads imatrix files in GGUF form, with or without what tare adds, and in the older binary form; several\n"
            "become one, as if their texts had been seen together, each as often as its weight says.",
    .options = options,
    .shared = CLI_OUTPUT,
    .settings_bytes = sizeof(struct profile_settings),
    .run = run,
    .examples = (const struct cli_example[]){
        {"tare profile day1.gguf day2.gguf day3.gguf --age 0.5 -o now.gguf", "what is older fades"},
        {"tare profile code.gguf=3 chat.gguf=1 --balance -o mix.gguf", "three quarters code, by share, not by tokens"},
        {"tare profile now.gguf --compare then.gguf", "how far it has drifted"},
        {"tare profile imatrix.dat -o imatrix.gguf", "from the older form to the newer; --dat goes back"},
        {NULL, NULL}}};
