/* cuda.c: the plugin's table, probe, open and close. */
#include "plugins/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "hal/block.h"

enum {
    LOG_BYTES = 4096,            /* of the driver's compiler */
    SPARE_BYTES = 64 << 20       /* left to the driver: stacks, printf, other contexts */
};

/* What device 0 is; ERR_UNSUPPORTED with reason. */
struct found {
    CUdevice device;
    int major, minor, processors;
    int is_mma; /* the path to take */
};

static enum err refuse(struct hal_caps *caps, const char *why)
{
    snprintf(caps->reason, sizeof caps->reason, "%.95s", why);
    return ERR_UNSUPPORTED;
}

static enum err look(const char *path, struct hal_caps *caps, struct found *out)
{
    char why[sizeof caps->reason];
    int count = 0;
    size_t total = 0;
    const struct cuda_driver *driver = cuda_driver_open(why, sizeof why);
    if (driver == NULL)
        return refuse(caps, why);
    if (driver->cuDeviceGetCount(&count) != 0 || count < 1)
        return refuse(caps, "the CUDA driver finds no device");
    if (driver->cuDeviceGet(&out->device, 0) != 0 ||
        driver->cuDeviceGetName(caps->device, sizeof caps->device, out->device) != 0 ||
        driver->cuDeviceTotalMem_v2(&total, out->device) != 0 ||
        driver->cuDeviceGetAttribute(&out->major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                                     out->device) != 0 ||
        driver->cuDeviceGetAttribute(&out->minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
                                     out->device) != 0 ||
        driver->cuDeviceGetAttribute(&out->processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
                                     out->device) != 0)
        return refuse(caps, "the CUDA driver does not describe its device");
    caps->device[sizeof caps->device - 1] = '\0';
    if (10 * out->major + out->minor < 61)
        return refuse(caps, "compute capability below 6.1");
    caps->mem_bytes = total;
    caps->paths = out->major >= 8 ? 2 : 1;
    out->is_mma = out->major >= 8 && (path == NULL || strcmp(path, "mma") == 0);
    if (path != NULL && !out->is_mma && strcmp(path, "dp4a") != 0)
        return refuse(caps, "this GPU has no such path");
    return ERR_NONE;
}

static enum err cuda_probe(const char *path, struct hal_caps *caps)
{
    struct found found;
    uint32_t count;
    memset(caps, 0, sizeof *caps);
    const enum err e = look(path, caps, &found);
    if (e != ERR_NONE)
        return e;
    const struct block_type *const *types = block_types(&count);
    for (uint32_t i = 0; i < count; i++)
        caps->types |= UINT64_C(1) << types[i]->type;
    caps->score = found.is_mma ? 1500 : 1200;
    strcpy(caps->path, found.is_mma ? "mma" : "dp4a");
    return ERR_NONE;
}

static void cuda_close(void *dev)
{
    struct cuda_dev *d = dev;
    if (d == NULL)
        return;
    const struct hal_host host = d->scalar.host;
    if (d->context != NULL && cuda_enter(d) == ERR_NONE) {
        /* a failure of work queued or still running shows here, and is logged */
        (void)!cuda_start(d);
        (void)!cuda_result(d, "cuCtxSynchronize", d->driver->cuCtxSynchronize());
        cuda_free(d, d->scratch, d->scratch_values / 32 * 44);
        cuda_free(d, d->parts, CUDA_PARTS_BYTES);
        cuda_free(d, d->notes.mem, CUDA_NOTES_BYTES);
        cuda_graph_close(d);
        if (d->tiles != NULL)
            (void)!cuda_result(d, "cuModuleUnload", d->driver->cuModuleUnload(d->tiles));
        if (d->base != NULL)
            (void)!cuda_result(d, "cuModuleUnload", d->driver->cuModuleUnload(d->base));
    }
    if (d->context != NULL)
        (void)!cuda_result(d, "cuDevicePrimaryCtxRelease",
                           d->driver->cuDevicePrimaryCtxRelease_v2(d->device));
    host.release(d->memory, cuda_queue_bytes());
    scalar_close_from(&d->scalar);
    host.release(d, sizeof *d);
}

/* Compile one module; the compiler's own words go to the log, without which a refusal is a bare
 * number. words: LOG_BYTES */
static enum err load_module(struct cuda_dev *d, const char *text, char *words, CUmodule *out)
{
    CUjit_option options[2] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void *values[2] = {words, (void *)(uintptr_t)LOG_BYTES};
    words[0] = '\0';
    const enum err e = cuda_result(d, "cuModuleLoadDataEx",
                                   d->driver->cuModuleLoadDataEx(out, text, 2, options, values));
    words[LOG_BYTES - 1] = '\0';
    if (e != ERR_NONE && words[0] != '\0' && d->scalar.host.log != NULL)
        d->scalar.host.log(LOG_ERR, words);
    return e;
}

static enum err find_kernels(struct cuda_dev *d, char *words)
{
    enum err e = load_module(d, cuda_ptx_base, words, &d->base);
    if (e == ERR_NONE)
        e = load_module(d, d->has_mma ? cuda_ptx_mma : cuda_ptx_dp4a, words, &d->tiles);
#define FIND_IN(module, name)                                                                      \
    if (e == ERR_NONE)                                                                             \
        e = cuda_result(d, #name,                                                                  \
                        d->driver->cuModuleGetFunction(&d->kernel[CUDA_KERNEL_##name], module,     \
                                                       #name));
#define FIND_BASE(name, args) FIND_IN(d->base, name)
#define FIND_TILES(name, args) FIND_IN(d->tiles, name)
    CUDA_KERNELS_BASE(FIND_BASE)
    if (d->has_mma) {
        CUDA_KERNELS_MMA(FIND_TILES)
    } else {
        CUDA_KERNELS_DP4A(FIND_TILES)
    }
    return e;
}

static enum err open_device(struct cuda_dev *d)
{
    size_t free_bytes = 0, total = 0;
    char *words = d->scalar.host.alloc(LOG_BYTES); /* before anything slow is done in vain */
    if (words == NULL)
        return ERR_MEMORY;
    enum err e = cuda_result(d, "cuDevicePrimaryCtxRetain",
                             d->driver->cuDevicePrimaryCtxRetain(&d->context, d->device));
    if (e != ERR_NONE) {
        d->context = NULL;
        goto out;
    }
    e = cuda_enter(d);
    if (e == ERR_NONE)
        e = find_kernels(d, words);
    if (e == ERR_NONE)
        e = cuda_result(d, "cuMemGetInfo", d->driver->cuMemGetInfo_v2(&free_bytes, &total));
    d->budget = free_bytes > SPARE_BYTES ? free_bytes - SPARE_BYTES : 0;
    if (e == ERR_NONE)
        e = cuda_alloc(d, CUDA_NOTES_BYTES, &d->notes.mem);
    if (e == ERR_NONE)
        e = cuda_alloc(d, CUDA_PARTS_BYTES, &d->parts);
out:
    d->scalar.host.release(words, LOG_BYTES);
    return e;
}

static enum err cuda_open(const struct hal_host *host, void **dev)
{
    struct hal_caps caps;
    struct found found;
    char why[8];
    memset(&caps, 0, sizeof caps);
    enum err e = look(host->path, &caps, &found);
    if (e != ERR_NONE)
        return e;
    struct cuda_dev *d = host->alloc(sizeof *d);
    if (d == NULL)
        return ERR_MEMORY;
    memset(d, 0, sizeof *d);
    struct hal_host borrowed = *host; /* scalar has its own names of paths */
    borrowed.path = NULL;
    e = scalar_open_into(&borrowed, &d->scalar);
    if (e != ERR_NONE) {
        host->release(d, sizeof *d);
        return e;
    }
    d->driver = cuda_driver_open(why, sizeof why); /* open: look() has used it */
    d->device = found.device;
    d->has_mma = found.is_mma;
    d->processors = (uint32_t)found.processors;
    const char *const graphs = getenv("TARE_CUDA_GRAPHS"); /* 0: for comparison */
    d->has_graphs = d->driver->has_graphs && (graphs == NULL || strcmp(graphs, "0") != 0);
    void *const memory = host->alloc(cuda_queue_bytes());
    if (memory != NULL)
        cuda_queue_open(d, memory);
    e = memory != NULL ? open_device(d) : ERR_MEMORY;
    if (e != ERR_NONE) {
        cuda_close(d);
        return e;
    }
    *dev = d;
    return ERR_NONE;
}

static void fill(struct hal_plugin *p)
{
    *p = (struct hal_plugin){
        .name = "cuda",
        .version = "1",
        .probe = cuda_probe,
        .open = cuda_open,
        .close = cuda_close,
        .mat_new = cuda_mat_new,
        .mat_free = cuda_mat_free,
        .mat_put = cuda_mat_put,
        .mat_get = cuda_mat_get,
        .matmul = cuda_matmul,
        .embed = cuda_embed,
        .rmsnorm = cuda_rmsnorm,
        .layernorm = cuda_layernorm,
        .rope = cuda_rope,
        .store = cuda_store,
        .attend = cuda_attend,
        .glu = cuda_glu,
        .add = cuda_add,
        .scale = cuda_scale,
        .scatter = cuda_scatter,
        /* encode and decode are the CPU's, who has the bytes */
        .copy = cuda_copy,
        .limit_threads = scalar_limit_threads,
        .top = cuda_top,
    };
}

HAL_EXPORT(fill)
