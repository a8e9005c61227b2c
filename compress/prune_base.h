/* prune_base.h: a base with its pruning done, for whoever makes a plan or derives a variant from it.
 *
 * The pruned base lies in OUT.pruned; it is used again by a later run with the same base, choice and texts, and
 * removed with quantise_discard or once OUT is there.
 */
#ifndef PRUNE_BASE_H
#define PRUNE_BASE_H

#include "compress/plan.h"
#include "compress/prune_file.h"

struct prune_base_options {
    const char *base_path;
    const char *base_sha256;
    const char *out_path;            /* of the variant */
    const struct prune *prune;       /* the choice of a plan, or NULL: choose as `want` says */
    const struct recipe_prune *want;
    const struct profile *profile;   /* of the base, or NULL */
    struct engine *engine;           /* NULL: the best one of this machine is opened */
    const struct calibrate_text *text;
    uint32_t texts;
    uint64_t tokens;                 /* for choosing; 0: default */
    uint64_t memory_bytes;
    uint32_t threads;                /* 0: the engine's, or from the device */
    int (*progress)(void *context);
    void *progress_context;
};

struct prune_base {
    struct gguf *gguf;       /* the pruned base */
    struct profile *profile; /* the profile of what stays; NULL without one */
    struct prune *prune;
    struct prune_file_result result;
};

/* Errors: those of prune_choose and prune_file_make. */
NODISCARD enum err prune_base_open(const struct prune_base_options *options, struct prune_base *out, struct fault *f);
void prune_base_close(struct prune_base *b); /* a zeroed one is allowed; the file stays */

/* A plan that was made for b->gguf (plan_make) gets the choice; its predicted size stays exact.
 * profile_sha256: of the whole profile, or NULL. Errors: ERR_MEMORY. */
NODISCARD enum err prune_base_attach(const struct prune_base *b, const char *profile_sha256, struct plan *plan);

#endif
