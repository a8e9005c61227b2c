/* bench_sweep.h: tare bench --sweep: the chosen settings against all others. */
#ifndef BENCH_SWEEP_H
#define BENCH_SWEEP_H

#include "cli/open_model.h"

/* Choose, then measure repeats samples of wish's goal in every setting; print the table and the ratio. */
int bench_sweep(struct cli_call *call, struct engine *e, const struct tune_wish *wish, uint32_t repeats);

#endif
