/* template_expression.c: expressions to nodes, in Jinja's order of precedence: choice, or, and, not, comparison,
 * + -, ~, * / // %, **, sign, then what stands behind a value. */
#include <string.h>

#include "model/template_parts.h"

static struct node *unary(struct parser *p, bool with_filters);

static bool is_true(struct parser *p, bool truth, const char *format)
{
    return truth || template_fail(p->failure, ERR_UNSUPPORTED, p->token->line, "%s", format);
}

static struct node *make(struct parser *p, enum node_kind kind, enum operator op, struct node *a, struct node *b)
{
    struct node *n = a ? template_node(p, kind) : NULL;
    if (!n || (kind == NODE_BINARY && !b))
        return NULL;
    n->op = (uint16_t)op;
    n->a = a;
    n->b = b;
    return template_node_done(p, n);
}

static struct node *binary(struct parser *p, struct node *(*next)(struct parser *), const enum operator *ops)
{
    struct node *left = next(p);
    while (left) {
        const enum operator *op = ops;
        while (*op && !template_is_op(p, *op))
            op++;
        if (!*op)
            break;
        p->token++;
        struct node *right = next(p);
        left = right ? make(p, NODE_BINARY, *op, left, right) : NULL;
    }
    return left;
}

static struct node *unary_filtered(struct parser *p)
{
    return unary(p, true);
}

static struct node *power(struct parser *p)
{
    static const enum operator ops[] = {OP_POW, OP_NONE};
    return binary(p, unary_filtered, ops);
}

static struct node *product(struct parser *p)
{
    static const enum operator ops[] = {OP_MUL, OP_DIV, OP_FLOORDIV, OP_MOD, OP_NONE};
    return binary(p, power, ops);
}

static struct node *joined(struct parser *p)
{
    static const enum operator ops[] = {OP_JOIN, OP_NONE};
    return binary(p, product, ops);
}

static struct node *sum(struct parser *p)
{
    static const enum operator ops[] = {OP_ADD, OP_SUB, OP_NONE};
    return binary(p, joined, ops);
}

static struct node *comparison(struct parser *p)
{
    struct node *left = sum(p), *whole = NULL, **last = NULL;
    while (left) {
        enum operator op = p->token->kind == TOKEN_OPERATOR ? p->token->op : OP_NONE;
        if (op < OP_EQ || op > OP_GE)
            op = OP_NONE;
        if (template_is_name(p, "in"))
            op = OP_IN;
        if (template_is_name(p, "not") && p->token[1].kind == TOKEN_NAME && template_text_is(p->token[1].text, "in")) {
            op = OP_NOT_IN;
            p->token++;
        }
        if (op == OP_NONE)
            break;
        p->token++;
        struct node *operand = make(p, NODE_OPERAND, op, sum(p), NULL);
        if (!operand)
            return NULL;
        if (!whole) {
            if (!(whole = template_node(p, NODE_COMPARE)))
                return NULL;
            whole->a = left;
            last = &whole->b;
        }
        *last = operand;
        last = &operand->next;
    }
    return whole && left ? template_node_done(p, whole) : left;
}

static struct node *negation(struct parser *p)
{
    uint32_t count = 0;
    while (template_is_name(p, "not")) {
        p->token++;
        count++;
    }
    struct node *n = comparison(p);
    for (; n && count > 0; count--)
        n = make(p, NODE_NOT, OP_NONE, n, NULL);
    return n;
}

static struct node *conjunction(struct parser *p)
{
    struct node *left = negation(p);
    while (left && template_skip_name(p, "and")) {
        struct node *right = negation(p);
        left = right ? make(p, NODE_AND, OP_NONE, left, right) : NULL;
    }
    return left;
}

static struct node *disjunction(struct parser *p)
{
    struct node *left = conjunction(p);
    while (left && template_skip_name(p, "or")) {
        struct node *right = conjunction(p);
        left = right ? make(p, NODE_OR, OP_NONE, left, right) : NULL;
    }
    return left;
}

struct node *template_expression(struct parser *p, bool with_choice)
{
    if (++p->depth > NODE_DEPTH_MAX) {
        template_fail(p->failure, ERR_UNSUPPORTED, p->token->line, "nested more than %d deep", NODE_DEPTH_MAX);
        return NULL;
    }
    struct node *n = disjunction(p);
    while (n && with_choice && template_skip_name(p, "if")) {
        struct node *choice = template_node(p, NODE_CHOICE);
        if (!choice || !(choice->b = disjunction(p)))
            return NULL;
        choice->a = n;
        if (template_skip_name(p, "else") && !(choice->c = template_expression(p, true)))
            return NULL;
        n = template_node_done(p, choice);
    }
    p->depth--;
    return n;
}

static bool ends_tuple(const struct parser *p)
{
    return p->token->kind == TOKEN_BLOCK_END || p->token->kind == TOKEN_PRINT_END || template_is_op(p, OP_RPAREN);
}

struct node *template_tuple(struct parser *p, bool with_choice)
{
    struct node *first = template_expression(p, with_choice), *n, *last = first;
    if (!first || !template_is_op(p, OP_COMMA))
        return first;
    if (!(n = template_node(p, NODE_TUPLE)))
        return NULL;
    n->a = first;
    while (template_skip_op(p, OP_COMMA) && !ends_tuple(p)) {
        if (!(last->next = template_expression(p, with_choice)))
            return NULL;
        last = last->next;
    }
    return template_node_done(p, n);
}

/* [a, b] and {k: v}, behind the opening mark. */
static struct node *collection(struct parser *p, enum node_kind kind)
{
    const enum operator close = kind == NODE_LIST ? OP_RBRACKET : OP_RBRACE;
    struct node *n = template_node(p, kind), **last = n ? &n->a : NULL;
    if (!n)
        return NULL;
    while (!template_skip_op(p, close)) {
        if (n->a && !template_expect_op(p, OP_COMMA, ","))
            return NULL;
        if (template_skip_op(p, close))
            break;
        struct node *item = template_expression(p, true);
        if (!item)
            return NULL;
        *last = item;
        last = &item->next;
        if (kind == NODE_LIST)
            continue;
        if (!template_expect_op(p, OP_COLON, ":") || !(item = template_expression(p, true)))
            return NULL;
        *last = item;
        last = &item->next;
    }
    return template_node_done(p, n);
}

static struct node *constant(struct parser *p, struct value v)
{
    struct node *n = template_node(p, NODE_CONSTANT);
    if (!n)
        return NULL;
    n->constant = v;
    return template_node_done(p, n);
}

static struct node *named(struct parser *p)
{
    const struct text name = p->token->text;
    struct node *n;
    if (template_text_is(name, "true") || template_text_is(name, "True"))
        n = constant(p, template_bool(true));
    else if (template_text_is(name, "false") || template_text_is(name, "False"))
        n = constant(p, template_bool(false));
    else if (template_text_is(name, "none") || template_text_is(name, "None"))
        n = constant(p, (struct value){.kind = NONE});
    else if ((n = template_node(p, NODE_NAME))) {
        n->name = name;
        n = template_node_done(p, n);
    }
    p->token++;
    return n;
}

/* Strings beside each other are one. */
static struct node *spelt(struct parser *p)
{
    struct text all = (p->token++)->text;
    while (p->token->kind == TOKEN_TEXT) {
        const struct text more = (p->token++)->text;
        char *at = template_take(p->arena, all.bytes + more.bytes + 1);
        if (!at) {
            template_fail(p->failure, ERR_MEMORY, p->token->line, "too large");
            return NULL;
        }
        memcpy(at, all.at, all.bytes);
        memcpy(at + all.bytes, more.at, more.bytes);
        all = (struct text){.at = at, .bytes = all.bytes + more.bytes};
    }
    return constant(p, template_text_value(all));
}

static struct node *primary(struct parser *p)
{
    if (p->token->kind == TOKEN_NAME)
        return named(p);
    if (p->token->kind == TOKEN_TEXT)
        return spelt(p);
    if (p->token->kind == TOKEN_NUMBER) {
        struct node *n = constant(p, p->token->value);
        p->token++;
        return n;
    }
    if (template_skip_op(p, OP_LBRACKET))
        return collection(p, NODE_LIST);
    if (template_skip_op(p, OP_LBRACE))
        return collection(p, NODE_DICT);
    if (template_skip_op(p, OP_LPAREN)) {
        struct node *n = template_is_op(p, OP_RPAREN) ? template_node(p, NODE_TUPLE) : template_tuple(p, true);
        if (n && n->kind == NODE_TUPLE && !n->a)
            n = template_node_done(p, n);
        return n && template_expect_op(p, OP_RPAREN, ")") ? n : NULL;
    }
    template_fail(p->failure, ERR_UNSUPPORTED, p->token->line, "expected a value");
    return NULL;
}

struct node *template_arguments(struct parser *p)
{
    struct node *first = NULL, **last = &first;
    uint32_t count = 0;
    bool has_names = false;
    while (!template_skip_op(p, OP_RPAREN)) {
        struct node *n;
        if ((first && !template_expect_op(p, OP_COMMA, ",")) || p->failure->error)
            return NULL;
        if (first && template_skip_op(p, OP_RPAREN))
            break;
        if (!is_true(p, ++count <= ARGUMENTS_MAX, "too many arguments"))
            return NULL;
        if (p->token->kind == TOKEN_NAME && p->token[1].kind == TOKEN_OPERATOR && p->token[1].op == OP_ASSIGN) {
            if (!(n = template_node(p, NODE_KEYWORD)))
                return NULL;
            n->name = p->token->text;
            p->token += 2;
            if (!(n->a = template_expression(p, true)) || !template_node_done(p, n))
                return NULL;
            has_names = true;
        } else {
            if (!is_true(p, !has_names, "expected name=value behind name=value"))
                return NULL;
            if (!(n = template_expression(p, true)))
                return NULL;
        }
        *last = n;
        last = &n->next;
    }
    return first;
}

static struct node *call(struct parser *p, struct node *callee)
{
    struct node *n = template_node(p, NODE_CALL);
    if (!n)
        return NULL;
    n->a = callee;
    n->b = template_arguments(p);
    return template_node_done(p, n);
}

/* Behind "[": an index or a slice. Parts of a slice that are not there are none. */
static struct node *subscript(struct parser *p, struct node *of)
{
    struct node *n = template_node(p, NODE_ITEM), *part[3] = {NULL, NULL, NULL};
    uint32_t count = 0;
    bool is_slice = false;
    if (!n)
        return NULL;
    for (;;) {
        if (!template_is_op(p, OP_COLON) && !template_is_op(p, OP_RBRACKET) &&
            !(part[count] = template_expression(p, true)))
            return NULL;
        if (count == 2 || !template_skip_op(p, OP_COLON))
            break;
        is_slice = true;
        count++;
    }
    if (!template_expect_op(p, OP_RBRACKET, "]") ||
        !is_true(p, is_slice || part[0], "expected a value between '[' and ']'"))
        return NULL;
    n->kind = is_slice ? NODE_SLICE : NODE_ITEM;
    n->a = of;
    n->b = part[0];
    n->c = part[1];
    n->d = part[2];
    return template_node_done(p, n);
}

static struct node *postfix(struct parser *p, struct node *n)
{
    while (n) {
        if (template_skip_op(p, OP_DOT)) {
            const struct token *k = p->token;
            struct node *whole = template_node(p, k->kind == TOKEN_NUMBER ? NODE_ITEM : NODE_ATTRIBUTE);
            if (!whole ||
                !is_true(p, k->kind == TOKEN_NAME || k->kind == TOKEN_NUMBER, "expected a name behind '.'"))
                return NULL;
            whole->a = n;
            if (k->kind == TOKEN_NUMBER && !(whole->b = constant(p, k->value)))
                return NULL;
            whole->name = k->text;
            p->token++;
            n = template_node_done(p, whole);
        } else if (template_skip_op(p, OP_LBRACKET)) {
            n = subscript(p, n);
        } else if (template_skip_op(p, OP_LPAREN)) {
            n = call(p, n);
        } else {
            break;
        }
    }
    return n;
}

/* One that is not known fails where it is reached, which may be never. */
static bool take_name(struct parser *p, struct node *n)
{
    if (!is_true(p, p->token->kind == TOKEN_NAME, "expected a name"))
        return false;
    n->name = (p->token++)->text;
    return true;
}

struct node *template_filter_node(struct parser *p, struct node *over)
{
    struct node *n = over ? template_node(p, NODE_FILTER) : NULL;
    if (!n || !take_name(p, n))
        return NULL;
    n->a = over;
    if (template_skip_op(p, OP_LPAREN))
        n->b = template_arguments(p);
    return template_node_done(p, n);
}

/* Behind "is": the argument of a test may stand without parentheses. */
static struct node *test_node(struct parser *p, struct node *over)
{
    const bool is_not = template_skip_name(p, "not");
    struct node *n = template_node(p, NODE_TEST);
    if (!n || !take_name(p, n))
        return NULL;
    n->a = over;
    const struct token *k = p->token;
    const bool has_value = k->kind == TOKEN_TEXT || k->kind == TOKEN_NUMBER || template_is_op(p, OP_LBRACKET) ||
                           template_is_op(p, OP_LBRACE) ||
                           (k->kind == TOKEN_NAME && !template_is_name(p, "else") && !template_is_name(p, "or") &&
                            !template_is_name(p, "and"));
    if (template_skip_op(p, OP_LPAREN)) {
        n->b = template_arguments(p);
    } else if (has_value) {
        if (!is_true(p, !template_is_name(p, "is"), "tests do not follow each other"))
            return NULL;
        if (!(n->b = postfix(p, primary(p))))
            return NULL;
    }
    n = template_node_done(p, n);
    return n && is_not ? make(p, NODE_NOT, OP_NONE, n, NULL) : n;
}

struct node *template_filters(struct parser *p, struct node *n)
{
    while (n) {
        if (template_skip_op(p, OP_PIPE))
            n = template_filter_node(p, n);
        else if (template_skip_name(p, "is"))
            n = test_node(p, n);
        else if (template_skip_op(p, OP_LPAREN))
            n = call(p, n);
        else
            break;
    }
    return n;
}

static struct node *unary(struct parser *p, bool with_filters)
{
    struct node *n;
    if (++p->depth > NODE_DEPTH_MAX) {
        template_fail(p->failure, ERR_UNSUPPORTED, p->token->line, "nested more than %d deep", NODE_DEPTH_MAX);
        return NULL;
    }
    if (template_skip_op(p, OP_SUB))
        n = make(p, NODE_NEGATIVE, OP_NONE, unary(p, false), NULL);
    else if (template_skip_op(p, OP_ADD))
        n = make(p, NODE_POSITIVE, OP_NONE, unary(p, false), NULL);
    else
        n = primary(p);
    n = postfix(p, n);
    if (with_filters)
        n = template_filters(p, n);
    p->depth--;
    return n;
}
