#!/usr/bin/env bash
# resume.sh TARE MODEL TEXT... [OPTION...]: gptq killed by kill -9 at several layers goes on and ends with the same bytes.
set -u
tare=$1 model=$2
shift 2
[ -r "$model" ] || { echo "skipped: $model is absent"; exit 77; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
options=(--type q3_k --method gptq --quiet --tokens 2048 --text "$@")
bad=0

"$tare" quantize "$model" -o "$scratch/whole.gguf" "${options[@]}" >/dev/null || exit 1
want=$(sha256sum <"$scratch/whole.gguf")

tensors() { sed -n 's/^tare-quantise 1 [0-9a-f]* //p' "$scratch/o.gguf.state" 2>/dev/null; }

# go on until the state file says more than before, then kill; several layers in one run
kills=0 before=0
for round in 1 2 3 4 5 6; do
    "$tare" quantize "$model" -o "$scratch/o.gguf" "${options[@]}" >/dev/null 2>&1 &
    pid=$!
    while kill -0 $pid 2>/dev/null; do
        now=$(tensors)
        if [ "${now:-0}" -gt "$before" ]; then
            kill -9 $pid 2>/dev/null && kills=$((kills + 1))
            before=$now
            break
        fi
        sleep 0.02
    done
    wait $pid 2>/dev/null
    [ -e "$scratch/o.gguf" ] && break
done
[ -e "$scratch/o.gguf" ] || "$tare" quantize "$model" -o "$scratch/o.gguf" "${options[@]}" >/dev/null || bad=1
[ "$kills" -ge 3 ] || { echo "FAIL: killed $kills times only"; bad=1; }
[ "$(sha256sum <"$scratch/o.gguf")" = "$want" ] || { echo "FAIL: other bytes after $kills kills"; bad=1; }
[ -z "$(ls "$scratch" | grep -v -e '^o.gguf$' -e '^whole.gguf$')" ] || { echo "FAIL: left: $(ls "$scratch")"; bad=1; }
[ $bad -eq 0 ] && echo "resume: the same bytes after $kills kills"
exit $bad
