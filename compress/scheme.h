/* scheme.h: plain grids for weights: how many bits, where zero lies, how many values share a scale, and
 * what range the scale spans. For comparisons, and for devices whose kernels know such a grid only.
 *
 * Written as words in any order, divided by commas or blanks:
 *
 *   2 .. 8                  bits of a code (default 4)
 *   symmetric               q in -m .. m, m = 2^(bits-1) - 1; value d q                (default)
 *   power-of-two            the same, d the power of two with the smaller error of the two around it
 *   asymmetric              q in 0 .. 2^bits - 1, z whole; value d (q - z)
 *   affine                  q in 0 .. 2^bits - 1; value d q + m, m stored as binary16
 *   16 32 64 128 256        values of a row that share d (default 32)
 *   channel | tensor        a row, or the whole tensor, shares it
 *   minmax                  the range d spans: compress/observer.h (default)
 *   percentile[=99.9] | mse | entropy     entropy needs channel or tensor
 *   auto | f16 | f32        how the values are stored: auto takes a block type that holds them exactly
 *                           (Q4_0 Q5_0 Q8_0 for symmetric and power-of-two, Q4_1 Q5_1 for affine, with
 *                           scales repeated every 32 values), else F32
 *
 * d is binary16 always. Values stored as F16 or F32 simulate the scheme: the file is as large as its
 * floats, scheme_bytes says what a container of its own would take. Importance of columns is not used.
 */
#ifndef SCHEME_H
#define SCHEME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "compress/fault.h"

enum scheme_kind {
    SCHEME_SYMMETRIC = 0,
    SCHEME_POWER_OF_TWO = 1,
    SCHEME_ASYMMETRIC = 2,
    SCHEME_AFFINE = 3,
    SCHEME_KINDS = 4
};

/* Of group, beside 16 .. 256. */
enum { SCHEME_CHANNEL = 0, SCHEME_TENSOR = 1 };

enum scheme_store { SCHEME_AUTO = 0, SCHEME_F16 = 1, SCHEME_F32 = 2, SCHEME_STORES = 3 };

enum { SCHEME_TEXT_MAX = 96 };

struct scheme {
    uint32_t bits; /* 2 .. 8; 0: no scheme */
    uint32_t kind;
    uint32_t group;
    uint32_t range;      /* enum observer_method */
    uint32_t millionths; /* of 1: the percentile's fraction, 500001 .. 1000000 */
    uint32_t store;
};

/* Errors: ERR_FORMAT (fault names the word); *out is unchanged then. */
NODISCARD enum err scheme_parse(const char *text, struct scheme *out, struct fault *f);

/* The words that scheme_parse reads back to an equal one; cut to fit SCHEME_TEXT_MAX, which it does. */
void scheme_print(const struct scheme *s, char out[SCHEME_TEXT_MAX]);

/* Can encode have made this? For decoders of foreign bytes. */
bool scheme_is_valid(const struct scheme *s);

/* The element type that holds rows of cols values. */
uint32_t scheme_type(const struct scheme *s, uint32_t cols);

/* Bytes of [rows, cols] in a container of its own: codes packed without gaps, per group a binary16 scale
 * (power-of-two: a byte), and a zero of `bits` bits or a binary16 minimum. */
uint64_t scheme_bytes(const struct scheme *s, uint64_t rows, uint64_t cols);

/* Rows x [rows, cols] to `type` (scheme_type's) at out; all rows at once for SCHEME_TENSOR, else any
 * number. scratch: cols floats, rows * cols for SCHEME_TENSOR. Errors: ERR_ARGUMENT. */
NODISCARD enum err scheme_encode(const struct scheme *s, uint32_t type, const float *x, uint32_t rows,
                                 uint32_t cols, float *scratch, uint8_t *out);

#endif
