/* vnni_layout.c: the interleaving is described by a table, so putting and getting are one loop each. */
#include "plugins/vnni/vnni_layout.h"

#include <string.h>

#define SMALL(bytes_, permuted, ...)                                                               \
    {                                                                                              \
        .values = 32, .bytes = (bytes_), .cell_blocks = 2, .cell_bytes = 32 * (bytes_),            \
        .is_permuted = (permuted), .fields = {__VA_ARGS__}                                         \
    }
#define LARGE(bytes_, ...)                                                                         \
    {                                                                                              \
        .values = 256, .bytes = (bytes_), .cell_blocks = 1, .cell_bytes = 16 * (bytes_),           \
        .fields = {__VA_ARGS__}                                                                    \
    }

/* { source, unit, units } */
static const struct vnni_layout layouts[] = {
    [HAL_Q4_0] = SMALL(18, 0, {2, 4, 4}, {0, 2, 1}),
    [HAL_Q4_1] = SMALL(20, 0, {4, 4, 4}, {0, 2, 1}, {2, 2, 1}),
    [HAL_Q5_0] = SMALL(22, 1, {6, 4, 4}, {2, 4, 1}, {0, 2, 1}),
    [HAL_Q5_1] = SMALL(24, 1, {8, 4, 4}, {4, 4, 1}, {0, 2, 1}, {2, 2, 1}),
    [HAL_Q8_0] = SMALL(34, 0, {2, 4, 8}, {0, 2, 1}),
    [HAL_IQ4_NL] = SMALL(18, 0, {2, 4, 4}, {0, 2, 1}),
    [HAL_Q2_K] = LARGE(84, {16, 4, 16}, {0, 2, 8}, {80, 2, 1}, {82, 2, 1}),
    [HAL_Q3_K] = LARGE(110, {32, 4, 16}, {0, 4, 8}, {96, 2, 6}, {108, 2, 1}),
    [HAL_Q4_K] = LARGE(144, {16, 4, 32}, {4, 1, 12}, {0, 2, 1}, {2, 2, 1}),
    [HAL_Q5_K] = LARGE(176, {48, 4, 32}, {16, 4, 8}, {4, 1, 12}, {0, 2, 1}, {2, 2, 1}),
    [HAL_Q6_K] = LARGE(210, {0, 4, 32}, {128, 4, 16}, {192, 1, 16}, {208, 2, 1}),
    [HAL_IQ4_XS] = LARGE(136, {8, 4, 32}, {4, 1, 4}, {2, 1, 2}, {0, 2, 1}),
    [HAL_NF4] = LARGE(136, {8, 4, 32}, {4, 1, 4}, {0, 2, 1}, {2, 2, 1}),
};

const struct vnni_layout *vnni_layout_of(uint32_t type)
{
    if (type >= sizeof layouts / sizeof *layouts || layouts[type].values == 0)
        return NULL;
    return &layouts[type];
}

uint32_t vnni_layout_dense_bytes(uint32_t type)
{
    if (type == HAL_F32)
        return 4;
    return type == HAL_F16 || type == HAL_BF16 ? 2 : 0;
}

size_t vnni_layout_panel_bytes(uint32_t type, uint32_t cols)
{
    const struct vnni_layout *layout = vnni_layout_of(type);
    if (layout == NULL)
        return ((size_t)vnni_layout_dense_bytes(type) * VNNI_ROWS * cols + 63) / 64 * 64;
    if (cols % layout->values != 0)
        return 0;
    const size_t blocks = cols / layout->values;
    const size_t cells = (blocks + layout->cell_blocks - 1) / layout->cell_blocks;
    return (cells * layout->cell_bytes + 63) / 64 * 64;
}

/* From bit 4 j + b of the word to bit j of byte b, and back. */
static uint32_t permute(uint32_t word, int is_back)
{
    uint32_t result = 0;
    for (uint32_t b = 0; b < 4; b++) {
        for (uint32_t j = 0; j < 8; j++) {
            const uint32_t file = 4 * j + b, resident = 8 * b + j;
            const uint32_t from = is_back ? resident : file, to = is_back ? file : resident;
            result |= (word >> from & 1u) << to;
        }
    }
    return result;
}

static void copy_dense(uint32_t bytes, uint32_t cols, const uint8_t *from, size_t from_stride,
                       uint8_t *to, size_t to_stride)
{
    if (bytes == 4) {
        for (uint32_t c = 0; c < cols; c++)
            memcpy(to + c * to_stride, from + c * from_stride, 4);
        return;
    }
    for (uint32_t c = 0; c < cols; c++)
        memcpy(to + c * to_stride, from + c * from_stride, 2);
}

/* Copy units of one field; the sizes are spelled out so that each copy is one move. */
static void copy_units(uint32_t unit, uint32_t units, const uint8_t *from, size_t from_stride,
                       uint8_t *to, size_t to_stride)
{
    for (uint32_t u = 0; u < units; u++) {
        const uint8_t *source = from + u * from_stride;
        uint8_t *target = to + u * to_stride;
        if (unit == 4)
            memcpy(target, source, 4);
        else if (unit == 2)
            memcpy(target, source, 2);
        else
            *target = *source;
    }
}

static void copy_permuted(const uint8_t *from, uint8_t *to, int is_back)
{
    uint32_t word;
    memcpy(&word, from, sizeof word);
    word = permute(word, is_back);
    memcpy(to, &word, sizeof word);
}

static int is_last(const struct vnni_layout *layout, uint32_t field)
{
    return field + 1 == VNNI_FIELDS || layout->fields[field + 1].units == 0;
}

/* Both directions: host is written when is_back, else the panel. */
static void move_row(uint32_t type, uint32_t cols, uint8_t *host, uint8_t *panel, uint32_t r,
                     int is_back)
{
    const struct vnni_layout *layout = vnni_layout_of(type);
    const uint32_t blocks = cols / layout->values;
    for (uint32_t block = 0; block < blocks; block++) {
        uint8_t *source = host + (size_t)block * layout->bytes;
        const size_t cell = (size_t)(block / layout->cell_blocks) * layout->cell_bytes;
        const size_t turned = cell % 64; /* bytes of the last field, which then comes first */
        uint8_t *field_start = panel + cell + turned;
        const uint32_t place = block % layout->cell_blocks;
        for (uint32_t f = 0; f < VNNI_FIELDS && layout->fields[f].units != 0; f++) {
            const struct vnni_field field = layout->fields[f];
            const size_t field_bytes = (size_t)field.unit * field.units * VNNI_ROWS;
            uint8_t *start = turned != 0 && is_last(layout, f) ? panel + cell : field_start;
            uint8_t *inside = start + place * field_bytes + (size_t)r * field.unit;
            uint8_t *outside = source + field.source;
            const size_t stride = (size_t)field.unit * VNNI_ROWS;
            if (layout->is_permuted && f == 1)
                copy_permuted(is_back ? inside : outside, is_back ? outside : inside, is_back);
            else if (is_back)
                copy_units(field.unit, field.units, inside, stride, outside, field.unit);
            else
                copy_units(field.unit, field.units, outside, field.unit, inside, stride);
            field_start += field_bytes * layout->cell_blocks;
        }
    }
}

void vnni_layout_put_row(uint32_t type, uint32_t cols, const void *host, uint8_t *panel, uint32_t r)
{
    const uint32_t dense = vnni_layout_dense_bytes(type);
    if (dense != 0)
        copy_dense(dense, cols, host, dense, panel + (size_t)r * dense, (size_t)dense * VNNI_ROWS);
    else
        move_row(type, cols, (uint8_t *)host, panel, r, 0); /* only read when not is_back */
}

void vnni_layout_get_row(uint32_t type, uint32_t cols, const uint8_t *panel, uint32_t r, void *host)
{
    const uint32_t dense = vnni_layout_dense_bytes(type);
    if (dense != 0)
        copy_dense(dense, cols, panel + (size_t)r * dense, (size_t)dense * VNNI_ROWS, host, dense);
    else
        move_row(type, cols, host, (uint8_t *)panel, r, 1);
}
