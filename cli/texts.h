/* texts.h: the texts and gates that several verbs take from the command line. */
#ifndef TEXTS_H
#define TEXTS_H

#include "cli/cli.h"
#include "cli/progress.h"
#include "compress/judge.h"

enum { TEXTS_MAX = 256, TEXTS_LANGUAGE_BYTES = JUDGE_NAME_MAX };

struct texts {
    uint32_t count;
    struct calibrate_text text[TEXTS_MAX];
    const char *path[TEXTS_MAX]; /* the same as lists */
    const char *name[TEXTS_MAX];
    char language[TEXTS_MAX][TEXTS_LANGUAGE_BYTES];
};

/* Plain files make one group named "text"; languages are "en=FILE", and a file without "en=" goes on with the
 * language before it. option is what messages call the second list. Every file can be read. Returns CLI_DONE, or has
 * called cli_fail. */
int texts_take(struct cli_call *call, const struct cli_list *plain, const struct cli_list *languages,
               const char *option, struct texts *out);

/* With --memory: do they fit while they become tokens, so many of each language (0: all)? seed: calibrate_windows_open's.
 * Returns CLI_DONE, or has called cli_fail. */
int texts_fit(struct cli_call *call, const struct texts *t, uint64_t tokens, uint64_t seed);

/* One more; dropped when full. */
void texts_add(struct texts *t, const char *path, const char *language);

/* What gates can be measured with. */
struct texts_gauge {
    bool has_quality;   /* a text and a base to judge against */
    bool is_dry;        /* nothing will be measured: a recipe may say what it likes */
    const char *needs;  /* what is missing where not: "--reference" */
    const char *recipe; /* its file, or NULL */
};

/* NAME=LIMIT for each of the list, over what is in gates already, a recipe's. A gate that cannot be measured here is a
 * usage error, but for a recipe's gates of machines (speed, memory, energy): texts_verdict tells of them. */
int texts_gates(struct cli_call *call, const struct cli_list *list, const struct texts_gauge *gauge,
                struct recipe_gates *gates);

/* judge_options.progress with a struct progress. */
bool texts_show(void *context, const struct judge_progress *p);

/* Say which gates only devices measure, and fail with status 1 and one line when one was missed. */
int texts_verdict(struct cli_call *call, const struct judge_verdicts *v);

#endif
