/* mock_cuda.c: the driver calls of plugins/cuda/cuda_driver.h over host memory. */
#include "tests/plugins/cuda/mock_cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "plugins/cuda/cuda_args.h"
#include "plugins/cuda/cuda_driver.h"

#define EXPORT __attribute__((visibility("default")))

enum {
    NO_ERROR = 0,
    BAD_VALUE = 1,
    NO_MEMORY = 2,
    NOT_READY = 3,
    BAD_CONTEXT = 201,
    BAD_PTX = 218,
    NOT_FOUND = 500,
    ALIGNMENT = 256,
    FILL = 0xd0,
    BUFFERS_MAX = 4096
};

#define DECLARE(name, args) void twin_##name(const void *p);
CUDA_KERNELS_ALL(DECLARE)

struct CUfunc_st {
    const char *name;
    void (*twin)(const void *);
    size_t bytes; /* of the arguments */
    unsigned launches;
};
#define ENTRY(name, args) {#name, twin_##name, sizeof(struct args), 0},
static struct CUfunc_st kernels[] = {CUDA_KERNELS_ALL(ENTRY)};
enum { KERNELS = sizeof kernels / sizeof kernels[0] };

struct CUmod_st {
    char *text;
};

struct buffer {
    char *map, *data;
    size_t bytes, map_bytes;
};

static struct {
    int is_ready, contexts;
    CUcontext current;
    size_t memory, used;
    struct buffer buffers[BUFFERS_MAX];
    char fail_call[64];
    unsigned fail_in;
    int fail_result;
} state = {.memory = (size_t)4 << 30};

static _Noreturn void fault(const char *what, CUdeviceptr at, size_t bytes)
{
    fprintf(stderr, "mock: %s (address %#llx, %zu bytes)\n", what, at, bytes);
    abort();
}

/* The failure ordered for this call, or 0. */
static CUresult ordered(const char *call)
{
    if (state.fail_in == 0 || strcmp(state.fail_call, call) != 0 || --state.fail_in != 0)
        return NO_ERROR;
    return state.fail_result;
}
#define MAY_FAIL                                                                                   \
    const CUresult refused = ordered(__func__);                                                    \
    if (refused != NO_ERROR)                                                                       \
        return refused;                                                                            \
    if (!state.is_ready)                                                                           \
        return NOT_READY;
#define NEEDS_CONTEXT                                                                              \
    MAY_FAIL                                                                                       \
    if (state.current == NULL || state.contexts == 0)                                              \
        return BAD_CONTEXT;

EXPORT void mock_cuda_fail(const char *call, unsigned nth, int result)
{
    snprintf(state.fail_call, sizeof state.fail_call, "%s", call);
    state.fail_in = nth;
    state.fail_result = result;
}

EXPORT void mock_cuda_memory(size_t bytes)
{
    state.memory = bytes;
}

EXPORT unsigned mock_cuda_launches(const char *kernel)
{
    for (int i = 0; i < KERNELS; i++)
        if (strcmp(kernels[i].name, kernel) == 0)
            return kernels[i].launches;
    return 0;
}

#define CALL(name, args) EXPORT CUresult name args;
CUDA_DRIVER_CALLS(CALL)

CUresult cuInit(unsigned flags)
{
    const CUresult refused = ordered(__func__);
    state.is_ready = refused == NO_ERROR && flags == 0;
    return refused;
}

CUresult cuDeviceGetCount(int *count)
{
    MAY_FAIL
    *count = 1;
    return NO_ERROR;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    MAY_FAIL
    *device = 0;
    return ordinal == 0 ? NO_ERROR : BAD_VALUE;
}

CUresult cuDeviceGetName(char *name, int bytes, CUdevice device)
{
    MAY_FAIL
    snprintf(name, (size_t)bytes, "mock GPU %d", device);
    return NO_ERROR;
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device)
{
    MAY_FAIL
    int major = 9, minor = 0;
    const char *wanted = getenv("MOCK_CUDA_CAPABILITY");
    if (wanted != NULL && sscanf(wanted, "%d.%d", &major, &minor) != 2)
        return BAD_VALUE;
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = major; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = minor; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 132; break;
    default: return BAD_VALUE;
    }
    return device == 0 ? NO_ERROR : BAD_VALUE;
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
    MAY_FAIL
    *bytes = state.memory;
    return device == 0 ? NO_ERROR : BAD_VALUE;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    MAY_FAIL
    state.contexts++;
    *context = (CUcontext)(void *)&state;
    return device == 0 ? NO_ERROR : BAD_VALUE;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
    MAY_FAIL
    if (state.contexts == 0 || device != 0)
        return BAD_CONTEXT;
    if (--state.contexts == 0 && state.used != 0)
        fault("memory is held when the context goes", 0, state.used);
    return NO_ERROR;
}

CUresult cuCtxSetCurrent(CUcontext context)
{
    MAY_FAIL
    state.current = context;
    return NO_ERROR;
}

CUresult cuCtxSynchronize(void)
{
    NEEDS_CONTEXT
    return NO_ERROR;
}

CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned count,
                            CUjit_option *options, void **values)
{
    const CUresult refused = ordered(__func__);
    if (refused != NO_ERROR && count == 2 && options[0] == CU_JIT_ERROR_LOG_BUFFER &&
        options[1] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES)
        snprintf(values[0], (size_t)(uintptr_t)values[1], "ptxas: the mock was told to refuse");
    if (refused != NO_ERROR)
        return refused;
    if (strstr(image, ".version") == NULL || strstr(image, ".target") == NULL)
        return BAD_PTX;
    CUmodule m = malloc(sizeof *m);
    if (m == NULL || (m->text = strdup(image)) == NULL)
        return NO_MEMORY;
    *module = m;
    return NO_ERROR;
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name)
{
    NEEDS_CONTEXT
    char entry[100];
    snprintf(entry, sizeof entry, ".entry %s(", name);
    if (strstr(module->text, entry) == NULL)
        return NOT_FOUND;
    for (int i = 0; i < KERNELS; i++)
        if (strcmp(kernels[i].name, name) == 0) {
            *function = &kernels[i];
            return NO_ERROR;
        }
    return NOT_FOUND;
}

CUresult cuModuleUnload(CUmodule module)
{
    NEEDS_CONTEXT
    free(module->text);
    free(module);
    return NO_ERROR;
}

CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total)
{
    NEEDS_CONTEXT
    *total = state.memory;
    *free_bytes = state.memory - state.used;
    return NO_ERROR;
}

/* The end of the buffer, as far as alignment allows, at a page that nobody may touch. */
CUresult cuMemAlloc_v2(CUdeviceptr *out, size_t bytes)
{
    NEEDS_CONTEXT
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t whole = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    const size_t pages = (whole + page - 1) / page * page;
    struct buffer *b = state.buffers;
    while (b < state.buffers + BUFFERS_MAX && b->map != NULL)
        b++;
    if (bytes == 0)
        return BAD_VALUE;
    if (bytes > state.memory - state.used || b == state.buffers + BUFFERS_MAX)
        return NO_MEMORY;
    char *map = mmap(NULL, pages + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED || mprotect(map + pages, page, PROT_NONE) != 0)
        return NO_MEMORY;
    *b = (struct buffer){map, map + pages - whole, bytes, pages + page};
    if (bytes <= (size_t)64 << 20) /* nothing may rely on zeros */
        memset(map, FILL, pages);
    else
        memset(b->data + bytes, FILL, whole - bytes);
    state.used += bytes;
    *out = (uintptr_t)b->data;
    return NO_ERROR;
}

CUresult cuMemFree_v2(CUdeviceptr at)
{
    NEEDS_CONTEXT
    for (struct buffer *b = state.buffers; b < state.buffers + BUFFERS_MAX; b++) {
        if (b->map == NULL || (uintptr_t)b->data != at)
            continue;
        for (const char *p = b->data + b->bytes; p < b->data + b->bytes + (-b->bytes & (ALIGNMENT - 1)); p++)
            if ((unsigned char)*p != FILL)
                fault("wrote past the end", at, b->bytes);
        munmap(b->map, b->map_bytes);
        state.used -= b->bytes;
        memset(b, 0, sizeof *b);
        return NO_ERROR;
    }
    fault("freed what is not allocated", at, 0);
}

static char *inside(CUdeviceptr at, size_t bytes)
{
    for (struct buffer *b = state.buffers; b < state.buffers + BUFFERS_MAX; b++) {
        const uintptr_t data = (uintptr_t)b->data;
        if (b->map != NULL && at >= data && at - data <= b->bytes &&
            bytes <= b->bytes - (at - data))
            return (char *)(uintptr_t)at;
    }
    fault("copy outside of a buffer", at, bytes);
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes)
{
    NEEDS_CONTEXT
    memcpy(inside(to, bytes), from, bytes);
    return NO_ERROR;
}

CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes)
{
    NEEDS_CONTEXT
    memcpy(to, inside(from, bytes), bytes);
    return NO_ERROR;
}

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                        unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                        CUstream stream, void **args, void **extra)
{
    NEEDS_CONTEXT
    const unsigned grid[3] = {grid_x, grid_y, grid_z};
    if (grid_x == 0 || grid_y == 0 || grid_z == 0 || grid_x > INT32_MAX || grid_y > 65535 ||
        grid_z > 65535 || block_x == 0 || block_x > 1024 || block_y != 1 || block_z != 1 ||
        shared != 0 || stream != NULL || extra != NULL)
        return BAD_VALUE;
    function->launches++;
    mock_cuda_run(function->twin, args[0], grid, block_x);
    return NO_ERROR;
}

CUresult cuGetErrorString(CUresult result, const char **words)
{
    *words = result == NO_MEMORY ? "out of memory" : result == 719 ? "launch failure" : "mock error";
    return NO_ERROR;
}
