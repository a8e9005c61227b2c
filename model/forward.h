/* forward.h: the words in which a family writes its forward pass. For model/ only.
 *
 * A pass runs all rows (tokens) of a step. Activations are [rows, cols] matrices made when the model is
 * opened; forward_* calls are engine operations on the rows of this step. The first error sticks and ends
 * the work, so that a pass reads as the model's definition.
 */
#ifndef FORWARD_H
#define FORWARD_H

#include "model/cache.h"
#include "model/rounding.h"
#include "model/weights.h"

enum { FORWARD_ACTIVATIONS_MAX = 32, FORWARD_ROPES_MAX = 4, FORWARD_TOGETHER_MAX = 4 };

/* Rotary positions: which values turn, and how fast each pair does. */
struct forward_rope {
    struct hal_rope_shape shape;
    struct hal_mat table; /* [batch, dims] cosines, then sines */
    float *speed;         /* [dims / 2] angle per position */
    float magnitude;      /* of the cosines and sines; 1 but for YaRN and LongRoPE */
};

/* One engine, one cache, and the step in progress. */
struct forward {
    struct engine *e;
    struct cache cache;
    struct weights weights;
    struct model_info info;
    struct hal_mat *activation[FORWARD_ACTIVATIONS_MAX]; /* their rows follow the step */
    uint32_t activations;
    struct forward_rope *rope[FORWARD_ROPES_MAX];
    uint32_t ropes;
    /* layers [first, last) are here; a part has no ends */
    uint32_t first, last;
    bool is_part;
    const struct gguf_tensor *table; /* of a part that begins at layer 0: tokens are looked up in the file */
    float *table_row;                /* [width] */
    /* the step */
    const float *stream; /* [rows, width] that a part behind layer 0 was given */
    uint32_t rows;
    uint32_t outputs;
    uint32_t *token;    /* [batch] */
    uint32_t *position; /* [batch] */
    uint32_t *output;   /* [batch] rows that logits are wanted of, ascending */
    uint32_t *index;    /* [batch] scratch for gathers */
    float *angles;      /* [batch, widest rope] host side of the tables */
    float *seen;        /* [batch, cols_max] for the observer; NULL without one */
    struct model_observer observer;
    struct rounding rounding;
    struct hal_mat hidden; /* [batch, width] what the head reads: rows of outputs */
    bool is_over; /* nothing that is wanted remains to be computed */
    enum err error;
};

/* Activation of the step, cols wide, released with the model. m must stay where it is. */
void forward_activation(struct forward *f, struct hal_mat *m, uint32_t cols);
/* The same in the memory of another, which holds batch rows of cols. */
void forward_view(struct forward *f, struct hal_mat *m, const struct hal_mat *of, uint32_t cols);

/* Rotary positions by the architecture's keys rope.freq_base, rope.scaling.* and tensor rope_freqs.weight.
 * base 0: read it. Fails the weights where a scaling is unknown. */
void forward_rope_open(struct forward *f, struct forward_rope *r, struct hal_rope_shape shape, float base);
void forward_rope_close(struct forward_rope *r);

/* Begin the step: row counts and rope tables. */
void forward_begin(struct forward *f);

/* x: the stream before the first layer that is here. True: rows of the table by token; false: what a part was given. */
bool forward_enter(struct forward *f, struct hal_mat *x, const struct hal_mat *table);
/* True: a part ends here and x was its result. */
bool forward_leave(struct forward *f, const struct hal_mat *x);

void forward_embed(struct forward *f, const struct hal_mat *y, const struct hal_mat *table,
                   const uint32_t *row);
void forward_rmsnorm(struct forward *f, const struct hal_mat *y, const struct hal_mat *x,
                     const struct hal_mat *w, float eps);
/* y = (x - mean) / deviation * w + b */
void forward_layernorm(struct forward *f, const struct hal_mat *y, const struct hal_mat *x,
                       const struct weights_norm *norm, float eps);
/* y = w x + bias */
void forward_linear(struct forward *f, const struct hal_mat *y, const struct hal_mat *x,
                    const struct weights_linear *w);
/* The same for two or three linears of one input. */
void forward_linear2(struct forward *f, const struct hal_mat *x, const struct hal_mat *y0,
                     const struct weights_linear *w0, const struct hal_mat *y1,
                     const struct weights_linear *w1);
void forward_linear3(struct forward *f, const struct hal_mat *x, const struct hal_mat *y0,
                     const struct weights_linear *w0, const struct hal_mat *y1,
                     const struct weights_linear *w1, const struct hal_mat *y2,
                     const struct weights_linear *w2);
/* For the observer: the stream x behind what this linear added to it. */
void forward_show(struct forward *f, const struct hal_mat *x, const struct weights_linear *w);
void forward_rotate(struct forward *f, const struct hal_mat *x, const struct forward_rope *r);
/* Store k and v (NULL: part of k) in the layer's cache, then y = attention of q over what each row sees;
 * spans of the geometry are filled here. */
void forward_attend(struct forward *f, uint32_t layer, const struct hal_mat *y, const struct hal_mat *q,
                    const struct hal_mat *k, const struct hal_mat *v, struct hal_attend geometry);
void forward_glu(struct forward *f, const struct hal_mat *y, const struct hal_mat *gate,
                 const struct hal_mat *up, uint32_t function);
void forward_add(struct forward *f, const struct hal_mat *y, const struct hal_mat *x);
void forward_scale(struct forward *f, const struct hal_mat *y, float factor);
/* y[r, y_col ..] = x[r, x_col ..], cols values of every row */
void forward_copy(struct forward *f, const struct hal_mat *y, uint32_t y_col, const struct hal_mat *x,
                  uint32_t x_col, uint32_t cols);
/* y[row[i], :] += weight[i] * x[i, :] */
void forward_scatter(struct forward *f, const struct hal_mat *y, const struct hal_mat *x, const uint32_t *row,
                     const float *weight);
/* All of x to host memory. */
void forward_get(struct forward *f, const struct hal_mat *x, float *out);
/* Does the pass go on? False after an error, or once nothing that is wanted remains. */
bool forward_runs(const struct forward *f);

/* From here on only the rows of outputs matter: x keeps those, spare is as wide as x. */
void forward_keep_outputs(struct forward *f, struct hal_mat *x, struct hal_mat *spare);

#endif
