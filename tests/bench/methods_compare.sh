#!/usr/bin/env bash
# methods_compare.sh: what cascades, rotations, NF4's export, plain schemes, observers, activation bits and cache types
# cost.
#
#   tests/bench/methods_compare.sh PEER_BIN [BASE.gguf [HELDOUT.txt]]
#
# Files are scored by llama-perplexity of PEER_BIN against the base on text that nothing was fitted on; activations
# and NF4, which it does not know, by tare eval. TARE names the program (default build/release/bin/tare), PARTS what
# is run ("cascade rotations nf4 schemes ranges activations caches").
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
peer=${1:?usage: methods_compare.sh PEER_BIN [BASE.gguf [HELDOUT.txt]]}
base=${2:-$root/models/tare-tiny/tare-tiny-f16.gguf}
tare=${TARE:-$root/build/release/bin/tare}
parts=${PARTS:-cascade rotations nf4 schemes ranges activations caches}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
heldout=${3:-$work/heldout.txt}
[ $# -ge 3 ] || for text in "$root"/tests/data/text/*/heldout.txt; do # every language alike
    head -c 1600 "$text" | iconv -c -f UTF-8 -t UTF-8 2>/dev/null # cut behind a whole character
done >"$heldout"
cat "$root"/tests/data/text/*/calibration.txt >"$work/calibration.txt"

# The tool's log often loses its last lines; what the line of the last window says is the same with fewer digits.
judge() { # file, further options...; prints KLD, its error, ln of the ratio of perplexities, its error, top-1 %
    local i
    for i in 1 2 3; do
        "$peer/llama-perplexity" --no-repack -t 1 -f "$heldout" -m "$@" --kl-divergence --kl-divergence-base \
            "$work/base.kld" >"$work/log" 2>&1
        awk -v last="$windows" '$1 == last && NF > 10 { gsub("±|%", ""); print $6, $7, $4, $5, $10; found = 1 }
            END { exit !found }' "$work/log" && return 0
    done
    return 1
}

row() { # label, file, further options of the judge...
    local label=$1 file=$2 out
    shift 2
    out=$(judge "$file" "$@") || { echo "| $label | the judge failed |"; return; }
    awk -v l="$label" '{ printf "| %s | %s ± %s | %+.2f ± %.2f | %.1f |\n", l, $1, $2, 100 * (exp($3) - 1), 100 * $4, $5 }' \
        <<<"$out"
}

own() { # label, file, further options of tare eval...
    local label=$1 file=$2
    shift 2
    "$tare" eval "$file" --reference "$base" --text "$heldout" --json --quiet "$@" | python3 -c "
import json, sys
d = json.load(sys.stdin)
print('| %s | %.6f ± %.6f | %+.2f ± %.2f | %.1f |' % (sys.argv[1], d['kld']['value'], d['kld']['error'],
      100 * (d['perplexity_ratio']['value'] - 1), 100 * d['perplexity_ratio']['error'], 100 * d['top1']['value']))" "$label"
}

quantize() { # out, options...
    local out=$1
    shift
    "$tare" quantize "$base" -o "$out" --quiet "$@" >"$work/said" || exit 1
}

head_row() { printf '\n%s\n\n| %s | mean KLD | ΔPPL %% | top-1 %% |\n|---|---|---|---|\n' "$1" "$2"; }

windows=$("$tare" eval "$base" --text "$heldout" --json --quiet | python3 -c 'import json, sys; print(json.load(sys.stdin)["windows"])')
"$peer/llama-perplexity" --no-repack -t 1 -f "$heldout" -m "$base" --kl-divergence-base "$work/base.kld" >/dev/null 2>&1

if [[ $parts == *cascade* ]]; then
    head_row "Cascade against direct" method
    quantize "$work/q8.gguf" --type Q8_0 --method rtn
    row "Q8_0 itself" "$work/q8.gguf"
    for type in Q4_0 Q4_K IQ4_NL Q3_K; do
        quantize "$work/v.gguf" --type $type
        row "$type direct (search)" "$work/v.gguf"
        quantize "$work/v.gguf" --type $type --method cascade
        row "$type cascade (Q8_0, then search)" "$work/v.gguf"
    done
fi

# Layers alone at one type, embedding and head as they are; then whole files of equal bytes, where a rotated one that
# was tied pays for its second matrix. Every row twice: tare eval, llama-perplexity. GOALS, METHODS, SEEDS: only these.
if [[ $parts == *rotations* ]]; then
    weights() { "$tare" inspect "$1" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["parameters"])'; }
    both() { # label, file
        own "$1, $(stat -c %s "$2"), tare eval" "$2"
        row "$1, $(stat -c %s "$2"), llama-perplexity" "$2"
    }
    quantize "$work/rotated.gguf" --rotate --seed 1 --type F32
    share=$(python3 -c "print($(weights "$base") / $(weights "$work/rotated.gguf"))")
    head_row "Rotations" "file, bytes, judge"
    both "rotated base, F32" "$work/rotated.gguf"
    for goal in ${GOALS:-Q4_K Q3_K 4.5 3.44}; do
        for method in ${METHODS:-rtn search awq gptq gptq+awq}; do
            for seed in none ${SEEDS:-1 2 3}; do
                options=(--method $method --text "$work/calibration.txt")
                [ $seed = none ] || options+=(--rotate --seed $seed)
                case $goal in
                Q*)
                    printf 'type: %s\ntensors:\n  - {match: token_embd.weight, type: F16}\n  - {match: output.weight, type: F16}\n' $goal >"$work/layers.yaml"
                    options+=(--plan "$work/layers.yaml")
                    ;;
                *)
                    bpw=$goal
                    [ $seed = none ] || bpw=$(python3 -c "print($goal * $share)")
                    options+=(--bpw $bpw)
                    ;;
                esac
                quantize "$work/v.gguf" "${options[@]}"
                label="$goal $method"
                [ $seed = none ] || label="$label, rotated (seed $seed)"
                both "$label" "$work/v.gguf"
            done
        done
    done
fi

if [[ $parts == *nf4* ]]; then
    head_row "NF4 (own eval) and its export (the judge)" file
    for method in rtn search; do
        quantize "$work/nf4.gguf" --type NF4 --method $method
        own "NF4 $method, $(stat -c %s "$work/nf4.gguf") bytes, tare eval" "$work/nf4.gguf"
        base=$work/nf4.gguf quantize "$work/v.gguf" --export
        own "its export to IQ4_NL, $(stat -c %s "$work/v.gguf") bytes, tare eval" "$work/v.gguf"
        row "the same, llama-perplexity" "$work/v.gguf"
        quantize "$work/v.gguf" --type IQ4_NL --method $method
        row "IQ4_NL $method from the base, llama-perplexity" "$work/v.gguf"
    done
fi

if [[ $parts == *schemes* ]]; then
    head_row "Schemes, 4 bits, simulated as F32" "scheme (bits per weight in a container of its own)"
    for group in 16 32 64 128 256 channel tensor; do
        for kind in symmetric power-of-two asymmetric affine; do
            case $group-$kind in 32-* | 128-* | channel-* | *-symmetric) ;; *) continue ;; esac
            quantize "$work/v.gguf" --scheme "4 $kind $group f32"
            row "$kind $group ($(sed -nE 's/.* ([0-9.]+) bits per weight; simulated.*/\1/p' "$work/said"))" "$work/v.gguf"
        done
    done
    quantize "$work/v.gguf" --scheme "8 symmetric channel f32"
    row "8 bits, symmetric channel" "$work/v.gguf"
    quantize "$work/v.gguf" --scheme "8 symmetric tensor f32"
    row "8 bits, symmetric tensor" "$work/v.gguf"
    quantize "$work/v.gguf" --type Q4_0
    row "Q4_0 by search, for comparison" "$work/v.gguf"
fi

if [[ $parts == *ranges* ]]; then
    head_row "Observers for weights' ranges, 4 bits, symmetric" "range"
    for group in 32 channel; do
        for range in minmax percentile percentile=99 mse entropy; do
            [ $group-$range = 32-entropy ] && continue
            quantize "$work/v.gguf" --scheme "4 symmetric $group $range f32"
            row "$group, $range" "$work/v.gguf"
        done
    done
fi

if [[ $parts == *activations* ]]; then
    "$tare" calibrate "$base" --text "$work/calibration.txt" -o "$work/p.gguf" --ranges "$work/ranges.gguf" --quiet >/dev/null
    quantize "$work/q8.gguf" --type Q8_0 --method rtn
    quantize "$work/q4.gguf" --type Q4_0
    head_row "Activation bits, dynamic per 32 values (own eval)" "weights, bits"
    for bits in 16 8 4; do
        own "F16 weights, $bits" "$base" --activation-bits $bits
        own "Q8_0 weights, $bits" "$work/q8.gguf" --activation-bits $bits
        own "Q4_0 weights, $bits" "$work/q4.gguf" --activation-bits $bits
    done
    head_row "Observers for activations: one static scale per input, F16 weights (own eval)" "bits, range"
    for bits in 8 4; do
        for range in minmax percentile mse entropy; do
            own "$bits, $range" "$base" --activation-bits $bits --ranges "$work/ranges.gguf" --range $range
        done
    done
fi

if [[ $parts == *caches* ]]; then
    head_row "Types of keys and values, F16 weights" "cache, judge"
    row "f16, llama-perplexity" "$base" -fa on
    for type in q8_0 q4_0; do
        row "$type, llama-perplexity" "$base" -fa on -ctk $type -ctv $type
        own "$type, tare eval" "$base" --cache $type
    done
fi
