/* quantise.h: plan + base -> variant, streaming.
 *
 * One tensor at a time in strips of rows through the engine's decode and encode; the base is mapped and
 * its pages are given back as it is read. Peak memory beside the map is strips and one checkpoint
 * record. The output grows in OUT.part; after every tensor a record in OUT.state names what is done, so
 * a killed run continues where it was. The finished file is synced and renamed to OUT. A NaN or an infinity in a
 * tensor that is encoded is ERR_FORMAT, names file, tensor, row and column, and leaves nothing.
 *
 * For rtn, search and awq the bytes depend on base, plan and profile only, on no plugin, thread count
 * or architecture. A plan that prunes first makes OUT.pruned (prune_base.h); without recovery the same holds.
 */
#ifndef QUANTISE_H
#define QUANTISE_H

#include <stdbool.h>
#include <stdint.h>

#include "compress/plan.h"

struct quantise_progress {
    uint64_t bytes;       /* of the base's tensors done so far; with gptq, those that take little time count less */
    uint64_t bytes_total;
    uint32_t tensor;      /* index of the tensor in work */
    uint32_t tensors;
    const char *name;     /* of that tensor */
};

/* Called from the calling thread, at least once per tensor. Non-zero stops: ERR_CANCELLED, resumable. */
typedef int quantise_progress_fn(void *context, const struct quantise_progress *progress);

/* Judge the finished file before it gets its name: an error keeps it as OUT.refused and ends the run. */
typedef enum err quantise_accept_fn(void *context, const char *path, uint64_t bytes, struct fault *f);

struct quantise_options {
    const char *base_path;
    const char *out_path;
    const struct plan *plan;
    struct digest_task *base;       /* of base_path, when the plan has DIGEST_LATER for its base; else NULL */
    const struct profile *profile;  /* needed when a tensor of the plan is weighted; else may be NULL */
    struct engine *engine;          /* NULL: the best one of this machine is opened */
    uint32_t threads;               /* for an engine that is opened here; 0: from the device */
    uint64_t memory_bytes;          /* resident memory of the process at most; refused where it cannot be kept.
                                     * 0: strips of 64 MiB, Hessians as gptq_source.h says */
    bool is_finite;                 /* the caller has been through finite_file with the base */
    bool is_measured;               /* also measure the error of every tensor (costs a decode) */
    const char *const *text;        /* gptq and pruning that recovers: calibration texts */
    const char *const *language;    /* [texts], equal tokens of each; NULL: one group */
    uint32_t texts;
    uint64_t text_tokens;           /* gptq only: tokens per language at most, 0: 32768 of all together */
    quantise_progress_fn *progress; /* may be NULL */
    void *progress_context;
    quantise_accept_fn *accept;     /* may be NULL */
    void *accept_context;
    bool is_claimed;                /* the caller holds the claim of out_path (claim.h); else it is taken here */
};

struct quantise_tensor {
    char name[PLAN_NAME_MAX];
    uint32_t from;
    uint32_t type;
    uint32_t method;   /* what was really done: a guard may have fallen back to search */
    uint64_t bytes;
    double error;      /* sum of h_j (x - q)^2 over sum of h_j x^2; NAN when not measured */
    double output_error; /* tr(dW H dW') / tr(W H W') on held-out tokens; NAN without Hessians */
};

struct quantise_result {
    char sha256[65];
    char base_sha256[65];
    uint64_t bytes;
    double seconds;
    uint32_t tensors_resumed; /* taken over from an earlier, interrupted run, which their errors were part of */
    uint32_t tensors;
    struct quantise_tensor *tensor; /* [tensors]; quantise_result_close releases it */
};

/* Errors: ERR_MISMATCH (plan and base disagree, or the digest is not the predicted one; the file is kept
 * as OUT.refused then), what accept gave (the same), ERR_FORMAT, ERR_IO, ERR_MEMORY, ERR_CANCELLED, ERR_UNSUPPORTED, ERR_ARGUMENT (too little memory_bytes). On any error OUT
 * is untouched and *out too, but with ERR_GATE *out is what was made. */
NODISCARD enum err quantise_run(const struct quantise_options *options, struct quantise_result *out,
                                struct fault *f);
void quantise_result_close(struct quantise_result *r);

/* Remove what an interrupted run left beside out_path. */
void quantise_discard(const char *out_path);

#endif
