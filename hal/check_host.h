/* check_host.h: memory for plugins under check: every buffer ends at a guard page, its slack is
 * filled and verified on release, and the n-th allocation can be made to fail. One check at a time
 * per process. */
#ifndef CHECK_HOST_H
#define CHECK_HOST_H

#include "hal/hal.h"

/* Forget what was counted; threads and path are what the plugin is offered. */
void check_host_start(struct hal_host *out, uint32_t threads, const char *path);

/* The n-th allocation from now on (1: the next) fails, 0: none. Returns whether the last one asked
 * for has failed since. */
int check_host_fail_at(uint32_t n);

/* Buffers that are out. */
uint32_t check_host_live(void);

/* What was found wrong since start, or NULL: "wrote 3 bytes past the end of a buffer of 100". */
const char *check_host_fault(void);

/* A host without guards, for the reference. */
extern const struct hal_host check_host_plain;

#endif
