/* cuda.h: the dev of the CUDA plugin and the calls that its files share.
 *
 * A matrix's mem is its device address. Everything runs in the legacy default stream of the
 * device's primary context, so that copies and kernels keep their order; mat_get waits. Device
 * memory is plain cuMemAlloc within the budget that was free at open; host memory, from
 * host->alloc, is only for staging. encode and decode are left to the CPU (hal/fallback.c).
 *
 * Operations only queue their kernels; whatever copies to or from the device starts what is queued
 * first. A step of decoding ends with one mat_get of its logits, so the queue is the whole step, and
 * the same sequence of kernels comes with each token: it becomes a CUDA graph the second time
 * (cuda_graph.c), and from then on is one launch and an update of the nodes whose arguments changed.
 * TARE_CUDA_GRAPHS=0 in the environment leaves graphs out, for comparison.
 * What a queued kernel does wrong is therefore returned by a later call, at the latest by mat_get.
 */
#ifndef CUDA_H
#define CUDA_H

#include "hal/hal.h"
#include "plugins/cuda/cuda_args.h"
#include "plugins/cuda/cuda_driver.h"
#include "plugins/scalar/scalar.h"

enum {
    CUDA_QUEUE_MAX = 2048,  /* launches; a model of 80 layers has 1400 in a step */
    CUDA_QUEUE_SPARE = 8,   /* that cuda_room() keeps: more than an operation with notes queues */
    CUDA_ARGS_BYTES = 128,  /* of the largest argument struct */
    CUDA_GRAPHS = 4,        /* sequences remembered */
    CUDA_GRAPH_LEAST = 4,   /* launches that are worth a graph */
    CUDA_RECENT = 8,        /* notes compared with the next one */
    CUDA_ROWS_MAX = 65536,  /* of a call that names rows */
    CUDA_SPANS_MAX = 262144,
    CUDA_NOTE_ALIGN = 256,
    CUDA_NOTES_BYTES = 8 * CUDA_SPANS_MAX + 2 * 4 * CUDA_ROWS_MAX + 4 * CUDA_NOTE_ALIGN,
    CUDA_PARTS_BYTES = 8 << 20,
    CUDA_SCRATCH_VALUES = 32 << 20, /* more tokens than fit are taken in passes */
    CUDA_SPLITS_MAX = 32,
    CUDA_TOP_ROWS = 1024 /* in one pass: their candidates fit into the notes */
};

/* A launch that waits. */
struct cuda_start {
    uint32_t kernel, x, y, z, threads;
    uint32_t is_beside; /* needs what the one before it needs, but not the one before it */
    uint64_t args[CUDA_ARGS_BYTES / 8];
};

/* A sequence of launches that was seen, and from the second time on its graph. */
struct cuda_graph {
    CUgraph graph;
    CUgraphExec exec; /* NULL: seen once */
    CUgraphNode *node;
    struct cuda_start *start; /* as the nodes are set */
    uint32_t count;           /* 0: free */
    uint64_t used;            /* when, for the oldest to go */
};

/* Arguments that kernels read from memory (row numbers, spans), gathered until the queue starts: then
 * one copy brings them all. */
struct cuda_notes {
    CUdeviceptr mem;
    uint8_t *host;
    size_t used;
    struct {
        size_t at, bytes;
    } recent[CUDA_RECENT]; /* all layers of a step send the same */
    uint32_t turn;
};

struct cuda_dev {
    struct scalar_dev scalar; /* first: the threads are scalar's */
    const struct cuda_driver *driver;
    CUdevice device;
    CUcontext context;
    CUmodule base, tiles;
    CUfunction kernel[CUDA_KERNELS];
    uint32_t processors;
    int has_mma, has_graphs;
    size_t budget, used;   /* bytes of device memory */
    CUdeviceptr scratch;   /* rounded activations */
    size_t scratch_values; /* that it holds */
    CUdeviceptr parts;     /* what splits of attend found */
    struct cuda_notes notes;
    struct cuda_start *queue; /* [CUDA_QUEUE_MAX] */
    uint32_t queued;
    enum err failed; /* of a start that had nobody to tell */
    struct cuda_graph graph[CUDA_GRAPHS];
    uint64_t clock;
    void *memory; /* of queue, notes and graphs */
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

/* Queue kernel number `kernel` (CUDA_KERNEL_name) with one argument struct. A grid of nothing is no
 * launch. */
NODISCARD enum err cuda_launch(struct cuda_dev *d, uint32_t kernel, uint32_t x, uint32_t y,
                               uint32_t z, uint32_t threads, const void *args);

/* The same with a thread of a block of CUDA_THREADS for each value. */
NODISCARD enum err cuda_launch_values(struct cuda_dev *d, uint32_t kernel, uint64_t values,
                                      const void *args);

/* The launch queued last may run beside the one before it. */
void cuda_beside(struct cuda_dev *d);

/* Before notes of `bytes` (each rounded up to CUDA_NOTE_ALIGN) are taken and the kernels that read
 * them queued: start what is queued if there is no room. ERR_MEMORY when they never fit. */
NODISCARD enum err cuda_room(struct cuda_dev *d, size_t bytes);
/* Bytes to where the next kernels can read them. */
uint64_t cuda_note(struct cuda_dev *d, const void *from, size_t bytes);

/* Start all that is queued; the caller's context is set then. */
NODISCARD enum err cuda_start(struct cuda_dev *d);
/* As plain launches, one after the other. */
NODISCARD enum err cuda_start_plainly(struct cuda_dev *d);
/* As a graph if this sequence was seen before: *is_done; else it is remembered. */
NODISCARD enum err cuda_graph_start(struct cuda_dev *d, int *is_done);
void cuda_graph_close(struct cuda_dev *d);

/* Bytes of the memory of queue, notes and graphs; and dealing it out. */
size_t cuda_queue_bytes(void);
void cuda_queue_open(struct cuda_dev *d, void *memory);

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
/* in cuda_top.c */
enum err cuda_top(void *dev, const struct hal_mat *x, uint32_t count, uint32_t *index, float *value);
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
