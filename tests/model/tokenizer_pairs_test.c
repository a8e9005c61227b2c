/* tokenizer_pairs_test.c: every vocabulary of the shared test data gives the ids that the field's own
 * tokenizer gave for the same texts. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/tokenizer.h"
#include "tests/harness.h"

#define VOCABS SOURCE_DIR "/../shared/data/vocabs/ggml-vocab-"

static char *read_file(const char *path, size_t *bytes)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    char *text = calloc(1, 1 << 20);
    *bytes = text ? fread(text, 1, (1 << 20) - 1, f) : 0;
    fclose(f);
    return text;
}

/* The ids of one line; returns how many. */
static size_t read_ids(const char *line, uint32_t *ids, size_t room)
{
    size_t n = 0;
    char *end;
    for (; n < room; line = end) {
        const unsigned long id = strtoul(line, &end, 10);
        if (end == line)
            break;
        ids[n++] = (uint32_t)id;
    }
    return n;
}

static void agrees(const char *name)
{
    static const char separator[] = "\n__ggml_vocab_test__\n";
    char path[512], reason[GGUF_REASON_BYTES];
    struct gguf *g = NULL;
    struct tokenizer *t = NULL;
    size_t in_bytes = 0, out_bytes = 0, texts = 0;
    snprintf(path, sizeof path, VOCABS "%s.gguf.inp", name);
    char *in = read_file(path, &in_bytes);
    snprintf(path, sizeof path, VOCABS "%s.gguf.out", name);
    char *out = read_file(path, &out_bytes);
    snprintf(path, sizeof path, VOCABS "%s.gguf", name);
    const enum err e = gguf_open(path, &g, reason);
    CU_ASSERT_EQUAL_FATAL(e, ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(tokenizer_open(g, &t, reason), ERR_NONE);
    CU_ASSERT_FATAL(in != NULL && out != NULL);
    char *text = in, *saved, *line = strtok_r(out, "\n", &saved);
    for (; line; line = strtok_r(NULL, "\n", &saved), texts++) {
        uint32_t want[4096], got[4096];
        size_t count = 0;
        char *end = strstr(text, separator);
        const size_t bytes = end ? (size_t)(end - text) : strlen(text);
        const size_t wanted = read_ids(line, want, 4096);
        const enum err failed = tokenizer_encode(t, text, bytes, false, false, got, 4096, &count);
        const int is_same = !failed && count == wanted && memcmp(got, want, count * sizeof *got) == 0;
        CU_ASSERT(is_same);
        if (!is_same)
            printf("%s: text %zu differs: %.60s\n", name, texts, text);
        text = end ? end + strlen(separator) : text + bytes;
    }
    CU_ASSERT(texts > 20);
    tokenizer_close(t);
    gguf_close(g);
    free(in);
    free(out);
}

#define PAIR(function, name)                                                                       \
    static void function(void)                                                                     \
    {                                                                                              \
        if (access(VOCABS name ".gguf", R_OK) != 0) {                                              \
            printf("skipped: ../shared/data/vocabs is absent\n");                                  \
            exit(HARNESS_SKIPPED);                                                                 \
        }                                                                                          \
        agrees(name);                                                                              \
    }

PAIR(llama_spm, "llama-spm")
PAIR(phi_3, "phi-3")
PAIR(gpt_2, "gpt-2")
PAIR(bert_bge, "bert-bge")
PAIR(deepseek_llm, "deepseek-llm")
PAIR(deepseek_coder, "deepseek-coder")
PAIR(falcon, "falcon")
PAIR(mpt, "mpt")
PAIR(starcoder, "starcoder")
PAIR(refact, "refact")

RUN_SUITE("tokenizer pairs", {"llama-spm", llama_spm}, {"phi-3", phi_3}, {"gpt-2", gpt_2},
          {"bert-bge", bert_bge}, {"deepseek-llm", deepseek_llm}, {"deepseek-coder", deepseek_coder},
          {"falcon", falcon}, {"mpt", mpt}, {"starcoder", starcoder}, {"refact", refact})
