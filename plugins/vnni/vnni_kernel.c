/* vnni_kernel.c: the table of one instruction set's kernels; compiled once for each. */
#include "plugins/vnni/vnni_kernel.h"

const struct vnni_kernels VNNI_KERNEL(kernels) = {
    .round = VNNI_KERNEL(round),
    .gemv = VNNI_KERNEL(gemv),
    .unpack = VNNI_KERNEL(unpack),
    .gemm = VNNI_KERNEL(gemm),
    .dense = VNNI_KERNEL(dense),
#ifdef __AMX_BF16__
    .split = VNNI_KERNEL(split),
    .dense_split = VNNI_KERNEL(dense_split),
    .attend_tiles = VNNI_KERNEL(attend_tiles),
#endif
    .row = VNNI_KERNEL(row),
    .rmsnorm = VNNI_BASE_KERNEL(rmsnorm),
    .layernorm = VNNI_BASE_KERNEL(layernorm),
    .rope = VNNI_BASE_KERNEL(rope),
    .glu = VNNI_BASE_KERNEL(glu),
    .add = VNNI_BASE_KERNEL(add),
    .scale = VNNI_BASE_KERNEL(scale),
    .scatter = VNNI_BASE_KERNEL(scatter),
    .store = VNNI_BASE_KERNEL(store),
    .load = VNNI_BASE_KERNEL(load),
    .encode = VNNI_BASE_KERNEL(encode),
    .attend = VNNI_BASE_KERNEL(attend),
};
