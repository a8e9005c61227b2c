/* tokenizer_test.c: SentencePiece BPE against the field's own ids, and text that survives the way back. */
#include "tests/harness.h"

#include <stdlib.h>
#include <string.h>

#include "model/tokenizer.h"

#define TINY SOURCE_DIR "/models/tare-tiny/tare-tiny-f16.gguf"
#define VOCABS SOURCE_DIR "/../shared/data/vocabs/"

static char reason[GGUF_REASON_BYTES];

static struct tokenizer *open_tokenizer(const char *path)
{
    struct gguf *g = NULL;
    struct tokenizer *t = NULL;
    if (gguf_open(path, &g, reason) != ERR_NONE)
        return NULL;
    const enum err e = tokenizer_open(g, &t, reason);
    gguf_close(g); /* the tokenizer keeps no pointer into the file */
    CU_ASSERT_EQUAL_FATAL(e, ERR_NONE);
    return t;
}

static char *read_file(const char *path, size_t *bytes)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    fseek(f, 0, SEEK_END);
    *bytes = (size_t)ftell(f);
    rewind(f);
    char *text = malloc(*bytes + 1);
    CU_ASSERT_EQUAL_FATAL(fread(text, 1, *bytes, f), *bytes);
    text[*bytes] = 0;
    fclose(f);
    return text;
}

/* Texts separated by a marker line beside one line of ids for each. */
static void check_pairs(const char *name)
{
    char path[512];
    size_t in_bytes = 0, out_bytes = 0, count = 0;
    snprintf(path, sizeof path, VOCABS "ggml-vocab-%s.gguf", name);
    struct tokenizer *t = open_tokenizer(path);
    if (!t) {
        printf("(%s is absent, skipped) ", path);
        CU_PASS("absent");
        return;
    }
    snprintf(path, sizeof path, VOCABS "ggml-vocab-%s.gguf.inp", name);
    char *in = read_file(path, &in_bytes);
    snprintf(path, sizeof path, VOCABS "ggml-vocab-%s.gguf.out", name);
    char *out = read_file(path, &out_bytes);
    CU_ASSERT_FATAL(in != NULL && out != NULL);
    static const char marker[] = "\n__ggml_vocab_test__\n";
    uint32_t tokens[4096];
    char *line = out, *text = in;
    int pairs = 0;
    while (line && *line) {
        char *end = strstr(text, marker);
        const size_t bytes = end ? (size_t)(end - text) : strlen(text);
        CU_ASSERT_EQUAL(tokenizer_encode(t, text, bytes, false, false, tokens, 4096, &count), ERR_NONE);
        size_t i = 0;
        char *next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        for (char *at = line, *rest; i <= count; at = rest, i++) {
            const unsigned long id = strtoul(at, &rest, 10);
            if (rest == at)
                break;
            if (i >= count || tokens[i] != id) {
                printf("%s: pair %d, token %zu\n", name, pairs, i);
                CU_FAIL("another token");
                break;
            }
        }
        CU_ASSERT_EQUAL(i, count);
        pairs++;
        line = next;
        text = end ? end + sizeof marker - 1 : text + bytes;
    }
    CU_ASSERT(pairs > 20);
    free(in);
    free(out);
    tokenizer_close(t);
}

static void pairs_llama(void)
{
    check_pairs("llama-spm");
}

static void pairs_phi3(void)
{
    check_pairs("phi-3");
}

static void basics(void)
{
    struct tokenizer *t = open_tokenizer(TINY);
    CU_ASSERT_FATAL(t != NULL);
    CU_ASSERT_EQUAL(tokenizer_vocabulary(t), 4096);
    CU_ASSERT_EQUAL(tokenizer_bos(t), 1);
    CU_ASSERT_EQUAL(tokenizer_eos(t), 2);
    CU_ASSERT(tokenizer_adds_bos(t));
    CU_ASSERT(!tokenizer_adds_eos(t));
    CU_ASSERT(tokenizer_is_end(t, 2));
    CU_ASSERT(!tokenizer_is_end(t, 300));
    CU_ASSERT(!tokenizer_is_end(t, 4096));
    CU_ASSERT_EQUAL(tokenizer_class(t, 4096), 0);
    uint32_t tokens[64];
    size_t count = 0;
    CU_ASSERT_EQUAL(tokenizer_encode(t, "Once <s>", 8, true, true, tokens, 64, &count), ERR_NONE);
    CU_ASSERT_EQUAL(tokens[0], 1);
    CU_ASSERT_EQUAL(tokens[count - 1], 1);
    const size_t with_markup = count;
    CU_ASSERT_EQUAL(tokenizer_encode(t, "Once <s>", 8, true, false, tokens, 64, &count), ERR_NONE);
    CU_ASSERT(count > with_markup);
    CU_ASSERT_EQUAL(tokenizer_encode(t, "Once <s>", 8, true, false, tokens, 2, &count),
                    ERR_FULL);
    CU_ASSERT_EQUAL(tokenizer_encode(t, "", 0, false, false, tokens, 64, &count), ERR_NONE);
    CU_ASSERT_EQUAL(count, 0);
    tokenizer_close(t);
}

/* xorshift: the bytes are the same on every machine. */
static uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    return *state ^= *state << 5;
}

static size_t put_character(uint32_t c, char *out)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    out[0] = (char)(0xe0 | c >> 12);
    out[1] = (char)(0x80 | (c >> 6 & 0x3f));
    out[2] = (char)(0x80 | (c & 0x3f));
    return 3;
}

static void any_text_comes_back(void)
{
    struct tokenizer *t = open_tokenizer(TINY);
    CU_ASSERT_FATAL(t != NULL);
    static const uint32_t limits[4] = {0x80, 0x400, 0x2580, 0xd800};
    uint32_t state = 1, tokens[1024];
    for (int round = 0; round < 3000; round++) {
        char text[320], back[400];
        size_t bytes = 0, count = 0, got = 0;
        for (uint32_t i = next_random(&state) % 97; i > 0; i--)
            bytes += put_character(next_random(&state) % limits[round % 4], text + bytes);
        CU_ASSERT_EQUAL(tokenizer_encode(t, text, bytes, true, false, tokens, 1024, &count), ERR_NONE);
        CU_ASSERT_EQUAL(tokenizer_decode(t, tokens, count, false, back, sizeof back, &got), ERR_NONE);
        CU_ASSERT_EQUAL(got, bytes);
        CU_ASSERT_EQUAL(memcmp(text, back, bytes), 0);
    }
    for (int round = 0; round < 3000; round++) { /* no UTF-8: ids within the vocabulary, within the room */
        char text[97];
        size_t bytes = next_random(&state) % 97, count = 0;
        for (size_t i = 0; i < bytes; i++)
            text[i] = next_random(&state) & 1 ? ' ' : (char)(next_random(&state) >> 20);
        CU_ASSERT_EQUAL(tokenizer_encode(t, text, bytes, true, true, tokens, 3 * bytes + 8, &count),
                        ERR_NONE);
        for (size_t i = 0; i < count; i++)
            CU_ASSERT(tokens[i] < 4096);
    }
    tokenizer_close(t);
}

static void stream_keeps_characters_whole(void)
{
    struct tokenizer *t = open_tokenizer(TINY);
    CU_ASSERT_FATAL(t != NULL);
    static const char text[] = "a \xf0\x9f\x90\xb8 \xe2\x82\xac \xff\xc3(\xe4\xb8\xad\xf0\x9f";
    static const char wanted[] = "a \xf0\x9f\x90\xb8 \xe2\x82\xac \xef\xbf\xbd\xef\xbf\xbd(\xe4\xb8\xad"
                                 "\xef\xbf\xbd";
    uint32_t tokens[64];
    char all[256], piece[128];
    size_t count = 0, used = 0, n = 0;
    struct tokenizer_stream s;
    CU_ASSERT_EQUAL(tokenizer_encode(t, text, sizeof text - 1, false, false, tokens, 64, &count), ERR_NONE);
    tokenizer_stream_start(&s, false, false);
    for (size_t i = 0; i < count; i++) {
        CU_ASSERT_EQUAL(tokenizer_stream_put(t, &s, tokens[i], piece, sizeof piece, &n), ERR_NONE);
        if (n > 0) { /* never begins inside a character */
            CU_ASSERT_NOT_EQUAL((uint8_t)piece[0] & 0xc0, 0x80);
        }
        memcpy(all + used, piece, n);
        used += n;
    }
    n = tokenizer_stream_end(&s, piece);
    memcpy(all + used, piece, n);
    used += n;
    CU_ASSERT_EQUAL(used, sizeof wanted - 1);
    CU_ASSERT_EQUAL(memcmp(all, wanted, used), 0);
    CU_ASSERT_EQUAL(tokenizer_stream_put(t, &s, 4096, piece, sizeof piece, &n), ERR_ARGUMENT);
    CU_ASSERT_EQUAL(tokenizer_stream_put(t, &s, 300, piece, 3, &n), ERR_FULL);
    tokenizer_close(t);
}

RUN_SUITE("model/tokenizer", {"ids of llama-spm", pairs_llama}, {"ids of phi-3", pairs_phi3},
          {"basics", basics}, {"any text comes back", any_text_comes_back},
          {"a stream keeps characters whole", stream_keeps_characters_whole})
