/* template_filter.c: what stands behind "|". */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/template_parts.h"

static const struct value nothing = {.kind = UNDEFINED, .text = {.at = ""}};

const struct value *template_argument(const struct arguments *a, uint32_t place, const char *name)
{
    if (place < a->placed)
        return &a->at[place];
    for (uint32_t i = a->placed; i < a->count; i++)
        if (template_text_is(a->name[i], name))
            return &a->at[i];
    return NULL;
}

bool template_takes(struct run *r, const struct arguments *a, uint32_t least, uint32_t most, const char *what)
{
    if (a->count >= least && a->count <= most)
        return true;
    return template_refuse(r, "%s: %u arguments, expected %u to %u", what, a->count, least, most);
}

static struct text text_argument(struct run *r, const struct arguments *a, uint32_t place, const char *name,
                                 const char *preset)
{
    const struct value *v = template_argument(a, place, name);
    return v ? template_spell(r, *v) : template_literal(preset);
}

bool template_flag(const struct arguments *a, uint32_t place, const char *name)
{
    const struct value *v = template_argument(a, place, name);
    return v && template_is_true(*v);
}

/* attribute='a.b': part of each item. */
struct value template_part_of(struct run *r, struct value v, struct text path)
{
    while (!template_failed(r)) {
        const size_t dot = template_find(path, template_literal("."), 0);
        const struct text name = template_part(path, 0, dot == SIZE_MAX ? path.bytes : dot);
        char *end = NULL;
        const long index = name.bytes && name.bytes < 10 ? strtol(name.at, &end, 10) : 0;
        v = template_item(r, v, end == name.at + name.bytes ? template_int(index) : template_text_value(name));
        if (dot == SIZE_MAX)
            break;
        path = template_part(path, dot + 1, path.bytes);
    }
    return v;
}

struct value template_list_of(struct run *r, struct value v)
{
    const struct value *at;
    size_t count;
    if (!template_items(r, v, &at, &count))
        return nothing;
    return template_list(at, count);
}

/* ---- strings ---- */

static struct value do_trim(struct run *r, struct value v, const struct arguments *a)
{
    const struct value *chars = template_argument(a, 0, "chars");
    const struct text set = chars && chars->kind != NONE ? template_spell(r, *chars) : (struct text){0};
    return template_text_value(template_strip(template_spell(r, v), true, true, set));
}

static struct value do_case(struct run *r, struct value v, enum text_case to)
{
    return template_text_value(template_cased(r, template_spell(r, v), to));
}

static struct value do_upper(struct run *r, struct value v, const struct arguments *a)
{
    (void)a;
    return do_case(r, v, UPPER);
}

static struct value do_lower(struct run *r, struct value v, const struct arguments *a)
{
    (void)a;
    return do_case(r, v, LOWER);
}

static struct value do_capitalize(struct run *r, struct value v, const struct arguments *a)
{
    (void)a;
    return do_case(r, v, CAPITALIZE);
}

static struct value do_title(struct run *r, struct value v, const struct arguments *a)
{
    (void)a;
    return do_case(r, v, TITLE_FILTER);
}

static struct value do_replace(struct run *r, struct value v, const struct arguments *a)
{
    const struct value *most = template_argument(a, 2, "count");
    int64_t n = -1;
    if (most && most->kind != NONE && !template_whole(*most, &n))
        template_refuse(r, "replace: expected a count");
    return template_text_value(template_replace(r, template_spell(r, v), text_argument(r, a, 0, "old", ""),
                                                text_argument(r, a, 1, "new", ""), n));
}

static struct value do_string(struct run *r, struct value v, const struct arguments *a)
{
    (void)a;
    return template_text_value(template_spell(r, v));
}

static struct value do_tojson(struct run *r, struct value v, const struct arguments *a)
{
    return template_text_value(template_json(r, v, a));
}

static struct value do_indent(struct run *r, struct value v, const struct arguments *a)
{
    const struct value *width = template_argument(a, 0, "width");
    const bool first = template_flag(a, 1, "first"), blank = template_flag(a, 2, "blank");
    const struct text t = template_spell(r, v);
    struct text space = {.at = "    ", .bytes = 4};
    struct builder b = {0};
    int64_t n = 4;
    if (width && width->kind == TEXT) {
        space = width->text;
    } else if (width) {
        if (!template_whole(*width, &n) || n < 0 || n > 64) {
            template_refuse(r, "indent: expected a width from 0 to 64");
            return nothing;
        }
        space = (struct text){.at = "                                                                ", .bytes = (size_t)n};
    }
    for (size_t at = 0, line = 0; at <= t.bytes && !template_failed(r); line++) {
        const size_t hit = template_find(t, template_literal("\n"), at), end = hit == SIZE_MAX ? t.bytes : hit;
        if (line ? blank || end > at : first)
            template_add(r, &b, space);
        template_add(r, &b, template_part(t, at, hit == SIZE_MAX ? end : end + 1));
        if (hit == SIZE_MAX)
            break;
        at = end + 1;
    }
    return template_text_value(template_built(&b));
}

static struct value do_join(struct run *r, struct value v, const struct arguments *a)
{
    const struct text between = text_argument(r, a, 0, "d", "");
    const struct value *attribute = template_argument(a, 1, "attribute");
    const struct value list = template_list_of(r, v);
    struct builder b = {0};
    for (size_t i = 0; list.kind == LIST && i < list.list.count && !template_failed(r); i++) {
        struct value one = list.list.at[i];
        if (attribute)
            one = template_part_of(r, one, template_spell(r, *attribute));
        if (i)
            template_add(r, &b, between);
        template_add(r, &b, template_spell(r, one));
    }
    return template_text_value(template_built(&b));
}

/* ---- numbers ---- */

static struct value do_int(struct run *r, struct value v, const struct arguments *a)
{
    const struct value *preset = template_argument(a, 0, "default");
    char digits[64], *end;
    int64_t n;
    if (template_whole(v, &n))
        return template_int(n);
    if (v.kind == FLOAT && fabs(v.real) < 9e18)
        return template_int((int64_t)v.real);
    const struct text t = v.kind == TEXT ? template_strip(v.text, true, true, (struct text){0}) : (struct text){0};
    if (t.bytes > 0 && t.bytes < sizeof digits) {
        memcpy(digits, t.at, t.bytes);
        digits[t.bytes] = 0;
        n = strtoll(digits, &end, 10);
        if (*end == 0)
            return template_int(n);
        const double x = strtod(digits, &end);
        if (*end == 0 && fabs(x) < 9e18)
            return template_int((int64_t)x);
    }
    (void)r;
    return preset ? *preset : template_int(0);
}

static struct value do_float(struct run *r, struct value v, const struct arguments *a)
{
    const struct value *preset = template_argument(a, 0, "default");
    struct value out = {.kind = FLOAT};
    char digits[64], *end;
    (void)r;
    if (template_number(v, &out.real))
        return out;
    const struct text t = v.kind == TEXT ? template_strip(v.text, true, true, (struct text){0}) : (struct text){0};
    if (t.bytes > 0 && t.bytes < sizeof digits) {
        memcpy(digits, t.at, t.bytes);
        digits[t.bytes] = 0;
        out.real = strtod(digits, &end);
        if (*end == 0)
            return out;
    }
    out.real = 0;
    return preset ? *preset : out;
}

static struct value do_abs(struct run *r, struct value v, const struct arguments *a)
{
    int64_t n;
    (void)a;
    if (v.kind == FLOAT)
        return (struct value){.kind = FLOAT, .real = fabs(v.real)};
    if (template_whole(v, &n) && n != INT64_MIN)
        return template_int(n < 0 ? -n : n);
    template_refuse(r, "abs: expected a number, not %s", template_kind_name(v));
    return nothing;
}

/* ---- collections ---- */

static struct value do_length(struct run *r, struct value v, const struct arguments *a)
{
    (void)a;
    switch (v.kind) {
    case UNDEFINED: return template_int(0);
    case TEXT: return template_int((int64_t)template_characters(v.text));
    case LIST: return template_int((int64_t)v.list.count);
    case DICT: return template_int((int64_t)v.dict->count);
    default: template_refuse(r, "a %s has no length", template_kind_name(v)); return nothing;
    }
}

static struct value do_default(struct run *r, struct value v, const struct arguments *a)
{
    const struct value *preset = template_argument(a, 0, "default_value");
    (void)r;
    if (v.kind == UNDEFINED || (template_flag(a, 1, "boolean") && !template_is_true(v)))
        return preset ? *preset : template_text_value(template_literal(""));
    return v;
}

static struct value do_first(struct run *r, struct value v, const struct arguments *a)
{
    const struct value list = template_list_of(r, v);
    (void)a;
    return list.kind == LIST && list.list.count ? list.list.at[0] : template_undefined(template_literal("first item"));
}

static struct value do_last(struct run *r, struct value v, const struct arguments *a)
{
    const struct value list = template_list_of(r, v);
    (void)a;
    return list.kind == LIST && list.list.count ? list.list.at[list.list.count - 1]
                                                : template_undefined(template_literal("last item"));
}

static struct value do_list(struct run *r, struct value v, const struct arguments *a)
{
    (void)a;
    return template_list_of(r, v);
}

static struct value do_items(struct run *r, struct value v, const struct arguments *a)
{
    (void)a;
    if (v.kind == UNDEFINED)
        return template_list(NULL, 0);
    if (v.kind != DICT) {
        template_refuse(r, "items: expected a mapping, not %s", template_kind_name(v));
        return nothing;
    }
    const size_t count = v.dict->count;
    struct value *at = template_new(r, (count + 1) * sizeof *at), *both = template_new(r, 2 * (count + 1) * sizeof *both);
    for (size_t i = 0; at && both && i < count; i++) {
        both[2 * i] = v.dict->at[i].key;
        both[2 * i + 1] = v.dict->at[i].value;
        at[i] = (struct value){.kind = LIST, .is_tuple = true, .list = {both + 2 * i, 2}};
    }
    return template_list(at, at && both ? count : 0);
}

static struct value do_reverse(struct run *r, struct value v, const struct arguments *a)
{
    const struct value list = template_list_of(r, v);
    (void)a;
    const size_t count = list.kind == LIST ? list.list.count : 0;
    struct value *at = template_new(r, (count + 1) * sizeof *at);
    struct builder b = {0};
    for (size_t i = 0; at && i < count && !template_failed(r); i++) {
        at[i] = list.list.at[count - 1 - i];
        if (v.kind == TEXT)
            template_add(r, &b, at[i].text);
    }
    return v.kind == TEXT ? template_text_value(template_built(&b)) : template_list(at, count);
}

static const struct filter {
    const char *name;
    struct value (*call)(struct run *r, struct value v, const struct arguments *a);
    uint32_t least, most;
} filters[] = {
    {"abs", do_abs, 0, 0}, {"capitalize", do_capitalize, 0, 0}, {"count", do_length, 0, 0}, {"d", do_default, 0, 2},
    {"default", do_default, 0, 2}, {"dictsort", template_do_dictsort, 0, 3}, {"first", do_first, 0, 0},
    {"float", do_float, 0, 1}, {"indent", do_indent, 0, 3}, {"int", do_int, 0, 1}, {"items", do_items, 0, 0},
    {"join", do_join, 0, 2}, {"last", do_last, 0, 0}, {"length", do_length, 0, 0}, {"list", do_list, 0, 0},
    {"lower", do_lower, 0, 0}, {"map", template_do_map, 1, ARGUMENTS_MAX}, {"max", template_do_max, 0, 0}, {"min", template_do_min, 0, 0},
    {"reject", template_do_reject, 0, ARGUMENTS_MAX}, {"rejectattr", template_do_rejectattr, 1, ARGUMENTS_MAX},
    {"replace", do_replace, 2, 3}, {"reverse", do_reverse, 0, 0}, {"safe", do_string, 0, 0},
    {"select", template_do_select, 0, ARGUMENTS_MAX}, {"selectattr", template_do_selectattr, 1, ARGUMENTS_MAX},
    {"sort", template_do_sort, 0, 3}, {"string", do_string, 0, 0}, {"sum", template_do_sum, 0, 2}, {"title", do_title, 0, 0},
    {"tojson", do_tojson, 0, 4}, {"trim", do_trim, 0, 1}, {"unique", template_do_unique, 0, 1}, {"upper", do_upper, 0, 0}};

static const struct filter *find(struct text name)
{
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (template_text_is(name, filters[i].name))
            return &filters[i];
    return NULL;
}

bool template_filter_is_known(struct text name)
{
    return find(name) != NULL;
}

struct value template_filter(struct run *r, struct text name, struct value v, const struct arguments *a)
{
    const struct filter *f = find(name);
    if (!f)
        template_refuse(r, "no filter named '%.*s'", (int)(name.bytes < 40 ? name.bytes : 40), name.at);
    if (!f || !template_step(r, 1) || !template_takes(r, a, f->least, f->most, f->name))
        return nothing;
    return f->call(r, v, a);
}
