/* import_family.c: which keys make up each architecture. */
#include <math.h>
#include <string.h>

#include "hal/hal.h"
#include "model/import_source.h"

/* ---- reading config.json, writing keys ---- */

static const json_t *field(const struct import_source *s, const char *name)
{
    const json_t *v = json_object_get(s->config, name);
    return json_is_null(v) ? NULL : v;
}

/* A field of rope_parameters (newer files), of its full_attention part, or of rope_scaling. */
static const json_t *rope_field(const struct import_source *s, const char *part, const char *name)
{
    const json_t *rope = field(s, "rope_parameters");
    if (json_object_get(rope, part))
        rope = json_object_get(rope, part);
    if (!rope)
        rope = field(s, "rope_scaling");
    const json_t *v = json_object_get(rope, name);
    return json_is_null(v) ? NULL : v;
}

static double number_or(const json_t *v, double preset)
{
    return json_is_number(v) ? json_number_value(v) : preset;
}

static enum err put(struct import_source *s, const char *suffix, bool is_float, double value)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", s->family->gguf, suffix);
    return is_float ? gguf_writer_f32(s->writer, key, (float)value)
                    : gguf_writer_u32(s->writer, key, (uint32_t)value);
}

/* Copy a whole number of config.json to a key; out, if given, gets it too. */
static enum err whole(struct import_source *s, const char *name, const char *suffix, bool is_required,
                      uint32_t *out)
{
    const json_t *v = field(s, name);
    if (!v && !is_required)
        return ERR_NONE;
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > INT32_MAX)
        return import_fail(s, ERR_FORMAT, "config.json: %s: expected a whole number", name);
    if (out)
        *out = (uint32_t)json_integer_value(v);
    return suffix ? put(s, suffix, false, (double)json_integer_value(v)) : ERR_NONE;
}

static enum err real(struct import_source *s, const char *name, const char *suffix, bool is_required)
{
    const json_t *v = field(s, name);
    if (!v && !is_required)
        return ERR_NONE;
    if (!json_is_number(v))
        return import_fail(s, ERR_FORMAT, "config.json: %s: expected a number", name);
    return put(s, suffix, true, json_number_value(v));
}

/* What nearly every decoder has. */
static enum err common_keys(struct import_source *s, const char *norm_name, const char *norm_key)
{
    enum err e = whole(s, "max_position_embeddings", "context_length", true, NULL);
    uint32_t width = 0;
    if (!e) e = whole(s, "hidden_size", "embedding_length", true, &width);
    if (!e) e = whole(s, "num_hidden_layers", "block_count", true, &s->layers);
    if (!e) e = whole(s, "intermediate_size", "feed_forward_length", true, NULL);
    if (!e) e = whole(s, "num_attention_heads", "attention.head_count", true, &s->heads);
    if (!e) e = whole(s, "vocab_size", "vocab_size", true, NULL);
    if (!e) e = real(s, norm_name, norm_key, true);
    if (e)
        return e;
    if (s->heads == 0 || s->layers == 0 || s->layers > 1024)
        return import_fail(s, ERR_FORMAT, "config.json: expected 1 to 1024 layers and at least one head");
    s->kv_heads = s->heads;
    if ((e = whole(s, "num_key_value_heads", NULL, false, &s->kv_heads)))
        return e;
    s->head_dim = width / s->heads;
    return whole(s, "head_dim", NULL, false, &s->head_dim);
}

static enum err head_keys(struct import_source *s)
{
    enum err e = put(s, "attention.head_count_kv", false, s->kv_heads);
    if (!e) e = put(s, "attention.key_length", false, s->head_dim);
    if (!e) e = put(s, "attention.value_length", false, s->head_dim);
    return e;
}

/* Llama 3 divides its frequencies by a factor that falls from 1 to `factor` between two wavelengths; GGUF
 * carries the divisors as a tensor. Source: the rope scaling of Llama 3.1's model card. */
static enum err llama3_factors(struct import_source *s, double base)
{
    const double factor = number_or(rope_field(s, "full_attention", "factor"), 8);
    const double low = number_or(rope_field(s, "full_attention", "low_freq_factor"), 1);
    const double high = number_or(rope_field(s, "full_attention", "high_freq_factor"), 4);
    const double old = number_or(rope_field(s, "full_attention", "original_max_position_embeddings"), 8192);
    const uint32_t pairs = s->head_dim / 2;
    struct import_tensor *t = import_new_tensor(s);
    if (!t || !(t->values = calloc(pairs, sizeof *t->values)))
        return t ? import_fail(s, ERR_MEMORY, "no memory for rope_freqs") : ERR_MEMORY;
    strcpy(t->name, "rope_freqs.weight");
    t->kind = IMPORT_COMPUTED;
    t->type = HAL_F32;
    t->dims = 1;
    t->shape[0] = pairs;
    for (uint32_t i = 0; i < pairs; i++) {
        const double wavelength = 2 * 3.14159265358979323846 * pow(base, 2.0 * i / s->head_dim);
        const double smooth = (old / wavelength - low) / (high - low);
        t->values[i] = (float)(wavelength < old / high  ? 1
                               : wavelength > old / low ? factor
                                                        : 1 / ((1 - smooth) / factor + smooth));
    }
    return ERR_NONE;
}

static enum err put_text(struct import_source *s, const char *suffix, const char *value)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", s->family->gguf, suffix);
    return gguf_writer_string(s->writer, key, value, strlen(value));
}

static double rope_base(const struct import_source *s)
{
    return number_or(rope_field(s, "full_attention", "rope_theta"), number_or(field(s, "rope_theta"), 10000));
}

static enum err scaling_keys(struct import_source *s, const char *kind)
{
    const json_t *old = rope_field(s, "full_attention", "original_max_position_embeddings");
    const double context = number_or(field(s, "max_position_embeddings"), 1);
    const double factor = number_or(rope_field(s, "full_attention", "factor"),
                                    old ? context / json_number_value(old) : 1);
    enum err e = put_text(s, "rope.scaling.type", kind);
    if (!e) e = put(s, "rope.scaling.factor", true, factor);
    if (!e && old) e = put(s, "rope.scaling.original_context_length", false, json_number_value(old));
    if (e || strcmp(kind, "yarn") != 0)
        return e;
    static const char *const betas[][2] = {{"beta_fast", "rope.scaling.yarn_beta_fast"},
                                           {"beta_slow", "rope.scaling.yarn_beta_slow"}};
    for (size_t i = 0; i < 2 && !e; i++) {
        const json_t *v = rope_field(s, "full_attention", betas[i][0]);
        if (json_is_number(v))
            e = put(s, betas[i][1], true, json_number_value(v));
    }
    /* GGUF's number multiplies the magnitude that YaRN's own formula gives */
    const json_t *whole_factor = rope_field(s, "full_attention", "attention_factor");
    if (!e && json_is_number(whole_factor) && factor > 1)
        e = put(s, "rope.scaling.attn_factor", true, json_number_value(whole_factor) / (1 + 0.1 * log(factor)));
    return e;
}

/* DeepSeek scales its scores by YaRN's magnitude; cosines are scaled by the quotient of two, which GGUF
 * has no key for: all published models have 1 there. */
static enum err score_scaling(struct import_source *s)
{
    const double all = number_or(rope_field(s, "full_attention", "mscale_all_dim"), 0);
    const double own = number_or(rope_field(s, "full_attention", "mscale"), 0);
    if (all == 0)
        return ERR_NONE;
    if (own != all || rope_field(s, "full_attention", "attention_factor"))
        return import_fail(s, ERR_UNSUPPORTED, "config.json: rope scaling: expected mscale to equal mscale_all_dim");
    return put(s, "rope.scaling.yarn_log_multiplier", true, 0.1 * all);
}

static enum err rope_keys(struct import_source *s, uint32_t dims)
{
    const double base = rope_base(s);
    enum err e = put(s, "rope.dimension_count", false, dims);
    if (!e) e = put(s, "rope.freq_base", true, base);
    const json_t *type = rope_field(s, "full_attention", "rope_type");
    if (!type)
        type = rope_field(s, "full_attention", "type");
    const char *kind = json_string_value(type);
    if (e || !kind || strcmp(kind, "default") == 0)
        return e;
    if (strcmp(kind, "llama3") == 0)
        return llama3_factors(s, base);
    if (strcmp(kind, "linear") == 0 || strcmp(kind, "yarn") == 0)
        return scaling_keys(s, kind);
    return import_fail(s, ERR_UNSUPPORTED, "config.json: rope scaling: \"%.20s\" is unknown to this build", kind);
}

static enum err llama_keys(struct import_source *s)
{
    enum err e = common_keys(s, "rms_norm_eps", "attention.layer_norm_rms_epsilon");
    if (!e) e = head_keys(s);
    if (!e) e = rope_keys(s, s->head_dim);
    if (!e) e = whole(s, "sliding_window", "attention.sliding_window", false, NULL);
    return e;
}

/* Qwen names a window even where use_sliding_window is false; such files carry none in GGUF. */
static enum err qwen_keys(struct import_source *s)
{
    enum err e = common_keys(s, "rms_norm_eps", "attention.layer_norm_rms_epsilon");
    if (!e && json_is_true(field(s, "use_sliding_window")))
        e = import_fail(s, ERR_UNSUPPORTED, "config.json: use_sliding_window: expected false");
    if (!e) e = head_keys(s);
    if (!e) e = rope_keys(s, s->head_dim);
    return e;
}

/* Every pattern-th layer sees all positions, the others a window. preset: what readers presume. */
static enum err pattern_key(struct import_source *s, uint32_t preset)
{
    const json_t *types = field(s, "layer_types");
    const json_t *given = field(s, "sliding_window_pattern");
    uint32_t pattern = json_is_integer(given) ? (uint32_t)json_integer_value(given) : preset;
    size_t i;
    json_t *type;
    for (i = 0; i < json_array_size(types); i++)
        if (strcmp(json_string_value(json_array_get(types, i)) ?: "", "full_attention") == 0) {
            pattern = (uint32_t)i + 1;
            break;
        }
    json_array_foreach((json_t *)types, i, type)
    {
        const bool is_full = strcmp(json_string_value(type) ?: "", "full_attention") == 0;
        if (pattern && is_full != ((i + 1) % pattern == 0))
            return import_fail(s, ERR_UNSUPPORTED, "config.json: layer_types: expected one full layer in every %u", pattern);
    }
    return pattern == preset ? ERR_NONE : put(s, "attention.sliding_window_pattern", false, pattern);
}

static enum err gemma_keys(struct import_source *s, uint32_t pattern)
{
    enum err e = llama_keys(s);
    if (!e) e = pattern_key(s, pattern);
    if (!e) e = real(s, "attn_logit_softcapping", "attn_logit_softcapping", false);
    if (!e) e = real(s, "final_logit_softcapping", "final_logit_softcapping", false);
    if (!e) e = real(s, "query_pre_attn_scalar", "attention.query_pre_attn_scalar", false);
    return e;
}

static enum err gemma2_keys(struct import_source *s)
{
    return gemma_keys(s, 2);
}

static enum err gemma3_keys(struct import_source *s)
{
    enum err e = gemma_keys(s, 6);
    const double local = number_or(rope_field(s, "sliding_attention", "rope_theta"),
                                   number_or(field(s, "rope_local_base_freq"), 10000));
    if (!e) e = put(s, "rope.freq_base_swa", true, local);
    return e;
}

/* Phi-3's long factors: one divisor per pair, another set beyond the original context. */
static enum err long_factors(struct import_source *s, const char *field_name, const char *tensor)
{
    const json_t *list = rope_field(s, "full_attention", field_name);
    const size_t n = json_array_size(list);
    struct import_tensor *t = import_new_tensor(s);
    if (!t || n == 0 || n > 4096 || !(t->values = calloc(n, sizeof *t->values)))
        return import_fail(s, ERR_FORMAT, "config.json: rope scaling: %s: expected a list of factors", field_name);
    strcpy(t->name, tensor);
    t->kind = IMPORT_COMPUTED;
    t->type = HAL_F32;
    t->dims = 1;
    t->shape[0] = n;
    for (size_t i = 0; i < n; i++)
        t->values[i] = (float)json_number_value(json_array_get(list, i));
    return ERR_NONE;
}

static enum err phi3_keys(struct import_source *s)
{
    enum err e = common_keys(s, "rms_norm_eps", "attention.layer_norm_rms_epsilon");
    const double share = number_or(rope_field(s, "", "partial_rotary_factor"),
                                   number_or(field(s, "partial_rotary_factor"), 1));
    if (!e) e = head_keys(s);
    if (!e) e = put(s, "rope.dimension_count", false, share * s->head_dim);
    if (!e) e = put(s, "rope.freq_base", true, rope_base(s));
    if (!e) e = whole(s, "original_max_position_embeddings", "rope.scaling.original_context_length", false, NULL);
    if (!e) e = whole(s, "sliding_window", "attention.sliding_window", false, NULL);
    if (e || !rope_field(s, "", "long_factor"))
        return e;
    const double old = number_or(field(s, "original_max_position_embeddings"), 4096);
    const double scale = number_or(field(s, "max_position_embeddings"), old) / old;
    if (!(e = long_factors(s, "long_factor", "rope_factors_long.weight")))
        e = long_factors(s, "short_factor", "rope_factors_short.weight");
    if (!e) /* arXiv:2404.14219 and its published code */
        e = put(s, "rope.scaling.attn_factor", true, scale <= 1 ? 1 : sqrt(1 + log(scale) / log(old)));
    return e;
}

static enum err gpt2_keys(struct import_source *s)
{
    uint32_t width = 0, ffn = 0;
    enum err e = whole(s, "n_positions", "context_length", true, NULL);
    if (!e) e = whole(s, "n_embd", "embedding_length", true, &width);
    if (!e) e = whole(s, "n_layer", "block_count", true, &s->layers);
    if (!e) e = whole(s, "n_head", "attention.head_count", true, &s->heads);
    if (!e) e = whole(s, "n_inner", NULL, false, &ffn);
    if (!e) e = put(s, "feed_forward_length", false, ffn ? ffn : 4 * width);
    if (!e) e = whole(s, "vocab_size", "vocab_size", true, NULL);
    if (!e) e = real(s, "layer_norm_epsilon", "attention.layer_norm_epsilon", true);
    s->is_tied = true;
    return e;
}

static enum err gptneox_keys(struct import_source *s)
{
    enum err e = common_keys(s, "layer_norm_eps", "attention.layer_norm_epsilon");
    const double share = number_or(rope_field(s, "", "partial_rotary_factor"), number_or(field(s, "rotary_pct"), 0.25));
    if (!e) e = rope_keys(s, (uint32_t)(share * s->head_dim));
    if (!e) {
        const json_t *base = field(s, "rotary_emb_base");
        if (base && !rope_field(s, "", "rope_theta")) e = put(s, "rope.freq_base", true, json_number_value(base));
    }
    char key[64];
    snprintf(key, sizeof key, "%s.use_parallel_residual", s->family->gguf);
    if (!e) e = gguf_writer_bool(s->writer, key, !json_is_false(field(s, "use_parallel_residual")));
    return e;
}

/* Sentence encoders say beside the model how they pool; the mean where they say nothing. Numbers of GGUF. */
static uint32_t pooling_of(const struct import_source *s)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/1_Pooling/config.json", s->options->input);
    json_t *pooling = json_load_file(path, 0, NULL);
    const bool is_first = json_is_true(json_object_get(pooling, "pooling_mode_cls_token"));
    const bool is_last = json_is_true(json_object_get(pooling, "pooling_mode_lasttoken"));
    json_decref(pooling);
    return is_first ? 2 : is_last ? 3 : 1;
}

static enum err bert_keys(struct import_source *s)
{
    enum err e = common_keys(s, "layer_norm_eps", "attention.layer_norm_epsilon");
    if (!e) e = gguf_writer_bool(s->writer, "bert.attention.causal", false);
    if (!e) e = gguf_writer_u32(s->writer, "bert.pooling_type", pooling_of(s));
    if (!e) e = gguf_writer_u32(s->writer, "tokenizer.ggml.token_type_count",
                                (uint32_t)number_or(field(s, "type_vocab_size"), 2));
    s->is_tied = true;
    return e;
}

static enum err expert_keys(struct import_source *s)
{
    enum err e = put(s, "expert_count", false, s->experts);
    if (!e) e = whole(s, "num_experts_per_tok", "expert_used_count", true, NULL);
    if (!e) e = whole(s, "moe_intermediate_size", "expert_feed_forward_length", true, NULL);
    if (!e) e = put(s, "expert_shared_count", false, number_or(field(s, "n_shared_experts"), 0));
    if (!e) e = put(s, "expert_weights_scale", true, number_or(field(s, "routed_scaling_factor"), 1));
    if (!e) e = whole(s, "n_group", "expert_group_count", false, NULL);
    if (!e) e = whole(s, "topk_group", "expert_group_used_count", false, NULL);
    char key[64];
    snprintf(key, sizeof key, "%s.expert_weights_norm", s->family->gguf);
    if (!e) e = gguf_writer_bool(s->writer, key, json_is_true(field(s, "norm_topk_prob")));
    const char *score = json_string_value(field(s, "scoring_func"));
    const bool is_sigmoid = (score && strcmp(score, "sigmoid") == 0) || strstr(s->family->hf, "V3");
    if (!e) e = put(s, "expert_gating_func", false, is_sigmoid ? 2 : 1);
    return e;
}

static enum err deepseek2_keys(struct import_source *s)
{
    uint32_t rank = 0, rope = 0;
    enum err e = common_keys(s, "rms_norm_eps", "attention.layer_norm_rms_epsilon");
    if (!e) e = whole(s, "kv_lora_rank", "attention.kv_lora_rank", true, &rank);
    if (!e) e = whole(s, "q_lora_rank", "attention.q_lora_rank", false, NULL);
    if (!e) e = whole(s, "qk_rope_head_dim", NULL, true, &rope);
    if (!e) e = whole(s, "qk_nope_head_dim", NULL, true, &s->nope_dim);
    if (!e) e = whole(s, "v_head_dim", NULL, true, &s->value_dim);
    if (!e) e = put(s, "attention.head_count_kv", false, 1); /* the latent is one head for all */
    if (!e) e = put(s, "attention.key_length", false, rank + rope);
    if (!e) e = put(s, "attention.value_length", false, rank);
    if (!e) e = put(s, "attention.key_length_mla", false, s->nope_dim + rope);
    if (!e) e = put(s, "attention.value_length_mla", false, s->value_dim);
    if (!e) e = rope_keys(s, rope);
    if (!e) e = score_scaling(s);
    if (!e) e = whole(s, "n_routed_experts", NULL, false, &s->experts);
    if (!e) e = put(s, "leading_dense_block_count", false,
                    number_or(field(s, "first_k_dense_replace"), s->experts ? 0 : s->layers));
    return e || !s->experts ? e : expert_keys(s);
}

static const struct import_family families[] = {
    {"LlamaForCausalLM", "llama", import_rules_llama, "model.", llama_keys, "silu"},
    {"MistralForCausalLM", "llama", import_rules_llama, "model.", llama_keys, "silu"},
    {"Qwen2ForCausalLM", "qwen2", import_rules_qwen2, "model.", qwen_keys, "silu"},
    {"Qwen3ForCausalLM", "qwen3", import_rules_qwen3, "model.", qwen_keys, "silu"},
    {"Gemma2ForCausalLM", "gemma2", import_rules_gemma2, "model.", gemma2_keys, "gelu_pytorch_tanh"},
    {"Gemma3ForCausalLM", "gemma3", import_rules_gemma3, "model.", gemma3_keys, "gelu_pytorch_tanh"},
    {"Gemma3ForConditionalGeneration", "gemma3", import_rules_gemma3, "language_model.model.", gemma3_keys, "gelu_pytorch_tanh"},
    {"Phi3ForCausalLM", "phi3", import_rules_phi3, "model.", phi3_keys, "silu"},
    {"GPT2LMHeadModel", "gpt2", import_rules_gpt2, "transformer.", gpt2_keys, "gelu_new gelu_pytorch_tanh"},
    {"GPTNeoXForCausalLM", "gptneox", import_rules_gptneox, "gpt_neox.", gptneox_keys, "gelu"},
    {"DeepseekV2ForCausalLM", "deepseek2", import_rules_deepseek2, "model.", deepseek2_keys, "silu"},
    {"DeepseekV3ForCausalLM", "deepseek2", import_rules_deepseek2, "model.", deepseek2_keys, "silu"},
    {"BertModel", "bert", import_rules_bert, "bert.", bert_keys, "gelu"},
};

const struct import_family *import_family_find(const char *architecture)
{
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (strcmp(families[i].hf, architecture) == 0)
            return &families[i];
    return NULL;
}
