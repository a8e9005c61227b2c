/* bench_sweep.c: every number of threads, chunk and cache type, samples of all taking turns: medians of the
 * time that the goal takes, prefill and decode. */
#include "cli/bench_sweep.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "cli/progress.h"
#include "cli/table.h"

enum { REPEATS_MAX = 32, POINTS_MAX = 3 * TUNE_CANDIDATES_MAX * TUNE_CANDIDATES_MAX };

struct point {
    uint32_t cache, threads, chunk;
    double prefill, decode; /* medians: seconds of the goal's part */
    double prefills[REPEATS_MAX];
    const struct point *decoded; /* whose decode samples count here too: chunks make no difference to it */
    double decodes[REPEATS_MAX];
};

struct sweep {
    struct cli_call *call;
    struct engine *e;
    const struct tune_wish *wish;
    struct tune_space space;
    uint32_t repeats;
    struct point *point;
    uint32_t points;
    struct progress bar;
};

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, uint32_t count)
{
    qsort(x, count, sizeof *x, ascending);
    return count % 2 ? x[count / 2] : (x[count / 2 - 1] + x[count / 2]) / 2;
}

static double total(const struct point *p)
{
    return p->prefill + p->decode;
}

/* One sample of each point of the cache type that the model was opened with. */
static enum err sample(struct sweep *s, struct point *from, uint32_t count, const struct tune_meter *meter,
                       uint32_t repeat)
{
    enum err e = ERR_NONE;
    for (uint32_t i = 0; i < count && !e; i++) {
        struct point *p = &from[i];
        const double start = meter->now(meter->context);
        e = meter->prefill(meter->context, p->threads, p->chunk, s->space.prompt);
        const double middle = meter->now(meter->context);
        if (!e && p->decoded == p && s->wish->generate)
            e = meter->decode(meter->context, p->threads, s->space.generate);
        p->prefills[repeat] = s->wish->prompt ? middle - start : 0;
        p->decodes[repeat] = s->wish->generate ? meter->now(meter->context) - middle : 0;
        progress_update(&s->bar, s->bar.done + 1, NULL);
    }
    return e;
}

static int sweep_cache(struct sweep *s, uint32_t cache)
{
    const struct model_options o = {
        .context = s->wish->context, .batch = s->space.chunk[s->space.chunk_count - 1], .cache_k = cache, .cache_v = cache};
    struct open_model m;
    struct point *from = &s->point[s->points];
    uint32_t count = 0;
    const int status = open_model(s->call, s->e, s->call->operand[0], false, &o, &m);
    if (status) {
        open_model_close(&m);
        return status;
    }
    struct tune_place place = {s->e, m.model, NULL, NULL};
    const struct tune_meter meter = tune_meter_of(&place);
    for (uint32_t t = 0; t < s->space.thread_count; t++)
        for (uint32_t c = 0; c < s->space.chunk_count; c++, count++)
            from[count] = (struct point){.cache = cache,
                                         .threads = s->space.threads[t],
                                         .chunk = s->space.chunk[c],
                                         .decoded = &from[count - c]};
    enum err e = meter.prefill(&place, s->space.threads[0], s->space.chunk[0], s->space.chunk[0]); /* warm up */
    for (uint32_t r = 0; r < s->repeats && !e; r++)
        e = sample(s, from, count, &meter, r);
    for (uint32_t i = 0; i < count && !e; i++) {
        from[i].prefill = median(from[i].prefills, s->repeats);
        if (from[i].decoded == &from[i])
            from[i].decode = median(from[i].decodes, s->repeats);
        from[i].decode = from[i].decoded->decode;
    }
    s->points += count;
    open_model_close(&m);
    return e ? cli_fail(s->call, (enum cli_status)cli_status_of(e), s->call->operand[0], NULL, "%s", cli_sentence(e))
             : CLI_DONE;
}

static const struct point *find(const struct sweep *s, const struct tune_choice *c)
{
    const uint32_t cache = c->cache ? c->cache : HAL_F16;
    for (uint32_t i = 0; i < s->points; i++)
        if (s->point[i].cache == cache && s->point[i].threads == c->threads && s->point[i].chunk == c->chunk)
            return &s->point[i];
    return NULL;
}

/* The best of one cache type, 0: of all. */
static const struct point *best_of(const struct sweep *s, uint32_t cache)
{
    const struct point *best = NULL;
    for (uint32_t i = 0; i < s->points; i++)
        if ((cache == 0 || s->point[i].cache == cache) && (!best || total(&s->point[i]) < total(best)))
            best = &s->point[i];
    return best;
}

static json_t *describe(const struct sweep *s, const struct point *p)
{
    return json_pack("{s:s, s:I, s:I, s:f, s:f, s:f}", "cache", open_model_cache_name(p->cache), "threads",
                     (json_int_t)p->threads, "chunk", (json_int_t)p->chunk, "seconds", total(p),
                     "prefill_tokens_per_second", p->prefill > 0 ? s->space.prompt / p->prefill : 0,
                     "decode_tokens_per_second", p->decode > 0 ? s->space.generate / p->decode : 0);
}

static int report(const struct sweep *s, const struct tune_choice *choice)
{
    const struct point *mine = find(s, choice), *best = best_of(s, 0);
    struct table table;
    json_t *list = json_array();
    if (!mine || !best)
        return cli_fail(s->call, CLI_FAILED, s->call->operand[0], NULL, "the setting chosen is none of the sweep");
    const struct point *same = best_of(s, mine->cache);
    table_open(&table, "cache|>threads|>chunk|>prefill t/s|>decode t/s|>goal s|>of best|");
    for (uint32_t i = 0; i < s->points; i++) {
        const struct point *p = &s->point[i];
        char threads[16], chunk[16], prefill[24], decode[24], goal[24], part[24];
        snprintf(threads, sizeof threads, "%u", p->threads);
        snprintf(chunk, sizeof chunk, "%u", p->chunk);
        snprintf(prefill, sizeof prefill, "%.1f", p->prefill > 0 ? s->space.prompt / p->prefill : 0);
        snprintf(decode, sizeof decode, "%.1f", p->decode > 0 ? s->space.generate / p->decode : 0);
        snprintf(goal, sizeof goal, "%.3f", total(p));
        snprintf(part, sizeof part, "%.3f", total(best) / total(p));
        table_row(&table, (const char *[]){open_model_cache_name(p->cache), threads, chunk, prefill, decode, goal,
                                           part, p == mine ? p == best ? "chosen, best" : "chosen"
                                                 : p == best ? "best" : ""});
        json_array_append_new(list, describe(s, p));
    }
    table_close(&table, s->call);
    cli_print(s->call, "chosen is %.3f of the best with its cache type, %.3f of the best of all (1: the same)\n",
              total(same) / total(mine), total(best) / total(mine));
    cli_answer(s->call, json_pack("{s:o, s:o, s:o, s:f, s:f, s:I, s:o}", "tune", open_model_choice(choice), "chosen",
                                  describe(s, mine), "best", describe(s, best), "ratio_cache",
                                  total(same) / total(mine), "ratio", total(best) / total(mine), "repetitions",
                                  (json_int_t)s->repeats, "points", list));
    return CLI_DONE;
}

/* The settings that are tried: more threads than candidates are thinned as the calibration thins them. */
static void set_space(struct sweep *s, const struct tune_choice *choice, uint32_t most)
{
    struct device_info device;
    struct tune_wish all = *s->wish;
    all.chunk = all.threads = 0;
    if (device_probe(NULL, &device) != ERR_NONE)
        memset(&device, 0, sizeof device);
    tune_space_of(&device, s->e, &all, most, &s->space);
    bool is_there = false;
    for (uint32_t i = 0; i < s->space.chunk_count; i++)
        is_there = is_there || s->space.chunk[i] == choice->chunk;
    if (!is_there && s->space.chunk_count < TUNE_CANDIDATES_MAX)
        s->space.chunk[s->space.chunk_count++] = choice->chunk;
}

int bench_sweep(struct cli_call *call, struct engine *e, const struct tune_wish *wish, uint32_t repeats)
{
    static const uint32_t caches[] = {HAL_F16, HAL_Q8_0, HAL_Q4_0};
    struct sweep s = {.call = call, .e = e, .wish = wish, .repeats = repeats < REPEATS_MAX ? repeats : REPEATS_MAX};
    struct open_model m;
    struct tune_choice choice;
    int status = open_model_tuned(call, e, call->operand[0], false, NULL, wish, true, &m, &choice);
    open_model_close(&m);
    if (status)
        return status;
    for (uint32_t i = 0; i < choice.lines; i++)
        cli_print(call, "%s\n", choice.line[i]);
    s.point = calloc(POINTS_MAX, sizeof *s.point);
    if (!s.point)
        return cli_fail(call, CLI_ENVIRONMENT, NULL, NULL, "%s", cli_sentence(ERR_MEMORY));
    set_space(&s, &choice, wish->context < TUNE_CHUNK_MOST ? wish->context : TUNE_CHUNK_MOST);
    progress_open(&s.bar, call, "sweep", "samples",
                  3.0 * s.repeats * s.space.thread_count * s.space.chunk_count);
    for (size_t i = 0; i < sizeof caches / sizeof *caches && !status; i++)
        status = sweep_cache(&s, caches[i]);
    progress_close(&s.bar, false);
    if (!status)
        status = report(&s, &choice);
    free(s.point);
    return status;
}
