/* region.h: large blocks of memory side by side.
 *
 * An allocator that maps every block by itself leaves gaps between them, so that the 2 MiB pages of the
 * processor fit into few: a decoded token walks all weights, and with pages of 4 KiB it waits for the walk of
 * their tables and for prefetchers that stop at their ends. Blocks of REGION_LEAST bytes and more are cut from
 * regions of address space; who owns neighbours may ask for huge pages (madvise) up to the next multiple of
 * 2 MiB behind its block. Any thread.
 */
#ifndef REGION_H
#define REGION_H

#include <stddef.h>

enum { REGION_LEAST = 128 << 10, REGION_HUGE = 2 << 20 };

/* bytes >= REGION_LEAST, aligned to a page, not resident until written; NULL: no memory. */
void *region_alloc(size_t bytes);

/* What was resident is given back to the system. 0: p is not from region_alloc, and nothing was done. */
int region_release(void *p);

#endif
