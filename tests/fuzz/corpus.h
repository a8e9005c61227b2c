/* corpus.h: the generator of seed inputs. */
#ifndef CORPUS_H
#define CORPUS_H

#include <stddef.h>

/* Write one input of a target; a failure is remembered and ends the program with status 1. */
void corpus_put(const char *target, const char *name, const void *bytes, size_t size);

#endif
