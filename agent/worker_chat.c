/* worker_chat.c: conversations in the model's own form. A template that cannot be used fails chats, nothing else. */
#include "agent/worker_serve.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/log.h"

void worker_chat_open(struct worker_server *v)
{
    if (chat_open(v->tokenizer, &v->chat, v->chat_why))
        log_warning("worker: no chat with this model: %s", v->chat_why);
}

enum err worker_chat(struct worker_server *v, const struct wire *m, uint32_t *tokens, size_t capacity, size_t *count,
                     char why[WORKER_WHY])
{
    const void *chat = NULL, *variables = NULL;
    size_t bytes = 0, variables_bytes = 0;
    char reason[GGUF_REASON_BYTES];
    struct template_message *messages = NULL;
    const char *role, *content;
    size_t at = 0, used = 0, room = 0;
    enum err e = ERR_NONE;
    if (!v->chat) {
        snprintf(why, WORKER_WHY, "%s", v->chat_why);
        return ERR_UNSUPPORTED;
    }
    wire_view(m, WIRE_K_CHAT, &chat, &bytes);
    wire_view(m, WIRE_K_VARIABLES, &variables, &variables_bytes);
    while ((role = wire_list_next(chat, bytes, &at)) && (content = wire_list_next(chat, bytes, &at))) {
        if (used == room) {
            room = room * 2 + 16;
            struct template_message *grown = realloc(messages, room * sizeof *grown);
            if (!grown) {
                free(messages);
                return ERR_MEMORY;
            }
            messages = grown;
        }
        messages[used++] = (struct template_message){{role, strlen(role)}, {content, strlen(content)}};
    }
    const struct chat_said said = {messages, used, {variables, variables_bytes}};
    e = chat_encode(v->chat, &said, tokens, capacity, count, reason);
    if (e && e != ERR_FULL)
        snprintf(why, WORKER_WHY, "%s", reason);
    free(messages);
    return e;
}
