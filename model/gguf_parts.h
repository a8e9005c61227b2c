/* gguf_parts.h: what the reader (gguf.c) and the look-ups (gguf_find.c) share. */
#ifndef GGUF_PARTS_H
#define GGUF_PARTS_H

#include "model/gguf.h"

struct gguf {
    const uint8_t *map;
    size_t size;
    bool mapped;
    char *path;
    uint32_t alignment;
    uint32_t keys;
    uint32_t tensors;
    struct gguf_value *key;
    struct gguf_tensor *tensor;
    uint32_t *key_order; /* indices by name, for bsearch and to find duplicates */
    uint32_t *tensor_order;
};

/* The order of names in the indices. */
int gguf_compare(struct gguf_text a, struct gguf_text b);

#endif
