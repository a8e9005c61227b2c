/* neon_path.c: which levels of the architecture this CPU has. Built for plain armv8-a. */
#include "plugins/neon/neon_tile.h"

#include <string.h>
#include <sys/auxv.h>
#include <asm/hwcap.h>

static const struct neon_path paths[] = {
    {"i8mm", neon_dot_i8mm, 140},
    {"dotprod", neon_dot_dotprod, 130},
    {"base", neon_dot_base, 110},
};
enum { PATHS = sizeof paths / sizeof paths[0] };

static int runs_here(const struct neon_path *p)
{
    const int has_dotprod = (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
    if (p->dot == neon_dot_i8mm)
        return has_dotprod && (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
    return p->dot == neon_dot_base || has_dotprod;
}

const struct neon_path *neon_pick(const char *name)
{
    for (uint32_t i = 0; i < PATHS; i++)
        if (runs_here(&paths[i]) && (!name || strcmp(name, paths[i].name) == 0))
            return &paths[i];
    return NULL;
}

uint32_t neon_paths_here(void)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < PATHS; i++)
        count += runs_here(&paths[i]) ? 1u : 0u;
    return count;
}
