/* allocations.h: every allocation of the process counted, those of loaded plugins and their threads too.
 *
 * malloc and its kin are defined here in front of the C library's, which they call. A sanitizer does the same for
 * itself: then nothing is counted and allocations_are_seen is false. */
#ifndef ALLOCATIONS_H
#define ALLOCATIONS_H

#include <stdbool.h>

/* By all threads but those that have called allocations_ignore, since start. */
unsigned long allocations(void);
void allocations_ignore(void);
bool allocations_are_seen(void);

#endif
