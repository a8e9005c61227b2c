/* cache_cost.c: the arithmetic of caches. The families' own open functions say the same in cache groups and
 * layers; cache_test.c holds the two together. */
#include "model/cache_cost.h"

#include <stdio.h>
#include <string.h>

#include "hal/block.h"

/* A key of the architecture: one number, or an array whose first one stands for all. */
static uint32_t number(const struct gguf *g, struct gguf_text architecture, const char *key, uint32_t preset)
{
    char name[96];
    snprintf(name, sizeof name, "%.*s.%s", (int)architecture.bytes, architecture.text, key);
    const struct gguf_value *v = gguf_find(g, name);
    if (!v || v->kind == GGUF_STRING || (v->kind == GGUF_ARRAY && v->count == 0))
        return preset;
    const double n = gguf_number(v, 0);
    return n >= 0 && n < 1 << 24 ? (uint32_t)n : preset;
}

static uint32_t count_windowed(const struct gguf *g, struct gguf_text a, uint32_t layers)
{
    const bool is_gemma2 = a.bytes == 6 && memcmp(a.text, "gemma2", 6) == 0;
    const bool is_gemma3 = a.bytes == 6 && memcmp(a.text, "gemma3", 6) == 0;
    if (!is_gemma2 && !is_gemma3)
        return layers;
    const uint32_t pattern = number(g, a, "attention.sliding_window_pattern", is_gemma3 ? 6 : 2);
    return pattern ? layers - layers / pattern : layers;
}

enum err cache_cost(const struct gguf *g, uint32_t type_k, uint32_t type_v, struct cache_cost *out)
{
    struct gguf_text a = {"", 0};
    *out = (struct cache_cost){.layers = 0};
    if (gguf_string(g, "general.architecture", &a) != ERR_NONE || a.bytes > 31)
        return ERR_FORMAT;
    const uint32_t layers = number(g, a, "block_count", 0), heads = number(g, a, "attention.head_count", 0);
    const uint32_t width = number(g, a, "embedding_length", 0);
    if (layers == 0 || heads == 0 || heads > 4096)
        return ERR_UNSUPPORTED;
    const uint32_t kv_heads = number(g, a, "attention.head_count_kv", heads);
    const uint32_t key_dim = number(g, a, "attention.key_length", width / heads);
    const uint32_t value_dim = number(g, a, "attention.value_length", key_dim);
    const uint32_t full_key = number(g, a, "attention.key_length_mla", key_dim);
    const uint32_t full_value = number(g, a, "attention.value_length_mla", value_dim);
    out->layers = layers;
    out->is_latent = number(g, a, "attention.kv_lora_rank", 0) > 0;
    out->window = number(g, a, "attention.sliding_window", 0);
    out->windowed = out->window ? count_windowed(g, a, layers) : 0;
    const uint64_t k = block_row_bytes(type_k, key_dim), v = block_row_bytes(type_v, value_dim);
    const uint64_t row = kv_heads * (out->is_latent ? k : k + v);
    if (k == 0 || v == 0)
        return ERR_ARGUMENT;
    out->token_bytes = layers * row;
    out->windowed_bytes = out->windowed * row;
    out->full_bytes = layers * heads * (uint64_t)(block_row_bytes(type_k, full_key) + block_row_bytes(type_v, full_value));
    return ERR_NONE;
}

uint64_t cache_cost_full(const struct cache_cost *c, uint64_t positions)
{
    return c->full_bytes * positions;
}

uint64_t cache_cost_kept(const struct cache_cost *c, uint64_t positions)
{
    const uint64_t seen = c->window && c->window < positions ? c->window : positions;
    return (c->token_bytes - c->windowed_bytes) * positions + c->windowed_bytes * seen;
}
