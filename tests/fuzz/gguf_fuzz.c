/* gguf_fuzz.c: any bytes: the reader refuses them with a reason, or every view it gives is inside them and
 * the tokenizer opens, or refuses, what it holds. */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "model/gguf.h"
#include "model/tokenizer.h"

static void inside(const uint8_t *bytes, size_t size, const void *view, size_t length)
{
    const uint8_t *p = view;
    HOLDS(p >= bytes && length <= size && (size_t)(p - bytes) <= size - length);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char reason[GGUF_REASON_BYTES];
    struct gguf *g = NULL;
    if (gguf_open_bytes(bytes, size, "fuzz", &g, reason) != ERR_NONE) {
        HOLDS(g == NULL && reason[0] != 0 && memchr(reason, '\n', sizeof reason) == NULL);
        return 0;
    }
    for (uint32_t i = 0; i < gguf_keys(g); i++) {
        const struct gguf_value *v = gguf_key(g, i);
        struct gguf_text text;
        inside(bytes, size, v->key.text, v->key.bytes);
        inside(bytes, size, v->data, v->bytes);
        uint64_t strings = 0;
        for (size_t at = 0; v->kind == GGUF_ARRAY && gguf_next_string(v, &at, &text); strings++)
            inside(bytes, size, text.text, text.bytes);
        HOLDS(v->kind != GGUF_ARRAY || v->element != GGUF_STRING || strings == v->count);
        (void)gguf_number(v, v->count - 1);
    }
    for (uint32_t i = 0; i < gguf_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor(g, i);
        inside(bytes, size, t->data, t->bytes);
        HOLDS(t->bytes == t->rows * t->row_bytes);
        HOLDS(gguf_tensor_find(g, t->name) == t);
    }
    struct tokenizer *t = NULL;
    if (tokenizer_open(g, &t, reason) == ERR_NONE) {
        uint32_t tokens[64];
        char back[512];
        size_t count = 0, got = 0;
        const enum err e = tokenizer_encode(t, " a\xc3(<s>", 7, true, true, tokens, 64, &count);
        HOLDS(e == ERR_NONE || e == ERR_FULL);
        for (size_t i = 0; i < count && i < 64; i++)
            HOLDS(tokens[i] < tokenizer_vocabulary(t));
        if (e == ERR_NONE)
            (void)!tokenizer_decode(t, tokens, count, true, back, sizeof back, &got);
    }
    tokenizer_close(t);
    gguf_close(g);
    return 0;
}
