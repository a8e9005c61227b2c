/* hex.h: bytes as lower-case hex digits. */
#ifndef HEX_H
#define HEX_H

#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"

/* out has 2 * size + 1 characters, NUL-terminated. */
void hex_encode(const uint8_t *bytes, size_t size, char *out);
/* text has 2 * size characters, lower case only. Errors: ERR_FORMAT (out may be half written). */
NODISCARD enum err hex_decode(const char *text, size_t characters, uint8_t *out, size_t size);

#endif
