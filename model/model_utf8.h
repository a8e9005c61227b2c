/* model_utf8.h: well-formed UTF-8, and what to do with the rest.
 *
 * Pure functions, any thread. Source: RFC 3629; the Unicode standard, table 3-7 and "U+FFFD
 * substitution of maximal subparts" in chapter 3.
 */
#ifndef MODEL_UTF8_H
#define MODEL_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The character at p[bytes > 0]: its length, 0 when it is cut off by the end, -1 when it is
 * ill-formed. *part gets how many bytes U+FFFD would stand for in the last two cases. */
int model_utf8_length(const uint8_t *p, size_t bytes, size_t *part);

bool model_utf8_is_well_formed(const char *text, size_t bytes);

/* text[bytes] into out[3 * bytes], every maximal ill-formed part as U+FFFD. Returns the bytes
 * written. */
size_t model_utf8_repair(const char *text, size_t bytes, char *out);

#endif
