/* cache.h: where the keys and values of sequences live. For model/ only.
 *
 * The layers of one attention reach form a group: all positions, or a sliding window. A group hands out
 * pages of CACHE_PAGE slots; a sequence has a table from its logical pages to these; whole pages can be
 * shared between sequences (counted), pages that a window has left behind go back. Every step writes, for
 * each group, the slot of each row and the spans that each row sees. Nothing is allocated after open.
 *
 * With a spill file, pages of sequences that rest make room for those that step, the longest rested first,
 * and come back, bit by bit as they were, before their sequence steps again.
 *
 * With a budget, layers beyond it rest outside the engine's memory and take turns in it, also while their
 * sequence runs (cache_cold.c): a text may be longer than memory holds.
 */
#ifndef CACHE_H
#define CACHE_H

#include "hal/engine.h"
#include "model/model.h"

/* An entry of a table: a page, a page of the spill file, or none. */
enum { CACHE_PAGE = 32, CACHE_NONE = 0xffffffffu, CACHE_SPILLED = 0x80000000u };

#define CACHE_WHOLE 0xffffffffu /* a window: every row sees its whole run, as in an encoder */

/* What a step does with a page of a layer that rests outside. */
enum { CACHE_SEEN = 1, CACHE_WRITTEN = 2 };

/* A file without a name, or host memory. */
struct cache_store {
    int file;        /* -1: memory */
    uint8_t *memory; /* NULL: file */
};

/* Slots, tables and this step's view of one attention reach. */
struct cache_group {
    uint32_t window; /* positions that a row sees, itself included; 0: all before it; CACHE_WHOLE */
    uint32_t pages;
    uint32_t *users;         /* [pages] sequences that hold it; 0: free */
    uint32_t *table;         /* [sequences, table_pages] */
    uint32_t free_pages;
    uint32_t page_bytes;     /* of all its layers */
    uint32_t *spilled_users; /* [cache's spill_pages] as users, of the file's pages; NULL without a file */
    uint32_t spilled_free;
    uint64_t spill_offset;   /* of its first page in the file */
    uint8_t *uses;           /* [pages] of this step; NULL where no layer rests outside */
    struct hal_span *spans;  /* of this step */
    size_t spans_room;
    uint32_t *first;         /* [batch + 1] */
    uint32_t *slot;          /* [batch] */
};

struct cache_layer {
    struct hal_mat k;
    struct hal_mat v; /* mem of k where the values are part of the keys */
    uint32_t group;
    uint32_t part_offset; /* of its bytes within its group's page */
    bool shares;
    bool is_cold;         /* rests outside; k and v are those of the layers that take turns */
    uint32_t turns;       /* the layer whose matrices it uses; its own: itself */
    uint64_t cold_k, cold_v; /* where slot 0's keys and values rest */
};

struct cache {
    struct engine *e;
    uint32_t context, sequences, resting, batch, slots;
    uint32_t type_k, type_v;
    uint32_t table_pages;
    uint32_t *length; /* [sequences] */
    struct cache_group *group;
    uint32_t groups;
    struct cache_layer *layer;
    uint32_t layers, layers_room;
    uint64_t bytes;
    bool *is_busy;       /* [sequences] in the step being prepared */
    uint64_t *last_step; /* [sequences] */
    uint64_t step;
    uint8_t *page_buffer; /* one matrix's rows of a page */
    struct cache_store spill;
    uint32_t spill_pages; /* of each group; 0: no spill file */
    uint64_t spilled_bytes, restored_bytes; /* so far */
    struct cache_store cold;
    uint64_t cold_bytes; /* that rest outside; 0: none do */
    uint8_t *bounce;
    size_t bounce_bytes;
    uint64_t cold_out_bytes, cold_in_bytes; /* so far */
};

/* Errors: ERR_MEMORY, ERR_ARGUMENT. A failed cache is closed by cache_close. */
NODISCARD enum err cache_open(struct cache *c, struct engine *e, const struct model_info *info,
                              uint32_t type_k, uint32_t type_v);
void cache_close(struct cache *c);

/* The group of a window, made when it is new: its index. */
NODISCARD enum err cache_add_group(struct cache *c, uint32_t window, uint32_t *out);

/* The next layer: rows of heads * key_dim and heads * value_dim values; value_dim 0: the values are the
 * first ones of the keys. Errors: ERR_ARGUMENT (a head is not whole blocks of the cache's type). */
NODISCARD enum err cache_add_layer(struct cache *c, uint32_t group, uint32_t heads, uint32_t key_dim,
                                   uint32_t value_dim);

/* After all layers were added: their memory, of at most so many bytes (0: no limit); what is beyond rests in an
 * unnamed file of this folder, or without one in host memory. Errors: ERR_FULL (one layer of each shape does not
 * fit), ERR_MEMORY, ERR_IO. */
NODISCARD enum err cache_place(struct cache *c, uint64_t budget, const char *folder);

/* Let pages of resting sequences go to an unnamed file in this folder, of at most so many bytes. After
 * cache_place. Errors: ERR_ARGUMENT (fewer bytes than two pages of every layer), ERR_IO, ERR_MEMORY. */
NODISCARD enum err cache_spill_open(struct cache *c, const char *folder, uint64_t bytes);
/* For cache.c: every page of the runs' sequences into memory, then so many free pages of the group. is_busy
 * is set for the runs. Errors: ERR_FULL (pages may have moved, no text has changed), ERR_IO, ERR_DEVICE. */
NODISCARD enum err cache_spill_restore(struct cache *c, struct cache_group *g, const struct model_run *runs,
                                       uint32_t count);
/* The file's last page is kept for restoring: one page out, one in, so that a full file never locks anyone out. */
NODISCARD enum err cache_spill_room(struct cache *c, struct cache_group *g, uint32_t pages, bool is_restoring);

/* NULL for a folder: host memory, zeroed. Reads behind what was written give zeros. */
NODISCARD enum err cache_store_open(struct cache_store *s, const char *folder, uint64_t bytes);
void cache_store_close(struct cache_store *s);
NODISCARD enum err cache_store_move(const struct cache_store *s, uint8_t *host, size_t bytes, uint64_t offset, bool is_out);

size_t cache_page_bytes(const struct hal_mat *m);
/* The bytes of one page of a group, in all its layers; entries of tables, in memory or in the spill file. */
NODISCARD enum err cache_page_copy(struct cache *c, const struct cache_group *g, uint32_t to, uint32_t from);

/* For layers that rest outside: what the step will see and write; then, around each such layer's attention, what
 * is seen comes in and what was written goes out. Errors: ERR_IO, ERR_DEVICE. */
void cache_cold_mark(struct cache *c, const struct model_run *runs, uint32_t count);
NODISCARD enum err cache_cold_enter(struct cache *c, uint32_t layer);
NODISCARD enum err cache_cold_leave(struct cache *c, uint32_t layer);

/* A page of the group, the next one from `near` on that is free; CACHE_NONE. */
uint32_t cache_take(struct cache_group *g, uint32_t near);
static inline uint32_t *cache_table(const struct cache *c, const struct cache_group *g, uint32_t sequence)
{
    return g->table + (size_t)sequence * c->table_pages;
}

/* Pages, slots and spans for appending these runs. Lengths change only in cache_commit.
 * Errors: ERR_FULL, and with a spill file ERR_IO, ERR_DEVICE (no text has changed). */
NODISCARD enum err cache_prepare(struct cache *c, const struct model_run *runs, uint32_t count);
void cache_commit(struct cache *c, const struct model_run *runs, uint32_t count);

uint32_t cache_truncate(struct cache *c, uint32_t sequence, uint32_t length);
/* Does the sequence still hold all that a text of its first `length` positions goes on from? */
bool cache_holds(const struct cache *c, uint32_t sequence, uint32_t length);
/* Whole pages are shared; the rows of the last one are copied where a page for them is free. */
uint32_t cache_share(struct cache *c, uint32_t to, uint32_t from, uint32_t length);
uint32_t cache_free_slots(const struct cache *c);

#endif
