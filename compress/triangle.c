#include "compress/triangle.h"

#include "compress/tiles.h"
#include "compress/wide.h"

enum { PANEL = 32, CHUNK = 1024 }; /* CHUNK: of the long axis, so that a panel of R stays in cache */

void triangle_mirror(double *r, uint32_t n)
{
    for (uint32_t from = 0; from < n; from += PANEL)
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t j = from; j < from + PANEL && j < i; j++)
                r[(size_t)i * n + j] = r[(size_t)j * n + i];
}

/* Columns [from, to) of the sides lose what the columns [c, until) of r's rows of the same number take away. */
static void take_away(const double *r, uint32_t n, double *b, uint32_t sides, uint32_t from, uint32_t to, uint32_t c,
                      uint32_t until)
{
    for (; c < until; c += CHUNK) {
        const uint32_t count = until - c < CHUNK ? until - c : CHUNK;
        for (uint32_t i = from; i < to; i += TILES_DOTS)
            for (uint32_t s = 0; s < sides; s += TILES_DOTS) {
                const double *rows[TILES_DOTS], *side[TILES_DOTS];
                double sum[TILES_DOTS][TILES_DOTS] = {{0}}, *out[TILES_DOTS];
                for (uint32_t k = 0; k < TILES_DOTS; k++) { /* past the end the last one again */
                    rows[k] = r + (size_t)(i + k < to ? i + k : to - 1) * n + c;
                    side[k] = b + (size_t)(s + k < sides ? s + k : sides - 1) * n + c;
                    out[k] = sum[k];
                }
                tiles_dots(side, rows, count, out);
                for (uint32_t k = 0; k < TILES_DOTS && s + k < sides; k++)
                    for (uint32_t l = 0; l < TILES_DOTS && i + l < to; l++)
                        b[(size_t)(s + k) * n + i + l] += sum[k][l];
            }
    }
}

/* The triangle of rows [from, to) itself: upwards by what is right of the diagonal, else downwards by what is left. */
WIDE static void solve_panel(const double *r, uint32_t n, double *b, uint32_t sides, uint32_t from, uint32_t to,
                             int is_up)
{
    double x[PANEL][TRIANGLE_SIDES] = {{0}};
    const uint32_t rows = to - from;
    for (uint32_t s = 0; s < sides; s++)
        for (uint32_t i = 0; i < rows; i++)
            x[i][s] = b[(size_t)s * n + from + i];
    for (uint32_t at = 0; at < rows; at++) {
        const uint32_t i = is_up ? rows - 1 - at : at;
        const double *row = r + (size_t)(from + i) * n + from;
        for (uint32_t j = is_up ? i + 1 : 0; j < (is_up ? rows : i); j++)
            for (uint32_t s = 0; s < TRIANGLE_SIDES; s++)
                x[i][s] -= row[j] * x[j][s];
        for (uint32_t s = 0; s < TRIANGLE_SIDES; s++)
            x[i][s] /= row[i];
    }
    for (uint32_t s = 0; s < sides; s++)
        for (uint32_t i = 0; i < rows; i++)
            b[(size_t)s * n + from + i] = x[i][s];
}

void triangle_solve(const double *r, uint32_t n, double *b, uint32_t sides)
{
    for (uint32_t to = n; to > 0; to = to > PANEL ? to - PANEL : 0) {
        const uint32_t from = to > PANEL ? to - PANEL : 0;
        take_away(r, n, b, sides, from, to, to, n);
        solve_panel(r, n, b, sides, from, to, 1);
    }
    for (uint32_t from = 0; from < n; from += PANEL) {
        const uint32_t to = from + PANEL < n ? from + PANEL : n;
        take_away(r, n, b, sides, from, to, 0, from);
        solve_panel(r, n, b, sides, from, to, 0);
    }
}
