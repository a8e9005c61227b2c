/* cuda_base.c: kernels for every GPU from compute capability 6.1 on. */
#include "plugins/cuda/cuda_matmul_kernel.h"

#include "plugins/cuda/cuda_attend_kernel.h"
#include "plugins/cuda/cuda_rows_kernel.h"
#include "plugins/cuda/cuda_top_kernel.h"
