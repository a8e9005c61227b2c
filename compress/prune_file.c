#include "compress/prune_file.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compress/prune_mask.h"
#include "compress/prune_memory.h"
#include "compress/prune_recover.h"
#include "hal/block.h"
#include "hal/engine.h"
#include "model/gguf.h"
#include "protocol/cbor.h"
#include "protocol/hex.h"

#define RECOVERY "towards the base" /* a file that was recovered another way is made anew */

enum { PATH_BYTES = 4096, WIRE_BYTES = 1 << 18, TELL_BYTES = 8 << 20, DROP_BYTES = 8 << 20 };

struct cutting {
    const struct prune_file_options *options;
    const struct prune *p;
    struct prune_kept kept;
    const struct gguf *from; /* the base, or the source's copy after a recovery */
    struct gguf_writer *writer;
    uint32_t *rows, *cols; /* indices of what stays, as long as the longest axis */
    float *x, *y;          /* a strip before and after */
    uint8_t *out;
    uint64_t told;
    struct fault *fault;
};

void prune_file_path(const char *out_path, char *path, size_t capacity)
{
    snprintf(path, capacity, "%s.pruned", out_path);
}

void prune_file_discard(const char *out_path)
{
    static const char *const suffixes[] = {".pruned", ".pruned.part", ".pruned.work"};
    char path[PATH_BYTES];
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
        if (snprintf(path, sizeof path, "%s%s", out_path, suffixes[i]) < PATH_BYTES)
            unlink(path);
}

/* ---- what it is made of ---- */

static enum err identify(const struct prune_file_options *o, char id[DIGEST_HEX], struct fault *f)
{
    struct digest d = {NULL};
    uint8_t hash[DIGEST_BYTES];
    struct cbor_writer w;
    size_t bytes = 0;
    uint8_t *wire = malloc(WIRE_BYTES);
    if (!wire)
        return ERR_MEMORY;
    cbor_writer_init(&w, wire, WIRE_BYTES);
    enum err e = prune_encode(&w, o->prune);
    if (!e)
        e = cbor_written(&w, &bytes);
    if (!e && !(e = digest_start(&d))) {
        digest_add(&d, wire, bytes);
        digest_add(&d, o->base_sha256, strlen(o->base_sha256));
        if (o->prune->is_recovered)
            digest_add(&d, RECOVERY, strlen(RECOVERY));
    }
    free(wire);
    for (uint32_t i = 0; !e && o->prune->is_recovered && i < o->texts; i++) {
        char hex[DIGEST_HEX];
        if (!(e = digest_file(o->text[i].path, hex, NULL)))
            digest_add(&d, hex, strlen(hex));
        else
            fault_set(f, e, "%s: %s", o->text[i].path, strerror(errno));
    }
    for (uint32_t i = 0; !e && o->prune->mask_by == RECIPE_WANDA && i < o->profile->entries; i++) {
        const struct profile_entry *entry = &o->profile->entry[i];
        digest_add(&d, entry->sum2, (size_t)entry->slices * entry->cols * sizeof *entry->sum2);
    }
    if (!e && !(e = digest_finish(&d, hash)))
        hex_encode(hash, sizeof hash, id);
    digest_stop(&d);
    return e;
}

static bool is_there(const char *path, const char id[DIGEST_HEX])
{
    char reason[GGUF_REASON_BYTES];
    struct gguf_text text = {"", 0};
    struct gguf *g = NULL;
    if (gguf_open(path, &g, reason))
        return false;
    const bool is_same = gguf_string(g, "tare.pruned_id", &text) == ERR_NONE && text.bytes == strlen(id) &&
                         memcmp(text.text, id, text.bytes) == 0;
    gguf_close(g);
    return is_same;
}

/* ---- metadata ---- */

static enum err put_key(struct cutting *c, const char *name, uint32_t value)
{
    struct gguf_text a = {"", 0};
    char key[96];
    enum err e = gguf_string(c->from, "general.architecture", &a);
    snprintf(key, sizeof key, "%.*s.%s", (int)(a.bytes < 32 ? a.bytes : 32), a.text, name);
    return e ? e : gguf_writer_u32(c->writer, key, value);
}

/* Widths of heads are stated, since they no longer follow from the width and the number of heads. */
static enum err put_keys(struct cutting *c, const char id[DIGEST_HEX])
{
    char text[160];
    const struct prune_kept *k = &c->kept;
    const struct prune_shape *s = &c->p->shape;
    enum err e = gguf_writer_copy_all(c->writer, c->from);
    if (e || (e = put_key(c, "block_count", k->layers)) || (e = put_key(c, "feed_forward_length", k->ffn)) ||
        (e = put_key(c, "attention.head_count", k->heads)) || (e = put_key(c, "attention.head_count_kv", k->groups)))
        return e;
    if (k->heads != s->heads && ((e = put_key(c, "attention.key_length", s->head_dim)) ||
                                 (e = put_key(c, "attention.value_length", s->value_dim))))
        return e;
    prune_describe(c->p, text, sizeof text);
    if (!(e = gguf_writer_string(c->writer, "tare.pruned", text, strlen(text))))
        e = gguf_writer_string(c->writer, "tare.pruned_id", id, strlen(id));
    return e;
}

/* A matrix in blocks cannot lose single columns or be masked as it is. */
static uint32_t type_of(const struct gguf_tensor *t, const struct prune_cut *cut, const struct prune *p)
{
    const struct block_type *type = block_type(t->type);
    const bool is_cut = cut->is_masked || (cut->cols != PRUNE_ALL &&
                                           prune_axis_kept(p, cut->layer, cut->cols, NULL) != t->shape[0]);
    return type->codes > 0 && is_cut ? HAL_F16 : t->type;
}

static enum err announce(struct cutting *c, const struct gguf_tensor *t)
{
    struct prune_cut cut;
    uint64_t shape[GGUF_DIMS];
    prune_cut(c->p, t->name, t->dims, &cut);
    if (cut.is_dropped)
        return ERR_NONE;
    memcpy(shape, t->shape, sizeof shape);
    if ((cut.cols && prune_axis_length(c->p, cut.cols) != t->shape[0]) ||
        (cut.rows && prune_axis_length(c->p, cut.rows) != t->rows))
        return fault_set(c->fault, ERR_MISMATCH, "%s: %s is [%llu, %llu], the pruning is for other widths",
                         gguf_path(c->from), t->name, (unsigned long long)t->rows, (unsigned long long)t->shape[0]);
    if (cut.cols)
        shape[0] = prune_axis_kept(c->p, cut.layer, cut.cols, NULL);
    if (cut.rows)
        shape[1] = prune_axis_kept(c->p, cut.layer, cut.rows, NULL);
    return gguf_writer_tensor(c->writer, cut.name, type_of(t, &cut, c->p), t->dims, shape);
}

/* ---- data ---- */

static enum err tell(struct cutting *c, uint64_t bytes)
{
    const struct prune_file_options *o = c->options;
    c->told += bytes;
    if (c->told < TELL_BYTES)
        return ERR_NONE;
    c->told = 0;
    return o->progress && o->progress(o->progress_context) ? ERR_CANCELLED : ERR_NONE;
}

/* Whole rows, as they are. */
static enum err copy_rows(struct cutting *c, const struct gguf_tensor *t, uint32_t rows, bool is_all)
{
    enum err e = ERR_NONE;
    const uint8_t *kept = t->data; /* from here on the pages that were read are still there */
    for (uint32_t r = 0; !e && r < rows; r++) {
        const uint8_t *row = t->data + (size_t)(is_all ? r : c->rows[r]) * t->row_bytes;
        if (!(e = gguf_writer_append(c->writer, row, t->row_bytes)))
            e = tell(c, t->row_bytes);
        if ((size_t)(row - kept) >= DROP_BYTES) {
            gguf_drop(c->from, kept, (size_t)(row - kept));
            kept = row;
        }
    }
    gguf_drop(c->from, kept, (size_t)(t->data + t->bytes - kept));
    return e;
}

/* One row decoded, cut, masked and stored as type. */
static enum err cut_row(struct cutting *c, const struct gguf_tensor *t, const struct prune_cut *cut, uint32_t row,
                        uint32_t cols, uint32_t type, const float *h)
{
    const struct hal_plugin *ops = &c->options->engine->ops;
    const size_t bytes = block_row_bytes(type, cols);
    enum err e = ops->decode(c->options->engine->dev, t->type, t->data + (size_t)row * t->row_bytes, t->row_bytes, 1,
                             (uint32_t)t->shape[0], c->x);
    for (uint32_t i = 0; !e && i < cols; i++)
        c->y[i] = c->x[cut->cols ? c->cols[i] : i];
    if (!e && cut->is_masked)
        prune_mask_row(c->p, h, cols, c->y, c->x);
    if (!e)
        e = ops->encode(c->options->engine->dev, type, HAL_RTN, c->y, 1, cols, NULL, c->out, bytes);
    if (!e)
        e = gguf_writer_append(c->writer, c->out, bytes);
    return e ? e : tell(c, t->row_bytes);
}

/* The second moments of the columns that stay, for a mask by wanda; NULL where none are wanted. */
static enum err importance(struct cutting *c, const struct gguf_tensor *t, const struct prune_cut *cut, uint32_t cols,
                           float **out)
{
    *out = NULL;
    if (!cut->is_masked || c->p->mask_by != RECIPE_WANDA)
        return ERR_NONE;
    const struct profile_entry *entry = profile_find(c->options->profile, t->name);
    if (!entry || entry->cols != t->shape[0])
        return fault_set(c->fault, ERR_NOT_FOUND, "mask by wanda: the profile lacks %s", t->name);
    float *h = malloc(entry->cols * sizeof *h);
    if (!h)
        return ERR_MEMORY;
    profile_importance(entry, 0, h);
    for (uint32_t i = 0; cut->cols && i < cols; i++)
        h[i] = h[c->cols[i]];
    *out = h;
    return ERR_NONE;
}

static enum err cut_tensor(struct cutting *c, const struct gguf_tensor *t)
{
    struct prune_cut cut;
    float *h = NULL;
    prune_cut(c->p, t->name, t->dims, &cut);
    if (cut.is_dropped)
        return ERR_NONE;
    const uint32_t rows = cut.rows ? prune_axis_kept(c->p, cut.layer, cut.rows, c->rows) : (uint32_t)t->rows;
    const uint32_t cols = cut.cols ? prune_axis_kept(c->p, cut.layer, cut.cols, c->cols) : (uint32_t)t->shape[0];
    if (cols == t->shape[0] && !cut.is_masked)
        return copy_rows(c, t, rows, cut.rows == PRUNE_ALL);
    const uint32_t type = type_of(t, &cut, c->p);
    enum err e = importance(c, t, &cut, cols, &h);
    for (uint32_t r = 0; !e && r < rows; r++)
        e = cut_row(c, t, &cut, cut.rows ? c->rows[r] : r, cols, type, h);
    free(h);
    gguf_drop(c->from, t->data, t->bytes);
    return e;
}

static enum err make_room(struct cutting *c)
{
    uint64_t longest = 1;
    for (uint32_t i = 0; i < gguf_tensors(c->from); i++) {
        const struct gguf_tensor *t = gguf_tensor(c->from, i);
        if (t->shape[0] > longest)
            longest = t->shape[0];
        if (t->dims == 2 && t->rows > longest && strncmp(t->name, "blk.", 4) == 0)
            longest = t->rows;
    }
    c->rows = malloc(longest * sizeof *c->rows);
    c->cols = malloc(longest * sizeof *c->cols);
    c->x = malloc(longest * sizeof *c->x);
    c->y = malloc(longest * sizeof *c->y);
    c->out = malloc(longest * sizeof *c->y);
    return c->rows && c->cols && c->x && c->y && c->out ? ERR_NONE : ERR_MEMORY;
}

static enum err write_file(struct cutting *c, const char id[DIGEST_HEX])
{
    enum err e = gguf_writer_open(c->options->out_path, gguf_alignment(c->from), &c->writer);
    if (!e && !(e = make_room(c)))
        e = put_keys(c, id);
    for (uint32_t i = 0; !e && i < gguf_tensors(c->from); i++)
        e = announce(c, gguf_tensor(c->from, i));
    if (!e)
        e = gguf_writer_begin(c->writer, 0);
    for (uint32_t i = 0; !e && i < gguf_tensors(c->from); i++)
        e = cut_tensor(c, gguf_tensor(c->from, i));
    if (!e)
        e = gguf_writer_commit(c->writer);
    if (e && c->writer && gguf_writer_reason(c->writer)[0] && c->fault && !c->fault->text[0])
        fault_set(c->fault, e, "%s", gguf_writer_reason(c->writer));
    gguf_writer_close(c->writer);
    free(c->rows);
    free(c->cols);
    free(c->x);
    free(c->y);
    free(c->out);
    return e;
}

static enum err open_source(const struct prune_file_options *o, const char *work, struct prune_source **out,
                            struct fault *f)
{
    if (o->texts == 0)
        return fault_set(f, ERR_ARGUMENT, "prune with recovery: expected calibration text");
    const struct prune_source_options options = {.base_path = o->base_path,
                                                 .beside = work,
                                                 .is_copied = true,
                                                 .engine = o->engine,
                                                 .text = o->text,
                                                 .texts = o->texts,
                                                 .tokens = o->prune->tokens,
                                                 .threads = o->threads ? o->threads : o->engine->host.threads,
                                                 .progress = o->progress,
                                                 .progress_context = o->progress_context};
    return prune_source_open(&options, out, f);
}

enum err prune_file_make(const struct prune_file_options *options, struct prune_file_result *result, struct fault *f)
{
    char reason[GGUF_REASON_BYTES] = "", id[DIGEST_HEX], work[PATH_BYTES];
    struct fault own_fault = {""};
    struct prune_file_result own = {0};
    struct cutting c = {.options = options, .p = options->prune, .fault = f ? f : &own_fault};
    struct prune_source *source = NULL;
    struct prune_shape shape;
    struct gguf *base = NULL;
    result = result ? result : &own;
    *result = own;
    if (options->prune->mask_by == RECIPE_WANDA && !options->profile)
        return fault_set(f, ERR_ARGUMENT, "mask by wanda: expected a profile");
    enum err e = identify(options, id, c.fault);
    if (e)
        return e;
    if ((result->is_reused = is_there(options->out_path, id)))
        return ERR_NONE;
    if (snprintf(work, sizeof work, "%s.work", options->out_path) >= PATH_BYTES)
        return fault_set(f, ERR_ARGUMENT, "%.80s...: the path is too long", options->out_path);
    if ((e = gguf_open(options->base_path, &base, reason)))
        return fault_set(f, e, "%s", reason);
    if ((e = prune_shape_read(base, &shape, c.fault)) || (e = prune_check(c.p, &c.kept)))
        goto out;
    if (memcmp(&shape, &c.p->shape, sizeof shape) != 0) {
        e = fault_set(f, ERR_MISMATCH, "%s: the pruning is for other widths", options->base_path);
        goto out;
    }
    const struct prune_memory_use use = {.is_recovered = c.p->is_recovered};
    if ((e = prune_memory_fit(base, &shape, &use, options->memory_bytes, c.fault)))
        goto out;
    if (c.p->is_recovered) {
        if ((e = open_source(options, work, &source, c.fault)) ||
            (e = prune_recover(source, c.p, options->threads ? options->threads : options->engine->host.threads, result,
                               c.fault)))
            goto out;
        gguf_close(base);
        base = NULL; /* the copy, opened by its name: what the source has mapped lets no pages go */
        if ((e = gguf_open(work, &base, reason))) {
            fault_set(c.fault, e, "%s", reason);
            goto out;
        }
    }
    c.from = base;
    e = write_file(&c, id);
out:
    prune_source_close(source);
    gguf_close(base);
    if (e && !c.fault->text[0])
        fault_set(c.fault, e, "%s: cannot be pruned: %s", options->base_path, err_name(e));
    return e;
}
