#!/usr/bin/env bash
# identity.sh TARE [FOLDER [EMULATOR...]]: rtn, search and awq, pruned+awq and rotated rtn give the same bytes whatever
# derives them: scalar and every plugin that serves here (PLUGINS, METHODS: only these), on every path of it, with 1, 2 and 4 THREADS. One file holds
# every public block type.
# FOLDER keeps profile and digests; where they are there already, TARE, run by EMULATOR, must reach the same:
#
#   identity.sh build/release/bin/tare /tmp/kept
#   identity.sh build/arm64/bin/tare /tmp/kept qemu-aarch64 -L build/arm64-sysroot -cpu max
set -eu
export LC_ALL=C
root=$(cd "$(dirname "$0")/../.." && pwd -P)
tare=$1 folder=${2:-}
shift $(($# < 2 ? $# : 2))
emulator=("$@")
model=$root/models/tare-tiny/tare-tiny-f16.gguf
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
folder=${folder:-$scratch}
mkdir -p "$folder"
run() { ${emulator[@]+"${emulator[@]}"} "$tare" "$@"; }

# Types dealt out over the tensors, so that each meets more than one shape.
{
    echo 'type: Q8_0'
    echo 'tensors:'
    i=0
    types=(Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_XS IQ4_NL Q4_0 Q4_1 Q5_0 Q5_1 Q8_0)
    for layer in 0 1 2 3; do
        for role in attn_q attn_k attn_v attn_output ffn_gate ffn_up ffn_down; do
            echo "  - {match: blk.$layer.$role.weight, type: ${types[i++ % ${#types[@]}]}}"
        done
    done
} >"$scratch/mixed.yaml"
profile=$folder/profile.gguf
[ -s "$profile" ] || run calibrate "$model" --text "$root/tests/data/text/en/calibration.txt" --tokens 2048 --plugin scalar -o "$profile" --quiet

# derive METHOD PLUGIN PATH THREADS: the digest
derive() {
    local options=(--method "$1" --profile "$profile")
    case $1 in
    pruned) options=(--method awq --profile "$profile" --prune 20%) ;;
    rotated) options=(--method rtn --rotate --seed 5) ;;
    esac
    run quantize "$model" -o "$scratch/out.gguf" --plan "$scratch/mixed.yaml" "${options[@]}" \
        --plugin "$2" ${3:+--path "$3"} -t "$4" --quiet >/dev/null || return 1
    sha256sum <"$scratch/out.gguf" | cut -d' ' -f1
}
plugins=${PLUGINS:-$(run plugins --json | jq -r '.plugins[] | select(.serving) | .name' | sort -u)}
failures=0 compared=0
for method in ${METHODS:-rtn search awq pruned rotated}; do
    [ -s "$folder/$method" ] || derive $method scalar '' 1 >"$folder/$method"
    expected=$(cat "$folder/$method")
    echo "$method $expected"
    for plugin in $plugins; do
        case $plugin in
        vnni) paths='avx2 avxvnni avx512-vnni amx-int8' ;;
        neon) paths='base dotprod i8mm' ;;
        *) paths=- ;;
        esac
        for path in $paths; do
            for threads in ${THREADS:-1 2 4}; do
                if ! got=$(derive $method "$plugin" "${path#-}" $threads 2>"$scratch/why"); then
                    grep -q 'no such path' "$scratch/why" && continue 2 # this processor lacks it: no difference
                    got="failed: $(tail -n 1 "$scratch/why")"
                fi
                compared=$((compared + 1))
                [ "$got" = "$expected" ] && continue
                echo "$method on $plugin $path, $threads threads: $got, expected $expected" >&2
                failures=$((failures + 1))
            done
        done
    done
done
for pair in 'rtn search' 'search awq'; do # or a method did nothing, and proves nothing
    set -- $pair
    [ ! -s "$folder/$1" ] || ! cmp -s "$folder/$1" "$folder/$2" || { echo "$1 and $2 gave the same file" >&2; failures=$((failures + 1)); }
done
echo "$compared derivations compared, $failures differ"
[ $failures -eq 0 ] && [ $compared -gt 0 ]
