/* engine.h: an opened plugin whose every operation is there.
 *
 * An engine is the only thing that model/ and compress/ see of a plugin: ops are the plugin's own
 * functions, or, where the plugin leaves one out, hal/fallback.c with scalar on host copies. Call
 * them as e->ops.matmul(e->dev, ...) under the rules of hal.h (one caller at a time per engine).
 *
 * Memory that engines and their plugins take through hal_host is counted for the whole process; the
 * budget is set by the engine opened last.
 */
#ifndef ENGINE_H
#define ENGINE_H

#include "hal/hal.h"

enum { ENGINE_REFUSALS_MAX = 16, ENGINE_REASON_BYTES = 200, ENGINE_NAME_BYTES = 32 };

/* A plugin file that does not serve, and why, in words for people. */
struct engine_refusal {
    char name[ENGINE_NAME_BYTES]; /* file name without ".so" */
    enum err error;
    char reason[ENGINE_REASON_BYTES];
};

struct engine_options {
    const char *plugin; /* "scalar", "vnni", ...; NULL: the highest score that passes the check */
    const char *path;   /* code path within the plugin ("avx2"), NULL: the best of this machine */
    uint32_t threads;   /* caller included; 0: as many as device_probe grants */
    const char *folder; /* of plugin files; NULL: the build's or the installed one */
    const char *const *keys; /* further minisign public keys, one base64 line each; NULL: none */
    uint32_t key_count;
    uint64_t budget_bytes; /* host memory for this process' engines; 0: none but the cgroup's limit, if it
                            * has one: an allocation that would end in a kill is refused instead */
    int is_unchecked;      /* 1: skip the first contact in a child; for `tare check` and tests */
    void (*log)(int syslog_level, const char *message); /* NULL: silence */
};

struct engine {
    struct hal_plugin ops; /* no NULL among the operations; limit_threads is none */
    void *dev;
    struct hal_caps caps;
    struct hal_host host;  /* host.alloc and host.release count against the budget */
    char helper[ENGINE_NAME_BYTES]; /* the CPU's plugin beside an accelerator, hal/split.h; "" without */
    uint32_t fallback_ops; /* bit i: operation i after matmul is done by hal/fallback.c */
    struct engine_refusal
        refused[ENGINE_REFUSALS_MAX]; /* what was tried before and did not serve */
    uint32_t refusals;
    uint32_t threads; /* in use: host.threads, or what engine_limit_threads said */
};

/* Pick, check, load and open a plugin. out gets an engine, or NULL on error.
 * With options->plugin named and refused: the refusal's error, and, if refusal is not NULL, its
 * words. Without a name scalar always serves, so only ERR_MEMORY is left. options NULL: all
 * defaults. Call it before the process starts threads of its own: the first contact forks. Errors:
 * ERR_NOT_FOUND (no such plugin), ERR_SIGNATURE, ERR_VERSION, ERR_FORMAT, ERR_MISMATCH,
 * ERR_CRASHED, ERR_TIMEOUT, ERR_UNSUPPORTED (machine or path), ERR_MEMORY. */
NODISCARD enum err engine_open(const struct engine_options *options, struct engine **out,
                               struct engine_refusal *refusal);

/* Compute with at most so many threads from here on, 1 .. host.threads. Errors: ERR_UNSUPPORTED (the plugin
 * cannot: nothing has changed), ERR_ARGUMENT. */
NODISCARD enum err engine_limit_threads(struct engine *engine, uint32_t threads);

/* NULL is allowed. All matrices of the engine must have been freed. */
void engine_close(struct engine *engine);

/* One line for people: which plugin and path serves, what of it scalar does on the CPU, and who was refused
 * and why: "cuda mma; encode, decode on the CPU; refused: hexagon (no FastRPC library)". Cut where out ends. */
void engine_describe(const struct engine *engine, char *out, size_t bytes);

/* Bytes that are out through hal_host now, and the most there ever were. Any thread. */
uint64_t engine_memory_used(void);
uint64_t engine_memory_peak(void);
/* The budget in force; 0: none. */
uint64_t engine_memory_budget(void);

#endif
