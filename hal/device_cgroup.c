/* device_cgroup.c: both versions, each controller where it is mounted: on a hybrid system memory may be
 * limited by version 1 while version 2 is mounted beside it. */
#include "hal/device_cgroup.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hal/device_text.h"

enum { TEXT_BYTES = 16384, FOLDER_BYTES = 256, NAME_BYTES = 64 };

/* Above this a limit of version 1 is "none": it is the largest page-aligned number. */
static const uint64_t NO_LIMIT = UINT64_C(1) << 60;

/* Where one controller of ours is: base/own, where base is the mount point and own "" or "/a/b". */
struct place {
    char base[FOLDER_BYTES];
    char own[FOLDER_BYTES];
};

/* Is word one of the comma-separated ones? */
static int has_word(const char *list, size_t bytes, const char *word)
{
    const size_t length = strlen(word);
    for (size_t i = 0; i + length <= bytes; i++)
        if ((i == 0 || list[i - 1] == ',') && strncmp(list + i, word, length) == 0 &&
            (i + length == bytes || list[i + length] == ','))
            return 1;
    return 0;
}

/* Our group of a controller ("" for version 2) from lines "7:cpu,cpuacct:/a/b". */
static void find_own(const char *text, const char *controller, char *own, size_t bytes)
{
    for (const char *line = text; line != NULL && *line != '\0';) {
        const char *names = strchr(line, ':');
        const char *path = names != NULL ? strchr(names + 1, ':') : NULL;
        if (path == NULL)
            return;
        const size_t length = (size_t)(path - names - 1);
        if (controller[0] == '\0' ? length == 0 && line[0] == '0' : has_word(names + 1, length, controller)) {
            snprintf(own, bytes, "%.*s", (int)strcspn(path + 1, "\n"), path + 1);
            if (strcmp(own, "/") == 0)
                own[0] = '\0';
            return;
        }
        line = strchr(line, '\n');
        line = line != NULL ? line + 1 : NULL;
    }
}

/* The mount of a controller from lines "35 31 0:32 /root /point options - cgroup source rw,memory"; root is
 * the group that the mount shows, which is not "/" inside a container. */
static void find_mount(const char *text, const char *controller, char *root, char *point, size_t bytes)
{
    for (const char *line = text; line != NULL && *line != '\0';) {
        char own_root[NAME_BYTES * 4], own_point[NAME_BYTES * 4], type[NAME_BYTES], options[NAME_BYTES * 4];
        const char *next = strchr(line, '\n'), *dash = strstr(line, " - ");
        if (dash != NULL && (next == NULL || dash < next) &&
            sscanf(line, "%*s %*s %*s %255s %255s", own_root, own_point) == 2 &&
            sscanf(dash, " - %63s %*s %255s", type, options) == 2) {
            const int is_it = controller[0] == '\0'
                                  ? strcmp(type, "cgroup2") == 0
                                  : strcmp(type, "cgroup") == 0 && has_word(options, strlen(options), controller);
            if (is_it) {
                snprintf(root, bytes, "%s", strcmp(own_root, "/") == 0 ? "" : own_root);
                snprintf(point, bytes, "%s", own_point);
                return;
            }
        }
        line = next != NULL ? next + 1 : NULL;
    }
}

static void find_place(const struct device_source *source, const char *controller, struct place *out)
{
    char *text = malloc(TEXT_BYTES), root[FOLDER_BYTES] = "";
    *out = (struct place){"", ""};
    snprintf(out->base, sizeof out->base, "/sys/fs/cgroup%s%s", controller[0] != '\0' ? "/" : "", controller);
    if (text == NULL)
        return;
    if (device_text_read(source, "/proc/self/cgroup", text, TEXT_BYTES) != 0)
        find_own(text, controller, out->own, sizeof out->own);
    if (device_text_read(source, "/proc/self/mountinfo", text, TEXT_BYTES) != 0)
        find_mount(text, controller, root, out->base, sizeof out->base);
    free(text);
    /* a mount that begins at our group or above it shows only what is below */
    const size_t length = strlen(root);
    if (length > 0 && strncmp(out->own, root, length) == 0 && (out->own[length] == '/' || out->own[length] == '\0'))
        memmove(out->own, out->own + length, strlen(out->own + length) + 1);
    else if (length > 0 || strncmp(out->own, "/..", 3) == 0)
        out->own[0] = '\0';
}

static size_t read_in(const struct device_source *source, const struct place *p, const char *name, char *text,
                      size_t bytes)
{
    char path[2 * FOLDER_BYTES + NAME_BYTES];
    snprintf(path, sizeof path, "%s%s/%s", p->base, p->own, name);
    return device_text_read(source, path, text, bytes);
}

static int number_in(const struct device_source *source, const struct place *p, const char *name, double *out)
{
    char path[2 * FOLDER_BYTES + NAME_BYTES];
    snprintf(path, sizeof path, "%s%s/%s", p->base, p->own, name);
    return device_text_number(source, path, out);
}

/* To the parent; 0: there is none. */
static int climb(struct place *p)
{
    char *slash = strrchr(p->own, '/');
    if (slash == NULL)
        return 0;
    *slash = '\0';
    return 1;
}

/* Pages of files that nobody has asked for of late are dropped before anyone is killed. */
static double droppable(const struct device_source *source, const struct place *p, const char *key)
{
    char text[4096];
    if (read_in(source, p, "memory.stat", text, sizeof text) == 0)
        return 0;
    const size_t length = strlen(key);
    for (const char *line = text; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, key, length) == 0 && line[length] == ' ')
            return strtod(line + length, NULL);
    }
    return 0;
}

static void take_limit(struct device_cgroup *out, uint64_t limit, double used)
{
    const uint64_t left = used <= 0 ? limit : used < (double)limit ? limit - (uint64_t)used : 0;
    if (out->limit_bytes == 0 || left < out->left_bytes)
        out->left_bytes = left;
    if (out->limit_bytes == 0 || limit < out->limit_bytes)
        out->limit_bytes = limit;
}

static void read_memory(const struct device_source *source, int version, struct device_cgroup *out)
{
    static const char *const files[2][3] = {
        {"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"},
        {"memory.max", "memory.current", "inactive_file"}};
    const char *const *file = files[version - 1];
    struct place p;
    find_place(source, version == 1 ? "memory" : "", &p);
    do {
        char text[64];
        double used = 0;
        if (read_in(source, &p, file[0], text, sizeof text) == 0 || !isdigit((unsigned char)text[0]))
            continue;
        const uint64_t limit = strtoull(text, NULL, 10);
        if (limit >= NO_LIMIT)
            continue;
        if (number_in(source, &p, file[1], &used))
            used -= droppable(source, &p, file[2]);
        take_limit(out, limit, used);
    } while (climb(&p));
}

static void take_quota(struct device_cgroup *out, double quota, double period)
{
    if (quota <= 0 || period <= 0)
        return;
    const double share = quota / period;
    if (out->quota_cpus == 0 || share < out->quota_cpus)
        out->quota_cpus = share;
}

static void read_quota(const struct device_source *source, int version, struct device_cgroup *out)
{
    struct place p;
    find_place(source, version == 1 ? "cpu" : "", &p);
    do {
        char text[64];
        double quota, period;
        if (version == 1) {
            if (number_in(source, &p, "cpu.cfs_quota_us", &quota) &&
                number_in(source, &p, "cpu.cfs_period_us", &period))
                take_quota(out, quota, period);
        } else if (read_in(source, &p, "cpu.max", text, sizeof text) != 0 &&
                   sscanf(text, "%lf %lf", &quota, &period) == 2) {
            take_quota(out, quota, period);
        }
    } while (climb(&p));
}

static void read_cpuset(const struct device_source *source, int version, struct device_cgroup *out)
{
    static const char *const files[2] = {"cpuset.effective_cpus", "cpuset.cpus.effective"};
    struct place p;
    char text[1024];
    find_place(source, version == 1 ? "cpuset" : "", &p);
    if (read_in(source, &p, files[version - 1], text, sizeof text) == 0)
        read_in(source, &p, "cpuset.cpus", text, sizeof text);
    const uint32_t cpus = device_text_count(text);
    if (cpus != 0 && (out->cpus == 0 || cpus < out->cpus))
        out->cpus = cpus;
}

void device_cgroup_read(const struct device_source *source, struct device_cgroup *out)
{
    *out = (struct device_cgroup){.limit_bytes = 0};
    for (int version = 1; version <= 2; version++) {
        read_memory(source, version, out);
        read_quota(source, version, out);
        read_cpuset(source, version, out);
    }
}
