/* neon.c: the plugin's table. Built for plain armv8-a: it runs before probe() has answered. */
#include "plugins/neon/neon_tile.h"

#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <asm/hwcap.h>

struct path {
    const char *name;
    neon_dot_fn *dot;
    uint32_t score;
};

static const struct path paths[] = {
    {"i8mm", neon_dot_i8mm, 140},
    {"dotprod", neon_dot_dotprod, 130},
    {"base", neon_dot_base, 110},
};
enum { PATHS = sizeof paths / sizeof paths[0] };

static int runs_here(const struct path *p)
{
    const int has_dotprod = (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
    if (p->dot == neon_dot_i8mm)
        return has_dotprod && (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
    return p->dot == neon_dot_base || has_dotprod;
}

/* The best path of this machine, or the named one; NULL when there is none. */
static const struct path *pick(const char *name)
{
    for (uint32_t i = 0; i < PATHS; i++)
        if (runs_here(&paths[i]) && (!name || strcmp(name, paths[i].name) == 0))
            return &paths[i];
    return NULL;
}

static enum err neon_probe(const char *name, struct hal_caps *caps)
{
    *caps = (struct hal_caps){.score = 0};
    const struct path *p = pick(name);
    if (!p) {
        snprintf(caps->reason, sizeof caps->reason, "no path %.32s on this CPU", name ? name : "");
        return ERR_UNSUPPORTED;
    }
    for (uint32_t i = 0; i < PATHS; i++)
        caps->paths += runs_here(&paths[i]) ? 1u : 0u;
    struct hal_caps reference;
    const enum err e = scalar_plugin.probe(NULL, &reference);
    if (e)
        return e;
    caps->score = p->score;
    caps->types = reference.types;
    snprintf(caps->device, sizeof caps->device, "%s", reference.device);
    snprintf(caps->path, sizeof caps->path, "%s", p->name);
    return ERR_NONE;
}

static enum err neon_open(const struct hal_host *host, void **dev)
{
    const struct path *p = pick(host->path);
    if (!p)
        return ERR_UNSUPPORTED;
    struct neon_dev *d = host->alloc(sizeof *d);
    if (!d)
        return ERR_MEMORY;
    const enum err e = scalar_open_into(host, &d->scalar);
    if (e) {
        host->release(d, sizeof *d);
        return e;
    }
    d->dot = p->dot;
    *dev = d;
    return ERR_NONE;
}

static void neon_close(void *dev)
{
    struct neon_dev *d = dev;
    if (!d)
        return;
    void (*release)(void *, size_t) = d->scalar.host.release;
    scalar_close_from(&d->scalar);
    release(d, sizeof *d);
}

static void fill(struct hal_plugin *p)
{
    *p = scalar_plugin;
    p->name = "neon";
    p->version = "1";
    p->probe = neon_probe;
    p->open = neon_open;
    p->close = neon_close;
    p->matmul = neon_matmul;
    p->rmsnorm = neon_rmsnorm;
    p->attend = neon_attend;
    p->glu = neon_glu;
}

HAL_EXPORT(fill)
