#!/usr/bin/env bash
# prune.sh TARE MODEL TEXT: what tare quantize --prune says and leaves behind.
set -u
tare=$1 model=$2
bad=0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# want STATUS PATTERN OPTIONS...: of tare quantize
want() {
    local status=$1 pattern=$2
    shift 2
    "$tare" quantize "$model" -o "$scratch/out.gguf" --plugin scalar "$@" >"$scratch/said" 2>&1 </dev/null
    local got=$?
    if [ $got -ne "$status" ] || ! grep -qE -- "$pattern" "$scratch/said"; then
        echo "FAIL: $*: status $got, expected $status and /$pattern/"
        head -3 "$scratch/said"
        bad=1
    fi
    if [ "$status" -ne 0 ] && [ -n "$(ls "$scratch" | grep -v '^said$')" ]; then
        echo "FAIL: $*: left $(ls "$scratch" | grep -v '^said$' | tr '\n' ' ')"
        bad=1
    fi
    rm -f "$scratch"/out.gguf*
}

want 2 'expected a percentage' --prune many
want 2 'expected a percentage' --prune ffn=20%,ffn=10%
want 2 '2:4' --mask 4:2
want 2 'expected --prune with' --recover
want 3 '768 FFN channels do not divide by 100' --prune ffn=20% --prune-step 100
want 3 'nothing would go' --prune layers=1%
want 3 'expected calibration text' --prune 20% --recover
want 3 'expected a profile' --prune 20% --prune-by wanda
want 0 'pruned: layers 4/4, heads 6/8 in groups 2/2, ffn 608/768' --type Q8_0 --method rtn --prune 20%
want 0 'pruned: layers 3/4, heads 8/8 in groups 2/2, ffn 768/768' --type F16 --prune layers=25% --dry-run
want 0 'a mask leaves size and speed as they are' --type F16 --mask 2:4
# calibrated and quantised on what the pruning left, every linear by the method that was asked for
for method in awq gptq+awq; do
    "$tare" quantize "$model" -o "$scratch/out.gguf" --quiet --type Q4_K --method $method --prune 20% --recover \
        --tokens 512 --text "$3" --report "$scratch/r.json" >"$scratch/said" 2>&1
    if [ $? -ne 0 ] || [ "$(jq "[.tensors[] | select(.method == \"$method\")] | length" "$scratch/r.json")" != 28 ]; then
        echo "FAIL: pruned and $method: $(head -1 "$scratch/said")"
        bad=1
    fi
    [ -z "$(ls "$scratch" | grep -E 'pruned|work|part|state')" ] || { echo "FAIL: $method left $(ls "$scratch")"; bad=1; }
    rm -f "$scratch"/out.gguf* "$scratch"/r.*
done
# a recovery makes up for a layer that went, with the same bytes on however many threads
text=$3
kld() { "$tare" eval "$1" --text "${text%/*}/heldout.txt" --reference "$model" --json 2>/dev/null | jq -r .kld.value; }
for how in "--threads 2" "--recover --threads 1" "--recover --threads 3"; do
    "$tare" quantize "$model" -o "$scratch/out.gguf" --quiet --type F16 --method rtn --prune layers=25% --text "$text" --tokens 4096 $how \
        >"$scratch/said" 2>&1 || { echo "FAIL: layers $how: $(head -1 "$scratch/said")"; bad=1; }
    mv "$scratch/out.gguf" "$scratch/o${how//[^0-9a-z]/}.gguf"
done
cmp "$scratch/orecoverthreads1.gguf" "$scratch/orecoverthreads3.gguf" || { echo "FAIL: threads decide"; bad=1; }
without=$(kld "$scratch/othreads2.gguf") with=$(kld "$scratch/orecoverthreads1.gguf")
jq -en "$with < 0.7 * $without" >/dev/null || { echo "FAIL: KLD $with recovered, $without without"; bad=1; }
rm -f "$scratch"/o*.gguf
# rotation: one line where it does not go, and nothing left but the variant where it does
want 2 'expected no pruning and no profile' --rotate --prune 20%
want 0 'base: .*, rotated \(stream 256 = 256 x 1, values 32, seed 0, base 15494dc5' --rotate --type Q4_K --method rtn --dry-run
want 0 'the head is no longer the embedding, 1048576 weights more' --rotate --type Q4_K --method rtn
exit $bad
