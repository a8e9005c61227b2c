/* block.h: the GGUF block formats: sizes, names, exact layouts, codes and parameters.
 *
 * Pure functions of bytes; no allocation, any thread. Source: reference tables of the GGUF format
 * (ggml's public header describes the structs); layouts are checked by tests/hal/block_test.c.
 *
 * HAL_NF4, private: 256 values in 136 bytes, 4.25 bpw, the absmax of each 64 quantised a second
 * time: d f16 @0, m f16 @2, int8 s[4] @4, qs[128] @8. Group g = i / 64 has scale m + d * s[g]
 * (absmax / 127); element i is a nibble of byte 16 * (i / 32) + i % 16 of qs, the low one if i % 32
 * < 16: an index into block_table(HAL_NF4).
 */
#ifndef BLOCK_H
#define BLOCK_H

#include "hal/hal.h"

enum { BLOCK_VALUES_MAX = 256, BLOCK_BYTES_MAX = 512, BLOCK_GROUPS_MAX = 16 };

/* What a format is made of. A value is scale[g] * code_value - minimum[g], where g = i / group. */
struct block_type {
    const char *name;  /* as the field writes it: "Q4_K" */
    uint32_t type;     /* enum hal_type */
    uint32_t values;   /* per block */
    uint32_t bytes;    /* per block */
    uint32_t group;    /* values that share a scale */
    uint32_t codes;    /* number of codes; 0 for F32, F16, BF16 */
    int32_t code_zero; /* subtracted from a code to give its value; table formats ignore it */
};

/* The format of an element type, or NULL for an unknown number. */
const struct block_type *block_type(uint32_t type);

/* The format of a name, case-insensitive ("q4_k"), or NULL. */
const struct block_type *block_type_by_name(const char *name);

/* All formats, in ascending bits per weight within the quantised ones; count gets their number. */
const struct block_type *const *block_types(uint32_t *count);

/* Bytes of one row of cols values; 0 when cols is not a whole number of blocks or type is unknown.
 */
size_t block_row_bytes(uint32_t type, uint32_t cols);

/* One block taken apart. value of element i = scale[i / group] * level(code[i]) - minimum[i /
 * group], level being code - code_zero or the format's table. scale and minimum are the F32
 * products that decode uses; params holds the packed scale bytes of the block, opaque, so that pack
 * is exact. */
struct block_codes {
    uint8_t code[BLOCK_VALUES_MAX];
    float scale[BLOCK_GROUPS_MAX];
    float minimum[BLOCK_GROUPS_MAX];
    uint8_t params[BLOCK_BYTES_MAX]; /* the block itself with its codes zeroed */
};

/* Take apart and put together one block; pack(unpack(b)) == b to the last bit for every b.
 * Errors: ERR_ARGUMENT for a type without codes. */
NODISCARD enum err block_unpack(uint32_t type, const void *block, struct block_codes *out);
NODISCARD enum err block_pack(uint32_t type, const struct block_codes *codes, void *block);

/* The stored scales of one block, before they are multiplied out:
 *   Q4_0 Q5_0 Q8_0 IQ4_NL   scale = d
 *   Q4_1 Q5_1               scale = d, minimum = -m, the bits of m in dmin
 *   Q2_K Q4_K Q5_K          scale[g] = d * s[g], minimum[g] = dmin * m[g]; s, m < 16 (Q2_K) or < 64
 *   Q3_K IQ4_XS             scale[g] = d * s[g]; s in -32..31
 *   Q6_K                    scale[g] = d * s[g]; s in -128..127
 *   NF4                     scale[g] = dmin + d * s[g]; s in -128..127
 * d and dmin are binary16 bits; products and sums are single F32 operations. */
struct block_scales {
    uint16_t d;
    uint16_t dmin;
    int8_t s[BLOCK_GROUPS_MAX];
    uint8_t m[BLOCK_GROUPS_MAX];
};

/* Read and write them in a block, leaving the codes alone. Errors: ERR_ARGUMENT as above. */
NODISCARD enum err block_get_scales(uint32_t type, const void *block, struct block_scales *out);
NODISCARD enum err block_put_scales(uint32_t type, const struct block_scales *scales, void *block);

/* Multiply them out: scale and minimum, one per group. */
NODISCARD enum err block_multiply_scales(uint32_t type, const struct block_scales *scales,
                                         float *scale, float *minimum);

/* The codes alone: [values] of the block; put leaves the scales. Errors: ERR_ARGUMENT. */
NODISCARD enum err block_get_codes(uint32_t type, const void *block, uint8_t *code);
NODISCARD enum err block_put_codes(uint32_t type, const uint8_t *code, void *block);

/* The levels of all codes of a table format (IQ4_NL, IQ4_XS, NF4), ascending integers; NULL for the
 * others. NF4 (arXiv:2305.14314) is kept in 127ths, rounded, so that integer dot products are
 * exact. */
const int8_t *block_table(uint32_t type);

/* The value of a code before scaling: code - code_zero, or the format's table entry. */
float block_level(uint32_t type, uint32_t code);

/* Decode one row of cols values exactly, in F32: products are rounded as the reference decoder of
 * the format rounds them. Errors: ERR_ARGUMENT (unknown type, ragged cols). */
NODISCARD enum err block_decode_row(uint32_t type, const void *row, uint32_t cols, float *out);

#endif
