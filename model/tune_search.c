/* tune_search.c: a race of settings against the clock. Samples of all candidates take turns, so that a
 * machine that slows down slows all of them; before each the clock is asked whether it still fits. */
#include "model/tune.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { ROUNDS = 8, ROUNDS_ALONE = 2, DECODE_SAMPLE_MAX = 16, FEW = 4, CHUNK_MIDDLE = 128 };

static const double SAMPLE_S = 0.03;      /* of decoding, about */
static const double WHOLE_SHARE = 0.2;    /* of the limit, for one round of prefills of one length */
static const double MIDDLE_SHARE = 0.1;   /* of the limit, for one prefill of the race of threads */
static const double THREADS_SHARE = 0.42; /* of the limit, until threads are chosen */
static const double END_SHARE = 0.97;
static const double MARGIN = 1.2;         /* a sample may take so much longer than the last one */
static const double DROP = 1.15;          /* so much slower after two rounds: out of the race */
static const double TIE = 1.01;           /* fewer threads win when they are this close */

struct lane {
    uint32_t threads, chunk;
    uint32_t tokens; /* of a prefill sample; 0: none */
    double decode, prefill; /* seconds of a token, by the samples so far; 0: none */
    double decode_sum, prefill_sum;
    uint32_t rounds;
    bool is_out;
};

struct race {
    const struct tune_meter *meter;
    const struct tune_space *space;
    double start, deadline;
    uint32_t whole;         /* tokens of every prefill sample that its own chunk does not exceed; 0: too slow */
    uint32_t decode_tokens; /* of a sample; 0: too slow */
    uint32_t samples;
    enum err error;
};

void tune_say(struct tune_choice *choice, const char *format, ...)
{
    va_list arguments;
    if (choice->lines == TUNE_LINES_MAX)
        return;
    va_start(arguments, format);
    vsnprintf(choice->line[choice->lines++], TUNE_LINE_BYTES, format, arguments);
    va_end(arguments);
}

static double since(const struct race *r)
{
    return r->meter->now(r->meter->context) - r->start;
}

static bool fits(const struct race *r, double seconds)
{
    return !r->error && since(r) + seconds <= r->deadline;
}

/* Seconds of a token, the sample's own. */
static double time_prefill(struct race *r, uint32_t threads, uint32_t chunk, uint32_t tokens)
{
    const double before = since(r);
    if (!r->error)
        r->error = r->meter->prefill(r->meter->context, threads, chunk, tokens);
    r->samples++;
    return (since(r) - before) / tokens;
}

static double time_decode(struct race *r, uint32_t threads, uint32_t tokens)
{
    const double before = since(r);
    if (!r->error)
        r->error = r->meter->decode(r->meter->context, threads, tokens);
    r->samples++;
    return (since(r) - before) / tokens;
}

static void take(const struct race *r, double *value, double *sum, double sample, uint32_t rounds)
{
    *sum += sample;
    if (r->space->is_throttled)
        *value = *sum / (rounds + 1);
    else if (rounds == 0 || sample < *value)
        *value = sample;
}

/* The goal's seconds in this lane. */
static double score(const struct race *r, const struct lane *l)
{
    return r->space->prompt * l->prefill + r->space->generate * l->decode;
}

/* How long samples may be: first tokens tell. A few tokens in one step cost at most as many steps of one, and
 * each of many no more than each of few. */
static void size_samples(struct race *r, struct lane *first)
{
    const struct tune_space *s = r->space;
    const double cold = time_decode(r, first->threads, 1);
    double token = cold;
    if (fits(r, MARGIN * cold))
        token = time_decode(r, first->threads, 1);
    first->decode = token < cold ? token : cold;
    if (r->error || !fits(r, FEW * token))
        return;
    r->decode_tokens = token <= 0 ? DECODE_SAMPLE_MAX : (uint32_t)(SAMPLE_S / token) + 1;
    if (r->decode_tokens > DECODE_SAMPLE_MAX)
        r->decode_tokens = DECODE_SAMPLE_MAX;
    const uint32_t tokens = s->chunk[0] < s->prompt ? s->chunk[0] : s->prompt;
    double each = time_prefill(r, first->threads, FEW, FEW);
    if (tokens == 0 || !fits(r, each * tokens))
        return;
    each = time_prefill(r, first->threads, s->chunk[0], tokens);
    first->prefill = each;
    const uint32_t most = s->chunk[s->chunk_count - 1] < s->prompt ? s->chunk[s->chunk_count - 1] : s->prompt;
    r->whole = tokens;
    while (r->whole * 2 <= most && each * r->whole * 2 * s->chunk_count <= WHOLE_SHARE * r->deadline)
        r->whole *= 2;
}

/* One round of one lane; false: the clock does not allow it. before predicts where the lane has no samples. */
static bool run_lane(struct race *r, struct lane *l, const struct lane *before, double deadline, bool has_decode)
{
    const double prefill = (l->prefill > 0 ? l->prefill : before->prefill) * l->tokens;
    const double decode = has_decode ? (l->decode > 0 ? l->decode : before->decode) * r->decode_tokens : 0;
    if (r->error || since(r) + MARGIN * (prefill + decode) > deadline)
        return false;
    if (l->tokens) {
        const double sample = time_prefill(r, l->threads, l->chunk, l->tokens);
        take(r, &l->prefill, &l->prefill_sum, sample, l->rounds);
    }
    if (has_decode) {
        const double sample = time_decode(r, l->threads, r->decode_tokens);
        take(r, &l->decode, &l->decode_sum, sample, l->rounds);
    }
    l->rounds++;
    return !r->error;
}

/* Rounds of all lanes that are in the race, until the deadline. The first lane's numbers may come from
 * sizing: they only predict. */
static void run_race(struct race *r, struct lane *lane, uint32_t count, double deadline, bool has_decode)
{
    const uint32_t rounds = count == 1 ? ROUNDS_ALONE : ROUNDS;
    for (uint32_t round = 0; round < rounds; round++) {
        double best = 0;
        for (uint32_t i = 0; i < count; i++)
            if (!lane[i].is_out && !run_lane(r, &lane[i], &lane[i > 0 ? i - 1 : 0], deadline, has_decode))
                return;
        for (uint32_t i = 0; i < count; i++)
            if (best == 0 || score(r, &lane[i]) < best)
                best = score(r, &lane[i]);
        for (uint32_t i = 0; i < count && round > 0; i++)
            lane[i].is_out = lane[i].is_out || score(r, &lane[i]) > best * DROP;
    }
}

static const struct lane *choose_threads(struct race *r, struct lane *lane, uint32_t count)
{
    const struct lane *best = &lane[0];
    if (r->decode_tokens == 0 || r->error)
        return best;
    run_race(r, lane, count, THREADS_SHARE * r->deadline, true);
    for (uint32_t i = 1; i < count; i++)
        if (lane[i].rounds > 0 && best->rounds > 0) {
            const double mine = score(r, &lane[i]), its = score(r, best);
            if (mine * TIE < its || (mine < its * TIE && lane[i].threads < best->threads))
                best = &lane[i];
        }
    return best;
}

static void say_threads(struct tune_choice *out, const struct race *r, const struct lane *lane, uint32_t count,
                        const struct lane *best)
{
    char others[TUNE_LINE_BYTES] = "";
    size_t used = 0;
    if (count == 1) {
        tune_say(out, "threads %u: the only number there is", best->threads);
        return;
    }
    for (uint32_t i = 0; i < count && used + 40 < sizeof others; i++)
        if (&lane[i] != best && lane[i].rounds > 0)
            used += (size_t)snprintf(others + used, sizeof others - used, "%s%u take %.0f ms", used ? ", " : "",
                                     lane[i].threads, 1e3 * score(r, &lane[i]));
    if (used == 0)
        tune_say(out, "threads %u: by the device's probe; a step takes too long to try others", best->threads);
    else
        tune_say(out, "threads %u: %.0f ms for %u tokens in and %u out; %s%s", best->threads, 1e3 * score(r, best),
                 r->space->prompt, r->space->generate, others, r->space->is_throttled ? " (means, under a quota)" : "");
}

static const struct lane *choose_chunk(struct race *r, struct lane *lane, uint32_t count)
{
    const struct lane *best = NULL;
    run_race(r, lane, count, END_SHARE * r->deadline, false);
    for (uint32_t i = 0; i < count; i++)
        if (lane[i].rounds > 0 && (!best || lane[i].prefill < best->prefill))
            best = &lane[i];
    for (uint32_t i = 0; i < count && best; i++) /* ascending: the smallest that is as good */
        if (lane[i].rounds > 0 && lane[i].prefill <= best->prefill * (1 + TUNE_TOLERANCE))
            return &lane[i];
    return best;
}

static void say_chunk(struct tune_choice *out, const struct lane *lane, uint32_t count, const struct lane *best)
{
    char others[TUNE_LINE_BYTES] = "";
    size_t used = 0;
    for (uint32_t i = 0; i < count && used + 24 < sizeof others; i++)
        if (&lane[i] != best && lane[i].rounds > 0)
            used += (size_t)snprintf(others + used, sizeof others - used, "%s%u: %.0f", used ? ", " : "",
                                     lane[i].chunk, 1 / lane[i].prefill);
    tune_say(out, "chunk %u: %.0f tok/s, the smallest within %.0f %% of the best (%s)", best->chunk,
             1 / best->prefill, 100 * TUNE_TOLERANCE, used ? others : "no other was tried");
}

static void race_chunks(struct race *r, const struct lane *threads, struct tune_choice *out)
{
    const struct tune_space *s = r->space;
    struct lane lane[TUNE_CANDIDATES_MAX];
    uint32_t count = 0;
    for (uint32_t i = 0; i < s->chunk_count && r->whole; i++) /* a chunk longer than the goal would be another's time */
        if (s->chunk[i] <= s->prompt)
            lane[count++] = (struct lane){.threads = threads->threads,
                                          .chunk = s->chunk[i],
                                          .tokens = s->chunk[i] < r->whole ? r->whole : s->chunk[i]};
    if (count == 0 || s->chunk_count == 1) {
        out->chunk = s->chunk[0];
        tune_say(out, s->chunk_count == 1 ? "chunk %u: the only one there is"
                                          : "chunk %u: the smallest; a step takes too long to try others",
                 out->chunk);
        return;
    }
    lane[0].prefill = threads->prefill; /* predicts the first sample */
    const struct lane *best = choose_chunk(r, lane, count);
    out->chunk = best ? best->chunk : s->chunk[0];
    if (!best) {
        tune_say(out, "chunk %u: no time was left to try others", out->chunk);
        return;
    }
    out->prefill_tok_s = best->prefill > 0 ? 1 / best->prefill : 0;
    say_chunk(out, lane, count, best);
}

enum err tune_search(const struct tune_meter *meter, const struct tune_space *space, struct tune_choice *out)
{
    struct race r = {.meter = meter, .space = space, .start = meter->now(meter->context), .deadline = space->limit_s};
    struct lane lane[TUNE_CANDIDATES_MAX] = {{.threads = 0}};
    uint32_t middle = space->chunk[0];
    for (uint32_t i = 0; i < space->thread_count; i++)
        lane[i].threads = space->threads[i];
    size_samples(&r, &lane[0]);
    for (uint32_t i = 0; i < space->chunk_count; i++)
        if (space->chunk[i] <= CHUNK_MIDDLE && space->chunk[i] <= space->prompt &&
            lane[0].prefill * space->chunk[i] <= MIDDLE_SHARE * space->limit_s)
            middle = space->chunk[i];
    for (uint32_t i = 0; i < space->thread_count; i++) {
        lane[i].chunk = middle;
        lane[i].tokens = r.whole && r.whole < middle ? middle : r.whole;
    }
    lane[0].prefill = r.whole ? lane[0].prefill : 0;
    const struct lane *best = choose_threads(&r, lane, space->thread_count);
    out->threads = best->threads;
    out->decode_tok_s = best->decode > 0 ? 1 / best->decode : 0;
    out->prefill_tok_s = best->prefill > 0 ? 1 / best->prefill : 0;
    say_threads(out, &r, lane, space->thread_count, best);
    race_chunks(&r, best, out);
    out->seconds = since(&r);
    out->samples = r.samples;
    if (out->prefill_tok_s > 0)
        tune_say(out, "measured in %.2f s of at most %.1f, %u samples: %.1f tok/s in, %.1f out", out->seconds,
                 space->limit_s, r.samples, out->prefill_tok_s, out->decode_tok_s);
    else
        tune_say(out, "measured in %.2f s of at most %.1f, %u samples: %.1f tok/s out, too slow for more",
                 out->seconds, space->limit_s, r.samples, out->decode_tok_s);
    return r.error;
}
