/* import_verb.c: tare import: a Hugging Face folder or a llama2.c file becomes a base. */
#include <jansson.h>

#include "cli/cli.h"
#include "cli/files.h"
#include "cli/progress.h"
#include "hal/hal.h"
#include "model/import.h"

struct import_settings {
    const char *out;
    const char *tokenizer;
    int type;
};

static const struct cli_option options[] = {
    {.letter = 'o', .name = "output", .kind = CLI_TEXT, .value = "BASE.gguf", .is_required = true,
     .offset = offsetof(struct import_settings, out), .help = "the base to write"},
    {.name = "type", .kind = CLI_CHOICE, .choices = "keep|f32|f16|bf16", .preset = "keep",
     .offset = offsetof(struct import_settings, type), .help = "of the matrices; norms and biases stay F32"},
    {.name = "tokenizer", .kind = CLI_TEXT, .value = "FILE", .offset = offsetof(struct import_settings, tokenizer),
     .help = "llama2.c only: its tokenizer file"},
    {.name = NULL}};

static void show_bytes(void *context, uint64_t done, uint64_t total)
{
    struct progress *p = context;
    p->total = (double)total;
    progress_update(p, (double)done, NULL);
}

static int import(struct cli_call *call)
{
    static const uint32_t types[] = {IMPORT_KEEP, HAL_F32, HAL_F16, HAL_BF16};
    const struct import_settings *s = call->settings;
    struct progress progress;
    struct import_report r;
    struct files files = {0};
    char reason[GGUF_REASON_BYTES], size[32];
    files_read(&files, call->operand[0]);
    files_read(&files, s->tokenizer);
    const int status = files_write(&files, call, "--output", s->out);
    if (status != CLI_DONE) {
        files_close(&files);
        return status;
    }
    progress_open(&progress, call, "import", "bytes", 0);
    const struct import_options o = {.input = call->operand[0], .tokenizer = s->tokenizer, .output = s->out,
                                     .type = types[s->type], .progress = show_bytes, .progress_context = &progress};
    const enum err e = import_run(&o, &r, reason);
    progress_close(&progress, e == ERR_NONE);
    files_close(&files);
    if (e)
        return cli_fail(call, e == ERR_UNSUPPORTED ? CLI_INPUT : cli_status_of(e), NULL, NULL, "%s", reason);
    cli_print(call, "%s: %s, %u tensors, %.2f M parameters, %s\n", s->out, r.architecture, r.tensors,
              (double)r.parameters / 1e6, cli_bytes((double)r.bytes, size));
    cli_answer(call, json_pack("{s:s, s:s, s:i, s:I, s:I, s:i}", "file", s->out, "architecture", r.architecture,
                               "tensors", (int)r.tensors, "parameters", (json_int_t)r.parameters, "bytes",
                               (json_int_t)r.bytes, "resumed_tensors", (int)r.resumed));
    return CLI_DONE;
}

const struct cli_verb cli_import = {
    .name = "import",
    .operands = "FOLDER|FILE.bin",
    .operands_min = 1,
    .operands_max = 1,
    .summary = "make a base of a Hugging Face folder or a llama2.c file",
    .text = "A folder holds config.json, model.safetensors (or shards with their index), and tokenizer.json or\n"
            "tokenizer.model. Architectures: llama (Llama, Mistral, SmolLM), qwen2, qwen3, gemma2, gemma3, phi3,\n"
            "gpt2, gptneox, deepseek2, bert. An import that was stopped goes on where it was.",
    .options = options,
    .shared = CLI_OUTPUT,
    .settings_bytes = sizeof(struct import_settings),
    .run = import,
    .examples = (const struct cli_example[]){
        {"tare import ./SmolLM2-135M -o smollm2.gguf", "types as in the folder"},
        {"tare import ./Qwen3-0.6B -o qwen3.gguf --type f16", "matrices as F16"},
        {"tare import stories15M.bin --tokenizer tokenizer.bin -o stories15M.gguf", "a llama2.c checkpoint"},
        {NULL, NULL}}};
