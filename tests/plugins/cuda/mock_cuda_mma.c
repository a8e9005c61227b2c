/* mock_cuda_mma.c: the host twins of cuda_mma.ptx. */
#define CUDA_TWIN
#include "plugins/cuda/cuda_mma.c"
