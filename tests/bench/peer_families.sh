#!/usr/bin/env bash
# peer_families.sh: every family that we import, under llama.cpp's perplexity tool and ours.
#
#   tests/bench/peer_families.sh PEER_BIN
#
# PEER_BIN is a folder with llama-perplexity, built elsewhere. Each Hugging Face folder of tests/model/family,
# and the small trained ones where ../shared/data is there, is imported; both tools measure the same text with
# caches of F32, and must agree within 0.2 %. TARE names the program (default build/release/bin/tare).
# Left out: bert, which predicts no text. Shorter windows: Mistral and Phi-3, whose attention windows llama.cpp
# does not apply, so that both agree only within them.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
peer=${1:?usage: peer_families.sh PEER_BIN}
tare=${TARE:-$root/build/release/bin/tare}
data=$root/../shared/data
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
head -c 24000 "$root/tests/data/text/en/heldout.txt" >"$work/text"
failed=0

# The tool's log sometimes loses its last lines: ask again.
theirs() { # file, context
    local i out value
    for i in 1 2 3 4 5; do
        out=$("$peer/llama-perplexity" --no-repack -t 1 -fa off -ctk f32 -ctv f32 -m "$1" -f "$work/text" -c "$2" 2>&1)
        value=$(sed -nE 's/.*Final estimate: PPL = ([0-9.]+).*/\1/p' <<<"$out")
        [ -n "$value" ] && echo "$value" && return
    done
    grep -m1 -iE 'error' <<<"$out" >&2
    echo 0
}

compare() { # name, file, context
    local a b
    a=$(theirs "$2" "$3")
    b=$("$tare" eval "$2" --text "$work/text" --context "$3" --cache f32 --json --quiet |
        python3 -c "import json,sys; print(json.load(sys.stdin)['perplexity']['value'])")
    awk -v n="$1" -v a="$a" -v b="${b:-0}" 'BEGIN {
        d = a > 0 ? 100 * (b / a - 1) : 100; ok = d < 0.2 && d > -0.2
        printf "%-18s %14.4f %14.4f %9.4f %s\n", n, a, b, d, ok ? "agrees" : "DIFFERS"; exit !ok }' || failed=1
}

printf '%-18s %14s %14s %9s %s\n' family llama.cpp tare 'differ %' verdict
for folder in "$root"/tests/model/family/*/; do
    name=$(basename "$folder")
    [ "$name" = bert ] && continue
    "$tare" import "$folder" -o "$work/$name.gguf" --quiet >/dev/null || { failed=1; continue; }
    context=256
    [[ $name == mistral || $name == phi3 ]] && context=96
    compare "$name" "$work/$name.gguf" $context
done
if [ -d "$data/stories260K" ]; then
    "$tare" import "$data/stories260K/stories260K.bin" --tokenizer "$data/stories260K/tok512.bin" -o "$work/s.gguf" --quiet \
        >/dev/null && compare stories260K "$work/s.gguf" 256
    "$tare" import "$data/tinystories656K" -o "$work/t.gguf" --quiet >/dev/null && compare tinystories656K "$work/t.gguf" 256
fi
exit $failed
