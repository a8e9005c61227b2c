/* cuda_driver.h: the CUDA driver API, opened at run time: own declarations, no toolkit.
 *
 * Names with _v2 are what the toolkit's header hides behind macros; the plain ones are older entry
 * points. Source: the CUDA driver API reference; tests compare every prototype where a toolkit is
 * installed. */
#ifndef CUDA_DRIVER_H
#define CUDA_DRIVER_H

#include <stddef.h>

#ifndef CUDA_VERSION /* the toolkit's header, in the test that compares */
typedef int CUresult, CUdevice, CUdevice_attribute, CUjit_option;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphNode_st *CUgraphNode;
typedef struct CUgraphExec_st *CUgraphExec;

typedef struct {
    CUfunction func;
    unsigned gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes;
    void **kernelParams, **extra;
    void *kern; /* these two in place of func */
    CUcontext ctx;
} CUDA_KERNEL_NODE_PARAMS;
_Static_assert(sizeof(CUDA_KERNEL_NODE_PARAMS) == 72 &&
                   offsetof(CUDA_KERNEL_NODE_PARAMS, kernelParams) == 40,
               "as the toolkit's, see cuda_abi.c");

enum {
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
    CU_JIT_ERROR_LOG_BUFFER = 5,
    CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES = 6
};
#endif

#define CUDA_DRIVER_CALLS(X)                                                                       \
    X(cuInit, (unsigned))                                                                          \
    X(cuDeviceGetCount, (int *))                                                                   \
    X(cuDeviceGet, (CUdevice *, int))                                                              \
    X(cuDeviceGetName, (char *, int, CUdevice))                                                    \
    X(cuDeviceGetAttribute, (int *, CUdevice_attribute, CUdevice))                                 \
    X(cuDeviceTotalMem_v2, (size_t *, CUdevice))                                                   \
    X(cuDevicePrimaryCtxRetain, (CUcontext *, CUdevice))                                           \
    X(cuDevicePrimaryCtxRelease_v2, (CUdevice))                                                    \
    X(cuCtxSetCurrent, (CUcontext))                                                                \
    X(cuCtxSynchronize, (void))                                                                    \
    X(cuModuleLoadDataEx, (CUmodule *, const void *, unsigned, CUjit_option *, void **))           \
    X(cuModuleGetFunction, (CUfunction *, CUmodule, const char *))                                 \
    X(cuModuleUnload, (CUmodule))                                                                  \
    X(cuMemGetInfo_v2, (size_t *, size_t *))                                                       \
    X(cuMemAlloc_v2, (CUdeviceptr *, size_t))                                                      \
    X(cuMemFree_v2, (CUdeviceptr))                                                                 \
    X(cuMemcpyHtoD_v2, (CUdeviceptr, const void *, size_t))                                        \
    X(cuMemcpyDtoH_v2, (void *, CUdeviceptr, size_t))                                              \
    X(cuLaunchKernel, (CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,     \
                       unsigned, CUstream, void **, void **))                                      \
    X(cuGetErrorString, (CUresult, const char **))

/* What a driver older than 12.0 lacks: then every kernel is launched by itself. */
#define CUDA_DRIVER_GRAPH_CALLS(X)                                                                 \
    X(cuGraphCreate, (CUgraph *, unsigned))                                                        \
    X(cuGraphAddKernelNode_v2, (CUgraphNode *, CUgraph, const CUgraphNode *, size_t,               \
                                const CUDA_KERNEL_NODE_PARAMS *))                                  \
    X(cuGraphInstantiateWithFlags, (CUgraphExec *, CUgraph, unsigned long long))                   \
    X(cuGraphExecKernelNodeSetParams_v2,                                                           \
      (CUgraphExec, CUgraphNode, const CUDA_KERNEL_NODE_PARAMS *))                                 \
    X(cuGraphLaunch, (CUgraphExec, CUstream))                                                      \
    X(cuGraphExecDestroy, (CUgraphExec))                                                           \
    X(cuGraphDestroy, (CUgraph))

#define CUDA_DRIVER_FIELD(name, args) CUresult(*name) args;
struct cuda_driver {
    CUDA_DRIVER_CALLS(CUDA_DRIVER_FIELD)
    CUDA_DRIVER_GRAPH_CALLS(CUDA_DRIVER_FIELD)
    int has_graphs; /* all of them were found */
};

/* The driver of this process, opened at the first call and kept; any thread. NULL when there is
 * none, with the reason in words in why[bytes]. */
const struct cuda_driver *cuda_driver_open(char *why, size_t bytes);

#endif
