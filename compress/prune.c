#include "compress/prune.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compress/plan.h"
#include "model/gguf.h"
#include "protocol/cbor.h"

enum { LAYERS_MAX = 1024, HEADS_MAX = 1024, DIM_MAX = 4096, FFN_MAX = 1 << 18, CHANNELS_MAX = 1 << 24, ITEMS = 15, RECOVERED = 1 };

static bool is_shape(const struct prune_shape *s)
{
    return s->layers > 0 && s->layers <= LAYERS_MAX && s->heads > 0 && s->heads <= HEADS_MAX && s->groups > 0 &&
           s->heads % s->groups == 0 && s->ffn > 0 && s->ffn <= FFN_MAX &&
           (uint64_t)s->layers * s->ffn <= CHANNELS_MAX && s->head_dim > 0 &&
           s->head_dim <= DIM_MAX && s->value_dim > 0 && s->value_dim <= DIM_MAX;
}

enum err prune_open(const struct prune_shape *shape, struct prune **out)
{
    if (!is_shape(shape))
        return ERR_ARGUMENT;
    struct prune *p = calloc(1, sizeof *p);
    if (!p)
        return ERR_MEMORY;
    const size_t heads = (size_t)shape->layers * shape->heads, channels = (size_t)shape->layers * shape->ffn;
    p->shape = *shape;
    p->layer = malloc(shape->layers);
    p->head = malloc(heads);
    p->channel = malloc(channels);
    if (!p->layer || !p->head || !p->channel) {
        prune_close(p);
        return ERR_MEMORY;
    }
    memset(p->layer, 1, shape->layers);
    memset(p->head, 1, heads);
    memset(p->channel, 1, channels);
    *out = p;
    return ERR_NONE;
}

void prune_close(struct prune *p)
{
    if (!p)
        return;
    free(p->layer);
    free(p->head);
    free(p->channel);
    free(p);
}

enum err prune_copy(const struct prune *p, struct prune **out)
{
    struct prune *copy = NULL;
    enum err e = prune_open(&p->shape, &copy);
    if (e)
        return e;
    uint8_t *const layer = copy->layer, *const head = copy->head, *const channel = copy->channel;
    memcpy(layer, p->layer, p->shape.layers);
    memcpy(head, p->head, (size_t)p->shape.layers * p->shape.heads);
    memcpy(channel, p->channel, (size_t)p->shape.layers * p->shape.ffn);
    *copy = *p;
    copy->layer = layer;
    copy->head = head;
    copy->channel = channel;
    *out = copy;
    return ERR_NONE;
}

static uint32_t count(const uint8_t *flags, uint32_t n)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++)
        kept += flags[i] != 0;
    return kept;
}

/* Heads and groups of one layer; false: groups that stay differ in heads. */
static bool count_heads(const struct prune *p, uint32_t layer, uint32_t *heads, uint32_t *groups)
{
    const uint32_t each = p->shape.heads / p->shape.groups;
    uint32_t most = 0;
    *heads = *groups = 0;
    for (uint32_t g = 0; g < p->shape.groups; g++) {
        const uint32_t n = count(p->head + (size_t)layer * p->shape.heads + (size_t)g * each, each);
        if (n > 0 && most > 0 && n != most)
            return false;
        most = n > 0 ? n : most;
        *heads += n;
        *groups += n > 0;
    }
    return true;
}

enum err prune_check(const struct prune *p, struct prune_kept *kept)
{
    const struct prune_shape *s = &p->shape;
    struct prune_kept k = {0};
    for (uint32_t l = 0; l < s->layers; l++) {
        uint32_t heads, groups;
        const uint32_t ffn = count(p->channel + (size_t)l * s->ffn, s->ffn);
        const bool is_even = count_heads(p, l, &heads, &groups);
        if (!p->layer[l]) {
            if (ffn || heads)
                return ERR_FORMAT;
            continue;
        }
        if (!is_even || !ffn || !heads || (k.layers && (ffn != k.ffn || heads != k.heads || groups != k.groups)))
            return ERR_FORMAT;
        k = (struct prune_kept){.layers = k.layers + 1, .heads = heads, .groups = groups, .ffn = ffn};
    }
    if (kept)
        *kept = k;
    return k.layers ? ERR_NONE : ERR_FORMAT;
}

void prune_describe(const struct prune *p, char *out, size_t capacity)
{
    struct prune_kept k = {0};
    char mask[64] = "";
    if (prune_check(p, &k))
        k = (struct prune_kept){0};
    if (p->mask_of)
        snprintf(mask, sizeof mask, ", mask %u:%u", p->mask_keep, p->mask_of);
    else if (p->mask_by)
        snprintf(mask, sizeof mask, ", mask %g %%", (double)p->mask_share / 100);
    snprintf(out, capacity, "layers %u/%u, heads %u/%u in groups %u/%u, ffn %u/%u%s%s", k.layers, p->shape.layers,
             k.heads, p->shape.heads, k.groups, p->shape.groups, k.ffn, p->shape.ffn,
             p->is_recovered ? ", recovered" : "", mask);
}

/* ---- tensors ---- */

/* "blk.N.rest" of a layer that pruning knows: rest, or NULL. */
static const char *block_of(const char *name, uint32_t *layer)
{
    const char *rest = plan_block(name, layer);
    return rest && *layer < LAYERS_MAX ? rest : NULL;
}

struct part {
    const char *name;
    uint32_t rows, cols;
};

static const struct part parts[] = {
    {"attn_q", PRUNE_Q, PRUNE_ALL},          {"attn_k", PRUNE_K, PRUNE_ALL},
    {"attn_v", PRUNE_V, PRUNE_ALL},          {"attn_output", PRUNE_ALL, PRUNE_OUT},
    {"ffn_gate", PRUNE_FFN, PRUNE_ALL},      {"ffn_up", PRUNE_FFN, PRUNE_ALL},
    {"ffn_down", PRUNE_ALL, PRUNE_FFN},
};

static uint32_t kept_before(const struct prune *p, uint32_t layer)
{
    return count(p->layer, layer);
}

void prune_cut(const struct prune *p, const char *name, uint32_t dims, struct prune_cut *out)
{
    uint32_t layer = 0;
    const char *rest = block_of(name, &layer);
    *out = (struct prune_cut){0};
    snprintf(out->name, sizeof out->name, "%.63s", name);
    if (!rest || layer >= p->shape.layers)
        return;
    out->layer = layer;
    out->is_dropped = !p->layer[layer];
    snprintf(out->name, sizeof out->name, "blk.%u.%.48s", kept_before(p, layer), rest);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        const size_t stem = strlen(parts[i].name);
        if (strncmp(rest, parts[i].name, stem) != 0)
            continue;
        if (strcmp(rest + stem, ".weight") == 0 && dims == 2) {
            out->rows = parts[i].rows;
            out->cols = parts[i].cols;
            out->is_masked = p->mask_by != 0;
        } else if (strcmp(rest + stem, ".bias") == 0) {
            out->cols = parts[i].rows; /* a vector along the rows */
        }
    }
}

static uint32_t width_of(const struct prune *p, uint32_t axis)
{
    return axis == PRUNE_FFN ? 1 : axis == PRUNE_Q || axis == PRUNE_K ? p->shape.head_dim : p->shape.value_dim;
}

uint32_t prune_axis_length(const struct prune *p, uint32_t axis)
{
    const uint32_t units = axis == PRUNE_FFN                      ? p->shape.ffn
                           : axis == PRUNE_Q || axis == PRUNE_OUT ? p->shape.heads
                                                                  : p->shape.groups;
    return axis == PRUNE_ALL ? 0 : units * width_of(p, axis);
}

uint32_t prune_axis_kept(const struct prune *p, uint32_t layer, uint32_t axis, uint32_t *index)
{
    const struct prune_shape *s = &p->shape;
    const uint32_t width = width_of(p, axis), each = s->heads / s->groups;
    const uint32_t units = axis == PRUNE_ALL ? 0 : prune_axis_length(p, axis) / width;
    uint32_t kept = 0;
    for (uint32_t u = 0; u < units; u++) {
        bool stays;
        if (axis == PRUNE_FFN)
            stays = p->channel[(size_t)layer * s->ffn + u];
        else if (axis == PRUNE_Q || axis == PRUNE_OUT)
            stays = p->head[(size_t)layer * s->heads + u];
        else
            stays = count(p->head + (size_t)layer * s->heads + (size_t)u * each, each) > 0;
        for (uint32_t i = 0; stays && i < width; i++, kept++)
            if (index)
                index[kept] = u * width + i;
    }
    return kept;
}

/* ---- profiles ---- */

static enum err cut_entry(const struct prune *p, const struct profile_entry *from, struct profile *into,
                          struct fault *f)
{
    struct prune_cut cut;
    struct profile_entry *to;
    prune_cut(p, from->name, 2, &cut);
    if (cut.is_dropped)
        return ERR_NONE;
    uint32_t kept = from->cols, *index = NULL;
    if (cut.cols != PRUNE_ALL) {
        if (from->cols != prune_axis_length(p, cut.cols))
            return fault_set(f, ERR_MISMATCH, "profile: %s has %u columns, the base %u", from->name, from->cols,
                             prune_axis_length(p, cut.cols));
        if (!(index = malloc(from->cols * sizeof *index)))
            return ERR_MEMORY;
        kept = prune_axis_kept(p, cut.layer, cut.cols, index);
    }
    enum err e = profile_entry_get(into, cut.name, kept, from->slices, &to);
    for (uint32_t s = 0; !e && s < from->slices; s++) {
        to->count[s] = from->count[s];
        for (uint32_t c = 0; c < kept; c++)
            to->sum2[(size_t)s * kept + c] = from->sum2[(size_t)s * from->cols + (index ? index[c] : c)];
    }
    free(index);
    return e;
}

enum err prune_profile(const struct prune *p, const struct profile *from, struct profile **out, struct fault *f)
{
    struct profile *into = NULL;
    enum err e = profile_open(&into);
    for (uint32_t i = 0; !e && i < from->entries; i++)
        e = cut_entry(p, &from->entry[i], into, f);
    if (e) {
        profile_close(into);
        return e;
    }
    into->chunks = from->chunks;
    into->chunk_size = from->chunk_size;
    memcpy(into->base_sha256, from->base_sha256, sizeof into->base_sha256);
    memcpy(into->method, from->method, sizeof into->method);
    *out = into;
    return ERR_NONE;
}

/* ---- wire ---- */

/* Flags of layers that stay as bits, low bit first; empty when all of them stay. */
static enum err put_bits(struct cbor_writer *w, const struct prune *p, const uint8_t *flags, uint32_t each)
{
    uint8_t *bits = calloc(1, ((size_t)p->shape.layers * each + 7) / 8 + 1);
    size_t at = 0;
    bool is_all = true;
    if (!bits)
        return ERR_MEMORY;
    for (uint32_t l = 0; l < p->shape.layers; l++)
        for (uint32_t i = 0; p->layer[l] && i < each; i++, at++) {
            const bool stays = flags[(size_t)l * each + i];
            is_all = is_all && stays;
            bits[at / 8] = (uint8_t)(bits[at / 8] | (stays ? 1u << at % 8 : 0u));
        }
    cbor_write_bytes(w, bits, is_all ? 0 : (at + 7) / 8);
    free(bits);
    return ERR_NONE;
}

enum err prune_encode(struct cbor_writer *w, const struct prune *p)
{
    const struct prune_shape *s = &p->shape;
    const uint64_t numbers[] = {s->layers,      s->heads,   s->groups,     s->ffn,       s->head_dim,
                                s->value_dim,   p->is_recovered ? RECOVERED : 0u,      p->tokens, p->mask_by,
                                p->mask_share,  p->mask_keep, p->mask_of};
    uint8_t layers[LAYERS_MAX / 8] = {0};
    cbor_write_array(w, ITEMS);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        cbor_write_u64(w, numbers[i]);
    for (uint32_t l = 0; l < s->layers; l++)
        layers[l / 8] = (uint8_t)(layers[l / 8] | (p->layer[l] ? 1u << l % 8 : 0u));
    cbor_write_bytes(w, layers, (s->layers + 7) / 8);
    enum err e = put_bits(w, p, p->head, s->heads);
    return e ? e : put_bits(w, p, p->channel, s->ffn);
}

static enum err get_bits(struct cbor_reader *r, const struct prune *p, uint8_t *flags, uint32_t each)
{
    const uint8_t *bits;
    size_t size, at = 0;
    enum err e = cbor_read_bytes(r, &bits, &size);
    const size_t total = (size_t)count(p->layer, p->shape.layers) * each;
    if (e || (size > 0 && size != (total + 7) / 8))
        return e ? e : ERR_FORMAT;
    bool is_all = true;
    for (uint32_t l = 0; l < p->shape.layers; l++)
        for (uint32_t i = 0; i < each; i++) {
            bool stays = p->layer[l];
            if (stays && size > 0)
                stays = bits[at / 8] >> at % 8 & 1;
            at += p->layer[l] != 0;
            is_all = is_all && (stays || !p->layer[l]);
            flags[(size_t)l * each + i] = stays;
        }
    const bool is_padded = size > 0 && total % 8 && bits[size - 1] >> total % 8;
    return is_padded || (size > 0 && is_all) ? ERR_FORMAT : ERR_NONE;
}

static enum err get_layers(struct cbor_reader *r, struct prune *p)
{
    const uint8_t *bits;
    size_t size;
    const uint32_t n = p->shape.layers;
    enum err e = cbor_read_bytes(r, &bits, &size);
    if (e || size != (n + 7) / 8 || (n % 8 && bits[size - 1] >> n % 8))
        return e ? e : ERR_FORMAT;
    for (uint32_t l = 0; l < n; l++)
        p->layer[l] = bits[l / 8] >> l % 8 & 1;
    return ERR_NONE;
}

static bool is_masked(const struct prune *p)
{
    const bool has_share = p->mask_share > 0 && p->mask_share < 10000;
    const bool has_pattern = p->mask_keep > 0 && p->mask_keep < p->mask_of && p->mask_of <= 32;
    const bool has_none = p->mask_share == 0 && p->mask_keep == 0 && p->mask_of == 0;
    if (p->mask_by == 0)
        return has_none;
    return p->mask_by <= RECIPE_WANDA &&
           ((has_share && p->mask_keep == 0 && p->mask_of == 0) || (has_pattern && p->mask_share == 0));
}

enum err prune_decode(struct cbor_reader *r, struct prune **out)
{
    uint64_t items, number[ITEMS - 3] = {0};
    struct prune *p = NULL;
    enum err e = cbor_enter_array(r, &items);
    if (!e && items != ITEMS)
        e = ERR_FORMAT;
    for (size_t i = 0; !e && i < ITEMS - 3; i++) {
        e = cbor_read_u64(r, &number[i]);
        if (!e && number[i] > (i == 7 ? (uint64_t)INT64_MAX : FFN_MAX))
            e = ERR_FORMAT;
    }
    const struct prune_shape shape = {(uint32_t)number[0], (uint32_t)number[1], (uint32_t)number[2],
                                      (uint32_t)number[3], (uint32_t)number[4], (uint32_t)number[5]};
    if (!e)
        e = is_shape(&shape) && number[6] <= RECOVERED ? prune_open(&shape, &p) : ERR_FORMAT;
    if (e)
        return e;
    p->is_recovered = number[6] & RECOVERED;
    p->tokens = number[7];
    p->mask_by = (uint32_t)number[8];
    p->mask_share = (uint32_t)number[9];
    p->mask_keep = (uint32_t)number[10];
    p->mask_of = (uint32_t)number[11];
    if ((e = is_masked(p) ? ERR_NONE : ERR_FORMAT) || (e = get_layers(r, p)) ||
        (e = get_bits(r, p, p->head, shape.heads)) || (e = get_bits(r, p, p->channel, shape.ffn)) ||
        (e = cbor_leave(r)) || (e = prune_check(p, NULL))) {
        prune_close(p);
        return e;
    }
    *out = p;
    return ERR_NONE;
}
