/* template_method.c: methods of values, and the functions that a template may call. */
#include <string.h>

#include "model/template_parts.h"

static const struct value nothing = {.kind = UNDEFINED, .text = {.at = ""}};

struct list {
    struct value *at;
    size_t count, room;
};

static void push(struct run *r, struct list *l, struct value v)
{
    if (!template_step(r, 1))
        return;
    if (l->count == l->room) {
        const size_t room = l->room * 2 + 8;
        struct value *at = template_new(r, room * sizeof *at);
        if (!at)
            return;
        if (l->count)
            memcpy(at, l->at, l->count * sizeof *at);
        l->at = at;
        l->room = room;
    }
    l->at[l->count++] = v;
}

static bool text_at(struct run *r, const struct arguments *a, uint32_t place, struct text *out)
{
    if (place >= a->count || a->at[place].kind != TEXT)
        return template_refuse(r, "expected a string as argument %u", place + 1);
    *out = a->at[place].text;
    return true;
}

/* No argument, or none: a preset. */
static int64_t whole_at(struct run *r, const struct arguments *a, uint32_t place, const char *name, int64_t preset)
{
    const struct value *v = template_argument(a, place, name);
    int64_t n = preset;
    if (v && v->kind != NONE && !template_whole(*v, &n))
        template_refuse(r, "expected an integer as argument %u", place + 1);
    return n;
}

/* ---- strings ---- */

/* Without a separator: at white space, and no empty pieces. most < 0: all. */
static struct value split(struct run *r, struct text t, const struct arguments *a)
{
    const struct value *separator = template_argument(a, 0, "sep");
    int64_t most = whole_at(r, a, 1, "maxsplit", -1);
    struct list out = {0};
    size_t at = 0, bytes;
    if (separator && separator->kind != NONE) {
        if (separator->kind != TEXT || separator->text.bytes == 0) {
            template_refuse(r, "split: expected a string that is not empty");
            return nothing;
        }
        for (size_t hit; most != 0 && (hit = template_find(t, separator->text, at)) != SIZE_MAX && !template_failed(r); most--) {
            push(r, &out, template_text_value(template_part(t, at, hit)));
            at = hit + separator->text.bytes;
        }
        push(r, &out, template_text_value(template_part(t, at, t.bytes)));
        return template_list(out.at, out.count);
    }
    while (!template_failed(r)) {
        while (at < t.bytes && template_is_space(template_character(t.at + at, &bytes)))
            at += bytes;
        if (at == t.bytes)
            break;
        if (most-- == 0) {
            push(r, &out, template_text_value(template_part(t, at, t.bytes)));
            break;
        }
        const size_t from = at;
        while (at < t.bytes && !template_is_space(template_character(t.at + at, &bytes)))
            at += bytes;
        push(r, &out, template_text_value(template_part(t, from, at)));
    }
    return template_list(out.at, out.count);
}

/* From the end: the cuts are counted first. */
static struct value rsplit(struct run *r, struct text t, const struct arguments *a)
{
    const int64_t most = whole_at(r, a, 1, "maxsplit", -1);
    const struct arguments all = {.at = {a->count ? a->at[0] : nothing}, .count = a->count > 0, .placed = a->placed > 0};
    const struct value pieces = split(r, t, &all);
    if (pieces.kind != LIST || most < 0 || pieces.list.count <= (size_t)most + 1)
        return pieces;
    const size_t joined = pieces.list.count - (size_t)most; /* the first ones stay together */
    const struct text last = pieces.list.at[joined - 1].text;
    struct list out = {0};
    push(r, &out, template_text_value(template_part(t, 0, (size_t)(last.at - t.at) + last.bytes)));
    for (size_t i = joined; i < pieces.list.count; i++)
        push(r, &out, pieces.list.at[i]);
    return template_list(out.at, out.count);
}

static struct value splitlines(struct run *r, struct text t, const struct arguments *a)
{
    const struct value *keeps = template_argument(a, 0, "keepends");
    struct list out = {0};
    for (size_t at = 0; at < t.bytes && !template_failed(r);) {
        size_t end = at;
        while (end < t.bytes && t.at[end] != '\n' && t.at[end] != '\r')
            end++;
        size_t next = end + (end < t.bytes);
        next += next < t.bytes && t.at[end] == '\r' && t.at[next] == '\n';
        push(r, &out, template_text_value(template_part(t, at, keeps && template_is_true(*keeps) ? next : end)));
        at = next;
    }
    return template_list(out.at, out.count);
}

static bool matches(struct text t, struct text what, bool at_start)
{
    return what.bytes <= t.bytes &&
           (what.bytes == 0 || !memcmp(at_start ? t.at : t.at + t.bytes - what.bytes, what.at, what.bytes));
}

/* One string or a tuple of them. */
static struct value starts(struct run *r, struct text t, const struct arguments *a, bool at_start)
{
    const struct value v = a->count ? a->at[0] : nothing;
    const size_t count = v.kind == TEXT ? 1 : v.kind == LIST && v.is_tuple ? v.list.count : 0;
    if (v.kind != TEXT && !(v.kind == LIST && v.is_tuple)) {
        template_refuse(r, "expected a string or a tuple of them");
        return nothing;
    }
    for (size_t i = 0; i < count; i++) {
        const struct value one = v.kind == TEXT ? v : v.list.at[i];
        if (one.kind != TEXT)
            template_refuse(r, "expected strings");
        else if (matches(t, one.text, at_start))
            return template_bool(true);
    }
    return template_bool(false);
}

static struct value find_in(struct run *r, struct text t, const struct arguments *a, bool from_end)
{
    struct text what;
    size_t hit = SIZE_MAX;
    if (!text_at(r, a, 0, &what))
        return nothing;
    for (size_t at = 0, next; (next = template_find(t, what, at)) != SIZE_MAX && template_step(r, 1); at = next + 1) {
        hit = next;
        if (!from_end)
            break;
    }
    if (hit == SIZE_MAX)
        return template_int(-1);
    return template_int((int64_t)template_characters(template_part(t, 0, hit)));
}

static struct value count_in(struct run *r, struct text t, const struct arguments *a)
{
    struct text what;
    int64_t n = 0;
    if (!text_at(r, a, 0, &what))
        return nothing;
    if (what.bytes == 0)
        return template_int((int64_t)template_characters(t) + 1);
    for (size_t at = 0; (at = template_find(t, what, at)) != SIZE_MAX && template_step(r, 1); at += what.bytes)
        n++;
    return template_int(n);
}

static struct value join(struct run *r, struct text between, const struct arguments *a)
{
    const struct value *at;
    struct builder b = {0};
    size_t count;
    if (!template_items(r, a->at[0], &at, &count))
        return nothing;
    for (size_t i = 0; i < count && !template_failed(r); i++) {
        if (at[i].kind != TEXT)
            template_refuse(r, "join: expected strings, not %s", template_kind_name(at[i]));
        if (i)
            template_add(r, &b, between);
        template_add(r, &b, template_spell(r, at[i]));
    }
    return template_text_value(template_built(&b));
}

static struct value is_all(struct text t, bool (*is)(uint32_t))
{
    size_t bytes;
    for (size_t i = 0; i < t.bytes; i += bytes)
        if (!is(template_character(t.at + i, &bytes)))
            return template_bool(false);
    return template_bool(t.bytes > 0);
}

static bool is_digit(uint32_t c)
{
    return c >= '0' && c <= '9';
}

/* "{} {0} {name}" without format specifications; {{ and }} are braces. */
static struct value format(struct run *r, struct text t, const struct arguments *a)
{
    struct builder b = {0};
    uint32_t next = 0;
    for (size_t i = 0; i < t.bytes && !template_failed(r); i++) {
        const char c = t.at[i];
        if ((c == '{' || c == '}') && i + 1 < t.bytes && t.at[i + 1] == c) {
            template_add(r, &b, template_part(t, i, i + 1));
            i++;
            continue;
        }
        if (c != '{') {
            template_add(r, &b, template_part(t, i, i + 1));
            continue;
        }
        const size_t end = template_find(t, template_literal("}"), i);
        const struct text name = template_part(t, i + 1, end == SIZE_MAX ? t.bytes : end);
        const bool is_place = name.bytes == 0 || (name.bytes == 1 && is_digit((uint8_t)name.at[0]));
        const uint32_t place = name.bytes ? (uint32_t)(name.at[0] - '0') : next++;
        const struct value *v = is_place && place < a->placed ? &a->at[place] : NULL;
        for (uint32_t k = a->placed; k < a->count && !is_place; k++)
            if (template_text_equal(a->name[k], name))
                v = &a->at[k];
        if (end == SIZE_MAX || !v)
            template_refuse(r, "format: expected {}, {0} or {name} of what is given");
        else
            template_add(r, &b, template_spell(r, *v));
        i = end;
    }
    return template_text_value(template_built(&b));
}

static struct value strip(struct run *r, struct text t, const struct arguments *a, bool at_start, bool at_end)
{
    struct text chars = {0};
    if (a->count && a->at[0].kind != NONE) {
        if (!text_at(r, a, 0, &chars))
            return nothing;
        if (chars.bytes == 0) /* not the white space that no argument means */
            return template_text_value(t);
    }
    return template_text_value(template_strip(t, at_start, at_end, chars));
}

enum name {
    CAPITALIZE_, COUNT, ENDSWITH, FIND, FORMAT, ISDIGIT, ISSPACE, JOIN, LOWER_, LSTRIP, REMOVEPREFIX, REMOVESUFFIX, REPLACE,
    RFIND, RSPLIT, RSTRIP, SPLIT, SPLITLINES, STARTSWITH, STRIP, TITLE_, UPPER_, /* of strings */
    KEYS, VALUES, ITEMS, GET, /* of mappings */
    LIST_INDEX, LIST_COUNT, /* of lists */
    CYCLE, CHANGED, /* of loop */
    MUTATES /* what would change a value */
};

static const struct entry {
    const char *name;
    enum kind of;
    enum name is;
    uint32_t least, most;
} methods[] = {
    {"capitalize", TEXT, CAPITALIZE_, 0, 0}, {"count", TEXT, COUNT, 1, 1}, {"endswith", TEXT, ENDSWITH, 1, 1},
    {"find", TEXT, FIND, 1, 1}, {"format", TEXT, FORMAT, 0, ARGUMENTS_MAX}, {"isdigit", TEXT, ISDIGIT, 0, 0}, {"isspace", TEXT, ISSPACE, 0, 0},
    {"join", TEXT, JOIN, 1, 1}, {"lower", TEXT, LOWER_, 0, 0}, {"lstrip", TEXT, LSTRIP, 0, 1},
    {"removeprefix", TEXT, REMOVEPREFIX, 1, 1}, {"removesuffix", TEXT, REMOVESUFFIX, 1, 1},
    {"replace", TEXT, REPLACE, 2, 3}, {"rfind", TEXT, RFIND, 1, 1}, {"rsplit", TEXT, RSPLIT, 0, 2},
    {"rstrip", TEXT, RSTRIP, 0, 1}, {"split", TEXT, SPLIT, 0, 2}, {"splitlines", TEXT, SPLITLINES, 0, 1},
    {"startswith", TEXT, STARTSWITH, 1, 1}, {"strip", TEXT, STRIP, 0, 1}, {"title", TEXT, TITLE_, 0, 0},
    {"upper", TEXT, UPPER_, 0, 0}, {"keys", DICT, KEYS, 0, 0}, {"values", DICT, VALUES, 0, 0},
    {"items", DICT, ITEMS, 0, 0}, {"get", DICT, GET, 1, 2}, {"index", LIST, LIST_INDEX, 1, 1},
    {"count", LIST, LIST_COUNT, 1, 1}, {"cycle", LOOP, CYCLE, 1, ARGUMENTS_MAX}, {"changed", LOOP, CHANGED, 1, ARGUMENTS_MAX},
    {"append", LIST, MUTATES, 0, ARGUMENTS_MAX}, {"extend", LIST, MUTATES, 0, ARGUMENTS_MAX},
    {"insert", LIST, MUTATES, 0, ARGUMENTS_MAX}, {"pop", LIST, MUTATES, 0, ARGUMENTS_MAX},
    {"remove", LIST, MUTATES, 0, ARGUMENTS_MAX}, {"update", DICT, MUTATES, 0, ARGUMENTS_MAX},
    {"pop", DICT, MUTATES, 0, ARGUMENTS_MAX}, {"setdefault", DICT, MUTATES, 0, ARGUMENTS_MAX},
    {"clear", DICT, MUTATES, 0, ARGUMENTS_MAX}};

static const struct entry *find_method(enum kind of, struct text name)
{
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (methods[i].of == of && template_text_is(name, methods[i].name))
            return &methods[i];
    return NULL;
}

bool template_method_is_known(struct value self, struct text name)
{
    return find_method(self.kind, name) != NULL;
}

static struct value text_method(struct run *r, enum name is, struct text t, const struct arguments *a)
{
    struct text one = {.at = ""}, other = {.at = ""};
    switch (is) {
    case CAPITALIZE_: return template_text_value(template_cased(r, t, CAPITALIZE));
    case LOWER_: return template_text_value(template_cased(r, t, LOWER));
    case UPPER_: return template_text_value(template_cased(r, t, UPPER));
    case TITLE_: return template_text_value(template_cased(r, t, TITLE));
    case COUNT: return count_in(r, t, a);
    case STARTSWITH:
    case ENDSWITH: return starts(r, t, a, is == STARTSWITH);
    case FIND:
    case RFIND: return find_in(r, t, a, is == RFIND);
    case FORMAT: return format(r, t, a);
    case ISDIGIT: return is_all(t, is_digit);
    case ISSPACE: return is_all(t, template_is_space);
    case JOIN: return join(r, t, a);
    case STRIP:
    case LSTRIP:
    case RSTRIP: return strip(r, t, a, is != RSTRIP, is != LSTRIP);
    case REMOVEPREFIX:
    case REMOVESUFFIX:
        if (text_at(r, a, 0, &one) && matches(t, one, is == REMOVEPREFIX))
            t = is == REMOVEPREFIX ? template_part(t, one.bytes, t.bytes) : template_part(t, 0, t.bytes - one.bytes);
        return template_text_value(t);
    case REPLACE:
        if (!text_at(r, a, 0, &one) || !text_at(r, a, 1, &other))
            return nothing;
        return template_text_value(template_replace(r, t, one, other, whole_at(r, a, 2, "count", -1)));
    case SPLIT: return split(r, t, a);
    case RSPLIT: return rsplit(r, t, a);
    default: return splitlines(r, t, a);
    }
}

static struct value dict_method(struct run *r, enum name is, struct value self, const struct arguments *a)
{
    struct list out = {0};
    const struct arguments none = {.count = 0};
    if (is == GET) {
        const struct value *found = template_get(r, self.dict, a->at[0]);
        return found ? *found : a->count > 1 ? a->at[1] : (struct value){.kind = NONE};
    }
    if (is == ITEMS)
        return template_filter(r, template_literal("items"), self, &none);
    for (size_t i = 0; i < self.dict->count && !template_failed(r); i++)
        push(r, &out, is == KEYS ? self.dict->at[i].key : self.dict->at[i].value);
    return template_list(out.at, out.count);
}

static struct value list_method(struct run *r, enum name is, struct value self, const struct arguments *a)
{
    int64_t count = 0;
    for (size_t i = 0; i < self.list.count && !template_failed(r); i++)
        if (template_equal(r, self.list.at[i], a->at[0])) {
            if (is == LIST_INDEX)
                return template_int((int64_t)i);
            count++;
        }
    if (is == LIST_INDEX)
        template_refuse(r, "index: the value is not in the list");
    return template_int(count);
}

static struct value loop_method(struct run *r, enum name is, struct loop *l, const struct arguments *a)
{
    if (is == CYCLE)
        return a->at[l->index % a->count];
    struct value *copy = template_new(r, a->count * sizeof *copy);
    if (!copy)
        return nothing;
    memcpy(copy, a->at, a->count * sizeof *copy);
    const struct value now = template_list(copy, a->count);
    const bool is_same = l->has_changed && template_equal(r, now, l->last_changed);
    l->last_changed = now;
    l->has_changed = true;
    return template_bool(!is_same);
}

struct value template_method(struct run *r, const struct method *m, const struct arguments *a)
{
    const struct entry *e = find_method(m->self.kind, m->name);
    if (!e || !template_takes(r, a, e->least, e->most, e->name))
        return nothing;
    if (e->is == MUTATES) {
        template_refuse(r, "%s: values of a template do not change", e->name);
        return nothing;
    }
    switch (e->of) {
    case TEXT: return text_method(r, e->is, m->self.text, a);
    case DICT: return dict_method(r, e->is, m->self, a);
    case LIST: return list_method(r, e->is, m->self, a);
    default: return loop_method(r, e->is, m->self.loop, a);
    }
}

/* ---- functions ---- */

static struct value range(struct run *r, const struct arguments *a)
{
    int64_t part[3] = {0, 0, 1};
    struct list out = {0};
    for (uint32_t i = 0; i < a->count; i++)
        if (!template_whole(a->at[i], &part[a->count == 1 ? 1 : i]))
            template_refuse(r, "range: expected integers");
    if (part[2] == 0 || part[2] == INT64_MIN)
        template_refuse(r, "range: the step is out of range");
    for (int64_t i = part[0]; !template_failed(r) && (part[2] > 0 ? i < part[1] : i > part[1]);) {
        push(r, &out, template_int(i));
        if (__builtin_add_overflow(i, part[2], &i))
            break;
    }
    return template_list(out.at, out.count);
}

static struct value object(struct run *r, const struct arguments *a, enum kind kind)
{
    struct dict *d = template_new(r, sizeof *d);
    if (!d)
        return nothing;
    if (a->placed && a->at[0].kind == DICT)
        for (size_t i = 0; i < a->at[0].dict->count; i++)
            template_set(r, d, a->at[0].dict->at[i].key, a->at[0].dict->at[i].value);
    else if (a->placed)
        template_refuse(r, "expected name=value");
    for (uint32_t i = a->placed; i < a->count; i++)
        template_set(r, d, template_text_value(a->name[i]), a->at[i]);
    return (struct value){.kind = kind, .dict = d};
}

static struct value raise_exception(struct run *r, const struct arguments *a)
{
    const struct text t = template_spell(r, a->at[0]);
    template_fail(&r->failure, ERR_ARGUMENT, r->line, "%.*s", (int)(t.bytes < 150 ? t.bytes : 150), t.at);
    return nothing;
}

static struct value strftime_now(struct run *r, const struct arguments *a)
{
    char format[256], out[512];
    struct tm now;
    struct text t = {.at = ""};
    const time_t seconds = time(NULL);
    if (!text_at(r, a, 0, &t))
        return nothing;
    if (t.bytes >= sizeof format || (t.bytes && memchr(t.at, 0, t.bytes)) || !localtime_r(&seconds, &now)) {
        template_refuse(r, "strftime_now: expected a format of less than %zu bytes", sizeof format);
        return nothing;
    }
    memcpy(format, t.at, t.bytes);
    format[t.bytes] = 0;
    const size_t bytes = strftime(out, sizeof out, format, r->call->now ? r->call->now : &now);
    struct builder b = {0};
    template_add(r, &b, (struct text){.at = out, .bytes = bytes});
    return template_text_value(template_built(&b));
}

static const struct {
    const char *name;
    uint32_t least, most;
} functions[] = {{"range", 1, 3}, {"namespace", 0, ARGUMENTS_MAX}, {"dict", 0, ARGUMENTS_MAX},
                 {"raise_exception", 1, 1}, {"strftime_now", 1, 1}};

bool template_function_is_known(struct text name)
{
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (template_text_is(name, functions[i].name))
            return true;
    return false;
}

struct value template_function(struct run *r, struct text name, const struct arguments *a)
{
    size_t i = 0;
    while (!template_text_is(name, functions[i].name))
        i++;
    if (!template_takes(r, a, functions[i].least, functions[i].most, functions[i].name))
        return nothing;
    switch (i) {
    case 0: return range(r, a);
    case 1: return object(r, a, NAMESPACE);
    case 2: return object(r, a, DICT);
    case 3: return raise_exception(r, a);
    default: return strftime_now(r, a);
    }
}
