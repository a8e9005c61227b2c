/* triangle.h: R R^T x = b for many b at once, R upper triangular as hessian_factor leaves it, in double and in tiles
 * that stay in cache. One order of sums for a side, whatever stands beside it and on however many threads.
 */
#ifndef TRIANGLE_H
#define TRIANGLE_H

#include <stdint.h>

enum { TRIANGLE_SIDES = 64 }; /* at once: enough for R to be read seldom */

/* r [n, n]: its upper triangle R; below the diagonal comes R^T. */
void triangle_mirror(double *r, uint32_t n);

/* r mirrored; b [sides, n], at most TRIANGLE_SIDES, becomes x. */
void triangle_solve(const double *r, uint32_t n, double *b, uint32_t sides);

#endif
