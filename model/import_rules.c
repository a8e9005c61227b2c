/* import_rules.c: the tensors of each architecture, in Hugging Face's names and GGUF's. */
#include "model/import_source.h"

#define LLAMA_ATTENTION(query, key)                                                                \
    {"layers.{l}.self_attn.q_proj", "blk.{l}.attn_q", query, false},                               \
        {"layers.{l}.self_attn.k_proj", "blk.{l}.attn_k", key, false},                             \
        {"layers.{l}.self_attn.v_proj", "blk.{l}.attn_v", IMPORT_ROWS, false},                     \
        {"layers.{l}.self_attn.o_proj", "blk.{l}.attn_output", IMPORT_ROWS, false}
#define LLAMA_ENDS(norm)                                                                           \
    {"embed_tokens", "token_embd", IMPORT_ROWS, false},                                            \
        {"norm", "output_norm", norm, false}, {"lm_head", "output", IMPORT_ROWS, true}
#define LLAMA_MLP                                                                                  \
    {"layers.{l}.mlp.gate_proj", "blk.{l}.ffn_gate", IMPORT_ROWS, false},                          \
        {"layers.{l}.mlp.up_proj", "blk.{l}.ffn_up", IMPORT_ROWS, false},                          \
        {"layers.{l}.mlp.down_proj", "blk.{l}.ffn_down", IMPORT_ROWS, false}
#define LLAMA_NORMS                                                                                \
    {"layers.{l}.input_layernorm", "blk.{l}.attn_norm", IMPORT_ROWS, false},                       \
        {"layers.{l}.post_attention_layernorm", "blk.{l}.ffn_norm", IMPORT_ROWS, false}
#define HEAD_NORMS(kind)                                                                           \
    {"layers.{l}.self_attn.q_norm", "blk.{l}.attn_q_norm", kind, false},                           \
        {"layers.{l}.self_attn.k_norm", "blk.{l}.attn_k_norm", kind, false}
#define GEMMA_NORMS                                                                                \
    {"layers.{l}.input_layernorm", "blk.{l}.attn_norm", IMPORT_ADD_ONE, false},                    \
        {"layers.{l}.post_attention_layernorm", "blk.{l}.post_attention_norm", IMPORT_ADD_ONE, false}, \
        {"layers.{l}.pre_feedforward_layernorm", "blk.{l}.ffn_norm", IMPORT_ADD_ONE, false},       \
        {"layers.{l}.post_feedforward_layernorm", "blk.{l}.post_ffw_norm", IMPORT_ADD_ONE, false}
#define END {NULL, NULL, IMPORT_ROWS, false}

const struct import_rule import_rules_llama[] = {
    LLAMA_ENDS(IMPORT_ROWS), LLAMA_NORMS, LLAMA_ATTENTION(IMPORT_PAIRS_Q, IMPORT_PAIRS_K), LLAMA_MLP, END};
const struct import_rule import_rules_qwen2[] = {
    LLAMA_ENDS(IMPORT_ROWS), LLAMA_NORMS, LLAMA_ATTENTION(IMPORT_ROWS, IMPORT_ROWS), LLAMA_MLP, END};
const struct import_rule import_rules_qwen3[] = {
    LLAMA_ENDS(IMPORT_ROWS), LLAMA_NORMS, LLAMA_ATTENTION(IMPORT_ROWS, IMPORT_ROWS), HEAD_NORMS(IMPORT_ROWS),
    LLAMA_MLP, END};
const struct import_rule import_rules_gemma2[] = {
    LLAMA_ENDS(IMPORT_ADD_ONE), GEMMA_NORMS, LLAMA_ATTENTION(IMPORT_ROWS, IMPORT_ROWS), LLAMA_MLP, END};
const struct import_rule import_rules_gemma3[] = {
    LLAMA_ENDS(IMPORT_ADD_ONE), GEMMA_NORMS, LLAMA_ATTENTION(IMPORT_ROWS, IMPORT_ROWS),
    HEAD_NORMS(IMPORT_ADD_ONE), LLAMA_MLP, END};
const struct import_rule import_rules_phi3[] = {
    LLAMA_ENDS(IMPORT_ROWS), LLAMA_NORMS,
    {"layers.{l}.self_attn.qkv_proj", "blk.{l}.attn_qkv", IMPORT_ROWS, false},
    {"layers.{l}.self_attn.o_proj", "blk.{l}.attn_output", IMPORT_ROWS, false},
    {"layers.{l}.mlp.gate_up_proj", "blk.{l}.ffn_up", IMPORT_ROWS, false},
    {"layers.{l}.mlp.down_proj", "blk.{l}.ffn_down", IMPORT_ROWS, false}, END};
const struct import_rule import_rules_gpt2[] = {
    {"wte", "token_embd", IMPORT_ROWS, false},
    {"wpe", "position_embd", IMPORT_ROWS, false},
    {"ln_f", "output_norm", IMPORT_ROWS, false},
    {"lm_head", "output", IMPORT_ROWS, true},
    {"h.{l}.ln_1", "blk.{l}.attn_norm", IMPORT_ROWS, false},
    {"h.{l}.attn.c_attn", "blk.{l}.attn_qkv", IMPORT_TRANSPOSE, false},
    {"h.{l}.attn.c_proj", "blk.{l}.attn_output", IMPORT_TRANSPOSE, false},
    {"h.{l}.ln_2", "blk.{l}.ffn_norm", IMPORT_ROWS, false},
    {"h.{l}.mlp.c_fc", "blk.{l}.ffn_up", IMPORT_TRANSPOSE, false},
    {"h.{l}.mlp.c_proj", "blk.{l}.ffn_down", IMPORT_TRANSPOSE, false}, END};
const struct import_rule import_rules_gptneox[] = {
    {"embed_in", "token_embd", IMPORT_ROWS, false},
    {"final_layer_norm", "output_norm", IMPORT_ROWS, false},
    {"embed_out", "output", IMPORT_ROWS, true},
    {"layers.{l}.input_layernorm", "blk.{l}.attn_norm", IMPORT_ROWS, false},
    {"layers.{l}.post_attention_layernorm", "blk.{l}.ffn_norm", IMPORT_ROWS, false},
    {"layers.{l}.attention.query_key_value", "blk.{l}.attn_qkv", IMPORT_NEOX_QKV, false},
    {"layers.{l}.attention.dense", "blk.{l}.attn_output", IMPORT_ROWS, false},
    {"layers.{l}.mlp.dense_h_to_4h", "blk.{l}.ffn_up", IMPORT_ROWS, false},
    {"layers.{l}.mlp.dense_4h_to_h", "blk.{l}.ffn_down", IMPORT_ROWS, false}, END};
const struct import_rule import_rules_bert[] = {
    {"embeddings.word_embeddings", "token_embd", IMPORT_ROWS, false},
    {"embeddings.position_embeddings", "position_embd", IMPORT_ROWS, false},
    {"embeddings.token_type_embeddings", "token_types", IMPORT_ROWS, false},
    {"embeddings.LayerNorm", "token_embd_norm", IMPORT_ROWS, false},
    {"encoder.layer.{l}.attention.self.query", "blk.{l}.attn_q", IMPORT_ROWS, false},
    {"encoder.layer.{l}.attention.self.key", "blk.{l}.attn_k", IMPORT_ROWS, false},
    {"encoder.layer.{l}.attention.self.value", "blk.{l}.attn_v", IMPORT_ROWS, false},
    {"encoder.layer.{l}.attention.output.dense", "blk.{l}.attn_output", IMPORT_ROWS, false},
    {"encoder.layer.{l}.attention.output.LayerNorm", "blk.{l}.attn_output_norm", IMPORT_ROWS, false},
    {"encoder.layer.{l}.intermediate.dense", "blk.{l}.ffn_up", IMPORT_ROWS, false},
    {"encoder.layer.{l}.output.dense", "blk.{l}.ffn_down", IMPORT_ROWS, false},
    {"encoder.layer.{l}.output.LayerNorm", "blk.{l}.layer_output_norm", IMPORT_ROWS, false}, END};
const struct import_rule import_rules_deepseek2[] = {
    LLAMA_ENDS(IMPORT_ROWS), LLAMA_NORMS,
    {"layers.{l}.self_attn.q_proj", "blk.{l}.attn_q", IMPORT_ROWS, true},
    {"layers.{l}.self_attn.q_a_proj", "blk.{l}.attn_q_a", IMPORT_ROWS, true},
    {"layers.{l}.self_attn.q_a_layernorm", "blk.{l}.attn_q_a_norm", IMPORT_ROWS, true},
    {"layers.{l}.self_attn.q_b_proj", "blk.{l}.attn_q_b", IMPORT_ROWS, true},
    {"layers.{l}.self_attn.kv_a_proj_with_mqa", "blk.{l}.attn_kv_a_mqa", IMPORT_ROWS, false},
    {"layers.{l}.self_attn.kv_a_layernorm", "blk.{l}.attn_kv_a_norm", IMPORT_ROWS, false},
    {"layers.{l}.self_attn.kv_b_proj", "blk.{l}.attn_k_b", IMPORT_KEY_UP, false},
    {"layers.{l}.self_attn.kv_b_proj", "blk.{l}.attn_v_b", IMPORT_VALUE_UP, false},
    {"layers.{l}.self_attn.o_proj", "blk.{l}.attn_output", IMPORT_ROWS, false},
    {"layers.{l}.mlp.gate_proj", "blk.{l}.ffn_gate", IMPORT_ROWS, true},
    {"layers.{l}.mlp.up_proj", "blk.{l}.ffn_up", IMPORT_ROWS, true},
    {"layers.{l}.mlp.down_proj", "blk.{l}.ffn_down", IMPORT_ROWS, true},
    {"layers.{l}.mlp.gate", "blk.{l}.ffn_gate_inp", IMPORT_ROWS, true},
    {"layers.{l}.mlp.gate.e_score_correction_bias", "blk.{l}.exp_probs_b.bias", IMPORT_ROWS, true},
    {"layers.{l}.mlp.experts.{e}.gate_proj", "blk.{l}.ffn_gate_exps", IMPORT_EXPERTS, true},
    {"layers.{l}.mlp.experts.{e}.up_proj", "blk.{l}.ffn_up_exps", IMPORT_EXPERTS, true},
    {"layers.{l}.mlp.experts.{e}.down_proj", "blk.{l}.ffn_down_exps", IMPORT_EXPERTS, true},
    {"layers.{l}.mlp.shared_experts.gate_proj", "blk.{l}.ffn_gate_shexp", IMPORT_ROWS, true},
    {"layers.{l}.mlp.shared_experts.up_proj", "blk.{l}.ffn_up_shexp", IMPORT_ROWS, true},
    {"layers.{l}.mlp.shared_experts.down_proj", "blk.{l}.ffn_down_shexp", IMPORT_ROWS, true}, END};
