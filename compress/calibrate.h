/* calibrate.h: run text through a model and gather the second moments of every linear input.
 *
 * Texts are tokenised whole, cut into windows of `context` tokens (BOS in place of the first where the
 * model wants one, as the field's tools do), and taken round-robin over the languages until each has
 * spent its budget, so the order of the sums is fixed. The output head is left out.
 */
#ifndef CALIBRATE_H
#define CALIBRATE_H

#include <stdbool.h>
#include <stdint.h>

#include "compress/profile.h"

struct engine;
struct ranges;

struct calibrate_text {
    const char *path;
    const char *language; /* "en", or NULL: its own group named after the file */
};

struct calibrate_progress {
    uint64_t tokens;
    uint64_t tokens_total;
    const char *language;
};

/* Non-zero stops the run with ERR_CANCELLED. */
typedef int calibrate_progress_fn(void *context, const struct calibrate_progress *progress);

struct calibrate_options {
    const char *base_path;
    struct engine *engine;             /* NULL: the best one of this machine is opened */
    const struct calibrate_text *text; /* [texts] */
    uint32_t texts;
    uint64_t tokens_per_language;      /* 0: all; with several languages the smallest one's budget */
    bool unbalanced;                   /* take all tokens of every language even if they differ */
    uint64_t seed;                     /* which windows of longer texts; 0: the first */
    uint32_t context;                  /* window, 0: 512 or the model's own if smaller */
    struct ranges *ranges;             /* opened: also gathers them, and finishes; or NULL */
    uint32_t threads;                  /* for an engine that is opened here; 0: from the device */
    /* NULL: the whole model is loaded. A path: one layer at a time (layer_stream.h, whose file lies beside it);
     * the same result as far as the engine's sums do not depend on the number of rows. */
    const char *beside;
    calibrate_progress_fn *progress;   /* may be NULL */
    void *progress_context;
    /* NULL, or room for the profile of each language alone: in the order in which the languages first come in
     * text, at most `parts_max`; parts gets how many. The caller closes them, after an error too. */
    struct profile **part;
    uint32_t parts_max;
    uint32_t *parts;
};

/* Make a profile; the caller closes it. Same options and engine give the same profile; plugins differ
 * only in the last bits of F32 sums inside the forward pass.
 * Errors: ERR_IO, ERR_FORMAT (model or text), ERR_ARGUMENT (a text shorter than one window),
 * ERR_CANCELLED, ERR_MEMORY, and what the model gives. */
NODISCARD enum err calibrate_run(const struct calibrate_options *options, struct profile **out,
                                 struct fault *f);

#endif
