/* template_lex.c: a template's characters to tokens.
 *
 * White space between tags: "-" in a tag takes all of it on that side; else the first line end behind a block
 * or comment goes (trim_blocks), and blanks before one when they begin its line (lstrip_blocks); "+" keeps.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "model/template_parts.h"

struct lexer {
    struct arena *arena;
    struct text source;
    size_t at;
    uint32_t line;
    bool starts_line; /* what was read last ended with a line end */
    struct tokens *out;
    struct failure *failure;
};

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_name(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (uint8_t)c >= 0x80;
}

static char peek(const struct lexer *l, size_t ahead)
{
    return l->at + ahead < l->source.bytes ? l->source.at[l->at + ahead] : 0;
}

static bool starts_with(const struct lexer *l, size_t at, const char *s)
{
    const size_t n = strlen(s);
    return l->source.bytes - at >= n && memcmp(l->source.at + at, s, n) == 0;
}

static struct token *push(struct lexer *l, int kind)
{
    struct tokens *t = l->out;
    if (t->count == t->room) {
        const size_t room = t->room * 2 + 64;
        struct token *at = realloc(t->at, room * sizeof *at);
        if (!at) {
            template_fail(l->failure, ERR_MEMORY, l->line, "no memory for its tokens");
            return NULL;
        }
        t->at = at;
        t->room = room;
    }
    struct token *k = &t->at[t->count++];
    memset(k, 0, sizeof *k);
    k->kind = kind;
    k->line = l->line;
    return k;
}

static void go(struct lexer *l, size_t to)
{
    for (size_t i = l->at; i < to; i++)
        l->line += l->source.at[i] == '\n';
    if (to > l->at)
        l->starts_line = l->source.at[to - 1] == '\n';
    l->at = to;
}

static size_t behind_space(const struct lexer *l, size_t at)
{
    size_t bytes;
    while (at < l->source.bytes && template_is_space(template_character(l->source.at + at, &bytes)))
        at += bytes;
    return at;
}

/* Text from l->at up to a tag at `to`; sign is the tag's mark. */
static bool data(struct lexer *l, size_t to, char sign, bool is_print)
{
    struct text t = template_part(l->source, l->at, to);
    const size_t end = to;
    if (sign == '-') {
        t = template_strip(t, false, true, (struct text){0});
    } else if (sign != '+' && !is_print && t.bytes) {
        size_t from = t.bytes;
        while (from > 0 && t.at[from - 1] != '\n')
            from--;
        if ((from > 0 || l->starts_line) &&
            template_strip(template_part(t, from, t.bytes), true, false, (struct text){0}).bytes == 0)
            t.bytes = from;
    }
    if (t.bytes) {
        struct token *k = push(l, TOKEN_DATA);
        if (!k)
            return false;
        k->text = t;
    }
    go(l, end);
    return true;
}

/* The end of a tag at l->at, if there is one: its mark, closing characters, and the white space it takes. */
static bool tag_end(struct lexer *l, const char *close, bool trims)
{
    size_t at = l->at;
    char sign = 0;
    if (!starts_with(l, at, close)) {
        sign = peek(l, 0);
        if (!(sign == '-' || (sign == '+' && trims)) || !starts_with(l, at + 1, close))
            return false;
        at++;
    }
    at += 2;
    if (sign == '-')
        at = behind_space(l, at);
    else if (sign == 0 && trims && at < l->source.bytes && l->source.at[at] == '\n')
        at++;
    go(l, at);
    return true;
}

static bool comment(struct lexer *l)
{
    while (l->at < l->source.bytes) {
        if (tag_end(l, "#}", true))
            return true;
        go(l, l->at + 1);
    }
    return template_fail(l->failure, ERR_UNSUPPORTED, l->line, "a comment has no end");
}

/* Behind "{%" and its mark: "raw %}" up to its end. *is_raw false: something else. */
static bool raw(struct lexer *l, bool *is_raw)
{
    size_t at = behind_space(l, l->at);
    *is_raw = false;
    if (!starts_with(l, at, "raw"))
        return true;
    at = behind_space(l, at + 3);
    const bool strips = at < l->source.bytes && l->source.at[at] == '-';
    if (!starts_with(l, at + strips, "%}"))
        return true;
    at += strips + 2u;
    *is_raw = true;
    go(l, strips ? behind_space(l, at) : at);
    for (size_t end = l->at; end + 2 <= l->source.bytes; end++) {
        if (!starts_with(l, end, "{%"))
            continue;
        const char sign = end + 2 < l->source.bytes ? l->source.at[end + 2] : 0;
        const size_t word = behind_space(l, end + 2 + (sign == '-' || sign == '+'));
        if (!starts_with(l, word, "endraw"))
            continue;
        if (!data(l, end, sign, false))
            return false;
        go(l, behind_space(l, word + 6));
        if (tag_end(l, "%}", true))
            return true;
        return template_fail(l->failure, ERR_UNSUPPORTED, l->line, "expected %%} behind endraw");
    }
    return template_fail(l->failure, ERR_UNSUPPORTED, l->line, "raw has no end");
}

/* \n, \t, \xNN, \uNNNN ... as Python says them; what is no escape stays. */
static size_t escape(const char *p, size_t left, char out[4])
{
    static const char names[] = "abfnrtv\\'\"", values[] = "\a\b\f\n\r\t\v\\'\"";
    const char *known = p[1] ? strchr(names, p[1]) : NULL;
    const size_t digits = p[1] == 'x' ? 2 : p[1] == 'u' ? 4 : p[1] == 'U' ? 8 : 0;
    uint32_t c = 0;
    size_t i;
    if (p[1] == '\n')
        return 2; /* joins two lines; out stays empty */
    if (known) {
        out[0] = values[known - names];
        return 2;
    }
    if (p[1] >= '0' && p[1] <= '7') {
        for (i = 1; i < 4 && i < left && p[i] >= '0' && p[i] <= '7'; i++)
            c = c * 8 + (uint32_t)(p[i] - '0');
        template_encode(c, out);
        return i;
    }
    for (i = 2; i < 2 + digits && i < left && strchr("0123456789abcdefABCDEF", p[i]) && p[i]; i++)
        c = c * 16 + (uint32_t)(is_digit(p[i]) ? p[i] - '0' : (p[i] | 32) - 'a' + 10);
    if (digits == 0 || i < 2 + digits) {
        out[0] = '\\';
        return 1;
    }
    template_encode(c, out);
    return i;
}

static bool string(struct lexer *l)
{
    const char quote = peek(l, 0);
    size_t end = l->at + 1, used = 0;
    while (end < l->source.bytes && l->source.at[end] != quote)
        end += l->source.at[end] == '\\' ? 2 : 1;
    if (end >= l->source.bytes)
        return template_fail(l->failure, ERR_UNSUPPORTED, l->line, "a string has no end");
    struct token *k = push(l, TOKEN_TEXT);
    char *at = template_take(l->arena, 4 * (end - l->at));
    if (!k || !at)
        return template_fail(l->failure, ERR_MEMORY, l->line, "no memory for a string");
    for (size_t i = l->at + 1; i < end;) {
        if (l->source.at[i] != '\\') {
            at[used++] = l->source.at[i++];
            continue;
        }
        char out[4] = {0};
        size_t bytes = 1;
        i += escape(l->source.at + i, end - i, out);
        if (l->source.at[i - 1] == '\n')
            continue;
        if ((uint8_t)out[0] >= 0x80)
            template_character(out, &bytes);
        memcpy(at + used, out, bytes);
        used += bytes;
    }
    k->text = (struct text){.at = at, .bytes = used};
    go(l, end + 1);
    return true;
}

static bool number(struct lexer *l)
{
    char digits[64];
    size_t used = 0, at = l->at;
    bool is_real = false;
    while (at < l->source.bytes && used + 1 < sizeof digits) {
        const char c = l->source.at[at], next = at + 1 < l->source.bytes ? l->source.at[at + 1] : 0;
        const bool is_point = c == '.' && !is_real && is_digit(next);
        const bool is_exponent =
            (c == 'e' || c == 'E') && (is_digit(next) || ((next == '-' || next == '+') && at + 2 < l->source.bytes &&
                                                          is_digit(l->source.at[at + 2])));
        const bool is_sign = (c == '-' || c == '+') && used && (digits[used - 1] | 32) == 'e';
        if (c == '_' && is_digit(next)) {
            at++;
            continue;
        }
        if (!is_digit(c) && !is_point && !is_exponent && !is_sign)
            break;
        is_real |= is_point || is_exponent;
        digits[used++] = c;
        at++;
    }
    digits[used] = 0;
    struct token *k = push(l, TOKEN_NUMBER);
    if (!k)
        return false;
    errno = 0;
    if (is_real)
        k->value = (struct value){.kind = FLOAT, .real = strtod(digits, NULL)};
    else
        k->value = template_int(strtoll(digits, NULL, 10));
    if ((errno && !is_real) || (at < l->source.bytes && is_name(l->source.at[at])))
        return template_fail(l->failure, ERR_UNSUPPORTED, l->line, "'%s': expected a number of 64 bits", digits);
    go(l, at);
    return true;
}

static bool operator_token(struct lexer *l, int *nesting)
{
    static const struct {
        const char *spelling;
        enum operator op;
    } all[] = {{"//", OP_FLOORDIV}, {"**", OP_POW}, {"==", OP_EQ}, {"!=", OP_NE}, {">=", OP_GE}, {"<=", OP_LE},
               {"+", OP_ADD}, {"-", OP_SUB}, {"/", OP_DIV}, {"*", OP_MUL}, {"%", OP_MOD}, {"~", OP_JOIN},
               {">", OP_GT}, {"<", OP_LT}, {"=", OP_ASSIGN}, {".", OP_DOT}, {":", OP_COLON}, {"|", OP_PIPE},
               {",", OP_COMMA}, {";", OP_SEMICOLON}, {"(", OP_LPAREN}, {")", OP_RPAREN}, {"[", OP_LBRACKET},
               {"]", OP_RBRACKET}, {"{", OP_LBRACE}, {"}", OP_RBRACE}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (!starts_with(l, l->at, all[i].spelling))
            continue;
        const enum operator op = all[i].op;
        struct token *k = push(l, TOKEN_OPERATOR);
        if (!k)
            return false;
        k->op = op;
        *nesting += op == OP_LPAREN || op == OP_LBRACKET || op == OP_LBRACE;
        *nesting -= op == OP_RPAREN || op == OP_RBRACKET || op == OP_RBRACE;
        if (*nesting < 0)
            return template_fail(l->failure, ERR_UNSUPPORTED, l->line, "'%s' closes nothing", all[i].spelling);
        go(l, l->at + strlen(all[i].spelling));
        return true;
    }
    return template_fail(l->failure, ERR_UNSUPPORTED, l->line, "'%c' is nothing an expression may hold", peek(l, 0));
}

/* Between the marks of one tag. */
static bool tag(struct lexer *l, bool is_print)
{
    int nesting = 0;
    if (!push(l, is_print ? TOKEN_PRINT_BEGIN : TOKEN_BLOCK_BEGIN))
        return false;
    for (;;) {
        go(l, behind_space(l, l->at));
        const uint32_t line = l->line;
        if (nesting == 0 && tag_end(l, is_print ? "}}" : "%}", !is_print)) {
            struct token *k = push(l, is_print ? TOKEN_PRINT_END : TOKEN_BLOCK_END);
            if (k)
                k->line = line;
            return k != NULL;
        }
        const char c = peek(l, 0);
        bool ok;
        if (l->at >= l->source.bytes) {
            return template_fail(l->failure, ERR_UNSUPPORTED, l->line, "expected %s", is_print ? "}}" : "%}");
        } else if (is_digit(c)) {
            ok = number(l);
        } else if (c == '\'' || c == '"') {
            ok = string(l);
        } else if (is_name(c)) {
            struct token *k = push(l, TOKEN_NAME);
            size_t end = l->at;
            while (end < l->source.bytes && is_name(l->source.at[end]))
                end++;
            if ((ok = k != NULL))
                k->text = template_part(l->source, l->at, end);
            go(l, end);
        } else {
            ok = operator_token(l, &nesting);
        }
        if (!ok)
            return false;
    }
}

bool template_lex(struct arena *a, struct text source, struct tokens *out, struct failure *f)
{
    struct lexer l = {.arena = a, .source = source, .line = 1, .starts_line = true, .out = out, .failure = f};
    for (;;) {
        size_t at = l.at;
        while (at + 1 < source.bytes &&
               !(source.at[at] == '{' && (source.at[at + 1] == '{' || source.at[at + 1] == '%' || source.at[at + 1] == '#')))
            at++;
        if (at + 1 >= source.bytes) {
            bool ok = data(&l, source.bytes, '+', true);
            return ok && push(&l, TOKEN_END) != NULL;
        }
        const char opens = source.at[at + 1], sign = at + 2 < source.bytes ? source.at[at + 2] : 0;
        bool is_raw = false;
        if (!data(&l, at, sign, opens == '{'))
            return false;
        go(&l, at + 2 + (sign == '-' || sign == '+'));
        if (opens == '#') {
            if (!comment(&l))
                return false;
            continue;
        }
        if (opens == '%' && !raw(&l, &is_raw))
            return false;
        if (!is_raw && !tag(&l, opens == '{'))
            return false;
    }
}
