#!/usr/bin/env python3
"""Make tests/hal/blocks.bin: random blocks and what the PyPI package gguf decodes them to.

Run once (pip install gguf); the tests need the file alone. Per format: u32 type, u32 block bytes,
u32 values, u32 blocks, the blocks, then the FNV-1a hash of each decoded block (u64 over the
little-endian F32 bytes) and the first decoded block in full.
"""
import struct
import sys

import numpy as np
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T

BLOCKS = 16
# offsets of the binary16 fields, so that random blocks hold finite scales
HALVES = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82],
          T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.IQ4_NL: [0], T.IQ4_XS: [0]}


def fnv(data):
    h = 0xcbf29ce484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001b3 & 0xffffffffffffffff
    return h


def main(path):
    rng = np.random.default_rng(20240607)
    with open(path, "wb") as out:
        out.write(struct.pack("<I", len(HALVES)))
        for kind, offsets in HALVES.items():
            values, size = GGML_QUANT_SIZES[kind]
            blocks = rng.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
            for at in offsets:
                half = rng.normal(0, 1, BLOCKS).astype(np.float16)
                half[1] = np.float16(3e-6)  # a subnormal scale
                half[2] = np.float16(0)
                blocks[:, at:at + 2] = half.view(np.uint8).reshape(BLOCKS, 2)
            decoded = quants.dequantize(blocks, kind).astype("<f4").reshape(BLOCKS, values)
            out.write(struct.pack("<4I", int(kind), size, values, BLOCKS))
            out.write(blocks.tobytes())
            for row in decoded:
                out.write(struct.pack("<Q", fnv(row.tobytes())))
            out.write(decoded[0].tobytes())


main(sys.argv[1] if len(sys.argv) > 1 else "blocks.bin")
