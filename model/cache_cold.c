/* cache_cold.c: layers whose keys and values rest outside the engine's memory.
 *
 * A step goes through the layers one after the other, and each needs its own keys and values only: so a budget
 * keeps the first layers in memory, and all others take turns in one set of matrices. What a step's rows see is
 * brought in before the layer attends, what they wrote goes out after it: nothing is lost by turning, and bytes
 * move as they are, so that no logit changes. */
#include <fcntl.h>
#include <stdlib.h>

#include "hal/block.h"
#include "model/cache.h"

enum { BOUNCE_BYTES = 256 << 10 };

static uint64_t mat_bytes(const struct hal_mat *m)
{
    return (uint64_t)m->rows * block_row_bytes(m->type, m->cols);
}

static uint64_t layer_bytes(const struct cache_layer *layer)
{
    return mat_bytes(&layer->k) + (layer->shares ? 0 : mat_bytes(&layer->v));
}

static bool is_alike(const struct cache_layer *a, const struct cache_layer *b)
{
    return a->group == b->group && a->shares == b->shares && a->k.cols == b->k.cols && a->v.cols == b->v.cols;
}

/* The first layer of its shape: a set of matrices is made for it, should it rest outside. */
static uint32_t first_alike(const struct cache *c, uint32_t layer)
{
    uint32_t first = 0;
    while (!is_alike(&c->layer[first], &c->layer[layer]))
        first++;
    return first;
}

static bool has_window(const struct cache *c, const struct cache_layer *layer)
{
    const uint32_t window = c->group[layer->group].window;
    return window != 0 && window != CACHE_WHOLE;
}

/* Which layers rest outside; ERR_FULL: not even one set of matrices fits. Windows stay in memory if they can: they
 * are small, and every step needs all of them. */
static enum err choose(struct cache *c, uint64_t budget)
{
    uint64_t total = 0, windows = 0, window_sets = 0, sets = 0;
    for (uint32_t i = 0; i < c->layers; i++) {
        const struct cache_layer *layer = &c->layer[i];
        const uint64_t bytes = layer_bytes(layer), set = first_alike(c, i) == i ? bytes : 0;
        total += bytes;
        windows += has_window(c, layer) ? bytes : 0;
        *(has_window(c, layer) ? &window_sets : &sets) += set;
    }
    if (budget == 0 || total <= budget)
        return ERR_NONE;
    const bool keeps_windows = sets + windows <= budget && sets > 0;
    uint64_t used = sets + (keeps_windows ? windows : window_sets);
    if (used > budget)
        return ERR_FULL;
    for (uint32_t i = 0; i < c->layers; i++) {
        struct cache_layer *layer = &c->layer[i];
        if (has_window(c, layer) && keeps_windows)
            continue;
        layer->is_cold = used + layer_bytes(layer) > budget;
        used += layer->is_cold ? 0 : layer_bytes(layer);
    }
    return ERR_NONE;
}

static enum err make_mats(struct cache *c, struct cache_layer *layer)
{
    enum err e = c->e->ops.mat_new(c->e->dev, &layer->k);
    if (e)
        return e;
    if (layer->shares)
        layer->v.mem = layer->k.mem;
    else
        e = c->e->ops.mat_new(c->e->dev, &layer->v);
    c->bytes += layer_bytes(layer);
    return e;
}

/* The turning set of layers shaped like this one belongs to the first of them that rests outside. */
static uint32_t turning_set(const struct cache *c, uint32_t layer)
{
    uint32_t first = 0;
    while (!c->layer[first].is_cold || !is_alike(&c->layer[first], &c->layer[layer]))
        first++;
    return first;
}

enum err cache_place(struct cache *c, uint64_t budget, const char *folder)
{
    uint64_t outside = 0;
    size_t widest = 0;
    enum err e = choose(c, budget);
    for (uint32_t i = 0; i < c->layers && !e; i++) {
        struct cache_layer *layer = &c->layer[i];
        const size_t k = cache_page_bytes(&layer->k), v = cache_page_bytes(&layer->v);
        widest = k > widest ? k : widest;
        widest = v > widest ? v : widest;
        layer->turns = layer->is_cold ? turning_set(c, i) : i;
        if (layer->turns == i)
            e = make_mats(c, layer);
        if (!layer->is_cold)
            continue;
        layer->k.mem = c->layer[layer->turns].k.mem;
        layer->v.mem = c->layer[layer->turns].v.mem;
        layer->cold_k = outside;
        layer->cold_v = outside + mat_bytes(&layer->k);
        outside += layer_bytes(layer);
    }
    if (!e && !(c->page_buffer = malloc(widest ? widest : 1)))
        e = ERR_MEMORY;
    if (e || outside == 0)
        return e;
    c->cold_bytes = outside;
    c->bounce_bytes = BOUNCE_BYTES > widest ? BOUNCE_BYTES : widest;
    c->bounce = malloc(c->bounce_bytes);
    for (uint32_t i = 0; i < c->groups; i++)
        c->group[i].uses = calloc(c->group[i].pages, sizeof *c->group[i].uses);
    for (uint32_t i = 0; i < c->groups; i++)
        if (!c->bounce || !c->group[i].uses)
            return ERR_MEMORY;
    return cache_store_open(&c->cold, folder, outside);
}

void cache_cold_mark(struct cache *c, const struct model_run *runs, uint32_t count)
{
    for (uint32_t i = 0; i < c->groups; i++) {
        struct cache_group *g = &c->group[i];
        for (uint32_t p = 0; p < g->pages; p++)
            g->uses[p] = 0;
        for (uint32_t r = 0; r < count; r++) {
            const uint32_t *table = cache_table(c, g, runs[r].sequence);
            const uint32_t start = c->length[runs[r].sequence], end = start + runs[r].count;
            const bool has_window = g->window && g->window != CACHE_WHOLE;
            const uint32_t low = has_window && start + 1 > g->window ? start + 1 - g->window : 0;
            for (uint32_t p = low / CACHE_PAGE; p * CACHE_PAGE < start; p++)
                g->uses[table[p]] |= CACHE_SEEN;
            for (uint32_t p = start / CACHE_PAGE; p * CACHE_PAGE < end; p++)
                g->uses[table[p]] |= CACHE_WRITTEN;
        }
    }
}

/* Neighbouring rows of a matrix in or out, as much at once as the bounce buffer holds. */
static enum err move_rows(struct cache *c, struct hal_mat *m, uint64_t offset, uint32_t row, uint32_t rows, bool is_out)
{
    const size_t row_bytes = block_row_bytes(m->type, m->cols);
    const uint32_t most = (uint32_t)(c->bounce_bytes / row_bytes);
    enum err e = ERR_NONE;
    for (uint32_t n = 0; rows > 0 && !e; row += n, rows -= n) {
        n = rows < most ? rows : most;
        const uint64_t at = offset + (uint64_t)row * row_bytes;
        uint8_t *host = c->cold.memory ? c->cold.memory + at : c->bounce;
        if (is_out)
            e = c->e->ops.mat_get(c->e->dev, m, row, n, host, n * row_bytes);
        if (!e && !c->cold.memory)
            e = cache_store_move(&c->cold, host, n * row_bytes, at, is_out);
        if (!e && !is_out)
            e = c->e->ops.mat_put(c->e->dev, m, row, n, host, n * row_bytes);
    }
    return e;
}

static enum err move_pages(struct cache *c, struct cache_layer *layer, uint8_t use, bool is_out)
{
    const struct cache_group *g = &c->group[layer->group];
    enum err e = ERR_NONE;
    for (uint32_t p = 0, n = 1; p < g->pages && !e; p += n, n = 1) {
        if (!(g->uses[p] & use))
            continue;
        while (p + n < g->pages && g->uses[p + n] & use)
            n++;
        e = move_rows(c, &layer->k, layer->cold_k, p * CACHE_PAGE, n * CACHE_PAGE, is_out);
        if (!e && !layer->shares)
            e = move_rows(c, &layer->v, layer->cold_v, p * CACHE_PAGE, n * CACHE_PAGE, is_out);
        *(is_out ? &c->cold_out_bytes : &c->cold_in_bytes) +=
            (uint64_t)n * (cache_page_bytes(&layer->k) + (layer->shares ? 0 : cache_page_bytes(&layer->v)));
    }
    return e;
}

enum err cache_cold_enter(struct cache *c, uint32_t layer)
{
    return move_pages(c, &c->layer[layer], CACHE_SEEN, false);
}

enum err cache_cold_leave(struct cache *c, uint32_t layer)
{
    return move_pages(c, &c->layer[layer], CACHE_WRITTEN, true);
}
