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
    struct hal_mat gate, up;  /* [slice, ffn]; after decoder_open in the memory of q and a */
    struct hal_mat part;      /* [slice, width] rows of a slice, in and out of the feed-forward network */
    uint32_t slice;           /* rows that pass it at once */
};

/* A feed-forward network: h -> down(function(gate h) * up h), then post norm; up and post may be NULL. */
struct decoder_ffn {
    const struct weights_linear *gate, *up, *down;
    const struct hal_mat *post;
    uint32_t function; /* enum hal_gate */
};

/* Read the keys of block counts, widths, heads and rotary dimensions into f->info and d; eps_key is
 * attention.layer_norm_rms_epsilon or attention.layer_norm_epsilon. Returns the floats of a row, and
 * half as many again: a third of the arena is for slices of the feed-forward network. */
uint64_t decoder_shape(struct forward *f, struct decoder *d, const char *eps_key);

/* Load token_embd, output_norm and output (token_embd again where it is absent), of a part nothing; make the
 * activations and the room of slices. */
void decoder_open(struct forward *f, struct decoder *d);
void decoder_ends(struct forward *f, struct decoder *d);        /* the first half of it */
void decoder_activations(struct forward *f, struct decoder *d); /* the second; without slices */
void decoder_close(struct decoder *d);

/* The layer's place in the cache; window 0: all positions. */
void decoder_cache(struct forward *f, const struct decoder *d, uint32_t window);

/* q, k and v of a tensor that holds them below each other, "<format>.weight". */
__attribute__((format(printf, 6, 7))) void decoder_qkv(struct forward *f, const struct decoder *d,
                                                        struct weights_linear *q, struct weights_linear *k,
                                                        struct weights_linear *v, const char *format, ...);

/* Attention over q, k and v as they stand: heads and dimensions of d, scale 1 / sqrt(head_dim). */
struct hal_attend decoder_geometry(const struct forward *f, const struct decoder *d);

/* x += the network of h, which is spent: as many rows at a time as a slice has, because its inner width is
 * several times that of all else and would be most of the arena. q is spent too, and a where there is up. */
void decoder_feed(struct forward *f, struct decoder *d, const struct decoder_ffn *ffn);

/* RMS norm of each head of m by w [1, head_dim]; w->mem NULL: nothing to do. */
void decoder_norm_heads(struct forward *f, const struct decoder *d, const struct hal_mat *m,
                        const struct hal_mat *w);

#endif
