/* vnni_cpu.h: what this processor and its operating system allow. Executes nothing beyond CPUID, XGETBV
 * where the system enables it, and one system call. */
#ifndef VNNI_CPU_H
#define VNNI_CPU_H

#include <stdint.h>

struct vnni_cpu {
    uint32_t paths;   /* bit (1 << enum vnni_path) for each path that can run */
    char device[64];  /* brand string, or "x86" */
    char reason[96];  /* why no path can run, else "" */
};

void vnni_cpu_read(struct vnni_cpu *out);

/* Ask the system for the tile registers of AMX, for the whole process. Returns 1 when granted. */
int vnni_cpu_request_tiles(void);

#endif
