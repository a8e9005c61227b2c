/* digest.h: SHA-256 of files, the name of a base and of a variant: what model hubs show.
 *
 * Any thread, one caller per struct digest.
 */
#ifndef DIGEST_H
#define DIGEST_H

#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"

enum { DIGEST_HEX = 65 }; /* 64 lower-case hex digits and a terminator */

struct digest {
    uint8_t state[128]; /* the library's own, opaque */
};

void digest_start(struct digest *d);
void digest_add(struct digest *d, const void *bytes, size_t size);
void digest_finish(struct digest *d, char hex[DIGEST_HEX]);

/* Errors: ERR_IO. bytes gets the size of the file, NULL: not wanted. */
NODISCARD enum err digest_file(const char *path, char hex[DIGEST_HEX], uint64_t *bytes);

#endif
