/* cuda_ptx.c: the kernels' PTX text as data. The NUL is required: the driver takes a C string. */
#include "plugins/cuda/cuda.h"

#define TEXT(symbol, file)                                                                         \
    __asm__(".section .rodata\n.globl " #symbol "\n.hidden " #symbol "\n" #symbol ":\n"            \
            ".incbin \"" file "\"\n.byte 0\n.previous\n")

TEXT(cuda_ptx_base, CUDA_PTX_FOLDER "/cuda_base.ptx");
TEXT(cuda_ptx_dp4a, CUDA_PTX_FOLDER "/cuda_dp4a.ptx");
TEXT(cuda_ptx_mma, CUDA_PTX_FOLDER "/cuda_mma.ptx");
