#include "compress/rotate.h"

#include <stdlib.h>

/* splitmix64: the same everywhere. */
static uint64_t next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

enum err rotate_open(uint32_t length, uint64_t seed, uint32_t use, struct rotate *out)
{
    struct rotate r = {.length = length, .power = length & -length, .scale = 1};
    uint64_t state = seed;
    if (length == 0)
        return ERR_ARGUMENT;
    if (!(r.sign = malloc(length * sizeof *r.sign)))
        return ERR_MEMORY;
    r.odd = length / r.power;
    uint32_t rest = r.power;
    for (; rest > 2; rest /= 4)
        r.scale *= 0.5;
    r.scale *= rest == 2 ? 0.70710678118654752440 : 1;
    state = next(&state) + use;
    for (uint32_t i = 0; i < length; i++)
        r.sign[i] = next(&state) >> 63 ? -1 : 1;
    *out = r;
    return ERR_NONE;
}

void rotate_close(struct rotate *r)
{
    free(r->sign);
    *r = (struct rotate){0};
}

static void hadamard(double *x, uint32_t n)
{
    for (uint32_t half = 1; half < n; half *= 2)
        for (uint32_t at = 0; at < n; at += 2 * half)
            for (uint32_t i = at; i < at + half; i++) {
                const double a = x[i], b = x[i + half];
                x[i] = a + b;
                x[i + half] = a - b;
            }
}

void rotate_apply(const struct rotate *r, double *x)
{
    for (uint32_t i = 0; i < r->length; i++)
        x[i] *= r->sign[i] * r->scale;
    for (uint32_t i = 0; i < r->odd; i++)
        hadamard(x + (size_t)i * r->power, r->power);
    for (uint32_t i = 0; r->odd > 1 && i < r->power; i++) {
        double sum = 0;
        for (uint32_t k = 0; k < r->odd; k++)
            sum += x[(size_t)k * r->power + i];
        for (uint32_t k = 0; k < r->odd; k++)
            x[(size_t)k * r->power + i] -= 2 * sum / r->odd;
    }
}
