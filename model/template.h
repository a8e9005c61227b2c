/* template.h: chat templates: the subset of Jinja2 that model cards use, as the transformers package sets it
 * up (trim_blocks, lstrip_blocks, loop controls, immutable values).
 *
 * Expressions with everything but `await`; if, for, set (also as a block), macro, filter, raw, generation,
 * break, continue; namespace, range, dict, raise_exception, strftime_now; the filters, tests and methods that
 * template_filter.c, template_test.c and template_method.c list. What it does not know is refused by name: a
 * conversation is never rendered in a form that its model was not trained on. Upper and lower case are
 * Unicode's simple mappings.
 *
 * A template is foreign: its size, depth, steps and memory are bounded. What messages say is told from what the
 * template says, byte for byte, so that a message cannot spell a control token.
 * Threads: a template never changes after open: any number may render.
 * Source: the Jinja2 template designer documentation, version 3.1.
 */
#ifndef TEMPLATE_H
#define TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "model/gguf.h"
#include "protocol/err.h"

enum { TEMPLATE_BYTES_MAX = 256 << 10, TEMPLATE_MEMORY_MAX = 48 << 20, TEMPLATE_STEPS_MAX = 20000000 };

struct template;

struct template_message {
    struct gguf_text role;
    struct gguf_text content;
};

struct template_call {
    const struct template_message *messages;
    size_t count;
    bool add_generation_prompt;
    struct gguf_text bos, eos; /* spellings; no bytes: not defined */
    struct gguf_text variables; /* a JSON object whose members the template sees (enable_thinking ...), or no bytes */
    const struct tm *now;      /* of strftime_now; NULL: local time */
};

/* What came out, in UTF-8; foreign[i] is 1 where a message said it. Both are one allocation, at text. */
struct template_result {
    char *text; /* not terminated */
    const uint8_t *foreign;
    size_t bytes;
};

/* text is copied. Errors: ERR_UNSUPPORTED (no template, or one beyond the subset), ERR_MEMORY; reason is one
 * line with the template's line. */
NODISCARD enum err template_open(const char *text, size_t bytes, struct template **out,
                                 char reason[GGUF_REASON_BYTES]);
void template_close(struct template *t); /* NULL is allowed */

/* Errors: ERR_ARGUMENT (the template refuses the conversation, with its own words, or a message is no UTF-8),
 * ERR_UNSUPPORTED (it asks for what is not there, or is wrong), ERR_MEMORY (too much of it). */
NODISCARD enum err template_render(const struct template *t, const struct template_call *call,
                                   struct template_result *out, char reason[GGUF_REASON_BYTES]);
void template_result_close(struct template_result *r);

#endif
