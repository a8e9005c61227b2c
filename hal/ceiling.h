/* ceiling.h: what this machine could reach at most: for a device's birth, and in the run that is to be judged by it.
 * There the buffer is as large as what streams in the work that is judged: a smaller one would come from a cache.
 */
#ifndef CEILING_H
#define CEILING_H

#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"

struct ceiling {
    double read_gbs;  /* streaming read of the buffer, threads together */
    double int8_gops; /* 10^9 8-bit multiplies and adds per second in vector registers, threads together */
    double tile_gops; /* the same in AMX tiles; 0: this machine or process has none */
};

/* Best of the passes of about limit_ms for each of the three, on `threads` threads at once. bytes of buffer
 * are allocated and touched. Errors: ERR_ARGUMENT (a zero), ERR_MEMORY. */
NODISCARD enum err ceiling_measure(uint32_t threads, size_t bytes, uint32_t limit_ms,
                                   struct ceiling *out);

#endif
