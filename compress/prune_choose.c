#include "compress/prune_choose.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compress/prune_layers.h"
#include "compress/prune_memory.h"
#include "compress/prune_solve.h"
#include "hal/engine.h"
#include "model/gguf.h"

enum { STEP_WIDE = 256, STEP = 32 };

struct choosing {
    const struct prune_choose_options *options;
    struct prune_source *source;
    struct prune *p;
    struct prune_kept kept;
    uint32_t by; /* enum recipe_importance */
    uint32_t threads;
    struct fault *fault;
};

/* ---- how much ---- */

static uint32_t nearest(double x, uint32_t step)
{
    return (uint32_t)(x / step + 0.5) * step;
}

static enum err ffn_width(const struct recipe_prune *want, uint32_t ffn, uint32_t *out, struct fault *f)
{
    const double exact = ffn * (1 - want->ffn / 100);
    uint32_t step = want->multiple;
    *out = ffn;
    if (want->ffn <= 0)
        return ERR_NONE;
    if (step == 0) {
        const uint32_t wide = nearest(exact, STEP_WIDE);
        step = ffn % STEP_WIDE == 0 && wide > 0 && wide < ffn && fabs(wide - exact) <= 0.05 * ffn ? STEP_WIDE : STEP;
    }
    if (ffn % step)
        return fault_set(f, ERR_ARGUMENT, "prune: %u FFN channels do not divide by %u: state a step that divides them", ffn, step);
    *out = nearest(exact, step);
    if (*out < step)
        *out = step;
    return ERR_NONE;
}

/* percent of n, to the nearest, but one stays. */
static uint32_t share(double percent, uint32_t n)
{
    const uint32_t gone = (uint32_t)(n * percent / 100 + 0.5);
    return gone < n ? gone : n - 1;
}

enum err prune_choose_widths(const struct recipe_prune *want, const struct prune_shape *s, struct prune_kept *out,
                             struct fault *f)
{
    const uint32_t each = s->heads / s->groups;
    struct prune_kept k = {.layers = s->layers - share(want->layers, s->layers)};
    const double groups = each > 1 || want->groups > want->heads ? want->groups : want->heads;
    const uint32_t heads = each > 1 ? each - share(want->heads, each) : 1;
    k.groups = s->groups - share(groups, s->groups);
    k.heads = heads * k.groups;
    enum err e = ffn_width(want, s->ffn, &k.ffn, f);
    if (e)
        return e;
    if (k.layers == s->layers && k.groups == s->groups && k.heads == s->heads && k.ffn == s->ffn && want->mask <= 0 &&
        want->mask_of == 0)
        return fault_set(f, ERR_ARGUMENT,
                         "prune: nothing would go of %u layers, %u heads in %u groups and %u FFN channels: ask for more", s->layers,
                         s->heads, s->groups, s->ffn);
    *out = k;
    return ERR_NONE;
}

/* ---- scores of one layer ---- */

static enum err get(const struct choosing *c, uint32_t layer, const char *part, float **out)
{
    char name[64];
    snprintf(name, sizeof name, "blk.%u.%s.weight", layer, part);
    return prune_source_get(c->source, name, out);
}

/* score[i / width] += squares of the rows of w */
static enum err add_rows(const struct choosing *c, uint32_t layer, const char *part, uint32_t width, double *score)
{
    char name[64];
    float *w = NULL;
    snprintf(name, sizeof name, "blk.%u.%s.weight", layer, part);
    enum err e = get(c, layer, part, &w);
    if (e)
        return e;
    const struct gguf_tensor *t = gguf_tensor_find(prune_source_gguf(c->source), name);
    for (uint64_t r = 0; r < t->rows; r++)
        for (uint64_t k = 0; k < t->shape[0]; k++)
            score[r / width] += (double)w[r * t->shape[0] + k] * (double)w[r * t->shape[0] + k];
    free(w);
    return ERR_NONE;
}

/* score[i / width] of the columns: squares, or |w| * rms. */
static enum err add_cols(const struct choosing *c, uint32_t layer, const char *part, uint32_t width, double *score)
{
    char name[64];
    float *w = NULL, *h = NULL;
    snprintf(name, sizeof name, "blk.%u.%s.weight", layer, part);
    const struct gguf_tensor *t = gguf_tensor_find(prune_source_gguf(c->source), name);
    enum err e = get(c, layer, part, &w);
    if (e)
        return e;
    const uint32_t cols = (uint32_t)t->shape[0];
    if (c->by == RECIPE_WANDA) {
        const struct profile_entry *entry = profile_find(c->options->profile, name);
        if (!entry || entry->cols != cols) {
            e = fault_set(c->fault, ERR_NOT_FOUND, "prune by wanda: the profile lacks %s of %u columns", name, cols);
            goto out;
        }
        if (!(h = malloc(cols * sizeof *h))) {
            e = ERR_MEMORY;
            goto out;
        }
        profile_importance(entry, 0, h);
    }
    for (uint64_t r = 0; r < t->rows; r++)
        for (uint32_t k = 0; k < cols; k++) {
            const double x = (double)w[r * cols + k];
            score[k / width] += h ? fabs(x) * sqrt((double)h[k]) : x * x;
        }
out:
    free(w);
    free(h);
    return e;
}

struct kind {
    const char *reader;      /* the linear whose columns the units are */
    const char *writers[3];  /* their rows, for magnitude */
    uint32_t row_width[3];
};

static enum err score_units(const struct choosing *c, uint32_t layer, const struct kind *k,
                            const struct prune_units *u, uint8_t *kept)
{
    double *score = calloc(u->cols / u->width, sizeof *score);
    if (!score)
        return ERR_MEMORY;
    enum err e = add_cols(c, layer, k->reader, u->width, score);
    for (uint32_t i = 0; !e && c->by == RECIPE_MAGNITUDE && i < 3 && k->writers[i]; i++)
        e = add_rows(c, layer, k->writers[i], k->row_width[i], score);
    if (!e)
        prune_solve_lowest(score, u, kept);
    free(score);
    return e;
}

static enum err solve_units(const struct choosing *c, uint32_t layer, const struct kind *k,
                            const struct prune_units *u, struct hessian *h, uint8_t *kept)
{
    float *w = NULL, *gram = malloc((size_t)u->cols * u->cols * sizeof *gram);
    enum err e = gram ? get(c, layer, k->reader, &w) : ERR_MEMORY;
    char name[64];
    snprintf(name, sizeof name, "blk.%u.%s.weight", layer, k->reader);
    const struct gguf_tensor *t = gguf_tensor_find(prune_source_gguf(c->source), name);
    if (!e)
        e = prune_solve_gram(w, (uint32_t)t->rows, u->cols, c->threads, gram);
    if (!e)
        e = prune_solve_greedy(gram, h->sum[HESSIAN_TRAIN], u, c->options->want->is_recovered, c->threads, kept);
    if (e == ERR_ARGUMENT)
        e = fault_set(c->fault, e, "%s: the text gives no second moments that can be solved with: use more text", name);
    free(w);
    free(gram);
    return e;
}

/* Units of one kind of one layer: kept[units] loses what the widths say. h NULL: by scores. */
static enum err choose_units(const struct choosing *c, uint32_t layer, const struct kind *k,
                             const struct prune_units *u, struct hessian *h, uint8_t *kept)
{
    if (u->gone == 0)
        return ERR_NONE;
    return h ? solve_units(c, layer, k, u, h, kept) : score_units(c, layer, k, u, kept);
}

/* Whole groups first: their flags are spread over their heads. */
static enum err choose_groups(const struct choosing *c, uint32_t layer, struct hessian *h)
{
    const struct prune_shape *s = &c->p->shape;
    const uint32_t each = s->heads / s->groups;
    const struct kind kind = {"attn_output", {"attn_q", "attn_k", "attn_v"},
                              {each * s->head_dim, s->head_dim, s->value_dim}};
    const struct prune_units u = {s->heads * s->value_dim, each * s->value_dim, s->groups, s->groups - c->kept.groups};
    uint8_t *kept = malloc(s->groups);
    if (!kept)
        return ERR_MEMORY;
    memset(kept, 1, s->groups);
    enum err e = choose_units(c, layer, &kind, &u, h, kept);
    for (uint32_t i = 0; !e && i < s->heads; i++)
        c->p->head[(size_t)layer * s->heads + i] &= kept[i / each];
    free(kept);
    return e;
}

static enum err choose_layer(const struct choosing *c, uint32_t layer, struct hessian *o, struct hessian *down)
{
    const struct prune_shape *s = &c->p->shape;
    const uint32_t each = s->heads / s->groups;
    const struct kind head = {"attn_output", {"attn_q", NULL, NULL}, {s->head_dim, 0, 0}};
    const struct kind channel = {"ffn_down", {"ffn_gate", "ffn_up", NULL}, {1, 1, 0}};
    const struct prune_units heads = {s->heads * s->value_dim, s->value_dim, each,
                                      each - c->kept.heads / c->kept.groups};
    const struct prune_units channels = {s->ffn, 1, s->ffn, s->ffn - c->kept.ffn};
    enum err e = choose_groups(c, layer, o);
    if (!e)
        e = choose_units(c, layer, &head, &heads, o, c->p->head + (size_t)layer * s->heads);
    if (!e)
        e = choose_units(c, layer, &channel, &channels, down, c->p->channel + (size_t)layer * s->ffn);
    if (!e && c->options->progress && c->options->progress(c->options->progress_context))
        e = ERR_CANCELLED;
    return e;
}

/* By what its inputs are; the text goes on to the next layer. */
static enum err choose_by_output(const struct choosing *c, uint32_t layer)
{
    struct hessian *h[PRUNE_SOURCE_INPUTS] = {NULL};
    enum err e = c->p->layer[layer] ? prune_source_collect(c->source, h, c->fault)
                                    : prune_source_advance(c->source, c->fault);
    for (uint32_t i = 0; !e && i < PRUNE_SOURCE_INPUTS && h[i]; i++)
        hessian_finish(h[i]);
    if (!e && c->p->layer[layer])
        e = choose_layer(c, layer, h[0], h[1]);
    for (uint32_t i = 0; i < PRUNE_SOURCE_INPUTS; i++)
        hessian_close(h[i]);
    return e;
}

static enum err choose_parts(const struct choosing *c)
{
    const struct prune_shape *s = &c->p->shape;
    enum err e = ERR_NONE;
    if (c->kept.heads == s->heads && c->kept.ffn == s->ffn)
        return e;
    for (uint32_t l = 0; !e && l < s->layers; l++)
        if (c->by == RECIPE_OUTPUT)
            e = choose_by_output(c, l);
        else if (c->p->layer[l])
            e = choose_layer(c, l, NULL, NULL);
    return e;
}

/* ---- layers ---- */

static enum err score_layers(const struct choosing *c)
{
    const struct prune_shape *s = &c->p->shape;
    const struct prune_units u = {s->layers, 1, s->layers, s->layers - c->kept.layers};
    double *score = calloc(s->layers, sizeof *score);
    enum err e = score ? ERR_NONE : ERR_MEMORY;
    for (uint32_t l = 0; !e && l < s->layers; l++)
        if (!(e = add_cols(c, l, "attn_output", UINT32_MAX, &score[l])))
            e = add_cols(c, l, "ffn_down", UINT32_MAX, &score[l]);
    if (!e)
        prune_solve_lowest(score, &u, c->p->layer);
    free(score);
    return e;
}

static enum err choose_layers(const struct choosing *c)
{
    const struct prune_shape *s = &c->p->shape;
    enum err e = ERR_NONE;
    if (c->kept.layers == s->layers)
        return e;
    if (c->by != RECIPE_OUTPUT) {
        e = score_layers(c);
    } else {
        const struct prune_layers_options o = {.base_path = c->options->base_path,
                                               .engine = c->options->engine,
                                               .text_path = c->options->text[0].path,
                                               .gone = s->layers - c->kept.layers,
                                               .progress = c->options->progress,
                                               .progress_context = c->options->progress_context};
        e = prune_layers_choose(&o, c->source, s->layers, c->p->layer, c->fault);
    }
    for (uint32_t l = 0; !e && l < s->layers; l++)
        if (!c->p->layer[l]) {
            memset(c->p->head + (size_t)l * s->heads, 0, s->heads);
            memset(c->p->channel + (size_t)l * s->ffn, 0, s->ffn);
        }
    return e;
}

/* ---- the whole ---- */

static bool is_recovered(const struct recipe_prune *want, const struct prune_shape *s, const struct prune_kept *k)
{
    return want->is_recovered && (k->heads < s->heads || k->ffn < s->ffn || k->layers < s->layers);
}

static uint32_t way_of(const struct recipe_prune *want, bool has_profile, bool has_text)
{
    return want->by ? want->by : has_profile ? RECIPE_WANDA : has_text ? RECIPE_OUTPUT : RECIPE_MAGNITUDE;
}

/* Widths, and whether choosing by `by` and recovering fit into the memory. */
static enum err weigh(const struct recipe_prune *want, const struct gguf *base, uint32_t by, struct prune_shape *shape,
                      struct prune_kept *kept, uint64_t memory, struct fault *f)
{
    enum err e = prune_shape_read(base, shape, f);
    if (!e)
        e = prune_choose_widths(want, shape, kept, f);
    if (e)
        return e;
    const struct prune_memory_use use = {
        .is_tried = by == RECIPE_OUTPUT && kept->layers < shape->layers,
        .is_collected = by == RECIPE_OUTPUT && (kept->heads < shape->heads || kept->ffn < shape->ffn),
        .is_recovered = is_recovered(want, shape, kept)};
    return prune_memory_fit(base, shape, &use, memory, f);
}

enum err prune_choose_check(const struct recipe_prune *want, const struct gguf *base, bool has_profile, bool has_text,
                            uint64_t memory_bytes, struct fault *f)
{
    struct prune_shape shape;
    struct prune_kept kept;
    return weigh(want, base, way_of(want, has_profile, has_text), &shape, &kept, memory_bytes, f);
}

static enum err settle(struct choosing *c)
{
    const struct prune_choose_options *o = c->options;
    c->by = way_of(o->want, o->profile, o->texts > 0);
    if (c->by == RECIPE_WANDA && !o->profile)
        return fault_set(c->fault, ERR_ARGUMENT, "prune by wanda: expected a profile or calibration text");
    if ((c->by == RECIPE_OUTPUT || o->want->is_recovered) && o->texts == 0)
        return fault_set(c->fault, ERR_ARGUMENT, "prune%s: expected calibration text",
                         o->want->is_recovered ? " with recovery" : " by output error");
    c->threads = o->threads ? o->threads : o->engine->host.threads;
    return ERR_NONE;
}

static void set_mask(struct choosing *c)
{
    const struct recipe_prune *want = c->options->want;
    if (want->mask <= 0 && want->mask_of == 0)
        return;
    c->p->mask_by = c->by == RECIPE_MAGNITUDE || !c->options->profile ? RECIPE_MAGNITUDE : RECIPE_WANDA;
    c->p->mask_share = want->mask_of ? 0 : (uint32_t)(want->mask * 100 + 0.5);
    c->p->mask_keep = want->mask_keep;
    c->p->mask_of = want->mask_of;
}

enum err prune_choose(const struct prune_choose_options *options, struct prune **out, struct fault *f)
{
    struct choosing c = {.options = options, .fault = f};
    struct prune_shape shape;
    const struct prune_source_options source = {.base_path = options->base_path,
                                                .beside = options->beside,
                                                .engine = options->engine,
                                                .text = options->text,
                                                .texts = options->texts,
                                                .tokens = options->tokens,
                                                .threads = options->threads ? options->threads : options->engine->host.threads,
                                                .progress = options->progress,
                                                .progress_context = options->progress_context};
    enum err e = settle(&c);
    if (e || (e = prune_source_open(&source, &c.source, f)))
        return e;
    if ((e = weigh(options->want, prune_source_gguf(c.source), c.by, &shape, &c.kept, options->memory_bytes, f)) ||
        (e = prune_open(&shape, &c.p)))
        goto out;
    if ((e = choose_layers(&c)) || (e = choose_parts(&c)))
        goto out;
    c.p->is_recovered = is_recovered(options->want, &shape, &c.kept);
    c.p->tokens = c.p->is_recovered ? options->tokens : 0;
    set_mask(&c);
    e = prune_check(c.p, NULL);
out:
    prune_source_close(c.source);
    if (e)
        prune_close(c.p);
    else
        *out = c.p;
    return e;
}
