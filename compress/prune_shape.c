#include <stdio.h>
#include <string.h>

#include "compress/prune.h"
#include "model/gguf.h"

static bool is_text(struct gguf_text t, const char *word)
{
    return t.bytes == strlen(word) && memcmp(t.text, word, t.bytes) == 0;
}

/* A number, or an array that repeats it. Errors: ERR_NOT_FOUND, ERR_UNSUPPORTED. */
static enum err read_even(const struct gguf *g, const char *key, uint32_t *out)
{
    const struct gguf_value *v = gguf_find(g, key);
    if (!v)
        return ERR_NOT_FOUND;
    for (uint64_t i = 1; v->kind == GGUF_ARRAY && i < v->count; i++)
        if (gguf_number(v, i) != gguf_number(v, 0))
            return ERR_UNSUPPORTED;
    const double n = gguf_number(v, 0);
    if (!(n >= 1) || n > 1 << 24)
        return ERR_NOT_FOUND;
    *out = (uint32_t)n;
    return ERR_NONE;
}

static enum err read_key(const struct gguf *g, struct gguf_text architecture, const char *key, uint32_t *out,
                         struct fault *f)
{
    char name[96];
    snprintf(name, sizeof name, "%.*s.%s", (int)architecture.bytes, architecture.text, key);
    const enum err e = read_even(g, name, out);
    if (e == ERR_UNSUPPORTED)
        return fault_set(f, e, "%s: %s differs from layer to layer: pruning expects it even", gguf_path(g), name);
    return e ? fault_set(f, ERR_FORMAT, "%s: expected the key %s of 1 to 2^24", gguf_path(g), name) : ERR_NONE;
}

static enum err check_tensor(const struct gguf *g, uint32_t layer, const char *part, uint64_t rows, uint64_t cols,
                             struct fault *f)
{
    char name[64];
    snprintf(name, sizeof name, "blk.%u.%s.weight", layer, part);
    const struct gguf_tensor *t = gguf_tensor_find(g, name);
    if (!t || t->dims != 2)
        return fault_set(f, ERR_UNSUPPORTED, "%s: expected the matrix %s: nothing to prune without it", gguf_path(g), name);
    if ((rows && t->rows != rows) || (cols && t->shape[0] != cols))
        return fault_set(f, ERR_FORMAT, "%s: %s has %llu rows of %llu, its keys say otherwise", gguf_path(g), name,
                         (unsigned long long)t->rows, (unsigned long long)t->shape[0]);
    return ERR_NONE;
}

static enum err check_tensors(const struct gguf *g, const struct prune_shape *s, struct fault *f)
{
    const uint64_t heads = s->heads, groups = s->groups;
    enum err e = ERR_NONE;
    for (uint32_t l = 0; !e && l < s->layers; l++)
        if ((e = check_tensor(g, l, "attn_q", heads * s->head_dim, 0, f)) ||
            (e = check_tensor(g, l, "attn_k", groups * s->head_dim, 0, f)) ||
            (e = check_tensor(g, l, "attn_v", groups * s->value_dim, 0, f)) ||
            (e = check_tensor(g, l, "attn_output", 0, heads * s->value_dim, f)) ||
            (e = check_tensor(g, l, "ffn_gate", s->ffn, 0, f)) || (e = check_tensor(g, l, "ffn_up", s->ffn, 0, f)) ||
            (e = check_tensor(g, l, "ffn_down", 0, s->ffn, f)))
            return e;
    return e;
}

enum err prune_shape_read(const struct gguf *base, struct prune_shape *out, struct fault *f)
{
    struct gguf_text a = {"", 0};
    struct prune_shape s = {0};
    char key[96];
    uint32_t width = 0;
    if (gguf_string(base, "general.architecture", &a)) /* absent is another architecture */
        a = (struct gguf_text){"", 0};
    if (!is_text(a, "llama") && !is_text(a, "qwen2") && !is_text(a, "qwen3"))
        return fault_set(f, ERR_UNSUPPORTED, "%s: pruning knows the architectures llama, qwen2 and qwen3, this is '%.*s'",
                         gguf_path(base), (int)(a.bytes < 32 ? a.bytes : 32), a.text);
    enum err e;
    if ((e = read_key(base, a, "block_count", &s.layers, f)) ||
        (e = read_key(base, a, "embedding_length", &width, f)) ||
        (e = read_key(base, a, "attention.head_count", &s.heads, f)) ||
        (e = read_key(base, a, "feed_forward_length", &s.ffn, f)))
        return e;
    s.groups = s.heads;
    snprintf(key, sizeof key, "%.*s.attention.head_count_kv", (int)a.bytes, a.text);
    if (gguf_find(base, key) && (e = read_key(base, a, "attention.head_count_kv", &s.groups, f)))
        return e;
    snprintf(key, sizeof key, "%.*s.attention.key_length", (int)a.bytes, a.text);
    if (gguf_u32(base, key, &s.head_dim)) /* absent: the width is shared out */
        s.head_dim = width / s.heads;
    snprintf(key, sizeof key, "%.*s.attention.value_length", (int)a.bytes, a.text);
    if (gguf_u32(base, key, &s.value_dim))
        s.value_dim = s.head_dim;
    if (s.groups == 0 || s.heads % s.groups || s.head_dim == 0 || s.value_dim == 0 || s.head_dim > 4096 ||
        s.value_dim > 4096 || s.layers > 1024 || s.heads > 1024 || s.ffn > 1 << 18)
        return fault_set(f, ERR_FORMAT, "%s: expected heads in whole groups, found %u in %u", gguf_path(base), s.heads,
                         s.groups);
    if ((e = check_tensors(base, &s, f)))
        return e;
    *out = s;
    return ERR_NONE;
}
