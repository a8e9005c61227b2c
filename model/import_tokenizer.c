/* import_tokenizer.c: tokenizer.json, tokenizer.model and tokenizer_config.json to the keys of GGUF. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/import_vocabulary.h"

static enum err out_of_memory(struct import_source *s)
{
    return import_fail(s, ERR_MEMORY, "no memory for the tokenizer");
}

static json_t *load(const struct import_source *s, const char *file)
{
    char path[4096];
    json_error_t error;
    snprintf(path, sizeof path, "%s/%s", s->options->input, file);
    return json_load_file(path, 0, &error);
}

static enum err vocabulary_open(struct import_source *s, struct vocabulary *v, uint32_t size)
{
    *v = (struct vocabulary){calloc(size, sizeof *v->spelt), calloc(size, sizeof *v->score),
                             calloc(size, sizeof *v->class), size, false};
    return v->spelt && v->score && v->class && size ? ERR_NONE : out_of_memory(s);
}

static void vocabulary_close(struct vocabulary *v)
{
    for (uint32_t i = 0; v->spelt && i < v->size; i++)
        free((char *)v->spelt[i].text);
    free(v->spelt);
    free(v->score);
    free(v->class);
}

enum err vocabulary_set(struct import_source *s, struct vocabulary *v, json_int_t id, const char *text,
                          size_t bytes, int32_t class)
{
    if (id < 0 || id >= v->size)
        return import_fail(s, ERR_FORMAT, "tokenizer: token %lld: expected a row of the embedding below %u",
                           (long long)id, v->size);
    char *copy = malloc(bytes + 1);
    if (!copy)
        return out_of_memory(s);
    memcpy(copy, text, bytes);
    free((char *)v->spelt[id].text);
    v->spelt[id] = (struct gguf_text){copy, bytes};
    v->class[id] = class;
    return ERR_NONE;
}

enum err vocabulary_fill(struct import_source *s, struct vocabulary *v)
{
    enum err e = ERR_NONE;
    for (uint32_t i = 0; i < v->size && !e; i++)
        if (!v->spelt[i].text) {
            char name[24];
            const int n = snprintf(name, sizeof name, "[PAD%u]", i);
            e = vocabulary_set(s, v, i, name, (size_t)n, TOKENIZER_UNUSED);
        }
    return e;
}

enum err vocabulary_add(struct import_source *s, struct vocabulary *v, const json_t *added)
{
    enum err e = ERR_NONE;
    size_t i;
    json_t *t;
    json_array_foreach((json_t *)added, i, t)
    {
        const char *text = json_string_value(json_object_get(t, "content"));
        if (!e && text)
            e = vocabulary_set(s, v, json_integer_value(json_object_get(t, "id")), text, strlen(text),
                          json_is_true(json_object_get(t, "special")) ? TOKENIZER_CONTROL : TOKENIZER_USER);
    }
    return e;
}

static uint32_t find_spelling(const struct vocabulary *v, const char *text)
{
    for (uint32_t i = 0; i < v->size; i++)
        if (v->spelt[i].bytes == strlen(text) && memcmp(v->spelt[i].text, text, v->spelt[i].bytes) == 0)
            return i;
    return UINT32_MAX;
}

/* "</s>" or {"content": "</s>", ...} */
static const char *token_text(const json_t *v)
{
    return json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
}

static enum err special_ids(struct import_source *s, const struct vocabulary *v, const json_t *config)
{
    static const struct {
        const char *name, *key;
    } ids[] = {{"bos_token", "bos"}, {"eos_token", "eos"}, {"unk_token", "unknown"}, {"pad_token", "padding"}};
    enum err e = ERR_NONE;
    for (size_t i = 0; i < sizeof ids / sizeof *ids && !e; i++) {
        char key[64], number[24];
        snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", ids[i].key);
        snprintf(number, sizeof number, "%s_id", ids[i].name);
        const char *text = token_text(json_object_get(config, ids[i].name));
        const json_t *id = json_object_get(s->config, number);
        if (json_is_array(id))
            id = json_array_get(id, 0);
        uint32_t token = text ? find_spelling(v, text) : UINT32_MAX;
        if (token == UINT32_MAX && json_is_integer(id) && json_integer_value(id) >= 0)
            token = (uint32_t)json_integer_value(id);
        if (token < v->size)
            e = gguf_writer_u32(s->writer, key, token);
    }
    return e;
}

/* add_bos_token as the files say it: a switch, or a template that begins with the token. */
static enum err framing(struct import_source *s, const json_t *root, const json_t *config)
{
    enum err e = ERR_NONE;
    static const char *const names[] = {"add_bos_token", "add_eos_token"};
    for (int i = 0; i < 2 && !e; i++) {
        char key[64];
        const json_t *flag = json_object_get(config, names[i]);
        const json_t *processor = json_object_get(root, "post_processor");
        const json_t *single = json_object_get(processor, "single");
        const json_t *edge = json_array_get(single, i == 0 ? 0 : json_array_size(single) - 1);
        snprintf(key, sizeof key, "tokenizer.ggml.%s", names[i]);
        if (json_is_boolean(flag))
            e = gguf_writer_bool(s->writer, key, json_is_true(flag));
        else if (json_array_size(single) > 0 && strcmp(s->family->gguf, "bert") != 0)
            e = gguf_writer_bool(s->writer, key, json_object_get(edge, "SpecialToken") != NULL);
        else if (root && !single && i == 0 && strcmp(s->family->gguf, "bert") != 0)
            e = gguf_writer_bool(s->writer, key, false);
    }
    return e;
}

/* The template of tokenizer_config.json, or the file chat_template.jinja beside it. */
static enum err chat_template(struct import_source *s, const json_t *config)
{
    const json_t *v = json_object_get(config, "chat_template");
    const char *text = json_string_value(v);
    char path[4096], *file = NULL;
    size_t room = 0;
    size_t i;
    json_t *named;
    json_array_foreach((json_t *)v, i, named)
    {
        const char *name = json_string_value(json_object_get(named, "name"));
        if (name && strcmp(name, "default") == 0)
            text = json_string_value(json_object_get(named, "template"));
    }
    snprintf(path, sizeof path, "%s/chat_template.jinja", s->options->input);
    FILE *f = fopen(path, "rb");
    if (f) {
        const ssize_t n = getdelim(&file, &room, '\0', f);
        fclose(f);
        if (n > 0)
            text = file;
    }
    const enum err e =
        text ? gguf_writer_string(s->writer, "tokenizer.chat_template", text, strlen(text)) : ERR_NONE;
    free(file);
    return e;
}

static enum err put_vocabulary(struct import_source *s, const struct vocabulary *v)
{
    enum err e = gguf_writer_strings(s->writer, "tokenizer.ggml.tokens", v->spelt, v->size);
    if (!e && v->has_scores)
        e = gguf_writer_array(s->writer, "tokenizer.ggml.scores", GGUF_F32, v->score, v->size);
    return e ? e : gguf_writer_array(s->writer, "tokenizer.ggml.token_type", GGUF_I32, v->class, v->size);
}

/* tokenizer.model wins: tokenizer.json is made from it and has lost the scores. */
static enum err read_any(struct import_source *s, struct vocabulary *v, const json_t *root)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/tokenizer.model", s->options->input);
    FILE *f = fopen(path, "rb");
    if (!f)
        return root ? vocabulary_from_json(s, v, root)
                    : import_fail(s, ERR_NOT_FOUND, "expected tokenizer.json or tokenizer.model in the folder");
    enum { MODEL_BYTES_MAX = 64 << 20 };
    uint8_t *bytes = malloc(MODEL_BYTES_MAX);
    const size_t size = bytes ? fread(bytes, 1, MODEL_BYTES_MAX, f) : 0;
    fclose(f);
    enum err e = bytes ? vocabulary_from_model(s, v, bytes, size) : out_of_memory(s);
    free(bytes);
    return e || !root ? e : vocabulary_add(s, v, json_object_get(root, "added_tokens"));
}

enum err import_tokenizer(struct import_source *s, uint32_t vocabulary)
{
    struct vocabulary v;
    json_t *root = load(s, "tokenizer.json"), *config = load(s, "tokenizer_config.json");
    enum err e = vocabulary_open(s, &v, vocabulary);
    if (!e) e = read_any(s, &v, root);
    if (!e) e = vocabulary_fill(s, &v);
    if (!e) e = special_ids(s, &v, config);
    if (!e) e = framing(s, root, config);
    if (!e) e = chat_template(s, config);
    if (!e) e = put_vocabulary(s, &v);
    vocabulary_close(&v);
    json_decref(root);
    json_decref(config);
    return e;
}
