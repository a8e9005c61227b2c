/* cuda_dp4a.c: kernels for GPUs without the tensor cores that cuda_mma.c needs: tiles by dp4a. */
#include "plugins/cuda/cuda_tile.h"

KERNEL(tile_dp4a, cuda_product_args)
{
    SHARED struct tile_stage buffers[2];
    tile(0, 0, &a, buffers);
}

KERNEL(tile_dp4a_halved, cuda_product_args)
{
    SHARED struct tile_stage buffers[2];
    tile(0, 1, &a, buffers);
}
