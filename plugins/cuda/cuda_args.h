/* cuda_args.h: the kernels' names and arguments, for the host and for the kernels. Addresses are
 * device addresses; every kernel takes one struct by value. */
#ifndef CUDA_ARGS_H
#define CUDA_ARGS_H

#include "plugins/cuda/cuda_format.h"

enum {
    CUDA_WARPS = 4,        /* of a block, in kernels that give a row to a warp */
    CUDA_THREADS = 256,    /* of a block, in kernels that give a value or a row to a thread or block */
    CUDA_TILE = 64,        /* tokens and rows of one tile */
    CUDA_TILE_THREADS = 128,
    CUDA_FEW = 4,          /* tokens that one matvec takes */
    CUDA_VALUES = 256,     /* values of a head that one block of attend sums */
    CUDA_BATCH = 4,        /* slots that one warp of attend takes at a time */
    CUDA_TOP_EACH = 16,    /* candidates of a thread of top */
    CUDA_TOP_CHUNK = CUDA_TOP_EACH * CUDA_THREADS
};

#define CUDA_NONE 0xffffffffu

struct cuda_weight {
    uint64_t nibble, pair, single; /* BYTE shares nibble; dense rows too */
    uint64_t scale, super;
    uint32_t rows, groups;
};

/* Rounded activations: q [tokens][groups][32], d F32 [tokens][groups], sums int32
 * [tokens][groups][2] of the q of each 16. */
struct cuda_input {
    uint64_t q, d, sums;
};

struct cuda_round_args {
    uint64_t x;
    struct cuda_input out;
    uint32_t groups; /* of all tokens */
};

struct cuda_product_args {
    struct cuda_weight w;
    struct cuda_input x;
    uint64_t y;
    uint32_t tokens, type;
};

struct cuda_dense_args {
    uint64_t x, w, y;
    uint32_t tokens, cols, rows, type;
};

struct cuda_embed_args {
    struct cuda_weight w;
    uint64_t y, row;
    uint32_t count, cols, type;
};

struct cuda_norm_args {
    uint64_t y, x, w, b; /* b 0: none */
    uint32_t cols;
    float eps;
};

struct cuda_rope_args {
    uint64_t x, angles;
    uint32_t rows, cols, head_dim, offset, dims, kind;
};

struct cuda_store_args {
    uint64_t cache, x, slot;
    uint32_t rows, cols, type;
};

struct cuda_attend_args {
    uint64_t y, q, k, v, spans, first;
    uint64_t parts; /* F32 [rows][heads][splits][value_dim + 2]: top, total, sums; splits 1: unused */
    uint32_t heads, kv_heads, key_dim, value_dim, value_stride;
    uint32_t key_type, value_type, key_bytes, value_bytes; /* bytes of a slot */
    uint32_t splits;
    float scale, softcap;
};

struct cuda_glu_args {
    uint64_t y, gate, up, values; /* up 0: none */
    uint32_t function;
};

struct cuda_add_args {
    uint64_t y, x, values;
    uint32_t period; /* x repeats after so many values; 0: never */
};

struct cuda_scale_args {
    uint64_t y, values;
    float factor;
};

struct cuda_scatter_args {
    uint64_t y, x, row, weight;
    uint32_t count, cols;
};

struct cuda_copy_args {
    uint64_t y, x;
    uint32_t rows, cols, y_cols, y_col, x_cols, x_col;
};

/* Candidates: value in x, column in y, CUDA_NONE for none. from 0: the values are those of a matrix. */
struct cuda_top_args {
    uint64_t values, from, out; /* F32 [rows][cols], or candidates [rows][cols]; candidates [rows][chunks][count] */
    uint32_t cols, count, chunks;
};

/* name, argument; by module. That of MMA needs compute capability 8.0, that of DP4A is for what is
 * older: one of the two is loaded, since the driver's compiler takes its time. */
#define CUDA_MATVECS(X, type)                                                                      \
    X(matvec_##type, cuda_product_args)                                                            \
    X(matvecs_##type, cuda_product_args)
#define CUDA_KERNELS_BASE(X)                                                                       \
    CUDA_MATVECS(X, q4_0)                                                                          \
    CUDA_MATVECS(X, q4_1)                                                                          \
    CUDA_MATVECS(X, q5_0)                                                                          \
    CUDA_MATVECS(X, q5_1)                                                                          \
    CUDA_MATVECS(X, q8_0)                                                                          \
    CUDA_MATVECS(X, q2_k)                                                                          \
    CUDA_MATVECS(X, q3_k)                                                                          \
    CUDA_MATVECS(X, q4_k)                                                                          \
    CUDA_MATVECS(X, q5_k)                                                                          \
    CUDA_MATVECS(X, q6_k)                                                                          \
    CUDA_MATVECS(X, iq4_nl)                                                                        \
    CUDA_MATVECS(X, iq4_xs)                                                                        \
    CUDA_MATVECS(X, nf4)                                                                           \
    X(round_rows, cuda_round_args)                                                                 \
    X(dense_matvec, cuda_dense_args)                                                               \
    X(dense_tile, cuda_dense_args)                                                                 \
    X(embed_blocks, cuda_embed_args)                                                               \
    X(embed_dense, cuda_embed_args)                                                                \
    X(rmsnorm, cuda_norm_args)                                                                     \
    X(layernorm, cuda_norm_args)                                                                   \
    X(rope, cuda_rope_args)                                                                        \
    X(store_dense, cuda_store_args)                                                                  \
    X(store_blocks, cuda_store_args)                                                               \
    X(attend, cuda_attend_args)                                                                    \
    X(attend_join, cuda_attend_args)                                                               \
    X(glu, cuda_glu_args)                                                                          \
    X(add, cuda_add_args)                                                                          \
    X(scale, cuda_scale_args)                                                                      \
    X(scatter, cuda_scatter_args)                                                                  \
    X(copy, cuda_copy_args)                                                                        \
    X(top, cuda_top_args)
#define CUDA_KERNELS_MMA(X)                                                                        \
    X(tile_mma, cuda_product_args)                                                                 \
    X(tile_mma_halved, cuda_product_args)                                                          \
    CUDA_MATVECS(X, async_q4_0)                                                                    \
    CUDA_MATVECS(X, async_q4_k)                                                                    \
    CUDA_MATVECS(X, async_q8_0)                                                                    \
    X(tile_async_q4_0, cuda_product_args)                                                          \
    X(tile_async_q4_k, cuda_product_args)                                                          \
    X(tile_async_q8_0, cuda_product_args)

#define CUDA_KERNELS_DP4A(X)                                                                       \
    X(tile_dp4a, cuda_product_args)                                                                \
    X(tile_dp4a_halved, cuda_product_args)
#define CUDA_KERNELS_ALL(X) CUDA_KERNELS_BASE(X) CUDA_KERNELS_MMA(X) CUDA_KERNELS_DP4A(X)

#define CUDA_KERNEL_NAME(name, args) CUDA_KERNEL_##name,
enum { CUDA_KERNELS_ALL(CUDA_KERNEL_NAME) CUDA_KERNELS };

#endif
