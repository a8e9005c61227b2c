#include "tests/harness.h"

#include <math.h>
#include <string.h>

#include "compress/recipe.h"

static enum err parse(const char *text, struct recipe *r, struct fault *f)
{
    f->text[0] = 0;
    return recipe_parse("r.yaml", text, strlen(text), r, f);
}

static void whole_recipe(void)
{
    static const char text[] = "name: gateways\n"
                               "bpw: 4.5\n"
                               "method: gptq\n"
                               "tensors:\n"
                               "  - match: '*.attn_v.weight'\n"
                               "    type: q6_k\n"
                               "  - {match: '/blk\\.[0-3]\\./', method: search}\n"
                               "calibration:\n"
                               "  texts: [a.txt, {language: de, file: b.txt}]\n"
                               "  tokens: 4096\n"
                               "cache: q8_0\n"
                               "gates: {dppl_percent: 2, top1: 0.9}\n"
                               "rollout: {stages: [10, 100], threshold: 0.2, deadline_s: 600, trial_s: 30}\n";
    struct recipe r, again;
    struct fault f;
    char printed[8192];
    CU_ASSERT_EQUAL_FATAL(parse(text, &r, &f), ERR_NONE);
    CU_ASSERT_STRING_EQUAL(r.name, "gateways");
    CU_ASSERT_EQUAL(r.goal, RECIPE_BPW);
    CU_ASSERT_EQUAL(r.bpw, 4.5);
    CU_ASSERT_EQUAL(r.method, RECIPE_GPTQ);
    CU_ASSERT_EQUAL(r.rules, 2);
    CU_ASSERT_EQUAL(r.rule[0].type, HAL_Q6_K);
    CU_ASSERT_EQUAL(r.rule[0].method, RECIPE_UNSET);
    CU_ASSERT_EQUAL(r.rule[1].method, RECIPE_SEARCH);
    CU_ASSERT_TRUE(recipe_rule_matches(&r.rule[0], "blk.3.attn_v.weight"));
    CU_ASSERT_FALSE(recipe_rule_matches(&r.rule[0], "blk.3.attn_q.weight"));
    CU_ASSERT_TRUE(recipe_rule_matches(&r.rule[1], "blk.3.attn_q.weight"));
    CU_ASSERT_FALSE(recipe_rule_matches(&r.rule[1], "blk.4.attn_q.weight"));
    CU_ASSERT_EQUAL(r.texts, 2);
    CU_ASSERT_STRING_EQUAL(r.text[1].language, "de");
    CU_ASSERT_EQUAL(r.cache_type, HAL_Q8_0);
    CU_ASSERT_EQUAL(r.gates.present, 1u << RECIPE_DPPL_PERCENT | 1u << RECIPE_TOP1);
    CU_ASSERT_EQUAL(r.rollout.stages, 2);
    CU_ASSERT_EQUAL(r.rollout.stage_percent[0], 10);
    CU_ASSERT_EQUAL_FATAL(recipe_print(&r, printed, sizeof printed), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(parse(printed, &again, &f), ERR_NONE);
    CU_ASSERT_EQUAL(memcmp(&r, &again, sizeof r), 0);
    CU_ASSERT_EQUAL(recipe_print(&r, printed, 20), ERR_FULL);
}

static void json_is_yaml(void)
{
    struct recipe r;
    struct fault f;
    CU_ASSERT_EQUAL(parse("{\"mode\": \"accuracy\", \"gates\": {\"kld_mean\": 0.01}}", &r, &f), ERR_NONE);
    CU_ASSERT_EQUAL(r.goal, RECIPE_ACCURACY);
    CU_ASSERT_EQUAL(r.gates.limit[RECIPE_KLD_MEAN], 0.01);
}

/* Each is refused, and the reason names the line and what was expected. */
static void refusals(void)
{
    static const struct {
        const char *text, *reason;
    } rows[] = {
        {"", "r.yaml:1: empty"},
        {"mode: balanced\nmoed: x\n", "r.yaml:2: unknown key 'moed' in recipe: expected name, mode"},
        {"mode: best\n", "r.yaml:1: unknown mode 'best': expected accuracy, balanced, compression or export"},
        {"mode: balanced\ntype: q4_k\n", "expected only one of mode, type and bpw"},
        {"type: q4_x\n", "r.yaml:1: unknown type 'q4_x': expected one of"},
        {"bpw: 0.5\n", "bpw: expected a number from 1 to 32"},
        {"bpw: \"4\"\n", "bpw: expected a number"},
        {"bpw: nan\n", "bpw: expected a number"},
        {"method: magic\n", "unknown method 'magic'"},
        {"gates:\n  kld_mean: -1\n", "r.yaml:2: kld_mean: expected a number from 0"},
        {"gates: {kld_mean: 0}\n", "impossible gate kld_mean"},
        {"gates: {top1: 1.5}\n", "top1: expected a number from 0 to 1"},
        {"gates: {speed: 1}\n", "unknown key 'speed' in gates"},
        {"rollout: {stages: [50, 10, 100]}\n", "ascending"},
        {"rollout: {stages: [10, 50]}\n", "expected the last one to be 100"},
        {"rollout: {deadline_s: 30, trial_s: 60}\n", "expected deadline_s (30) above trial_s (60)"},
        {"tensors:\n  - match: '/(/'\n    type: q4_k\n", "r.yaml:2: match '/(/': expected a glob"},
        {"tensors: [{match: a}]\n", "expected type or method beside match"},
        {"cache: q4_k\n", "cache: expected f16, q8_0 or q4_0"},
        {"mode: balanced\nmode: accuracy\n", "'mode' is given twice"},
        {"mode: [a\n", "r.yaml:"},
        {"mode: balanced\n---\nmode: balanced\n", "expected one document"},
        {"base: 12ab\n", "expected a SHA-256 digest"},
        {"name: \"a\\tb\"\n", "name: expected no control characters"},
        {"- a\n", "recipe: expected a mapping"},
        {"scheme: 4 round\n", "r.yaml:1: scheme: 'round': expected bits 2 to 8"},
        {"method: scheme\n", "method scheme: expected scheme"},
        {"scheme: 4\nmethod: rtn\n", "scheme: expected method scheme"},
        {"sensitivity: loud\n", "r.yaml:1: unknown sensitivity 'loud': expected names or leave-one-out"},
        {"type: q4_k\nsensitivity: leave-one-out\n", "sensitivity leave-one-out: expected bpw or mode"},
        {"activations: 5\n", "activations: expected 4, 8 or 16"},
    };
    struct recipe r, before;
    struct fault f;
    recipe_default(&before);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        r = before;
        CU_ASSERT_EQUAL(parse(rows[i].text, &r, &f), ERR_FORMAT);
        if (!strstr(f.text, rows[i].reason))
            fprintf(stderr, "row %zu: '%s' lacks '%s'\n", i, f.text, rows[i].reason);
        CU_ASSERT_PTR_NOT_NULL(strstr(f.text, rows[i].reason));
        CU_ASSERT_EQUAL(memcmp(&r, &before, sizeof r), 0);
    }
}

static void sensitivity_returns(void)
{
    char printed[4096];
    struct recipe r, again;
    struct fault f;
    CU_ASSERT_EQUAL_FATAL(parse("bpw: 4.5\n", &r, &f), ERR_NONE);
    CU_ASSERT_FALSE(r.is_left_out);
    CU_ASSERT_EQUAL_FATAL(parse("sensitivity: names\nmode: balanced\n", &r, &f), ERR_NONE);
    CU_ASSERT_FALSE(r.is_left_out);
    CU_ASSERT_EQUAL_FATAL(parse("sensitivity: leave-one-out\nbpw: 4.5\n", &r, &f), ERR_NONE);
    CU_ASSERT_TRUE(r.is_left_out);
    CU_ASSERT_EQUAL_FATAL(recipe_print(&r, printed, sizeof printed), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(parse(printed, &again, &f), ERR_NONE);
    CU_ASSERT_EQUAL(memcmp(&r, &again, sizeof r), 0);
}

static void scheme_returns(void)
{
    struct recipe r, again;
    struct fault f;
    char printed[8192];
    CU_ASSERT_EQUAL_FATAL(parse("scheme: 4 affine 64 percentile=99.5\nactivations: 4\n", &r, &f), ERR_NONE);
    CU_ASSERT_EQUAL(r.method, RECIPE_SCHEME);
    CU_ASSERT_EQUAL(r.scheme.group, 64);
    CU_ASSERT_EQUAL(r.scheme.millionths, 995000);
    CU_ASSERT_EQUAL(r.activation_bits, 4);
    CU_ASSERT_EQUAL_FATAL(recipe_print(&r, printed, sizeof printed), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(parse(printed, &again, &f), ERR_NONE);
    CU_ASSERT_EQUAL(memcmp(&r, &again, sizeof r), 0);
    CU_ASSERT_EQUAL(parse("{type: Q4_0, method: cascade}", &r, &f), ERR_NONE);
    CU_ASSERT_EQUAL(r.method, RECIPE_CASCADE);
    CU_ASSERT_EQUAL(parse("mode: export", &r, &f), ERR_NONE);
    CU_ASSERT_EQUAL(r.goal, RECIPE_EXPORT);
}

static void gates_compare(void)
{
    struct recipe_gates g = {.present = 1u << RECIPE_TOP1 | 1u << RECIPE_KLD_MEAN};
    g.limit[RECIPE_TOP1] = 0.9;
    g.limit[RECIPE_KLD_MEAN] = 0.05;
    CU_ASSERT_TRUE(recipe_gate_passes(&g, RECIPE_TOP1, 0.95));
    CU_ASSERT_FALSE(recipe_gate_passes(&g, RECIPE_TOP1, 0.85));
    CU_ASSERT_TRUE(recipe_gate_passes(&g, RECIPE_KLD_MEAN, 0.05));
    CU_ASSERT_FALSE(recipe_gate_passes(&g, RECIPE_KLD_MEAN, 0.06));
    CU_ASSERT_FALSE(recipe_gate_passes(&g, RECIPE_KLD_MEAN, NAN));
    CU_ASSERT_TRUE(recipe_gate_passes(&g, RECIPE_RSS_MIB, NAN));
}

static void globs(void)
{
    static const struct {
        const char *glob, *name;
        bool is_match;
    } rows[] = {{"*", "", true},          {"a*c", "abbc", true}, {"a*c", "abcd", false},
                {"a?c", "abc", true},     {"a?c", "ac", false},  {"*.b.*", "a.b.c", true},
                {"*b*b", "abab", true},   {"abc", "abc", true},  {"abc", "ab", false},
                {"ab", "abc", false},     {"/^a.c$/", "abc", true}, {"/b/", "abc", true},
                {"/^b/", "abc", false}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct recipe_rule rule = {.match = ""};
        strcpy(rule.match, rows[i].glob);
        CU_ASSERT_EQUAL(recipe_rule_matches(&rule, rows[i].name), rows[i].is_match);
    }
}

RUN_SUITE("recipe", {"whole_recipe", whole_recipe}, {"json_is_yaml", json_is_yaml},
          {"refusals", refusals}, {"scheme_returns", scheme_returns}, {"sensitivity_returns", sensitivity_returns},
          {"gates_compare", gates_compare}, {"globs", globs})
