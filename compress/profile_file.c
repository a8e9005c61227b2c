#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compress/digest.h"
#include "compress/profile.h"
#include "hal/hal.h"
#include "model/gguf.h"

enum { DAT_CHUNK = 512 }; /* tokens of one call in the older form, which does not say */

static const char sums_suffix[] = ".in_sum2";
static const char counts_suffix[] = ".counts";

static bool is_plausible(const double *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(x[i] >= 0) || isinf(x[i]))
            return false;
    return true;
}

static void widen(const uint8_t *from, double *to, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float x;
        memcpy(&x, from + 4 * i, sizeof x);
        to[i] = x;
    }
}

/* One NAME.in_sum2 with its NAME.counts. */
static enum err load_entry(const struct gguf *g, const struct gguf_tensor *sums, const char *path,
                           struct profile *p, struct fault *f)
{
    char name[GGUF_NAME_BYTES + sizeof counts_suffix];
    const size_t stem = strlen(sums->name) - strlen(sums_suffix);
    struct profile_entry *entry;
    snprintf(name, sizeof name, "%.*s%s", (int)stem, sums->name, counts_suffix);
    const struct gguf_tensor *counts = gguf_tensor_find(g, name);
    if (!counts || counts->type != HAL_F32 || sums->type != HAL_F32 || counts->shape[0] != 1 ||
        counts->rows != sums->rows || sums->rows > PROFILE_SLICES_MAX)
        return fault_set(f, ERR_FORMAT, "%s: %s: expected F32 beside %.*s.counts with a count per row", path,
                         sums->name, (int)stem, sums->name);
    name[stem] = 0;
    if (sums->shape[0] > PROFILE_COLS_MAX)
        return fault_set(f, ERR_FORMAT, "%s: %s: expected at most %d columns", path, name,
                         PROFILE_COLS_MAX);
    enum err e = profile_entry_get(p, name, (uint32_t)sums->shape[0], (uint32_t)sums->rows, &entry);
    if (e)
        return fault_set(f, e == ERR_MEMORY ? e : ERR_FORMAT, "%s: %s: cannot be taken", path, name);
    widen(sums->data, entry->sum2, (size_t)entry->slices * entry->cols);
    widen(counts->data, entry->count, entry->slices);
    if (!is_plausible(entry->sum2, (size_t)entry->slices * entry->cols) ||
        !is_plausible(entry->count, entry->slices))
        return fault_set(f, ERR_FORMAT, "%s: %s: expected finite sums of squares of at least 0", path,
                         name);
    return ERR_NONE;
}

static void copy_text(const struct gguf *g, const char *key, char *out, size_t capacity)
{
    struct gguf_text t;
    out[0] = 0;
    if (gguf_string(g, key, &t) == ERR_NONE && t.bytes < capacity) {
        memcpy(out, t.text, t.bytes);
        out[t.bytes] = 0;
    }
}

static enum err load_strings(const struct gguf *g, const char *key, struct profile *p,
                             enum err (*add)(struct profile *, const char *))
{
    const struct gguf_value *v = gguf_find(g, key);
    struct gguf_text t;
    size_t at = 0;
    enum err e = ERR_NONE;
    for (uint32_t i = 0; v && !e && i < 1024 && gguf_next_string(v, &at, &t); i++) {
        char text[256];
        snprintf(text, sizeof text, "%.*s", (int)(t.bytes < 255 ? t.bytes : 255), t.text);
        e = add(p, text);
    }
    return e;
}

static enum err add_language_text(struct profile *p, const char *text)
{
    char name[32];
    const char *equals = strchr(text, '=');
    if (!equals || equals - text >= (ptrdiff_t)sizeof name)
        return ERR_NONE; /* provenance only: what we cannot read we do not keep */
    memcpy(name, text, (size_t)(equals - text));
    name[equals - text] = 0;
    return profile_add_language(p, name, strtoull(equals + 1, NULL, 10));
}

static enum err load_gguf(const char *path, struct profile *p, struct fault *f)
{
    char reason[GGUF_REASON_BYTES] = "";
    struct gguf *g = NULL;
    struct gguf_text kind;
    enum err e = gguf_open(path, &g, reason);
    if (e)
        return fault_set(f, e, "%s", reason);
    if (gguf_string(g, "general.type", &kind) || kind.bytes != 7 || memcmp(kind.text, "imatrix", 7)) {
        e = fault_set(f, ERR_FORMAT, "%s: general.type: expected \"imatrix\"", path);
        goto out;
    }
    if (gguf_u32(g, "imatrix.chunk_count", &p->chunks) || gguf_u32(g, "imatrix.chunk_size", &p->chunk_size)) {
        e = fault_set(f, ERR_FORMAT, "%s: expected imatrix.chunk_count and imatrix.chunk_size", path);
        goto out;
    }
    for (uint32_t i = 0; i < gguf_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor(g, i);
        const size_t bytes = strlen(t->name);
        if (bytes > strlen(sums_suffix) && strcmp(t->name + bytes - strlen(sums_suffix), sums_suffix) == 0)
            if ((e = load_entry(g, t, path, p, f)))
                goto out;
    }
    if ((e = load_strings(g, "imatrix.datasets", p, profile_add_dataset)) ||
        (e = load_strings(g, "tare.profile.languages", p, add_language_text)))
        goto out;
    copy_text(g, "tare.profile.base_sha256", p->base_sha256, sizeof p->base_sha256);
    copy_text(g, "tare.profile.method", p->method, sizeof p->method);
out:
    gguf_close(g);
    return e;
}

/* The older form: i32 entries; per entry i32 bytes, name, i32 calls, i32 values, F32 values (means of
 * squares times calls); then, in later versions, i32 calls and i32 bytes, name of the text. */
struct dat {
    FILE *in;
    const char *path;
    struct fault *fault;
};

static enum err dat_number(struct dat *d, const char *what, int32_t low, int32_t high, int32_t *out)
{
    int32_t x;
    if (fread(&x, sizeof x, 1, d->in) != 1)
        return fault_set(d->fault, ERR_FORMAT, "%s: ends before %s", d->path, what);
    if (x < low || x > high)
        return fault_set(d->fault, ERR_FORMAT, "%s: %s is %d: expected %d to %d", d->path, what, x, low,
                         high);
    *out = x;
    return ERR_NONE;
}

static enum err dat_entry(struct dat *d, struct profile *p)
{
    char name[PROFILE_NAME_MAX];
    int32_t bytes, calls, values;
    struct profile_entry *entry;
    enum err e = dat_number(d, "length of a name", 1, PROFILE_NAME_MAX - 1, &bytes);
    if (e)
        return e;
    if (fread(name, 1, (size_t)bytes, d->in) != (size_t)bytes || memchr(name, 0, (size_t)bytes))
        return fault_set(d->fault, ERR_FORMAT, "%s: expected a name of %d characters", d->path, bytes);
    name[bytes] = 0;
    if ((e = dat_number(d, "number of calls", 1, INT32_MAX, &calls)) ||
        (e = dat_number(d, "number of values", 1, PROFILE_COLS_MAX, &values)))
        return e;
    if (profile_find(p, name))
        return fault_set(d->fault, ERR_FORMAT, "%s: %s is there twice", d->path, name);
    if ((e = profile_entry_get(p, name, (uint32_t)values, 1, &entry)))
        return e;
    for (int32_t i = 0; i < values; i++) {
        float x;
        if (fread(&x, sizeof x, 1, d->in) != 1 || !(x >= 0) || isinf(x))
            return fault_set(d->fault, ERR_FORMAT, "%s: %s: expected %d finite values of at least 0",
                             d->path, name, values);
        entry->sum2[i] = (double)x * DAT_CHUNK;
    }
    entry->count[0] = (double)calls * DAT_CHUNK;
    if ((uint32_t)calls > p->chunks)
        p->chunks = (uint32_t)calls;
    return ERR_NONE;
}

static enum err load_dat(FILE *in, const char *path, struct profile *p, struct fault *f)
{
    struct dat d = {.in = in, .path = path, .fault = f};
    int32_t entries, calls, bytes;
    char name[256];
    enum err e = dat_number(&d, "number of entries", 1, PROFILE_ENTRIES_MAX, &entries);
    p->chunk_size = DAT_CHUNK;
    for (int32_t i = 0; !e && i < entries; i++)
        e = dat_entry(&d, p);
    /* the text's name is an addition of later versions: absent is fine */
    if (!e && dat_number(&d, "calls", 0, INT32_MAX, &calls) == ERR_NONE &&
        dat_number(&d, "length", 1, sizeof name - 1, &bytes) == ERR_NONE &&
        fread(name, 1, (size_t)bytes, in) == (size_t)bytes) {
        name[bytes] = 0;
        e = profile_add_dataset(p, name);
    }
    return e;
}

enum err profile_load(const char *path, struct profile **out, struct fault *f)
{
    char magic[4] = "";
    struct profile *p = NULL;
    FILE *in = fopen(path, "rb");
    if (!in)
        return fault_open(f, path);
    const size_t n = fread(magic, 1, sizeof magic, in);
    enum err e = profile_open(&p);
    if (!e && n == 4 && memcmp(magic, "GGUF", 4) == 0) {
        e = load_gguf(path, p, f);
    } else if (!e) {
        rewind(in);
        e = load_dat(in, path, p, f);
    }
    if (!e && p->entries == 0)
        e = fault_set(f, ERR_FORMAT, "%s: holds no statistics", path);
    if (fclose(in) && !e)
        e = ERR_IO;
    if (e)
        profile_close(p);
    else
        *out = p;
    return e;
}

static enum err put_strings(struct gguf_writer *w, const char *key, char *const *list, uint32_t count)
{
    struct gguf_text *texts = calloc(count + 1u, sizeof *texts);
    if (!texts)
        return ERR_MEMORY;
    for (uint32_t i = 0; i < count; i++)
        texts[i] = (struct gguf_text){.text = list[i], .bytes = strlen(list[i])};
    enum err e = gguf_writer_strings(w, key, texts, count);
    free(texts);
    return e;
}

static enum err put_keys(struct gguf_writer *w, const struct profile *p)
{
    enum err e;
    if ((e = gguf_writer_string(w, "general.type", "imatrix", 7)) ||
        (e = put_strings(w, "imatrix.datasets", p->dataset, p->datasets)) ||
        (e = gguf_writer_u32(w, "imatrix.chunk_count", p->chunks)) ||
        (e = gguf_writer_u32(w, "imatrix.chunk_size", p->chunk_size)))
        return e;
    if (p->base_sha256[0] && (e = gguf_writer_string(w, "tare.profile.base_sha256", p->base_sha256,
                                                     strlen(p->base_sha256))))
        return e;
    if (p->method[0] &&
        (e = gguf_writer_string(w, "tare.profile.method", p->method, strlen(p->method))))
        return e;
    return p->languages ? put_strings(w, "tare.profile.languages", p->language, p->languages)
                        : ERR_NONE;
}

static enum err put_headers(struct gguf_writer *w, const struct profile *p)
{
    char name[PROFILE_NAME_MAX + 16];
    enum err e = ERR_NONE;
    for (uint32_t i = 0; !e && i < p->entries; i++) {
        const struct profile_entry *t = &p->entry[i];
        const uint64_t sums[2] = {t->cols, t->slices}, counts[2] = {1, t->slices};
        const uint32_t dims = t->slices > 1 ? 2 : 1;
        snprintf(name, sizeof name, "%s%s", t->name, sums_suffix);
        if ((e = gguf_writer_tensor(w, name, HAL_F32, dims, sums)))
            break;
        snprintf(name, sizeof name, "%s%s", t->name, counts_suffix);
        e = gguf_writer_tensor(w, name, HAL_F32, dims, counts);
    }
    return e;
}

static enum err append_floats(struct gguf_writer *w, const double *x, size_t n)
{
    float piece[1024];
    enum err e = ERR_NONE;
    for (size_t i = 0; !e && i < n; i += 1024) {
        const size_t now = n - i < 1024 ? n - i : 1024;
        for (size_t k = 0; k < now; k++)
            piece[k] = (float)x[i + k];
        e = gguf_writer_append(w, piece, now * sizeof *piece);
    }
    return e;
}

enum err profile_save(const struct profile *p, const char *path, char *sha256, struct fault *f)
{
    struct gguf_writer *w = NULL;
    enum err e = gguf_writer_open(path, GGUF_ALIGNMENT_DEFAULT, &w);
    if (e || (e = put_keys(w, p)) || (e = put_headers(w, p)) || (e = gguf_writer_begin(w, 0)))
        goto out;
    for (uint32_t i = 0; i < p->entries; i++) {
        const struct profile_entry *t = &p->entry[i];
        if ((e = append_floats(w, t->sum2, (size_t)t->slices * t->cols)) ||
            (e = append_floats(w, t->count, t->slices)))
            goto out;
    }
    e = gguf_writer_commit(w);
out:
    if (e)
        fault_set(f, e, "%s: %s", path, w && gguf_writer_reason(w)[0] ? gguf_writer_reason(w) : err_name(e));
    gguf_writer_close(w);
    return e || !sha256 ? e : digest_file(path, sha256, NULL);
}

static bool dat_put(FILE *to, const void *bytes, size_t size)
{
    return fwrite(bytes, 1, size, to) == size;
}

static bool dat_put_number(FILE *to, size_t value)
{
    const int32_t x = (int32_t)value;
    return dat_put(to, &x, sizeof x);
}

static bool dat_put_entry(FILE *to, const struct profile_entry *t, uint32_t calls)
{
    bool ok = dat_put_number(to, strlen(t->name)) && dat_put(to, t->name, strlen(t->name)) &&
              dat_put_number(to, calls) && dat_put_number(to, (size_t)t->slices * t->cols);
    for (size_t i = 0; ok && i < (size_t)t->slices * t->cols; i++) {
        const double rows = t->count[i / t->cols];
        const float x = (float)(rows > 0 ? t->sum2[i] / rows * calls : 0);
        ok = dat_put(to, &x, sizeof x);
    }
    return ok;
}

enum err profile_save_dat(const struct profile *p, const char *path, struct fault *f)
{
    char part[4096];
    const uint32_t calls = p->chunks ? p->chunks : 1;
    const char *name = p->datasets ? p->dataset[0] : "";
    if (snprintf(part, sizeof part, "%s.part", path) >= (int)sizeof part)
        return fault_set(f, ERR_ARGUMENT, "%s: the name is too long", path);
    FILE *to = fopen(part, "wb");
    if (!to)
        return fault_set(f, ERR_IO, "%s: %s", part, strerror(errno));
    bool ok = dat_put_number(to, p->entries);
    for (uint32_t i = 0; ok && i < p->entries; i++)
        ok = dat_put_entry(to, &p->entry[i], calls);
    ok = ok && dat_put_number(to, calls) && dat_put_number(to, strlen(name)) &&
         dat_put(to, name, strlen(name)) && fflush(to) == 0 && fsync(fileno(to)) == 0;
    ok = fclose(to) == 0 && ok;
    if (!ok || rename(part, path)) {
        unlink(part);
        return fault_set(f, ERR_IO, "%s: %s", path, strerror(errno));
    }
    return ERR_NONE;
}
