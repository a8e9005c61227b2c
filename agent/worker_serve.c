/* worker_serve.c: many requests, one model: every step runs what all of them have ready, together. A request
 * begins with what an earlier one left in the cache (worker_text.h).
 *
 * A request that another worker began comes with the answer so far: those tokens are fed as if they had been
 * sampled here, their text is not said again, and the answer goes on.
 */
#include "agent/worker_serve.h"
#include "agent/worker_task.h"

#include <poll.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/log.h"

/* ---- sequences ---- */

static void drop(struct worker_server *v, struct worker_sequence *s)
{
    if (s->history)
        worker_texts_end(&v->texts, s->index);
    sample_close(s->sampler);
    free(s->stop);
    worker_embed_free(s->embedding);
    *s = (struct worker_sequence){.held = s->held, .held_capacity = s->held_capacity}; /* for the next one */
    v->active--;
}

/* ---- requests ---- */

static enum err set_options(struct worker_server *v, struct worker_sequence *s, const struct wire *m)
{
    struct sample_options o = {.temperature = (float)wire_f64(m, WIRE_K_TEMPERATURE, 1),
                               .top_p = (float)wire_f64(m, WIRE_K_TOP_P, 1),
                               .top_k = (uint32_t)wire_u64(m, WIRE_K_TOP_K, 0),
                               .seed = wire_u64(m, WIRE_K_SEED, 0)};
    const void *list;
    size_t bytes;
    s->id = m->id;
    s->top = (uint32_t)wire_u64(m, WIRE_K_TOP, UINT32_MAX);
    if (s->top != UINT32_MAX && s->top > WORKER_TOP_MAX)
        s->top = WORKER_TOP_MAX;
    s->wants_tokens = wire_u64(m, WIRE_K_LAST, 0) != 0;
    s->from_us = worker_self_us();
    if (wire_view(m, WIRE_K_STOP, &list, &bytes)) {
        if (!(s->stop = malloc(bytes ? bytes : 1)))
            return ERR_MEMORY;
        memcpy(s->stop, list, bytes);
        s->stop_bytes = bytes;
    }
    if (worker_answer_begin(s))
        return ERR_MEMORY;
    return sample_open(&o, model_info(v->model)->vocabulary, &s->sampler);
}

/* A prompt that came as tokens. */
static enum err copy_tokens(struct worker_server *v, const void *ids, size_t bytes, size_t *count,
                            char why[WORKER_WHY])
{
    *count = bytes / 4;
    if (*count > v->context)
        return ERR_FULL;
    memcpy(v->prompt, ids, *count * 4);
    for (size_t i = 0; i < *count; i++)
        if (v->prompt[i] >= model_info(v->model)->vocabulary) {
            snprintf(why, WORKER_WHY, "token %u is not in the vocabulary of %u", v->prompt[i],
                     model_info(v->model)->vocabulary);
            return ERR_ARGUMENT;
        }
    return ERR_NONE;
}

static enum err set_prompt(struct worker_server *v, struct worker_sequence *s, const struct wire *m, char why[WORKER_WHY])
{
    const void *text;
    size_t bytes, count = 0;
    enum err e;
    if (wire_view(m, WIRE_K_PROMPT, &text, &bytes))
        e = tokenizer_encode(v->tokenizer, text, bytes, true, true, v->prompt, v->context, &count);
    else if (wire_view(m, WIRE_K_PROMPT_IDS, &text, &bytes))
        e = copy_tokens(v, text, bytes, &count, why);
    else if (wire_view(m, WIRE_K_CHAT, &text, &bytes))
        e = worker_chat(v, m, v->prompt, v->context, &count, why);
    else
        return ERR_ARGUMENT;
    if (e == ERR_FULL || (!e && count >= v->context)) {
        snprintf(why, WORKER_WHY, "the prompt has %zu tokens, the context holds %u", count, v->context);
        return ERR_FULL;
    }
    if (e && why[0])
        return e;
    if (e || count == 0) {
        snprintf(why, WORKER_WHY, e ? "the prompt cannot be tokenised: %s" : "the prompt is empty%s",
                 e ? err_name(e) : "");
        return e ? e : ERR_ARGUMENT;
    }
    if ((e = worker_texts_begin(&v->texts, v->prompt, (uint32_t)count, &s->index, &s->cached)))
        return e;
    s->history = v->texts.text[s->index].token;
    s->fed = s->cached;
    s->prompt = s->count = (uint32_t)count;
    uint64_t most = wire_u64(m, WIRE_K_GENERATE, 0);
    uint32_t room = v->context - s->prompt;
    s->most = most && most < room ? (uint32_t)most : room;
    tokenizer_stream_start(&s->stream, !wire_view(m, WIRE_K_CHAT, &text, &bytes), false);
    return ERR_NONE;
}

static void begin(struct worker_server *v, const struct wire *m)
{
    char why[WORKER_WHY] = "";
    const void *tokens;
    size_t bytes;
    struct worker_sequence *s = NULL;
    for (uint32_t i = 0; i < v->sequences && !s; i++)
        if (!v->sequence[i].used)
            s = &v->sequence[i];
    if (!s) {
        worker_answer_end(v, NULL, m->id, 0, ERR_FULL, "every place is taken");
        return;
    }
    s->used = true;
    v->active++;
    enum err e = ERR_NONE;
    if (m->kind == WIRE_EMBED) {
        e = worker_embed_begin(v, s, m, why);
    } else if (model_info(v->model)->is_encoder) {
        snprintf(why, sizeof why, "this model gives embeddings, it does not answer");
        e = ERR_ARGUMENT;
    } else {
        e = set_options(v, s, m);
        if (!e)
            e = set_prompt(v, s, m, why);
    }
    if (e) {
        worker_answer_end(v, NULL, m->id, 0, e, why[0] ? why : err_name(e));
        drop(v, s);
        return;
    }
    if (!wire_view(m, WIRE_K_TOKENS, &tokens, &bytes))
        return;
    for (size_t i = 0; i + 4 <= bytes; i += 4) {
        struct sample_choice c = {0};
        memcpy(&c.token, (const uint8_t *)tokens + i, 4);
        if (c.token >= model_info(v->model)->vocabulary)
            continue;
        if (!worker_answer_take(v, s, &c, NULL, true)) {
            drop(v, s);
            return;
        }
    }
}

static void cancel(struct worker_server *v, uint64_t id)
{
    for (uint32_t i = 0; i < v->sequences; i++)
        if (v->sequence[i].used && v->sequence[i].id == id)
            drop(v, &v->sequence[i]);
}

/* ---- one step of everything ---- */

static void fail_all(struct worker_server *v, enum err error)
{
    for (uint32_t i = 0; i < v->sequences; i++) {
        struct worker_sequence *s = &v->sequence[i];
        if (!s->used)
            continue;
        worker_answer_end(v, s, s->id, 0, error, "the engine failed");
        drop(v, s);
    }
}

/* Sequences that continue come first, prompts share what is left of the batch. */
static uint32_t plan_runs(struct worker_server *v)
{
    uint32_t left = model_info(v->model)->batch, count = 0;
    for (int pass = 0; pass < 2; pass++)
        for (uint32_t i = 0; i < v->sequences && left; i++) {
            struct worker_sequence *s = &v->sequence[i];
            uint32_t need = s->used ? s->count - s->fed : 0;
            if (need == 0 || (need == 1) != (pass == 0))
                continue;
            uint32_t chunk = need < left ? need : left;
            v->running[count] = s;
            v->runs[count++] = (struct model_run){.sequence = s->index,
                                                  .outputs = chunk == need,
                                                  .count = chunk,
                                                  .tokens = s->history + s->fed};
            left -= chunk;
        }
    return count;
}

/* Texts that rest give their pages to those that run. */
static enum err step_model(struct worker_server *v, uint32_t count)
{
    enum err e = model_step(v->model, v->runs, count);
    while (e == ERR_FULL && worker_texts_forget(&v->texts))
        e = model_step(v->model, v->runs, count);
    return e;
}

/* The next token of every run that has come to its end. */
static void choose_tokens(struct worker_server *v, uint32_t count)
{
    struct worker_choice choices = worker_choices(v, count);
    for (uint32_t i = 0; i < count; i++) {
        struct worker_sequence *s = v->running[i];
        struct sample_choice choice;
        const float *logits = NULL;
        if (!v->runs[i].outputs)
            continue;
        const enum err failed = worker_choose(v, &choices, s, &choice, &logits);
        if (failed) {
            worker_answer_end(v, s, s->id, 0, failed, "no token can be chosen");
            drop(v, s);
        } else if (!worker_answer_take(v, s, &choice, logits, false)) {
            drop(v, s);
        }
    }
}

static void step(struct worker_server *v)
{
    uint32_t count = plan_runs(v);
    if (count == 0)
        return; /* vectors only */
    bool observes = v->rate > 0 && (double)randombytes_uniform(1u << 20) < v->rate * (1 << 20);
    if (worker_window_observe(v, observes))
        log_warning("worker: activations cannot be observed");
    enum err e = step_model(v, count);
    if (e) {
        log_error("worker: a step failed: %s", err_name(e));
        fail_all(v, e);
        return;
    }
    for (uint32_t i = 0; i < count; i++)
        v->running[i]->fed += v->runs[i].count;
    choose_tokens(v, count);
    worker_beat(v->w, 0, 0);
}

static void step_embeddings(struct worker_server *v)
{
    for (uint32_t i = 0; i < v->sequences; i++) {
        struct worker_sequence *s = &v->sequence[i];
        if (!s->embedding)
            continue;
        if (!worker_embed_step(v, s))
            drop(v, s);
        worker_beat(v->w, 0, 0);
    }
}

static void hear(struct worker_server *v, const struct wire *m)
{
    switch (m->kind) {
    case WIRE_GENERATE:
    case WIRE_EMBED: begin(v, m); break;
    case WIRE_CANCEL: cancel(v, m->id); break;
    case WIRE_COLLECT: worker_window_collect(v); break;
    case WIRE_WINDOW: v->rate = wire_f64(m, WIRE_K_RATE, v->rate); break;
    default: log_warning("worker: an unexpected frame: kind=%u", m->kind); break;
    }
}

static void run(struct worker_server *v)
{
    struct wire m;
    for (;;) {
        struct pollfd p = {.fd = v->w->channel.fd, .events = POLLIN};
        enum err e = ERR_NOT_FOUND;
        while ((e = wire_next(&v->w->channel, &m)) == ERR_NONE)
            hear(v, &m);
        if (e != ERR_NOT_FOUND)
            return;
        if (poll(&p, 1, v->active ? 0 : -1) > 0) {
            if ((e = wire_fill(&v->w->channel)) && e != ERR_NOT_FOUND)
                return; /* the agent is gone */
            continue;
        }
        if (v->active)
            step(v);
        if (v->active)
            step_embeddings(v);
    }
}

static void on_load(void *context, uint64_t done, uint64_t total)
{
    worker_beat(context, done, total);
}

static void say_ready(struct worker_server *v)
{
    const struct model_info *info = model_info(v->model);
    uint32_t pooling;
    struct wire m;
    char served[WORKER_WHY];
    engine_describe(v->engine, served, sizeof served);
    wire_init(&m, WIRE_READY, v->w->id);
    wire_put_text(&m, WIRE_K_PLUGIN, served);
    wire_put_u64(&m, WIRE_K_CAN, (info->is_encoder ? 0 : (uint64_t)WIRE_CAN_COMPLETE | (v->chat ? WIRE_CAN_CHAT : 0)) |
                                     (embed_pooling(v->gguf, &pooling) ? 0 : WIRE_CAN_EMBED));
    wire_put_u64(&m, WIRE_K_CONTEXT, v->context);
    wire_put_u64(&m, WIRE_K_WIDTH, info->width);
    worker_reply(v->w, &m);
}

static enum err open_all(struct worker_server *v, const struct wire *m, char why[WORKER_WHY])
{
    char path[900], plugin[WORKER_NAME], folder[WORKER_FOLDER];
    if (!wire_text(m, WIRE_K_PATH, path, sizeof path) || !wire_text(m, WIRE_K_PLUGIN, plugin, sizeof plugin))
        return ERR_ARGUMENT;
    const uint32_t context = (uint32_t)wire_u64(m, WIRE_K_CONTEXT, 2048);
    const uint32_t keep = (uint32_t)wire_u64(m, WIRE_K_KEEP, 0);
    v->sequences = (uint32_t)wire_u64(m, WIRE_K_SEQUENCES, 1);
    struct model_options o = {.context = context,
                              .sequences = v->sequences + keep,
                              .resting = keep,
                              .head_rows = v->sequences,
                              .cache_bytes = wire_u64(m, WIRE_K_CACHE_BYTES, 0),
                              .spill_bytes = wire_u64(m, WIRE_K_SPILL_BYTES, 0),
                              .progress = on_load,
                              .progress_context = v->w};
    if (wire_text(m, WIRE_K_FOLDER, folder, sizeof folder) && folder[0] && (o.cache_bytes || o.spill_bytes))
        o.spill_folder = folder;
    worker_task_setting(m, &o);
    v->rate = wire_f64(m, WIRE_K_RATE, 0);
    enum err e = worker_engine(v->w, plugin, 0, &v->engine, why);
    if (!e)
        e = gguf_open(path, &v->gguf, why);
    if (!e)
        e = tokenizer_open(v->gguf, &v->tokenizer, why);
    if (!e) {
        worker_chat_open(v);
        o.context = worker_embed_context(v->gguf, o.context);
    }
    if (!e)
        e = worker_tune_open(v->w, path, v->gguf, v->engine, &o, &v->model, why);
    if (!e)
        e = worker_texts_open(&v->texts, v->model, keep > 0);
    if (e)
        return e;
    v->context = model_info(v->model)->context;
    v->sequence = calloc(v->sequences, sizeof *v->sequence);
    v->runs = calloc(v->sequences, sizeof *v->runs);
    v->running = calloc(v->sequences, sizeof *v->running);
    const size_t tops = (size_t)model_info(v->model)->head_rows * HAL_TOP_MAX;
    v->top_token = calloc(tops, sizeof *v->top_token);
    v->top_logit = calloc(tops, sizeof *v->top_logit);
    v->prompt = calloc(v->context, sizeof *v->prompt);
    return v->sequence && v->runs && v->running && v->prompt && v->top_token && v->top_logit ? ERR_NONE : ERR_MEMORY;
}

enum err worker_serve(struct worker_self *w, const struct wire *m)
{
    struct worker_server v = {.w = w};
    char why[WORKER_WHY] = "";
    enum err e = open_all(&v, m, why);
    if (e) {
        worker_fail(w, e, why[0] ? why : err_name(e));
    } else {
        say_ready(&v);
        run(&v);
        for (uint32_t i = 0; i < v.sequences; i++)
            if (v.sequence[i].used)
                drop(&v, &v.sequence[i]);
    }
    for (uint32_t i = 0; v.sequence && i < v.sequences; i++)
        free(v.sequence[i].held);
    free(v.sequence);
    free(v.runs);
    free(v.running);
    free(v.top_token);
    free(v.top_logit);
    free(v.prompt);
    worker_texts_close(&v.texts);
    worker_window_close(&v);
    worker_embed_close(&v);
    model_close(v.model);
    chat_close(v.chat);
    tokenizer_close(v.tokenizer);
    gguf_close(v.gguf);
    engine_close(v.engine);
    return e;
}
