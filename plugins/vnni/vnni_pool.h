/* vnni_pool.h: a persistent pool of threads that share the tiles of one job.
 *
 * Tiles are claimed one by one, so a slow or preempted core only does fewer of them. Idle threads spin
 * for a while, then sleep in the kernel. Where there is room each has a core of its own (vnni_topology.h).
 * One caller at a time.
 */
#ifndef VNNI_POOL_H
#define VNNI_POOL_H

#include "hal/hal.h"

struct vnni_pool;

/* Work on one tile; thread < threads of the pool, each value used by one thread at a time. */
typedef void vnni_tile_fn(void *context, uint32_t tile, uint32_t thread);

enum { VNNI_POOL_TILES_MAX = 1 << 23 };

/* Start threads - 1 threads beside the caller. Fewer are used when the system refuses more.
 * Errors: ERR_MEMORY. */
NODISCARD enum err vnni_pool_open(const struct hal_host *host, struct vnni_pool **out);
void vnni_pool_close(const struct hal_host *host, struct vnni_pool *pool);

/* The threads that there are, the caller's included; and those of them that run() uses. */
uint32_t vnni_pool_threads(const struct vnni_pool *pool);
uint32_t vnni_pool_active(const struct vnni_pool *pool);

/* Use at most so many, at least 1; the others sleep until they are wanted again. Between two runs. */
void vnni_pool_limit(struct vnni_pool *pool, uint32_t threads);

/* Memory nodes of this machine, a bit each; for vnni_topology_spread(). */
uint64_t vnni_pool_nodes(const struct vnni_pool *pool);

/* work(context, tile, thread) for each tile < tiles (at most VNNI_POOL_TILES_MAX); returns when all are
 * done. A single tile runs in the caller at once. */
void vnni_pool_run(struct vnni_pool *pool, vnni_tile_fn *work, void *context, uint32_t tiles);

#endif
