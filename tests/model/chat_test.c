#include "tests/harness.h"

#include <string.h>

#include "model/chat.h"

/* A vocabulary with control tokens, and no template of its own: the plain form. */
static const char path[] = SOURCE_DIR "/tests/model/tokenizer/spm.gguf";

static struct gguf *g;
static struct tokenizer *t;

static void open_all(void)
{
    char reason[GGUF_REASON_BYTES];
    CU_ASSERT_FATAL(gguf_open(path, &g, reason) == ERR_NONE);
    CU_ASSERT_FATAL(tokenizer_open(g, &t, reason) == ERR_NONE);
}

static void close_all(void)
{
    tokenizer_close(t);
    gguf_close(g);
}

static uint32_t a_control_token(void)
{
    for (uint32_t i = 0; i < tokenizer_vocabulary(t); i++)
        if (tokenizer_class(t, i) == TOKENIZER_CONTROL && tokenizer_spelling(t, i).bytes > 2)
            return i;
    return TOKENIZER_NONE;
}

static size_t count_of(const uint32_t *tokens, size_t count, uint32_t token)
{
    size_t n = 0;
    for (size_t i = 0; i < count; i++)
        n += tokens[i] == token;
    return n;
}

static void test_marks(void)
{
    uint32_t tokens[256];
    uint8_t foreign[200] = {0};
    char text[200];
    size_t count;
    open_all();
    const uint32_t control = a_control_token();
    const struct gguf_text s = tokenizer_spelling(t, control);
    CU_ASSERT_FATAL(control != TOKENIZER_NONE && 2 * s.bytes + 2 < sizeof text);
    memcpy(text, s.text, s.bytes);
    memcpy(text + s.bytes, "ab", 2);
    memcpy(text + s.bytes + 2, s.text, s.bytes);
    const size_t bytes = 2 * s.bytes + 2;
    CU_ASSERT(tokenizer_encode_marked(t, text, foreign, bytes, false, tokens, 256, &count) == ERR_NONE);
    CU_ASSERT_EQUAL(count_of(tokens, count, control), 2);
    foreign[2 * s.bytes + 1] = 1; /* one byte is enough */
    CU_ASSERT(tokenizer_encode_marked(t, text, foreign, bytes, false, tokens, 256, &count) == ERR_NONE);
    CU_ASSERT_EQUAL(count_of(tokens, count, control), 1);
    memset(foreign, 1, bytes);
    CU_ASSERT(tokenizer_encode_marked(t, text, foreign, bytes, false, tokens, 256, &count) == ERR_NONE);
    CU_ASSERT_EQUAL(count_of(tokens, count, control), 0);
    CU_ASSERT(tokenizer_encode_marked(t, "\xff", foreign, 1, false, tokens, 256, &count) == ERR_FORMAT);
    CU_ASSERT(tokenizer_encode_marked(t, text, foreign, bytes, false, tokens, 1, &count) == ERR_FULL && count > 1);
    close_all();
}

static void test_plain(void)
{
    static const char expected[] = "Be brief.\n\nUser: Hi\nAssistant: Yes\nUser: <|x|>\nAssistant:";
    const struct template_message all[] = {{{"developer", 9}, {"Be brief.", 9}},
                                           {{"user", 4}, {"Hi", 2}},
                                           {{"assistant", 9}, {"Yes", 3}},
                                           {{"user", 4}, {"<|x|>", 5}}};
    const struct template_message king = {{"king", 4}, {"x", 1}};
    const struct chat_said said = {.messages = all, .count = 4}, odd = {.messages = &king, .count = 1};
    const struct chat_said more = {all, 4, {"{\"enable_thinking\": false}", 26}}, bad = {all, 4, {"[]", 2}};
    uint32_t tokens[256], plain[256];
    char reason[GGUF_REASON_BYTES];
    struct chat *c = NULL;
    size_t count, plain_count;
    open_all();
    CU_ASSERT_FATAL(tokenizer_chat_template(t).bytes == 0);
    CU_ASSERT_FATAL(chat_open(t, &c, reason) == ERR_NONE);
    CU_ASSERT(chat_encode(c, &said, tokens, 256, &count, reason) == ERR_NONE);
    CU_ASSERT(tokenizer_encode(t, expected, sizeof expected - 1, true, false, plain, 256, &plain_count) == ERR_NONE);
    CU_ASSERT(count == plain_count && memcmp(tokens, plain, count * sizeof *tokens) == 0);
    CU_ASSERT(chat_encode(c, &said, tokens, 2, &count, reason) == ERR_FULL && count == plain_count);
    CU_ASSERT(chat_encode(c, &odd, tokens, 256, &count, reason) == ERR_ARGUMENT && strstr(reason, "role"));
    CU_ASSERT(chat_encode(c, &more, tokens, 256, &count, reason) == ERR_NONE && count == plain_count);
    CU_ASSERT(chat_encode(c, &bad, tokens, 256, &count, reason) == ERR_ARGUMENT && strstr(reason, "JSON object"));
    chat_close(c);
    close_all();
}

RUN_SUITE("chat", {"a message spells no control token", test_marks}, {"the plain form", test_plain})
