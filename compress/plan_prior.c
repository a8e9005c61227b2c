/* Priors of sensitivity from what the profile knows: how much of the residual stream a block has written. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compress/plan_internal.h"

/* An error in a block's output is as large, beside the stream it is added to, as the block's share of it; what
 * attention gets wrong reaches the following FFN as well, which answers with this part of it. */
static const double passed_on = 0.3;

/* The head sees the whole stream. What matrices add to it is more than their energies by single channels say, the
 * more the wider they are, while errors are not: beside the head, blocks matter less in wide models. */
enum { WIDTH_MEASURED = 256 }; /* 256 and 512 gave the same */
static const double head_weight = 12;

struct layer {
    double attention, ffn; /* energies of what they add; 0: not known */
    uint32_t attentions, ffns;
    double attention_share, ffn_share;
};

/* KLD per unit of error and of share, over that of ffn_down. */
static double weight_of(uint32_t role)
{
    switch (role) {
    case PLAN_EMBEDDING:
        return 0.5;
    case PLAN_ATTN_Q:
        return 1.5;
    case PLAN_ATTN_K:
        return 2.7;
    case PLAN_ATTN_V:
    case PLAN_ATTN_QKV:
        return 1.7;
    case PLAN_ATTN_OUT:
        return 1.2;
    case PLAN_FFN_DOWN:
        return 1;
    case PLAN_FFN_GATE:
        return 0.7;
    default:
        return 0.45;
    }
}

static bool is_attention(uint32_t role)
{
    return role == PLAN_ATTN_Q || role == PLAN_ATTN_K || role == PLAN_ATTN_V || role == PLAN_ATTN_QKV ||
           role == PLAN_ATTN_OUT;
}

static void take_energies(const struct gguf *base, const struct plan_errors *e, const double *energy,
                          struct layer *layer)
{
    for (uint32_t t = 0; t < e->tensors; t++) {
        const uint32_t role = plan_role(base, e->name[t]);
        uint32_t at;
        if (!plan_block(e->name[t], &at))
            continue;
        if (role == PLAN_ATTN_OUT) {
            layer[at].attentions++;
            layer[at].attention = energy[t];
        }
        if (role == PLAN_FFN_DOWN) {
            layer[at].ffns++;
            layer[at].ffn = energy[t];
        }
    }
}

/* A norm between a block and the stream hides what the block adds. */
static bool has_post_norm(const struct gguf *base, uint32_t layer)
{
    static const char *const names[] = {"post_attention_norm", "post_ffw_norm", "attn_output_norm", "layer_output_norm"};
    char name[PLAN_NAME_MAX];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(name, sizeof name, "blk.%u.%s.weight", layer, names[i]);
        if (gguf_tensor_find(base, name))
            return true;
    }
    return false;
}

/* The stream grows from `stream`, the energy of an embedding. false: something about a layer is not known. */
static bool share_out(const struct gguf *base, struct layer *layer, uint32_t layers, double stream)
{
    for (uint32_t i = 0; i < layers; i++) {
        struct layer *l = &layer[i];
        if (l->attentions != 1 || l->ffns != 1 || !(l->attention > 0) || !(l->ffn > 0) || has_post_norm(base, i))
            return false;
        const double attended = stream + l->attention;
        stream = attended + l->ffn;
        l->ffn_share = l->ffn / stream;
        l->attention_share = l->attention / stream + passed_on * (l->attention / attended) * l->ffn_share;
    }
    return true;
}

enum err plan_prior(const struct gguf *base, const double *energy, struct plan_errors *e)
{
    uint32_t layers = 0, at, embedding = UINT32_MAX;
    for (uint32_t t = 0; t < e->tensors; t++) {
        e->scale[t] = plan_role_scale(plan_role(base, e->name[t]));
        if (plan_block(e->name[t], &at))
            layers = at >= layers ? at + 1 : layers;
        else if (strcmp(e->name[t], "token_embd.weight") == 0)
            embedding = t;
    }
    if (layers == 0 || layers > gguf_tensors(base) || embedding == UINT32_MAX || !(energy[embedding] > 0))
        return ERR_NONE;
    struct layer *layer = calloc(layers, sizeof *layer);
    if (!layer)
        return ERR_MEMORY;
    const struct gguf_tensor *table = gguf_tensor_find(base, e->name[embedding]);
    const double stream = energy[embedding] / (double)table->rows;
    const double width = table->shape[0] < WIDTH_MEASURED ? (double)table->shape[0] / WIDTH_MEASURED : 1;
    take_energies(base, e, energy, layer);
    const bool is_known = share_out(base, layer, layers, stream);
    for (uint32_t t = 0; t < e->tensors && is_known; t++) {
        const uint32_t role = plan_role(base, e->name[t]);
        const double first = stream + layer[0].attention + layer[0].ffn;
        if (role == PLAN_HEAD)
            e->scale[t] = head_weight * width * width;
        else if (role == PLAN_EMBEDDING) /* all of what layer 0 sees */
            e->scale[t] = weight_of(role) * (stream + passed_on * (first - stream)) / first;
        else if (plan_block(e->name[t], &at))
            e->scale[t] = weight_of(role) * (is_attention(role) ? layer[at].attention_share : layer[at].ffn_share);
        else
            e->scale[t] = weight_of(role);
    }
    free(layer);
    return ERR_NONE;
}
