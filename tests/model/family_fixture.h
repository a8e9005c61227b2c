/* family_fixture.h: the small random models of tests/model/family and what transformers computed with them. */
#ifndef FAMILY_FIXTURE_H
#define FAMILY_FIXTURE_H

#include "model/import.h"

enum { FAMILY_NAMES = 17, FAMILY_CONTEXT = 320 };
extern const char *const family_names[FAMILY_NAMES];

struct family_reference {
    uint32_t tokens, positions, cols;
    uint32_t *token, *position;
    float *row;  /* [positions, cols] */
    float range; /* largest less smallest value */
};

/* reference.bin of a family; false: absent or cut. family_close in any case. */
bool family_read(const char *name, struct family_reference *r);
void family_close(struct family_reference *r);

/* The folder imported into a file that is gone when g is closed; NULL after printing why. */
struct gguf *family_import(const char *name, uint32_t type);

#endif
