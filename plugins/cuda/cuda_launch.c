/* cuda_launch.c: device memory, the queue of launches and the notes that they read. */
#include "plugins/cuda/cuda.h"

#include <stdio.h>
#include <string.h>
#include <syslog.h>

enum err cuda_result(struct cuda_dev *d, const char *what, CUresult result)
{
    if (result == 0)
        return ERR_NONE;
    char line[200];
    const char *words = NULL;
    if (d->driver->cuGetErrorString(result, &words) != 0 || words == NULL)
        words = "unknown error";
    snprintf(line, sizeof line, "cuda: %s: %s (%d)", what, words, result);
    if (d->scalar.host.log != NULL)
        d->scalar.host.log(LOG_ERR, line);
    return result == CUDA_ERROR_OUT_OF_MEMORY ? ERR_MEMORY : ERR_DEVICE;
}

enum err cuda_enter(struct cuda_dev *d)
{
    return cuda_result(d, "cuCtxSetCurrent", d->driver->cuCtxSetCurrent(d->context));
}

enum err cuda_alloc(struct cuda_dev *d, size_t bytes, CUdeviceptr *out)
{
    if (bytes == 0 || bytes > d->budget - d->used)
        return ERR_MEMORY;
    const enum err e = cuda_result(d, "cuMemAlloc", d->driver->cuMemAlloc_v2(out, bytes));
    if (e == ERR_NONE)
        d->used += bytes;
    return e;
}

void cuda_free(struct cuda_dev *d, CUdeviceptr mem, size_t bytes)
{
    if (mem == 0)
        return;
    /* the error is logged; an address that cannot be freed cannot be used either */
    (void)!cuda_result(d, "cuMemFree", d->driver->cuMemFree_v2(mem));
    d->used -= bytes;
}

#define BYTES(name, type) sizeof(struct type),
static const uint32_t arg_bytes[] = {CUDA_KERNELS_ALL(BYTES)};
#define FITS(name, type) static_assert(sizeof(struct type) <= CUDA_ARGS_BYTES, #type);
CUDA_KERNELS_ALL(FITS)

static size_t queue_bytes(void)
{
    return CUDA_QUEUE_MAX * sizeof(struct cuda_start);
}

size_t cuda_queue_bytes(void)
{
    return (1 + CUDA_GRAPHS) * queue_bytes() + CUDA_GRAPHS * CUDA_QUEUE_MAX * sizeof(CUgraphNode) +
           CUDA_NOTES_BYTES;
}

void cuda_queue_open(struct cuda_dev *d, void *memory)
{
    uint8_t *at = memory;
    d->memory = memory;
    d->queue = memory;
    at += queue_bytes();
    for (int i = 0; i < CUDA_GRAPHS; i++) {
        d->graph[i].start = (struct cuda_start *)(void *)at;
        at += queue_bytes();
        d->graph[i].node = (CUgraphNode *)(void *)at;
        at += CUDA_QUEUE_MAX * sizeof(CUgraphNode);
    }
    d->notes.host = at;
}

enum err cuda_start_plainly(struct cuda_dev *d)
{
#define NAME(name, type) #name,
    static const char *const names[] = {CUDA_KERNELS_ALL(NAME)};
    enum err e = ERR_NONE;
    for (uint32_t i = 0; i < d->queued && e == ERR_NONE; i++) {
        struct cuda_start *s = &d->queue[i];
        void *list[1] = {s->args};
        e = cuda_result(d, names[s->kernel],
                        d->driver->cuLaunchKernel(d->kernel[s->kernel], s->x, s->y, s->z,
                                                  s->threads, 1, 1, 0, NULL, list, NULL));
    }
    return e;
}

static enum err send_notes(struct cuda_dev *d)
{
    const struct cuda_notes *n = &d->notes;
    return n->used != 0 ? cuda_result(d, "cuMemcpyHtoD",
                                      d->driver->cuMemcpyHtoD_v2(n->mem, n->host, n->used))
                        : ERR_NONE;
}

enum err cuda_start(struct cuda_dev *d)
{
    int is_done = 0;
    enum err e = cuda_enter(d);
    if (e == ERR_NONE && d->queued != 0) {
        e = send_notes(d);
        if (e == ERR_NONE && d->has_graphs)
            e = cuda_graph_start(d, &is_done);
        if (e == ERR_NONE && !is_done)
            e = cuda_start_plainly(d);
    }
    d->queued = 0;
    d->notes.used = 0;
    memset(d->notes.recent, 0, sizeof d->notes.recent);
    const enum err before = d->failed;
    d->failed = ERR_NONE;
    return e != ERR_NONE ? e : before;
}

enum err cuda_launch(struct cuda_dev *d, uint32_t kernel, uint32_t x, uint32_t y, uint32_t z,
                     uint32_t threads, const void *args)
{
    if (x == 0 || y == 0 || z == 0)
        return ERR_NONE;
    if (d->queued == CUDA_QUEUE_MAX) {
        const enum err e = cuda_start(d);
        if (e != ERR_NONE)
            return e;
    }
    struct cuda_start *s = &d->queue[d->queued++];
    *s = (struct cuda_start){kernel, x, y, z, threads, 0, {0}};
    memcpy(s->args, args, arg_bytes[kernel]);
    return ERR_NONE;
}

enum err cuda_launch_values(struct cuda_dev *d, uint32_t kernel, uint64_t values, const void *args)
{
    const uint64_t blocks = (values + CUDA_THREADS - 1) / CUDA_THREADS;
    if (blocks > INT32_MAX)
        return ERR_ARGUMENT;
    return cuda_launch(d, kernel, (uint32_t)blocks, 1, 1, CUDA_THREADS, args);
}

void cuda_beside(struct cuda_dev *d)
{
    if (d->queued > 1)
        d->queue[d->queued - 1].is_beside = 1;
}

enum err cuda_room(struct cuda_dev *d, size_t bytes)
{
    if (bytes > CUDA_NOTES_BYTES)
        return ERR_MEMORY;
    if (bytes <= CUDA_NOTES_BYTES - d->notes.used && d->queued + CUDA_QUEUE_SPARE <= CUDA_QUEUE_MAX)
        return ERR_NONE;
    return cuda_start(d);
}

uint64_t cuda_note(struct cuda_dev *d, const void *from, size_t bytes)
{
    struct cuda_notes *n = &d->notes;
    if (bytes == 0)
        return n->mem;
    for (int i = 0; i < CUDA_RECENT; i++)
        if (n->recent[i].bytes == bytes && memcmp(n->host + n->recent[i].at, from, bytes) == 0)
            return n->mem + n->recent[i].at;
    const size_t at = n->used;
    memcpy(n->host + at, from, bytes);
    n->used = (at + bytes + CUDA_NOTE_ALIGN - 1) / CUDA_NOTE_ALIGN * CUDA_NOTE_ALIGN;
    n->recent[n->turn].at = at;
    n->recent[n->turn].bytes = bytes;
    n->turn = (n->turn + 1) % CUDA_RECENT;
    return n->mem + at;
}
