/* model_experts.c: routing, and the experts over their rows. */
#include "model/model_experts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXPERTS_MAX = 1024 };

uint64_t experts_shape(struct forward *f, struct experts *x)
{
    struct weights *w = &f->weights;
    char key[64];
    x->count = weights_u32_or(w, "expert_count", 0);
    if (x->count == 0)
        return 0;
    x->used = weights_u32(w, "expert_used_count");
    x->ffn = weights_u32(w, "expert_feed_forward_length");
    x->shared = weights_u32_or(w, "expert_shared_count", 0);
    x->scale = weights_f32_or(w, "expert_weights_scale", 1);
    x->groups = weights_u32_or(w, "expert_group_count", 1);
    x->groups_used = weights_u32_or(w, "expert_group_used_count", x->groups);
    x->is_sigmoid = weights_u32_or(w, "expert_gating_func", 1) == 2;
    snprintf(key, sizeof key, "%s.expert_weights_norm", f->info.architecture);
    if (gguf_bool(w->g, key, &x->is_normed) != ERR_NONE)
        x->is_normed = false;
    if (x->count > EXPERTS_MAX || x->used > x->count || x->groups == 0 || x->groups > x->count || x->count % x->groups ||
        x->groups_used == 0 || x->groups_used > x->groups || x->used > x->count / x->groups * x->groups_used)
        weights_fail(w, ERR_FORMAT, "expected up to 1024 experts in even groups, some of each chosen");
    return x->count + 2ull * f->info.width + 2ull * x->ffn + 2ull * x->shared * x->ffn;
}

void experts_open(struct forward *f, struct experts *x)
{
    const uint32_t batch = f->info.batch, width = f->info.width;
    if (x->count == 0)
        return;
    forward_activation(f, &x->scores, x->count);
    forward_activation(f, &x->in, width);
    forward_activation(f, &x->out, width);
    forward_activation(f, &x->gate, x->ffn);
    forward_activation(f, &x->up, x->ffn);
    if (x->shared) {
        forward_activation(f, &x->shared_gate, x->shared * x->ffn);
        forward_activation(f, &x->shared_up, x->shared * x->ffn);
    }
    x->host = calloc((size_t)batch * x->count, sizeof *x->host);
    x->choice = calloc(x->count, sizeof *x->choice);
    x->weight = calloc(batch, sizeof *x->weight);
    x->row = calloc(batch, sizeof *x->row);
    if (!x->host || !x->choice || !x->weight || !x->row)
        weights_fail(&f->weights, ERR_MEMORY, "no memory for %u experts", x->count);
}

void experts_close(struct experts *x)
{
    free(x->host);
    free(x->choice);
    free(x->weight);
    free(x->row);
}

void experts_open_layer(struct forward *f, const struct experts *x, struct experts_layer *l, uint32_t layer)
{
    struct weights *w = &f->weights;
    const uint32_t width = f->info.width;
    char name[64];
    l->gate = calloc(x->count, sizeof *l->gate);
    l->up = calloc(x->count, sizeof *l->up);
    l->down = calloc(x->count, sizeof *l->down);
    if (x->count == 0 || !l->gate || !l->up || !l->down) {
        weights_fail(w, x->count ? ERR_MEMORY : ERR_FORMAT, "layer %u: expected experts, and memory for them", layer);
        return;
    }
    weights_linear(w, &l->router, x->count, width, "blk.%u.ffn_gate_inp", layer);
    for (uint32_t i = 0; i < x->count && !w->error; i++) {
        weights_linear_part(w, &l->gate[i], i * x->ffn, x->ffn, width, "blk.%u.ffn_gate_exps", layer);
        weights_linear_part(w, &l->up[i], i * x->ffn, x->ffn, width, "blk.%u.ffn_up_exps", layer);
        weights_linear_part(w, &l->down[i], i * width, width, x->ffn, "blk.%u.ffn_down_exps", layer);
        /* one name for all experts of a tensor; the part tells them apart */
        memcpy(l->gate[i].name, l->gate[0].name, sizeof l->gate[i].name);
        memcpy(l->up[i].name, l->up[0].name, sizeof l->up[i].name);
        memcpy(l->down[i].name, l->down[0].name, sizeof l->down[i].name);
        l->gate[i].part = l->up[i].part = l->down[i].part = i;
    }
    if (x->shared) {
        weights_linear(w, &l->shared_gate, x->shared * x->ffn, width, "blk.%u.ffn_gate_shexp", layer);
        weights_linear(w, &l->shared_up, x->shared * x->ffn, width, "blk.%u.ffn_up_shexp", layer);
        weights_linear(w, &l->shared_down, width, x->shared * x->ffn, "blk.%u.ffn_down_shexp", layer);
    }
    snprintf(name, sizeof name, "blk.%u.exp_probs_b.bias", layer);
    if (!weights_has(w, "%s", name))
        return;
    l->bias = calloc(x->count, sizeof *l->bias);
    if (l->bias)
        weights_floats(w, name, x->count, l->bias);
    else
        weights_fail(w, ERR_MEMORY, "no memory for %s", name);
}

void experts_close_layer(struct experts_layer *l)
{
    free(l->gate);
    free(l->up);
    free(l->down);
    free(l->bias);
}

/* Of n values the index of the largest, the first of equals; it becomes -inf. */
static uint32_t take_largest(float *value, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (value[i] > value[best])
            best = i;
    value[best] = -INFINITY;
    return best;
}

/* A group counts by its best expert, or, with a correction bias, by its two best. */
static float group_score(const float *choice, uint32_t n, bool by_two)
{
    float first = -INFINITY, second = -INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        if (choice[i] > first) {
            second = first;
            first = choice[i];
        } else if (choice[i] > second) {
            second = choice[i];
        }
    }
    return by_two && n > 1 ? first + second : first;
}

static void drop_groups(const struct experts *x, float *choice, bool by_two)
{
    const uint32_t size = x->count / x->groups;
    float score[EXPERTS_MAX];
    bool stays[EXPERTS_MAX] = {false};
    for (uint32_t g = 0; g < x->groups; g++)
        score[g] = group_score(choice + g * size, size, by_two);
    for (uint32_t i = 0; i < x->groups_used; i++)
        stays[take_largest(score, x->groups)] = true;
    for (uint32_t i = 0; i < x->count; i++)
        if (!stays[i / size])
            choice[i] = -INFINITY;
}

/* One row of scores to weights: those of the chosen experts, 0 elsewhere. */
static void route(struct experts *x, const float *bias, float *score)
{
    float top = score[0], sum = 0;
    for (uint32_t i = 1; i < x->count; i++)
        top = score[i] > top ? score[i] : top;
    for (uint32_t i = 0; i < x->count; i++) {
        score[i] = x->is_sigmoid ? 1 / (1 + expf(-score[i])) : expf(score[i] - top);
        sum += score[i];
    }
    for (uint32_t i = 0; i < x->count; i++) {
        score[i] = x->is_sigmoid ? score[i] : score[i] / sum;
        x->choice[i] = score[i] + (bias ? bias[i] : 0);
    }
    if (x->groups_used < x->groups)
        drop_groups(x, x->choice, bias != NULL);
    float value[EXPERTS_MAX], total = 0;
    uint32_t picked[EXPERTS_MAX];
    for (uint32_t n = 0; n < x->used; n++) {
        picked[n] = take_largest(x->choice, x->count);
        value[n] = score[picked[n]];
        total += value[n];
    }
    memset(score, 0, x->count * sizeof *score);
    for (uint32_t n = 0; n < x->used; n++)
        score[picked[n]] = (x->is_normed ? value[n] / (total + 1e-20f) : value[n]) * x->scale;
}

/* The rows that chose expert i, with their weights. */
static uint32_t rows_of(struct experts *m, uint32_t i, uint32_t rows)
{
    uint32_t count = 0;
    for (uint32_t r = 0; r < rows; r++) {
        const float weight = m->host[(size_t)r * m->count + i];
        if (weight != 0) {
            m->row[count] = r;
            m->weight[count++] = weight;
        }
    }
    return count;
}

static void run_expert(struct forward *f, struct experts *m, const struct experts_layer *l, uint32_t i,
                       uint32_t rows, const struct hal_mat *x, const struct hal_mat *h)
{
    struct hal_mat in = m->in, gate = m->gate, up = m->up, out = m->out;
    in.rows = gate.rows = up.rows = out.rows = rows;
    forward_embed(f, &in, h, m->row);
    forward_linear2(f, &in, &gate, &l->gate[i], &up, &l->up[i]);
    forward_glu(f, &gate, &gate, &up, HAL_SILU);
    forward_linear(f, &out, &gate, &l->down[i]);
    forward_scatter(f, x, &out, m->row, m->weight);
}

void experts_add(struct forward *f, struct experts *m, const struct experts_layer *l, const struct hal_mat *x,
                 const struct hal_mat *h)
{
    const uint32_t rows = h->rows;
    forward_linear(f, &m->scores, h, &l->router);
    forward_get(f, &m->scores, m->host);
    if (!forward_runs(f))
        return;
    for (uint32_t r = 0; r < rows; r++)
        route(m, l->bias, m->host + (size_t)r * m->count);
    for (uint32_t i = 0; i < m->count; i++) {
        const uint32_t count = rows_of(m, i, rows);
        if (count)
            run_expert(f, m, l, i, count, x, h);
    }
    if (!m->shared)
        return;
    forward_linear2(f, h, &m->shared_gate, &l->shared_gate, &m->shared_up, &l->shared_up);
    forward_glu(f, &m->shared_gate, &m->shared_gate, &m->shared_up, HAL_SILU);
    forward_linear(f, h, &m->shared_gate, &l->shared_down);
    forward_add(f, x, h);
}
