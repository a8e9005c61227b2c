/* tokenizer_bpe.c: byte-level BPE ("gpt2" in GGUF). A text is cut into words by the family's own
 * expressions (tokenizer_split.c), each byte becomes one printable character, and neighbours are merged
 * in the order of the merge list. Source: GPT-2's encoder (Radford et al. 2019), arXiv:1508.07909. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_kind.h"
#include "model/tokenizer_split.h"

enum { NO_RANK = 0xffffffffu };

struct merge_rule {
    uint32_t left, right; /* tokens; left TOKENIZER_NONE: empty slot */
    uint32_t rank;
    uint32_t whole; /* the token that both become */
};

struct bpe_state {
    struct tokenizer_split *split;
    struct merge_rule *rule; /* open hash of pairs */
    uint32_t rule_mask;
    uint32_t of_byte[256]; /* token of each single byte, TOKENIZER_NONE if the vocabulary lacks it */
    uint16_t byte_of[324]; /* byte + 1 of a character of the printable alphabet, 0: not in it */
    bool ignores_merges;   /* a word that is a token stays whole (Llama 3) */
};

/* GPT-2's alphabet: printable Latin-1 characters stand for themselves, the other bytes for U+0100 on. */
static void byte_alphabet(uint32_t character[256])
{
    uint32_t next = 256;
    for (uint32_t b = 0; b < 256; b++) {
        const bool is_printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        character[b] = is_printable ? b : next++;
    }
}

static size_t put_utf8(uint32_t c, char *out)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    out[0] = (char)(0xc0 | c >> 6); /* the alphabet ends below U+0800 */
    out[1] = (char)(0x80 | (c & 0x3f));
    return 2;
}

static uint32_t pair_hash(uint32_t left, uint32_t right)
{
    const uint64_t h = ((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15u;
    return (uint32_t)(h >> 32);
}

static const struct merge_rule *find_rule(const struct bpe_state *s, uint32_t left, uint32_t right)
{
    for (uint32_t at = pair_hash(left, right) & s->rule_mask;; at = (at + 1) & s->rule_mask) {
        const struct merge_rule *r = &s->rule[at];
        if (r->left == TOKENIZER_NONE)
            return NULL;
        if (r->left == left && r->right == right)
            return r;
    }
}

static void add_rule(struct bpe_state *s, struct merge_rule rule)
{
    uint32_t at = pair_hash(rule.left, rule.right) & s->rule_mask;
    for (; s->rule[at].left != TOKENIZER_NONE; at = (at + 1) & s->rule_mask)
        if (s->rule[at].left == rule.left && s->rule[at].right == rule.right)
            return; /* the earlier rank wins */
    s->rule[at] = rule;
}

/* One line "left right" of the merge list; parts that are no token can never meet. */
static void read_rule(const struct tokenizer *t, struct bpe_state *s, struct gguf_text line, uint32_t rank)
{
    const char *space = line.bytes > 1 ? memchr(line.text + 1, ' ', line.bytes - 1) : NULL;
    char joined[512];
    if (!space || line.bytes > sizeof joined)
        return;
    const size_t left_bytes = (size_t)(space - line.text);
    const size_t right_bytes = line.bytes - left_bytes - 1;
    memcpy(joined, line.text, left_bytes);
    memcpy(joined + left_bytes, space + 1, right_bytes);
    const struct merge_rule rule = {tokenizer_find(t, joined, left_bytes),
                                    tokenizer_find(t, joined + left_bytes, right_bytes), rank,
                                    tokenizer_find(t, joined, left_bytes + right_bytes)};
    if (rule.left != TOKENIZER_NONE && rule.right != TOKENIZER_NONE && rule.whole != TOKENIZER_NONE)
        add_rule(s, rule);
}

static enum err read_rules(const struct tokenizer *t, struct bpe_state *s, const struct gguf *g,
                           char *reason)
{
    const struct gguf_value *merges = gguf_find(g, "tokenizer.ggml.merges");
    if (!merges || merges->element != GGUF_STRING || merges->count > 1u << 24) {
        snprintf(reason, GGUF_REASON_BYTES, "expected tokenizer.ggml.merges as an array of strings");
        return ERR_FORMAT;
    }
    uint32_t size = 16;
    while (size < merges->count * 2)
        size *= 2;
    s->rule = malloc(size * sizeof *s->rule);
    if (!s->rule)
        return ERR_MEMORY;
    s->rule_mask = size - 1;
    for (uint32_t i = 0; i < size; i++)
        s->rule[i].left = TOKENIZER_NONE;
    size_t at = 0;
    struct gguf_text line;
    for (uint32_t rank = 0; gguf_next_string(merges, &at, &line); rank++)
        read_rule(t, s, line, rank);
    return ERR_NONE;
}

static void bpe_close(struct tokenizer *t)
{
    struct bpe_state *s = t->state;
    if (!s)
        return;
    tokenizer_split_close(s->split);
    free(s->rule);
    free(s);
}

static enum err bpe_open(struct tokenizer *t, const struct gguf *g, char reason[GGUF_REASON_BYTES])
{
    struct bpe_state *s = calloc(1, sizeof *s);
    if (!s)
        return ERR_MEMORY;
    t->state = s;
    struct gguf_text family = {"", 0};
    if (gguf_string(g, "tokenizer.ggml.pre", &family) != ERR_NONE)
        family = (struct gguf_text){"gpt-2", 5}; /* files older than the key: GPT-2, GPT-NeoX */
    s->ignores_merges = family.bytes == 9 && memcmp(family.text, "llama-bpe", 9) == 0;
    enum err e = tokenizer_split_open(family.text, family.bytes, &s->split, reason);
    if (e)
        return e;
    uint32_t character[256];
    byte_alphabet(character);
    for (uint32_t b = 0; b < 256; b++) {
        char spelt[2];
        s->byte_of[character[b]] = (uint16_t)(b + 1);
        s->of_byte[b] = tokenizer_find(t, spelt, put_utf8(character[b], spelt));
    }
    return read_rules(t, s, g, reason);
}

/* A word in the making: its parts form a chain through `after`. */
struct word_part {
    uint32_t token;
    uint32_t before, after;
};

struct candidate {
    uint32_t rank, left;  /* left: index of the part */
    uint32_t left_token, right_token; /* what stood there when this was offered */
};

struct word_work {
    const struct bpe_state *s;
    struct word_part *part;
    struct candidate *heap; /* lowest rank first, of equal ones the leftmost */
    uint32_t candidates;
};

static bool is_before(const struct candidate *a, const struct candidate *b)
{
    return a->rank < b->rank || (a->rank == b->rank && a->left < b->left);
}

static void offer(struct word_work *w, uint32_t left)
{
    if (left == NO_RANK || w->part[left].after == NO_RANK)
        return;
    const uint32_t a = w->part[left].token, b = w->part[w->part[left].after].token;
    const struct merge_rule *rule = find_rule(w->s, a, b);
    if (!rule)
        return;
    const struct candidate c = {rule->rank, left, a, b};
    uint32_t at = w->candidates++;
    for (; at > 0 && is_before(&c, &w->heap[(at - 1) / 2]); at = (at - 1) / 2)
        w->heap[at] = w->heap[(at - 1) / 2];
    w->heap[at] = c;
}

static struct candidate take(struct word_work *w)
{
    const struct candidate top = w->heap[0], last = w->heap[--w->candidates];
    uint32_t at = 0;
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= w->candidates)
            break;
        if (child + 1 < w->candidates && is_before(&w->heap[child + 1], &w->heap[child]))
            child++;
        if (!is_before(&w->heap[child], &last))
            break;
        w->heap[at] = w->heap[child];
        at = child;
    }
    w->heap[at] = last;
    return top;
}

static void merge_word(struct word_work *w, uint32_t parts)
{
    w->candidates = 0;
    for (uint32_t i = 0; i + 1 < parts; i++)
        offer(w, i);
    while (w->candidates > 0) {
        const struct candidate c = take(w);
        struct word_part *left = &w->part[c.left];
        if (left->token != c.left_token || left->after == NO_RANK ||
            w->part[left->after].token != c.right_token)
            continue; /* one of them has been merged since */
        const struct merge_rule *rule = find_rule(w->s, c.left_token, c.right_token);
        struct word_part *right = &w->part[left->after];
        left->token = rule->whole;
        right->token = TOKENIZER_NONE;
        left->after = right->after;
        if (left->after != NO_RANK)
            w->part[left->after].before = c.left;
        offer(w, left->before);
        offer(w, c.left);
    }
}

/* The word as one token, spelt in the alphabet, or TOKENIZER_NONE. */
static uint32_t whole_word(const struct tokenizer *t, const char *word, size_t bytes)
{
    uint32_t character[256];
    char spelt[512];
    size_t used = 0;
    if (bytes > sizeof spelt / 2)
        return TOKENIZER_NONE;
    byte_alphabet(character);
    for (size_t i = 0; i < bytes; i++)
        used += put_utf8(character[(uint8_t)word[i]], spelt + used);
    return tokenizer_find(t, spelt, used);
}

static void encode_word(const struct tokenizer *t, struct word_work *w, const char *word, size_t bytes,
                        struct tokenizer_sink *sink)
{
    if (w->s->ignores_merges) {
        const uint32_t token = whole_word(t, word, bytes);
        if (token != TOKENIZER_NONE) {
            tokenizer_sink_put(sink, token);
            return;
        }
    }
    uint32_t parts = 0;
    for (size_t i = 0; i < bytes; i++) {
        const uint32_t token = w->s->of_byte[(uint8_t)word[i]];
        if (token == TOKENIZER_NONE)
            continue; /* a vocabulary without this byte has no way to say it */
        w->part[parts] = (struct word_part){token, parts ? parts - 1 : NO_RANK, parts + 1};
        parts++;
    }
    if (parts == 0)
        return;
    w->part[parts - 1].after = NO_RANK;
    merge_word(w, parts);
    for (uint32_t i = 0; i != NO_RANK; i = w->part[i].after)
        tokenizer_sink_put(sink, w->part[i].token);
}

static enum err bpe_encode(const struct tokenizer *t, const char *text, size_t bytes, bool starts,
                           struct tokenizer_sink *sink)
{
    (void)starts;
    const struct bpe_state *s = t->state;
    struct tokenizer_words words;
    const char *word;
    size_t word_bytes;
    enum err e = tokenizer_words_open(s->split, text, bytes, &words);
    if (e)
        return e;
    /* each merge offers at most two new pairs */
    struct word_work w = {.s = s,
                          .part = malloc(words.longest * sizeof *w.part),
                          .heap = malloc(words.longest * 3 * sizeof *w.heap)};
    if (!w.part || !w.heap)
        e = ERR_MEMORY;
    while (!e && tokenizer_words_next(&words, &word, &word_bytes))
        encode_word(t, &w, word, word_bytes, sink);
    free(w.part);
    free(w.heap);
    tokenizer_words_close(&words);
    return e;
}

/* The alphabet back to bytes; a character outside it (added tokens are plain text) stays as it is. */
static size_t bpe_piece(const struct tokenizer *t, uint32_t token, char *out)
{
    const struct bpe_state *s = t->state;
    const struct gguf_text spelt = tokenizer_spelling(t, token);
    const uint8_t *p = (const uint8_t *)spelt.text;
    size_t used = 0;
    for (size_t i = 0; i < spelt.bytes;) {
        uint32_t c = p[i], length = 1;
        if ((c & 0xe0) == 0xc0 && i + 1 < spelt.bytes) {
            c = (c & 0x1f) << 6 | (p[i + 1] & 0x3fu);
            length = 2;
        }
        if (c < sizeof s->byte_of / sizeof *s->byte_of && s->byte_of[c]) {
            out[used++] = (char)(s->byte_of[c] - 1);
        } else {
            memcpy(out + used, p + i, length);
            used += length;
        }
        i += length;
    }
    return used;
}

const struct tokenizer_kind tokenizer_bpe = {
    .name = "gpt2",
    .open = bpe_open,
    .close = bpe_close,
    .encode = bpe_encode,
    .piece = bpe_piece,
};
