/* device.h: what machine is this? CPU, memory and limits, sensors, and its measured speeds.
 *
 * Everything is read through struct device_source, so that recorded machines are fixtures in
 * tests/device: a folder that looks like / and the answers of CPUID.
 */
#ifndef DEVICE_H
#define DEVICE_H

#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"

enum { DEVICE_ZONES_MAX = 16 };

/* What the CPU and the operating system both support; bits of device_info.features. */
enum device_feature {
    DEVICE_SSE42 = 1u << 0,
    DEVICE_AVX2 = 1u << 1, /* with FMA and F16C */
    DEVICE_AVX_VNNI = 1u << 2,
    DEVICE_AVX_VNNI_INT8 = 1u << 3,
    DEVICE_AVX512 = 1u << 4, /* F, BW, DQ, VL */
    DEVICE_AVX512_VNNI = 1u << 5,
    DEVICE_AVX512_VBMI = 1u << 6,
    DEVICE_AVX512_BF16 = 1u << 7,
    DEVICE_AVX512_FP16 = 1u << 8,
    DEVICE_AMX_INT8 = 1u << 9,
    DEVICE_AMX_BF16 = 1u << 10,
    DEVICE_NEON = 1u << 16,
    DEVICE_DOTPROD = 1u << 17,
    DEVICE_I8MM = 1u << 18,
    DEVICE_FP16 = 1u << 19,
    DEVICE_BF16 = 1u << 20,
    DEVICE_SVE = 1u << 21,
    DEVICE_SVE2 = 1u << 22
};

struct device_source {
    const char *root; /* "" for this machine, else a folder that holds proc/ and sys/ */
    /* CPUID and XGETBV; NULL: this CPU's (all 0 where there is none) */
    void (*cpuid)(void *context, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);
    uint64_t (*xgetbv)(void *context);
    void *context;
    int has_hwcap; /* 1: take hwcap[] in place of getauxval */
    uint64_t hwcap[2];
};

struct device_info {
    char machine[16];         /* uname: "x86_64", "aarch64" */
    char cpu[96];             /* model name, for people */
    char board[96];           /* DMI product or device-tree model, "" when unknown */
    char kernel[64];          /* release */
    uint32_t features;        /* enum device_feature */
    uint32_t cores;           /* physical, online */
    uint32_t cpus;            /* logical, online */
    uint32_t allowed_cpus;    /* of these: by affinity mask and cpuset */
    double quota_cpus;        /* of our cgroups, "1.5 CPUs"; 0: none */
    uint32_t threads;         /* that we may use: the allowed ones and the quota rounded up, at least 1 */
    uint64_t memory_bytes;    /* of the machine */
    uint64_t limit_bytes;     /* of our cgroups; 0: none */
    uint64_t limit_left_bytes; /* of the limit, less what is in use and cannot be dropped */
    uint64_t available_bytes; /* now, within the limit */
    uint64_t l2_bytes;        /* of cpu0 */
    uint64_t l3_bytes;
    int has_temperature; /* a thermal zone answers */
    int has_energy;      /* a RAPL, hwmon or power-supply counter answers */
};

/* Fill out from source (NULL: this machine). Unknown facts are 0 or "". No measuring: under 20 ms.
 * Errors: ERR_ARGUMENT. */
NODISCARD enum err device_probe(const struct device_source *source, struct device_info *out);

/* Threads that this process may use: affinity, cpuset and cgroup quota, at least 1. */
uint32_t device_threads(void);

/* Bytes that the memory limits of our cgroups leave now; UINT64_MAX: there is no limit. */
uint64_t device_memory_left(void);

/* The names of the feature bits, comma-separated, in ascending order: "avx2,avx512-vnni".
 * Returns the number of bytes needed; text may be short. */
size_t device_features(uint32_t features, char *text, size_t bytes);

struct device_sensors {
    double temperature_c; /* the hottest thermal zone; NaN: none */
    double energy_j;      /* counter since an unknown start, sum of packages; NaN: none */
    double power_w;       /* momentary, where the platform offers it; NaN: none */
};

/* Read the sensors (source NULL: this machine). Absent ones are NaN. Errors: ERR_ARGUMENT. */
NODISCARD enum err device_read_sensors(const struct device_source *source,
                                       struct device_sensors *out);

#endif
