#include "cli/quantize_options.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "compress/report.h"
#include "hal/block.h"

static const unsigned long long SEED_MAX = 9000000000000000ull; /* a JSON number holds it */

const struct cli_option quantize_options[] = {
    {.letter = 'o', .name = "output", .kind = CLI_TEXT, .value = "OUT.gguf", .is_required = true,
     .offset = offsetof(struct quantize_settings, out), .help = "the variant to write"},
    {.name = "mode", .kind = CLI_CHOICE, .choices = "accuracy|balanced|compression",
     .offset = offsetof(struct quantize_settings, mode), .help = "types by the role of each tensor (default balanced)"},
    {.name = "type", .kind = CLI_TEXT, .value = "TYPE", .offset = offsetof(struct quantize_settings, type),
     .help = "one type for every weight: Q4_K, IQ4_NL, ..."},
    {.name = "bpw", .kind = CLI_REAL, .value = "X", .minimum = 0.5, .maximum = 32,
     .offset = offsetof(struct quantize_settings, bpw), .help = "bits per weight of the whole file, spent where they help most"},
    {.name = "plan", .kind = CLI_TEXT, .value = "RECIPE.yaml", .offset = offsetof(struct quantize_settings, plan),
     .help = "a recipe; the options above replace what it says"},
    {.name = "method", .kind = CLI_TEXT, .value = "METHOD", .offset = offsetof(struct quantize_settings, method),
     .help = "rtn, search, awq, gptq, gptq+awq or cascade (default search)"},
    {.name = "scheme", .kind = CLI_TEXT, .value = "\"WORDS\"", .offset = offsetof(struct quantize_settings, scheme),
     .help = "a plain grid for every weight, see above: \"4 affine 64\""},
    {.name = "export", .kind = CLI_FLAG, .offset = offsetof(struct quantize_settings, export),
     .help = "NF4, which only tare reads, becomes IQ4_NL; the rest stays"},
    {.name = "profile", .kind = CLI_TEXT, .value = "PROFILE.gguf",
     .offset = offsetof(struct quantize_settings, profile), .help = "activation statistics: ours or an imatrix"},
    {.name = "text", .kind = CLI_LIST, .value = "FILE", .is_greedy = true,
     .offset = offsetof(struct quantize_settings, texts), .help = "calibrate on these first (gptq needs them)"},
    {.name = "language", .kind = CLI_LIST, .value = "en=FILE", .is_greedy = true,
     .offset = offsetof(struct quantize_settings, languages), .help = "the same, with equal tokens of every language"},
    {.name = "tokens", .kind = CLI_INT, .value = "N", .minimum = 0, .maximum = 1e9,
     .offset = offsetof(struct quantize_settings, tokens), .help = "calibration tokens at most, per language"},
    {.name = "eval-text", .kind = CLI_LIST, .value = "FILE", .is_greedy = true,
     .offset = offsetof(struct quantize_settings, eval_texts), .help = "measure the result on these against the base"},
    {.name = "eval-language", .kind = CLI_LIST, .value = "en=FILE", .is_greedy = true,
     .offset = offsetof(struct quantize_settings, eval_languages), .help = "the same per language"},
    {.name = "cache", .kind = CLI_CHOICE, .choices = "f16|q8_0|q4_0",
     .offset = offsetof(struct quantize_settings, cache),
     .help = "keys and values that it will be served with: measured so (default f16)"},
    {.name = "activation-bits", .kind = CLI_CHOICE, .choices = "16|8|4",
     .offset = offsetof(struct quantize_settings, activations), .help = "the same of activations (default 8, as plugins do)"},
    {.name = "gate", .kind = CLI_LIST, .value = "NAME=LIMIT", .is_greedy = true,
     .offset = offsetof(struct quantize_settings, gates),
     .help = "beyond it the result stays OUT.gguf.refused, status 1: kld_mean, worst_kld_mean, dppl_percent, top1, ... (with "
             "--eval-text), file_mib"},
    {.name = "sensitivity", .kind = CLI_CHOICE, .choices = "names|leave-one-out",
     .offset = offsetof(struct quantize_settings, sensitivity),
     .help = "what a tensor's error does to the whole: by its name and the profile, or measured on --text (--bpw, modes); also in recipes"},
    {.name = "seed", .kind = CLI_TEXT, .value = "N",
     .offset = offsetof(struct quantize_settings, seed),
     .help = "which windows of texts longer than --tokens are taken, 0: the first; signs of --rotate"},
    {.name = "report", .kind = CLI_TEXT, .value = "FILE.json", .offset = offsetof(struct quantize_settings, report),
     .help = "write the report as JSON, and for people as FILE.md; measures every tensor"},
    {.name = "measure", .kind = CLI_FLAG, .offset = offsetof(struct quantize_settings, measure),
     .help = "measure the weighted error of every tensor"},
    {.name = "prune", .kind = CLI_TEXT, .value = "SHARE", .offset = offsetof(struct quantize_settings, prune),
     .help = "20%: FFN channels and heads go; or ffn=20%,heads=25%,groups=50%,layers=10%"},
    {.name = "prune-by", .kind = CLI_CHOICE, .choices = "magnitude|wanda|output",
     .offset = offsetof(struct quantize_settings, prune_by),
     .help = "what tells the parts apart (default: wanda with --profile or --text)"},
    {.name = "prune-step", .kind = CLI_INT, .value = "N", .minimum = 0, .maximum = 4096,
     .offset = offsetof(struct quantize_settings, prune_step),
     .help = "kept FFN channels are a multiple (default 256 where that is near, else 32)"},
    {.name = "recover", .kind = CLI_FLAG, .offset = offsetof(struct quantize_settings, recover),
     .help = "solve again what stays, layers too, on --text (then the file is this machine's)"},
    {.name = "mask", .kind = CLI_TEXT, .value = "SHARE", .offset = offsetof(struct quantize_settings, mask),
     .help = "50% or 2:4 of single weights become 0: NO smaller and NO faster file"},
    {.name = "rotate", .kind = CLI_FLAG, .offset = offsetof(struct quantize_settings, rotate),
     .help = "the base is rotated first, see above: measured, NOT closer to the base (BENCHMARKS.md)"},
    {.name = "dry-run", .kind = CLI_FLAG, .offset = offsetof(struct quantize_settings, dry_run),
     .help = "print the plan and the exact size, write nothing"},
    {.name = NULL}};

static int take_prune(struct cli_call *call, const struct quantize_settings *s, struct recipe_prune *p)
{
    struct fault f = {""};
    if ((s->prune && recipe_prune_parse(s->prune, p, &f)) || (s->mask && recipe_mask_parse(s->mask, p, &f)))
        return cli_fail(call, CLI_USAGE, NULL, NULL, "%s", f.text);
    if (s->prune_by >= 0)
        p->by = RECIPE_MAGNITUDE + (uint32_t)s->prune_by;
    if (s->prune_step > 0)
        p->multiple = (uint32_t)s->prune_step;
    p->is_recovered = p->is_recovered || s->recover;
    if (!recipe_prunes(p) && (s->recover || s->prune_by >= 0 || s->prune_step > 0))
        return cli_fail(call, CLI_USAGE, NULL, NULL, "expected --prune with --prune-by, --prune-step and --recover");
    return CLI_DONE;
}

static int take_seed(struct cli_call *call, const char *text, uint64_t *seed)
{
    char *end = NULL;
    errno = 0;
    if (!text)
        return CLI_DONE;
    const unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || value > SEED_MAX)
        return cli_fail(call, CLI_USAGE, NULL, NULL, "--seed takes a whole number from 0 to %llu, not '%s'", SEED_MAX, text);
    *seed = value;
    return CLI_DONE;
}

/* A scheme brings its own types, so a size or a type beside it means that it is to go. */
static int take_method(struct cli_call *call, const struct quantize_settings *s, struct recipe *r)
{
    struct fault f = {""};
    const bool has_goal = s->mode >= 0 || s->type || s->bpw > 0 || s->export;
    if (s->method) {
        if ((r->method = recipe_method_parse(s->method)) >= RECIPE_SCHEME)
            return cli_fail(call, CLI_USAGE, NULL, "--method",
                            "'%s': expected rtn, search, awq, gptq, gptq+awq or cascade", s->method);
        r->scheme = (struct scheme){0};
    } else if (r->method == RECIPE_SCHEME && has_goal) {
        return cli_fail(call, CLI_USAGE, NULL, NULL,
                        "the recipe's scheme has types of its own: expected --method beside --mode, --type, --bpw and --export");
    }
    if (s->scheme) {
        if (s->method || scheme_parse(s->scheme, &r->scheme, &f))
            return cli_fail(call, CLI_USAGE, NULL, "--scheme", "%s",
                            f.text[0] ? f.text : "is a method: expected no --method beside it");
        r->method = RECIPE_SCHEME;
    }
    return CLI_DONE;
}

int quantize_options_recipe(struct cli_call *call, const struct quantize_settings *s, struct recipe *r)
{
    struct fault f = {""};
    static const uint32_t cache_types[] = {HAL_F16, HAL_Q8_0, HAL_Q4_0}, activation_bits[] = {16, 8, 4};
    recipe_default(r);
    if ((s->mode >= 0) + (s->type != NULL) + (s->bpw > 0) + (s->scheme != NULL) + s->export > 1)
        return cli_fail(call, CLI_USAGE, NULL, NULL,
                        "expected only one of --mode, --type, --bpw, --scheme and --export");
    if (s->plan) {
        const enum err e = recipe_load(s->plan, r, &f);
        if (e)
            return cli_fail(call, (enum cli_status)cli_status_of(e), NULL, NULL, "%s", f.text[0] ? f.text : cli_sentence(e));
    }
    if (s->mode >= 0)
        r->goal = RECIPE_ACCURACY + (uint32_t)s->mode;
    if (s->bpw > 0) {
        r->goal = RECIPE_BPW;
        r->bpw = s->bpw;
    }
    if (s->type) {
        const struct block_type *t = block_type_by_name(s->type);
        if (!t)
            return cli_fail(call, CLI_USAGE, NULL, "--type", "'%s' is no type: tare quantize --help names them", s->type);
        r->goal = RECIPE_TYPE;
        r->type = t->type;
    }
    if (s->export)
        r->goal = RECIPE_EXPORT;
    if (s->cache >= 0)
        r->cache_type = cache_types[s->cache];
    if (s->activations >= 0)
        r->activation_bits = activation_bits[s->activations];
    int status = take_method(call, s, r);
    if (status == CLI_DONE)
        status = take_seed(call, s->seed, &r->seed);
    if (status != CLI_DONE)
        return status;
    if (s->profile && (size_t)snprintf(r->profile, sizeof r->profile, "%s", s->profile) >= sizeof r->profile)
        return cli_fail(call, CLI_USAGE, NULL, "--profile", "'%.40s...': expected a path of at most %zu bytes", s->profile,
                        sizeof r->profile - 1);
    if (s->sensitivity >= 0)
        r->is_left_out = s->sensitivity == 1;
    return take_prune(call, s, &r->prune);
}

int quantize_options_files(struct cli_call *call, const struct recipe *r, const struct texts *texts,
                           const struct texts *eval_texts, struct files *files)
{
    char text_path[4096];
    const struct quantize_settings *s = call->settings;
    files_read(files, call->operand[0]);
    files_read(files, s->plan);
    files_read(files, r->profile);
    for (uint32_t i = 0; i < texts->count; i++)
        files_read(files, texts->path[i]);
    for (uint32_t i = 0; i < eval_texts->count; i++)
        files_read(files, eval_texts->path[i]);
    int status = CLI_DONE;
    if (!s->dry_run || s->rotate || recipe_prunes(&r->prune)) /* these leave files beside OUT for a while */
        status = files_write(files, call, "--output", s->out);
    if (status == CLI_DONE)
        status = files_write(files, call, "--report", s->report);
    if (status != CLI_DONE || !s->report)
        return status;
    if (report_text_path(s->report, text_path, sizeof text_path))
        return cli_fail(call, CLI_USAGE, s->report, "--report", "the path is too long");
    return files_write(files, call, "--report", text_path);
}

const char quantize_text[] =
    "Types: F16 BF16 Q8_0 Q6_K Q5_K Q5_1 Q5_0 Q4_K Q4_1 Q4_0 IQ4_NL IQ4_XS Q3_K Q2_K, and NF4, which only\n"
    "tare reads (--export). A run that was stopped continues where it was when it is started again with\n"
    "the same options. While one works, OUT.lock keeps others from OUT (status 4); it ends with the process,\n"
    "however that ends. OUT and reports are new or regular files, none that the run reads, and no symbolic link.\n\n"
    "A gate that nothing here can measure is an error before any work is done: those of quality need --eval-text or\n"
    "--eval-language. What a recipe asks of speed, memory and energy is left to devices, with a line on standard error.\n"
    "A base with NaN or infinite weights in a tensor that is to be quantised is refused.\n\n"
    "Method gptq goes layer by layer: one layer of weights and the moments of one input are in memory. With d\n"
    "the widest input of a linear it takes about 40 MiB (the program and its strips) and the larger of 12 d^2\n"
    "bytes + 10 bytes per weight of the largest linear (while one is encoded) and 8 d^2 bytes + a layer + 512\n"
    "rows of its activations (while the text runs). --memory is kept or refused in one line that says what is\n"
    "needed. OUT.work, OUT.blocks, OUT.layers and an unnamed file of 4 bytes per token and column of the\n"
    "residual stream lie beside OUT until it is done: a copy of the base, the layers done, and what they give.\n\n"
    "Pruning reads the base in pieces. --prune-by output and --recover take the text through one layer at a time:\n"
    "that layer, and 40 d^2 bytes, with --recover 8 (d + w)^2 + 12 d^2, d the widest input that is cut, w the\n"
    "stream's width. --recover aims at what the base's stream is behind each layer, so that it makes up for earlier\n"
    "cuts and for layers that go; it keeps OUT.pruned.work, a copy of the base, and unnamed files of 16 bytes per\n"
    "token and column of the stream while it runs. OUT.pruned stays until OUT is done.\n\n"
    "Method cascade searches on what Q8_0 keeps of the base: what comes of a base that is Q8_0 itself.\n\n"
    "--rotate multiplies the stream between layers and the values of each head by Hadamard matrices with\n"
    "signs of --seed and leaves the function as it is (llama, qwen2, qwen3). It takes the memory of one\n"
    "matrix in F32 and, beside OUT while it runs, a file of the whole base in F32; where head and embedding\n"
    "were one tensor, they become two. By KLD at equal bytes it was worse wherever it was measured on a model.\n\n"
    "A scheme is words in any order: bits 2 to 8; symmetric, power-of-two, asymmetric or affine; values\n"
    "per scale 16, 32, 64, 128, 256, channel or tensor; range minmax, percentile[=99.9], mse or entropy;\n"
    "auto, f16 or f32. auto stores it in a block type that holds it exactly (Q4_0 Q5_0 Q8_0 Q4_1 Q5_1),\n"
    "else as F32: then it is simulated, and the size that is printed for it is a prediction.";

const struct cli_example quantize_examples[] = {
    {"tare quantize base.gguf -o small.gguf", "balanced: about 5 bits per weight"},
    {"tare quantize base.gguf -o small.gguf --type Q4_K --profile profile.gguf", "every weight Q4_K, weighted"},
    {"tare quantize base.gguf -o small.gguf --prune 20% --text notes.txt --recover",
     "fewer heads and FFN channels, then balanced"},
    {"tare quantize base.gguf -o small.gguf --bpw 4.5 --text notes.txt --method gptq+awq --sensitivity leave-one-out",
     "the best file of 4.5 bits per weight"},
    {"tare quantize base.gguf -o small.gguf --language en=en.txt zh=zh.txt --eval-language en=e.txt zh=z.txt "
     "--gate worst_kld_mean=0.02 --report report.json",
     "calibrated on equal tokens of both; refused if either loses more"},
    {NULL, NULL}};
