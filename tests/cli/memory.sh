#!/usr/bin/env bash
# memory.sh TARE MODEL TEXT: --memory is kept by every method, and what cannot be done within it is refused in one
# line. Peak: what the kernel says of the process (VmHWM).
set -u
tare=$1 model=$2 text=$3
[ -r "$model" ] || { echo "skipped: $model is absent"; exit 77; }
bad=0 what=
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mib=$((1 << 20))

peak() { sed -n 's/^ *"peak_rss_bytes": \([0-9]*\).*/\1/p' "$scratch/r.json"; }

# keeps MIB OPTIONS...: done within so much
keeps() {
    local cap=$1
    shift
    rm -f "$scratch"/*
    if ! "$tare" quantize "$model" -o "$scratch/o.gguf" --quiet --memory "${cap}M" --report "$scratch/r.json" "$@" \
        >"$scratch/out" 2>&1; then
        echo "FAIL: --memory ${cap}M $*: $(head -1 "$scratch/out")"
        bad=1
    elif [ "$(peak)" -gt $((cap * mib)) ]; then
        echo "FAIL: --memory ${cap}M $*: peak $(($(peak) / mib)) MiB"
        bad=1
    fi
}

# refuses MIB OPTIONS...: one line (with what="..." of that) that says how much it takes, and nothing written
refuses() {
    local cap=$1
    shift
    rm -f "$scratch"/*
    "$tare" quantize "$model" -o "$scratch/o.gguf" --quiet --memory "${cap}M" "$@" >"$scratch/out" 2>&1
    local status=$?
    if [ $status -eq 0 ] || [ "$(wc -l <"$scratch/out")" -ne 1 ] || ! grep -q "$what.*MiB is needed" "$scratch/out"; then
        echo "FAIL: --memory ${cap}M $*: status $status, $(cat "$scratch/out")"
        bad=1
    fi
    [ ! -e "$scratch/o.gguf" ] || { echo "FAIL: --memory ${cap}M $*: a file was written"; bad=1; }
}

"$tare" calibrate "$model" -o "$scratch.profile" --quiet --text "$text" --window 64 >/dev/null || exit 1
trap 'rm -rf "$scratch" "$scratch.profile" "$scratch.short" "$scratch.long"' EXIT
for ((i = 0; i < 600; i++)); do cat "$text"; done | head -c 12000000 >"$scratch.long" # of which little is asked for
printf 'too short' >"$scratch.short" # for a window: said by who reads it first
keeps 48 --type q4_k --method rtn
keeps 48 --type q4_k --method search --profile "$scratch.profile"
keeps 48 --bpw 4.5 --method awq --profile "$scratch.profile"
keeps 96 --type q4_k --method gptq --profile "$scratch.profile" --text "$text" "$text"
keeps 48 --type q4_k --method rtn --prune 20% --prune-by magnitude
keeps 48 --type q4_k --method rtn --prune ffn=20%,layers=25% --prune-by magnitude
keeps 160 --type q4_k --method awq --prune 20% --recover --text "$text" --tokens 512
keeps 72 --type q4_k --method awq --profile "$scratch.profile" --prune 20% --recover --text "$text" --tokens 512
keeps 72 --type q4_k --method rtn --profile "$scratch.profile" --prune 20% --prune-by output --text "$text" --tokens 512
keeps 160 --type q4_k --method awq --profile "$scratch.profile" --prune 20% --prune-by output --recover --text "$text" --tokens 512
keeps 128 --type q4_k --method search --text "$scratch.long" --tokens 1024
what='to read the texts' refuses 128 --type q4_k --method search --text "$scratch.long" --tokens 1024 --seed 1
refuses 2 --type q4_k --method rtn
refuses 16 --type q4_k --method rtn
refuses 24 --type q4_k --method rtn --prune 20% --prune-by magnitude
refuses 36 --type q4_k --method rtn --prune 20% --prune-by output --profile "$scratch.profile" --text "$text"
what='to prune' refuses 40 --type q4_k --prune 20% --recover --text "$scratch.short"
what='to prune' refuses 36 --type q4_k --prune 20% --prune-by output --text "$scratch.short"
refuses 24 --type q4_k --method gptq --profile "$scratch.profile" --text "$text"
refuses 24 --type q4_k --text "$text"
refuses 48 --type q4_k --method rtn --eval-text "$text"
[ $bad -eq 0 ] && echo "memory: caps are kept"
exit $bad
