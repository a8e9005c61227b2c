/* quantise_work.h: what the files of the streaming quantiser share: one run and its strips. */
#ifndef QUANTISE_WORK_H
#define QUANTISE_WORK_H

#include "compress/awq.h"
#include "compress/gptq_source.h"
#include "compress/prune_base.h"
#include "compress/quantise.h"
#include "compress/quantise_file.h"
#include "hal/engine.h"

struct quantise_work {
    const struct quantise_options *options;
    const struct plan *plan;
    const struct gguf *base;        /* the plan's: pruned.gguf where it prunes, else opened */
    const struct profile *profile;  /* of base */
    struct gguf *opened;
    struct prune_base pruned;
    struct engine *engine;
    struct engine *own;
    struct awq *awq;
    struct quantise_file *file;
    struct gptq_source *source; /* NULL: no tensor wants gptq */
    bool is_streaming;          /* what is encoded goes to the source, not to the file */
    uint64_t layer_bytes, layer_done; /* what the layer in work counts for, and all before it */
    uint32_t counted;           /* layers of the source that an earlier run finished */
    struct quantise_tensor *tensor; /* [tensors] of the result */
    float *x, *y;   /* a strip and, when measured or fed back, its decoding */
    float *h;       /* importance of the slice in work */
    uint8_t *out;   /* the strip's blocks */
    size_t strip_values;
    uint32_t threads;
    uint32_t engine_threads;      /* that the engine came with */
    char base_sha256[DIGEST_HEX]; /* "" until it is known, where it is computed beside the work */
    struct quantise_progress progress;
    double error, energy; /* of the tensor in work */
    struct fault *fault;
};

/* The digest of the base, once it is there or `is_last`: into the file, whose own digest waits for it. Until then
 * a thread of the engine is left to it. */
NODISCARD enum err quantise_base_settle(struct quantise_work *w, bool is_last);

/* What tensor i counts for in the progress: its bytes, and with Hessians a sixteenth where it needs none. */
uint64_t quantise_tensor_cost(const struct quantise_work *w, uint32_t i);
/* Tell the caller; ERR_CANCELLED when it wants to stop. */
NODISCARD enum err quantise_tensor_report(struct quantise_work *w);
/* Allocate the strips: the largest row must fit, else the cap says how many rows are taken at once. */
NODISCARD enum err quantise_tensor_room(struct quantise_work *w);
/* Whether tensor i goes over as it is. */
bool quantise_tensor_is_copied(const struct quantise_work *w, uint32_t i);
bool quantise_tensor_wants_gptq(const struct plan *p);
/* Tensor i of the plan into the file: decode, fold, encode, append; with Hessians all layers up to its own first.
 * The result is told what was really done. */
NODISCARD enum err quantise_tensor_take(struct quantise_work *w, uint32_t i);

#endif
