#!/usr/bin/env bash
# cuda_gpu.sh [options] [LLAMA_BIN]: everything that only a machine with an NVIDIA GPU can show, in one report.
#
#   tests/check/cuda_gpu.sh                                  the report goes to cuda-report/
#   tests/check/cuda_gpu.sh --out FOLDER ~/llama.cpp/build/bin
#
# Steps, each with a file of its own and a line in FOLDER/summary.txt; one that fails does not stop the others, and
# the exit status is 1 when any failed:
#   machine     nvidia-smi, and what `tare plugins` says; the time of the first start, when the driver compiles
#   check       every operation on every path against scalar
#   tests       the tests of the plugin without the mock
#   sanitizer   memcheck, racecheck, synccheck of compute-sanitizer, on the quick check (skipped where it is absent)
#   operations  `tare check cuda --bench`
#   speed       `tare bench`, prefill 512 and decode 128, a model of half a billion parameters in each type
#   graphs      decode with and without CUDA graphs (TARE_CUDA_GRAPHS=0)
#   answers     the same greedy text from the GPU and from the CPU; perplexity on both
#   llama       the same files with LLAMA_BIN/llama-bench, which must be a CUDA build; medians and the ratio
# Options: --bin FOLDER (programs; default build/release/bin), --model BASE.gguf (F16, in place of the synthetic one),
# --types "Q4_0 ..." , --prompt N, --generate N, --repeats N, --out FOLDER, --mock (a driver that is our mock: what
# needs time or hardware is left out).
set -u
export LC_ALL=C
root=$(cd "$(dirname "$0")/../.." && pwd)
bin=$root/build/release/bin out=cuda-report base= llama= is_mock=0
types="Q4_0 Q4_K Q8_0 Q6_K Q5_K Q3_K Q2_K IQ4_XS F16" prompt=512 generate=128 repeats=5
while [ $# -gt 0 ]; do
    case $1 in
    --bin) bin=$(cd "$2" && pwd); shift ;;
    --out) out=$2; shift ;;
    --model) base=$2; shift ;;
    --types) types=$2; shift ;;
    --prompt) prompt=$2; shift ;;
    --generate) generate=$2; shift ;;
    --repeats) repeats=$2; shift ;;
    --mock) is_mock=1 ;;
    -*) sed -n '2,24s/^# \{0,1\}//p' "$0"; exit 2 ;;
    *) llama=$1 ;;
    esac
    shift
done
command -v jq >/dev/null || { echo "cuda_gpu.sh needs jq"; exit 2; }
[ -x "$bin/tare" ] || { echo "no programs in $bin: cmake --preset release && cmake --build --preset release"; exit 2; }
mkdir -p "$out" || exit 2
out=$(cd "$out" && pwd)
plugin=$(dirname "$bin")/lib/tare/plugins/cuda.so
: >"$out/summary.txt"
bad=0

say() { printf '%-12s %s\n' "$1" "$2" | tee -a "$out/summary.txt"; }
# NAME COMMAND...: its output to NAME.txt; the last line of it to the summary.
step() {
    local name=$1 status=0
    shift
    "$@" >"$out/$name.txt" 2>&1 || status=$?
    if [ $status -eq 77 ]; then
        say "$name" "skipped: $(tail -1 "$out/$name.txt" | cut -c1-150)"
    elif [ $status -ne 0 ]; then
        say "$name" "FAILED ($status): $(tail -1 "$out/$name.txt" | cut -c1-150)"
        bad=1
    else
        say "$name" "$(tail -1 "$out/$name.txt" | cut -c1-150)"
    fi
}
skip() { echo "$1"; return 77; }

machine() {
    nvidia-smi 2>&1 || true
    # a cache of compiled kernels from an earlier start would hide what a first start costs
    local cache a b c
    cache=$(mktemp -d)
    a=$(date +%s%N)
    CUDA_CACHE_PATH=$cache "$bin/tare" plugins || return 1
    b=$(date +%s%N)
    CUDA_CACHE_PATH=$cache "$bin/tare" plugins >/dev/null
    c=$(date +%s%N)
    rm -rf "$cache"
    "$bin/tare" plugins --json | jq -e '.plugins[] | select(.name == "cuda") | .serving' >/dev/null || {
        "$bin/tare" plugins --json | jq -r '.plugins[] | select(.name == "cuda") | .reason'
        return 1
    }
    echo "$("$bin/tare" plugins --json | jq -r '.plugins[] | select(.name == "cuda") | .device + ", path " + .path'): first" \
        "start $(((b - a) / 1000000)) ms, second $(((c - b) / 1000000)) ms"
}
check() {
    # the mock's own test goes through all shapes
    if [ $is_mock = 1 ]; then "$bin/tare" check cuda --quick; else "$bin/check_plugins" "$plugin"; fi
}
tests() { # those that look into the mock cannot run on a driver
    [ $is_mock = 0 ] || skip "the mock has its own tests in ctest" || return
    "$root/tests/plugins/cuda/ptx_test.sh" || [ $? -eq 77 ] || return 1
    "$root/tests/plugins/cuda/ptxas_test.sh"
}
sanitizer() {
    local tool
    command -v compute-sanitizer >/dev/null || skip "no compute-sanitizer here" || return
    for tool in memcheck racecheck synccheck; do
        # in a process of its own: a child's launches are not followed by default
        compute-sanitizer --tool $tool --target-processes all --error-exitcode 9 \
            "$bin/tare" check cuda --quick || return 1
    done
    echo "memcheck, racecheck, synccheck: nothing found"
}
operations() {
    [ $is_mock = 0 ] || skip "a mock's times say nothing" || return
    "$bin/tare" check cuda --bench
}

file_of() { [ "$1" = F16 ] && echo "$base" || echo "$out/model-$1.gguf"; }
models() {
    local type
    if [ -z "$base" ]; then
        base=$out/model-F16.gguf
        [ -s "$base" ] || "$bin/make_model" "$base" || return 1
    fi
    for type in $types; do
        [ -s "$(file_of "$type")" ] || "$bin/tare" quantize "$base" --output "$(file_of "$type")" --type "$type" \
            --quiet --plugin "$cpu" || return 1
    done
    echo "$types of $base"
}
bench() { # TYPE: "prefill decode" in tokens per second
    "$bin/tare" bench "$(file_of "$1")" --plugin cuda -p "$prompt" -n "$generate" -r "$repeats" --json --quiet |
        jq -r 'map(.median_ts) | @tsv'
}
speed() {
    local type line
    echo "| type | file MiB | pp$prompt tok/s | tg$generate tok/s |"
    echo "|---|---|---|---|"
    for type in $types; do
        line=$(bench "$type") || { echo "tare bench failed for $type"; return 1; }
        echo "$line" | awk -v t="$type" -v b="$(stat -c %s "$(file_of "$type")")" \
            '{printf "| %s | %.0f | %.1f | %.1f |\n", t, b / 1048576, $1, $2}'
    done
}
graphs() {
    local with without first=${types%% *}
    [ $is_mock = 0 ] || skip "a mock's times say nothing" || return
    with=$(bench "$first" | cut -f2) && without=$(TARE_CUDA_GRAPHS=0 bench "$first" | cut -f2) || return 1
    echo "$first tg$generate: $with tok/s with graphs, $without without"
}
answers() {
    local first=${types%% *} gpu cpu_text n=48
    [ $is_mock = 0 ] || n=6
    gpu=$("$bin/tare" run "$(file_of "$first")" --plugin cuda -p 'Once upon a time' -n $n --temp 0 --json | jq -r .text) &&
        cpu_text=$("$bin/tare" run "$(file_of "$first")" --plugin "$cpu" -p 'Once upon a time' -n $n --temp 0 --json |
            jq -r .text) || return 1
    printf 'GPU: %s\nCPU: %s\n' "$gpu" "$cpu_text"
    [ -n "$gpu" ] && [ "$gpu" = "$cpu_text" ] && echo "$first: the same $n tokens" && return
    # sums of F32 may round another way, so a near tie may fall the other way: to be judged by eye
    echo "$first: the texts differ; see answers.txt for where"
}
theirs() {
    local type ours line
    [ -n "$llama" ] || skip "no folder of llama.cpp's programs given" || return
    [ -x "$llama/llama-bench" ] || { echo "no llama-bench in $llama"; return 1; }
    echo "| type | pp$prompt tare / llama.cpp | tg$generate tare / llama.cpp |"
    echo "|---|---|---|"
    for type in $types; do
        ours=$(bench "$type") || return 1
        line=$("$llama/llama-bench" -m "$(file_of "$type")" -p "$prompt" -n "$generate" -r "$repeats" -ngl 99 -o json \
            2>>"$out/llama.err" | jq -r '[(map(select(.n_prompt > 0)) | .[0].avg_ts), (map(select(.n_gen > 0)) | .[0].avg_ts)] | @tsv') || return 1
        paste <(echo "$ours") <(echo "$line") | awk -v t="$type" \
            '{printf "| %s | %.1f / %.1f = %.2f | %.1f / %.1f = %.2f |\n", t, $1, $3, $1 / $3, $2, $4, $2 / $4}'
    done
}

cpu=$("$bin/tare" plugins --json | jq -r '[.plugins[] | select(.serving and .score < 1000)][0].name')
step machine machine
grep -q '^machine .*FAILED' "$out/summary.txt" && { echo "no GPU that serves: the rest is left out"; exit 1; }
step check check
step tests tests
step sanitizer sanitizer
step operations operations
models >"$out/models.txt" 2>&1 || { say models "FAILED: $(tail -1 "$out/models.txt")"; exit 1; }
step speed speed
step graphs graphs
step answers answers
step llama theirs
echo "the report is in $out"
exit $bad
