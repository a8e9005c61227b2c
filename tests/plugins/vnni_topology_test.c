/* Made-up machines: which CPUs threads get. */
#include "tests/harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "plugins/vnni/vnni_topology.h"

static char root[] = "/tmp/vnni_topology.XXXXXX";

static void put(const char *rest, long value, const char *text)
{
    char path[300];
    snprintf(path, sizeof path, "%s/%s", root, rest);
    for (char *slash = strchr(path + strlen(root) + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0700);
        *slash = '/';
    }
    FILE *f = fopen(path, "w");
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    if (text != NULL)
        fprintf(f, "%s\n", text);
    else
        fprintf(f, "%ld\n", value);
    fclose(f);
}

static void put_cpu(int cpu, const char *name, long value)
{
    char rest[100];
    snprintf(rest, sizeof rest, "cpu/cpu%d/%s", cpu, name);
    put(rest, value, NULL);
}

static void read_first(int cpus, struct vnni_topology *t)
{
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    for (int cpu = 0; cpu < cpus; cpu++)
        CPU_SET((size_t)cpu, &allowed);
    vnni_topology_read(root, &allowed, t);
}

static void clear(void)
{
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s/*", root);
    CU_ASSERT_EQUAL(system(command), 0);
}

/* CPUs 0..3 are the first threads of four cores, 4..7 the second ones; two packages, two nodes. */
static void second_threads_come_last(void)
{
    struct vnni_topology t;
    cpu_set_t set;
    for (int cpu = 0; cpu < 8; cpu++) {
        put_cpu(cpu, "topology/core_id", cpu % 2);
        put_cpu(cpu, "topology/physical_package_id", cpu / 2 % 2);
    }
    put("node/online", 0, "0-1");
    read_first(8, &t);
    CU_ASSERT_EQUAL(t.count, 8);
    CU_ASSERT_EQUAL(t.cores, 4);
    CU_ASSERT_EQUAL(t.nodes, 3);
    for (uint32_t i = 0; i < 8; i++)
        CU_ASSERT_EQUAL(t.cpu[i], i);
    CU_ASSERT(vnni_topology_place(&t, 4, 2, &set) && CPU_COUNT(&set) == 1 && CPU_ISSET(2, &set));
    CU_ASSERT(vnni_topology_place(&t, 8, 7, &set) && CPU_COUNT(&set) == 1 && CPU_ISSET(7, &set));
    CU_ASSERT(vnni_topology_place(&t, 6, 5, &set) && CPU_COUNT(&set) == 1 && CPU_ISSET(5, &set));
    /* fewer than cores: any core, no second threads */
    CU_ASSERT(vnni_topology_place(&t, 3, 0, &set) && CPU_COUNT(&set) == 4 && !CPU_ISSET(4, &set));
    CU_ASSERT(!vnni_topology_place(&t, 9, 0, &set)); /* a share of the machine: the kernel's matter */
    clear();
}

/* Two fast cores of two threads (0..3, neighbours) and four slow ones (4..7). */
static void fast_cores_come_first(void)
{
    struct vnni_topology t;
    static const uint16_t wanted[] = {4, 5, 6, 7};
    for (int cpu = 0; cpu < 8; cpu++) {
        put_cpu(cpu, "topology/core_id", cpu < 4 ? cpu / 2 : cpu);
        put_cpu(cpu, "cpufreq/cpuinfo_max_freq", cpu < 4 ? 5000000 : 3800000);
    }
    read_first(8, &t);
    CU_ASSERT_EQUAL(t.cores, 6);
    CU_ASSERT(t.cpu[0] == 0 && t.cpu[1] == 2 && memcmp(t.cpu + 2, wanted, sizeof wanted) == 0);
    CU_ASSERT(t.cpu[6] == 1 && t.cpu[7] == 3);
    clear();
}

static void silence_means_equal_cores(void)
{
    struct vnni_topology t;
    cpu_set_t set;
    read_first(3, &t);
    CU_ASSERT(t.count == 3 && t.cores == 3 && t.nodes == 1);
    CU_ASSERT(vnni_topology_place(&t, 3, 1, &set) && CPU_ISSET(1, &set) && CPU_COUNT(&set) == 1);
    char page[8192];
    vnni_topology_spread(3, page, sizeof page); /* refused by a machine of one node: no harm */
    CU_ASSERT_EQUAL(rmdir(root), 0);
}

int main(void)
{
    if (mkdtemp(root) == NULL)
        return 1;
    CU_TestInfo tests[] = {{"second threads come last", second_threads_come_last},
                           {"fast cores come first", fast_cores_come_first},
                           {"silence means equal cores", silence_means_equal_cores},
                           CU_TEST_INFO_NULL};
    return harness_run("vnni_topology", tests);
}
