/* check_top.c: the greatest values of rows, exact: short and long rows, ties, fewer than asked for, and
 * rows with infinities and NaN. */
#include "hal/check_case.h"

#include <stdlib.h>
#include <string.h>

#include "hal/half.h"
#include "plugins/scalar/scalar.h"

enum { ROWS = 3 };

/* Values that are no numbers, or none that a sum could hold, here and there. */
static void spoil(struct check_run *c, float *x, uint32_t values)
{
    static const uint32_t bits[] = {0x7fc00000u, 0xffc00001u, 0x7f800000u, 0xff800000u, 0x80000000u, 0};
    for (uint32_t i = 0; i < values / 7 + 1; i++)
        x[check_random(c, values)] = half_from_bits(bits[check_random(c, 6)]);
}

static enum err top_case(struct check_run *c, uint32_t cols, uint32_t count, int is_spoilt)
{
    uint32_t mine[ROWS * HAL_TOP_MAX], theirs[ROWS * HAL_TOP_MAX];
    float my_values[ROWS * HAL_TOP_MAX], their_values[ROWS * HAL_TOP_MAX];
    struct check_pair x;
    const size_t bytes = (size_t)ROWS * count * sizeof(float);
    check_case(c, "rows=%d cols=%u count=%u%s", ROWS, cols, count, is_spoilt ? " with NaN" : "");
    enum err e = check_pair_new(c, HAL_ACTIVATION, HAL_F32, ROWS, cols, &x);
    float *values = malloc((size_t)ROWS * cols * sizeof *values);
    if (e == ERR_NONE && values == NULL)
        e = check_fail(c, ERR_MEMORY, "the check has no memory");
    if (e == ERR_NONE) {
        check_fill(c, values, (size_t)ROWS * cols);
        if (is_spoilt)
            spoil(c, values, ROWS * cols);
        e = check_pair_put(c, &x, values);
    }
    memset(mine, 0x55, sizeof mine);
    memset(my_values, 0x55, sizeof my_values);
    if (e == ERR_NONE) {
        const enum err is = c->plugin->top(c->dev, &x.mine, count, mine, my_values);
        e = check_same_error(c, is, scalar_top(c->reference, &x.theirs, count, theirs, their_values));
    }
    if (e == ERR_NONE)
        e = check_same_bytes(c, mine, theirs, bytes);
    if (e == ERR_NONE)
        e = check_same_bytes(c, my_values, their_values, bytes);
    c->report->cases += e == ERR_NONE;
    free(values);
    check_pair_free(c, &x);
    return e;
}

/* Nothing, too many, or nowhere to put them: refused. */
static enum err check_refusals(struct check_run *c)
{
    uint32_t index[HAL_TOP_MAX + 1];
    float value[HAL_TOP_MAX + 1];
    struct check_pair x;
    check_case(c, "counts out of range");
    enum err e = check_pair_activation(c, 1, 100, &x);
    if (e == ERR_NONE && (c->plugin->top(c->dev, &x.mine, 0, index, value) != ERR_ARGUMENT ||
                          c->plugin->top(c->dev, &x.mine, HAL_TOP_MAX + 1, index, value) != ERR_ARGUMENT ||
                          c->plugin->top(c->dev, &x.mine, 1, NULL, value) != ERR_ARGUMENT))
        e = check_fail(c, ERR_MISMATCH, "a count out of range is taken");
    check_pair_free(c, &x);
    return e;
}

enum err check_top(struct check_run *c)
{
    static const uint32_t cols[] = {1, 31, 257, 5000, 33001}, counts[] = {1, 2, 40, HAL_TOP_MAX};
    const uint32_t widths = c->options->is_quick ? 3 : 5;
    enum err e = ERR_NONE;
    for (c->pattern = 0; c->pattern < CHECK_PATTERNS && e == ERR_NONE; c->pattern++)
        for (uint32_t i = 0; i < widths && e == ERR_NONE; i++)
            for (uint32_t k = 0; k < 4 && e == ERR_NONE; k++)
                if (i < 4 || (c->pattern == CHECK_NORMAL && k % 2 == 0)) /* long rows take their time */
                    e = top_case(c, cols[i], counts[k], k % 2);
    c->pattern = CHECK_NORMAL;
    return e == ERR_NONE ? check_refusals(c) : e;
}
