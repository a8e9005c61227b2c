/* import.c: the driver: which tensors there are, and what the folder says about them. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hal/half.h"
#include "hal/hal.h"
#include "model/import_source.h"

enum err import_fail(struct import_source *s, enum err e, const char *format, ...)
{
    va_list args;
    char what[GGUF_REASON_BYTES];
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    const char *input = s->options->input;
    const size_t length = strlen(input);
    snprintf(s->reason, GGUF_REASON_BYTES, "%.60s: %.90s", input + (length > 60 ? length - 60 : 0), what);
    return e;
}

struct import_tensor *import_new_tensor(struct import_source *s)
{
    if (s->tensors == s->room) {
        const uint32_t room = s->room * 2 + 64;
        struct import_tensor *more = room <= IMPORT_TENSORS_MAX ? realloc(s->tensor, room * sizeof *more) : NULL;
        if (!more) {
            (void)!import_fail(s, ERR_MEMORY, "no memory for the list of tensors");
            return NULL;
        }
        s->tensor = more;
        s->room = room;
    }
    struct import_tensor *t = &s->tensor[s->tensors++];
    memset(t, 0, sizeof *t);
    for (int i = 0; i < GGUF_DIMS; i++)
        t->shape[i] = 1;
    return t;
}

/* "layers.{l}.x" with the numbers put in and a suffix behind it */
static void expand(const char *pattern, uint32_t layer, uint32_t expert, const char *suffix, char *out, size_t room)
{
    size_t used = 0;
    for (const char *p = pattern; *p && used + 12 < room; p++) {
        if (p[0] == '{' && p[2] == '}') {
            used += (size_t)snprintf(out + used, room - used, "%" PRIu32, p[1] == 'e' ? expert : layer);
            p += 2;
        } else {
            out[used++] = *p;
        }
    }
    snprintf(out + used, room - used, "%s", suffix);
}

static struct safetensors_tensor *find_source(struct import_source *s, const char *name)
{
    char full[SAFETENSORS_NAME_BYTES];
    struct safetensors_tensor *t = safetensors_find(s->st, name);
    if (!t && s->is_tied && strcmp(name, "embed_tokens.weight") == 0 && !safetensors_find(s->st, "model.embed_tokens.weight"))
        return safetensors_find(s->st, "lm_head.weight"); /* of two tied names some writers keep the other */
    if (!t && (size_t)snprintf(full, sizeof full, "%s%s", s->family->prefix, name) < sizeof full)
        t = safetensors_find(s->st, full);
    return t;
}

static uint32_t type_of(const struct import_source *s, const struct import_tensor *t, uint32_t source)
{
    if (t->dims < 2)
        return HAL_F32; /* norms, biases: the field keeps vectors in F32 */
    return s->options->type == IMPORT_KEEP ? source : s->options->type;
}

/* The shape of a target from its first source. */
static enum err set_shape(struct import_source *s, struct import_tensor *t)
{
    const struct safetensors_tensor *from = t->source[0];
    uint64_t rows = from->dims == 2 ? from->shape[0] : 1, cols = from->shape[from->dims == 2 ? 1 : 0];
    if (from->dims < 1 || from->dims > 2)
        return import_fail(s, ERR_FORMAT, "%s: expected one or two dimensions", from->name);
    for (uint32_t i = 1; i < t->sources; i++)
        if (t->source[i]->dims != 2 || t->source[i]->shape[0] != rows || t->source[i]->shape[1] != cols ||
            t->source[i]->type != from->type)
            return import_fail(s, ERR_FORMAT, "%s: expected the shape of the other experts", t->source[i]->name);
    const uint64_t heads = t->kind == IMPORT_PAIRS_Q ? s->heads : s->kv_heads;
    switch (t->kind) {
    case IMPORT_TRANSPOSE:
        if (from->dims == 2) {
            const uint64_t swap = rows;
            rows = cols;
            cols = swap;
        }
        break;
    case IMPORT_PAIRS_Q:
    case IMPORT_PAIRS_K:
        if ((from->dims == 2 ? rows : cols) != heads * s->head_dim || s->head_dim % 2)
            return import_fail(s, ERR_FORMAT, "%s: expected %" PRIu64 " heads of %u", from->name, heads, s->head_dim);
        break;
    case IMPORT_NEOX_QKV:
        if ((from->dims == 2 ? rows : cols) != 3ull * s->heads * s->head_dim)
            return import_fail(s, ERR_FORMAT, "%s: expected q, k and v of %u heads", from->name, s->heads);
        break;
    case IMPORT_KEY_UP:
    case IMPORT_VALUE_UP:
        if (from->dims != 2 || rows != (uint64_t)s->heads * (s->nope_dim + s->value_dim))
            return import_fail(s, ERR_FORMAT, "%s: expected keys and values of %u heads", from->name, s->heads);
        t->dims = 3;
        t->shape[0] = t->kind == IMPORT_KEY_UP ? s->nope_dim : cols;
        t->shape[1] = t->kind == IMPORT_KEY_UP ? cols : s->value_dim;
        t->shape[2] = s->heads;
        return ERR_NONE;
    default: break;
    }
    t->dims = t->kind == IMPORT_EXPERTS ? 3 : from->dims;
    t->shape[0] = cols;
    t->shape[1] = rows;
    t->shape[2] = t->kind == IMPORT_EXPERTS ? t->sources : 1;
    return ERR_NONE;
}

/* One rule, one layer, one suffix: announce the tensor if its source is there. */
static enum err apply(struct import_source *s, const struct import_rule *rule, uint32_t layer,
                      const char *suffix, bool *found)
{
    char name[SAFETENSORS_NAME_BYTES];
    const uint32_t sources = rule->kind == IMPORT_EXPERTS ? s->experts : 1;
    const bool is_bare = strstr(rule->to, ".bias") != NULL; /* both names are complete */
    if (is_bare && suffix[1] != 'b')
        return ERR_NONE;
    expand(rule->from, layer, 0, is_bare ? "" : suffix, name, sizeof name);
    if (sources == 0 || !find_source(s, name))
        return ERR_NONE;
    *found = true;
    struct import_tensor *t = import_new_tensor(s);
    if (!t || !(t->source = calloc(sources, sizeof *t->source)))
        return import_fail(s, ERR_MEMORY, "no memory for the list of tensors");
    expand(rule->to, layer, 0, is_bare ? "" : suffix, t->name, sizeof t->name);
    /* the splits of kv_b have no bias; a transposed one's bias is a plain vector */
    t->kind = rule->kind;
    for (t->sources = 0; t->sources < sources; t->sources++) {
        expand(rule->from, layer, t->sources, is_bare ? "" : suffix, name, sizeof name);
        if (!(t->source[t->sources] = find_source(s, name)))
            return import_fail(s, ERR_FORMAT, "%s: expected this tensor", name);
        t->source[t->sources]->is_used = true;
    }
    const enum err e = set_shape(s, t);
    t->type = type_of(s, t, t->source[0]->type);
    return e;
}

static enum err list_tensors(struct import_source *s)
{
    static const char *const suffixes[] = {".weight", ".bias"};
    enum err e = ERR_NONE;
    for (const struct import_rule *rule = s->family->rules; rule->from && !e; rule++) {
        const uint32_t layers = strstr(rule->from, "{l}") ? s->layers : 1;
        for (uint32_t l = 0; l < layers && !e; l++) {
            bool found = false;
            if (s->is_tied && strcmp(rule->to, "output") == 0) {
                char name[64];
                snprintf(name, sizeof name, "%s.weight", rule->from);
                struct safetensors_tensor *t = find_source(s, name);
                if (t)
                    t->is_used = true; /* a copy of the embedding */
                continue;
            }
            for (int k = 0; k < 2 && !e; k++)
                e = apply(s, rule, l, suffixes[k], &found);
            if (!e && !found && !rule->is_optional) {
                char name[SAFETENSORS_NAME_BYTES];
                expand(rule->from, l, 0, ".weight", name, sizeof name);
                e = import_fail(s, ERR_FORMAT, "%s: expected this tensor", name);
            }
        }
    }
    return e;
}

/* Buffers that some versions of the training code saved; everything else must have been named. */
static bool is_known_extra(const char *name)
{
    static const char *const parts[] = {"rotary_emb.inv_freq", "attn.masked_bias", "attention.masked_bias",
                                        ".attn.bias", ".attention.bias", "position_ids", "pooler.dense", "cls.", "vision_tower.", "multi_modal_projector."};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (strstr(name, parts[i]))
            return true;
    return false;
}

static enum err check_all_used(struct import_source *s)
{
    for (uint32_t i = 0; i < safetensors_count(s->st); i++) {
        const struct safetensors_tensor *t = safetensors_at(s->st, i);
        if (!t->is_used && !is_known_extra(t->name))
            return import_fail(s, ERR_UNSUPPORTED, "%s: this build does not know what to do with this tensor", t->name);
    }
    return ERR_NONE;
}

/* ---- folders ---- */

/* A family's forward pass has one activation; a folder that asks for another would give other logits. */
static enum err check_activation(struct import_source *s)
{
    static const char *const names[] = {"hidden_activation", "hidden_act", "activation_function"};
    const char *asked = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names && !asked; i++)
        asked = json_string_value(json_object_get(s->config, names[i]));
    const char *at = asked ? strstr(s->family->activation, asked) : s->family->activation;
    const size_t length = asked ? strlen(asked) : 0;
    if (at && (!asked || ((at == s->family->activation || at[-1] == ' ') && (at[length] == ' ' || !at[length]))))
        return ERR_NONE;
    return import_fail(s, ERR_UNSUPPORTED, "config.json: hidden_act: expected %s, found \"%.20s\"",
                       s->family->activation, asked);
}

static enum err open_config(struct import_source *s)
{
    char path[4096];
    json_error_t error;
    snprintf(path, sizeof path, "%s/config.json", s->options->input);
    s->root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (!s->root)
        return import_fail(s, access(path, R_OK) ? ERR_NOT_FOUND : ERR_FORMAT, "config.json:%d: %.60s", error.line,
                           error.text);
    const json_t *names = json_object_get(s->root, "architectures");
    const char *name = json_string_value(json_array_get(names, 0));
    s->config = json_object_get(s->root, "text_config");
    if (!json_is_object(s->config))
        s->config = s->root;
    s->family = name ? import_family_find(name) : NULL;
    if (!s->family)
        return import_fail(s, ERR_UNSUPPORTED, "config.json: architectures: \"%.40s\" is unknown to this build",
                           name ? name : "");
    s->is_tied = json_is_true(json_object_get(s->config, "tie_word_embeddings")) ||
                 (strncmp(s->family->gguf, "gemma", 5) == 0 && !json_is_false(json_object_get(s->config, "tie_word_embeddings")));
    return check_activation(s);
}

static enum err general_keys(struct import_source *s)
{
    const char *path = s->options->input, *name = json_string_value(json_object_get(s->root, "_name_or_path"));
    char folder[256];
    if (!name || !*name) { /* the last part of the folder's path */
        size_t end = strlen(path);
        while (end > 1 && path[end - 1] == '/')
            end--;
        size_t start = end;
        while (start > 0 && path[start - 1] != '/')
            start--;
        snprintf(folder, sizeof folder, "%.*s", (int)(end - start), path + start);
        name = folder;
    }
    enum err e = gguf_writer_string(s->writer, "general.architecture", s->family->gguf, strlen(s->family->gguf));
    if (!e)
        e = gguf_writer_string(s->writer, "general.name", name, strlen(name));
    return e;
}

/* general.file_type: what most matrices are. */
static enum err file_type_key(struct import_source *s)
{
    uint64_t bytes[3] = {0};
    for (uint32_t i = 0; i < s->tensors; i++)
        if (s->tensor[i].dims > 1)
            bytes[s->tensor[i].type == HAL_F16 ? 1 : s->tensor[i].type == HAL_BF16 ? 2 : 0] += import_bytes(&s->tensor[i]);
    const uint32_t most = bytes[1] > bytes[0] ? (bytes[2] > bytes[1] ? 2 : 1) : bytes[2] > bytes[0] ? 2 : 0;
    static const uint32_t numbers[] = {0, 1, 32}; /* ALL_F32, MOSTLY_F16, MOSTLY_BF16 */
    return gguf_writer_u32(s->writer, "general.file_type", numbers[most]);
}

static enum err import_folder(struct import_source *s)
{
    char detail[GGUF_REASON_BYTES];
    enum err e = open_config(s);
    if (!e && (e = safetensors_open(s->options->input, &s->st, detail)))
        snprintf(s->reason, GGUF_REASON_BYTES, "%s", detail);
    if (!e) e = general_keys(s);
    if (!e) e = s->family->keys(s);
    if (!e) e = list_tensors(s);
    if (!e) e = check_all_used(s);
    if (!e) e = file_type_key(s);
    if (e)
        return e;
    uint32_t vocabulary = 0;
    const json_t *width = json_object_get(s->config, "hidden_size"), *words = json_object_get(s->config, "vocab_size");
    for (uint32_t i = 0; i < s->tensors; i++) {
        const struct import_tensor *t = &s->tensor[i];
        if (strcmp(t->name, "token_embd.weight") != 0)
            continue;
        if (t->dims != 2 || t->shape[1] > UINT32_MAX || (words && t->shape[1] != (uint64_t)json_integer_value(words)) ||
            (width && t->shape[0] != (uint64_t)json_integer_value(width)))
            return import_fail(s, ERR_FORMAT, "%.60s: expected vocab_size rows of hidden_size", t->source[0]->name);
        vocabulary = (uint32_t)t->shape[1];
    }
    return import_tokenizer(s, vocabulary);
}

static enum err import_file(struct import_source *s, void **map, size_t *bytes)
{
    struct stat st;
    const int fd = open(s->options->input, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0 || st.st_size <= 0) {
        if (fd >= 0)
            close(fd);
        return import_fail(s, ERR_IO, "cannot be read: %s", strerror(errno));
    }
    *bytes = (size_t)st.st_size;
    *map = mmap(NULL, *bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (*map == MAP_FAILED)
        return import_fail(s, ERR_MEMORY, "cannot be mapped");
    return import_llama2c(s, *map, *bytes);
}

enum err import_run(const struct import_options *options, struct import_report *report,
                    char reason[GGUF_REASON_BYTES])
{
    struct import_source s = {.options = options, .reason = reason};
    struct stat st;
    void *map = MAP_FAILED;
    size_t map_bytes = 0;
    reason[0] = 0;
    *report = (struct import_report){.tensors = 0};
    if (stat(options->input, &st) != 0)
        return import_fail(&s, ERR_NOT_FOUND, "expected a folder or a llama2.c file");
    enum err e = gguf_writer_open(options->output, GGUF_ALIGNMENT_DEFAULT, &s.writer);
    if (!e)
        e = S_ISDIR(st.st_mode) ? import_folder(&s) : import_file(&s, &map, &map_bytes);
    if (!e)
        e = import_write(&s, report);
    if (e && !reason[0])
        snprintf(reason, GGUF_REASON_BYTES, "%s",
                 s.writer && *gguf_writer_reason(s.writer) ? gguf_writer_reason(s.writer) : "no memory");
    if (!e) {
        snprintf(report->architecture, sizeof report->architecture, "%s", s.family ? s.family->gguf : "llama");
        report->tensors = s.tensors;
        report->bytes = stat(options->output, &st) == 0 ? (uint64_t)st.st_size : 0;
    }
    gguf_writer_close(s.writer);
    for (uint32_t i = 0; i < s.tensors; i++) {
        free(s.tensor[i].source);
        free(s.tensor[i].values);
    }
    free(s.tensor);
    safetensors_close(s.st);
    free(s.made);
    json_decref(s.root);
    if (map != MAP_FAILED)
        munmap(map, map_bytes);
    return e;
}
