/* fault.h: the one-line reason that goes with an enum err of this room.
 *
 * Functions that judge foreign input take a struct fault * (NULL is allowed) and fill it before they
 * return an error: "recipe.yaml:7: unknown key 'mod': expected name, mode, type, bpw, ...".
 */
#ifndef FAULT_H
#define FAULT_H

#include "protocol/err.h"

struct fault {
    char text[320];
};

/* Write the reason (cut to fit) and return e, so that a caller can write: return fault_set(f, ERR_X, ...).
 * f may be NULL. Any thread. */
enum err fault_set(struct fault *f, enum err e, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* A file that was given cannot be opened: says so by errno, and returns ERR_NOT_FOUND where that is the file's fault
 * (absent, not to be read, a folder), ERR_IO where it is the machine's. */
enum err fault_open(struct fault *f, const char *path);

#endif
