#include "compress/tiles.h"

#include <string.h>

enum { BLOCK_COUNT = 64, BLOCK_COLS = 192, ROWS = TILES_ROWS, VECTOR = TILES_PANEL, PANELS = 3 };

typedef float floats __attribute__((vector_size(64), aligned(4)));
typedef double doubles __attribute__((vector_size(64), aligned(8)));
typedef double halves __attribute__((vector_size(32), aligned(8)));

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) &&               \
    !defined(__SANITIZE_THREAD__)
#define HAS_WIDE 1
#define WIDE __attribute__((target("avx512f,fma"), optimize("O3,fp-contract=fast")))
#define NARROW __attribute__((target_clones("arch=haswell", "default"), optimize("O3,fp-contract=fast")))
#else
#define HAS_WIDE 0
#define WIDE
#define NARROW
#endif

/* c[r][v] += sum over t of a[r * a_row + t * a_step] * b[v * b_part + t * b_step ..], R x VECTORS registers: summed
 * from 0 and then added, so that a long sum is not rounded at every step. */
#define TILE(NAME, HOW, R, VECTORS)                                                                                    \
    HOW static void NAME(const float *a, size_t a_row, size_t a_step, const float *b, size_t b_part, size_t b_step,    \
                         uint32_t count, float *c, size_t c_row)                                                       \
    {                                                                                                                  \
        floats sum[R][VECTORS];                                                                                        \
        for (int r = 0; r < R; r++)                                                                                    \
            for (int v = 0; v < VECTORS; v++)                                                                          \
                sum[r][v] = (floats){0};                                                                               \
        for (uint32_t t = 0; t < count; t++) {                                                                         \
            floats part[VECTORS];                                                                                      \
            for (int v = 0; v < VECTORS; v++)                                                                          \
                part[v] = *(const floats *)(const void *)(b + (size_t)v * b_part + t * b_step);                        \
            for (int r = 0; r < R; r++)                                                                                \
                for (int v = 0; v < VECTORS; v++)                                                                      \
                    sum[r][v] += a[(size_t)r * a_row + t * a_step] * part[v];                                          \
        }                                                                                                              \
        for (int r = 0; r < R; r++)                                                                                    \
            for (int v = 0; v < VECTORS; v++)                                                                          \
                *(floats *)(void *)(c + (size_t)r * c_row + (size_t)v * VECTOR) += sum[r][v];                          \
    }

TILE(tile_8x1, NARROW, 8, 1)
TILE(tile_1x1, NARROW, 1, 1)
#if HAS_WIDE
TILE(tile_8x3, WIDE, 8, 3)
TILE(tile_8x1_wide, WIDE, 8, 1)
TILE(tile_1x1_wide, WIDE, 1, 1)
#endif

#if HAS_WIDE
static int is_wide(void)
{
    return __builtin_cpu_supports("avx512f");
}
#endif

/* As many vectors at once as are left and fit: how many were done. */
static uint32_t step(const float *a, size_t a_row, size_t a_step, uint32_t rows, const float *b, size_t b_part,
                     size_t b_step, uint32_t vectors, uint32_t count, float *c, size_t c_row)
{
#if HAS_WIDE
    if (is_wide() && rows == ROWS && vectors >= 3) {
        tile_8x3(a, a_row, a_step, b, b_part, b_step, count, c, c_row);
        return 3;
    }
    if (is_wide() && rows == ROWS) {
        tile_8x1_wide(a, a_row, a_step, b, b_part, b_step, count, c, c_row);
        return 1;
    }
    for (uint32_t r = 0; is_wide() && r < rows; r++)
        tile_1x1_wide(a + r * a_row, a_row, a_step, b, b_part, b_step, count, c + r * c_row, c_row);
    if (is_wide())
        return 1;
#endif
    (void)vectors;
    if (rows == ROWS) {
        tile_8x1(a, a_row, a_step, b, b_part, b_step, count, c, c_row);
        return 1;
    }
    for (uint32_t r = 0; r < rows; r++)
        tile_1x1(a + r * a_row, a_row, a_step, b, b_part, b_step, count, c + r * c_row, c_row);
    return 1;
}

void tiles_pack(const float *x, uint32_t rows, uint32_t cols, uint32_t first, uint32_t last, float *out)
{
    for (uint32_t p = first; p < last; p++) {
        const uint32_t width = cols - p * VECTOR < VECTOR ? cols - p * VECTOR : VECTOR;
        float *to = out + (size_t)p * rows * VECTOR;
        if (width < VECTOR)
            memset(to, 0, (size_t)rows * VECTOR * sizeof *to);
        for (uint32_t t = 0; t < rows; t++)
            memcpy(to + (size_t)t * VECTOR, x + (size_t)t * cols + p * VECTOR, width * sizeof *to);
    }
}

/* Rows or columns at the edge go through a tile of their own. */
static void square_edge(const float *a, const float *b, uint32_t rows, uint32_t height, uint32_t width, float *sum,
                        uint32_t cols)
{
    float edge[ROWS * VECTOR] = {0};
    (void)step(a, 1, VECTOR, ROWS, b, 0, VECTOR, 1, rows, edge, VECTOR);
    for (uint32_t r = 0; r < height; r++)
        for (uint32_t j = 0; j < width; j++)
            sum[(size_t)r * cols + j] += edge[r * VECTOR + j];
}

/* Rows [i, i + ROWS) and the panels [p, last). */
static void square_rows(const float *panel, uint32_t rows, uint32_t cols, uint32_t i, uint32_t p, uint32_t last, float *sum)
{
    const size_t whole = (size_t)rows * VECTOR;
    const float *a = panel + i / VECTOR * whole + i % VECTOR;
    const uint32_t height = cols - i < ROWS ? cols - i : ROWS;
    while (p < last) {
        float *c = sum + (size_t)i * cols + p * VECTOR;
        if (height == ROWS && (p + 1) * VECTOR <= cols) {
            const uint32_t fits = cols / VECTOR - p;
            p += step(a, 1, VECTOR, ROWS, panel + p * whole, whole, VECTOR, last - p < fits ? last - p : fits, rows, c, cols);
            continue;
        }
        square_edge(a, panel + p * whole, rows, height, cols - p * VECTOR < VECTOR ? cols - p * VECTOR : VECTOR, c, cols);
        p++;
    }
}

void tiles_square(const float *panel, uint32_t rows, uint32_t cols, uint32_t from, uint32_t to, float *sum)
{
    for (uint32_t p = 0; p * VECTOR < to; p += PANELS)
        for (uint32_t i = from; i < to && i < cols; i += ROWS) {
            const uint32_t end = i / VECTOR + 1; /* behind the panel of the diagonal */
            if (p < end)
                square_rows(panel, rows, cols, i, p, end < p + PANELS ? end : p + PANELS, sum);
        }
}

static void multiply_block(float *y, const float *e, const float *m, uint32_t rows, uint32_t count, uint32_t from,
                           uint32_t to, size_t stride)
{
    uint32_t k = from;
    while (k + VECTOR <= to) {
        uint32_t done = 1;
        for (uint32_t r = 0; r < rows; r += ROWS)
            done = step(e + r * stride, stride, 1, rows - r < ROWS ? rows - r : ROWS, m + k, VECTOR, stride,
                        rows % ROWS ? 1 : (to - k) / VECTOR, count, y + r * stride + k, stride);
        k += done * VECTOR;
    }
    for (uint32_t r = 0; r < rows && k < to; r++)
        for (uint32_t t = 0; t < count; t++)
            for (uint32_t j = k; j < to; j++)
                y[r * stride + j] += e[r * stride + t] * m[t * stride + j];
}

void tiles_multiply(float *y, const float *e, const float *m, uint32_t rows, uint32_t count, uint32_t from,
                    uint32_t to, size_t stride)
{
    for (uint32_t k = from; k < to; k += BLOCK_COLS)
        for (uint32_t t = 0; t < count; t += BLOCK_COUNT)
            multiply_block(y, e + t, m + t * stride, rows, count - t < BLOCK_COUNT ? count - t : BLOCK_COUNT, k,
                           to - k < BLOCK_COLS ? to : k + BLOCK_COLS, stride);
}

#define DOTS(NAME, HOW, VALUES, LANES, COLUMNS)                                                                        \
    HOW static void NAME(const double *const *a, const double *const *b, uint32_t count, double *const *c)             \
    {                                                                                                                  \
        for (int from = 0; from < TILES_DOTS; from += COLUMNS) {                                                       \
            VALUES sum[TILES_DOTS][COLUMNS];                                                                           \
            uint32_t t = 0;                                                                                            \
            memset(sum, 0, sizeof sum);                                                                                \
            for (; t + LANES <= count; t += LANES) {                                                                   \
                VALUES part[COLUMNS];                                                                                  \
                for (int j = 0; j < COLUMNS; j++)                                                                      \
                    part[j] = *(const VALUES *)(const void *)(b[from + j] + t);                                        \
                for (int i = 0; i < TILES_DOTS; i++) {                                                                 \
                    const VALUES one = *(const VALUES *)(const void *)(a[i] + t);                                      \
                    for (int j = 0; j < COLUMNS; j++)                                                                  \
                        sum[i][j] += one * part[j];                                                                    \
                }                                                                                                      \
            }                                                                                                          \
            for (int i = 0; i < TILES_DOTS; i++)                                                                       \
                for (int j = 0; j < COLUMNS; j++) {                                                                    \
                    double all = 0;                                                                                    \
                    for (int l = 0; l < LANES; l++)                                                                    \
                        all += sum[i][j][l];                                                                           \
                    for (uint32_t rest = t; rest < count; rest++)                                                      \
                        all += a[i][rest] * b[from + j][rest];                                                         \
                    c[i][from + j] -= all;                                                                             \
                }                                                                                                      \
        }                                                                                                              \
    }

DOTS(dots_narrow, NARROW, halves, 4, 2)
#if HAS_WIDE
DOTS(dots_wide, WIDE, doubles, 8, 4)
#endif

void tiles_dots(const double *const *a, const double *const *b, uint32_t count, double *const *c)
{
#if HAS_WIDE
    if (is_wide()) {
        dots_wide(a, b, count, c);
        return;
    }
#endif
    dots_narrow(a, b, count, c);
}
