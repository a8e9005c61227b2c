/* check_code.c: encode and decode, whose bytes and bits are defined by scalar. */
#include "hal/check_case.h"

#include <stdlib.h>
#include <string.h>

#include "hal/block.h"
#include "plugins/scalar/scalar.h"

struct buffers {
    float *x, *importance, *mine_x, *theirs_x;
    uint8_t *mine, *theirs;
    uint32_t rows, cols;
    size_t values;
};

static enum err buffers_open(struct check_run *c, uint32_t rows, uint32_t cols, struct buffers *b)
{
    memset(b, 0, sizeof *b);
    b->rows = rows;
    b->cols = cols;
    b->values = (size_t)rows * cols;
    b->x = malloc(b->values * sizeof *b->x);
    b->importance = malloc(cols * sizeof *b->importance);
    b->mine_x = malloc(b->values * sizeof *b->mine_x);
    b->theirs_x = malloc(b->values * sizeof *b->theirs_x);
    b->mine = malloc(b->values * 4);
    b->theirs = malloc(b->values * 4);
    if (b->x == NULL || b->importance == NULL || b->mine_x == NULL || b->theirs_x == NULL ||
        b->mine == NULL || b->theirs == NULL)
        return check_fail(c, ERR_MEMORY, "the check has no memory");
    return ERR_NONE;
}

static void buffers_close(struct buffers *b)
{
    free(b->theirs);
    free(b->mine);
    free(b->theirs_x);
    free(b->mine_x);
    free(b->importance);
    free(b->x);
}

/* Weights as models have them, and the corners: sizes of all magnitudes, zeros, constants, not
 * finite. */
static void fill_input(struct check_run *c, struct buffers *b)
{
    check_fill(c, b->x, b->values);
    check_fill_normal(c, b->importance, b->cols);
    for (uint32_t i = 0; i < b->cols; i++) {
        b->importance[i] *= b->importance[i];
        if (i % 61 == 0)
            b->importance[i] = 0.0f;
    }
    if (c->pattern != CHECK_NORMAL)
        return;
    for (uint32_t r = 0; r < b->rows; r++) {
        static const float sizes[] = {0.02f, 1.0f, 3e-7f, 60000.0f, 1e-30f};
        float *row = b->x + (size_t)r * b->cols;
        for (uint32_t i = 0; i < b->cols; i++)
            row[i] *= sizes[r % 5];
        if (r % 3 == 1) /* one outlier, one constant group, one group of one sign */
            row[5] *= 50.0f;
        if (r % 3 == 2)
            for (uint32_t i = 0; i < 32; i++)
                row[i] = row[0];
        if (r % 3 == 0)
            for (uint32_t i = 0; i < 32; i++)
                row[i] = row[i] < 0.0f ? -row[i] : row[i];
        if (r == 3) {
            row[7] = __builtin_nanf("");
            row[40] = -__builtin_inff();
        }
    }
}

static enum err encode_type(struct check_run *c, const struct block_type *t, struct buffers *b)
{
    const size_t bytes = block_row_bytes(t->type, b->cols) * b->rows;
    enum err e = ERR_NONE;
    for (uint32_t k = 0; k < 3 && e == ERR_NONE; k++) {
        const uint32_t method = k == 0 ? HAL_RTN : HAL_SEARCH;
        const float *importance = k == 2 ? b->importance : NULL;
        check_case(c, "%s rows=%u cols=%u method=%u%s", t->name, b->rows, b->cols, method,
                   importance != NULL ? " with importance" : "");
        memset(b->mine, 0xd0, bytes);
        const enum err mine = c->plugin->encode(c->dev, t->type, method, b->x, b->rows, b->cols,
                                                importance, b->mine, bytes);
        e = check_same_error(c, mine,
                             scalar_encode(c->reference, t->type, method, b->x, b->rows, b->cols,
                                           importance, b->theirs, bytes));
        if (e == ERR_NONE)
            e = check_same_bytes(c, b->mine, b->theirs, bytes);
        c->report->cases++;
    }
    if (e == ERR_NONE && c->plugin->encode(c->dev, t->type, HAL_RTN, b->x, b->rows, b->cols, NULL,
                                           b->mine, bytes - 1) != ERR_ARGUMENT)
        e = check_fail(c, ERR_MISMATCH, "too small an output: wanted ERR_ARGUMENT");
    return e;
}

enum err check_encode(struct check_run *c)
{
    uint32_t count;
    const struct block_type *const *types = block_types(&count);
    enum err e = ERR_NONE;
    for (c->pattern = 0; c->pattern < CHECK_PATTERNS && e == ERR_NONE; c->pattern++) {
        struct buffers b;
        if (c->options->is_quick && c->pattern != CHECK_NORMAL)
            break;
        e = c->options->is_quick ? buffers_open(c, 1, 256, &b) : buffers_open(c, 6, 768, &b);
        if (e == ERR_NONE)
            fill_input(c, &b);
        for (uint32_t i = 0; i < count && e == ERR_NONE; i++)
            e = encode_type(c, types[i], &b);
        buffers_close(&b);
    }
    c->pattern = CHECK_NORMAL;
    return e;
}

static enum err decode_type(struct check_run *c, const struct block_type *t, struct buffers *b)
{
    const size_t bytes = block_row_bytes(t->type, b->cols) * b->rows;
    check_case(c, "%s rows=%u cols=%u", t->name, b->rows, b->cols);
    check_fill_weights(c, t->type, b->rows, b->cols, b->theirs);
    const enum err mine =
        c->plugin->decode(c->dev, t->type, b->theirs, bytes, b->rows, b->cols, b->mine_x);
    enum err e = check_same_error(
        c, mine,
        scalar_decode(c->reference, t->type, b->theirs, bytes, b->rows, b->cols, b->theirs_x));
    if (e == ERR_NONE)
        e = check_same_bytes(c, b->mine_x, b->theirs_x, b->values * sizeof *b->mine_x);
    c->report->cases++;
    return e;
}

enum err check_decode(struct check_run *c)
{
    uint32_t count;
    const struct block_type *const *types = block_types(&count);
    enum err e = ERR_NONE;
    for (c->pattern = 0; c->pattern < CHECK_PATTERNS && e == ERR_NONE; c->pattern++) {
        struct buffers b;
        if (c->options->is_quick && c->pattern != CHECK_NORMAL)
            break;
        e = c->options->is_quick ? buffers_open(c, 1, 512, &b) : buffers_open(c, 5, 1280, &b);
        for (uint32_t i = 0; i < count && e == ERR_NONE; i++)
            e = decode_type(c, types[i], &b);
        buffers_close(&b);
    }
    c->pattern = CHECK_NORMAL;
    return e;
}
