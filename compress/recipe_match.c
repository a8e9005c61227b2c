#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "compress/recipe.h"
#include "compress/recipe_yaml.h"

enum { MATCH_STEPS_MAX = 100000, PATTERN_DEPTH_MAX = 20 };

static bool is_regex(const char *match, size_t *bytes)
{
    *bytes = strlen(match);
    return *bytes >= 2 && match[0] == '/' && match[*bytes - 1] == '/';
}

static pcre2_code *compile(const char *match, size_t bytes)
{
    int number;
    size_t place;
    pcre2_compile_context *limits = pcre2_compile_context_create(NULL);
    if (!limits)
        return NULL;
    pcre2_set_parens_nest_limit(limits, PATTERN_DEPTH_MAX);
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)match + 1, bytes - 2,
                                     PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_AUTO_POSSESS, &number, &place,
                                     limits);
    pcre2_compile_context_free(limits);
    return code;
}

bool recipe_match_is_valid(const char *match)
{
    size_t bytes;
    if (!is_regex(match, &bytes))
        return match[0] != 0 && match[0] != '/';
    pcre2_code *code = compile(match, bytes);
    pcre2_code_free(code);
    return code != NULL;
}

static bool regex_matches(const char *match, size_t bytes, const char *name)
{
    bool is_match = false;
    pcre2_code *code = compile(match, bytes);
    pcre2_match_context *limits = pcre2_match_context_create(NULL);
    pcre2_match_data *data = code ? pcre2_match_data_create(1, NULL) : NULL;
    if (limits && data) {
        pcre2_set_match_limit(limits, MATCH_STEPS_MAX);
        is_match = pcre2_match(code, (PCRE2_SPTR)name, strlen(name), 0, 0, data, limits) >= 0;
    }
    pcre2_match_data_free(data);
    pcre2_match_context_free(limits);
    pcre2_code_free(code);
    return is_match;
}

static bool glob_matches(const char *glob, const char *name)
{
    const char *star = NULL, *mark = NULL;
    while (*name) {
        if (*glob == '*') {
            star = glob++;
            mark = name;
        } else if (*glob == '?' || (*glob == *name && *glob)) {
            glob++;
            name++;
        } else if (star) {
            glob = star + 1;
            name = ++mark;
        } else {
            return false;
        }
    }
    while (*glob == '*')
        glob++;
    return *glob == 0;
}

bool recipe_rule_matches(const struct recipe_rule *rule, const char *name)
{
    size_t bytes;
    return is_regex(rule->match, &bytes) ? regex_matches(rule->match, bytes, name)
                                         : glob_matches(rule->match, name);
}
