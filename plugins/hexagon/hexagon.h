/* hexagon.h: what the files of the hexagon plugin share.
 *
 * Q8_0 and Q4_0 weights lie in rpcmem, packed as hexagon_skel.h says: one copy that the DSP reads
 * without a transfer and that the CPU can multiply too. Everything else is done on the CPU.
 */
#ifndef HEXAGON_H
#define HEXAGON_H

#include "plugins/hexagon/hexagon_cpu.h"
#include "plugins/hexagon/hexagon_skel.h"

/* The vendor's library, opened by name; NULL fields are absent in it. */
struct hexagon_rpc {
    void *library;
    int (*open)(const char *uri, uint64_t *handle);
    int (*invoke)(uint64_t handle, uint32_t scalars, union hexagon_arg *args);
    int (*close)(uint64_t handle);
    int (*session_control)(uint32_t request, void *data, uint32_t bytes);
    int (*handle_control)(uint32_t request, void *data, uint32_t bytes);
    void *(*alloc)(int heap, uint32_t flags, int bytes);
    void (*release)(void *p);
};

/* dlopen the library and ask whether a compute DSP with 128-byte HVX is there. reason gets words.
 * architecture gets 0x66, 0x68, ... Errors: ERR_UNSUPPORTED. */
NODISCARD enum err hexagon_rpc_open(struct hexagon_rpc *rpc, uint32_t *architecture,
                                    char reason[96]);

/* Open the module in an unsigned protection domain and check its version. Errors: ERR_DEVICE. */
NODISCARD enum err hexagon_rpc_start(const struct hexagon_rpc *rpc, uint64_t *handle,
                                     char reason[96]);

struct hexagon_dev {
    struct hexagon_cpu cpu; /* first, see scalar.h */
    struct hexagon_rpc rpc;
    uint64_t handle;
    int is_alive;   /* the DSP answers; once it does not, the CPU goes on with the same weights */
    int is_forced;  /* path "hvx": whatever the estimate says */
    double call_ns; /* of one empty invocation, measured at open */
    double dsp_ns, cpu_ns; /* per multiply-add, measured at open */
    float *y;              /* rpcmem: results of a call */
    size_t y_bytes;
    uint8_t *x; /* rpcmem: rounded activations of a call */
    size_t x_bytes;
};

/* Is this a packed weight of ours? */
int hexagon_is_packed(const struct hal_mat *m);
size_t hexagon_packed_bytes(uint32_t type, uint32_t rows, uint32_t cols);
/* One row of GGUF blocks into its place, and back to F32. */
void hexagon_pack_row(uint32_t type, uint32_t cols, uint32_t row, const uint8_t *blocks,
                      uint8_t *packed);
void hexagon_unpack_row(uint32_t type, uint32_t cols, uint32_t row, const uint8_t *packed,
                        float *out);

/* y of the packed weight for rounded activations, on the CPU. */
void hexagon_multiply_cpu(struct hexagon_dev *dev, const struct hexagon_shape *s, const int8_t *q,
                          const float *d, const uint8_t *packed, float *y);

enum err hexagon_matmul(void *dev, const struct hal_mat *const *y, const struct hal_mat *x,
                        const struct hal_mat *const *w, uint32_t count);
/* Measure both sides on a small product; leaves call_ns, dsp_ns and cpu_ns. */
NODISCARD enum err hexagon_measure(struct hexagon_dev *dev);

#endif
