/* template_eval.c: expressions. */
#include <math.h>
#include <string.h>

#include "model/template_parts.h"

static const struct value nothing = {.kind = UNDEFINED, .text = {.at = ""}};

static struct value lookup(struct run *r, struct text name)
{
    for (const struct scope *s = r->scope; s; s = s->outer)
        for (const struct binding *b = s->bindings; b && template_step(r, 1); b = b->next)
            if (template_text_equal(b->name, name))
                return b->value;
    if (template_function_is_known(name))
        return (struct value){.kind = FUNCTION, .text = name};
    return template_undefined(name);
}

static struct value undefined_use(struct run *r, struct value v)
{
    template_refuse(r, "'%.*s' is undefined", (int)(v.text.bytes < 60 ? v.text.bytes : 60), v.text.at);
    return nothing;
}

/* ---- parts of values ---- */

static struct value loop_part(struct loop *l, struct text name)
{
    const int64_t index = (int64_t)l->index, count = (int64_t)l->count;
    const struct {
        const char *name;
        int64_t value;
    } numbers[] = {{"index", index + 1}, {"index0", index}, {"revindex", count - index},
                   {"revindex0", count - index - 1}, {"length", count}, {"depth", 1}, {"depth0", 0}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (template_text_is(name, numbers[i].name))
            return template_int(numbers[i].value);
    if (template_text_is(name, "first"))
        return template_bool(index == 0);
    if (template_text_is(name, "last"))
        return template_bool(index + 1 == count);
    if (template_text_is(name, "previtem") && index > 0)
        return l->items[index - 1];
    if (template_text_is(name, "nextitem") && index + 1 < count)
        return l->items[index + 1];
    return template_undefined(name);
}

struct value template_attribute(struct run *r, struct value v, struct text name)
{
    const struct value *found = NULL;
    if (v.kind == UNDEFINED)
        return undefined_use(r, v);
    if (template_method_is_known(v, name)) {
        struct method *m = template_new(r, sizeof *m);
        if (!m)
            return nothing;
        *m = (struct method){.self = v, .name = name};
        return (struct value){.kind = METHOD, .method = m};
    }
    if (v.kind == LOOP)
        return loop_part(v.loop, name);
    if (v.kind == DICT || v.kind == NAMESPACE)
        found = template_get(r, v.dict, template_text_value(name));
    return found ? *found : template_undefined(name);
}

/* Bytes of character n of t, from the end when negative. False: not there. */
static bool character_at(struct text t, int64_t n, struct text *out)
{
    const int64_t count = (int64_t)template_characters(t);
    size_t byte = 0, bytes;
    n = n < 0 ? n + count : n;
    if (n < 0 || n >= count)
        return false;
    for (; n > 0; n--) {
        template_character(t.at + byte, &bytes);
        byte += bytes;
    }
    template_character(t.at + byte, &bytes);
    *out = template_part(t, byte, byte + bytes);
    return true;
}

struct value template_item(struct run *r, struct value v, struct value key)
{
    const struct value *found;
    struct text one;
    int64_t n;
    if (v.kind == UNDEFINED)
        return undefined_use(r, v);
    if (v.kind == DICT && (found = template_get(r, v.dict, key)))
        return *found;
    if (template_whole(key, &n) && (v.kind == LIST || v.kind == TEXT)) {
        if (v.kind == TEXT)
            return template_step(r, v.text.bytes / 16) && character_at(v.text, n, &one) ? template_text_value(one)
                                                                                         : nothing;
        n = n < 0 ? n + (int64_t)v.list.count : n;
        return n >= 0 && (size_t)n < v.list.count ? v.list.at[n] : template_undefined(template_literal("list item"));
    }
    if (key.kind == TEXT)
        return template_attribute(r, v, key.text);
    return template_undefined(template_spell(r, key));
}

static struct value slice(struct run *r, const struct node *n)
{
    const struct value v = template_eval(r, n->a);
    const struct node *const nodes[] = {n->b, n->c, n->d};
    int64_t part[3] = {0, 0, 1}, count;
    bool is_given[3] = {false, false, false};
    const struct value *at;
    size_t items, used = 0;
    for (size_t i = 0; i < 3 && !template_failed(r); i++) {
        const struct value p = nodes[i] ? template_eval(r, nodes[i]) : (struct value){.kind = NONE};
        is_given[i] = p.kind != NONE;
        if (is_given[i] && !template_whole(p, &part[i]))
            template_refuse(r, "a slice takes integers, not %s", template_kind_name(p));
    }
    if (v.kind == UNDEFINED && !template_failed(r))
        return undefined_use(r, v);
    if (v.kind != TEXT && v.kind != LIST)
        return template_undefined(template_literal("slice"));
    if (part[2] == 0 || part[2] == INT64_MIN) {
        template_refuse(r, "a slice's step is out of range");
        return nothing;
    }
    if (!template_items(r, v, &at, &items))
        return nothing;
    count = (int64_t)items;
    const int64_t step = part[2], low = step > 0 ? 0 : -1, high = step > 0 ? count : count - 1;
    int64_t ends[2] = {step > 0 ? 0 : count - 1, step > 0 ? count : -1};
    for (size_t i = 0; i < 2; i++)
        if (is_given[i]) {
            ends[i] = part[i] < 0 ? (part[i] < -count ? -1 : part[i] + count) : part[i];
            ends[i] = ends[i] < low ? low : ends[i] > high ? high : ends[i];
        }
    if (v.kind == LIST && step == 1) /* shares its items */
        return (struct value){.kind = LIST, .is_tuple = v.is_tuple,
                              .list = {at + ends[0], ends[1] > ends[0] ? (size_t)(ends[1] - ends[0]) : 0}};
    struct value *out = template_new(r, (items + 1) * sizeof *out);
    struct builder b = {0};
    for (int64_t i = ends[0]; out && (step > 0 ? i < ends[1] : i > ends[1]) && template_step(r, 1);) {
        if (v.kind == TEXT)
            template_add(r, &b, at[i].text);
        else
            out[used++] = at[i];
        if (step > 0 && i > count - step) /* no overflow */
            break;
        i += step;
    }
    if (v.kind == TEXT)
        return template_text_value(template_built(&b));
    return (struct value){.kind = LIST, .is_tuple = v.is_tuple, .list = {out, used}};
}

/* ---- operators ---- */

static struct value whole_operation(struct run *r, enum operator op, int64_t a, int64_t b)
{
    int64_t out = 0, base = a;
    bool bad = false;
    switch (op) {
    case OP_ADD: bad = __builtin_add_overflow(a, b, &out); break;
    case OP_SUB: bad = __builtin_sub_overflow(a, b, &out); break;
    case OP_MUL: bad = __builtin_mul_overflow(a, b, &out); break;
    case OP_FLOORDIV:
    case OP_MOD:
        if (b == 0 || (a == INT64_MIN && b == -1)) {
            bad = true;
            break;
        }
        out = op == OP_MOD ? a % b : a / b;
        if (a % b != 0 && (a < 0) != (b < 0))
            out += op == OP_MOD ? b : -1;
        break;
    default: /* OP_POW */
        out = 1;
        for (bad = b < 0 || b > 64; !bad && b > 0; b--)
            bad = __builtin_mul_overflow(out, base, &out);
        break;
    }
    if (bad)
        template_refuse(r, "a number out of range");
    return template_int(out);
}

static struct value real_operation(struct run *r, enum operator op, double a, double b)
{
    double out;
    if ((op == OP_DIV || op == OP_FLOORDIV || op == OP_MOD) && !(b < 0 || b > 0)) {
        template_refuse(r, "division by zero");
        return nothing;
    }
    switch (op) {
    case OP_ADD: out = a + b; break;
    case OP_SUB: out = a - b; break;
    case OP_MUL: out = a * b; break;
    case OP_DIV: out = a / b; break;
    case OP_FLOORDIV: out = floor(a / b); break;
    case OP_MOD: out = a - floor(a / b) * b; break;
    default: out = pow(a, b); break;
    }
    return (struct value){.kind = FLOAT, .real = out};
}

static struct value join_lists(struct run *r, struct value a, struct value b)
{
    const size_t count = a.list.count + b.list.count;
    struct value *at = template_step(r, count) ? template_new(r, (count + 1) * sizeof *at) : NULL;
    if (!at)
        return nothing;
    if (a.list.count)
        memcpy(at, a.list.at, a.list.count * sizeof *at);
    if (b.list.count)
        memcpy(at + a.list.count, b.list.at, b.list.count * sizeof *at);
    return (struct value){.kind = LIST, .is_tuple = a.is_tuple, .list = {at, count}};
}

static struct value repeat(struct run *r, struct value v, int64_t times)
{
    struct builder b = {0};
    struct value list = {.kind = LIST, .is_tuple = v.is_tuple};
    for (int64_t i = 0; i < times && template_step(r, 1); i++) {
        if (v.kind == TEXT)
            template_add(r, &b, v.text);
        else
            list = join_lists(r, list, v);
        if (v.kind == TEXT ? v.text.bytes == 0 : v.list.count == 0)
            break;
    }
    return v.kind == TEXT ? template_text_value(template_built(&b)) : list;
}

struct value template_binary(struct run *r, enum operator op, struct value a, struct value b)
{
    int64_t n, m;
    double x, y;
    if (template_failed(r))
        return nothing;
    if (op == OP_JOIN)
        return template_text_value(template_concat(r, template_spell(r, a), template_spell(r, b)));
    if (a.kind == UNDEFINED || b.kind == UNDEFINED)
        return undefined_use(r, a.kind == UNDEFINED ? a : b);
    if (op != OP_DIV && template_whole(a, &n) && template_whole(b, &m) && !(op == OP_POW && m < 0))
        return whole_operation(r, op, n, m);
    if (template_number(a, &x) && template_number(b, &y))
        return real_operation(r, op, x, y);
    if (op == OP_ADD && a.kind == TEXT && b.kind == TEXT)
        return template_text_value(template_concat(r, a.text, b.text));
    if (op == OP_ADD && a.kind == LIST && b.kind == LIST && a.is_tuple == b.is_tuple)
        return join_lists(r, a, b);
    if (op == OP_MUL && (a.kind == TEXT || a.kind == LIST) && template_whole(b, &n))
        return repeat(r, a, n);
    if (op == OP_MUL && (b.kind == TEXT || b.kind == LIST) && template_whole(a, &n))
        return repeat(r, b, n);
    template_refuse(r, "an operation on %s and %s that is not supported", template_kind_name(a), template_kind_name(b));
    return nothing;
}

static bool compare(struct run *r, enum operator op, struct value a, struct value b)
{
    if (op == OP_EQ || op == OP_NE)
        return template_equal(r, a, b) == (op == OP_EQ);
    if (op == OP_IN || op == OP_NOT_IN)
        return template_contains(r, b, a) == (op == OP_IN);
    if (a.kind == UNDEFINED || b.kind == UNDEFINED)
        return template_is_true(undefined_use(r, a.kind == UNDEFINED ? a : b));
    const int order = template_order(r, a, b);
    return op == OP_LT ? order < 0 : op == OP_LE ? order <= 0 : op == OP_GT ? order > 0 : order >= 0;
}

static struct value comparison(struct run *r, const struct node *n)
{
    struct value left = template_eval(r, n->a);
    for (const struct node *o = n->b; o && !template_failed(r); o = o->next) {
        const struct value right = template_eval(r, o->a);
        if (template_failed(r) || !compare(r, (enum operator)o->op, left, right))
            return template_bool(false);
        left = right;
    }
    return template_bool(true);
}

static struct value sign(struct run *r, struct value v, bool is_negative)
{
    int64_t n;
    if (v.kind == UNDEFINED)
        return undefined_use(r, v);
    if (v.kind == FLOAT)
        return (struct value){.kind = FLOAT, .real = is_negative ? -v.real : v.real};
    if (!template_whole(v, &n) || n == INT64_MIN) {
        template_refuse(r, "a sign before a %s", template_kind_name(v));
        return nothing;
    }
    return template_int(is_negative ? -n : n);
}

/* ---- calls ---- */

static void take_arguments(struct run *r, const struct node *list, struct arguments *a)
{
    a->count = a->placed = 0;
    for (const struct node *n = list; n && a->count < ARGUMENTS_MAX; n = n->next) {
        const bool is_named = n->kind == NODE_KEYWORD;
        a->name[a->count] = is_named ? n->name : (struct text){.at = ""};
        a->at[a->count] = template_eval(r, is_named ? n->a : n);
        a->placed += !is_named;
        a->count++;
    }
}

static struct value call(struct run *r, const struct node *n)
{
    const struct value callee = template_eval(r, n->a);
    struct arguments a;
    take_arguments(r, n->b, &a);
    if (template_failed(r))
        return nothing;
    switch (callee.kind) {
    case MACRO: return template_call_macro(r, callee.macro, &a);
    case METHOD: return template_method(r, callee.method, &a);
    case FUNCTION: return template_function(r, callee.text, &a);
    case UNDEFINED: return undefined_use(r, callee);
    default: template_refuse(r, "a %s cannot be called", template_kind_name(callee)); return nothing;
    }
}

static struct value named_call(struct run *r, const struct node *n)
{
    const struct value over = template_eval(r, n->a);
    struct arguments a;
    take_arguments(r, n->b, &a);
    if (template_failed(r))
        return nothing;
    return n->kind == NODE_FILTER ? template_filter(r, n->name, over, &a)
                                  : template_bool(template_test(r, n->name, over, &a));
}

static struct value collect(struct run *r, const struct node *n)
{
    size_t count = 0;
    if (n->kind == NODE_DICT) {
        struct dict *d = template_new(r, sizeof *d);
        for (const struct node *i = n->a; d && i && !template_failed(r); i = i->next->next) {
            const struct value key = template_eval(r, i);
            template_set(r, d, key, template_eval(r, i->next));
        }
        return d ? (struct value){.kind = DICT, .dict = d} : nothing;
    }
    for (const struct node *i = n->a; i; i = i->next)
        count++;
    struct value *at = template_new(r, (count + 1) * sizeof *at);
    count = 0;
    for (const struct node *i = n->a; at && i && !template_failed(r); i = i->next)
        at[count++] = template_eval(r, i);
    return (struct value){.kind = LIST, .is_tuple = n->kind == NODE_TUPLE, .list = {at, count}};
}

static struct value eval(struct run *r, const struct node *n)
{
    struct value v;
    switch (n->kind) {
    case NODE_CONSTANT: return n->constant;
    case NODE_HOLE: return r->hole;
    case NODE_NAME: return lookup(r, n->name);
    case NODE_LIST:
    case NODE_TUPLE:
    case NODE_DICT: return collect(r, n);
    case NODE_ATTRIBUTE: return template_attribute(r, template_eval(r, n->a), n->name);
    case NODE_ITEM: v = template_eval(r, n->a); return template_item(r, v, template_eval(r, n->b));
    case NODE_SLICE: return slice(r, n);
    case NODE_CALL: return call(r, n);
    case NODE_FILTER:
    case NODE_TEST: return named_call(r, n);
    case NODE_NOT: return template_bool(!template_is_true(template_eval(r, n->a)));
    case NODE_NEGATIVE:
    case NODE_POSITIVE: return sign(r, template_eval(r, n->a), n->kind == NODE_NEGATIVE);
    case NODE_BINARY: v = template_eval(r, n->a); return template_binary(r, (enum operator)n->op, v, template_eval(r, n->b));
    case NODE_COMPARE: return comparison(r, n);
    case NODE_AND: v = template_eval(r, n->a); return template_is_true(v) ? template_eval(r, n->b) : v;
    case NODE_OR: v = template_eval(r, n->a); return template_is_true(v) ? v : template_eval(r, n->b);
    case NODE_CHOICE:
        v = template_eval(r, n->b);
        return template_is_true(v) ? template_eval(r, n->a) : n->c ? template_eval(r, n->c) : nothing;
    default: template_refuse(r, "an unknown expression"); return nothing;
    }
}

struct value template_eval(struct run *r, const struct node *n)
{
    struct value v = nothing;
    if (++r->depth > RUN_DEPTH_MAX)
        template_refuse(r, "nested more than %d deep", RUN_DEPTH_MAX);
    if (template_step(r, 1)) {
        r->line = n->line;
        v = eval(r, n);
    }
    r->depth--;
    return template_failed(r) ? nothing : v;
}
