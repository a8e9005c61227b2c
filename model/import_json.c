/* import_json.c: the model part of tokenizer.json: byte-level BPE, what SentencePiece BPE becomes there, and
 * WordPiece. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/import_vocabulary.h"

static enum err out_of_memory(struct import_source *s)
{
    return import_fail(s, ERR_MEMORY, "no memory for the tokenizer");
}

static bool is_byte_token(const char *text)
{
    return strlen(text) == 6 && strncmp(text, "<0x", 3) == 0 && text[5] == '>';
}

/* How a pre-tokenizer cuts, as one line: its expressions and switches in order. */
static void describe(const json_t *p, char *out, size_t room)
{
    const char *type = json_string_value(json_object_get(p, "type"));
    const size_t used = strlen(out);
    if (!type)
        return;
    if (strcmp(type, "Sequence") == 0) {
        size_t i;
        json_t *part;
        json_array_foreach(json_object_get(p, "pretokenizers"), i, part) describe(part, out, room);
    } else if (strcmp(type, "Split") == 0) {
        const json_t *pattern = json_object_get(p, "pattern");
        const char *text = json_string_value(json_object_get(pattern, "Regex"));
        snprintf(out + used, room - used, "/%s/", text ? text : "?");
    } else if (strcmp(type, "ByteLevel") == 0) {
        snprintf(out + used, room - used, "%s", json_is_false(json_object_get(p, "use_regex")) ? "" : "words ");
    } else if (strcmp(type, "Digits") == 0) {
        snprintf(out + used, room - used, "%s", json_is_true(json_object_get(p, "individual_digits")) ? "digits " : "numbers ");
    } else {
        snprintf(out + used, room - used, "%s ", type);
    }
}

#define LETTERS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
#define REST "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+/"

/* tokenizer.ggml.pre of what describe() says; the expressions are those of tokenizer_split.c. */
static const char *family_of(const json_t *pre)
{
    static const struct {
        const char *cut, *family;
    } known[] = {
        {"words ", "gpt-2"},
        {"digits words ", "starcoder"},
        {"Punctuation words numbers /[0-9][0-9][0-9]/", "falcon"},
        {"/(?i:'s|'t|'re|'ve|'m|'ll|'d)" LETTERS "{1,3}" REST, "llama-bpe"},
        {"/(?i:'s|'t|'re|'ve|'m|'ll|'d)" LETTERS REST, "qwen2"},
        {"/[\r\n]//\\s?\\p{L}+//\\s?\\p{P}+//[一-龥ࠀ-一가-퟿]+/digits ", "deepseek-coder"},
        {"/[\r\n]//\\s?\\p{L}+//\\s?\\p{P}+//[一-龥ࠀ-一가-퟿]+//\\p{N}/", "deepseek-coder"},
        {"/\\p{N}{1,3}//[一-龥぀-ゟ゠-ヿ]+//[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?"
         "[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+/", "deepseek-v3"},
    };
    char cut[4096] = "";
    describe(pre, cut, sizeof cut);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(cut, known[i].cut) == 0)
            return known[i].family;
    /* DeepSeek-LLM lists the cased letters one by one: its beginning tells it apart */
    return strncmp(cut, "/[\r\n]//\\s?[A-Za-z\xc2\xb5", 20) == 0 ? "deepseek-llm" : NULL;
}

/* A merge is "left right", or in newer files [left, right]. */
static enum err read_merges(struct import_source *s, const json_t *merges, struct gguf_text **out, size_t *count)
{
    const size_t n = json_array_size(merges);
    struct gguf_text *lines = calloc(n + 1, sizeof *lines);
    enum err e = lines ? ERR_NONE : out_of_memory(s);
    for (size_t i = 0; i < n && !e; i++) {
        const json_t *m = json_array_get(merges, i);
        const char *left = json_string_value(json_is_array(m) ? json_array_get(m, 0) : m);
        const char *right = json_is_array(m) ? json_string_value(json_array_get(m, 1)) : "";
        char *line = NULL;
        if (!left || !right)
            e = import_fail(s, ERR_FORMAT, "tokenizer.json: merges: %zu: expected two tokens", i);
        else if (asprintf(&line, json_is_array(m) ? "%s %s" : "%s%s", left, right) < 0)
            e = out_of_memory(s);
        else
            lines[i] = (struct gguf_text){line, strlen(line)};
    }
    *out = lines;
    *count = n;
    return e;
}

static void free_lines(struct gguf_text *lines, size_t count)
{
    for (size_t i = 0; lines && i < count; i++)
        free((char *)lines[i].text);
    free(lines);
}

static enum err read_vocab(struct import_source *s, struct vocabulary *v, const json_t *root, const json_t *model)
{
    const char *text;
    json_t *id;
    enum err e = ERR_NONE;
    json_object_foreach(json_object_get(model, "vocab"), text, id)
    {
        if (!e)
            e = vocabulary_set(s, v, json_integer_value(id), text, strlen(text), TOKENIZER_NORMAL);
    }
    return e ? e : vocabulary_add(s, v, json_object_get(root, "added_tokens"));
}

static enum err byte_level(struct import_source *s, struct vocabulary *v, const json_t *root, const json_t *model)
{
    const char *family = family_of(json_object_get(root, "pre_tokenizer"));
    struct gguf_text *lines = NULL;
    size_t count = 0;
    if (!family)
        return import_fail(s, ERR_UNSUPPORTED, "tokenizer.json: pre_tokenizer: expressions unknown to this build");
    enum err e = read_vocab(s, v, root, model);
    if (!e) e = read_merges(s, json_object_get(model, "merges"), &lines, &count);
    if (!e) e = gguf_writer_string(s->writer, "tokenizer.ggml.model", "gpt2", 4);
    if (!e) e = gguf_writer_string(s->writer, "tokenizer.ggml.pre", family, strlen(family));
    if (!e) e = gguf_writer_strings(s->writer, "tokenizer.ggml.merges", lines, count);
    free_lines(lines, count);
    return e;
}

/* The id of a spelling, by binary search over ids sorted by spelling. */
struct by_spelling {
    const struct vocabulary *v;
    uint32_t *id;
};

static int compare_texts(struct gguf_text a, struct gguf_text b)
{
    const int c = memcmp(a.text, b.text, a.bytes < b.bytes ? a.bytes : b.bytes);
    return c ? c : (a.bytes > b.bytes) - (a.bytes < b.bytes);
}

static int compare_ids(const void *a, const void *b, void *context)
{
    const struct vocabulary *v = context;
    return compare_texts(v->spelt[*(const uint32_t *)a], v->spelt[*(const uint32_t *)b]);
}

static uint32_t find_id(const struct by_spelling *index, struct gguf_text text)
{
    uint32_t low = 0, high = index->v->size;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        const int c = compare_texts(index->v->spelt[index->id[middle]], text);
        if (c == 0)
            return index->id[middle];
        if (c < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return UINT32_MAX;
}

/* SentencePiece merges by the score of the result: minus the rank of the first merge that makes it. */
static enum err score_by_merges(struct import_source *s, struct vocabulary *v, const json_t *model)
{
    struct by_spelling index = {v, malloc(v->size * sizeof *index.id)};
    struct gguf_text *lines = NULL;
    size_t count = 0;
    enum err e = index.id ? ERR_NONE : out_of_memory(s);
    for (uint32_t i = 0; i < v->size && !e; i++) {
        index.id[i] = i;
        v->score[i] = -1e6f;
    }
    if (!e) {
        qsort_r(index.id, v->size, sizeof *index.id, compare_ids, v);
        e = read_merges(s, json_object_get(model, "merges"), &lines, &count);
    }
    for (size_t i = count; i-- > 0 && !e;) { /* backwards, so that the first one stays */
        char joined[1024];
        const struct gguf_text line = lines[i];
        const char *space = line.bytes > 2 ? memchr(line.text + 1, ' ', line.bytes - 1) : NULL;
        if (!space || line.bytes > sizeof joined)
            continue;
        const size_t left = (size_t)(space - line.text);
        memcpy(joined, line.text, left);
        memcpy(joined + left, space + 1, line.bytes - left - 1);
        const uint32_t id = find_id(&index, (struct gguf_text){joined, line.bytes - 1});
        if (id != UINT32_MAX)
            v->score[id] = -(float)i;
    }
    v->has_scores = true;
    free_lines(lines, count);
    free(index.id);
    return e;
}

static bool mentions(const json_t *part, const char *word)
{
    char *text = part ? json_dumps(part, JSON_ENCODE_ANY | JSON_ENSURE_ASCII) : NULL;
    const bool is_there = text && strstr(text, word);
    free(text);
    return is_there;
}

/* BPE over characters with byte fallback: what SentencePiece models become in tokenizer.json. */
static enum err sentence_bpe(struct import_source *s, struct vocabulary *v, const json_t *root, const json_t *model)
{
    enum err e = read_vocab(s, v, root, model);
    if (!e) e = vocabulary_fill(s, v);
    for (uint32_t i = 0; i < v->size && !e; i++) {
        char text[8] = "";
        if (v->spelt[i].bytes < sizeof text)
            memcpy(text, v->spelt[i].text, v->spelt[i].bytes);
        if (is_byte_token(text))
            v->class[i] = TOKENIZER_BYTE;
    }
    if (!e) e = score_by_merges(s, v, model);
    if (!e) e = gguf_writer_string(s->writer, "tokenizer.ggml.model", "llama", 5);
    if (!e) e = gguf_writer_string(s->writer, "tokenizer.ggml.pre", "default", 7);
    const bool prepends = mentions(json_object_get(root, "normalizer"), "Prepend") ||
                          mentions(json_object_get(root, "pre_tokenizer"), "\"always\"") ||
                          mentions(json_object_get(root, "pre_tokenizer"), "\"first\"");
    if (!e) e = gguf_writer_bool(s->writer, "tokenizer.ggml.add_space_prefix", prepends);
    return e;
}

/* GGUF marks the beginning of a word, Hugging Face what is within one. */
static enum err word_piece(struct import_source *s, struct vocabulary *v, const json_t *root, const json_t *model)
{
    const json_t *normaliser = json_object_get(root, "normalizer");
    if (normaliser && json_is_false(json_object_get(normaliser, "lowercase")))
        return import_fail(s, ERR_UNSUPPORTED, "tokenizer.json: expected a WordPiece tokenizer that lowers its text");
    enum err e = read_vocab(s, v, root, model);
    for (uint32_t i = 0; i < v->size && !e; i++) {
        const struct gguf_text t = v->spelt[i];
        char name[1024];
        if (!t.text || v->class[i] != TOKENIZER_NORMAL || t.bytes + 4 > sizeof name)
            continue;
        const bool is_within = t.bytes > 2 && memcmp(t.text, "##", 2) == 0;
        const int n = is_within ? snprintf(name, sizeof name, "%.*s", (int)t.bytes - 2, t.text + 2)
                                : snprintf(name, sizeof name, "\xe2\x96\x81%.*s", (int)t.bytes, t.text);
        e = vocabulary_set(s, v, i, name, (size_t)n, TOKENIZER_NORMAL);
    }
    if (!e) e = gguf_writer_string(s->writer, "tokenizer.ggml.model", "bert", 4);
    if (!e) e = gguf_writer_string(s->writer, "tokenizer.ggml.pre", "bert-bge", 8);
    static const char *const tokens[][2] = {{"[UNK]", "unknown_token_id"}, {"[CLS]", "cls_token_id"},
                                            {"[SEP]", "seperator_token_id"}, {"[PAD]", "padding_token_id"}};
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens && !e; i++) {
        char key[64];
        const json_t *id = json_object_get(json_object_get(model, "vocab"), tokens[i][0]);
        snprintf(key, sizeof key, "tokenizer.ggml.%s", tokens[i][1]);
        if (id)
            e = gguf_writer_u32(s->writer, key, (uint32_t)json_integer_value(id));
    }
    return e;
}

enum err vocabulary_from_json(struct import_source *s, struct vocabulary *v, const json_t *root)
{
    const json_t *model = json_object_get(root, "model");
    const char *type = json_string_value(json_object_get(model, "type"));
    if (type && strcmp(type, "WordPiece") == 0)
        return word_piece(s, v, root, model);
    if (!type || strcmp(type, "BPE") != 0)
        return import_fail(s, ERR_UNSUPPORTED, "tokenizer.json: model: \"%.20s\" without a tokenizer.model",
                           type ? type : "");
    return json_is_true(json_object_get(model, "byte_fallback")) ? sentence_bpe(s, v, root, model)
                                                                 : byte_level(s, v, root, model);
}
