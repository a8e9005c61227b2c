/* cuda_product.h: for the kernels: what products of few tokens share. */
#ifndef CUDA_PRODUCT_H
#define CUDA_PRODUCT_H

#include "plugins/cuda/cuda_codes.h"

/* One group of one row with one token. */
FN float group_product(uint type, const uint *code, const struct group_scales *s,
                       const struct cuda_input *x, ulong at)
{
    const int zero = (int)format_zero(type);
    uint q[8];
    load_four(x->q, 2 * at, q);
    load_four(x->q, 2 * at + 1, q + 4);
    const float d = AT(const float, x->d)[at];
    const VECTOR2 sums = AT(const VECTOR2, x->sums)[at];
    const int sum0 = (int)sums.x, sum1 = (int)sums.y;
    int low = 0, high = 0;
    for (uint i = 0; i < 4; i++) {
        low = dot4(code[i], q[i], low);
        high = dot4(code[i + 4], q[i + 4], high);
    }
    if (!format_is_halved(type))
        return d * (s->scale[0] * (float)(low + high - zero * (sum0 + sum1)) -
                    s->minimum[0] * (float)(sum0 + sum1));
    return d * ((s->scale[0] * (float)(low - zero * sum0) - s->minimum[0] * (float)sum0) +
                (s->scale[1] * (float)(high - zero * sum1) - s->minimum[1] * (float)sum1));
}

/* What the lanes of a warp have summed of one row, for the tokens from `first` on. */
FN void product_write(uint most, const struct cuda_product_args *a, uint row, uint first,
                      const float *y)
{
    const uint lane = thread_x() % 32;
    UNROLL for (uint i = 0; i < most; i++) {
        const float sum = warp_sum(y[i]);
        if (lane == 0 && first + i < a->tokens)
            AT(float, a->y)[(ulong)(first + i) * a->w.rows + row] = sum;
    }
}

#endif
