#!/usr/bin/env bash
# peer_quantize.sh PEER_BIN BIN [BASE.gguf [TYPES [THREADS]]]: wall seconds and peak resident memory of `tare quantize`
# and llama-quantize on the same base, taking turns; medians of REPEATS (5). Every weight gets the type on both sides
# (--pure), without statistics; Q8_0 and Q4_0 by rtn, as theirs are, the others by search.
set -eu
export LC_ALL=C
peer=$1 bin=$2
folder=${BENCH_FOLDER:-${TMPDIR:-/tmp}/tare-bench}
mkdir -p "$folder"
base=${3:-$folder/base-f16.gguf}
types=${4:-"Q8_0 Q4_0 Q6_K Q5_K Q4_K Q3_K Q2_K IQ4_NL IQ4_XS"}
threads=${5:-2}
repeats=${REPEATS:-5}
[ -s "$base" ] || "$bin/make_model" "$base"
scratch=$(mktemp -d "$folder/quantize.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
median() { sort -g "$1" | awk '{v[NR] = $1} END {print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }
# timed WHO COMMAND...: "seconds KiB" into a file of each
timed() {
    local who=$1
    shift
    /usr/bin/time -o "$scratch/time" -f '%e %M' "$@" >"$scratch/log" 2>&1 || { tail -n 3 "$scratch/log"; exit 1; }
    awk -v s="$scratch/$who.s" -v m="$scratch/$who.m" '{print $1 >>s; print $2 >>m}' "$scratch/time"
}

printf '| type | ours s | theirs s | ratio | ours MiB | theirs MiB | bytes ours / theirs |\n|---|---|---|---|---|---|---|\n'
for type in $types; do
    method=search
    case $type in Q8_0 | Q4_0) method=rtn ;; esac
    rm -f "$scratch"/*.s "$scratch"/*.m
    for _ in $(seq "$repeats"); do
        rm -f "$scratch"/*.gguf
        timed ours "$bin/tare" quantize "$base" -o "$scratch/ours.gguf" --type "$type" --method $method -t "$threads" --quiet
        timed theirs "$peer/llama-quantize" --pure "$base" "$scratch/theirs.gguf" "$type" "$threads"
    done
    printf '| %s %s | %.2f | %.2f | **%.2f** | %d | %d | %.4f |\n' "$type" $method "$(median "$scratch/ours.s")" "$(median "$scratch/theirs.s")" \
        "$(awk -v a="$(median "$scratch/ours.s")" -v b="$(median "$scratch/theirs.s")" 'BEGIN {print b / a}')" \
        $(($(median "$scratch/ours.m") / 1024)) $(($(median "$scratch/theirs.m") / 1024)) \
        "$(awk -v a="$(stat -c %s "$scratch/ours.gguf")" -v b="$(stat -c %s "$scratch/theirs.gguf")" 'BEGIN {print a / b}')"
done
