/* release_create.c: from an operator's request to a rollout that can be prepared. */
#include "controller/release.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compress/recipe.h"
#include "controller/catalogue.h"
#include "controller/doc.h"
#include "controller/inventory.h"
#include "controller/jobrecord.h"
#include "controller/trail.h"
#include "protocol/hex.h"
#include "protocol/message.h"

enum { COHORT_MAX = 100000, ATTEMPTS = 2 };

static enum err fail(char why[RELEASE_WHY], enum err e, const char *format, const char *a)
{
    snprintf(why, RELEASE_WHY, format, a);
    return e;
}

static void put_rules(json_t *doc, const struct recipe_rollout *from)
{
    json_t *rules = json_object(), *stages = json_array();
    for (uint32_t i = 0; i < from->stages; i++)
        doc_append(stages, json_real(from->stage_percent[i] / 100.0));
    doc_set(rules, "stages", stages);
    /* A stage is good enough for the next one when no more of it failed than the threshold allows. */
    doc_set_real(rules, "advance_ratio", from->threshold < 0.95 ? 1.0 - from->threshold : 0.05);
    doc_set_real(rules, "failure_ratio", from->threshold < 0.99 ? from->threshold : 0.99);
    doc_set_int(rules, "min_sample", from->minimum_sample ? from->minimum_sample : 1);
    doc_set_int(rules, "silence_s", from->deadline_s ? from->deadline_s : 600);
    doc_set_int(rules, "max_attempts", ATTEMPTS);
    doc_set_bool(rules, "auto_revert", from->revert);
    doc_set(doc, "rules", rules);
    doc_set_int(doc, "approvals", from->approvals);
}

void release_rules(const json_t *rollout, struct rollout_rules *out)
{
    const json_t *rules = json_object_get(rollout, "rules");
    const json_t *stages = json_object_get(rules, "stages");
    *out = (struct rollout_rules){
        .stages = (uint32_t)json_array_size(stages),
        .advance_ratio = doc_real(rules, "advance_ratio"),
        .failure_ratio = doc_real(rules, "failure_ratio"),
        .min_sample = (uint32_t)doc_int(rules, "min_sample"),
        .silence_s = (uint32_t)doc_int(rules, "silence_s"),
        .soak_s = (uint32_t)doc_int(rules, "soak_s"),
        .max_attempts = (uint32_t)doc_int(rules, "max_attempts"),
        .max_in_flight = (uint32_t)doc_int(rules, "max_in_flight"),
        .is_auto_revert = doc_bool(rules, "auto_revert"),
    };
    if (out->stages > ROLLOUT_STAGES_MAX)
        out->stages = ROLLOUT_STAGES_MAX;
    for (uint32_t i = 0; i < out->stages; i++)
        out->fractions[i] = json_number_value(json_array_get(stages, i));
}

static void put_gates(json_t *doc, const struct recipe_gates *g)
{
    static const struct {
        uint32_t gate;
        const char *name;
        double factor;
    } table[] = {{RECIPE_DPPL_PERCENT, "dppl_percent", 1},    {RECIPE_KLD_MEAN, "kld_mean", 1},
                 {RECIPE_TOP1, "top1_percent", 100},          {RECIPE_DECODE_TOK_S, "decode_tok_s", 1},
                 {RECIPE_PREFILL_TOK_S, "prefill_tok_s", 1}};
    json_t *gates = json_object();
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (g->present & 1u << table[i].gate)
            doc_note_real(gates, table[i].name, g->limit[table[i].gate] * table[i].factor);
    if (g->present & 1u << RECIPE_RSS_MIB)
        doc_note_int(gates, "rss_bytes", (int64_t)(g->limit[RECIPE_RSS_MIB] * 1048576.0));
    doc_set(doc, "gates", gates);
}

static int64_t method_of(const struct recipe *r)
{
    switch (r->method) {
    case RECIPE_RTN:
        return MESSAGE_METHOD_RTN;
    case RECIPE_AWQ:
        return MESSAGE_METHOD_AWQ;
    case RECIPE_GPTQ:
    case RECIPE_GPTQ_AWQ:
        return MESSAGE_METHOD_GPTQ;
    case RECIPE_KEEP:
        return MESSAGE_METHOD_COPY;
    default:
        return MESSAGE_METHOD_SEARCH;
    }
}

/* A file of the recipe or the request: as it is written, or by its name without folders. */
static enum err find_file(struct registry_txn *t, const char *kind, const char *what, json_t *doc,
                          const char *field, char why[RELEASE_WHY])
{
    json_t *file = NULL;
    const char *slash = strrchr(what, '/');
    if (!what[0]) {
        doc_set_text(doc, field, "");
        return ERR_NONE;
    }
    enum err e = catalogue_find(t, kind, what, &file);
    if (e == ERR_NOT_FOUND && slash)
        e = catalogue_find(t, kind, slash + 1, &file);
    if (e) {
        snprintf(why, RELEASE_WHY, "%.30s %.180s: %s", kind, what,
                 e == ERR_ARGUMENT ? "several registered files fit; give the digest"
                                   : "not registered");
        return e;
    }
    doc_set_text(doc, field, doc_text(file, "digest"));
    if (strcmp(field, "base") == 0)
        doc_set_text(doc, "base_name", doc_text(file, "name"));
    json_decref(file);
    return ERR_NONE;
}

static enum err put_files(struct registry_txn *t, const struct release_request *request,
                          const struct recipe *recipe, json_t *doc, char why[RELEASE_WHY])
{
    static const uint32_t measured = 1u << RECIPE_DPPL_PERCENT | 1u << RECIPE_KLD_MEAN |
                                     1u << RECIPE_KLD_P99 | 1u << RECIPE_TOP1 |
                                     1u << RECIPE_WORST_DPPL_PERCENT | 1u << RECIPE_WORST_KLD_MEAN;
    enum err e = find_file(t, "base", request->model, doc, "base", why);
    if (!e && !doc_text(doc, "base")[0])
        e = fail(why, ERR_ARGUMENT, "%s", "model: expected the name or digest of a registered base");
    if (!e && recipe->base_sha256[0] && strcmp(recipe->base_sha256, doc_text(doc, "base")) != 0)
        e = fail(why, ERR_MISMATCH, "the recipe is for base %.64s only", recipe->base_sha256);
    if (!e)
        e = find_file(t, "profile", request->profile[0] ? request->profile : recipe->profile, doc,
                      "profile", why);
    if (!e)
        e = find_file(t, "text", request->text, doc, "text", why);
    json_t *texts = json_array();
    for (uint32_t i = 0; i < recipe->texts && !e; i++) {
        json_t *entry = json_object();
        e = find_file(t, "text", recipe->text[i].path, entry, "digest", why);
        doc_set_text(entry, "language", recipe->text[i].language);
        doc_append(texts, entry);
    }
    if (!e && recipe->is_left_out && json_array_size(texts) == 0)
        e = fail(why, ERR_ARGUMENT, "%s", "sensitivity leave-one-out: expected registered texts under calibration");
    if (!e && !doc_text(doc, "text")[0] && json_array_size(texts) > 0)
        doc_set_text(doc, "text", doc_text(json_array_get(texts, 0), "digest"));
    doc_set(doc, "texts", texts);
    if (!e && recipe->gates.present & measured && !doc_text(doc, "text")[0])
        e = fail(why, ERR_ARGUMENT, "%s",
                 "the recipe has quality gates: name a registered text to measure them on");
    return e;
}

static enum err is_free(struct registry_txn *t, const json_t *device)
{
    json_t *other = NULL;
    const char *id = doc_text(device, "rollout");
    if (!id[0])
        return ERR_NONE;
    enum err e = registry_get_doc(t, REGISTRY_ROLLOUTS, id, &other);
    if (!e && !rollout_is_over((enum rollout_state)doc_int(other, "state_number")) &&
        doc_int(other, "state_number") != ROLLOUT_HALTED)
        e = ERR_STALE;
    json_decref(other);
    return e == ERR_NOT_FOUND ? ERR_NONE : e;
}

static enum err take_device(struct registry_txn *t, json_t *device, json_t *cohort,
                            char why[RELEASE_WHY])
{
    if (strcmp(doc_text(device, "status"), "approved") != 0)
        return fail(why, ERR_ARGUMENT, "device %.40s is not approved", doc_text(device, "name"));
    if (is_free(t, device)) {
        snprintf(why, RELEASE_WHY, "device %.40s is in rollout %.20s, which goes on",
                 doc_text(device, "name"), doc_text(device, "rollout"));
        return ERR_STALE;
    }
    size_t i;
    json_t *known;
    json_array_foreach(cohort, i, known)
        if (strcmp(json_string_value(known), doc_text(device, "id")) == 0)
            return ERR_NONE;
    doc_append(cohort, json_string(doc_text(device, "id")));
    return ERR_NONE;
}

static enum err put_cohort(struct registry_txn *t, const struct release_request *request,
                           json_t *cohort, char why[RELEASE_WHY])
{
    json_t *all = NULL, *item;
    size_t i;
    enum err e = ERR_NONE;
    if (request->devices) {
        json_array_foreach((json_t *)(uintptr_t)request->devices, i, item)
        {
            json_t *device = NULL;
            const char *what = json_string_value(item);
            e = what ? inventory_find(t, what, &device) : ERR_ARGUMENT;
            if (e)
                return fail(why, e, "device %.80s: not known, or several fit", what ? what : "?");
            if (inventory_has_tags(device, request->tags))
                e = take_device(t, device, cohort, why);
            json_decref(device);
            if (e)
                return e;
        }
    } else {
        e = registry_list(t, REGISTRY_DEVICES, NULL, false, COHORT_MAX, &all);
        if (e)
            return e;
        json_array_foreach(all, i, item)
            if (!e && strcmp(doc_text(item, "status"), "approved") == 0 &&
                inventory_has_tags(item, request->tags))
                e = take_device(t, item, cohort, why);
        json_decref(all);
    }
    if (!e && json_array_size(cohort) == 0)
        e = fail(why, ERR_ARGUMENT, "%s", "no approved device fits: nothing to deploy to");
    return e;
}

/* Stages and one record per device, each remembering that it is in this rollout. */
static enum err put_jobs(struct registry_txn *t, const char *id, const json_t *cohort,
                         const struct rollout_rules *rules)
{
    size_t n = json_array_size(cohort);
    const char **ids = calloc(n, sizeof *ids);
    uint32_t *stages = calloc(n, sizeof *stages);
    enum err e = ids && stages ? ERR_NONE : ERR_MEMORY;
    for (size_t i = 0; i < n && !e; i++)
        ids[i] = json_string_value(json_array_get(cohort, i));
    if (!e)
        e = rollout_assign(id, ids, n, rules, stages);
    for (size_t i = 0; i < n && !e; i++) {
        json_t *job = NULL, *device = NULL;
        char key[JOBRECORD_KEY];
        e = jobrecord_new(id, ids[i], stages[i], &job);
        jobrecord_key(id, ids[i], key);
        if (!e)
            e = registry_put_doc(t, REGISTRY_JOBS, key, job);
        if (!e)
            e = registry_get_doc(t, REGISTRY_DEVICES, ids[i], &device);
        if (!e) {
            doc_set_text(device, "rollout", id);
            e = registry_put_doc(t, REGISTRY_DEVICES, ids[i], device);
        }
        json_decref(device);
        json_decref(job);
    }
    free(stages);
    free(ids);
    return e;
}

static enum err put_recipe(struct registry_txn *t, const char *text, const struct recipe *recipe,
                           int64_t now_s, json_t *doc)
{
    uint8_t hash[crypto_hash_sha256_BYTES];
    char id[65];
    crypto_hash_sha256(hash, (const uint8_t *)text, strlen(text));
    hex_encode(hash, sizeof hash, id);
    json_t *stored = json_pack("{s:s,s:s,s:s,s:I}", "id", id, "name", recipe->name, "text", text,
                               "created", (json_int_t)now_s);
    enum err e = registry_put_doc(t, REGISTRY_RECIPES, id, stored);
    json_decref(stored);
    doc_set_text(doc, "recipe", id);
    return e;
}

static enum err next_number(struct registry_txn *t, int64_t *out)
{
    json_t *doc = NULL;
    enum err e = registry_get_doc(t, REGISTRY_META, "rollouts", &doc);
    if (e == ERR_NOT_FOUND) {
        doc = json_object();
        e = doc ? ERR_NONE : ERR_MEMORY;
    }
    if (!e) {
        *out = doc_int(doc, "last") + 1;
        doc_set_int(doc, "last", *out);
        e = registry_put_doc(t, REGISTRY_META, "rollouts", doc);
    }
    json_decref(doc);
    return e;
}

static void describe_goal(const struct recipe *r, json_t *doc)
{
    char goal[64];
    if (r->goal == RECIPE_BPW)
        snprintf(goal, sizeof goal, "%.2f bpw", r->bpw);
    else
        snprintf(goal, sizeof goal, "%s", recipe_goal_name(r->goal));
    doc_set_text(doc, "goal", goal);
    doc_set_text(doc, "method_name", recipe_method_name(r->method));
}

static enum err build(struct controller *c, struct registry_txn *t,
                      const struct release_request *request, const struct recipe *recipe,
                      int64_t now_s, json_t *doc, char why[RELEASE_WHY])
{
    struct rollout_rules rules;
    char reason[ROLLOUT_REASON_BYTES], id[24];
    int64_t number = 0;
    json_t *cohort = json_array();
    (void)c;
    put_rules(doc, &recipe->rollout);
    release_rules(doc, &rules);
    enum err e = rollout_check(&rules, reason);
    if (e)
        e = fail(why, e, "rollout: %s", reason);
    if (!e)
        e = put_files(t, request, recipe, doc, why);
    if (!e)
        e = put_cohort(t, request, cohort, why);
    if (!e)
        e = put_recipe(t, request->recipe, recipe, now_s, doc);
    if (!e)
        e = next_number(t, &number);
    snprintf(id, sizeof id, "%lld", (long long)number);
    doc_set_text(doc, "id", id);
    doc_set_int(doc, "number", number);
    doc_set_text(doc, "name", request->name[0] ? request->name : recipe->name);
    doc_set_text(doc, "trigger", request->trigger);
    doc_set_int(doc, "state_number", ROLLOUT_PREPARING);
    doc_set_text(doc, "state", rollout_state_name(ROLLOUT_PREPARING));
    doc_set_int(doc, "stage", 0);
    doc_set_text(doc, "reason", "");
    doc_set_int(doc, "created", now_s);
    doc_set_int(doc, "updated", now_s);
    doc_set_int(doc, "trial_s", recipe->rollout.trial_s);
    doc_set_int(doc, "method", method_of(recipe));
    if (request->wants_approval && doc_int(doc, "approvals") == 0)
        doc_set_int(doc, "approvals", 1);
    doc_set(doc, "approved_by", json_array());
    if (request->raise)
        doc_set(doc, "raise", json_deep_copy(request->raise));
    describe_goal(recipe, doc);
    put_gates(doc, &recipe->gates);
    if (!e)
        e = put_jobs(t, id, cohort, &rules);
    doc_set(doc, "cohort", cohort);
    return e ? e : registry_put_doc(t, REGISTRY_ROLLOUTS, id, doc);
}

enum err release_create(struct controller *c, struct registry_txn *t,
                        const struct release_request *request, int64_t now_s, json_t **out,
                        char why[RELEASE_WHY])
{
    struct fault fault = {""};
    struct recipe *recipe = calloc(1, sizeof *recipe);
    json_t *doc = json_object();
    why[0] = '\0';
    enum err e = recipe && doc ? ERR_NONE : ERR_MEMORY;
    if (!e) {
        e = recipe_parse("recipe", request->recipe, strlen(request->recipe), recipe, &fault);
        if (e)
            snprintf(why, RELEASE_WHY, "%s", fault.text);
    }
    if (!e)
        e = build(c, t, request, recipe, now_s, doc, why);
    if (!e) {
        struct trail entry = {.kind = "rollout", .subject = doc_text(doc, "id")};
        snprintf(entry.seen, sizeof entry.seen, "recipe %.40s for base %.40s and %zu devices",
                 doc_text(doc, "name"), doc_text(doc, "base_name"),
                 json_array_size(json_object_get(doc, "cohort")));
        snprintf(entry.rule, sizeof entry.rule, "asked for by %.40s", request->trigger);
        snprintf(entry.sent, sizeof entry.sent, "nothing yet");
        snprintf(entry.changed, sizeof entry.changed, "plans are being prepared");
        e = trail_add(t, now_s, &entry);
    }
    free(recipe);
    if (e) {
        json_decref(doc);
        if (!why[0])
            snprintf(why, RELEASE_WHY, "%s", err_name(e));
        return e;
    }
    *out = doc;
    return ERR_NONE;
}
