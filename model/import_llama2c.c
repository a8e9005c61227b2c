/* import_llama2c.c: the checkpoint and tokenizer files of llama2.c (version 0: seven whole numbers, then
 * F32 weights in a fixed order). Its rotary pairs are neighbours already, as in GGUF's llama. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hal/hal.h"
#include "model/import_source.h"

enum { HEADER_INTS = 7, FIRST_BYTE_TOKEN = 3, BYTE_TOKENS = 256, TOKEN_BYTES_MAX = 512 };

struct header {
    uint32_t dim, hidden, layers, heads, kv_heads, vocabulary, context;
    bool is_tied;
};

/* Where the next weights lie. */
struct cursor {
    const uint8_t *at;
    size_t left;
    struct safetensors_tensor *made;
};

static enum err read_header(struct import_source *s, const uint8_t *map, size_t bytes, struct header *h)
{
    int32_t v[HEADER_INTS];
    if (bytes < sizeof v)
        return import_fail(s, ERR_FORMAT, "byte 0: expected seven 32-bit numbers");
    memcpy(v, map, sizeof v);
    h->is_tied = v[5] > 0;
    v[5] = v[5] > 0 ? v[5] : -v[5];
    for (int i = 0; i < HEADER_INTS; i++)
        if (v[i] <= 0 || v[i] > 1 << 20)
            return import_fail(s, ERR_FORMAT, "byte %d: expected a number from 1 to 2^20, found %d", 4 * i, v[i]);
    *h = (struct header){(uint32_t)v[0], (uint32_t)v[1], (uint32_t)v[2], (uint32_t)v[3],
                         (uint32_t)v[4], (uint32_t)v[5], (uint32_t)v[6], h->is_tied};
    if (h->dim % h->heads || h->heads % h->kv_heads || h->layers > 1024)
        return import_fail(s, ERR_FORMAT, "byte 0: expected heads that divide the width, and at most 1024 layers");
    return ERR_NONE;
}

/* Announce the tensors that lie next: one, or one per layer when layers is not 0. */
static enum err take(struct import_source *s, struct cursor *c, const char *name, uint32_t layers, uint32_t rows,
                     uint32_t cols)
{
    const uint64_t values = (uint64_t)rows * cols;
    const uint32_t count = layers ? layers : 1;
    for (uint32_t l = 0; l < count; l++) {
        if (values > c->left / sizeof(float))
            return import_fail(s, ERR_FORMAT, "%s: expected more bytes than the file has", name);
        struct import_tensor *t = import_new_tensor(s);
        if (!t || !(t->source = calloc(1, sizeof *t->source)))
            return import_fail(s, ERR_MEMORY, "no memory for the list of tensors");
        snprintf(t->name, sizeof t->name, "%s", name);
        if (layers)
            snprintf(t->name, sizeof t->name, "blk.%u.%s", l, name);
        t->dims = rows > 1 ? 2 : 1;
        t->shape[0] = cols;
        t->shape[1] = rows;
        t->type = t->dims < 2 || s->options->type == IMPORT_KEEP ? HAL_F32 : s->options->type;
        *c->made = (struct safetensors_tensor){.type = HAL_F32, .dims = 2, .values = values, .data = c->at};
        t->source[0] = c->made++;
        t->sources = 1;
        c->at += values * sizeof(float);
        c->left -= values * sizeof(float);
    }
    return ERR_NONE;
}

static enum err list_weights(struct import_source *s, const struct header *h, struct cursor *c)
{
    const uint32_t kv = h->dim / h->heads * h->kv_heads, n = h->layers;
    enum err e = take(s, c, "token_embd.weight", 0, h->vocabulary, h->dim);
    if (!e) e = take(s, c, "attn_norm.weight", n, 1, h->dim);
    if (!e) e = take(s, c, "attn_q.weight", n, h->dim, h->dim);
    if (!e) e = take(s, c, "attn_k.weight", n, kv, h->dim);
    if (!e) e = take(s, c, "attn_v.weight", n, kv, h->dim);
    if (!e) e = take(s, c, "attn_output.weight", n, h->dim, h->dim);
    if (!e) e = take(s, c, "ffn_norm.weight", n, 1, h->dim);
    if (!e) e = take(s, c, "ffn_gate.weight", n, h->hidden, h->dim);
    if (!e) e = take(s, c, "ffn_down.weight", n, h->dim, h->hidden);
    if (!e) e = take(s, c, "ffn_up.weight", n, h->hidden, h->dim);
    if (!e) e = take(s, c, "output_norm.weight", 0, 1, h->dim);
    if (e || h->is_tied)
        return e;
    const size_t tables = (size_t)h->context * (h->dim / h->heads) * sizeof(float); /* cosines and sines */
    if (tables > c->left)
        return import_fail(s, ERR_FORMAT, "expected the rotary tables before the output matrix");
    c->at += tables;
    c->left -= tables;
    return take(s, c, "output.weight", 0, h->vocabulary, h->dim);
}

static enum err put_keys(struct import_source *s, const struct header *h)
{
    struct gguf_writer *w = s->writer;
    enum err e = gguf_writer_string(w, "general.architecture", "llama", 5);
    if (!e) e = gguf_writer_string(w, "general.name", "llama2.c", 8);
    if (!e) e = gguf_writer_u32(w, "general.file_type", s->options->type == HAL_F16 ? 1 : s->options->type == HAL_BF16 ? 32 : 0);
    if (!e) e = gguf_writer_u32(w, "llama.context_length", h->context);
    if (!e) e = gguf_writer_u32(w, "llama.embedding_length", h->dim);
    if (!e) e = gguf_writer_u32(w, "llama.block_count", h->layers);
    if (!e) e = gguf_writer_u32(w, "llama.feed_forward_length", h->hidden);
    if (!e) e = gguf_writer_u32(w, "llama.attention.head_count", h->heads);
    if (!e) e = gguf_writer_u32(w, "llama.attention.head_count_kv", h->kv_heads);
    if (!e) e = gguf_writer_u32(w, "llama.rope.dimension_count", h->dim / h->heads);
    if (!e) e = gguf_writer_u32(w, "llama.vocab_size", h->vocabulary);
    if (!e) e = gguf_writer_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    return e;
}

/* ---- tokenizer.bin: u32 longest token, then per token F32 score, i32 bytes, the bytes ---- */

struct spelling {
    char text[3 * TOKEN_BYTES_MAX];
    size_t bytes;
    float score;
};

static enum err read_token(struct import_source *s, FILE *f, uint32_t i, struct spelling *out)
{
    char raw[TOKEN_BYTES_MAX];
    int32_t length;
    if (fread(&out->score, sizeof out->score, 1, f) != 1 || fread(&length, sizeof length, 1, f) != 1 || length < 0 ||
        length > TOKEN_BYTES_MAX || fread(raw, 1, (size_t)length, f) != (size_t)length)
        return import_fail(s, ERR_FORMAT, "tokenizer: token %u: expected a score, a length and as many bytes", i);
    out->bytes = 0;
    for (int32_t k = 0; k < length; k++) {
        if (raw[k] == ' ') {
            memcpy(out->text + out->bytes, "\xe2\x96\x81", 3);
            out->bytes += 3;
        } else if (raw[k] != '\n' || i > 2) { /* it frames <s> and </s> with line ends */
            out->text[out->bytes++] = raw[k];
        }
    }
    return ERR_NONE;
}

static enum err put_tokenizer(struct import_source *s, uint32_t vocabulary)
{
    const char *path = s->options->tokenizer;
    FILE *f = path ? fopen(path, "rb") : NULL;
    struct spelling *token = malloc(sizeof *token);
    struct gguf_text *spelt = calloc(vocabulary, sizeof *spelt);
    float *score = calloc(vocabulary, sizeof *score);
    int32_t *class = calloc(vocabulary, sizeof *class);
    uint32_t longest;
    enum err e = !f ? import_fail(s, ERR_NOT_FOUND, "expected --tokenizer with llama2.c's tokenizer file")
                 : !token || !spelt || !score || !class ? import_fail(s, ERR_MEMORY, "no memory for the tokenizer")
                                                        : ERR_NONE;
    if (!e && fread(&longest, sizeof longest, 1, f) != 1)
        e = import_fail(s, ERR_FORMAT, "tokenizer: byte 0: expected a 32-bit number");
    for (uint32_t i = 0; i < vocabulary && !e; i++) {
        if ((e = read_token(s, f, i, token)))
            break;
        char *copy = malloc(token->bytes + 1);
        if (!copy) {
            e = import_fail(s, ERR_MEMORY, "no memory for the tokenizer");
            break;
        }
        memcpy(copy, token->text, token->bytes);
        spelt[i] = (struct gguf_text){copy, token->bytes};
        score[i] = token->score;
        class[i] = i == 0 ? 2 : i < FIRST_BYTE_TOKEN ? 3 : i < FIRST_BYTE_TOKEN + BYTE_TOKENS ? 6 : 1;
    }
    if (!e) e = gguf_writer_string(s->writer, "tokenizer.ggml.model", "llama", 5);
    if (!e) e = gguf_writer_strings(s->writer, "tokenizer.ggml.tokens", spelt, vocabulary);
    if (!e) e = gguf_writer_array(s->writer, "tokenizer.ggml.scores", GGUF_F32, score, vocabulary);
    if (!e) e = gguf_writer_array(s->writer, "tokenizer.ggml.token_type", GGUF_I32, class, vocabulary);
    if (!e) e = gguf_writer_u32(s->writer, "tokenizer.ggml.unknown_token_id", 0);
    if (!e) e = gguf_writer_u32(s->writer, "tokenizer.ggml.bos_token_id", 1);
    if (!e) e = gguf_writer_u32(s->writer, "tokenizer.ggml.eos_token_id", 2);
    for (uint32_t i = 0; spelt && i < vocabulary; i++)
        free((char *)spelt[i].text);
    free(token);
    free(spelt);
    free(score);
    free(class);
    if (f)
        fclose(f);
    return e;
}

enum err import_llama2c(struct import_source *s, const uint8_t *map, size_t bytes)
{
    struct header h = {.dim = 0};
    enum err e = read_header(s, map, bytes, &h);
    if (e)
        return e;
    struct cursor c = {map + HEADER_INTS * sizeof(int32_t), bytes - HEADER_INTS * sizeof(int32_t), NULL};
    c.made = s->made = calloc(9ull * h.layers + 3, sizeof *s->made);
    if (!s->made)
        return import_fail(s, ERR_MEMORY, "no memory for the list of tensors");
    if (!(e = put_keys(s, &h)) && !(e = put_tokenizer(s, h.vocabulary)))
        e = list_weights(s, &h, &c);
    return e;
}
