/* vnni.c: the plugin's table. Built without ISA flags: it runs before probe() has answered. */
#include "plugins/vnni/vnni.h"
#include "plugins/vnni/vnni_cpu.h"

#include <string.h>

struct path {
    const char *name;
    uint32_t score;
    const struct vnni_kernels *kernels;
};

static const struct path paths[VNNI_PATHS] = {
    [VNNI_AVX2] = {"avx2", 120, &vnni_avx2_kernels},
    [VNNI_AVXVNNI] = {"avxvnni", 140, &vnni_avxvnni_kernels},
    [VNNI_AVX512] = {"avx512-vnni", 160, &vnni_avx512_kernels},
    [VNNI_AMX] = {"amx-int8", 180, &vnni_amx_kernels},
};

/* The path to take: the one named or the best; VNNI_PATHS when the machine has it not. */
static enum vnni_path choose(const struct vnni_cpu *cpu, const char *name)
{
    for (int i = VNNI_PATHS - 1; i >= 0; i--) {
        if ((cpu->paths >> i & 1u) != 0 &&
            (name == NULL || strcmp(name, paths[i].name) == 0))
            return (enum vnni_path)i;
    }
    return VNNI_PATHS;
}

static uint64_t types_taken(void)
{
    uint64_t types = 0;
    for (uint32_t type = 0; type < 64; type++) {
        if (vnni_layout_of(type) != NULL || vnni_layout_dense_bytes(type) != 0)
            types |= UINT64_C(1) << type;
    }
    return types;
}

static enum err vnni_probe(const char *path, struct hal_caps *caps)
{
    struct vnni_cpu cpu;
    memset(caps, 0, sizeof *caps);
    vnni_cpu_read(&cpu);
    memcpy(caps->device, cpu.device, sizeof caps->device);
    const enum vnni_path chosen = choose(&cpu, path);
    if (chosen == VNNI_PATHS) {
        strcpy(caps->reason, cpu.paths == 0 ? cpu.reason : "this machine has no such path");
        return ERR_UNSUPPORTED;
    }
    for (uint32_t i = 0; i < VNNI_PATHS; i++)
        caps->paths += cpu.paths >> i & 1u;
    caps->score = paths[chosen].score;
    caps->types = types_taken();
    strcpy(caps->path, paths[chosen].name);
    return ERR_NONE;
}

static void vnni_close(void *dev)
{
    struct vnni_dev *d = dev;
    if (d == NULL)
        return;
    const struct hal_host host = d->host;
    host.release(d->unpacked, d->unpacked_bytes * vnni_pool_threads(d->pool));
    host.release(d->input, d->input_bytes);
    vnni_pool_close(&host, d->pool);
    scalar_close_from(&d->scalar);
    host.release(d, sizeof *d);
}

static enum err vnni_open(const struct hal_host *host, void **dev)
{
    struct vnni_cpu cpu;
    vnni_cpu_read(&cpu);
    enum vnni_path chosen = choose(&cpu, host->path);
    if (chosen == VNNI_AMX && !vnni_cpu_request_tiles()) {
        cpu.paths &= ~(1u << VNNI_AMX);
        chosen = choose(&cpu, host->path);
    }
    if (chosen == VNNI_PATHS)
        return ERR_UNSUPPORTED;
    struct vnni_dev *d = host->alloc(sizeof *d);
    if (d == NULL)
        return ERR_MEMORY;
    memset(d, 0, sizeof *d);
    d->host = *host;
    d->kernels = paths[chosen].kernels;
    enum err e = vnni_pool_open(host, &d->pool);
    if (e != ERR_NONE)
        goto out;
    struct hal_host borrowed = *host; /* scalar has its own names of paths */
    borrowed.path = NULL;
    e = scalar_open_into(&borrowed, &d->scalar);
    if (e != ERR_NONE)
        goto out;
    *dev = d;
    return ERR_NONE;
out:
    vnni_pool_close(host, d->pool);
    host->release(d, sizeof *d);
    return e;
}

static enum err vnni_limit_threads(void *dev, uint32_t threads)
{
    struct vnni_dev *d = dev;
    const enum err e = scalar_limit_threads(&d->scalar, threads);
    if (e == ERR_NONE)
        vnni_pool_limit(d->pool, threads);
    return e;
}

static void fill(struct hal_plugin *p)
{
    *p = scalar_plugin;
    p->name = "vnni";
    p->probe = vnni_probe;
    p->open = vnni_open;
    p->close = vnni_close;
    p->mat_new = vnni_mat_new;
    p->mat_free = vnni_mat_free;
    p->mat_put = vnni_mat_put;
    p->mat_get = vnni_mat_get;
    p->matmul = vnni_matmul;
    p->embed = vnni_embed;
    p->rmsnorm = vnni_rmsnorm;
    p->layernorm = vnni_layernorm;
    p->rope = vnni_rope;
    p->store = vnni_store;
    p->attend = vnni_attend;
    p->glu = vnni_glu;
    p->add = vnni_add;
    p->scale = vnni_scale;
    p->scatter = vnni_scatter;
    p->encode = vnni_encode;
    p->decode = vnni_decode;
    p->copy = vnni_copy;
    p->limit_threads = vnni_limit_threads;
}

HAL_EXPORT(fill)
