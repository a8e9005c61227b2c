/* cuda_abi.c: the plugin's declarations against the toolkit's header, type by type; compiled only,
 * where a toolkit is installed. */
#include <cuda.h>

#include "plugins/cuda/cuda_driver.h"

#define CHECK(name, args)                                                                          \
    _Static_assert(_Generic(&name, CUresult(*) args: 1, default: 0), #name " has other types");
CUDA_DRIVER_CALLS(CHECK)
CUDA_DRIVER_GRAPH_CALLS(CHECK)

_Static_assert(sizeof(CUresult) == 4 && sizeof(CUdevice) == 4 && sizeof(CUdevice_attribute) == 4 &&
                   sizeof(CUjit_option) == 4 && sizeof(CUdeviceptr) == 8,
               "sizes");
_Static_assert(CUDA_ERROR_OUT_OF_MEMORY == 2 && CU_JIT_ERROR_LOG_BUFFER == 5 &&
                   CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES == 6 &&
                   CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT == 16 &&
                   CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR == 75 &&
                   CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR == 76,
               "numbers");

/* The one struct that is passed: the plugin's declaration is not seen here, so by its numbers. */
_Static_assert(offsetof(CUDA_KERNEL_NODE_PARAMS, func) == 0 &&
                   offsetof(CUDA_KERNEL_NODE_PARAMS, gridDimX) == 8 &&
                   offsetof(CUDA_KERNEL_NODE_PARAMS, blockDimX) == 20 &&
                   offsetof(CUDA_KERNEL_NODE_PARAMS, sharedMemBytes) == 32 &&
                   offsetof(CUDA_KERNEL_NODE_PARAMS, kernelParams) == 40 &&
                   offsetof(CUDA_KERNEL_NODE_PARAMS, ctx) == 64 &&
                   sizeof(CUDA_KERNEL_NODE_PARAMS) == 72,
               "struct of a kernel node");
