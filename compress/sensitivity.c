#include "compress/sensitivity.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "compress/digest.h"
#include "compress/plan_internal.h"
#include "compress/sensitivity_kld.h"
#include "hal/block.h"
#include "hal/engine.h"
#include "protocol/hex.h"

enum { GROUPS_MAX = 64, PROBES = 2, TOKENS_DEFAULT = 8192, CONTEXT = 512, STRIP_ROWS = 32, PATH_BYTES = 4096 };

static const uint32_t probe_type[PROBES] = {HAL_Q3_K, HAL_Q5_K};
static const double products_max = 5e13; /* of all evaluations */
static const double kld_least = 1e-9;    /* below this a measurement is rounding */

struct group {
    uint32_t role, band;
    uint32_t first;       /* index in errors of its first tensor, which names it */
    double kld[PROBES];   /* NAN: not measured yet */
    double error[PROBES]; /* sum over its tensors */
    uint32_t tensors;
};

struct work {
    const struct sensitivity_options *options;
    struct plan_errors *errors;
    uint32_t *group_of; /* [errors->tensors] */
    struct group group[GROUPS_MAX];
    uint32_t groups;
    struct tokenizer *tokenizer;
    struct calibrate_windows *windows;
    struct sensitivity_kld *base;
    struct sensitivity_progress progress;
    FILE *cache;
    struct fault *fault;
};

static uint32_t layer_of(const char *name)
{
    return strncmp(name, "blk.", 4) == 0 ? (uint32_t)strtoul(name + 4, NULL, 10) : 0;
}

/* Role by role, layers in bands as narrow as the number of groups allows. */
static bool group_by(struct work *w, uint32_t layers_at_once)
{
    w->groups = 0;
    for (uint32_t t = 0; t < w->errors->tensors; t++) {
        const uint32_t role = plan_role(w->options->base, w->errors->name[t]);
        const uint32_t band = layer_of(w->errors->name[t]) / layers_at_once;
        uint32_t g = 0;
        while (g < w->groups && (w->group[g].role != role || w->group[g].band != band))
            g++;
        if (g == GROUPS_MAX)
            return false;
        if (g == w->groups)
            w->group[w->groups++] = (struct group){.role = role, .band = band, .first = t, .kld = {NAN, NAN}};
        w->group_of[t] = g;
        w->group[g].tensors++;
    }
    return true;
}

/* The error of what a level really becomes in rows of this length. */
static double error_at(const struct plan_errors *e, uint32_t tensor, uint32_t type)
{
    for (uint32_t l = 0; l < e->levels; l++)
        if (e->level[l] == type)
            return e->error[(size_t)tensor * e->levels + l];
    return NAN;
}

static uint32_t cols_of(const struct work *w, uint32_t tensor)
{
    return (uint32_t)gguf_tensor_find(w->options->base, w->errors->name[tensor])->shape[0];
}

static enum err make_groups(struct work *w)
{
    if (!(w->group_of = calloc(w->errors->tensors + 1, sizeof *w->group_of)))
        return ERR_MEMORY;
    for (uint32_t layers = 1; !group_by(w, layers); layers++)
        if (layers > 1 << 16)
            return fault_set(w->fault, ERR_UNSUPPORTED, "more than %d roles of tensors", GROUPS_MAX);
    for (uint32_t t = 0; t < w->errors->tensors; t++)
        for (uint32_t p = 0; p < PROBES; p++) {
            const double error = error_at(w->errors, t, plan_type_for(probe_type[p], cols_of(w, t)));
            w->group[w->group_of[t]].error[p] += isnan(error) ? 0 : error;
        }
    return ERR_NONE;
}

static enum err cut_windows(struct work *w)
{
    const struct sensitivity_options *o = w->options;
    char reason[GGUF_REASON_BYTES] = "";
    const uint32_t trained = calibrate_windows_context(o->base, CONTEXT);
    uint32_t context = trained >= 16 ? trained / 2 * 2 : CONTEXT;
    double values = 0;
    enum err e = tokenizer_open(o->base, &w->tokenizer, reason);
    if (e)
        return fault_set(w->fault, e, "%s", reason);
    for (uint32_t i = 0; i < gguf_tensors(o->base); i++)
        values += (double)gguf_tensor(o->base, i)->rows * (double)gguf_tensor(o->base, i)->shape[0];
    double tokens = products_max / (values * (PROBES * w->groups + 1));
    const uint32_t languages = calibrate_windows_languages(o->text, o->texts);
    const double asked = (double)o->tokens * languages, most = asked > 0 && asked < TOKENS_DEFAULT ? asked : TOKENS_DEFAULT;
    tokens = tokens > most ? most : tokens;
    /* at least one window of each language */
    while (context > 64 && tokens / languages < context)
        context /= 2;
    const uint64_t each = (uint64_t)(tokens / languages);
    return calibrate_windows_open(w->tokenizer, o->text, o->texts, context, each < context ? context : each,
                                  languages > 1, o->seed, &w->windows, w->fault);
}

/* Strips of one tensor through a type and back into the copy, in the base's own type. */
static enum err degrade(const struct work *w, const char *name, uint32_t type, uint8_t *map, const struct gguf *copy)
{
    const struct sensitivity_options *o = w->options;
    const struct hal_plugin *ops = &o->engine->ops;
    const struct gguf_tensor *t = gguf_tensor_find(o->base, name), *to = gguf_tensor_find(copy, name);
    const uint32_t cols = (uint32_t)t->shape[0];
    const struct profile_entry *entry = o->profile ? profile_find(o->profile, name) : NULL;
    const bool is_weighted = entry && entry->cols == cols && t->rows % entry->slices == 0 && o->method != RECIPE_RTN &&
                             plan_role(o->base, name) != PLAN_HEAD;
    const uint64_t slice_rows = is_weighted ? t->rows / entry->slices : t->rows;
    const size_t row_bytes = block_row_bytes(type, cols);
    float *x = malloc((size_t)STRIP_ROWS * cols * sizeof *x), *h = malloc(cols * sizeof *h);
    uint8_t *blocks = malloc(STRIP_ROWS * row_bytes);
    enum err e = x && h && blocks ? ERR_NONE : ERR_MEMORY;
    for (uint64_t row = 0, rows; !e && row < t->rows; row += rows) {
        rows = t->rows - row < STRIP_ROWS ? t->rows - row : STRIP_ROWS;
        if (row % slice_rows + rows > slice_rows)
            rows = slice_rows - row % slice_rows;
        if (is_weighted)
            profile_importance(entry, (uint32_t)(row / slice_rows), h);
        const uint32_t n = (uint32_t)rows;
        e = ops->decode(o->engine->dev, t->type, t->data + row * t->row_bytes, n * t->row_bytes, n, cols, x);
        if (!e)
            e = ops->encode(o->engine->dev, type, o->method == RECIPE_RTN ? HAL_RTN : HAL_SEARCH, x, n, cols,
                            is_weighted ? h : NULL, blocks, n * row_bytes);
        if (!e)
            e = ops->decode(o->engine->dev, type, blocks, n * row_bytes, n, cols, x);
        if (!e)
            e = ops->encode(o->engine->dev, t->type, HAL_RTN, x, n, cols, NULL,
                            map + (to->data - map) + row * t->row_bytes, n * t->row_bytes);
    }
    gguf_drop(o->base, t->data, t->bytes);
    free(x);
    free(h);
    free(blocks);
    return e;
}

/* The model with one group at a level (group NULL: as it is), in a private copy that ends with this call. */
static enum err evaluate(struct work *w, const struct group *g, uint32_t probe, double *kld)
{
    const struct sensitivity_options *o = w->options;
    char reason[GGUF_REASON_BYTES] = "";
    const size_t bytes = (size_t)gguf_bytes(o->base);
    struct gguf *copy = NULL;
    struct model *m = NULL;
    const struct model_options options = sensitivity_kld_model(w->windows);
    const int fd = open(o->base_path, O_RDONLY | O_CLOEXEC);
    uint8_t *map = fd < 0 ? MAP_FAILED : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    if (fd >= 0)
        close(fd);
    if (map == MAP_FAILED)
        return fault_set(w->fault, ERR_IO, "%s: cannot be mapped", o->base_path);
    enum err e = gguf_open_bytes(map, bytes, o->base_path, &copy, reason);
    for (uint32_t t = 0; !e && g && t < w->errors->tensors; t++)
        if (&w->group[w->group_of[t]] == g)
            e = degrade(w, w->errors->name[t], plan_type_for(probe_type[probe], cols_of(w, t)), map, copy);
    if (!e)
        e = model_open(copy, o->engine, &options, &m, reason);
    gguf_close(copy);
    munmap(map, bytes);
    if (!e)
        e = g ? sensitivity_kld_of(w->base, m, kld) : sensitivity_kld_open(m, w->windows, &w->base);
    if (e)
        fault_set(w->fault, e, "%s: %s", g ? w->errors->name[g->first] : o->base_path, reason[0] ? reason : err_name(e));
    model_close(m);
    return e;
}

/* All that the results depend on. */
static enum err identify(const struct work *w, char key[DIGEST_HEX])
{
    struct digest d = {NULL};
    const struct sensitivity_options *o = w->options;
    char head[256];
    uint8_t hash[DIGEST_BYTES];
    snprintf(head, sizeof head, "sensitivity 1 %s %llu %u %s %s %u %u", o->base_sha256, (unsigned long long)gguf_bytes(o->base), o->method == RECIPE_RTN,
             o->engine->ops.name, o->engine->caps.path, w->windows->context, w->windows->windows);
    enum err e = digest_start(&d);
    if (e)
        return e;
    digest_add(&d, head, strlen(head));
    struct gguf_text pruned = {"", 0};
    if (gguf_string(o->base, "tare.pruned_id", &pruned) == ERR_NONE)
        digest_add(&d, pruned.text, pruned.bytes);
    digest_add(&d, probe_type, sizeof probe_type);
    for (uint32_t i = 0; i < w->windows->windows; i++)
        digest_add(&d, w->windows->window[i].token, w->windows->context * sizeof(uint32_t));
    for (uint32_t t = 0; o->profile && t < w->errors->tensors; t++) {
        const struct profile_entry *entry = profile_find(o->profile, w->errors->name[t]);
        float *h = entry ? malloc(entry->cols * sizeof *h) : NULL;
        if (entry && !h) {
            digest_stop(&d);
            return ERR_MEMORY;
        }
        for (uint32_t s = 0; entry && s < entry->slices; s++) {
            profile_importance(entry, s, h);
            digest_add(&d, h, entry->cols * sizeof *h);
        }
        free(h);
    }
    if (!(e = digest_finish(&d, hash)))
        hex_encode(hash, sizeof hash, key);
    return e;
}

static void take_line(struct work *w, const char *line)
{
    char name[PLAN_NAME_MAX], end = 0;
    uint32_t probe;
    double kld;
    if (sscanf(line, "%63s %u %lf%c", name, &probe, &kld, &end) != 4 || end != '\n' || probe >= PROBES || !(kld >= 0))
        return;
    for (uint32_t g = 0; g < w->groups; g++)
        if (strcmp(w->errors->name[w->group[g].first], name) == 0 && isnan(w->group[g].kld[probe])) {
            w->group[g].kld[probe] = kld;
            w->progress.cached++;
        }
}

/* One line per result behind a line that names what they are of. */
static enum err open_cache(struct work *w)
{
    char key[DIGEST_HEX], path[PATH_BYTES], head[128], line[256] = "";
    enum err e = identify(w, key);
    if (e || !w->options->cache_folder ||
        snprintf(path, sizeof path, "%s/sensitivity-%.24s.txt", w->options->cache_folder, key) >= PATH_BYTES)
        return e;
    snprintf(head, sizeof head, "tare-sensitivity 1 %s\n", key);
    FILE *in = fopen(path, "r");
    const bool is_ours = in && fgets(line, sizeof line, in) && strcmp(line, head) == 0;
    while (is_ours && fgets(line, sizeof line, in))
        take_line(w, line);
    if (in)
        fclose(in);
    w->cache = fopen(path, is_ours ? "a" : "w");
    if (w->cache && !is_ours)
        fputs(head, w->cache);
    return ERR_NONE;
}

static enum err report(struct work *w, const char *name)
{
    const struct sensitivity_options *o = w->options;
    w->progress.name = name;
    return o->progress && o->progress(o->progress_context, &w->progress) ? ERR_CANCELLED : ERR_NONE;
}

static enum err measure_all(struct work *w)
{
    w->progress.total = PROBES * w->groups + 1;
    w->progress.done = w->progress.cached;
    enum err e = report(w, "base");
    if (!e && w->progress.cached < PROBES * w->groups)
        e = evaluate(w, NULL, 0, NULL);
    for (uint32_t i = 0; i < PROBES * w->groups && !e; i++) {
        struct group *g = &w->group[i / PROBES];
        const uint32_t probe = i % PROBES;
        if (!isnan(g->kld[probe]))
            continue;
        double kld = 0;
        if ((e = evaluate(w, g, probe, &kld)))
            break;
        g->kld[probe] = kld;
        if (w->cache && (fprintf(w->cache, "%s %u %.17g\n", w->errors->name[g->first], probe, kld) < 0 ||
                         fflush(w->cache) != 0)) {
            fclose(w->cache); /* a cache is only a help */
            w->cache = NULL;
        }
        w->progress.done++;
        e = report(w, w->errors->name[g->first]);
    }
    return e;
}

/* KLD per unit of error, as a power of the error through both measurements; a sound exponent is near 0, a wild
 * one comes from noise. */
static double predict(const struct group *g, double error)
{
    const double low = fmax(g->kld[0], kld_least) / g->error[0], high = fmax(g->kld[1], kld_least) / g->error[1];
    if (!(g->error[0] > 0))
        return error;
    if (!(g->error[1] > 0) || g->error[1] > 0.9 * g->error[0])
        return error * low;
    double power = log(low / high) / log(g->error[0] / g->error[1]);
    power = power < -0.5 ? -0.5 : power > 0.5 ? 0.5 : power;
    return error * low * pow(fmax(error, 1e-12) * g->tensors / g->error[0], power);
}

static void apply(struct work *w)
{
    struct plan_errors *errors = w->errors;
    for (uint32_t t = 0; t < errors->tensors; t++) {
        for (uint32_t l = 0; l < errors->levels; l++) {
            double *error = &errors->error[(size_t)t * errors->levels + l];
            if (!isnan(*error))
                *error = predict(&w->group[w->group_of[t]], *error);
        }
        errors->scale[t] = 1;
    }
}

enum err sensitivity_measure(const struct sensitivity_options *options, struct plan_errors *errors, struct fault *f)
{
    const struct engine_options engine_options = {.threads = options->threads};
    struct sensitivity_options o = *options;
    struct engine *own = NULL;
    struct work *w = calloc(1, sizeof *w);
    if (!w)
        return ERR_MEMORY;
    w->options = &o;
    w->errors = errors;
    w->fault = f;
    enum err e = make_groups(w);
    if (!e && !o.engine && !(e = engine_open(&engine_options, &own, NULL)))
        o.engine = own;
    if (!e)
        e = cut_windows(w);
    if (!e)
        e = open_cache(w);
    if (!e)
        e = measure_all(w);
    if (!e)
        apply(w);
    if (w->cache)
        fclose(w->cache);
    sensitivity_kld_close(w->base);
    calibrate_windows_close(w->windows);
    tokenizer_close(w->tokenizer);
    engine_close(own);
    free(w->group_of);
    free(w);
    return e;
}
