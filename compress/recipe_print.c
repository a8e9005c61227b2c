#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "compress/recipe.h"
#include "hal/block.h"

struct page {
    char *text;
    size_t capacity;
    size_t used; /* may pass capacity: then it does not fit */
};

__attribute__((format(printf, 2, 3))) static void put(struct page *p, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const size_t room = p->used < p->capacity ? p->capacity - p->used : 0;
    const int n = vsnprintf(p->text + (room ? p->used : 0), room, format, args);
    va_end(args);
    p->used += n > 0 ? (size_t)n : 0;
}

static void put_string(struct page *p, const char *s)
{
    put(p, "\"");
    for (; *s; s++)
        put(p, *s == '"' || *s == '\\' ? "\\%c" : "%c", *s);
    put(p, "\"");
}

static const char *type_name(uint32_t type)
{
    const struct block_type *t = block_type(type);
    return t ? t->name : "?";
}

static void put_goal(struct page *p, const struct recipe *r)
{
    if (r->goal == RECIPE_TYPE)
        put(p, "type: %s\n", type_name(r->type));
    else if (r->goal == RECIPE_BPW)
        put(p, "bpw: %.17g\n", r->bpw);
    else
        put(p, "mode: %s\n", recipe_goal_name(r->goal));
    if (r->scheme.bits) { /* before method: a scheme sets it */
        char words[SCHEME_TEXT_MAX];
        scheme_print(&r->scheme, words);
        put(p, "scheme: ");
        put_string(p, words);
        put(p, "\n");
    }
    put(p, "method: %s\n", recipe_method_name(r->method));
}

static void put_rules(struct page *p, const struct recipe *r)
{
    put(p, r->rules ? "tensors:\n" : "");
    for (uint32_t i = 0; i < r->rules; i++) {
        put(p, "  - match: ");
        put_string(p, r->rule[i].match);
        if (r->rule[i].type != RECIPE_UNSET)
            put(p, "\n    type: %s", type_name(r->rule[i].type));
        if (r->rule[i].method != RECIPE_UNSET)
            put(p, "\n    method: %s", recipe_method_name(r->rule[i].method));
        put(p, "\n");
    }
}

static void put_calibration(struct page *p, const struct recipe *r)
{
    put(p, "calibration:\n  tokens: %" PRIu64 "\n", r->tokens);
    if (r->context)
        put(p, "  context: %u\n", r->context);
    if (r->profile[0]) {
        put(p, "  profile: ");
        put_string(p, r->profile);
        put(p, "\n");
    }
    put(p, r->texts ? "  texts:\n" : "");
    for (uint32_t i = 0; i < r->texts; i++) {
        put(p, "    - file: ");
        put_string(p, r->text[i].path);
        if (r->text[i].language[0]) {
            put(p, "\n      language: ");
            put_string(p, r->text[i].language);
        }
        put(p, "\n");
    }
}

static void put_percent(struct page *p, const char *name, double percent)
{
    if (percent > 0)
        put(p, "  %s: %.17g\n", name, percent);
}

static void put_prune(struct page *p, const struct recipe_prune *o)
{
    if (!recipe_prunes(o))
        return;
    put(p, "prune:\n");
    put_percent(p, "ffn", o->ffn);
    put_percent(p, "heads", o->heads);
    put_percent(p, "groups", o->groups);
    put_percent(p, "layers", o->layers);
    if (o->by)
        put(p, "  by: %s\n", recipe_importance_name(o->by));
    if (o->multiple)
        put(p, "  multiple: %u\n", o->multiple);
    put(p, "  recover: %s\n", o->is_recovered ? "true" : "false");
    if (o->mask_of)
        put(p, "  mask: \"%u:%u\"\n", o->mask_keep, o->mask_of);
    put_percent(p, "mask", o->mask);
}

static void put_gates(struct page *p, const struct recipe_gates *g)
{
    put(p, g->present ? "gates:\n" : "");
    for (uint32_t i = 0; i < RECIPE_GATES; i++)
        if (g->present & 1u << i)
            put(p, "  %s: %.17g\n", recipe_gate_name(i), g->limit[i]);
}

static void put_rollout(struct page *p, const struct recipe_rollout *o)
{
    put(p, "rollout:\n  stages: [");
    for (uint32_t i = 0; i < o->stages; i++)
        put(p, "%s%.17g", i ? ", " : "", o->stage_percent[i]);
    put(p, "]\n  threshold: %.17g\n  minimum_sample: %u\n  deadline_s: %u\n  trial_s: %u\n", o->threshold,
        o->minimum_sample, o->deadline_s, o->trial_s);
    put(p, "  approvals: %u\n  revert: %s\n", o->approvals, o->revert ? "true" : "false");
}

enum err recipe_print(const struct recipe *r, char *out, size_t capacity)
{
    struct page p = {.text = out, .capacity = capacity};
    if (r->name[0]) {
        put(&p, "name: ");
        put_string(&p, r->name);
        put(&p, "\n");
    }
    put_goal(&p, r);
    if (r->base_sha256[0])
        put(&p, "base: \"%s\"\n", r->base_sha256);
    put_rules(&p, r);
    put_calibration(&p, r);
    if (r->is_left_out)
        put(&p, "sensitivity: leave-one-out\n");
    put(&p, "cache: %s\nactivations: %u\nseed: %" PRIu64 "\n", type_name(r->cache_type),
        r->activation_bits, r->seed);
    put_prune(&p, &r->prune);
    put_gates(&p, &r->gates);
    put_rollout(&p, &r->rollout);
    return p.used < capacity ? ERR_NONE : ERR_FULL;
}
