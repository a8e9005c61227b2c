/* scalar_pool.h: the threads behind scalar_parallel; for plugins/scalar alone. */
#ifndef SCALAR_POOL_H
#define SCALAR_POOL_H

#include "plugins/scalar/scalar.h"

/* host->threads - 1 threads that sleep until scalar_parallel; out gets NULL when that is none.
 * Errors: ERR_MEMORY. A thread that cannot be started is done without. */
NODISCARD enum err scalar_pool_open(const struct hal_host *host, struct scalar_pool **out);

/* So many threads besides the caller take part from here on; at most as many as there are. */
void scalar_pool_limit(struct scalar_pool *pool, uint32_t threads);

/* NULL is allowed. No scalar_parallel may be running. */
void scalar_pool_close(struct scalar_pool *pool);

#endif
