/* weights.h: tensors of a GGUF file into the memory of an engine. For model/ only.
 *
 * Every matrix is handed over in ranges of rows, and the mapped pages behind are dropped at once, so that
 * a weight is resident once. The first failure sticks: later calls do nothing, so that a family lists its
 * tensors without a check on every line.
 */
#ifndef WEIGHTS_H
#define WEIGHTS_H

#include "hal/engine.h"
#include "model/gguf.h"

/* y = x w^T + bias. name is the tensor's, for observers; empty: not reported. */
struct weights_linear {
    struct hal_mat w;
    struct hal_mat bias; /* [1, rows] F32; mem NULL: none */
    char name[64];
    uint32_t part; /* expert */
};

/* A layer norm's scale and shift; of an RMS norm only w is there. */
struct weights_norm {
    struct hal_mat w; /* [1, cols] F32 */
    struct hal_mat b; /* mem NULL: none */
};

/* All matrices that were made, for release. */
struct weights {
    const struct gguf *g; /* while opening */
    struct engine *e;
    struct hal_mat *made;
    size_t made_count, made_room;
    uint64_t bytes;      /* of weights in the engine */
    uint64_t parameters;
    uint32_t cols_max;   /* longest row of a linear */
    uint64_t done_bytes, total_bytes;
    void (*progress)(void *context, uint64_t done_bytes, uint64_t total_bytes);
    void *progress_context;
    bool is_decoded; /* blocks are held as F32 */
    enum err error;
    char *reason;
    float *piece; /* [piece_floats] for conversions */
    size_t piece_floats;
};

/* Keys of an architecture, "<architecture>.<key>"; the second form takes a default for absent ones. */
uint32_t weights_u32(struct weights *w, const char *key);
uint32_t weights_u32_or(struct weights *w, const char *key, uint32_t preset);
float weights_f32_or(struct weights *w, const char *key, float preset);
/* A number of heads: one integer, or an array that repeats it. */
uint32_t weights_heads(struct weights *w, const char *key, uint32_t preset);
struct gguf_text weights_text(struct weights *w, const char *key);

__attribute__((format(printf, 2, 3))) bool weights_has(struct weights *w, const char *format, ...);

/* "<name>.weight" of [rows, cols] and, where there is one, "<name>.bias". */
__attribute__((format(printf, 5, 6))) void weights_linear(struct weights *w, struct weights_linear *out,
                                                           uint32_t rows, uint32_t cols,
                                                           const char *format, ...);
/* Rows [first, first + rows) of a tensor that holds several linears below each other. */
__attribute__((format(printf, 6, 7))) void weights_linear_part(struct weights *w,
                                                                struct weights_linear *out, uint32_t first,
                                                                uint32_t rows, uint32_t cols,
                                                                const char *format, ...);
/* "<name>.weight" as a table for embed. */
__attribute__((format(printf, 5, 6))) void weights_table(struct weights *w, struct hal_mat *out,
                                                          uint32_t rows, uint32_t cols, const char *format,
                                                          ...);
/* A vector of F32, F16 or BF16, full name, as [1, cols] F32. */
__attribute__((format(printf, 4, 5))) void weights_vector(struct weights *w, struct hal_mat *out,
                                                           uint32_t cols, const char *format, ...);
/* "<name>.weight" and, where there is one, "<name>.bias", as vectors. */
__attribute__((format(printf, 4, 5))) void weights_norm(struct weights *w, struct weights_norm *out,
                                                         uint32_t cols, const char *format, ...);
/* The same to host memory. */
void weights_floats(struct weights *w, const char *name, uint32_t count, float *out);

/* A matrix that is released with the weights: activations, constants. */
void weights_make(struct weights *w, struct hal_mat *out, uint32_t use, uint32_t type, uint32_t rows,
                  uint32_t cols);

/* Remember an error with its line; the first one stays. */
__attribute__((format(printf, 3, 4))) void weights_fail(struct weights *w, enum err e, const char *format,
                                                         ...);

void weights_close(struct weights *w);

#endif
