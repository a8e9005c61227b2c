/* drift.c: the rule, and what it starts. */
#include "controller/drift.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "controller/catalogue.h"
#include "controller/controller_log.h"
#include "controller/doc.h"
#include "controller/jobrecord.h"
#include "controller/planner.h"
#include "controller/release.h"
#include "controller/trail.h"

enum { TOGETHER_MAX = 4096 };

bool drift_rule(const struct controller_settings *s, const struct drift_look *look,
                struct drift_state *state)
{
    bool is_moved = look->score > s->drift_limit;
    bool is_worse = s->shadow_kld_limit > 0 && look->shadow_kld > s->shadow_kld_limit;
    if (look->rows < s->drift_rows && !is_worse)
        return false; /* too little seen to say anything, either way */
    if (!is_moved && !is_worse) {
        state->above = 0;
        bool is_calm = look->score < s->drift_rearm &&
                       (s->shadow_kld_limit <= 0 || look->shadow_kld < 0.7 * s->shadow_kld_limit);
        state->is_armed = state->is_armed || is_calm;
        return false;
    }
    if (state->above < UINT32_MAX)
        state->above++;
    if (!state->is_armed || state->above < s->drift_confirm)
        return false;
    if (state->fired_s && look->now_s - state->fired_s < (int64_t)s->drift_interval_s)
        return false;
    state->is_armed = false;
    state->above = 0;
    state->fired_s = look->now_s;
    return true;
}

static double rows_of(const struct profile *p)
{
    double most = 0;
    for (uint32_t i = 0; i < p->entries; i++)
        if (p->entry[i].count[0] > most)
            most = p->entry[i].count[0];
    return most;
}

/* The profile that a rollout's variant was made with; NULL in *out when it was made without. */
static enum err open_profile(struct registry_txn *t, const json_t *rollout, struct profile **out)
{
    json_t *file = NULL;
    struct fault f = {""};
    *out = NULL;
    if (!doc_text(rollout, "profile")[0])
        return ERR_NONE;
    enum err e = registry_get_doc(t, REGISTRY_FILES, doc_text(rollout, "profile"), &file);
    if (!e)
        e = profile_load(doc_text(file, "path"), out, &f);
    json_decref(file);
    if (e)
        controller_log(CONTROLLER_LOG_ERROR, "drift: %s", f.text[0] ? f.text : err_name(e));
    return e;
}

static void put_look(json_t *doc, const struct drift_look *look, const struct profile_drift *drift,
                     uint32_t windows, const char *rollout)
{
    doc_set_real(doc, "score", look->score);
    doc_set_real(doc, "worst", drift->worst);
    doc_set_text(doc, "worst_name", drift->worst_name);
    doc_set_real(doc, "rows", look->rows);
    doc_set_int(doc, "windows", windows);
    doc_set_real(doc, "shadow_kld", look->shadow_kld);
    doc_set_text(doc, "rollout", rollout);
    doc_set_int(doc, "looked", look->now_s);
}

static void put_history(json_t *doc, const struct drift_look *look)
{
    json_t *history = json_object_get(doc, "history");
    if (!json_is_array(history)) {
        history = json_array();
        doc_set(doc, "history", history);
    }
    if (json_array_size(history) >= 200)
        (void)json_array_remove(history, 0);
    doc_append(history, json_pack("{s:I,s:f,s:f}", "time", (json_int_t)look->now_s, "score",
                                  look->score, "shadow_kld", look->shadow_kld));
}

static bool is_over(const json_t *rollout)
{
    enum rollout_state state = (enum rollout_state)doc_int(rollout, "state_number");
    return rollout_is_over(state) || state == ROLLOUT_HALTED;
}

/* One look at one device. *fires: its rule fired. */
static enum err look_at(struct controller *c, struct registry_txn *t, const char *device_id,
                        json_t *doc, int64_t now_s, bool *fires)
{
    json_t *device = NULL, *rollout = NULL, *newest = NULL;
    struct profile *now = NULL, *then = NULL;
    struct profile_drift drift = {0};
    struct drift_look look = {.now_s = now_s};
    uint32_t windows = 0;
    *fires = false;
    enum err e = registry_get_doc(t, REGISTRY_DEVICES, device_id, &device);
    if (!e)
        e = registry_get_doc(t, REGISTRY_ROLLOUTS, doc_text(device, "variant_rollout"), &rollout);
    if (!e)
        e = registry_get_doc(t, REGISTRY_ROLLOUTS, doc_text(device, "rollout"), &newest);
    if (e)
        goto out;
    const char *variant = doc_text(device, "variant");
    if (strcmp(doc_text(doc, "variant"), variant) != 0) { /* another variant: judged afresh */
        doc_set_text(doc, "variant", variant);
        doc_set_bool(doc, "armed", true);
        doc_set_int(doc, "above", 0);
    }
    if (strcmp(doc_text(doc, "shadow_variant"), variant) == 0 && doc_real(doc, "shadow_tokens") >= 64)
        look.shadow_kld = doc_real(doc, "shadow_kld_sum") / doc_real(doc, "shadow_tokens");
    e = drift_gather(t, device_id, variant, DRIFT_WINDOWS, &now, &windows);
    if (!e) {
        look.rows = rows_of(now);
        e = open_profile(t, rollout, &then);
    }
    if (!e && then)
        e = profile_compare(then, now, &drift);
    if (e && e != ERR_NOT_FOUND)
        goto out;
    e = ERR_NONE;
    look.score = drift.score;
    struct drift_state state = {doc_bool(doc, "armed"), (uint32_t)doc_int(doc, "above"),
                                doc_int(doc, "fired")};
    if (is_over(newest)) /* one change at a time */
        *fires = drift_rule(&c->settings, &look, &state);
    doc_set_bool(doc, "armed", state.is_armed);
    doc_set_int(doc, "above", state.above);
    doc_set_int(doc, "fired", state.fired_s);
    put_look(doc, &look, &drift, windows, doc_text(rollout, "id"));
    put_history(doc, &look);
out:
    profile_close(then);
    profile_close(now);
    json_decref(newest);
    json_decref(rollout);
    json_decref(device);
    if (e == ERR_NOT_FOUND)
        return ERR_NONE; /* it has no variant of ours */
    return e;
}

struct moved {
    const char *name;
    double score;
};

static int by_score(const void *a, const void *b)
{
    const struct moved *x = a, *y = b;
    return x->score < y->score ? 1 : x->score > y->score ? -1 : 0;
}

/* The tensors whose inputs moved most, each compared alone; at most a few, all above twice the limit. */
static json_t *tensors_to_raise(const struct controller_settings *s, const struct profile *then,
                                const struct profile *now)
{
    json_t *names = json_array();
    struct moved *moved = calloc(now->entries + 1, sizeof *moved);
    uint32_t n = 0;
    for (uint32_t i = 0; then && moved && i < now->entries; i++) {
        struct profile one = *now, other = *then;
        struct profile_entry *old;
        const struct profile_entry *found = profile_find(then, now->entry[i].name);
        struct profile_drift drift = {0};
        if (!found)
            continue;
        memcpy(&old, &found, sizeof old); /* a view for the comparison, which only reads */
        one.entry = &now->entry[i];
        other.entry = old;
        one.entries = other.entries = 1;
        if (profile_compare(&other, &one, &drift) == ERR_NONE && drift.score > 2 * s->drift_limit)
            moved[n++] = (struct moved){now->entry[i].name, drift.score};
    }
    if (moved)
        qsort(moved, n, sizeof *moved, by_score);
    for (uint32_t i = 0; i < n && i < DRIFT_RAISE_MAX; i++)
        doc_append(names, json_string(moved[i].name));
    free(moved);
    return names;
}

struct merge {
    struct profile **source;
    double *share;
    uint32_t n;
};

static void merge_close(struct merge *m)
{
    for (uint32_t i = 0; m->source && i < m->n; i++)
        profile_close(m->source[i]);
    free(m->source);
    free(m->share);
}

/* Only as many windows as the rule had to see above its limit: older ones may be from before the change,
 * and a profile that is half of yesterday's traffic would drift again at once. */
static enum err gather_all(struct registry_txn *t, const json_t *devices, uint32_t most,
                           struct merge *m)
{
    size_t count = json_array_size(devices);
    m->source = calloc(count + 1, sizeof *m->source);
    m->share = calloc(count + 1, sizeof *m->share);
    enum err e = m->source && m->share ? ERR_NONE : ERR_MEMORY;
    for (size_t i = 0; i < count && !e; i++) {
        json_t *device = NULL;
        uint32_t windows;
        const char *id = json_string_value(json_array_get(devices, i));
        e = registry_get_doc(t, REGISTRY_DEVICES, id, &device);
        if (!e)
            e = drift_gather(t, id, doc_text(device, "variant"), most, &m->source[m->n], &windows);
        m->n += !e;
        if (e == ERR_NOT_FOUND)
            e = ERR_NONE; /* this one has sent nothing: the others speak */
        json_decref(device);
    }
    return e ? e : m->n == 0 ? ERR_NOT_FOUND : ERR_NONE;
}

/* Blend, save among the artifacts, register. */
static enum err make_profile(struct controller *c, struct registry_txn *t, const json_t *rollout,
                             const json_t *devices, int64_t now_s, char digest[65], json_t **raise)
{
    struct merge m = {0};
    struct profile *then = NULL, *fleet = NULL, *made = NULL;
    struct fault f = {""};
    char path[CONTROLLER_PATH], kept[CONTROLLER_PATH], name[96];
    uint32_t most = c->settings.drift_confirm < DRIFT_WINDOWS ? c->settings.drift_confirm : DRIFT_WINDOWS;
    enum err e = gather_all(t, devices, most, &m);
    if (!e)
        e = open_profile(t, rollout, &then);
    for (uint32_t i = 0; i < m.n; i++)
        m.share[i] = 1.0 / (double)m.n; /* a busy device counts no more than a quiet one */
    if (!e)
        e = profile_open(&fleet);
    if (!e)
        e = profile_blend(fleet, (const struct profile *const *)m.source, m.share, m.n, &f);
    if (!e)
        e = profile_open(&made);
    if (!e && then) {
        const struct profile *both[2] = {then, fleet};
        double share[2] = {1.0 - c->settings.drift_blend, c->settings.drift_blend};
        *raise = tensors_to_raise(&c->settings, then, fleet);
        e = share[0] > 0 ? profile_blend(made, both, share, 2, &f)
                         : profile_merge(made, fleet, 1.0, &f);
    } else if (!e) {
        e = profile_merge(made, fleet, 1.0, &f);
    }
    if (!e) {
        snprintf(made->method, sizeof made->method, "cohort merge");
        snprintf(made->base_sha256, sizeof made->base_sha256, "%.64s", doc_text(rollout, "base"));
        e = profile_add_dataset(made, "live traffic");
    }
    snprintf(path, sizeof path, "%.400s/artifacts/merged.gguf", c->settings.state);
    if (!e)
        e = profile_save(made, path, digest, &f);
    if (!e)
        e = catalogue_path(c, digest, kept);
    if (!e && rename(path, kept) != 0)
        e = ERR_IO;
    struct stat st = {0};
    if (!e && stat(kept, &st) != 0)
        e = ERR_IO;
    if (!e) {
        snprintf(name, sizeof name, "fleet-%.8s.gguf", digest);
        json_t *file = json_pack("{s:s,s:s,s:s,s:s,s:I,s:s}", "digest", digest, "kind", "profile",
                                 "name", name, "path", kept, "bytes", (json_int_t)st.st_size, "base",
                                 doc_text(rollout, "base"));
        e = file ? catalogue_add(t, file, now_s) : ERR_MEMORY;
        json_decref(file);
    }
    if (e && e != ERR_NOT_FOUND)
        controller_log(CONTROLLER_LOG_ERROR, "drift: no new profile: %s",
                       f.text[0] ? f.text : err_name(e));
    profile_close(made);
    profile_close(fleet);
    profile_close(then);
    merge_close(&m);
    return e;
}

/* New profile, new rollout for these devices, with the old recipe. */
static enum err recompress(struct controller *c, struct registry_txn *t, const json_t *rollout,
                           const json_t *devices, const char *trigger, const char *seen,
                           const char *rule, int64_t now_s, json_t **out, char why[DRIFT_WHY])
{
    char digest[65], name[96];
    json_t *recipe = NULL, *raise = NULL;
    enum err e = make_profile(c, t, rollout, devices, now_s, digest, &raise);
    if (!e)
        e = registry_get_doc(t, REGISTRY_RECIPES, doc_text(rollout, "recipe"), &recipe);
    if (e) {
        snprintf(why, DRIFT_WHY, "%s", e == ERR_NOT_FOUND ? "no device has sent statistics for its variant yet"
                                                          : err_name(e));
        goto out;
    }
    const char *old_name = doc_text(rollout, "name");
    bool is_renewed = strstr(old_name, " (renewed)") != NULL;
    snprintf(name, sizeof name, "%.60s%s", old_name, is_renewed ? "" : " (renewed)");
    struct release_request request = {.recipe = doc_text(recipe, "text"),
                                      .model = doc_text(rollout, "base"),
                                      .profile = digest,
                                      .text = doc_text(rollout, "text"),
                                      .name = name,
                                      .trigger = trigger,
                                      .devices = devices,
                                      .raise = raise};
    e = release_create(c, t, &request, now_s, out, why);
    if (e)
        goto out;
    struct trail entry = {.kind = "drift", .subject = doc_text(*out, "id")};
    snprintf(entry.seen, sizeof entry.seen, "%.190s", seen);
    snprintf(entry.rule, sizeof entry.rule, "%.110s", rule);
    snprintf(entry.sent, sizeof entry.sent, "profile %.12s of live traffic; more bits for %zu tensors",
             digest, json_array_size(raise));
    snprintf(entry.changed, sizeof entry.changed, "rollout %s renews rollout %s for %zu devices",
             doc_text(*out, "id"), doc_text(rollout, "id"), json_array_size(devices));
    e = trail_add(t, now_s, &entry);
    if (e) {
        json_decref(*out);
        *out = NULL;
    }
out:
    json_decref(raise);
    json_decref(recipe);
    return e;
}

/* Everything that fired in this look, by the rollout that the devices are in. */
static enum err start_fired(struct controller *c, struct registry_txn *t, const json_t *fired,
                            int64_t now_s)
{
    const char *id;
    json_t *entry;
    enum err e = ERR_NONE;
    json_object_foreach((json_t *)(uintptr_t)fired, id, entry)
    {
        json_t *rollout = NULL, *made = NULL;
        char why[DRIFT_WHY] = "", seen[200], rule[120];
        if (e)
            break;
        e = registry_get_doc(t, REGISTRY_ROLLOUTS, id, &rollout);
        snprintf(seen, sizeof seen, "%zu devices moved: score %.4f, worst %.60s, shadow KLD %.4f",
                 json_array_size(json_object_get(entry, "devices")), doc_real(entry, "score"),
                 doc_text(entry, "worst_name"), doc_real(entry, "shadow_kld"));
        snprintf(rule, sizeof rule, "score above %.4f in %u looks in a row%s",
                 c->settings.drift_limit, c->settings.drift_confirm,
                 c->settings.shadow_kld_limit > 0 ? ", or shadow KLD above its limit" : "");
        if (!e) {
            e = recompress(c, t, rollout, json_object_get(entry, "devices"), "drift", seen, rule, now_s,
                           &made, why);
            if (e && e != ERR_IO && e != ERR_MEMORY) {
                struct trail line = {.kind = "drift", .subject = id};
                snprintf(line.seen, sizeof line.seen, "%s", seen);
                snprintf(line.rule, sizeof line.rule, "%s", rule);
                snprintf(line.sent, sizeof line.sent, "nothing: %.180s", why);
                snprintf(line.changed, sizeof line.changed, "the old variants stay");
                e = trail_add(t, now_s, &line);
            }
        }
        json_decref(made);
        json_decref(rollout);
    }
    return e;
}

static void note_fired(json_t *fired, const char *device, const json_t *doc)
{
    const char *rollout = doc_text(doc, "rollout");
    json_t *entry = json_object_get(fired, rollout);
    if (!entry) {
        entry = json_pack("{s:[]}", "devices");
        doc_set(fired, rollout, entry);
    }
    if (json_array_size(json_object_get(entry, "devices")) >= TOGETHER_MAX)
        return;
    doc_append(json_object_get(entry, "devices"), json_string(device));
    if (doc_real(doc, "score") >= doc_real(entry, "score")) {
        doc_set_real(entry, "score", doc_real(doc, "score"));
        doc_set_text(entry, "worst_name", doc_text(doc, "worst_name"));
    }
    if (doc_real(doc, "shadow_kld") > doc_real(entry, "shadow_kld"))
        doc_set_real(entry, "shadow_kld", doc_real(doc, "shadow_kld"));
}

struct dirty {
    json_t *ids;
};

static enum err dirty_visit(void *context, const void *key, size_t key_bytes, const void *value,
                            size_t bytes)
{
    struct dirty *d = context;
    json_t *doc = json_loadb(value, bytes, 0, NULL);
    if (doc_bool(doc, "dirty"))
        doc_append(d->ids, json_stringn(key, key_bytes));
    json_decref(doc);
    return ERR_NONE;
}

enum err drift_tick(struct controller *c, int64_t now_s)
{
    struct registry_txn *t = NULL;
    struct dirty dirty = {json_array()};
    json_t *fired = json_object(), *id;
    size_t i;
    enum err e = dirty.ids && fired ? registry_begin(c->registry, true, &t) : ERR_MEMORY;
    if (!e)
        e = registry_scan(t, REGISTRY_DRIFT, NULL, 0, false, dirty_visit, &dirty);
    json_array_foreach(dirty.ids, i, id)
    {
        const char *device = json_string_value(id);
        json_t *doc = NULL;
        bool fires = false;
        if (e)
            break;
        e = registry_get_doc(t, REGISTRY_DRIFT, device, &doc);
        if (!e)
            e = look_at(c, t, device, doc, now_s, &fires);
        if (!e) {
            doc_set_bool(doc, "dirty", false);
            e = registry_put_doc(t, REGISTRY_DRIFT, device, doc);
        }
        if (!e && fires && c->settings.is_drift_on)
            note_fired(fired, device, doc);
        json_decref(doc);
    }
    if (!e && json_object_size(fired) > 0)
        e = start_fired(c, t, fired, now_s);
    bool has_news = json_array_size(dirty.ids) > 0;
    json_decref(fired);
    json_decref(dirty.ids);
    if (e || !has_news) {
        registry_abort(t);
        return e;
    }
    return registry_commit(t);
}

enum err drift_recalibrate(struct controller *c, const char *rollout_id, int64_t now_s, json_t **out,
                           char why[DRIFT_WHY])
{
    struct registry_txn *t = NULL;
    json_t *rollout = NULL, *jobs = NULL, *job, *devices = json_array();
    char prefix[JOBRECORD_KEY];
    size_t i;
    enum err e = devices ? registry_begin(c->registry, true, &t) : ERR_MEMORY;
    if (e)
        goto out;
    e = registry_get_doc(t, REGISTRY_ROLLOUTS, rollout_id, &rollout);
    if (e)
        snprintf(why, DRIFT_WHY, "rollout %.40s: not known", rollout_id);
    jobrecord_key(rollout_id, "", prefix);
    if (!e)
        e = registry_list(t, REGISTRY_JOBS, prefix, false, 0, &jobs);
    json_array_foreach(jobs, i, job)
        if (doc_int(job, "phase_number") == ROLLOUT_COMMITTED)
            doc_append(devices, json_string(doc_text(job, "device")));
    if (!e && json_array_size(devices) == 0) {
        snprintf(why, DRIFT_WHY, "rollout %.40s: no device has committed its variant", rollout_id);
        e = ERR_NOT_FOUND;
    }
    if (!e)
        e = recompress(c, t, rollout, devices, "operator", "an operator asked for a recalibration",
                       "on request", now_s, out, why);
out:
    json_decref(rollout);
    json_decref(jobs);
    json_decref(devices);
    if (e) {
        registry_abort(t);
        return e;
    }
    e = registry_commit(t);
    if (e) {
        json_decref(*out);
        *out = NULL;
    }
    return e;
}
