/* worker_tune.c: a variant is opened for serving with the settings that suit this device. What the calibration
 * run found lies beside the variant, <variant>.tune, so that a restart need not measure again. */
#include <stdio.h>
#include <string.h>

#include "agent/log.h"
#include "agent/worker_serve.h"
#include "model/tune.h"

static void on_sample(void *context)
{
    worker_beat(context, 0, 0);
}

static void say(const struct tune_choice *c)
{
    for (uint32_t i = 0; i < c->lines; i++)
        log_info("worker: %s", c->line[i]);
}

/* A device that cannot be measured serves with what fits. */
static void measure(struct worker_self *w, const char *path, struct engine *e, struct model *m,
                    const struct device_info *device, const struct tune_wish *wish, uint64_t bytes,
                    struct tune_choice *c)
{
    char store[1024], identity[320], key[TUNE_KEY_BYTES];
    const char *name = strrchr(path, '/');
    snprintf(store, sizeof store, "%s.tune", path);
    snprintf(identity, sizeof identity, "%.240s %llu bytes", name ? name + 1 : path, (unsigned long long)bytes);
    tune_key(device, e, identity, wish, key);
    enum err error = tune_load(store, key, c);
    if (error) {
        error = tune_measure(e, m, device, wish, TUNE_SECONDS, on_sample, w, c);
        if (error)
            log_warning("worker: the calibration run failed, settings are the probe's: %s", err_name(error));
        else if (c->samples && tune_save(store, key, c))
            log_warning("worker: what was measured cannot be kept: file=%s", store);
    }
    if (!error && tune_apply(e, m, c))
        log_warning("worker: the plugin takes no number of threads: threads=%u", c->threads);
}

enum err worker_tune_open(struct worker_self *w, const char *path, const struct gguf *g, struct engine *e,
                          const struct model_options *options, struct model **out, char *why)
{
    struct model_options o = *options;
    struct device_info device;
    struct tune_choice c;
    const struct tune_wish wish = {.threads = w->threads,
                                   .chunk = o.batch,
                                   .cache = o.cache_k,
                                   .context = o.context,
                                   .sequences = o.sequences - o.resting, /* the others take no memory of their own */
                                   .memory_bytes = w->memory_bytes,
                                   .cache_bytes = o.spill_folder ? o.cache_bytes : 0};
    enum err error = device_probe(NULL, &device);
    if (!error)
        error = tune_fit(g, e, &device, &wish, &c, why);
    if (error)
        return error;
    tune_options(&c, &o);
    o.sequences += o.resting;
    error = worker_open_model(g, e, &o, out, why);
    if (error)
        return error;
    measure(w, path, e, *out, &device, &wish, gguf_bytes(g), &c);
    say(&c);
    return ERR_NONE;
}
