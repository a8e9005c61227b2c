/* Levels of each tensor on the lower convex hull of (bytes, damage); a multiplier is bisected until the
 * file fits; what is left over goes to the steps with the best gain per byte that still fit. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compress/plan_internal.h"
#include "hal/block.h"

struct level {
    uint32_t type;
    uint64_t bytes;
    double damage;
};

struct choice {
    uint32_t tensor; /* index in the plan */
    uint32_t levels; /* on the hull, ascending bytes, descending damage */
    uint32_t now;
    struct level level[PLAN_LEVELS_MAX];
};

static uint32_t find_errors(const struct plan_errors *errors, const char *name)
{
    for (uint32_t i = 0; i < errors->tensors; i++)
        if (strcmp(errors->name[i], name) == 0)
            return i;
    return UINT32_MAX;
}

static int by_bytes(const void *a, const void *b)
{
    const struct level *x = a, *y = b;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    if (x->damage != y->damage)
        return x->damage < y->damage ? -1 : 1;
    return x->type < y->type ? -1 : x->type > y->type;
}

/* Damage saved per byte between two levels, the first the smaller one. */
static double slope(const struct level *a, const struct level *b)
{
    return (a->damage - b->damage) / (double)(b->bytes - a->bytes);
}

static void keep_hull(struct choice *c)
{
    uint32_t n = 0;
    qsort(c->level, c->levels, sizeof *c->level, by_bytes);
    for (uint32_t i = 0; i < c->levels; i++) {
        const struct level l = c->level[i];
        if (n && (l.bytes == c->level[n - 1].bytes || l.damage >= c->level[n - 1].damage))
            continue;
        while (n > 1 && slope(&c->level[n - 2], &c->level[n - 1]) <= slope(&c->level[n - 1], &l))
            n--;
        c->level[n++] = l;
    }
    c->levels = n;
}

static void take_levels(struct choice *c, const struct plan_tensor *t, const struct plan_errors *errors,
                        uint32_t row, uint64_t types)
{
    for (uint32_t l = 0; l < errors->levels; l++) {
        const double error = errors->error[(size_t)row * errors->levels + l];
        const uint32_t type = errors->level[l];
        const size_t row_bytes = block_row_bytes(type, t->cols);
        if (isnan(error) || row_bytes == 0 || (types && !(types & 1ull << type)) ||
            plan_type_bits(type) > plan_type_bits(t->from))
            continue;
        c->level[c->levels++] = (struct level){.type = type,
                                               .bytes = (uint64_t)t->rows * row_bytes,
                                               .damage = error * errors->scale[row]};
    }
    keep_hull(c);
}

static void choose(struct choice *choice, uint32_t choices, double price)
{
    for (uint32_t i = 0; i < choices; i++) {
        struct choice *c = &choice[i];
        c->now = 0;
        while (c->now + 1 < c->levels && slope(&c->level[c->now], &c->level[c->now + 1]) > price)
            c->now++;
    }
}

static uint64_t apply(struct plan *p, const struct gguf *base, const struct choice *choice,
                      uint32_t choices)
{
    for (uint32_t i = 0; i < choices; i++) {
        struct plan_tensor *t = &p->tensor[choice[i].tensor];
        t->type = choice[i].level[choice[i].now].type;
        t->is_fallback = false;
    }
    return plan_file_bytes(p, base);
}

/* Steps up while one fits, the best gain per byte first. */
static void spend_rest(struct choice *choice, uint32_t choices, uint64_t used, uint64_t limit)
{
    for (;;) {
        uint32_t best = UINT32_MAX;
        double gain = 0;
        for (uint32_t i = 0; i < choices; i++) {
            const struct choice *c = &choice[i];
            if (c->now + 1 >= c->levels)
                continue;
            const struct level *a = &c->level[c->now], *b = a + 1;
            if (used + (b->bytes - a->bytes) + 4096 <= limit && slope(a, b) > gain) {
                gain = slope(a, b);
                best = i;
            }
        }
        if (best == UINT32_MAX)
            return;
        struct choice *c = &choice[best];
        used += c->level[c->now + 1].bytes - c->level[c->now].bytes;
        c->now++;
    }
}

/* The least is said so that it can be asked for: rounded up, and with what a fraction of a byte takes. */
static enum err too_small(const struct plan *p, uint64_t least, uint64_t limit, struct fault *f)
{
    uint64_t values = 0;
    for (uint32_t i = 0; i < p->tensors; i++)
        values += (uint64_t)p->tensor[i].rows * p->tensor[i].cols;
    const uint64_t hundredths = values ? ((least + 1) * 800 + values - 1) / values : 0;
    return fault_set(f, ERR_UNSUPPORTED, "bpw: the smallest types give %.2f MiB, the limit is %.2f MiB: expected at least %llu.%02llu",
                     (double)least / 1048576, (double)limit / 1048576, (unsigned long long)(hundredths / 100),
                     (unsigned long long)(hundredths % 100));
}

static enum err fit(struct plan *p, const struct gguf *base, struct choice *choice, uint32_t choices,
                    uint64_t limit, struct fault *f)
{
    double low = 0, high = 1; /* the price at low may be too dear for the file, at high it fits */
    choose(choice, choices, INFINITY);
    const uint64_t least = apply(p, base, choice, choices);
    if (least > limit)
        return too_small(p, least, limit, f);
    for (uint32_t i = 0; i < 200; i++) {
        const double price = (low + high) / 2;
        choose(choice, choices, price);
        if (apply(p, base, choice, choices) > limit)
            low = price;
        else
            high = price;
    }
    choose(choice, choices, high);
    spend_rest(choice, choices, apply(p, base, choice, choices), limit);
    apply(p, base, choice, choices);
    return ERR_NONE;
}

enum err plan_allocate(struct plan *p, const struct gguf *base, const struct plan_errors *errors,
                       const bool *is_free, uint64_t types, uint64_t limit_bytes, struct fault *f)
{
    uint32_t choices = 0;
    struct choice *choice = calloc(p->tensors, sizeof *choice);
    if (!choice)
        return ERR_MEMORY;
    for (uint32_t i = 0; i < p->tensors; i++) {
        const uint32_t row = is_free[i] ? find_errors(errors, p->tensor[i].name) : UINT32_MAX;
        if (row == UINT32_MAX)
            continue;
        choice[choices] = (struct choice){.tensor = i};
        take_levels(&choice[choices], &p->tensor[i], errors, row, types);
        choices += choice[choices].levels > 0;
    }
    enum err e = fit(p, base, choice, choices, limit_bytes, f);
    free(choice);
    return e;
}
