/* verbs.h: the verbs of tare, in the order of its help. One line each: VERB(name) stands for the
 * `const struct cli_verb cli_<name>` that cli/<name>.c exports. */
#ifndef VERBS_H
#define VERBS_H

#include "cli/cli.h"

/* clang-format off */
#define VERBS(VERB) \
    VERB(import) \
    VERB(inspect) \
    VERB(calibrate) \
    VERB(profile) \
    VERB(quantize) \
    VERB(eval) \
    VERB(run) \
    VERB(embed) \
    VERB(bench) \
    VERB(plugins) \
    VERB(check) \
    VERB(keygen) \
    VERB(sign) \
    VERB(verify) \
    VERB(fleet) \
    /* the end */
/* clang-format on */

#define VERBS_DECLARE(name) extern const struct cli_verb cli_##name;
VERBS(VERBS_DECLARE)

#endif
