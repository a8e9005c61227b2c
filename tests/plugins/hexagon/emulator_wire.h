/* emulator_wire.h: what the emulated FastRPC library and the emulated DSP say over two pipes; the
 * data lies in a file that both map. Offsets count from the start of that file. */
#ifndef EMULATOR_WIRE_H
#define EMULATOR_WIRE_H

#include <stdint.h>

enum { EMULATOR_BUFFERS = 12, EMULATOR_SHARED_FD = 3 };
#define EMULATOR_SHARED_BYTES (256u << 20)

struct emulator_request {
    uint32_t sequence;
    uint32_t scalars;
    uint32_t buffers;      /* in, then out */
    uint32_t wants_handle; /* one handle out, after the buffers */
    struct {
        uint32_t offset, bytes;
    } buffer[EMULATOR_BUFFERS];
};

struct emulator_response {
    uint32_t sequence;
    int32_t result;
    uint64_t handle;
};

#endif
