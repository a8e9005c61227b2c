/* worker_chat.c: the chat forms that model cards use most, told apart by a mark in their template. */
#include "agent/worker_serve.h"

#include <string.h>

struct form {
    const char *mark; /* in the template; NULL: the plain form for models without one */
    const char *before_system, *after_system;
    const char *before_user, *after_user;
    const char *before_assistant, *after_assistant;
    const char *answer; /* what the assistant's turn begins with */
};

static const struct form forms[] = {
    {"<|im_start|>", "<|im_start|>system\n", "<|im_end|>\n", "<|im_start|>user\n", "<|im_end|>\n",
     "<|im_start|>assistant\n", "<|im_end|>\n", "<|im_start|>assistant\n"},
    {"<|start_header_id|>", "<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>",
     "<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>",
     "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>",
     "<|start_header_id|>assistant<|end_header_id|>\n\n"},
    {"<start_of_turn>", "<start_of_turn>user\n", "<end_of_turn>\n", "<start_of_turn>user\n", "<end_of_turn>\n",
     "<start_of_turn>model\n", "<end_of_turn>\n", "<start_of_turn>model\n"},
    {"<|assistant|>", "<|system|>\n", "<|end|>\n", "<|user|>\n", "<|end|>\n", "<|assistant|>\n", "<|end|>\n",
     "<|assistant|>\n"},
    {"[INST]", "[INST] <<SYS>>\n", "\n<</SYS>> [/INST]", "[INST] ", " [/INST]", " ", "</s>", ""},
    {NULL, "", "\n\n", "User: ", "\n", "Assistant: ", "\n", "Assistant:"},
};

struct writer {
    const struct tokenizer *t;
    uint32_t *tokens;
    size_t capacity, count;
    bool is_first;
};

static enum err put(struct writer *w, const char *text, size_t bytes, bool is_markup)
{
    size_t made = 0;
    if (bytes == 0)
        return ERR_NONE;
    enum err e = tokenizer_encode(w->t, text, bytes, w->is_first, is_markup, w->tokens + w->count,
                                  w->capacity - w->count, &made);
    if (e == ERR_FULL)
        w->count += made; /* what would be needed, so far */
    if (e)
        return e;
    w->count += made;
    w->is_first = false;
    return ERR_NONE;
}

static bool contains(struct gguf_text text, const char *mark)
{
    return text.bytes && memmem(text.text, text.bytes, mark, strlen(mark)) != NULL;
}

enum err worker_chat(const struct tokenizer *t, const char *chat, size_t bytes, uint32_t *tokens, size_t capacity,
                     size_t *count)
{
    struct writer w = {.t = t, .tokens = tokens, .capacity = capacity, .is_first = true};
    const struct form *f = forms;
    const char *role, *content;
    size_t at = 0;
    enum err e = ERR_NONE;
    while (f->mark && !contains(tokenizer_chat_template(t), f->mark))
        f++;
    while (!e && (role = wire_list_next(chat, bytes, &at)) && (content = wire_list_next(chat, bytes, &at))) {
        bool is_system = !strcmp(role, "system") || !strcmp(role, "developer");
        bool is_assistant = !strcmp(role, "assistant");
        const char *before = is_system ? f->before_system : is_assistant ? f->before_assistant : f->before_user;
        const char *after = is_system ? f->after_system : is_assistant ? f->after_assistant : f->after_user;
        e = put(&w, before, strlen(before), true);
        if (!e)
            e = put(&w, content, strlen(content), false);
        if (!e)
            e = put(&w, after, strlen(after), true);
    }
    if (!e)
        e = put(&w, f->answer, strlen(f->answer), true);
    *count = w.count;
    return e;
}
