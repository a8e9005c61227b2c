/* vnni_kernel.h: names of the kernels. Kernel sources are compiled once per instruction set with VNNI_PATH
 * its name, and define VNNI_KERNEL(round) and so on; vnni_kernel.c makes the table of them. A path that
 * only multiplies matrices in another way takes the other kernels of VNNI_BASE. */
#ifndef VNNI_KERNEL_H
#define VNNI_KERNEL_H

#include "plugins/vnni/vnni.h"

#define VNNI_JOIN(path, name) vnni_##path##_##name
#define VNNI_JOIN_EXPANDED(path, name) VNNI_JOIN(path, name)
#define VNNI_KERNEL(name) VNNI_JOIN_EXPANDED(VNNI_PATH, name)
#define VNNI_BASE_KERNEL(name) VNNI_JOIN_EXPANDED(VNNI_BASE, name)

/* Contracts in struct vnni_kernels. */
void VNNI_KERNEL(round)(const struct vnni_input *in, const float *x, uint32_t first, uint32_t last);
void VNNI_KERNEL(gemv)(uint32_t type, const uint8_t *panel, const struct vnni_input *in,
                       struct vnni_output out);
void VNNI_KERNEL(unpack)(uint32_t type, const uint8_t *panel, uint32_t cols, uint8_t *unpacked);
void VNNI_KERNEL(gemm)(struct vnni_shape shape, const uint8_t *unpacked, uint32_t panels,
                       const struct vnni_input *in, struct vnni_output out);
void VNNI_KERNEL(dense)(uint32_t type, const uint8_t *panel, const float *x, uint32_t cols,
                        uint32_t first, uint32_t last, struct vnni_output out);
#ifdef __AMX_BF16__
void VNNI_KERNEL(split)(const struct vnni_input *in, const float *x, uint32_t block);
void VNNI_KERNEL(dense_split)(uint32_t type, const uint8_t *panel, const float *x,
                              const struct vnni_input *in, uint8_t *room, struct vnni_output out);
void VNNI_KERNEL(attend_tiles)(const struct vnni_attention *a, const struct vnni_queries *queries, uint8_t *room);
#endif
void VNNI_KERNEL(row)(uint32_t type, const uint8_t *panel, uint32_t cols, uint32_t r, float *x);
void VNNI_BASE_KERNEL(rmsnorm)(float *y, const float *x, const float *w, uint32_t rows, uint32_t cols,
                          float eps);
void VNNI_BASE_KERNEL(layernorm)(float *y, const float *x, const float *w, const float *b, uint32_t rows,
                            uint32_t cols, float eps);
void VNNI_BASE_KERNEL(rope)(float *x, const float *cos_sin, const struct hal_rope_shape *shape,
                       uint32_t rows, uint32_t cols);
void VNNI_BASE_KERNEL(glu)(float *y, const float *gate, const float *up, size_t count, uint32_t function);
void VNNI_BASE_KERNEL(add)(float *y, const float *x, size_t count);
void VNNI_BASE_KERNEL(scale)(float *y, float factor, size_t count);
void VNNI_BASE_KERNEL(scatter)(float *y, const float *x, float weight, size_t count);
void VNNI_BASE_KERNEL(store)(const float *x, uint32_t cols, void *row);
void VNNI_BASE_KERNEL(load)(uint32_t type, const void *row, uint32_t cols, float *x);
void VNNI_BASE_KERNEL(encode)(const struct vnni_encoding *job, uint32_t row);
void VNNI_BASE_KERNEL(attend)(const struct vnni_attention *a, const struct vnni_queries *queries,
                         float *room);

#endif
