/* check_rows.c: the operations that take rows one by one. */
#include "hal/check_case.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "hal/block.h"
#include "plugins/scalar/scalar.h"

static const uint32_t all_rows[] = {1, 2, 5, 3};
static const uint32_t all_cols[] = {64, 33, 256, 1027};

/* How many of the shapes above; and the patterns to run each with. */
static int shapes_of(const struct check_run *c)
{
    return c->options->is_quick ? 2 : 4;
}

/* Run check for every shape and pattern; each makes its own matrices. */
static enum err each_shape(struct check_run *c,
                           enum err (*check)(struct check_run *, uint32_t rows, uint32_t cols))
{
    for (int i = 0; i < shapes_of(c); i++)
        for (c->pattern = 0; c->pattern < CHECK_PATTERNS; c->pattern++) {
            check_case(c, "rows=%u cols=%u", all_rows[i], all_cols[i]);
            const enum err e = check(c, all_rows[i], all_cols[i]);
            if (e != ERR_NONE)
                return e;
        }
    c->pattern = CHECK_NORMAL;
    return ERR_NONE;
}

/* A vector of one row, normal whatever the pattern. */
static enum err new_vector(struct check_run *c, uint32_t cols, struct check_pair *out)
{
    float *x = malloc(cols * sizeof *x);
    enum err e = check_pair_new(c, HAL_ACTIVATION, HAL_F32, 1, cols, out);
    if (e == ERR_NONE && x == NULL)
        e = ERR_MEMORY;
    if (e == ERR_NONE) {
        check_fill_normal(c, x, cols);
        e = check_pair_put(c, out, x);
    }
    free(x);
    return e;
}

static enum err embed_type(struct check_run *c, uint32_t type, uint32_t use)
{
    struct check_pair table, y;
    uint32_t row[7];
    memset(&y, 0, sizeof y);
    check_case(c, "%s rows=7", block_type(type)->name);
    enum err e = use == HAL_WEIGHT ? check_pair_weight(c, type, 37, 512, &table)
                                   : check_pair_activation(c, 37, 512, &table);
    if (e == ERR_NONE)
        e = check_pair_new(c, HAL_ACTIVATION, HAL_F32, 7, 512, &y);
    for (uint32_t i = 0; i < 7; i++)
        row[i] = i == 0 ? 36 : i == 1 ? 0 : check_random(c, 37);
    if (e == ERR_NONE) {
        const enum err mine = c->plugin->embed(c->dev, &y.mine, &table.mine, row);
        e = check_same_error(c, mine, scalar_embed(c->reference, &y.theirs, &table.theirs, row));
    }
    if (e == ERR_NONE)
        e = check_pair_compare(c, &y);
    row[3] = 37;
    if (e == ERR_NONE && c->plugin->embed(c->dev, &y.mine, &table.mine, row) != ERR_ARGUMENT)
        e = check_fail(c, ERR_MISMATCH, "a row beyond the table: wanted ERR_ARGUMENT");
    check_pair_free(c, &y);
    check_pair_free(c, &table);
    return e;
}

enum err check_embed(struct check_run *c)
{
    uint32_t count;
    const struct block_type *const *types = block_types(&count);
    enum err e = embed_type(c, HAL_F32, HAL_ACTIVATION);
    for (uint32_t i = 0; i < count && e == ERR_NONE; i++)
        if (c->caps.types >> types[i]->type & 1u)
            e = embed_type(c, types[i]->type, HAL_WEIGHT);
    return e;
}

static enum err norm_shape(struct check_run *c, uint32_t rows, uint32_t cols)
{
    struct check_pair x, y, w, b;
    const int is_layer = strcmp(c->report->op, "layernorm") == 0;
    memset(&y, 0, sizeof y);
    memset(&w, 0, sizeof w);
    memset(&b, 0, sizeof b);
    enum err e = check_pair_activation(c, rows, cols, &x);
    if (e == ERR_NONE)
        e = check_pair_new(c, HAL_ACTIVATION, HAL_F32, rows, cols, &y);
    if (e == ERR_NONE)
        e = new_vector(c, cols, &w);
    if (e == ERR_NONE)
        e = new_vector(c, cols, &b);
    /* once into y, once in place */
    for (int in_place = 0; in_place < 2 && e == ERR_NONE; in_place++) {
        struct check_pair *to = in_place ? &x : &y;
        const int has_bias = rows != 1;
        enum err mine, theirs;
        if (is_layer) {
            mine = c->plugin->layernorm(c->dev, &to->mine, &x.mine, &w.mine,
                                        has_bias ? &b.mine : NULL, 1e-5f);
            theirs = scalar_layernorm(c->reference, &to->theirs, &x.theirs, &w.theirs,
                                      has_bias ? &b.theirs : NULL, 1e-5f);
        } else {
            mine = c->plugin->rmsnorm(c->dev, &to->mine, &x.mine, &w.mine, 1e-6f);
            theirs = scalar_rmsnorm(c->reference, &to->theirs, &x.theirs, &w.theirs, 1e-6f);
        }
        e = check_same_error(c, mine, theirs);
        if (e == ERR_NONE)
            e = check_pair_compare(c, to);
    }
    check_pair_free(c, &b);
    check_pair_free(c, &w);
    check_pair_free(c, &y);
    check_pair_free(c, &x);
    return e;
}

enum err check_rmsnorm(struct check_run *c)
{
    return each_shape(c, norm_shape);
}

enum err check_layernorm(struct check_run *c)
{
    return each_shape(c, norm_shape);
}

static enum err rope_shape(struct check_run *c, uint32_t rows, const struct hal_rope_shape *shape)
{
    struct check_pair x, angles;
    float *values = malloc((size_t)rows * shape->dims * sizeof *values);
    memset(&angles, 0, sizeof angles);
    check_case(c, "rows=%u head=%u offset=%u dims=%u kind=%u", rows, shape->head_dim, shape->offset,
               shape->dims, shape->kind);
    enum err e = check_pair_activation(c, rows, 3 * shape->head_dim, &x);
    if (e == ERR_NONE)
        e = check_pair_new(c, HAL_ACTIVATION, HAL_F32, rows, shape->dims, &angles);
    if (e == ERR_NONE && values == NULL)
        e = ERR_MEMORY;
    if (e == ERR_NONE) {
        for (uint32_t i = 0; i < rows * shape->dims; i++) {
            const uint32_t p = i % shape->dims % (shape->dims / 2);
            const double at = (1048570.0 + i / shape->dims) * pow(10000, -2.0 * p / shape->dims);
            values[i] = (float)(i % shape->dims < shape->dims / 2 ? cos(at) : sin(at));
        }
        e = check_pair_put(c, &angles, values);
    }
    if (e == ERR_NONE) {
        const enum err mine = c->plugin->rope(c->dev, &x.mine, &angles.mine, shape);
        e = check_same_error(c, mine, scalar_rope(c->reference, &x.theirs, &angles.theirs, shape));
    }
    if (e == ERR_NONE)
        e = check_pair_compare(c, &x);
    free(values);
    check_pair_free(c, &angles);
    check_pair_free(c, &x);
    return e;
}

enum err check_rope(struct check_run *c)
{
    static const struct hal_rope_shape shapes[] = {
        {32, 0, 32, HAL_ROPE_NORM},  {32, 0, 32, HAL_ROPE_NEOX},   {96, 0, 24, HAL_ROPE_NEOX},
        {80, 16, 64, HAL_ROPE_NORM}, {128, 64, 64, HAL_ROPE_NEOX}, {6, 2, 2, HAL_ROPE_NORM}};
    enum err e = ERR_NONE;
    for (size_t i = 0; i < 6 && e == ERR_NONE; i++) {
        e = rope_shape(c, 1, &shapes[i]);
        if (e == ERR_NONE && !c->options->is_quick)
            e = rope_shape(c, 5, &shapes[i]);
    }
    return e;
}

static enum err glu_shape(struct check_run *c, uint32_t rows, uint32_t cols)
{
    struct check_pair gate, up, y;
    memset(&up, 0, sizeof up);
    memset(&y, 0, sizeof y);
    enum err e = check_pair_activation(c, rows, cols, &gate);
    if (e == ERR_NONE)
        e = check_pair_activation(c, rows, cols, &up);
    if (e == ERR_NONE)
        e = check_pair_new(c, HAL_ACTIVATION, HAL_F32, rows, cols, &y);
    for (uint32_t f = 0; f < 9 && e == ERR_NONE; f++) {
        const int is_last = f == 8; /* in place */
        struct check_pair *to = is_last ? &gate : &y;
        const struct check_pair *with = f / 4 == 1 ? NULL : &up;
        check_case(c, "rows=%u cols=%u function=%u%s%s", rows, cols, f % 4,
                   with == NULL ? " alone" : "", is_last ? " in place" : "");
        const enum err mine =
            c->plugin->glu(c->dev, &to->mine, &gate.mine, with != NULL ? &with->mine : NULL, f % 4);
        e = check_same_error(c, mine,
                             scalar_glu(c->reference, &to->theirs, &gate.theirs,
                                        with != NULL ? &with->theirs : NULL, f % 4));
        if (e == ERR_NONE)
            e = check_pair_compare(c, to);
    }
    check_pair_free(c, &y);
    check_pair_free(c, &up);
    check_pair_free(c, &gate);
    return e;
}

/* Where exp overflows or vanishes, and NaN: each value its own row, so that each is compared alone.
 */
static enum err glu_extremes(struct check_run *c)
{
    static const float values[] = {-1e4f, -100.0f, -88.5f, -20.0f, -1e-6f, 0.0f,
                                   1e-6f, 20.0f,   88.5f,  100.0f, 1e4f,   NAN};
    enum { VALUES = sizeof values / sizeof values[0] };
    enum err e = ERR_NONE;
    for (int i = 0; i < VALUES && e == ERR_NONE; i++)
        for (uint32_t f = 0; f < 4 && e == ERR_NONE; f++) {
            struct check_pair x;
            float row[20];
            for (int k = 0; k < 20; k++)
                row[k] = values[i];
            check_case(c, "function=%u of %g", f, (double)values[i]);
            e = check_pair_new(c, HAL_ACTIVATION, HAL_F32, 1, 20, &x);
            if (e == ERR_NONE)
                e = check_pair_put(c, &x, row);
            if (e == ERR_NONE) {
                const enum err mine = c->plugin->glu(c->dev, &x.mine, &x.mine, NULL, f);
                e = check_same_error(c, mine,
                                     scalar_glu(c->reference, &x.theirs, &x.theirs, NULL, f));
            }
            /* far on the negative side the true result is tiny: what counts is that it is */
            if (e == ERR_NONE && !(values[i] <= -88.5f || (f != HAL_SILU && values[i] < -1.0f)))
                e = check_pair_compare(c, &x);
            check_pair_free(c, &x);
        }
    return e;
}

enum err check_glu(struct check_run *c)
{
    const enum err e = each_shape(c, glu_shape);
    return e == ERR_NONE ? glu_extremes(c) : e;
}

static enum err add_shape(struct check_run *c, uint32_t rows, uint32_t cols)
{
    struct check_pair y, x, bias;
    memset(&x, 0, sizeof x);
    memset(&bias, 0, sizeof bias);
    enum err e = check_pair_activation(c, rows, cols, &y);
    if (e == ERR_NONE)
        e = check_pair_activation(c, rows, cols, &x);
    if (e == ERR_NONE)
        e = new_vector(c, cols, &bias);
    for (int i = 0; i < 2 && e == ERR_NONE; i++) {
        const struct check_pair *more = i == 0 ? &x : &bias;
        const enum err mine = c->plugin->add(c->dev, &y.mine, &more->mine);
        e = check_same_error(c, mine, scalar_add(c->reference, &y.theirs, &more->theirs));
        if (e == ERR_NONE)
            e = check_pair_compare(c, &y);
    }
    check_pair_free(c, &bias);
    check_pair_free(c, &x);
    check_pair_free(c, &y);
    return e;
}

enum err check_add(struct check_run *c)
{
    return each_shape(c, add_shape);
}

static enum err scale_shape(struct check_run *c, uint32_t rows, uint32_t cols)
{
    struct check_pair y;
    enum err e = check_pair_activation(c, rows, cols, &y);
    if (e == ERR_NONE) {
        const enum err mine = c->plugin->scale(c->dev, &y.mine, 0.37f);
        e = check_same_error(c, mine, scalar_scale(c->reference, &y.theirs, 0.37f));
    }
    if (e == ERR_NONE)
        e = check_pair_compare(c, &y);
    check_pair_free(c, &y);
    return e;
}

enum err check_scale(struct check_run *c)
{
    return each_shape(c, scale_shape);
}

/* The same row is named more than once, so that a race or a lost sum shows. */
static enum err scatter_shape(struct check_run *c, uint32_t rows, uint32_t cols)
{
    struct check_pair y, x;
    uint32_t row[16];
    float weight[16];
    memset(&x, 0, sizeof x);
    enum err e = check_pair_activation(c, rows, cols, &y);
    if (e == ERR_NONE)
        e = check_pair_activation(c, 16, cols, &x);
    for (int i = 0; i < 16; i++)
        row[i] = check_random(c, rows);
    check_fill_normal(c, weight, 16);
    if (e == ERR_NONE) {
        const enum err mine = c->plugin->scatter(c->dev, &y.mine, &x.mine, row, weight);
        e = check_same_error(c, mine,
                             scalar_scatter(c->reference, &y.theirs, &x.theirs, row, weight));
    }
    if (e == ERR_NONE)
        e = check_pair_compare(c, &y);
    check_pair_free(c, &x);
    check_pair_free(c, &y);
    return e;
}

enum err check_scatter(struct check_run *c)
{
    return each_shape(c, scatter_shape);
}

/* From the middle of x to the middle of y: what is beside it must stay. */
static enum err copy_shape(struct check_run *c, uint32_t rows, uint32_t cols)
{
    struct check_pair y, x;
    const uint32_t y_cols = cols + 21, x_cols = cols + 8;
    memset(&x, 0, sizeof x);
    enum err e = check_pair_activation(c, rows, y_cols, &y);
    if (e == ERR_NONE)
        e = check_pair_activation(c, rows, x_cols, &x);
    if (e == ERR_NONE) {
        const enum err mine = c->plugin->copy(c->dev, &y.mine, 5, &x.mine, 3, cols);
        e = check_same_error(c, mine, scalar_copy(c->reference, &y.theirs, 5, &x.theirs, 3, cols));
    }
    if (e == ERR_NONE) {
        const enum err mine = c->plugin->copy(c->dev, &y.mine, 21, &x.mine, 0, cols);
        e = check_same_error(c, mine, scalar_copy(c->reference, &y.theirs, 21, &x.theirs, 0, cols));
    }
    if (e == ERR_NONE)
        e = check_pair_compare(c, &y);
    check_pair_free(c, &x);
    check_pair_free(c, &y);
    return e;
}

enum err check_copy(struct check_run *c)
{
    return each_shape(c, copy_shape);
}
