/* tokenizer_unigram.c: SentencePiece unigram ("t5" in GGUF): of all ways to cut the text into pieces the
 * one with the highest sum of scores. The text is normalised first by the model's own compiled map: a
 * double-array trie from byte strings to replacements. Source: arXiv:1804.10959, arXiv:1808.06226; the
 * trie is that of the darts-clone library, as SentencePiece stores it. */
#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_kind.h"

static const char space_mark[] = "\xe2\x96\x81";
enum { MARK_BYTES = 3 };

struct unigram_state {
    uint32_t *unit; /* the trie, 0 units: text stays as it is */
    uint32_t units;
    char *replacement; /* NUL-terminated strings, the last byte is NUL */
    size_t replacement_bytes;
    float unknown_score;
    size_t longest; /* bytes of the longest piece */
    bool keeps_spaces; /* runs of white space are not folded */
};

static void unigram_close(struct tokenizer *t)
{
    struct unigram_state *s = t->state;
    if (!s)
        return;
    free(s->unit);
    free(s->replacement);
    free(s);
}

/* u32 size of the trie in bytes, the trie, the replacements */
static enum err read_map(struct unigram_state *s, const struct gguf_value *map, char *reason)
{
    uint32_t trie_bytes = 0;
    if (map->bytes >= sizeof trie_bytes)
        memcpy(&trie_bytes, map->data, sizeof trie_bytes);
    if ((map->element != GGUF_U8 && map->element != GGUF_I8) || map->bytes < sizeof trie_bytes + 1 ||
        trie_bytes % 4 != 0 || trie_bytes > map->bytes - sizeof trie_bytes - 1) {
        snprintf(reason, GGUF_REASON_BYTES,
                 "expected tokenizer.ggml.precompiled_charsmap as a trie and its strings");
        return ERR_FORMAT;
    }
    s->units = trie_bytes / 4;
    s->replacement_bytes = map->bytes - sizeof trie_bytes - trie_bytes;
    s->unit = malloc(trie_bytes + 4);
    s->replacement = malloc(s->replacement_bytes + 1);
    if (!s->unit || !s->replacement)
        return ERR_MEMORY;
    memcpy(s->unit, map->data + sizeof trie_bytes, trie_bytes);
    memcpy(s->replacement, map->data + sizeof trie_bytes + trie_bytes, s->replacement_bytes);
    s->replacement[s->replacement_bytes] = 0;
    return ERR_NONE;
}

static enum err unigram_open(struct tokenizer *t, const struct gguf *g, char reason[GGUF_REASON_BYTES])
{
    struct unigram_state *s = calloc(1, sizeof *s);
    if (!s)
        return ERR_MEMORY;
    t->state = s;
    if (!t->score) {
        snprintf(reason, GGUF_REASON_BYTES, "expected the key tokenizer.ggml.scores");
        return ERR_FORMAT;
    }
    float least = FLT_MAX;
    for (uint32_t i = 0; i < t->vocabulary; i++) {
        const size_t bytes = tokenizer_spelling(t, i).bytes;
        if (t->class[i] != TOKENIZER_NORMAL && t->class[i] != TOKENIZER_USER)
            continue;
        least = t->score[i] < least ? t->score[i] : least;
        s->longest = bytes > s->longest ? bytes : s->longest;
    }
    s->unknown_score = least - 10.0f; /* SentencePiece's penalty */
    bool folds = true;
    if (gguf_bool(g, "tokenizer.ggml.remove_extra_whitespaces", &folds) != ERR_NONE)
        folds = false;
    s->keeps_spaces = !folds;
    const struct gguf_value *map = gguf_find(g, "tokenizer.ggml.precompiled_charsmap");
    return map ? read_map(s, map, reason) : ERR_NONE;
}

/* The longest prefix of text that the trie replaces: its length, 0 if none, and the replacement. A unit
 * holds label (8 bits and bit 31), leaf flag (bit 8), offset (bits 10..30, times 256 if bit 9 is set);
 * every index is checked, since the trie is a file's. */
static size_t find_replacement(const struct unigram_state *s, const char *text, size_t bytes,
                               const char **replacement)
{
    size_t found = 0;
    uint32_t at = 0;
    if (s->units == 0)
        return 0;
    uint32_t unit = s->unit[0];
    at ^= (unit >> 10) << ((unit & 512u) >> 6);
    for (size_t i = 0; i < bytes; i++) {
        const uint32_t label = (uint8_t)text[i];
        if (label == 0)
            break;
        at ^= label;
        if (at >= s->units)
            break;
        unit = s->unit[at];
        if ((unit & 0x800000ffu) != label)
            break;
        at ^= (unit >> 10) << ((unit & 512u) >> 6);
        if (unit & 256u) {
            const uint32_t value = at < s->units ? s->unit[at] & 0x7fffffffu : UINT32_MAX;
            if (value < s->replacement_bytes) {
                *replacement = s->replacement + value;
                found = i + 1;
            }
        }
    }
    return found;
}

static size_t lead_length(const char *text, size_t bytes)
{
    size_t n = 1;
    while (n < bytes && ((uint8_t)text[n] & 0xc0) == 0x80)
        n++;
    return n;
}

/* The text as the model wants it: replaced, runs of spaces folded, spaces marked. */
struct normal {
    char *text;
    size_t bytes, room;
    bool folds, after_space;
};

static enum err put_text(struct normal *n, const char *text, size_t bytes)
{
    if (n->room - n->bytes < bytes * MARK_BYTES) {
        const size_t room = n->room * 2 + bytes * MARK_BYTES;
        char *more = realloc(n->text, room);
        if (!more)
            return ERR_MEMORY;
        n->text = more;
        n->room = room;
    }
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] != ' ') {
            n->text[n->bytes++] = text[i];
        } else if (!n->folds || !n->after_space) {
            memcpy(n->text + n->bytes, space_mark, MARK_BYTES);
            n->bytes += MARK_BYTES;
        }
        n->after_space = text[i] == ' ';
    }
    return ERR_NONE;
}

static enum err normalise(const struct tokenizer *t, const char *text, size_t bytes, bool starts,
                          struct normal *n)
{
    const struct unigram_state *s = t->state;
    enum err e = ERR_NONE;
    n->folds = n->after_space = !s->keeps_spaces;
    if (starts && t->adds_space_prefix) {
        n->after_space = false;
        e = put_text(n, " ", 1);
    }
    for (size_t i = 0; i < bytes && !e;) {
        const char *replacement = text + i;
        size_t length = find_replacement(s, text + i, bytes - i, &replacement);
        const size_t put = length ? strlen(replacement) : lead_length(text + i, bytes - i);
        if (!length)
            length = put;
        e = put_text(n, replacement, put);
        i += length;
    }
    /* folding also drops the space at the end, and a prefix with nothing after it */
    if (n->folds && n->after_space && n->bytes >= MARK_BYTES)
        n->bytes -= MARK_BYTES;
    return e;
}

/* The best cut of the first i bytes ends with a piece that starts at `from`. */
struct best {
    double score;
    uint32_t token;
    uint32_t from;
};

static void reach(struct best *to, double score, uint32_t token, size_t from)
{
    if (score > to->score)
        *to = (struct best){score, token, (uint32_t)from};
}

static void find_best(const struct tokenizer *t, const char *text, size_t bytes, struct best *best)
{
    const struct unigram_state *s = t->state;
    for (size_t i = 1; i <= bytes; i++)
        best[i] = (struct best){-DBL_MAX, TOKENIZER_NONE, 0};
    best[0] = (struct best){0, TOKENIZER_NONE, 0};
    for (size_t i = 0, length; i < bytes; i += length) {
        length = lead_length(text + i, bytes - i);
        bool has_single = false;
        for (size_t n = length; n <= s->longest && n <= bytes - i;) {
            const uint32_t token = tokenizer_find(t, text + i, n);
            if (token != TOKENIZER_NONE &&
                (t->class[token] == TOKENIZER_NORMAL || t->class[token] == TOKENIZER_USER)) {
                const float score = t->class[token] == TOKENIZER_USER ? 0.0f : t->score[token];
                reach(&best[i + n], best[i].score + (double)score, token, i);
                has_single = has_single || n == length;
            }
            if (n == bytes - i)
                break;
            n += lead_length(text + i + n, bytes - i - n);
        }
        if (!has_single)
            reach(&best[i + length], best[i].score + (double)s->unknown_score, t->unknown, i);
    }
}

static enum err unigram_encode(const struct tokenizer *t, const char *text, size_t bytes, bool starts,
                               struct tokenizer_sink *sink)
{
    if (bytes >= 1u << 28)
        return ERR_MEMORY;
    struct normal n = {0};
    struct best *best = NULL;
    enum err e = normalise(t, text, bytes, starts, &n);
    if (!e && !(best = malloc((n.bytes + 1) * sizeof *best)))
        e = ERR_MEMORY;
    if (e)
        goto out;
    find_best(t, n.text, n.bytes, best);
    /* turn the chain around: each end learns where the next piece ends */
    uint32_t next = 0;
    for (uint32_t end = (uint32_t)n.bytes; end > 0;) {
        const uint32_t from = best[end].from;
        best[end].from = next;
        next = end;
        end = from;
    }
    uint32_t last = TOKENIZER_NONE;
    for (uint32_t end = next; end > 0; end = best[end].from) {
        const uint32_t token = best[end].token;
        if (token != TOKENIZER_NONE && !(token == t->unknown && last == token)) /* unknown ones run together */
            tokenizer_sink_put(sink, token);
        last = token;
    }
out:
    free(n.text);
    free(best);
    return e;
}

static size_t unigram_piece(const struct tokenizer *t, uint32_t token, char *out)
{
    const struct gguf_text s = tokenizer_spelling(t, token);
    size_t used = 0;
    for (size_t i = 0; i < s.bytes;) {
        if (s.bytes - i >= MARK_BYTES && memcmp(s.text + i, space_mark, MARK_BYTES) == 0) {
            out[used++] = ' ';
            i += MARK_BYTES;
        } else {
            out[used++] = s.text[i++];
        }
    }
    return used;
}

const struct tokenizer_kind tokenizer_unigram = {
    .name = "t5",
    .adds_eos = true,
    .adds_space_prefix = true,
    .drops_first_space = true,
    .open = unigram_open,
    .close = unigram_close,
    .encode = unigram_encode,
    .piece = unigram_piece,
};
