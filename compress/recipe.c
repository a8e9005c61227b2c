#include "compress/recipe.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compress/recipe_yaml.h"

static const char *const method_name[] = {"rtn", "search", "awq", "gptq",
                                          "gptq+awq", "keep", "cascade", "scheme"};
static const char *const goal_name[] = {"?", "accuracy", "balanced", "compression", "type", "bpw", "export"};

enum { METHODS = sizeof method_name / sizeof *method_name };

struct gate {
    const char *name;
    bool is_minimum;
    double low; /* a limit at or below this is one that no variant, or every variant, meets */
    double high;
};

static const struct gate gates[RECIPE_GATES] = {
    {"dppl_percent", false, 0, 1e6},        {"kld_mean", false, 0, 100},
    {"kld_p99", false, 0, 1000},            {"top1", true, 0, 1},
    {"decode_tok_s", true, 0, 1e9},         {"prefill_tok_s", true, 0, 1e9},
    {"rss_mib", false, 0, 1e9},             {"file_mib", false, 0, 1e9},
    {"worst_dppl_percent", false, 0, 1e6},  {"worst_kld_mean", false, 0, 100},
    {"energy_mj_token", false, 0, 1e9},
};

const char *recipe_method_name(uint32_t method)
{
    return method < METHODS ? method_name[method] : "?";
}

uint32_t recipe_method_parse(const char *name)
{
    for (uint32_t i = 0; i < METHODS; i++)
        if (strcmp(name, method_name[i]) == 0)
            return i;
    return RECIPE_UNSET;
}

const char *recipe_goal_name(uint32_t goal)
{
    return goal <= RECIPE_EXPORT ? goal_name[goal] : "?";
}

const char *recipe_gate_name(uint32_t gate)
{
    return gate < RECIPE_GATES ? gates[gate].name : "?";
}

bool recipe_gate_is_minimum(uint32_t gate)
{
    return gate < RECIPE_GATES && gates[gate].is_minimum;
}

bool recipe_gate_passes(const struct recipe_gates *g, uint32_t gate, double value)
{
    if (gate >= RECIPE_GATES || !(g->present & 1u << gate))
        return true;
    return gates[gate].is_minimum ? value >= g->limit[gate] : value <= g->limit[gate];
}

void recipe_default(struct recipe *out)
{
    memset(out, 0, sizeof *out);
    out->goal = RECIPE_BALANCED;
    out->type = RECIPE_UNSET;
    out->method = RECIPE_SEARCH;
    out->cache_type = HAL_F16;
    out->activation_bits = 8;
    out->rollout = (struct recipe_rollout){.stages = 1,
                                           .stage_percent = {100},
                                           .threshold = 0.1,
                                           .minimum_sample = 1,
                                           .deadline_s = 3600,
                                           .trial_s = 60};
}

static enum err parse_gates(struct recipe_yaml *y, int node, struct recipe *r)
{
    enum err e = ERR_NONE;
    const char *names[RECIPE_GATES + 1] = {NULL};
    for (uint32_t i = 0; i < RECIPE_GATES; i++)
        names[i] = gates[i].name;
    struct recipe_pair pair;
    struct recipe_map map;
    if ((e = recipe_yaml_map(y, node, "gates", names, &map)))
        return e;
    while (recipe_yaml_next(&map, &pair)) {
        const struct gate *g = &gates[pair.key];
        double value;
        if ((e = recipe_yaml_number(y, pair.value, g->name, g->low, g->high, &value)))
            return e;
        if (value <= g->low || (g->is_minimum && pair.key == RECIPE_TOP1 && value > 1))
            return recipe_yaml_fault(y, pair.value, "impossible gate %s: expected %s %g and at most %g",
                                     g->name, "more than", g->low, g->high);
        r->gates.present |= 1u << pair.key;
        r->gates.limit[pair.key] = value;
    }
    return e;
}

static enum err parse_stages(struct recipe_yaml *y, int node, struct recipe_rollout *r)
{
    uint32_t items;
    enum err e = recipe_yaml_list(y, node, "stages", RECIPE_STAGES_MAX, &items);
    if (e)
        return e;
    if (items == 0)
        return recipe_yaml_fault(y, node, "stages: expected at least one percentage");
    double last = 0;
    for (uint32_t i = 0; i < items; i++) {
        const int item = recipe_yaml_item(y, node, i);
        if ((e = recipe_yaml_number(y, item, "stages", 0, 100, &r->stage_percent[i])))
            return e;
        if (r->stage_percent[i] <= last)
            return recipe_yaml_fault(y, item, "stages: expected ascending percentages above %g", last);
        last = r->stage_percent[i];
    }
    if (last < 100)
        return recipe_yaml_fault(y, node, "stages: expected the last one to be 100");
    r->stages = items;
    return ERR_NONE;
}

static enum err parse_rollout(struct recipe_yaml *y, int node, struct recipe *r)
{
    static const char *const names[] = {"stages",  "threshold", "minimum_sample", "deadline_s",
                                        "trial_s", "approvals", "revert",         NULL};
    struct recipe_rollout *o = &r->rollout;
    struct recipe_pair pair;
    struct recipe_map map;
    uint64_t whole;
    enum err e = recipe_yaml_map(y, node, "rollout", names, &map);
    while (!e && recipe_yaml_next(&map, &pair)) {
        const int v = pair.value;
        switch (pair.key) {
        case 0:
            e = parse_stages(y, v, o);
            break;
        case 1:
            e = recipe_yaml_number(y, v, "threshold", 0, 1, &o->threshold);
            break;
        case 2:
            if (!(e = recipe_yaml_whole(y, v, "minimum_sample", 1, 1000000, &whole)))
                o->minimum_sample = (uint32_t)whole;
            break;
        case 3:
            if (!(e = recipe_yaml_whole(y, v, "deadline_s", 1, 365 * 86400, &whole)))
                o->deadline_s = (uint32_t)whole;
            break;
        case 4:
            if (!(e = recipe_yaml_whole(y, v, "trial_s", 0, 30 * 86400, &whole)))
                o->trial_s = (uint32_t)whole;
            break;
        case 5:
            if (!(e = recipe_yaml_whole(y, v, "approvals", 0, 64, &whole)))
                o->approvals = (uint32_t)whole;
            break;
        default:
            e = recipe_yaml_flag(y, v, "revert", &o->revert);
        }
    }
    if (!e && o->trial_s >= o->deadline_s)
        e = recipe_yaml_fault(y, node, "rollout: expected deadline_s (%u) above trial_s (%u)",
                              o->deadline_s, o->trial_s);
    return e;
}

static enum err parse_text(struct recipe_yaml *y, int node, struct recipe_text *t)
{
    static const char *const names[] = {"language", "file", NULL};
    struct recipe_pair pair;
    struct recipe_map map;
    if (recipe_yaml_is_scalar(y, node))
        return recipe_yaml_string(y, node, "texts", t->path, sizeof t->path);
    enum err e = recipe_yaml_map(y, node, "texts", names, &map);
    while (!e && recipe_yaml_next(&map, &pair))
        e = pair.key == 0
                ? recipe_yaml_string(y, pair.value, "language", t->language, sizeof t->language)
                : recipe_yaml_string(y, pair.value, "file", t->path, sizeof t->path);
    if (!e && t->path[0] == 0)
        e = recipe_yaml_fault(y, node, "texts: expected a file");
    return e;
}

static enum err parse_calibration(struct recipe_yaml *y, int node, struct recipe *r)
{
    static const char *const names[] = {"profile", "texts", "tokens", "context", NULL};
    struct recipe_pair pair;
    struct recipe_map map;
    uint64_t whole;
    enum err e = recipe_yaml_map(y, node, "calibration", names, &map);
    while (!e && recipe_yaml_next(&map, &pair)) {
        switch (pair.key) {
        case 0:
            e = recipe_yaml_string(y, pair.value, "profile", r->profile, sizeof r->profile);
            break;
        case 1:
            e = recipe_yaml_list(y, pair.value, "texts", RECIPE_TEXTS_MAX, &r->texts);
            for (uint32_t i = 0; !e && i < r->texts; i++)
                e = parse_text(y, recipe_yaml_item(y, pair.value, i), &r->text[i]);
            break;
        case 2:
            e = recipe_yaml_whole(y, pair.value, "tokens", 0, 1u << 30, &r->tokens);
            break;
        default:
            if (!(e = recipe_yaml_whole(y, pair.value, "context", 16, 1u << 20, &whole)))
                r->context = (uint32_t)whole;
        }
    }
    return e;
}

static enum err parse_method(struct recipe_yaml *y, int node, uint32_t *out)
{
    char word[16];
    enum err e = recipe_yaml_string(y, node, "method", word, sizeof word);
    if (e)
        return e;
    const uint32_t method = recipe_method_parse(word);
    if (method == RECIPE_UNSET)
        return recipe_yaml_fault(
            y, node, "unknown method '%s': expected rtn, search, awq, gptq, gptq+awq, keep, cascade or scheme", word);
    *out = method;
    return ERR_NONE;
}

static enum err parse_rules(struct recipe_yaml *y, int node, struct recipe *r)
{
    static const char *const names[] = {"match", "type", "method", NULL};
    enum err e = recipe_yaml_list(y, node, "tensors", RECIPE_RULES_MAX, &r->rules);
    for (uint32_t i = 0; !e && i < r->rules; i++) {
        struct recipe_rule *rule = &r->rule[i];
        struct recipe_pair pair;
        struct recipe_map map;
        *rule = (struct recipe_rule){.type = RECIPE_UNSET, .method = RECIPE_UNSET};
        const int item = recipe_yaml_item(y, node, i);
        e = recipe_yaml_map(y, item, "tensors", names, &map);
        while (!e && recipe_yaml_next(&map, &pair)) {
            if (pair.key == 0)
                e = recipe_yaml_string(y, pair.value, "match", rule->match, sizeof rule->match);
            else if (pair.key == 1)
                e = recipe_yaml_type(y, pair.value, &rule->type);
            else
                e = parse_method(y, pair.value, &rule->method);
            if (!e && pair.key == 0 && !recipe_match_is_valid(rule->match))
                e = recipe_yaml_fault(y, pair.value,
                                      "match '%s': expected a glob or a /regular expression/",
                                      rule->match);
        }
        if (!e && rule->match[0] == 0)
            e = recipe_yaml_fault(y, item, "tensors: expected match in every rule");
        if (!e && rule->type == RECIPE_UNSET && rule->method == RECIPE_UNSET)
            e = recipe_yaml_fault(y, item, "tensors: expected type or method beside match");
    }
    return e;
}

static enum err parse_mode(struct recipe_yaml *y, int node, struct recipe *r)
{
    char word[16];
    enum err e = recipe_yaml_string(y, node, "mode", word, sizeof word);
    for (uint32_t g = RECIPE_ACCURACY; !e && g <= RECIPE_COMPRESSION; g++)
        if (strcmp(word, goal_name[g]) == 0) {
            r->goal = g;
            return ERR_NONE;
        }
    if (!e && strcmp(word, goal_name[RECIPE_EXPORT]) == 0) {
        r->goal = RECIPE_EXPORT;
        return ERR_NONE;
    }
    return e ? e
             : recipe_yaml_fault(y, node,
                                 "unknown mode '%s': expected accuracy, balanced, compression or export", word);
}

static bool is_digest(const char *s)
{
    return strlen(s) == 64 && strspn(s, "0123456789abcdef") == 64;
}

static enum err parse_cache(struct recipe_yaml *y, int node, struct recipe *r)
{
    enum err e = recipe_yaml_type(y, node, &r->cache_type);
    if (!e && r->cache_type != HAL_F16 && r->cache_type != HAL_Q8_0 && r->cache_type != HAL_Q4_0)
        e = recipe_yaml_fault(y, node, "cache: expected f16, q8_0 or q4_0");
    return e;
}

static enum err parse_scheme(struct recipe_yaml *y, int node, struct recipe *r)
{
    char words[SCHEME_TEXT_MAX];
    struct fault f = {""};
    enum err e = recipe_yaml_string(y, node, "scheme", words, sizeof words);
    if (!e && (e = scheme_parse(words, &r->scheme, &f)))
        return recipe_yaml_fault(y, node, "%s", f.text);
    r->method = e ? r->method : (uint32_t)RECIPE_SCHEME;
    return e;
}

static enum err parse_sensitivity(struct recipe_yaml *y, int node, struct recipe *r)
{
    char word[32];
    enum err e = recipe_yaml_string(y, node, "sensitivity", word, sizeof word);
    r->is_left_out = !e && strcmp(word, "leave-one-out") == 0;
    if (!e && !r->is_left_out && strcmp(word, "names") != 0)
        e = recipe_yaml_fault(y, node, "unknown sensitivity '%s': expected names or leave-one-out", word);
    return e;
}

/* Only what allocates bits by error asks for sensitivity. */
static enum err check_sensitivity(struct recipe_yaml *y, const struct recipe *r)
{
    if (r->is_left_out && r->goal != RECIPE_BPW && r->goal > RECIPE_COMPRESSION)
        return recipe_yaml_fault(y, recipe_yaml_root(y), "sensitivity leave-one-out: expected bpw or mode");
    return ERR_NONE;
}

/* A scheme and its method need each other. */
static enum err check_scheme(struct recipe_yaml *y, const struct recipe *r)
{
    bool wants = r->method == RECIPE_SCHEME;
    for (uint32_t i = 0; i < r->rules; i++)
        wants = wants || r->rule[i].method == RECIPE_SCHEME;
    if (wants != (r->scheme.bits != 0))
        return recipe_yaml_fault(y, recipe_yaml_root(y), wants ? "method scheme: expected scheme: \"4 affine 64\" too"
                                                               : "scheme: expected method scheme");
    return ERR_NONE;
}

enum top {
    NAME,
    MODE,
    TYPE,
    BPW,
    METHOD,
    BASE,
    TENSORS,
    CALIBRATION,
    CACHE,
    ACTIVATIONS,
    SEED,
    GATES,
    ROLLOUT,
    PRUNE,
    SCHEME,
    SENSITIVITY
};

static enum err parse_top(struct recipe_yaml *y, const struct recipe_pair *pair, struct recipe *r)
{
    const int v = pair->value;
    uint64_t whole;
    enum err e = ERR_NONE;
    switch ((enum top)pair->key) {
    case NAME:
        return recipe_yaml_string(y, v, "name", r->name, sizeof r->name);
    case MODE:
        return parse_mode(y, v, r);
    case TYPE:
        r->goal = RECIPE_TYPE;
        return recipe_yaml_type(y, v, &r->type);
    case BPW:
        r->goal = RECIPE_BPW;
        return recipe_yaml_number(y, v, "bpw", 1, 32, &r->bpw);
    case METHOD:
        return parse_method(y, v, &r->method);
    case BASE:
        e = recipe_yaml_string(y, v, "base", r->base_sha256, sizeof r->base_sha256);
        if (!e && !is_digest(r->base_sha256))
            e = recipe_yaml_fault(y, v, "base: expected a SHA-256 digest, 64 lower-case hex digits");
        return e;
    case TENSORS:
        return parse_rules(y, v, r);
    case CALIBRATION:
        return parse_calibration(y, v, r);
    case CACHE:
        return parse_cache(y, v, r);
    case ACTIVATIONS:
        e = recipe_yaml_whole(y, v, "activations", 4, 16, &whole);
        if (!e && whole != 4 && whole != 8 && whole != 16)
            e = recipe_yaml_fault(y, v, "activations: expected 4, 8 or 16");
        if (!e)
            r->activation_bits = (uint32_t)whole;
        return e;
    case SEED:
        return recipe_yaml_whole(y, v, "seed", 0, INT64_MAX, &r->seed);
    case GATES:
        return parse_gates(y, v, r);
    case ROLLOUT:
        return parse_rollout(y, v, r);
    case PRUNE:
        return recipe_yaml_prune(y, v, &r->prune);
    case SCHEME:
        return parse_scheme(y, v, r);
    case SENSITIVITY:
        return parse_sensitivity(y, v, r);
    }
    return ERR_ARGUMENT;
}

enum err recipe_parse(const char *file, const char *text, size_t bytes, struct recipe *out,
                      struct fault *f)
{
    static const char *const names[] = {"name",        "mode",  "type",        "bpw",  "method",
                                        "base",        "tensors", "calibration", "cache", "activations",
                                        "seed",        "gates", "rollout",     "prune", "scheme", "sensitivity", NULL};
    struct recipe_yaml *y = NULL;
    struct recipe *r = calloc(1, sizeof *r);
    struct recipe_pair pair;
    struct recipe_map map;
    uint32_t goals = 0;
    enum err e = r ? recipe_yaml_open(file, text, bytes, &y, f) : ERR_MEMORY;
    if (e)
        goto out;
    recipe_default(r);
    if ((e = recipe_yaml_map(y, recipe_yaml_root(y), "recipe", names, &map)))
        goto out;
    while (recipe_yaml_next(&map, &pair)) {
        if ((e = parse_top(y, &pair, r)))
            goto out;
        if ((pair.key == MODE || pair.key == TYPE || pair.key == BPW) && ++goals > 1) {
            e = recipe_yaml_fault(y, pair.value, "expected only one of mode, type and bpw");
            goto out;
        }
    }
    if ((e = check_scheme(y, r)) || (e = check_sensitivity(y, r)))
        goto out;
    *out = *r;
out:
    recipe_yaml_close(y);
    free(r);
    return e;
}

enum err recipe_load(const char *path, struct recipe *out, struct fault *f)
{
    enum err e = ERR_NONE;
    char *text = NULL;
    FILE *in = fopen(path, "rb");
    if (!in)
        return fault_open(f, path);
    if (!(text = malloc(RECIPE_BYTES_MAX + 1))) {
        e = ERR_MEMORY;
        goto out;
    }
    const size_t bytes = fread(text, 1, RECIPE_BYTES_MAX + 1, in);
    if (ferror(in))
        e = fault_set(f, ERR_IO, "%s: cannot be read", path);
    else if (bytes > RECIPE_BYTES_MAX)
        e = fault_set(f, ERR_FORMAT, "%s:1: expected at most %d bytes", path, RECIPE_BYTES_MAX);
    else
        e = recipe_parse(path, text, bytes, out, f);
out:
    free(text);
    if (fclose(in) && !e)
        e = ERR_IO;
    return e;
}
