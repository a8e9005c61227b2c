/* hexagon_skel.h: what the host's plugin and the DSP's module say to each other over FastRPC, and
 * how weights lie in the memory that both see. Included on both sides; little-endian, 32- and
 * 64-bit.
 *
 * Weights: tiles of 32 rows, the last one filled up with zeros; of each tile, for each 32 values of
 * its rows, one group: Q8_0   1024 bytes of codes, then 32 F16 scales: byte 128 j + 4 row + i is
 * value 4 j + i of the row Q4_0    512 bytes of codes, then 32 F16 scales: byte 128 j + 4 row + i
 * holds value 4 j + i in its low nibble and value 16 + 4 j + i in its high one, both plus 8 so that
 * one vector of 128 bytes is four values of 32 rows, which one vrmpy multiplies. The size is that
 * of the file's blocks.
 *
 * Source: public FastRPC interface (github.com/qualcomm/fastrpc), re-declared.
 */
#ifndef HEXAGON_SKEL_H
#define HEXAGON_SKEL_H

#include <stddef.h>
#include <stdint.h>

enum {
    HEXAGON_TILE_ROWS = 32,
    HEXAGON_GROUP = 32, /* values of a row that share a scale */
    HEXAGON_Q8_GROUP_BYTES = 1024 + 64,
    HEXAGON_Q4_GROUP_BYTES = 512 + 64,
    HEXAGON_ROWS_MAX = 1 << 20,
    HEXAGON_COLS_MAX = 1 << 17,
    HEXAGON_TOKENS_MAX = 64, /* of one call: bounds the sums that the DSP keeps */
    HEXAGON_VERSION = 1
};

/* The scalars word: method, buffers in, buffers out, handles in, handles out. */
#define HEXAGON_SCALARS(method, in, out, handles_in, handles_out)                                  \
    ((uint32_t)(method) << 24 | (uint32_t)(in) << 16 | (uint32_t)(out) << 8 |                      \
     (uint32_t)(handles_in) << 4 | (uint32_t)(handles_out))

enum hexagon_method {
    HEXAGON_OPEN = 0,
    HEXAGON_CLOSE = 1,
    HEXAGON_INFO = 2,  /* out: struct hexagon_info */
    HEXAGON_MATMUL = 3 /* in: struct hexagon_shape, x codes, x scales, weights; out: y */
};

struct hexagon_info {
    uint32_t version; /* HEXAGON_VERSION */
    uint32_t architecture;
    uint32_t vector_bytes;
};

/* y[tokens, rows] = x[tokens, cols] w[rows, cols]^T; x as int8 codes and one F32 scale per 32. type
 * is 8 or 2, as in hal.h. */
struct hexagon_shape {
    uint32_t type;
    uint32_t tokens;
    uint32_t rows;
    uint32_t cols;
};

/* A buffer or handle of an invocation. */
union hexagon_arg {
    struct {
        void *data;
        size_t bytes;
    } buffer;
    uint64_t handle;
};

/* Error numbers of FastRPC; those made on the DSP carry HEXAGON_REMOTE. */
enum {
    HEXAGON_REMOTE = (int)0x80000400,
    HEXAGON_BAD_PARAMETER = 0x0e,
    HEXAGON_UNSUPPORTED = 0x14,
    HEXAGON_NO_SUCH = 39,
    HEXAGON_BAD_PERMISSIONS = 0x4e,
    HEXAGON_RESET = 104,
    HEXAGON_REFUSED = 0x72,
    HEXAGON_RPC = 0x200
};

#endif
