#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compress/recipe.h"
#include "compress/recipe_yaml.h"

static const char *const importance_name[] = {"?", "magnitude", "wanda", "output"};

enum { IMPORTANCES = sizeof importance_name / sizeof *importance_name, MULTIPLE_MAX = 4096 };

const char *recipe_importance_name(uint32_t by)
{
    return by < IMPORTANCES ? importance_name[by] : "?";
}

uint32_t recipe_importance_parse(const char *name)
{
    for (uint32_t i = 1; i < IMPORTANCES; i++)
        if (strcmp(name, importance_name[i]) == 0)
            return i;
    return 0;
}

bool recipe_prunes(const struct recipe_prune *p)
{
    return p->ffn > 0 || p->heads > 0 || p->groups > 0 || p->layers > 0 || p->mask > 0 || p->mask_of > 0;
}

/* "20%" or "20": more than 0 and less than 100. end gets what follows. */
static bool read_percent(const char *text, double *out, char **end)
{
    const double value = strtod(text, end);
    if (*end == text || !(value > 0) || !(value < 100))
        return false;
    *end += **end == '%';
    *out = value;
    return true;
}

enum err recipe_prune_parse(const char *text, struct recipe_prune *out, struct fault *f)
{
    static const char *const names[] = {"ffn=", "heads=", "groups=", "layers="};
    double share[4] = {0};
    char *end = NULL;
    if (read_percent(text, &share[0], &end) && *end == 0) {
        out->ffn = out->heads = share[0];
        out->groups = out->layers = 0;
        return ERR_NONE;
    }
    for (const char *at = text;; at = end + 1) {
        uint32_t i = 0;
        while (i < 4 && strncmp(at, names[i], strlen(names[i])) != 0)
            i++;
        if (i == 4 || share[i] > 0 || !read_percent(at + strlen(names[i]), &share[i], &end) || (*end && *end != ','))
            return fault_set(f, ERR_ARGUMENT,
                             "prune '%.60s': expected a percentage (20%%) or ffn=20%%,heads=25%%,groups=50%%,layers=10%%", text);
        if (*end == 0)
            break;
    }
    out->ffn = share[0];
    out->heads = share[1];
    out->groups = share[2];
    out->layers = share[3];
    return ERR_NONE;
}

enum err recipe_mask_parse(const char *text, struct recipe_prune *out, struct fault *f)
{
    char *end = NULL;
    double percent = 0;
    const unsigned long keep = strtoul(text, &end, 10);
    if (end != text && *end == ':') {
        char *last = NULL;
        const unsigned long of = strtoul(end + 1, &last, 10);
        if (last == end + 1 || *last || keep == 0 || keep >= of || of > 32)
            return fault_set(f, ERR_ARGUMENT, "mask '%.60s': expected n of m neighbours that stay, 2:4, m at most 32", text);
        out->mask_keep = (uint32_t)keep;
        out->mask_of = (uint32_t)of;
        out->mask = 0;
        return ERR_NONE;
    }
    if (!read_percent(text, &percent, &end) || *end)
        return fault_set(f, ERR_ARGUMENT, "mask '%.60s': expected a percentage (50%%) or n:m (2:4)", text);
    out->mask = percent;
    out->mask_keep = out->mask_of = 0;
    return ERR_NONE;
}

static enum err parse_percent(struct recipe_yaml *y, int node, const char *what, double *out)
{
    char word[32], *end;
    enum err e = recipe_yaml_string(y, node, what, word, sizeof word);
    if (!e && (!read_percent(word, out, &end) || *end))
        e = recipe_yaml_fault(y, node, "%s: expected a percentage above 0 and below 100", what);
    return e;
}

static enum err parse_importance(struct recipe_yaml *y, int node, uint32_t *out)
{
    char word[32];
    enum err e = recipe_yaml_string(y, node, "by", word, sizeof word);
    if (!e && !(*out = recipe_importance_parse(word)))
        e = recipe_yaml_fault(y, node, "unknown importance '%s': expected magnitude, wanda or output", word);
    return e;
}

/* What a parser of plain text said, with the place. */
static enum err placed(struct recipe_yaml *y, int node, enum err e, const struct fault *f)
{
    return e ? recipe_yaml_fault(y, node, "%s", f->text) : ERR_NONE;
}

static enum err parse_field(struct recipe_yaml *y, const struct recipe_pair *pair, struct recipe_prune *o)
{
    const int v = pair->value;
    char word[64];
    struct fault f = {""};
    uint64_t whole;
    enum err e;
    switch (pair->key) {
    case 0:
        return parse_percent(y, v, "ffn", &o->ffn);
    case 1:
        return parse_percent(y, v, "heads", &o->heads);
    case 2:
        return parse_percent(y, v, "groups", &o->groups);
    case 3:
        return parse_percent(y, v, "layers", &o->layers);
    case 4:
        return parse_importance(y, v, &o->by);
    case 5:
        if (!(e = recipe_yaml_whole(y, v, "multiple", 1, MULTIPLE_MAX, &whole)))
            o->multiple = (uint32_t)whole;
        return e;
    case 6:
        return recipe_yaml_flag(y, v, "recover", &o->is_recovered);
    default:
        e = recipe_yaml_string(y, v, "mask", word, sizeof word);
        return e ? e : placed(y, v, recipe_mask_parse(word, o, &f), &f);
    }
}

enum err recipe_yaml_prune(struct recipe_yaml *y, int node, struct recipe_prune *out)
{
    static const char *const names[] = {"ffn", "heads",    "groups",  "layers", "by",
                                        "multiple", "recover", "mask", NULL};
    struct recipe_pair pair;
    struct recipe_map map;
    struct fault f = {""};
    char word[RECIPE_STRING_MAX];
    enum err e;
    if (recipe_yaml_is_scalar(y, node)) {
        e = recipe_yaml_string(y, node, "prune", word, sizeof word);
        return e ? e : placed(y, node, recipe_prune_parse(word, out, &f), &f);
    }
    e = recipe_yaml_map(y, node, "prune", names, &map);
    while (!e && recipe_yaml_next(&map, &pair))
        e = parse_field(y, &pair, out);
    if (!e && !recipe_prunes(out))
        e = recipe_yaml_fault(y, node, "prune: expected at least one of ffn, heads, groups, layers and mask");
    return e;
}
