/* tokenizer_spm.c: SentencePiece BPE: neighbours are merged in the order of their scores, characters
 * that are no token become their bytes. Source: arXiv:1808.06226, and GGUF's "llama" tokenizer model. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_kind.h"

enum { NO_SYMBOL = 0xffffffffu };

struct symbol {
    uint32_t start, bytes; /* bytes 0: merged into the one before */
    uint32_t before, after;
};

struct merge {
    float score;
    uint32_t left, right;
    uint32_t bytes; /* of both when it was offered: tells whether it is still possible */
};

struct work {
    const struct tokenizer *t;
    const char *text;
    struct symbol *symbol;
    uint32_t symbols;
    struct merge *heap;
    size_t merges, room;
};

/* Token of each byte value, or the unknown token. */
struct spm_state {
    uint32_t of_byte[256];
};

static enum err spm_open(struct tokenizer *t, const struct gguf *g, char reason[GGUF_REASON_BYTES])
{
    (void)g;
    struct spm_state *s = calloc(1, sizeof *s);
    if (!s || !t->score) {
        const enum err e = s ? ERR_FORMAT : ERR_MEMORY;
        snprintf(reason, GGUF_REASON_BYTES, "%s", s ? "expected the key tokenizer.ggml.scores"
                                                    : "no memory for the tokenizer");
        free(s);
        return e;
    }
    for (unsigned i = 0; i < 256; i++) {
        char name[8];
        const char byte = (char)i;
        snprintf(name, sizeof name, "<0x%02X>", i);
        s->of_byte[i] = tokenizer_find(t, name, 6);
        if (s->of_byte[i] == TOKENIZER_NONE)
            s->of_byte[i] = tokenizer_find(t, &byte, 1);
        if (s->of_byte[i] == TOKENIZER_NONE)
            s->of_byte[i] = t->unknown != TOKENIZER_NONE ? t->unknown : 0;
    }
    t->state = s;
    return ERR_NONE;
}

static void spm_close(struct tokenizer *t)
{
    free(t->state);
}

/* Highest score first, of equal ones the leftmost. */
static bool precedes(const struct merge *a, const struct merge *b)
{
    return a->score > b->score || (a->score == b->score && a->left < b->left);
}

static enum err heap_push(struct work *w, struct merge m)
{
    if (w->merges == w->room) {
        const size_t room = w->room * 2 + 256;
        struct merge *heap = realloc(w->heap, room * sizeof *heap);
        if (!heap)
            return ERR_MEMORY;
        w->heap = heap;
        w->room = room;
    }
    size_t at = w->merges++;
    for (; at > 0 && precedes(&m, &w->heap[(at - 1) / 2]); at = (at - 1) / 2)
        w->heap[at] = w->heap[(at - 1) / 2];
    w->heap[at] = m;
    return ERR_NONE;
}

static struct merge heap_pop(struct work *w)
{
    const struct merge top = w->heap[0], last = w->heap[--w->merges];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= w->merges)
            break;
        if (child + 1 < w->merges && precedes(&w->heap[child + 1], &w->heap[child]))
            child++;
        if (!precedes(&w->heap[child], &last))
            break;
        w->heap[at] = w->heap[child];
        at = child;
    }
    w->heap[at] = last;
    return top;
}

static enum err offer(struct work *w, uint32_t left, uint32_t right)
{
    if (left == NO_SYMBOL || right == NO_SYMBOL)
        return ERR_NONE;
    const struct symbol *a = &w->symbol[left];
    const uint32_t bytes = a->bytes + w->symbol[right].bytes;
    const uint32_t token = tokenizer_find(w->t, w->text + a->start, bytes);
    if (token == TOKENIZER_NONE)
        return ERR_NONE;
    return heap_push(w, (struct merge){w->t->score[token], left, right, bytes});
}

static enum err merge_all(struct work *w)
{
    enum err e = ERR_NONE;
    for (uint32_t i = 1; i < w->symbols && !e; i++)
        e = offer(w, i - 1, i);
    while (w->merges > 0 && !e) {
        const struct merge m = heap_pop(w);
        struct symbol *left = &w->symbol[m.left], *right = &w->symbol[m.right];
        if (left->bytes == 0 || right->bytes == 0 || left->bytes + right->bytes != m.bytes)
            continue; /* one of them has grown since */
        left->bytes += right->bytes;
        right->bytes = 0;
        left->after = right->after;
        if (right->after != NO_SYMBOL)
            w->symbol[right->after].before = m.left;
        e = offer(w, left->before, m.left);
        if (!e)
            e = offer(w, m.left, left->after);
    }
    return e;
}

static uint32_t lead_length(char c)
{
    static const uint8_t lengths[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 3, 4};
    return lengths[(uint8_t)c >> 4];
}

static enum err encode_escaped(const struct tokenizer *t, const char *text, size_t bytes,
                               struct tokenizer_sink *sink)
{
    const struct spm_state *state = t->state;
    struct work w = {.t = t, .text = text};
    enum err e = ERR_NONE;
    w.symbol = calloc(bytes, sizeof *w.symbol);
    if (!w.symbol)
        return ERR_MEMORY;
    for (size_t at = 0; at < bytes;) {
        uint32_t length = lead_length(text[at]);
        if (length > bytes - at)
            length = (uint32_t)(bytes - at);
        const uint32_t i = w.symbols++;
        w.symbol[i] = (struct symbol){(uint32_t)at, length, i ? i - 1 : NO_SYMBOL, i + 1};
        at += length;
    }
    w.symbol[w.symbols - 1].after = NO_SYMBOL;
    e = merge_all(&w);
    for (uint32_t i = 0; i != NO_SYMBOL && !e; i = w.symbol[i].after) {
        const struct symbol *s = &w.symbol[i];
        const uint32_t token = tokenizer_find(t, text + s->start, s->bytes);
        if (token != TOKENIZER_NONE) {
            tokenizer_sink_put(sink, token);
            continue;
        }
        for (uint32_t b = 0; b < s->bytes; b++)
            tokenizer_sink_put(sink, state->of_byte[(uint8_t)text[s->start + b]]);
    }
    free(w.symbol);
    free(w.heap);
    return e;
}

/* Spaces are spelt U+2581 in the vocabulary. */
static enum err spm_encode(const struct tokenizer *t, const char *text, size_t bytes, bool starts,
                           struct tokenizer_sink *sink)
{
    const bool has_prefix = starts && t->adds_space_prefix;
    size_t size = bytes + (has_prefix ? 3 : 0), used = 0;
    for (size_t i = 0; i < bytes; i++)
        size += text[i] == ' ' ? 2 : 0;
    if (size > UINT32_MAX / 2)
        return ERR_MEMORY;
    char *escaped = malloc(size);
    if (!escaped)
        return ERR_MEMORY;
    for (size_t i = has_prefix ? 0 : 1; i <= bytes; i++)
        if (i == 0 || text[i - 1] == ' ') {
            memcpy(escaped + used, "\xe2\x96\x81", 3);
            used += 3;
        } else {
            escaped[used++] = text[i - 1];
        }
    const enum err e = encode_escaped(t, escaped, used, sink);
    free(escaped);
    return e;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : ((c | 0x20) - 'a' + 10) & 15;
}

static size_t spm_piece(const struct tokenizer *t, uint32_t token, char *out)
{
    const struct gguf_text s = tokenizer_spelling(t, token);
    size_t used = 0;
    if (t->class[token] == TOKENIZER_BYTE && s.bytes == 6) { /* "<0x0A>" */
        out[0] = (char)(hex_digit(s.text[3]) << 4 | hex_digit(s.text[4]));
        return 1;
    }
    for (size_t i = 0; i < s.bytes;) {
        const bool is_mark = s.bytes - i >= 3 && memcmp(s.text + i, "\xe2\x96\x81", 3) == 0;
        out[used++] = is_mark ? ' ' : s.text[i];
        i += is_mark ? 3 : 1;
    }
    return used;
}

const struct tokenizer_kind tokenizer_spm = {
    .name = "llama",
    .adds_bos = true,
    .adds_space_prefix = true,
    .drops_first_space = true,
    .open = spm_open,
    .close = spm_close,
    .encode = spm_encode,
    .piece = spm_piece,
};
