/* template.c: opening, rendering, and the arena behind both. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/model_utf8.h"
#include "model/template_parts.h"

enum { CHUNK_BYTES = 32 << 10 };

struct chunk {
    struct chunk *next;
    size_t used, room;
    max_align_t data[];
};

struct template {
    struct arena arena;
    struct node *body;
};

void *template_take(struct arena *a, size_t bytes)
{
    if (bytes > a->most)
        return NULL;
    bytes = (bytes + 15) & ~(size_t)15;
    struct chunk *c = a->chunks;
    if (!c || c->room - c->used < bytes) {
        const size_t room = bytes > CHUNK_BYTES / 4 ? bytes : CHUNK_BYTES;
        if (a->used + room > a->most || !(c = malloc(sizeof *c + room)))
            return NULL;
        *c = (struct chunk){.next = a->chunks, .room = room};
        a->used += room;
        if (a->chunks && room == bytes) { /* a large one of its own: the one in use stays in front */
            c->next = a->chunks->next;
            a->chunks->next = c;
        } else {
            a->chunks = c;
        }
    }
    void *p = (char *)c->data + c->used;
    c->used += bytes;
    return memset(p, 0, bytes);
}

void template_release(struct arena *a)
{
    while (a->chunks) {
        struct chunk *c = a->chunks;
        a->chunks = c->next;
        free(c);
    }
}

static bool fail(struct failure *f, enum err error, uint32_t line, const char *format, va_list arguments)
{
    if (f->error)
        return false;
    f->error = error;
    f->line = line;
    vsnprintf(f->text, sizeof f->text, format, arguments);
    for (char *c = f->text; *c; c++)
        if ((unsigned char)*c < ' ')
            *c = ' ';
    /* what was cut must not end in part of a character */
    size_t n = strlen(f->text);
    while (n > 0 && !model_utf8_is_well_formed(f->text, n))
        n--;
    f->text[n] = 0;
    return false;
}

bool template_fail(struct failure *f, enum err error, uint32_t line, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fail(f, error, line, format, arguments);
    va_end(arguments);
    return false;
}

bool template_refuse(struct run *r, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fail(&r->failure, ERR_UNSUPPORTED, r->line, format, arguments);
    va_end(arguments);
    return false;
}

bool template_failed(const struct run *r)
{
    return r->failure.error != ERR_NONE;
}

bool template_step(struct run *r, uint64_t steps)
{
    r->steps += steps;
    if (r->steps > TEMPLATE_STEPS_MAX)
        template_fail(&r->failure, ERR_MEMORY, r->line, "more than %d steps", TEMPLATE_STEPS_MAX);
    return !template_failed(r);
}

void *template_new(struct run *r, size_t bytes)
{
    void *p = template_failed(r) ? NULL : template_take(&r->arena, bytes);
    if (!p)
        template_fail(&r->failure, ERR_MEMORY, r->line, "more than %d MiB of values", TEMPLATE_MEMORY_MAX >> 20);
    return p;
}

static enum err tell(const struct failure *f, char reason[GGUF_REASON_BYTES])
{
    int n = snprintf(reason, GGUF_REASON_BYTES, "chat template, line %u: %s", f->line, f->text);
    while (n >= GGUF_REASON_BYTES)
        n--;
    while (n > 0 && !model_utf8_is_well_formed(reason, (size_t)n))
        n--;
    reason[n > 0 ? n : 0] = 0;
    return f->error;
}

/* "\n" ends every line, and none ends the last. */
static struct text normalise(struct arena *a, const char *text, size_t bytes)
{
    char *copy = template_take(a, bytes + 1);
    size_t used = 0;
    if (!copy)
        return (struct text){0};
    for (size_t i = 0; i < bytes; i++) {
        copy[used++] = text[i] == '\r' ? '\n' : text[i];
        if (text[i] == '\r' && i + 1 < bytes && text[i + 1] == '\n')
            i++;
    }
    if (used && copy[used - 1] == '\n')
        used--;
    return (struct text){.at = copy, .bytes = used};
}

enum err template_open(const char *text, size_t bytes, struct template **out, char reason[GGUF_REASON_BYTES])
{
    struct failure failure = {.error = ERR_NONE};
    struct tokens tokens = {0};
    struct template *t = calloc(1, sizeof *t);
    reason[0] = 0;
    if (!t) {
        snprintf(reason, GGUF_REASON_BYTES, "no memory for the chat template");
        return ERR_MEMORY;
    }
    t->arena.most = TEMPLATE_MEMORY_MAX;
    if (bytes > TEMPLATE_BYTES_MAX || !model_utf8_is_well_formed(text, bytes)) {
        template_fail(&failure, ERR_UNSUPPORTED, 1, "expected at most %d bytes of UTF-8", TEMPLATE_BYTES_MAX);
        goto out;
    }
    const struct text source = normalise(&t->arena, text, bytes);
    if (!source.at) {
        template_fail(&failure, ERR_MEMORY, 1, "no memory for it");
        goto out;
    }
    if (!template_lex(&t->arena, source, &tokens, &failure))
        goto out;
    struct parser parser = {.arena = &t->arena, .token = tokens.at, .failure = &failure};
    t->body = template_parse(&parser);
out:
    free(tokens.at);
    if (failure.error) {
        template_close(t);
        return tell(&failure, reason);
    }
    *out = t;
    return ERR_NONE;
}

void template_close(struct template *t)
{
    if (!t)
        return;
    template_release(&t->arena);
    free(t);
}

static struct text text_of(struct gguf_text t)
{
    return (struct text){.at = t.text, .bytes = t.bytes};
}

static void put(struct run *r, struct dict *d, const char *key, struct text t)
{
    template_set(r, d, template_text_value(template_literal(key)), template_text_value(t));
}

/* Every byte of a content is foreign; they share one row of marks. */
static void bind_messages(struct run *r)
{
    const struct template_call *c = r->call;
    size_t longest = 0;
    for (size_t i = 0; i < c->count; i++) {
        const struct template_message *m = &c->messages[i];
        longest = m->content.bytes > longest ? m->content.bytes : longest;
        if (!model_utf8_is_well_formed(m->content.text, m->content.bytes) ||
            !model_utf8_is_well_formed(m->role.text, m->role.bytes))
            template_fail(&r->failure, ERR_ARGUMENT, 1, "message %zu: expected UTF-8", i + 1);
    }
    struct value *list = template_new(r, (c->count + 1) * sizeof *list);
    uint8_t *marks = template_new(r, longest + 1);
    if (!list || !marks)
        return;
    memset(marks, 1, longest);
    for (size_t i = 0; i < c->count && !template_failed(r); i++) {
        struct text content = text_of(c->messages[i].content);
        content.foreign = marks;
        list[i] = (struct value){.kind = DICT, .dict = template_new(r, sizeof(struct dict))};
        if (!list[i].dict)
            return;
        put(r, list[i].dict, "role", text_of(c->messages[i].role));
        put(r, list[i].dict, "content", content);
    }
    template_bind(r, template_literal("messages"), template_list(list, c->count));
}

static void bind_all(struct run *r)
{
    static const struct value none = {.kind = NONE};
    const struct template_call *c = r->call;
    bind_messages(r);
    template_bind(r, template_literal("add_generation_prompt"), template_bool(c->add_generation_prompt));
    template_bind(r, template_literal("tools"), none);
    template_bind(r, template_literal("documents"), none);
    if (c->bos.bytes)
        template_bind(r, template_literal("bos_token"), template_text_value(text_of(c->bos)));
    if (c->eos.bytes)
        template_bind(r, template_literal("eos_token"), template_text_value(text_of(c->eos)));
    if (c->variables.bytes)
        template_bind_json(r, c->variables);
}

static bool hand_out(struct run *r, const struct builder *b, struct template_result *out)
{
    char *text = malloc(2 * b->bytes + 1);
    if (!text)
        return template_fail(&r->failure, ERR_MEMORY, r->line, "no memory for what it makes");
    if (b->bytes) {
        memcpy(text, b->at, b->bytes);
        memcpy(text + b->bytes, b->foreign, b->bytes);
    }
    *out = (struct template_result){
        .text = text, .foreign = (const uint8_t *)text + b->bytes, .bytes = b->bytes};
    return true;
}

enum err template_render(const struct template *t, const struct template_call *call, struct template_result *out,
                         char reason[GGUF_REASON_BYTES])
{
    struct builder built = {0};
    struct scope globals = {0}, top = {.outer = &globals};
    struct run r = {.arena = {.most = TEMPLATE_MEMORY_MAX}, .call = call, .scope = &globals, .out = &built, .line = 1};
    reason[0] = 0;
    bind_all(&r);
    r.scope = &top;
    if (!template_failed(&r))
        template_execute(&r, t->body);
    if (!template_failed(&r))
        hand_out(&r, &built, out);
    template_release(&r.arena);
    return r.failure.error ? tell(&r.failure, reason) : ERR_NONE;
}

void template_result_close(struct template_result *r)
{
    free(r->text);
    *r = (struct template_result){0};
}
