/* sensitivity.h: how much each weight adds to the divergence of the whole, measured by quantising one at a
 * time: the input of the bpw allocation in place of the priors of roles.
 *
 * The base runs once over calibration text and its distributions are kept. Then one tensor at a time (in large
 * models the tensors of one role in a few neighbouring layers) takes the values that a low and a middle level
 * would give it, all others stay as they are, and the mean KLD against what was kept is measured. Between and
 * beyond the two levels the KLD is taken to follow a power of the weight error through both.
 *
 * The work is bounded by counts, never by a clock: at most 64 groups, tokens so that all evaluations together
 * stay within 5e13 products. The same input gives the same result; results are kept in a file as they come, so
 * that a stopped run goes on and a second one is done at once. Memory: one model and 2 KiB per scored position.
 */
#ifndef SENSITIVITY_H
#define SENSITIVITY_H

#include "compress/calibrate.h"
#include "compress/plan.h"

struct sensitivity_progress {
    uint32_t done, total; /* evaluations, the base's included */
    uint32_t cached;      /* of those, taken from the file */
    const char *name;     /* of the first tensor of the group in work */
};

struct sensitivity_options {
    const char *base_path;
    const char *base_sha256;
    const struct gguf *base;
    const struct profile *profile; /* weights of the encoding; NULL: none */
    struct engine *engine;         /* NULL: the best one of this machine is opened */
    uint32_t threads;              /* for an engine that is opened here; 0: from the device */
    const struct calibrate_text *text; /* calibration texts: never what the result is judged by */
    uint32_t texts;
    uint64_t tokens;          /* per language, equal for all; of all together never more than 8192, 0: those */
    uint32_t method;          /* rtn, else search */
    uint64_t seed;            /* which windows; see calibrate_windows.h */
    const char *cache_folder; /* where results are kept; NULL: nowhere */
    int (*progress)(void *context, const struct sensitivity_progress *p); /* non-zero: ERR_CANCELLED */
    void *progress_context;
};

/* Turn errors, as plan_errors_measure gave them, into predicted KLD: error[t][l] in nats, scale[t] 1.
 * Errors: ERR_IO, ERR_ARGUMENT (no text, too short), ERR_CANCELLED, ERR_MEMORY, those of the model. A cache that
 * cannot be read or written is no error. */
NODISCARD enum err sensitivity_measure(const struct sensitivity_options *options, struct plan_errors *errors,
                                       struct fault *f);

#endif
