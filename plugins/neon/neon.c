/* neon.c: the plugin's table. Built for plain armv8-a: it runs before probe() has answered. */
#include "plugins/neon/neon_tile.h"

#include <stdio.h>
#include <string.h>

static enum err neon_probe(const char *name, struct hal_caps *caps)
{
    *caps = (struct hal_caps){.score = 0};
    const struct neon_path *p = neon_pick(name);
    if (!p) {
        snprintf(caps->reason, sizeof caps->reason, "no path %.32s on this CPU", name ? name : "");
        return ERR_UNSUPPORTED;
    }
    caps->paths = neon_paths_here();
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
    const struct neon_path *p = neon_pick(host->path);
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
