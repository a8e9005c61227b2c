/* text.h: is it UTF-8? Source: RFC 3629: no surrogates, nothing overlong, nothing above U+10FFFF.
 */
#ifndef TEXT_H
#define TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool text_is_utf8(const uint8_t *bytes, size_t size);
/* The longest valid prefix of at most size bytes, so that a text can be cut. */
size_t text_prefix(const uint8_t *bytes, size_t size);

#endif
