/* cuda_mma.c: kernels for compute capability 8.0 on: tiles by tensor cores, and asynchronous copies for
 * the formats that most models are in. */
#define CUDA_MMA
#include "plugins/cuda/cuda_async.h"

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

#define FLOW(name, type, words)                                                                    \
    KERNEL(matvec_async_##name, cuda_product_args)                                                 \
    {                                                                                              \
        SHARED VECTOR4 ring[FLOW_STAGES * words * FLOW_THREADS];                                   \
        flow(type, 1, &a, ring);                                                                   \
    }                                                                                              \
    KERNEL(matvecs_async_##name, cuda_product_args)                                                \
    {                                                                                              \
        SHARED VECTOR4 ring[FLOW_STAGES * words * FLOW_THREADS];                                   \
        flow(type, CUDA_FEW, &a, ring);                                                            \
    }
FLOW(q4_0, FORMAT_Q4_0, 1)
FLOW(q4_k, FORMAT_Q4_K, 1)
FLOW(q8_0, FORMAT_Q8_0, 2)

#define ASYNC_TILE(name, type, stride)                                                             \
    KERNEL(tile_async_##name, cuda_product_args)                                                   \
    {                                                                                              \
        SHARED VECTOR4 w[ASYNC_STAGES * TILE_LINES * stride];                                      \
        SHARED VECTOR4 x[ASYNC_STAGES * TILE_LINES * ASYNC_X];                                     \
        SHARED VECTOR2 sums[ASYNC_STAGES * TILE_LINES];                                            \
        SHARED float d[ASYNC_STAGES * TILE_LINES], scale[ASYNC_STAGES * TILE_LINES];               \
        SHARED float minimum[ASYNC_STAGES * TILE_LINES];                                           \
        const struct async_tile t = {w, x, sums, d, scale, minimum};                               \
        async_tile(type, &a, &t);                                                                  \
    }
ASYNC_TILE(q4_0, FORMAT_Q4_0, 1)
ASYNC_TILE(q4_k, FORMAT_Q4_K, 1)
ASYNC_TILE(q8_0, FORMAT_Q8_0, ASYNC_X)
