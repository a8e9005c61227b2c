/* worker_speed.c: see worker_speed.h. */
#include "agent/worker_speed.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "hal/device.h"

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double energy(void)
{
    struct device_sensors s;
    return device_read_sensors(NULL, &s) == ERR_NONE ? s.energy_j : NAN;
}

/* Logits of the last token are fetched, so that work still under way is waited for. */
static enum err one(struct worker_self *w, struct model *m, const uint32_t *tokens, uint32_t prompt, uint32_t generate,
                    float *hidden)
{
    const float *logits;
    enum err e = ERR_NONE;
    model_truncate(m, 0, 0);
    if (model_info(m)->is_encoder) {
        const struct model_run run = {.outputs = 1, .count = prompt, .tokens = tokens};
        if (!(e = model_step(m, &run, 1)))
            e = model_hidden(m, hidden);
        worker_beat(w, 0, 0);
        return e;
    }
    if (prompt) {
        if (!(e = model_prefill(m, 0, tokens, prompt)))
            e = model_logits(m, 0, 1, &logits);
        worker_beat(w, 0, 0);
        return e;
    }
    for (uint32_t i = 0; i < generate && !e; i++) {
        struct model_run run = {.outputs = 1, .count = 1, .tokens = &tokens[i]};
        if (!(e = model_step(m, &run, 1)))
            e = model_logits(m, 0, 1, &logits);
        worker_beat(w, 0, 0);
    }
    return e;
}

enum err worker_speed(struct worker_self *w, struct model *m, uint32_t prompt, uint32_t generate, uint32_t times,
                      struct worker_speed *out, char why[WORKER_WHY])
{
    uint32_t n = prompt ? prompt : generate, vocabulary = model_info(m)->vocabulary;
    double sum = 0, squares = 0, joules = 0;
    enum err e = ERR_NONE;
    if (n == 0 || n > model_info(m)->context || times == 0 || times > 1000) {
        snprintf(why, WORKER_WHY, "%u tokens do not fit the context of %u", n, model_info(m)->context);
        return ERR_ARGUMENT;
    }
    if (generate && model_info(m)->is_encoder) {
        snprintf(why, WORKER_WHY, "an encoder does not generate");
        return ERR_UNSUPPORTED;
    }
    uint32_t *tokens = malloc((size_t)n * sizeof *tokens);
    float *hidden = malloc(model_info(m)->width * sizeof *hidden); /* of an encoder's last token */
    if (!tokens || !hidden) {
        free(tokens);
        free(hidden);
        return ERR_MEMORY;
    }
    uint64_t seed = 1;
    for (uint32_t i = 0; i < n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        tokens[i] = (uint32_t)(seed >> 33) % vocabulary;
    }
    for (uint32_t i = 0; i <= times && !e; i++) {
        double before_j = energy(), before = seconds();
        e = one(w, m, tokens, prompt, generate, hidden);
        double took = seconds() - before, used_j = energy() - before_j;
        if (i == 0 || e)
            continue;
        double rate = n / (took > 1e-9 ? took : 1e-9);
        sum += rate;
        squares += rate * rate;
        joules += isfinite(used_j) && used_j > 0 ? used_j : 0;
    }
    free(tokens);
    free(hidden);
    model_truncate(m, 0, 0);
    if (e) {
        snprintf(why, WORKER_WHY, "a step failed: %s", err_name(e));
        return e;
    }
    double mean = sum / times, variance = times > 1 ? (squares - sum * mean) / (times - 1) : 0;
    *out = (struct worker_speed){
        .tok_s = mean, .deviation = variance > 0 ? sqrt(variance) : 0, .energy_j = joules / times};
    return ERR_NONE;
}
