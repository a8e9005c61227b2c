/* tokenizer_random_test.c: 10,000 random texts per kind of tokenizer, ill-formed bytes among them, give
 * the ids that Hugging Face's tokenizers or sentencepiece gave (make_tokenizer_fixtures.py). */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer.h"
#include "tests/harness.h"

enum { COUNT = 10000, TEXT_MAX = 512 };

static const uint32_t ranges[][2] = {
    {0x20, 0x7E},     {0x41, 0x5A},     {0x61, 0x7A},     {0x61, 0x7A},     {0x61, 0x7A},     {0x30, 0x39},
    {0x20, 0x20},     {0x20, 0x20},     {0x09, 0x0D},     {0x00, 0x1F},     {0xA0, 0xFF},     {0x100, 0x17F},
    {0x300, 0x36F},   {0x3B1, 0x3C9},   {0x400, 0x45F},   {0x5D0, 0x5EA},   {0x621, 0x64A},   {0x660, 0x669},
    {0x905, 0x939},   {0x93E, 0x94D},   {0xE01, 0xE30},   {0x2000, 0x206F}, {0x20A0, 0x20BF}, {0x2150, 0x218B},
    {0x2190, 0x21FF}, {0x3000, 0x303F}, {0x3041, 0x3096}, {0x30A1, 0x30FA}, {0x4E00, 0x9FA5}, {0xAC00, 0xD7A3},
    {0xFF01, 0xFF5E}, {0x1F300, 0x1F64F}, {0x10400, 0x1044F}};
enum { RANGES = sizeof ranges / sizeof *ranges };

static const char *const words[] = {"'s", "'ll", "'RE", " the", " and", "  ", "\r\n", "\n\n", "\xc3\xa9", "don't",
                                    "2024", "\xe2\x80\xa6", "of", "ing"};
enum { WORDS = sizeof words / sizeof *words };

/* xorshift64*, as in the script */
static uint32_t draw(uint64_t *state, uint32_t n)
{
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return (uint32_t)((x * 0x2545F4914F6CDD1Du) >> 32) % n;
}

static size_t put_utf8(uint32_t c, char *out)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    const size_t length = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const uint8_t lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = length; i-- > 1; c >>= 6)
        out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)(lead[length] | c);
    return length;
}

static size_t random_text(uint64_t *state, char out[TEXT_MAX])
{
    size_t used = 0;
    for (uint32_t left = draw(state, 33); left > 0; left--) {
        const uint32_t kind = draw(state, 50);
        if (kind == 0) {
            out[used++] = (char)draw(state, 256);
        } else if (kind < 12) {
            const char *word = words[draw(state, WORDS)];
            memcpy(out + used, word, strlen(word));
            used += strlen(word);
        } else {
            const uint32_t *range = ranges[draw(state, RANGES)];
            used += put_utf8(range[0] + draw(state, range[1] - range[0] + 1), out + used);
        }
    }
    return used;
}

static uint32_t hash_ids(const uint32_t *ids, size_t count)
{
    uint32_t h = 0x811c9dc5u;
    for (size_t i = 0; i < count; i++)
        for (uint32_t shift = 0; shift < 32; shift += 8)
            h = (h ^ (ids[i] >> shift & 0xff)) * 0x01000193u;
    return h;
}

static void agrees(const char *name)
{
    char path[512], reason[GGUF_REASON_BYTES], text[TEXT_MAX];
    static uint32_t want[COUNT];
    struct gguf *g = NULL;
    struct tokenizer *t = NULL;
    snprintf(path, sizeof path, SOURCE_DIR "/tests/model/tokenizer/%s.hash", name);
    FILE *f = fopen(path, "rb");
    CU_ASSERT_FATAL(f != NULL);
    CU_ASSERT_EQUAL_FATAL(fread(want, sizeof *want, COUNT, f), COUNT);
    fclose(f);
    snprintf(path, sizeof path, SOURCE_DIR "/tests/model/tokenizer/%s.gguf", name);
    CU_ASSERT_EQUAL_FATAL(gguf_open(path, &g, reason), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(tokenizer_open(g, &t, reason), ERR_NONE);
    uint64_t state = 0x7461726500000001u;
    uint32_t different = 0;
    for (uint32_t i = 0; i < COUNT; i++) {
        uint32_t ids[4 * TEXT_MAX];
        size_t count = 0;
        const size_t bytes = random_text(&state, text);
        const enum err e = tokenizer_encode(t, text, bytes, false, false, ids, 4 * TEXT_MAX, &count);
        if (e || hash_ids(ids, count) != want[i]) {
            if (different++ == 0) {
                printf("%s: text %u differs: ", name, i);
                for (size_t k = 0; k < bytes; k++)
                    printf("%02x", (uint8_t)text[k]);
                printf(", %zu ids:", count);
                for (size_t k = 0; k < count && k < 20; k++)
                    printf(" %u", ids[k]);
                printf("\n");
            }
        }
    }
    if (different)
        printf("%s: %u of %u texts differ\n", name, different, COUNT);
    CU_ASSERT_EQUAL(different, 0);
    tokenizer_close(t);
    gguf_close(g);
}

static void gpt_2(void) { agrees("gpt-2"); }
static void starcoder(void) { agrees("starcoder"); }
static void llama_bpe(void) { agrees("llama-bpe"); }
static void qwen2(void) { agrees("qwen2"); }
static void deepseek_coder(void) { agrees("deepseek-coder"); }
static void deepseek_v3(void) { agrees("deepseek-v3"); }
static void bert(void) { agrees("bert"); }
static void spm(void) { agrees("spm"); }
static void unigram(void) { agrees("unigram"); }

RUN_SUITE("tokenizer, random texts", {"gpt-2", gpt_2}, {"starcoder", starcoder}, {"llama-bpe", llama_bpe},
          {"qwen2", qwen2}, {"deepseek-coder", deepseek_coder}, {"deepseek-v3", deepseek_v3}, {"bert", bert},
          {"spm", spm}, {"unigram", unigram})
