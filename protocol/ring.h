/* ring.h: records from the callbacks of a network library to the one thread that reads them.
 *
 * Bounded bytes in the caller's memory. Any number of producers, who wait for each other but never
 * for the consumer; one consumer, who waits for nobody.
 */
#ifndef RING_H
#define RING_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ring {
    uint8_t *bytes;
    size_t capacity;    /* a power of two */
    atomic_size_t head; /* bytes ever taken */
    atomic_size_t tail; /* bytes ever put */
    pthread_mutex_t producers;
};

struct ring_part {
    const void *at;
    size_t size;
};

/* memory: capacity bytes, a power of two of at least 64. */
void ring_init(struct ring *ring, uint8_t *memory, size_t capacity);
void ring_destroy(struct ring *ring);
/* Put one record made of parts; `reserve` bytes must stay free behind it. False: no room. */
bool ring_put(struct ring *ring, const struct ring_part *part, size_t parts, size_t reserve);
/* Copy the oldest record out and drop it. False: empty. A record of more than capacity bytes is
 * dropped too and *size is 0. */
bool ring_take(struct ring *ring, uint8_t *out, size_t capacity, size_t *size);

#endif
