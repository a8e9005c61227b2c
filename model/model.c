/* model.c: open, step and logits, the same for every family. */
#include "model/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/model_family.h"

enum { ARENA_BYTES = 24 << 20, HEAD_BYTES = 4 << 20, CONTEXT_PRESET = 4096, HEAD_ROWS_PRESET = 16 };

struct model {
    struct forward f;
    const struct model_family *family;
    void *state; /* the family's struct */
    struct hal_mat head_x; /* [head_rows, width] gathered rows of hidden */
    struct hal_mat logits; /* [head_rows, vocabulary] */
    float *host_logits;
    bool *is_used; /* [sequences] in the step being checked */
};

static const struct model_family *const families[] = {&model_llama, &model_gemma, &model_phi3,
                                                       &model_gpt, &model_deepseek2, &model_bert};

static const struct model_family *find_family(struct gguf_text architecture)
{
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        for (const char *const *name = families[i]->architectures; *name; name++)
            if (strlen(*name) == architecture.bytes &&
                memcmp(*name, architecture.text, architecture.bytes) == 0)
                return families[i];
    return NULL;
}

/* The element type that an option asks for; false: none of a cache. */
static bool cache_type(uint32_t option, uint32_t *out)
{
    *out = option == MODEL_CACHE_F32 ? HAL_F32 : option == 0 ? HAL_F16 : option;
    return *out == HAL_F32 || *out == HAL_F16 || *out == HAL_Q8_0 || *out == HAL_Q4_0;
}

/* Sizes that were left open; floats is what a row of a step needs. */
static void choose_sizes(struct forward *f, const struct model_options *o, uint64_t floats)
{
    struct model_info *info = &f->info;
    const uint32_t trained = info->context_trained < CONTEXT_PRESET ? info->context_trained : CONTEXT_PRESET;
    info->context = o->context ? o->context : trained;
    info->sequences = o->sequences ? o->sequences : 1;
    info->resting = o->resting < info->sequences ? o->resting : info->sequences - 1;
    const uint64_t whole = (info->context + CACHE_PAGE - 1) / CACHE_PAGE * (uint64_t)CACHE_PAGE;
    const uint64_t slots = o->slots ? o->slots : whole * (info->sequences - info->resting);
    if (info->context > 1u << 22 || info->sequences > 1u << 14 || slots > 1u << 28 || o->batch > 1u << 16 ||
        o->head_rows > 1u << 16) {
        weights_fail(&f->weights, ERR_ARGUMENT, "the context, sequences, slots or batch asked for is too large");
        return;
    }
    info->slots = (uint32_t)slots;
    info->batch = o->batch;
    if (!info->batch) {
        const uint64_t fits = ARENA_BYTES / (floats * sizeof(float) + 1) / 32 * 32;
        info->batch = info->is_encoder ? info->context : fits < 32 ? 32 : fits > 512 ? 512 : (uint32_t)fits;
    }
    if (info->batch < info->sequences && !o->batch)
        info->batch = info->sequences;
    if (info->batch > info->slots)
        info->batch = info->slots;
    info->head_rows = o->head_rows;
    if (!info->head_rows) {
        const uint64_t fits = HEAD_BYTES / (info->vocabulary * sizeof(float));
        info->head_rows = fits < 1 ? 1 : fits > HEAD_ROWS_PRESET ? HEAD_ROWS_PRESET : (uint32_t)fits;
        if (info->head_rows < info->sequences)
            info->head_rows = info->sequences;
    }
}

static void open_buffers(struct model *m)
{
    struct forward *f = &m->f;
    const struct model_info *info = &f->info;
    uint32_t widest = 2;
    for (uint32_t i = 0; i < f->ropes; i++)
        widest = f->rope[i]->shape.dims > widest ? f->rope[i]->shape.dims : widest;
    forward_activation(f, &f->hidden, info->width);
    weights_make(&f->weights, &m->head_x, HAL_ACTIVATION, HAL_F32, info->head_rows, info->width);
    weights_make(&f->weights, &m->logits, HAL_ACTIVATION, HAL_F32, info->head_rows, info->vocabulary);
    f->token = calloc(info->batch, sizeof *f->token);
    f->position = calloc(info->batch, sizeof *f->position);
    f->output = calloc(info->batch, sizeof *f->output);
    f->index = calloc(info->batch, sizeof *f->index);
    f->angles = calloc((size_t)info->batch * widest, sizeof *f->angles);
    m->host_logits = calloc((size_t)info->head_rows * info->vocabulary, sizeof *m->host_logits);
    m->is_used = calloc(info->sequences, sizeof *m->is_used);
    if (!f->token || !f->position || !f->output || !f->index || !f->angles || !m->host_logits || !m->is_used)
        weights_fail(&f->weights, ERR_MEMORY, "no memory for a step of %u tokens", info->batch);
    f->info.arena_bytes += (uint64_t)info->head_rows * (info->width + 2ull * info->vocabulary) * sizeof(float) +
                           (uint64_t)info->batch * widest * 2 * sizeof(float);
}

/* Which layers, and where tokens come from where the table is not loaded. */
static void open_part(struct forward *f, const struct model_options *o, const struct gguf_tensor *table)
{
    f->first = o->first_layer;
    f->last = o->last_layer ? o->last_layer : f->info.layers;
    f->is_part = o->last_layer > 0;
    if (f->first >= f->last || f->last > f->info.layers) {
        weights_fail(&f->weights, ERR_ARGUMENT, "expected a part of the layers 0 to %u", f->info.layers);
        return;
    }
    if (!f->is_part || f->first > 0)
        return;
    if (table->shape[0] != f->info.width)
        weights_fail(&f->weights, ERR_FORMAT, "expected token_embd.weight of %u columns", f->info.width);
    else if (!(f->table_row = calloc(f->info.width, sizeof *f->table_row)))
        weights_fail(&f->weights, ERR_MEMORY, "no memory for a row");
    f->table = table;
}

static void open_parts(struct model *m, const struct model_options *o)
{
    struct forward *f = &m->f;
    struct weights *w = &f->weights;
    const struct gguf_tensor *table = gguf_tensor_find(w->g, "token_embd.weight");
    if (!table || table->rows > 1u << 24) {
        weights_fail(w, ERR_FORMAT, "expected the tensor token_embd.weight of at most 2^24 rows");
        return;
    }
    f->info.vocabulary = (uint32_t)table->rows;
    f->info.is_encoder = m->family->is_encoder;
    const uint64_t floats = m->family->shape(f, m->state);
    if (!w->error)
        choose_sizes(f, o, floats);
    if (w->error)
        return;
    uint32_t type_k, type_v;
    if (!cache_type(o->cache_k, &type_k) || !cache_type(o->cache_v, &type_v)) {
        weights_fail(w, ERR_ARGUMENT, "expected a cache of F32, F16, Q8_0 or Q4_0");
        return;
    }
    for (uint32_t i = 0; i < gguf_tensors(w->g); i++)
        w->total_bytes += gguf_tensor(w->g, i)->bytes;
    open_part(f, o, table);
    weights_fail(w, cache_open(&f->cache, f->e, &f->info, type_k, type_v), "no memory for the cache");
    m->family->open(f, m->state);
    if (!w->error)
        weights_fail(w, cache_place(&f->cache, o->cache_bytes, o->spill_folder),
                     "no room for the cache: expected a budget of one layer at least, and memory or a file for all");
    if (!w->error && o->spill_folder && (o->spill_bytes || !o->cache_bytes))
        weights_fail(w, cache_spill_open(&f->cache, o->spill_folder, o->spill_bytes),
                     "no spill file of the cache of %llu bytes", (unsigned long long)o->spill_bytes);
    open_buffers(m);
    const uint32_t most = f->info.batch > f->info.head_rows ? f->info.batch : f->info.head_rows;
    if (!w->error)
        weights_fail(w, rounding_open(&f->rounding, f->e, &o->rounding, most, w->cols_max),
                     "no rounding of activations to %u bits", o->rounding.bits);
    f->info.parameters = w->parameters;
    f->info.weight_bytes = w->bytes;
    f->info.cache_bytes = f->cache.bytes;
    f->info.cache_outside_bytes = f->cache.cold_bytes;
    for (uint32_t i = 0; i < f->cache.groups; i++)
        f->info.cache_token_bytes += f->cache.group[i].page_bytes / CACHE_PAGE;
}

enum err model_open(const struct gguf *g, struct engine *e, const struct model_options *options,
                    struct model **out, char reason[GGUF_REASON_BYTES])
{
    static const struct model_options presets;
    struct gguf_text architecture = {"", 0};
    reason[0] = 0;
    struct model *m = calloc(1, sizeof *m);
    if (!m) {
        snprintf(reason, GGUF_REASON_BYTES, "no memory for a model");
        return ERR_MEMORY;
    }
    const struct model_options *o = options ? options : &presets;
    m->f.e = e;
    m->f.weights = (struct weights){
        .g = g, .e = e, .is_decoded = !rounding_keeps_blocks(&o->rounding), .reason = reason,
        .progress = o->progress, .progress_context = o->progress_context};
    if (gguf_string(g, "general.architecture", &architecture) != ERR_NONE || architecture.bytes > 31) {
        weights_fail(&m->f.weights, ERR_FORMAT, "expected the key general.architecture");
    } else {
        memcpy(m->f.info.architecture, architecture.text, architecture.bytes);
        m->family = find_family(architecture);
        if (!m->family)
            weights_fail(&m->f.weights, ERR_UNSUPPORTED, "the architecture %s is unknown to this build",
                         m->f.info.architecture);
    }
    if (m->family) {
        m->state = calloc(1, m->family->bytes);
        if (m->state)
            open_parts(m, o);
        else
            weights_fail(&m->f.weights, ERR_MEMORY, "no memory for a model");
    }
    const enum err failed = m->f.weights.error;
    if (failed) {
        model_close(m);
        return failed;
    }
    free(m->f.weights.piece);
    m->f.weights.piece = NULL;
    m->f.weights.g = NULL;
    m->f.weights.reason = NULL;
    *out = m;
    return ERR_NONE;
}

enum err model_sizes(const struct gguf *g, const struct model_options *options, struct model_info *out,
                     char reason[GGUF_REASON_BYTES])
{
    static const struct model_options presets;
    struct gguf_text architecture = {"", 0};
    struct forward *f = calloc(1, sizeof *f);
    void *state = NULL;
    const struct gguf_tensor *table = gguf_tensor_find(g, "token_embd.weight");
    const struct model_family *family = gguf_string(g, "general.architecture", &architecture) == ERR_NONE
                                            ? find_family(architecture)
                                            : NULL;
    enum err e = !f ? ERR_MEMORY : !family ? ERR_UNSUPPORTED : !table || table->rows > 1u << 24 ? ERR_FORMAT : ERR_NONE;
    snprintf(reason, GGUF_REASON_BYTES, "%s", e ? "expected a model of an architecture that this build knows" : "");
    if (!e && !(state = calloc(1, family->bytes)))
        e = ERR_MEMORY;
    if (!e) {
        memcpy(f->info.architecture, architecture.text, architecture.bytes);
        f->weights = (struct weights){.g = g, .reason = reason};
        f->info.vocabulary = (uint32_t)table->rows;
        f->info.is_encoder = family->is_encoder;
        const uint64_t floats = family->shape(f, state);
        if (!f->weights.error)
            choose_sizes(f, options ? options : &presets, floats);
        e = f->weights.error;
        f->info.arena_bytes = f->info.batch * floats * sizeof(float);
        for (uint32_t i = 0; i < gguf_tensors(g); i++)
            f->info.weight_bytes += gguf_tensor(g, i)->bytes;
        *out = f->info;
    }
    free(state);
    free(f);
    return e;
}

void model_narrow(struct model *m, uint32_t batch)
{
    struct model_info *info = &m->f.info;
    if (batch < info->sequences)
        batch = info->sequences;
    if (batch < info->batch)
        info->batch = batch;
}

void model_close(struct model *m)
{
    if (!m)
        return;
    if (m->family && m->state)
        m->family->close(m->state);
    if (m->f.cache.e)
        cache_close(&m->f.cache);
    rounding_close(&m->f.rounding);
    weights_close(&m->f.weights);
    free(m->state);
    free(m->f.token);
    free(m->f.position);
    free(m->f.output);
    free(m->f.index);
    free(m->f.angles);
    free(m->f.seen);
    free(m->f.table_row);
    free(m->host_logits);
    free(m->is_used);
    free(m);
}

const struct model_info *model_info(const struct model *m)
{
    return &m->f.info;
}

static enum err check_runs(struct model *m, const struct model_run *runs, uint32_t count)
{
    const struct model_info *info = &m->f.info;
    uint32_t rows = 0;
    enum err e = ERR_NONE;
    memset(m->is_used, 0, info->sequences * sizeof *m->is_used);
    for (uint32_t i = 0; i < count && !e; i++) {
        const struct model_run *run = &runs[i];
        if (run->sequence >= info->sequences || m->is_used[run->sequence] || run->count == 0 ||
            run->outputs > run->count || run->count > info->batch - rows)
            return ERR_ARGUMENT;
        if (m->f.is_part && (run->outputs != run->count || (m->f.first > 0 && (count > 1 || !m->f.stream))))
            return ERR_ARGUMENT;
        m->is_used[run->sequence] = true;
        rows += run->count;
        for (uint32_t t = 0; t < run->count && m->f.first == 0; t++)
            if (run->tokens[t] >= info->vocabulary)
                return ERR_ARGUMENT;
        if (run->count > info->context - m->f.cache.length[run->sequence])
            e = ERR_FULL;
    }
    return rows ? e : ERR_ARGUMENT;
}

enum err model_step(struct model *m, const struct model_run *runs, uint32_t count)
{
    struct forward *f = &m->f;
    enum err e = check_runs(m, runs, count);
    if (!e)
        e = cache_prepare(&f->cache, runs, count);
    if (e)
        return e;
    f->rows = 0;
    f->outputs = 0;
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t t = 0; t < runs[i].count; t++) {
            f->token[f->rows] = f->first > 0 ? 0 : runs[i].tokens[t];
            f->position[f->rows] = f->cache.length[runs[i].sequence] + t;
            if (t + runs[i].outputs >= runs[i].count)
                f->output[f->outputs++] = f->rows;
            f->rows++;
        }
    forward_begin(f);
    m->family->step(f, m->state);
    if (f->error) {
        f->outputs = 0;
        return f->error;
    }
    cache_commit(&f->cache, runs, count);
    return ERR_NONE;
}

enum err model_step_stream(struct model *m, uint32_t sequence, uint32_t count, const float *stream)
{
    const struct model_run run = {.sequence = sequence, .outputs = count, .count = count};
    if (m->f.first == 0)
        return ERR_ARGUMENT;
    m->f.stream = stream;
    const enum err e = model_step(m, &run, 1);
    m->f.stream = NULL;
    return e;
}

/* Rows [row, row + rows) of what the last layer gave, at most head_rows of them. */
static const struct hal_mat *hidden_rows(struct model *m, uint32_t row, uint32_t rows)
{
    struct forward *f = &m->f;
    if (row == 0 && rows == f->outputs)
        return &f->hidden;
    for (uint32_t i = 0; i < rows; i++)
        f->index[i] = row + i;
    m->head_x.rows = rows;
    forward_embed(f, &m->head_x, &f->hidden, f->index);
    return &m->head_x;
}

enum err model_hidden(struct model *m, float *out)
{
    struct forward *f = &m->f;
    if (f->outputs == 0)
        return ERR_ARGUMENT;
    forward_get(f, &f->hidden, out);
    return f->error;
}

/* The head's product of some output rows, into m->logits. */
static enum err multiply_head(struct model *m, uint32_t row, uint32_t rows, const struct weights_linear *head)
{
    struct forward *f = &m->f;
    if (!head || f->is_part || rows == 0 || rows > f->info.head_rows || row > f->outputs || rows > f->outputs - row)
        return ERR_ARGUMENT;
    const struct hal_mat *x = hidden_rows(m, row, rows);
    m->logits.rows = rows;
    forward_linear(f, &m->logits, x, head);
    return f->error;
}

enum err model_top(struct model *m, uint32_t row, uint32_t rows, uint32_t count, uint32_t *token, float *logit)
{
    struct forward *f = &m->f;
    float softcap = 0;
    const struct weights_linear *head = m->family->head(m->state, &softcap);
    if (softcap > 0) /* rounding behind the cap may make equals of what the device tells apart */
        return ERR_UNSUPPORTED;
    const enum err e = multiply_head(m, row, rows, head);
    return e ? e : (f->error = f->e->ops.top(f->e->dev, &m->logits, count, token, logit));
}

enum err model_logits(struct model *m, uint32_t row, uint32_t rows, const float **out)
{
    struct forward *f = &m->f;
    float softcap = 0;
    const struct weights_linear *head = m->family->head(m->state, &softcap);
    const enum err e = multiply_head(m, row, rows, head);
    if (e)
        return e;
    const size_t values = (size_t)rows * f->info.vocabulary;
    if (!f->error)
        f->error = f->e->ops.mat_get(f->e->dev, &m->logits, 0, rows, m->host_logits, values * sizeof(float));
    if (f->error)
        return f->error;
    for (size_t i = 0; i < values && softcap > 0; i++)
        m->host_logits[i] = softcap * tanhf(m->host_logits[i] / softcap);
    *out = m->host_logits;
    return ERR_NONE;
}

enum err model_prefill(struct model *m, uint32_t sequence, const uint32_t *tokens, uint32_t count)
{
    enum err e = count ? ERR_NONE : ERR_ARGUMENT;
    for (uint32_t at = 0; at < count && !e;) {
        const uint32_t n = count - at < m->f.info.batch ? count - at : m->f.info.batch;
        const struct model_run run = {sequence, at + n == count, n, tokens + at};
        e = model_step(m, &run, 1);
        at += n;
    }
    return e;
}

uint32_t model_length(const struct model *m, uint32_t sequence)
{
    return sequence < m->f.info.sequences ? m->f.cache.length[sequence] : 0;
}

uint32_t model_free_slots(const struct model *m)
{
    return cache_free_slots(&m->f.cache);
}

void model_spilled(const struct model *m, uint64_t *out, uint64_t *back)
{
    *out = m->f.cache.spilled_bytes;
    *back = m->f.cache.restored_bytes;
}

void model_turned(const struct model *m, uint64_t *out, uint64_t *back)
{
    *out = m->f.cache.cold_out_bytes;
    *back = m->f.cache.cold_in_bytes;
}

bool model_holds(const struct model *m, uint32_t sequence, uint32_t length)
{
    return sequence < m->f.info.sequences && cache_holds(&m->f.cache, sequence, length);
}

uint32_t model_truncate(struct model *m, uint32_t sequence, uint32_t length)
{
    return sequence < m->f.info.sequences ? cache_truncate(&m->f.cache, sequence, length) : 0;
}

uint32_t model_share(struct model *m, uint32_t to, uint32_t from, uint32_t length)
{
    const uint32_t sequences = m->f.info.sequences;
    return to < sequences && from < sequences ? cache_share(&m->f.cache, to, from, length) : 0;
}

enum err model_observe(struct model *m, const struct model_observer *observer)
{
    struct forward *f = &m->f;
    free(f->seen);
    f->seen = NULL;
    f->observer = (struct model_observer){0};
    if (!observer)
        return ERR_NONE;
    f->seen = calloc((size_t)f->info.batch * f->weights.cols_max, sizeof *f->seen);
    if (!f->seen)
        return ERR_MEMORY;
    f->observer = *observer;
    return ERR_NONE;
}
