/* check.h: does a plugin do what scalar does? One check, three uses: CI over all shapes, `tare
 * check`, and the first contact at start-up (quick: milliseconds).
 *
 * Every operation runs on equal inputs on both sides; results are compared by one table of
 * tolerances that no plugin can widen. Buffers end at a guard page, their slack is filled and
 * verified on release. A failure is one line that reproduces itself: operation, shape, pattern,
 * seed, index, got and wanted.
 */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>

#include "hal/hal.h"

enum { CHECK_TEXT_BYTES = 200 };

enum check_pattern {
    CHECK_NORMAL = 0,  /* Gaussian-like */
    CHECK_MAXIMUM = 1, /* everything +1 x the greatest: accumulators must not saturate */
    CHECK_MINIMUM = 2, /* everything -1 x the greatest */
    CHECK_ZERO = 3,
    CHECK_TIES = 4, /* activations halfway between two integers after scaling */
    CHECK_PATTERNS = 5
};

struct check_options {
    uint64_t seed;    /* 0: 1 */
    int is_quick;     /* 1: two shapes, few types: start-up */
    const char *op;   /* only this operation, NULL: all */
    const char *path; /* code path, as in hal_host */
    uint32_t threads; /* for host->threads; 0: 2 */
    FILE *verbose;    /* one line per case, NULL: none */
};

struct check_report {
    uint32_t cases;              /* compared */
    uint32_t steps;              /* cases begun: what shows that a check goes on */
    enum err error;              /* of the first failure */
    char op[16];                 /* that failed, "" when none */
    char text[CHECK_TEXT_BYTES]; /* the reproducing line, "" when none */
};

/* Compare plugin with scalar. plugin may leave operations NULL: they are not checked, fallback.c
 * does them. Returns report->error: ERR_NONE, ERR_MISMATCH (differs, wrote out of bounds, leaked),
 * ERR_UNSUPPORTED (probe refuses), or what the plugin returned. A crash or hang is the caller's to
 * contain (select_first_contact). options NULL: the full check. */
NODISCARD enum err check_plugin(const struct hal_plugin *plugin,
                                const struct check_options *options, struct check_report *report);

/* Weights of one type that a product with one token streams through in the benchmark. */
enum { CHECK_STREAM_BYTES = 128 << 20 };

/* One timed case. */
struct check_timing {
    const char *op;
    char shape[64];      /* "Q4_K n=512 in=4096 out=4096" */
    double ns;           /* median of the samples, one call */
    double reference_ns; /* scalar's, 0 when not timed */
    double gops;         /* 1e9 operations per second (2 per multiply-add), 0: none */
    double gbs;          /* GB/s of what streams: the weights of a product, else what is read and written */
};

/* Time plugin and scalar on the same calls: median of samples of at least 1 ms each. each is called
 * for every case. Errors: as check_plugin, ERR_MEMORY. */
NODISCARD enum err check_bench(const struct hal_plugin *plugin, const struct check_options *options,
                               void (*each)(void *context, const struct check_timing *timing),
                               void *context);

#endif
