/* check_matmul.c: products of every type, shape and pattern, several at once, and refusals. */
#include "hal/check_case.h"

#include <string.h>

#include "hal/block.h"
#include "plugins/scalar/scalar.h"

static enum err check_product(struct check_run *c, uint32_t type, uint32_t n, uint32_t in,
                              uint32_t out)
{
    struct check_pair x, w, y;
    memset(&w, 0, sizeof w);
    memset(&y, 0, sizeof y);
    check_case(c, "%s n=%u in=%u out=%u", block_type(type)->name, n, in, out);
    enum err e = check_pair_activation(c, n, in, &x);
    if (e == ERR_NONE)
        e = check_pair_weight(c, type, out, in, &w);
    if (e == ERR_NONE)
        e = check_pair_new(c, HAL_ACTIVATION, HAL_F32, n, out, &y);
    if (e == ERR_NONE) {
        const struct hal_mat *const my_y = &y.mine, *const my_w = &w.mine;
        const struct hal_mat *const its_y = &y.theirs, *const its_w = &w.theirs;
        const enum err mine = c->plugin->matmul(c->dev, &my_y, &x.mine, &my_w, 1);
        e = check_same_error(c, mine, scalar_matmul(c->reference, &its_y, &x.theirs, &its_w, 1));
    }
    if (e == ERR_NONE)
        e = check_pair_compare(c, &y);
    check_pair_free(c, &y);
    check_pair_free(c, &w);
    check_pair_free(c, &x);
    return e;
}

static enum err check_type(struct check_run *c, uint32_t type)
{
    static const uint32_t tokens[] = {1, 2, 5, 19}, outs[] = {1, 15, 16, 17, 31, 33};
    const struct block_type *t = block_type(type);
    const uint32_t unit = t->values > 32 ? t->values : 32;
    enum err e = ERR_NONE;
    for (c->pattern = 0; c->pattern < CHECK_PATTERNS && e == ERR_NONE; c->pattern++) {
        if (c->options->is_quick && (c->pattern == CHECK_MINIMUM || c->pattern == CHECK_ZERO))
            continue;
        e = check_product(c, type, 3, unit, 17);
        if (e == ERR_NONE)
            e = check_product(c, type, 1, 2 * unit, 33);
    }
    c->pattern = CHECK_NORMAL;
    if (c->options->is_quick)
        return e;
    for (size_t i = 0; i < 4; i++)
        for (size_t j = 0; j < 6 && e == ERR_NONE; j++)
            e = check_product(c, type, tokens[i], 3 * unit, outs[j]);
    if (e == ERR_NONE)
        e = check_product(c, type, 64, 1024, 96);
    if (e == ERR_NONE)
        e = check_product(c, type, 1, 4096, 64);
    return e;
}

/* Three weights of different types and rows on one input, as q, k and v are. */
static enum err check_several(struct check_run *c)
{
    static const uint32_t wanted[3] = {HAL_Q4_K, HAL_Q6_K, HAL_F16}, rows[3] = {48, 16, 5};
    struct check_pair x, w[3], y[3];
    const struct hal_mat *my_y[3], *my_w[3], *its_y[3], *its_w[3];
    memset(w, 0, sizeof w);
    memset(y, 0, sizeof y);
    check_case(c, "three weights");
    enum err e = check_pair_activation(c, 7, 512, &x);
    for (int i = 0; i < 3 && e == ERR_NONE; i++) {
        const uint32_t type = c->caps.types >> wanted[i] & 1u ? wanted[i] : HAL_Q8_0;
        e = check_pair_weight(c, type, rows[i], 512, &w[i]);
        if (e == ERR_NONE)
            e = check_pair_new(c, HAL_ACTIVATION, HAL_F32, 7, rows[i], &y[i]);
        my_y[i] = &y[i].mine;
        my_w[i] = &w[i].mine;
        its_y[i] = &y[i].theirs;
        its_w[i] = &w[i].theirs;
    }
    if (e == ERR_NONE) {
        const enum err mine = c->plugin->matmul(c->dev, my_y, &x.mine, my_w, 3);
        e = check_same_error(c, mine, scalar_matmul(c->reference, its_y, &x.theirs, its_w, 3));
    }
    for (int i = 0; i < 3; i++) {
        if (e == ERR_NONE)
            e = check_pair_compare(c, &y[i]);
    }
    for (int i = 2; i >= 0; i--) {
        check_pair_free(c, &y[i]);
        check_pair_free(c, &w[i]);
    }
    check_pair_free(c, &x);
    return e;
}

/* With one thread the same comes out; numbers out of range are refused. */
static enum err check_limited(struct check_run *c)
{
    enum err (*limit)(void *, uint32_t) = c->plugin->limit_threads;
    const uint32_t threads = c->options->threads;
    if (limit == NULL)
        return ERR_NONE;
    check_case(c, "limit_threads of %u", threads);
    if (limit(c->dev, 0) != ERR_ARGUMENT || limit(c->dev, threads + 1) != ERR_ARGUMENT)
        return check_fail(c, ERR_MISMATCH, "takes a number of threads out of range");
    enum err e = limit(c->dev, 1);
    if (e == ERR_NONE)
        e = check_several(c);
    if (e == ERR_NONE)
        e = limit(c->dev, threads);
    return e == ERR_NONE ? e : check_fail(c, e, "limit_threads: %s", err_name(e));
}

/* One NaN among the activations must show in that token's outputs and in no other's. */
static enum err check_nan(struct check_run *c, uint32_t type)
{
    struct check_pair x, w, y;
    float in[3 * 256];
    memset(&w, 0, sizeof w);
    memset(&y, 0, sizeof y);
    check_case(c, "%s with a NaN", block_type(type)->name);
    check_fill_normal(c, in, 3 * 256);
    in[256 + 77] = __builtin_nanf("");
    enum err e = check_pair_activation(c, 3, 256, &x);
    if (e == ERR_NONE)
        e = check_pair_put(c, &x, in);
    if (e == ERR_NONE)
        e = check_pair_weight(c, type, 8, 256, &w);
    if (e == ERR_NONE)
        e = check_pair_new(c, HAL_ACTIVATION, HAL_F32, 3, 8, &y);
    if (e == ERR_NONE) {
        const struct hal_mat *const my_y = &y.mine, *const my_w = &w.mine;
        const struct hal_mat *const its_y = &y.theirs, *const its_w = &w.theirs;
        const enum err mine = c->plugin->matmul(c->dev, &my_y, &x.mine, &my_w, 1);
        e = check_same_error(c, mine, scalar_matmul(c->reference, &its_y, &x.theirs, &its_w, 1));
    }
    if (e == ERR_NONE)
        e = check_pair_compare(c, &y);
    check_pair_free(c, &y);
    check_pair_free(c, &w);
    check_pair_free(c, &x);
    return e;
}

/* Shapes that disagree: ERR_ARGUMENT. */
static enum err check_shapes(struct check_run *c)
{
    struct check_pair x, w, y;
    memset(&w, 0, sizeof w);
    memset(&y, 0, sizeof y);
    enum err e = check_pair_activation(c, 2, 256, &x);
    if (e == ERR_NONE)
        e = check_pair_weight(c, HAL_Q8_0, 8, 512, &w);
    if (e == ERR_NONE)
        e = check_pair_new(c, HAL_ACTIVATION, HAL_F32, 2, 8, &y);
    for (int i = 0; i < 2 && e == ERR_NONE; i++) {
        struct hal_mat weight = w.mine, out = y.mine;
        if (i == 1) {
            weight.cols = 256;
            out.cols = 7;
        }
        const struct hal_mat *const my_y = &out, *const my_w = &weight;
        check_case(c, "%s", i == 0 ? "another width" : "another number of outputs");
        e = c->plugin->matmul(c->dev, &my_y, &x.mine, &my_w, 1);
        e = e == ERR_ARGUMENT
                ? ERR_NONE
                : check_fail(c, ERR_MISMATCH, "returned %s, wanted ERR_ARGUMENT", err_name(e));
        c->report->cases++;
    }
    check_pair_free(c, &y);
    check_pair_free(c, &w);
    check_pair_free(c, &x);
    return e;
}

enum err check_matmul(struct check_run *c)
{
    uint32_t count;
    const struct block_type *const *types = block_types(&count);
    enum err e = ERR_NONE;
    for (uint32_t i = 0; i < count && e == ERR_NONE; i++)
        if (c->caps.types >> types[i]->type & 1u)
            e = check_type(c, types[i]->type);
    if (!(c->caps.types >> HAL_Q8_0 & 1u))
        return e;
    if (e == ERR_NONE)
        e = check_several(c);
    if (e == ERR_NONE)
        e = check_limited(c);
    if (e == ERR_NONE)
        e = check_nan(c, HAL_Q8_0);
    if (e == ERR_NONE && (c->caps.types >> HAL_Q4_K & 1u))
        e = check_nan(c, HAL_Q4_K);
    return e == ERR_NONE ? check_shapes(c) : e;
}
