/* worker_embed.c: requests for vectors: one input per turn, between the steps of the answers beside them. */
#include "agent/worker_serve.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct worker_embedding {
    uint8_t *inputs; /* as WIRE_K_INPUTS */
    size_t bytes, at;
    uint64_t skip;   /* inputs that another worker has answered */
    uint64_t tokens; /* of all so far */
};

uint32_t worker_embed_context(const struct gguf *g, uint32_t context)
{
    struct gguf_text architecture = {"", 0};
    uint32_t trained = 0;
    if (gguf_string(g, "general.architecture", &architecture) == ERR_NONE && architecture.bytes == 4 &&
        memcmp(architecture.text, "bert", 4) == 0 && gguf_u32(g, "bert.context_length", &trained) == ERR_NONE &&
        trained > 0 && trained < context)
        return trained;
    return context;
}

static enum err make_room(struct worker_server *v, char why[WORKER_WHY])
{
    const struct model_info *info = model_info(v->model);
    if (!v->embed_rows && (embed_pooling(v->gguf, &v->pooling) != ERR_NONE)) {
        snprintf(why, WORKER_WHY, "the model asks for a pooling that is not supported");
        return ERR_UNSUPPORTED;
    }
    if (!v->embed_rows)
        v->embed_rows = malloc((size_t)info->batch * info->width * sizeof *v->embed_rows);
    if (!v->embed_vector)
        v->embed_vector = malloc(info->width * sizeof *v->embed_vector);
    return v->embed_rows && v->embed_vector ? ERR_NONE : ERR_MEMORY;
}

void worker_embed_free(struct worker_embedding *b)
{
    if (b)
        free(b->inputs);
    free(b);
}

void worker_embed_close(struct worker_server *v)
{
    free(v->embed_rows);
    free(v->embed_vector);
}

enum err worker_embed_begin(struct worker_server *v, struct worker_sequence *s, const struct wire *m,
                            char why[WORKER_WHY])
{
    const void *inputs;
    size_t bytes;
    uint32_t held;
    enum err e = make_room(v, why);
    if (!e) /* a place of the model without a text; its tokens are the inputs', one after the other */
        e = worker_texts_begin(&v->texts, v->prompt, 0, &s->index, &held);
    if (e)
        return e;
    s->history = v->texts.text[s->index].token;
    if (!wire_view(m, WIRE_K_INPUTS, &inputs, &bytes) || bytes == 0)
        return ERR_ARGUMENT;
    if (!(s->embedding = calloc(1, sizeof *s->embedding)) || !(s->embedding->inputs = malloc(bytes)))
        return ERR_MEMORY;
    memcpy(s->embedding->inputs, inputs, bytes);
    s->embedding->bytes = bytes;
    s->embedding->skip = wire_u64(m, WIRE_K_PREFIX, 0);
    s->id = m->id;
    s->from_us = s->first_us = worker_self_us();
    return ERR_NONE;
}

/* The next input's tokens. */
static enum err take_input(struct worker_server *v, struct worker_sequence *s, size_t *count, char why[WORKER_WHY])
{
    struct worker_embedding *b = s->embedding;
    uint32_t size;
    uint8_t form;
    if (b->bytes - b->at < 5)
        return ERR_FORMAT;
    form = b->inputs[b->at];
    memcpy(&size, b->inputs + b->at + 1, 4);
    const uint8_t *at = b->inputs + b->at + 5;
    if (size > b->bytes - b->at - 5)
        return ERR_FORMAT;
    b->at += 5 + (size_t)size;
    if (form == WIRE_INPUT_TEXT) {
        const enum err e = tokenizer_encode(v->tokenizer, (const char *)at, size, true, false, s->history, v->context, count);
        if (e && e != ERR_FULL)
            return e;
    } else {
        *count = size / 4;
        for (size_t i = 0; i < *count && i < v->context; i++) {
            memcpy(&s->history[i], at + 4 * i, 4);
            if (s->history[i] >= model_info(v->model)->vocabulary) {
                snprintf(why, WORKER_WHY, "token %u is not in the vocabulary of %u", s->history[i],
                         model_info(v->model)->vocabulary);
                return ERR_ARGUMENT;
            }
        }
    }
    if (*count > v->context) {
        snprintf(why, WORKER_WHY, "an input has %zu tokens, the context holds %u", *count, v->context);
        return ERR_FULL;
    }
    if (*count == 0)
        snprintf(why, WORKER_WHY, "an input is empty");
    return *count ? ERR_NONE : ERR_ARGUMENT;
}

/* Texts that rest give their cache pages to it. */
static enum err embed(struct worker_server *v, struct worker_sequence *s, uint32_t count)
{
    enum err e;
    do
        e = embed_tokens(v->model, s->index, s->history, count, v->pooling, v->embed_rows, v->embed_vector);
    while (e == ERR_FULL && worker_texts_forget(&v->texts));
    return e;
}

bool worker_embed_step(struct worker_server *v, struct worker_sequence *s)
{
    struct worker_embedding *b = s->embedding;
    char why[WORKER_WHY] = "";
    size_t count = 0;
    struct wire m;
    enum err e = take_input(v, s, &count, why);
    b->tokens += count;
    s->prompt = s->count = s->fed = (uint32_t)b->tokens; /* nothing for a common step */
    if (!e && b->skip > 0) {
        b->skip--;
    } else if (!e && !(e = embed(v, s, (uint32_t)count))) {
        wire_init(&m, WIRE_VECTOR, s->id);
        wire_put_bytes(&m, WIRE_K_VECTOR, v->embed_vector, model_info(v->model)->width * sizeof *v->embed_vector);
        worker_reply(v->w, &m);
    }
    if (e || b->at == b->bytes) {
        worker_answer_end(v, s, s->id, WIRE_STOPPED, e, why[0] ? why : err_name(e));
        return false;
    }
    return true;
}
