/* cache_cost.h: what a model's keys and values weigh, from the keys of its file alone. */
#ifndef CACHE_COST_H
#define CACHE_COST_H

#include "model/gguf.h"

/* Bytes of one position in all layers, and what they would be without the architecture's savings. */
struct cache_cost {
    uint32_t layers;
    uint32_t windowed;        /* of these: layers that keep a window only */
    uint32_t window;          /* positions; 0: none */
    bool is_latent;           /* one latent and one rotated key for all heads, values within the latent */
    uint64_t token_bytes;     /* a position that every layer keeps */
    uint64_t windowed_bytes;  /* the part of it in windowed layers */
    uint64_t full_bytes;      /* keys and values of every query head in every layer */
};

/* type_k, type_v: element types of the cache. Errors: ERR_UNSUPPORTED (an architecture without a cache or
 * unknown), ERR_FORMAT (keys missing), ERR_ARGUMENT (rows that are no whole blocks of the types). */
NODISCARD enum err cache_cost(const struct gguf *g, uint32_t type_k, uint32_t type_v, struct cache_cost *out);

/* Of a text of so many positions, whole or as kept: without the pages that a step in progress needs. */
uint64_t cache_cost_full(const struct cache_cost *c, uint64_t positions);
uint64_t cache_cost_kept(const struct cache_cost *c, uint64_t positions);

#endif
