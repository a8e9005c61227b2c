#include "compress/quantise.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "compress/claim.h"
#include "compress/digest.h"
#include "compress/finite.h"
#include "compress/layer_stream.h"
#include "compress/quantise_work.h"
#include "protocol/hex.h"

enum { CLAIM_MS = 5000 }; /* whoever was killed may be dying still */

/* With Hessians nothing is remembered before the first layer is: its activations follow from what was encoded
 * before. Then at the end of each. */
static enum err checkpoint(struct quantise_work *w, uint32_t i)
{
    uint32_t layer = 0, next = 0;
    if (!w->source)
        return quantise_file_checkpoint(w->file, i + 1, false);
    if (gptq_source_done(w->source) == 0)
        return ERR_NONE;
    const bool is_due = gptq_source_streams(w->source, i, &layer) && i + 1 < w->plan->tensors &&
                        (!gptq_source_streams(w->source, i + 1, &next) || next != layer);
    return quantise_file_checkpoint(w->file, i + 1, is_due);
}

static enum err take_tensor(struct quantise_work *w, uint32_t i)
{
    enum err e = quantise_tensor_take(w, i);
    const bool is_taken = e == ERR_NONE;
    if (is_taken)
        e = checkpoint(w, i);
    if (!e || e == ERR_CANCELLED || w->fault->text[0])
        return e;
    if (e == ERR_IO && quantise_file_reason(w->file)[0])
        return fault_set(w->fault, e, "%s", quantise_file_reason(w->file));
    return fault_set(w->fault, e, "%s: cannot be %s: %s", w->progress.name, is_taken ? "kept" : "quantised", err_name(e));
}

/* The plan must fit the base, and what it wants must be here. */
static enum err check_options(const struct quantise_work *w)
{
    const struct plan *p = w->plan;
    enum err e = plan_check(p, w->base, w->fault);
    for (uint32_t i = 0; !e && i < p->tensors; i++) {
        const struct plan_tensor *t = &p->tensor[i];
        if (!t->is_weighted)
            continue;
        const struct profile_entry *entry =
            w->profile ? profile_find(w->profile, t->name) : NULL;
        if (!entry)
            e = fault_set(w->fault, ERR_NOT_FOUND, "%s: the plan weights it, the profile lacks it", t->name);
        else if (entry->cols != t->cols || t->rows % entry->slices != 0)
            e = fault_set(w->fault, ERR_MISMATCH, "%s: has %u columns, the profile %u", t->name, t->cols,
                          entry->cols);
    }
    return e;
}

/* A base that has no digest yet is known by what a file that was changed or replaced does not keep. */
static enum err add_base(const struct quantise_work *w, struct digest *d)
{
    struct stat s;
    if (!w->options->base)
        return ERR_NONE;
    if (stat(w->options->base_path, &s))
        return ERR_IO;
    const int64_t mark[] = {(int64_t)s.st_dev, (int64_t)s.st_ino, s.st_size, s.st_mtim.tv_sec, s.st_mtim.tv_nsec};
    digest_add(d, mark, sizeof mark);
    return ERR_NONE;
}

/* What the Hessians come from. */
static enum err add_texts(const struct quantise_work *w, struct digest *d)
{
    char hex[DIGEST_HEX];
    enum err e = ERR_NONE;
    const struct quantise_options *o = w->options;
    if (!quantise_tensor_wants_gptq(w->plan))
        return ERR_NONE;
    digest_add(d, &o->text_tokens, sizeof o->text_tokens);
    for (uint32_t i = 0; i < o->texts && !e; i++) {
        e = digest_file(o->text[i], hex, NULL);
        if (e)
            return fault_set(w->fault, e, "%s: cannot be read", o->text[i]);
        digest_add(d, hex, sizeof hex);
        if (o->language)
            digest_add(d, o->language[i], strlen(o->language[i]) + 1);
    }
    return e;
}

/* What a kept part must have been made of to be continued: plan, weights and texts. */
static enum err identify(const struct quantise_work *w, char identity[DIGEST_HEX])
{
    struct digest d = {NULL};
    uint8_t hash[DIGEST_BYTES];
    size_t bytes = 0;
    uint8_t *wire = malloc(PLAN_BYTES_MAX);
    enum err e = wire ? plan_encode(w->plan, wire, PLAN_BYTES_MAX, &bytes) : ERR_MEMORY;
    if (!e && !(e = digest_start(&d))) {
        digest_add(&d, wire, bytes);
        for (uint32_t i = 0; i < w->plan->tensors; i++) {
            const struct plan_tensor *t = &w->plan->tensor[i];
            if (!t->is_weighted)
                continue;
            const struct profile_entry *entry = profile_find(w->profile, t->name);
            for (uint32_t s = 0; s < entry->slices; s++) {
                profile_importance(entry, s, w->h);
                digest_add(&d, w->h, t->cols * sizeof *w->h);
            }
        }
        e = add_base(w, &d);
        if (!e)
            e = add_texts(w, &d);
        if (!e && !(e = digest_finish(&d, hash)))
            hex_encode(hash, sizeof hash, identity);
        digest_stop(&d);
    }
    free(wire);
    return e;
}

static int report_again(void *context)
{
    return quantise_tensor_report(context) != ERR_NONE;
}

/* Between tensors of a layer, by how much of it the text has been through. */
static int report_part(void *context, double part)
{
    struct quantise_work *w = context;
    const uint64_t done = (uint64_t)(part * (double)w->layer_bytes);
    if (w->layer_done + done > w->progress.bytes)
        w->progress.bytes = w->layer_done + done;
    const enum err e = quantise_base_settle(w, false);
    return e ? 1 : report_again(w);
}

/* Pruned first where the plan says so: the rest does not know of it. */
static enum err open_base(struct quantise_work *w)
{
    char reason[GGUF_REASON_BYTES] = "";
    const struct quantise_options *o = w->options;
    struct calibrate_text text[RECIPE_TEXTS_MAX];
    const uint32_t texts = o->texts < RECIPE_TEXTS_MAX ? o->texts : RECIPE_TEXTS_MAX;
    for (uint32_t i = 0; i < texts; i++)
        text[i] = (struct calibrate_text){.path = o->text[i], .language = o->language ? o->language[i] : "text"};
    const struct prune_base_options options = {.base_path = o->base_path,
                                               .base_sha256 = w->plan->base_sha256,
                                               .out_path = o->out_path,
                                               .prune = w->plan->prune,
                                               .profile = o->profile,
                                               .engine = w->engine,
                                               .text = text,
                                               .texts = texts,
                                               .memory_bytes = o->memory_bytes,
                                               .threads = w->threads,
                                               .progress = report_again,
                                               .progress_context = w};
    if (w->plan->prune) {
        enum err e = prune_base_open(&options, &w->pruned, w->fault);
        w->base = w->pruned.gguf;
        w->profile = w->pruned.profile;
        return e;
    }
    const enum err e = gguf_open(o->base_path, &w->opened, reason);
    w->base = w->opened;
    w->profile = o->profile;
    return e ? fault_set(w->fault, e, "%s", reason) : ERR_NONE;
}

static enum err open_source(struct quantise_work *w, const char *identity)
{
    const struct quantise_options *o = w->options;
    struct calibrate_text text[RECIPE_TEXTS_MAX];
    if (!quantise_tensor_wants_gptq(w->plan))
        return ERR_NONE;
    if (o->texts == 0 || o->texts > RECIPE_TEXTS_MAX)
        return fault_set(w->fault, ERR_ARGUMENT, "gptq: expected 1 to %d calibration texts", RECIPE_TEXTS_MAX);
    for (uint32_t i = 0; i < o->texts; i++)
        text[i] = (struct calibrate_text){.path = o->text[i], .language = o->language ? o->language[i] : "text"};
    const struct gptq_source_options options = {.out_path = o->out_path,
                                                .identity = identity,
                                                .plan = w->plan,
                                                .base = w->base,
                                                .awq = w->awq,
                                                .engine = w->engine,
                                                .text = text,
                                                .texts = o->texts,
                                                .tokens = o->text_tokens,
                                                .memory_bytes = o->memory_bytes,
                                                .threads = w->threads,
                                                .reserved = 3 * w->strip_values * sizeof *w->x,
                                                .progress = report_part,
                                                .progress_context = w};
    const enum err e = gptq_source_open(&options, &w->source, w->fault);
    w->counted = e ? 0 : gptq_source_done(w->source);
    return e;
}

/* What a text is taken through is looked at before, all of it: behind a weight that is no number nothing is one. */
static enum err check_base(struct quantise_work *w)
{
    char reason[GGUF_REASON_BYTES] = "";
    const struct quantise_options *o = w->options;
    struct gguf *base = NULL;
    if (o->is_finite || !(w->plan->prune || quantise_tensor_wants_gptq(w->plan)))
        return ERR_NONE;
    enum err e = gguf_open(o->base_path, &base, reason);
    if (e)
        return fault_set(w->fault, e, "%s", reason);
    e = finite_file(base, w->engine, w->fault);
    gguf_close(base);
    return e;
}

static enum err open_all(struct quantise_work *w, uint32_t *done)
{
    char identity[DIGEST_HEX];
    const struct quantise_options *o = w->options;
    const struct engine_options engine_options = {.threads = o->threads};
    enum err e = ERR_NONE;
    w->engine = o->engine;
    if (!w->engine && (e = engine_open(&engine_options, &w->own, NULL)))
        return e;
    if (w->own)
        w->engine = w->own;
    w->threads = w->engine->host.threads;
    w->engine_threads = w->engine->threads;
    if ((e = check_base(w)) || (e = open_base(w)) || (e = check_options(w)))
        return e;
    if ((e = quantise_tensor_room(w)) || (e = identify(w, identity)))
        return e;
    if ((e = awq_open(w->plan, w->base, w->profile, w->engine, &w->awq)))
        return e;
    if ((e = quantise_file_open(o->out_path, w->plan, w->base, identity, &w->file, done, w->fault)))
        return e;
    if (o->base && w->engine_threads > 1)
        (void)!engine_limit_threads(w->engine, w->engine_threads - 1); /* where it cannot, they share */
    return open_source(w, identity);
}

static void release(struct quantise_work *w)
{
    gptq_source_close(w->source);
    awq_close(w->awq);
    free(w->x);
    free(w->y);
    free(w->h);
    free(w->out);
    w->source = NULL;
    w->awq = NULL;
    w->x = w->y = w->h = NULL;
    w->out = NULL;
}

static void close_all(struct quantise_work *w)
{
    release(w);
    if (w->engine && w->engine->threads != w->engine_threads)
        (void)!engine_limit_threads(w->engine, w->engine_threads);
    quantise_file_close(w->file);
    engine_close(w->own);
    prune_base_close(&w->pruned);
    gguf_close(w->opened);
}

enum err quantise_base_settle(struct quantise_work *w, bool is_last)
{
    const struct quantise_options *o = w->options;
    if (!o->base || w->base_sha256[0] || !(is_last || digest_task_is_done(o->base)))
        return ERR_NONE;
    const enum err e = digest_task_wait(o->base, w->base_sha256);
    if (e)
        return fault_set(w->fault, e, "%s: %s", o->base_path, err_name(e));
    (void)!engine_limit_threads(w->engine, w->engine_threads); /* as many as there were */
    return quantise_file_base(w->file, w->base_sha256);
}

/* The judge may open models: what the encoding held is given back first. */
static enum err finish(struct quantise_work *w, struct quantise_result *r)
{
    const struct quantise_options *o = w->options;
    release(w);
    gptq_source_discard(o->out_path);
    memcpy(r->base_sha256, w->plan->base_sha256, sizeof r->base_sha256);
    enum err e = quantise_base_settle(w, true);
    if (e)
        return e;
    if (o->base)
        memcpy(r->base_sha256, w->base_sha256, sizeof r->base_sha256);
    e = quantise_file_finish(w->file, w->plan->variant_sha256, r->sha256, &r->bytes, w->fault);
    if (e)
        return e;
    if (o->accept && (e = o->accept(o->accept_context, quantise_file_part(w->file), r->bytes, w->fault))) {
        quantise_file_refuse(w->file);
        return e;
    }
    return quantise_file_commit(w->file, w->fault);
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static enum err open_result(const struct plan *p, struct quantise_result *r)
{
    memset(r, 0, sizeof *r);
    if (!(r->tensor = calloc(p->tensors, sizeof *r->tensor)))
        return ERR_MEMORY;
    r->tensors = p->tensors;
    for (uint32_t i = 0; i < p->tensors; i++) {
        struct quantise_tensor *t = &r->tensor[i];
        memcpy(t->name, p->tensor[i].name, sizeof t->name);
        t->from = p->tensor[i].from;
        t->type = p->tensor[i].type;
        t->method = p->tensor[i].method;
        t->bytes = plan_tensor_bytes(&p->tensor[i]);
        t->error = t->output_error = NAN;
    }
    return ERR_NONE;
}

void quantise_result_close(struct quantise_result *r)
{
    if (!r)
        return;
    free(r->tensor);
    r->tensor = NULL;
    r->tensors = 0;
}

/* Would the same run, later, or one with more memory, come further? */
static bool may_pass(enum err e)
{
    return e == ERR_IO || e == ERR_MEMORY || e == ERR_CANCELLED || e == ERR_DEVICE || e == ERR_TIMEOUT || e == ERR_CRASHED;
}

/* After an error: what can be continued is left and said, what cannot goes. has_begun: all was opened. */
static void leave(struct quantise_work *w, enum err e, bool has_begun, enum quantise_file_left left)
{
    const char *out_path = w->options->out_path;
    char *text = w->fault->text;
    if (left == QUANTISE_FILE_REFUSED)
        prune_file_discard(out_path);
    if (left == QUANTISE_FILE_NONE || left == QUANTISE_FILE_REFUSED)
        return;
    if (left == QUANTISE_FILE_PART || (has_begun && !may_pass(e))) {
        quantise_file_discard(out_path);
        if (!may_pass(e))
            prune_file_discard(out_path);
        return;
    }
    const size_t used = strlen(text), room = sizeof w->fault->text;
    if (e == ERR_IO && used > 0 && used + 32 < room)
        snprintf(text + used, room - used, "; run again to continue");
}

enum err quantise_run(const struct quantise_options *options, struct quantise_result *out,
                      struct fault *f)
{
    struct fault own_fault = {""};
    struct quantise_work w = {.options = options, .plan = options->plan, .fault = f ? f : &own_fault};
    struct quantise_result r = {0};
    struct claim *claim = NULL;
    const double start = now_s();
    bool has_begun = false;
    uint32_t done = 0;
    w.fault->text[0] = 0;
    enum err e = open_result(w.plan, &r);
    if (e || (!options->is_claimed && (e = claim_take(options->out_path, CLAIM_MS, &claim, w.fault))) ||
        (e = open_all(&w, &done)))
        goto out;
    has_begun = true;
    w.tensor = r.tensor;
    w.progress.tensors = w.plan->tensors;
    for (uint32_t i = 0; i < w.plan->tensors; i++)
        w.progress.bytes_total += quantise_tensor_cost(&w, i);
    for (uint32_t i = 0; i < w.plan->tensors; i++) {
        if (i < done) {
            w.progress.bytes += quantise_tensor_cost(&w, i);
            continue;
        }
        if ((e = take_tensor(&w, i)))
            goto out;
    }
    for (uint32_t i = 0; i < w.plan->tensors; i++) /* of layers that were done, the last ones may not be in the file yet */
        r.tensors_resumed += i < done || (w.source && layer_stream_layer(w.plan->tensor[i].name) < w.counted);
    e = finish(&w, &r);
    if (w.plan->prune && (!e || e == ERR_GATE))
        prune_file_discard(options->out_path);
    r.seconds = now_s() - start;
out:
    if (e && w.fault->text[0] == 0)
        fault_set(w.fault, e, "%s: %s", options->out_path, err_name(e));
    enum quantise_file_left left = quantise_file_left(w.file);
    if (left == QUANTISE_FILE_PART && w.source && gptq_source_done(w.source) > 0)
        left = QUANTISE_FILE_STATE; /* its own */
    close_all(&w);
    if (e)
        leave(&w, e, has_begun, left);
    claim_drop(claim);
    if (e) {
        if (e != ERR_GATE)
            quantise_result_close(&r);
    }
    if (!e || e == ERR_GATE)
        *out = r;
    return e;
}
