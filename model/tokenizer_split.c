/* tokenizer_split.c: the pre-split expressions of the model families, by PCRE2.
 *
 * White space is spelt out as the Unicode property White_Space, because PCRE2's own \s also takes
 * U+180E, which the tokenizers of the field do not.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "model/tokenizer_split.h"

enum { EXPRESSIONS_MAX = 6 };

#define WHITE "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define SPACE "[" WHITE "]"
#define SPACES_BUT_LAST SPACE "+(?![^" WHITE "])"
#define CONTRACTIONS "'s|'t|'re|'ve|'m|'ll|'d"
#define ANY_CASE_CONTRACTIONS "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
#define GPT2_WORDS                                                                                 \
    CONTRACTIONS "| ?\\p{L}+| ?\\p{N}+| ?[^" WHITE "\\p{L}\\p{N}]+|" SPACES_BUT_LAST
#define LLAMA3_WORDS(digits)                                                                       \
    ANY_CASE_CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^" WHITE                        \
                          "\\p{L}\\p{N}]+[\\r\\n]*|" SPACE "*[\\r\\n]+|" SPACES_BUT_LAST "|" SPACE "+"
#define CJK "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"
/* DeepSeek-LLM lists the cased letters one range after the other. */
#define CASED_LETTERS \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-" \
    "\\x{293}\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}" \
    "\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}" \
    "\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}\\x{13f8}-" \
    "\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}" \
    "\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-" \
    "\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-" \
    "\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-" \
    "\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}" \
    "\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}" \
    "\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-" \
    "\\x{2149}\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-" \
    "\\x{2cee}\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}" \
    "\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-" \
    "\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}\\x{104b0}-" \
    "\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}\\x{118a0}-" \
    "\\x{118df}\\x{1e900}-\\x{1e943}"

struct family {
    const char *name;
    bool composes; /* the text is put into Unicode normalisation form C first */
    const char *expression[EXPRESSIONS_MAX + 1];
};

static const struct family families[] = {
    {"gpt-2", false, {GPT2_WORDS}},
    {"mpt", false, {GPT2_WORDS}},
    {"olmo", false, {GPT2_WORDS}},
    {"phi-2", false, {GPT2_WORDS}},
    {"gpt-neox", false, {GPT2_WORDS}},
    {"starcoder", false, {"\\p{N}", GPT2_WORDS}},
    {"refact", false, {"\\p{N}", GPT2_WORDS}},
    {"command-r", false, {"\\p{N}", GPT2_WORDS}},
    {"smollm", false, {"\\p{N}", GPT2_WORDS}},
    {"codeshell", false, {"\\p{N}", GPT2_WORDS}},
    {"default", false, {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2_WORDS, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {"falcon", false, {"[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2_WORDS, "[0-9][0-9][0-9]"}},
    {"llama-bpe", false, {LLAMA3_WORDS("\\p{N}{1,3}")}},
    {"qwen2", true, {LLAMA3_WORDS("\\p{N}")}},
    {"deepseek-llm", false, {"[\\r\\n]", SPACE "?[" CASED_LETTERS "]+",
      SPACE "?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+",
      SPACE "+$", CJK, "\\p{N}+"}},
    {"deepseek-coder", false, {"[\\r\\n]", SPACE "?\\p{L}+", SPACE "?\\p{P}+", CJK, "\\p{N}"}},
    {"deepseek-v3", false, {"\\p{N}{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+",
      "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
      " ?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACE "*[\\r\\n]+|" SPACES_BUT_LAST "|" SPACE "+"}},
};

struct tokenizer_split {
    pcre2_code *code[EXPRESSIONS_MAX];
    uint32_t expressions;
    bool composes;
};

void tokenizer_split_close(struct tokenizer_split *s)
{
    if (!s)
        return;
    for (uint32_t i = 0; i < s->expressions; i++)
        pcre2_code_free(s->code[i]);
    free(s);
}

enum err tokenizer_split_open(const char *family, size_t bytes, struct tokenizer_split **out,
                              char reason[GGUF_REASON_BYTES])
{
    const struct family *f = NULL;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (strlen(families[i].name) == bytes && memcmp(families[i].name, family, bytes) == 0)
            f = &families[i];
    if (!f) {
        snprintf(reason, GGUF_REASON_BYTES, "tokenizer.ggml.pre: \"%.*s\" is unknown to this build",
                 (int)(bytes < 40 ? bytes : 40), family);
        return ERR_UNSUPPORTED;
    }
    struct tokenizer_split *s = calloc(1, sizeof *s);
    if (!s)
        return ERR_MEMORY;
    for (uint32_t i = 0; i < EXPRESSIONS_MAX && f->expression[i]; i++) {
        int error;
        PCRE2_SIZE at;
        s->code[i] = pcre2_compile((PCRE2_SPTR)f->expression[i], PCRE2_ZERO_TERMINATED,
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_DOLLAR_ENDONLY, &error, &at, NULL);
        if (!s->code[i]) {
            tokenizer_split_close(s);
            return ERR_MEMORY; /* the expressions are ours and tested: only memory can lack */
        }
        s->expressions = i + 1;
        (void)pcre2_jit_compile(s->code[i], PCRE2_JIT_COMPLETE); /* without it: interpreted */
    }
    s->composes = f->composes;
    *out = s;
    return ERR_NONE;
}

/* Cut every piece of ends[0..count) at the matches of code, into out; returns how many pieces. */
static size_t cut(const pcre2_code *code, pcre2_match_data *match, const char *text, const uint32_t *ends,
                  size_t count, uint32_t *out)
{
    size_t made = 0;
    uint32_t begin = 0;
    for (size_t i = 0; i < count; begin = ends[i++]) {
        const size_t length = ends[i] - begin;
        size_t at = 0;
        uint32_t last = begin;
        while (at < length &&
               pcre2_match(code, (PCRE2_SPTR)(text + begin), length, at, PCRE2_NO_UTF_CHECK, match, NULL) > 0) {
            const PCRE2_SIZE *found = pcre2_get_ovector_pointer(match);
            if (found[1] <= found[0])
                break; /* no expression matches nothing */
            const uint32_t from = begin + (uint32_t)found[0], to = begin + (uint32_t)found[1];
            if (from > last)
                out[made++] = from;
            out[made++] = to;
            last = to;
            at = found[1];
        }
        if (last < ends[i])
            out[made++] = ends[i];
    }
    return made;
}

enum err tokenizer_words_open(const struct tokenizer_split *s, const char *text, size_t bytes,
                              struct tokenizer_words *out)
{
    *out = (struct tokenizer_words){.text = text, .longest = 1};
    if (bytes >= 1u << 30)
        return ERR_MEMORY;
    if (s->composes) {
        const utf8proc_ssize_t composed =
            utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)bytes, &out->composed,
                         UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        if (composed < 0)
            return ERR_MEMORY;
        out->text = (const char *)out->composed;
        bytes = (size_t)composed;
    }
    uint32_t *next = malloc((bytes + 1) * sizeof *next);
    out->end = malloc((bytes + 1) * sizeof *out->end);
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    enum err e = next && out->end && match ? ERR_NONE : ERR_MEMORY;
    if (!e) {
        out->end[0] = (uint32_t)bytes;
        out->words = bytes > 0 ? 1 : 0;
        for (uint32_t i = 0; i < s->expressions; i++) {
            out->words = cut(s->code[i], match, out->text, out->end, out->words, next);
            uint32_t *swap = out->end;
            out->end = next;
            next = swap;
        }
        for (size_t i = 0, begin = 0; i < out->words; begin = out->end[i++])
            if (out->end[i] - begin > out->longest)
                out->longest = out->end[i] - begin;
    }
    free(next);
    pcre2_match_data_free(match);
    if (e)
        tokenizer_words_close(out);
    return e;
}

bool tokenizer_words_next(struct tokenizer_words *w, const char **word, size_t *bytes)
{
    if (w->next == w->words)
        return false;
    const uint32_t begin = w->next ? w->end[w->next - 1] : 0;
    *word = w->text + begin;
    *bytes = w->end[w->next++] - begin;
    return true;
}

void tokenizer_words_close(struct tokenizer_words *w)
{
    free(w->end);
    free(w->composed);
    *w = (struct tokenizer_words){.longest = 1};
}
