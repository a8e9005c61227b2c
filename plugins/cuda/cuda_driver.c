/* cuda_driver.c: libcuda.so.1 by dlopen. It is never closed: its threads outlive any caller. */
#include "plugins/cuda/cuda_driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

static struct {
    pthread_once_t once;
    int is_open;
    char why[96];
    struct cuda_driver calls;
} state = {.once = PTHREAD_ONCE_INIT};

static int find(void *library, const char *name, void *call, size_t bytes)
{
    void *const symbol = dlsym(library, name);
    if (symbol == NULL) {
        snprintf(state.why, sizeof state.why, "libcuda.so.1 lacks %s", name);
        return 0;
    }
    memcpy(call, &symbol, bytes);
    return 1;
}

static void open_once(void)
{
    void *const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        const char *const error = dlerror();
        snprintf(state.why, sizeof state.why, "%.95s", error != NULL ? error : "no libcuda.so.1");
        return;
    }
#define FIND(name, args)                                                                           \
    if (!find(library, #name, &state.calls.name, sizeof state.calls.name))                         \
        return;
    CUDA_DRIVER_CALLS(FIND)
    state.calls.has_graphs = 1;
#define FIND_GRAPH(name, args)                                                                     \
    if (state.calls.has_graphs)                                                                    \
        state.calls.has_graphs = find(library, #name, &state.calls.name, sizeof state.calls.name);
    CUDA_DRIVER_GRAPH_CALLS(FIND_GRAPH)
    state.why[0] = '\0';
    const CUresult result = state.calls.cuInit(0);
    if (result != 0) {
        snprintf(state.why, sizeof state.why, "cuInit gives error %d", result);
        return;
    }
    state.is_open = 1;
}

const struct cuda_driver *cuda_driver_open(char *why, size_t bytes)
{
    pthread_once(&state.once, open_once);
    if (!state.is_open) {
        snprintf(why, bytes, "%s", state.why);
        return NULL;
    }
    return &state.calls;
}
