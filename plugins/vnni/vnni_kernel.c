/* vnni_kernel.c: the table of one instruction set's kernels; compiled once for each. */
#include "plugins/vnni/vnni_kernel.h"

const struct vnni_kernels VNNI_KERNEL(kernels) = {
    .round = VNNI_KERNEL(round),
    .gemv = VNNI_KERNEL(gemv),
    .unpack = VNNI_KERNEL(unpack),
    .gemm = VNNI_KERNEL(gemm),
    .dense = VNNI_KERNEL(dense),
    .rmsnorm = VNNI_KERNEL(rmsnorm),
    .rope = VNNI_KERNEL(rope),
    .glu = VNNI_KERNEL(glu),
    .add = VNNI_KERNEL(add),
    .scale = VNNI_KERNEL(scale),
    .scatter = VNNI_KERNEL(scatter),
    .store = VNNI_KERNEL(store),
    .attend = VNNI_KERNEL(attend),
};
