/* prune.h: structured pruning: attention heads, FFN channels and layers really go, the file shrinks.
 *
 * What goes is chosen once (prune_choose.h) and is then a fact of the plan: cutting it out of the base is a
 * copy of rows and columns, the same bytes everywhere. With recovery the attn_output and ffn_down that stay
 * are solved again by least squares on calibration activations (prune_solve.h): those bytes depend on the
 * machine, as with gptq. The result is an ordinary file of its architecture: every layer keeps as many
 * heads, groups and channels. Architectures: llama (with mistral), qwen2, qwen3.
 *
 * A mask zeroes single weights instead; it makes no file smaller and no product faster.
 */
#ifndef PRUNE_H
#define PRUNE_H

#include "compress/digest.h"
#include "compress/profile.h"
#include "compress/recipe.h"

struct cbor_reader;
struct cbor_writer;
struct engine;
struct gguf;

/* Widths of the base; of every layer the same. */
struct prune_shape {
    uint32_t layers;
    uint32_t heads;  /* query heads */
    uint32_t groups; /* KV heads: head h is of group h / (heads / groups) */
    uint32_t ffn;
    uint32_t head_dim;  /* rows of a head in attn_q and attn_k */
    uint32_t value_dim; /* columns of a head in attn_output */
};

/* What stays. The flags of a layer that goes are 0. */
struct prune {
    struct prune_shape shape;
    bool is_recovered;
    uint64_t tokens;     /* of calibration text for the recovery, 0: default */
    uint32_t mask_by;    /* enum recipe_importance, 0: no mask */
    uint32_t mask_share; /* of every row, in 1/10000, or */
    uint32_t mask_keep, mask_of;
    uint8_t *layer;   /* [layers] */
    uint8_t *head;    /* [layers, heads] */
    uint8_t *channel; /* [layers, ffn] */
};

/* Counts of what stays, per layer. */
struct prune_kept {
    uint32_t layers, heads, groups, ffn;
};

/* Everything stays. Errors: ERR_ARGUMENT (shape out of range), ERR_MEMORY. */
NODISCARD enum err prune_open(const struct prune_shape *shape, struct prune **out);
void prune_close(struct prune *p); /* NULL is allowed */
NODISCARD enum err prune_copy(const struct prune *p, struct prune **out);

/* Are the flags ones that a file can have: something stays everywhere, the same in every layer, the same
 * number of query heads in every group that stays? kept may be NULL. Errors: ERR_FORMAT. */
NODISCARD enum err prune_check(const struct prune *p, struct prune_kept *kept);

/* Read the shape of a base. Errors: ERR_UNSUPPORTED (another architecture, experts, widths that differ from
 * layer to layer, fused tensors), ERR_FORMAT; f names the file. */
NODISCARD enum err prune_shape_read(const struct gguf *base, struct prune_shape *out, struct fault *f);

/* As one item of a plan: deterministic, decode refuses what encode does not write. Errors: ERR_MEMORY,
 * ERR_FORMAT; running out of room is the writer's to say. */
NODISCARD enum err prune_encode(struct cbor_writer *w, const struct prune *p);
NODISCARD enum err prune_decode(struct cbor_reader *r, struct prune **out);

/* "layers 4/4, heads 6/8 in groups 2/2, ffn 608/768, recovered" */
void prune_describe(const struct prune *p, char *out, size_t capacity);

/* ---- what happens to one tensor of the base ---- */

enum prune_axis { PRUNE_ALL = 0, PRUNE_Q, PRUNE_K, PRUNE_V, PRUNE_OUT, PRUNE_FFN };

struct prune_cut {
    bool is_dropped;
    bool is_masked; /* a linear that the mask reaches */
    uint32_t layer; /* in the base */
    uint32_t rows;  /* enum prune_axis along shape[1] */
    uint32_t cols;  /* enum prune_axis along shape[0] */
    char name[64];  /* in the result */
};

/* How tensor `name` of dims dimensions is cut. */
void prune_cut(const struct prune *p, const char *name, uint32_t dims, struct prune_cut *out);

/* Values along an axis before, and the indices of those that stay in a layer, ascending; index may be NULL. */
uint32_t prune_axis_length(const struct prune *p, uint32_t axis);
uint32_t prune_axis_kept(const struct prune *p, uint32_t layer, uint32_t axis, uint32_t *index);

/* The profile of the result: columns and layers that stay. A profile that lacks inputs gives one that lacks
 * them too. Errors: ERR_MISMATCH (other widths), ERR_MEMORY. */
NODISCARD enum err prune_profile(const struct prune *p, const struct profile *from, struct profile **out,
                                 struct fault *f);

#endif
