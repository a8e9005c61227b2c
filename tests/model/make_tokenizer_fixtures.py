#!/usr/bin/env python3
"""Makes tests/model/tokenizer/: small vocabularies in GGUF and, for 10,000 seeded random texts each, a hash
of the ids that Hugging Face's `tokenizers` (or the sentencepiece library, for its own models) gives.

    pip install tokenizers sentencepiece gguf
    python3 tests/model/make_tokenizer_fixtures.py

The texts are made anew by tokenizer_random_test.c from the same generator: see texts() there and here.
Bytes that are no UTF-8 count as U+FFFD, as Python's errors="replace" has it.
"""
import io
import pathlib
import struct

import gguf
import sentencepiece
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).resolve().parent
TEXTS = HERE.parent / "data" / "text"
OUT = HERE / "tokenizer"
COUNT = 10000
MASK = (1 << 64) - 1

RANGES = [(0x20, 0x7E), (0x41, 0x5A), (0x61, 0x7A), (0x61, 0x7A), (0x61, 0x7A), (0x30, 0x39), (0x20, 0x20),
          (0x20, 0x20), (0x09, 0x0D), (0x00, 0x1F), (0xA0, 0xFF), (0x100, 0x17F), (0x300, 0x36F), (0x3B1, 0x3C9),
          (0x400, 0x45F), (0x5D0, 0x5EA), (0x621, 0x64A), (0x660, 0x669), (0x905, 0x939), (0x93E, 0x94D),
          (0xE01, 0xE30), (0x2000, 0x206F), (0x20A0, 0x20BF), (0x2150, 0x218B), (0x2190, 0x21FF),
          (0x3000, 0x303F), (0x3041, 0x3096), (0x30A1, 0x30FA), (0x4E00, 0x9FA5), (0xAC00, 0xD7A3),
          (0xFF01, 0xFF5E), (0x1F300, 0x1F64F), (0x10400, 0x1044F)]
WORDS = ["'s", "'ll", "'RE", " the", " and", "  ", "\r\n", "\n\n", "é", "don't", "2024", "…", "of", "ing"]


class Random:
    """xorshift64*, the same in C."""

    def __init__(self, seed):
        self.state = seed

    def next(self, n):
        x = self.state
        x ^= x >> 12
        x = (x ^ (x << 25)) & MASK
        x ^= x >> 27
        self.state = x
        return (((x * 0x2545F4914F6CDD1D) & MASK) >> 32) % n


def texts():
    random = Random(0x7461726500000001)
    for _ in range(COUNT):
        out = b""
        for _ in range(random.next(33)):
            kind = random.next(50)
            if kind == 0:  # any byte at all
                out += bytes([random.next(256)])
            elif kind < 12:
                out += WORDS[random.next(len(WORDS))].encode()
            else:
                first, last = RANGES[random.next(len(RANGES))]
                out += chr(first + random.next(last - first + 1)).encode()
        yield out.decode("utf-8", errors="replace")


def fnv(ids):
    h = 0x811C9DC5
    for i in ids:
        for byte in struct.pack("<I", i):
            h = ((h ^ byte) * 0x01000193) & 0xFFFFFFFF
    return h


def write(name, model, tokens, types, scores=None, merges=None, pre=None, extra=None):
    writer = gguf.GGUFWriter(str(OUT / f"{name}.gguf"), "llama")
    writer.add_tokenizer_model(model)
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if scores:
        writer.add_token_scores(scores)
    if merges:
        writer.add_token_merges(merges)
    for add in extra or []:
        add(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def write_hashes(name, encode):
    (OUT / f"{name}.hash").write_bytes(b"".join(struct.pack("<I", fnv(encode(t))) for t in texts()))
    print(name)


def corpus():
    return sorted(str(p) for p in TEXTS.glob("*/calibration.txt"))


def isolated(*expressions):
    return [pre_tokenizers.Split(Regex(e), "isolated") for e in expressions]


def byte_level(name, splits, use_regex, normaliser=None, ignore_merges=False, vocabulary=900):
    t = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normaliser:
        t.normalizer = normaliser
    t.pre_tokenizer = pre_tokenizers.Sequence(
        splits + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)])
    t.train(corpus(), trainers.BpeTrainer(vocab_size=vocabulary, show_progress=False,
                                          initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    import json
    model = json.loads(t.to_str())["model"]
    tokens = [k for k, _ in sorted(model["vocab"].items(), key=lambda kv: kv[1])]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    write(name, "gpt2", tokens, [1] * len(tokens), merges=merges, pre=name)
    write_hashes(name, lambda text: t.encode(text).ids)


LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
DEEPSEEK_CODER = ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}")
DEEPSEEK_V3 = (r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
               r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
               r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""")


def word_piece():
    t = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    t.normalizer = normalizers.BertNormalizer(lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.train(corpus(), trainers.WordPieceTrainer(vocab_size=1500, show_progress=False,
                                                special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"]))
    tokens, types = [], []
    for token, _ in sorted(t.get_vocab().items(), key=lambda kv: kv[1]):
        is_special = token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
        tokens.append(token if is_special else token[2:] if token.startswith("##") else "\u2581" + token)
        types.append(3 if is_special else 1)
    write("bert", "bert", tokens, types, extra=[lambda w: w.add_unk_token_id(1), lambda w: w.add_uint32("tokenizer.ggml.cls_token_id", 2),
                                                lambda w: w.add_sep_token_id(3)])
    write_hashes("bert", lambda text: t.encode(text, add_special_tokens=False).ids)


def sentence_piece(name, kind):
    model = io.BytesIO()
    sentences = [line for p in corpus() for line in open(p, encoding="utf-8") if line.strip()]
    is_unigram = kind == "unigram"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=model, vocab_size=1500, model_type=kind,
        byte_fallback=not is_unigram, character_coverage=0.98, minloglevel=2,
        normalization_rule_name="nmt_nfkc" if is_unigram else "identity",
        remove_extra_whitespaces=is_unigram, split_digits=not is_unigram)
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    kinds = [(2, sp.is_unknown), (3, sp.is_control), (5, sp.is_unused), (6, sp.is_byte)]
    size = sp.get_piece_size()
    types = [next((k for k, test in kinds if test(i)), 1) for i in range(size)]
    extra = [lambda w: w.add_unk_token_id(sp.unk_id()), lambda w: w.add_add_space_prefix(True)]
    if is_unigram:
        from sentencepiece import sentencepiece_model_pb2 as pb
        proto = pb.ModelProto()
        proto.ParseFromString(model.getvalue())
        extra += [lambda w: w.add_remove_extra_whitespaces(True),
                  lambda w: w.add_precompiled_charsmap(proto.normalizer_spec.precompiled_charsmap)]
    write(name, "t5" if is_unigram else "llama", [sp.id_to_piece(i) for i in range(size)], types,
          scores=[sp.get_score(i) for i in range(size)], extra=extra)
    write_hashes(name, sp.encode)


def main():
    OUT.mkdir(exist_ok=True)
    byte_level("gpt-2", [], True)
    byte_level("starcoder", [pre_tokenizers.Digits(individual_digits=True)], True)
    byte_level("llama-bpe", isolated(LLAMA3 % r"\p{N}{1,3}"), False, ignore_merges=True)
    byte_level("qwen2", isolated(LLAMA3 % r"\p{N}"), False, normaliser=normalizers.NFC())
    byte_level("deepseek-coder", isolated(*DEEPSEEK_CODER), False)
    byte_level("deepseek-v3", isolated(*DEEPSEEK_V3), False)
    word_piece()
    sentence_piece("spm", "bpe")
    sentence_piece("unigram", "unigram")


if __name__ == "__main__":
    main()
