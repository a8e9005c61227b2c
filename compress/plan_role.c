#include <stdlib.h>
#include <string.h>

#include "compress/plan.h"
#include "model/gguf.h"

struct rule {
    const char *part; /* what follows "blk.N." or the whole name, up to ".weight" */
    uint32_t role;
};

static const struct rule rules[] = {
    {"token_embd", PLAN_EMBEDDING},   {"output", PLAN_HEAD},
    {"attn_q", PLAN_ATTN_Q},          {"attn_k", PLAN_ATTN_K},
    {"attn_v", PLAN_ATTN_V},          {"attn_qkv", PLAN_ATTN_QKV},
    {"attn_output", PLAN_ATTN_OUT},   {"ffn_gate", PLAN_FFN_GATE},
    {"ffn_up", PLAN_FFN_UP},          {"ffn_down", PLAN_FFN_DOWN},
    {"ffn_gate_exps", PLAN_FFN_GATE}, {"ffn_up_exps", PLAN_FFN_UP},
    {"ffn_down_exps", PLAN_FFN_DOWN}, {"ffn_gate_shexp", PLAN_FFN_GATE},
    {"ffn_up_shexp", PLAN_FFN_UP},    {"ffn_down_shexp", PLAN_FFN_DOWN},
    {"attn_kv_b", PLAN_ATTN_V},       {"attn_v_b", PLAN_ATTN_V},
    {"ffn_gate_inp", PLAN_FIXED},     {"position_embd", PLAN_FIXED},
    {"token_types", PLAN_FIXED},      {"attn_rel_b", PLAN_FIXED},
    {"ssm_conv1d", PLAN_FIXED},       {"rope_freqs", PLAN_FIXED},
};

const char *plan_block(const char *name, uint32_t *layer)
{
    char *end;
    if (strncmp(name, "blk.", 4) != 0 || name[4] < '0' || name[4] > '9')
        return NULL;
    const unsigned long n = strtoul(name + 4, &end, 10);
    if (*end != '.' || n >= PLAN_LAYERS_MAX)
        return NULL;
    *layer = (uint32_t)n;
    return end + 1;
}

static const char *after_block(const char *name)
{
    if (strncmp(name, "blk.", 4) != 0)
        return name;
    const char *dot = strchr(name + 4, '.');
    return dot ? dot + 1 : name;
}

uint32_t plan_role(const struct gguf *base, const char *name)
{
    static const char suffix[] = ".weight";
    const char *part = after_block(name);
    const size_t bytes = strlen(part);
    const struct gguf_tensor *t = gguf_tensor_find(base, name);
    if (bytes <= strlen(suffix) || strcmp(part + bytes - strlen(suffix), suffix) != 0)
        return PLAN_FIXED;
    const size_t stem = bytes - strlen(suffix);
    if ((t && t->dims < 2) || (stem >= 5 && memcmp(part + stem - 5, "_norm", 5) == 0))
        return PLAN_FIXED;
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        if (strlen(rules[i].part) != stem || memcmp(rules[i].part, part, stem) != 0)
            continue;
        const bool is_tied =
            rules[i].role == PLAN_EMBEDDING && !gguf_tensor_find(base, "output.weight");
        return is_tied ? PLAN_HEAD : rules[i].role;
    }
    return PLAN_OTHER;
}

/* KLD per unit of relative output error, over that of ffn_up: leave-one-out of every role of tare-tiny at
 * Q4_K; the same numbers at Q3_K (ffn_gate) and Q6_K (head) are within a quarter. */
double plan_role_scale(uint32_t role)
{
    switch (role) {
    case PLAN_HEAD:
        return 40;
    case PLAN_FFN_DOWN:
        return 4;
    case PLAN_FFN_GATE:
        return 2.5;
    case PLAN_EMBEDDING: /* not measured: every layer sees its error */
        return 2.5;
    case PLAN_ATTN_K:
    case PLAN_ATTN_Q:
    case PLAN_ATTN_OUT:
        return 0.75;
    default:
        return 1;
    }
}
