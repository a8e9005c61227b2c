/* family_fixture.c: reading what make_family_fixtures.py wrote. */
#include "tests/model/family_fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

const char *const family_names[FAMILY_NAMES] = {
    "llama3", "llama_yarn", "llama_linear", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "phi3_long",
    "gpt2", "gptneox", "gptneox_serial", "deepseek2", "deepseek2_groups", "deepseek3", "bert"};

bool family_read(const char *name, struct family_reference *r)
{
    char path[512];
    uint32_t head[3];
    snprintf(path, sizeof path, "%s/tests/model/family/%s/reference.bin", SOURCE_DIR, name);
    FILE *f = fopen(path, "rb");
    *r = (struct family_reference){0};
    if (!f || fread(head, sizeof head, 1, f) != 1 || head[0] > FAMILY_CONTEXT || head[1] > head[0])
        return f && fclose(f) && false;
    *r = (struct family_reference){.tokens = head[0], .positions = head[1], .cols = head[2]};
    r->token = calloc(head[0], sizeof *r->token);
    r->position = calloc(head[1], sizeof *r->position);
    r->row = calloc((size_t)head[1] * head[2], sizeof *r->row);
    const bool is_whole = r->token && r->position && r->row &&
                          fread(r->token, sizeof *r->token, head[0], f) == head[0] &&
                          fread(r->position, sizeof *r->position, head[1], f) == head[1] &&
                          fread(r->row, head[2] * sizeof *r->row, head[1], f) == head[1];
    fclose(f);
    float low = INFINITY, high = -INFINITY;
    for (size_t i = 0; is_whole && i < (size_t)head[1] * head[2]; i++) {
        low = fminf(low, r->row[i]);
        high = fmaxf(high, r->row[i]);
    }
    r->range = high - low;
    return is_whole;
}

void family_close(struct family_reference *r)
{
    free(r->token);
    free(r->position);
    free(r->row);
}

struct gguf *family_import(const char *name, uint32_t type)
{
    char folder[512], path[] = "/tmp/family_test.XXXXXX", reason[GGUF_REASON_BYTES] = "";
    struct import_report report;
    struct gguf *g = NULL;
    const int fd = mkstemp(path);
    if (fd < 0)
        return NULL;
    close(fd);
    snprintf(folder, sizeof folder, "%s/tests/model/family/%s", SOURCE_DIR, name);
    const struct import_options options = {.input = folder, .output = path, .type = type};
    if (import_run(&options, &report, reason) || gguf_open(path, &g, reason))
        printf("\n    %s: %s\n", name, reason);
    unlink(path);
    return g;
}
