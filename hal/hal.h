/* hal.h: the contract between the engine and a hardware plugin.
 *
 * A plugin is one shared object that exports one symbol, hal_plugin_entry(). It includes this file,
 * hal/block.h (the block formats) and plugins/scalar/scalar.h (what it borrows from the reference),
 * and nothing else of ours. The scalar plugin is the definition of every operation: where this text
 * and scalar disagree, scalar is wrong and both are fixed in one commit.
 *
 * Compatibility: fields are appended, never moved, removed or given a new meaning. Everything up to
 * matmul is required; a later operation may be NULL and is then done by hal/fallback.c on host
 * copies with scalar. HAL_ABI changes only when that promise is broken.
 */
#ifndef HAL_H
#define HAL_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"

#ifdef __cplusplus /* nvcc compiles .cu files as C++ */
#define HAL_C extern "C"
#else
#define HAL_C
#endif

#define HAL_ABI 1u

/* Element types, with the numbers of the GGUF format. The host layout of a matrix is rows of blocks
 * as GGUF stores them; block sizes and layouts are in hal/block.h. HAL_NF4 is private to Tare. */
enum hal_type {
    HAL_F32 = 0,
    HAL_F16 = 1,
    HAL_Q4_0 = 2,
    HAL_Q4_1 = 3,
    HAL_Q5_0 = 6,
    HAL_Q5_1 = 7,
    HAL_Q8_0 = 8,
    HAL_Q2_K = 10,
    HAL_Q3_K = 11,
    HAL_Q4_K = 12,
    HAL_Q5_K = 13,
    HAL_Q6_K = 14,
    HAL_IQ4_NL = 20,
    HAL_IQ4_XS = 23,
    HAL_BF16 = 30,
    HAL_NF4 = 62
};

/* What a matrix is for; the plugin may choose another layout for each use.
 *   HAL_WEIGHT      written once by mat_put, then read by matmul and embed; any type the plugin
 * takes HAL_ACTIVATION  F32, dense, row-major: the host may present the same mem under another rows
 * x cols of the same product, or its first rows only. Vectors that rows are multiplied with or
 *                   added to (w and b of norms, biases) are activations of one row too
 *   HAL_CACHE       rows are slots; F32, F16, Q8_0 or Q4_0; written by store, read by attend */
enum hal_use { HAL_WEIGHT = 0, HAL_ACTIVATION = 1, HAL_CACHE = 2 };

/* A matrix in the plugin's memory. Made by mat_new, released by mat_free. Only the plugin follows
 * mem: it may be a GPU address or a packed copy. */
struct hal_mat {
    void *mem;
    uint32_t type; /* enum hal_type */
    uint32_t use;  /* enum hal_use */
    uint32_t rows;
    uint32_t cols;
};

/* What probe() found. score: 0 cannot run here; 1 scalar; 100 CPU SIMD; 1000 accelerator; plugins
 * of one class spread within [class, 2 * class). */
struct hal_caps {
    uint32_t score;
    uint32_t paths;     /* how many code paths this machine can run; path holds the one chosen */
    uint64_t types;     /* bit (1 << enum hal_type) for each weight type it takes */
    uint64_t mem_bytes; /* memory of its own that it may use; 0 for ordinary host memory */
    char device[64];    /* for people: "Intel Xeon 6975P-C" */
    char path[24];      /* the code path chosen: "avx512-vnni" */
    char reason[96];    /* why it cannot run, in words, when probe fails; else "" */
};

/* What the engine offers a plugin; it lives as long as dev. A plugin never calls malloc: host
 * memory comes from here, so that it can be budgeted, guarded and made to fail. */
struct hal_host {
    void *(*alloc)(size_t bytes); /* 64-byte aligned; NULL when over budget. Up to the next
                                   * multiple of 64 may be read, not written. */
    void (*release)(void *p, size_t bytes); /* bytes as given to alloc; NULL is allowed */
    void (*log)(int syslog_level, const char *message);
    uint32_t threads; /* at most this many threads, the caller's included; at least 1 */
    const char *path; /* the code path to take, or NULL for the best one of this machine */
};

/* A run of cache slots. */
struct hal_span {
    uint32_t slot;
    uint32_t slots;
};

/* Attention geometry. Row r of q sees the slots of spans[first[r]] .. spans[first[r + 1] - 1], in
 * that order; causality, windows, paging and shared prefixes are all said by the spans. Query head
 * h reads key/value head h / (heads / kv_heads). */
struct hal_attend {
    uint32_t heads;     /* query heads */
    uint32_t kv_heads;  /* divides heads */
    uint32_t key_dim;   /* values of one head in q and in a row of k */
    uint32_t value_dim; /* values of one head in y; the first ones of a head in a row of v */
    float scale;        /* scores are multiplied by this, 1 / sqrt(key_dim) in most models */
    float softcap;      /* 0: none; else score = softcap * tanh(score / softcap) */
    const struct hal_span *spans;
    const uint32_t *first; /* [n + 1] */
};

/* Gate functions of glu. */
enum hal_gate {
    HAL_SILU = 0,      /* x / (1 + exp(-x)) */
    HAL_GELU_TANH = 1, /* 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), arXiv:1606.08415 */
    HAL_GELU_ERF = 2,  /* 0.5 x (1 + erf(x / sqrt(2))) */
    HAL_RELU = 3
};

/* Which pairs rope rotates. */
enum hal_rope {
    HAL_ROPE_NORM = 0, /* (2i, 2i + 1), as in the GGUF form of llama */
    HAL_ROPE_NEOX = 1  /* (i, i + dims / 2), as in GPT-NeoX and Hugging Face code */
};

struct hal_rope_shape {
    uint32_t head_dim; /* values of one head in x */
    uint32_t offset;   /* first rotated value within a head */
    uint32_t dims;     /* rotated values within a head, even; offset + dims <= head_dim */
    uint32_t kind;     /* enum hal_rope */
};

/* How encode picks codes and scales. Both are byte-identical on every plugin. */
enum hal_method {
    HAL_RTN = 0,   /* round to nearest on the absmax or min-max grid */
    HAL_SEARCH = 1 /* weighted least-squares search of scales and codes */
};

/* dev is what open() returned. Unless a line says otherwise: one caller at a time per dev; nothing
 * is allocated; outputs do not overlap inputs unless named in place; work may still be running on
 * return, and mat_get waits for it. n is rows of activations: tokens. Activations are F32. Shapes
 * or types that disagree give ERR_ARGUMENT and change nothing. */
struct hal_plugin {
    uint32_t abi;        /* HAL_ABI,                   set by HAL_EXPORT */
    uint32_t size;       /* sizeof(struct hal_plugin), set by HAL_EXPORT */
    const char *name;    /* [a-z0-9]{1,15}, equal to the file name: "vnni" */
    const char *version; /* for telemetry only */

    /* What can this machine do? path as in hal_host. Any thread, no dev, no threads, under 100 ms.
     * ERR_UNSUPPORTED with caps->reason filled when it cannot run here. */
    enum err (*probe)(const char *path, struct hal_caps *caps);

    enum err (*open)(const struct hal_host *host, void **dev);
    void (*close)(void *dev); /* NULL is allowed */

    /* mat_new and mat_put may allocate; in: all but mem. put and get copy `rows` rows from `row` on
     * between the host layout and the plugin's. put of a weight may repack, several puts fill one
     * matrix in ascending order of rows. get of a weight need not be exact and may be
     * ERR_UNSUPPORTED. */
    enum err (*mat_new)(void *dev, struct hal_mat *m);
    void (*mat_free)(void *dev, struct hal_mat *m); /* m->mem NULL is allowed */
    enum err (*mat_put)(void *dev, struct hal_mat *m, uint32_t row, uint32_t rows, const void *host,
                        size_t bytes);
    enum err (*mat_get)(void *dev, const struct hal_mat *m, uint32_t row, uint32_t rows, void *host,
                        size_t bytes);

    /* y[i][n, out_i] = x[n, in] * w[i][out_i, in]^T for i < count; the weights share one input and
     * may differ in type and rows. For block types each group of 32 values of a row of x is first
     * rounded: amax = max|x|, q = nearest_even(x * (127 / amax)) in F32, all 0 if amax is 0; then y
     * is the sum over groups of (int32 sums of q with the integer codes) * scales. The integers are
     * exact on every plugin; only the sums of F32 may round differently. For F32, F16 and BF16
     * weights x stays F32. The last row of w may be short of a tile, n may be 1. */
    enum err (*matmul)(void *dev, const struct hal_mat *const *y, const struct hal_mat *x,
                       const struct hal_mat *const *w, uint32_t count);

    /* ---- from here on NULL means: hal/fallback.c does it with scalar on host copies ---- */

    /* y[n, d] = table[row[i], d]; table a weight, or an activation (a gather) */
    enum err (*embed)(void *dev, const struct hal_mat *y, const struct hal_mat *table,
                      const uint32_t *row);
    /* y[n, d] = x / sqrt(mean_d(x^2) + eps) * w[1, d]; y may be x        arXiv:1910.07467 */
    enum err (*rmsnorm)(void *dev, const struct hal_mat *y, const struct hal_mat *x,
                        const struct hal_mat *w, float eps);
    /* y[n, d] = (x - mean) / sqrt(var + eps) * w[1, d] + b[1, d]; b NULL: 0;
     * y may be x                                                         arXiv:1607.06450 */
    enum err (*layernorm)(void *dev, const struct hal_mat *y, const struct hal_mat *x,
                          const struct hal_mat *w, const struct hal_mat *b, float eps);
    /* rotate in place pair p of each head of x[n, heads * head_dim] by the angle whose cosine and
     * sine are cos_sin[r, p] and cos_sin[r, dims / 2 + p] of cos_sin[n, dims]     arXiv:2104.09864
     */
    enum err (*rope)(void *dev, const struct hal_mat *x, const struct hal_mat *cos_sin,
                     const struct hal_rope_shape *shape);
    /* cache[slot[r], :] = x[r, :], rounded to the cache's type (F16 to nearest even; blocks by RTN)
     */
    enum err (*store)(void *dev, const struct hal_mat *cache, const struct hal_mat *x,
                      const uint32_t *slot);
    /* y[n, heads * value_dim] = softmax(q k^T) v over the slots that each row sees. v may be k. A
     * row that sees nothing gives 0.                                         arXiv:1706.03762 */
    enum err (*attend)(void *dev, const struct hal_mat *y, const struct hal_mat *q,
                       const struct hal_mat *k, const struct hal_mat *v,
                       const struct hal_attend *geometry);
    /* y[n, d] = gate_function(gate) * up; up NULL: 1; y may be gate      arXiv:2002.05202 */
    enum err (*glu)(void *dev, const struct hal_mat *y, const struct hal_mat *gate,
                    const struct hal_mat *up, uint32_t function);
    /* y[n, d] += x; x of one row is added to every row */
    enum err (*add)(void *dev, const struct hal_mat *y, const struct hal_mat *x);
    /* y[n, d] *= factor */
    enum err (*scale)(void *dev, const struct hal_mat *y, float factor);
    /* y[row[r], :] += weight[r] * x[r, :], r ascending */
    enum err (*scatter)(void *dev, const struct hal_mat *y, const struct hal_mat *x,
                        const uint32_t *row, const float *weight);

    /* Block encoding on host memory: x [rows, cols] F32 to `type` in GGUF layout, with importance
     * [cols] or NULL. Bytes are defined by scalar to the last bit. May use threads, allocates
     * nothing. Time: RTN at memory speed; SEARCH O(rows * cols * steps). */
    enum err (*encode)(void *dev, uint32_t type, uint32_t method, const float *x, uint32_t rows,
                       uint32_t cols, const float *importance, void *out, size_t out_bytes);
    /* The inverse: rows of `type` to F32, exact. */
    enum err (*decode)(void *dev, uint32_t type, const void *in, size_t in_bytes, uint32_t rows,
                       uint32_t cols, float *x);

    /* y[r, y_col + i] = x[r, x_col + i] for i < cols and every row; the rest of y stays */
    enum err (*copy)(void *dev, const struct hal_mat *y, uint32_t y_col, const struct hal_mat *x,
                     uint32_t x_col, uint32_t cols);

    /* From here on compute with at most so many threads, the caller's included: 1 .. host->threads; the
     * others rest without using the CPU. Results do not depend on it. ERR_ARGUMENT: out of that range.
     * NULL: the plugin cannot, and no fallback can for it. */
    enum err (*limit_threads)(void *dev, uint32_t threads);

    /* The `count` (1 .. HAL_TOP_MAX) greatest values of each row of the activation x[n, d], greatest first, of
     * equal ones the lower column first: index[n, count] and value[n, count] in host memory. NaN is never
     * among them; where a row has fewer, index is UINT32_MAX and value 0. Exact, and waits as mat_get does: a
     * token is chosen without a row of logits on its way to the host. */
    enum err (*top)(void *dev, const struct hal_mat *x, uint32_t count, uint32_t *index, float *value);
};

/* Most that top gives of a row. */
enum { HAL_TOP_MAX = 64 };

/* The one exported symbol. The host calls it once and copies what it returns. */
#define HAL_ENTRY "hal_plugin_entry"
typedef const struct hal_plugin *hal_entry_fn(void);

/* fill(struct hal_plugin *) sets every field but abi and size. A CPU plugin starts from
 * *p = scalar_plugin and replaces what it does faster. */
#define HAL_EXPORT(fill)                                                                           \
    HAL_C __attribute__((visibility("default"))) hal_entry_fn hal_plugin_entry;                    \
    const struct hal_plugin *hal_plugin_entry(void)                                                \
    {                                                                                              \
        static struct hal_plugin plugin;                                                           \
        fill(&plugin);                                                                             \
        plugin.abi = HAL_ABI;                                                                      \
        plugin.size = sizeof plugin;                                                               \
        return &plugin;                                                                            \
    }

static_assert(sizeof(enum err) == 4, "the ABI needs 32-bit errors");

#endif
