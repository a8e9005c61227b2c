/* gptq_work.h: the files of gptq_source.c: OUT.work, the base with what is quantised written back; OUT.blocks, what
 * layers became; OUT.layers, how many are done. For gptq_source.c only. */
#ifndef GPTQ_WORK_H
#define GPTQ_WORK_H

#include "compress/digest.h"
#include "compress/plan.h"
#include "model/gguf.h"

struct gptq_work {
    const struct plan *plan;
    const char *out_path;
    char identity[DIGEST_HEX];
    uint8_t *map; /* of OUT.work */
    size_t bytes;
    struct gguf *gguf; /* in the map */
    int blocks;
    uint64_t *offset; /* [tensors + 1] in OUT.blocks */
    uint32_t writing; /* the tensor that is being kept, and how much of it there is */
    uint64_t written;
};

/* layers: how many an earlier run of the same identity finished; what is behind them is as in the base.
 * Close also after an error. Errors: ERR_IO, ERR_MEMORY, ERR_FORMAT. */
NODISCARD enum err gptq_work_open(struct gptq_work *w, const char *out_path, const char identity[DIGEST_HEX],
                                  const struct plan *plan, const struct gguf *base, uint32_t *layers, struct fault *f);
void gptq_work_close(struct gptq_work *w);
void gptq_work_discard(const char *out_path);

/* Pages of the copy live on in its file. */
void gptq_work_drop(const struct gptq_work *w);

/* The data of tensor i, to be written. */
uint8_t *gptq_work_data(const struct gptq_work *w, uint32_t i);

/* As in gptq_source.h. */
NODISCARD enum err gptq_work_keep(struct gptq_work *w, uint32_t i, const void *data, size_t bytes);
NODISCARD enum err gptq_work_read(const struct gptq_work *w, uint32_t i, uint64_t at, void *out, size_t bytes);

/* So many layers are done, durably. Errors: ERR_IO. */
NODISCARD enum err gptq_work_commit(struct gptq_work *w, uint32_t layers);

#endif
