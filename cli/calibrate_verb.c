/* calibrate_verb.c: tare calibrate: texts through a base, second moments of every linear input out. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/files.h"
#include "cli/texts.h"
#include "compress/calibrate.h"
#include "compress/finite.h"
#include "compress/ranges.h"
#include "hal/engine.h"
#include "model/gguf.h"

enum { SECTIONS_MAX = 256, PATH_BYTES = 4096 };

struct calibrate_settings {
    const char *out;
    struct cli_list texts;
    struct cli_list languages;
    struct cli_list merge;
    const char *compare;
    const char *ranges;
    double percentile;
    int64_t tokens, window, seed;
    bool unbalanced, dat, sections;
};

static const struct cli_option options[] = {
    {.letter = 'o', .name = "output", .kind = CLI_TEXT, .value = "PROFILE.gguf", .is_required = true,
     .offset = offsetof(struct calibrate_settings, out), .help = "the profile to write"},
    {.name = "text", .kind = CLI_LIST, .value = "FILE", .is_greedy = true,
     .offset = offsetof(struct calibrate_settings, texts), .help = "texts, all of one group"},
    {.name = "language", .kind = CLI_LIST, .value = "en=FILE", .is_greedy = true,
     .offset = offsetof(struct calibrate_settings, languages),
     .help = "texts per language; every language gets the same number of tokens"},
    {.name = "tokens", .kind = CLI_INT, .value = "N", .minimum = 0, .maximum = 1e12,
     .offset = offsetof(struct calibrate_settings, tokens), .help = "per language; default: what the shortest has"},
    {.name = "window", .kind = CLI_INT, .value = "N", .preset = "512", .minimum = 16, .maximum = 1e6,
     .offset = offsetof(struct calibrate_settings, window), .help = "tokens per window"},
    {.name = "seed", .kind = CLI_INT, .value = "N", .minimum = 0, .maximum = 9e15,
     .offset = offsetof(struct calibrate_settings, seed),
     .help = "which windows of texts longer than --tokens are taken; 0: the first"},
    {.name = "sections", .kind = CLI_FLAG, .offset = offsetof(struct calibrate_settings, sections),
     .help = "also write each language's own statistics: PROFILE.en.gguf, ..."},
    {.name = "unbalanced", .kind = CLI_FLAG, .offset = offsetof(struct calibrate_settings, unbalanced),
     .help = "take every token of every language"},
    {.name = "merge", .kind = CLI_LIST, .value = "PROFILE", .is_greedy = true,
     .offset = offsetof(struct calibrate_settings, merge), .help = "add these profiles to the new one"},
    {.name = "compare", .kind = CLI_TEXT, .value = "PROFILE",
     .offset = offsetof(struct calibrate_settings, compare), .help = "print how far the result is from this one"},
    {.name = "dat", .kind = CLI_FLAG, .offset = offsetof(struct calibrate_settings, dat),
     .help = "write the older binary imatrix form"},
    {.name = "ranges", .kind = CLI_TEXT, .value = "RANGES.gguf", .offset = offsetof(struct calibrate_settings, ranges),
     .help = "also write how far each input reaches: min-max, percentile, MSE, entropy"},
    {.name = "percentile", .kind = CLI_REAL, .value = "P", .preset = "99.9", .minimum = 90, .maximum = 100,
     .offset = offsetof(struct calibrate_settings, percentile), .help = "of --ranges, exact"},
    {.name = NULL}};

static int show(void *context, const struct calibrate_progress *p)
{
    progress_update(context, (double)p->tokens, p->language);
    return 0;
}

/* PROFILE.gguf -> PROFILE.en.gguf. The language is what the profile says of itself, up to "=". */
static enum err section_path(const char *out, const char *language, char path[PATH_BYTES], struct fault *f)
{
    const size_t bytes = strlen(out), stem = bytes > 5 && strcmp(out + bytes - 5, ".gguf") == 0 ? bytes - 5 : bytes;
    const int n = snprintf(path, PATH_BYTES, "%.*s.%.*s.gguf", (int)stem, out, (int)strcspn(language, "=/"), language);
    return n > 0 && n < PATH_BYTES ? ERR_NONE : fault_set(f, ERR_ARGUMENT, "%.80s...: the path is too long", out);
}

static enum err save_section(const char *out, const struct profile *p, struct fault *f)
{
    char path[PATH_BYTES];
    const enum err e = section_path(out, p->languages ? p->language[0] : "", path, f);
    return e ? e : profile_save(p, path, NULL, f);
}

/* Before the text runs: everything that is to be written can be. */
static int claim_files(struct cli_call *call, const struct texts *texts, struct files *files)
{
    char path[PATH_BYTES];
    struct fault f = {""};
    const struct calibrate_settings *s = call->settings;
    files_read(files, call->operand[0]);
    for (uint32_t i = 0; i < texts->count; i++)
        files_read(files, texts->path[i]);
    for (size_t i = 0; i < s->merge.count; i++)
        if (access(s->merge.items[i], R_OK))
            return cli_fail(call, CLI_INPUT, s->merge.items[i], NULL, "%s", strerror(errno));
    if (s->compare && access(s->compare, R_OK))
        return cli_fail(call, CLI_INPUT, s->compare, NULL, "%s", strerror(errno));
    files_read_list(files, &s->merge);
    files_read(files, s->compare);
    int status = files_write(files, call, "--output", s->out);
    if (status == CLI_DONE)
        status = files_write(files, call, "--ranges", s->ranges);
    for (uint32_t i = 0; i < texts->count && s->sections && status == CLI_DONE; i++) {
        bool is_new = true;
        for (uint32_t k = 0; k < i && is_new; k++)
            is_new = strcmp(texts->name[i], texts->name[k]) != 0;
        if (is_new && section_path(s->out, texts->name[i], path, &f))
            status = cli_fail(call, CLI_USAGE, NULL, NULL, "%s", f.text);
        else if (is_new)
            status = files_write(files, call, "--sections", path);
    }
    return status;
}

/* The profiles that were there before this run, as they were. */
struct others {
    struct profile *then;   /* of --compare, or NULL */
    struct profile **merge; /* [merges] */
    size_t merges;
};

static enum err others_open(const struct calibrate_settings *s, struct others *o, struct fault *f)
{
    enum err e = s->compare ? profile_load(s->compare, &o->then, f) : ERR_NONE;
    if (e || s->merge.count == 0)
        return e;
    if (!(o->merge = calloc(s->merge.count, sizeof *o->merge)))
        return ERR_MEMORY;
    o->merges = s->merge.count;
    for (size_t i = 0; i < o->merges && !e; i++)
        e = profile_load(s->merge.items[i], &o->merge[i], f);
    return e;
}

static void others_close(struct others *o)
{
    profile_close(o->then);
    for (size_t i = 0; i < o->merges; i++)
        profile_close(o->merge[i]);
    free(o->merge);
}

/* What has none of the base's inputs will have none of the new profile's. */
static enum err others_check(const struct calibrate_settings *s, const struct others *o, const struct gguf *base,
                             struct fault *f)
{
    for (uint32_t i = 0; o->then && i < o->then->entries; i++) {
        const struct gguf_tensor *t = gguf_tensor_find(base, o->then->entry[i].name);
        if (t && t->shape[0] == o->then->entry[i].cols)
            return ERR_NONE;
    }
    return o->then ? fault_set(f, ERR_NOT_FOUND, "%s: has no input in common with %s", s->compare, gguf_path(base))
                   : ERR_NONE;
}

static int finish(struct cli_call *call, struct profile *p, const struct others *others)
{
    const struct calibrate_settings *s = call->settings;
    struct fault f = {""};
    struct profile_drift drift = {0};
    char sha256[65] = "";
    enum err e = ERR_NONE;
    for (size_t i = 0; !e && i < others->merges; i++) {
        e = profile_merge(p, others->merge[i], 1, &f);
        if (e == ERR_MISMATCH) {
            const struct fault why = f;
            fault_set(&f, e, "%s: %.200s", s->merge.items[i], why.text);
        }
    }
    if (!e)
        e = s->dat ? profile_save_dat(p, s->out, &f) : profile_save(p, s->out, sha256, &f);
    if (!e && others->then && (e = profile_compare(others->then, p, &drift)))
        fault_set(&f, e, "%s: has no input in common with the new profile", s->compare);
    if (e)
        return cli_fail(call, e == ERR_MISMATCH ? CLI_INPUT : (enum cli_status)cli_status_of(e), NULL, NULL, "%s",
                        f.text[0] ? f.text : cli_sentence(e));
    json_t *answer = json_pack("{s:s, s:s, s:i, s:i, s:i}", "profile", s->out, "sha256", sha256, "inputs",
                               (int)p->entries, "windows", (int)p->chunks, "window_tokens", (int)p->chunk_size);
    json_t *languages = json_array();
    for (uint32_t i = 0; i < p->languages; i++)
        json_array_append_new(languages, json_string(p->language[i]));
    json_object_set_new(answer, "languages", languages);
    if (s->compare)
        json_object_set_new(answer, "drift", json_pack("{s:f, s:f, s:s}", "score", drift.score, "worst",
                                                       drift.worst, "worst_input", drift.worst_name));
    cli_answer(call, answer);
    cli_print(call, "%s: %u inputs, %u windows of %u tokens\n", s->out, p->entries, p->chunks, p->chunk_size);
    if (s->compare)
        cli_print(call, "drift %.5f (worst %.5f, %s)\n", drift.score, drift.worst, drift.worst_name);
    return CLI_DONE;
}

/* What would fail after the work: profiles that do not load, and a base of weights that are no numbers. */
static enum err check_inputs(const struct cli_call *call, struct engine *engine, struct others *others, struct fault *f)
{
    const struct calibrate_settings *s = call->settings;
    char reason[GGUF_REASON_BYTES] = "";
    struct gguf *base = NULL;
    enum err e = others_open(s, others, f);
    if (!e && (e = gguf_open(call->operand[0], &base, reason)))
        fault_set(f, e, "%s", reason[0] ? reason : err_name(e));
    if (!e && !(e = others_check(s, others, base, f)))
        e = finite_file(base, engine, f);
    gguf_close(base);
    return e;
}

static int calibrate(struct cli_call *call)
{
    static struct texts texts;
    const struct calibrate_settings *s = call->settings;
    struct engine *engine = NULL;
    struct profile *p = NULL, *part[SECTIONS_MAX] = {NULL};
    uint32_t parts = 0;
    struct ranges *ranges = NULL;
    struct progress progress;
    struct fault f = {""};
    struct others others = {0};
    int status = texts_take(call, &s->texts, &s->languages, "--language", &texts);
    if (status != CLI_DONE)
        return status;
    if (texts.count == 0)
        return cli_fail(call, CLI_USAGE, NULL, NULL, "expected --text or --language");
    struct files files = {0};
    if ((status = texts_fit(call, &texts, (uint64_t)s->tokens, (uint64_t)s->seed)) != CLI_DONE ||
        (status = claim_files(call, &texts, &files)) != CLI_DONE ||
        (status = cli_engine_open(call, &engine)) != CLI_DONE) {
        files_close(&files);
        return status;
    }
    enum err e = check_inputs(call, engine, &others, &f);
    if (!e && s->ranges)
        e = ranges_open(s->percentile, &ranges);
    progress_open(&progress, call, "calibrate", "tokens", 0);
    struct calibrate_options o = {.base_path = call->operand[0],
                                        .engine = engine,
                                        .text = texts.text,
                                        .texts = texts.count,
                                        .tokens_per_language = (uint64_t)s->tokens,
                                        .unbalanced = s->unbalanced,
                                        .seed = (uint64_t)s->seed,
                                        .context = (uint32_t)s->window,
                                        .ranges = ranges,
                                        .progress = show,
                                        .progress_context = &progress};
    if (s->sections) {
        o.part = part;
        o.parts_max = SECTIONS_MAX;
        o.parts = &parts;
    }
    e = e ? e : calibrate_run(&o, &p, &f);
    progress_close(&progress, e == ERR_NONE);
    engine_close(engine);
    if (!e && ranges)
        e = ranges_save(ranges, s->ranges, &f);
    ranges_close(ranges);
    for (uint32_t i = 0; i < parts; i++) {
        e = e ? e : save_section(s->out, part[i], &f);
        profile_close(part[i]);
    }
    status = e ? cli_fail(call, (enum cli_status)cli_status_of(e), NULL, NULL, "%s",
                          f.text[0] ? f.text : cli_sentence(e))
               : finish(call, p, &others);
    files_close(&files);
    profile_close(p);
    others_close(&others);
    return status;
}

const struct cli_verb cli_calibrate = {
    .name = "calibrate",
    .operands = "BASE.gguf",
    .operands_min = 1,
    .operands_max = 1,
    .summary = "gather the activation statistics that weight a quantisation",
    .text = "The profile is an imatrix file in GGUF form: llama.cpp's quantizer reads it, and tare reads theirs.\n"
            "tare profile merges and compares such files. --ranges is for kernels with one static scale per input;\n"
            "plugins round activations dynamically and do not need it (tare eval --ranges shows the difference)",
    .options = options,
    .shared = CLI_ENGINE | CLI_OUTPUT,
    .settings_bytes = sizeof(struct calibrate_settings),
    .run = calibrate,
    .examples = (const struct cli_example[]){
        {"tare calibrate base.gguf --text notes.txt -o profile.gguf", "one text"},
        {"tare calibrate base.gguf --language en=en.txt de=de.txt -o profile.gguf",
         "two languages, as many tokens of each"},
        {"tare calibrate base.gguf --language en=en.txt de=de.txt -o profile.gguf --sections",
         "and profile.en.gguf, profile.de.gguf: their own statistics, to weigh anew with tare profile"},
        {"tare calibrate base.gguf --text new.txt -o new.gguf --compare old.gguf", "how far it has drifted"},
        {NULL, NULL}}};
