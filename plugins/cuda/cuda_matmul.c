/* cuda_matmul.c: which kernel makes a product: matvec for few tokens, tiles for many. */
#include "plugins/cuda/cuda.h"

#include "hal/block.h"

/* Up to this many tokens the weights are streamed once for each CUDA_FEW tokens; beyond, a tile of
 * 64 reads them once for all. */
enum { MATVEC_TOKENS = 2 * CUDA_FEW };

/* The formats that have kernels with asynchronous copies. */
static uint32_t pick(const struct cuda_dev *d, uint32_t type, uint32_t q4_0, uint32_t q4_k,
                     uint32_t q8_0, uint32_t other)
{
    return !d->has_mma         ? other
           : type == HAL_Q4_0  ? q4_0
           : type == HAL_Q4_K  ? q4_k
           : type == HAL_Q8_0  ? q8_0
                               : other;
}

static uint32_t plain_matvec(uint32_t type)
{
    switch (type) {
    case HAL_Q4_0: return CUDA_KERNEL_matvec_q4_0;
    case HAL_Q4_1: return CUDA_KERNEL_matvec_q4_1;
    case HAL_Q5_0: return CUDA_KERNEL_matvec_q5_0;
    case HAL_Q5_1: return CUDA_KERNEL_matvec_q5_1;
    case HAL_Q8_0: return CUDA_KERNEL_matvec_q8_0;
    case HAL_Q2_K: return CUDA_KERNEL_matvec_q2_k;
    case HAL_Q3_K: return CUDA_KERNEL_matvec_q3_k;
    case HAL_Q4_K: return CUDA_KERNEL_matvec_q4_k;
    case HAL_Q5_K: return CUDA_KERNEL_matvec_q5_k;
    case HAL_Q6_K: return CUDA_KERNEL_matvec_q6_k;
    case HAL_IQ4_NL: return CUDA_KERNEL_matvec_iq4_nl;
    case HAL_IQ4_XS: return CUDA_KERNEL_matvec_iq4_xs;
    default: return CUDA_KERNEL_matvec_nf4;
    }
}

static uint32_t matvec_kernel(const struct cuda_dev *d, uint32_t type)
{
    return pick(d, type, CUDA_KERNEL_matvec_async_q4_0, CUDA_KERNEL_matvec_async_q4_k,
                CUDA_KERNEL_matvec_async_q8_0, plain_matvec(type));
}

static uint32_t tile_kernel(const struct cuda_dev *d, uint32_t type)
{
    const int halved = format_is_halved(type);
    if (!d->has_mma)
        return halved ? CUDA_KERNEL_tile_dp4a_halved : CUDA_KERNEL_tile_dp4a;
    return pick(d, type, CUDA_KERNEL_tile_async_q4_0, CUDA_KERNEL_tile_async_q4_k,
                CUDA_KERNEL_tile_async_q8_0,
                halved ? CUDA_KERNEL_tile_mma_halved : CUDA_KERNEL_tile_mma);
}

static uint32_t pieces(uint32_t whole, uint32_t piece)
{
    return whole / piece + (whole % piece != 0);
}

static enum err multiply_dense(struct cuda_dev *d, const struct hal_mat *y, const struct hal_mat *x,
                               const struct hal_mat *w)
{
    struct cuda_dense_args a = {(uintptr_t)x->mem, (uintptr_t)w->mem, (uintptr_t)y->mem,
                                x->rows,           x->cols,           w->rows,
                                w->type};
    if (x->rows <= MATVEC_TOKENS)
        return cuda_launch(d, CUDA_KERNEL_dense_matvec, pieces(w->rows, CUDA_WARPS),
                           pieces(x->rows, CUDA_FEW), 1, 32 * CUDA_WARPS, &a);
    return cuda_launch(d, CUDA_KERNEL_dense_tile, pieces(w->rows, CUDA_TILE),
                       pieces(x->rows, CUDA_TILE), 1, CUDA_THREADS, &a);
}

/* The rounded tokens of `in` times one weight; y points to the first of them. */
static enum err multiply_blocks(struct cuda_dev *d, uint64_t y, const struct cuda_input *in,
                                uint32_t tokens, const struct hal_mat *w)
{
    struct cuda_product_args a = {cuda_weight_of(w), *in, y, tokens, w->type};
    if (tokens == 1)
        return cuda_launch(d, matvec_kernel(d, w->type), pieces(w->rows, CUDA_WARPS), 1, 1,
                           32 * CUDA_WARPS, &a);
    if (tokens <= MATVEC_TOKENS) /* matvecs_ follows matvec_ in the list */
        return cuda_launch(d, matvec_kernel(d, w->type) + 1, pieces(w->rows, CUDA_WARPS),
                           pieces(tokens, CUDA_FEW), 1, 32 * CUDA_WARPS, &a);
    return cuda_launch(d, tile_kernel(d, w->type), pieces(w->rows, CUDA_TILE),
                       pieces(tokens, CUDA_TILE), 1, CUDA_TILE_THREADS, &a);
}

/* Round some tokens once, for all weights with codes. */
static enum err multiply_rounded(struct cuda_dev *d, const struct hal_mat *const *y,
                                 const struct hal_mat *x, const struct hal_mat *const *w,
                                 uint32_t count)
{
    const uint32_t groups = x->cols / 32;
    const size_t most = d->scratch_values / x->cols;
    enum err e = most == 0 ? ERR_ARGUMENT : ERR_NONE; /* else x was not made by this dev */
    for (size_t first = 0; first < x->rows && e == ERR_NONE; first += most) {
        const uint32_t tokens = (uint32_t)(x->rows - first < most ? x->rows - first : most);
        const uint64_t values = (uint64_t)tokens * x->cols;
        const struct cuda_input in = {d->scratch, d->scratch + values + values / 4,
                                      d->scratch + values};
        struct cuda_round_args round = {(uintptr_t)x->mem + first * x->cols * sizeof(float), in,
                                        groups * tokens};
        e = cuda_launch(d, CUDA_KERNEL_round_rows, pieces(round.groups, CUDA_THREADS / 32), 1, 1,
                        CUDA_THREADS, &round);
        int is_second = 0;
        for (uint32_t i = 0; i < count && e == ERR_NONE; i++)
            if (format_planes(w[i]->type) != 0) {
                e = multiply_blocks(
                    d, (uintptr_t)y[i]->mem + first * y[i]->cols * sizeof(float), &in, tokens,
                    w[i]);
                if (is_second)
                    cuda_beside(d);
                is_second = 1;
            }
    }
    return e;
}

enum err cuda_matmul(void *dev, const struct hal_mat *const *y, const struct hal_mat *x,
                     const struct hal_mat *const *w, uint32_t count)
{
    struct cuda_dev *d = dev;
    int rounded = 0;
    enum err e = scalar_check_matmul(y, x, w, count);
    for (uint32_t i = 0; i < count && e == ERR_NONE; i++)
        if (format_planes(w[i]->type) != 0)
            rounded = 1;
        else
            e = multiply_dense(d, y[i], x, w[i]);
    if (e == ERR_NONE && rounded)
        e = multiply_rounded(d, y, x, w, count);
    return e;
}
