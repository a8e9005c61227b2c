/* cache_spill.c: pages of resting sequences in a file.
 *
 * A page that several sequences share moves once, and only while all of them rest; sharing is of prefixes, so all of
 * them have it at the same place of their tables. */
#include <stdlib.h>

#include "model/cache.h"

enum err cache_spill_open(struct cache *c, const char *folder, uint64_t bytes)
{
    uint64_t page = 0, offset = 0;
    for (uint32_t i = 0; i < c->groups; i++)
        page += c->group[i].page_bytes;
    if (page == 0 || bytes < 2 * page)
        return ERR_ARGUMENT;
    const uint64_t pages = bytes / page;
    c->spill_pages = pages < (uint32_t)CACHE_SPILLED - 1 ? (uint32_t)pages : (uint32_t)CACHE_SPILLED - 1;
    for (uint32_t i = 0; i < c->groups; i++) {
        struct cache_group *g = &c->group[i];
        g->spilled_users = calloc(c->spill_pages, sizeof *g->spilled_users);
        if (!g->spilled_users)
            return ERR_MEMORY;
        g->spilled_free = c->spill_pages;
        g->spill_offset = offset;
        offset += (uint64_t)g->page_bytes * c->spill_pages;
    }
    return cache_store_open(&c->spill, folder, 0);
}

static enum err move_page(struct cache *c, const struct cache_group *g, uint32_t page, uint32_t spilled, bool is_out)
{
    const uint32_t place = spilled | CACHE_SPILLED;
    const enum err e = cache_page_copy(c, g, is_out ? place : page, is_out ? page : place);
    *(is_out ? &c->spilled_bytes : &c->restored_bytes) += g->page_bytes;
    return e;
}

/* Every sequence that has `from` at this place of its table gets `to`: how many. */
static uint32_t rename_entry(struct cache *c, struct cache_group *g, uint32_t place, uint32_t from, uint32_t to)
{
    uint32_t count = 0;
    for (uint32_t s = 0; s < c->sequences; s++) {
        uint32_t *entry = &cache_table(c, g, s)[place];
        count += *entry == from;
        *entry = *entry == from ? to : *entry;
    }
    return count;
}

static bool is_held_by_busy(const struct cache *c, const struct cache_group *g, uint32_t place, uint32_t page)
{
    for (uint32_t s = 0; s < c->sequences; s++)
        if (c->is_busy[s] && cache_table(c, g, s)[place] == page)
            return true;
    return false;
}

static enum err spill_page(struct cache *c, struct cache_group *g, uint32_t place, uint32_t page)
{
    uint32_t to = 0;
    while (to < c->spill_pages && g->spilled_users[to])
        to++;
    if (to == c->spill_pages)
        return ERR_FULL;
    const enum err e = move_page(c, g, page, to, true);
    if (e)
        return e;
    g->spilled_users[to] = rename_entry(c, g, place, page, to | CACHE_SPILLED);
    g->spilled_free--;
    g->users[page] = 0;
    g->free_pages++;
    return ERR_NONE;
}

/* The page in memory of the sequence that has rested longest; false: no sequence that rests has one. */
static bool find_coldest(const struct cache *c, const struct cache_group *g, uint32_t *place, uint32_t *page)
{
    uint64_t oldest = UINT64_MAX;
    for (uint32_t s = 0; s < c->sequences; s++) {
        const uint32_t *table = cache_table(c, g, s);
        if (c->is_busy[s] || c->last_step[s] >= oldest)
            continue;
        for (uint32_t p = 0; p < c->table_pages; p++)
            if (!(table[p] & CACHE_SPILLED) && !is_held_by_busy(c, g, p, table[p])) { /* none is "spilled" too */
                oldest = c->last_step[s];
                *place = p;
                *page = table[p];
                break;
            }
    }
    return oldest != UINT64_MAX;
}

enum err cache_spill_room(struct cache *c, struct cache_group *g, uint32_t pages, bool is_restoring)
{
    enum err e = ERR_NONE;
    while (g->free_pages < pages && !e) {
        uint32_t place = 0, page = 0;
        const bool has_place = g->spilled_free > (is_restoring ? 0 : 1);
        e = has_place && find_coldest(c, g, &place, &page) ? spill_page(c, g, place, page) : ERR_FULL;
    }
    return e;
}

static enum err restore_page(struct cache *c, struct cache_group *g, uint32_t place, uint32_t entry, uint32_t near)
{
    const uint32_t from = entry & ~(uint32_t)CACHE_SPILLED;
    enum err e = cache_spill_room(c, g, 1, true);
    if (e)
        return e;
    const uint32_t page = cache_take(g, near);
    if ((e = move_page(c, g, page, from, false))) {
        g->users[page] = 0;
        g->free_pages++;
        return e;
    }
    g->users[page] = rename_entry(c, g, place, entry, page);
    g->spilled_users[from] = 0;
    g->spilled_free++;
    return ERR_NONE;
}

enum err cache_spill_restore(struct cache *c, struct cache_group *g, const struct model_run *runs, uint32_t count)
{
    enum err e = ERR_NONE;
    for (uint32_t r = 0; r < count && !e; r++) {
        const uint32_t *table = cache_table(c, g, runs[r].sequence);
        for (uint32_t p = 0; p < c->table_pages && !e; p++)
            if (table[p] != CACHE_NONE && table[p] & CACHE_SPILLED)
                e = restore_page(c, g, p, table[p], p && !(table[p - 1] & CACHE_SPILLED) ? table[p - 1] + 1 : 0);
    }
    return e;
}
