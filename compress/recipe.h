/* recipe.h: what an operator wants, as a YAML text of about ten lines (JSON is accepted too).
 *
 *   name: gateways            # optional
 *   mode: balanced            # or type: q4_k, or bpw: 4.5; mode export: private types to stock ones
 *   method: search            # rtn search awq gptq gptq+awq keep cascade scheme
 *   scheme: 4 affine 64       # method scheme for every weight: compress/scheme.h
 *   base: HEX                 # optional: the digest of the only base it may be used with
 *   tensors:                  # first match wins; a glob, or a /regular expression/
 *     - match: "*.attn_v.weight"
 *       type: q6_k
 *       method: search
 *   calibration: {profile: FILE | HEX, texts: [FILE, {language: en, file: FILE}], tokens: 16384, context: 512}
 *   sensitivity: names        # bpw goes by roles and what the profile says of layers; or leave-one-out: bpw and modes by what
 *                             # quantising each tensor does to the texts
 *   cache: f16                # q8_0, q4_0
 *   activations: 8            # 8: the dynamic rounding of the plugins; 16, 4: simulated on F32 weights
 *   seed: 1
 *   prune: {ffn: 20%, heads: 25%, by: wanda, recover: false} # or 20%: ffn and heads; also groups, layers, mask
 *   gates: {dppl_percent: 2, kld_mean: 0.05, top1: 0.9, decode_tok_s: 5, rss_mib: 400, ...}
 *   rollout: {stages: [10, 50, 100], threshold: 0.2, minimum_sample: 1, deadline_s: 600, trial_s: 30}
 *
 * Every key is checked: unknown ones, wrong types and gates that no variant can meet are refused with
 * FILE:LINE: expectation.
 */
#ifndef RECIPE_H
#define RECIPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "compress/fault.h"
#include "compress/scheme.h"
#include "hal/hal.h"

enum {
    RECIPE_BYTES_MAX = 1 << 18,
    RECIPE_RULES_MAX = 64,
    RECIPE_TEXTS_MAX = 64,
    RECIPE_STAGES_MAX = 16,
    RECIPE_STRING_MAX = 256,
    RECIPE_NAME_MAX = 64
};

/* Numbers are stored and sent: never renumbered. */
enum recipe_goal {
    RECIPE_ACCURACY = 1,
    RECIPE_BALANCED = 2,
    RECIPE_COMPRESSION = 3,
    RECIPE_TYPE = 4, /* one type for every quantisable tensor that no rule names */
    RECIPE_BPW = 5,  /* bits allocated by measured error until the file has this many per weight */
    RECIPE_EXPORT = 6 /* every private type becomes the nearest stock one (NF4: IQ4_NL), the rest stays */
};

enum recipe_method {
    RECIPE_RTN = 0,
    RECIPE_SEARCH = 1,
    RECIPE_AWQ = 2,
    RECIPE_GPTQ = 3,
    RECIPE_GPTQ_AWQ = 4,
    RECIPE_KEEP = 5, /* the bytes of the base, or F32/F16/BF16 conversion */
    RECIPE_CASCADE = 6, /* search on what Q8_0 (rtn) keeps of the base, as if that were the base */
    RECIPE_SCHEME = 7,  /* the recipe's scheme */
    RECIPE_METHODS = 8
};

enum recipe_gate {
    RECIPE_DPPL_PERCENT = 0,    /* at most: 100 * (PPL / PPL of the base - 1) */
    RECIPE_KLD_MEAN = 1,        /* at most, nats per token */
    RECIPE_KLD_P99 = 2,         /* at most */
    RECIPE_TOP1 = 3,            /* at least, fraction of equal argmax */
    RECIPE_DECODE_TOK_S = 4,    /* at least */
    RECIPE_PREFILL_TOK_S = 5,   /* at least */
    RECIPE_RSS_MIB = 6,         /* at most */
    RECIPE_FILE_MIB = 7,        /* at most */
    RECIPE_WORST_DPPL_PERCENT = 8, /* at most, of the worst language */
    RECIPE_WORST_KLD_MEAN = 9,  /* at most, of the worst language */
    RECIPE_ENERGY_MJ_TOKEN = 10, /* at most, where the platform counts energy */
    RECIPE_GATES = 11
};

struct recipe_gates {
    uint32_t present; /* bit (1 << enum recipe_gate) */
    double limit[RECIPE_GATES];
};

struct recipe_rule {
    char match[RECIPE_STRING_MAX]; /* glob, or /regex/ */
    uint32_t type;                 /* enum hal_type, RECIPE_UNSET if the rule leaves it */
    uint32_t method;               /* enum recipe_method, RECIPE_UNSET if the rule leaves it */
};

#define RECIPE_UNSET UINT32_MAX

struct recipe_text {
    char language[16]; /* "" when not given */
    char path[RECIPE_STRING_MAX];
};

/* How the parts that go are told from those that stay. */
enum recipe_importance {
    RECIPE_MAGNITUDE = 1, /* |W| */
    RECIPE_WANDA = 2,     /* |W| * ||x||: needs a profile */
    RECIPE_OUTPUT = 3     /* the error of what the part feeds, on calibration text */
};

/* Structured pruning: percent of each kind that goes, to the nearest step; 0: none. */
struct recipe_prune {
    double ffn;        /* channels, in every layer as many */
    double heads;      /* query heads, of every KV group as many; whole groups where each has one */
    double groups;     /* KV heads with their query heads */
    double layers;
    uint32_t by;       /* enum recipe_importance; 0: wanda where there is a profile, else magnitude */
    uint32_t multiple; /* kept channels are a multiple of it; 0: 256 where that is near, else 32 */
    bool is_recovered; /* what stays is solved again by least squares on calibration text */
    /* unstructured: weights become 0, no file is smaller for it */
    double mask;                   /* percent of every row, or */
    uint32_t mask_keep, mask_of;   /* n of every m neighbours stay; m 0: none */
};

struct recipe_rollout {
    uint32_t stages;
    double stage_percent[RECIPE_STAGES_MAX]; /* ascending, the last one 100 */
    double threshold;        /* failed fraction above which the rollout halts */
    uint32_t minimum_sample; /* devices that must have answered before the threshold counts */
    uint32_t deadline_s;     /* silence longer than this is a failure */
    uint32_t trial_s;        /* trial of a device before it commits */
    uint32_t approvals;      /* operators that must approve; 0: none */
    bool revert;             /* revert committed devices when it halts */
};

struct recipe {
    char name[RECIPE_NAME_MAX];
    char base_sha256[65]; /* "" when any base will do */
    uint32_t goal;        /* enum recipe_goal */
    uint32_t type;        /* for RECIPE_TYPE */
    double bpw;           /* for RECIPE_BPW */
    uint32_t method;      /* enum recipe_method */
    struct scheme scheme; /* bits 0: none */
    uint32_t rules;
    struct recipe_rule rule[RECIPE_RULES_MAX];
    char profile[RECIPE_STRING_MAX]; /* file, or digest in hex; "" when none */
    uint32_t texts;
    struct recipe_text text[RECIPE_TEXTS_MAX];
    uint64_t tokens;  /* per language, 0: all */
    uint32_t context; /* 0: default */
    bool is_left_out; /* sensitivity leave-one-out: measured on the texts (sensitivity.h), not by names */
    uint32_t cache_type;      /* HAL_F16, HAL_Q8_0 or HAL_Q4_0 */
    uint32_t activation_bits; /* 4, 8 or 16 */
    uint64_t seed;
    struct recipe_prune prune;
    struct recipe_gates gates;
    struct recipe_rollout rollout;
};

/* A recipe with every default: balanced, search, cache F16, no gates, one stage. */
void recipe_default(struct recipe *out);

/* Parse. file names the source in messages. Errors: ERR_FORMAT (fault says where and what was expected),
 * ERR_MEMORY; *out is unchanged then. Any thread. */
NODISCARD enum err recipe_parse(const char *file, const char *text, size_t bytes, struct recipe *out,
                                struct fault *f);
NODISCARD enum err recipe_load(const char *path, struct recipe *out, struct fault *f);

/* Write as canonical YAML that recipe_parse reads back to an equal recipe; needs room for the
 * terminator. Errors: ERR_FULL. */
NODISCARD enum err recipe_print(const struct recipe *r, char *out, size_t capacity);

/* Names as recipes write them; parse gives RECIPE_UNSET for an unknown one. */
const char *recipe_method_name(uint32_t method);
uint32_t recipe_method_parse(const char *name);
const char *recipe_goal_name(uint32_t goal);
const char *recipe_gate_name(uint32_t gate);

/* "20%" (ffn and heads), or "ffn=20%,heads=25%,groups=50%,layers=10%": sets these four of out.
 * Errors: ERR_ARGUMENT, what was expected is in f. */
NODISCARD enum err recipe_prune_parse(const char *text, struct recipe_prune *out, struct fault *f);
/* "50%" or "2:4" (two of four stay). Errors as above. */
NODISCARD enum err recipe_mask_parse(const char *text, struct recipe_prune *out, struct fault *f);
const char *recipe_importance_name(uint32_t by);
/* 0 for an unknown name. */
uint32_t recipe_importance_parse(const char *name);
bool recipe_prunes(const struct recipe_prune *p); /* anything at all, masks included */

/* true when the limit is a lower one (top1, *_tok_s) */
bool recipe_gate_is_minimum(uint32_t gate);

/* Does a measured value keep the limit? true when the gate is not present. NaN never passes. */
bool recipe_gate_passes(const struct recipe_gates *g, uint32_t gate, double value);

/* Does a rule's match fit a tensor's name? Globs know * and ?; /regex/ is PCRE, unanchored. */
bool recipe_rule_matches(const struct recipe_rule *rule, const char *name);

#endif
