/* bench_verb.c: tare bench: tokens per second of prefill and decode, in the rows of llama-bench. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/bench_sweep.h"
#include "cli/open_model.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "hal/block.h"

enum { REPEATS_MAX = 1000 };

struct bench_settings {
    int64_t prompt, generate, repeats, chunk;
    int cache;
    bool tune, sweep;
};

static const struct cli_option options[] = {
    {.letter = 'p', .name = "prompt", .kind = CLI_INT, .value = "N", .preset = "512", .minimum = 0, .maximum = 1 << 20,
     .offset = offsetof(struct bench_settings, prompt), .help = "tokens of prefill; 0: no such row"},
    {.letter = 'n', .name = "generate", .kind = CLI_INT, .value = "N", .preset = "128", .minimum = 0,
     .maximum = 1 << 20, .offset = offsetof(struct bench_settings, generate), .help = "tokens of decode; 0: no such row"},
    {.letter = 'r', .name = "repetitions", .kind = CLI_INT, .value = "N", .preset = "5", .minimum = 1,
     .maximum = REPEATS_MAX, .offset = offsetof(struct bench_settings, repeats), .help = "samples of each row"},
    {.name = "cache", .kind = CLI_CHOICE, .choices = OPEN_MODEL_CACHES, .preset = "f16",
     .offset = offsetof(struct bench_settings, cache), .help = "type of keys and values"},
    {.name = "chunk", .kind = CLI_INT, .value = "N", .minimum = 0, .maximum = 1 << 16,
     .offset = offsetof(struct bench_settings, chunk), .help = "tokens of prefill in one step; default: measured, or as fits with -t"},
    {.name = "tune", .kind = CLI_FLAG, .offset = offsetof(struct bench_settings, tune),
     .help = "only choose the settings that suit this device, anew, and say why"},
    {.name = "sweep", .kind = CLI_FLAG, .offset = offsetof(struct bench_settings, sweep),
     .help = "choose as --tune does, then measure every setting, and say how far from the best"},
    {.name = NULL}};

struct row {
    uint32_t prompt, generate;
    uint32_t samples;
    double ns[REPEATS_MAX];
    double speed[REPEATS_MAX]; /* tokens per second */
};

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static double mean(const double *x, uint32_t count)
{
    double sum = 0;
    for (uint32_t i = 0; i < count; i++)
        sum += x[i];
    return sum / count;
}

static double deviation(const double *x, uint32_t count)
{
    const double middle = mean(x, count);
    double sum = 0;
    for (uint32_t i = 0; i < count; i++)
        sum += (x[i] - middle) * (x[i] - middle);
    return count > 1 ? sqrt(sum / (count - 1)) : 0;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *x, uint32_t count)
{
    double sorted[REPEATS_MAX];
    memcpy(sorted, x, count * sizeof *x);
    qsort(sorted, count, sizeof *sorted, ascending);
    return count % 2 ? sorted[count / 2] : (sorted[count / 2 - 1] + sorted[count / 2]) / 2;
}

/* Prefill computes one row of logits at its end, decode one per token, as a server would. */
static enum err work(struct model *m, const uint32_t *tokens, uint32_t prompt, uint32_t generate)
{
    const float *logits = NULL;
    model_truncate(m, 0, 0);
    enum err e = ERR_NONE;
    if (prompt > 0) {
        e = model_prefill(m, 0, tokens, prompt);
        if (!e)
            e = model_logits(m, 0, 1, &logits);
    }
    for (uint32_t i = 0; i < generate && !e; i++) {
        const struct model_run run = {0, 1, 1, tokens + i};
        e = model_step(m, &run, 1);
        if (!e)
            e = model_logits(m, 0, 1, &logits);
    }
    return e;
}

static enum err measure(struct model *m, const uint32_t *tokens, uint32_t repeats, struct row *row,
                        struct progress *bar)
{
    enum err e = work(m, tokens, row->prompt, row->generate < 2 ? row->generate : 2); /* warm up */
    for (uint32_t i = 0; i < repeats && !e; i++) {
        const double start = now_ns();
        e = work(m, tokens, row->prompt, row->generate);
        row->ns[i] = now_ns() - start;
        row->speed[i] = (row->prompt + row->generate) * 1e9 / row->ns[i];
        row->samples = i + 1;
        progress_update(bar, bar->done + 1, NULL);
    }
    return e;
}

/* The type that holds most of the bytes. */
static const char *main_type(const struct gguf *g)
{
    uint64_t bytes[64] = {0};
    uint32_t best = 0;
    for (uint32_t i = 0; i < gguf_tensors(g); i++)
        bytes[gguf_tensor(g, i)->type & 63] += gguf_tensor(g, i)->bytes;
    for (uint32_t i = 1; i < 64; i++)
        if (bytes[i] > bytes[best])
            best = i;
    return block_type(best) ? block_type(best)->name : "?";
}

static json_t *numbers(const double *x, uint32_t count)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < count; i++)
        json_array_append_new(list, json_real(x[i]));
    return list;
}

static uint64_t resident_bytes(void)
{
    unsigned long long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%*u %llu", &pages) != 1)
        pages = 0;
    if (f)
        fclose(f);
    return pages * 4096;
}

static void report(struct cli_call *call, const struct engine *e, const struct open_model *m,
                   const struct tune_choice *choice, const struct row *rows, int count)
{
    const struct model_info *info = model_info(m->model);
    const struct bench_settings *s = call->settings;
    struct table table;
    char model[64], size[32], parameters[32], threads[16], test[24], speed[64], backend[64];
    json_t *list = json_array();
    snprintf(model, sizeof model, "%s %s", info->architecture, main_type(m->file));
    snprintf(parameters, sizeof parameters, info->parameters < 1000000000 ? "%.2f M" : "%.2f B",
             (double)info->parameters / (info->parameters < 1000000000 ? 1e6 : 1e9));
    snprintf(threads, sizeof threads, "%u", e->threads);
    snprintf(backend, sizeof backend, "%s %s", e->ops.name, e->caps.path);
    table_open(&table, "model|>size|>params|backend|>threads|>test|>t/s");
    for (int i = 0; i < count; i++) {
        const struct row *r = &rows[i];
        const double middle = median(r->speed, r->samples);
        snprintf(test, sizeof test, r->prompt ? "pp%u" : "tg%u", r->prompt ? r->prompt : r->generate);
        snprintf(speed, sizeof speed, "%.2f ± %.2f", middle, deviation(r->speed, r->samples));
        table_row(&table, (const char *[]){model, cli_bytes((double)info->weight_bytes, size), parameters, backend,
                                           threads, test, speed});
        json_array_append_new(
            list,
            json_pack("{s:s, s:s, s:I, s:I, s:s, s:s, s:s, s:I, s:I, s:s, s:I, s:I, s:s, s:f, s:f, s:f, s:f, s:f, s:I, "
                      "s:o, s:o, s:o}",
                      "model_filename", call->operand[0], "model_type", model, "model_size",
                      (json_int_t)info->weight_bytes, "model_n_params", (json_int_t)info->parameters, "backends",
                      e->ops.name, "path", e->caps.path, "cpu_info", e->caps.device, "n_threads",
                      (json_int_t)e->threads, "n_ubatch", (json_int_t)info->batch, "type_k", block_type(open_model_cache(s->cache))->name, "n_prompt",
                      (json_int_t)r->prompt, "n_gen", (json_int_t)r->generate, "test", test, "avg_ns",
                      mean(r->ns, r->samples), "stddev_ns", deviation(r->ns, r->samples), "avg_ts",
                      mean(r->speed, r->samples), "stddev_ts", deviation(r->speed, r->samples), "median_ts", middle,
                      "rss_bytes", (json_int_t)resident_bytes(), "samples_ns", numbers(r->ns, r->samples),
                      "samples_ts", numbers(r->speed, r->samples), "tune",
                      choice->lines ? open_model_choice(choice) : json_null()));
    }
    table_close(&table, call);
    cli_answer(call, list);
}

static int run_rows(struct cli_call *call, const struct engine *e, struct open_model *m,
                    const struct tune_choice *choice)
{
    static struct row rows[2];
    const struct bench_settings *s = call->settings;
    const uint32_t most = (uint32_t)(s->prompt > s->generate ? s->prompt : s->generate);
    uint32_t *tokens = malloc((most + 1u) * sizeof *tokens), state = 1;
    struct progress bar;
    enum err failed = tokens ? ERR_NONE : ERR_MEMORY;
    int count = 0;
    for (uint32_t i = 0; i < most && tokens; i++) { /* a fixed noise: the speed is not about the words */
        state = state * 1664525u + 1013904223u;
        tokens[i] = (state >> 8) % model_info(m->model)->vocabulary;
    }
    memset(rows, 0, sizeof rows);
    if (s->prompt)
        rows[count++].prompt = (uint32_t)s->prompt;
    if (s->generate)
        rows[count++].generate = (uint32_t)s->generate;
    progress_open(&bar, call, "bench", "samples", (double)(s->repeats * count));
    for (int i = 0; i < count && !failed; i++)
        failed = measure(m->model, tokens, (uint32_t)s->repeats, &rows[i], &bar);
    progress_close(&bar, false);
    free(tokens);
    if (failed)
        return cli_fail(call, (enum cli_status)cli_status_of(failed), call->operand[0], NULL, "%s",
                        cli_sentence(failed));
    report(call, e, m, choice, rows, count);
    return CLI_DONE;
}

static int tune_only(struct cli_call *call, struct engine *e, const struct tune_wish *wish)
{
    struct open_model m = {NULL, NULL, NULL};
    struct tune_choice choice;
    const int status = open_model_tuned(call, e, call->operand[0], false, NULL, wish, true, &m, &choice);
    for (uint32_t i = 0; status == CLI_DONE && i < choice.lines; i++)
        cli_print(call, "%s\n", choice.line[i]);
    if (status == CLI_DONE)
        cli_answer(call, open_model_choice(&choice));
    open_model_close(&m);
    return status;
}

/* With -t or --chunk the rest is as the model's own defaults say: rows mean what they mean elsewhere. */
static int rows_only(struct cli_call *call, struct engine *e, const struct tune_wish *wish)
{
    const struct model_options o = {
        .context = wish->context, .batch = wish->chunk, .cache_k = wish->cache, .cache_v = wish->cache};
    struct open_model m = {NULL, NULL, NULL};
    struct tune_choice choice = {.lines = 0};
    int status = wish->threads || wish->chunk
                     ? open_model(call, e, call->operand[0], false, &o, &m)
                     : open_model_tuned(call, e, call->operand[0], false, NULL, wish, false, &m, &choice);
    if (status == CLI_DONE)
        status = run_rows(call, e, &m, &choice);
    open_model_close(&m);
    return status;
}

static int bench(struct cli_call *call)
{
    const struct bench_settings *s = call->settings;
    const int64_t most = s->prompt > s->generate ? s->prompt : s->generate;
    const int64_t both = s->prompt + s->generate, context = s->tune || s->sweep ? both : most;
    const struct tune_wish wish = {.threads = (uint32_t)call->common.threads,
                                   .chunk = (uint32_t)s->chunk,
                                   .cache = open_model_cache(s->cache),
                                   .context = (uint32_t)(context > 32 ? context : 32),
                                   .is_firm = true,
                                   .memory_bytes = (uint64_t)call->common.memory_bytes,
                                   .prompt = (uint32_t)s->prompt,
                                   .generate = (uint32_t)s->generate};
    struct engine *e = NULL;
    if (most == 0)
        return cli_fail(call, CLI_USAGE, NULL, NULL, "expected --prompt or --generate above 0");
    int status = cli_engine_open(call, &e);
    if (status == CLI_DONE)
        status = s->sweep ? bench_sweep(call, e, &wish, (uint32_t)s->repeats)
                 : s->tune ? tune_only(call, e, &wish)
                           : rows_only(call, e, &wish);
    engine_close(e);
    return status;
}

const struct cli_verb cli_bench = {
    .name = "bench",
    .operands = "FILE.gguf",
    .operands_min = 1,
    .operands_max = 1,
    .summary = "measure tokens per second of prefill and decode",
    .text = "Rows are named as llama-bench names them: pp512 is a prefill of 512 tokens, tg128 a decode of 128.\n"
            "Printed is the median of all samples and their standard deviation. Without -t and --chunk both are\n"
            "chosen by a calibration run of at most two seconds, kept in $XDG_CACHE_HOME/tare for next time.",
    .options = options,
    .shared = CLI_ENGINE | CLI_OUTPUT,
    .settings_bytes = sizeof(struct bench_settings),
    .run = bench,
    .examples = (const struct cli_example[]){
        {"tare bench small.gguf", "pp512 and tg128, five samples each"},
        {"tare bench small.gguf -p 0 -n 64 -r 9 --json", "decode only, nine samples, for a script"},
        {"tare bench small.gguf --tune", "threads, tokens of a step and cache for this device, and why"},
        {"tare bench small.gguf --sweep -r 3", "the same against every setting"},
        {NULL, NULL}}};
