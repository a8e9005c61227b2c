/* template_list.c: filters that go through a list: in order, or one by one. */
#include <string.h>

#include "model/template_parts.h"

static struct value lowered(struct run *r, struct value v)
{
    return v.kind == TEXT ? template_text_value(template_cased(r, v.text, LOWER)) : v;
}

struct keyed {
    struct value key, value;
};

/* An insertion of one after the other keeps the order of equals; lists here are short, steps bound the rest. */
struct value template_do_sort(struct run *r, struct value v, const struct arguments *a)
{
    const bool is_reverse = template_flag(a, 0, "reverse"), minds_case = template_flag(a, 1, "case_sensitive");
    const struct value *attribute = template_argument(a, 2, "attribute");
    const struct value list = template_list_of(r, v);
    const size_t count = list.kind == LIST ? list.list.count : 0;
    struct keyed *all = template_new(r, (count + 1) * sizeof *all);
    struct value *out = template_new(r, (count + 1) * sizeof *out);
    for (size_t i = 0; all && out && i < count && !template_failed(r); i++) {
        struct keyed one = {.value = list.list.at[i]};
        one.key = attribute ? template_part_of(r, one.value, template_spell(r, *attribute)) : one.value;
        if (!minds_case)
            one.key = lowered(r, one.key);
        size_t at = i;
        for (; at > 0 && !template_failed(r); at--) {
            const int order = template_order(r, all[at - 1].key, one.key);
            if (is_reverse ? order >= 0 : order <= 0)
                break;
            all[at] = all[at - 1];
        }
        all[at] = one;
    }
    for (size_t i = 0; all && out && i < count; i++)
        out[i] = all[i].value;
    return template_list(out, out && all ? count : 0);
}

struct value template_do_unique(struct run *r, struct value v, const struct arguments *a)
{
    const bool minds_case = template_flag(a, 0, "case_sensitive");
    const struct value list = template_list_of(r, v);
    const size_t count = list.kind == LIST ? list.list.count : 0;
    struct value *out = template_new(r, (count + 1) * sizeof *out), *keys = template_new(r, (count + 1) * sizeof *keys);
    size_t kept = 0;
    for (size_t i = 0; out && keys && i < count && !template_failed(r); i++) {
        const struct value key = minds_case ? list.list.at[i] : lowered(r, list.list.at[i]);
        if (template_contains(r, template_list(keys, kept), key))
            continue;
        keys[kept] = key;
        out[kept++] = list.list.at[i];
    }
    return template_list(out, kept);
}

static struct value extreme(struct run *r, struct value v, bool is_most)
{
    const struct value list = template_list_of(r, v);
    struct value best = template_undefined(template_literal("item"));
    for (size_t i = 0; list.kind == LIST && i < list.list.count && !template_failed(r); i++) {
        const struct value one = list.list.at[i];
        const int order = i ? template_order(r, lowered(r, one), lowered(r, best)) : 0;
        if (i == 0 || (is_most ? order > 0 : order < 0))
            best = one;
    }
    return best;
}

struct value template_do_max(struct run *r, struct value v, const struct arguments *a)
{
    (void)a;
    return extreme(r, v, true);
}

struct value template_do_min(struct run *r, struct value v, const struct arguments *a)
{
    (void)a;
    return extreme(r, v, false);
}

struct value template_do_sum(struct run *r, struct value v, const struct arguments *a)
{
    const struct value *attribute = template_argument(a, 0, "attribute"), *start = template_argument(a, 1, "start");
    const struct value list = template_list_of(r, v);
    struct value sum = start ? *start : template_int(0);
    for (size_t i = 0; list.kind == LIST && i < list.list.count && !template_failed(r); i++) {
        struct value one = list.list.at[i];
        if (attribute && attribute->kind != NONE)
            one = template_part_of(r, one, template_spell(r, *attribute));
        sum = template_binary(r, OP_ADD, sum, one);
    }
    return sum;
}

struct value template_do_dictsort(struct run *r, struct value v, const struct arguments *a)
{
    const struct value *by = template_argument(a, 1, "by");
    const struct arguments none = {.count = 0};
    const struct value pairs = template_filter(r, template_literal("items"), v, &none);
    struct arguments sort = {.count = 3, .placed = 3};
    sort.at[0] = template_bool(template_flag(a, 2, "reverse"));
    sort.at[1] = template_bool(template_flag(a, 0, "case_sensitive"));
    sort.at[2] = template_text_value(template_literal(by && by->kind == TEXT && template_text_is(by->text, "value") ? "1" : "0"));
    return template_do_sort(r, pairs, &sort);
}

/* ---- one by one ---- */

/* What is left of the arguments behind the first n. */
static struct arguments behind(const struct arguments *a, uint32_t n)
{
    struct arguments rest = {.count = 0};
    for (uint32_t i = n; i < a->count; i++) {
        rest.at[rest.count] = a->at[i];
        rest.name[rest.count++] = a->name[i];
    }
    rest.placed = a->placed > n ? a->placed - n : 0;
    return rest;
}

/* These filters see nothing in what is not true, so also in none. */
static struct value seen_through(struct run *r, struct value v)
{
    return template_is_true(v) ? template_list_of(r, v) : template_list(NULL, 0);
}

struct value template_do_map(struct run *r, struct value v, const struct arguments *a)
{
    const struct value list = seen_through(r, v);
    const struct value *attribute = a->placed ? NULL : template_argument(a, 0, "attribute");
    const struct value *preset = template_argument(a, ARGUMENTS_MAX, "default");
    const size_t count = list.kind == LIST ? list.list.count : 0;
    struct value *out = template_new(r, (count + 1) * sizeof *out);
    struct arguments rest = behind(a, 1);
    if (!attribute && (!a->placed || a->at[0].kind != TEXT || !template_filter_is_known(a->at[0].text)))
        template_refuse(r, "map: expected an attribute or a filter's name");
    for (size_t i = 0; out && i < count && !template_failed(r); i++) {
        if (!attribute) {
            out[i] = template_filter(r, a->at[0].text, list.list.at[i], &rest);
            continue;
        }
        out[i] = template_part_of(r, list.list.at[i], template_spell(r, *attribute));
        if (preset && out[i].kind == UNDEFINED)
            out[i] = *preset;
    }
    return template_list(out, out ? count : 0);
}

/* select, reject: (test, ...); selectattr, rejectattr: (attribute, test, ...); no test: is it true? */
static struct value pick(struct run *r, struct value v, const struct arguments *a, bool by_attribute, bool wanted)
{
    const struct value list = seen_through(r, v);
    const uint32_t place = by_attribute;
    const size_t count = list.kind == LIST ? list.list.count : 0;
    struct value *out = template_new(r, (count + 1) * sizeof *out);
    struct arguments rest = behind(a, place + 1);
    size_t kept = 0;
    const bool has_test = a->placed > place;
    if ((by_attribute && (!a->placed || a->at[0].kind != TEXT)) ||
        (has_test && (a->at[place].kind != TEXT || !template_test_is_known(a->at[place].text))))
        template_refuse(r, "expected a test by its name");
    for (size_t i = 0; out && i < count && !template_failed(r); i++) {
        const struct value one = by_attribute ? template_part_of(r, list.list.at[i], a->at[0].text) : list.list.at[i];
        const bool is = has_test ? template_test(r, a->at[place].text, one, &rest) : template_is_true(one);
        if (is == wanted)
            out[kept++] = list.list.at[i];
    }
    return template_list(out, kept);
}

struct value template_do_select(struct run *r, struct value v, const struct arguments *a)
{
    return pick(r, v, a, false, true);
}

struct value template_do_reject(struct run *r, struct value v, const struct arguments *a)
{
    return pick(r, v, a, false, false);
}

struct value template_do_selectattr(struct run *r, struct value v, const struct arguments *a)
{
    return pick(r, v, a, true, true);
}

struct value template_do_rejectattr(struct run *r, struct value v, const struct arguments *a)
{
    return pick(r, v, a, true, false);
}
