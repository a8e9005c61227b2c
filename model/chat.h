/* chat.h: a conversation to tokens, in the form that the model's own template gives it.
 *
 * What a message says never becomes a control token, however it is spelt. A model without a template gets plain
 * "User:" and "Assistant:" lines. Threads: as struct tokenizer.
 */
#ifndef CHAT_H
#define CHAT_H

#include "model/template.h"
#include "model/tokenizer.h"

struct chat;

/* t is borrowed until chat_close. Errors: as template_open, with the reason. */
NODISCARD enum err chat_open(const struct tokenizer *t, struct chat **out, char reason[GGUF_REASON_BYTES]);
void chat_close(struct chat *c); /* NULL is allowed */

/* Whether text is a role that templates know: system, user, assistant, developer or tool. */
bool chat_is_role(struct gguf_text role);

/* What is said: messages, and what else the template may ask for (template_call.variables). */
struct chat_said {
    const struct template_message *messages;
    size_t count;
    struct gguf_text variables;
};

/* Up to where the assistant's answer begins. Developer is said as system unless the template knows it.
 * Errors: as template_render, ERR_ARGUMENT (a role), ERR_FULL (*count says how many would be needed). */
NODISCARD enum err chat_encode(const struct chat *c, const struct chat_said *said, uint32_t *tokens, size_t capacity,
                               size_t *count, char reason[GGUF_REASON_BYTES]);

#endif
