#!/usr/bin/env bash
# resident.sh TARE MAKE_MODEL: a model's weights live once: after a prefill of 512 in one step the process is at most
# file + cache + 32 MiB, with one thread and with two. The model has two of 24 layers of half a billion parameters:
# room for a step depends on widths. 3 MiB are kept for what more layers leave behind.
set -u
tare=$1 make_model=$2
bad=0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cache=$((2 * 512 * 2 * 256 * 2)) most=$((29 * 1024)) # 2 layers, 512 positions, keys and values of 4 heads of 64, F16

# holds FILE: on the plugin that serves here
holds() {
    local threads rss over
    for threads in 1 2; do
        rss=$("$tare" bench "$1" -p 512 -n 1 -r 1 -t "$threads" --chunk 512 --json --quiet |
            sed -n 's/^ *"rss_bytes": \([0-9]*\).*/\1/p' | head -1)
        [ -n "$rss" ] || { echo "FAIL: no resident size of $(basename "$1")"; bad=1; return; }
        over=$(((rss - $(stat -c %s "$1") - cache) / 1024))
        [ $over -le $most ] && continue
        echo "FAIL: $(basename "$1" .gguf), $threads threads: file and cache and $((over / 1024)).$((over % 1024 * 10 / 1024)) MiB"
        bad=1
    done
}

"$make_model" "$scratch/F16.gguf" 2 || exit 1
holds "$scratch/F16.gguf"
for type in Q8_0 Q4_0 Q4_K Q6_K Q3_K; do
    "$tare" quantize "$scratch/F16.gguf" -o "$scratch/$type.gguf" --type $type --method rtn --quiet >/dev/null || bad=1
    holds "$scratch/$type.gguf"
    rm "$scratch/$type.gguf"
done
[ $bad -eq 0 ] && echo "resident: weights live once"
exit $bad
