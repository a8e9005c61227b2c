#!/usr/bin/env python3
"""Small random models of every family, as Hugging Face folders, with the logits that transformers gives.

    python3 make_family_fixtures.py [NAME ...]

Needs torch and transformers 5. Writes family/NAME/: config.json, model.safetensors, tokenizer.json (and
tokenizer_config.json), and reference.bin, which holds, little-endian:
    u32 tokens, u32 positions, u32 columns; u32 token[tokens]; u32 position[positions];
    f32 row[positions][columns]      logits, or the last hidden states of an encoder, of these positions
Everything is seeded by the name: another run gives the same weights and tokens.
"""
import copy
import math
import os
import re
import struct
import sys
import zlib

import torch
import transformers as hf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "family")
PROMPT = 300
TEXT = ["The quick brown fox jumps over the lazy dog while the old clock in the hall strikes nine.",
        "She said that there were 12 apples, 7 pears and one very small lemon in the basket.",
        "Then the rain came, and the children ran to the house as fast as they could."]
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN = LLAMA3.replace("{1,3}", "")
DEEPSEEK = [r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+",
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
            " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"]


def byte_level(cuts, bos):
    """GPT-2's alphabet of bytes and a few merges; 288 tokens."""
    t = Tokenizer(models.BPE())
    splits = [pre_tokenizers.Split(Regex(c), behavior="isolated") for c in cuts]
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not cuts)
    t.pre_tokenizer = pre_tokenizers.Sequence(splits + [level]) if cuts else level
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=286, show_progress=False,
                                                    initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    t.add_special_tokens([AddedToken("<|begin|>", special=True), AddedToken("<|end|>", special=True)])
    if bos:
        t.post_processor = processors.TemplateProcessing(single="<|begin|> $A",
                                                         special_tokens=[("<|begin|>", t.token_to_id("<|begin|>"))])
    return t, "<|begin|>", "<|end|>"


def sentence_piece(prepend):
    """Characters with byte fallback, as a SentencePiece model in tokenizer.json; 288 tokens."""
    letters = "\u2581abcdefghijklmnopqrstu"
    merges = [("\u2581", "t"), ("h", "e"), ("\u2581t", "he"), ("a", "n")]
    names = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)] + list(letters)
    names += [a + b for a, b in merges]
    names += ["[more%d]" % i for i in range(287 - len(names))] + ["<|endoftext|>"]
    t = Tokenizer(models.BPE(vocab={n: i for i, n in enumerate(names)}, merges=merges, byte_fallback=True,
                             fuse_unk=True, unk_token="<unk>"))
    replace = normalizers.Replace(" ", "\u2581")
    t.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), replace]) if prepend else replace
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    t.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in names[:3]])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return t, "<s>", "</s>"


def word_piece():
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,"
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + list(letters) + ["##" + c for c in letters[:36]]
    names += sorted({w for line in TEXT for w in re.findall("[a-z]+", line.lower())} - set(letters))
    t = Tokenizer(models.WordPiece(vocab={n: i for i, n in enumerate(names)}, unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    t.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]",
                                                     special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    t.add_special_tokens([AddedToken(n, special=True) for n in names[:5]])
    return t, None, None


def words(bos=False):
    return byte_level([], bos)


SMALL = dict(hidden_size=64, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=1024)
NARROW = dict(SMALL, hidden_size=48, intermediate_size=96, num_attention_heads=3, num_key_value_heads=3)
MLA = dict(SMALL, hidden_size=32, num_key_value_heads=4, intermediate_size=48, num_hidden_layers=3, kv_lora_rank=32,
           qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16, n_routed_experts=8, num_experts_per_tok=3,
           moe_intermediate_size=8, first_k_dense_replace=1)
TIED = dict(tie_word_embeddings=True)
LONG = [round(1 + 0.35 * i * i, 4) for i in range(8)]
SHORT = [round(1 + 0.05 * i, 4) for i in range(8)]
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=128)

FIXTURES = {
    "llama3": (hf.LlamaConfig, dict(SMALL, rope_parameters=dict(
        rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=128)), lambda: byte_level([LLAMA3], True)),
    "llama_yarn": (hf.LlamaConfig, dict(SMALL, num_hidden_layers=1, intermediate_size=72, rope_parameters=YARN, attention_bias=True, **TIED),
                   lambda: byte_level([LLAMA3], True)),
    "llama_linear": (hf.LlamaConfig, dict(SMALL, num_hidden_layers=1, num_key_value_heads=1, rope_parameters=dict(
        rope_type="linear", rope_theta=10000.0, factor=4.0)), lambda: sentence_piece(True)),
    "mistral": (hf.MistralConfig, dict(SMALL, sliding_window=96), lambda: sentence_piece(True)),
    "qwen2": (hf.Qwen2Config, dict(SMALL, intermediate_size=80, use_sliding_window=False, **TIED), lambda: byte_level([QWEN], False)),
    "qwen3": (hf.Qwen3Config, dict(SMALL, head_dim=24, intermediate_size=48, **TIED), lambda: byte_level([QWEN], False)),
    "gemma2": (hf.Gemma2Config, dict(SMALL, hidden_size=48, num_hidden_layers=3, intermediate_size=48, head_dim=16, sliding_window=96,
                                     query_pre_attn_scalar=16, attn_logit_softcapping=50.0,
                                     final_logit_softcapping=30.0), lambda: sentence_piece(False)),
    "gemma3": (hf.Gemma3TextConfig, dict(SMALL, hidden_size=32, intermediate_size=48, num_hidden_layers=7,
                                         num_attention_heads=2, num_key_value_heads=1, head_dim=16,
                                         query_pre_attn_scalar=16, sliding_window=96, rope_parameters=dict(
                                             full_attention=dict(rope_type="default", rope_theta=1000000.0),
                                             sliding_attention=dict(rope_type="default", rope_theta=10000.0))),
               lambda: sentence_piece(False)),
    "phi3": (hf.Phi3Config, dict(SMALL, sliding_window=96, original_max_position_embeddings=1024),
             lambda: sentence_piece(True)),
    # the whole prompt beyond the original context: transformers takes the long factors
    "phi3_long": (hf.Phi3Config, dict(SMALL, original_max_position_embeddings=256, rope_parameters=dict(
        rope_type="longrope", rope_theta=10000.0, long_factor=LONG, short_factor=SHORT,
        original_max_position_embeddings=256)), lambda: sentence_piece(True)),
    "gpt2": (hf.GPT2Config, dict(n_embd=48, n_inner=96, n_layer=2, n_head=3, n_positions=320), words),
    "gptneox": (hf.GPTNeoXConfig, dict(NARROW, rope_parameters=dict(
        rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.25)), words),
    "gptneox_serial": (hf.GPTNeoXConfig, dict(NARROW, num_hidden_layers=1, use_parallel_residual=False,
                                              rope_parameters=dict(rope_type="default", rope_theta=10000.0,
                                                                   partial_rotary_factor=1.0)), words),
    # 26 layers: other engines tell the variant without q_lora_rank by their number
    "deepseek2": (hf.DeepseekV2Config, dict(MLA, hidden_size=16, intermediate_size=24, num_hidden_layers=26,
                                            num_attention_heads=2, num_key_value_heads=2, kv_lora_rank=8,
                                            qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=4, n_routed_experts=4,
                                            num_experts_per_tok=2, moe_intermediate_size=4, q_lora_rank=None,
                                            n_shared_experts=1, topk_method="greedy", routed_scaling_factor=1.5,
                                            **TIED), lambda: byte_level(DEEPSEEK, True)),
    "deepseek2_groups": (hf.DeepseekV2Config, dict(MLA, q_lora_rank=24, n_shared_experts=1, n_group=4, topk_group=2,
                                                   topk_method="group_limited_greedy", rope_parameters=dict(
                                                       YARN, mscale=0.707, mscale_all_dim=0.707)),
                         lambda: byte_level(DEEPSEEK, True)),
    "deepseek3": (hf.DeepseekV3Config, dict(MLA, q_lora_rank=24, n_shared_experts=1, n_group=4, topk_group=2,
                                            routed_scaling_factor=2.5, norm_topk_prob=True, num_mtp_layers=0,
                                            rope_parameters=dict(YARN, mscale=1.0, mscale_all_dim=1.0)),
                  lambda: byte_level(DEEPSEEK, True)),
    "bert": (hf.BertConfig, dict(NARROW, max_position_embeddings=320), word_piece),
}


# Sources in shards and of other element types; logits are those of the rounded weights, in F32.
SHARDED = {"qwen3": "120KB"}
ROUNDED = {"gptneox_serial": torch.float16, "llama_linear": torch.bfloat16}


def fill(model, name):
    """Weights that make every part matter: unit gain of matrices, norms and biases away from 1 and 0."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    adds_one = name.startswith("gemma")
    for key, p in list(model.named_parameters()) + list(model.named_buffers()):
        noise = torch.randn(p.shape, generator=generator)
        if key.endswith("e_score_correction_bias"):
            p.data = 0.1 * noise
        elif "inv_freq" in key or p.dim() == 0 or not p.is_floating_point() or "position_ids" in key:
            continue
        elif p.dim() == 1 and key.endswith("bias"):
            p.data = 0.2 * noise
        elif p.dim() == 1:
            p.data = 0.2 * noise + (0.0 if adds_one else 1.0)
        else:
            is_table = re.search(r"embed|wte|wpe", key) is not None
            inputs = p.shape[-2] if name == "gpt2" and not is_table else p.shape[-1]
            gain = 0.5 if is_table else 1.6 / math.sqrt(inputs) if re.search(r"q_|k_|query|qkv|c_attn", key) \
                else 1 / math.sqrt(inputs)
            p.data = gain * noise
    if hasattr(model, "tie_weights"):
        model.tie_weights()


def positions():
    return sorted(set(list(range(3)) + list(range(11, PROMPT, 20)) + [95, 96, 97, PROMPT - 1]))


def make(name):
    make_config, options, tokenizer = FIXTURES[name]
    t, bos, eos = tokenizer()
    config = make_config(vocab_size=t.get_vocab_size(), attn_implementation="eager", **options)
    config.bos_token_id = t.token_to_id(bos) if bos else None
    config.eos_token_id = t.token_to_id(eos) if eos else None
    config.pad_token_id = None
    is_encoder = name == "bert"
    torch.manual_seed(0)
    model = hf.AutoModel.from_config(config, dtype=torch.float32) if is_encoder \
        else hf.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.eval()
    fill(model, name)
    folder = os.path.join(HERE, name)
    os.makedirs(folder, exist_ok=True)
    for old in os.listdir(folder):
        os.remove(os.path.join(folder, old))
    if is_encoder:
        model.pooler = None
    kept = ROUNDED.get(name, torch.float32)
    copy.deepcopy(model).to(kept).save_pretrained(folder, max_shard_size=SHARDED.get(name, "5GB"))
    for p in model.parameters(): # buffers, such as rotary speeds, stay as they are
        p.data = p.data.to(kept).to(torch.float32)
    if os.path.exists(os.path.join(folder, "generation_config.json")):
        os.remove(os.path.join(folder, "generation_config.json"))
    t.save(os.path.join(folder, "tokenizer.json"), pretty=False)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) ^ 1)
    tokens = torch.randint(5, t.get_vocab_size() - 8, (1, PROMPT), generator=generator)
    with torch.no_grad():
        out = model(input_ids=tokens) if is_encoder else model(input_ids=tokens, use_cache=False)
    rows = (out.last_hidden_state if is_encoder else out.logits)[0].float()
    chosen = positions()
    with open(os.path.join(folder, "reference.bin"), "wb") as f:
        f.write(struct.pack("<3I", PROMPT, len(chosen), rows.shape[1]))
        f.write(struct.pack("<%dI" % PROMPT, *tokens[0].tolist()))
        f.write(struct.pack("<%dI" % len(chosen), *chosen))
        f.write(rows[chosen].contiguous().numpy().astype("<f4").tobytes())
    size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder) if f.endswith(".safetensors"))
    print("%-18s %7d bytes of weights, rows of %d, range %.2f" % (name, size, rows.shape[1], rows.max() - rows.min()))


if __name__ == "__main__":
    hf.logging.set_verbosity_error()
    hf.logging.disable_progress_bar()
    for each in sys.argv[1:] or FIXTURES:
        make(each)
