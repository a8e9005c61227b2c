#!/usr/bin/env bash
# peer_speed.sh PEER_BIN BIN [TYPES [THREADS]]: prefill 512 and decode 128 side by side with llama-bench, on the same
# file of a synthetic model, one type after the other; A and B take turns, medians of REPEATS (5). Ends with a table in
# Markdown. PEER_BIN holds llama-bench and llama-quantize, BIN our programs; the folder BENCH_FOLDER (1.5 GB) is kept.
#
#   tests/bench/peer_speed.sh ~/llama.cpp/build/bin build/release/bin "Q4_0 Q8_0" 2
set -eu
export LC_ALL=C
peer=$1 bin=$2
types=${3:-"F16 Q8_0 Q4_0 Q4_K Q5_K Q6_K Q3_K Q2_K IQ4_NL IQ4_XS"}
threads=${4:-2}
repeats=${REPEATS:-5}
folder=${BENCH_FOLDER:-${TMPDIR:-/tmp}/tare-bench}
mkdir -p "$folder"
base=$folder/base-f16.gguf
[ -s "$base" ] || "$bin/make_model" "$base"

median() { sort -g | awk '{v[NR] = $1} END {print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }
# ours FILE P N, theirs FILE P N: tokens per second of one run
ours() { "$bin/tare" bench "$1" -p "$2" -n "$3" -r 1 -t "$threads" --json --quiet | jq -r '.[0].median_ts'; }
theirs() { "$peer/llama-bench" -m "$1" -p "$2" -n "$3" -r 1 -t "$threads" -o json 2>/dev/null | jq -r '.[0].avg_ts'; }
rss_ours() { "$bin/tare" bench "$1" -p 0 -n 8 -r 1 -t "$threads" --json --quiet | jq -r '.[0].rss_bytes / 1048576 | floor'; }
rss_theirs() {
    "$peer/llama-bench" -m "$1" -p 0 -n 8 -r 1 -t "$threads" >/dev/null 2>&1 &
    local pid=$! top=0 now
    while kill -0 $pid 2>/dev/null; do
        now=$(awk '/VmHWM/ {print int($2 / 1024)}' /proc/$pid/status 2>/dev/null || echo 0)
        [ "${now:-0}" -gt $top ] && top=$now
        sleep 0.05
    done
    echo $top
}

rows=
for type in $types; do
    file=$folder/$type.gguf
    if [ "$type" = F16 ]; then
        file=$base
    elif [ ! -s "$file" ]; then
        "$bin/tare" quantize "$base" -o "$file" --type "$type" --method rtn --quiet >/dev/null
    fi
    : >"$folder/pp.a" && : >"$folder/pp.b" && : >"$folder/tg.a" && : >"$folder/tg.b"
    for _ in $(seq "$repeats"); do
        ours "$file" 512 0 >>"$folder/pp.a"
        theirs "$file" 512 0 >>"$folder/pp.b"
        ours "$file" 0 128 >>"$folder/tg.a"
        theirs "$file" 0 128 >>"$folder/tg.b"
    done
    row=$(printf '| %s | %d | %.1f | %.1f | **%.2f** | %.1f | %.1f | **%.2f** | %d | %d |' "$type" $(($(stat -c %s "$file") / 1048576)) \
        "$(median <"$folder/pp.a")" "$(median <"$folder/pp.b")" \
        "$(echo "$(median <"$folder/pp.a") $(median <"$folder/pp.b")" | awk '{print $1 / $2}')" \
        "$(median <"$folder/tg.a")" "$(median <"$folder/tg.b")" \
        "$(echo "$(median <"$folder/tg.a") $(median <"$folder/tg.b")" | awk '{print $1 / $2}')" \
        "$(rss_ours "$file")" "$(rss_theirs "$file")")
    echo "$row"
    rows="$rows$row
"
    [ "$type" = F16 ] || [ -n "${BENCH_KEEP:-}" ] || rm -f "$file"
done
printf '\n| type | MiB | pp512 ours | theirs | ratio | tg128 ours | theirs | ratio | RSS ours MiB | theirs |\n|---|---|---|---|---|---|---|---|---|---|\n%s' "$rows"
