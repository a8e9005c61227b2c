/* device_test.c: recorded machines, and this one. */
#include "tests/harness.h"

#include <math.h>
#include <string.h>

#include "hal/ceiling.h"
#include "hal/device.h"

static struct device_info probe(const struct device_source *source)
{
    struct device_info info;
    memset(&info, 0xd0, sizeof info);
    CU_ASSERT_EQUAL_FATAL(device_probe(source, &info), ERR_NONE);
    return info;
}

static void test_pi5(void)
{
    /* HWCAP of a Cortex-A76: asimd, fphp, asimdhp, asimddp */
    const struct device_source source = {
        .root = SOURCE_DIR "/tests/device/pi5", .has_hwcap = 1, .hwcap = {0x100fff, 0}};
    struct device_sensors sensors;
    char text[128];
    const struct device_info info = probe(&source);
    CU_ASSERT_STRING_EQUAL(info.machine, "aarch64");
    CU_ASSERT_STRING_EQUAL(info.cpu, "Raspberry Pi 5 Model B Rev 1.0");
    CU_ASSERT_STRING_EQUAL(info.board, "Raspberry Pi 5 Model B Rev 1.0");
    CU_ASSERT_STRING_EQUAL(info.kernel, "6.6.31+rpt-rpi-2712");
    CU_ASSERT_EQUAL(info.features, DEVICE_NEON | DEVICE_DOTPROD | DEVICE_FP16);
    device_features(info.features, text, sizeof text);
    CU_ASSERT_STRING_EQUAL(text, "neon,dotprod,fp16");
    CU_ASSERT_EQUAL(info.cpus, 4);
    CU_ASSERT_EQUAL(info.cores, 4);
    CU_ASSERT_EQUAL(info.threads, 3); /* 2.5 CPUs of quota */
    CU_ASSERT_EQUAL(info.memory_bytes, UINT64_C(8256688) << 10);
    CU_ASSERT_EQUAL(info.limit_bytes, 1 << 30); /* the tightest of its ancestors */
    CU_ASSERT_EQUAL(info.available_bytes, 768 << 20);
    CU_ASSERT_EQUAL(info.l2_bytes, 512 << 10);
    CU_ASSERT_EQUAL(info.l3_bytes, 2 << 20);
    CU_ASSERT_TRUE(info.has_temperature);
    CU_ASSERT_FALSE(info.has_energy);
    CU_ASSERT_EQUAL(device_read_sensors(&source, &sensors), ERR_NONE);
    CU_ASSERT_DOUBLE_EQUAL(sensors.temperature_c, 51.75, 1e-9);
    CU_ASSERT_TRUE(isnan(sensors.energy_j));
    CU_ASSERT_TRUE(isnan(sensors.power_w));
}

/* A CPU with everything, and an operating system that saves what xcr0 says. */
static void cpuid(void *context, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    static const char brand[49] = "     Imaginary(R) Server CPU @ 9.00GHz          ";
    (void)context;
    memset(out, 0, 4 * sizeof *out);
    if (leaf == 0)
        out[0] = 0x20;
    if (leaf == 1)
        out[2] = 1u << 12 | 1u << 20 | 1u << 27 | 1u << 29;
    if (leaf == 7 && subleaf == 0) {
        out[1] = 1u << 5 | 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
        out[2] = 1u << 1 | 1u << 11;
        out[3] = 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25;
    }
    if (leaf == 7 && subleaf == 1) {
        out[0] = 1u << 4 | 1u << 5;
        out[3] = 1u << 4;
    }
    if (leaf >= 0x80000002u && leaf <= 0x80000004u)
        memcpy(out, brand + 16 * (leaf - 0x80000002u), 16);
}

static uint64_t xgetbv(void *context)
{
    return *(const uint64_t *)context;
}

static void test_server(void)
{
    uint64_t xcr0 = 0x600e7;
    struct device_source source = {.root = SOURCE_DIR "/tests/device/server",
                                   .cpuid = cpuid,
                                   .xgetbv = xgetbv,
                                   .context = &xcr0};
    const uint32_t vex = DEVICE_SSE42 | DEVICE_AVX2 | DEVICE_AVX_VNNI | DEVICE_AVX_VNNI_INT8;
    const uint32_t evex = DEVICE_AVX512 | DEVICE_AVX512_VNNI | DEVICE_AVX512_VBMI |
                          DEVICE_AVX512_BF16 | DEVICE_AVX512_FP16;
    struct device_info info = probe(&source);
    CU_ASSERT_EQUAL(info.features, vex | evex | DEVICE_AMX_INT8 | DEVICE_AMX_BF16);
    CU_ASSERT_STRING_EQUAL(info.cpu, "Imaginary(R) Server CPU @ 9.00GHz");
    CU_ASSERT_STRING_EQUAL(info.board, "PowerEdge R760");
    CU_ASSERT_EQUAL(info.cpus, 8);
    CU_ASSERT_EQUAL(info.cores, 4);
    CU_ASSERT_EQUAL(info.threads, 8);
    CU_ASSERT_EQUAL(info.limit_bytes, 0);
    CU_ASSERT_EQUAL(info.available_bytes, UINT64_C(100000000) << 10);
    CU_ASSERT_TRUE(info.has_energy);
    CU_ASSERT_FALSE(info.has_temperature);
    struct device_sensors sensors;
    CU_ASSERT_EQUAL(device_read_sensors(&source, &sensors), ERR_NONE);
    CU_ASSERT_DOUBLE_EQUAL(sensors.energy_j, 4.0, 1e-9); /* packages, not their parts */
    CU_ASSERT_DOUBLE_EQUAL(sensors.power_w, 12.5, 1e-9);
    /* bits that the operating system does not back up do not count */
    xcr0 = 0xe7;
    CU_ASSERT_EQUAL(probe(&source).features, vex | evex);
    xcr0 = 0x7;
    CU_ASSERT_EQUAL(probe(&source).features, vex);
    xcr0 = 0x3;
    CU_ASSERT_EQUAL(probe(&source).features, DEVICE_SSE42);
}

/* Nothing is there: unknown is 0 or "", and at least one thread. */
static void test_bare(void)
{
    const struct device_source source = {.root = SOURCE_DIR "/tests/device/bare"};
    const struct device_info info = probe(&source);
    CU_ASSERT_STRING_EQUAL(info.machine, "riscv64");
    CU_ASSERT_STRING_EQUAL(info.cpu, "");
    CU_ASSERT_EQUAL(info.features, 0);
    CU_ASSERT_EQUAL(info.cpus, 1);
    CU_ASSERT_EQUAL(info.threads, 1);
    CU_ASSERT_EQUAL(info.memory_bytes, 0);
    CU_ASSERT_FALSE(info.has_temperature);
    CU_ASSERT_FALSE(info.has_energy);
}

/* Version 2 as a container sees it: its own group is the root of what is mounted. */
static void test_container(void)
{
    const struct device_source source = {.root = SOURCE_DIR "/tests/device/container"};
    const struct device_info info = probe(&source);
    CU_ASSERT_EQUAL(info.cpus, 8);
    CU_ASSERT_EQUAL(info.allowed_cpus, 5); /* the cpuset is narrower than the mask */
    CU_ASSERT_DOUBLE_EQUAL(info.quota_cpus, 1.5, 1e-9);
    CU_ASSERT_EQUAL(info.threads, 2);
    CU_ASSERT_EQUAL(info.limit_bytes, 512 << 20);
    /* 384 MiB in use, 256 MiB of it files that nobody asked for of late */
    CU_ASSERT_EQUAL(info.limit_left_bytes, 384 << 20);
    CU_ASSERT_EQUAL(info.available_bytes, 384 << 20);
}

/* Version 1, each controller elsewhere, beside an empty version 2. */
static void test_hybrid(void)
{
    const struct device_source source = {.root = SOURCE_DIR "/tests/device/hybrid"};
    const struct device_info info = probe(&source);
    CU_ASSERT_EQUAL(info.allowed_cpus, 4);
    CU_ASSERT_DOUBLE_EQUAL(info.quota_cpus, 6, 1e-9); /* of the parent; the mount begins in a container */
    CU_ASSERT_EQUAL(info.threads, 4);
    CU_ASSERT_EQUAL(info.limit_bytes, 512 << 20);
    CU_ASSERT_EQUAL(info.limit_left_bytes, 128 << 20); /* the parent has a larger limit, but less is left */
    CU_ASSERT_EQUAL(info.available_bytes, 128 << 20);
}

static void test_here(void)
{
    char text[8];
    const struct device_info info = probe(NULL);
    CU_ASSERT_TRUE(info.threads >= 1 && info.threads <= info.cpus);
    CU_ASSERT_TRUE(info.cores >= 1 && info.cores <= info.cpus);
    CU_ASSERT_TRUE(info.memory_bytes > 0 && info.available_bytes <= info.memory_bytes);
    CU_ASSERT_EQUAL(device_threads(), info.threads);
    CU_ASSERT_TRUE(info.allowed_cpus >= info.threads && info.allowed_cpus <= info.cpus);
    CU_ASSERT_TRUE((info.limit_bytes == 0) == (device_memory_left() == UINT64_MAX) ||
                   info.limit_bytes >= info.memory_bytes);
    CU_ASSERT_EQUAL(device_probe(NULL, NULL), ERR_ARGUMENT);
    /* cut to the room there is, and the room that it needs */
    CU_ASSERT_EQUAL(device_features(DEVICE_AVX2 | DEVICE_AVX_VNNI, text, sizeof text), 14);
    CU_ASSERT_STRING_EQUAL(text, "avx2,av");
}

static void test_speed(void)
{
    struct ceiling speed;
    CU_ASSERT_EQUAL(ceiling_measure(2, 8 << 20, 20, &speed), ERR_NONE);
    CU_ASSERT_TRUE(speed.read_gbs > 0.05 && speed.read_gbs < 5000);
    CU_ASSERT_TRUE(speed.int8_gops > 0.01 && speed.int8_gops < 1e6);
    CU_ASSERT_TRUE(speed.tile_gops == 0 || speed.tile_gops > speed.int8_gops);
    CU_ASSERT_EQUAL(ceiling_measure(0, 8 << 20, 20, &speed), ERR_ARGUMENT);
    CU_ASSERT_EQUAL(ceiling_measure(2, 8 << 20, 0, &speed), ERR_ARGUMENT);
}

RUN_SUITE("device", {"Raspberry Pi 5 in a cgroup", test_pi5}, {"server", test_server},
          {"nothing known", test_bare}, {"cgroups of version 2", test_container},
          {"cgroups of version 1", test_hybrid}, {"this machine", test_here}, {"speed", test_speed})
