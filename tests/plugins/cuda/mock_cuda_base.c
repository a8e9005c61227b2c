/* mock_cuda_base.c: the host twins of cuda_base.ptx. */
#define CUDA_TWIN
#include "plugins/cuda/cuda_base.c"
