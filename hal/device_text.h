/* device_text.h: the small files of /proc and /sys, and what is written in them; for hal/device*.c. */
#ifndef DEVICE_TEXT_H
#define DEVICE_TEXT_H

#include "hal/device.h"

enum { DEVICE_PATH_BYTES = 512 };

/* The start of a file below source->root, NUL-terminated; returns its bytes, 0 when absent or empty. */
size_t device_text_read(const struct device_source *source, const char *path, char *text, size_t bytes);

/* The number that a file begins with; 0 when there is none. */
int device_text_number(const struct device_source *source, const char *path, double *out);

/* The value after "key" and ":" on the first line that starts with key; 0 when there is none. */
int device_text_field(const char *text, const char *key, char *out, size_t bytes);

/* How many numbers a list like "0-3,8" has. */
uint32_t device_text_count(const char *list);

#endif
