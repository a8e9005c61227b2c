/* tokenizer_text.c: encode around special tokens, decode, and the stream that keeps characters whole. */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_kind.h"
#include "model/model_utf8.h"

/* A piece of the text, or one special token found in it. */
struct fragment {
    size_t start;
    size_t bytes;
    uint32_t token; /* TOKENIZER_NONE: plain text */
};

struct fragments {
    struct fragment *at;
    size_t count, room;
};

static enum err push(struct fragments *f, size_t start, size_t bytes, uint32_t token)
{
    if (bytes == 0 && token == TOKENIZER_NONE)
        return ERR_NONE;
    if (f->count == f->room) {
        const size_t room = f->room * 2 + 16;
        struct fragment *at = realloc(f->at, room * sizeof *at);
        if (!at)
            return ERR_MEMORY;
        f->at = at;
        f->room = room;
    }
    f->at[f->count++] = (struct fragment){start, bytes, token};
    return ERR_NONE;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* A text to encode. Where foreign is 1 no control token begins, goes on or ends. */
struct passage {
    const char *text;
    const uint8_t *foreign; /* NULL: nothing is */
    size_t bytes;
    bool markup;
};

/* The next place of spelling s in p, [at, end); NULL: none. */
static const char *find(const struct passage *p, size_t at, size_t end, struct gguf_text s, bool is_user)
{
    const char *hit;
    while ((hit = memmem(p->text + at, end - at, s.text, s.bytes)) != NULL) {
        const size_t start = (size_t)(hit - p->text);
        if (is_user || !p->foreign || !memchr(p->foreign + start, 1, s.bytes))
            break;
        at = start + 1;
    }
    return hit;
}

/* Cut every occurrence of one special token out of the plain fragments. */
static enum err cut(const struct tokenizer *t, const struct passage *p, uint32_t index,
                    const struct fragments *from, struct fragments *to)
{
    const uint32_t token = t->special[index];
    const struct gguf_text s = tokenizer_spelling(t, token);
    const bool is_user = t->class[token] == TOKENIZER_USER;
    const char *text = p->text;
    enum err e = ERR_NONE;
    to->count = 0;
    for (size_t i = 0; i < from->count && !e; i++) {
        struct fragment f = from->at[i];
        const char *hit;
        while (!e && f.token == TOKENIZER_NONE &&
               (hit = find(p, f.start, f.start + f.bytes, s, is_user)) != NULL) {
            const size_t at = (size_t)(hit - text);
            size_t before = at - f.start, after = at + s.bytes;
            while ((t->strips[index] & 1) && before > 0 && is_space(text[f.start + before - 1]))
                before--;
            while ((t->strips[index] & 2) && after < f.start + f.bytes && is_space(text[after]))
                after++;
            e = push(to, f.start, before, TOKENIZER_NONE);
            if (!e)
                e = push(to, at, s.bytes, token);
            f.bytes -= after - f.start;
            f.start = after;
        }
        if (!e)
            e = push(to, f.start, f.bytes, f.token);
    }
    return e;
}

static enum err split(const struct tokenizer *t, const struct passage *p, struct fragments *out)
{
    struct fragments other = {0};
    enum err e = push(out, 0, p->bytes, TOKENIZER_NONE);
    for (uint32_t i = 0; i < t->specials && !e; i++) {
        const struct gguf_text s = tokenizer_spelling(t, t->special[i]);
        if ((!p->markup && t->class[t->special[i]] != TOKENIZER_USER) ||
            !memmem(p->text, p->bytes, s.text, s.bytes))
            continue;
        e = cut(t, p, i, out, &other);
        const struct fragments swapped = *out;
        *out = other;
        other = swapped;
    }
    free(other.at);
    return e;
}

static enum err encode(const struct tokenizer *t, const struct passage *p, struct tokenizer_sink *sink)
{
    struct fragments fragments = {0};
    enum err e = split(t, p, &fragments);
    bool starts = true;
    for (size_t i = 0; i < fragments.count && !e; i++) {
        const struct fragment *f = &fragments.at[i];
        if (f->token != TOKENIZER_NONE)
            tokenizer_sink_put(sink, f->token);
        else
            e = t->kind->encode(t, p->text + f->start, f->bytes, starts, sink);
        starts = f->token != TOKENIZER_NONE;
    }
    free(fragments.at);
    return e;
}

enum err tokenizer_encode(const struct tokenizer *t, const char *text, size_t bytes, bool special,
                          bool markup, uint32_t *tokens, size_t capacity, size_t *count)
{
    struct tokenizer_sink sink = {tokens, capacity, 0};
    char *repaired = NULL;
    if (!model_utf8_is_well_formed(text, bytes)) {
        if (!(repaired = malloc(3 * bytes)))
            return ERR_MEMORY;
        bytes = model_utf8_repair(text, bytes, repaired);
        text = repaired;
    }
    if (special && t->adds_bos)
        tokenizer_sink_put(&sink, t->bos);
    const enum err e = encode(t, &(struct passage){text, NULL, bytes, markup}, &sink);
    free(repaired);
    if (special && t->adds_eos)
        tokenizer_sink_put(&sink, t->eos);
    if (special && t->adds_sep && t->separator != TOKENIZER_NONE)
        tokenizer_sink_put(&sink, t->separator);
    *count = sink.count;
    return !e && sink.count > capacity ? ERR_FULL : e;
}

enum err tokenizer_encode_marked(const struct tokenizer *t, const char *text, const uint8_t *foreign, size_t bytes,
                                 bool special, uint32_t *tokens, size_t capacity, size_t *count)
{
    struct tokenizer_sink sink = {tokens, capacity, 0};
    if (!model_utf8_is_well_formed(text, bytes))
        return ERR_FORMAT;
    if (special && t->adds_bos)
        tokenizer_sink_put(&sink, t->bos);
    const enum err e = encode(t, &(struct passage){text, foreign, bytes, true}, &sink);
    *count = sink.count;
    return !e && sink.count > capacity ? ERR_FULL : e;
}

static size_t piece(const struct tokenizer *t, uint32_t token, bool shows_special, char *out)
{
    const uint8_t class = t->class[token];
    if ((class == TOKENIZER_CONTROL || class == TOKENIZER_UNKNOWN) && !shows_special)
        return 0;
    if (class == TOKENIZER_NORMAL || class == TOKENIZER_BYTE)
        return t->kind->piece(t, token, out);
    const struct gguf_text s = tokenizer_spelling(t, token);
    memcpy(out, s.text, s.bytes);
    return s.bytes;
}

enum err tokenizer_piece(const struct tokenizer *t, uint32_t token, bool shows_special, char *out,
                         size_t capacity, size_t *bytes)
{
    if (token >= t->vocabulary)
        return ERR_ARGUMENT;
    if (tokenizer_spelling(t, token).bytes > capacity)
        return ERR_FULL;
    *bytes = piece(t, token, shows_special, out);
    return ERR_NONE;
}

void tokenizer_stream_start(struct tokenizer_stream *s, bool continues, bool shows_special)
{
    *s = (struct tokenizer_stream){.started = continues, .shows_special = shows_special};
}

static size_t put_replacement(char *out)
{
    memcpy(out, "\xef\xbf\xbd", 3);
    return 3;
}

/* One byte in, the characters that it completes out: at most 3 bytes for each byte held and this one. */
static size_t feed(struct tokenizer_stream *s, char byte, char *out)
{
    size_t used = 0;
    s->held[s->held_bytes++] = (uint8_t)byte;
    while (s->held_bytes > 0) {
        size_t part;
        const int length = model_utf8_length(s->held, s->held_bytes, &part);
        if (length == 0)
            break;
        if (length < 0) {
            used += put_replacement(out + used);
        } else {
            memcpy(out + used, s->held, part);
            used += part;
        }
        s->held_bytes -= (uint32_t)part;
        memmove(s->held, s->held + part, s->held_bytes);
    }
    return used;
}

enum err tokenizer_stream_put(const struct tokenizer *t, struct tokenizer_stream *s, uint32_t token,
                              char *out, size_t capacity, size_t *bytes)
{
    if (token >= t->vocabulary)
        return ERR_ARGUMENT;
    const size_t room = tokenizer_spelling(t, token).bytes;
    if (capacity < room * 3 + 16)
        return ERR_FULL;
    /* The raw bytes wait at the end of out: what is written never catches up with what is read. */
    const char *raw = out + capacity - room;
    size_t count = piece(t, token, s->shows_special, out + capacity - room);
    if (!s->started && count > 0) {
        s->started = true;
        if (t->kind->drops_first_space && t->adds_space_prefix && raw[0] == ' ') {
            raw++;
            count--;
        }
    }
    *bytes = 0;
    for (size_t i = 0; i < count; i++)
        *bytes += feed(s, raw[i], out + *bytes);
    return ERR_NONE;
}

size_t tokenizer_stream_end(struct tokenizer_stream *s, char out[4])
{
    const bool has_rest = s->held_bytes > 0;
    s->held_bytes = 0;
    return has_rest ? put_replacement(out) : 0;
}

enum err tokenizer_decode(const struct tokenizer *t, const uint32_t *tokens, size_t count,
                          bool shows_special, char *out, size_t capacity, size_t *bytes)
{
    size_t used = 0;
    bool is_first = true, fits = true;
    for (size_t i = 0; i < count; i++) {
        if (tokens[i] >= t->vocabulary)
            return ERR_ARGUMENT;
        const size_t room = tokenizer_spelling(t, tokens[i]).bytes;
        if (!fits || room > capacity - used) {
            fits = false;
            used += room;
            continue;
        }
        size_t n = piece(t, tokens[i], shows_special, out + used);
        if (is_first && n > 0) {
            is_first = false;
            if (t->kind->drops_first_space && t->adds_space_prefix && out[used] == ' ')
                memmove(out + used, out + used + 1, --n);
        }
        used += n;
    }
    *bytes = used;
    return fits ? ERR_NONE : ERR_FULL;
}
