/* decoder.h: what the decoder families have in common: shapes by the standard keys, both ends of the
 * model, and the activations of one layer. For model/ only. */
#ifndef DECODER_H
#define DECODER_H

#include "model/model_family.h"

struct decoder {
    uint32_t head_dim, value_dim, rope_dims, ffn;
    float eps;
    struct hal_mat embedding; /* the head's matrix where they are tied */
    struct weights_norm norm;
    struct weights_linear head;
    struct forward_rope rope; /* opened by the family */
    struct hal_mat x, h;      /* the residual stream and what is added to it: width */
    struct hal_mat q, k, v, a;
    struct hal_mat gate, up; /* ffn */
};

/* Read the keys of block counts, widths, heads and rotary dimensions into f->info and d; eps_key is
 * attention.layer_norm_rms_epsilon or attention.layer_norm_epsilon. Returns the floats of a row. */
uint64_t decoder_shape(struct forward *f, struct decoder *d, const char *eps_key);

/* Load token_embd, output_norm and output (token_embd again where it is absent); make the activations. */
void decoder_open(struct forward *f, struct decoder *d);
void decoder_ends(struct forward *f, struct decoder *d);        /* the first half of it */
void decoder_activations(struct forward *f, struct decoder *d); /* the second */
void decoder_close(struct decoder *d);

/* The layer's place in the cache; window 0: all positions. */
void decoder_cache(struct forward *f, const struct decoder *d, uint32_t window);

/* q, k and v of a tensor that holds them below each other, "<format>.weight". */
__attribute__((format(printf, 6, 7))) void decoder_qkv(struct forward *f, const struct decoder *d,
                                                        struct weights_linear *q, struct weights_linear *k,
                                                        struct weights_linear *v, const char *format, ...);

/* Attention over q, k and v as they stand: heads and dimensions of d, scale 1 / sqrt(head_dim). */
struct hal_attend decoder_geometry(const struct forward *f, const struct decoder *d);

/* RMS norm of each head of m by w [1, head_dim]; w->mem NULL: nothing to do. */
void decoder_norm_heads(struct forward *f, const struct decoder *d, const struct hal_mat *m,
                        const struct hal_mat *w);

#endif
