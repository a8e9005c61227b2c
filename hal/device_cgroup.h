/* device_cgroup.h: what the control groups of this process allow, version 1 and 2; for hal/device.c. */
#ifndef DEVICE_CGROUP_H
#define DEVICE_CGROUP_H

#include "hal/device.h"

struct device_cgroup {
    uint64_t limit_bytes; /* the tightest memory limit of the group and its ancestors; 0: none */
    uint64_t left_bytes;  /* of it, after what is in use and cannot be dropped; no meaning without a limit */
    double quota_cpus;    /* the tightest CPU quota; 0: none */
    uint32_t cpus;        /* of the cpuset; 0: none known */
};

/* Groups are those of /proc/self/cgroup, found where /proc/self/mountinfo says that they are mounted,
 * or, where that is silent, below /sys/fs/cgroup. Unknown facts are 0.
 * Source: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/ of Linux. */
void device_cgroup_read(const struct device_source *source, struct device_cgroup *out);

#endif
