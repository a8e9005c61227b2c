/* catalogue.h: the files that plans name by digest: bases, profiles, texts.
 *
 * A file is registered where it lies; what is uploaded or made here lies in STATE/artifacts/<sha256>.
 * Records are documents in REGISTRY_FILES.
 */
#ifndef CATALOGUE_H
#define CATALOGUE_H

#include "controller/controller.h"

enum { CATALOGUE_WHY = 320 };

/* What a file says about itself, read outside any transaction. kind "" tells by content: a GGUF with
 * general.type imatrix is a profile, another GGUF a base, valid UTF-8 a text. *out is the caller's.
 * Errors: ERR_IO, ERR_FORMAT, ERR_ARGUMENT (kind), ERR_MEMORY; why says it in one line. */
NODISCARD enum err catalogue_examine(const char *path, const char *name, const char *kind, json_t **out,
                                     char why[CATALOGUE_WHY]);

/* Put an examined file into the catalogue (again: its path and name are replaced). */
NODISCARD enum err catalogue_add(struct registry_txn *t, json_t *file, int64_t now_s);

/* Find by digest, by a beginning of it that is unique (8 digits or more), or by name, among files of a
 * kind (NULL: any). Errors: ERR_NOT_FOUND, ERR_ARGUMENT (several fit), ERR_MEMORY. */
NODISCARD enum err catalogue_find(struct registry_txn *t, const char *kind, const char *what,
                                  json_t **out);

/* STATE/artifacts/<sha256>. Errors: ERR_ARGUMENT (too long). */
NODISCARD enum err catalogue_path(const struct controller *c, const char *sha256,
                                  char out[CONTROLLER_PATH]);

#endif
