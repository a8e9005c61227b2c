/* neon_tile.h: what the kernels of the neon plugin work on.
 *
 * Weights stay in the GGUF layout, one copy. A kernel takes up to 256 values of four rows apart
 * into tiles of signed bytes with a scale and a minimum per 16 values, then meets them with every
 * token, so that unpacking is paid once per tile and not once per token.
 */
#ifndef NEON_TILE_H
#define NEON_TILE_H

#include "plugins/scalar/scalar.h"

enum { NEON_TILE_VALUES = 256, NEON_TILE_GROUPS = 16, NEON_TILE_ROWS = 4 };

/* value of element i = scale[i / 16] * level[i] - minimum[i / 16] */
struct neon_tile {
    int8_t level[NEON_TILE_VALUES];
    float scale[NEON_TILE_GROUPS];
    float
        minimum[NEON_TILE_GROUPS]; /* meaningful where neon_unpack says that the type has minima */
};

/* What unpacking needs to know of a type. */
struct neon_format {
    uint32_t values; /* per block */
    uint32_t bytes;  /* per block */
    int has_minimum; /* values are scale * level - minimum */
    int is_fine;     /* the scale changes within 32 values */
    void (*unpack)(const uint8_t *blocks, uint32_t values, struct neon_tile *tile);
};

/* The format of a block type, or NULL when the plugin leaves the type to scalar. */
const struct neon_format *neon_format(uint32_t type);

/* Rounded activations: row t of n at q + t * cols, d + t * cols / 32, sum + t * cols / 16. */
struct neon_input {
    const int8_t *q;
    const float *d;
    const int32_t *sum; /* of each 16 codes */
    uint32_t tokens;
    uint32_t cols;
};

/* acc[row * tokens + t] += tile[row] . x[t] over `values` values from column `col` on, values a
 * multiple of 32, for NEON_TILE_ROWS rows and all tokens. One function per level of the
 * architecture; the integer sums are the same in each. */
typedef void neon_dot_fn(const struct neon_tile *tile, const struct neon_format *format,
                         uint32_t values, const struct neon_input *x, uint32_t col, float *acc);
neon_dot_fn neon_dot_base;    /* armv8-a: widening multiplies */
neon_dot_fn neon_dot_dotprod; /* armv8.2-a+dotprod: sdot */
neon_dot_fn neon_dot_i8mm;    /* armv8.2-a+i8mm: smmla, two rows by two tokens */

/* A level of the architecture. */
struct neon_path {
    const char *name;
    neon_dot_fn *dot;
    uint32_t score;
};

/* The best path of this CPU, or the named one; NULL when there is none. And how many there are. */
const struct neon_path *neon_pick(const char *name);
uint32_t neon_paths_here(void);

/* The dev of this plugin, and the beginning of the dev of a plugin that borrows these operations.
 */
struct neon_dev {
    struct scalar_dev scalar; /* first, see scalar.h */
    neon_dot_fn *dot;
};

enum err neon_matmul(void *dev, const struct hal_mat *const *y, const struct hal_mat *x,
                     const struct hal_mat *const *w, uint32_t count);
enum err neon_rmsnorm(void *dev, const struct hal_mat *y, const struct hal_mat *x,
                      const struct hal_mat *w, float eps);
enum err neon_attend(void *dev, const struct hal_mat *y, const struct hal_mat *q,
                     const struct hal_mat *k, const struct hal_mat *v,
                     const struct hal_attend *geometry);
enum err neon_glu(void *dev, const struct hal_mat *y, const struct hal_mat *gate,
                  const struct hal_mat *up, uint32_t function);

#endif
