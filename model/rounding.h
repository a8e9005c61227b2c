/* rounding.h: the input of every linear rounded to few bits before it is multiplied. For model/ only.
 *
 * Dynamic: each 32 values of a row, m = 2^(bits-1) - 1, a = max|x|, q = nearest_even(x * (m / a)) in F32,
 * value q * (a / m): at 8 bits the rounding that hal.h's matmul does for block weights. Static: one limit
 * T for all rows of an input, s = T / m, q = clamp(nearest_even(x / s), -m, m).
 */
#ifndef ROUNDING_H
#define ROUNDING_H

#include "hal/hal.h"
#include "model/model.h"

struct weights_linear;

struct rounding {
    struct engine *e; /* NULL: nothing is rounded */
    struct model_rounding how;
    uint32_t rows;         /* at most */
    float *host;           /* [rows, cols_max] */
    struct hal_mat *width; /* one per number of columns, made when first met */
    struct hal_mat view;   /* the rows of one in use */
    uint32_t widths;
};

/* Do weights stay as blocks under this rounding? No: the plugin would round its input again. */
bool rounding_keeps_blocks(const struct model_rounding *how);

/* Errors: ERR_ARGUMENT (bits), ERR_MEMORY. */
NODISCARD enum err rounding_open(struct rounding *r, struct engine *e, const struct model_rounding *how,
                                 uint32_t rows, uint32_t cols_max);
void rounding_close(struct rounding *r);

/* *x becomes what the weights (count of them, one input) shall be multiplied with. */
NODISCARD enum err rounding_apply(struct rounding *r, const struct weights_linear *const *w, uint32_t count,
                                  const struct hal_mat **x);

#endif
