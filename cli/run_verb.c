/* run_verb.c: tare run: a prompt in, text out as it comes. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/open_model.h"
#include "model/chat.h"
#include "model/sample.h"

enum { PIECE_BYTES = 4096 };

struct run_settings {
    const char *prompt, *system, *variables;
    int64_t tokens, context, seed, top_k, chunk, cache_bytes;
    const char *cache_folder;
    double temperature, top_p;
    int cache;
    bool special, is_chat;
};

static const struct cli_option options[] = {
    {.letter = 'p', .name = "prompt", .kind = CLI_TEXT, .value = "TEXT", .is_required = true,
     .offset = offsetof(struct run_settings, prompt), .help = "what to continue"},
    {.name = "chat", .kind = CLI_FLAG, .offset = offsetof(struct run_settings, is_chat),
     .help = "the prompt is a user's message, in the form of the model's chat template"},
    {.name = "system", .kind = CLI_TEXT, .value = "TEXT", .offset = offsetof(struct run_settings, system),
     .help = "with --chat: what the system says first"},
    {.name = "variables", .kind = CLI_TEXT, .value = "JSON", .offset = offsetof(struct run_settings, variables),
     .help = "with --chat: what the template asks for, such as {\"enable_thinking\": false}"},
    {.letter = 'n', .name = "tokens", .kind = CLI_INT, .value = "N", .preset = "128", .minimum = 0,
     .maximum = 1 << 20, .offset = offsetof(struct run_settings, tokens), .help = "tokens to add at most"},
    {.name = "temp", .kind = CLI_REAL, .value = "T", .preset = "0.8", .minimum = 0, .maximum = 100,
     .offset = offsetof(struct run_settings, temperature), .help = "temperature; 0 always takes the likeliest"},
    {.name = "top-k", .kind = CLI_INT, .value = "N", .preset = "40", .minimum = 0, .maximum = 1 << 24,
     .offset = offsetof(struct run_settings, top_k), .help = "choose among the N likeliest; 0: all"},
    {.name = "top-p", .kind = CLI_REAL, .value = "P", .preset = "0.95", .minimum = 0, .maximum = 1,
     .offset = offsetof(struct run_settings, top_p), .help = "choose among those that make up this share"},
    {.name = "seed", .kind = CLI_INT, .value = "N", .preset = "0", .minimum = 0, .maximum = 9e15,
     .offset = offsetof(struct run_settings, seed), .help = "the same seed gives the same text"},
    {.name = "context", .kind = CLI_INT, .value = "N", .minimum = 0, .maximum = 1 << 22,
     .offset = offsetof(struct run_settings, context), .help = "positions at most; default: as trained, up to 4096"},
    {.name = "chunk", .kind = CLI_INT, .value = "N", .minimum = 0, .maximum = 1 << 16,
     .offset = offsetof(struct run_settings, chunk), .help = "tokens of the prompt in one step; default: measured"},
    {.name = "cache", .kind = CLI_CHOICE, .choices = OPEN_MODEL_CACHES_AUTO, .preset = "auto",
     .offset = offsetof(struct run_settings, cache),
     .help = "type of keys and values; auto: f16 where the context fits, else a smaller one"},
    {.name = "cache-memory", .kind = CLI_BYTES, .value = "BYTES", .offset = offsetof(struct run_settings, cache_bytes),
     .help = "keep at most this of keys and values in memory, such as 64M; layers beyond it take turns"},
    {.name = "cache-folder", .kind = CLI_TEXT, .value = "FOLDER", .preset = "/tmp",
     .offset = offsetof(struct run_settings, cache_folder),
     .help = "with --cache-memory: where an unnamed file holds the rest"},
    {.name = "special", .kind = CLI_FLAG, .offset = offsetof(struct run_settings, special),
     .help = "show control tokens"},
    {.name = NULL}};

struct generation {
    char *text;
    size_t bytes, room;
    uint32_t *tokens;
    size_t prompt_tokens, generated;
    double start, prompt_s, decode_s; /* the prompt ends with its logits: before, work may be under way */
    size_t shown;    /* bytes of text that are the prompt's */
    const char *end; /* why it ended */
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static enum err put(struct cli_call *call, struct generation *g, const char *piece, size_t bytes)
{
    if (g->bytes + bytes + 1 > g->room) {
        const size_t room = (g->bytes + bytes + 1) * 2;
        char *text = realloc(g->text, room);
        if (!text)
            return ERR_MEMORY;
        g->text = text;
        g->room = room;
    }
    memcpy(g->text + g->bytes, piece, bytes);
    g->bytes += bytes;
    g->text[g->bytes] = 0;
    cli_print(call, "%.*s", (int)bytes, piece);
    if (!call->common.json)
        fflush(stdout);
    return ERR_NONE;
}

/* The next token: from the few greatest logits where they decide, else from all. */
static enum err choose(struct model *m, struct sampler *sampler, struct sample_choice *choice)
{
    uint32_t token[HAL_TOP_MAX];
    float logit[HAL_TOP_MAX];
    const float *logits = NULL;
    const uint32_t wanted = sample_wants(sampler);
    enum err e = wanted ? model_top(m, 0, 1, wanted, token, logit) : ERR_UNSUPPORTED;
    if (!e)
        return sample_from(sampler, token, logit, choice);
    if (e == ERR_UNSUPPORTED)
        e = model_logits(m, 0, 1, &logits);
    return e ? e : sample_next(sampler, logits, choice);
}

static enum err decode(struct cli_call *call, struct open_model *m, struct sampler *sampler,
                       struct generation *g)
{
    const struct run_settings *s = call->settings;
    struct tokenizer_stream stream;
    struct sample_choice choice = {0, 0};
    static char piece[PIECE_BYTES];
    size_t bytes = 0;
    enum err e = ERR_NONE;
    g->end = "length";
    tokenizer_stream_start(&stream, !s->is_chat, s->special);
    for (int64_t i = 0; i < s->tokens && !e; i++) {
        e = choose(m->model, sampler, &choice);
        if (i == 0)
            g->prompt_s = now() - g->start;
        if (!e && tokenizer_is_end(m->tokenizer, choice.token)) {
            g->end = "stop";
            break;
        }
        if (!e)
            e = tokenizer_stream_put(m->tokenizer, &stream, choice.token, piece, sizeof piece, &bytes);
        if (!e)
            e = put(call, g, piece, bytes);
        g->generated += e == ERR_NONE;
        const struct model_run run = {0, 1, 1, &choice.token};
        if (!e && i + 1 < s->tokens && (e = model_step(m->model, &run, 1)) == ERR_FULL) {
            g->end = "context";
            e = ERR_NONE;
            break;
        }
    }
    bytes = tokenizer_stream_end(&stream, piece);
    return e ? e : put(call, g, piece, bytes);
}

/* The conversation's tokens: counted, then made. */
static int encode_chat(struct cli_call *call, struct open_model *m, struct generation *g)
{
    const struct run_settings *s = call->settings;
    const struct template_message all[] = {{{"system", 6}, {s->system, s->system ? strlen(s->system) : 0}},
                                           {{"user", 4}, {s->prompt, strlen(s->prompt)}}};
    const struct chat_said said = {.messages = all + !s->system,
                                   .count = 1u + (s->system != NULL),
                                   .variables = {s->variables, s->variables ? strlen(s->variables) : 0}};
    char reason[GGUF_REASON_BYTES] = "";
    struct chat *chat = NULL;
    enum err e = chat_open(m->tokenizer, &chat, reason);
    for (size_t room = 0; !e;) {
        e = chat_encode(chat, &said, g->tokens, room, &g->prompt_tokens, reason);
        if (e != ERR_FULL || room)
            break;
        room = g->prompt_tokens;
        e = (g->tokens = malloc(room * sizeof *g->tokens)) ? ERR_NONE : ERR_MEMORY;
    }
    chat_close(chat);
    if (e)
        return cli_fail(call, (enum cli_status)cli_status_of(e), call->operand[0], NULL, "%s",
                        reason[0] ? reason : cli_sentence(e));
    return CLI_DONE;
}

static int encode(struct cli_call *call, struct open_model *m, struct generation *g)
{
    const struct run_settings *s = call->settings;
    const size_t prompt_bytes = strlen(s->prompt), room = 3 * prompt_bytes + 8;
    if (s->is_chat)
        return encode_chat(call, m, g);
    g->tokens = malloc(room * sizeof *g->tokens);
    enum err e = g->tokens ? ERR_NONE : ERR_MEMORY;
    if (!e)
        e = tokenizer_encode(m->tokenizer, s->prompt, prompt_bytes, true, true, g->tokens, room, &g->prompt_tokens);
    if (e)
        return cli_fail(call, (enum cli_status)cli_status_of(e), NULL, "--prompt", "%s", cli_sentence(e));
    return CLI_DONE;
}

static int generate(struct cli_call *call, struct open_model *m, struct generation *g)
{
    const struct run_settings *s = call->settings;
    struct sampler *sampler = NULL;
    const int status = encode(call, m, g);
    if (status != CLI_DONE)
        return status;
    if (g->prompt_tokens == 0)
        return cli_fail(call, CLI_INPUT, NULL, "--prompt", "expected at least one token");
    if (g->prompt_tokens > model_info(m->model)->context)
        return cli_fail(call, CLI_INPUT, NULL, "--prompt", "%zu tokens do not fit into a context of %u",
                        g->prompt_tokens, model_info(m->model)->context);
    const struct sample_options sampling = {.temperature = (float)s->temperature,
                                            .top_p = (float)s->top_p,
                                            .top_k = (uint32_t)s->top_k,
                                            .seed = (uint64_t)s->seed};
    enum err e = sample_open(&sampling, model_info(m->model)->vocabulary, &sampler);
    g->start = now();
    if (!e)
        e = model_prefill(m->model, 0, g->tokens, (uint32_t)g->prompt_tokens);
    g->prompt_s = now() - g->start;
    if (!e)
        e = put(call, g, s->prompt, s->is_chat ? 0 : strlen(s->prompt));
    g->shown = g->bytes;
    if (!e)
        e = decode(call, m, sampler, g);
    g->decode_s = now() - g->start - g->prompt_s;
    sample_close(sampler);
    return e ? cli_fail(call, (enum cli_status)cli_status_of(e), call->operand[0], NULL, "%s", cli_sentence(e))
             : CLI_DONE;
}

static int run(struct cli_call *call)
{
    const struct run_settings *s = call->settings;
    const struct model_options o = {.cache_bytes = (uint64_t)s->cache_bytes,
                                    .spill_folder = s->cache_bytes ? s->cache_folder : NULL};
    const struct tune_wish wish = {.threads = (uint32_t)call->common.threads,
                                   .chunk = (uint32_t)s->chunk,
                                   .cache = s->cache ? open_model_cache(s->cache - 1) : 0,
                                   .context = (uint32_t)s->context,
                                   .is_firm = s->context > 0,
                                   .memory_bytes = (uint64_t)call->common.memory_bytes,
                                   .cache_bytes = o.cache_bytes};
    struct tune_choice choice = {.lines = 0};
    struct open_model m = {NULL, NULL, NULL};
    struct generation g = {0};
    struct engine *e = NULL;
    int status = CLI_DONE;
    if ((s->system || s->variables) && !s->is_chat)
        status = cli_fail(call, CLI_USAGE, NULL, s->system ? "--system" : "--variables", "expected --chat with it");
    if (status == CLI_DONE)
        status = cli_engine_open(call, &e);
    if (status == CLI_DONE)
        status = open_model_tuned(call, e, call->operand[0], true, &o, &wish, false, &m, &choice);
    if (status == CLI_DONE && choice.samples && choice.seconds > 0.2 && !choice.is_kept)
        cli_note(call, "threads %u, %u tokens in one step, a cache of %s: measured in %.1f s, kept for next time\n",
                 choice.threads, choice.chunk, open_model_cache_name(choice.cache), choice.seconds);
    if (status == CLI_DONE)
        status = generate(call, &m, &g);
    if (status == CLI_DONE) {
        const double prefill = g.prompt_s > 0 ? (double)g.prompt_tokens / g.prompt_s : 0;
        const double speed = g.decode_s > 0 ? (double)g.generated / g.decode_s : 0;
        cli_print(call, "\n");
        cli_note(call, "%zu tokens in at %.1f tok/s, %zu out at %.1f tok/s\n", g.prompt_tokens, prefill,
                 g.generated, speed);
        cli_answer(call, json_pack("{s:s, s:s, s:s%, s:s, s:I, s:I, s:f, s:f, s:o}", "model", call->operand[0],
                                   "prompt", s->prompt, "text", g.text + g.shown, g.bytes - g.shown,
                                   "finish_reason", g.end, "prompt_tokens", (json_int_t)g.prompt_tokens,
                                   "completion_tokens", (json_int_t)g.generated, "prompt_tokens_per_second",
                                   prefill, "tokens_per_second", speed, "tune", open_model_choice(&choice)));
    }
    free(g.text);
    free(g.tokens);
    open_model_close(&m);
    engine_close(e);
    return status;
}

const struct cli_verb cli_run = {
    .name = "run",
    .operands = "FILE.gguf",
    .operands_min = 1,
    .operands_max = 1,
    .summary = "continue a prompt",
    .options = options,
    .shared = CLI_ENGINE | CLI_OUTPUT,
    .settings_bytes = sizeof(struct run_settings),
    .run = run,
    .examples = (const struct cli_example[]){
        {"tare run small.gguf -p 'Once upon a time' -n 64", "64 tokens at temperature 0.8"},
        {"tare run small.gguf -p 'Once upon a time' --temp 0", "always the likeliest token"},
        {"tare run small.gguf --chat --system 'Be brief.' -p 'How far is the moon?'", "an answer to a message"},
        {NULL, NULL}}};
