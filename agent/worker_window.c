/* worker_window.c: second moments of every linear's input over a window of live traffic. */
#include "agent/worker_serve.h"

#include <stdlib.h>
#include <string.h>

#include "agent/log.h"
#include "protocol/message.h"

enum { CHUNK_BYTES = 96 << 10, FRAME_BYTES = CHUNK_BYTES + 32 * 1024 };

static void on_linear(void *context, const char *tensor, uint32_t part, const float *x, uint32_t rows, uint32_t cols)
{
    struct worker_server *v = context;
    struct profile_entry *entry;
    /* The head is not quantised by importance. */
    if (strcmp(tensor, "output.weight") == 0 || strcmp(tensor, "token_embd.weight") == 0)
        return;
    const struct gguf_tensor *t = gguf_tensor_find(v->gguf, tensor);
    uint32_t slices = t && t->dims > 2 ? (uint32_t)t->shape[2] : 1;
    if (part >= slices || profile_entry_get(v->window, tensor, cols, slices, &entry))
        return;
    profile_add_rows(entry, part, x, rows);
}

enum err worker_window_observe(struct worker_server *v, bool on)
{
    struct model_observer observer = {.linear = on_linear, .context = v};
    enum err e = ERR_NONE;
    if (on && !v->window)
        e = profile_open(&v->window);
    if (!e && on != v->observes)
        e = model_observe(v->model, on ? &observer : NULL);
    if (!e)
        v->observes = on;
    return e;
}

void worker_window_close(struct worker_server *v)
{
    profile_close(v->window);
    v->window = NULL;
}

/* Chunks of at most CHUNK_BYTES of sums; entries longer than one are cut. */
struct chunk {
    struct message_sums m;
    size_t used; /* of floats */
    float floats[CHUNK_BYTES / 4];
    uint8_t frame[FRAME_BYTES];
};

static void flush(struct worker_server *v, struct chunk *c, uint32_t chunks, bool is_last, uint64_t tokens)
{
    struct wire m;
    size_t size;
    c->m.chunk++;
    c->m.chunks = chunks;
    wire_init(&m, WIRE_STATS, 0);
    wire_put_u64(&m, WIRE_K_LAST, is_last);
    wire_put_u64(&m, WIRE_K_COUNT, tokens);
    if (c->m.sums) {
        enum err e = message_sums_encode(&c->m, c->frame, sizeof c->frame, &size);
        if (e)
            log_error("worker: calibration sums cannot be written: %s", err_name(e));
        else
            wire_put_bytes(&m, WIRE_K_SUMS, c->frame, size);
    }
    worker_reply(v->w, &m);
    c->m.sums = 0;
    c->used = 0;
}

/* With send 0 it only counts the chunks that the same walk will make. */
static uint32_t walk(struct worker_server *v, struct chunk *c, uint32_t chunks, uint64_t tokens)
{
    const size_t most = sizeof c->floats / 4;
    uint32_t made = 0, sums = 0;
    size_t used = 0;
    for (uint32_t i = 0; v->window && i < v->window->entries; i++) {
        const struct profile_entry *e = &v->window->entry[i];
        for (uint32_t slice = 0; slice < e->slices; slice++)
            for (uint32_t at = 0; at < e->cols && e->count[slice] > 0;) {
                if (used == most || sums == MESSAGE_SUMS_MAX) {
                    if (chunks)
                        flush(v, c, chunks, false, tokens);
                    made++;
                    used = sums = 0;
                }
                uint32_t run = e->cols - at < most - used ? e->cols - at : (uint32_t)(most - used);
                if (chunks) {
                    struct message_sum *s = &c->m.sum[c->m.sums++];
                    memset(s, 0, sizeof *s);
                    memcpy(s->name, e->name, strnlen(e->name, sizeof s->name - 1));
                    s->channels = e->cols * e->slices;
                    s->offset = slice * e->cols + at;
                    s->rows = (uint64_t)e->count[slice];
                    s->squares.at = (const uint8_t *)&c->floats[used];
                    s->squares.size = (size_t)run * 4;
                    for (uint32_t k = 0; k < run; k++)
                        c->floats[used + k] = (float)e->sum2[(size_t)slice * e->cols + at + k];
                }
                used += run;
                at += run;
                sums++;
            }
    }
    if (used)
        made++;
    return made;
}

void worker_window_collect(struct worker_server *v)
{
    uint64_t tokens = 0;
    struct chunk *c = calloc(1, sizeof *c);
    for (uint32_t i = 0; v->window && i < v->window->entries; i++)
        for (uint32_t s = 0; s < v->window->entry[i].slices; s++)
            if ((uint64_t)v->window->entry[i].count[s] > tokens)
                tokens = (uint64_t)v->window->entry[i].count[s];
    if (!c) {
        log_error("worker: no memory for calibration sums");
        return;
    }
    /* What is the agent's to say; a decoder wants them not to be zero. */
    c->m.epoch = c->m.seq = c->m.window = 1;
    c->m.tokens = tokens ? tokens : 1;
    memset(c->m.base, 1, sizeof c->m.base);
    memset(c->m.variant, 1, sizeof c->m.variant);
    c->m.from_ms = c->m.to_ms = 1;
    uint32_t chunks = walk(v, c, 0, tokens);
    if (chunks)
        walk(v, c, chunks, tokens);
    flush(v, c, chunks ? chunks : 1, true, tokens);
    free(c);
    worker_window_close(v);
}
