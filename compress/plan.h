/* plan.h: a recipe resolved for one base and one device (or class): tensor -> type and method.
 *
 * Deterministic: the same recipe, base, profile, errors and device facts give the same bytes. The
 * wire form is deterministic CBOR of a few kilobytes; the signature around it is protocol's.
 */
#ifndef PLAN_H
#define PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "compress/profile.h"
#include "compress/prune.h"
#include "compress/recipe.h"

struct engine;
struct gguf;

enum {
    PLAN_TENSORS_MAX = 1 << 13,
    PLAN_BYTES_MAX = 1 << 18,
    PLAN_NAME_MAX = 64,
    PLAN_LEVELS_MAX = 16,
    PLAN_LAYERS_MAX = 1 << 12
};

/* What the planner knows of a device or its class; zero means unknown and unlimited. */
struct plan_device {
    uint64_t types;        /* bit (1 << enum hal_type) that its plugin takes as weights; 0: all stock */
    uint64_t memory_bytes; /* the variant and its cache must fit in this */
    bool has_nf4;          /* private types are allowed */
};

struct plan_tensor {
    char name[PLAN_NAME_MAX];
    uint32_t rows; /* of all slices together */
    uint32_t cols;
    uint32_t from;      /* enum hal_type in the base */
    uint32_t type;      /* enum hal_type in the variant */
    uint32_t method;    /* enum recipe_method */
    bool is_weighted;   /* the profile's importance is applied (never for the output head) */
    bool is_fallback;   /* the row did not divide into a block of the wanted type */
};

/* What the wire form means, to the last byte of the variant: raised with every change of its keys and of a byte that an
 * encoder writes (tests/plugins/encode_golden.h). Plans of another number are refused; predicted digests and
 * checkpoints of another are not used again. 2: Q3_K is searched in whole numbers. */
enum { PLAN_SCHEMA = 2 };

/* Keys of the wire form that an agent reads without the rest. */
enum { PLAN_KEY_SCHEMA = 0, PLAN_KEY_CACHE = 7, PLAN_KEY_ACTIVATIONS = 8 };

struct plan {
    char name[RECIPE_NAME_MAX]; /* of the recipe */
    char base_sha256[65];
    uint64_t base_bytes;
    char profile_sha256[65]; /* "" when no profile is needed */
    char variant_sha256[65]; /* predicted digest, "" when unknown (gptq) */
    uint64_t variant_bytes;  /* predicted, exact for rtn, search and awq */
    uint32_t cache_type;
    uint32_t activation_bits;
    struct scheme scheme; /* of the tensors whose method is it; bits 0: none has */
    uint64_t seed;
    uint32_t trial_s;
    struct recipe_gates gates;
    struct prune *prune; /* NULL: none; else the tensors are those of the pruned base (prune_file.h) */
    uint32_t tensors;
    struct plan_tensor *tensor; /* in the order of the base */
};

/* Predicted damage of every legal level of every tensor, measured on the base: the input of the bpw
 * allocation. Owned by who measured it. */
struct plan_errors {
    uint32_t tensors;
    uint32_t levels;
    uint32_t level[PLAN_LEVELS_MAX]; /* enum hal_type */
    char (*name)[PLAN_NAME_MAX];
    double *error; /* [tensors, levels] sum of h (w - q)^2 over sum of h w^2; NAN where not legal */
    double *scale; /* [tensors] KLD per unit of error, up to a factor: measured, or a prior */
};

typedef int plan_progress_fn(void *context, uint64_t done, uint64_t total);

/* Measure on sampled rows (at most rows_max of each tensor, evenly spread; 0: all) through an engine;
 * profile may be NULL (all columns equal; then scales go by role alone). engine NULL: the best one of this machine. */
NODISCARD enum err plan_errors_measure(const struct gguf *base, const struct profile *profile,
                                       struct engine *engine, uint32_t method, uint32_t rows_max,
                                       plan_progress_fn *progress, void *context,
                                       struct plan_errors **out, struct fault *f);
void plan_errors_close(struct plan_errors *e); /* NULL is allowed */

/* Make a plan; the caller closes it. With a recipe that prunes, base is the pruned one (prune_plan.h) and
 * base_sha256 and base_bytes are of the whole. errors is needed by RECIPE_BPW only (ERR_ARGUMENT without);
 * profile may be NULL; base_sha256 is the hex digest of the base's file, device NULL: no limits.
 * Errors: ERR_UNSUPPORTED (does not fit the device, or a type it does not take), ERR_MISMATCH (recipe or
 * profile is for another base), ERR_ARGUMENT, ERR_MEMORY. */
NODISCARD enum err plan_make(const struct recipe *recipe, const struct gguf *base,
                             const char *base_sha256, uint64_t base_bytes,
                             const struct profile *profile, const char *profile_sha256,
                             const struct plan_errors *errors, const struct plan_device *device,
                             struct plan **out, struct fault *f);
void plan_close(struct plan *p); /* NULL is allowed */

/* Are the variant's bytes the same on every machine? Not with gptq, nor with pruning that recovers. */
bool plan_is_reproducible(const struct plan *p);

/* Bytes of the tensors alone, and bits per weight of the whole variant. */
uint64_t plan_tensor_bytes(const struct plan_tensor *t);
double plan_bpw(const struct plan *p);

/* Wire form: the derivation of protocol's message_plan. encode: bytes gets the length; ERR_FULL when
 * capacity is too small. decode refuses everything that encode cannot have written (ERR_FORMAT), so an
 * accepted plan encodes to the same bytes again, and never reads past bytes. */
NODISCARD enum err plan_encode(const struct plan *p, uint8_t *out, size_t capacity, size_t *bytes);
NODISCARD enum err plan_decode(const uint8_t *in, size_t bytes, struct plan **out, struct fault *f);

/* Is this plan one for this base? Names, shapes and source types must agree.
 * Errors: ERR_MISMATCH with the first difference. */
NODISCARD enum err plan_check(const struct plan *p, const struct gguf *base, struct fault *f);

/* The type that a row of cols values really takes when `type` is wanted: itself, else the stated
 * smaller-block type (Q2_K, Q3_K, IQ4_XS -> IQ4_NL; Q4_K -> Q5_0; Q5_K -> Q5_1; Q6_K -> Q8_0), else F16. */
uint32_t plan_type_for(uint32_t type, uint32_t cols);

/* What stock readers know instead: IQ4_NL for NF4, every other type itself. */
uint32_t plan_stock_type(uint32_t type);

/* ---- what a tensor is, from its name; for plans and reports ---- */

enum plan_role {
    PLAN_OTHER = 0,
    PLAN_EMBEDDING,
    PLAN_HEAD, /* output.weight, or token_embd.weight where it serves as the head too */
    PLAN_ATTN_Q,
    PLAN_ATTN_K,
    PLAN_ATTN_V,
    PLAN_ATTN_QKV,
    PLAN_ATTN_OUT,
    PLAN_FFN_GATE,
    PLAN_FFN_UP,
    PLAN_FFN_DOWN,
    PLAN_FIXED /* never quantised: vectors, norms, routers, position tables */
};

uint32_t plan_role(const struct gguf *base, const char *name);

/* Prior of the role, where no profile tells more: how much a unit of relative output error of such a tensor adds to
 * the KLD of the whole, relative to ffn_up; fitted by leave-one-out on one small llama model. */
double plan_role_scale(uint32_t role);

/* Of a name "blk.N.rest": rest, and the layer N; NULL: another name. */
const char *plan_block(const char *name, uint32_t *layer);

#endif
