/* cache_spill.c: pages of resting sequences in a file.
 *
 * A page of a group is the same slots in each of its layers; in the file they lie one behind the other. A page
 * that several sequences share moves once, and only while all of them rest; sharing is of prefixes, so all of
 * them have it at the same place of their tables. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "hal/block.h"
#include "model/cache.h"

static int unnamed_file(const char *folder)
{
    char path[4096];
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0 || (size_t)snprintf(path, sizeof path, "%s/cache.XXXXXX", folder) >= sizeof path)
        return fd;
    fd = mkostemp(path, O_CLOEXEC); /* file systems without such files */
    if (fd >= 0)
        unlink(path);
    return fd;
}

static size_t mat_page_bytes(const struct hal_mat *m)
{
    return CACHE_PAGE * block_row_bytes(m->type, m->cols);
}

enum err cache_spill_open(struct cache *c, const char *folder, uint64_t bytes)
{
    uint64_t page = 0, offset = 0;
    size_t widest = 0;
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
    for (uint32_t i = 0; i < c->layers; i++) {
        const size_t k = mat_page_bytes(&c->layer[i].k), v = mat_page_bytes(&c->layer[i].v);
        widest = k > widest ? k : widest;
        widest = v > widest ? v : widest;
    }
    c->spill_buffer = malloc(widest);
    if (!c->spill_buffer)
        return ERR_MEMORY;
    c->spill_file = unnamed_file(folder);
    return c->spill_file >= 0 ? ERR_NONE : ERR_IO;
}

void cache_spill_close(struct cache *c)
{
    if (c->spill_buffer && c->spill_file >= 0)
        close(c->spill_file);
    free(c->spill_buffer);
    c->spill_buffer = NULL;
    c->spill_file = -1;
}

static enum err file_bytes(const struct cache *c, bool is_out, size_t bytes, uint64_t offset)
{
    for (size_t done = 0; done < bytes;) {
        const off_t at = (off_t)(offset + done);
        const ssize_t n = is_out ? pwrite(c->spill_file, c->spill_buffer + done, bytes - done, at)
                                 : pread(c->spill_file, c->spill_buffer + done, bytes - done, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return ERR_IO;
        done += (size_t)n;
    }
    return ERR_NONE;
}

/* One matrix's rows of a page, out to the file or back; *offset moves behind them. */
static enum err move_rows(struct cache *c, struct hal_mat *m, uint32_t page, bool is_out, uint64_t *offset)
{
    const size_t bytes = mat_page_bytes(m);
    enum err e = ERR_NONE;
    if (is_out)
        e = c->e->ops.mat_get(c->e->dev, m, page * CACHE_PAGE, CACHE_PAGE, c->spill_buffer, bytes);
    if (!e)
        e = file_bytes(c, is_out, bytes, *offset);
    if (!e && !is_out)
        e = c->e->ops.mat_put(c->e->dev, m, page * CACHE_PAGE, CACHE_PAGE, c->spill_buffer, bytes);
    *offset += bytes;
    return e;
}

static enum err move_page(struct cache *c, struct cache_group *g, uint32_t page, uint32_t spilled, bool is_out)
{
    uint64_t offset = g->spill_offset + (uint64_t)spilled * g->page_bytes;
    enum err e = ERR_NONE;
    for (uint32_t i = 0; i < c->layers && !e; i++) {
        struct cache_layer *layer = &c->layer[i];
        if (&c->group[layer->group] != g)
            continue;
        e = move_rows(c, &layer->k, page, is_out, &offset);
        if (!e && !layer->shares)
            e = move_rows(c, &layer->v, page, is_out, &offset);
    }
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
