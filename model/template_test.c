/* template_test.c: what stands behind "is". */
#include <string.h>

#include "model/template_parts.h"

static bool is_number(struct value v)
{
    return v.kind == INT || v.kind == FLOAT || v.kind == BOOL;
}

static bool is_cased(struct run *r, struct value v, enum text_case to)
{
    const struct text t = template_spell(r, v), other = template_cased(r, t, to);
    const struct text opposite = template_cased(r, t, to == UPPER ? LOWER : UPPER);
    return template_text_equal(t, other) && !template_text_equal(other, opposite);
}

static bool remainder_is(struct run *r, struct value v, int64_t by, int64_t wanted)
{
    int64_t n;
    if (!template_whole(v, &n) || by == 0 || by == -1)
        return template_refuse(r, "expected integers, not %s", template_kind_name(v)) || false;
    return (n % by + by) % by == wanted;
}

/* Of two values; the second is the argument. */
static bool of_two(struct run *r, const char *name, struct value v, struct value other)
{
    int64_t by = 0;
    if (!strcmp(name, "eq"))
        return template_equal(r, v, other);
    if (!strcmp(name, "ne"))
        return !template_equal(r, v, other);
    if (!strcmp(name, "in"))
        return template_contains(r, other, v);
    if (!strcmp(name, "sameas"))
        return v.kind == other.kind && template_equal(r, v, other);
    if (!strcmp(name, "divisibleby"))
        return template_whole(other, &by) ? remainder_is(r, v, by, 0)
                                          : template_refuse(r, "divisibleby: expected an integer");
    if (v.kind == UNDEFINED || other.kind == UNDEFINED)
        return template_refuse(r, "%s: a value is undefined", name);
    const int order = template_order(r, v, other);
    return !strcmp(name, "lt") ? order < 0 : !strcmp(name, "le") ? order <= 0 : !strcmp(name, "gt") ? order > 0 : order >= 0;
}

static bool of_one(struct run *r, const char *name, struct value v)
{
    if (!strcmp(name, "defined"))
        return v.kind != UNDEFINED;
    if (!strcmp(name, "undefined"))
        return v.kind == UNDEFINED;
    if (!strcmp(name, "none"))
        return v.kind == NONE;
    if (!strcmp(name, "string"))
        return v.kind == TEXT;
    if (!strcmp(name, "mapping"))
        return v.kind == DICT;
    if (!strcmp(name, "iterable"))
        return v.kind == TEXT || v.kind == LIST || v.kind == DICT || v.kind == UNDEFINED;
    if (!strcmp(name, "sequence"))
        return v.kind == TEXT || v.kind == LIST || v.kind == DICT || v.kind == UNDEFINED;
    if (!strcmp(name, "number"))
        return is_number(v);
    if (!strcmp(name, "integer"))
        return v.kind == INT;
    if (!strcmp(name, "float"))
        return v.kind == FLOAT;
    if (!strcmp(name, "boolean"))
        return v.kind == BOOL;
    if (!strcmp(name, "true"))
        return v.kind == BOOL && v.truth;
    if (!strcmp(name, "false"))
        return v.kind == BOOL && !v.truth;
    if (!strcmp(name, "callable"))
        return v.kind == MACRO || v.kind == METHOD || v.kind == FUNCTION;
    if (!strcmp(name, "odd"))
        return remainder_is(r, v, 2, 1);
    if (!strcmp(name, "even"))
        return remainder_is(r, v, 2, 0);
    return is_cased(r, v, !strcmp(name, "upper") ? UPPER : LOWER);
}

static const struct test {
    const char *name, *is; /* the name that the code above goes by */
    uint32_t arguments;
} tests[] = {{"!=", "ne", 1}, {"<", "lt", 1}, {"boolean", "boolean", 0}, {"callable", "callable", 0},
             {"defined", "defined", 0}, {"divisibleby", "divisibleby", 1}, {"eq", "eq", 1}, {"equalto", "eq", 1},
             {"==", "eq", 1}, {"even", "even", 0}, {"false", "false", 0}, {"float", "float", 0}, {"ge", "ge", 1},
             {">=", "ge", 1}, {"greaterthan", "gt", 1}, {"gt", "gt", 1}, {">", "gt", 1}, {"in", "in", 1},
             {"integer", "integer", 0}, {"iterable", "iterable", 0}, {"le", "le", 1}, {"<=", "le", 1},
             {"lessthan", "lt", 1}, {"lower", "lower", 0}, {"lt", "lt", 1}, {"mapping", "mapping", 0}, {"ne", "ne", 1},
             {"none", "none", 0}, {"number", "number", 0}, {"odd", "odd", 0}, {"sameas", "sameas", 1},
             {"sequence", "sequence", 0}, {"string", "string", 0}, {"true", "true", 0}, {"undefined", "undefined", 0},
             {"upper", "upper", 0}};

static const struct test *find(struct text name)
{
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (template_text_is(name, tests[i].name))
            return &tests[i];
    return NULL;
}

bool template_test_is_known(struct text name)
{
    return find(name) != NULL;
}

bool template_test(struct run *r, struct text name, struct value v, const struct arguments *a)
{
    const struct test *t = find(name);
    if (!t)
        template_refuse(r, "no test named '%.*s'", (int)(name.bytes < 40 ? name.bytes : 40), name.at);
    if (!t || !template_step(r, 1) || !template_takes(r, a, t->arguments, t->arguments, t->name))
        return false;
    return t->arguments ? of_two(r, t->is, v, a->at[0]) : of_one(r, t->is, v);
}
