#!/usr/bin/env bash
# peer_compare.sh: our files under llama.cpp's tools, and theirs beside ours.
#
#   tests/bench/peer_compare.sh PEER_BIN [BASE.gguf [CALIBRATION.txt [HELDOUT.txt]]]
#
# PEER_BIN is a folder with llama-perplexity, llama-quantize and llama-imatrix, built elsewhere.
# Part 1: every type loads there, and its perplexity agrees with ours. Part 2: profiles are exchanged.
# Part 3: KLD at equal bytes, scored by llama-perplexity against the base on text that neither saw.
# TARE names the program (default build/release/bin/tare), THREADS those of the peer, PARTS the parts to run ("1 2 3"),
# METHODS the methods of part 3, SENSITIVITY what they allocate bits by (names, leave-one-out), MIXES the files of
# llama-quantize to be met there, TYPES the types of part 1. Weight repacking is off in the peer: it does not change the
# numbers, and its AMX path crashes under hypervisors that do not grant the tile state.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
peer=${1:?usage: peer_compare.sh PEER_BIN [BASE.gguf [CALIBRATION.txt [HELDOUT.txt]]]}
base=${2:-$root/models/tare-tiny/tare-tiny-f16.gguf}
tare=${TARE:-$root/build/release/bin/tare}
threads=${THREADS:-2}
parts=${PARTS:-1 2 3}
methods=${METHODS:-rtn search awq gptq gptq+awq}
sensitivity=${SENSITIVITY:-names}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
calibration=${3:-$work/calibration.txt}
heldout=${4:-$work/heldout.txt}
[ $# -ge 3 ] || cat "$root"/tests/data/text/*/calibration.txt >"$calibration"
[ $# -ge 4 ] || cat "$root"/tests/data/text/*/heldout.txt >"$heldout"
failed=0

# The tool ends without waiting for its log's thread, which loses the last lines: linger for a second first. If a busy
# machine needed longer than that, ask again.
echo '#include <unistd.h>
__attribute__((destructor)) static void linger(void) { sleep(1); }' | cc -shared -fPIC -x c - -o "$work/linger.so" || exit 1
perplexity() { # file, further options... ; prints its output
    local i out
    for i in 1 2 3 4 5 6 7 8; do
        out=$(LD_PRELOAD="$work/linger.so" "$peer/llama-perplexity" --no-repack -t "$threads" -f "$heldout" -m "$@" 2>&1)
        if grep -q 'Final estimate: PPL' <<<"$out" || [ "$(grep -cE '^Mean PPL\(Q\)/PPL\(base\)|^Mean    KLD|^Same top p' <<<"$out")" -eq 3 ]; then
            printf '%s\n' "$out"
            return 0
        fi
    done
    return 1
}
ppl_of() { perplexity "$1" | sed -nE 's/.*Final estimate: PPL = ([0-9.]+).*/\1/p' | grep .; }
number() { sed -nE "s/.*$1[^:]*: *([0-9.e-]+).*/\1/p" | head -1; }
field() { python3 -c "import json,sys; print(json.load(sys.stdin)$1)"; }

if [[ $parts == *1* ]]; then
    printf '%-8s %10s %10s %9s %s\n' type llama.cpp tare 'differ %' verdict
    for type in ${TYPES:-F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q6_K Q5_K Q4_K Q3_K Q2_K IQ4_NL}; do
        "$tare" quantize "$base" -o "$work/v.gguf" --type $type --quiet >/dev/null || exit 1
        theirs=$(ppl_of "$work/v.gguf")
        ours=$("$tare" eval "$work/v.gguf" --text "$heldout" --json --quiet | field "['perplexity']['value']")
        limit=0.2
        case $type in Q3_K | Q2_K) limit=0.5 ;; esac
        awk -v t=$type -v a="${theirs:-0}" -v b="${ours:-0}" -v l=$limit 'BEGIN {
            d = a > 0 ? 100 * (b / a - 1) : 100; ok = d < l && d > -l
            printf "%-8s %10.4f %10.4f %9.4f %s\n", t, a, b, d, ok ? "agrees" : "DIFFERS"; exit !ok }' || failed=1
    done
fi

if [[ $parts == *[23]* ]]; then
    "$peer/llama-imatrix" -m "$base" -f "$calibration" -o "$work/theirs.gguf" -t "$threads" --no-ppl >/dev/null 2>&1
    "$tare" calibrate "$base" --text "$calibration" -o "$work/ours.gguf" --quiet >/dev/null || exit 1
fi

if [[ $parts == *2* ]]; then
    "$tare" calibrate "$base" --text "$calibration" -o "$work/again.gguf" --compare "$work/theirs.gguf" --quiet
    for pair in "ours.gguf tare" "theirs.gguf tare" "ours.gguf llama" "theirs.gguf llama"; do
        set -- $pair
        if [ "$2" = tare ]; then
            "$tare" quantize "$base" -o "$work/v.gguf" --type Q4_K --profile "$work/$1" --quiet >/dev/null || failed=1
        else
            "$peer/llama-quantize" --pure --imatrix "$work/$1" "$base" "$work/v.gguf" Q4_K >/dev/null 2>&1 || failed=1
        fi
        printf 'profile %-12s quantizer %-6s Q4_K PPL %s\n' "$1" "$2" "$(ppl_of "$work/v.gguf")"
    done
fi

# label, file: a row of the table; KLD in nats per token. The change of perplexity is that of plain runs, its standard
# error that of the paired run: the stored base of --kl-divergence is rounded, which moves the perplexity found there.
row() {
    local out kld top error ppl
    out=$(perplexity "$2" --kl-divergence --kl-divergence-base "$work/base.kld") && ppl=$(ppl_of "$2") || {
        echo "| $1 | the judge lost its log |"
        return 1
    }
    kld=$(sed -nE 's/^Mean    KLD: *([0-9.e-]+) ± *([0-9.e-]+).*/\1 ± \2/p' <<<"$out")
    error=$(sed -nE 's/^Mean PPL\(Q\)\/PPL\(base\) *: *[0-9.]+ ± *([0-9.]+).*/\1/p' <<<"$out")
    top=$(number 'Same top p' <<<"$out")
    awk -v l="$1" -v b="$(stat -c %s "$2")" -v p="$params" -v k="$kld" -v t="$top" -v q="$ppl" -v o="$ppl_base" -v e="$error" 'BEGIN {
        printf "| %s | %d | %.3f | %s | %+.2f ± %.2f | %.1f |\n", l, b, 8 * b / p, k, 100 * (q / o - 1), 100 * e, t }'
}

if [[ $parts == *3* ]]; then
    perplexity "$base" --kl-divergence-base "$work/base.kld" >/dev/null || exit 1
    ppl_base=$(ppl_of "$base") || exit 1
    params=$("$tare" quantize "$base" -o "$work/v.gguf" --dry-run --json --quiet | field "['parameters']")
    printf '| file | bytes | bpw | mean KLD | ΔPPL %% | top-1 %% |\n|---|---|---|---|---|---|\n'
    for type in ${MIXES:-Q8_0 Q6_K Q5_K_S Q4_K_S IQ4_XS Q3_K_S Q2_K}; do
        for imatrix in "" theirs.gguf; do
            rm -f "$work/peer.gguf"
            "$peer/llama-quantize" ${imatrix:+--imatrix "$work/$imatrix"} "$base" "$work/peer.gguf" $type >/dev/null 2>&1 || continue
            row "llama.cpp $type${imatrix:+, imatrix}" "$work/peer.gguf"
        done
        [ -s "$work/peer.gguf" ] || continue
        # ours at no more bytes than theirs
        bpw=$(awk -v b="$(stat -c %s "$work/peer.gguf")" -v p="$params" 'BEGIN { printf "%.5f", 8 * b / p }')
        for method in $methods; do
            "$tare" quantize "$base" -o "$work/v.gguf" --bpw "$bpw" --method "$method" --profile "$work/ours.gguf" \
                --text "$calibration" --sensitivity "$sensitivity" --quiet >/dev/null || continue
            row "tare $method$([ "$sensitivity" = names ] || echo ", $sensitivity")" "$work/v.gguf"
        done
    done
fi
exit $failed
