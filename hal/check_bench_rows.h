/* check_bench_rows.h: the part of the benchmark that is not products or codes; for hal/check_bench*.c. */
#ifndef CHECK_BENCH_ROWS_H
#define CHECK_BENCH_ROWS_H

#include "hal/check_case.h"

struct bench;

/* How a case is timed on both sides and reported: ops and bytes of one call, 0 for none. */
struct check_clock {
    const struct check_options *options;
    const struct hal_plugin *plugin;
    const struct bench *bench;
    enum err (*report)(const struct check_clock *clock, const char *op, const char *shape,
                       enum err (*call)(const struct hal_plugin *ops, void *dev, void *context),
                       void *mine, void *theirs, double ops, double bytes);
};

/* Attention, rotary positions, norms, stores, gates and sums, as far as the plugin has them. */
NODISCARD enum err check_bench_rows(struct check_run *c, const struct check_clock *clock);

#endif
