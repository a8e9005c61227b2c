#include <stdlib.h>
#include <string.h>

#include "compress/plan_internal.h"
#include "hal/block.h"

enum { BITS_ONE = 256 };

void plan_close(struct plan *p)
{
    if (p) {
        free(p->tensor);
        prune_close(p->prune);
    }
    free(p);
}

bool plan_is_reproducible(const struct plan *p)
{
    bool is_gptq = false;
    for (uint32_t i = 0; i < p->tensors; i++)
        is_gptq = is_gptq || p->tensor[i].method == RECIPE_GPTQ || p->tensor[i].method == RECIPE_GPTQ_AWQ;
    return !is_gptq && !(p->prune && p->prune->is_recovered);
}

uint32_t plan_type_bits(uint32_t type)
{
    const struct block_type *t = block_type(type);
    return t ? t->bytes * 8u * BITS_ONE / t->values : 0;
}

uint32_t plan_type_for(uint32_t type, uint32_t cols)
{
    static const uint32_t smaller[][2] = {{HAL_Q2_K, HAL_IQ4_NL},   {HAL_Q3_K, HAL_IQ4_NL},
                                          {HAL_IQ4_XS, HAL_IQ4_NL}, {HAL_Q4_K, HAL_Q5_0},
                                          {HAL_Q5_K, HAL_Q5_1},     {HAL_Q6_K, HAL_Q8_0}};
    if (block_row_bytes(type, cols) > 0)
        return type;
    for (size_t i = 0; i < sizeof smaller / sizeof *smaller; i++)
        if (smaller[i][0] == type && block_row_bytes(smaller[i][1], cols) > 0)
            return smaller[i][1];
    return HAL_F16;
}

uint32_t plan_stock_type(uint32_t type)
{
    return type == HAL_NF4 ? HAL_IQ4_NL : type;
}

uint64_t plan_tensor_bytes(const struct plan_tensor *t)
{
    return (uint64_t)t->rows * block_row_bytes(t->type, t->cols);
}

double plan_bpw(const struct plan *p)
{
    uint64_t values = 0;
    for (uint32_t i = 0; i < p->tensors; i++)
        values += (uint64_t)p->tensor[i].rows * p->tensor[i].cols;
    return values ? 8.0 * (double)p->variant_bytes / (double)values : 0;
}

uint32_t plan_keys(const struct plan *p, struct plan_key out[PLAN_KEYS])
{
    static const uint32_t file_type[][2] = {
        {HAL_F32, 0},   {HAL_F16, 1},   {HAL_Q4_0, 2},  {HAL_Q4_1, 3},    {HAL_Q8_0, 7},
        {HAL_Q5_0, 8},  {HAL_Q5_1, 9},  {HAL_Q2_K, 10}, {HAL_Q3_K, 12},   {HAL_Q4_K, 15},
        {HAL_Q5_K, 17}, {HAL_Q6_K, 18}, {HAL_IQ4_NL, 25}, {HAL_IQ4_XS, 30}, {HAL_BF16, 32}};
    uint64_t values[64] = {0};
    uint32_t most = HAL_F32, count = 0, number = 0;
    for (uint32_t i = 0; i < p->tensors; i++) {
        const struct plan_tensor *t = &p->tensor[i];
        values[t->type & 63] += (uint64_t)t->rows * t->cols;
        if (values[t->type & 63] > values[most])
            most = t->type & 63;
    }
    for (size_t i = 0; i < sizeof file_type / sizeof *file_type; i++)
        if (file_type[i][0] == most)
            number = file_type[i][1];
    out[count++] = (struct plan_key){.key = "general.file_type", .number = number};
    out[count++] = (struct plan_key){.key = "general.quantization_version", .number = 2};
    out[count++] = (struct plan_key){.key = "tare.base_sha256", .text = p->base_sha256};
    if (p->profile_sha256[0])
        out[count++] = (struct plan_key){.key = "tare.profile_sha256", .text = p->profile_sha256};
    return count;
}

static uint64_t padded(uint64_t bytes, uint64_t alignment)
{
    return (bytes + alignment - 1) / alignment * alignment;
}

static bool is_key(const struct gguf_value *v, const char *key)
{
    return v->key.bytes == strlen(key) && memcmp(v->key.text, key, v->key.bytes) == 0;
}

/* Magic, version and two counts; keys with length, kind and value; tensors with length, name, number of
 * dimensions, dimensions, type and offset. What we set replaces what the base says. */
static uint64_t header_bytes(const struct plan *p, const struct gguf *base)
{
    struct plan_key key[PLAN_KEYS];
    const uint32_t keys = plan_keys(p, key);
    uint64_t bytes = 4 + 4 + 8 + 8;
    for (uint32_t i = 0; i < gguf_keys(base); i++) {
        const struct gguf_value *v = gguf_key(base, i);
        bool is_ours = is_key(v, "general.alignment");
        for (uint32_t k = 0; k < keys; k++)
            is_ours = is_ours || is_key(v, key[k].key);
        if (!is_ours)
            bytes += 8 + v->key.bytes + 4 + (v->kind == GGUF_ARRAY ? 12 : 0) + v->bytes;
    }
    for (uint32_t k = 0; k < keys; k++)
        bytes += 8 + strlen(key[k].key) + 4 + (key[k].text ? 8 + strlen(key[k].text) : 4);
    if (gguf_alignment(base) != GGUF_ALIGNMENT_DEFAULT)
        bytes += 8 + strlen("general.alignment") + 4 + 4;
    for (uint32_t i = 0; i < gguf_tensors(base); i++) {
        const struct gguf_tensor *t = gguf_tensor(base, i);
        bytes += 8 + strlen(t->name) + 4 + 8 * (uint64_t)t->dims + 4 + 8;
    }
    return bytes;
}

uint64_t plan_file_bytes(const struct plan *p, const struct gguf *base)
{
    const uint64_t alignment = gguf_alignment(base);
    uint64_t bytes = padded(header_bytes(p, base), alignment);
    for (uint32_t i = 0; i < p->tensors; i++)
        bytes += padded(plan_tensor_bytes(&p->tensor[i]), alignment);
    return bytes;
}

void plan_settle(struct plan_tensor *t, uint32_t role, const struct profile *profile)
{
    const struct block_type *type = block_type(t->type);
    if (t->method == RECIPE_SCHEME) {
        t->is_weighted = false;
        return;
    }
    if (t->type == t->from || !type || type->codes == 0)
        t->method = RECIPE_KEEP;
    const struct profile_entry *entry = profile ? profile_find(profile, t->name) : NULL;
    const bool is_known = entry && entry->cols == t->cols && t->rows % entry->slices == 0;
    /* one column's activation says nothing about the head's logits: weighting it does harm */
    t->is_weighted = is_known && role != PLAN_HEAD && t->method != RECIPE_KEEP && t->method != RECIPE_RTN;
    if (!t->is_weighted && (t->method == RECIPE_AWQ || t->method == RECIPE_GPTQ_AWQ))
        t->method = t->method == RECIPE_AWQ ? RECIPE_SEARCH : RECIPE_GPTQ;
    const bool is_plain = t->method == RECIPE_KEEP || t->method == RECIPE_RTN || t->method == RECIPE_CASCADE;
    if ((role == PLAN_HEAD || role == PLAN_EMBEDDING) && !is_plain)
        t->method = RECIPE_SEARCH;
}

/* The wanted type of a tensor when the recipe says only a mode. */
static uint32_t mode_type(uint32_t goal, uint32_t role)
{
    static const uint32_t table[3][2] = {
        /* others, sensitive */
        {HAL_Q5_K, HAL_Q6_K}, /* accuracy */
        {HAL_Q4_K, HAL_Q6_K}, /* balanced */
        {HAL_Q3_K, HAL_Q4_K}, /* compression */
    };
    const bool is_sensitive = role == PLAN_ATTN_V || role == PLAN_FFN_DOWN || role == PLAN_EMBEDDING ||
                              role == PLAN_HEAD || role == PLAN_ATTN_QKV;
    if (goal == RECIPE_ACCURACY && role == PLAN_HEAD)
        return HAL_Q8_0;
    return table[goal - RECIPE_ACCURACY][is_sensitive];
}

/* The nearest type with at least as many bits that the device takes and the row divides into. */
static uint32_t type_of_device(uint32_t type, uint32_t cols, uint64_t types)
{
    uint32_t count = 0, best = RECIPE_UNSET;
    const struct block_type *const *all = block_types(&count);
    if (types == 0 || types & 1ull << type)
        return type;
    for (uint32_t i = 0; i < count; i++)
        if (types & 1ull << all[i]->type && block_row_bytes(all[i]->type, cols) > 0 &&
            plan_type_bits(all[i]->type) >= plan_type_bits(type) &&
            (best == RECIPE_UNSET || plan_type_bits(all[i]->type) < plan_type_bits(best)))
            best = all[i]->type;
    return best;
}

static const struct recipe_rule *rule_for(const struct recipe *r, const char *name)
{
    for (uint32_t i = 0; i < r->rules; i++)
        if (recipe_rule_matches(&r->rule[i], name))
            return &r->rule[i];
    return NULL;
}

struct making {
    const struct recipe *recipe;
    const struct gguf *base;
    const struct profile *profile;
    const struct plan_device *device;
    bool *is_free; /* tensors whose type the allocation may choose */
    struct plan *plan;
    struct fault *fault;
};

/* A scheme says its own type; what is never quantised stays. */
static enum err decide_scheme(struct making *m, uint32_t i, uint32_t role)
{
    struct plan_tensor *t = &m->plan->tensor[i];
    m->is_free[i] = false;
    t->type = t->from;
    if (role == PLAN_FIXED) {
        t->method = RECIPE_KEEP;
        return ERR_NONE;
    }
    m->plan->scheme = m->recipe->scheme;
    t->type = scheme_type(&m->plan->scheme, t->cols);
    if (m->device && m->device->types && !(m->device->types & 1ull << t->type))
        return fault_set(m->fault, ERR_UNSUPPORTED, "%s: the scheme is held as %s, which the device does not take",
                         t->name, block_type(t->type)->name);
    return ERR_NONE;
}

/* Type and method of one tensor by role and rules; the allocation comes later. */
static enum err decide(struct making *m, uint32_t i)
{
    const struct recipe *r = m->recipe;
    struct plan_tensor *t = &m->plan->tensor[i];
    const uint32_t role = plan_role(m->base, t->name);
    const struct recipe_rule *rule = rule_for(r, t->name);
    uint32_t wanted = t->from;
    t->method = r->method;
    if (role != PLAN_FIXED) {
        wanted = r->goal == RECIPE_TYPE     ? r->type
                 : r->goal == RECIPE_EXPORT ? plan_stock_type(t->from)
                 : r->goal == RECIPE_BPW ? mode_type(RECIPE_BALANCED, role)
                                         : mode_type(r->goal, role);
        m->is_free[i] = r->goal != RECIPE_TYPE && r->goal != RECIPE_EXPORT;
    }
    if (rule && rule->type != RECIPE_UNSET) {
        if (gguf_tensor(m->base, i)->dims < 2 && rule->type != HAL_F32)
            return fault_set(m->fault, ERR_ARGUMENT, "%s: a vector stays F32, the recipe's rule '%s' asks for %s",
                             t->name, rule->match, block_type(rule->type)->name);
        wanted = rule->type;
        m->is_free[i] = false;
    }
    if (rule && rule->method != RECIPE_UNSET)
        t->method = rule->method;
    if (t->method == RECIPE_KEEP) {
        wanted = t->from;
        m->is_free[i] = false;
    }
    if (t->method == RECIPE_SCHEME)
        return decide_scheme(m, i, role);
    if (wanted == HAL_NF4 && !(m->device && m->device->has_nf4))
        return fault_set(m->fault, ERR_UNSUPPORTED, "%s: NF4 is private and no plugin here takes it", t->name);
    t->type = wanted == t->from ? wanted : plan_type_for(wanted, t->cols);
    t->is_fallback = t->type != wanted;
    if (wanted != t->from && m->device) {
        t->type = type_of_device(t->type, t->cols, m->device->types);
        if (t->type == RECIPE_UNSET)
            return fault_set(m->fault, ERR_UNSUPPORTED, "%s: the device takes no type of %s or more bits",
                             t->name, block_type(wanted)->name);
    }
    /* more bits than the base has would be waste, but for leaving a private type */
    if (plan_type_bits(t->type) > plan_type_bits(t->from) && t->from != HAL_NF4)
        t->type = t->from;
    return ERR_NONE;
}

static enum err take_tensors(struct making *m)
{
    struct plan *p = m->plan;
    const uint32_t tensors = gguf_tensors(m->base);
    if (tensors == 0 || tensors > PLAN_TENSORS_MAX)
        return fault_set(m->fault, ERR_UNSUPPORTED, "%s: has %u tensors: expected 1 to %d",
                         gguf_path(m->base), tensors, PLAN_TENSORS_MAX);
    p->tensor = calloc(tensors, sizeof *p->tensor);
    m->is_free = calloc(tensors, sizeof *m->is_free);
    if (!p->tensor || !m->is_free)
        return ERR_MEMORY;
    for (uint32_t i = 0; i < tensors; i++) {
        const struct gguf_tensor *t = gguf_tensor(m->base, i);
        if (strlen(t->name) >= PLAN_NAME_MAX || t->rows > UINT32_MAX || t->shape[0] > UINT32_MAX)
            return fault_set(m->fault, ERR_UNSUPPORTED, "%s: %s: expected a name under %d bytes and fewer rows",
                             gguf_path(m->base), t->name, PLAN_NAME_MAX);
        struct plan_tensor *to = &p->tensor[i];
        strcpy(to->name, t->name);
        to->rows = (uint32_t)t->rows;
        to->cols = (uint32_t)t->shape[0];
        to->from = t->type;
        p->tensors = i + 1;
        enum err e = decide(m, i);
        if (e)
            return e;
    }
    return ERR_NONE;
}

static enum err check_base(const struct recipe *r, const char *base_sha256,
                           const struct profile *profile, struct fault *f)
{
    if (r->base_sha256[0] && strcmp(r->base_sha256, base_sha256) != 0)
        return fault_set(f, ERR_MISMATCH, "recipe: is for base %.12s, this one is %.12s", r->base_sha256,
                         base_sha256);
    if (profile && profile->base_sha256[0] && strcmp(profile->base_sha256, base_sha256) != 0)
        return fault_set(f, ERR_MISMATCH, "%s: was taken from base %.12s, this one is %.12s",
                         r->profile[0] ? r->profile : "profile", profile->base_sha256, base_sha256);
    return ERR_NONE;
}

/* Statistics that fit nothing would be dropped, and the method that asked for them with them. */
static enum err check_profile(const struct recipe *r, const struct gguf *base, const struct profile *profile,
                              struct fault *f)
{
    uint32_t known = 0;
    if (!profile)
        return r->method == RECIPE_AWQ || r->method == RECIPE_GPTQ_AWQ
                   ? fault_set(f, ERR_ARGUMENT, "method %s: expected a profile or calibration texts",
                               recipe_method_name(r->method))
                   : ERR_NONE;
    for (uint32_t i = 0; i < gguf_tensors(base); i++) {
        const struct gguf_tensor *t = gguf_tensor(base, i);
        const struct profile_entry *entry = profile_find(profile, t->name);
        if (entry && (entry->cols != t->shape[0] || t->rows % entry->slices))
            return fault_set(f, ERR_MISMATCH, "profile: is of another model: %s has %u channels there, %llu in %s",
                             t->name, entry->cols, (unsigned long long)t->shape[0], gguf_path(base));
        known += entry != NULL;
    }
    return known ? ERR_NONE
                 : fault_set(f, ERR_MISMATCH, "profile: is of another model: it has no tensor of %s", gguf_path(base));
}

static enum err check_limits(const struct making *m)
{
    const struct plan *p = m->plan;
    const struct recipe_gates *g = &p->gates;
    const double mib = (double)p->variant_bytes / 1048576;
    static const uint32_t sizes[] = {RECIPE_RSS_MIB, RECIPE_FILE_MIB};
    for (uint32_t i = 0; i < 2; i++)
        if (!recipe_gate_passes(g, sizes[i], mib))
            return fault_set(m->fault, ERR_GATE, "impossible gate %s %g: the variant alone has %.1f MiB",
                             recipe_gate_name(sizes[i]), g->limit[sizes[i]], mib);
    if (m->device && m->device->memory_bytes && p->variant_bytes > m->device->memory_bytes)
        return fault_set(m->fault, ERR_UNSUPPORTED, "the variant has %.1f MiB, the device %.1f MiB", mib,
                         (double)m->device->memory_bytes / 1048576);
    return ERR_NONE;
}

static enum err allocate(struct making *m, const struct plan_errors *errors)
{
    const struct recipe *r = m->recipe;
    struct plan *p = m->plan;
    if (r->goal == RECIPE_TYPE || r->goal == RECIPE_EXPORT || (r->goal != RECIPE_BPW && !errors))
        return ERR_NONE;
    if (!errors)
        return fault_set(m->fault, ERR_ARGUMENT, "a bpw target needs measured errors");
    uint64_t values = 0, limit = plan_file_bytes(p, m->base); /* a mode: better within its own size */
    for (uint32_t i = 0; i < p->tensors; i++)
        values += (uint64_t)p->tensor[i].rows * p->tensor[i].cols;
    if (r->goal == RECIPE_BPW)
        limit = (uint64_t)(r->bpw * (double)values / 8);
    return plan_allocate(p, m->base, errors, m->is_free, m->device ? m->device->types : 0, limit,
                         m->fault);
}

enum err plan_make(const struct recipe *recipe, const struct gguf *base, const char *base_sha256,
                   uint64_t base_bytes, const struct profile *profile, const char *profile_sha256,
                   const struct plan_errors *errors, const struct plan_device *device,
                   struct plan **out, struct fault *f)
{
    struct making m = {.recipe = recipe, .base = base, .profile = profile, .device = device, .fault = f};
    enum err e = check_base(recipe, base_sha256, profile, f);
    if (!e)
        e = check_profile(recipe, base, profile, f);
    if (e)
        return e;
    if (recipe_prunes(&recipe->prune) && !gguf_find(base, "tare.pruned"))
        return fault_set(f, ERR_UNSUPPORTED, "%s: the recipe prunes, this base has not been pruned", gguf_path(base));
    if (!(m.plan = calloc(1, sizeof *m.plan)))
        return ERR_MEMORY;
    struct plan *p = m.plan;
    memcpy(p->name, recipe->name, sizeof p->name);
    strncpy(p->base_sha256, base_sha256, sizeof p->base_sha256 - 1);
    p->base_bytes = base_bytes;
    p->cache_type = recipe->cache_type;
    p->activation_bits = recipe->activation_bits;
    p->seed = recipe->seed;
    p->trial_s = recipe->rollout.trial_s;
    p->gates = recipe->gates;
    if ((e = take_tensors(&m)))
        goto out;
    if (profile && profile_sha256) /* its length is part of the size that the allocation meets */
        strncpy(p->profile_sha256, profile_sha256, sizeof p->profile_sha256 - 1);
    if ((e = allocate(&m, errors)))
        goto out;
    bool is_weighted = false;
    for (uint32_t i = 0; i < p->tensors; i++) {
        plan_settle(&p->tensor[i], plan_role(base, p->tensor[i].name), profile);
        is_weighted = is_weighted || p->tensor[i].is_weighted;
    }
    if (!is_weighted)
        memset(p->profile_sha256, 0, sizeof p->profile_sha256);
    p->variant_bytes = plan_file_bytes(p, base);
    e = check_limits(&m);
out:
    free(m.is_free);
    if (e)
        plan_close(p);
    else
        *out = p;
    return e;
}

enum err plan_check(const struct plan *p, const struct gguf *base, struct fault *f)
{
    if (p->tensors != gguf_tensors(base))
        return fault_set(f, ERR_MISMATCH, "%s: has %u tensors, the plan %u", gguf_path(base),
                         gguf_tensors(base), p->tensors);
    for (uint32_t i = 0; i < p->tensors; i++) {
        const struct plan_tensor *a = &p->tensor[i];
        const struct gguf_tensor *b = gguf_tensor(base, i);
        if (strcmp(a->name, b->name) != 0 || a->rows != b->rows || a->cols != b->shape[0] ||
            a->from != b->type)
            return fault_set(f, ERR_MISMATCH, "%s: tensor %u is %s [%llu, %llu], the plan has %s [%u, %u]",
                             gguf_path(base), i, b->name, (unsigned long long)b->rows,
                             (unsigned long long)b->shape[0], a->name, a->rows, a->cols);
        if (block_row_bytes(a->type, a->cols) == 0)
            return fault_set(f, ERR_UNSUPPORTED, "%s: a row of %u does not divide into blocks of its type",
                             a->name, a->cols);
    }
    return ERR_NONE;
}
