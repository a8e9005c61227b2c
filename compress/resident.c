#include "compress/resident.h"

#include <stdio.h>
#include <string.h>

static uint64_t read_line(const char *key)
{
    char line[256];
    unsigned long long kib = 0;
    FILE *in = fopen("/proc/self/status", "r");
    while (in && fgets(line, sizeof line, in))
        if (strncmp(line, key, strlen(key)) == 0 && sscanf(line + strlen(key), " %llu kB", &kib) == 1)
            break;
    if (in)
        fclose(in);
    return kib * 1024;
}

uint64_t resident_now(void)
{
    return read_line("VmRSS:");
}

uint64_t resident_peak(void)
{
    return read_line("VmHWM:");
}
