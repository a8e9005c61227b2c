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

enum { NO_ERROR = 0, BAD_VALUE = 1, NO_MEMORY = 2, NOT_READY = 3, BAD_CONTEXT = 201, BAD_PTX = 218, NOT_FOUND = 500 };
enum { ALIGNMENT = 256, FILL = 0xd0, BUFFERS_MAX = 4096, CALLS_MAX = 64 };

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
    unsigned calls;
    struct {
        const char *name;
        unsigned count;
    } call[CALLS_MAX];
} state = {.memory = (size_t)4 << 30};

static _Noreturn void fault(const char *what, CUdeviceptr at, size_t bytes)
{
    fprintf(stderr, "mock: %s (address %#llx, %zu bytes)\n", what, at, bytes);
    abort();
}

static void count(const char *call)
{
    int i = 0;
    state.calls++;
    while (i < CALLS_MAX - 1 && state.call[i].name != NULL && strcmp(state.call[i].name, call) != 0)
        i++;
    state.call[i].name = call;
    state.call[i].count++;
}

/* The failure ordered for this call, or 0. */
static CUresult ordered(const char *call)
{
    count(call);
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

static unsigned graphs_held;

EXPORT unsigned mock_cuda_calls(const char *call)
{
    for (int i = 0; i < CALLS_MAX && state.call[i].name != NULL; i++)
        if (strcmp(state.call[i].name, call) == 0)
            return state.call[i].count;
    return call[0] == '\0' ? state.calls : 0;
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
#ifndef MOCK_WITHOUT_GRAPHS
CUDA_DRIVER_GRAPH_CALLS(CALL)
#endif

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

static void report(void)
{
    unsigned launches = 0;
    for (int i = 0; i < KERNELS; i++)
        launches += kernels[i].launches;
    fprintf(stderr, "mock: %u calls, %u kernels:", state.calls, launches);
    for (int i = 0; i < CALLS_MAX && state.call[i].name != NULL; i++)
        fprintf(stderr, " %s %u", state.call[i].name, state.call[i].count);
    fputc('\n', stderr);
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
    MAY_FAIL
    if (state.contexts == 0 || device != 0)
        return BAD_CONTEXT;
    if (--state.contexts == 0 && state.used != 0)
        fault("memory is held when the context goes", 0, state.used);
    if (state.contexts == 0 && graphs_held != 0)
        fault("graphs are held when the context goes", 0, 0);
    if (state.contexts == 0 && getenv("MOCK_CUDA_REPORT") != NULL)
        report();
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

static int is_grid(unsigned x, unsigned y, unsigned z, unsigned threads)
{
    return x != 0 && y != 0 && z != 0 && x <= INT32_MAX && y <= 65535 && z <= 65535 &&
           threads != 0 && threads <= 1024;
}

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                        unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                        CUstream stream, void **args, void **extra)
{
    NEEDS_CONTEXT
    const unsigned grid[3] = {grid_x, grid_y, grid_z};
    if (!is_grid(grid_x, grid_y, grid_z, block_x) || block_y != 1 || block_z != 1 || shared != 0 ||
        stream != NULL || extra != NULL)
        return BAD_VALUE;
    function->launches++;
    mock_cuda_run(function->twin, args[0], grid, block_x);
    return NO_ERROR;
}

#ifndef MOCK_WITHOUT_GRAPHS
enum { NODES_MAX = 4096, BEFORE_MAX = 16, NODE_ARGS = 256 };

struct CUgraphNode_st {
    CUfunction function;
    unsigned grid[3], threads;
    unsigned char args[NODE_ARGS];
    unsigned before[BEFORE_MAX], befores; /* indices of those it waits for */
};

struct CUgraph_st {
    unsigned count;
    struct CUgraphNode_st node[NODES_MAX];
};

struct CUgraphExec_st {
    const struct CUgraph_st *from; /* whose nodes name those of the copy */
    struct CUgraph_st copy;
};

/* The arguments are copied, as the driver does. */
static CUresult set_node(struct CUgraphNode_st *n, const CUDA_KERNEL_NODE_PARAMS *p)
{
    if (!is_grid(p->gridDimX, p->gridDimY, p->gridDimZ, p->blockDimX) || p->blockDimY != 1 ||
        p->blockDimZ != 1 || p->sharedMemBytes != 0 || p->extra != NULL || p->func == NULL ||
        p->func->bytes > NODE_ARGS)
        return BAD_VALUE;
    n->function = p->func;
    n->grid[0] = p->gridDimX;
    n->grid[1] = p->gridDimY;
    n->grid[2] = p->gridDimZ;
    n->threads = p->blockDimX;
    memcpy(n->args, p->kernelParams[0], p->func->bytes);
    return NO_ERROR;
}

CUresult cuGraphCreate(CUgraph *graph, unsigned flags)
{
    NEEDS_CONTEXT
    *graph = calloc(1, sizeof **graph);
    graphs_held += *graph != NULL;
    return *graph == NULL ? NO_MEMORY : flags != 0 ? BAD_VALUE : NO_ERROR;
}

CUresult cuGraphAddKernelNode_v2(CUgraphNode *node, CUgraph graph, const CUgraphNode *before,
                                 size_t befores, const CUDA_KERNEL_NODE_PARAMS *params)
{
    NEEDS_CONTEXT
    if (graph->count == NODES_MAX || befores > BEFORE_MAX)
        return BAD_VALUE;
    struct CUgraphNode_st *n = &graph->node[graph->count];
    for (size_t i = 0; i < befores; i++) {
        if (before[i] < graph->node || before[i] >= n)
            return BAD_VALUE;
        n->before[n->befores++] = (unsigned)(before[i] - graph->node);
    }
    graph->count++;
    *node = n;
    return set_node(n, params);
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph, unsigned long long flags)
{
    NEEDS_CONTEXT
    *exec = malloc(sizeof **exec);
    if (*exec == NULL || flags != 0)
        return *exec == NULL ? NO_MEMORY : BAD_VALUE;
    (*exec)->from = graph;
    (*exec)->copy = *graph;
    graphs_held++;
    return NO_ERROR;
}

CUresult cuGraphExecKernelNodeSetParams_v2(CUgraphExec exec, CUgraphNode node,
                                           const CUDA_KERNEL_NODE_PARAMS *params)
{
    NEEDS_CONTEXT
    if (node < exec->from->node || node >= exec->from->node + exec->copy.count)
        return BAD_VALUE;
    return set_node(&exec->copy.node[node - exec->from->node], params);
}

/* Of the nodes whose befores are done, the one added last runs first. */
CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream)
{
    NEEDS_CONTEXT
    static unsigned char is_done[NODES_MAX];
    const struct CUgraph_st *g = &exec->copy;
    if (stream != NULL)
        return BAD_VALUE;
    memset(is_done, 0, g->count);
    for (unsigned left = g->count; left > 0; left--) {
        unsigned i = g->count, ready = 0;
        while (!ready && i-- > 0) {
            ready = !is_done[i];
            for (unsigned k = 0; k < g->node[i].befores; k++)
                ready &= is_done[g->node[i].before[k]];
        }
        if (!ready)
            return BAD_VALUE;
        g->node[i].function->launches++;
        mock_cuda_run(g->node[i].function->twin, g->node[i].args, g->node[i].grid,
                      g->node[i].threads);
        is_done[i] = 1;
    }
    return NO_ERROR;
}

CUresult cuGraphExecDestroy(CUgraphExec exec)
{
    NEEDS_CONTEXT
    free(exec);
    graphs_held--;
    return NO_ERROR;
}

CUresult cuGraphDestroy(CUgraph graph)
{
    NEEDS_CONTEXT
    free(graph);
    graphs_held--;
    return NO_ERROR;
}
#endif

CUresult cuGetErrorString(CUresult result, const char **words)
{
    *words = result == NO_MEMORY ? "out of memory" : result == 719 ? "launch failure" : "mock error";
    return NO_ERROR;
}
