/* import_sentencepiece.c: tokenizer.model, SentencePiece's ModelProto in protocol buffers. */
#include <string.h>

#include "model/import_vocabulary.h"

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
    return vocabulary_set(s, v, id, text.text, text.bytes, class);
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

enum err vocabulary_from_model(struct import_source *s, struct vocabulary *v, const uint8_t *bytes, size_t size)
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
