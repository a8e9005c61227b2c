#include "compress/gptq_source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "compress/resident.h"
#include "hal/engine.h"
#include "model/model.h"

enum {
    BANDS = 8, /* passes at most, unless memory asks for more */
    CONTEXT = 512,
    TOKENS_DEFAULT = 32768,
    PATH_BYTES = 4096,
    HESSIANS_DEFAULT = 512 << 20,
    SLACK_BYTES = 16 << 20,
    LOAD_BYTES = 16 << 20, /* mapped pages between two give_back while a model is loaded */
    ACTIVATIONS = 12,      /* rows of the widest input that a step holds, at most */
    HEAD_ROWS = 16,
    ENCODE_BYTES = 13      /* per value of a tensor: floats twice, codes twice, blocks, mapped pages */
};

/* One linear input of the band in work. */
struct input {
    char name[PLAN_NAME_MAX]; /* of the tensor that stands for all that share it */
    struct hessian *hessian;
    struct gptq_basis *basis;
};

struct gptq_source {
    struct gptq_source_options options;
    struct calibrate_windows *windows;
    uint8_t *map;
    size_t map_bytes;
    struct gguf *work; /* the copy, in the map */
    uint32_t layers, band, first, last; /* layers [first, last) are in `input` */
    struct input *input;
    uint32_t inputs;
    uint64_t loaded; /* bytes of a model when pages were last given back */
    bool is_held;   /* the window in work is held out */
    enum err error; /* of the observer */
};

static void path_of(const char *out_path, char path[PATH_BYTES])
{
    snprintf(path, PATH_BYTES, "%s.work", out_path);
}

void gptq_source_discard(const char *out_path)
{
    char path[PATH_BYTES];
    path_of(out_path, path);
    unlink(path);
}

static uint32_t layer_of(const char *name)
{
    char *end;
    if (strncmp(name, "blk.", 4) != 0)
        return UINT32_MAX;
    const unsigned long layer = strtoul(name + 4, &end, 10);
    return end != name + 4 && *end == '.' && layer < UINT32_MAX ? (uint32_t)layer : UINT32_MAX;
}

/* The tensor whose input this one shares: k and v with q, up with gate. */
static const char *leader_of(const struct gguf *g, const char *name, char out[GGUF_NAME_BYTES])
{
    static const char *const pairs[][2] = {
        {"attn_k.weight", "attn_q.weight"}, {"attn_v.weight", "attn_q.weight"}, {"ffn_up.weight", "ffn_gate.weight"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        const char *part = strstr(name, pairs[i][0]);
        if (!part || strcmp(part, pairs[i][0]) != 0)
            continue;
        snprintf(out, GGUF_NAME_BYTES, "%.*s%s", (int)(part - name), name, pairs[i][1]);
        const struct gguf_tensor *a = gguf_tensor_find(g, out), *b = gguf_tensor_find(g, name);
        if (a && b && a->shape[0] == b->shape[0])
            return out;
    }
    return name;
}

static enum err copy_base(const char *from, const char *to, uint64_t bytes)
{
    const int in = open(from, O_RDONLY | O_CLOEXEC), out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    enum err e = in >= 0 && out >= 0 ? ERR_NONE : ERR_IO;
    char *piece = malloc(1 << 20);
    for (uint64_t at = 0; !e && at < bytes;) {
        const ssize_t n = piece ? read(in, piece, 1 << 20) : -1;
        if (n <= 0 || write(out, piece, (size_t)n) != n)
            e = piece ? ERR_IO : ERR_MEMORY;
        at += n > 0 ? (uint64_t)n : 0;
    }
    free(piece);
    if (in >= 0)
        close(in);
    if (out >= 0 && close(out) && !e)
        e = ERR_IO;
    return e;
}

/* Pages of the copy live on in its file. */
static void give_back(const struct gptq_source *s)
{
    (void)madvise(s->map, s->map_bytes, MADV_DONTNEED); /* only advice */
}

static enum err open_work(struct gptq_source *s, struct fault *f)
{
    char path[PATH_BYTES], reason[GGUF_REASON_BYTES] = "";
    const struct gguf *base = s->options.base;
    struct stat status;
    path_of(s->options.out_path, path);
    enum err e = ERR_NONE;
    if (s->options.done == 0 || stat(path, &status) || (uint64_t)status.st_size != gguf_bytes(base))
        e = copy_base(gguf_path(base), path, gguf_bytes(base));
    const int fd = e ? -1 : open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return fault_set(f, ERR_IO, "%s: %s", path, strerror(errno));
    s->map_bytes = (size_t)gguf_bytes(base);
    void *map = mmap(NULL, s->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map == MAP_FAILED)
        return fault_set(f, ERR_IO, "%s: %s", path, strerror(errno));
    s->map = map;
    e = gguf_open_bytes(s->map, s->map_bytes, path, &s->work, reason);
    if (e)
        return fault_set(f, e, "%s", reason);
    /* a killed run may have put more than its last checkpoint says */
    for (uint32_t i = s->options.done; s->options.done && i < gguf_tensors(base); i++) {
        const struct gguf_tensor *from = gguf_tensor(base, i), *to = gguf_tensor(s->work, i);
        memcpy(s->map + (to->data - s->map), from->data, from->bytes);
        gguf_drop(base, from->data, from->bytes);
        give_back(s);
    }
    return ERR_NONE;
}

/* What a pass with `band` layers takes beside what is resident now: while the text runs, the model and the
 * Hessians; while a tensor is encoded, the bases with a factor each, the factoring and the tensor. */
static uint64_t needed(const struct gptq_source *s, uint32_t band)
{
    uint64_t hessians = 0, squares = 0, weights = 0, widest = 0, largest = 0, vocabulary = 0;
    for (uint32_t i = 0; i < s->options.plan->tensors; i++) {
        const struct plan_tensor *t = &s->options.plan->tensor[i];
        const struct gguf_tensor *from = gguf_tensor(s->work, i);
        char name[GGUF_NAME_BYTES];
        const uint32_t layer = layer_of(t->name);
        const uint64_t values = (uint64_t)t->rows * t->cols;
        weights += from->bytes;
        if (layer == UINT32_MAX) {
            vocabulary = t->rows > vocabulary ? t->rows : vocabulary;
            continue;
        }
        widest = t->cols > widest ? t->cols : widest;
        largest = values > largest ? values : largest;
        if (layer == 0 && t->rows > 1 && strcmp(leader_of(s->work, t->name, name), t->name) == 0) {
            hessians += hessian_bytes(t->cols);
            squares += (uint64_t)t->cols * t->cols;
        }
    }
    const uint64_t square = widest * widest, rows = s->windows->context;
    const uint64_t run = weights + LOAD_BYTES + rows * ACTIVATIONS * widest * sizeof(float) +
                         4 * vocabulary * HEAD_ROWS * sizeof(float) + band * hessians + square * sizeof(float);
    const uint64_t encode = band * squares * 3 * sizeof(float) + square * sizeof(double) + largest * ENCODE_BYTES;
    return SLACK_BYTES + (run > encode ? run : encode);
}

/* Layers per pass: an eighth of the model, fewer where their Hessians would not fit. */
static enum err choose_band(struct gptq_source *s, struct fault *f)
{
    const uint64_t memory = s->options.memory_bytes, used = resident_now();
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < s->options.plan->tensors; i++) {
        const struct plan_tensor *t = &s->options.plan->tensor[i];
        const uint32_t layer = layer_of(t->name);
        char name[GGUF_NAME_BYTES];
        if (layer == UINT32_MAX)
            continue;
        if (layer + 1 > s->layers)
            s->layers = layer + 1;
        if (layer == 0 && t->rows > 1 && strcmp(leader_of(s->work, t->name, name), t->name) == 0)
            bytes += hessian_bytes(t->cols);
    }
    s->band = (s->layers + BANDS - 1) / BANDS;
    s->band = s->band ? s->band : 1;
    while (s->band > 1 && (memory ? used + needed(s, s->band) > memory : s->band * bytes > HESSIANS_DEFAULT))
        s->band--;
    if (memory && used + needed(s, s->band) > memory)
        return fault_set(f, ERR_ARGUMENT, "memory: %.0f MiB is too little for gptq, at least %.0f MiB is needed",
                         (double)memory / 1048576, (double)(used + needed(s, s->band)) / 1048576 + 1);
    return ERR_NONE;
}

enum err gptq_source_open(const struct gptq_source_options *options, struct gptq_source **out,
                          struct fault *f)
{
    char reason[GGUF_REASON_BYTES] = "";
    struct tokenizer *tokenizer = NULL;
    struct gptq_source *s = calloc(1, sizeof *s);
    if (!s)
        return ERR_MEMORY;
    s->options = *options;
    uint32_t context = CONTEXT, trained = 0;
    struct gguf_text architecture = {"", 0};
    enum err e = open_work(s, f);
    if (!e && (e = tokenizer_open(s->work, &tokenizer, reason)))
        fault_set(f, e, "%s", reason);
    if (!e && gguf_string(s->work, "general.architecture", &architecture) == ERR_NONE) {
        char key[96];
        snprintf(key, sizeof key, "%.*s.context_length", (int)(architecture.bytes < 64 ? architecture.bytes : 64),
                 architecture.text);
        if (gguf_u32(s->work, key, &trained) == ERR_NONE && trained && trained < context)
            context = trained;
    }
    if (!e) {
        const uint64_t tokens = options->tokens ? options->tokens : TOKENS_DEFAULT / calibrate_windows_languages(options->text, options->texts);
        e = calibrate_windows_open(tokenizer, options->text, options->texts, context, tokens,
                                   calibrate_windows_languages(options->text, options->texts) > 1, options->plan->seed, &s->windows, f);
    }
    tokenizer_close(tokenizer);
    if (e) {
        gptq_source_close(s);
        return e;
    }
    if ((e = choose_band(s, f))) {
        gptq_source_close(s);
        gptq_source_discard(options->out_path);
        return e;
    }
    *out = s;
    return ERR_NONE;
}

static void drop_inputs(struct gptq_source *s)
{
    for (uint32_t i = 0; i < s->inputs; i++) {
        hessian_close(s->input[i].hessian);
        gptq_basis_close(s->input[i].basis);
    }
    free(s->input);
    s->input = NULL;
    s->inputs = 0;
}

void gptq_source_close(struct gptq_source *s)
{
    if (!s)
        return;
    drop_inputs(s);
    calibrate_windows_close(s->windows);
    gguf_close(s->work);
    if (s->map)
        munmap(s->map, s->map_bytes);
    free(s);
}

static struct input *find_input(struct gptq_source *s, const char *name)
{
    for (uint32_t i = 0; i < s->inputs; i++)
        if (strcmp(s->input[i].name, name) == 0)
            return &s->input[i];
    return NULL;
}

static void observe(void *context, const char *tensor, uint32_t part, const float *x, uint32_t rows,
                    uint32_t cols)
{
    struct gptq_source *s = context;
    struct input *in = s->error ? NULL : find_input(s, tensor);
    if (!in || part > 0 || in->hessian->cols != cols)
        return;
    s->error = hessian_add(in->hessian, s->is_held ? HESSIAN_HELD : HESSIAN_TRAIN, x, rows, s->options.threads);
}

static bool wants_gptq(const struct plan_tensor *t)
{
    return t->method == RECIPE_GPTQ || t->method == RECIPE_GPTQ_AWQ;
}

/* The inputs of the layers of the band, without those of experts. */
static enum err list_inputs(struct gptq_source *s)
{
    const struct plan *p = s->options.plan;
    if (!(s->input = calloc(p->tensors, sizeof *s->input)))
        return ERR_MEMORY;
    for (uint32_t i = 0; i < p->tensors; i++) {
        char name[GGUF_NAME_BYTES];
        const struct plan_tensor *t = &p->tensor[i];
        const uint32_t layer = layer_of(t->name);
        const struct gguf_tensor *from = gguf_tensor(s->work, i);
        if (!wants_gptq(t) || layer < s->first || layer >= s->last || from->dims != 2)
            continue;
        const char *leader = leader_of(s->work, t->name, name);
        if (find_input(s, leader))
            continue;
        struct input *in = &s->input[s->inputs];
        snprintf(in->name, sizeof in->name, "%.*s", PLAN_NAME_MAX - 1, leader);
        enum err e = hessian_open(t->cols, &in->hessian);
        if (e)
            return e;
        s->inputs++;
    }
    return ERR_NONE;
}

static enum err run_windows(struct gptq_source *s, struct model *m)
{
    for (uint32_t i = 0; i < s->windows->windows; i++) {
        s->is_held = calibrate_windows_is_held(i);
        enum err e = calibrate_windows_step(s->windows, i, m);
        if (!e)
            e = s->error;
        if (!e && s->options.progress && s->options.progress(s->options.progress_context))
            e = ERR_CANCELLED;
        if (e)
            return e;
    }
    return ERR_NONE;
}

/* Folding multiplies the columns of a weight by c and so divides its input. */
static void fold(float *m, uint32_t n, const float *c)
{
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++)
            m[(size_t)i * n + j] /= c[i] * c[j];
}

static const float *column_of(const struct gptq_source *s, const char *name)
{
    const float *column = NULL, *row = NULL;
    for (uint32_t i = 0; i < s->options.plan->tensors; i++)
        if (strcmp(s->options.plan->tensor[i].name, name) == 0)
            awq_scales(s->options.awq, i, &column, &row);
    return column;
}

static enum err finish_inputs(struct gptq_source *s)
{
    for (uint32_t i = 0; i < s->inputs; i++) {
        struct input *in = &s->input[i];
        struct hessian *h = in->hessian;
        const float *column = column_of(s, in->name);
        in->hessian = NULL;
        if (h->rows[HESSIAN_TRAIN] < h->cols / 4.0) { /* too few to trust */
            hessian_close(h);
            continue;
        }
        hessian_finish(h);
        for (uint32_t k = 0; column && k < 2; k++)
            fold(h->sum[k], h->cols, column);
        enum err e = gptq_basis_open(h, &in->basis);
        if (e)
            return e;
    }
    return ERR_NONE;
}

static void on_load(void *context, uint64_t done, uint64_t total)
{
    struct gptq_source *s = context;
    (void)total;
    if (done < s->loaded || done - s->loaded > LOAD_BYTES / 2) {
        give_back(s);
        s->loaded = done;
    }
}

static enum err collect(struct gptq_source *s, uint32_t layer, struct fault *f)
{
    char reason[GGUF_REASON_BYTES] = "";
    struct model *m = NULL;
    const struct model_observer observer = {.linear = observe, .context = s};
    const struct model_options options = {.sequences = 1, .context = s->windows->context,
                                          .batch = s->windows->context, .head_rows = 1,
                                          .progress = on_load, .progress_context = s};
    drop_inputs(s);
    s->first = layer / s->band * s->band;
    s->last = s->first + s->band;
    enum err e = list_inputs(s);
    if (!e && (e = model_open(s->work, s->options.engine, &options, &m, reason)))
        fault_set(f, e, "%s", reason);
    if (!e)
        e = model_observe(m, &observer);
    if (!e)
        e = run_windows(s, m);
    model_close(m);
    give_back(s);
    return e ? e : finish_inputs(s);
}

enum err gptq_source_get(struct gptq_source *s, uint32_t i, struct gptq_basis **out, struct fault *f)
{
    char name[GGUF_NAME_BYTES];
    const struct plan_tensor *t = &s->options.plan->tensor[i];
    const uint32_t layer = layer_of(t->name);
    *out = NULL;
    if (layer == UINT32_MAX || !wants_gptq(t))
        return ERR_NONE;
    if (s->inputs == 0 || layer < s->first || layer >= s->last) {
        enum err e = collect(s, layer, f);
        if (e)
            return e;
    }
    const struct input *in = find_input(s, leader_of(s->work, t->name, name));
    *out = in ? in->basis : NULL;
    return ERR_NONE;
}

static uint32_t pass_of(const struct gptq_source *s, uint32_t i)
{
    const uint32_t layer = layer_of(s->options.plan->tensor[i].name);
    return layer == UINT32_MAX ? layer : layer / s->band;
}

bool gptq_source_ends(const struct gptq_source *s, uint32_t i)
{
    return i + 1 >= s->options.plan->tensors || pass_of(s, i) != pass_of(s, i + 1);
}

enum err gptq_source_sync(struct gptq_source *s)
{
    if (msync(s->map, s->map_bytes, MS_SYNC))
        return ERR_IO;
    give_back(s);
    return ERR_NONE;
}

enum err gptq_source_put(struct gptq_source *s, uint32_t i, uint32_t row, uint32_t rows, float *x)
{
    const struct plan_tensor *t = &s->options.plan->tensor[i];
    const struct gguf_tensor *to = gguf_tensor(s->work, i);
    const float *column, *row_scale;
    awq_scales(s->options.awq, i, &column, &row_scale);
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = 0; c < t->cols; c++)
            x[(size_t)r * t->cols + c] = x[(size_t)r * t->cols + c] / (column ? column[c] : 1) *
                                         (row_scale ? row_scale[row + r] : 1);
    return s->options.engine->ops.encode(s->options.engine->dev, to->type, HAL_RTN, x, rows, t->cols, NULL,
                                         s->map + (to->data - s->map) + (size_t)row * to->row_bytes,
                                         rows * to->row_bytes);
}
