/* model_experts.h: a mixture of experts in place of one MLP: a router picks a few experts per token.
 *
 * The router's scores are read back and the choice is made on the host; each expert then takes its rows
 * together. Source: arXiv:2405.04434 (device- and group-limited routing), arXiv:2412.19437 (sigmoid scores
 * with a correction bias); names of GGUF. For model/ only.
 */
#ifndef MODEL_EXPERTS_H
#define MODEL_EXPERTS_H

#include "model/forward.h"

struct experts {
    uint32_t count, used, ffn, shared, groups, groups_used;
    float scale;
    bool is_normed, is_sigmoid;
    struct hal_mat scores;                 /* [batch, count] */
    struct hal_mat shared_gate, shared_up; /* [batch, shared * ffn] */
    struct hal_mat in, gate, up, out;      /* the rows of one expert */
    float *host;                           /* [batch, count] scores, then weights; 0: not chosen */
    float *choice;                         /* [count] what the choice is made by */
    float *weight;                         /* [batch] of the rows in turn */
    uint32_t *row;                         /* [batch] */
};

struct experts_layer {
    struct weights_linear router;
    struct weights_linear *gate, *up, *down; /* [count] */
    struct weights_linear shared_gate, shared_up, shared_down;
    float *bias; /* [count] added to sigmoid scores for the choice alone; NULL: none */
};

/* Read the keys; floats of a row. count stays 0 where the model has no experts. */
uint64_t experts_shape(struct forward *f, struct experts *x);
void experts_open(struct forward *f, struct experts *x);
void experts_close(struct experts *x);
void experts_open_layer(struct forward *f, const struct experts *x, struct experts_layer *l, uint32_t layer);
void experts_close_layer(struct experts_layer *l);

/* x += shared experts(h) + the chosen experts(h); h is overwritten. */
void experts_add(struct forward *f, struct experts *m, const struct experts_layer *l, const struct hal_mat *x,
                 const struct hal_mat *h);

#endif
