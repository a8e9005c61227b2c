#!/usr/bin/env python3
"""train_model.py: trains a small LlamaForCausalLM on texts, for quality tables of a model whose training is known.

    python3 tests/bench/train_model.py TOKENIZER_FOLDER OUT --minutes 30 --heldout FILE TEXT...

TOKENIZER_FOLDER holds a SentencePiece tokenizer.model (one with byte fallback knows every text) and, if it has one, a
tokenizer_config.json; both go along. OUT becomes a Hugging Face folder (config.json, model.safetensors in F16,
tokenizer.model) that `tare import` takes; it is written anew every --save minutes, so a stopped run leaves a model and
goes on with --resume.
TEXTs are read whole, as UTF-8; `<|endoftext|>` parts them. --heldout is never trained on: its loss is printed.

Needs torch, sentencepiece and safetensors (python3 -m venv; pip install), which no other part of the project does.
The default shape has 20.2 M parameters; every row length is a multiple of 256, so every K-quant applies.
The learning rate falls by a cosine of what is done: the larger of the share of --minutes and that of --epochs. Order
and initial weights come from --seed; the end does not, where the clock sets it.
"""
import argparse
import json
import math
import os
import shutil
import time

import sentencepiece
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

EPS, THETA = 1e-5, 10000.0


class Norm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x):
        return F.rms_norm(x.float(), self.weight.shape, self.weight, EPS)


class Attention(nn.Module):
    """Grouped-query attention with half-split rotary positions, as the Hugging Face form of Llama has them."""

    def __init__(self, o):
        super().__init__()
        self.heads, self.kv_heads, self.width = o.heads, o.kv_heads, o.dim // o.heads
        self.q_proj = nn.Linear(o.dim, o.heads * self.width, bias=False)
        self.k_proj = nn.Linear(o.dim, o.kv_heads * self.width, bias=False)
        self.v_proj = nn.Linear(o.dim, o.kv_heads * self.width, bias=False)
        self.o_proj = nn.Linear(o.heads * self.width, o.dim, bias=False)

    def forward(self, x, cos, sin):
        rows, length, _ = x.shape

        def split(y, heads):
            return y.view(rows, length, heads, self.width).transpose(1, 2)

        def turn(y):
            a, b = y.chunk(2, dim=-1)
            return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

        q, k, v = split(self.q_proj(x), self.heads), split(self.k_proj(x), self.kv_heads), split(self.v_proj(x), self.kv_heads)
        k, v = (y.repeat_interleave(self.heads // self.kv_heads, dim=1) for y in (k, v))
        y = F.scaled_dot_product_attention(turn(q).to(v.dtype), turn(k).to(v.dtype), v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(rows, length, -1))


class Mlp(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.gate_proj = nn.Linear(o.dim, o.ffn, bias=False)
        self.up_proj = nn.Linear(o.dim, o.ffn, bias=False)
        self.down_proj = nn.Linear(o.ffn, o.dim, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.input_layernorm, self.self_attn = Norm(o.dim), Attention(o)
        self.post_attention_layernorm, self.mlp = Norm(o.dim), Mlp(o)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(nn.Module):
    """Its parameters' names are those of the Hugging Face file; the embedding is the output, too."""

    def __init__(self, o, vocabulary):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, o.dim)
        self.layers = nn.ModuleList(Layer(o) for _ in range(o.layers))
        self.norm = Norm(o.dim)
        width = o.dim // o.heads
        angle = torch.outer(torch.arange(o.context).float(), THETA ** (-torch.arange(0, width, 2).float() / width))
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * o.layers) if deep else 0.02)

    def forward(self, tokens, targets):
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x, self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]])
        logits = F.linear(self.norm(x), self.embed_tokens.weight)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def stream(tokenizer, files):
    """All files as one row of tokens, every text begun by BOS."""
    tokens = []
    for path in files:
        with open(path, encoding="utf-8") as f:
            for text in f.read().split("<|endoftext|>"):
                if text.strip():
                    tokens += [tokenizer.bos_id()] + tokenizer.encode(text.strip())
    return torch.tensor(tokens)


def windows(tokens, context, first, bos):
    """Inputs and targets [n, context] cut from `first` on; every input begins with BOS, as scorers have it."""
    n = (len(tokens) - first) // context
    targets = tokens[first : first + n * context].view(n, context)
    return torch.cat((torch.full((n, 1), bos), targets[:, :-1]), dim=1), targets


def batches(tokens, o, bos, step):
    """From step `step` on: every epoch cuts at another place and has another order, both of the seed alone."""
    each = (len(tokens) - o.context) // o.context // o.batch
    while True:
        dice = torch.Generator().manual_seed(o.seed * 1000 + step // each)
        inputs, targets = windows(tokens, o.context, torch.randint(o.context, (1,), generator=dice).item(), bos)
        order = torch.randperm(len(inputs), generator=dice)
        for at in range(step % each, each):
            chosen = order[at * o.batch : (at + 1) * o.batch]
            yield inputs[chosen], targets[chosen]
            step += 1


def replace(path, write):
    """The file is replaced whole, or not at all."""
    write(path + ".partial")
    os.replace(path + ".partial", path)


def save(model, optimiser, o, tokenizer, step, seconds):
    """The Hugging Face folder, and beside it what --resume goes on from."""
    config = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=o.dim, intermediate_size=o.ffn,
                  num_hidden_layers=o.layers, num_attention_heads=o.heads, num_key_value_heads=o.kv_heads,
                  head_dim=o.dim // o.heads, vocab_size=tokenizer.vocab_size(), max_position_embeddings=o.context,
                  rms_norm_eps=EPS, rope_theta=THETA, tie_word_embeddings=True, bos_token_id=tokenizer.bos_id(),
                  eos_token_id=tokenizer.eos_id(), hidden_act="silu", attention_bias=False, mlp_bias=False, torch_dtype="float16")
    with open(os.path.join(o.out, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f, indent=2)
    weights = {"model." + name: p.detach().half().contiguous() for name, p in model.named_parameters()}
    replace(os.path.join(o.out, "model.safetensors"), lambda path: save_file(weights, path, metadata={"format": "pt"}))
    state = dict(model=model.state_dict(), optimiser=optimiser.state_dict(), step=step, seconds=seconds)
    replace(os.path.join(o.out, "resume.pt"), lambda path: torch.save(state, path))


def heldout_loss(model, cut):
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        losses = [model(a, b).item() for a, b in zip(cut[0].split(16), cut[1].split(16))]
    model.train()
    return sum(losses) / len(losses)


def prepare(o):
    """The tokenizer, copied into OUT, the model and its optimiser, and how far they are: (steps, seconds)."""
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=os.path.join(o.tokenizer, "tokenizer.model"))
    os.makedirs(o.out, exist_ok=True)
    for name in ("tokenizer.model", "tokenizer_config.json"):
        if os.path.exists(os.path.join(o.tokenizer, name)):
            shutil.copyfile(os.path.join(o.tokenizer, name), os.path.join(o.out, name))
    model = Model(o, tokenizer.vocab_size())
    groups = [{"params": [p for p in model.parameters() if p.dim() == 2], "weight_decay": 0.1},
              {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=o.rate, betas=(0.9, 0.95), fused=True)
    step, seconds = 0, 0.0
    if o.resume:
        state = torch.load(os.path.join(o.out, "resume.pt"), weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        step, seconds = state["step"], state["seconds"]
    return tokenizer, model, optimiser, step, seconds


def train(o):
    torch.manual_seed(o.seed)
    torch.set_num_threads(o.threads)
    tokenizer, model, optimiser, step, seconds = prepare(o)
    tokens = stream(tokenizer, o.text)
    heldout = windows(stream(tokenizer, [o.heldout]), o.context, 0, tokenizer.bos_id())
    steps = int(o.epochs * len(tokens) / o.context / o.batch)
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(tokens)} tokens, {steps} steps at most", flush=True)
    saved, last = seconds, time.monotonic()
    for inputs, targets in batches(tokens, o, tokenizer.bos_id(), step):
        done = max(seconds / (60 * o.minutes), step / steps)
        if done >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = o.rate * min((step + 1) / o.warmup, 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(inputs, targets)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        now = time.monotonic()
        seconds, last = seconds + now - last, now
        if step % 20 == 0:
            print(f"step {step}, {seconds / 60:.1f} min, loss {loss.item():.3f}", flush=True)
        if seconds - saved > 60 * o.save:
            save(model, optimiser, o, tokenizer, step, seconds)
            saved = seconds
    save(model, optimiser, o, tokenizer, step, seconds)
    nats = heldout_loss(model, heldout)
    print(f"{step} steps, {step * o.batch * o.context} tokens, {seconds / 60:.1f} min; "
          f"held-out {nats:.4f} nats, perplexity {math.exp(nats):.2f}", flush=True)


def main():
    p = argparse.ArgumentParser(description="Trains a small LlamaForCausalLM on texts.")
    p.add_argument("tokenizer", help="folder of tokenizer.model")
    p.add_argument("out", help="folder to write")
    p.add_argument("text", nargs="+", help="texts to train on")
    p.add_argument("--heldout", required=True, help="text whose loss is printed")
    for name, value in (("dim", 512), ("layers", 6), ("heads", 8), ("kv-heads", 2), ("ffn", 1536), ("context", 512),
                        ("batch", 4), ("warmup", 60), ("seed", 1), ("threads", 2)):
        p.add_argument("--" + name, type=int, default=value, metavar="N", help=f"default {value}")
    for name, value in (("minutes", 30.0), ("epochs", 2.0), ("rate", 1.5e-3), ("save", 4.0)):
        p.add_argument("--" + name, type=float, default=value, metavar="X", help=f"default {value}")
    p.add_argument("--resume", action="store_true", help="go on where OUT was saved last; the same other options, --minutes in all")
    train(p.parse_args())


if __name__ == "__main__":
    main()
