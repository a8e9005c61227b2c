/* template_parts.h: what the files of the template interpreter share.
 *
 * template_lex.c      characters to tokens, white space as the marks say
 * template_parse.c    statements to nodes; template_expression.c: expressions to nodes
 * template_run.c      statements; template_eval.c: expressions
 * template_json.c     a caller's variables
 * template_value.c    truth, equality, order, spelling; template_text.c: strings
 * template_filter.c, template_list.c, template_test.c, template_method.c   what has a name
 *
 * Everything lives in an arena: a template's in its own, a rendering's in another. The first failure is kept
 * (template_fail); after it every function returns soon, with nothing of use.
 */
#ifndef TEMPLATE_PARTS_H
#define TEMPLATE_PARTS_H

#include "model/template.h"

enum {
    NODE_DEPTH_MAX = 160,  /* nesting of a template */
    RUN_DEPTH_MAX = 400,   /* of a rendering: macros call macros */
    VALUE_DEPTH_MAX = 64,  /* of a value that is compared or spelt */
    ARGUMENTS_MAX = 12
};

struct chunk;
struct arena {
    struct chunk *chunks;
    size_t used, most;
};

/* Zeroed; NULL when the bound is reached. */
void *template_take(struct arena *a, size_t bytes);
void template_release(struct arena *a);

/* A failure, and what it is about. */
struct failure {
    enum err error;
    uint32_t line;
    char text[GGUF_REASON_BYTES];
};

struct text {
    const char *at;
    const uint8_t *foreign; /* NULL: none of it is */
    size_t bytes;
};

enum kind {
    UNDEFINED = 0, /* text: what was asked for */
    NONE,
    BOOL,
    INT,
    FLOAT,
    TEXT,
    LIST, /* or tuple */
    DICT,
    NAMESPACE,
    LOOP,
    MACRO,
    METHOD,
    FUNCTION /* text: its name */
};

struct value {
    enum kind kind;
    bool is_tuple;
    union {
        bool truth;
        int64_t integer;
        double real;
        struct text text;
        struct {
            const struct value *at;
            size_t count;
        } list;
        struct dict *dict;
        struct loop *loop;
        struct macro *macro;
        struct method *method;
    };
};

struct pair {
    struct value key, value;
};
struct dict { /* in order of insertion */
    struct pair *at;
    size_t count, room;
};
struct loop {
    const struct value *items;
    size_t count, index;
    struct value last_changed;
    bool has_changed;
};
struct macro {
    const struct node *node;
    struct scope *scope; /* where it was defined */
};
struct method {
    struct value self;
    struct text name;
};

/* ---- nodes ---- */

enum node_kind {
    /* expressions */
    NODE_CONSTANT, /* constant */
    NODE_NAME,     /* name */
    NODE_HOLE,     /* what the block around the filters made */
    NODE_LIST,     /* a: items */
    NODE_TUPLE,    /* a: items */
    NODE_DICT,     /* a: keys and values in turn */
    NODE_ATTRIBUTE, /* a.name */
    NODE_ITEM,     /* a[b] */
    NODE_SLICE,    /* a[b:c:d] */
    NODE_CALL,     /* a(b...) */
    NODE_FILTER,   /* a | name(b...) */
    NODE_TEST,     /* a is name(b...) */
    NODE_KEYWORD,  /* name = a, among arguments */
    NODE_NOT,
    NODE_NEGATIVE,
    NODE_POSITIVE,
    NODE_BINARY,   /* a op b */
    NODE_COMPARE,  /* a, then b: list of NODE_OPERAND (op, a) */
    NODE_OPERAND,
    NODE_AND,
    NODE_OR,
    NODE_CHOICE,   /* a if b else c */
    /* statements */
    NODE_DATA,     /* constant */
    NODE_PRINT,    /* a */
    NODE_IF,       /* a: condition, b: body, c: else */
    NODE_FOR,      /* a: target, b: iterable, c: condition, body: d; otherwise: e */
    NODE_SET,      /* a: target, b: value */
    NODE_SET_BLOCK, /* a: target, b: body, c: filters */
    NODE_MACRO,    /* name, a: parameters (NODE_KEYWORD, with a default or without), b: body */
    NODE_FILTER_BLOCK, /* a: filters over NODE_HOLE, b: body */
    NODE_GROUP,    /* a: body */
    NODE_BREAK,
    NODE_CONTINUE
};

struct node {
    enum node_kind kind;
    uint16_t op;    /* enum operator */
    uint16_t depth; /* of the nodes below, with this one */
    uint32_t line;
    struct node *next;
    struct node *a, *b, *c, *d, *e;
    struct text name;
    struct value constant;
};

/* ---- tokens ---- */

enum operator {
    OP_NONE = 0,
    OP_ADD, OP_SUB, OP_MUL, OP_DIV, OP_FLOORDIV, OP_MOD, OP_POW, OP_JOIN,
    OP_EQ, OP_NE, OP_LT, OP_LE, OP_GT, OP_GE, OP_IN, OP_NOT_IN,
    OP_ASSIGN, OP_DOT, OP_COLON, OP_PIPE, OP_COMMA, OP_SEMICOLON,
    OP_LPAREN, OP_RPAREN, OP_LBRACKET, OP_RBRACKET, OP_LBRACE, OP_RBRACE
};

struct token {
    enum {
        TOKEN_END, /* of the template */
        TOKEN_DATA,
        TOKEN_BLOCK_BEGIN,
        TOKEN_BLOCK_END,
        TOKEN_PRINT_BEGIN,
        TOKEN_PRINT_END,
        TOKEN_NAME,
        TOKEN_TEXT,
        TOKEN_NUMBER, /* value */
        TOKEN_OPERATOR
    } kind;
    enum operator op;
    uint32_t line;
    struct text text;
    struct value value;
};

struct tokens {
    struct token *at; /* malloc */
    size_t count, room;
};

/* source is in the arena, and stays. */
bool template_lex(struct arena *a, struct text source, struct tokens *out, struct failure *f);

struct parser {
    struct arena *arena;
    const struct token *token; /* the next one; the last is TOKEN_END */
    struct failure *failure;
    uint32_t depth;
};

bool template_fail(struct failure *f, enum err error, uint32_t line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* All NULL after a failure. */
struct node *template_parse(struct parser *p);
struct node *template_node(struct parser *p, enum node_kind kind);
struct node *template_node_done(struct parser *p, struct node *n); /* its parts are set */
bool template_is_op(const struct parser *p, enum operator op);
bool template_is_name(const struct parser *p, const char *name);
bool template_skip_op(struct parser *p, enum operator op);
bool template_skip_name(struct parser *p, const char *name);
bool template_expect_op(struct parser *p, enum operator op, const char *spelling);
struct node *template_expression(struct parser *p, bool with_choice);
struct node *template_tuple(struct parser *p, bool with_choice); /* a, b, c without parentheses */
struct node *template_filters(struct parser *p, struct node *over); /* | a | b behind a node; NULL for NULL */
struct node *template_filter_node(struct parser *p, struct node *over); /* behind "|" */
struct node *template_arguments(struct parser *p);                  /* behind "(" */

/* ---- a rendering ---- */

struct binding {
    struct binding *next;
    struct text name;
    struct value value;
};
struct scope {
    struct scope *outer;
    struct binding *bindings;
};

struct builder {
    char *at;
    uint8_t *foreign;
    size_t bytes, room;
    bool has_foreign;
};

struct run {
    struct arena arena;
    struct failure failure;
    const struct template_call *call;
    struct scope *scope;
    struct builder *out;
    struct value hole; /* of NODE_HOLE */
    uint64_t steps;
    uint32_t depth, line;
    enum { GO_ON, BREAK, CONTINUE } leave;
};

struct arguments {
    struct value at[ARGUMENTS_MAX];
    struct text name[ARGUMENTS_MAX]; /* no bytes: by place */
    uint32_t count, placed;
};

bool template_refuse(struct run *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool template_failed(const struct run *r);
/* Counts steps; false when there were too many, or a failure. */
bool template_step(struct run *r, uint64_t steps);
void *template_new(struct run *r, size_t bytes); /* NULL: failed */

void template_execute(struct run *r, const struct node *list);
struct value template_eval(struct run *r, const struct node *n);
struct value template_call_macro(struct run *r, const struct macro *m, const struct arguments *a);
void template_bind(struct run *r, struct text name, struct value v);
void template_assign(struct run *r, const struct node *target, struct value v);

/* The members of a JSON object as variables. False: failed. */
bool template_bind_json(struct run *r, struct gguf_text text);
/* Argument by place or by name; NULL: not given. */
const struct value *template_argument(const struct arguments *a, uint32_t place, const char *name);
bool template_takes(struct run *r, const struct arguments *a, uint32_t least, uint32_t most, const char *what);

struct value template_filter(struct run *r, struct text name, struct value v, const struct arguments *a);
bool template_filter_is_known(struct text name);
/* What the filters share: an argument that is true; attribute='a.b' of v; v as a list. */
bool template_flag(const struct arguments *a, uint32_t place, const char *name);
struct value template_part_of(struct run *r, struct value v, struct text path);
struct value template_list_of(struct run *r, struct value v);
typedef struct value template_filter_call(struct run *r, struct value v, const struct arguments *a);
template_filter_call template_do_sort, template_do_unique, template_do_max, template_do_min, template_do_sum,
    template_do_dictsort, template_do_map, template_do_select, template_do_reject, template_do_selectattr,
    template_do_rejectattr;
bool template_test(struct run *r, struct text name, struct value v, const struct arguments *a);
bool template_test_is_known(struct text name);
bool template_method_is_known(struct value self, struct text name);
struct value template_method(struct run *r, const struct method *m, const struct arguments *a);
struct value template_function(struct run *r, struct text name, const struct arguments *a);
bool template_function_is_known(struct text name);
struct value template_attribute(struct run *r, struct value v, struct text name);
struct value template_item(struct run *r, struct value v, struct value key);
struct value template_binary(struct run *r, enum operator op, struct value a, struct value b);

/* ---- values ---- */

struct value template_undefined(struct text name);
struct value template_bool(bool truth);
struct value template_int(int64_t n);
struct value template_text_value(struct text t);
struct value template_list(const struct value *at, size_t count);
bool template_is_true(struct value v);
bool template_equal(struct run *r, struct value a, struct value b);
int template_order(struct run *r, struct value a, struct value b); /* -1, 0, 1 */
bool template_contains(struct run *r, struct value in, struct value what);
const char *template_kind_name(struct value v);
bool template_number(struct value v, double *out); /* of BOOL, INT, FLOAT */
bool template_whole(struct value v, int64_t *out); /* of BOOL, INT */
/* What a loop over v sees. False: failed. */
bool template_items(struct run *r, struct value v, const struct value **at, size_t *count);
const struct value *template_get(struct run *r, const struct dict *d, struct value key); /* NULL: absent */
bool template_set(struct run *r, struct dict *d, struct value key, struct value v);
struct text template_spell(struct run *r, struct value v); /* str(v) */
struct text template_json(struct run *r, struct value v, const struct arguments *a);

/* ---- strings; template_text.c ---- */

struct text template_literal(const char *s); /* borrowed */
bool template_text_is(struct text t, const char *s);
bool template_text_equal(struct text a, struct text b);
struct text template_part(struct text t, size_t from, size_t to); /* bytes [from, to) */
size_t template_find(struct text in, struct text what, size_t from); /* SIZE_MAX: not there */
void template_add(struct run *r, struct builder *b, struct text t);
void template_add_byte(struct run *r, struct builder *b, char c);
struct text template_built(const struct builder *b);
struct text template_concat(struct run *r, struct text a, struct text b);
uint32_t template_character(const char *at, size_t *bytes); /* of well-formed UTF-8 */
size_t template_encode(uint32_t character, char out[4]);
size_t template_characters(struct text t);
bool template_is_space(uint32_t character);
/* chars no bytes: white space. */
struct text template_strip(struct text t, bool at_start, bool at_end, struct text chars);
enum text_case { LOWER, UPPER, CAPITALIZE, TITLE, TITLE_FILTER };
struct text template_cased(struct run *r, struct text t, enum text_case to);
struct text template_replace(struct run *r, struct text t, struct text from, struct text to, int64_t most);

#endif
