/* mock_cuda_dp4a.c: the host twins of cuda_dp4a.ptx. */
#define CUDA_TWIN
#include "plugins/cuda/cuda_dp4a.c"
