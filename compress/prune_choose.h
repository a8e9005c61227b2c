/* prune_choose.h: which heads, channels and layers go.
 *
 * By magnitude: the sum of squares of a part's weights. Wanda: the sum of |w| * rms of the input, from the
 * profile's second moments, over what writes to the stream (attn_output, ffn_down). By output error: what the
 * removal changes in that linear's output on calibration text, one part after the other so that each knows
 * of those before it; layers by the KLD of the model without them. The first two give the same choice on every machine.
 * On tare-tiny output error is best for channels and worst for heads; Wanda is good for both, and the default.
 * Layers are chosen first, then whole KV groups, then heads, then channels, in what is left.
 */
#ifndef PRUNE_CHOOSE_H
#define PRUNE_CHOOSE_H

#include "compress/calibrate.h"
#include "compress/prune.h"

struct prune_choose_options {
    const struct recipe_prune *want;
    const char *base_path;
    const char *beside;            /* a path in whose folder the text may leave something; output error */
    const struct profile *profile; /* wanda, and masks by wanda */
    struct engine *engine;
    const struct calibrate_text *text; /* output error */
    uint32_t texts;
    uint64_t tokens;       /* 0: default */
    uint64_t memory_bytes; /* 0: no limit */
    uint32_t threads;
    int (*progress)(void *context); /* now and then; non-zero: ERR_CANCELLED */
    void *progress_context;
};

/* Errors: ERR_UNSUPPORTED and ERR_FORMAT (prune_shape_read), ERR_ARGUMENT (nothing would go, widths that do not divide,
 * no profile or no text where one is needed), ERR_CANCELLED, ERR_MEMORY. */
NODISCARD enum err prune_choose(const struct prune_choose_options *options, struct prune **out, struct fault *f);

/* What prune_choose and the recovery behind it will refuse of this base and this much memory (0: no limit), said before
 * the text runs that the profile is made of. has_profile: there is one, or will be. Errors: ERR_UNSUPPORTED,
 * ERR_FORMAT, ERR_ARGUMENT. */
NODISCARD enum err prune_choose_check(const struct recipe_prune *want, const struct gguf *base, bool has_profile,
                                      bool has_text, uint64_t memory_bytes, struct fault *f);

/* How much stays of each kind. Errors: ERR_ARGUMENT. */
NODISCARD enum err prune_choose_widths(const struct recipe_prune *want, const struct prune_shape *shape,
                                       struct prune_kept *out, struct fault *f);

#endif
