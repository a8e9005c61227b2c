/* cache_page.c: a page's bytes, wherever they rest: in the layer's matrices, in the store of layers that rest
 * outside, or in the spill file.
 *
 * A page of a group is the same slots in each of its layers. In the spill file the layers' parts lie one behind
 * the other; in the store of a layer that rests outside they lie by slot, so that neighbours move together. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hal/block.h"
#include "model/cache.h"

enum err cache_store_open(struct cache_store *s, const char *folder, uint64_t bytes)
{
    char path[4096];
    *s = (struct cache_store){.file = -1};
    if (!folder) {
        s->memory = calloc(bytes ? bytes : 1, 1);
        return s->memory ? ERR_NONE : ERR_MEMORY;
    }
    s->file = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (s->file < 0 && (size_t)snprintf(path, sizeof path, "%s/cache.XXXXXX", folder) < sizeof path) {
        s->file = mkostemp(path, O_CLOEXEC); /* file systems without unnamed files */
        if (s->file >= 0)
            unlink(path);
    }
    return s->file >= 0 ? ERR_NONE : ERR_IO;
}

void cache_store_close(struct cache_store *s)
{
    if (s->file >= 0)
        close(s->file);
    free(s->memory);
    *s = (struct cache_store){.file = -1};
}

enum err cache_store_move(const struct cache_store *s, uint8_t *host, size_t bytes, uint64_t offset, bool is_out)
{
    if (s->memory) {
        memcpy(is_out ? s->memory + offset : host, is_out ? host : s->memory + offset, bytes);
        return ERR_NONE;
    }
    for (size_t done = 0; done < bytes;) {
        const off_t at = (off_t)(offset + done);
        const ssize_t n = is_out ? pwrite(s->file, host + done, bytes - done, at)
                                 : pread(s->file, host + done, bytes - done, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 || (n == 0 && is_out))
            return ERR_IO;
        if (n == 0) { /* behind what was ever written */
            memset(host + done, 0, bytes - done);
            break;
        }
        done += (size_t)n;
    }
    return ERR_NONE;
}

size_t cache_page_bytes(const struct hal_mat *m)
{
    return CACHE_PAGE * block_row_bytes(m->type, m->cols);
}

/* A layer's keys or values of the page that an entry names, from where they rest to host memory or back. */
static enum err move_part(struct cache *c, struct cache_layer *layer, bool is_value, uint32_t entry, bool is_put)
{
    struct hal_mat *m = is_value ? &layer->v : &layer->k;
    const size_t bytes = cache_page_bytes(m);
    const uint32_t page = entry & ~(uint32_t)CACHE_SPILLED;
    if (entry & CACHE_SPILLED) {
        const struct cache_group *g = &c->group[layer->group];
        const uint64_t part = layer->part_offset + (is_value ? cache_page_bytes(&layer->k) : 0);
        return cache_store_move(&c->spill, c->page_buffer, bytes, g->spill_offset + (uint64_t)page * g->page_bytes + part,
                                is_put);
    }
    if (layer->is_cold)
        return cache_store_move(&c->cold, c->page_buffer, bytes,
                                (is_value ? layer->cold_v : layer->cold_k) + (uint64_t)page * bytes, is_put);
    return is_put ? c->e->ops.mat_put(c->e->dev, m, page * CACHE_PAGE, CACHE_PAGE, c->page_buffer, bytes)
                  : c->e->ops.mat_get(c->e->dev, m, page * CACHE_PAGE, CACHE_PAGE, c->page_buffer, bytes);
}

enum err cache_page_copy(struct cache *c, const struct cache_group *g, uint32_t to, uint32_t from)
{
    enum err e = ERR_NONE;
    for (uint32_t i = 0; i < c->layers && !e; i++) {
        struct cache_layer *layer = &c->layer[i];
        if (&c->group[layer->group] != g)
            continue;
        for (int is_value = 0; is_value <= (layer->shares ? 0 : 1) && !e; is_value++) {
            e = move_part(c, layer, is_value, from, false);
            if (!e)
                e = move_part(c, layer, is_value, to, true);
        }
    }
    return e;
}
