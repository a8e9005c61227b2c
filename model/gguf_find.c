/* gguf_find.c: what an opened file holds: by number, by name. */
#include "model/gguf_parts.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int gguf_compare(struct gguf_text a, struct gguf_text b)
{
    const int order = memcmp(a.text, b.text, a.bytes < b.bytes ? a.bytes : b.bytes);
    return order ? order : (a.bytes > b.bytes) - (a.bytes < b.bytes);
}

const char *gguf_path(const struct gguf *g)
{
    return g->path;
}

uint64_t gguf_bytes(const struct gguf *g)
{
    return g->size;
}

uint32_t gguf_alignment(const struct gguf *g)
{
    return g->alignment;
}

uint32_t gguf_keys(const struct gguf *g)
{
    return g->keys;
}

const struct gguf_value *gguf_key(const struct gguf *g, uint32_t i)
{
    return i < g->keys ? &g->key[i] : NULL;
}

const struct gguf_value *gguf_find(const struct gguf *g, const char *key)
{
    const struct gguf_text wanted = {key, strlen(key)};
    uint32_t low = 0, high = g->keys;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        const struct gguf_value *v = &g->key[g->key_order[middle]];
        const int order = gguf_compare(wanted, v->key);
        if (order == 0)
            return v;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

uint32_t gguf_tensors(const struct gguf *g)
{
    return g->tensors;
}

const struct gguf_tensor *gguf_tensor(const struct gguf *g, uint32_t i)
{
    return i < g->tensors ? &g->tensor[i] : NULL;
}

const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name)
{
    uint32_t low = 0, high = g->tensors;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        const struct gguf_tensor *t = &g->tensor[g->tensor_order[middle]];
        const int order = strcmp(name, t->name);
        if (order == 0)
            return t;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

void gguf_drop(const struct gguf *g, const void *data, size_t bytes)
{
    if (!g->mapped || bytes == 0)
        return;
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    /* the first page is the last piece's as well, which could not drop it: pieces are read in order */
    const uintptr_t start = (uintptr_t)data / page * page;
    const uintptr_t end = ((uintptr_t)data + bytes) / page * page;
    if (end > start)
        (void)madvise((void *)start, end - start, MADV_DONTNEED); /* only advice */
}
