/* worker_speed.h: tokens per second of a model, as llama-bench counts them: a prompt of n tokens, or n tokens
 * one by one, from an empty sequence. */
#ifndef WORKER_SPEED_H
#define WORKER_SPEED_H

#include "agent/worker_parts.h"
#include "model/model.h"

struct worker_speed {
    double tok_s; /* mean of the repetitions */
    double deviation;
    double energy_j; /* of one repetition; 0: no counter */
};

/* prompt or generate tokens (the other is 0), `times` repetitions after one that does not count. */
NODISCARD enum err worker_speed(struct worker_self *w, struct model *m, uint32_t prompt, uint32_t generate,
                                uint32_t times, struct worker_speed *out, char why[WORKER_WHY]);

#endif
