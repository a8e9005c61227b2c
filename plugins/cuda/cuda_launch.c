/* cuda_launch.c: device memory, launches and small arguments: every call of the driver but those of
 * open and close. */
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

enum err cuda_launch(struct cuda_dev *d, uint32_t kernel, uint32_t x, uint32_t y, uint32_t z,
                     uint32_t threads, void *args)
{
#define NAME(name, type) #name,
    static const char *const names[] = {CUDA_KERNELS_ALL(NAME)};
    if (x == 0 || y == 0 || z == 0)
        return ERR_NONE;
    void *list[1] = {args};
    const CUresult result = d->driver->cuLaunchKernel(d->kernel[kernel], x, y, z, threads, 1, 1, 0,
                                                      NULL, list, NULL);
    return cuda_result(d, names[kernel], result);
}

enum err cuda_launch_values(struct cuda_dev *d, uint32_t kernel, uint64_t values, void *args)
{
    const uint64_t blocks = (values + CUDA_THREADS - 1) / CUDA_THREADS;
    if (blocks > INT32_MAX)
        return ERR_ARGUMENT;
    return cuda_launch(d, kernel, (uint32_t)blocks, 1, 1, CUDA_THREADS, args);
}

enum err cuda_send(struct cuda_dev *d, uint32_t note, const void *from, size_t bytes)
{
    struct cuda_note *n = &d->notes[note];
    if (bytes > n->bytes)
        return ERR_MEMORY;
    if (bytes == 0 || (bytes <= n->sent_bytes && memcmp(n->sent, from, bytes) == 0))
        return ERR_NONE;
    n->sent_bytes = 0;
    const enum err e =
        cuda_result(d, "cuMemcpyHtoD", d->driver->cuMemcpyHtoD_v2(n->mem, from, bytes));
    if (e != ERR_NONE)
        return e;
    memcpy(n->sent, from, bytes);
    n->sent_bytes = bytes;
    return ERR_NONE;
}
