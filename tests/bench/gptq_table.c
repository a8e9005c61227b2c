/* gptq_table.c: held-out output error of plain rounding, weighted search and gptq on synthetic matrices: Gaussian
 * weights, correlated activations with a power-law spectrum, a log-normal energy of channels and some hot ones.
 *
 *   gptq_table [COLS [TOKENS [DECAY [HOT [SEED [ROTATE]]]]]]     1024 4096 0.6 3 1
 *
 * DECAY: the k-th of COLS independent sources has the amplitude k^-DECAY; HOT: every 61st channel is so many
 * times stronger. TOKENS to quantise with, and as many others to judge by. Columns: error of the outputs,
 * tr(dW H dW^T) / tr(W H W^T), times 1000. ROTATE: then the same weights on the same activations, both rotated by
 * rotate.h with this seed.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "compress/gptq.h"
#include "compress/rotate.h"
#include "hal/block.h"
#include "hal/engine.h"

enum { ROWS = 192, BATCH = 256 };

static uint64_t state;

/* Box-Muller on splitmix64. */
static double uniform(void)
{
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return ((double)((z ^ z >> 31) >> 11) + 0.5) / 9007199254740992.0;
}

static float normal(void)
{
    return (float)(sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform()));
}

/* tokens rows of activations into one sample of h, a batch at a time. */
static enum err add(struct hessian *h, uint32_t sample, const float *mix, uint32_t cols, uint32_t tokens)
{
    float *x = malloc(sizeof *x * BATCH * cols);
    enum err e = x ? ERR_NONE : ERR_MEMORY;
    for (uint32_t done = 0; !e && done < tokens; done += BATCH) {
        for (uint32_t t = 0; t < BATCH; t++) {
            float *row = x + (size_t)t * cols;
            for (uint32_t c = 0; c < cols; c++)
                row[c] = 0;
            for (uint32_t k = 0; k < cols; k++) {
                const float source = normal();
                for (uint32_t c = 0; c < cols; c++)
                    row[c] += source * mix[(size_t)k * cols + c];
            }
        }
        e = hessian_add(h, sample, x, BATCH, 2);
    }
    free(x);
    return e;
}

static enum err sample(const float *mix, uint32_t cols, uint32_t tokens, struct gptq_basis **out)
{
    struct hessian *h = NULL;
    enum err e = hessian_open(cols, &h);
    if (!e)
        e = add(h, HESSIAN_TRAIN, mix, cols, tokens);
    if (!e)
        e = add(h, HESSIAN_HELD, mix, cols, tokens);
    if (e) {
        hessian_close(h);
        return e;
    }
    hessian_finish(h);
    return gptq_basis_open(h, out);
}

/* The held-out error of blocks of w, as gptq.h reports it. */
static double judge(const struct gptq_basis *b, const float *w, const float *y, float *scratch)
{
    double error = 0, energy = 0;
    float *row = scratch, *plain = scratch + b->cols;
    for (uint32_t i = 0; i < ROWS; i++) {
        for (uint32_t c = 0; c < b->cols; c++) {
            plain[c] = w[(size_t)i * b->cols + b->order[c]];
            row[c] = plain[c] - y[(size_t)i * b->cols + b->order[c]];
        }
        error += hessian_norm(b->held, b->cols, row, scratch + 2 * b->cols);
        energy += hessian_norm(b->held, b->cols, plain, scratch + 2 * b->cols);
    }
    return error / energy;
}

static enum err one_type(struct engine *engine, uint32_t type, const float *w, struct gptq_basis *b)
{
    const size_t bytes = ROWS * block_row_bytes(type, b->cols);
    uint8_t *blocks = malloc(bytes);
    float *y = malloc(sizeof *y * ROWS * b->cols), *scratch = malloc(3 * sizeof *scratch * b->cols);
    struct gptq_result r;
    enum err e = blocks && y && scratch ? ERR_NONE : ERR_MEMORY;
    if (!e)
        e = engine->ops.encode(engine->dev, type, HAL_RTN, w, ROWS, b->cols, NULL, blocks, bytes);
    if (!e)
        e = engine->ops.decode(engine->dev, type, blocks, bytes, ROWS, b->cols, y);
    const double rtn = e ? 0 : judge(b, w, y, scratch);
    if (!e)
        e = gptq_encode(engine, 2, type, w, ROWS, b->cols, b, NULL, blocks, &r);
    if (!e)
        printf("| %s | %.2f | %.2f | %.2f | %.2f | %.3f |\n", block_type(type)->name, 1e3 * rtn, 1e3 * r.error[GPTQ_SEARCH],
               1e3 * r.error[GPTQ_LDLQ], 1e3 * r.error[GPTQ_POLISHED], r.damp);
    free(blocks);
    free(y);
    free(scratch);
    return e;
}

/* x[rows, cols] with every row rotated. */
static enum err turn(const struct rotate *r, float *x, uint32_t rows)
{
    double *y = malloc(r->length * sizeof *y);
    for (uint32_t i = 0; y && i < rows; i++, x += r->length) {
        for (uint32_t c = 0; c < r->length; c++)
            y[c] = (double)x[c];
        rotate_apply(r, y);
        for (uint32_t c = 0; c < r->length; c++)
            x[c] = (float)y[c];
    }
    free(y);
    return y ? ERR_NONE : ERR_MEMORY;
}

static enum err table(struct engine *engine, const float *mix, const float *w, uint32_t cols, uint32_t tokens)
{
    static const uint32_t types[] = {HAL_Q4_0, HAL_Q4_K, HAL_Q3_K, HAL_Q2_K, HAL_IQ4_NL};
    struct gptq_basis *b = NULL;
    enum err e = sample(mix, cols, tokens, &b);
    if (!e)
        printf("| type | rtn | search | feedback | gptq | damp |\n|---|---|---|---|---|---|\n");
    for (size_t i = 0; !e && i < sizeof types / sizeof *types; i++)
        e = one_type(engine, types[i], w, b);
    gptq_basis_close(b);
    return e;
}

int main(int argc, char **argv)
{
    const uint32_t cols = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 1024;
    const uint32_t tokens = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 4096;
    const double decay = argc > 3 ? strtod(argv[3], NULL) : 0.6, hot = argc > 4 ? strtod(argv[4], NULL) : 3;
    state = argc > 5 ? strtoull(argv[5], NULL, 10) : 1;
    struct engine *engine = NULL;
    struct rotate r = {0};
    const struct engine_options options = {.threads = 2};
    if (cols == 0 || cols % 256 || cols > 8192 || tokens == 0 || tokens % BATCH) {
        fprintf(stderr, "gptq_table: expected COLS and TOKENS that are multiples of 256\n");
        return 2;
    }
    float *mix = malloc(sizeof *mix * cols * cols), *w = malloc(sizeof *w * ROWS * cols);
    enum err e = mix && w ? engine_open(&options, &engine, NULL) : ERR_MEMORY;
    for (uint32_t k = 0; !e && k < cols; k++)
        for (uint32_t c = 0; c < cols; c++)
            mix[(size_t)k * cols + c] = normal() * (float)pow(k + 1.0, -decay);
    for (uint32_t c = 0; !e && c < cols; c++) {
        const float energy = expf(0.3f * normal()) * (c % 61 == 0 ? (float)hot : 1.0f);
        for (uint32_t k = 0; k < cols; k++)
            mix[(size_t)k * cols + c] *= energy;
    }
    for (uint32_t i = 0; !e && i < ROWS * cols; i++)
        w[i] = normal();
    const uint64_t before = state;
    if (!e)
        e = table(engine, mix, w, cols, tokens);
    if (!e && argc > 6 && !(e = rotate_open(cols, strtoull(argv[6], NULL, 10), 0, &r)) && !(e = turn(&r, mix, cols)) &&
        !(e = turn(&r, w, ROWS))) {
        printf("\nRotated:\n\n");
        state = before; /* the same sources */
        e = table(engine, mix, w, cols, tokens);
    }
    if (e)
        fprintf(stderr, "gptq_table: %s\n", err_name(e));
    rotate_close(&r);
    engine_close(engine);
    free(mix);
    free(w);
    return e ? 1 : 0;
}
