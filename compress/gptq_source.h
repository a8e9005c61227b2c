/* gptq_source.h: Hessians for gptq.h, layer by layer, with everything before already quantised.
 *
 * A copy of the base lies in OUT.work; what has been quantised is written back into it in the base's own type, so
 * that what follows sees the activations that the variant will give it: layer after layer, and within a layer
 * linear after linear in the order in which they are computed. One layer of weights and the Hessian of one input
 * are in memory at a time (layer_stream.h). One window in eight is held out to judge by.
 *
 * What a layer became waits in OUT.blocks until the file that is written gets there; after each layer OUT.layers
 * says how many are done, and a killed run goes on behind them: the layers before are then only run, not
 * quantised again.
 *
 * Memory beside what is resident at open, d the widest input of a linear: the greater of
 *   8 d^2 + the weights of one layer + the activations of one window (512 tokens)    while the text runs
 *   12 d^2 + 10 bytes per weight of the largest linear                               while one is encoded
 */
#ifndef GPTQ_SOURCE_H
#define GPTQ_SOURCE_H

#include "compress/awq.h"
#include "compress/calibrate_windows.h"
#include "compress/digest.h"
#include "compress/gptq.h"

struct gptq_source;

struct gptq_source_options {
    const char *out_path;
    const char *identity;  /* of plan, base, profile and texts: what may be continued */
    const struct plan *plan;
    const struct gguf *base;
    const struct awq *awq; /* folding that the Hessians must follow, or NULL */
    struct engine *engine;
    const struct calibrate_text *text;
    uint32_t texts;
    uint64_t tokens;       /* per language, equal for all; 0: 32768 of all together */
    uint64_t memory_bytes; /* resident memory of the process at most; 0: no limit */
    uint64_t reserved;     /* bytes that the caller allocated and has not touched yet */
    uint32_t threads;
    int (*progress)(void *context, double part); /* now and then, of the layer in work; non-zero: ERR_CANCELLED */
    void *progress_context;
};

/* Errors: ERR_ARGUMENT (no text, too little memory: the line says how much is needed), ERR_IO, ERR_MEMORY. */
NODISCARD enum err gptq_source_open(const struct gptq_source_options *options,
                                    struct gptq_source **out, struct fault *f);
/* Leaves its files for a resumed run; gptq_source_discard removes them. NULL is allowed. */
void gptq_source_close(struct gptq_source *s);
void gptq_source_discard(const char *out_path);

/* Layers that are done, and does tensor i of the plan belong to one that is streamed? Those behind the last layer
 * that wants Hessians do not. */
uint32_t gptq_source_done(const struct gptq_source *s);
bool gptq_source_streams(const struct gptq_source *s, uint32_t i, uint32_t *layer);

/* Begin the next layer: the tensors of the plan that are its, in the order in which they are to be encoded; the
 * source's own. */
NODISCARD enum err gptq_source_begin(struct gptq_source *s, const uint32_t **tensor, uint32_t *count, struct fault *f);

/* The basis for tensor i of this layer, the source's own until the next call; *out NULL: it has none
 * (experts, inputs that were never seen). */
NODISCARD enum err gptq_source_get(struct gptq_source *s, uint32_t i, struct gptq_basis **out,
                                   struct fault *f);

/* Rows [row, row + rows) of tensor i as the variant will compute with them, folded: x is overwritten. Of tensors
 * outside layers only what comes before the first layer is taken. */
NODISCARD enum err gptq_source_put(struct gptq_source *s, uint32_t i, uint32_t row, uint32_t rows,
                                   float *x);

/* The next bytes of what tensor i becomes; and to read them again, bytes at `at`. Errors: ERR_IO. */
NODISCARD enum err gptq_source_keep(struct gptq_source *s, uint32_t i, const void *data, size_t bytes);
NODISCARD enum err gptq_source_read(struct gptq_source *s, uint32_t i, uint64_t at, void *out, size_t bytes);

/* The layer is quantised: run the text through it, and remember durably that it is done. */
NODISCARD enum err gptq_source_end(struct gptq_source *s, struct fault *f);

#endif
