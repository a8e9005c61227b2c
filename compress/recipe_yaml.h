/* recipe_yaml.h: strict reading of a YAML tree, for recipe.c: libyaml stays in recipe_yaml.c.
 *
 * Every refusal is "FILE:LINE: what was expected" in the fault given to open. Nodes are numbers.
 */
#ifndef RECIPE_YAML_H
#define RECIPE_YAML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "compress/fault.h"

struct recipe_yaml;

/* A mapping whose keys have been checked: known, given once. */
struct recipe_map {
    struct recipe_yaml *yaml;
    const char *const *names;
    int node;
    uint32_t next;
};

struct recipe_pair {
    uint32_t key; /* index into names */
    int value;
};

/* One document, at most RECIPE_BYTES_MAX bytes. Errors: ERR_FORMAT, ERR_MEMORY. */
NODISCARD enum err recipe_yaml_open(const char *file, const char *text, size_t bytes,
                                    struct recipe_yaml **out, struct fault *f);
void recipe_yaml_close(struct recipe_yaml *y);
int recipe_yaml_root(const struct recipe_yaml *y);

/* names ends with NULL. what names the mapping in messages. */
NODISCARD enum err recipe_yaml_map(struct recipe_yaml *y, int node, const char *what,
                                   const char *const *names, struct recipe_map *out);
bool recipe_yaml_next(struct recipe_map *map, struct recipe_pair *out);

NODISCARD enum err recipe_yaml_list(struct recipe_yaml *y, int node, const char *what, uint32_t max,
                                    uint32_t *items);
int recipe_yaml_item(const struct recipe_yaml *y, int node, uint32_t i);

bool recipe_yaml_is_scalar(const struct recipe_yaml *y, int node);
NODISCARD enum err recipe_yaml_string(struct recipe_yaml *y, int node, const char *what, char *out,
                                      size_t capacity);
NODISCARD enum err recipe_yaml_number(struct recipe_yaml *y, int node, const char *what, double low,
                                      double high, double *out);
NODISCARD enum err recipe_yaml_whole(struct recipe_yaml *y, int node, const char *what, uint64_t low,
                                     uint64_t high, uint64_t *out);
NODISCARD enum err recipe_yaml_flag(struct recipe_yaml *y, int node, const char *what, bool *out);
NODISCARD enum err recipe_yaml_type(struct recipe_yaml *y, int node, uint32_t *out);

/* The value of `prune`: a scalar as recipe_prune_parse takes it, or a mapping (recipe_prune.c). */
struct recipe_prune;
NODISCARD enum err recipe_yaml_prune(struct recipe_yaml *y, int node, struct recipe_prune *out);

/* Fill the fault with FILE:LINE: and the text; always ERR_FORMAT. */
enum err recipe_yaml_fault(struct recipe_yaml *y, int node, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Is it a glob, or a /regex/ that compiles? (recipe_match.c) */
bool recipe_match_is_valid(const char *match);

#endif
