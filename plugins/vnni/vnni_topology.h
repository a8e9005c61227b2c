/* vnni_topology.h: which CPUs the threads of the pool get, and which memory the weights.
 *
 * Cores of different speed need no shares of their own: tiles are claimed one by one, so a fast core does more
 * of them. What is decided here is only that no two threads share a core while another one is idle. On a
 * machine of several memory nodes weights are spread over all of them page by page, because any thread may
 * claim any tile: each then reads at the speed of all nodes, whichever tiles it gets.
 */
#ifndef VNNI_TOPOLOGY_H
#define VNNI_TOPOLOGY_H

#include <sched.h>
#include <stddef.h>
#include <stdint.h>

/* The CPUs that we may use: one of each core first, fast cores before slow ones, then the second threads of
 * cores in the same order. */
struct vnni_topology {
    uint32_t count;
    uint32_t cores;
    uint64_t nodes; /* bit i: memory node i */
    uint16_t cpu[CPU_SETSIZE];
};

/* root: "/sys/devices/system". What is not told there counts as cores of one thread and equal speed, and one
 * node. */
void vnni_topology_read(const char *root, const cpu_set_t *allowed, struct vnni_topology *out);

/* The CPUs for thread `index` of `threads`; 0: leave it to the kernel. Fewer CPUs than threads: left. As many
 * CPUs or cores as threads, or more threads than cores: one CPU each. Fewer threads than cores: one CPU of
 * every core, among which the kernel moves them, because another process may have begun with the same
 * cores. */
int vnni_topology_place(const struct vnni_topology *t, uint32_t threads, uint32_t index, cpu_set_t *out);

/* Spread the pages of a buffer that nobody has touched over the nodes; only a wish. */
void vnni_topology_spread(uint64_t nodes, void *p, size_t bytes);

#endif
