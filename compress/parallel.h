/* parallel.h: a loop over ranges on several threads, for the methods that are not done by a plugin. */
#ifndef PARALLEL_H
#define PARALLEL_H

#include <stdint.h>

#include "protocol/err.h"

typedef enum err parallel_work(void *context, uint32_t first, uint32_t last);

/* Run work over 0..count in pieces of grain, taken by `threads` threads (the caller's included) as they
 * become free; results must not depend on the split. Returns the first error. */
NODISCARD enum err parallel_run(uint32_t threads, uint32_t count, uint32_t grain, parallel_work *work,
                                void *context);

#endif
