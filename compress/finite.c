#include "compress/finite.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "hal/engine.h"

enum { PIECE = 1024, STRIP_VALUES = 1 << 18 };

/* One added to an exponent of ones carries into the sign: no branch, no comparison, any width of vector. */
static inline uint32_t carry16(const uint8_t *data, size_t i, uint32_t mask, uint32_t one)
{
    uint16_t v;
    memcpy(&v, data + i * sizeof v, sizeof v);
    return (uint16_t)((v & mask) + one);
}

static inline uint32_t carry32(const uint8_t *data, size_t i)
{
    uint32_t v;
    memcpy(&v, data + i * sizeof v, sizeof v);
    return (v & 0x7f800000u) + 0x00800000u;
}

static bool is_finite16(const uint8_t *data, size_t values, uint16_t mask, uint16_t one)
{
    uint16_t carry = 0;
    for (; values >= PIECE; values -= PIECE, data += PIECE * sizeof carry)
        for (uint32_t i = 0; i < PIECE; i++) /* of so many, for the compiler's vectors */
            carry = (uint16_t)(carry | carry16(data, i, mask, one));
    for (size_t i = 0; i < values; i++)
        carry = (uint16_t)(carry | carry16(data, i, mask, one));
    return !(carry & 0x8000u);
}

static bool is_finite32(const uint8_t *data, size_t values)
{
    uint32_t carry = 0;
    for (; values >= PIECE; values -= PIECE, data += PIECE * sizeof carry)
        for (uint32_t i = 0; i < PIECE; i++)
            carry |= carry32(data, i);
    for (size_t i = 0; i < values; i++)
        carry |= carry32(data, i);
    return !(carry & 0x80000000u);
}

/* Floats in half the bytes, or none, are read as they are stored. */
static bool is_finite(uint32_t type, const uint8_t *data, const float *x, size_t values)
{
    switch (type) {
    case HAL_F16:
        return is_finite16(data, values, 0x7c00, 0x0400);
    case HAL_BF16:
        return is_finite16(data, values, 0x7f80, 0x0080);
    case HAL_F32:
        return is_finite32(data, values);
    default:
        return is_finite32((const uint8_t *)x, values);
    }
}

static size_t value_bytes(uint32_t type)
{
    return type == HAL_F16 || type == HAL_BF16 ? 2 : sizeof(float);
}

enum err finite_rows(const char *path, const struct gguf_tensor *t, uint32_t row, uint32_t rows, const float *x,
                     struct fault *f)
{
    const size_t cols = t->shape[0], step = value_bytes(t->type);
    const uint8_t *data = t->data + (size_t)row * t->row_bytes;
    if (is_finite(t->type, data, x, rows * cols))
        return ERR_NONE;
    size_t at = 0;
    while (is_finite(t->type, data + at * step, x ? x + at : NULL, 1))
        at++;
    return fault_set(f, ERR_FORMAT, "%s: %s: row %zu, column %zu: the weight is no finite number", path, t->name,
                     row + at / cols, at % cols);
}

static enum err check_tensor(const struct gguf *g, const struct gguf_tensor *t, struct engine *engine, float *x,
                             struct fault *f)
{
    const uint32_t cols = (uint32_t)t->shape[0], most = cols < STRIP_VALUES ? STRIP_VALUES / cols : 1;
    enum err e = ERR_NONE;
    for (uint32_t row = 0, rows; row < t->rows && !e; row += rows) {
        rows = (uint32_t)t->rows - row < most ? (uint32_t)t->rows - row : most;
        const uint8_t *data = t->data + (size_t)row * t->row_bytes;
        if (x)
            e = engine->ops.decode(engine->dev, t->type, data, rows * t->row_bytes, rows, cols, x);
        if (!e)
            e = finite_rows(gguf_path(g), t, row, rows, x, f);
        gguf_drop(g, data, rows * t->row_bytes);
    }
    return e;
}

enum err finite_file(const struct gguf *g, struct engine *engine, struct fault *f)
{
    enum err e = ERR_NONE;
    for (uint32_t i = 0; i < gguf_tensors(g) && !e; i++) {
        const struct gguf_tensor *t = gguf_tensor(g, i);
        const bool is_float = t->type == HAL_F32 || t->type == HAL_F16 || t->type == HAL_BF16;
        float *x = NULL;
        if (!is_float && !(x = malloc((t->shape[0] > STRIP_VALUES ? t->shape[0] : STRIP_VALUES) * sizeof *x)))
            return ERR_MEMORY;
        e = check_tensor(g, t, engine, x, f);
        if (e == ERR_UNSUPPORTED) /* no weights: it is copied */
            e = ERR_NONE;
        free(x);
    }
    return e;
}
