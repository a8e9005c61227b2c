#include "compress/quantise.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "compress/awq.h"
#include "compress/digest.h"
#include "compress/gptq_source.h"
#include "compress/prune_base.h"
#include "compress/quantise_file.h"
#include "compress/resident.h"
#include "hal/block.h"
#include "hal/engine.h"
#include "protocol/hex.h"

enum {
    MEMORY_DEFAULT = 64 << 20,
    MEMORY_SLACK = 6 << 20, /* of threads, the digest and what allocators keep */
    STRIP_BYTES = 8 << 20, /* of F32: more gains nothing */
    COPY_BYTES = 1 << 20
};

struct work {
    const struct quantise_options *options;
    const struct plan *plan;
    const struct gguf *base;        /* the plan's: pruned.gguf where it prunes, else opened */
    const struct profile *profile;  /* of base */
    struct gguf *opened;
    struct prune_base pruned;
    struct engine *engine;
    struct engine *own;
    struct awq *awq;
    struct quantise_file *file;
    struct gptq_source *source; /* NULL: no tensor wants gptq */
    float *x, *y;   /* a strip and, when measured or fed back, its decoding */
    float *h;       /* importance of the slice in work */
    uint8_t *out;   /* the strip's blocks */
    size_t strip_values;
    uint32_t threads;
    struct quantise_progress progress;
    double error, energy; /* of the tensor in work */
    struct fault *fault;
};

static bool is_gptq(const struct plan_tensor *t)
{
    return t->method == RECIPE_GPTQ || t->method == RECIPE_GPTQ_AWQ;
}

static bool wants_gptq(const struct plan *p)
{
    bool wants = false;
    for (uint32_t i = 0; i < p->tensors; i++)
        wants = wants || is_gptq(&p->tensor[i]);
    return wants;
}

static enum err report(struct work *w)
{
    const struct quantise_options *o = w->options;
    return o->progress && o->progress(o->progress_context, &w->progress) ? ERR_CANCELLED : ERR_NONE;
}

/* Room for strips: the largest row must fit, else the cap says how many rows are taken at once. */
static enum err make_room(struct work *w)
{
    uint64_t cap = MEMORY_DEFAULT;
    const bool has_y = w->options->is_measured || wants_gptq(w->plan);
    const uint32_t floats = has_y ? 2 : 1;
    uint64_t longest = 1;
    for (uint32_t i = 0; i < w->plan->tensors; i++)
        if (w->plan->tensor[i].cols > longest)
            longest = w->plan->tensor[i].cols;
    const uint64_t row_bytes = (floats + 2) * sizeof(float) * longest; /* with the mapped pages it is read from */
    if (w->options->memory_bytes) {
        const uint64_t used = resident_now() + MEMORY_SLACK, memory = w->options->memory_bytes;
        if (memory < used + row_bytes)
            return fault_set(w->fault, ERR_ARGUMENT, "memory: %.1f MiB is too little, at least %.1f MiB is needed",
                             (double)memory / 1048576, (double)(used + row_bytes) / 1048576);
        cap = memory - used < MEMORY_DEFAULT ? memory - used : MEMORY_DEFAULT;
    }
    uint64_t values = cap / ((floats + 2) * sizeof(float));
    if (values > STRIP_BYTES / sizeof(float))
        values = STRIP_BYTES / sizeof(float);
    if (values < longest)
        values = longest;
    w->strip_values = (size_t)values;
    w->x = malloc(values * sizeof *w->x);
    w->y = has_y ? malloc(values * sizeof *w->y) : NULL;
    w->out = malloc(values * sizeof *w->x); /* no type has more bits than F32 */
    w->h = malloc(longest * sizeof *w->h);
    if (!w->x || !w->out || !w->h || (has_y && !w->y))
        return ERR_MEMORY;
    return ERR_NONE;
}

static enum err copy_tensor(struct work *w, const struct gguf_tensor *t)
{
    for (size_t at = 0; at < t->bytes; at += COPY_BYTES) {
        const size_t n = t->bytes - at < COPY_BYTES ? t->bytes - at : COPY_BYTES;
        enum err e = quantise_file_append(w->file, t->data + at, n);
        if (e)
            return e;
        gguf_drop(w->base, t->data + at, n);
        w->progress.bytes += n;
        if ((e = report(w)))
            return e;
    }
    return ERR_NONE;
}

static void measure(struct work *w, uint32_t rows, uint32_t cols, const float *from, bool is_weighted)
{
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = 0; c < cols; c++) {
            const double h = is_weighted ? (double)w->h[c] : 1;
            const double x = (double)from[(size_t)r * cols + c];
            const double d = x - (double)w->y[(size_t)r * cols + c];
            w->error += h * d * d;
            w->energy += h * x * x;
        }
}

/* What the blocks of rows [row, row + rows) say, compared with x and handed to later layers. */
static enum err look_back(struct work *w, uint32_t i, uint32_t row, uint32_t rows, const float *x,
                          const uint8_t *blocks)
{
    const struct plan_tensor *to = &w->plan->tensor[i];
    if (!w->y)
        return ERR_NONE;
    enum err e = w->engine->ops.decode(w->engine->dev, to->type, blocks, rows * block_row_bytes(to->type, to->cols),
                                       rows, to->cols, w->y);
    if (e)
        return e;
    measure(w, rows, to->cols, x, to->is_weighted);
    return w->source && to->type != to->from ? gptq_source_put(w->source, i, row, rows, w->y) : ERR_NONE;
}

/* What Q8_0 keeps of the strip: the first step of a cascade. Where rows do not divide there is none. */
static enum err through_q8(struct work *w, uint32_t rows, uint32_t cols)
{
    const size_t bytes = rows * block_row_bytes(HAL_Q8_0, cols);
    if (bytes == 0)
        return ERR_NONE;
    enum err e = w->engine->ops.encode(w->engine->dev, HAL_Q8_0, HAL_RTN, w->x, rows, cols, NULL, w->out, bytes);
    return e ? e : w->engine->ops.decode(w->engine->dev, HAL_Q8_0, w->out, bytes, rows, cols, w->x);
}

/* rows rows from `row` on: decode, fold, encode, append. */
static enum err encode_strip(struct work *w, uint32_t i, uint32_t row, uint32_t rows)
{
    const struct plan_tensor *to = &w->plan->tensor[i];
    const struct gguf_tensor *from = gguf_tensor(w->base, i);
    const struct hal_plugin *ops = &w->engine->ops;
    const size_t bytes = rows * block_row_bytes(to->type, to->cols);
    const uint8_t *data = from->data + (size_t)row * from->row_bytes;
    const float *column, *row_scale;
    enum err e = ops->decode(w->engine->dev, from->type, data, rows * from->row_bytes, rows, to->cols, w->x);
    if (e)
        return e;
    awq_scales(w->awq, i, &column, &row_scale);
    awq_apply(w->x, row, rows, to->cols, column, row_scale);
    if (to->method == RECIPE_CASCADE && (e = through_q8(w, rows, to->cols)))
        return e;
    const uint32_t method = to->method == RECIPE_RTN || to->method == RECIPE_KEEP ? HAL_RTN : HAL_SEARCH;
    if ((e = ops->encode(w->engine->dev, to->type, method, w->x, rows, to->cols,
                         to->is_weighted ? w->h : NULL, w->out, bytes)) ||
        (e = quantise_file_append(w->file, w->out, bytes)))
        return e;
    if (to->method == RECIPE_CASCADE && w->y && /* the loss is counted from the base, not from Q8_0 */
        (e = w->engine->ops.decode(w->engine->dev, from->type, data, rows * from->row_bytes, rows, to->cols, w->x)))
        return e;
    if ((e = look_back(w, i, row, rows, w->x, w->out)))
        return e;
    gguf_drop(w->base, data, rows * from->row_bytes);
    w->progress.bytes += rows * from->row_bytes;
    return report(w);
}

static enum err encode_tensor(struct work *w, uint32_t i)
{
    const struct plan_tensor *to = &w->plan->tensor[i];
    const struct profile_entry *entry =
        to->is_weighted ? profile_find(w->profile, to->name) : NULL;
    const uint32_t slices = entry ? entry->slices : 1;
    const uint32_t slice_rows = to->rows / slices;
    const uint32_t most = (uint32_t)(w->strip_values / to->cols);
    const float *column, *row_scale;
    awq_scales(w->awq, i, &column, &row_scale);
    for (uint32_t s = 0; s < slices; s++) {
        if (entry) {
            profile_importance(entry, s, w->h);
            if (column)
                awq_importance(w->h, to->cols, column);
        }
        for (uint32_t row = 0; row < slice_rows; row += most) {
            const uint32_t rows = slice_rows - row < most ? slice_rows - row : most;
            enum err e = encode_strip(w, i, s * slice_rows + row, rows);
            if (e)
                return e;
        }
    }
    return ERR_NONE;
}

static bool is_copied(const struct work *w, uint32_t i)
{
    const struct plan_tensor *t = &w->plan->tensor[i];
    const float *column, *row_scale;
    awq_scales(w->awq, i, &column, &row_scale);
    return t->type == t->from && t->method != RECIPE_SCHEME && !column && !row_scale;
}

/* By the plan's scheme: strips, or all rows at once where they share one scale. */
static enum err scheme_tensor(struct work *w, uint32_t i)
{
    const struct plan_tensor *to = &w->plan->tensor[i];
    const struct gguf_tensor *from = gguf_tensor(w->base, i);
    const struct scheme *s = &w->plan->scheme;
    const bool is_whole = s->group == SCHEME_TENSOR;
    const uint32_t most = is_whole ? to->rows : (uint32_t)(w->strip_values / to->cols);
    const size_t values = (size_t)most * to->cols, row_bytes = block_row_bytes(to->type, to->cols);
    float *x = malloc(values * sizeof *x), *scratch = malloc((is_whole ? values : to->cols) * sizeof *scratch);
    uint8_t *out = malloc(most * row_bytes);
    enum err e = x && scratch && out ? ERR_NONE : ERR_MEMORY;
    for (uint32_t row = 0; row < to->rows && !e; row += most) {
        const uint32_t rows = to->rows - row < most ? to->rows - row : most;
        const uint8_t *data = from->data + (size_t)row * from->row_bytes;
        if ((e = w->engine->ops.decode(w->engine->dev, from->type, data, rows * from->row_bytes, rows, to->cols, x)) ||
            (e = scheme_encode(s, to->type, x, rows, to->cols, scratch, out)) ||
            (e = quantise_file_append(w->file, out, rows * row_bytes)))
            break;
        for (uint32_t at = 0, n; at < rows && !e; at += n) { /* y holds a strip */
            n = (uint32_t)(w->strip_values / to->cols);
            n = rows - at < n ? rows - at : n;
            e = look_back(w, i, row + at, n, x + (size_t)at * to->cols, out + at * row_bytes);
        }
        gguf_drop(w->base, data, rows * from->row_bytes);
        w->progress.bytes += rows * from->row_bytes;
        e = e ? e : report(w);
    }
    free(x);
    free(scratch);
    free(out);
    return e;
}

/* A whole tensor at once: its codes depend on each other along the row, its dampening on all rows. */
static enum err feed_back_tensor(struct work *w, uint32_t i, struct gptq_basis *basis,
                                 struct quantise_tensor *out)
{
    const struct plan_tensor *to = &w->plan->tensor[i];
    const struct gguf_tensor *from = gguf_tensor(w->base, i);
    const size_t row_bytes = block_row_bytes(to->type, to->cols);
    const uint32_t most = (uint32_t)(w->strip_values / to->cols);
    const float *column, *row_scale;
    struct gptq_result result;
    float *x = malloc((size_t)to->rows * to->cols * sizeof *x);
    uint8_t *blocks = malloc(to->rows * row_bytes);
    enum err e = x && blocks ? w->engine->ops.decode(w->engine->dev, from->type, from->data, from->bytes, to->rows,
                                                     to->cols, x)
                             : ERR_MEMORY;
    if (e)
        goto out;
    awq_scales(w->awq, i, &column, &row_scale);
    awq_apply(x, 0, to->rows, to->cols, column, row_scale);
    memcpy(w->h, basis->importance, to->cols * sizeof *w->h);
    if ((e = gptq_encode(w->engine, w->threads, to->type, x, to->rows, to->cols, basis, NULL, blocks, &result)) ||
        (e = quantise_file_append(w->file, blocks, to->rows * row_bytes)))
        goto out;
    out->output_error = result.error[result.taken];
    out->method = result.taken == GPTQ_SEARCH ? RECIPE_SEARCH : to->method;
    for (uint32_t row = 0; !e && row < to->rows; row += most) {
        const uint32_t rows = to->rows - row < most ? to->rows - row : most;
        e = look_back(w, i, row, rows, x + (size_t)row * to->cols, blocks + row * row_bytes);
    }
    gguf_drop(w->base, from->data, from->bytes);
    w->progress.bytes += from->bytes;
    if (!e)
        e = report(w);
out:
    free(x);
    free(blocks);
    return e;
}

static enum err encode_any(struct work *w, uint32_t i, struct quantise_tensor *out)
{
    struct gptq_basis *basis = NULL;
    enum err e = ERR_NONE;
    if (is_copied(w, i))
        return copy_tensor(w, gguf_tensor(w->base, i));
    if (w->source && (e = gptq_source_get(w->source, i, &basis, w->fault)))
        return e;
    if (basis)
        return feed_back_tensor(w, i, basis, out);
    if (w->plan->tensor[i].method == RECIPE_SCHEME)
        return scheme_tensor(w, i);
    if (is_gptq(&w->plan->tensor[i]))
        out->method = RECIPE_SEARCH;
    return encode_tensor(w, i);
}

/* With Hessians a run can go on only where the next ones are collected: behind a band of layers. */
static enum err checkpoint(struct work *w, uint32_t i)
{
    if (!w->source)
        return quantise_file_checkpoint(w->file, i + 1, false);
    if (!gptq_source_ends(w->source, i))
        return ERR_NONE;
    enum err e = gptq_source_sync(w->source);
    return e ? e : quantise_file_checkpoint(w->file, i + 1, true);
}

static enum err take_tensor(struct work *w, uint32_t i, struct quantise_tensor *out)
{
    const struct plan_tensor *to = &w->plan->tensor[i];
    w->progress.tensor = i;
    w->progress.name = to->name;
    w->error = w->energy = 0;
    enum err e = encode_any(w, i, out);
    if (e)
        return e == ERR_CANCELLED || (w->fault && w->fault->text[0])
                   ? e
                   : fault_set(w->fault, e, "%s: cannot be quantised: %s", to->name, err_name(e));
    if (is_copied(w, i))
        out->error = 0;
    else if (w->y)
        out->error = w->energy > 0 ? w->error / w->energy : 0;
    return checkpoint(w, i);
}

/* The plan must fit the base, and what it wants must be here. */
static enum err check_options(const struct work *w)
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
static enum err add_base(const struct work *w, struct digest *d)
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

/* What a kept part must have been made of to be continued: plan and weights. */
static enum err identify(const struct work *w, char identity[DIGEST_HEX])
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
        if (!e && !(e = digest_finish(&d, hash)))
            hex_encode(hash, sizeof hash, identity);
        digest_stop(&d);
    }
    free(wire);
    return e;
}

static int report_again(void *context)
{
    return report(context) != ERR_NONE;
}

/* Pruned first where the plan says so: the rest does not know of it. */
static enum err open_base(struct work *w)
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

static enum err open_source(struct work *w, uint32_t done)
{
    const struct quantise_options *o = w->options;
    struct calibrate_text text[RECIPE_TEXTS_MAX];
    if (!wants_gptq(w->plan))
        return ERR_NONE;
    if (o->texts == 0 || o->texts > RECIPE_TEXTS_MAX)
        return fault_set(w->fault, ERR_ARGUMENT, "gptq: expected 1 to %d calibration texts", RECIPE_TEXTS_MAX);
    for (uint32_t i = 0; i < o->texts; i++)
        text[i] = (struct calibrate_text){.path = o->text[i], .language = o->language ? o->language[i] : "text"};
    const struct gptq_source_options options = {.out_path = o->out_path,
                                                .plan = w->plan,
                                                .base = w->base,
                                                .awq = w->awq,
                                                .engine = w->engine,
                                                .text = text,
                                                .texts = o->texts,
                                                .tokens = o->text_tokens,
                                                .memory_bytes = o->memory_bytes,
                                                .threads = w->threads,
                                                .done = done,
                                                .progress = report_again,
                                                .progress_context = w};
    return gptq_source_open(&options, &w->source, w->fault);
}

static enum err open_all(struct work *w, uint32_t *done)
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
    if ((e = open_base(w)) || (e = check_options(w)))
        return e;
    if ((e = make_room(w)) || (e = identify(w, identity)))
        return e;
    if ((e = awq_open(w->plan, w->base, w->profile, w->engine, &w->awq)))
        return e;
    e = quantise_file_open(o->out_path, w->plan, w->base, identity, &w->file, done, w->fault);
    return e ? e : open_source(w, *done);
}

static void release(struct work *w)
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

static void close_all(struct work *w)
{
    release(w);
    quantise_file_close(w->file);
    engine_close(w->own);
    prune_base_close(&w->pruned);
    gguf_close(w->opened);
}

/* The judge may open models: what the encoding held is given back first. */
static enum err finish(struct work *w, struct quantise_result *r)
{
    const struct quantise_options *o = w->options;
    release(w);
    gptq_source_discard(o->out_path);
    memcpy(r->base_sha256, w->plan->base_sha256, sizeof r->base_sha256);
    enum err e = o->base ? digest_task_wait(o->base, r->base_sha256) : ERR_NONE;
    if (e)
        return fault_set(w->fault, e, "%s: %s", o->base_path, err_name(e));
    if (o->base && (e = quantise_file_base(w->file, r->base_sha256)))
        return e;
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

enum err quantise_run(const struct quantise_options *options, struct quantise_result *out,
                      struct fault *f)
{
    struct fault own_fault = {""};
    struct work w = {.options = options, .plan = options->plan, .fault = f ? f : &own_fault};
    struct quantise_result r = {0};
    const double start = now_s();
    uint32_t done = 0;
    w.fault->text[0] = 0;
    enum err e = open_result(w.plan, &r);
    if (e || (e = open_all(&w, &done)))
        goto out;
    w.progress.tensors = w.plan->tensors;
    for (uint32_t i = 0; i < w.plan->tensors; i++)
        w.progress.bytes_total += gguf_tensor(w.base, i)->bytes;
    for (uint32_t i = 0; i < w.plan->tensors; i++) {
        if (i < done) {
            w.progress.bytes += gguf_tensor(w.base, i)->bytes;
            continue;
        }
        if ((e = take_tensor(&w, i, &r.tensor[i])))
            goto out;
    }
    r.tensors_resumed = done;
    e = finish(&w, &r);
    if (w.plan->prune && (!e || e == ERR_GATE))
        prune_file_discard(options->out_path);
    r.seconds = now_s() - start;
out:
    close_all(&w);
    if (e) {
        if (w.fault->text[0] == 0)
            fault_set(w.fault, e, "%s: %s", options->out_path, err_name(e));
        if (e != ERR_GATE)
            quantise_result_close(&r);
    }
    if (!e || e == ERR_GATE)
        *out = r;
    return e;
}
