/* unnamed.h: a file without a name, beside another: what lies in it counts as the kernel's cache and not as memory of the
 * process, and goes with it. The caller closes it.
 */
#ifndef UNNAMED_H
#define UNNAMED_H

#include <stddef.h>
#include <stdint.h>

#include "compress/fault.h"

/* In the folder of `beside`, a path. Errors: ERR_IO; *fd is then -1. */
NODISCARD enum err unnamed_open(const char *beside, int *fd, struct fault *f);

/* All of the bytes, from `at` on; a file that ends too soon is an error. Errors: ERR_IO, with errno. */
NODISCARD enum err unnamed_write(int fd, uint64_t at, const void *data, size_t bytes);
NODISCARD enum err unnamed_read(int fd, uint64_t at, void *out, size_t bytes);

#endif
