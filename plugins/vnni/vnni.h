/* vnni.h: what the files of the x86 plugin share.
 *
 * One source of kernels (vnni_rows.c, vnni_gemm.c, ...) is compiled once per instruction set into a
 * table of functions, struct vnni_kernels; vnni.c picks the table in open(). Files without "kernel
 * flags" in CMakeLists.txt run before the machine is known and are built plain.
 */
#ifndef VNNI_H
#define VNNI_H

#include "plugins/scalar/scalar.h"
#include "plugins/vnni/vnni_layout.h"
#include "plugins/vnni/vnni_pool.h"

/* Instruction sets, best last. */
enum vnni_path {
    VNNI_AVX2 = 0,    /* AVX2, FMA, F16C, BMI2 */
    VNNI_AVXVNNI = 1, /* and AVX-VNNI (VEX) */
    VNNI_AVX512 = 2,  /* AVX-512 F, BW, DQ, VL, VNNI */
    VNNI_AMX = 3,     /* and AMX-INT8, AMX-BF16 with permission from the kernel */
    VNNI_PATHS = 4
};

enum { VNNI_BLOCK = 16 /* tokens of one block of rounded activations */ };

/* Rounded activations of n tokens x cols, in blocks of `width` tokens (VNNI_BLOCK, or 1 when n is 1),
 * the last block padded with zeros.
 *   q     [blocks, cols / 32, width, 32]  codes
 *   info  [blocks, cols / 32] of VNNI_INFO rows of `width` 32-bit values, see enum vnni_info */
struct vnni_input {
    int8_t *q;
    float *info;
    uint32_t tokens;
    uint32_t width;
    uint32_t cols;
};

/* Rows of a group's info. Biases are -128 * (sum of codes), int32; sums are scale * (sum of codes). */
enum vnni_info {
    VNNI_SCALE = 0,     /* F32 scale of the group */
    VNNI_BIAS = 1,      /* of all 32 codes */
    VNNI_BIAS_HALF = 2, /* of codes 0..15, then 16..31 */
    VNNI_SUM = 4,       /* of all 32 */
    VNNI_SUM_HALF = 5,  /* of codes 0..15, then 16..31 */
    VNNI_PAIR = 7,      /* sums of codes 0..15 and 16..31, two int16 */
    VNNI_INFO = 8
};

/* A panel (16 rows) taken apart for many tokens: per group of 32 columns
 *   512 bytes  [8][16 rows][4] codes: signed, or plus 128 where the path multiplies unsigned bytes
 *   then F32 [scales][16] and [minimums][16], counts as in struct vnni_shape. */
struct vnni_shape {
    uint32_t scales;   /* 1, or 2: one per 16 columns */
    uint32_t minimums; /* 0, 1, or 2: one per 16 columns */
    uint32_t is_long;  /* scales fill all 24 bits of an F32, else 22 at most */
};

static inline size_t vnni_group_bytes(struct vnni_shape shape)
{
    return 512 + (size_t)64 * (shape.scales + shape.minimums);
}

/* y[t * stride + r], r < rows: where the results of some panels go. */
struct vnni_output {
    float *y;
    size_t stride;
    uint32_t rows;
};

/* The part of panel p: at most 16 rows. */
static inline struct vnni_output vnni_output_panel(struct vnni_output out, uint32_t p)
{
    const uint32_t left = out.rows - p * VNNI_ROWS;
    return (struct vnni_output){out.y + (size_t)p * VNNI_ROWS, out.stride,
                                left < VNNI_ROWS ? left : VNNI_ROWS};
}

/* One encoding, by hal.h. */
struct vnni_encoding {
    uint32_t type, method, cols;
    const float *x;
    const float *importance;
    uint8_t *out;
    size_t row_bytes;
};

/* One attention: arguments of hal.h's attend, with strides in bytes (caches) or values. */
struct vnni_attention {
    const struct hal_attend *geometry;
    const float *q;
    float *y;
    const uint8_t *k;
    const uint8_t *v;
    uint32_t k_type, v_type;
    size_t k_row, v_row;   /* bytes of a slot */
    size_t k_head, v_head; /* bytes from one head to the next */
    size_t k_bytes, v_bytes; /* of a head that are read */
};

/* Some queries that read one key/value head. Each of the rows first_row.. sees the first slots of what
 * the last row sees. */
struct vnni_queries {
    uint32_t first_row, rows;
    uint32_t first_head, heads; /* rows * heads <= VNNI_QUERIES, or VNNI_TILE_QUERIES */
    uint32_t kv_head;
};

enum {
    VNNI_SPLIT_PARTS = 3,
    VNNI_SPLIT_BYTES = 2 * VNNI_SPLIT_PARTS,
    VNNI_SPLIT_LEAST = 128,  /* tokens at once of the widest weights, and as many bytes of narrower ones */
    VNNI_SPLIT_TOKENS = 512, /* at most: a slab of their parts stays in the second cache */
    VNNI_DENSE_ROOM = 2 * 4 * 2 * 1024 /* bytes: 2 panels x 4 tiles x 2 parts */
};

enum { VNNI_QUERIES = 64, VNNI_KEYS = 32 };

/* F32 values of room that attend needs. */
static inline size_t vnni_attend_room(size_t key_dim, size_t value_dim)
{
    return VNNI_KEYS * (key_dim + value_dim + 32) + VNNI_QUERIES * (VNNI_KEYS + 2) + 16 * (key_dim + 32);
}

enum { VNNI_TILE_QUERIES = 256, VNNI_TILE_KEYS = 64, VNNI_TILE_WIDE = 256 };

/* Bytes of room that attend_tiles needs: for a block of slots, and for each 16 queries. Slots of a block depend on
 * nothing else, because results do on them. */
struct vnni_tile_sizes {
    uint32_t keys;
    size_t k, v, p, s; /* p and s twice: together `block` */
    size_t block;
    size_t q, y;
    size_t group; /* of 16 queries */
};

static inline struct vnni_tile_sizes vnni_tile_sizes(size_t key_dim, size_t value_dim)
{
    const size_t keys = (key_dim + 31) / 32 * 32, values = (value_dim + 31) / 32 * 32;
    struct vnni_tile_sizes s = {.keys = keys + values > VNNI_TILE_WIDE ? 32 : VNNI_TILE_KEYS};
    s.k = s.keys * keys * 6;
    s.v = s.keys * values * 4;
    s.p = s.s = s.keys * (size_t)64;
    s.block = s.k + s.v + 2 * (s.p + s.s);
    s.q = keys * 96;
    s.y = (value_dim + 15) / 16 * 1024;
    s.group = s.q + s.y + 1024 + 64;
    return s;
}

/* The kernels of one instruction set. */
struct vnni_kernels {
    /* Round tokens first..last of x[n, cols] into `in`; whole blocks. */
    void (*round)(const struct vnni_input *in, const float *x, uint32_t first, uint32_t last);
    /* One token times one resident panel, fused. */
    void (*gemv)(uint32_t type, const uint8_t *panel, const struct vnni_input *in,
                 struct vnni_output out);
    /* Take a resident panel apart. */
    void (*unpack)(uint32_t type, const uint8_t *panel, uint32_t cols, uint8_t *unpacked);
    /* All tokens times `panels` unpacked panels. */
    void (*gemm)(struct vnni_shape shape, const uint8_t *unpacked, uint32_t panels,
                 const struct vnni_input *in, struct vnni_output out);
    /* Tokens first..last of F32 x times one resident panel of F32, F16 or BF16. */
    void (*dense)(uint32_t type, const uint8_t *panel, const float *x, uint32_t cols, uint32_t first,
                  uint32_t last, struct vnni_output out);

    /* Block `block` of x in->tokens into parts of BF16 at in->q, VNNI_SPLIT_BYTES for each token and column
     * (those rounded up to 32); in->info[block] is 0 where a value is not finite. NULL: no such path. */
    void (*split)(const struct vnni_input *in, const float *x, uint32_t block);
    /* All tokens of a split input times the resident panels of F16 or BF16 of out.rows rows; x as it was
     * split. room: VNNI_DENSE_ROOM. */
    void (*dense_split)(uint32_t type, const uint8_t *panel, const float *x, const struct vnni_input *in,
                        uint8_t *room, struct vnni_output out);

    /* Row r (0..15) of a resident panel as F32, exact. */
    void (*row)(uint32_t type, const uint8_t *panel, uint32_t cols, uint32_t r, float *x);

    /* The operations of hal.h on plain arrays. */
    void (*rmsnorm)(float *y, const float *x, const float *w, uint32_t rows, uint32_t cols,
                    float eps);
    void (*layernorm)(float *y, const float *x, const float *w, const float *b, uint32_t rows,
                      uint32_t cols, float eps); /* b NULL: 0 */
    void (*rope)(float *x, const float *cos_sin, const struct hal_rope_shape *shape, uint32_t rows,
                 uint32_t cols);
    void (*glu)(float *y, const float *gate, const float *up, size_t count, uint32_t function);
    void (*add)(float *y, const float *x, size_t count);
    void (*scale)(float *y, float factor, size_t count);
    void (*scatter)(float *y, const float *x, float weight, size_t count); /* y += weight * x */
    void (*store)(const float *x, uint32_t cols, void *row); /* to F16 */
    void (*load)(uint32_t type, const void *row, uint32_t cols, float *x); /* from F16, BF16, Q8_0 */
    void (*encode)(const struct vnni_encoding *job, uint32_t row); /* block types */
    void (*attend)(const struct vnni_attention *a, const struct vnni_queries *queries, float *room);
    /* The same for keys and values of F16, Q8_0 and Q4_0. room: vnni_tile_sizes, and at least as attend. NULL: no
     * such path. */
    void (*attend_tiles)(const struct vnni_attention *a, const struct vnni_queries *queries, uint8_t *room);
};

extern const struct vnni_kernels vnni_avx2_kernels;
extern const struct vnni_kernels vnni_avxvnni_kernels;
extern const struct vnni_kernels vnni_avx512_kernels;
extern const struct vnni_kernels vnni_amx_kernels;

struct vnni_dev {
    struct scalar_dev scalar; /* first: borrowed operations take it for theirs */
    struct vnni_pool *pool;
    const struct vnni_kernels *kernels;
    struct hal_host host;
    uint8_t *input; /* room for rounded activations */
    size_t input_bytes;
    size_t split_bytes; /* of them, for parts of BF16 */
    uint8_t *unpacked; /* room for unpacked panels or decoded slots, unpacked_bytes for each thread */
    size_t unpacked_bytes;
};

struct vnni_shape vnni_shape_of(uint32_t type);

/* Memory and weights (vnni_mat.c), by hal.h. */
enum err vnni_mat_new(void *dev, struct hal_mat *m);
void vnni_mat_free(void *dev, struct hal_mat *m);
enum err vnni_mat_put(void *dev, struct hal_mat *m, uint32_t row, uint32_t rows, const void *host,
                      size_t bytes);
enum err vnni_mat_get(void *dev, const struct hal_mat *m, uint32_t row, uint32_t rows, void *host,
                      size_t bytes);
enum err vnni_embed(void *dev, const struct hal_mat *y, const struct hal_mat *table,
                    const uint32_t *row);

/* vnni_matmul.c */
enum err vnni_matmul(void *dev, const struct hal_mat *const *y, const struct hal_mat *x,
                     const struct hal_mat *const *w, uint32_t count);

/* vnni_rows.c, vnni_attend.c */
enum err vnni_rmsnorm(void *dev, const struct hal_mat *y, const struct hal_mat *x,
                      const struct hal_mat *w, float eps);
enum err vnni_layernorm(void *dev, const struct hal_mat *y, const struct hal_mat *x,
                        const struct hal_mat *w, const struct hal_mat *b, float eps);
enum err vnni_rope(void *dev, const struct hal_mat *x, const struct hal_mat *cos_sin,
                   const struct hal_rope_shape *shape);
enum err vnni_glu(void *dev, const struct hal_mat *y, const struct hal_mat *gate,
                  const struct hal_mat *up, uint32_t function);
enum err vnni_add(void *dev, const struct hal_mat *y, const struct hal_mat *x);
enum err vnni_scale(void *dev, const struct hal_mat *y, float factor);
enum err vnni_scatter(void *dev, const struct hal_mat *y, const struct hal_mat *x,
                      const uint32_t *row, const float *weight);
enum err vnni_store(void *dev, const struct hal_mat *cache, const struct hal_mat *x,
                    const uint32_t *slot);
enum err vnni_copy(void *dev, const struct hal_mat *y, uint32_t y_col, const struct hal_mat *x,
                   uint32_t x_col, uint32_t cols);
enum err vnni_attend(void *dev, const struct hal_mat *y, const struct hal_mat *q,
                     const struct hal_mat *k, const struct hal_mat *v,
                     const struct hal_attend *geometry);

/* vnni_encode.c */
enum err vnni_encode(void *dev, uint32_t type, uint32_t method, const float *x, uint32_t rows,
                     uint32_t cols, const float *importance, void *out, size_t out_bytes);
enum err vnni_decode(void *dev, uint32_t type, const void *in, size_t in_bytes, uint32_t rows,
                     uint32_t cols, float *x);

#endif
