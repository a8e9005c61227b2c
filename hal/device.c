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

#include "hal/device_cpu.h"

enum { PATH_BYTES = 512, TEXT_BYTES = 65536 };

/* The start of a file, NUL-terminated; returns its bytes, 0 when absent or empty. */
static size_t read_text(const struct device_source *source, const char *path, char *text,
                        size_t bytes)
{
    char full[PATH_BYTES];
    text[0] = '\0';
    const int length = snprintf(full, sizeof full, "%s%s", source->root, path);
    if (length < 0 || (size_t)length >= sizeof full)
        return 0;
    FILE *file = fopen(full, "re");
    if (file == NULL)
        return 0;
    const size_t n = fread(text, 1, bytes - 1, file);
    fclose(file);
    text[n] = '\0';
    return n;
}

static int read_number(const struct device_source *source, const char *path, double *out)
{
    char text[64], *end;
    if (read_text(source, path, text, sizeof text) == 0)
        return 0;
    *out = strtod(text, &end);
    return end != text;
}

/* "32K", "24576K", "32M" of sysfs */
static uint64_t parse_size(const char *text)
{
    char *end;
    const uint64_t n = strtoull(text, &end, 10);
    return *end == 'K' ? n << 10 : *end == 'M' ? n << 20 : n;
}

/* The value after "key" and ":" on the first line that starts with key. */
static int find_field(const char *text, const char *key, char *out, size_t bytes)
{
    const size_t length = strlen(key);
    for (const char *line = text; line != NULL && *line != '\0';) {
        const char *end = strchr(line, '\n');
        const char *colon = strchr(line, ':');
        if (strncmp(line, key, length) == 0 && colon != NULL && (end == NULL || colon < end) &&
            (isspace((unsigned char)line[length]) || line[length] == ':')) {
            const char *value = colon + 1;
            while (*value == ' ' || *value == '\t')
                value++;
            const size_t n = end != NULL ? (size_t)(end - value) : strlen(value);
            snprintf(out, bytes, "%.*s", (int)n, value);
            return 1;
        }
        line = end != NULL ? end + 1 : NULL;
    }
    return 0;
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

/* "0-3,8" */
static uint32_t count_list(const char *text)
{
    uint32_t count = 0;
    while (isdigit((unsigned char)*text)) {
        char *end;
        const unsigned long first = strtoul(text, &end, 10);
        unsigned long last = first;
        if (*end == '-')
            last = strtoul(end + 1, &end, 10);
        count += last >= first && last - first < 65536 ? (uint32_t)(last - first + 1) : 0;
        text = *end == ',' ? end + 1 : end;
    }
    return count;
}

/* Physical cores: CPUs that are the first of their siblings. */
static uint32_t count_cores(const struct device_source *source, uint32_t cpus)
{
    uint32_t cores = 0;
    for (uint32_t i = 0; i < cpus && i < 1024; i++) {
        char path[PATH_BYTES], text[64];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%u/topology/thread_siblings_list",
                 i);
        if (read_text(source, path, text, sizeof text) != 0 && strtoul(text, NULL, 10) == i)
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
        read_text(source, "/proc/cpuinfo", text, TEXT_BYTES) != 0 &&
        (find_field(text, "model name", line, sizeof line) ||
         find_field(text, "Model", line, sizeof line) ||
         find_field(text, "Hardware", line, sizeof line)))
        snprintf(out->cpu, sizeof out->cpu, "%.*s", (int)sizeof out->cpu - 1, line);
    free(text);
    if (read_text(source, "/sys/devices/system/cpu/online", line, sizeof line) != 0)
        out->cpus = count_list(line);
    out->cpus = out->cpus != 0 ? out->cpus : 1;
    out->cores = count_cores(source, out->cpus);
    for (int i = 0; i < 8; i++) {
        char path[PATH_BYTES], level[16];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/level", i);
        if (read_text(source, path, level, sizeof level) == 0)
            break;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
        if (read_text(source, path, line, sizeof line) == 0)
            continue;
        if (level[0] == '2')
            out->l2_bytes = parse_size(line);
        if (level[0] == '3')
            out->l3_bytes = parse_size(line);
    }
}

/* Our cgroup of version 2, "" or "/..."; the limit of any ancestor counts too. */
static void own_cgroup(const struct device_source *source, char *path, size_t bytes)
{
    char text[4096];
    path[0] = '\0';
    if (read_text(source, "/proc/self/cgroup", text, sizeof text) == 0)
        return;
    char *line = strstr(text, "0::/");
    if (line == NULL)
        return;
    line += 3;
    line[strcspn(line, "\n")] = '\0';
    snprintf(path, bytes, "%s", strcmp(line, "/") == 0 ? "" : line);
}

static void probe_cgroup(const struct device_source *source, uint64_t *limit, double *cpus)
{
    char group[256], path[PATH_BYTES], text[64];
    *limit = 0;
    *cpus = 0;
    own_cgroup(source, group, sizeof group);
    for (;;) {
        double quota, period;
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.max", group);
        if (read_text(source, path, text, sizeof text) != 0 && isdigit((unsigned char)text[0])) {
            const uint64_t bytes = strtoull(text, NULL, 10);
            *limit = *limit == 0 || bytes < *limit ? bytes : *limit;
        }
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", group);
        if (read_text(source, path, text, sizeof text) != 0 &&
            sscanf(text, "%lf %lf", &quota, &period) == 2 && period > 0) {
            const double share = quota / period;
            *cpus = *cpus == 0 || share < *cpus ? share : *cpus;
        }
        char *slash = strrchr(group, '/');
        if (slash == NULL)
            break;
        *slash = '\0';
    }
    /* version 1 */
    if (*limit == 0 &&
        read_text(source, "/sys/fs/cgroup/memory/memory.limit_in_bytes", text, sizeof text) != 0) {
        const uint64_t bytes = strtoull(text, NULL, 10);
        *limit = bytes < UINT64_C(1) << 60 ? bytes : 0;
    }
}

static void probe_memory(const struct device_source *source, struct device_info *out)
{
    char text[4096], value[64];
    if (read_text(source, "/proc/meminfo", text, sizeof text) == 0)
        return;
    if (find_field(text, "MemTotal", value, sizeof value))
        out->memory_bytes = strtoull(value, NULL, 10) << 10;
    if (find_field(text, "MemAvailable", value, sizeof value))
        out->available_bytes = strtoull(value, NULL, 10) << 10;
    if (out->limit_bytes >= out->memory_bytes)
        out->limit_bytes = 0; /* no limit in fact */
    if (out->limit_bytes == 0)
        return;
    char group[256], path[PATH_BYTES];
    double used;
    own_cgroup(source, group, sizeof group);
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.current", group);
    if (!read_number(source, path, &used) || used < 0)
        used = 0;
    const uint64_t left = used < (double)out->limit_bytes ? out->limit_bytes - (uint64_t)used : 0;
    if (left < out->available_bytes)
        out->available_bytes = left;
}

static uint32_t threads_of(const struct device_source *source, uint32_t cpus)
{
    uint64_t limit;
    double share;
    uint32_t threads = cpus;
    cpu_set_t set;
    if (source->root[0] == '\0' && sched_getaffinity(0, sizeof set, &set) == 0)
        threads = (uint32_t)CPU_COUNT(&set);
    probe_cgroup(source, &limit, &share);
    if (share > 0 && ceil(share) < threads)
        threads = (uint32_t)ceil(share);
    return threads != 0 ? threads : 1;
}

static const struct device_source here = {.root = ""};

uint32_t device_threads(void)
{
    char text[256];
    uint32_t cpus = 1;
    if (read_text(&here, "/sys/devices/system/cpu/online", text, sizeof text) != 0)
        cpus = count_list(text);
    return threads_of(&here, cpus != 0 ? cpus : 1);
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
        if (read_text(source, "/machine", text, sizeof text) != 0)
            snprintf(out->machine, sizeof out->machine, "%.*s", (int)strcspn(text, "\n"), text);
        out->kernel[0] = '\0';
        if (read_text(source, "/proc/sys/kernel/osrelease", text, sizeof text) != 0)
            snprintf(out->kernel, sizeof out->kernel, "%.*s", (int)strcspn(text, "\n"), text);
    }
    if (read_text(source, "/proc/device-tree/model", text, sizeof text) == 0 &&
        read_text(source, "/sys/class/dmi/id/product_name", text, sizeof text) == 0)
        return;
    snprintf(out->board, sizeof out->board, "%.*s", (int)sizeof out->board - 1, text);
    trim(out->board);
}

enum err device_probe(const struct device_source *source, struct device_info *out)
{
    struct device_sensors sensors;
    double share;
    const struct device_source *s = source != NULL ? source : &here;
    if (out == NULL || s->root == NULL)
        return ERR_ARGUMENT;
    memset(out, 0, sizeof *out);
    probe_names(s, out);
    probe_cpu(s, out);
    probe_cgroup(s, &out->limit_bytes, &share);
    probe_memory(s, out);
    out->threads = threads_of(s, out->cpus);
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
    char full[PATH_BYTES], child[PATH_BYTES];
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
    char path[PATH_BYTES];
    double milli;
    if (snprintf(path, sizeof path, "%s/temp", folder) < (int)sizeof path &&
        read_number(source, path, &milli) && milli > -100e3 && milli < 250e3 &&
        (isnan(*value) || milli / 1e3 > *value))
        *value = milli / 1e3;
}

/* intel-rapl:0 is a package; intel-rapl:0:1 is a part of it and must not count twice */
static void read_rapl(const struct device_source *source, const char *folder, double *value)
{
    char path[PATH_BYTES];
    double micro;
    const char *name = strrchr(folder, '/') + 1;
    const char *colon = strchr(name, ':');
    if (colon == NULL || strchr(colon + 1, ':') != NULL)
        return;
    if (snprintf(path, sizeof path, "%s/energy_uj", folder) < (int)sizeof path &&
        read_number(source, path, &micro))
        *value = (isnan(*value) ? 0 : *value) + micro / 1e6;
}

/* hwmon: INA3221 of Jetson boards, RAPL through amd_energy */
static void read_hwmon(const struct device_source *source, const char *folder, double *value)
{
    char path[PATH_BYTES];
    double micro;
    if (snprintf(path, sizeof path, "%s/power1_input", folder) < (int)sizeof path &&
        read_number(source, path, &micro))
        *value = (isnan(*value) ? 0 : *value) + micro / 1e6;
}

static void read_supply(const struct device_source *source, const char *folder, double *value)
{
    char path[PATH_BYTES];
    double micro;
    if (snprintf(path, sizeof path, "%s/power_now", folder) < (int)sizeof path &&
        read_number(source, path, &micro))
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
