#!/usr/bin/env bash
# failures.sh TARE MODEL TEXT: a run that fails says which file and why in one line, with the right status, and leaves
# nothing but what the next run goes on with.
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
tare=$1 model=$2 text=$3
scratch=$(mktemp -d)
mounted=
trap '[ -z "$mounted" ] || umount "$scratch/disk"; rm -rf "$scratch"' EXIT
cd "$scratch" || exit 1
. "$here/want.sh"
left() { [ -z "$(ls -A | grep -E '^(o\.|\.part)')" ] || { fail "$1 leaves $(ls -A | grep -E '^(o\.|\.part)' | tr '\n' ' ')"; rm -rf o.*; }; }

cp "$model" base.gguf
LC_ALL=C sed 's/\(general.architecture.\{12\}\)llama/\1lxama/' base.gguf >odd.gguf
head -c 20 "$text" >short.txt
: >empty.txt
out=(-o o.gguf --quiet)

# ---- what is wrong is named ----
want 3 '^tare: odd.gguf: .*architecture' "$tare" quantize odd.gguf "${out[@]}" --type q3_k --method gptq --tokens 2048 --text "$text"
left "gptq on an unknown architecture"
for short in short.txt empty.txt; do
    want 3 "^tare: $short: [0-9]+ tokens to use, one window takes 512" "$tare" calibrate base.gguf --text $short "${out[@]}"
    want 3 "^tare: $short: [0-9]+ tokens to use, one window takes 512" \
        "$tare" quantize base.gguf "${out[@]}" --type q3_k --method gptq --text $short
    left "a text that is too short"
done
"$tare" quantize base.gguf -o other.gguf --type q8_0 --quiet >out 2>err || fail "$(cat err)"
"$tare" calibrate base.gguf --text "$text" --tokens 1024 -o p.gguf --quiet >out 2>err || fail "$(cat err)"
"$tare" calibrate other.gguf --text "$text" --tokens 1024 -o other.p.gguf --quiet >out 2>err || fail "$(cat err)"
want 3 '^tare: other.p.gguf: was taken from base [0-9a-f]{12}, this one is [0-9a-f]{12}$' \
    "$tare" quantize base.gguf "${out[@]}" --type q4_k --profile other.p.gguf
want 3 '^tare: other.p.gguf: was taken from base' "$tare" profile p.gguf other.p.gguf
want 3 '^tare: other.p.gguf: was taken from base' "$tare" profile p.gguf other.p.gguf --balance
want 3 '^tare: other.p.gguf: .*another base' "$tare" calibrate base.gguf --text "$text" --tokens 1024 --merge other.p.gguf "${out[@]}"
want 3 '^tare: bpw: the smallest types give [0-9.]+ MiB, the limit is [0-9.]+ MiB: expected at least [0-9.]+$' \
    "$tare" quantize base.gguf "${out[@]}" --bpw 0.5
left "an impossible --bpw"
least=$(sed -n 's/.*expected at least //p' err)
"$tare" quantize base.gguf "${out[@]}" --bpw "$least" >out 2>err || fail "--bpw $least, which was said to be possible: $(cat err)"
rm -f o.gguf
want 3 'expected at least' "$tare" quantize base.gguf "${out[@]}" --bpw "$(awk "BEGIN { print $least - 0.02 }")"

want 3 'expected at least' "$tare" quantize base.gguf "${out[@]}" --bpw 0.5 --prune 20%
left "an impossible --bpw of a pruned base"

# ---- a file that is not there is bad input, whoever reads it ----
printf 'type: q4_k\ncalibration: {texts: [nofile]}\n' >texts.yaml
printf 'type: q4_k\ncalibration: {profile: nofile}\n' >profile.yaml
for command in "inspect nofile" "calibrate nofile -o o.gguf --text $text" "calibrate base.gguf -o o.gguf --text nofile" \
    "calibrate base.gguf -o o.gguf --text $text --merge nofile" "calibrate base.gguf -o o.gguf --text $text --compare nofile" \
    "profile nofile" "profile p.gguf --compare nofile" "quantize nofile -o o.gguf" "quantize base.gguf -o o.gguf --plan nofile" \
    "quantize base.gguf -o o.gguf --profile nofile" "quantize base.gguf -o o.gguf --plan texts.yaml" \
    "quantize base.gguf -o o.gguf --plan profile.yaml" "eval nofile --text $text" "eval base.gguf --text nofile" \
    "eval base.gguf --reference nofile --text $text" "run nofile -p a" "embed nofile a" "bench nofile"; do
    want 3 '^tare: nofile: No such file or directory$' "$tare" $command
done
left "an absent file"

# ---- a disk that is full ----
mkdir disk
disk() { # disk SIZE
    [ -z "$mounted" ] || umount disk
    mounted=
    mount -t tmpfs -o "size=$1" tmpfs disk 2>/dev/null && mounted=1
}
if disk 1m; then
    full='No space left on device'
    gptq=(--type q3_k --method gptq --tokens 2048 --text "$text")
    want 4 "disk/o.gguf.part: write: $full$" "$tare" quantize base.gguf -o disk/o.gguf --quiet --type q4_k --method rtn
    want 4 "disk/o.gguf.work: $full$" "$tare" quantize base.gguf -o disk/o.gguf --quiet "${gptq[@]}"
    want 4 "disk/o.gguf.rotated.part: write: $full$" "$tare" quantize base.gguf -o disk/o.gguf --quiet --rotate
    want 4 "disk/o.gguf.pruned.part: write: $full$" "$tare" quantize base.gguf -o disk/o.gguf --quiet --prune 20%
    want 4 "disk/o.gguf.pruned.work: $full$" "$tare" quantize base.gguf -o disk/o.gguf --quiet --prune 20% --recover --text "$text"
    [ -z "$(ls -A disk)" ] || fail "left on a full disk: $(ls -A disk)"
    disk 40k
    want 4 "disk/p.gguf.part: write: $full$" "$tare" calibrate base.gguf --text "$text" --tokens 1024 -o disk/p.gguf --quiet
    want 4 "disk/p.gguf.part: write: $full$" "$tare" profile p.gguf -o disk/p.gguf
    [ -z "$(ls -A disk)" ] || fail "left on a full disk: $(ls -A disk)"

    # layers are done when it is full: with more room the next run goes on, to the same bytes
    "$tare" quantize base.gguf -o gptq.gguf --quiet "${gptq[@]}" >out 2>err || fail "$(cat err)"
    base_kib=$(($(stat -c %s base.gguf) / 1024 + 1)) out_kib=$(($(stat -c %s gptq.gguf) / 1024))
    disk $((base_kib + out_kib * 2 + 400))k
    want 4 "disk/o.gguf.(part: write|blocks): $full; run again to continue$" \
        "$tare" quantize base.gguf -o disk/o.gguf --quiet "${gptq[@]}"
    [ -s disk/o.gguf.state ] || fail "nothing to continue: $(ls -A disk)"
    mount -o remount,size=64m disk
    "$tare" quantize base.gguf -o disk/o.gguf --quiet "${gptq[@]}" >out 2>err || fail "with more room: $(cat err)"
    cmp -s disk/o.gguf gptq.gguf || fail "other bytes after a full disk"
    [ "$(ls -A disk)" = o.gguf ] || fail "left beside it: $(ls -A disk)"
else
    echo "no file system can be mounted here: full disks are left out"
fi
[ $bad -eq 0 ] && echo "failures: one line that names the file, and nothing left that is of no use"
exit $bad
