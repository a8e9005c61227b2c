/* resident.h: how much memory this process has resident, as the kernel counts it. */
#ifndef RESIDENT_H
#define RESIDENT_H

#include <stdint.h>

/* Bytes now (VmRSS) and the most there ever were (VmHWM); 0 when the system does not say. */
uint64_t resident_now(void);
uint64_t resident_peak(void);

#endif
