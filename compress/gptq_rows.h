/* gptq_rows.h: the row-wise part of gptq.c: rounding with feedback and single moves. */
#ifndef GPTQ_ROWS_H
#define GPTQ_ROWS_H

#include "compress/gptq.h"

enum { GPTQ_STRIP = 32 };

struct gptq_rows {
    uint32_t type, rows, cols;
    uint32_t step;              /* row i of a run is row i * step of the tensor */
    bool is_sample;             /* only to compare: neither the search's error nor the energy */
    const float *w;
    struct gptq_basis *basis;
    uint8_t *blocks;            /* [rows] of blocks: the search's, whose scales are kept */
    uint8_t *code[2];           /* [rows, cols] codes after LDLQ and after polishing, storage order */
    double *row_error;          /* [rows, 3] by enum gptq_taken */
    double *row_energy;         /* [rows] */
    float level[256];           /* value of a code before scaling */
    uint32_t codes;
    bool is_even;               /* levels are 1 apart */
};

NODISCARD enum err gptq_rows_open(uint32_t type, const float *w, uint32_t rows, uint32_t cols,
                                  struct gptq_basis *b, uint8_t *blocks, struct gptq_rows **out);
void gptq_rows_close(struct gptq_rows *g);

/* Rows [first, last) of a run: codes, errors, energy. At most GPTQ_STRIP rows; any thread. */
NODISCARD enum err gptq_rows_run(struct gptq_rows *g, uint32_t first, uint32_t last);

/* Put the codes of one way into the blocks; GPTQ_SEARCH leaves them. */
NODISCARD enum err gptq_rows_pack(struct gptq_rows *g, uint32_t taken);

#endif
