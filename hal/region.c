/* region.c: address space is reserved without access, and made usable from its start in steps of a huge page,
 * so that limits of data (RLIMIT_DATA, strict overcommitment) see only what is in use. */
#include "hal/region.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { PAGE = 4096 };

static const size_t RESERVED = (size_t)1 << 30;

/* Extents cover the region in order; no two free ones are neighbours. */
struct extent {
    size_t bytes;
    int is_free;
    struct extent *next;
};

struct region {
    uint8_t *start;
    size_t bytes, usable;
    struct extent *first;
    struct region *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct region *regions;

static size_t round_to(size_t bytes, size_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

/* Reserved at a multiple of REGION_HUGE, or NULL. */
static uint8_t *reserve(size_t bytes)
{
    uint8_t *p = mmap(NULL, bytes + REGION_HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    const size_t before = round_to((uintptr_t)p, REGION_HUGE) - (uintptr_t)p;
    if (before > 0)
        munmap(p, before);
    munmap(p + before + bytes, REGION_HUGE - before);
    return p + before;
}

static struct region *add_region(size_t least)
{
    struct region *r = malloc(sizeof *r);
    struct extent *all = malloc(sizeof *all);
    uint8_t *start = NULL;
    size_t bytes = least > RESERVED ? least : RESERVED;
    while (r != NULL && all != NULL && (start = reserve(bytes)) == NULL && bytes > least)
        bytes = bytes / 2 > least ? bytes / 2 / REGION_HUGE * REGION_HUGE : least;
    if (start == NULL) {
        free(r);
        free(all);
        return NULL;
    }
    *all = (struct extent){.bytes = bytes, .is_free = 1};
    *r = (struct region){.start = start, .bytes = bytes, .first = all, .next = regions};
    regions = r;
    return r;
}

/* The first `end` bytes can be read and written. */
static int make_usable(struct region *r, size_t end)
{
    end = round_to(end, REGION_HUGE);
    if (end <= r->usable)
        return 1;
    if (mprotect(r->start + r->usable, end - r->usable, PROT_READ | PROT_WRITE) != 0)
        return 0;
    r->usable = end;
    return 1;
}

static void *cut(struct region *r, size_t bytes)
{
    size_t at = 0;
    struct extent *e = r->first;
    for (; e != NULL && !(e->is_free && e->bytes >= bytes); e = e->next)
        at += e->bytes;
    if (e == NULL || !make_usable(r, at + bytes))
        return NULL;
    if (e->bytes > bytes) {
        struct extent *rest = malloc(sizeof *rest);
        if (rest == NULL)
            return NULL;
        *rest = (struct extent){.bytes = e->bytes - bytes, .is_free = 1, .next = e->next};
        e->bytes = bytes;
        e->next = rest;
    }
    e->is_free = 0;
    return r->start + at;
}

void *region_alloc(size_t bytes)
{
    void *p = NULL;
    if (bytes > SIZE_MAX / 2)
        return NULL;
    bytes = round_to(bytes, PAGE);
    pthread_mutex_lock(&lock);
    for (struct region *r = regions; r != NULL && p == NULL; r = r->next)
        p = cut(r, bytes);
    if (p == NULL) {
        struct region *r = add_region(round_to(bytes, REGION_HUGE));
        p = r != NULL ? cut(r, bytes) : NULL;
    }
    pthread_mutex_unlock(&lock);
    return p;
}

static void join(struct extent *e)
{
    struct extent *next = e->next;
    if (next == NULL || !next->is_free)
        return;
    e->bytes += next->bytes;
    e->next = next->next;
    free(next);
}

/* The extent of p becomes free; an empty region goes. */
static void give_back(struct region **place, const uint8_t *p)
{
    struct region *r = *place;
    struct extent *e = r->first, *before = NULL;
    for (const uint8_t *at = r->start; at != p; at += before->bytes) {
        before = e;
        e = e->next;
    }
    e->is_free = 1;
    (void)madvise((void *)(uintptr_t)p, e->bytes, MADV_DONTNEED);
    join(e);
    if (before != NULL && before->is_free)
        join(before);
    if (r->first->next != NULL || !r->first->is_free)
        return;
    munmap(r->start, r->bytes);
    *place = r->next;
    free(r->first);
    free(r);
}

int region_release(void *p)
{
    int is_ours = 0;
    pthread_mutex_lock(&lock);
    for (struct region **r = &regions; *r != NULL; r = &(*r)->next) {
        if ((uint8_t *)p >= (*r)->start && (uint8_t *)p < (*r)->start + (*r)->bytes) {
            give_back(r, p);
            is_ours = 1;
            break;
        }
    }
    pthread_mutex_unlock(&lock);
    return is_ours;
}
