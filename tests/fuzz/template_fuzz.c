/* template_fuzz.c: whatever a template says, rendering ends: with one line of what is wrong, or with UTF-8 in which
 * every byte is the template's or a message's, and the same a second time. */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "model/model_utf8.h"
#include "model/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const struct template_message messages[] = {{{"system", 6}, {"Be \xc3\xa4 brief.\n", 12}},
                                                       {{"user", 4}, {" 2 < 3? ", 8}},
                                                       {{"assistant", 9}, {"<think>x</think>Yes", 19}},
                                                       {{"user", 4}, {"", 0}}};
    static const struct tm now = {.tm_year = 124, .tm_mday = 1};
    static const struct template_call call = {.messages = messages,
                                              .count = 4,
                                              .add_generation_prompt = true,
                                              .bos = {"<s>", 3},
                                              .eos = {"</s>", 4},
                                              .variables = {"{\"enable_thinking\": false, \"extra\": [1, {\"a\": \"b\"}, null, 2.5]}", 63},
                                              .now = &now};
    struct template_result first = {0}, second = {0};
    struct template *t = NULL;
    char reason[GGUF_REASON_BYTES] = "";
    if (size > 1 << 14)
        return 0;
    if (template_open((const char *)bytes, size, &t, reason)) {
        HOLDS(reason[0] && !strchr(reason, '\n'));
        return 0;
    }
    const enum err e = template_render(t, &call, &first, reason);
    HOLDS(template_render(t, &call, &second, reason) == e);
    if (e) {
        HOLDS(reason[0] && !strchr(reason, '\n') && model_utf8_is_well_formed(reason, strlen(reason)));
        HOLDS(!first.text);
    } else {
        HOLDS(model_utf8_is_well_formed(first.text, first.bytes));
        HOLDS(first.bytes == second.bytes && memcmp(first.text, second.text, 2 * first.bytes) == 0);
        for (size_t i = 0; i < first.bytes; i++)
            HOLDS(first.foreign[i] <= 1);
    }
    template_result_close(&first);
    template_result_close(&second);
    template_close(t);
    return 0;
}
