/* utf8.h: is it UTF-8? Source: RFC 3629: no surrogates, nothing overlong, nothing above U+10FFFF.
 */
#ifndef UTF8_H
#define UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool utf8_is_valid(const uint8_t *bytes, size_t size);
/* The longest valid prefix of at most size bytes, so that a text can be cut. */
size_t utf8_prefix(const uint8_t *bytes, size_t size);

#endif
