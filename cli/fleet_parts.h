/* fleet_parts.h: what the files of `tare fleet` share. */
#ifndef FLEET_PARTS_H
#define FLEET_PARTS_H

#include "cli/cli.h"

extern const struct cli_verb fleet_deploy, fleet_rollout, fleet_recalibrate; /* fleet_rollout.c */
extern const struct cli_verb fleet_bench;                                    /* fleet_bench.c */

/* A text member, "" when absent. Lives as long as the document. */
const char *fleet_text(const struct json_t *doc, const char *key);

/* The first 8 characters of a digest or id. Returns out. */
char *fleet_short(const struct json_t *doc, const char *key, char out[16]);

/* A number with so many digits, "" when absent. Returns out. */
char *fleet_number(const struct json_t *doc, const char *key, int digits, char out[32]);

/* The stage a rollout is in, from 1; the last one when it is over. */
int fleet_stage(const struct json_t *rollout);

#endif
