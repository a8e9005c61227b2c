#!/usr/bin/env bash
# files.sh TARE MODEL TEXT: what a run writes is its own: no second run, no special file, none of its inputs.
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
tare=$1 model=$2 text=$3
scratch=$(mktemp -d)
running=()
trap '[ ${#running[@]} -eq 0 ] || kill -9 "${running[@]}" 2>/dev/null; rm -rf "$scratch"' EXIT
cd "$scratch" || exit 1
. "$here/want.sh"
digest() { sha256sum <"$1" | cut -d' ' -f1; }
clean() { rm -f o.gguf* err out; }

cp "$model" base.gguf
"$tare" calibrate base.gguf --text "$text" --tokens 1024 -o profile.gguf --quiet >out 2>err || { cat err; exit 1; }
"$tare" quantize base.gguf -o q4.gguf --type q4_k --quiet >out 2>err || { cat err; exit 1; }
"$tare" quantize base.gguf -o gptq.gguf --type q3_k --method gptq --tokens 2048 --text "$text" --quiet >out 2>err ||
    { cat err; exit 1; }
base=$(digest base.gguf)

# ---- one name, one run ----
# a run that is stopped in the middle of its work holds the name
gptq=("$tare" quantize base.gguf -o o.gguf --type q3_k --method gptq --tokens 2048 --text "$text" --quiet)
"${gptq[@]}" >first.out 2>first.err &
first=$!
running=("$first")
for ((i = 0; i < 1000; i++)); do [ -e o.gguf.work ] && break; sleep 0.01; done
kill -STOP $first || fail "the first run was over before the second began"
want 4 '^tare: o.gguf: another run writes it$' "$tare" quantize base.gguf -o o.gguf --type q8_0 --quiet
want 4 '^tare: \./o.gguf: another run writes it$' "$tare" quantize base.gguf -o ./o.gguf --type q8_0 --prune 20% --quiet
want 4 '^tare: \./o.gguf: another run writes it$' "$tare" quantize base.gguf -o ./o.gguf --rotate --quiet
want 4 '^tare: o.gguf: another run writes it$' "$tare" calibrate base.gguf --text "$text" --tokens 1024 -o o.gguf --quiet
want 4 '^tare: o.gguf: another run writes it$' "$tare" profile profile.gguf -o o.gguf
want 4 '^tare: o.gguf: another run writes it$' "$tare" quantize base.gguf -o r.gguf --type q8_0 --quiet --report o.gguf
kill -CONT $first
wait $first || fail "the first run ends with $?: $(cat first.err)"
running=()
[ "$(digest o.gguf)" = "$(digest gptq.gguf)" ] || fail "the first run made other bytes beside a second one"

# kill -9 gives the name free, and the next run goes on
clean
"${gptq[@]}" >/dev/null 2>&1 &
first=$!
running=("$first")
for ((i = 0; i < 2000; i++)); do [ -s o.gguf.state ] && break; sleep 0.01; done
kill -9 $first
wait $first 2>/dev/null
running=()
"${gptq[@]}" >out 2>err || fail "after kill -9: $(cat err)"
[ "$(digest o.gguf)" = "$(digest gptq.gguf)" ] || fail "other bytes after kill -9"
[ "$(ls o.gguf*)" = o.gguf ] || fail "left beside it: $(ls o.gguf*)"
clean

# an interrupted run takes its lock file with it
for signal in INT TERM; do
    # bash starts what runs behind it with SIGINT ignored; setsid -w and env do not undo that, python does
    python3 -c 'import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])' "${gptq[@]}" >/dev/null 2>&1 &
    first=$!
    running=("$first")
    for ((i = 0; i < 1000; i++)); do [ -e o.gguf.work ] && break; sleep 0.01; done
    kill -$signal $first
    wait $first
    [ $? -gt 128 ] || fail "SIG$signal does not end it"
    running=()
    [ ! -e o.gguf.lock ] || fail "SIG$signal leaves the lock file"
    clean
done

# two at the same time: exactly one of them is done, and the file is its
for round in 1 2 3; do
    "$tare" quantize base.gguf -o o.gguf --type q4_k --quiet >a.out 2>a.err & a=$!
    "$tare" quantize base.gguf -o o.gguf --type q8_0 --quiet >b.out 2>b.err & b=$!
    wait $a; a=$?
    wait $b; b=$?
    if [ $a -eq 0 ] && [ $b -eq 4 ]; then
        [ "$(digest o.gguf)" = "$(digest q4.gguf)" ] || fail "not the bytes of the run that was done"
    elif [ $a -ne 0 ] && [ $b -ne 0 ]; then
        fail "neither of two runs was done: $(cat a.err b.err)"
    fi
    clean
done

# ---- what is no regular file stays what it is ----
mkfifo pipe
mkdir folder
cp base.gguf other.gguf
ln -s other.gguf link.gguf
ln -s /proc/self/fd/1 stdout
special=(pipe folder link.gguf stdout)
mknod device c 1 3 2>/dev/null && special+=(device)
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")' 2>/dev/null && special+=(socket)
for out in "${special[@]}"; do
    before=$(stat -c '%F %i' "$out")
    want 2 "^tare: $out: --output: is a [a-z ]+: expected a regular file" "$tare" quantize base.gguf -o "$out" --quiet
    want 2 "^tare: $out: --output: is a " "$tare" calibrate base.gguf --text "$text" --tokens 1024 -o "$out" --quiet
    want 2 "^tare: $out: --output: is a " "$tare" calibrate base.gguf --text "$text" --tokens 1024 -o "$out" --dat --quiet
    want 2 "^tare: $out: --ranges: is a " "$tare" calibrate base.gguf --text "$text" -o p.gguf --ranges "$out" --quiet
    want 2 "^tare: $out: --output: is a " "$tare" profile profile.gguf -o "$out"
    want 2 "^tare: $out: --output: is a " "$tare" import folder -o "$out"
    want 2 "^tare: $out: --output: is a " "$tare" keygen -o "$out"
    want 2 "^tare: $out: --public: is a " "$tare" keygen -o new.key --public "$out"
    want 2 "^tare: $out: --report: is a " "$tare" quantize base.gguf -o o.gguf --type q8_0 --quiet --report "$out"
    [ "$(stat -c '%F %i' "$out")" = "$before" ] || fail "$out is no longer what it was"
    [ -z "$(ls | grep -F "$out.")" ] || fail "left beside $out: $(ls | grep -F "$out.")"
done
"$tare" keygen -o sign.key --quiet >out 2>err || fail "$(cat err)"
mkfifo notes.minisig
: >notes
want 2 '^tare: notes.minisig: is a pipe' "$tare" sign -k sign.key notes
[ -p notes.minisig ] || fail "notes.minisig is no longer what it was"
rm -f notes notes.minisig
want 2 "^tare: --output: expected the name of a file, found ''" "$tare" quantize base.gguf -o '' --quiet
want 2 'found that of a folder' "$tare" quantize base.gguf -o nothing/ --quiet
want 4 '^tare: nothing/o.gguf: --output: No such file or directory' "$tare" quantize base.gguf -o nothing/o.gguf --quiet
[ ! -e .part ] || fail "left: .part"

# ---- nor does it write over what it reads ----
ln base.gguf hard.gguf
cp "$text" notes.txt
profile=$(digest profile.gguf) notes=$(digest notes.txt)
for out in base.gguf ./base.gguf hard.gguf "$scratch/folder/../base.gguf"; do
    want 2 'this run reads base.gguf, which is the same file' "$tare" quantize base.gguf -o "$out" --quiet
    want 2 'this run reads base.gguf, which is the same file' "$tare" calibrate base.gguf --text notes.txt -o "$out" --quiet
done
want 2 'this run reads profile.gguf' "$tare" quantize base.gguf -o profile.gguf --profile profile.gguf --quiet
want 2 'this run reads profile.gguf' "$tare" quantize base.gguf -o o.gguf --profile profile.gguf --report profile.gguf --quiet
want 2 'this run reads notes.txt' "$tare" quantize base.gguf -o o.gguf --text notes.txt --report notes.txt --quiet
want 2 'this run reads notes.txt' "$tare" quantize base.gguf -o o.gguf --eval-text notes.txt --report notes.txt --quiet
want 2 'this run writes o.gguf there already' "$tare" quantize base.gguf -o o.gguf --report o.gguf --quiet
want 2 'this run writes o.json.md there already' "$tare" quantize base.gguf -o o.json.md --report o.json.json --quiet
want 2 'this run writes p.gguf there already' "$tare" calibrate base.gguf --text notes.txt -o p.gguf --ranges p.gguf --quiet
want 2 'this run reads profile.gguf' "$tare" profile profile.gguf=2 -o profile.gguf
want 2 'this run reads profile.gguf' "$tare" calibrate base.gguf --text notes.txt --compare profile.gguf -o profile.gguf --quiet
for suffix in part work pruned rotated refused; do
    cp base.gguf n.gguf.$suffix
    want 2 "the run would replace n.gguf.$suffix on its way" "$tare" quantize n.gguf.$suffix -o n.gguf --quiet
    cmp -s base.gguf n.gguf.$suffix || fail "n.gguf.$suffix was changed"
    rm -f n.gguf*
done
want 2 'the run would replace o.gguf.part on its way' "$tare" quantize base.gguf -o o.gguf --report o.gguf.part --quiet
cp base.gguf folder/model.safetensors
want 2 'this run reads folder' "$tare" import folder -o folder/model.safetensors
[ "$(digest base.gguf) $(digest profile.gguf) $(digest notes.txt)" = "$base $profile $notes" ] || fail "an input was changed"
[ -z "$(ls | grep -E '\.(lock|part|work|state)$')" ] || fail "left: $(ls)"

# the same name again is no mistake
want_done() { "$@" >out 2>err || fail "$*: $(cat err)"; }
want_done "$tare" quantize base.gguf -o q4.gguf --type q4_k --quiet --report q4.json
want_done "$tare" quantize base.gguf -o q4.gguf --type q4_k --quiet --report q4.json
want_done "$tare" quantize base.gguf -o base.gguf --type q4_k --quiet --dry-run
[ $bad -eq 0 ] && echo "files: one run, one name, and nothing written over"
exit $bad
