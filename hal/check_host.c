/* check_host.c: guarded memory. A mapping is: a page with the size, the pages of the buffer, pushed
 * to their end, and a page that nobody may touch. */
#include "hal/check_host.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ALIGNMENT = 64, FILL = 0xd0 };

/* hal_host has no context argument, so this is the process'. */
static struct {
    pthread_mutex_t mutex;
    uint32_t live;
    uint32_t fail_in; /* allocations until the failing one, 0: none */
    int has_failed;
    char fault[160];
} state = {.mutex = PTHREAD_MUTEX_INITIALIZER};

struct placement {
    size_t page, whole, map;
    char *base, *data;
};

static struct placement place(size_t bytes)
{
    struct placement p = {.page = (size_t)sysconf(_SC_PAGESIZE)};
    p.whole = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    const size_t pages = (p.whole + p.page - 1) / p.page * p.page;
    p.map = p.page + pages + p.page;
    return p;
}

static void set_fault(const char *what, size_t bytes)
{
    if (state.fault[0] == '\0')
        snprintf(state.fault, sizeof state.fault, "%s a buffer of %zu bytes", what, bytes);
}

static int is_refused(void)
{
    int refused = 0;
    pthread_mutex_lock(&state.mutex);
    if (state.fail_in != 0 && --state.fail_in == 0)
        refused = state.has_failed = 1;
    if (!refused)
        state.live++;
    pthread_mutex_unlock(&state.mutex);
    return refused;
}

static void *guarded_alloc(size_t bytes)
{
    if (bytes == 0 || bytes > SIZE_MAX / 2 || is_refused())
        return NULL;
    struct placement p = place(bytes);
    p.base = mmap(NULL, p.map, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p.base == MAP_FAILED || mprotect(p.base + p.map - p.page, p.page, PROT_NONE) != 0)
        return NULL;
    p.data = p.base + p.map - p.page - p.whole;
    memcpy(p.base, &bytes, sizeof bytes);
    /* the buffer itself too: nothing may rely on zeros */
    memset(p.base + p.page, FILL, p.map - 2 * p.page);
    return p.data;
}

static int is_filled(const char *from, const char *to)
{
    for (; from < to; from++)
        if ((unsigned char)*from != FILL)
            return 0;
    return 1;
}

static void guarded_release(void *data, size_t bytes)
{
    if (data == NULL)
        return;
    struct placement p = place(bytes);
    size_t recorded;
    p.data = data;
    p.base = p.data + p.whole + p.page - p.map;
    pthread_mutex_lock(&state.mutex);
    state.live--;
    /* a wrong size may point base anywhere: look only where the last page of the true one is */
    if (((uintptr_t)p.base & (p.page - 1)) != 0) {
        set_fault("released with another size", bytes);
        pthread_mutex_unlock(&state.mutex);
        return;
    }
    memcpy(&recorded, p.base, sizeof recorded);
    if (recorded != bytes)
        set_fault("released with another size", bytes);
    else if (!is_filled(p.data + bytes, p.data + p.whole))
        set_fault("wrote past the end of", bytes);
    else if (!is_filled(p.base + p.page, p.data))
        set_fault("wrote before the start of", bytes);
    pthread_mutex_unlock(&state.mutex);
    munmap(p.base, p.map);
}

static void silence(int syslog_level, const char *message)
{
    (void)syslog_level;
    (void)message;
}

void check_host_start(struct hal_host *out, uint32_t threads, const char *path)
{
    pthread_mutex_lock(&state.mutex);
    state.live = 0;
    state.fail_in = 0;
    state.has_failed = 0;
    state.fault[0] = '\0';
    pthread_mutex_unlock(&state.mutex);
    *out = (struct hal_host){guarded_alloc, guarded_release, silence, threads, path};
}

int check_host_fail_at(uint32_t n)
{
    pthread_mutex_lock(&state.mutex);
    const int has_failed = state.has_failed;
    state.has_failed = 0;
    state.fail_in = n;
    pthread_mutex_unlock(&state.mutex);
    return has_failed;
}

uint32_t check_host_live(void)
{
    pthread_mutex_lock(&state.mutex);
    const uint32_t live = state.live;
    pthread_mutex_unlock(&state.mutex);
    return live;
}

const char *check_host_fault(void)
{
    return state.fault[0] != '\0' ? state.fault : NULL;
}

static void *plain_alloc(size_t bytes)
{
    if (bytes == 0 || bytes > SIZE_MAX - ALIGNMENT)
        return NULL;
    return aligned_alloc(ALIGNMENT, (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
}

static void plain_release(void *p, size_t bytes)
{
    (void)bytes;
    free(p);
}

const struct hal_host check_host_plain = {plain_alloc, plain_release, silence, 1, NULL};
