/* template_run.c: statements. A body that a loop or a macro runs has names of its own; one of `if` has not. */
#include <string.h>

#include "model/template_parts.h"

static struct binding *find(const struct scope *s, struct text name)
{
    for (struct binding *b = s->bindings; b; b = b->next)
        if (template_text_equal(b->name, name))
            return b;
    return NULL;
}

void template_bind(struct run *r, struct text name, struct value v)
{
    struct binding *b = find(r->scope, name);
    if (!b) {
        if (!(b = template_new(r, sizeof *b)))
            return;
        b->name = name;
        b->next = r->scope->bindings;
        r->scope->bindings = b;
    }
    b->value = v;
}

void template_assign(struct run *r, const struct node *target, struct value v)
{
    const struct value *at;
    size_t count, i = 0;
    if (target->kind == NODE_NAME) {
        template_bind(r, target->name, v);
        return;
    }
    if (target->kind == NODE_ATTRIBUTE) {
        const struct value of = template_eval(r, target->a);
        if (of.kind == NAMESPACE)
            template_set(r, of.dict, template_text_value(target->name), v);
        else
            template_refuse(r, "only a namespace takes values by name");
        return;
    }
    if (!template_items(r, v, &at, &count))
        return;
    for (const struct node *n = target->a; n; n = n->next)
        i++;
    if (i != count) {
        template_refuse(r, "%zu values for %zu names", count, i);
        return;
    }
    i = 0;
    for (const struct node *n = target->a; n; n = n->next)
        template_bind(r, n->name, at[i++]);
}

/* What a body prints, instead of printing it. */
static struct text capture(struct run *r, const struct node *body)
{
    struct builder own = {0}, *outer = r->out;
    r->out = &own;
    template_execute(r, body);
    r->out = outer;
    return template_built(&own);
}

static struct scope *enter(struct run *r, struct scope *outer)
{
    struct scope *s = template_new(r, sizeof *s);
    if (s) {
        s->outer = outer;
        r->scope = s;
    }
    return s;
}

/* The items that pass the loop's own condition. */
static const struct value *choose(struct run *r, const struct node *n, const struct value *at, size_t *count)
{
    struct scope *before = r->scope;
    size_t kept = 0;
    if (!n->c)
        return at;
    struct value *chosen = template_new(r, (*count + 1) * sizeof *chosen);
    for (size_t i = 0; chosen && i < *count && enter(r, before); i++) {
        template_assign(r, n->a, at[i]);
        if (template_is_true(template_eval(r, n->c)))
            chosen[kept++] = at[i];
        if (template_failed(r))
            break;
    }
    r->scope = before;
    *count = kept;
    return chosen;
}

static void run_for(struct run *r, const struct node *n)
{
    struct scope *outer = r->scope;
    const struct value *at;
    struct loop *loop;
    size_t count;
    const struct value over = template_eval(r, n->b);
    if (!template_items(r, over, &at, &count) || template_failed(r))
        return;
    at = choose(r, n, at, &count);
    if (count == 0) {
        if (n->e && !template_failed(r) && enter(r, outer))
            template_execute(r, n->e);
        r->scope = outer;
        return;
    }
    if (!at || !(loop = template_new(r, sizeof *loop)))
        return;
    *loop = (struct loop){.items = at, .count = count};
    for (size_t i = 0; i < count && template_step(r, 1) && enter(r, outer); i++) {
        loop->index = i;
        template_bind(r, template_literal("loop"), (struct value){.kind = LOOP, .loop = loop});
        template_assign(r, n->a, at[i]);
        template_execute(r, n->d);
        const bool is_broken = r->leave == BREAK;
        r->leave = GO_ON;
        if (is_broken)
            break;
    }
    r->scope = outer;
}

static void run_macro(struct run *r, const struct node *n)
{
    struct macro *m = template_new(r, sizeof *m);
    if (!m)
        return;
    *m = (struct macro){.node = n, .scope = r->scope};
    template_bind(r, n->name, (struct value){.kind = MACRO, .macro = m});
}

struct value template_call_macro(struct run *r, const struct macro *m, const struct arguments *a)
{
    struct scope *before = r->scope;
    struct text made = {.at = ""};
    uint32_t place = 0, used = 0;
    if (!enter(r, m->scope))
        return template_undefined(m->node->name);
    for (const struct node *p = m->node->a; p && !template_failed(r); p = p->next, place++) {
        const struct value *given = place < a->placed ? &a->at[place] : NULL;
        for (uint32_t i = a->placed; i < a->count && !given; i++)
            if (template_text_equal(a->name[i], p->name))
                given = &a->at[i];
        used += given != NULL;
        template_bind(r, p->name, given ? *given : p->a ? template_eval(r, p->a) : template_undefined(p->name));
    }
    if (used < a->count)
        template_refuse(r, "the macro '%.*s' takes no such argument", (int)m->node->name.bytes, m->node->name.at);
    if (!template_failed(r))
        made = capture(r, m->node->b);
    r->leave = GO_ON;
    r->scope = before;
    return template_text_value(made);
}

static void run_filter_block(struct run *r, const struct node *n, const struct node *filters)
{
    const struct value hole = r->hole;
    struct scope *before = r->scope;
    if (!enter(r, before))
        return;
    struct value made = template_text_value(capture(r, n->b));
    r->scope = before;
    if (filters) {
        r->hole = made;
        made = template_eval(r, filters);
        r->hole = hole;
    }
    if (n->kind == NODE_SET_BLOCK)
        template_assign(r, n->a, made);
    else
        template_add(r, r->out, template_spell(r, made));
}

static void execute(struct run *r, const struct node *n)
{
    switch (n->kind) {
    case NODE_DATA: template_add(r, r->out, n->constant.text); break;
    case NODE_PRINT: template_add(r, r->out, template_spell(r, template_eval(r, n->a))); break;
    case NODE_IF: {
        const bool is = template_is_true(template_eval(r, n->a));
        if (!template_failed(r))
            template_execute(r, is ? n->b : n->c);
        break;
    }
    case NODE_FOR: run_for(r, n); break;
    case NODE_SET: template_assign(r, n->a, template_eval(r, n->b)); break;
    case NODE_SET_BLOCK: run_filter_block(r, n, n->c); break;
    case NODE_FILTER_BLOCK: run_filter_block(r, n, n->a); break;
    case NODE_MACRO: run_macro(r, n); break;
    case NODE_GROUP: template_execute(r, n->a); break;
    case NODE_BREAK: r->leave = BREAK; break;
    case NODE_CONTINUE: r->leave = CONTINUE; break;
    default: template_refuse(r, "an unknown statement"); break;
    }
}

void template_execute(struct run *r, const struct node *list)
{
    if (++r->depth > RUN_DEPTH_MAX)
        template_refuse(r, "nested more than %d deep", RUN_DEPTH_MAX);
    for (const struct node *n = list; n && r->leave == GO_ON && template_step(r, 1); n = n->next) {
        r->line = n->line;
        execute(r, n);
    }
    r->depth--;
}
