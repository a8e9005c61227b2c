/* device_cpu.h: the CPU's features, for hal/device.c. */
#ifndef DEVICE_CPU_H
#define DEVICE_CPU_H

#include "hal/device.h"

/* enum device_feature bits of source; brand gets the CPUID brand string of at least 49 bytes, ""
 * when there is none. */
uint32_t device_cpu_features(const struct device_source *source, const char *machine, char *brand);

#endif
