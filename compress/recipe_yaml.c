#include "compress/recipe_yaml.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "compress/recipe.h"
#include "hal/block.h"

struct recipe_yaml {
    const char *file;
    struct fault *fault;
    yaml_document_t document;
    bool has_document;
};

static yaml_node_t *node_at(const struct recipe_yaml *y, int node)
{
    /* libyaml takes a non-const document, but only reads it here */
    return yaml_document_get_node((yaml_document_t *)&y->document, node);
}

enum err recipe_yaml_fault(struct recipe_yaml *y, int node, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    const yaml_node_t *n = node_at(y, node);
    return fault_set(y->fault, ERR_FORMAT, "%s:%zu: %s", y->file, n ? n->start_mark.line + 1 : 1, text);
}

enum err recipe_yaml_open(const char *file, const char *text, size_t bytes, struct recipe_yaml **out,
                          struct fault *f)
{
    enum err e = ERR_NONE;
    yaml_parser_t parser;
    yaml_document_t second;
    struct recipe_yaml *y = NULL;
    if (bytes > RECIPE_BYTES_MAX)
        return fault_set(f, ERR_FORMAT, "%s:1: expected at most %d bytes", file, RECIPE_BYTES_MAX);
    if (!yaml_parser_initialize(&parser))
        return ERR_MEMORY;
    if (!(y = calloc(1, sizeof *y))) {
        e = ERR_MEMORY;
        goto out;
    }
    y->file = file;
    y->fault = f;
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, bytes);
    if (!yaml_parser_load(&parser, &y->document)) {
        e = fault_set(f, ERR_FORMAT, "%s:%zu: %s", file, parser.problem_mark.line + 1,
                      parser.problem ? parser.problem : "not YAML");
        goto out;
    }
    y->has_document = true;
    if (!yaml_document_get_root_node(&y->document)) {
        e = fault_set(f, ERR_FORMAT, "%s:1: empty: expected a mapping", file);
        goto out;
    }
    if (!yaml_parser_load(&parser, &second)) {
        e = fault_set(f, ERR_FORMAT, "%s:%zu: %s", file, parser.problem_mark.line + 1,
                      parser.problem ? parser.problem : "not YAML");
        goto out;
    }
    if (yaml_document_get_root_node(&second))
        e = fault_set(f, ERR_FORMAT, "%s:1: expected one document", file);
    yaml_document_delete(&second);
out:
    yaml_parser_delete(&parser);
    if (e)
        recipe_yaml_close(y);
    else
        *out = y;
    return e;
}

void recipe_yaml_close(struct recipe_yaml *y)
{
    if (y && y->has_document)
        yaml_document_delete(&y->document);
    free(y);
}

int recipe_yaml_root(const struct recipe_yaml *y)
{
    (void)y;
    return 1; /* libyaml numbers nodes from 1, the root first */
}

static bool is_named(const yaml_node_t *key, const char *name)
{
    return key->type == YAML_SCALAR_NODE && strlen(name) == key->data.scalar.length &&
           memcmp(key->data.scalar.value, name, key->data.scalar.length) == 0;
}

static uint32_t find_name(const char *const *names, const yaml_node_t *key)
{
    uint32_t i = 0;
    while (names[i] && !is_named(key, names[i]))
        i++;
    return names[i] ? i : UINT32_MAX;
}

static enum err unknown_key(struct recipe_yaml *y, int node, const char *what,
                            const char *const *names)
{
    const yaml_node_t *key = node_at(y, node);
    char known[200] = "";
    size_t used = 0;
    for (uint32_t i = 0; names[i] && used < sizeof known; i++)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", names[i]);
    if (key->type != YAML_SCALAR_NODE)
        return recipe_yaml_fault(y, node, "%s: expected a word as key", what);
    return recipe_yaml_fault(y, node, "unknown key '%.40s' in %s: expected %s",
                             (const char *)key->data.scalar.value, what, known);
}

enum err recipe_yaml_map(struct recipe_yaml *y, int node, const char *what, const char *const *names,
                         struct recipe_map *out)
{
    const yaml_node_t *n = node_at(y, node);
    uint32_t seen = 0;
    if (!n || n->type != YAML_MAPPING_NODE)
        return recipe_yaml_fault(y, node, "%s: expected a mapping", what);
    for (const yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top; p++) {
        const uint32_t key = find_name(names, node_at(y, p->key));
        if (key == UINT32_MAX)
            return unknown_key(y, p->key, what, names);
        if (seen & 1u << key)
            return recipe_yaml_fault(y, p->key, "%s: '%s' is given twice", what, names[key]);
        seen |= 1u << key;
    }
    *out = (struct recipe_map){.yaml = y, .names = names, .node = node};
    return ERR_NONE;
}

bool recipe_yaml_next(struct recipe_map *map, struct recipe_pair *out)
{
    const yaml_node_t *n = node_at(map->yaml, map->node);
    const yaml_node_pair_t *p = n->data.mapping.pairs.start + map->next;
    if (p >= n->data.mapping.pairs.top)
        return false;
    map->next++;
    *out = (struct recipe_pair){.key = find_name(map->names, node_at(map->yaml, p->key)),
                                .value = p->value};
    return true;
}

enum err recipe_yaml_list(struct recipe_yaml *y, int node, const char *what, uint32_t max,
                          uint32_t *items)
{
    const yaml_node_t *n = node_at(y, node);
    if (!n || n->type != YAML_SEQUENCE_NODE)
        return recipe_yaml_fault(y, node, "%s: expected a list", what);
    const ptrdiff_t count = n->data.sequence.items.top - n->data.sequence.items.start;
    if (count > (ptrdiff_t)max)
        return recipe_yaml_fault(y, node, "%s: expected at most %u items", what, max);
    *items = (uint32_t)count;
    return ERR_NONE;
}

int recipe_yaml_item(const struct recipe_yaml *y, int node, uint32_t i)
{
    return node_at(y, node)->data.sequence.items.start[i];
}

bool recipe_yaml_is_scalar(const struct recipe_yaml *y, int node)
{
    const yaml_node_t *n = node_at(y, node);
    return n && n->type == YAML_SCALAR_NODE;
}

/* Code points that no line of our canonical form could carry: controls, line separators, marks. */
static bool is_printable(const unsigned char *s, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        if (s[i] < 0x20 || s[i] == 0x7f)
            return false;
        if (s[i] == 0xc2 && i + 1 < bytes && s[i + 1] < 0xa0)
            return false; /* C1 controls, next line */
        if (s[i] == 0xe2 && i + 2 < bytes && s[i + 1] == 0x80 && (s[i + 2] & 0xfe) == 0xa8)
            return false; /* line and paragraph separators */
        if (s[i] == 0xef && i + 2 < bytes &&
            ((s[i + 1] == 0xbb && s[i + 2] == 0xbf) || (s[i + 1] == 0xbf && s[i + 2] >= 0xbe)))
            return false; /* byte order mark, noncharacters */
    }
    return true;
}

enum err recipe_yaml_string(struct recipe_yaml *y, int node, const char *what, char *out,
                            size_t capacity)
{
    const yaml_node_t *n = node_at(y, node);
    if (!n || n->type != YAML_SCALAR_NODE || n->data.scalar.length == 0)
        return recipe_yaml_fault(y, node, "%s: expected a word", what);
    if (n->data.scalar.length >= capacity)
        return recipe_yaml_fault(y, node, "%s: expected at most %zu bytes", what, capacity - 1);
    if (!is_printable(n->data.scalar.value, n->data.scalar.length))
        return recipe_yaml_fault(y, node, "%s: expected no control characters", what);
    memcpy(out, n->data.scalar.value, n->data.scalar.length + 1);
    return ERR_NONE;
}

/* The plain scalar of a node, or NULL: a quoted number is a string. */
static const char *plain(const struct recipe_yaml *y, int node)
{
    const yaml_node_t *n = node_at(y, node);
    const bool is_plain = n && n->type == YAML_SCALAR_NODE &&
                          n->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
                          strlen((const char *)n->data.scalar.value) == n->data.scalar.length;
    return is_plain ? (const char *)n->data.scalar.value : NULL;
}

enum err recipe_yaml_number(struct recipe_yaml *y, int node, const char *what, double low, double high,
                            double *out)
{
    const char *text = plain(y, node);
    char *end = NULL;
    const bool is_number = text && text[0] && strspn(text, "+-.0123456789eE") == strlen(text);
    const double value = is_number ? strtod(text, &end) : NAN;
    if (!is_number || *end != 0 || !isfinite(value))
        return recipe_yaml_fault(y, node, "%s: expected a number", what);
    if (value < low || value > high)
        return recipe_yaml_fault(y, node, "%s: expected a number from %g to %g", what, low, high);
    *out = value;
    return ERR_NONE;
}

enum err recipe_yaml_whole(struct recipe_yaml *y, int node, const char *what, uint64_t low,
                           uint64_t high, uint64_t *out)
{
    const char *text = plain(y, node);
    const size_t digits = text ? strlen(text) : 0;
    if (digits == 0 || digits > 19 || strspn(text, "0123456789") != digits)
        return recipe_yaml_fault(y, node, "%s: expected a whole number", what);
    const uint64_t value = strtoull(text, NULL, 10);
    if (value < low || value > high)
        return recipe_yaml_fault(y, node, "%s: expected a whole number from %llu to %llu", what,
                                 (unsigned long long)low, (unsigned long long)high);
    *out = value;
    return ERR_NONE;
}

enum err recipe_yaml_flag(struct recipe_yaml *y, int node, const char *what, bool *out)
{
    const char *text = plain(y, node);
    if (!text || (strcmp(text, "true") != 0 && strcmp(text, "false") != 0))
        return recipe_yaml_fault(y, node, "%s: expected true or false", what);
    *out = text[0] == 't';
    return ERR_NONE;
}

enum err recipe_yaml_type(struct recipe_yaml *y, int node, uint32_t *out)
{
    char word[16];
    enum err e = recipe_yaml_string(y, node, "type", word, sizeof word);
    if (e)
        return e;
    const struct block_type *t = block_type_by_name(word);
    if (!t) {
        char known[160] = "";
        size_t used = 0;
        uint32_t count = 0;
        const struct block_type *const *all = block_types(&count);
        for (uint32_t i = 0; i < count && used < sizeof known; i++)
            used += (size_t)snprintf(known + used, sizeof known - used, " %s", all[i]->name);
        return recipe_yaml_fault(y, node, "unknown type '%s': expected one of%s", word, known);
    }
    *out = t->type;
    return ERR_NONE;
}
