/* import_test.c: tare import beside the logits: element types, an interrupted import that goes on, and folders
 * that are damaged or say what this build does not know. */
#include "tests/harness.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hal/hal.h"
#include "model/import.h"

static char scratch[] = "/tmp/import_test.XXXXXX";
static char reason[GGUF_REASON_BYTES];

/* The whole file, terminated by a zero byte that is not counted; the caller frees it. */
static char *slurp(const char *path, size_t *bytes)
{
    struct stat st;
    FILE *f = fopen(path, "rb");
    char *all = f && fstat(fileno(f), &st) == 0 ? malloc((size_t)st.st_size + 1) : NULL;
    *bytes = all ? fread(all, 1, (size_t)st.st_size, f) : 0;
    if (all)
        all[*bytes] = 0;
    if (f)
        fclose(f);
    return all;
}

static void spill(const char *path, const char *data, size_t bytes)
{
    FILE *f = fopen(path, "wb");
    CU_ASSERT_FATAL(f != NULL);
    CU_ASSERT_EQUAL(fwrite(data, 1, bytes, f), bytes);
    fclose(f);
}

static const char *in_scratch(const char *name)
{
    static char path[4][512];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", scratch, name);
    return path[turn];
}

/* A copy of a fixture as scratch/in. */
static void copy_folder(const char *name)
{
    char from[1024], to[1024];
    snprintf(from, sizeof from, "%s/tests/model/family/%s", SOURCE_DIR, name);
    mkdir(in_scratch("in"), 0700);
    DIR *d = opendir(in_scratch("in"));
    for (struct dirent *entry; d && (entry = readdir(d));)
        if (entry->d_name[0] != '.') {
            snprintf(to, sizeof to, "%s/in/%s", scratch, entry->d_name);
            unlink(to);
        }
    closedir(d);
    d = opendir(from);
    CU_ASSERT_FATAL(d != NULL);
    for (struct dirent *entry; (entry = readdir(d));) {
        size_t bytes;
        if (entry->d_name[0] == '.' || strcmp(entry->d_name, "reference.bin") == 0)
            continue;
        snprintf(from, sizeof from, "%s/tests/model/family/%s/%s", SOURCE_DIR, name, entry->d_name);
        snprintf(to, sizeof to, "%s/in/%s", scratch, entry->d_name);
        char *all = slurp(from, &bytes);
        spill(to, all, bytes);
        free(all);
    }
    closedir(d);
}

static enum err run(uint32_t type, struct import_report *report)
{
    const struct import_options options = {
        .input = in_scratch("in"), .output = in_scratch("out.gguf"), .type = type};
    return import_run(&options, report, reason);
}

static void test_types(void)
{
    static const uint32_t types[] = {HAL_F32, HAL_F16, HAL_BF16, IMPORT_KEEP};
    struct import_report report;
    copy_folder("llama_linear"); /* stored as BF16 */
    for (size_t i = 0; i < 4; i++) {
        struct gguf *g = NULL;
        CU_ASSERT_EQUAL_FATAL(run(types[i], &report), ERR_NONE);
        CU_ASSERT_STRING_EQUAL(report.architecture, "llama");
        CU_ASSERT_EQUAL_FATAL(gguf_open(in_scratch("out.gguf"), &g, reason), ERR_NONE);
        const struct gguf_tensor *matrix = gguf_tensor_find(g, "blk.0.ffn_up.weight");
        const struct gguf_tensor *norm = gguf_tensor_find(g, "blk.0.ffn_norm.weight");
        CU_ASSERT_FATAL(matrix && norm);
        CU_ASSERT_EQUAL(matrix->type, types[i] == IMPORT_KEEP ? HAL_BF16 : types[i]);
        CU_ASSERT_EQUAL(norm->type, HAL_F32);
        CU_ASSERT_EQUAL(report.tensors, gguf_tensors(g));
        CU_ASSERT_EQUAL(report.bytes, gguf_bytes(g));
        gguf_close(g);
        unlink(in_scratch("out.gguf"));
    }
}

/* Whatever an interrupted import left, the next one gives the same file; whole tensors are not done again. */
static void test_resume(void)
{
    struct import_report report;
    size_t bytes, again;
    copy_folder("llama3");
    CU_ASSERT_EQUAL_FATAL(run(IMPORT_KEEP, &report), ERR_NONE);
    CU_ASSERT_EQUAL(report.resumed, 0);
    char *whole = slurp(in_scratch("out.gguf"), &bytes);
    CU_ASSERT_FATAL(whole && bytes > 100000);
    for (int share = 0; share <= 10; share++) {
        const size_t left = bytes * (size_t)share / 10;
        unlink(in_scratch("out.gguf"));
        spill(in_scratch("out.gguf.part"), whole, left);
        CU_ASSERT_EQUAL_FATAL(run(IMPORT_KEEP, &report), ERR_NONE);
        CU_ASSERT(share < 5 || report.resumed > 0);
        char *result = slurp(in_scratch("out.gguf"), &again);
        CU_ASSERT(again == bytes && memcmp(result, whole, bytes) == 0);
        CU_ASSERT(access(in_scratch("out.gguf.part"), F_OK) != 0);
        free(result);
    }
    unlink(in_scratch("out.gguf"));
    whole[bytes / 50] ^= 1; /* the part of another import: a header that differs */
    spill(in_scratch("out.gguf.part"), whole, bytes);
    whole[bytes / 50] ^= 1;
    CU_ASSERT_EQUAL_FATAL(run(IMPORT_KEEP, &report), ERR_NONE);
    CU_ASSERT_EQUAL(report.resumed, 0);
    char *result = slurp(in_scratch("out.gguf"), &again);
    CU_ASSERT(again == bytes && memcmp(result, whole, bytes) == 0);
    free(result);
    free(whole);
    unlink(in_scratch("out.gguf"));
}

/* In `file` the first `from` becomes `to`, of the same length where the file is no text; NULL: file is cut to
 * `keep` bytes, or with keep < 0 removed. */
struct damage {
    const char *name, *file, *from, *to;
    long keep;
    enum err error;
    const char *says;
};

static const struct damage damages[] = {
    {"llama3", "config.json", NULL, NULL, -1, ERR_NOT_FOUND, "config.json"},
    {"llama3", "config.json", NULL, NULL, 40, ERR_FORMAT, "config.json:"},
    {"llama3", "config.json", "LlamaForCausalLM", "XlamaForCausalLM", 0, ERR_UNSUPPORTED, "XlamaForCausalLM"},
    {"llama3", "config.json", "\"silu\"", "\"relu\"", 0, ERR_UNSUPPORTED, "expected silu"},
    {"llama3", "config.json", "\"hidden_size\": 64", "\"hidden_size\": 68", 0, ERR_FORMAT, "vocab_size rows"},
    {"llama3", "config.json", "\"vocab_size\": 288", "\"vocab_size\": 289", 0, ERR_FORMAT, "vocab_size rows"},
    {"llama3", "config.json", "\"num_attention_heads\": 4", "\"num_attention_heads\": 0", 0, ERR_FORMAT, "head"},
    {"llama3", "config.json", "\"num_attention_heads\": 4", "\"num_attention_heads\": 8", 0, ERR_FORMAT, "heads of"},
    {"llama3", "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", 0, ERR_FORMAT, "layers.2."},
    {"llama3", "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1", 0, ERR_UNSUPPORTED, "layers.1."},
    {"llama3", "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\":-2", 0, ERR_FORMAT, "whole number"},
    {"llama3", "config.json", "\"rms_norm_eps\": 1e-06", "\"rms_norm_eps\": true ", 0, ERR_FORMAT, "rms_norm_eps"},
    {"llama3", "config.json", "\"llama3\"", "\"ntk_by\"", 0, ERR_UNSUPPORTED, "ntk_by"},
    {"gemma2", "config.json", "\"full_attention\"", "\"sliding_attention\"", 0, ERR_UNSUPPORTED, "layer_types"},
    {"llama3", "model.safetensors", NULL, NULL, -1, ERR_NOT_FOUND, "safetensors"},
    {"llama3", "model.safetensors", NULL, NULL, 5, ERR_FORMAT, "8 bytes"},
    {"llama3", "model.safetensors", NULL, NULL, 500, ERR_FORMAT, "header length"},
    {"llama3", "model.safetensors", NULL, NULL, 250000, ERR_FORMAT, "offsets that fit"},
    {"llama3", "model.safetensors", "{\"", "[\"", 0, ERR_FORMAT, "JSON object"},
    {"llama3", "model.safetensors", "\"F32\"", "\"F64\"", 0, ERR_UNSUPPORTED, "F64"},
    {"llama3", "model.safetensors", "\"shape\":[", "\"shape\":[-", 0, ERR_FORMAT, "offsets that fit"},
    {"llama3", "model.safetensors", "layers.0.mlp.up_proj", "layers.0.mlp.ux_proj", 0, ERR_FORMAT, "up_proj"},
    {"qwen3", "model-00002-of-00003.safetensors", NULL, NULL, -1, ERR_IO, "model-00002-of-00003"},
    {"qwen3", "model.safetensors.index.json", "model-00002-of", "../el-00002-of", 0, ERR_FORMAT, "plain file names"},
    {"qwen3", "model.safetensors.index.json", NULL, NULL, 99, ERR_FORMAT, "weight_map"},
    {"llama3", "tokenizer.json", NULL, NULL, -1, ERR_NOT_FOUND, "tokenizer"},
    {"llama3", "tokenizer.json", "\"type\":\"BPE\"", "\"type\":\"XPE\"", 0, ERR_UNSUPPORTED, "XPE"},
    {"llama3", "tokenizer.json", "\"id\":287", "\"id\":300", 0, ERR_FORMAT, "300"},
};

static void damage(const struct damage *d)
{
    char path[1024];
    size_t bytes;
    snprintf(path, sizeof path, "%s/in/%s", scratch, d->file);
    if (!d->from && d->keep < 0) {
        CU_ASSERT_EQUAL(unlink(path), 0);
        return;
    }
    char *all = slurp(path, &bytes);
    CU_ASSERT_FATAL(all != NULL);
    if (d->from) {
        char *at = memmem(all, bytes, d->from, strlen(d->from));
        CU_ASSERT_FATAL(at != NULL);
        const size_t before = (size_t)(at - all), behind = bytes - before - strlen(d->from);
        char *changed = malloc(bytes + strlen(d->to));
        CU_ASSERT_FATAL(changed != NULL);
        memcpy(changed, all, before);
        memcpy(changed + before, d->to, strlen(d->to));
        memcpy(changed + before + strlen(d->to), at + strlen(d->from), behind);
        spill(path, changed, before + strlen(d->to) + behind);
        free(changed);
    } else {
        spill(path, all, (size_t)d->keep);
    }
    free(all);
}

static void test_damages(void)
{
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        const struct damage *d = &damages[i];
        struct import_report report;
        copy_folder(d->name);
        damage(d);
        const enum err e = run(IMPORT_KEEP, &report);
        const bool is_told = strstr(reason, d->says) != NULL && strchr(reason, '\n') == NULL;
        if (e != d->error || !is_told)
            printf("\n    %s %s: %s, \"%s\"", d->file, d->to ? d->to : "", err_name(e), reason);
        CU_ASSERT_EQUAL(e, d->error);
        CU_ASSERT(is_told);
        CU_ASSERT(access(in_scratch("out.gguf"), F_OK) != 0);
        CU_ASSERT(access(in_scratch("out.gguf.part"), F_OK) != 0);
    }
}

int main(void)
{
    CU_TestInfo tests[] = {{"element types", test_types}, {"an interrupted import goes on", test_resume},
                           {"damaged folders", test_damages}, CU_TEST_INFO_NULL};
    char command[128];
    if (!mkdtemp(scratch))
        return 1;
    const int status = harness_run("import", tests);
    snprintf(command, sizeof command, "rm -rf %s", scratch);
    return system(command) == 0 ? status : 1;
}
