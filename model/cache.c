/* cache.c: pages and spans. */
#include "model/cache.h"

#include <stdlib.h>
#include <string.h>

#include "hal/block.h"

enum err cache_open(struct cache *c, struct engine *e, const struct model_info *info, uint32_t type_k,
                    uint32_t type_v)
{
    *c = (struct cache){.e = e,
                        .context = info->context,
                        .sequences = info->sequences,
                        .resting = info->resting,
                        .batch = info->batch,
                        .slots = info->slots,
                        .type_k = type_k,
                        .type_v = type_v,
                        .table_pages = (info->context + CACHE_PAGE - 1) / CACHE_PAGE,
                        .layers_room = info->layers};
    c->spill.file = c->cold.file = -1;
    c->length = calloc(c->sequences, sizeof *c->length);
    c->is_busy = calloc(c->sequences, sizeof *c->is_busy);
    c->last_step = calloc(c->sequences, sizeof *c->last_step);
    c->layer = calloc(info->layers, sizeof *c->layer);
    return c->length && c->is_busy && c->last_step && c->layer ? ERR_NONE : ERR_MEMORY;
}

void cache_close(struct cache *c)
{
    cache_store_close(&c->spill);
    cache_store_close(&c->cold);
    free(c->page_buffer);
    free(c->bounce);
    for (uint32_t i = 0; i < c->layers; i++) {
        if (c->layer[i].turns != i)
            continue;
        c->e->ops.mat_free(c->e->dev, &c->layer[i].k);
        if (!c->layer[i].shares)
            c->e->ops.mat_free(c->e->dev, &c->layer[i].v);
    }
    for (uint32_t i = 0; i < c->groups; i++) {
        free(c->group[i].users);
        free(c->group[i].spilled_users);
        free(c->group[i].uses);
        free(c->group[i].table);
        free(c->group[i].spans);
        free(c->group[i].first);
        free(c->group[i].slot);
    }
    free(c->group);
    free(c->layer);
    free(c->length);
    free(c->is_busy);
    free(c->last_step);
    *c = (struct cache){0};
}

static uint32_t pages_of(uint32_t slots)
{
    return (slots + CACHE_PAGE - 1) / CACHE_PAGE;
}

enum err cache_add_group(struct cache *c, uint32_t window, uint32_t *out)
{
    if (window >= c->context && window != CACHE_WHOLE)
        window = 0;
    for (uint32_t i = 0; i < c->groups; i++)
        if (c->group[i].window == window) {
            *out = i;
            return ERR_NONE;
        }
    struct cache_group *group = realloc(c->group, (c->groups + 1) * sizeof *group);
    if (!group)
        return ERR_MEMORY;
    c->group = group;
    struct cache_group *g = &group[c->groups++];
    *g = (struct cache_group){.window = window};
    if (window == CACHE_WHOLE)
        window = 0; /* as far as room goes */
    /* A window keeps what it sees, and during a step the rows being added, both to whole pages. */
    const uint64_t reach = window ? (uint64_t)window + c->batch + 2 * CACHE_PAGE : c->context;
    uint64_t slots = window ? reach * (c->sequences - c->resting) : c->slots;
    if (slots > (uint64_t)c->slots)
        slots = c->slots;
    g->pages = pages_of((uint32_t)slots);
    g->free_pages = g->pages;
    g->spans_room = (size_t)c->batch * (pages_of(window ? window : c->context) + 1u);
    g->users = calloc(g->pages, sizeof *g->users);
    g->table = malloc((size_t)c->sequences * c->table_pages * sizeof *g->table);
    g->spans = calloc(g->spans_room, sizeof *g->spans);
    g->first = calloc(c->batch + 1u, sizeof *g->first);
    g->slot = calloc(c->batch, sizeof *g->slot);
    if (!g->users || !g->table || !g->spans || !g->first || !g->slot)
        return ERR_MEMORY;
    memset(g->table, 0xff, (size_t)c->sequences * c->table_pages * sizeof *g->table);
    *out = c->groups - 1;
    return ERR_NONE;
}

enum err cache_add_layer(struct cache *c, uint32_t group, uint32_t heads, uint32_t key_dim,
                         uint32_t value_dim)
{
    if (c->layers == c->layers_room || group >= c->groups)
        return ERR_ARGUMENT;
    struct cache_layer *layer = &c->layer[c->layers];
    const uint32_t slots = c->group[group].pages * CACHE_PAGE;
    const uint32_t k_cols = heads * key_dim, v_cols = heads * value_dim;
    const size_t k_bytes = heads * block_row_bytes(c->type_k, key_dim);
    const size_t v_bytes = value_dim ? heads * block_row_bytes(c->type_v, value_dim) : 0;
    if (k_bytes == 0 || (value_dim && v_bytes == 0))
        return ERR_ARGUMENT;
    *layer = (struct cache_layer){.group = group,
                                  .shares = value_dim == 0,
                                  .turns = c->layers,
                                  .part_offset = c->group[group].page_bytes};
    layer->k = (struct hal_mat){.type = c->type_k, .use = HAL_CACHE, .rows = slots, .cols = k_cols};
    layer->v = layer->k;
    if (v_cols)
        layer->v = (struct hal_mat){.type = c->type_v, .use = HAL_CACHE, .rows = slots, .cols = v_cols};
    c->layers++;
    c->group[group].page_bytes += (uint32_t)(CACHE_PAGE * (k_bytes + v_bytes));
    return ERR_NONE;
}

/* How many sequences hold what an entry names. */
static uint32_t *users_of(const struct cache_group *g, uint32_t entry)
{
    return entry & CACHE_SPILLED ? &g->spilled_users[entry & ~CACHE_SPILLED] : &g->users[entry];
}

static void release(struct cache_group *g, uint32_t *page)
{
    if (*page == CACHE_NONE)
        return;
    if (--*users_of(g, *page) == 0)
        ++*(*page & CACHE_SPILLED ? &g->spilled_free : &g->free_pages);
    *page = CACHE_NONE;
}

/* Neighbouring pages make long spans. */
uint32_t cache_take(struct cache_group *g, uint32_t near)
{
    for (uint32_t i = 0; i < g->pages; i++) {
        const uint32_t page = (near + i) % g->pages;
        if (g->users[page] == 0) {
            g->users[page] = 1;
            g->free_pages--;
            return page;
        }
    }
    return CACHE_NONE;
}

static uint32_t pages_missing(const struct cache *c, const struct cache_group *g, const struct model_run *run)
{
    const uint32_t *table = cache_table(c, g, run->sequence);
    const uint32_t end = c->length[run->sequence] + run->count;
    uint32_t missing = 0;
    for (uint32_t p = c->length[run->sequence] / CACHE_PAGE; p < pages_of(end); p++)
        missing += table[p] == CACHE_NONE;
    return missing;
}

static void take_pages(struct cache *c, struct cache_group *g, const struct model_run *run)
{
    uint32_t *table = cache_table(c, g, run->sequence);
    const uint32_t start = c->length[run->sequence];
    for (uint32_t p = start / CACHE_PAGE; p < pages_of(start + run->count); p++)
        if (table[p] == CACHE_NONE) {
            const uint32_t home = (uint32_t)((uint64_t)g->pages * run->sequence / c->sequences);
            table[p] = cache_take(g, p > 0 && table[p - 1] != CACHE_NONE ? table[p - 1] + 1 : home);
        }
}

/* The spans of positions [low, high] appended at spans[*used]. */
static void put_spans(struct cache_group *g, const uint32_t *table, uint32_t low, uint32_t high,
                      uint32_t *used)
{
    const uint32_t start = *used;
    for (uint32_t p = low / CACHE_PAGE; p <= high / CACHE_PAGE; p++) {
        const uint32_t from = p * CACHE_PAGE > low ? p * CACHE_PAGE : low;
        const uint32_t to = (p + 1) * CACHE_PAGE - 1 < high ? (p + 1) * CACHE_PAGE - 1 : high;
        const uint32_t slot = table[p] * CACHE_PAGE + from % CACHE_PAGE;
        struct hal_span *last = *used > start ? &g->spans[*used - 1] : NULL;
        if (last && last->slot + last->slots == slot)
            last->slots += to - from + 1;
        else
            g->spans[(*used)++] = (struct hal_span){slot, to - from + 1};
    }
}

/* Room for what every group is to add. */
static enum err make_room(struct cache *c, const struct model_run *runs, uint32_t count)
{
    enum err e = ERR_NONE;
    for (uint32_t i = 0; i < c->groups && !e; i++) {
        struct cache_group *g = &c->group[i];
        uint32_t missing = 0;
        if (g->spilled_users)
            e = cache_spill_restore(c, g, runs, count);
        for (uint32_t r = 0; r < count; r++)
            missing += pages_missing(c, g, &runs[r]);
        if (!e && missing > g->free_pages)
            e = g->spilled_users ? cache_spill_room(c, g, missing, false) : ERR_FULL;
    }
    return e;
}

enum err cache_prepare(struct cache *c, const struct model_run *runs, uint32_t count)
{
    memset(c->is_busy, 0, c->sequences * sizeof *c->is_busy);
    for (uint32_t r = 0; r < count; r++)
        c->is_busy[runs[r].sequence] = true;
    const enum err e = make_room(c, runs, count);
    if (e)
        return e;
    for (uint32_t i = 0; i < c->groups; i++) {
        struct cache_group *g = &c->group[i];
        uint32_t row = 0, used = 0;
        for (uint32_t r = 0; r < count; r++) {
            take_pages(c, g, &runs[r]);
            const uint32_t *table = cache_table(c, g, runs[r].sequence);
            for (uint32_t t = 0; t < runs[r].count; t++, row++) {
                const uint32_t at = c->length[runs[r].sequence] + t;
                g->slot[row] = table[at / CACHE_PAGE] * CACHE_PAGE + at % CACHE_PAGE;
                g->first[row] = used;
                const uint32_t last = g->window == CACHE_WHOLE ? c->length[runs[r].sequence] + runs[r].count - 1 : at;
                put_spans(g, table, g->window && at + 1 > g->window ? at + 1 - g->window : 0, last, &used);
            }
        }
        g->first[row] = used;
    }
    if (c->cold_bytes)
        cache_cold_mark(c, runs, count);
    return ERR_NONE;
}

void cache_commit(struct cache *c, const struct model_run *runs, uint32_t count)
{
    c->step++;
    for (uint32_t r = 0; r < count; r++) {
        c->last_step[runs[r].sequence] = c->step;
        const uint32_t length = c->length[runs[r].sequence] += runs[r].count;
        for (uint32_t i = 0; i < c->groups; i++) {
            struct cache_group *g = &c->group[i];
            uint32_t *table = cache_table(c, g, runs[r].sequence);
            if (g->window == 0 || length < g->window)
                continue;
            /* The next position sees from length + 1 - window on. */
            for (uint32_t p = (length + 1 - g->window) / CACHE_PAGE; p-- > 0 && table[p] != CACHE_NONE;)
                release(g, &table[p]);
        }
    }
}

bool cache_holds(const struct cache *c, uint32_t sequence, uint32_t length)
{
    if (length > c->length[sequence])
        return false;
    for (uint32_t i = 0; i < c->groups; i++) {
        const struct cache_group *g = &c->group[i];
        const uint32_t low = g->window && length + 1 > g->window ? length + 1 - g->window : 0;
        for (uint32_t p = low / CACHE_PAGE; p < pages_of(length); p++)
            if (cache_table(c, g, sequence)[p] == CACHE_NONE)
                return false;
    }
    return true;
}

/* Does a group share the page that position `length` would be written to? */
static bool is_shared(const struct cache *c, uint32_t sequence, uint32_t length)
{
    for (uint32_t i = 0; i < c->groups && length % CACHE_PAGE; i++) {
        const uint32_t page = cache_table(c, &c->group[i], sequence)[length / CACHE_PAGE];
        if (page != CACHE_NONE && *users_of(&c->group[i], page) > 1)
            return true;
    }
    return false;
}

uint32_t cache_truncate(struct cache *c, uint32_t sequence, uint32_t length)
{
    if (length > c->length[sequence])
        length = c->length[sequence];
    if (is_shared(c, sequence, length))
        length -= length % CACHE_PAGE;
    if (!cache_holds(c, sequence, length))
        length = 0;
    for (uint32_t i = 0; i < c->groups; i++)
        for (uint32_t p = pages_of(length); p < c->table_pages; p++)
            release(&c->group[i], &cache_table(c, &c->group[i], sequence)[p]);
    c->length[sequence] = length;
    return length;
}

/* The first rows of the page at this place of `from`, copied to pages of its own in every group. */
static bool copy_tail(struct cache *c, uint32_t to, uint32_t from, uint32_t place)
{
    bool is_done = true;
    for (uint32_t i = 0; i < c->groups && is_done; i++) {
        struct cache_group *g = &c->group[i];
        const uint32_t source = cache_table(c, g, from)[place];
        if (source == CACHE_NONE) /* a window that begins behind it */
            continue;
        const uint32_t near = place ? cache_table(c, g, to)[place - 1] + 1 : source + 1;
        const uint32_t page = cache_take(g, near & ~(uint32_t)CACHE_SPILLED);
        cache_table(c, g, to)[place] = page;
        is_done = page != CACHE_NONE && cache_page_copy(c, g, page, source) == ERR_NONE;
    }
    for (uint32_t i = 0; i < c->groups && !is_done; i++)
        release(&c->group[i], &cache_table(c, &c->group[i], to)[place]);
    return is_done;
}

uint32_t cache_share(struct cache *c, uint32_t to, uint32_t from, uint32_t length)
{
    if (to == from)
        return cache_truncate(c, to, length);
    cache_truncate(c, to, 0);
    if (length > c->length[from])
        length = c->length[from];
    if (!cache_holds(c, from, length))
        return 0;
    for (uint32_t i = 0; i < c->groups; i++) {
        struct cache_group *g = &c->group[i];
        const uint32_t *source = cache_table(c, g, from);
        for (uint32_t p = 0; p < length / CACHE_PAGE; p++)
            if (source[p] != CACHE_NONE) {
                cache_table(c, g, to)[p] = source[p];
                ++*users_of(g, source[p]);
            }
    }
    c->length[to] = length;
    if (length % CACHE_PAGE && !copy_tail(c, to, from, length / CACHE_PAGE)) {
        /* A window may reach back behind the last whole page. */
        c->length[to] = length -= length % CACHE_PAGE;
        if (!cache_holds(c, to, length))
            length = cache_truncate(c, to, 0);
    }
    return length;
}

uint32_t cache_free_slots(const struct cache *c)
{
    uint32_t pages = CACHE_NONE;
    for (uint32_t i = 0; i < c->groups; i++) {
        const struct cache_group *g = &c->group[i];
        const uint32_t taken = g->pages - g->free_pages;
        const uint32_t room = g->spilled_free ? g->spilled_free - 1 : 0;
        const uint32_t movable = taken < room ? taken : room;
        if ((g->window == 0 || g->window == CACHE_WHOLE) && g->free_pages + movable < pages)
            pages = g->free_pages + movable;
    }
    return pages == CACHE_NONE ? c->slots : pages * CACHE_PAGE;
}
