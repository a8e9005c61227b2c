/* cuda_mma.c: kernels for compute capability 8.0 on: tiles by tensor cores. */
#define CUDA_MMA
#include "plugins/cuda/cuda_tile.h"

KERNEL(tile_mma, cuda_product_args)
{
    SHARED struct tile_stage buffers[2];
    tile(1, 0, &a, buffers);
}

KERNEL(tile_mma_halved, cuda_product_args)
{
    SHARED struct tile_stage buffers[2];
    tile(1, 1, &a, buffers);
}
