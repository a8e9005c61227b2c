/* device.c: facts about this machine from /proc and /sys, or from a recording of them. */
#include "hal/device.h"

#include <ctype.h>
#include <dirent.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "hal/device_cgroup.h"
#include "hal/device_cpu.h"
#include "hal/device_text.h"

enum { TEXT_BYTES = 65536 };

/* "32K", "24576K", "32M" of sysfs */
static uint64_t parse_size(const char *text)
{
    char *end;
    const uint64_t n = strtoull(text, &end, 10);
    return *end == 'K' ? n << 10 : *end == 'M' ? n << 20 : n;
}

static void trim(char *text)
{
    size_t n = strlen(text);
    size_t first = strspn(text, " \t");
    memmove(text, text + first, n - first + 1);
    n -= first;
    while (n > 0 && isspace((unsigned char)text[n - 1]))
        text[--n] = '\0';
}

/* Physical cores: CPUs that are the first of their siblings. */
static uint32_t count_cores(const struct device_source *source, uint32_t cpus)
{
    uint32_t cores = 0;
    for (uint32_t i = 0; i < cpus && i < 1024; i++) {
        char path[DEVICE_PATH_BYTES], text[64];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%u/topology/thread_siblings_list",
                 i);
        if (device_text_read(source, path, text, sizeof text) != 0 && strtoul(text, NULL, 10) == i)
            cores++;
    }
    return cores != 0 ? cores : cpus;
}

static void probe_cpu(const struct device_source *source, struct device_info *out)
{
    char *text = malloc(TEXT_BYTES);
    char brand[64], line[256];
    out->features = device_cpu_features(source, out->machine, brand);
    trim(brand);
    snprintf(out->cpu, sizeof out->cpu, "%s", brand);
    if (text != NULL && out->cpu[0] == '\0' &&
        device_text_read(source, "/proc/cpuinfo", text, TEXT_BYTES) != 0 &&
        (device_text_field(text, "model name", line, sizeof line) ||
         device_text_field(text, "Model", line, sizeof line) ||
         device_text_field(text, "Hardware", line, sizeof line)))
        snprintf(out->cpu, sizeof out->cpu, "%.*s", (int)sizeof out->cpu - 1, line);
    free(text);
    if (device_text_read(source, "/sys/devices/system/cpu/online", line, sizeof line) != 0)
        out->cpus = device_text_count(line);
    out->cpus = out->cpus != 0 ? out->cpus : 1;
    out->cores = count_cores(source, out->cpus);
    for (int i = 0; i < 8; i++) {
        char path[DEVICE_PATH_BYTES], level[16];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/level", i);
        if (device_text_read(source, path, level, sizeof level) == 0)
            break;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
        if (device_text_read(source, path, line, sizeof line) == 0)
            continue;
        if (level[0] == '2')
            out->l2_bytes = parse_size(line);
        if (level[0] == '3')
            out->l3_bytes = parse_size(line);
    }
}

static void probe_memory(const struct device_source *source, const struct device_cgroup *group,
                         struct device_info *out)
{
    char text[4096], value[64];
    if (device_text_read(source, "/proc/meminfo", text, sizeof text) == 0)
        return;
    if (device_text_field(text, "MemTotal", value, sizeof value))
        out->memory_bytes = strtoull(value, NULL, 10) << 10;
    if (device_text_field(text, "MemAvailable", value, sizeof value))
        out->available_bytes = strtoull(value, NULL, 10) << 10;
    if (group->limit_bytes == 0 || group->limit_bytes >= out->memory_bytes)
        return; /* no limit in fact */
    out->limit_bytes = group->limit_bytes;
    out->limit_left_bytes = group->left_bytes;
    if (group->left_bytes < out->available_bytes)
        out->available_bytes = group->left_bytes;
}

/* The CPUs that the mask allows; the cpuset is part of the mask, but a recording may have only one of them. */
static uint32_t allowed_cpus(const struct device_source *source, const struct device_cgroup *group, uint32_t cpus)
{
    char text[8192], list[1024];
    cpu_set_t set;
    uint32_t allowed = 0;
    if (source->root[0] == '\0' && sched_getaffinity(0, sizeof set, &set) == 0)
        allowed = (uint32_t)CPU_COUNT(&set);
    else if (device_text_read(source, "/proc/self/status", text, sizeof text) != 0 &&
             device_text_field(text, "Cpus_allowed_list", list, sizeof list))
        allowed = device_text_count(list);
    allowed = allowed != 0 && allowed < cpus ? allowed : cpus;
    return group->cpus != 0 && group->cpus < allowed ? group->cpus : allowed;
}

/* A part of a CPU still is a thread that moves: 1.5 CPUs are two threads that rest a quarter of the time. */
static uint32_t threads_of(const struct device_cgroup *group, uint32_t allowed)
{
    const double share = ceil(group->quota_cpus - 1e-9);
    if (group->quota_cpus > 0 && share < allowed)
        allowed = (uint32_t)share;
    return allowed != 0 ? allowed : 1;
}

static const struct device_source here = {.root = ""};

uint32_t device_threads(void)
{
    char text[256];
    struct device_cgroup group;
    uint32_t cpus = 1;
    if (device_text_read(&here, "/sys/devices/system/cpu/online", text, sizeof text) != 0)
        cpus = device_text_count(text);
    device_cgroup_read(&here, &group);
    return threads_of(&group, allowed_cpus(&here, &group, cpus != 0 ? cpus : 1));
}

uint64_t device_memory_left(void)
{
    struct device_cgroup group;
    device_cgroup_read(&here, &group);
    return group.limit_bytes != 0 ? group.left_bytes : UINT64_MAX;
}

static void probe_names(const struct device_source *source, struct device_info *out)
{
    struct utsname name;
    char text[256];
    if (uname(&name) == 0) {
        snprintf(out->machine, sizeof out->machine, "%.*s", (int)sizeof out->machine - 1,
                 name.machine);
        snprintf(out->kernel, sizeof out->kernel, "%.*s", (int)sizeof out->kernel - 1,
                 name.release);
    }
    if (source->root[0] != '\0') { /* a recording says its own */
        if (device_text_read(source, "/machine", text, sizeof text) != 0)
            snprintf(out->machine, sizeof out->machine, "%.*s", (int)strcspn(text, "\n"), text);
        out->kernel[0] = '\0';
        if (device_text_read(source, "/proc/sys/kernel/osrelease", text, sizeof text) != 0)
            snprintf(out->kernel, sizeof out->kernel, "%.*s", (int)strcspn(text, "\n"), text);
    }
    if (device_text_read(source, "/proc/device-tree/model", text, sizeof text) == 0 &&
        device_text_read(source, "/sys/class/dmi/id/product_name", text, sizeof text) == 0)
        return;
    snprintf(out->board, sizeof out->board, "%.*s", (int)sizeof out->board - 1, text);
    trim(out->board);
}

enum err device_probe(const struct device_source *source, struct device_info *out)
{
    struct device_sensors sensors;
    struct device_cgroup group;
    const struct device_source *s = source != NULL ? source : &here;
    if (out == NULL || s->root == NULL)
        return ERR_ARGUMENT;
    memset(out, 0, sizeof *out);
    probe_names(s, out);
    probe_cpu(s, out);
    device_cgroup_read(s, &group);
    probe_memory(s, &group, out);
    out->quota_cpus = group.quota_cpus;
    out->allowed_cpus = allowed_cpus(s, &group, out->cpus);
    out->threads = threads_of(&group, out->allowed_cpus);
    const enum err e = device_read_sensors(s, &sensors);
    out->has_temperature = e == ERR_NONE && !isnan(sensors.temperature_c);
    out->has_energy = e == ERR_NONE && (!isnan(sensors.energy_j) || !isnan(sensors.power_w));
    return e;
}

size_t device_features(uint32_t features, char *text, size_t bytes)
{
    static const char *const names[32] = {
        "sse4.2",      "avx2",        "avx-vnni",    "avx-vnni-int8",
        "avx512",      "avx512-vnni", "avx512-vbmi", "avx512-bf16",
        "avx512-fp16", "amx-int8",    "amx-bf16",    NULL,
        NULL,          NULL,          NULL,          NULL,
        "neon",        "dotprod",     "i8mm",        "fp16",
        "bf16",        "sve",         "sve2"};
    size_t used = 0;
    if (bytes > 0)
        text[0] = '\0';
    for (int i = 0; i < 32; i++) {
        if (!(features >> i & 1u) || names[i] == NULL)
            continue;
        const size_t at = used < bytes ? used : bytes;
        const int n = snprintf(text + at, bytes - at, "%s%s", used != 0 ? "," : "", names[i]);
        used += n > 0 ? (size_t)n : 0;
    }
    return used + 1;
}

/* Folders of a class in /sys, one by one, until read says stop. */
static void each_folder(const struct device_source *source, const char *path,
                        void (*read)(const struct device_source *, const char *, double *),
                        double *value)
{
    char full[DEVICE_PATH_BYTES], child[DEVICE_PATH_BYTES];
    if (snprintf(full, sizeof full, "%s%s", source->root, path) >= (int)sizeof full)
        return;
    DIR *folder = opendir(full);
    if (folder == NULL)
        return;
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;)
        if (entry->d_name[0] != '.' &&
            snprintf(child, sizeof child, "%s/%s", path, entry->d_name) < (int)sizeof child)
            read(source, child, value);
    closedir(folder);
}

static void read_zone(const struct device_source *source, const char *folder, double *value)
{
    char path[DEVICE_PATH_BYTES];
    double milli;
    if (snprintf(path, sizeof path, "%s/temp", folder) < (int)sizeof path &&
        device_text_number(source, path, &milli) && milli > -100e3 && milli < 250e3 &&
        (isnan(*value) || milli / 1e3 > *value))
        *value = milli / 1e3;
}

/* intel-rapl:0 is a package; intel-rapl:0:1 is a part of it and must not count twice */
static void read_rapl(const struct device_source *source, const char *folder, double *value)
{
    char path[DEVICE_PATH_BYTES];
    double micro;
    const char *name = strrchr(folder, '/') + 1;
    const char *colon = strchr(name, ':');
    if (colon == NULL || strchr(colon + 1, ':') != NULL)
        return;
    if (snprintf(path, sizeof path, "%s/energy_uj", folder) < (int)sizeof path &&
        device_text_number(source, path, &micro))
        *value = (isnan(*value) ? 0 : *value) + micro / 1e6;
}

/* hwmon: INA3221 of Jetson boards, RAPL through amd_energy */
static void read_hwmon(const struct device_source *source, const char *folder, double *value)
{
    char path[DEVICE_PATH_BYTES];
    double micro;
    if (snprintf(path, sizeof path, "%s/power1_input", folder) < (int)sizeof path &&
        device_text_number(source, path, &micro))
        *value = (isnan(*value) ? 0 : *value) + micro / 1e6;
}

static void read_supply(const struct device_source *source, const char *folder, double *value)
{
    char path[DEVICE_PATH_BYTES];
    double micro;
    if (snprintf(path, sizeof path, "%s/power_now", folder) < (int)sizeof path &&
        device_text_number(source, path, &micro))
        *value = (isnan(*value) ? 0 : *value) + fabs(micro) / 1e6;
}

enum err device_read_sensors(const struct device_source *source, struct device_sensors *out)
{
    const struct device_source *s = source != NULL ? source : &here;
    if (out == NULL || s->root == NULL)
        return ERR_ARGUMENT;
    *out = (struct device_sensors){NAN, NAN, NAN};
    each_folder(s, "/sys/class/thermal", read_zone, &out->temperature_c);
    each_folder(s, "/sys/class/powercap", read_rapl, &out->energy_j);
    each_folder(s, "/sys/class/hwmon", read_hwmon, &out->power_w);
    if (isnan(out->power_w))
        each_folder(s, "/sys/class/power_supply", read_supply, &out->power_w);
    return ERR_NONE;
}
