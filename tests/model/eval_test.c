/* eval_test.c: the perplexity that llama.cpp's tool prints for the same file and text, and a divergence
 * whose value is known. */
#include "tests/harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hal/engine.h"
#include "hal/half.h"
#include "model/eval.h"

#define TINY SOURCE_DIR "/models/tare-tiny/tare-tiny-f16.gguf"
#define TEXT SOURCE_DIR "/tests/data/text/en/heldout.txt"

enum { CONTEXT = 128, WINDOWS = 4 };

static char reason[GGUF_REASON_BYTES];
static struct engine *engine;
static struct gguf *file;
static struct tokenizer *tokenizer;
static struct model *model;
static char text[32768];
static size_t text_bytes;

static void start(void)
{
    const struct engine_options options = {.plugin = "scalar", .threads = 2};
    CU_ASSERT_EQUAL_FATAL(engine_open(&options, &engine, NULL), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(gguf_open(TINY, &file, reason), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(tokenizer_open(file, &tokenizer, reason), ERR_NONE);
    const struct model_options small = {.context = CONTEXT, .batch = 50, .head_rows = 9};
    CU_ASSERT_EQUAL_FATAL(model_open(file, engine, &small, &model, reason), ERR_NONE);
    FILE *f = fopen(TEXT, "rb");
    CU_ASSERT_FATAL(f != NULL);
    text_bytes = fread(text, 1, sizeof text, f);
    fclose(f);
}

static bool count_windows(void *context, const struct eval_progress *p)
{
    int *calls = context;
    CU_ASSERT_EQUAL((int)p->windows, ++*calls);
    CU_ASSERT_EQUAL(p->windows_total, WINDOWS);
    CU_ASSERT(p->perplexity > 1);
    return *calls < 100;
}

static bool stop_at_once(void *context, const struct eval_progress *p)
{
    (void)context;
    return p->windows > 1;
}

/* llama-perplexity -c 128 --chunks 4 prints PPL = 30.6951 +/- 4.05825 */
static void equals_the_field(void)
{
    struct eval_result r;
    int calls = 0;
    const struct eval_options options = {
        .context = CONTEXT, .windows = WINDOWS, .progress = count_windows, .progress_context = &calls};
    CU_ASSERT_EQUAL_FATAL(eval_text(model, NULL, tokenizer, text, text_bytes, &options, &r, reason), ERR_NONE);
    CU_ASSERT_EQUAL(calls, WINDOWS);
    CU_ASSERT_EQUAL(r.windows, WINDOWS);
    CU_ASSERT_EQUAL(r.scored, WINDOWS * (CONTEXT / 2 - 1));
    CU_ASSERT(fabs(r.perplexity.value / 30.6951 - 1) < 5e-4);
    CU_ASSERT(fabs(r.perplexity.error / 4.05825 - 1) < 1e-3);
    CU_ASSERT_DOUBLE_EQUAL(exp(r.nll.value), r.perplexity.value, 1e-9);
    CU_ASSERT(r.nll_per_byte > 0.2 && r.nll_per_byte < r.nll.value);
    CU_ASSERT_EQUAL(r.has_reference, 0);
    CU_ASSERT_EQUAL(model_length(model, 0), 0);
}

/* A copy of the file whose last norm is `factor` times as large has logits that are so, too. */
static struct model *open_scaled(float factor)
{
    char path[] = "/tmp/eval_test.XXXXXX";
    struct gguf_writer *w = NULL;
    struct gguf *g = NULL;
    struct model *m = NULL;
    const int fd = mkstemp(path);
    CU_ASSERT_FATAL(fd >= 0);
    close(fd);
    CU_ASSERT_EQUAL_FATAL(gguf_writer_open(path, 32, &w), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_copy_all(w, file), ERR_NONE);
    for (uint32_t i = 0; i < gguf_tensors(file); i++) {
        const struct gguf_tensor *t = gguf_tensor(file, i);
        CU_ASSERT_EQUAL(gguf_writer_tensor(w, t->name, t->type, t->dims, t->shape), ERR_NONE);
    }
    CU_ASSERT_EQUAL(gguf_writer_begin(w, 0), ERR_NONE);
    for (uint32_t i = 0; i < gguf_tensors(file); i++) {
        const struct gguf_tensor *t = gguf_tensor(file, i);
        float norm[256];
        if (strcmp(t->name, "output_norm.weight") != 0) {
            CU_ASSERT_EQUAL(gguf_writer_append(w, t->data, t->bytes), ERR_NONE);
            continue;
        }
        CU_ASSERT_EQUAL_FATAL(t->bytes, sizeof norm);
        memcpy(norm, t->data, sizeof norm);
        for (int k = 0; k < 256; k++)
            norm[k] *= factor;
        CU_ASSERT_EQUAL(gguf_writer_append(w, norm, sizeof norm), ERR_NONE);
    }
    CU_ASSERT_EQUAL(gguf_writer_commit(w), ERR_NONE);
    gguf_writer_close(w);
    CU_ASSERT_EQUAL_FATAL(gguf_open(path, &g, reason), ERR_NONE);
    const struct model_options options = {.context = CONTEXT, .batch = 64};
    CU_ASSERT_EQUAL_FATAL(model_open(g, engine, &options, &m, reason), ERR_NONE);
    gguf_close(g);
    CU_ASSERT_EQUAL(unlink(path), 0);
    return m;
}

/* Temperature keeps the order of tokens; its divergence is computed here from the logits. */
static void divergence(void)
{
    const float factor = 0.75f;
    struct eval_result r;
    struct model *scaled = open_scaled(factor);
    const struct eval_options options = {.context = CONTEXT, .windows = 1};
    CU_ASSERT_EQUAL_FATAL(eval_text(scaled, model, tokenizer, text, text_bytes, &options, &r, reason),
                          ERR_NONE);
    model_close(scaled);
    static uint32_t tokens[32768];
    size_t count = 0;
    double kld = 0, greatest = 0;
    CU_ASSERT_EQUAL(tokenizer_encode(tokenizer, text, text_bytes, true, false, tokens, 32768, &count), ERR_NONE);
    for (uint32_t window = 0; window < 1; window++) {
        tokens[window * CONTEXT] = tokenizer_bos(tokenizer);
        model_truncate(model, 0, 0);
        for (uint32_t at = 0; at < CONTEXT - 1; at++) {
            const float *l = NULL;
            double p_sum = 0, q_sum = 0, sum = 0;
            const struct model_run run = {0, 1, 1, tokens + window * CONTEXT + at};
            CU_ASSERT_EQUAL_FATAL(model_step(model, &run, 1), ERR_NONE);
            if (at < CONTEXT / 2)
                continue;
            CU_ASSERT_EQUAL_FATAL(model_logits(model, 0, 1, &l), ERR_NONE);
            for (int i = 0; i < 4096; i++) {
                p_sum += exp((double)l[i]);
                q_sum += exp((double)(factor * l[i]));
            }
            for (int i = 0; i < 4096; i++)
                sum += exp((double)l[i]) / p_sum * ((double)l[i] - log(p_sum) - (double)(factor * l[i]) + log(q_sum));
            kld += sum / (double)r.scored;
            greatest = fmax(greatest, sum);
        }
    }
    CU_ASSERT(fabs(r.kld.value / kld - 1) < 1e-3);
    CU_ASSERT(fabs(r.kld_max / greatest - 1) < 1e-3);
    CU_ASSERT(r.kld_99 <= r.kld_max && r.kld_90 < r.kld_99 && r.kld_median < r.kld_90);
    CU_ASSERT(r.kld.error > 0 && r.kld.error < r.kld.value);
    CU_ASSERT(r.top1.value > 0.999);
    CU_ASSERT_DOUBLE_EQUAL(r.perplexity.value / r.perplexity_reference.value, r.perplexity_ratio.value, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(r.perplexity.value - r.perplexity_reference.value, r.perplexity_delta.value, 1e-9);
}

static void of_itself(void)
{
    struct eval_result r;
    struct model *same = open_scaled(1);
    const struct eval_options options = {.context = CONTEXT, .windows = 1};
    CU_ASSERT_EQUAL_FATAL(eval_text(same, model, tokenizer, text, text_bytes, &options, &r, reason), ERR_NONE);
    CU_ASSERT(fabs(r.kld.value) < 1e-6);
    CU_ASSERT_EQUAL(r.top1.value, 1);
    CU_ASSERT_EQUAL(r.perplexity_delta.value, 0);
    CU_ASSERT(r.perplexity_ratio.error < 1e-6);
    model_close(same);
}

/* Whichever of the two computes NaN: no measure is a number, and no top token is the same. */
static void of_nan(void)
{
    struct model *broken = open_scaled(NAN);
    const struct eval_options options = {.context = CONTEXT / 4, .windows = 1};
    for (int is_base = 0; is_base < 2; is_base++) {
        struct eval_result r;
        CU_ASSERT_EQUAL_FATAL(eval_text(is_base ? model : broken, is_base ? broken : model, tokenizer, text, text_bytes,
                                        &options, &r, reason), ERR_NONE);
        CU_ASSERT(isnan(r.kld.value) && isnan(r.kld_median) && isnan(r.kld_99) && isnan(r.kld_max));
        CU_ASSERT(isnan(r.perplexity_ratio.value) && isnan(r.perplexity_delta.value));
        CU_ASSERT(isnan(is_base ? r.perplexity_reference.value : r.perplexity.value));
        CU_ASSERT_EQUAL(r.top1.value, 0);
    }
    model_close(broken);
}

static void refuses(void)
{
    struct eval_result r;
    struct eval_options options = {.context = CONTEXT};
    CU_ASSERT_EQUAL(eval_text(model, NULL, tokenizer, text, 400, &options, &r, reason), ERR_ARGUMENT);
    CU_ASSERT(strstr(reason, "at least 256 tokens") != NULL);
    options.context = 512; /* more than the model was opened with */
    CU_ASSERT_EQUAL(eval_text(model, NULL, tokenizer, text, text_bytes, &options, &r, reason), ERR_ARGUMENT);
    options = (struct eval_options){.context = CONTEXT, .progress = stop_at_once};
    CU_ASSERT_EQUAL(eval_text(model, NULL, tokenizer, text, text_bytes, &options, &r, reason), ERR_CANCELLED);
}

static void finish(void)
{
    model_close(model);
    tokenizer_close(tokenizer);
    gguf_close(file);
    engine_close(engine);
    CU_ASSERT_EQUAL(engine_memory_used(), 0);
}

RUN_SUITE("model/eval", {"start", start}, {"equals the field's tool", equals_the_field},
          {"a divergence that is known", divergence}, {"of itself", of_itself}, {"refuses", refuses},
          {"of NaN", of_nan},
          {"finish", finish})
