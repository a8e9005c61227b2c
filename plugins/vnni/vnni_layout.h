/* vnni_layout.h: how weights live in memory: the bytes of the file, 16 rows interleaved.
 *
 * A matrix is cut into panels of 16 rows (the last one padded with zero blocks) and a panel into cells:
 * one block of 256 columns, or two blocks of 32. Within a cell each field of the block becomes
 * [block of the cell][unit][16 rows], a unit being 4 bytes of codes, 2 of an F16, 1 or 2 of packed scales,
 * so that one vector load holds the same columns of 16 rows. A cell of Q3_K or Q6_K is an odd multiple of
 * 32 bytes: every second one of a panel begins with its last field, 32 bytes of F16, so that its codes stay
 * aligned to 64. No byte is added but the padding of a panel to 64: the resident copy is the only one and
 * as large as the file. F32, F16 and BF16 are [column][16 rows].
 *
 * The high bits of Q5_0 and Q5_1 are also permuted within their 4 bytes: bit j of byte b is that of
 * column 4 j + b.
 */
#ifndef VNNI_LAYOUT_H
#define VNNI_LAYOUT_H

#include "hal/hal.h"

enum { VNNI_ROWS = 16, VNNI_FIELDS = 5 };

/* One field of a block, in the order of the cell. */
struct vnni_field {
    uint16_t source; /* offset in the block of the file */
    uint8_t unit;    /* bytes */
    uint8_t units;   /* 0 ends the list */
};

struct vnni_layout {
    uint32_t values;       /* columns of a block */
    uint32_t bytes;        /* of a block in the file */
    uint32_t cell_blocks;  /* blocks of a cell */
    uint32_t cell_bytes;   /* of 16 rows, a multiple of 32 */
    uint32_t is_permuted;  /* field 1 is Q5_0's high bits */
    struct vnni_field fields[VNNI_FIELDS];
};

/* The layout of a block type, or NULL: not a weight type of this plugin, or dense. */
const struct vnni_layout *vnni_layout_of(uint32_t type);

/* Bytes of one element of F32, F16 and BF16; 0 for other types. */
uint32_t vnni_layout_dense_bytes(uint32_t type);

/* Bytes of one panel of cols columns; 0 when the type is not taken or cols is ragged. */
size_t vnni_layout_panel_bytes(uint32_t type, uint32_t cols);

/* Copy one row between the file's form and row r (0..15) of a panel. */
void vnni_layout_put_row(uint32_t type, uint32_t cols, const void *host, uint8_t *panel, uint32_t r);
void vnni_layout_get_row(uint32_t type, uint32_t cols, const uint8_t *panel, uint32_t r, void *host);

#endif
