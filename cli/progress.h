/* progress.h: how far a long verb is: a bar with rate and time left on a terminal, plain lines
 * elsewhere, nothing with --quiet. Always on standard error. */
#ifndef PROGRESS_H
#define PROGRESS_H

#include "cli/cli.h"

struct progress {
    const char *label; /* "quantise" */
    const char *unit;  /* "tokens"; "bytes" is shown in MiB */
    double total;      /* 0: unknown */
    double done;
    double started_s, shown_s;
    int shown_tenth; /* last tenth that a plain line announced */
    bool is_terminal, is_quiet;
    char note[96];
};

/* Start; label and unit are borrowed until progress_close. */
void progress_open(struct progress *p, const struct cli_call *call, const char *label,
                   const char *unit, double total);

/* Say that `done` of the total is done; cheap enough for every tensor or window. note (may be NULL)
 * is what is being worked on. One thread at a time. */
void progress_update(struct progress *p, double done, const char *note);

/* End the bar; with is_complete a plain terminal line of the total and its time stays. */
void progress_close(struct progress *p, bool is_complete);

#endif
