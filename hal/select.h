/* select.h: which of the plugins in a folder serve, and why the others do not.
 *
 * The first call into any plugin happens in a child process: it loads, probes and checks the plugin
 * quickly. A crash, a hang or a mismatch refuses the plugin by name; this process then never maps it.
 * Scalar is linked in, is not checked and never refused.
 *
 * A hang is SELECT_TIMEOUT_MS without a step of the check. The open() of an accelerator, as its score
 * says it is one, has SELECT_OPEN_MS instead: at the first start on a machine its driver may compile
 * the kernels, for seconds and without a sign. What was compared before and after keeps the short
 * limit, and so does every plugin for the CPU.
 */
#ifndef SELECT_H
#define SELECT_H

#include "hal/check.h"
#include "hal/load.h"

enum {
    SELECT_TIMEOUT_MS = 2000,
    SELECT_OPEN_MS = 60000,
    SELECT_ACCELERATOR = 1000, /* scores from here on, as hal.h says */
    SELECT_PLUGINS_MAX = 16,
    SELECT_NAME_BYTES = 32
};

struct select_plugin {
    char name[SELECT_NAME_BYTES]; /* file name without ".so"; "scalar" for the linked-in one */
    char file[256];               /* "" for scalar */
    char version[32];             /* as the plugin says */
    int is_serving;               /* 1: may be opened */
    int is_signed;                /* signature verified */
    uint32_t abi;                 /* 0: never got that far */
    struct hal_caps caps;         /* score 0 when probe refused */
    uint32_t fallback_ops;        /* bit i: it lacks operation i after matmul, which is done on the CPU */
    uint32_t cases;               /* compared in the quick check */
    enum err error;
    char reason[LOAD_REASON_BYTES]; /* why refused, "" when serving */
};

struct select_options {
    const char *folder; /* NULL: load_folder() */
    const char *path;   /* code path asked for, NULL: best */
    const char *only;   /* one name, NULL: all */
    uint32_t open_ms;   /* in place of SELECT_OPEN_MS; 0: that */
    int is_unchecked;   /* 1: no check against scalar, only loading and probing in the child */
    const struct check_options
        *check; /* in place of the quick check of first contact; NULL: that */
    struct load_options load;
};

/* First contact with one file in a child. Fills plugin completely; returns plugin->error. */
NODISCARD enum err select_first_contact(const char *file, const struct select_options *options,
                                        struct select_plugin *plugin);

/* All plugins of the folder and scalar, serving ones first, by descending score.
 * plugins: [SELECT_PLUGINS_MAX]; count gets how many. Errors: ERR_IO (folder unreadable for another
 * reason than absence), then scalar alone is listed. */
NODISCARD enum err select_list(const struct select_options *options, struct select_plugin *plugins,
                               uint32_t *count);

#endif
