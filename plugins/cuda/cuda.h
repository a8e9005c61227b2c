/* cuda.h: the dev of the CUDA plugin and the calls that its files share.
 *
 * A matrix's mem is its device address. Everything runs in the legacy default stream of the
 * device's primary context, so that copies and kernels keep their order; mat_get waits. Device
 * memory is plain cuMemAlloc within the budget that was free at open; host memory, from
 * host->alloc, is only for staging. encode and decode are scalar's, on the CPU.
 */
#ifndef CUDA_H
#define CUDA_H

#include "hal/hal.h"
#include "plugins/cuda/cuda_args.h"
#include "plugins/cuda/cuda_driver.h"
#include "plugins/scalar/scalar.h"

/* Arguments of a call that kernels read from memory: row numbers, spans. A copy of what was last
 * sent is kept, since all layers of a step send the same. */
struct cuda_note {
    CUdeviceptr mem;
    void *sent; /* host copy */
    size_t bytes, sent_bytes;
};

enum {
    CUDA_NOTE_ROWS,  /* of embed, store and scatter */
    CUDA_NOTE_EXTRA, /* weights of scatter, first of attend */
    CUDA_NOTE_SPANS,
    CUDA_NOTES
};

struct cuda_dev {
    struct scalar_dev scalar; /* first: encode, decode and the threads are scalar's */
    const struct cuda_driver *driver;
    CUdevice device;
    CUcontext context;
    CUmodule base, tiles;
    CUfunction kernel[CUDA_KERNELS];
    uint32_t processors;
    int has_mma;
    size_t budget, used;   /* bytes of device memory */
    CUdeviceptr scratch;   /* rounded activations */
    size_t scratch_values; /* that it holds */
    CUdeviceptr parts;     /* what splits of attend found */
    struct cuda_note notes[CUDA_NOTES];
};

enum {
    CUDA_PARTS_BYTES = 8 << 20,
    CUDA_SCRATCH_VALUES = 32 << 20, /* more tokens than fit are taken in passes */
    CUDA_SPLITS_MAX = 32
};

/* The PTX text of the modules, with a NUL. */
extern const char cuda_ptx_base[], cuda_ptx_dp4a[], cuda_ptx_mma[];

/* Log a driver's error; ERR_NONE, ERR_MEMORY or ERR_DEVICE. */
NODISCARD enum err cuda_result(struct cuda_dev *d, const char *what, CUresult result);

/* Make the context the calling thread's. */
NODISCARD enum err cuda_enter(struct cuda_dev *d);

/* Device memory within the budget; free takes the same bytes, 0 is allowed. */
NODISCARD enum err cuda_alloc(struct cuda_dev *d, size_t bytes, CUdeviceptr *out);
void cuda_free(struct cuda_dev *d, CUdeviceptr mem, size_t bytes);

/* Start kernel number `kernel` (CUDA_KERNEL_name) with one argument struct. A grid of nothing is no
 * launch. */
NODISCARD enum err cuda_launch(struct cuda_dev *d, uint32_t kernel, uint32_t x, uint32_t y,
                               uint32_t z, uint32_t threads, void *args);

/* Start it with a thread of a block of CUDA_THREADS for each value. */
NODISCARD enum err cuda_launch_values(struct cuda_dev *d, uint32_t kernel, uint64_t values,
                                      void *args);

/* Bring bytes where kernels can read them. ERR_MEMORY when the note is too small. */
NODISCARD enum err cuda_send(struct cuda_dev *d, uint32_t note, const void *from, size_t bytes);

/* The planes of a weight (cuda_format.h) for kernels. */
struct cuda_weight cuda_weight_of(const struct hal_mat *m);

/* hal.h, in cuda_mat.c */
enum err cuda_mat_new(void *dev, struct hal_mat *m);
void cuda_mat_free(void *dev, struct hal_mat *m);
enum err cuda_mat_put(void *dev, struct hal_mat *m, uint32_t row, uint32_t rows, const void *host,
                      size_t bytes);
enum err cuda_mat_get(void *dev, const struct hal_mat *m, uint32_t row, uint32_t rows, void *host,
                      size_t bytes);
/* in cuda_matmul.c */
enum err cuda_matmul(void *dev, const struct hal_mat *const *y, const struct hal_mat *x,
                     const struct hal_mat *const *w, uint32_t count);
/* in cuda_attend.c */
enum err cuda_attend(void *dev, const struct hal_mat *y, const struct hal_mat *q,
                     const struct hal_mat *k, const struct hal_mat *v,
                     const struct hal_attend *geometry);
/* in cuda_rows.c */
enum err cuda_embed(void *dev, const struct hal_mat *y, const struct hal_mat *table,
                    const uint32_t *row);
enum err cuda_rmsnorm(void *dev, const struct hal_mat *y, const struct hal_mat *x,
                      const struct hal_mat *w, float eps);
enum err cuda_layernorm(void *dev, const struct hal_mat *y, const struct hal_mat *x,
                        const struct hal_mat *w, const struct hal_mat *b, float eps);
enum err cuda_rope(void *dev, const struct hal_mat *x, const struct hal_mat *cos_sin,
                   const struct hal_rope_shape *shape);
enum err cuda_store(void *dev, const struct hal_mat *cache, const struct hal_mat *x,
                    const uint32_t *slot);
enum err cuda_glu(void *dev, const struct hal_mat *y, const struct hal_mat *gate,
                  const struct hal_mat *up, uint32_t function);
enum err cuda_add(void *dev, const struct hal_mat *y, const struct hal_mat *x);
enum err cuda_scale(void *dev, const struct hal_mat *y, float factor);
enum err cuda_scatter(void *dev, const struct hal_mat *y, const struct hal_mat *x,
                      const uint32_t *row, const float *weight);
enum err cuda_copy(void *dev, const struct hal_mat *y, uint32_t y_col, const struct hal_mat *x,
                   uint32_t x_col, uint32_t cols);

#endif
