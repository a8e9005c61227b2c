/* worker_choose.c: the next token of each run of a step: from the few greatest logits where they decide
 * all of them, else from all logits. */
#include "agent/worker_serve.h"

/* How many of the greatest logits decide the next token of all runs; 0: some run needs them all. */
static uint32_t logits_wanted(const struct worker_server *v, uint32_t count)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct worker_sequence *s = v->running[i];
        if (!v->runs[i].outputs)
            continue;
        const uint32_t wants = s->top == UINT32_MAX ? sample_wants(s->sampler) : 0;
        if (wants == 0)
            return 0;
        most = wants > most ? wants : most;
    }
    return most;
}

struct worker_choice worker_choices(const struct worker_server *v, uint32_t count)
{
    struct worker_choice c = {.wants = logits_wanted(v, count)};
    for (uint32_t i = 0; i < count; i++)
        c.outputs += v->runs[i].outputs;
    return c;
}

/* Of as many rows as the head takes at once: its weights are read once for all of them. */
static enum err fetch(struct worker_server *v, struct worker_choice *c, uint32_t most)
{
    const uint32_t rows = c->outputs - c->row < most ? c->outputs - c->row : most;
    enum err e = ERR_UNSUPPORTED;
    if (c->wants)
        e = model_top(v->model, c->row, rows, c->wants, v->top_token, v->top_logit);
    if (e != ERR_UNSUPPORTED)
        return e;
    c->wants = 0;
    return model_logits(v->model, c->row, rows, &c->logits);
}

enum err worker_choose(struct worker_server *v, struct worker_choice *c, struct worker_sequence *s,
                       struct sample_choice *out, const float **logits)
{
    const struct model_info *info = model_info(v->model);
    const uint32_t at = c->row % info->head_rows;
    if (at == 0)
        c->error = fetch(v, c, info->head_rows);
    c->row++;
    if (c->error)
        return c->error;
    if (c->wants)
        return sample_from(s->sampler, v->top_token + (size_t)at * c->wants,
                           v->top_logit + (size_t)at * c->wants, out);
    *logits = c->logits + (size_t)at * info->vocabulary;
    return sample_next(s->sampler, *logits, out);
}
