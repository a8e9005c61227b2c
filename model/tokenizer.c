/* tokenizer.c: what all kinds share: the vocabulary and the special tokens within a text. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_kind.h"

static const struct tokenizer_kind *const kinds[] = {&tokenizer_spm, &tokenizer_bpe, &tokenizer_wordpiece,
                                                    &tokenizer_unigram};

/* Control tokens that end a turn or a text, by the names that model families gave them. */
static const char *const end_names[] = {
    "</s>",        "<|endoftext|>",   "<|end_of_text|>", "<|eot_id|>",     "<|eom_id|>",
    "<|im_end|>",  "<|end|>",         "<end_of_turn>",   "<EOT>",          "<|eot|>",
    "<|EOT|>",     "<|end_of_turn|>", "<eos>",           "<｜end▁of▁sentence｜>"};

void tokenizer_sink_put(struct tokenizer_sink *sink, uint32_t token)
{
    if (sink->count < sink->capacity)
        sink->tokens[sink->count] = token;
    sink->count++;
}

static uint32_t hash(const char *text, size_t bytes)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i < bytes; i++)
        h = (h ^ (uint8_t)text[i]) * 0x100000001b3u;
    return (uint32_t)(h ^ h >> 32);
}

uint32_t tokenizer_find(const struct tokenizer *t, const char *spelling, size_t bytes)
{
    for (uint32_t at = hash(spelling, bytes) & t->table_mask;; at = (at + 1) & t->table_mask) {
        if (t->table[at] == 0)
            return TOKENIZER_NONE;
        const uint32_t token = t->table[at] - 1;
        const struct gguf_text other = tokenizer_spelling(t, token);
        if (other.bytes == bytes && memcmp(other.text, spelling, bytes) == 0)
            return token;
    }
}

static enum err refuse(enum err e, const struct gguf *g, const char *what, char *reason)
{
    const size_t length = strlen(gguf_path(g));
    snprintf(reason, GGUF_REASON_BYTES, "%s: %s", gguf_path(g) + (length > 60 ? length - 60 : 0), what);
    return e;
}

/* A token appears in the table once; of two of one spelling the later one wins, as in the field. */
static enum err build_table(struct tokenizer *t)
{
    uint32_t size = 16;
    while (size < t->vocabulary * 2)
        size *= 2;
    t->table = calloc(size, sizeof *t->table);
    if (!t->table)
        return ERR_MEMORY;
    t->table_mask = size - 1;
    for (uint32_t i = 0; i < t->vocabulary; i++) {
        const struct gguf_text s = tokenizer_spelling(t, i);
        uint32_t at = hash(s.text, s.bytes) & t->table_mask;
        while (t->table[at]) {
            const struct gguf_text other = tokenizer_spelling(t, t->table[at] - 1);
            if (other.bytes == s.bytes && memcmp(other.text, s.text, s.bytes) == 0)
                break;
            at = (at + 1) & t->table_mask;
        }
        t->table[at] = i + 1;
    }
    return ERR_NONE;
}

static enum err read_vocabulary(struct tokenizer *t, const struct gguf *g, char *reason)
{
    const struct gguf_value *tokens = gguf_find(g, "tokenizer.ggml.tokens");
    const struct gguf_value *scores = gguf_find(g, "tokenizer.ggml.scores");
    const struct gguf_value *classes = gguf_find(g, "tokenizer.ggml.token_type");
    if (!tokens || tokens->element != GGUF_STRING || tokens->count == 0 || tokens->count > 1u << 24)
        return refuse(ERR_FORMAT, g, "expected tokenizer.ggml.tokens as an array of strings", reason);
    if (scores && (scores->element != GGUF_F32 || scores->count != tokens->count))
        return refuse(ERR_FORMAT, g, "expected one F32 of tokenizer.ggml.scores per token", reason);
    if (classes && (classes->element == GGUF_STRING || classes->count != tokens->count))
        return refuse(ERR_FORMAT, g, "expected one number of tokenizer.ggml.token_type per token", reason);
    t->vocabulary = (uint32_t)tokens->count;
    t->text = malloc(tokens->bytes + 1);
    t->start = calloc(t->vocabulary + 1, sizeof *t->start);
    t->class = calloc(t->vocabulary, 1);
    t->ends = calloc(t->vocabulary, sizeof *t->ends);
    t->score = scores ? calloc(t->vocabulary, sizeof *t->score) : NULL;
    if (!t->text || !t->start || !t->class || !t->ends || (scores && !t->score))
        return refuse(ERR_MEMORY, g, "no memory for the vocabulary", reason);
    size_t at = 0, used = 0;
    struct gguf_text s;
    for (uint32_t i = 0; gguf_next_string(tokens, &at, &s); i++) {
        memcpy(t->text + used, s.text, s.bytes);
        used += s.bytes;
        t->start[i + 1] = used;
        const double class = classes ? gguf_number(classes, i) : TOKENIZER_NORMAL;
        t->class[i] = class >= 1 && class <= 6 ? (uint8_t)class : TOKENIZER_NORMAL;
        if (scores)
            t->score[i] = (float)gguf_number(scores, i);
    }
    if (build_table(t))
        return refuse(ERR_MEMORY, g, "no memory for the vocabulary", reason);
    return ERR_NONE;
}

static uint32_t read_token(const struct tokenizer *t, const struct gguf *g, const char *key,
                           uint32_t fallback)
{
    uint32_t token = fallback;
    if (gguf_u32(g, key, &token) != ERR_NONE)
        token = fallback;
    return token < t->vocabulary ? token : TOKENIZER_NONE; /* files say -1 for none */
}

static void read_flag(const struct gguf *g, const char *key, bool preset, bool *out)
{
    if (gguf_bool(g, key, out) != ERR_NONE)
        *out = preset;
}

static void read_special_ids(struct tokenizer *t, const struct gguf *g)
{
    const bool is_spm = t->kind == &tokenizer_spm;
    t->bos = read_token(t, g, "tokenizer.ggml.bos_token_id", is_spm ? 1 : TOKENIZER_NONE);
    t->eos = read_token(t, g, "tokenizer.ggml.eos_token_id", is_spm ? 2 : TOKENIZER_NONE);
    t->unknown = read_token(t, g, "tokenizer.ggml.unknown_token_id", is_spm ? 0 : TOKENIZER_NONE);
    t->separator = read_token(t, g, "tokenizer.ggml.seperator_token_id", TOKENIZER_NONE);
    if (t->bos == TOKENIZER_NONE) /* BERT's CLS is what a text begins with */
        t->bos = read_token(t, g, "tokenizer.ggml.cls_token_id", TOKENIZER_NONE);
    read_flag(g, "tokenizer.ggml.add_bos_token", t->kind->adds_bos, &t->adds_bos);
    read_flag(g, "tokenizer.ggml.add_eos_token", t->kind->adds_eos, &t->adds_eos);
    read_flag(g, "tokenizer.ggml.add_sep_token", t->kind == &tokenizer_wordpiece, &t->adds_sep);
    read_flag(g, "tokenizer.ggml.add_space_prefix", t->kind->adds_space_prefix, &t->adds_space_prefix);
    t->adds_bos = t->adds_bos && t->bos != TOKENIZER_NONE;
    t->adds_eos = t->adds_eos && t->eos != TOKENIZER_NONE;
    const uint32_t ends[] = {t->eos, read_token(t, g, "tokenizer.ggml.eot_token_id", TOKENIZER_NONE),
                             read_token(t, g, "tokenizer.ggml.eom_token_id", TOKENIZER_NONE)};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (ends[i] != TOKENIZER_NONE)
            t->ends[ends[i]] = true;
    for (size_t i = 0; i < sizeof end_names / sizeof *end_names; i++) {
        const uint32_t token = tokenizer_find(t, end_names[i], strlen(end_names[i]));
        if (token != TOKENIZER_NONE && t->class[token] != TOKENIZER_NORMAL)
            t->ends[token] = true;
    }
}

static int longest_first(const void *a, const void *b, void *context)
{
    const struct tokenizer *t = context;
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    const size_t x_bytes = tokenizer_spelling(t, x).bytes, y_bytes = tokenizer_spelling(t, y).bytes;
    if (x_bytes != y_bytes)
        return x_bytes > y_bytes ? -1 : 1;
    return (x > y) - (x < y);
}

static bool is_special_class(uint8_t class)
{
    return class == TOKENIZER_CONTROL || class == TOKENIZER_USER || class == TOKENIZER_UNKNOWN;
}

static enum err list_special(struct tokenizer *t, const struct gguf *g)
{
    for (uint32_t i = 0; i < t->vocabulary; i++)
        t->specials += is_special_class(t->class[i]) && tokenizer_spelling(t, i).bytes > 0;
    t->special = calloc(t->specials + 1u, sizeof *t->special);
    t->strips = calloc(t->specials + 1u, 1);
    if (!t->special || !t->strips)
        return ERR_MEMORY;
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->vocabulary; i++)
        if (is_special_class(t->class[i]) && tokenizer_spelling(t, i).bytes > 0)
            t->special[n++] = i;
    qsort_r(t->special, n, sizeof *t->special, longest_first, t);
    /* Phi-3's own tokenizer eats the white space after its special tokens; GGUF has no key for it. */
    struct gguf_text name = {"", 0};
    if (gguf_string(g, "general.name", &name) != ERR_NONE ||
        !(memmem(name.text, name.bytes, "Phi-3", 5) || memmem(name.text, name.bytes, "Phi3", 4) ||
          memmem(name.text, name.bytes, "phi-3", 5) || memmem(name.text, name.bytes, "phi3", 4)))
        return ERR_NONE;
    for (uint32_t i = 0; i < n; i++) {
        static const char *const keeps[] = {"<unk>", "<s>", "<|endoftext|>"};
        const struct gguf_text s = tokenizer_spelling(t, t->special[i]);
        t->strips[i] = 2;
        for (size_t k = 0; k < 3; k++)
            if (s.bytes == strlen(keeps[k]) && memcmp(s.text, keeps[k], s.bytes) == 0)
                t->strips[i] = 0;
    }
    return ERR_NONE;
}

enum err tokenizer_open(const struct gguf *g, struct tokenizer **out, char reason[GGUF_REASON_BYTES])
{
    struct gguf_text model, template;
    reason[0] = 0;
    if (gguf_string(g, "tokenizer.ggml.model", &model) != ERR_NONE)
        return refuse(ERR_NOT_FOUND, g, "expected the key tokenizer.ggml.model", reason);
    struct tokenizer *t = calloc(1, sizeof *t);
    if (!t)
        return refuse(ERR_MEMORY, g, "no memory for the tokenizer", reason);
    enum err e = ERR_NONE;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strlen(kinds[i]->name) == model.bytes && memcmp(kinds[i]->name, model.text, model.bytes) == 0)
            t->kind = kinds[i];
    if (!t->kind) {
        e = refuse(ERR_UNSUPPORTED, g, "tokenizer.ggml.model is of a kind unknown to this build", reason);
        goto out;
    }
    if ((e = read_vocabulary(t, g, reason)))
        goto out;
    read_special_ids(t, g);
    if (list_special(t, g)) {
        e = refuse(ERR_MEMORY, g, "no memory for the vocabulary", reason);
        goto out;
    }
    if (gguf_string(g, "tokenizer.chat_template", &template) == ERR_NONE) {
        t->chat_template = strndup(template.text, template.bytes);
        if (!t->chat_template) {
            e = refuse(ERR_MEMORY, g, "no memory for the chat template", reason);
            goto out;
        }
        t->chat_template_bytes = strlen(t->chat_template);
    }
    if (t->kind->open)
        e = t->kind->open(t, g, reason);
out:
    if (e)
        tokenizer_close(t);
    else
        *out = t;
    return e;
}

void tokenizer_close(struct tokenizer *t)
{
    if (!t)
        return;
    if (t->kind && t->kind->close)
        t->kind->close(t);
    free(t->text);
    free(t->start);
    free(t->score);
    free(t->class);
    free(t->table);
    free(t->special);
    free(t->strips);
    free(t->ends);
    free(t->chat_template);
    free(t);
}

uint32_t tokenizer_vocabulary(const struct tokenizer *t)
{
    return t->vocabulary;
}

uint32_t tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}

uint32_t tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}

bool tokenizer_adds_bos(const struct tokenizer *t)
{
    return t->adds_bos;
}

bool tokenizer_adds_eos(const struct tokenizer *t)
{
    return t->adds_eos;
}

bool tokenizer_is_end(const struct tokenizer *t, uint32_t token)
{
    return token < t->vocabulary && t->ends[token];
}

uint32_t tokenizer_class(const struct tokenizer *t, uint32_t token)
{
    return token < t->vocabulary ? t->class[token] : 0;
}

struct gguf_text tokenizer_spelling(const struct tokenizer *t, uint32_t token)
{
    if (token >= t->vocabulary)
        return (struct gguf_text){"", 0};
    return (struct gguf_text){t->text + t->start[token], t->start[token + 1] - t->start[token]};
}

struct gguf_text tokenizer_chat_template(const struct tokenizer *t)
{
    return (struct gguf_text){t->chat_template ? t->chat_template : "", t->chat_template_bytes};
}
