/* vnni_topology.c: sysfs as the kernel's Documentation/ABI describes it. */
#include "plugins/vnni/vnni_topology.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PATH_BYTES = 300, TEXT_BYTES = 200, PAGE = 4096, MPOL_INTERLEAVE = 3, NODES_MAX = 64 };

/* The first bytes of a file as text; 0 when there is none. */
static int read_text(const char *root, const char *rest, char text[TEXT_BYTES])
{
    char path[PATH_BYTES];
    if (snprintf(path, sizeof path, "%s/%s", root, rest) >= (int)sizeof path)
        return 0;
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0;
    const ssize_t got = read(file, text, TEXT_BYTES - 1);
    close(file);
    text[got < 0 ? 0 : got] = '\0';
    return got > 0;
}

/* A number of cpu<cpu>/<name>, or otherwise. */
static long cpu_number(const char *root, uint32_t cpu, const char *name, long otherwise)
{
    char rest[PATH_BYTES], text[TEXT_BYTES];
    snprintf(rest, sizeof rest, "cpu/cpu%u/%s", cpu, name);
    return read_text(root, rest, text) ? strtol(text, NULL, 10) : otherwise;
}

/* "0-1,4" as bits; 1 when it says nothing. */
static uint64_t node_bits(const char *root)
{
    char text[TEXT_BYTES];
    uint64_t bits = 0;
    if (!read_text(root, "node/has_memory", text) && !read_text(root, "node/online", text))
        return 1;
    for (char *p = text; *p >= '0' && *p <= '9';) {
        const unsigned long first = strtoul(p, &p, 10);
        const unsigned long last = *p == '-' ? strtoul(p + 1, &p, 10) : first;
        for (unsigned long n = first; n <= last && n < NODES_MAX; n++)
            bits |= UINT64_C(1) << n;
        p += *p == ',';
    }
    return bits != 0 ? bits : 1;
}

struct place {
    uint16_t cpu;
    long core;    /* the same for the threads of a core */
    long speed;
    long thread;  /* of its core: 0 is the first */
};

static int before(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    if (x->thread != y->thread)
        return x->thread < y->thread ? -1 : 1;
    if (x->speed != y->speed)
        return x->speed > y->speed ? -1 : 1;
    return x->cpu < y->cpu ? -1 : x->cpu > y->cpu;
}

void vnni_topology_read(const char *root, const cpu_set_t *allowed, struct vnni_topology *out)
{
    struct place places[CPU_SETSIZE];
    memset(out, 0, sizeof *out);
    out->nodes = node_bits(root);
    for (uint32_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, allowed))
            continue;
        struct place *p = &places[out->count++];
        const long core = cpu_number(root, cpu, "topology/core_id", -1);
        const long package = cpu_number(root, cpu, "topology/physical_package_id", 0);
        *p = (struct place){.cpu = (uint16_t)cpu, .core = core < 0 ? -1 - (long)cpu : package << 20 | core};
        p->speed = cpu_number(root, cpu, "cpu_capacity", -1);
        if (p->speed < 0)
            p->speed = cpu_number(root, cpu, "cpufreq/cpuinfo_max_freq", 0);
        for (const struct place *q = places; q < p; q++)
            p->thread += q->core == p->core;
        out->cores += p->thread == 0;
    }
    qsort(places, out->count, sizeof *places, before);
    for (uint32_t i = 0; i < out->count; i++)
        out->cpu[i] = places[i].cpu;
}

int vnni_topology_place(const struct vnni_topology *t, uint32_t threads, uint32_t index, cpu_set_t *out)
{
    CPU_ZERO(out);
    if (threads > t->count || index >= threads)
        return 0;
    if (threads >= t->cores) {
        CPU_SET(t->cpu[index], out);
        return 1;
    }
    for (uint32_t i = 0; i < t->cores; i++)
        CPU_SET(t->cpu[i], out);
    return 1;
}

void vnni_topology_spread(uint64_t nodes, void *p, size_t bytes)
{
    if ((nodes & (nodes - 1)) == 0)
        return;
    const uintptr_t start = ((uintptr_t)p + PAGE - 1) / PAGE * PAGE, end = ((uintptr_t)p + bytes) / PAGE * PAGE;
    const unsigned long mask = (unsigned long)nodes;
    if (start < end)
        (void)syscall(SYS_mbind, start, end - start, MPOL_INTERLEAVE, &mask, NODES_MAX + 1UL, 0UL);
}
