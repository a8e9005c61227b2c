/* digest.h: SHA-256 (FIPS 180-4) of files, the name of a base and of a variant: what model hubs show.
 *
 * By OpenSSL's libcrypto, which uses the processor's SHA instructions: a file is hashed at the speed of its disk.
 * Any thread, one caller per struct digest.
 */
#ifndef DIGEST_H
#define DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"

enum { DIGEST_BYTES = 32, DIGEST_HEX = 65 }; /* 64 lower-case hex digits and a terminator */

/* In the place of a digest that is being computed. */
#define DIGEST_LATER "0000000000000000000000000000000000000000000000000000000000000000"

struct digest {
    void *context; /* the library's; NULL: not started */
};

/* Starts, or starts again. Errors: ERR_MEMORY. */
NODISCARD enum err digest_start(struct digest *d);
void digest_add(struct digest *d, const void *bytes, size_t size);
/* The hash of all that was added, and the end of d. Errors: ERR_MEMORY (also: never started). */
NODISCARD enum err digest_finish(struct digest *d, uint8_t hash[DIGEST_BYTES]);
/* The end of d without a result; harmless on a zeroed or finished one. */
void digest_stop(struct digest *d);

/* Errors: ERR_IO, ERR_MEMORY. bytes gets the size of the file, NULL: not wanted. */
NODISCARD enum err digest_file(const char *path, char hex[DIGEST_HEX], uint64_t *bytes);

/* The same beside other work, in a thread of its own. Open, wait once, close; close alone gives up. */
struct digest_task;
NODISCARD enum err digest_task_open(const char *path, struct digest_task **out);
bool digest_task_is_done(const struct digest_task *t); /* waiting would not take time */
NODISCARD enum err digest_task_wait(struct digest_task *t, char hex[DIGEST_HEX]);
void digest_task_close(struct digest_task *t);

#endif
