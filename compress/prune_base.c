#include "compress/prune_base.h"

#include <stdio.h>
#include <string.h>

#include "compress/plan_internal.h"
#include "compress/prune_choose.h"
#include "hal/engine.h"

enum { PATH_BYTES = 4096 };

static enum err take_choice(const struct prune_base_options *o, struct prune **out, struct fault *f)
{
    if (o->prune)
        return prune_copy(o->prune, out);
    const struct prune_choose_options choose = {.want = o->want,
                                                .base_path = o->base_path,
                                                .beside = o->out_path,
                                                .profile = o->profile,
                                                .engine = o->engine,
                                                .text = o->text,
                                                .texts = o->texts,
                                                .tokens = o->tokens,
                                                .memory_bytes = o->memory_bytes,
                                                .threads = o->threads,
                                                .progress = o->progress,
                                                .progress_context = o->progress_context};
    return prune_choose(&choose, out, f);
}

static enum err open_with_engine(const struct prune_base_options *o, struct prune_base *out, struct fault *f)
{
    char path[PATH_BYTES], reason[GGUF_REASON_BYTES] = "";
    struct prune_base b = {0};
    enum err e = take_choice(o, &b.prune, f);
    if (e)
        return e;
    prune_file_path(o->out_path, path, sizeof path);
    const struct prune_file_options file = {.base_path = o->base_path,
                                            .base_sha256 = o->base_sha256,
                                            .out_path = path,
                                            .prune = b.prune,
                                            .profile = o->profile,
                                            .engine = o->engine,
                                            .text = o->text,
                                            .texts = o->texts,
                                            .memory_bytes = o->memory_bytes,
                                            .threads = o->threads,
                                            .progress = o->progress,
                                            .progress_context = o->progress_context};
    if ((e = prune_file_make(&file, &b.result, f)))
        goto out;
    if ((e = gguf_open(path, &b.gguf, reason)))
        fault_set(f, e, "%s", reason);
    if (!e && o->profile)
        e = prune_profile(b.prune, o->profile, &b.profile, f);
out:
    if (e)
        prune_base_close(&b);
    else
        *out = b;
    return e;
}

enum err prune_base_open(const struct prune_base_options *options, struct prune_base *out, struct fault *f)
{
    const struct engine_options engine_options = {.threads = options->threads};
    struct prune_base_options o = *options;
    if (o.engine)
        return open_with_engine(&o, out, f);
    enum err e = engine_open(&engine_options, &o.engine, NULL);
    if (!e)
        e = open_with_engine(&o, out, f);
    engine_close(o.engine);
    return e;
}

void prune_base_close(struct prune_base *b)
{
    prune_close(b->prune);
    profile_close(b->profile);
    gguf_close(b->gguf);
    *b = (struct prune_base){0};
}

enum err prune_base_attach(const struct prune_base *b, const char *profile_sha256, struct plan *plan)
{
    enum err e = prune_copy(b->prune, &plan->prune);
    if (e || b->prune->mask_by != RECIPE_WANDA || !profile_sha256)
        return e;
    snprintf(plan->profile_sha256, sizeof plan->profile_sha256, "%s", profile_sha256);
    plan->variant_bytes = plan_file_bytes(plan, b->gguf);
    return ERR_NONE;
}
