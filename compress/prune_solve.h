/* prune_solve.h: which columns of a linear are missed least, and what the others must do in their place.
 *
 * y = W x with inputs of second moments H. Without compensation the removal of columns P costs
 * tr(W_P H_PP W_P^T). With it the others take over, W'_K = W_K + W_P H_PK (H_KK + d I)^-1, and the cost is what
 * the Schur complement leaves; eliminated one after another (the algebra of optimal brain surgery,
 * arXiv:2208.11580) each step knows of those before it.
 */
#ifndef PRUNE_SOLVE_H
#define PRUNE_SOLVE_H

#include "compress/hessian.h"

struct prune_units {
    uint32_t cols;      /* of W */
    uint32_t width;     /* columns of one unit: 1, or a head */
    uint32_t class;     /* units in a row of which the same number goes: heads of a KV group, or all */
    uint32_t gone;      /* of each class that has units left */
};

/* W^T W of w [rows, cols] to gram [cols, cols]. Errors: ERR_MEMORY. */
NODISCARD enum err prune_solve_gram(const float *w, uint32_t rows, uint32_t cols, uint32_t threads, float *gram);

/* Lower kept[units] from 1 to 0 until u->gone of every class are, the cheapest first, the first of equals;
 * units that are 0 on entry are gone already and do not count, a class that is all gone is left alone.
 * h [cols, cols]: mean second moments; compensated: 24 bytes * cols^2 of memory, and time of
 * cols^2 per column that goes. Errors: ERR_MEMORY, ERR_ARGUMENT (h is not positive definite). */
NODISCARD enum err prune_solve_greedy(const float *gram, const float *h, const struct prune_units *u,
                                      bool is_compensated, uint32_t threads, uint8_t *kept);

/* The same by scores alone: score [units], the lowest goes first. */
void prune_solve_lowest(const double *score, const struct prune_units *u, uint8_t *kept);

struct prune_recovery {
    double damp;   /* 0: not recovered, w only lost its columns */
    double before; /* tr(E H E^T) / tr(W H W^T), held-out rows, of cutting alone; E with what the stream lacks */
    double after;  /* with the recovery; equal to before when it is no gain */
};

/* w [rows, cols]: columns that are not kept[cols] become 0, the others take over, with the dampening of
 * {.0003, .003, .03, .3} that is best on held-out moments. h is finished; split (rows as the tail): three quarters of
 * d, what the stream lacks behind W x, are added to what W x was, if there are held-out rows to judge that by, and then
 * columns need not go. Memory: 12 bytes * kept^2.
 * Errors: ERR_MEMORY. */
NODISCARD enum err prune_solve_recover(const struct hessian *h, const uint8_t *kept, float *w, uint32_t rows,
                                       uint32_t threads, struct prune_recovery *out);

#endif
