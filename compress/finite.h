/* finite.h: is every weight a number? NaN and infinities of a base are refused before they are encoded: no block type
 * says what it makes of them. */
#ifndef FINITE_H
#define FINITE_H

#include <stdint.h>

#include "compress/fault.h"
#include "model/gguf.h"

struct engine;

/* Rows [row, row + rows) of t. x: what they decode to, [rows * cols]; read only where the stored bytes do not say it.
 * path names the file. Errors: ERR_FORMAT: "PATH: TENSOR: row 3, column 17: the weight is no finite number". */
NODISCARD enum err finite_rows(const char *path, const struct gguf_tensor *t, uint32_t row, uint32_t rows, const float *x,
                               struct fault *f);

/* Every tensor of the file, for work that takes a text through it first. Errors: the same, ERR_MEMORY, those of
 * decode. */
NODISCARD enum err finite_file(const struct gguf *g, struct engine *engine, struct fault *f);

#endif
