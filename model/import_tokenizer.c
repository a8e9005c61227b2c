/* import_tokenizer.c: tokenizer.json, tokenizer.model and tokenizer_config.json to the keys of GGUF. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/import_source.h"
#include "model/tokenizer.h"

struct vocabulary {
    struct gguf_text *spelt; /* owned texts; NULL: no such token */
    float *score;
    int32_t *class;
    uint32_t size;
    bool has_scores;
};

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

static enum err set_token(struct import_source *s, struct vocabulary *v, json_int_t id, const char *text,
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

static bool is_byte_token(const char *text)
{
    return strlen(text) == 6 && strncmp(text, "<0x", 3) == 0 && text[5] == '>';
}

/* Rows of the embedding beyond the vocabulary are padding. */
static enum err fill_gaps(struct import_source *s, struct vocabulary *v)
{
    enum err e = ERR_NONE;
    for (uint32_t i = 0; i < v->size && !e; i++)
        if (!v->spelt[i].text) {
            char name[24];
            const int n = snprintf(name, sizeof name, "[PAD%u]", i);
            e = set_token(s, v, i, name, (size_t)n, TOKENIZER_UNUSED);
        }
    return e;
}

/* Special tokens become control tokens, other added ones are found in any text. */
static enum err add_tokens(struct import_source *s, struct vocabulary *v, const json_t *added)
{
    enum err e = ERR_NONE;
    size_t i;
    json_t *t;
    json_array_foreach((json_t *)added, i, t)
    {
        const char *text = json_string_value(json_object_get(t, "content"));
        if (!e && text)
            e = set_token(s, v, json_integer_value(json_object_get(t, "id")), text, strlen(text),
                          json_is_true(json_object_get(t, "special")) ? TOKENIZER_CONTROL : TOKENIZER_USER);
    }
    return e;
}

/* ---- tokenizer.json ---- */

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
            e = set_token(s, v, json_integer_value(id), text, strlen(text), TOKENIZER_NORMAL);
    }
    return e ? e : add_tokens(s, v, json_object_get(root, "added_tokens"));
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
    if (!e) e = fill_gaps(s, v);
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
        e = set_token(s, v, i, name, (size_t)n, TOKENIZER_NORMAL);
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

static enum err from_json(struct import_source *s, struct vocabulary *v, const json_t *root)
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

/* ---- tokenizer.model: SentencePiece's ModelProto ---- */

/* One field of a protocol buffer: its number, and its bytes or number. */
struct proto_field {
    uint32_t number;
    const uint8_t *bytes;
    size_t size;
    uint64_t value;
};

static bool read_varint(const uint8_t **p, const uint8_t *end, uint64_t *out)
{
    *out = 0;
    for (unsigned shift = 0; *p < end && shift < 64; shift += 7) {
        const uint8_t b = *(*p)++;
        *out |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80))
            return true;
    }
    return false;
}

/* False at the end and at anything malformed; *p == end tells which. */
static bool next_field(const uint8_t **p, const uint8_t *end, struct proto_field *f)
{
    uint64_t tag, size;
    const uint8_t *at = *p;
    if (at == end || !read_varint(&at, end, &tag))
        return false;
    *f = (struct proto_field){.number = (uint32_t)(tag >> 3)};
    switch (tag & 7) {
    case 0:
        if (!read_varint(&at, end, &f->value))
            return false;
        *p = at;
        return true;
    case 1: size = 8; break;
    case 2:
        if (!read_varint(&at, end, &size))
            return false;
        break;
    case 5: size = 4; break;
    default: return false;
    }
    if (size > (uint64_t)(end - at))
        return false;
    f->bytes = at;
    f->size = (size_t)size;
    *p = at + size;
    return true;
}

static enum err read_piece(struct import_source *s, struct vocabulary *v, uint32_t id, const struct proto_field *piece)
{
    const uint8_t *p = piece->bytes, *end = p + piece->size;
    struct proto_field f;
    struct gguf_text text = {"", 0};
    int32_t class = TOKENIZER_NORMAL; /* SentencePiece numbers its types as GGUF does */
    float score = 0;
    while (next_field(&p, end, &f)) {
        if (f.number == 1 && f.bytes)
            text = (struct gguf_text){(const char *)f.bytes, f.size};
        else if (f.number == 2 && f.size == 4)
            memcpy(&score, f.bytes, 4);
        else if (f.number == 3 && f.value >= 1 && f.value <= 6)
            class = (int32_t)f.value;
    }
    if (p != end)
        return import_fail(s, ERR_FORMAT, "tokenizer.model: piece %u: malformed", id);
    if (id < v->size)
        v->score[id] = score;
    return set_token(s, v, id, text.text, text.bytes, class);
}

static enum err read_normaliser(struct import_source *s, const struct proto_field *spec, bool is_unigram)
{
    const uint8_t *p = spec->bytes, *end = p + spec->size;
    struct proto_field f;
    bool prefix = true, folds = true;
    enum err e = ERR_NONE;
    while (next_field(&p, end, &f) && !e) {
        if (f.number == 2 && f.bytes && f.size && is_unigram)
            e = gguf_writer_array(s->writer, "tokenizer.ggml.precompiled_charsmap", GGUF_U8, f.bytes, f.size);
        else if (f.number == 3)
            prefix = f.value != 0;
        else if (f.number == 4)
            folds = f.value != 0;
    }
    if (!e) e = gguf_writer_bool(s->writer, "tokenizer.ggml.add_space_prefix", prefix);
    if (!e && is_unigram) e = gguf_writer_bool(s->writer, "tokenizer.ggml.remove_extra_whitespaces", folds);
    return e;
}

static enum err from_model(struct import_source *s, struct vocabulary *v, const uint8_t *bytes, size_t size)
{
    const uint8_t *p = bytes, *end = bytes + size, *q;
    struct proto_field f, g, normaliser = {.number = 0};
    uint32_t id = 0;
    uint64_t kind = 1; /* unigram, as SentencePiece presumes */
    enum err e = ERR_NONE;
    while (next_field(&p, end, &f) && !e) {
        if (f.number == 1 && f.bytes)
            e = read_piece(s, v, id++, &f);
        else if (f.number == 3 && f.bytes)
            normaliser = f;
        for (q = f.bytes; f.number == 2 && f.bytes && next_field(&q, f.bytes + f.size, &g);)
            kind = g.number == 3 ? g.value : kind;
    }
    if (!e && p != end)
        e = import_fail(s, ERR_FORMAT, "tokenizer.model: byte %zu: expected a field", (size_t)(p - bytes));
    const char *model = kind == 1 ? "t5" : "llama";
    if (!e && kind != 1 && kind != 2)
        e = import_fail(s, ERR_UNSUPPORTED, "tokenizer.model: expected BPE or unigram");
    if (!e) e = gguf_writer_string(s->writer, "tokenizer.ggml.model", model, strlen(model));
    if (!e) e = gguf_writer_string(s->writer, "tokenizer.ggml.pre", "default", 7);
    if (!e) e = read_normaliser(s, &normaliser, kind == 1);
    v->has_scores = true;
    return e;
}

/* ---- what both have ---- */

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
        return root ? from_json(s, v, root)
                    : import_fail(s, ERR_NOT_FOUND, "expected tokenizer.json or tokenizer.model in the folder");
    enum { MODEL_BYTES_MAX = 64 << 20 };
    uint8_t *bytes = malloc(MODEL_BYTES_MAX);
    const size_t size = bytes ? fread(bytes, 1, MODEL_BYTES_MAX, f) : 0;
    fclose(f);
    enum err e = bytes ? from_model(s, v, bytes, size) : out_of_memory(s);
    free(bytes);
    return e || !root ? e : add_tokens(s, v, json_object_get(root, "added_tokens"));
}

enum err import_tokenizer(struct import_source *s, uint32_t vocabulary)
{
    struct vocabulary v;
    json_t *root = load(s, "tokenizer.json"), *config = load(s, "tokenizer_config.json");
    enum err e = vocabulary_open(s, &v, vocabulary);
    if (!e) e = read_any(s, &v, root);
    if (!e) e = fill_gaps(s, &v);
    if (!e) e = special_ids(s, &v, config);
    if (!e) e = framing(s, root, config);
    if (!e) e = chat_template(s, config);
    if (!e) e = put_vocabulary(s, &v);
    vocabulary_close(&v);
    json_decref(root);
    json_decref(config);
    return e;
}
