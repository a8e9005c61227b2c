/* prepare.c: the process behind workshop.h: profile, plans, predicted digests. No registry here. */
#include <errno.h>
#include <jansson.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "compress/calibrate.h"
#include "compress/plan.h"
#include "compress/prune_base.h"
#include "compress/quantise.h"
#include "compress/sensitivity.h"
#include "controller/catalogue.h"
#include "controller/doc.h"
#include "controller/workshop.h"
#include "model/gguf.h"
#include "protocol/hex.h"

enum { PREPARE_PATH = 1024, RAISE_ROWS = 64 };

struct prepare {
    const char *folder;
    json_t *job, *result, *classes;
    struct recipe recipe;
    struct gguf *base;
    struct profile *profile;
    struct prune_base pruned;    /* where the recipe prunes */
    const struct gguf *planned;  /* what plans are made for: the base, or the pruned one */
    const struct profile *seen;  /* its profile */
    struct plan_errors *errors;
    char profile_sha256[65];
    char why[CATALOGUE_WHY];
    struct timespec said;
};

static void path_in(const struct prepare *p, const char *name, char out[PREPARE_PATH])
{
    snprintf(out, PREPARE_PATH, "%s/%s", p->folder, name);
}

static enum err write_file(const char *path, const void *bytes, size_t size)
{
    char part[PREPARE_PATH + 8];
    snprintf(part, sizeof part, "%s.part", path);
    FILE *f = fopen(part, "we");
    if (!f)
        return ERR_IO;
    bool is_ok = fwrite(bytes, 1, size, f) == size && fflush(f) == 0 && fsync(fileno(f)) == 0;
    is_ok = fclose(f) == 0 && is_ok;
    return is_ok && rename(part, path) == 0 ? ERR_NONE : ERR_IO;
}

/* For the dashboard; a line that could not be written is not missed. */
static void say(struct prepare *p, const char *what, double share)
{
    struct timespec now;
    char path[PREPARE_PATH], line[96];
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (share < 1 && now.tv_sec == p->said.tv_sec)
        return;
    p->said = now;
    snprintf(line, sizeof line, "{\"what\": \"%s\", \"share\": %.4f}\n", what, share);
    path_in(p, "progress", path);
    (void)!write_file(path, line, strlen(line));
}

static int on_calibrate(void *context, const struct calibrate_progress *c)
{
    say(context, "calibrating", c->tokens_total ? (double)c->tokens / (double)c->tokens_total : 0);
    return 0;
}

static int on_quantise(void *context, const struct quantise_progress *q)
{
    say(context, "deriving the expected variant",
        q->bytes_total ? (double)q->bytes / (double)q->bytes_total : 0);
    return 0;
}

static int on_measure(void *context, uint64_t done, uint64_t total)
{
    say(context, "measuring tensors", total ? (double)done / (double)total : 0);
    return 0;
}

static enum err fault_to_why(struct prepare *p, enum err e, const struct fault *f)
{
    if (e && !p->why[0])
        snprintf(p->why, sizeof p->why, "%s", f->text[0] ? f->text : err_name(e));
    return e;
}

static uint32_t take_texts(const struct prepare *p, struct calibrate_text text[RECIPE_TEXTS_MAX])
{
    const json_t *texts = json_object_get(p->job, "texts");
    uint32_t n = 0;
    for (; n < json_array_size(texts) && n < RECIPE_TEXTS_MAX; n++) {
        const json_t *entry = json_array_get(texts, n);
        const char *language = doc_text(entry, "language");
        text[n] = (struct calibrate_text){doc_text(entry, "path"), language[0] ? language : NULL};
    }
    return n;
}

static enum err calibrate(struct prepare *p)
{
    struct calibrate_text text[RECIPE_TEXTS_MAX];
    struct fault f = {""};
    char made[PREPARE_PATH], kept[PREPARE_PATH], name[80];
    const uint32_t n = take_texts(p, text);
    struct calibrate_options options = {.base_path = doc_text(p->job, "base_path"),
                                        .text = text,
                                        .texts = n,
                                        .tokens_per_language = p->recipe.tokens,
                                        .context = p->recipe.context,
                                        .threads = (uint32_t)doc_int(p->job, "threads"),
                                        .progress = on_calibrate,
                                        .progress_context = p};
    path_in(p, "profile.gguf", made);
    enum err e = calibrate_run(&options, &p->profile, &f);
    if (!e)
        e = profile_save(p->profile, made, p->profile_sha256, &f);
    if (!e) {
        snprintf(kept, sizeof kept, "%s/artifacts/%s", doc_text(p->job, "state"), p->profile_sha256);
        e = rename(made, kept) == 0 ? ERR_NONE : ERR_IO;
        snprintf(name, sizeof name, "calibrated-%.8s.gguf", p->profile_sha256);
        doc_set_text(p->result, "profile", p->profile_sha256);
        doc_set_text(p->result, "profile_name", name);
        profile_close(p->profile); /* what devices read is the file: read it as they do */
        p->profile = NULL;
    }
    if (!e)
        e = profile_load(kept, &p->profile, &f);
    return fault_to_why(p, e, &f);
}

static bool needs_profile(const struct recipe *r)
{
    return (r->method != RECIPE_RTN && r->method != RECIPE_KEEP) || recipe_prunes(&r->prune);
}

static enum err load_profile(struct prepare *p)
{
    const char *path = doc_text(p->job, "profile_path");
    struct fault f = {""};
    if (path[0]) {
        snprintf(p->profile_sha256, sizeof p->profile_sha256, "%s", doc_text(p->job, "profile"));
        return fault_to_why(p, profile_load(path, &p->profile, &f), &f);
    }
    if (json_array_size(json_object_get(p->job, "texts")) > 0 && needs_profile(&p->recipe))
        return calibrate(p);
    return ERR_NONE;
}

static int on_prune(void *context)
{
    say(context, "pruning", 0);
    return 0;
}

/* What goes is chosen here, once for all classes; devices cut the same from their copy. */
static enum err prune(struct prepare *p)
{
    struct calibrate_text text[RECIPE_TEXTS_MAX];
    const uint32_t texts = take_texts(p, text);
    char variant[PREPARE_PATH];
    struct fault f = {""};
    p->planned = p->base;
    p->seen = p->profile;
    if (!recipe_prunes(&p->recipe.prune))
        return ERR_NONE;
    path_in(p, "variant.gguf", variant);
    const struct prune_base_options options = {.base_path = doc_text(p->job, "base_path"),
                                               .base_sha256 = doc_text(p->job, "base"),
                                               .out_path = variant,
                                               .want = &p->recipe.prune,
                                               .profile = p->profile,
                                               .text = text,
                                               .texts = texts,
                                               .tokens = p->recipe.tokens,
                                               .threads = (uint32_t)doc_int(p->job, "threads"),
                                               .progress = on_prune,
                                               .progress_context = p};
    const enum err e = prune_base_open(&options, &p->pruned, &f);
    p->planned = p->pruned.gguf;
    p->seen = p->pruned.profile;
    return fault_to_why(p, e, &f);
}

static int on_sensitivity(void *context, const struct sensitivity_progress *s)
{
    say(context, "measuring sensitivity", s->total ? (double)s->done / (double)s->total : 0);
    return 0;
}

/* What bits are allocated by: once for all classes. */
static enum err measure(struct prepare *p)
{
    struct calibrate_text text[RECIPE_TEXTS_MAX];
    struct fault f = {""};
    if (p->recipe.goal != RECIPE_BPW && !p->recipe.is_left_out)
        return ERR_NONE;
    enum err e = plan_errors_measure(p->planned, p->seen, NULL, p->recipe.method, RAISE_ROWS, on_measure, p,
                                     &p->errors, &f);
    if (!e && p->recipe.is_left_out) {
        const struct sensitivity_options options = {.base_path = gguf_path(p->planned),
                                                    .base_sha256 = doc_text(p->job, "base"),
                                                    .base = p->planned,
                                                    .profile = p->seen,
                                                    .threads = (uint32_t)doc_int(p->job, "threads"),
                                                    .text = text,
                                                    .texts = take_texts(p, text),
                                                    .tokens = p->recipe.tokens,
                                                    .method = p->recipe.method,
                                                    .seed = p->recipe.seed,
                                                    .cache_folder = p->folder,
                                                    .progress = on_sensitivity,
                                                    .progress_context = p};
        e = sensitivity_measure(&options, p->errors, &f);
    }
    return fault_to_why(p, e, &f);
}

static enum err plan_for(struct prepare *p, const struct plan_device *device, struct plan **out, struct fault *f)
{
    enum err e = plan_make(&p->recipe, p->planned, doc_text(p->job, "base"), (uint64_t)doc_int(p->job, "base_bytes"),
                           p->seen, p->profile_sha256, p->errors, device, out, f);
    if (!e && p->pruned.prune && (e = prune_base_attach(&p->pruned, p->profile_sha256, *out))) {
        plan_close(*out);
        *out = NULL;
    }
    return e;
}

/* One step up in bits for a tensor whose input has moved most; it goes in front of the recipe's own
 * rules, which would otherwise match first. */
static uint32_t raised(uint32_t type)
{
    static const uint32_t steps[][2] = {{HAL_Q2_K, HAL_Q3_K},   {HAL_Q3_K, HAL_Q4_K},
                                        {HAL_IQ4_NL, HAL_Q5_K}, {HAL_Q4_0, HAL_Q5_K},
                                        {HAL_Q4_1, HAL_Q5_K},   {HAL_Q4_K, HAL_Q5_K},
                                        {HAL_Q5_0, HAL_Q6_K},   {HAL_Q5_K, HAL_Q6_K},
                                        {HAL_Q6_K, HAL_Q8_0},   {HAL_Q8_0, HAL_F16}};
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++)
        if (steps[i][0] == type)
            return steps[i][1];
    return type;
}

static enum err raise_tensors(struct prepare *p)
{
    const json_t *raise = json_object_get(p->job, "raise");
    struct plan *plan = NULL;
    struct fault f = {""};
    if (json_array_size(raise) == 0)
        return ERR_NONE;
    enum err e = plan_for(p, NULL, &plan, &f);
    for (size_t i = 0; i < json_array_size(raise) && !e; i++) {
        const char *name = json_string_value(json_array_get(raise, i));
        struct recipe *r = &p->recipe;
        for (uint32_t k = 0; name && k < plan->tensors && r->rules < RECIPE_RULES_MAX; k++) {
            const struct plan_tensor *t = &plan->tensor[k];
            if (strcmp(t->name, name) != 0 || t->method == RECIPE_KEEP || raised(t->type) == t->type)
                continue;
            memmove(&r->rule[1], &r->rule[0], r->rules * sizeof r->rule[0]);
            r->rule[0] = (struct recipe_rule){.type = raised(t->type), .method = RECIPE_UNSET};
            snprintf(r->rule[0].match, sizeof r->rule[0].match, "%s", name);
            r->rules++;
        }
    }
    plan_close(plan);
    return fault_to_why(p, e, &f);
}

static enum err encode(const struct plan *plan, uint8_t **out, size_t *size)
{
    uint8_t *bytes = malloc(PLAN_BYTES_MAX);
    if (!bytes)
        return ERR_MEMORY;
    enum err e = plan_encode(plan, bytes, PLAN_BYTES_MAX, size);
    if (e)
        free(bytes);
    else
        *out = bytes;
    return e;
}

/* STATE/predictions/<digest of what decides the variant's bytes>: "<variant> <bytes>\n". */
static enum err prediction_path(struct prepare *p, const struct plan *plan, char out[PREPARE_PATH])
{
    uint8_t hash[crypto_hash_sha256_BYTES], *bytes = NULL;
    char id[65];
    size_t size;
    struct plan bare = *plan; /* a view: what decides the bytes of the variant, and nothing else */
    bare.variant_sha256[0] = '\0';
    bare.name[0] = '\0';
    bare.gates.present = 0;
    bare.trial_s = 0;
    enum err e = encode(&bare, &bytes, &size);
    if (e)
        return e;
    crypto_hash_sha256(hash, bytes, size);
    hex_encode(hash, sizeof hash, id);
    free(bytes);
    snprintf(out, PREPARE_PATH, "%s/predictions/%s", doc_text(p->job, "state"), id);
    return ERR_NONE;
}

static bool read_prediction(const char *path, struct plan *plan)
{
    char digest[65];
    unsigned long long bytes;
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    bool is_ok = fscanf(f, "%64[0-9a-f] %llu", digest, &bytes) == 2 && strlen(digest) == 64;
    fclose(f);
    if (is_ok) {
        memcpy(plan->variant_sha256, digest, sizeof digest);
        plan->variant_bytes = bytes;
    }
    return is_ok;
}

static enum err predict(struct prepare *p, struct plan *plan)
{
    char known[PREPARE_PATH], variant[PREPARE_PATH], line[120];
    struct quantise_result made = {0};
    struct fault f = {""};
    if (!plan_is_reproducible(plan))
        return ERR_NONE;
    enum err e = prediction_path(p, plan, known);
    if (e || read_prediction(known, plan))
        return e;
    path_in(p, "variant.gguf", variant);
    struct quantise_options options = {.base_path = doc_text(p->job, "base_path"),
                                       .out_path = variant,
                                       .plan = plan,
                                       .profile = p->profile,
                                       .threads = (uint32_t)doc_int(p->job, "threads"),
                                       .progress = on_quantise,
                                       .progress_context = p};
    e = quantise_run(&options, &made, &f);
    if (!e) {
        memcpy(plan->variant_sha256, made.sha256, sizeof made.sha256);
        plan->variant_bytes = made.bytes;
        int n = snprintf(line, sizeof line, "%s %llu\n", made.sha256, (unsigned long long)made.bytes);
        e = write_file(known, line, (size_t)n);
        quantise_result_close(&made);
    }
    (void)unlink(variant);
    return fault_to_why(p, e, &f);
}

static enum err write_plan(struct prepare *p, const struct plan *plan, size_t i, json_t *class)
{
    char name[32], path[PREPARE_PATH];
    uint8_t *bytes = NULL;
    size_t size;
    enum err e = encode(plan, &bytes, &size);
    if (e)
        return e;
    snprintf(name, sizeof name, "plan-%zu.cbor", i);
    path_in(p, name, path);
    e = write_file(path, bytes, size);
    free(bytes);
    doc_set_text(class, "variant", plan->variant_sha256);
    doc_set_int(class, "bytes", (int64_t)plan->variant_bytes);
    doc_set_int(class, "plan_bytes", (int64_t)size);
    doc_set_real(class, "bpw", plan_bpw(plan));
    return e;
}

/* A class that no plan fits keeps its reason; the others go on. */
static enum err make_class(struct prepare *p, size_t i)
{
    json_t *class = json_deep_copy(json_array_get(json_object_get(p->job, "classes"), i));
    struct plan_device device = {.memory_bytes = (uint64_t)doc_int(class, "memory_bytes")};
    struct plan *plan = NULL;
    struct fault f = {""};
    enum err e = plan_for(p, &device, &plan, &f);
    if (e == ERR_UNSUPPORTED) {
        doc_set_text(class, "error", f.text[0] ? f.text : "no plan fits this device");
        doc_append(p->classes, class);
        return ERR_NONE;
    }
    (void)fault_to_why(p, e, &f);
    if (!e)
        e = predict(p, plan);
    if (!e)
        e = write_plan(p, plan, i, class);
    plan_close(plan);
    doc_append(p->classes, class);
    return e;
}

static enum err work(struct prepare *p)
{
    char path[PREPARE_PATH], reason[GGUF_REASON_BYTES] = "";
    struct fault f = {""};
    path_in(p, "recipe.yaml", path);
    enum err e = fault_to_why(p, recipe_load(path, &p->recipe, &f), &f);
    if (!e) {
        e = gguf_open(doc_text(p->job, "base_path"), &p->base, reason);
        if (e)
            snprintf(p->why, sizeof p->why, "%s", reason);
    }
    if (!e)
        e = load_profile(p);
    if (!e)
        e = prune(p);
    if (!e)
        e = measure(p);
    if (!e)
        e = raise_tensors(p);
    size_t n = json_array_size(json_object_get(p->job, "classes"));
    for (size_t i = 0; i < n && !e; i++)
        e = make_class(p, i);
    return e;
}

static enum err write_result(struct prepare *p)
{
    char path[PREPARE_PATH];
    char *text = doc_has_failed() ? NULL : json_dumps(p->result, JSON_INDENT(1));
    if (!text)
        return ERR_MEMORY;
    path_in(p, "result.json", path);
    enum err e = write_file(path, text, strlen(text));
    free(text);
    return e;
}

int prepare_main(const char *folder)
{
    struct prepare *p = calloc(1, sizeof *p);
    char path[PREPARE_PATH];
    if (!p)
        return 4;
    p->folder = folder;
    path_in(p, "job.json", path);
    p->job = json_load_file(path, 0, NULL);
    p->result = json_object();
    p->classes = json_array();
    if (!p->job || !p->result || !p->classes)
        return 4; /* the process ends, so nothing is left behind */
    doc_set(p->result, "classes", json_incref(p->classes));
    enum err e = work(p);
    if (e)
        doc_set_text(p->result, "error", p->why[0] ? p->why : err_name(e));
    e = write_result(p);
    plan_errors_close(p->errors);
    prune_base_close(&p->pruned);
    profile_close(p->profile);
    gguf_close(p->base);
    json_decref(p->classes);
    json_decref(p->result);
    json_decref(p->job);
    free(p);
    return e ? 4 : 0;
}
