/* mock_cuda.h: a libcuda.so.1 for tests: host memory with guard pages for device memory, and the
 * kernels' host twins for kernels. The plugin finds it through LD_LIBRARY_PATH, unchanged.
 *
 * What it insists on aborts the process with a line on stderr: addresses and sizes that were never
 * allocated, memory still held when the last context is released, barriers that not all threads of a
 * block or lanes of a warp reach. MOCK_CUDA_CAPABILITY=6.1 makes an older GPU,
 * MOCK_CUDA_REPORT=1 prints the calls and kernels when the last context is released; built with
 * MOCK_WITHOUT_GRAPHS it is a driver older than CUDA 12. A graph runs its nodes in an order that its
 * dependencies allow and that is not the order of a plain launch where they allow another. */
#ifndef MOCK_CUDA_H
#define MOCK_CUDA_H

#include <stddef.h>
#include <stdint.h>

/* Controls, found with dlsym. The nth call from now on of a driver function gives result, once; nth
 * 0 clears. */
void mock_cuda_fail(const char *call, unsigned nth, int result);
/* Device memory in all. */
void mock_cuda_memory(size_t bytes);
/* Calls of the driver so far; "" or one function's. */
unsigned mock_cuda_calls(const char *call);
/* How often a kernel was launched, alone or in a graph. */
unsigned mock_cuda_launches(const char *kernel);

/* Inside the mock: run a grid of one twin, thread by thread. */
void mock_cuda_run(void (*twin)(const void *), const void *args, const unsigned grid[3],
                   unsigned threads);

#endif
