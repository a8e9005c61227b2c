/* embed_verb.c: tare embed: texts to vectors of unit length. */
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "cli/open_model.h"
#include "model/embed.h"

struct embed_settings {
    int64_t context;
    bool truncate;
};

static const struct cli_option options[] = {
    {.name = "context", .kind = CLI_INT, .value = "N", .minimum = 0, .maximum = 1 << 22,
     .offset = offsetof(struct embed_settings, context), .help = "tokens of a text at most; default: as trained"},
    {.name = "truncate", .kind = CLI_FLAG, .offset = offsetof(struct embed_settings, truncate),
     .help = "cut longer texts instead of refusing them"},
    {.name = NULL}};

struct embedding {
    uint32_t *tokens;
    float *rows, *vector;
    uint32_t pooling;
};

static void show(struct cli_call *call, json_t *list, const float *vector, uint32_t width, size_t tokens)
{
    json_t *values = json_array();
    for (uint32_t i = 0; i < width; i++) {
        cli_print(call, i ? " %.7g" : "%.7g", (double)vector[i]);
        if (call->common.json)
            json_array_append_new(values, json_real((double)vector[i]));
    }
    cli_print(call, "\n");
    json_array_append_new(list, json_pack("{s:i, s:I, s:o}", "index", (int)json_array_size(list), "tokens",
                                          (json_int_t)tokens, "embedding", values));
}

/* A cut text keeps its last token, the one that ends it. */
static int embed_one(struct cli_call *call, struct open_model *m, const char *text, struct embedding *b, json_t *list)
{
    const struct embed_settings *s = call->settings;
    const struct model_info *info = model_info(m->model);
    const size_t bytes = strlen(text), room = 3 * bytes + 8;
    size_t count = 0;
    uint32_t *tokens = realloc(b->tokens, room * sizeof *tokens);
    if (!tokens)
        return cli_fail(call, CLI_ENVIRONMENT, NULL, NULL, "no memory for the tokens of a text");
    b->tokens = tokens;
    enum err e = tokenizer_encode(m->tokenizer, text, bytes, true, false, tokens, room, &count);
    if (!e && count == 0)
        return cli_fail(call, CLI_INPUT, NULL, NULL, "\"%.30s\": expected at least one token", text);
    if (!e && count > info->context) {
        if (!s->truncate)
            return cli_fail(call, CLI_INPUT, NULL, NULL, "\"%.30s\": %zu tokens do not fit into a context of %u",
                            text, count, info->context);
        tokens[info->context - 1] = tokens[count - 1];
        count = info->context;
    }
    if (!e)
        e = embed_tokens(m->model, 0, tokens, (uint32_t)count, b->pooling, b->rows, b->vector);
    if (e)
        return cli_fail(call, (enum cli_status)cli_status_of(e), call->operand[0], NULL, "%s", cli_sentence(e));
    show(call, list, b->vector, info->width, count);
    return CLI_DONE;
}

static int embed(struct cli_call *call)
{
    const struct embed_settings *s = call->settings;
    const struct model_options o = {.context = (uint32_t)s->context};
    struct open_model m = {NULL, NULL, NULL};
    struct embedding b = {NULL, NULL, NULL, 0};
    struct engine *e = NULL;
    json_t *list = json_array();
    int status = cli_engine_open(call, &e);
    if (status == CLI_DONE)
        status = open_model(call, e, call->operand[0], true, &o, &m);
    if (status == CLI_DONE && embed_pooling(m.file, &b.pooling))
        status = cli_fail(call, CLI_INPUT, call->operand[0], NULL, "pooling_type: expected 1, 2 or 3");
    if (status == CLI_DONE) {
        const struct model_info *info = model_info(m.model);
        b.rows = malloc((size_t)info->batch * info->width * sizeof *b.rows);
        b.vector = malloc(info->width * sizeof *b.vector);
        if (!b.rows || !b.vector || !list)
            status = cli_fail(call, CLI_ENVIRONMENT, NULL, NULL, "no memory for the vectors");
    }
    for (int i = 1; i < call->operands && status == CLI_DONE; i++)
        status = embed_one(call, &m, call->operand[i], &b, list);
    if (status == CLI_DONE)
        cli_answer(call, json_pack("{s:s, s:i, s:O}", "model", call->operand[0], "values",
                                   (int)model_info(m.model)->width, "data", list));
    json_decref(list);
    free(b.tokens);
    free(b.rows);
    free(b.vector);
    open_model_close(&m);
    engine_close(e);
    return status;
}

const struct cli_verb cli_embed = {
    .name = "embed",
    .operands = "FILE.gguf TEXT...",
    .operands_min = 2,
    .operands_max = INT_MAX,
    .summary = "turn texts into vectors of unit length",
    .text = "One line per text: the model's last hidden states, pooled as the file says (the mean where it says\n"
             "nothing). The product of two vectors is the cosine of their texts.",
    .options = options,
    .shared = CLI_ENGINE | CLI_OUTPUT,
    .settings_bytes = sizeof(struct embed_settings),
    .run = embed,
    .examples = (const struct cli_example[]){
        {"tare embed minilm.gguf 'a cat sits on the mat' 'the stock fell'", "two vectors"},
        {"tare embed minilm.gguf 'a cat sits on the mat' --json", "as one document"},
        {NULL, NULL}}};
