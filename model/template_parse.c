/* template_parse.c: statements to nodes. */
#include <string.h>

#include "model/template_parts.h"

struct node *template_node(struct parser *p, enum node_kind kind)
{
    struct node *n = p->failure->error ? NULL : template_take(p->arena, sizeof *n);
    if (!n) {
        template_fail(p->failure, ERR_MEMORY, p->token->line, "too large");
        return NULL;
    }
    n->kind = kind;
    n->line = p->token->line;
    return n;
}

/* Depth is counted where a tree grows, so that walking it later is bounded. */
struct node *template_node_done(struct parser *p, struct node *n)
{
    const struct node *const parts[] = {n->a, n->b, n->c, n->d, n->e};
    uint32_t deepest = 0;
    for (size_t i = 0; i < 5; i++)
        for (const struct node *part = parts[i]; part; part = part->next)
            deepest = part->depth > deepest ? part->depth : deepest;
    if (deepest >= NODE_DEPTH_MAX)
        template_fail(p->failure, ERR_UNSUPPORTED, n->line, "nested more than %d deep", NODE_DEPTH_MAX);
    n->depth = (uint16_t)(deepest + 1);
    return p->failure->error ? NULL : n;
}

bool template_is_op(const struct parser *p, enum operator op)
{
    return p->token->kind == TOKEN_OPERATOR && p->token->op == op;
}

bool template_is_name(const struct parser *p, const char *name)
{
    return p->token->kind == TOKEN_NAME && template_text_is(p->token->text, name);
}

bool template_skip_op(struct parser *p, enum operator op)
{
    const bool is = template_is_op(p, op);
    p->token += is;
    return is;
}

bool template_skip_name(struct parser *p, const char *name)
{
    const bool is = template_is_name(p, name);
    p->token += is;
    return is;
}

bool template_expect_op(struct parser *p, enum operator op, const char *spelling)
{
    if (template_skip_op(p, op))
        return true;
    return template_fail(p->failure, ERR_UNSUPPORTED, p->token->line, "expected '%s'", spelling);
}

static bool expect_end(struct parser *p)
{
    if (p->token->kind == TOKEN_BLOCK_END) {
        p->token++;
        return true;
    }
    return template_fail(p->failure, ERR_UNSUPPORTED, p->token->line, "expected %%}");
}

static struct node *body(struct parser *p, const char *const ends[]);

/* Behind the body: the name of the tag that ended it is next; it must be this one. */
static bool expect_tag(struct parser *p, const char *name)
{
    if (template_skip_name(p, name))
        return expect_end(p);
    return template_fail(p->failure, ERR_UNSUPPORTED, p->token->line, "expected {%% %s %%}", name);
}

static struct node *parse_if(struct parser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    struct node *first = template_node(p, NODE_IF), *n = first;
    struct node *open[NODE_DEPTH_MAX];
    uint32_t count = 0;
    if (!n)
        return NULL;
    for (;;) {
        if (count == NODE_DEPTH_MAX) {
            template_fail(p->failure, ERR_UNSUPPORTED, n->line, "more than %d branches", NODE_DEPTH_MAX);
            return NULL;
        }
        open[count++] = n;
        n->a = template_tuple(p, true);
        if (!n->a || !expect_end(p))
            return NULL;
        n->b = body(p, ends);
        if (p->failure->error)
            return NULL;
        if (!template_skip_name(p, "elif"))
            break;
        struct node *other = template_node(p, NODE_IF);
        if (!other)
            return NULL;
        n->c = other;
        n = other;
    }
    static const char *const last[] = {"endif", NULL};
    if (template_skip_name(p, "else")) {
        if (!expect_end(p))
            return NULL;
        n->c = body(p, last);
    }
    if (p->failure->error || !expect_tag(p, "endif"))
        return NULL;
    while (count > 0) /* the inner ones first */
        if (!template_node_done(p, open[--count]))
            return NULL;
    return first;
}

/* A name, or names and commas; `attribute` allows name.name. */
static struct node *target(struct parser *p, bool attribute)
{
    struct node *tuple = NULL, **last = NULL;
    const bool has_parentheses = template_skip_op(p, OP_LPAREN);
    do {
        struct node *n = template_node(p, NODE_NAME);
        if (!n)
            return NULL;
        if (p->token->kind != TOKEN_NAME) {
            template_fail(p->failure, ERR_UNSUPPORTED, p->token->line, "expected a name to assign to");
            return NULL;
        }
        n->name = (p->token++)->text;
        if (!template_node_done(p, n))
            return NULL;
        if (attribute && template_is_op(p, OP_DOT)) {
            struct node *whole = template_node(p, NODE_ATTRIBUTE);
            p->token++;
            if (!whole || p->token->kind != TOKEN_NAME) {
                template_fail(p->failure, ERR_UNSUPPORTED, p->token->line, "expected a name behind '.'");
                return NULL;
            }
            whole->a = n;
            whole->name = (p->token++)->text;
            return template_node_done(p, whole);
        }
        if (!tuple && !template_is_op(p, OP_COMMA) && !has_parentheses)
            return n;
        if (!tuple) {
            if (!(tuple = template_node(p, NODE_TUPLE)))
                return NULL;
            last = &tuple->a;
        }
        *last = n;
        last = &n->next;
    } while (template_skip_op(p, OP_COMMA) && p->token->kind == TOKEN_NAME);
    if (has_parentheses && !template_expect_op(p, OP_RPAREN, ")"))
        return NULL;
    return template_node_done(p, tuple);
}

static struct node *parse_for(struct parser *p)
{
    static const char *const ends[] = {"else", "endfor", NULL}, *const last[] = {"endfor", NULL};
    struct node *n = template_node(p, NODE_FOR);
    if (!n || !(n->a = target(p, false)))
        return NULL;
    if (!template_skip_name(p, "in")) {
        template_fail(p->failure, ERR_UNSUPPORTED, p->token->line, "expected 'in'");
        return NULL;
    }
    if (!(n->b = template_tuple(p, false)))
        return NULL;
    if (template_skip_name(p, "if") && !(n->c = template_expression(p, true)))
        return NULL;
    if (template_is_name(p, "recursive")) {
        template_fail(p->failure, ERR_UNSUPPORTED, p->token->line, "recursive loops are not supported");
        return NULL;
    }
    if (!expect_end(p))
        return NULL;
    n->d = body(p, ends);
    if (!p->failure->error && template_skip_name(p, "else")) {
        if (!expect_end(p))
            return NULL;
        n->e = body(p, last);
    }
    if (p->failure->error || !expect_tag(p, "endfor"))
        return NULL;
    return template_node_done(p, n);
}

/* What a block makes, under its filters. */
static struct node *block_hole(struct parser *p)
{
    struct node *hole = template_node(p, NODE_HOLE);
    return hole ? template_node_done(p, hole) : NULL;
}

static struct node *parse_set(struct parser *p)
{
    static const char *const ends[] = {"endset", NULL};
    struct node *n = template_node(p, NODE_SET);
    if (!n || !(n->a = target(p, true)))
        return NULL;
    if (template_skip_op(p, OP_ASSIGN)) {
        n->b = template_tuple(p, true);
        if (!n->b || !expect_end(p))
            return NULL;
        return template_node_done(p, n);
    }
    n->kind = NODE_SET_BLOCK;
    if (template_is_op(p, OP_PIPE) && !(n->c = template_filters(p, block_hole(p))))
        return NULL;
    if (!expect_end(p))
        return NULL;
    n->b = body(p, ends);
    if (p->failure->error || !expect_tag(p, "endset"))
        return NULL;
    return template_node_done(p, n);
}

static struct node *parse_macro(struct parser *p)
{
    static const char *const ends[] = {"endmacro", NULL};
    struct node *n = template_node(p, NODE_MACRO), **last;
    uint32_t count = 0;
    if (!n)
        return NULL;
    if (p->token->kind != TOKEN_NAME) {
        template_fail(p->failure, ERR_UNSUPPORTED, p->token->line, "expected the macro's name");
        return NULL;
    }
    n->name = (p->token++)->text;
    last = &n->a;
    if (!template_expect_op(p, OP_LPAREN, "("))
        return NULL;
    while (!template_skip_op(p, OP_RPAREN)) {
        struct node *parameter = template_node(p, NODE_KEYWORD);
        if ((count && !template_expect_op(p, OP_COMMA, ",")) || !parameter)
            return NULL;
        if (p->token->kind != TOKEN_NAME || ++count > ARGUMENTS_MAX) {
            template_fail(p->failure, ERR_UNSUPPORTED, p->token->line, "expected at most %d parameters", ARGUMENTS_MAX);
            return NULL;
        }
        parameter->name = (p->token++)->text;
        if (template_skip_op(p, OP_ASSIGN) && !(parameter->a = template_expression(p, true)))
            return NULL;
        if (!template_node_done(p, parameter))
            return NULL;
        *last = parameter;
        last = &parameter->next;
    }
    if (!expect_end(p))
        return NULL;
    n->b = body(p, ends);
    if (p->failure->error || !expect_tag(p, "endmacro"))
        return NULL;
    return template_node_done(p, n);
}

/* "filter upper" is what "| upper" is elsewhere. */
static struct node *parse_filter_block(struct parser *p)
{
    static const char *const ends[] = {"endfilter", NULL};
    struct node *n = template_node(p, NODE_FILTER_BLOCK), *hole = block_hole(p);
    if (!n || !hole || !(n->a = template_filters(p, template_filter_node(p, hole))) || !expect_end(p))
        return NULL;
    n->b = body(p, ends);
    if (p->failure->error || !expect_tag(p, "endfilter"))
        return NULL;
    return template_node_done(p, n);
}

static struct node *parse_group(struct parser *p)
{
    static const char *const ends[] = {"endgeneration", NULL};
    struct node *n = template_node(p, NODE_GROUP);
    if (!n || !expect_end(p))
        return NULL;
    n->a = body(p, ends);
    if (p->failure->error || !expect_tag(p, "endgeneration"))
        return NULL;
    return template_node_done(p, n);
}

static struct node *statement(struct parser *p)
{
    struct node *n;
    if (template_skip_name(p, "if"))
        return parse_if(p);
    if (template_skip_name(p, "for"))
        return parse_for(p);
    if (template_skip_name(p, "set"))
        return parse_set(p);
    if (template_skip_name(p, "macro"))
        return parse_macro(p);
    if (template_skip_name(p, "filter"))
        return parse_filter_block(p);
    if (template_skip_name(p, "generation"))
        return parse_group(p);
    const bool is_break = template_is_name(p, "break");
    if (is_break || template_is_name(p, "continue")) {
        n = template_node(p, is_break ? NODE_BREAK : NODE_CONTINUE);
        p->token++;
        return n && expect_end(p) ? template_node_done(p, n) : NULL;
    }
    const struct text name = p->token->kind == TOKEN_NAME ? p->token->text : (struct text){.at = ""};
    template_fail(p->failure, ERR_UNSUPPORTED, p->token->line, "the tag '%.*s' is not supported here",
                  (int)(name.bytes < 40 ? name.bytes : 40), name.at);
    return NULL;
}

static bool is_among(const struct parser *p, const char *const names[])
{
    for (; names && *names; names++)
        if (p->token->kind == TOKEN_NAME && template_text_is(p->token->text, *names))
            return true;
    return false;
}

/* Up to a tag whose name is among ends, which is then next; ends NULL: to the end of the template. */
static struct node *body(struct parser *p, const char *const ends[])
{
    struct node *first = NULL, **last = &first;
    if (++p->depth > NODE_DEPTH_MAX)
        template_fail(p->failure, ERR_UNSUPPORTED, p->token->line, "nested more than %d deep", NODE_DEPTH_MAX);
    while (!p->failure->error) {
        struct node *n = NULL;
        const struct token *k = p->token;
        if (k->kind == TOKEN_END) {
            if (ends)
                template_fail(p->failure, ERR_UNSUPPORTED, k->line, "expected {%% %s %%}", ends[0]);
            break;
        }
        p->token++;
        if (k->kind == TOKEN_DATA) {
            if ((n = template_node(p, NODE_DATA))) {
                n->constant = template_text_value(k->text);
                n = template_node_done(p, n);
            }
        } else if (k->kind == TOKEN_PRINT_BEGIN) {
            n = template_node(p, NODE_PRINT);
            if (n && (n->a = template_tuple(p, true))) {
                if (p->token->kind == TOKEN_PRINT_END)
                    p->token++;
                else
                    template_fail(p->failure, ERR_UNSUPPORTED, p->token->line, "expected }}");
                n = template_node_done(p, n);
            }
        } else if (is_among(p, ends)) {
            break;
        } else {
            n = statement(p);
        }
        if (!n)
            break;
        *last = n;
        last = &n->next;
    }
    p->depth--;
    return first;
}

struct node *template_parse(struct parser *p)
{
    return body(p, NULL);
}
