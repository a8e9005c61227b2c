#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compress/plan_internal.h"
#include "hal/block.h"
#include "protocol/cbor.h"
#include "protocol/hex.h"

/* Keys of the map, ascending; a field that is empty or 0 is left out. */
enum key {
    SCHEMA = PLAN_KEY_SCHEMA,
    NAME = 1,
    BASE = 2,
    BASE_BYTES = 3,
    PROFILE = 4,
    VARIANT = 5,
    VARIANT_BYTES = 6,
    CACHE = PLAN_KEY_CACHE,
    ACTIVATIONS = PLAN_KEY_ACTIVATIONS,
    SEED = 9,
    TRIAL = 10,
    GATES = 11,
    TENSORS = 12,
    PRUNE = 13,
    SCHEME_KEY = 14
};

enum { FIELDS = 7, SCHEME_FIELDS = 6, WEIGHTED = 1, FALLBACK = 2 };

static void put_digest(struct cbor_writer *w, enum key key, const char *hex)
{
    uint8_t digest[32];
    if (hex[0] == 0)
        return;
    if (hex_decode(hex, 64, digest, sizeof digest)) /* checked before the first byte is written */
        return;
    cbor_write_key(w, key);
    cbor_write_bytes(w, digest, sizeof digest);
}

static void put_number(struct cbor_writer *w, enum key key, uint64_t value)
{
    if (value == 0)
        return;
    cbor_write_key(w, key);
    cbor_write_u64(w, value);
}

static void put_gates(struct cbor_writer *w, const struct recipe_gates *g)
{
    if (g->present == 0)
        return;
    cbor_write_key(w, GATES);
    cbor_write_map(w, (uint64_t)__builtin_popcount(g->present));
    for (uint32_t i = 0; i < RECIPE_GATES; i++)
        if (g->present & 1u << i) {
            cbor_write_key(w, i);
            cbor_write_f64(w, g->limit[i]);
        }
}

static void put_tensor(struct cbor_writer *w, const struct plan_tensor *t)
{
    cbor_write_array(w, FIELDS);
    cbor_write_string(w, t->name);
    cbor_write_u64(w, t->rows);
    cbor_write_u64(w, t->cols);
    cbor_write_u64(w, t->from);
    cbor_write_u64(w, t->type);
    cbor_write_u64(w, t->method);
    cbor_write_u64(w, (t->is_weighted ? WEIGHTED : 0u) | (t->is_fallback ? FALLBACK : 0u));
}

static void put_scheme(struct cbor_writer *w, const struct scheme *s)
{
    const uint32_t fields[] = {s->bits, s->kind, s->group, s->range, s->millionths, s->store};
    if (s->bits == 0)
        return;
    cbor_write_key(w, SCHEME_KEY);
    cbor_write_array(w, SCHEME_FIELDS);
    for (uint32_t i = 0; i < SCHEME_FIELDS; i++)
        cbor_write_u64(w, fields[i]);
}

static uint64_t count_keys(const struct plan *p)
{
    return 2u + (p->name[0] != 0) + (p->base_sha256[0] != 0) + (p->base_bytes != 0) +
           (p->profile_sha256[0] != 0) + (p->variant_sha256[0] != 0) + (p->variant_bytes != 0) +
           (p->cache_type != 0) + (p->activation_bits != 0) + (p->seed != 0) + (p->trial_s != 0) +
           (p->gates.present != 0) + (p->prune != NULL) + (p->scheme.bits != 0);
}

static bool is_digest(const char *hex)
{
    uint8_t digest[32];
    return hex[0] == 0 || (strlen(hex) == 64 && hex_decode(hex, 64, digest, sizeof digest) == ERR_NONE);
}

enum err plan_encode(const struct plan *p, uint8_t *out, size_t capacity, size_t *bytes)
{
    struct cbor_writer w;
    if (!is_digest(p->base_sha256) || !is_digest(p->profile_sha256) || !is_digest(p->variant_sha256))
        return ERR_ARGUMENT;
    cbor_writer_init(&w, out, capacity);
    cbor_write_map(&w, count_keys(p));
    cbor_write_key(&w, SCHEMA);
    cbor_write_u64(&w, PLAN_SCHEMA);
    if (p->name[0]) {
        cbor_write_key(&w, NAME);
        cbor_write_string(&w, p->name);
    }
    put_digest(&w, BASE, p->base_sha256);
    put_number(&w, BASE_BYTES, p->base_bytes);
    put_digest(&w, PROFILE, p->profile_sha256);
    put_digest(&w, VARIANT, p->variant_sha256);
    put_number(&w, VARIANT_BYTES, p->variant_bytes);
    put_number(&w, CACHE, p->cache_type);
    put_number(&w, ACTIVATIONS, p->activation_bits);
    put_number(&w, SEED, p->seed);
    put_number(&w, TRIAL, p->trial_s);
    put_gates(&w, &p->gates);
    cbor_write_key(&w, TENSORS);
    cbor_write_array(&w, p->tensors);
    for (uint32_t i = 0; i < p->tensors; i++)
        put_tensor(&w, &p->tensor[i]);
    if (p->prune) {
        cbor_write_key(&w, PRUNE);
        enum err e = prune_encode(&w, p->prune);
        if (e)
            return e;
    }
    put_scheme(&w, &p->scheme);
    return cbor_written(&w, bytes);
}

static enum err get_digest(struct cbor_reader *r, char out[65])
{
    uint8_t digest[32];
    enum err e = cbor_read_bytes_into(r, digest, sizeof digest);
    if (!e)
        hex_encode(digest, sizeof digest, out);
    return e;
}

/* A present zero is not what encode writes. */
static enum err get_number(struct cbor_reader *r, uint64_t most, uint64_t *out)
{
    enum err e = cbor_read_u64(r, out);
    return e ? e : *out == 0 || *out > most ? ERR_FORMAT : ERR_NONE;
}

static enum err get_small(struct cbor_reader *r, uint64_t least, uint64_t most, uint32_t *out)
{
    uint64_t value;
    enum err e = cbor_read_u64(r, &value);
    if (!e && (value < least || value > most))
        e = ERR_FORMAT;
    if (!e)
        *out = (uint32_t)value;
    return e;
}

static enum err get_gates(struct cbor_reader *r, struct recipe_gates *g)
{
    uint64_t pairs;
    int64_t key;
    enum err e = cbor_enter_map(r, &pairs);
    if (!e && pairs == 0)
        e = ERR_FORMAT;
    while (!e && (e = cbor_next_key(r, &key)) == ERR_NONE) {
        if (key < 0 || key >= RECIPE_GATES)
            return ERR_UNSUPPORTED; /* a gate this build cannot measure must not be passed over */
        e = cbor_read_f64(r, &g->limit[key]);
        g->present |= 1u << key;
    }
    return e == ERR_NOT_FOUND ? ERR_NONE : e;
}

static enum err get_tensor(struct cbor_reader *r, struct plan_tensor *t)
{
    uint64_t items;
    uint32_t flags = 0;
    enum err e;
    if ((e = cbor_enter_array(r, &items)) || (e = items == FIELDS ? ERR_NONE : ERR_FORMAT) ||
        (e = cbor_read_text_into(r, t->name, sizeof t->name)) ||
        (e = get_small(r, 1, UINT32_MAX, &t->rows)) || (e = get_small(r, 1, UINT32_MAX, &t->cols)) ||
        (e = get_small(r, 0, 63, &t->from)) || (e = get_small(r, 0, 63, &t->type)) ||
        (e = get_small(r, 0, RECIPE_METHODS - 1, &t->method)) ||
        (e = get_small(r, 0, WEIGHTED | FALLBACK, &flags)) || (e = cbor_leave(r)))
        return e;
    t->is_weighted = flags & WEIGHTED;
    t->is_fallback = flags & FALLBACK;
    return t->name[0] ? ERR_NONE : ERR_FORMAT;
}

static enum err get_tensors(struct cbor_reader *r, struct plan *p)
{
    uint64_t items;
    enum err e = cbor_enter_array(r, &items);
    if (e)
        return e;
    if (items == 0 || items > PLAN_TENSORS_MAX)
        return ERR_FORMAT;
    if (!(p->tensor = calloc((size_t)items, sizeof *p->tensor)))
        return ERR_MEMORY;
    for (uint64_t i = 0; !e && i < items; i++) {
        e = get_tensor(r, &p->tensor[i]);
        p->tensors = (uint32_t)i + 1;
    }
    return e ? e : cbor_leave(r);
}

static enum err get_scheme(struct cbor_reader *r, struct scheme *s)
{
    uint64_t items;
    uint32_t *const field[SCHEME_FIELDS] = {&s->bits, &s->kind, &s->group, &s->range, &s->millionths, &s->store};
    enum err e = cbor_enter_array(r, &items);
    if (!e && items != SCHEME_FIELDS)
        e = ERR_FORMAT;
    for (uint32_t i = 0; i < SCHEME_FIELDS && !e; i++)
        e = get_small(r, 0, UINT32_MAX, field[i]);
    if (!e && !scheme_is_valid(s))
        e = ERR_FORMAT;
    return e ? e : cbor_leave(r);
}

/* A scheme belongs to tensors, and they to it; its element type follows from it. */
static bool agrees_with_scheme(const struct plan *p)
{
    bool wants = false;
    for (uint32_t i = 0; i < p->tensors; i++) {
        const struct plan_tensor *t = &p->tensor[i];
        if (t->method != RECIPE_SCHEME)
            continue;
        wants = true;
        if (p->scheme.bits == 0 || t->type != scheme_type(&p->scheme, t->cols) || t->is_weighted)
            return false;
    }
    return wants == (p->scheme.bits != 0);
}

static enum err get_field(struct cbor_reader *r, int64_t key, struct plan *p)
{
    uint64_t value = 0;
    uint32_t schema;
    enum err e;
    switch (key) {
    case SCHEMA:
        e = get_small(r, 0, UINT32_MAX, &schema);
        return e ? e : schema == PLAN_SCHEMA ? ERR_NONE : ERR_VERSION;
    case NAME:
        e = cbor_read_text_into(r, p->name, sizeof p->name);
        return e ? e : p->name[0] ? ERR_NONE : ERR_FORMAT;
    case BASE:
        return get_digest(r, p->base_sha256);
    case BASE_BYTES:
        return get_number(r, INT64_MAX, &p->base_bytes);
    case PROFILE:
        return get_digest(r, p->profile_sha256);
    case VARIANT:
        return get_digest(r, p->variant_sha256);
    case VARIANT_BYTES:
        return get_number(r, INT64_MAX, &p->variant_bytes);
    case CACHE:
        return get_small(r, 1, 63, &p->cache_type);
    case ACTIVATIONS:
        return get_small(r, 1, 32, &p->activation_bits);
    case SEED:
        return get_number(r, INT64_MAX, &p->seed);
    case TRIAL:
        e = get_number(r, UINT32_MAX, &value);
        p->trial_s = (uint32_t)value;
        return e;
    case GATES:
        return get_gates(r, &p->gates);
    case TENSORS:
        return get_tensors(r, p);
    case PRUNE:
        return prune_decode(r, &p->prune);
    case SCHEME_KEY:
        return get_scheme(r, &p->scheme);
    }
    return ERR_UNSUPPORTED; /* it says how to derive: nothing of it may be passed over */
}

enum err plan_decode(const uint8_t *in, size_t bytes, struct plan **out, struct fault *f)
{
    struct cbor_reader r;
    uint64_t pairs;
    int64_t key = -1;
    struct plan *p = calloc(1, sizeof *p);
    enum err e = p ? ERR_NONE : ERR_MEMORY;
    if (e)
        return e;
    cbor_reader_init(&r, in, bytes);
    if (bytes > PLAN_BYTES_MAX)
        e = ERR_FORMAT;
    if (!e)
        e = cbor_enter_map(&r, &pairs);
    bool has_schema = false;
    while (!e && (e = cbor_next_key(&r, &key)) == ERR_NONE) {
        has_schema = has_schema || key == SCHEMA;
        e = get_field(&r, key, p);
        if (e == ERR_NOT_FOUND)
            e = ERR_FORMAT;
    }
    if (e == ERR_NOT_FOUND)
        e = cbor_finish(&r);
    if (!e && (!has_schema || p->tensors == 0 || !agrees_with_scheme(p)))
        e = ERR_FORMAT;
    if (e == ERR_VERSION)
        fault_set(f, e, "plan: of another schema than %d: made by another version of Tare", PLAN_SCHEMA);
    else if (e)
        fault_set(f, e, "plan: cannot be read near field %lld: %s", (long long)key, err_name(e));
    if (e) {
        plan_close(p);
        return e;
    }
    *out = p;
    return ERR_NONE;
}
