/* template_text.c: strings that know which of their bytes are foreign. */
#include <string.h>

#include <utf8proc.h>

#include "model/template_parts.h"

struct text template_literal(const char *s)
{
    return (struct text){.at = s, .bytes = strlen(s)};
}

bool template_text_is(struct text t, const char *s)
{
    return strlen(s) == t.bytes && memcmp(t.at, s, t.bytes) == 0;
}

bool template_text_equal(struct text a, struct text b)
{
    return a.bytes == b.bytes && (a.bytes == 0 || memcmp(a.at, b.at, a.bytes) == 0);
}

struct text template_part(struct text t, size_t from, size_t to)
{
    if (t.bytes == 0)
        return t;
    return (struct text){.at = t.at + from, .foreign = t.foreign ? t.foreign + from : NULL, .bytes = to - from};
}

size_t template_find(struct text in, struct text what, size_t from)
{
    if (from > in.bytes)
        return SIZE_MAX;
    if (what.bytes == 0)
        return from;
    if (from == in.bytes)
        return SIZE_MAX;
    const char *hit = memmem(in.at + from, in.bytes - from, what.at, what.bytes);
    return hit ? (size_t)(hit - in.at) : SIZE_MAX;
}

void template_add(struct run *r, struct builder *b, struct text t)
{
    if (t.bytes == 0 || !template_step(r, 1 + t.bytes / 64))
        return;
    if (b->bytes + t.bytes > b->room) {
        const size_t room = (b->bytes + t.bytes) * 2 + 32;
        char *at = template_new(r, 2 * room);
        if (!at)
            return;
        if (b->bytes) {
            memcpy(at, b->at, b->bytes);
            memcpy(at + room, b->foreign, b->bytes);
        }
        b->at = at;
        b->foreign = (uint8_t *)at + room;
        b->room = room;
    }
    memcpy(b->at + b->bytes, t.at, t.bytes);
    if (t.foreign) {
        memcpy(b->foreign + b->bytes, t.foreign, t.bytes);
        b->has_foreign = true;
    } else {
        memset(b->foreign + b->bytes, 0, t.bytes);
    }
    b->bytes += t.bytes;
}

void template_add_byte(struct run *r, struct builder *b, char c)
{
    template_add(r, b, (struct text){.at = &c, .bytes = 1});
}

struct text template_built(const struct builder *b)
{
    return (struct text){
        .at = b->bytes ? b->at : "", .foreign = b->has_foreign ? b->foreign : NULL, .bytes = b->bytes};
}

struct text template_concat(struct run *r, struct text a, struct text b)
{
    struct builder out = {0};
    if (a.bytes == 0)
        return b;
    if (b.bytes == 0)
        return a;
    template_add(r, &out, a);
    template_add(r, &out, b);
    return template_built(&out);
}

uint32_t template_character(const char *at, size_t *bytes)
{
    const uint8_t *p = (const uint8_t *)at;
    if (p[0] < 0x80) {
        *bytes = 1;
        return p[0];
    }
    if (p[0] < 0xe0) {
        *bytes = 2;
        return (uint32_t)(p[0] & 0x1f) << 6 | (p[1] & 0x3f);
    }
    if (p[0] < 0xf0) {
        *bytes = 3;
        return (uint32_t)(p[0] & 0x0f) << 12 | (uint32_t)(p[1] & 0x3f) << 6 | (p[2] & 0x3f);
    }
    *bytes = 4;
    return (uint32_t)(p[0] & 0x07) << 18 | (uint32_t)(p[1] & 0x3f) << 12 | (uint32_t)(p[2] & 0x3f) << 6 |
           (p[3] & 0x3f);
}

size_t template_encode(uint32_t c, char out[4])
{
    if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
        c = 0xfffd;
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3f));
    out[2] = (char)(0x80 | (c >> 6 & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

size_t template_characters(struct text t)
{
    size_t count = 0;
    for (size_t i = 0; i < t.bytes; i++)
        count += ((uint8_t)t.at[i] & 0xc0) != 0x80;
    return count;
}

bool template_is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

static bool is_stripped(uint32_t c, struct text chars)
{
    size_t bytes;
    if (chars.bytes == 0)
        return template_is_space(c);
    for (size_t i = 0; i < chars.bytes; i += bytes)
        if (template_character(chars.at + i, &bytes) == c)
            return true;
    return false;
}

struct text template_strip(struct text t, bool at_start, bool at_end, struct text chars)
{
    size_t from = 0, to = t.bytes, bytes;
    while (at_start && from < to && is_stripped(template_character(t.at + from, &bytes), chars))
        from += bytes;
    while (at_end && to > from) {
        size_t last = to - 1;
        while (((uint8_t)t.at[last] & 0xc0) == 0x80)
            last--;
        if (!is_stripped(template_character(t.at + last, &bytes), chars))
            break;
        to = last;
    }
    return template_part(t, from, to);
}

static bool is_letter(uint32_t c)
{
    const int category = utf8proc_category((utf8proc_int32_t)c);
    return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL || category == UTF8PROC_CATEGORY_LT;
}

/* What the title filter begins a word after; str.title() begins one after whatever is no letter. */
static bool ends_word(uint32_t c)
{
    return c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || template_is_space(c);
}

struct text template_cased(struct run *r, struct text t, enum text_case to)
{
    struct builder out = {0};
    bool is_first = true;
    size_t bytes;
    for (size_t i = 0; i < t.bytes && !template_failed(r); i += bytes) {
        const uint32_t c = template_character(t.at + i, &bytes);
        const bool up = to == UPPER || (to != LOWER && is_first);
        char changed[4];
        const utf8proc_int32_t other =
            up ? utf8proc_toupper((utf8proc_int32_t)c) : utf8proc_tolower((utf8proc_int32_t)c);
        const struct text piece = {.at = changed, .bytes = template_encode((uint32_t)other, changed)};
        const uint8_t all[4] = {1, 1, 1, 1};
        struct text marked = piece;
        if (t.foreign && t.foreign[i])
            marked.foreign = all;
        template_add(r, &out, marked);
        is_first = to == TITLE ? !is_letter(c) : to == TITLE_FILTER ? ends_word(c) : false;
    }
    return template_built(&out);
}

struct text template_replace(struct run *r, struct text t, struct text from, struct text to, int64_t most)
{
    struct builder out = {0};
    size_t at = 0, hit, bytes;
    if (from.bytes == 0) { /* between all characters */
        for (; most != 0 && !template_failed(r); most--) {
            template_add(r, &out, to);
            if (at == t.bytes)
                return template_built(&out);
            template_character(t.at + at, &bytes);
            template_add(r, &out, template_part(t, at, at + bytes));
            at += bytes;
        }
        template_add(r, &out, template_part(t, at, t.bytes));
        return template_built(&out);
    }
    for (; most != 0 && !template_failed(r) && (hit = template_find(t, from, at)) != SIZE_MAX; most--) {
        template_add(r, &out, template_part(t, at, hit));
        template_add(r, &out, to);
        if (!template_step(r, 1))
            break;
        at = hit + from.bytes;
    }
    template_add(r, &out, template_part(t, at, t.bytes));
    return template_built(&out);
}
