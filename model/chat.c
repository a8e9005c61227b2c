/* chat.c: the template, rendered, tokenised. */
#include "model/chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct chat {
    const struct tokenizer *tokenizer;
    struct template *template;
    bool is_plain;         /* the model brought no template */
    bool knows_developer;
};

static const char plain[] = "{% for m in messages %}\n"
                            "{% if m.role == 'system' %}{{ m.content ~ '\\n\\n' }}\n"
                            "{%- elif m.role == 'assistant' %}{{ 'Assistant: ' ~ m.content ~ '\\n' }}\n"
                            "{%- else %}{{ 'User: ' ~ m.content ~ '\\n' }}{% endif %}{% endfor %}\n"
                            "{% if add_generation_prompt %}Assistant:{% endif %}";

enum err chat_open(const struct tokenizer *t, struct chat **out, char reason[GGUF_REASON_BYTES])
{
    struct gguf_text source = tokenizer_chat_template(t);
    struct chat *c = calloc(1, sizeof *c);
    if (!c) {
        snprintf(reason, GGUF_REASON_BYTES, "no memory for the chat template");
        return ERR_MEMORY;
    }
    c->tokenizer = t;
    c->is_plain = source.bytes == 0;
    if (c->is_plain)
        source = (struct gguf_text){plain, sizeof plain - 1};
    c->knows_developer = memmem(source.text, source.bytes, "developer", 9) != NULL;
    const enum err e = template_open(source.text, source.bytes, &c->template, reason);
    if (e) {
        chat_close(c);
        return e;
    }
    *out = c;
    return ERR_NONE;
}

void chat_close(struct chat *c)
{
    if (!c)
        return;
    template_close(c->template);
    free(c);
}

bool chat_is_role(struct gguf_text role)
{
    static const char *const roles[] = {"system", "user", "assistant", "developer", "tool"};
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (role.bytes == strlen(roles[i]) && memcmp(role.text, roles[i], role.bytes) == 0)
            return true;
    return false;
}

enum err chat_encode(const struct chat *c, const struct chat_said *said, uint32_t *tokens, size_t capacity,
                     size_t *count, char reason[GGUF_REASON_BYTES])
{
    const uint32_t bos = tokenizer_bos(c->tokenizer), eos = tokenizer_eos(c->tokenizer);
    struct template_message *copy = malloc((said->count + 1) * sizeof *copy);
    struct template_result made = {0};
    enum err e = copy ? ERR_NONE : ERR_MEMORY;
    *count = 0;
    reason[0] = 0;
    for (size_t i = 0; !e && i < said->count; i++) {
        copy[i] = said->messages[i];
        if (!chat_is_role(copy[i].role)) {
            snprintf(reason, GGUF_REASON_BYTES, "message %zu: expected the role system, user, assistant, developer or tool", i + 1);
            e = ERR_ARGUMENT;
        } else if (copy[i].role.text[0] == 'd' && !c->knows_developer) {
            copy[i].role = (struct gguf_text){"system", 6};
        }
    }
    const struct template_call call = {.messages = copy,
                                       .count = said->count,
                                       .add_generation_prompt = true,
                                       .bos = tokenizer_spelling(c->tokenizer, bos),
                                       .eos = tokenizer_spelling(c->tokenizer, eos),
                                       .variables = said->variables};
    if (!e)
        e = template_render(c->template, &call, &made, reason);
    if (!e)
        e = tokenizer_encode_marked(c->tokenizer, made.text, made.foreign, made.bytes, c->is_plain, tokens, capacity,
                                    count);
    if (e && !reason[0] && e != ERR_FULL)
        snprintf(reason, GGUF_REASON_BYTES, "the conversation cannot be tokenised: %s", err_name(e));
    template_result_close(&made);
    free(copy);
    return e;
}
