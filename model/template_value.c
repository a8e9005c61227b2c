/* template_value.c: what is true, equal, before, and how a value is spelt. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "model/template_parts.h"

struct value template_undefined(struct text name)
{
    return (struct value){.kind = UNDEFINED, .text = name};
}

struct value template_bool(bool truth)
{
    return (struct value){.kind = BOOL, .truth = truth};
}

struct value template_int(int64_t n)
{
    return (struct value){.kind = INT, .integer = n};
}

struct value template_text_value(struct text t)
{
    return (struct value){.kind = TEXT, .text = t};
}

struct value template_list(const struct value *at, size_t count)
{
    return (struct value){.kind = LIST, .list = {.at = at, .count = count}};
}

const char *template_kind_name(struct value v)
{
    static const char *const names[] = {"undefined", "none", "boolean", "integer", "float", "string", "list",
                                        "mapping", "namespace", "loop", "macro", "method", "function"};
    return v.is_tuple ? "tuple" : names[v.kind];
}

bool template_is_true(struct value v)
{
    switch (v.kind) {
    case UNDEFINED:
    case NONE: return false;
    case BOOL: return v.truth;
    case INT: return v.integer != 0;
    case FLOAT: return v.real < 0 || v.real > 0 || isnan(v.real);
    case TEXT: return v.text.bytes > 0;
    case LIST: return v.list.count > 0;
    case DICT: return v.dict->count > 0;
    default: return true;
    }
}

bool template_whole(struct value v, int64_t *out)
{
    if (v.kind != INT && v.kind != BOOL)
        return false;
    *out = v.kind == INT ? v.integer : v.truth;
    return true;
}

bool template_number(struct value v, double *out)
{
    int64_t n = 0;
    if (v.kind == FLOAT)
        *out = v.real;
    else if (template_whole(v, &n))
        *out = (double)n;
    else
        return false;
    return true;
}

static bool equal(struct run *r, struct value a, struct value b, uint32_t depth)
{
    double x, y;
    int64_t n, m;
    if (depth > VALUE_DEPTH_MAX)
        return template_refuse(r, "a value is nested more than %d deep", VALUE_DEPTH_MAX);
    if (!template_step(r, 1))
        return false;
    if (template_whole(a, &n) && template_whole(b, &m))
        return n == m;
    if (template_number(a, &x) && template_number(b, &y))
        return x <= y && x >= y;
    if (a.kind != b.kind || a.is_tuple != b.is_tuple)
        return false;
    switch (a.kind) {
    case TEXT: return template_step(r, a.text.bytes / 64) && template_text_equal(a.text, b.text);
    case LIST:
        for (size_t i = 0; a.list.count == b.list.count && i < a.list.count; i++)
            if (!equal(r, a.list.at[i], b.list.at[i], depth + 1))
                return false;
        return a.list.count == b.list.count;
    case DICT:
        for (size_t i = 0; a.dict->count == b.dict->count && i < a.dict->count; i++) {
            const struct value *other = template_get(r, b.dict, a.dict->at[i].key);
            if (!other || !equal(r, a.dict->at[i].value, *other, depth + 1))
                return false;
        }
        return a.dict->count == b.dict->count;
    case UNDEFINED:
    case NONE: return true;
    case FUNCTION: return template_text_equal(a.text, b.text);
    default: return a.dict == b.dict; /* the same object */
    }
}

bool template_equal(struct run *r, struct value a, struct value b)
{
    return equal(r, a, b, 0);
}

static int order(struct run *r, struct value a, struct value b, uint32_t depth)
{
    double x, y;
    int64_t n, m;
    if (!template_step(r, 1))
        return 0;
    if (template_whole(a, &n) && template_whole(b, &m))
        return (n > m) - (n < m);
    if (template_number(a, &x) && template_number(b, &y))
        return (x > y) - (x < y);
    if (a.kind == TEXT && b.kind == TEXT) {
        const size_t least = a.text.bytes < b.text.bytes ? a.text.bytes : b.text.bytes;
        const int c = least ? memcmp(a.text.at, b.text.at, least) : 0;
        return c ? (c > 0) - (c < 0) : (a.text.bytes > b.text.bytes) - (a.text.bytes < b.text.bytes);
    }
    if (a.kind == LIST && b.kind == LIST && a.is_tuple == b.is_tuple && depth < VALUE_DEPTH_MAX) {
        for (size_t i = 0; i < a.list.count && i < b.list.count; i++)
            if (!equal(r, a.list.at[i], b.list.at[i], depth + 1))
                return order(r, a.list.at[i], b.list.at[i], depth + 1);
        return (a.list.count > b.list.count) - (a.list.count < b.list.count);
    }
    template_refuse(r, "%s and %s have no order", template_kind_name(a), template_kind_name(b));
    return 0;
}

int template_order(struct run *r, struct value a, struct value b)
{
    return order(r, a, b, 0);
}

bool template_contains(struct run *r, struct value in, struct value what)
{
    const struct value *at = NULL;
    size_t count = 0;
    if (in.kind == TEXT) {
        if (what.kind != TEXT)
            return template_refuse(r, "'in' a string: expected a string, not %s", template_kind_name(what));
        return template_step(r, in.text.bytes / 64) && template_find(in.text, what.text, 0) != SIZE_MAX;
    }
    if (in.kind == DICT)
        return template_get(r, in.dict, what) != NULL;
    if (!template_items(r, in, &at, &count))
        return false;
    for (size_t i = 0; i < count; i++)
        if (template_equal(r, at[i], what))
            return true;
    return false;
}

const struct value *template_get(struct run *r, const struct dict *d, struct value key)
{
    for (size_t i = 0; i < d->count; i++)
        if (template_equal(r, d->at[i].key, key))
            return &d->at[i].value;
    return NULL;
}

bool template_set(struct run *r, struct dict *d, struct value key, struct value v)
{
    if (key.kind == LIST || key.kind == DICT || key.kind == UNDEFINED)
        return template_refuse(r, "a %s cannot be a key", template_kind_name(key));
    for (size_t i = 0; i < d->count; i++)
        if (template_equal(r, d->at[i].key, key)) {
            d->at[i].value = v;
            return true;
        }
    if (d->count == d->room) {
        const size_t room = d->room * 2 + 4;
        struct pair *at = template_new(r, room * sizeof *at);
        if (!at)
            return false;
        if (d->count)
            memcpy(at, d->at, d->count * sizeof *at);
        d->at = at;
        d->room = room;
    }
    d->at[d->count++] = (struct pair){.key = key, .value = v};
    return !template_failed(r);
}

bool template_items(struct run *r, struct value v, const struct value **at, size_t *count)
{
    *at = NULL;
    *count = 0;
    if (v.kind == LIST) {
        *at = v.list.at;
        *count = v.list.count;
        return true;
    }
    if (v.kind == UNDEFINED)
        return true;
    if (v.kind != DICT && v.kind != TEXT)
        return template_refuse(r, "a %s cannot be walked through", template_kind_name(v));
    const size_t n = v.kind == DICT ? v.dict->count : template_characters(v.text);
    struct value *items = template_step(r, n) ? template_new(r, (n + 1) * sizeof *items) : NULL;
    if (!items)
        return false;
    for (size_t i = 0, byte = 0, bytes; i < n; i++) {
        if (v.kind == DICT) {
            items[i] = v.dict->at[i].key;
            continue;
        }
        template_character(v.text.at + byte, &bytes);
        items[i] = template_text_value(template_part(v.text, byte, byte + bytes));
        byte += bytes;
    }
    *at = items;
    *count = n;
    return true;
}

/* ---- spelling ---- */

enum style { PYTHON, JSON };

struct layout {
    enum style style;
    int64_t indent; /* < 0: one line */
    struct text comma, colon;
    bool sorts;
};

static void add(struct run *r, struct builder *b, const char *s)
{
    template_add(r, b, template_literal(s));
}

/* The shortest digits that read back as the same number, as Python lays them out. */
static void add_real(struct run *r, struct builder *b, double x, enum style style)
{
    char digits[40], out[64];
    int precision = 0;
    if (isnan(x) || isinf(x)) {
        const char *const names[2][3] = {{"nan", "inf", "-inf"}, {"NaN", "Infinity", "-Infinity"}};
        add(r, b, names[style][isnan(x) ? 0 : x > 0 ? 1 : 2]);
        return;
    }
    do
        snprintf(digits, sizeof digits, "%.*e", precision, x);
    while (precision++ < 17 && (strtod(digits, NULL) < x || strtod(digits, NULL) > x));
    const int exponent = atoi(strchr(digits, 'e') + 1), decimals = precision - 1;
    if (exponent < -4 || exponent >= 16) {
        snprintf(out, sizeof out, "%s", digits);
    } else {
        snprintf(out, sizeof out, "%.*f", decimals - exponent > 0 ? decimals - exponent : 0, x);
        if (!strchr(out, '.'))
            strcat(out, ".0");
    }
    add(r, b, out);
}

static bool is_printable(uint32_t c)
{
    const int category = utf8proc_category((utf8proc_int32_t)c);
    return c == ' ' || !(category >= UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_CN);
}

static void add_quoted(struct run *r, struct builder *b, struct text t, enum style style)
{
    const bool has_single = template_find(t, template_literal("'"), 0) != SIZE_MAX;
    const bool has_double = template_find(t, template_literal("\""), 0) != SIZE_MAX;
    const char quote = style == JSON || (has_single && !has_double) ? '"' : '\'';
    static const char special[] = "\n\r\t\b\f", letters[] = "nrtbf";
    size_t plain = 0, bytes;
    template_add_byte(r, b, quote);
    for (size_t i = 0; i <= t.bytes && !template_failed(r); i += bytes) {
        char out[16] = "";
        uint32_t c = 0;
        bytes = 1;
        if (i < t.bytes) {
            c = template_character(t.at + i, &bytes);
            const char *known = c && c < 128 ? strchr(special, (int)c) : NULL;
            if (c == (uint32_t)quote || c == '\\')
                snprintf(out, sizeof out, "\\%c", (char)c);
            else if (known && (style == JSON || known - special < 3))
                snprintf(out, sizeof out, "\\%c", letters[known - special]);
            else if (style == JSON && c < ' ')
                snprintf(out, sizeof out, "\\u%04x", c);
            else if (style == PYTHON && !is_printable(c))
                snprintf(out, sizeof out, c < 256 ? "\\x%02x" : c < 65536 ? "\\u%04x" : "\\U%08x", c);
            if (!out[0])
                continue;
        }
        template_add(r, b, template_part(t, plain, i < t.bytes ? i : t.bytes));
        add(r, b, out);
        plain = i + bytes;
    }
    template_add_byte(r, b, quote);
}

static void add_value(struct run *r, struct builder *b, struct value v, const struct layout *l, uint32_t depth);

static void add_line(struct run *r, struct builder *b, const struct layout *l, uint32_t depth)
{
    if (l->indent < 0)
        return;
    template_add_byte(r, b, '\n');
    for (int64_t i = 0; i < l->indent * depth && template_step(r, 1); i++)
        template_add_byte(r, b, ' ');
}

static void add_list(struct run *r, struct builder *b, struct value v, const struct layout *l, uint32_t depth)
{
    const bool is_tuple = v.is_tuple && l->style == PYTHON;
    add(r, b, is_tuple ? "(" : "[");
    for (size_t i = 0; i < v.list.count && !template_failed(r); i++) {
        if (i)
            template_add(r, b, l->comma);
        add_line(r, b, l, depth + 1);
        add_value(r, b, v.list.at[i], l, depth + 1);
    }
    if (v.list.count)
        add_line(r, b, l, depth);
    add(r, b, is_tuple ? v.list.count == 1 ? ",)" : ")" : "]");
}

static void add_key(struct run *r, struct builder *b, struct value key, const struct layout *l, uint32_t depth)
{
    if (l->style == PYTHON || key.kind == TEXT) {
        add_value(r, b, key, l, depth);
        return;
    }
    add(r, b, "\"");
    add_value(r, b, key, l, depth);
    add(r, b, "\"");
}

static int by_key(const void *a, const void *b, void *context)
{
    return template_order(context, ((const struct pair *)a)->key, ((const struct pair *)b)->key);
}

static void add_dict(struct run *r, struct builder *b, const struct dict *d, const struct layout *l, uint32_t depth)
{
    struct pair *at = d->at;
    if (l->sorts && d->count > 1) {
        if (!(at = template_new(r, d->count * sizeof *at)))
            return;
        memcpy(at, d->at, d->count * sizeof *at);
        qsort_r(at, d->count, sizeof *at, by_key, r);
    }
    add(r, b, "{");
    for (size_t i = 0; i < d->count && !template_failed(r); i++) {
        if (i)
            template_add(r, b, l->comma);
        add_line(r, b, l, depth + 1);
        add_key(r, b, at[i].key, l, depth + 1);
        template_add(r, b, l->colon);
        add_value(r, b, at[i].value, l, depth + 1);
    }
    if (d->count)
        add_line(r, b, l, depth);
    add(r, b, "}");
}

static void add_value(struct run *r, struct builder *b, struct value v, const struct layout *l, uint32_t depth)
{
    char digits[32];
    if (depth > VALUE_DEPTH_MAX) {
        template_refuse(r, "a value is nested more than %d deep", VALUE_DEPTH_MAX);
        return;
    }
    switch (v.kind) {
    case NONE: add(r, b, l->style == JSON ? "null" : "None"); return;
    case BOOL: add(r, b, l->style == JSON ? v.truth ? "true" : "false" : v.truth ? "True" : "False"); return;
    case INT:
        snprintf(digits, sizeof digits, "%" PRId64, v.integer);
        add(r, b, digits);
        return;
    case FLOAT: add_real(r, b, v.real, l->style); return;
    case TEXT: add_quoted(r, b, v.text, l->style); return;
    case LIST: add_list(r, b, v, l, depth); return;
    case DICT: add_dict(r, b, v.dict, l, depth); return;
    case UNDEFINED:
        if (l->style == PYTHON) {
            add(r, b, "Undefined");
            return;
        }
        break;
    default: break;
    }
    template_refuse(r, "a %s cannot be spelt out", template_kind_name(v));
}

struct text template_spell(struct run *r, struct value v)
{
    static const struct layout layout = {.style = PYTHON,
                                         .indent = -1,
                                         .comma = {.at = ", ", .bytes = 2},
                                         .colon = {.at = ": ", .bytes = 2}};
    struct builder b = {0};
    if (v.kind == TEXT)
        return v.text;
    if (v.kind == UNDEFINED)
        return (struct text){.at = ""};
    add_value(r, &b, v, &layout, 0);
    return template_built(&b);
}

struct text template_json(struct run *r, struct value v, const struct arguments *a)
{
    const struct value *ascii = template_argument(a, 0, "ensure_ascii"), *indent = template_argument(a, 1, "indent");
    const struct value *separators = template_argument(a, 2, "separators"), *sorts = template_argument(a, 3, "sort_keys");
    struct layout l = {.style = JSON, .indent = -1, .comma = {.at = ", ", .bytes = 2}, .colon = {.at = ": ", .bytes = 2}};
    struct builder b = {0};
    if (ascii && template_is_true(*ascii))
        template_refuse(r, "tojson: ensure_ascii is not supported");
    if (indent && indent->kind != NONE && (!template_whole(*indent, &l.indent) || l.indent < 0 || l.indent > 64))
        template_refuse(r, "tojson: expected an indent from 0 to 64");
    if (l.indent >= 0)
        l.comma.bytes = 1;
    if (separators && separators->kind == LIST && separators->list.count == 2 && separators->list.at[0].kind == TEXT &&
        separators->list.at[1].kind == TEXT) {
        l.comma = separators->list.at[0].text;
        l.colon = separators->list.at[1].text;
    } else if (separators && separators->kind != NONE) {
        template_refuse(r, "tojson: expected separators as (comma, colon)");
    }
    l.sorts = sorts && template_is_true(*sorts);
    add_value(r, &b, v, &l, 0);
    return template_built(&b);
}
