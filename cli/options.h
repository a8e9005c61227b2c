/* options.h: from a command line to a verb's settings, and from its tables to its help. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stdio.h>

#include "cli/cli.h"

enum { OPTIONS_OPERANDS_MAX = 4096 };

/* Parse argv[0..argc) (what follows the verb's name) into call: common, settings (allocated here,
 * presets applied), operands. Sets *wants_help and parses no further at --help or -h.
 * Returns CLI_DONE, CLI_USAGE (cli_fail was called) or CLI_ENVIRONMENT (no memory). */
int options_parse(struct cli_call *call, int argc, char **argv, bool *wants_help);

/* Release what options_parse allocated. */
void options_free(struct cli_call *call);

/* Print the help of one verb: usage, options with defaults, examples. */
void options_help(const struct cli_verb *verb, const char *full_name, FILE *to);

#endif
