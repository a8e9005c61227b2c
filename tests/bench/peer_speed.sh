#!/usr/bin/env bash
# peer_speed.sh PEER_BIN BIN [TYPES [THREADS [BASE.gguf]]]: prefill 512 and decode 128 side by side with llama-bench,
# on the same file, one type after the other. One process of each tool measures both rows; A and B take turns and the
# ceilings (streaming read of as many bytes as a token, 8-bit products in vector registers) are measured after each
# pair; medians of REPEATS (5). THREADS may be a list: "2 1". Ends with a table in Markdown for each; BUSY (default
# 0.25) is how many cores of other work are tolerated before a sample: it waits up to a minute, then says so.
#
#   tests/bench/peer_speed.sh ~/llama.cpp/build/bin build/release/bin "Q4_0 Q8_0" 2
#   tests/bench/peer_speed.sh ~/llama.cpp/build/bin build/release/bin "" "2 1" models/tare-tiny/tare-tiny-f16.gguf
#
# PEER_BIN holds llama-bench, BIN our programs. BASE: an F16 file; without it a synthetic one of half a billion
# parameters is made. Files of the other types are made from it, and kept in BENCH_FOLDER (3.5 GB) unless BENCH_KEEP=0.
# The peer's warm-up is a prefill of 64 that is not counted (its own is as long as the sample), ours is the whole.
set -eu
export LC_ALL=C
peer=$1 bin=$2
types=${3:-F16 Q8_0 Q4_0 Q4_K Q5_K Q6_K Q3_K Q2_K IQ4_NL IQ4_XS}
thread_counts=${4:-2}
repeats=${REPEATS:-5}
busy=${BUSY:-0.25}
folder=${BENCH_FOLDER:-${TMPDIR:-/tmp}/tare-bench}
mkdir -p "$folder"
base=${5:-$folder/base-f16.gguf}
name=$(basename "$base" .gguf)
[ "$name" = base-f16 ] && name= || name=$name-
[ -s "$base" ] || "$bin/make_model" "$base"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

median() { sort -g "$scratch/$1" | awk '{v[NR] = $1} END {print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }
# Cores in use over a tenth of a second.
used() {
    local a b
    read -r _ a < <(awk '/^cpu /{print $1, $2 + $3 + $4 + $7 + $8 + $9}' /proc/stat)
    sleep 0.1
    read -r _ b < <(awk '/^cpu /{print $1, $2 + $3 + $4 + $7 + $8 + $9}' /proc/stat)
    echo "$a $b" | awk -v hz="$(getconf CLK_TCK)" '{print ($2 - $1) / hz / 0.1}'
}
quiet() {
    local i
    for i in $(seq 600); do
        used | awk -v most="$busy" '{exit !($1 <= most)}' && return
    done
    echo "another program uses the CPU: the samples are not clean" >&2
}
ours() { # FILE THREADS: a line of tokens per second to pp.a, tg.a and MiB to rss.a
    "$bin/tare" bench "$1" -p 512 -n 128 -r 1 -t "$2" --json --quiet >"$scratch/a.json"
    jq -r '.[0].median_ts' "$scratch/a.json" >>"$scratch/pp.a"
    jq -r '.[1].median_ts' "$scratch/a.json" >>"$scratch/tg.a"
    jq -r '.[1].rss_bytes / 1048576 | floor' "$scratch/a.json" >>"$scratch/rss.a"
}
theirs() {
    "$peer/llama-bench" -m "$1" -p 64,512 -n 128 -r 1 -t "$2" --no-warmup -o json >"$scratch/b.json" 2>/dev/null &
    local pid=$! top=0 now
    while kill -0 $pid 2>/dev/null; do
        now=$(awk '/VmHWM/ {print int($2 / 1024)}' /proc/$pid/status 2>/dev/null || echo 0)
        [ "${now:-0}" -gt $top ] && top=$now
        sleep 0.2
    done
    jq -r '.[] | select(.n_prompt == 512) | .avg_ts' "$scratch/b.json" >>"$scratch/pp.b"
    jq -r '.[] | select(.n_gen == 128) | .avg_ts' "$scratch/b.json" >>"$scratch/tg.b"
    echo $top >>"$scratch/rss.b"
}
ceilings() {
    "$bin/ceilings" "$1" "$2" 100 >"$scratch/c.json"
    for key in read_gbs int8_gops ops_token bytes_token; do jq -r ".$key" "$scratch/c.json" >>"$scratch/$key"; done
}

tables=
for threads in $thread_counts; do
    echo "## threads: $threads, $(basename "$base")"
    rows=
    for type in $types; do
        file=$folder/$name$type.gguf
        if [ "$type" = F16 ]; then
            file=$base
        elif [ ! -s "$file" ]; then
            "$bin/tare" quantize "$base" -o "$file" --type "$type" --method rtn --quiet >/dev/null
        fi
        rm -f "$scratch"/*
        for _ in $(seq "$repeats"); do
            quiet
            ours "$file" "$threads"
            theirs "$file" "$threads"
            ceilings "$file" "$threads"
        done
        row=$(echo "$type $(stat -c %s "$file") $(median pp.a) $(median pp.b) $(median tg.a) $(median tg.b) $(median rss.a) \
            $(median rss.b) $(median read_gbs) $(median int8_gops) $(median ops_token) $(median bytes_token)" | awk '{
            printf "| %s | %d | %.1f | %.1f | **%.2f** | %.0f %% | %.1f | %.1f | **%.2f** | %.0f %% | %d | %d | %.1f | %.0f |",
                $1, $2 / 1048576, $3, $4, $3 / $4, 100 * $3 * $11 / ($10 * 1e9), $5, $6, $5 / $6,
                100 * $5 * $12 / ($9 * 1e9), $7, $8, $9, $10}')
        echo "$row"
        rows="$rows$row
"
        [ "$type" = F16 ] || [ "${BENCH_KEEP:-1}" != 0 ] || rm -f "$file"
    done
    tables="$tables
threads: $threads, $(basename "$base"), medians of $repeats:

| type | MiB | pp512 ours | theirs | ratio | of int8 peak | tg128 ours | theirs | ratio | of read | RSS ours MiB | theirs | read GB/s | int8 GOPS |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
$rows"
done
printf '%s' "$tables"
