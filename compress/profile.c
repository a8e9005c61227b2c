#include "compress/profile.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum err profile_open(struct profile **out)
{
    struct profile *p = calloc(1, sizeof *p);
    if (!p)
        return ERR_MEMORY;
    *out = p;
    return ERR_NONE;
}

static void free_list(char **list, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        free(list[i]);
    free(list);
}

void profile_close(struct profile *p)
{
    if (!p)
        return;
    for (uint32_t i = 0; i < p->entries; i++) {
        free(p->entry[i].sum2);
        free(p->entry[i].count);
    }
    free(p->entry);
    free_list(p->dataset, p->datasets);
    free_list(p->language, p->languages);
    free(p);
}

/* The first entry that is not before name. */
static uint32_t lower_bound(const struct profile *p, const char *name)
{
    uint32_t low = 0, high = p->entries;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (strcmp(p->entry[middle].name, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const struct profile_entry *profile_find(const struct profile *p, const char *name)
{
    const uint32_t i = lower_bound(p, name);
    return i < p->entries && strcmp(p->entry[i].name, name) == 0 ? &p->entry[i] : NULL;
}

static enum err grow(struct profile *p)
{
    if (p->entries < p->capacity)
        return ERR_NONE;
    if (p->entries >= PROFILE_ENTRIES_MAX)
        return ERR_ARGUMENT;
    const uint32_t capacity = p->capacity ? 2 * p->capacity : 64;
    struct profile_entry *entry = realloc(p->entry, capacity * sizeof *entry);
    if (!entry)
        return ERR_MEMORY;
    p->entry = entry;
    p->capacity = capacity;
    return ERR_NONE;
}

enum err profile_entry_get(struct profile *p, const char *name, uint32_t cols, uint32_t slices,
                           struct profile_entry **out)
{
    const size_t bytes = strlen(name);
    if (bytes == 0 || bytes >= PROFILE_NAME_MAX || cols == 0 || cols > PROFILE_COLS_MAX || slices == 0 ||
        slices > PROFILE_SLICES_MAX)
        return ERR_ARGUMENT;
    const uint32_t at = lower_bound(p, name);
    if (at < p->entries && strcmp(p->entry[at].name, name) == 0) {
        if (p->entry[at].cols != cols || p->entry[at].slices != slices)
            return ERR_ARGUMENT;
        *out = &p->entry[at];
        return ERR_NONE;
    }
    enum err e = grow(p);
    if (e)
        return e;
    struct profile_entry entry = {.cols = cols, .slices = slices};
    memcpy(entry.name, name, bytes + 1);
    entry.sum2 = calloc((size_t)slices * cols, sizeof *entry.sum2);
    entry.count = calloc(slices, sizeof *entry.count);
    if (!entry.sum2 || !entry.count) {
        free(entry.sum2);
        free(entry.count);
        return ERR_MEMORY;
    }
    memmove(&p->entry[at + 1], &p->entry[at], (p->entries - at) * sizeof *p->entry);
    p->entry[at] = entry;
    p->entries++;
    *out = &p->entry[at];
    return ERR_NONE;
}

void profile_add_rows(struct profile_entry *e, uint32_t slice, const float *x, uint32_t rows)
{
    double *sum2 = e->sum2 + (size_t)slice * e->cols;
    for (uint32_t r = 0; r < rows; r++, x += e->cols)
        for (uint32_t c = 0; c < e->cols; c++)
            sum2[c] += (double)x[c] * (double)x[c];
    e->count[slice] += rows;
}

static enum err add_string(char ***list, uint32_t *count, const char *text)
{
    char **longer = realloc(*list, (*count + 1) * sizeof *longer);
    if (!longer)
        return ERR_MEMORY;
    *list = longer;
    if (!(longer[*count] = strdup(text)))
        return ERR_MEMORY;
    ++*count;
    return ERR_NONE;
}

enum err profile_add_dataset(struct profile *p, const char *name)
{
    for (uint32_t i = 0; i < p->datasets; i++)
        if (strcmp(p->dataset[i], name) == 0)
            return ERR_NONE;
    return add_string(&p->dataset, &p->datasets, name);
}

enum err profile_add_language(struct profile *p, const char *language, uint64_t tokens)
{
    char text[64];
    snprintf(text, sizeof text, "%.24s=%llu", language, (unsigned long long)tokens);
    return add_string(&p->language, &p->languages, text);
}

static enum err check_shapes(const struct profile *into, const struct profile *from, struct fault *f)
{
    for (uint32_t i = 0; i < from->entries; i++) {
        const struct profile_entry *b = &from->entry[i];
        const struct profile_entry *a = profile_find(into, b->name);
        if (a && (a->cols != b->cols || a->slices != b->slices))
            return fault_set(f, ERR_MISMATCH, "profile: %s is [%u, %u] here and [%u, %u] there", a->name,
                             a->slices, a->cols, b->slices, b->cols);
    }
    return ERR_NONE;
}

static enum err add_scaled(struct profile *into, const struct profile *from, double weight)
{
    for (uint32_t i = 0; i < from->entries; i++) {
        const struct profile_entry *b = &from->entry[i];
        struct profile_entry *a;
        enum err e = profile_entry_get(into, b->name, b->cols, b->slices, &a);
        if (e)
            return e;
        for (size_t c = 0; c < (size_t)b->slices * b->cols; c++)
            a->sum2[c] += weight * b->sum2[c];
        for (uint32_t s = 0; s < b->slices; s++)
            a->count[s] += weight * b->count[s];
    }
    return ERR_NONE;
}

static enum err add_provenance(struct profile *into, const struct profile *from)
{
    enum err e = ERR_NONE;
    for (uint32_t i = 0; !e && i < from->datasets; i++)
        e = profile_add_dataset(into, from->dataset[i]);
    for (uint32_t i = 0; !e && i < from->languages; i++)
        e = add_string(&into->language, &into->languages, from->language[i]);
    if (into->base_sha256[0] == 0)
        memcpy(into->base_sha256, from->base_sha256, sizeof into->base_sha256);
    into->chunks += from->chunks;
    if (into->chunk_size == 0)
        into->chunk_size = from->chunk_size;
    return e;
}

enum err profile_merge(struct profile *into, const struct profile *from, double weight,
                       struct fault *f)
{
    if (!(weight > 0 && weight <= 1e6))
        return fault_set(f, ERR_ARGUMENT, "profile: expected a weight above 0 and at most 1e6");
    if (into->base_sha256[0] && from->base_sha256[0] &&
        strcmp(into->base_sha256, from->base_sha256) != 0)
        return fault_set(f, ERR_MISMATCH, "profile: taken from another base, %.12s not %.12s",
                         from->base_sha256, into->base_sha256);
    enum err e = check_shapes(into, from, f);
    if (!e)
        e = add_scaled(into, from, weight);
    return e ? e : add_provenance(into, from);
}

static double tokens_of(const struct profile *p)
{
    double most = 0;
    for (uint32_t i = 0; i < p->entries; i++)
        for (uint32_t s = 0; s < p->entry[i].slices; s++)
            most = fmax(most, p->entry[i].count[s]);
    return most;
}

enum err profile_blend(struct profile *into, const struct profile *const *source, const double *share,
                       uint32_t count, struct fault *f)
{
    double total = 0, shares = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (!(share[i] > 0))
            return fault_set(f, ERR_ARGUMENT, "profile: expected shares above 0");
        total += tokens_of(source[i]);
        shares += share[i];
    }
    for (uint32_t i = 0; i < count; i++) {
        const double tokens = tokens_of(source[i]);
        if (tokens <= 0)
            continue;
        enum err e = profile_merge(into, source[i], share[i] / shares * total / tokens, f);
        if (e)
            return e;
    }
    return ERR_NONE;
}

void profile_importance(const struct profile_entry *e, uint32_t slice, float *out)
{
    const double *sum2 = e->sum2 + (size_t)slice * e->cols;
    const float rows = (float)e->count[slice];
    double mean = 0;
    for (uint32_t c = 0; c < e->cols; c++)
        mean += (double)(float)sum2[c];
    mean /= e->cols;
    if (!(rows > 0) || !(mean > 0)) {
        for (uint32_t c = 0; c < e->cols; c++)
            out[c] = 1;
        return;
    }
    const double floor = 1e-8 * mean;
    for (uint32_t c = 0; c < e->cols; c++) {
        const double sum = (double)(float)sum2[c];
        out[c] = (float)((sum > floor ? sum : floor) / (double)rows);
    }
}

/* Shares p, q and their middle m: (KL(p, m) + KL(q, m)) / 2 in bits. */
static double divergence(const double *a, double total_a, const double *b, double total_b, uint32_t cols)
{
    double sum = 0;
    for (uint32_t c = 0; c < cols; c++) {
        const double p = a[c] / total_a, q = b[c] / total_b, m = (p + q) / 2;
        sum += p > 0 ? p * log2(p / m) / 2 : 0;
        sum += q > 0 ? q * log2(q / m) / 2 : 0;
    }
    return sum > 0 ? sum : 0;
}

/* false when one of the two has no energy to compare. */
static bool drift_of(const struct profile_entry *a, const struct profile_entry *b, double *out)
{
    double total_a = 0, total_b = 0, rows_a = 0, rows_b = 0;
    const size_t values = (size_t)a->slices * a->cols;
    for (size_t i = 0; i < values; i++) {
        total_a += a->sum2[i];
        total_b += b->sum2[i];
    }
    for (uint32_t s = 0; s < a->slices; s++) {
        rows_a += a->count[s];
        rows_b += b->count[s];
    }
    if (!(total_a > 0 && total_b > 0 && rows_a > 0 && rows_b > 0))
        return false;
    const double noise = ((double)a->cols - 1) / (4 * M_LN2) * (1 / rows_a + 1 / rows_b) / a->cols;
    const double moved = divergence(a->sum2, total_a, b->sum2, total_b, (uint32_t)values) - noise;
    *out = fmax(moved, 0) + 0.1 * fabs(log((total_b / rows_b) / (total_a / rows_a)));
    return true;
}

enum err profile_compare(const struct profile *then, const struct profile *now,
                         struct profile_drift *out)
{
    struct profile_drift d = {0};
    double weights = 0, sum = 0;
    for (uint32_t i = 0; i < now->entries; i++) {
        const struct profile_entry *b = &now->entry[i];
        const struct profile_entry *a = profile_find(then, b->name);
        double score;
        if (!a || a->cols != b->cols || a->slices != b->slices || !drift_of(a, b, &score)) {
            d.skipped++;
            continue;
        }
        d.compared++;
        sum += score * b->cols;
        weights += b->cols;
        if (d.compared == 1 || score > d.worst) {
            d.worst = score;
            memcpy(d.worst_name, b->name, sizeof d.worst_name);
        }
    }
    for (uint32_t i = 0; i < then->entries; i++)
        d.skipped += profile_find(now, then->entry[i].name) == NULL;
    if (d.compared == 0)
        return ERR_NOT_FOUND;
    d.score = sum / weights;
    *out = d;
    return ERR_NONE;
}
