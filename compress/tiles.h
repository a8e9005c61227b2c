/* tiles.h: the sums of products that take the time of gptq, in tiles that stay in registers, for AVX-512, AVX2 and
 * what there is elsewhere. Which one runs decides the last bits of the sums, the number of threads does not. */
#ifndef TILES_H
#define TILES_H

#include <stddef.h>
#include <stdint.h>

enum { TILES_PANEL = 16, TILES_ROWS = 8 };

/* Columns of x [rows, cols] in panels of TILES_PANEL, each [rows, TILES_PANEL], the last one filled with zeros:
 * out has room for rows * (cols rounded up). Panels [first, last). */
void tiles_pack(const float *x, uint32_t rows, uint32_t cols, uint32_t first, uint32_t last, float *out);

/* sum [cols, cols] += x^T x for its rows of [from, to), each from column 0 to at least the diagonal: panels of
 * tiles_pack. from is a multiple of TILES_ROWS; a hundred rows keep what they share in cache. */
void tiles_square(const float *panel, uint32_t rows, uint32_t cols, uint32_t from, uint32_t to, float *sum);

/* y [rows, .] columns [from, to) += e [rows, count] m [count, .], each row of all three `stride` floats long. */
void tiles_multiply(float *y, const float *e, const float *m, uint32_t rows, uint32_t count, uint32_t from,
                    uint32_t to, size_t stride);

/* The same for sums of doubles over a common long axis: c[i][j] -= a[i] . b[j], four rows each. */
enum { TILES_DOTS = 4 };
void tiles_dots(const double *const *a, const double *const *b, uint32_t count, double *const *c);

#endif
