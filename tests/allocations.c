/* allocations.c: see allocations.h. */
#include "tests/allocations.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

static _Atomic unsigned long count;
static _Thread_local bool is_ignored;

unsigned long allocations(void)
{
    return atomic_load(&count);
}

void allocations_ignore(void)
{
    is_ignored = true;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)

bool allocations_are_seen(void)
{
    return false;
}

#else

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t items, size_t bytes);
void *__libc_realloc(void *p, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);

static void note(void)
{
    if (!is_ignored)
        atomic_fetch_add(&count, 1);
}

void *malloc(size_t bytes)
{
    note();
    return __libc_malloc(bytes);
}

void *calloc(size_t items, size_t bytes)
{
    note();
    return __libc_calloc(items, bytes);
}

void *realloc(void *p, size_t bytes)
{
    note();
    return __libc_realloc(p, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    note();
    return __libc_memalign(alignment, bytes);
}

int posix_memalign(void **out, size_t alignment, size_t bytes)
{
    note();
    *out = __libc_memalign(alignment, bytes);
    return *out ? 0 : ENOMEM;
}

bool allocations_are_seen(void)
{
    const unsigned long before = allocations();
    void *volatile p = malloc(1);
    free(p);
    return allocations() > before;
}

#endif
