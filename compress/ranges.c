#include "compress/ranges.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hal/hal.h"
#include "model/gguf.h"

static const char suffix[] = ".in_range";
static const char percentile_key[] = "tare.ranges.percentile";

enum err ranges_open(double percentile, struct ranges **out)
{
    if (!(percentile >= 90 && percentile <= 100))
        return ERR_ARGUMENT;
    struct ranges *r = calloc(1, sizeof *r);
    if (!r)
        return ERR_MEMORY;
    r->percentile = percentile;
    *out = r;
    return ERR_NONE;
}

void ranges_close(struct ranges *r)
{
    for (uint32_t i = 0; r && i < r->entries; i++)
        observer_close(r->entry[i].observer);
    if (r)
        free(r->entry);
    free(r);
}

static enum err add_entry(struct ranges *r, const char *name, struct ranges_entry **out)
{
    if (strlen(name) >= RANGES_NAME_MAX || r->entries == RANGES_ENTRIES_MAX)
        return ERR_ARGUMENT;
    if (r->entries == r->capacity) {
        const uint32_t capacity = r->capacity * 2 + 64;
        struct ranges_entry *more = realloc(r->entry, capacity * sizeof *more);
        if (!more)
            return ERR_MEMORY;
        r->entry = more;
        r->capacity = capacity;
    }
    *out = &r->entry[r->entries++];
    **out = (struct ranges_entry){.observer = NULL};
    strcpy((*out)->name, name);
    return ERR_NONE;
}

/* Entries come in the order of the layers: the one wanted is mostly near the last. */
static struct ranges_entry *find(const struct ranges *r, const char *name)
{
    for (uint32_t i = 0; i < r->entries; i++)
        if (strcmp(r->entry[i].name, name) == 0)
            return &r->entry[i];
    return NULL;
}

const struct ranges_entry *ranges_find(const struct ranges *r, const char *name)
{
    return find(r, name);
}

enum err ranges_add(struct ranges *r, const char *name, uint64_t total, const float *x, uint64_t n)
{
    struct ranges_entry *e = find(r, name);
    enum err error = r->is_finished ? ERR_ARGUMENT : ERR_NONE;
    if (!error && !e) {
        if ((error = add_entry(r, name, &e)))
            return error;
        error = observer_open(total, r->percentile, &e->observer);
    }
    return error ? error : observer_add(e->observer, x, n);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct ranges_entry *)a)->name, ((const struct ranges_entry *)b)->name);
}

static enum err finish_entry(struct ranges *r, struct ranges_entry *e)
{
    static const struct {
        uint32_t method, bits, low, high;
        bool is_symmetric;
    } wanted[] = {{OBSERVER_MINMAX, 8, RANGES_LOW, RANGES_HIGH, false},
                  {OBSERVER_PERCENTILE, 8, RANGES_VALUES, RANGES_PERCENTILE, true},
                  {OBSERVER_PERCENTILE, 8, RANGES_PERCENTILE_LOW, RANGES_PERCENTILE_HIGH, false},
                  {OBSERVER_MSE, 8, RANGES_VALUES, RANGES_MSE_8, true},
                  {OBSERVER_MSE, 4, RANGES_VALUES, RANGES_MSE_4, true},
                  {OBSERVER_ENTROPY, 8, RANGES_VALUES, RANGES_ENTROPY_8, true},
                  {OBSERVER_ENTROPY, 4, RANGES_VALUES, RANGES_ENTROPY_4, true}};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        const struct observer_choice c = {.method = wanted[i].method,
                                          .percentile = r->percentile,
                                          .bits = wanted[i].bits,
                                          .is_symmetric = wanted[i].is_symmetric};
        struct observer_range range;
        const enum err error = observer_find(e->observer, &c, &range);
        if (error)
            return error;
        e->value[wanted[i].high] = (float)range.high;
        if (wanted[i].low < RANGES_VALUES)
            e->value[wanted[i].low] = (float)range.low;
    }
    observer_close(e->observer);
    e->observer = NULL;
    return ERR_NONE;
}

enum err ranges_finish(struct ranges *r)
{
    enum err e = ERR_NONE;
    for (uint32_t i = 0; i < r->entries && !e && !r->is_finished; i++)
        e = finish_entry(r, &r->entry[i]);
    if (!e && r->entries)
        qsort(r->entry, r->entries, sizeof *r->entry, by_name);
    r->is_finished = e == ERR_NONE;
    return e;
}

float ranges_limit(const struct ranges *r, const char *name, uint32_t method, uint32_t bits)
{
    const struct ranges_entry *e = find(r, name);
    if (!e)
        return 0;
    const float *v = e->value;
    switch (method) {
    case OBSERVER_MINMAX:
        return v[RANGES_HIGH] > -v[RANGES_LOW] ? v[RANGES_HIGH] : -v[RANGES_LOW];
    case OBSERVER_PERCENTILE:
        return v[RANGES_PERCENTILE];
    case OBSERVER_MSE:
        return v[bits == 4 ? RANGES_MSE_4 : RANGES_MSE_8];
    case OBSERVER_ENTROPY:
        return v[bits == 4 ? RANGES_ENTROPY_4 : RANGES_ENTROPY_8];
    default:
        return 0;
    }
}

static enum err put_all(struct gguf_writer *w, const struct ranges *r)
{
    char name[RANGES_NAME_MAX + sizeof suffix];
    const uint64_t shape[] = {RANGES_VALUES};
    enum err e = gguf_writer_string(w, "general.type", "ranges", strlen("ranges"));
    if (!e)
        e = gguf_writer_f32(w, percentile_key, (float)r->percentile);
    if (!e && r->base_sha256[0])
        e = gguf_writer_string(w, "tare.base_sha256", r->base_sha256, strlen(r->base_sha256));
    for (uint32_t i = 0; !e && i < r->entries; i++) {
        snprintf(name, sizeof name, "%s%s", r->entry[i].name, suffix);
        e = gguf_writer_tensor(w, name, HAL_F32, 1, shape);
    }
    if (!e)
        e = gguf_writer_begin(w, 0);
    for (uint32_t i = 0; !e && i < r->entries; i++)
        e = gguf_writer_append(w, r->entry[i].value, sizeof r->entry[i].value);
    return e ? e : gguf_writer_commit(w);
}

enum err ranges_save(const struct ranges *r, const char *path, struct fault *f)
{
    struct gguf_writer *w = NULL;
    enum err e = r->is_finished ? gguf_writer_open(path, GGUF_ALIGNMENT_DEFAULT, &w) : ERR_ARGUMENT;
    if (!e)
        e = put_all(w, r);
    if (e)
        fault_set(f, e, "%s: %s", path, w && gguf_writer_reason(w)[0] ? gguf_writer_reason(w) : err_name(e));
    gguf_writer_close(w);
    return e;
}

static enum err load_entry(struct ranges *r, const struct gguf_tensor *t, const char *path, struct fault *f)
{
    char name[GGUF_NAME_BYTES];
    struct ranges_entry *e;
    const size_t length = strlen(t->name), stem = length > strlen(suffix) ? length - strlen(suffix) : 0;
    if (stem == 0 || strcmp(t->name + stem, suffix) != 0 || t->type != HAL_F32 ||
        t->bytes != RANGES_VALUES * sizeof(float))
        return fault_set(f, ERR_FORMAT, "%s: %s: expected NAME%s of %d F32 values", path, t->name, suffix, RANGES_VALUES);
    memcpy(name, t->name, stem);
    name[stem] = 0;
    enum err error = find(r, name) ? ERR_FORMAT : add_entry(r, name, &e);
    if (error)
        return fault_set(f, error == ERR_MEMORY ? error : ERR_FORMAT, "%s: %s: cannot be taken", path, name);
    memcpy(e->value, t->data, sizeof e->value);
    for (uint32_t i = 0; i < RANGES_VALUES; i++) {
        const bool is_low = i == RANGES_LOW || i == RANGES_PERCENTILE_LOW;
        if (!isfinite(e->value[i]) || (is_low ? e->value[i] > 0 : e->value[i] < 0))
            return fault_set(f, ERR_FORMAT, "%s: %s: expected finite limits that include 0", path, name);
    }
    return ERR_NONE;
}

enum err ranges_load(const char *path, struct ranges **out, struct fault *f)
{
    char reason[GGUF_REASON_BYTES] = "";
    struct gguf_text type = {"", 0}, base = {"", 0};
    struct ranges *r = NULL;
    struct gguf *g = NULL;
    float percentile = 0;
    enum err e = gguf_open(path, &g, reason);
    if (e)
        return fault_set(f, e, "%s", reason);
    if (gguf_string(g, "general.type", &type) || type.bytes != 6 || memcmp(type.text, "ranges", 6) != 0 ||
        gguf_f32(g, percentile_key, &percentile) || ranges_open((double)percentile, &r))
        e = fault_set(f, ERR_FORMAT, "%s: expected a file of ranges, made by tare calibrate --ranges", path);
    if (!e && gguf_string(g, "tare.base_sha256", &base) == ERR_NONE && base.bytes == 64)
        memcpy(r->base_sha256, base.text, 64);
    for (uint32_t i = 0; !e && i < gguf_tensors(g); i++)
        e = load_entry(r, gguf_tensor(g, i), path, f);
    if (!e) {
        r->is_finished = true;
        if (r->entries)
            qsort(r->entry, r->entries, sizeof *r->entry, by_name);
        *out = r;
    } else {
        ranges_close(r);
    }
    gguf_close(g);
    return e;
}
