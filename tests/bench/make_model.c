/* make_model.c: a synthetic base for measuring speed: llama architecture, about half a billion parameters of
 * seeded noise, F16, with grouped queries and weights far beyond any cache. It says nothing sensible.
 *
 *   make_model OUT.gguf [LAYERS]     24 layers: 975 MB */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hal/half.h"
#include "hal/hal.h"
#include "model/gguf.h"

enum { WIDTH = 1024, FFN = 4864, HEADS = 16, KV_HEADS = 4, HEAD_DIM = 64, VOCABULARY = 32000, CONTEXT = 2048 };

static uint64_t state = 0x7461726562656e63u;

/* Sum of four uniform draws: near enough to normal, variance 1. xorshift64*. */
static float noise(void)
{
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        sum += (float)((state * 0x2545F4914F6CDD1Du) >> 40) * 0x1p-24f - 0.5f;
    }
    return sum * 1.7320508f;
}

static enum err announce(struct gguf_writer *w, const char *name, uint64_t rows, uint64_t cols)
{
    const uint64_t shape[GGUF_DIMS] = {cols, rows, 1, 1};
    return gguf_writer_tensor(w, name, rows > 1 ? HAL_F16 : HAL_F32, rows > 1 ? 2 : 1, shape);
}

static enum err fill(struct gguf_writer *w, const char *name, uint64_t rows, uint64_t cols)
{
    static uint16_t half[FFN];
    static float ones[WIDTH];
    enum err e = ERR_NONE;
    (void)name;
    for (uint64_t i = 0; rows == 1 && i < cols; i++)
        ones[i] = 1;
    if (rows == 1)
        return gguf_writer_append(w, ones, cols * sizeof *ones);
    const float scale = cols == WIDTH ? 1.0f / 32 : 1.0f / 70; /* 1 / sqrt(cols) */
    for (uint64_t r = 0; r < rows && !e; r++) {
        for (uint64_t c = 0; c < cols; c++)
            half[c] = half_f32_to_f16(noise() * scale);
        e = gguf_writer_append(w, half, cols * sizeof *half);
    }
    return e;
}

/* Every tensor in file order through one of the two functions above. */
static enum err each(struct gguf_writer *w, uint32_t layers,
                     enum err (*visit)(struct gguf_writer *, const char *, uint64_t, uint64_t))
{
    static const struct {
        const char *name;
        uint64_t rows, cols;
    } parts[] = {{"attn_norm", 1, WIDTH},           {"attn_q", WIDTH, WIDTH},
                 {"attn_k", KV_HEADS * HEAD_DIM, WIDTH}, {"attn_v", KV_HEADS * HEAD_DIM, WIDTH},
                 {"attn_output", WIDTH, WIDTH},     {"ffn_norm", 1, WIDTH},
                 {"ffn_gate", FFN, WIDTH},          {"ffn_up", FFN, WIDTH},
                 {"ffn_down", WIDTH, FFN}};
    enum err e = visit(w, "token_embd.weight", VOCABULARY, WIDTH);
    for (uint32_t l = 0; l < layers; l++)
        for (size_t i = 0; i < sizeof parts / sizeof *parts && !e; i++) {
            char name[64];
            snprintf(name, sizeof name, "blk.%u.%s.weight", l, parts[i].name);
            e = visit(w, name, parts[i].rows, parts[i].cols);
        }
    if (!e)
        e = visit(w, "output_norm.weight", 1, WIDTH);
    return e ? e : visit(w, "output.weight", VOCABULARY, WIDTH);
}

static enum err put_tokenizer(struct gguf_writer *w)
{
    static char text[VOCABULARY][12];
    static struct gguf_text spelt[VOCABULARY];
    static float score[VOCABULARY];
    static int32_t class[VOCABULARY];
    for (uint32_t i = 0; i < VOCABULARY; i++) {
        const int n = i < 3      ? snprintf(text[i], sizeof text[i], "%s", (const char *[]){"<unk>", "<s>", "</s>"}[i])
                      : i < 259 ? snprintf(text[i], sizeof text[i], "<0x%02X>", i - 3)
                                : snprintf(text[i], sizeof text[i], "t%u", i);
        spelt[i] = (struct gguf_text){text[i], (size_t)n};
        class[i] = i == 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1;
    }
    enum err e = gguf_writer_string(w, "tokenizer.ggml.model", "llama", 5);
    if (!e) e = gguf_writer_strings(w, "tokenizer.ggml.tokens", spelt, VOCABULARY);
    if (!e) e = gguf_writer_array(w, "tokenizer.ggml.scores", GGUF_F32, score, VOCABULARY);
    if (!e) e = gguf_writer_array(w, "tokenizer.ggml.token_type", GGUF_I32, class, VOCABULARY);
    if (!e) e = gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", 1);
    return e ? e : gguf_writer_u32(w, "tokenizer.ggml.eos_token_id", 2);
}

static enum err put_keys(struct gguf_writer *w, uint32_t layers)
{
    static const struct {
        const char *key;
        uint32_t value;
    } keys[] = {{"llama.context_length", CONTEXT},       {"llama.embedding_length", WIDTH},
                {"llama.feed_forward_length", FFN},      {"llama.attention.head_count", HEADS},
                {"llama.attention.head_count_kv", KV_HEADS}, {"llama.rope.dimension_count", HEAD_DIM},
                {"llama.vocab_size", VOCABULARY},        {"general.file_type", 1}};
    enum err e = gguf_writer_string(w, "general.architecture", "llama", 5);
    for (size_t i = 0; i < sizeof keys / sizeof *keys && !e; i++)
        e = gguf_writer_u32(w, keys[i].key, keys[i].value);
    if (!e) e = gguf_writer_u32(w, "llama.block_count", layers);
    if (!e) e = gguf_writer_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    return e ? e : put_tokenizer(w);
}

int main(int argc, char **argv)
{
    struct gguf_writer *w = NULL;
    const int layers = argc > 2 ? atoi(argv[2]) : 24;
    if (argc < 2 || layers < 1 || layers > 1024) {
        fprintf(stderr, "usage: make_model OUT.gguf [LAYERS]\n");
        return 2;
    }
    enum err e = gguf_writer_open(argv[1], GGUF_ALIGNMENT_DEFAULT, &w);
    if (!e) e = put_keys(w, (uint32_t)layers);
    if (!e) e = each(w, (uint32_t)layers, announce);
    if (!e) e = gguf_writer_begin(w, 0);
    if (!e) e = each(w, (uint32_t)layers, fill);
    if (!e) e = gguf_writer_commit(w);
    if (e)
        fprintf(stderr, "make_model: %s: %s\n", argv[1], w && *gguf_writer_reason(w) ? gguf_writer_reason(w) : err_name(e));
    gguf_writer_close(w);
    return e ? 4 : 0;
}
