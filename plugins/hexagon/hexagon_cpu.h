/* hexagon_cpu.h: whose operations the CPU's half borrows: neon's beside a DSP, scalar's elsewhere
 * (an emulated DSP on a workstation). */
#ifndef HEXAGON_CPU_H
#define HEXAGON_CPU_H

#ifdef __aarch64__
#include "plugins/neon/neon_tile.h"

struct hexagon_cpu {
    struct neon_dev dev; /* first: borrowed operations find scalar_dev at the beginning */
};
#define hexagon_cpu_matmul neon_matmul

static inline struct scalar_dev *hexagon_cpu_scalar(struct hexagon_cpu *cpu)
{
    return &cpu->dev.scalar;
}

static inline void hexagon_cpu_open(struct hexagon_cpu *cpu)
{
    cpu->dev.dot = neon_pick(NULL)->dot; /* base runs everywhere */
}

static inline void hexagon_cpu_fill(struct hal_plugin *p)
{
    *p = scalar_plugin;
    p->rmsnorm = neon_rmsnorm;
    p->attend = neon_attend;
    p->glu = neon_glu;
}
#else
#include "plugins/scalar/scalar.h"

struct hexagon_cpu {
    struct scalar_dev dev; /* first, as above */
};
#define hexagon_cpu_matmul scalar_matmul

static inline struct scalar_dev *hexagon_cpu_scalar(struct hexagon_cpu *cpu)
{
    return &cpu->dev;
}

static inline void hexagon_cpu_open(struct hexagon_cpu *cpu)
{
    (void)cpu;
}

static inline void hexagon_cpu_fill(struct hal_plugin *p)
{
    *p = scalar_plugin;
}
#endif

#endif
