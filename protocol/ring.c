/* ring.c: a byte ring with lengths before the records. */
#include "protocol/ring.h"

#include <string.h>

void ring_init(struct ring *ring, uint8_t *memory, size_t capacity)
{
    ring->bytes = memory;
    ring->capacity = capacity;
    atomic_init(&ring->head, 0);
    atomic_init(&ring->tail, 0);
    pthread_mutex_init(&ring->producers, NULL);
}

void ring_destroy(struct ring *ring)
{
    pthread_mutex_destroy(&ring->producers);
}

static void copy_in(struct ring *ring, size_t to, const void *from, size_t size)
{
    size_t at = to & (ring->capacity - 1);
    size_t first = size < ring->capacity - at ? size : ring->capacity - at;
    if (first)
        memcpy(ring->bytes + at, from, first);
    if (size > first)
        memcpy(ring->bytes, (const uint8_t *)from + first, size - first);
}

static void copy_out(const struct ring *ring, size_t from, void *to, size_t size)
{
    size_t at = from & (ring->capacity - 1);
    size_t first = size < ring->capacity - at ? size : ring->capacity - at;
    if (first)
        memcpy(to, ring->bytes + at, first);
    if (size > first)
        memcpy((uint8_t *)to + first, ring->bytes, size - first);
}

bool ring_put(struct ring *ring, const struct ring_part *part, size_t parts, size_t reserve)
{
    size_t size = 0;
    for (size_t i = 0; i < parts; i++)
        size += part[i].size;
    pthread_mutex_lock(&ring->producers);
    size_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    size_t used = tail - atomic_load_explicit(&ring->head, memory_order_acquire);
    bool fits = size <= UINT32_MAX && sizeof(uint32_t) + size + reserve <= ring->capacity - used;
    if (fits) {
        uint32_t length = (uint32_t)size;
        copy_in(ring, tail, &length, sizeof length);
        tail += sizeof length;
        for (size_t i = 0; i < parts; tail += part[i++].size)
            copy_in(ring, tail, part[i].at, part[i].size);
        atomic_store_explicit(&ring->tail, tail, memory_order_release);
    }
    pthread_mutex_unlock(&ring->producers);
    return fits;
}

bool ring_take(struct ring *ring, uint8_t *out, size_t capacity, size_t *size)
{
    size_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    if (head == atomic_load_explicit(&ring->tail, memory_order_acquire))
        return false;
    uint32_t length;
    copy_out(ring, head, &length, sizeof length);
    *size = length <= capacity ? length : 0;
    copy_out(ring, head + sizeof length, out, *size);
    atomic_store_explicit(&ring->head, head + sizeof length + length, memory_order_release);
    return true;
}
