/* gptq_source.h: Hessians for gptq.h, layer by layer, with the layers before already quantised.
 *
 * A copy of the base lies in OUT.work; what has been quantised is written back into it in the base's own
 * type, so that later layers see the activations that the variant will give them. The layers are taken in
 * bands: as many at once as the memory allows and at least an eighth of the model; each band costs one
 * pass of the calibration text. One window in eight is held out to judge by.
 */
#ifndef GPTQ_SOURCE_H
#define GPTQ_SOURCE_H

#include "compress/awq.h"
#include "compress/calibrate_windows.h"
#include "compress/gptq.h"

struct gptq_source;

struct gptq_source_options {
    const char *out_path;
    const struct plan *plan;
    const struct gguf *base;
    const struct awq *awq; /* folding that the Hessians must follow, or NULL */
    struct engine *engine;
    const struct calibrate_text *text;
    uint32_t texts;
    uint64_t tokens;       /* per language, equal for all; 0: 32768 of all together */
    uint64_t memory_bytes; /* resident memory of the process at most; 0: Hessians of 1 GiB */
    uint32_t threads;
    uint32_t done;         /* tensors that an interrupted run finished and OUT.work holds; 0: begin */
    int (*progress)(void *context); /* now and then during a pass; non-zero: ERR_CANCELLED */
    void *progress_context;
};

/* Errors: ERR_ARGUMENT (no text, too little memory: the line says how much is needed), ERR_IO, ERR_MEMORY. */
NODISCARD enum err gptq_source_open(const struct gptq_source_options *options,
                                    struct gptq_source **out, struct fault *f);
/* Leaves OUT.work for a resumed run; gptq_source_discard removes it. NULL is allowed. */
void gptq_source_close(struct gptq_source *s);
void gptq_source_discard(const char *out_path);

/* The basis for tensor i of the plan, the source's own until the next call; *out NULL: it has none
 * (experts, inputs that were never seen, or too large for the memory). */
NODISCARD enum err gptq_source_get(struct gptq_source *s, uint32_t i, struct gptq_basis **out,
                                   struct fault *f);

/* Do tensors i and i + 1 take their Hessians from different passes? Only there may a run be continued with the
 * same bytes as a result: everything before i + 1 is put, nothing behind has been seen. */
bool gptq_source_ends(const struct gptq_source *s, uint32_t i);

/* What was put is durable. Errors: ERR_IO. */
NODISCARD enum err gptq_source_sync(struct gptq_source *s);

/* Rows [row, row + rows) of tensor i as the variant will compute with them, folded: x is overwritten. */
NODISCARD enum err gptq_source_put(struct gptq_source *s, uint32_t i, uint32_t row, uint32_t rows,
                                   float *x);

#endif
