/* worker_text.c: see worker_text.h. */
#include "agent/worker_text.h"

#include <stdlib.h>
#include <string.h>

enum { LEAST = 8 }; /* tokens that are worth the copy of a page */

enum err worker_texts_open(struct worker_texts *t, struct model *m, bool keeps)
{
    *t = (struct worker_texts){.model = m, .count = model_info(m)->sequences, .keeps = keeps};
    t->text = calloc(t->count, sizeof *t->text);
    return t->text ? ERR_NONE : ERR_MEMORY;
}

void worker_texts_close(struct worker_texts *t)
{
    for (uint32_t i = 0; t->text && i < t->count; i++)
        free(t->text[i].token);
    free(t->text);
    *t = (struct worker_texts){0};
}

/* How many of these tokens the place's text holds in the cache, as a beginning to go on from. */
static uint32_t common(const struct worker_texts *t, uint32_t place, const uint32_t *token, uint32_t count)
{
    const struct worker_text *text = &t->text[place];
    uint32_t most = model_length(t->model, place), n = 0;
    if (most > count)
        most = count;
    while (n < most && text->token[n] == token[n])
        n++;
    return n >= LEAST && model_holds(t->model, place, n) ? n : 0;
}

/* The place to use: an unused one, or the longest rested, best left alone if there is another. */
static uint32_t free_place(const struct worker_texts *t, uint32_t best)
{
    uint32_t found = t->count;
    for (uint32_t i = 0; i < t->count; i++) {
        const struct worker_text *text = &t->text[i];
        if (text->is_busy || i == best)
            continue;
        if (model_length(t->model, i) == 0)
            return i;
        if (found == t->count || text->used < t->text[found].used)
            found = i;
    }
    if (found == t->count && best < t->count && !t->text[best].is_busy)
        return best;
    return found;
}

enum err worker_texts_begin(struct worker_texts *t, const uint32_t *token, uint32_t count, uint32_t *place,
                            uint32_t *held)
{
    uint32_t best = t->count, most = 0;
    for (uint32_t i = 0; i < t->count && t->keeps && count > 1; i++) {
        const uint32_t n = t->text[i].token ? common(t, i, token, count - 1) : 0; /* the last one gives the logits */
        if (n > most || (n == most && n > 0 && !t->text[i].is_busy)) {
            best = i;
            most = n;
        }
    }
    /* A text that would be continued where it ends has nothing to lose. */
    const bool is_end = best < t->count && !t->text[best].is_busy && model_length(t->model, best) == most;
    const uint32_t to = is_end ? best : free_place(t, best);
    if (to == t->count)
        return ERR_FULL;
    struct worker_text *text = &t->text[to];
    if (!text->token && !(text->token = malloc((size_t)model_info(t->model)->context * sizeof *text->token)))
        return ERR_MEMORY;
    *held = most ? model_share(t->model, to, best, most) : model_truncate(t->model, to, 0);
    memcpy(text->token, token, count * sizeof *token);
    text->count = count;
    text->is_busy = true;
    *place = to;
    return ERR_NONE;
}

void worker_texts_end(struct worker_texts *t, uint32_t place)
{
    struct worker_text *text = &t->text[place];
    if (!t->keeps)
        model_truncate(t->model, place, 0);
    text->count = model_length(t->model, place);
    text->is_busy = false;
    text->used = ++t->clock;
}

bool worker_texts_forget(struct worker_texts *t)
{
    uint32_t found = t->count;
    for (uint32_t i = 0; i < t->count; i++) {
        const struct worker_text *text = &t->text[i];
        if (!text->is_busy && model_length(t->model, i) > 0 &&
            (found == t->count || text->used < t->text[found].used))
            found = i;
    }
    if (found == t->count)
        return false;
    model_truncate(t->model, found, 0);
    t->text[found].count = 0;
    return true;
}
