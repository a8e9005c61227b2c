/* tokenizer_wordpiece.c: WordPiece as BERT uses it ("bert" in GGUF): the text is lowered, stripped of
 * accents and cut at white space, punctuation and CJK ideographs; each word is then the longest pieces
 * that the vocabulary has, from the left. GGUF spells a piece that begins a word with U+2581 before it,
 * and one within a word bare. Source: arXiv:1810.04805, arXiv:1609.08144. */
#include <string.h>
#include <utf8proc.h>

#include "model/tokenizer_kind.h"

enum { WORD_CHARACTERS_MAX = 100 }; /* a longer word is unknown, as in BERT's own code */

static const char word_mark[] = "\xe2\x96\x81";
enum { MARK_BYTES = 3 };

static bool is_ideograph(utf8proc_int32_t c)
{
    static const utf8proc_int32_t ranges[][2] = {{0x4e00, 0x9fff},   {0x3400, 0x4dbf},   {0x20000, 0x2a6df},
                                                 {0x2a700, 0x2b73f}, {0x2b740, 0x2b81f}, {0x2b820, 0x2ceaf},
                                                 {0xf900, 0xfaff},   {0x2f800, 0x2fa1f}};
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (c >= ranges[i][0] && c <= ranges[i][1])
            return true;
    return false;
}

static bool is_punctuation(utf8proc_int32_t c)
{
    if ((c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126))
        return true;
    const utf8proc_category_t k = utf8proc_category(c);
    return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

static bool is_white(utf8proc_int32_t c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == 0x85 || c == 0x2028 || c == 0x2029 ||
           utf8proc_category(c) == UTF8PROC_CATEGORY_ZS;
}

/* BERT's cleaning: NUL, U+FFFD and every control, format or private character goes. */
static bool is_dropped(utf8proc_int32_t c)
{
    if (c == '\t' || c == '\n' || c == '\r')
        return false;
    const utf8proc_category_t k = utf8proc_category(c);
    return c == 0 || c == 0xfffd || k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF ||
           k == UTF8PROC_CATEGORY_CO || k == UTF8PROC_CATEGORY_CS;
}

struct word {
    const struct tokenizer *t;
    struct tokenizer_sink *sink;
    char text[MARK_BYTES + 4 * WORD_CHARACTERS_MAX + 4];
    size_t bytes;
    uint32_t characters; /* may run past the most */
};

static void start_word(struct word *w)
{
    memcpy(w->text, word_mark, MARK_BYTES);
    w->bytes = MARK_BYTES;
    w->characters = 0;
}

static void put_character(struct word *w, utf8proc_int32_t c)
{
    if (w->characters++ < WORD_CHARACTERS_MAX)
        w->bytes += (size_t)utf8proc_encode_char(c, (utf8proc_uint8_t *)w->text + w->bytes);
}

/* Greedy longest match; a word with a part that is no piece becomes one unknown token. */
static void end_word(struct word *w)
{
    const size_t made = w->sink->count;
    bool is_known = w->characters <= WORD_CHARACTERS_MAX;
    size_t begin = 0; /* 0: with the mark */
    while (w->characters > 0 && is_known && begin < w->bytes) {
        size_t end = w->bytes;
        uint32_t token = TOKENIZER_NONE;
        for (; end > (begin ? begin : (size_t)MARK_BYTES); end--) {
            const bool is_boundary = end == w->bytes || (w->text[end] & 0xc0) != 0x80;
            if (is_boundary && (token = tokenizer_find(w->t, w->text + begin, end - begin)) != TOKENIZER_NONE)
                break;
        }
        is_known = token != TOKENIZER_NONE;
        if (is_known)
            tokenizer_sink_put(w->sink, token);
        begin = end;
    }
    if (!is_known) {
        w->sink->count = made;
        if (w->t->unknown != TOKENIZER_NONE)
            tokenizer_sink_put(w->sink, w->t->unknown);
    }
    start_word(w);
}

/* One character of the decomposed, lowered text. */
static void take_character(struct word *w, utf8proc_int32_t c)
{
    if (is_white(c)) {
        end_word(w);
    } else if (is_punctuation(c) || is_ideograph(c)) {
        end_word(w);
        put_character(w, c);
        end_word(w);
    } else {
        put_character(w, c);
    }
}

/* Accents are the nonspacing marks of the canonical decomposition; a lowered character may decompose
 * again (U+0130). */
static void take_decomposed(struct word *w, utf8proc_int32_t c)
{
    utf8proc_int32_t parts[16], lower[16];
    const utf8proc_ssize_t n = utf8proc_decompose_char(c, parts, 16, UTF8PROC_DECOMPOSE, NULL);
    for (utf8proc_ssize_t i = 0; i < n && i < 16; i++) {
        if (utf8proc_category(parts[i]) == UTF8PROC_CATEGORY_MN)
            continue;
        const utf8proc_int32_t l = utf8proc_tolower(parts[i]);
        const utf8proc_ssize_t m = utf8proc_decompose_char(l, lower, 16, UTF8PROC_DECOMPOSE, NULL);
        for (utf8proc_ssize_t j = 0; j < m && j < 16; j++)
            take_character(w, lower[j]);
    }
}

static enum err wordpiece_encode(const struct tokenizer *t, const char *text, size_t bytes, bool starts,
                                 struct tokenizer_sink *sink)
{
    (void)starts;
    struct word w = {.t = t, .sink = sink};
    const utf8proc_uint8_t *p = (const utf8proc_uint8_t *)text;
    start_word(&w);
    for (size_t i = 0; i < bytes;) {
        utf8proc_int32_t c;
        i += (size_t)utf8proc_iterate(p + i, (utf8proc_ssize_t)(bytes - i), &c);
        if (is_dropped(c))
            continue;
        if (is_white(c) || is_ideograph(c))
            take_character(&w, c); /* ideographs are cut out before they would decompose */
        else
            take_decomposed(&w, c);
    }
    end_word(&w);
    return ERR_NONE;
}

static size_t wordpiece_piece(const struct tokenizer *t, uint32_t token, char *out)
{
    struct gguf_text s = tokenizer_spelling(t, token);
    size_t used = 0;
    if (s.bytes >= MARK_BYTES && memcmp(s.text, word_mark, MARK_BYTES) == 0) {
        out[used++] = ' ';
        s = (struct gguf_text){s.text + MARK_BYTES, s.bytes - MARK_BYTES};
    }
    memcpy(out + used, s.text, s.bytes);
    return used + s.bytes;
}

const struct tokenizer_kind tokenizer_wordpiece = {
    .name = "bert",
    .adds_bos = true, /* CLS */
    .adds_eos = false,
    .drops_first_space = true,
    .encode = wordpiece_encode,
    .piece = wordpiece_piece,
};
