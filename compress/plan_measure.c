#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compress/plan_internal.h"
#include "hal/block.h"
#include "hal/engine.h"

static const uint32_t measured[] = {HAL_Q2_K, HAL_Q3_K, HAL_IQ4_XS, HAL_IQ4_NL, HAL_Q4_K, HAL_Q5_K,
                                    HAL_Q5_0, HAL_Q5_1, HAL_Q6_K,   HAL_Q8_0,   HAL_F16};

enum {
    LEVELS = sizeof measured / sizeof *measured,
    ROWS_AT_ONCE = 32,
    PEAK = 128, /* a channel counts for no more than so many average ones in an output: outliers of the first token of
                   a text would hide all other layers */
    PEAK_ROUNDS = 16
};

struct measuring {
    struct engine *engine;
    const struct gguf *base;
    const struct profile *profile;
    uint32_t method;
    uint32_t rows_max;
    float *x, *y, *h; /* ROWS_AT_ONCE rows, their decoding, importance */
    float *input;     /* mean squares of the channels, for the energy of the output */
    uint8_t *blocks;
    double error[LEVELS];
    double energy;
    double output; /* of the rows that were seen */
    uint64_t rows;
    double *outputs; /* of every tensor of the errors */
};

void plan_errors_close(struct plan_errors *e)
{
    if (!e)
        return;
    free(e->name);
    free(e->error);
    free(e->scale);
    free(e);
}

static double weighted(const float *x, const float *y, const float *h, uint32_t rows, uint32_t cols)
{
    double sum = 0;
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = 0; c < cols; c++) {
            const double d = (double)x[(size_t)r * cols + c] - (y ? (double)y[(size_t)r * cols + c] : 0);
            sum += (double)h[c] * d * d;
        }
    return sum;
}

/* One strip of rows through every level. */
static enum err measure_strip(struct measuring *m, const struct gguf_tensor *t, uint64_t row,
                              uint32_t rows, const float *importance)
{
    const struct hal_plugin *ops = &m->engine->ops;
    const uint32_t cols = (uint32_t)t->shape[0];
    enum err e = ops->decode(m->engine->dev, t->type, t->data + row * t->row_bytes, rows * t->row_bytes,
                             rows, cols, m->x);
    if (e)
        return e;
    m->energy += weighted(m->x, NULL, m->h, rows, cols);
    m->output += weighted(m->x, NULL, m->input, rows, cols);
    m->rows += rows;
    for (uint32_t l = 0; l < LEVELS; l++) {
        const size_t bytes = rows * block_row_bytes(measured[l], cols);
        if (bytes == 0)
            continue;
        if ((e = ops->encode(m->engine->dev, measured[l], m->method, m->x, rows, cols, importance,
                             m->blocks, bytes)) ||
            (e = ops->decode(m->engine->dev, measured[l], m->blocks, bytes, rows, cols, m->y)))
            return e;
        m->error[l] += weighted(m->x, m->y, m->h, rows, cols);
    }
    return ERR_NONE;
}

/* The mean that a peak is held against is one of capped channels itself. */
static void cap_peaks(struct measuring *m, uint32_t cols)
{
    float most = INFINITY;
    for (uint32_t round = 0; round < PEAK_ROUNDS; round++) {
        double sum = 0;
        for (uint32_t c = 0; c < cols; c++)
            sum += (double)(m->h[c] < most ? m->h[c] : most);
        most = (float)(PEAK * sum / cols);
    }
    for (uint32_t c = 0; c < cols; c++)
        m->input[c] = m->h[c] < most ? m->h[c] : most;
}

/* output: energy of a token's output, of all rows for an embedding; 0 where the input is not known. */
static enum err measure_tensor(struct measuring *m, const struct gguf_tensor *t, double *out, double *output)
{
    const uint32_t cols = (uint32_t)t->shape[0];
    const struct profile_entry *entry = m->profile ? profile_find(m->profile, t->name) : NULL;
    const bool is_weighted = entry && entry->cols == cols && t->rows % entry->slices == 0 &&
                             plan_role(m->base, t->name) != PLAN_HEAD;
    const uint64_t slice_rows = is_weighted ? t->rows / entry->slices : t->rows;
    const uint64_t strips = (t->rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    const uint64_t wanted = m->rows_max ? (m->rows_max + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE : strips;
    const uint64_t step = strips > wanted ? strips / wanted : 1;
    memset(m->error, 0, sizeof m->error);
    m->energy = m->output = 0;
    m->rows = 0;
    for (uint32_t c = 0; c < cols; c++)
        m->h[c] = 1;
    for (uint64_t s = 0; s < strips; s += step) {
        const uint64_t row = s * ROWS_AT_ONCE;
        uint64_t rows = t->rows - row < ROWS_AT_ONCE ? t->rows - row : ROWS_AT_ONCE;
        if (row % slice_rows + rows > slice_rows)
            rows = slice_rows - row % slice_rows;
        if (is_weighted)
            profile_importance(entry, (uint32_t)(row / slice_rows), m->h);
        cap_peaks(m, cols);
        enum err e = measure_strip(m, t, row, (uint32_t)rows, is_weighted ? m->h : NULL);
        if (e)
            return e;
    }
    for (uint32_t l = 0; l < LEVELS; l++)
        out[l] = block_row_bytes(measured[l], cols) ? (m->energy > 0 ? m->error[l] / m->energy : 0) : NAN;
    const bool is_known = is_weighted ? entry->slices == 1 : strcmp(t->name, "token_embd.weight") == 0;
    *output = is_known && m->rows ? m->output * (double)t->rows / (double)m->rows : 0;
    gguf_drop(m->base, t->data, t->bytes);
    return ERR_NONE;
}

static enum err make_room(struct measuring *m, struct plan_errors *out)
{
    uint64_t cols = 1;
    const uint32_t tensors = gguf_tensors(m->base);
    for (uint32_t i = 0; i < tensors; i++)
        if (gguf_tensor(m->base, i)->shape[0] > cols)
            cols = gguf_tensor(m->base, i)->shape[0];
    if (cols > PROFILE_COLS_MAX)
        return ERR_UNSUPPORTED;
    m->x = malloc(ROWS_AT_ONCE * cols * sizeof *m->x);
    m->y = malloc(ROWS_AT_ONCE * cols * sizeof *m->y);
    m->h = malloc(cols * sizeof *m->h);
    m->input = malloc(cols * sizeof *m->input);
    m->outputs = calloc(tensors, sizeof *m->outputs);
    m->blocks = malloc(ROWS_AT_ONCE * cols * sizeof(float) + BLOCK_BYTES_MAX);
    out->levels = LEVELS;
    memcpy(out->level, measured, sizeof measured);
    out->name = calloc(tensors, sizeof *out->name);
    out->error = calloc((size_t)tensors * LEVELS, sizeof *out->error);
    out->scale = calloc(tensors, sizeof *out->scale);
    return m->x && m->y && m->h && m->input && m->outputs && m->blocks && out->name && out->error && out->scale
               ? ERR_NONE
               : ERR_MEMORY;
}

enum err plan_errors_measure(const struct gguf *base, const struct profile *profile,
                             struct engine *engine, uint32_t method, uint32_t rows_max,
                             plan_progress_fn *progress, void *context, struct plan_errors **out,
                             struct fault *f)
{
    struct engine *own = NULL;
    struct measuring m = {.engine = engine,
                          .base = base,
                          .profile = profile,
                          .method = method == RECIPE_RTN ? HAL_RTN : HAL_SEARCH,
                          .rows_max = rows_max};
    struct plan_errors *errors = calloc(1, sizeof *errors);
    enum err e = errors ? ERR_NONE : ERR_MEMORY;
    if (!e && !engine && !(e = engine_open(NULL, &own, NULL)))
        m.engine = own;
    if (e || (e = make_room(&m, errors)))
        goto out;
    for (uint32_t i = 0; i < gguf_tensors(base); i++) {
        const struct gguf_tensor *t = gguf_tensor(base, i);
        const uint32_t role = plan_role(base, t->name);
        if (role == PLAN_FIXED || strlen(t->name) >= PLAN_NAME_MAX)
            continue;
        const uint32_t at = errors->tensors;
        if ((e = measure_tensor(&m, t, errors->error + (size_t)at * LEVELS, &m.outputs[at]))) {
            fault_set(f, e, "%s: cannot be measured: %s", t->name, err_name(e));
            goto out;
        }
        strcpy(errors->name[at], t->name);
        errors->tensors++;
        if (progress && progress(context, i + 1u, gguf_tensors(base))) {
            e = ERR_CANCELLED;
            goto out;
        }
    }
    e = plan_prior(base, m.outputs, errors);
out:
    free(m.x);
    free(m.y);
    free(m.h);
    free(m.input);
    free(m.outputs);
    free(m.blocks);
    engine_close(own);
    if (e)
        plan_errors_close(errors);
    else
        *out = errors;
    return e;
}
