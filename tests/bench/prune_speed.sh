#!/usr/bin/env bash
# prune_speed.sh BIN BASE.gguf [SHARE [TYPE [THREADS]]]: file size, prefill 512 and decode 128 of a base and of the same
# base pruned (20 % by magnitude), both in TYPE (Q4_K); the two take turns, medians of REPEATS (3). A Markdown table.
#
#   tests/bench/prune_speed.sh build/release/bin base-f16.gguf 20% Q4_K 2
set -eu
export LC_ALL=C
bin=$1 base=$2 share=${3:-20%} type=${4:-Q4_K} threads=${5:-2} repeats=${REPEATS:-3}
scratch=${BENCH_FOLDER:-$(mktemp -d)}
mkdir -p "$scratch"
[ -n "${BENCH_FOLDER:-}" ] || trap 'rm -rf "$scratch"' EXIT
[ -s "$scratch/whole.gguf" ] || "$bin/tare" quantize "$base" -o "$scratch/whole.gguf" --type "$type" --method rtn --quiet >/dev/null
[ -s "$scratch/pruned.gguf" ] || "$bin/tare" quantize "$base" -o "$scratch/pruned.gguf" --type "$type" --method rtn \
    --prune "$share" --prune-by magnitude --quiet >/dev/null
median() { sort -g "$1" | awk '{v[NR] = $1} END {print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }
rm -f "$scratch"/*.tok
for _ in $(seq "$repeats"); do
    for file in whole pruned; do
        "$bin/tare" bench "$scratch/$file.gguf" -p 512 -n 128 -r 1 -t "$threads" --json >"$scratch/row.json"
        for row in pp512 tg128; do
            jq -r --arg r $row '.[] | select(.test == $r) | .median_ts' \
                "$scratch/row.json" >>"$scratch/$file.$row.tok"
        done
    done
done
printf '| file | bytes | pp512 tok/s | tg128 tok/s |\n|---|---|---|---|\n'
for file in whole pruned; do
    printf '| %s %s | %s | %s | %s |\n' $file "$type" "$(stat -c %s "$scratch/$file.gguf")" \
        "$(median "$scratch/$file.pp512.tok")" "$(median "$scratch/$file.tg128.tok")"
done
