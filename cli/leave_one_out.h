/* leave_one_out.h: compress/sensitivity.h with progress and its results kept for the user. */
#ifndef LEAVE_ONE_OUT_H
#define LEAVE_ONE_OUT_H

#include "cli/cli.h"
#include "compress/sensitivity.h"

/* options without cache and progress: results lie in $XDG_CACHE_HOME/tare or ~/.cache/tare. */
NODISCARD enum err leave_one_out(const struct cli_call *call, const struct sensitivity_options *options,
                                 struct plan_errors *errors, struct fault *f);

#endif
